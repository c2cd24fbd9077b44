"""RecBole on today's stack does what it did on its own, and what is repaired gives what it should."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import pickle
import struct
import subprocess
import sys
import textwrap
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import recbole_msr.compat as compat

compat.apply()

_spec = importlib.util.spec_from_file_location(
    "record_recbole", Path(__file__).parent / "reference" / "record_recbole.py"
)
assert _spec is not None
assert _spec.loader is not None
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)
RECORDED = json.loads(reference.REFERENCE.read_text())

PLAIN = {
    "data_path": ".",
    "use_gpu": False,
    "show_progress": False,
    "normalize_all": False,
    "train_neg_sample_args": None,
    "load_col": None,
    "RATING_FIELD": "rating",
    "metric_decimal_place": 12,
}


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, an empty folder, no command line, all changes made and nothing warned of yet."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv[:1])
    monkeypatch.setattr(compat, "_warned", set())
    compat.apply()
    yield
    torch.set_num_threads(threads)
    monkeypatch.undo()
    compat.apply()


def write(name: str, *lines: str) -> None:
    """An atomic file of the data set ``toy``, with ``|`` for the tabulator."""
    path = Path("toy") / f"toy.{name}"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(line.replace("|", "\t") + "\n" for line in lines))


def config(model: str = "DeepFM", **settings: Any) -> Any:
    from recbole.config import Config

    return Config(model=model, dataset="toy", config_dict={**PLAIN, **settings})


def toy(model: str = "DeepFM", **settings: Any) -> Any:
    """The data set with its features as tensors, as they are once it is split."""
    from recbole.data import create_dataset

    dataset = create_dataset(config(model, **settings))
    dataset._change_feat_format()
    return dataset


def python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints for ``code``."""
    path = os.pathsep.join([*environment.pop("PYTHONPATH", "").split(os.pathsep), *sys.path]).strip(os.pathsep)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- The same training as on the old stack


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [pytest.param(name, marks=pytest.mark.more_models if name == "AutoInt" else ()) for name in reference.RUNS],
)
def test_training_gives_the_metrics_and_losses_of_the_old_stack(model: str) -> None:
    recorded = RECORDED["runs"][model]
    assert recorded["config"] == {**reference.COMMON, **reference.RUNS[model]}
    # On a processor that sums in another order the last bits differ, and training makes them grow.
    same_machine = reference.arithmetic() == RECORDED["versions"]["arithmetic"]
    close = 5e-7 if same_machine else 2e-3

    result = reference.train(model, reference.RUNS[model])

    assert result["train_loss"] == pytest.approx(recorded["train_loss"], rel=1e-7 if same_machine else 1e-2)
    assert result["valid"] == pytest.approx(recorded["valid"], abs=close)
    assert result["test"] == pytest.approx(recorded["test"], abs=close)


# --- Reading data


def test_missing_floats_become_the_mean_and_missing_tokens_the_padding() -> None:
    write("inter", "user_id:token|item_id:token|rating:float", "u1|i1|1", "u2|i1|", "u3|i2|4")
    write("user", "user_id:token|age:float|gender:token", "u1|20|F", "u3|41|M", "u2||")
    dataset = toy()
    assert dataset.inter_feat["rating"].tolist() == [1.0, 2.5, 4.0]
    # The row of the padding user is missing as a whole.
    assert dataset.user_feat["age"].tolist() == [30.5, 20.0, 30.5, 41.0]
    assert dataset.user_feat["gender"].tolist() == [0, 1, 0, 2]


def test_token_sequences_are_remapped_row_by_row() -> None:
    write("inter", "user_id:token|item_id:token", "u1|i1", "u1|i2", "u2|i3")
    write("item", "item_id:token|tags:token_seq", "i1|a b", "i2|", "i3|b c d")
    dataset = toy()
    assert dataset.field2id_token["tags"].tolist() == ["[PAD]", "a", "b", "c", "d"]
    assert dataset.item_feat["tags"].tolist() == [[0, 0, 0], [1, 2, 0], [0, 0, 0], [2, 3, 4]]


def float_sequences() -> None:
    write("inter", "user_id:token|item_id:token", "u1|i1", "u1|i2", "u2|i3")
    write("item", "item_id:token|values:float_seq", "i1|1 3.5", "i2|5.5", "i3|2 4 9")


def test_float_sequences_are_normalised_over_all_rows() -> None:
    float_sequences()
    values = toy(normalize_field=["values"]).item_feat["values"]
    expected = [[0, 0, 0], [0, 0.3125, 0], [0.5625, 0, 0], [0.125, 0.375, 1]]  # (x - 1) / (9 - 1)
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float32))


def test_float_sequences_are_discretised_over_all_rows() -> None:
    float_sequences()
    by_distance = {"values": {"method": "ED", "bucket": 4}}
    dataset = toy(discretization=by_distance, numerical_features=["values"])
    # Buckets of width 2, from 1: 1 and 2 are in the first, 3.5 and 4 in the second, 5.5 in the third.
    assert dataset.item_feat["values"][..., 1].tolist() == [[0, 0, 0], [1, 2, 0], [3, 0, 0], [1, 2, 4]]
    assert dataset.item_feat["values"][..., 0].tolist() == [[0, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 1]]
    assert dataset.num("values") == 5


def test_numerical_float_sequences_keep_their_values() -> None:
    float_sequences()
    values = toy(numerical_features=["values"]).item_feat["values"]
    assert values[..., 0].tolist() == [[0, 0, 0], [1, 3.5, 0], [5.5, 0, 0], [2, 4, 9]]
    assert values[..., 1].tolist() == [[0, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 1]]


def test_sequences_of_items_follow_when_items_become_entities() -> None:
    write("inter", "user_id:token|item_id:token", "u1|i1", "u1|i2", "u2|i3", "u2|i1")
    write("item", "item_id:token|similar:token_seq", "i1|i2 i3", "i2|i1", "i3|i2 i1")
    write("kg", "head_id:token|relation_id:token|tail_id:token", "e9|r|e1", "e1|r|e3", "e3|s|e9")
    write("link", "item_id:token|entity_id:token", "i1|e1", "i3|e3")
    dataset = toy("CFKG", alias_of_item_id=["similar"])
    features = dataset.item_feat
    rows = {
        dataset.id2token("item_id", item): dataset.id2token("similar", row[row > 0]).tolist()
        for item, row in zip(features["item_id"][1:].numpy(), features["similar"][1:].numpy(), strict=True)
    }
    assert rows == {"i1": ["i2", "i3"], "i2": ["i1"], "i3": ["i2", "i1"]}


def test_given_sequences_get_their_lengths() -> None:
    header = "user_id:token|item_id_list:token_seq|item_id:token"
    write("train.inter", header, "u1|a|b", "u1|a b|c", "u2|c a b|a")
    write("valid.inter", header, "u1|a b c|a")
    write("test.inter", header, "u2|b|c")
    dataset = toy("GRU4Rec", benchmark_filename=["train", "valid", "test"], alias_of_item_id=["item_id_list"])
    assert dataset.inter_feat["item_length"].tolist() == [1, 2, 3, 3, 1]


def test_tensors_own_their_memory() -> None:
    from recbole.data import create_dataset
    from recbole.data.interaction import Interaction

    write("inter", "user_id:token|item_id:token|rating:float", "u1|i1|1", "u2|i1|2", "u3|i1|2")
    dataset = create_dataset(config())
    frame = dataset.inter_feat
    for interaction in (dataset._dataframe_to_interaction(frame), Interaction(frame)):
        interaction["user_id"][0] = 9
        assert interaction["user_id"].tolist() == [9, 2, 3]
        assert frame["user_id"].tolist() == [1, 2, 3]


# --- The rest of the table


def test_numpy_names_that_recbole_reads_are_there() -> None:
    from recbole.config import Config

    Config.compatibility_settings(None)
    assert (np.float, np.int, np.str, np.unicode) == (np.float64, np.int_, np.str_, np.str_)
    assert (np.complex, np.object, np.bool) == (np.complex128, np.object_, np.bool_)
    assert np.dtype(np.long).kind == "i"


@pytest.mark.slow
def test_ray_stays_out_when_it_does_not_work() -> None:
    absent = "import sys; sys.modules['ray'] = None; "  # what an import of a package that is not there looks like
    out = python(
        absent
        + "import recbole_msr.compat as compat; compat.apply(); import recbole.quick_start\n"
        + "from recbole.quick_start.quick_start import tune; tune.report(recall=1)\n"
        + "print([name for name in sys.modules if name.split('.')[0] == 'ray'], sys.modules['ray'])"
    )
    assert out == "['ray'] None"


@pytest.mark.slow
@pytest.mark.parametrize("works", [True, False])
def test_ray_is_left_alone_when_it_works_and_leaves_no_trace_when_it_does_not(tmp_path: Path, works: bool) -> None:
    package = tmp_path / "path" / "ray"
    package.mkdir(parents=True)
    package.joinpath("__init__.py").write_text("import ray.worker\n")
    package.joinpath("worker.py").write_text("")
    package.joinpath("tune.py").write_text("where = 'here'\n" if works else "import numpy; numpy.bool8_gone\n")
    out = python(
        """
        import sys
        import recbole_msr.compat as compat
        compat.apply()
        import recbole.quick_start
        from recbole.quick_start.quick_start import tune
        print(getattr(tune, "where", None), sorted(n for n in sys.modules if n.split(".")[0] == "ray"))
        """,
        PYTHONPATH=str(package.parent),
    )
    assert out == ("here ['ray', 'ray.tune', 'ray.worker']" if works else "None []")


def test_dictionaries_fill_sparse_matrices() -> None:
    importlib.import_module("recbole.model.abstract_recommender")
    from scipy.sparse import dok_matrix

    matrix = dok_matrix((2, 3), dtype=np.float32)
    matrix._update({(0, 1): 2.0, (1, 2): 3.0})
    assert matrix.tocsr().toarray().tolist() == [[0, 2, 0], [0, 0, 3]]


def test_metrics_that_need_counts() -> None:
    from recbole.evaluator import Collector, Evaluator

    write("inter", "user_id:token|item_id:token", "u1|i1")
    names = ["ItemCoverage", "GiniIndex", "AveragePopularity", "TailPercentage", "ShannonEntropy"]
    settings = config("BPR", metrics=names, topk=[2], valid_metric="ItemCoverage@2", tail_ratio=0.4)
    collector = Collector(settings)
    collector.data_struct.set("data.num_items", 5)
    collector.data_struct.set("data.count_items", Counter({1: 10, 2: 3, 3: 1}))
    collector.data_struct.update_tensor("rec.items", torch.tensor([[1, 2], [1, 3]]))
    collected = collector.get_data_struct()

    assert "rec.items" not in collector.data_struct  # counted anew at the next evaluation
    assert "data.num_items" in collector.data_struct  # collected once
    result = Evaluator(settings).evaluate(collected)
    assert result == pytest.approx(
        {
            "itemcoverage@2": 3 / 5,
            # Recommended once, once and twice, they rank 3, 4, 5 of 5: (0 * 1 + 2 * 1 + 4 * 2) / (5 * 4).
            "giniindex@2": 0.5,
            "averagepopularity@2": ((10 + 3) / 2 + (10 + 1) / 2) / 2,
            "tailpercentage@2": (0 + 1 / 2) / 2,
            "shannonentropy@2": (0.5 * math.log(2) + 0.5 * math.log(4)) / 3,
        },
        abs=1e-11,
    )
    assert {type(value) for value in result.values()} == {float}


def test_exhaustive_search_tries_every_point() -> None:
    pytest.importorskip("hyperopt", reason="hyperopt is optional; RecBole's own tuning needs it")
    from recbole.trainer import HyperTuning

    tried = []

    def objective(point: dict[str, Any], files: Any) -> dict[str, Any]:
        tried.append((point["a"], point["b"]))
        score = 10 * point["a"] + point["b"]
        results: dict[str, Any] = {"best_valid_result": {}, "test_result": {}}
        return {"model": "BPR", "best_valid_score": score, "valid_score_bigger": True, **results}

    search = HyperTuning(objective, params_dict={"choice": {"a": [1, 2], "b": [5, 6, 7]}}, early_stop=20)
    search.run()
    assert sorted(tried) == [(1, 5), (1, 6), (1, 7), (2, 5), (2, 6), (2, 7)]
    assert search.best_params == {"a": 2, "b": 7}


@pytest.mark.slow
def test_processes_start_with_the_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.multiprocessing

    quick_start = importlib.import_module("recbole.quick_start.quick_start")
    started: list[Callable[..., None]] = []
    monkeypatch.setattr(torch.multiprocessing, "spawn", lambda target, **_: started.append(target))
    quick_start.run("BPR", "toy", nproc=2)
    (target,) = started
    out = python(
        f"""
        import pickle, sys
        target = pickle.loads({pickle.dumps(target)!r})
        try:
            target(0, "no dictionary")
        except ValueError as error:  # raised by RecBole's function, so it was imported and called
            print(error, "recbole_msr.compat" in sys.modules)
        """
    )
    assert out.startswith("The last argument of run_recboles should be a dict")
    assert out.endswith("True")


# --- Checkpoints


def trained(model: str = "BPR", **settings: Any) -> tuple[Any, Any, Any]:
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer

    lines = [f"u{user}|i{(user + step) % 7}" for user in range(5) for step in range(5)]
    write("inter", "user_id:token|item_id:token", *lines)
    own = {"train_neg_sample_args": PAIRWISE, "epochs": 1, "topk": [2], "valid_metric": "MRR@2", **settings}
    conf = config(model, **own)
    data = create_dataset(conf)
    train_data, valid_data, _ = data_preparation(conf, data)
    trainer = get_trainer(conf["MODEL_TYPE"], model)(conf, get_model(model)(conf, data))
    trainer.fit(train_data, valid_data)
    return trainer, valid_data, data


PAIRWISE = {"distribution": "uniform", "sample_num": 1, "dynamic": False}


def test_a_checkpoint_from_elsewhere_is_read_with_one_warning_and_ones_own_with_none() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        trainer, valid_data, _ = trained()
        result = trainer.evaluate(valid_data)
        assert trainer.evaluate(valid_data, model_file=trainer.saved_model_file) == result
    copy = Path("copy.pth")
    copy.write_bytes(Path(trainer.saved_model_file).read_bytes())
    with pytest.warns(RuntimeWarning, match=r"copy\.pth.*pickle.*trust"):
        assert trainer.evaluate(valid_data, model_file=str(copy)) == result
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        trainer.resume_checkpoint(copy)
    assert trainer.start_epoch == 1


def test_resuming_warns() -> None:
    trainer, _, _ = trained()
    with pytest.warns(RuntimeWarning, match="trust"):
        trainer.resume_checkpoint(trainer.saved_model_file)


def test_a_model_starts_from_a_pretrained_one() -> None:
    from recbole.utils import get_model

    trainer, _, data = trained(embedding_size=64)
    settings = config(
        "ConvNCF", train_method="after_pretrain", pre_model_path=trainer.saved_model_file, embedding_size=64
    )
    with pytest.warns(RuntimeWarning, match="trust"):
        model = get_model("ConvNCF")(settings, data)
    weights = torch.load(trainer.saved_model_file, weights_only=False)["state_dict"]
    assert torch.equal(model.item_embedding.weight, weights["item_embedding.weight"])


def test_every_pretrained_model_is_read_the_same_way() -> None:
    rows = [row for row in compat.REWRITES if "load_pickle" in row.after]
    assert len(rows) == 9
    for row in rows:
        module: Any = importlib.import_module(row.module)
        names = module._msr_functions[row.function].__code__.co_names
        assert "load_pickle" in names, row.function
        assert "load" not in names, row.function


def test_torch_load_is_as_strict_as_before_for_everybody_else() -> None:
    importlib.import_module("recbole.quick_start")
    importlib.import_module("recbole.trainer")
    torch.save({"config": types.SimpleNamespace(a=1)}, "other.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load("other.pth")


@pytest.mark.slow
def test_from_training_to_loading_through_quick_start() -> None:
    settings = {
        "use_gpu": False,
        "epochs": 1,
        "show_progress": False,
        "state": "ERROR",
        "metrics": ["Recall", "ItemCoverage"],
        "valid_metric": "Recall@10",
        "train_batch_size": 8192,
    }
    out = python(
        f"""
        import glob, json, warnings
        import recbole_msr.compat as compat
        compat.apply()
        import torch
        torch.set_num_threads(1)
        from recbole.quick_start import load_data_and_model, objective_function, run_recbole
        settings = {settings!r}
        first = run_recbole("BPR", "ml-100k", config_dict=settings)
        (file,) = glob.glob("saved/*.pth")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            config, model, *_ = load_data_and_model(file)
        again = objective_function(dict(settings, model="BPR", dataset="ml-100k"), saved=False)
        print(json.dumps({{
            "first": first,
            "types": sorted({{type(v).__name__ for key in ("best_valid_result", "test_result")
                              for v in first[key].values()}}),
            "warned": sum("trust" in str(w.message) for w in caught),
            "loaded": [config["model"], type(model).__name__, model.item_embedding.weight.shape[0]],
            "again": again,
        }}))
        """
    )
    got = json.loads(out.splitlines()[-1])
    assert got["types"] == ["float"]
    assert got["warned"] == 1
    assert got["loaded"] == ["BPR", "BPR", 1683]  # ml-100k has 1,682 films, and there is the padding
    assert 0 < got["first"]["test_result"]["itemcoverage@10"] <= 1
    assert got["again"]["best_valid_result"] == got["first"]["best_valid_result"]


# --- Speed-ups

INDEXES: dict[str, Any] = {
    "int": 2,
    "negative int": -1,
    "numpy int": np.int64(3),
    "slice": slice(1, 4),
    "slice with step": slice(None, None, 2),
    "range": range(1, 4),
    "range with step": range(0, 6, 2),
    "range backwards": range(4, 0, -1),
    "range of negatives": range(-3, 0),
    "empty range": range(0),
    "list": [3, 0, 0, -1],
    "list of one": [2],
    "empty list": [],
    "list of bools": [True, False, True, False, False, True],
    "long list": [i % 6 for i in range(100)],
    "array": np.array([5, 1, 1]),
    "int32 array": np.array([5, 1, -1], dtype=np.int32),
    "uint8 array": np.array([1, 0, 1, 0, 0, 1], dtype=np.uint8),
    "reversed array": np.arange(6)[::-1],
    "bool array": np.array([True, False, True, False, False, True]),
    "bool array of nothing": np.zeros(6, dtype=bool),
    "empty array": np.array([]),
    "array of no dimension": np.array(4),
    "tensor": torch.tensor([2, 2, 0]),
    "int32 tensor": torch.tensor([2, -2, 0], dtype=torch.int32),
    "uint8 tensor": torch.tensor([1, 0, 1, 0, 0, 1], dtype=torch.uint8),
    "bool tensor": torch.tensor([True, False, True, False, False, True]),
    "tensor of no dimension": torch.tensor(4),
    "empty tensor": torch.tensor([], dtype=torch.long),
}


def table() -> Any:
    from recbole.data.interaction import Interaction

    generator = torch.Generator().manual_seed(0)
    columns = {
        "long": torch.randint(0, 9, (6,), generator=generator),
        "float": torch.randn(6, generator=generator),
        "sequence": torch.randint(0, 9, (6, 3), generator=generator),
        "pairs": torch.randn(6, 3, 2, generator=generator),
        "bool": torch.rand(6, generator=generator) > 0.5,
    }
    return Interaction(columns)


@pytest.mark.parametrize("speedups", [True, False])
@pytest.mark.parametrize("kind", list(INDEXES))
def test_rows_are_selected_as_a_list_selects_them(kind: str, speedups: bool) -> None:
    compat.apply(speedups=speedups)
    index, interaction = INDEXES[kind], table()
    as_recbole = index.tolist() if isinstance(index, (np.ndarray, torch.Tensor)) else index
    selected = interaction[index]
    assert selected.columns == interaction.columns
    for name, column in interaction.interaction.items():
        expected = column[as_recbole]
        assert torch.equal(selected[name], expected)
        assert selected[name].dtype == expected.dtype
        owned = selected[name].untyped_storage().data_ptr() != column.untyped_storage().data_ptr()
        assert owned == (expected.untyped_storage().data_ptr() != column.untyped_storage().data_ptr())


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(1).normal(size=1000),
        np.array([3.0]),
        np.array([1.0, np.inf, -np.inf]),
        *(np.array(numbers) for numbers in ([np.nan, 1.0, 2.0], [1.0, np.nan, 2.0], [np.nan, np.nan])),
        *(np.array(numbers) for numbers in ([-0.0, 0.0, -1.0], [0.0, -0.0, -1.0], [0.0, -0.0, 5.0], [-0.0, 0.0, 5.0])),
        np.array([3, 1, 2]),
        [2.0, 1.0],
    ],
)
def test_extremes_are_pythons_to_the_bit(values: Any) -> None:
    high, low = compat.extremes(values)
    expected = max(values), min(values)
    assert (type(high), type(low)) == tuple(map(type, expected))
    assert np.array([high, low]).tobytes() == np.array(expected).tobytes()


@pytest.mark.parametrize(
    "index", [range(7), [6], np.array([-7]), torch.tensor([6]), np.array([True, False]), [True] * 7]
)
def test_rows_that_are_not_there_are_an_error(index: Any) -> None:
    with pytest.raises(IndexError):
        table()[index]


def test_columns_are_still_got_by_name() -> None:
    interaction = table()
    assert interaction["long"] is interaction.interaction["long"]


HARD = [repr(struct.unpack("<d", struct.pack("<Q", bits))[0]) for bits in range(1, 2**62, 2**62 // 5000)]
HARD += [
    "4.9e-324",
    "9007199254740993",
    "0.1",
    "2.2250738585072011e-308",
    "123456789012345678901234567890",
    ".5",
]


def test_floats_are_read_to_the_last_bit() -> None:
    Path("a.inter").write_text("x:float\ty:token\tz:token\n" + "".join(f"{text}\t{text}\tz\n" for text in HARD))
    columns = {"x:float": np.float64, "y:token": str}
    options: dict[str, Any] = {"usecols": list(columns), "dtype": columns, "encoding": "utf-8"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast = compat.read_csv("a.inter", delimiter="\t", engine="python", **options)
    assert fast["x:float"].to_numpy().tobytes() == np.array([float(text) for text in HARD]).tobytes()
    assert fast["y:token"].tolist() == HARD
    pd.testing.assert_frame_equal(fast, pd.read_csv("a.inter", delimiter="\t", engine="python", **options))


def test_what_only_the_python_parser_reads_is_still_read() -> None:
    Path("a.inter").write_text("x:float::y:token\n1.5::a\n2::b\n")
    assert compat.read_csv("a.inter", "::", engine="python")["x:float"].tolist() == [1.5, 2.0]
    Path("b.inter").write_text("x:float\ty:token\n1_000\ta\n2\tb\n")
    read = compat.read_csv("b.inter", "\t", engine="python", dtype={"x:float": np.float64})
    assert read["x:float"].tolist() == [1000.0, 2.0]


def test_speedups_can_be_turned_off_and_on(monkeypatch: pytest.MonkeyPatch) -> None:
    write("inter", "user_id:token|item_id:token|rating:float", "u1|i1|1", "u2|i1|2")
    used = []
    original = compat.read_csv
    monkeypatch.setattr(compat, "read_csv", lambda *args, **kwargs: used.append(1) or original(*args, **kwargs))

    def reads(**settings: bool) -> int:
        compat.apply(**settings)
        used.clear()
        assert toy().inter_feat["rating"].tolist() == [1.0, 2.0]
        return len(used)

    assert reads() == 1
    assert reads(speedups=False) == 0
    assert reads(speedups=True) == 1
    monkeypatch.setenv("RECBOLE_MSR_NO_SPEEDUPS", "1")
    assert reads(speedups=True) == 0


def test_a_model_is_looked_for_in_its_own_family_first() -> None:
    import recbole
    from recbole.utils.utils import get_model

    folder = Path(recbole.__file__).parent
    families = sorted(path.name for path in (folder / "model").glob("*_recommender"))
    for model in (path.stem for path in (folder / "properties" / "model").glob("*.yaml")):
        order = compat.own_family_first(families, model)
        assert sorted(order) == families
        with_file = [family for family in order if (folder / "model" / family / f"{model.lower()}.py").exists()]
        assert len(with_file) <= 1
    assert get_model("BPR").__module__ == "recbole.model.general_recommender.bpr"
    assert get_model("DeepFM").__module__ == "recbole.model.context_aware_recommender.deepfm"


def test_scikit_learn_computes_the_metrics_that_are_its() -> None:
    sklearn = importlib.import_module("sklearn.metrics")
    metrics = importlib.import_module("recbole.evaluator.metrics")
    rng = np.random.default_rng(0)
    x, y = np.sort(rng.random(50)), rng.random(50)
    assert metrics.sk_auc(x, y) == sklearn.auc(x, y)
    assert metrics.mean_absolute_error(x, y) == sklearn.mean_absolute_error(x, y)
    assert metrics.mean_squared_error(x, y) == sklearn.mean_squared_error(x, y)


# --- How changes get in


def test_applying_imports_only_numpy_and_gives_it_the_names() -> None:
    heavy = ("recbole", "torch", "pandas", "scipy", "ray")
    out = python(
        f"""
        import importlib.util, sys
        spec = importlib.util.spec_from_file_location("compat", {str(compat.__file__)!r})
        module = sys.modules["compat"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.apply()
        import numpy as np
        print([name for name in {heavy!r} if name in sys.modules], np.float is np.float64, np.str is np.str_)
        """
    )
    assert out == "[] True True"


@pytest.mark.slow
def test_every_fragment_is_found_and_keeps_its_lines() -> None:
    for row in compat.REWRITES:
        assert row.before.count("\n") == row.after.count("\n"), row
    modules = sorted({row.module for row in compat.REWRITES})
    out = python(
        f"""
        import importlib, warnings
        import recbole_msr.compat as compat
        compat.apply()
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            for module in {modules!r}:
                importlib.import_module(module)
        """
    )
    assert out == ""


@pytest.mark.slow
def test_modules_imported_before_are_changed_too() -> None:
    out = python(
        """
        import sys
        stand_in = sys.modules["ray"] = type(sys)("ray")  # without it, today, RecBole does not import
        stand_in.tune = None
        from recbole.data.interaction import Interaction, _convert_to_tensor
        from recbole.data.dataset import Dataset
        fill = Dataset._fill_nan
        before = fill.__code__
        import recbole_msr.compat as compat
        compat.apply()
        after = fill.__code__
        print(fill is Dataset._fill_nan, after is before)
        print(after.co_firstlineno == before.co_firstlineno, after.co_filename == before.co_filename)
        """
    )
    assert out.split() == ["True", "False", "True", "True"]


def test_applying_twice_changes_nothing() -> None:
    from recbole.data.dataset import Dataset

    code, finders = Dataset._remap.__code__, len(sys.meta_path)
    compat.apply()
    compat.apply()
    assert Dataset._remap.__code__ is code
    assert len(sys.meta_path) == finders


def test_modules_keep_their_loader() -> None:
    import inspect

    module = importlib.import_module("recbole.data.interaction")
    assert isinstance(module.__loader__, importlib.machinery.SourceFileLoader)
    assert module.__spec__ is not None
    assert module.__spec__.loader is module.__loader__
    assert "class Interaction" in inspect.getsource(module)


def test_callbacks_run_once_the_module_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.joinpath("late_module.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    seen: list[int] = []

    def callback(module: types.ModuleType) -> None:
        seen.append(module.value)

    compat.after_import("late_module", callback)
    assert seen == []
    importlib.import_module("late_module")
    compat.after_import("late_module", callback)
    assert seen == [1]
    compat.after_import("late_module", lambda module: seen.append(module.value + 1))
    assert seen == [1, 2]


def test_an_unknown_recbole_gives_warnings_and_works(tmp_path: Path) -> None:
    data = tmp_path / "path" / "recbole" / "data"
    data.mkdir(parents=True)
    data.parent.joinpath("__init__.py").write_text("__version__ = '9.9.9'\n")
    data.joinpath("__init__.py").write_text("")
    data.joinpath("interaction.py").write_text("class Interaction:\n    def __init__(self):\n        self.a = 1\n")
    out = python(
        """
        import json, warnings
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import recbole_msr.compat as compat
            compat.apply()
            compat.apply()
            from recbole.data.interaction import Interaction
            compat.apply()
        print(Interaction().a, json.dumps([str(w.message) for w in caught if w.category is RuntimeWarning]))
        """,
        PYTHONPATH=str(data.parent.parent),
    )
    result, messages = out.split(" ", 1)
    version, *missing = json.loads(messages)
    assert result == "1"
    assert "9.9.9" in version
    assert [("__init__" in text, "__getitem__" in text) for text in missing] == [(True, False), (False, True)]


@pytest.mark.parametrize(
    ("version", "command"),
    [((3, 11), "pip install recbole==1.2.1"), ((3, 12), "pip install --no-deps recbole==1.2.1")],
)
def test_a_missing_recbole_is_told_with_the_command(
    version: tuple[int, int], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compat.require_recbole()
    monkeypatch.delitem(sys.modules, "recbole", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(ImportError, match=f": {command}$"):
        compat.require_recbole()
