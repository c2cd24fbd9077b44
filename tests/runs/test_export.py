"""An exported model scores as the run does, with onnxruntime and JSON alone; what cannot be exported is refused."""

import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import recbole_msr
from recbole_msr import registry
from recbole_msr.cli import main
from recbole_msr.errors import InputError
from recbole_msr.files.row_files import Batch, row_place
from recbole_msr.runs.ensemble import Member, write_ensemble
from recbole_msr.runs.export import onnx_graph
from recbole_msr.runs.export.embeddings import ByteTable
from recbole_msr.runs.export.export import export_run
from recbole_msr.runs.export.exported_model import ExportedModel
from recbole_msr.runs.export.graph_scorer import GraphScorer
from recbole_msr.runs.row_columns import arrow_column
from recbole_msr.runs.row_counts import RowCounts
from tests.runs.tiny import write_tiny

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (the extra `export`)")
onnx = pytest.importorskip("onnx", reason="onnx is not installed (the extra `export`)")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (the extra `export`)")

SETTINGS = {
    "scenario": {"field": "age", "bins": [25, 40]},
    "tasks": {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5}},
    "numerical_features": ["hour", "price"],
    "normalize_field": ["hour", "price"],
    "numerical_as": "raw",
    "embedding_size": 4,
    "learning_rate": 0.05,
    "epochs": 1,
    "train_batch_size": 100,
    "use_gpu": False,
    "show_progress": False,
    "threads": 1,
    "state": "ERROR",
}
SMALL = {"sub_experts": 2, "expert_hidden_sizes": [8], "task_expert_hidden_sizes": [8], "tower_hidden_sizes": [4]}
OF_MODEL = {
    "SharedBottom": {"bottom_hidden_sizes": [8]},
    "HiNet": SMALL | {"san_top_k": 1, "expert_sharing": "low_rank", "expert_rank": 2},
    "LLM4MSR": {
        "knowledge": "random",
        "knowledge_level": "all",
        "backbone": "SharedBottom",
        "bottom_hidden_sizes": [8],
        "knowledge_size": 16,
    },
}


MODELS = ("AdaSparse", "HiNet", "LLM4MSR", "STAR")
"""Those that are always exported: with thresholds, all layers of experts, vectors of knowledge, weights of a row."""


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    path = write_tiny(tmp_path_factory.mktemp("export"))
    draw, folder = np.random.default_rng(5), path / "tiny"
    items = pd.DataFrame({"item_id:token": [f"i{n}" for n in range(30)]})
    items["class:token_seq"] = draw.choice(["a b", "c", "", "b c a"], 30)
    items["price:float"] = draw.integers(1, 9, 30) / 2
    items.to_csv(folder / "tiny.item", sep="\t", index=False)
    rows = pd.read_csv(folder / "tiny.inter", sep="\t")
    rows["hour:float"] = draw.integers(0, 24, len(rows))
    rows["minutes:float"] = draw.gamma(2, 3, len(rows))
    rows["place:token"] = draw.choice(["home", "work"], len(rows))
    rows.to_csv(folder / "tiny.inter", sep="\t", index=False)
    return path


def _run(data_path, folder, model, **settings):
    given = SETTINGS | OF_MODEL.get(model, {}) | settings | {"data_path": str(data_path), "output_dir": str(folder)}
    return recbole_msr.run(model, "tiny", config=given).folder


@pytest.fixture(scope="module")
def exported(data_path, tmp_path_factory):
    """A run of SharedBottom and its export."""
    folder = tmp_path_factory.mktemp("shared")
    run = _run(data_path, folder / "run", "SharedBottom")
    return run, folder / "model", export_run(run, folder / "model")


def _score(folder, row):
    """Score one row, a value a column, with json and onnxruntime alone, as docs/export.md says."""
    about = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    ids = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
    inputs = {}
    for field in about["signature"]["inputs"]:
        value, rule = row.get(field["column"]), about["scenario"]
        if field["kind"] == "token":
            value = field["missing"] if value is None else ids[field["name"]].get(value, 0)
        elif field["kind"] == "token_seq":
            length = field["shape"][1]
            known = [field["missing"]] if value is None else [ids[field["name"]].get(token, 0) for token in value]
            value = (known + [0] * length)[:length]
        elif field["kind"] == "scenario" and value is not None:
            if rule["rule"] == "bins":
                place = sum(edge <= float(value) for edge in rule["edges"])
                value = rule["ids"][place] if "ids" in rule else 1 + place
            else:
                value = rule["ids"].get(value, rule["other"])
        elif value is None:
            value = float(field["missing"])
        inputs[field["name"]] = np.array([value], dtype=field["dtype"])
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    return session.run(["scores"], inputs)[0][0]


ROWS = {
    "known": {"user_id": "u3", "item_id": "i7", "hour": 12.0, "place": "work"},
    "fields given": {"user_id": "u3", "item_id": "i7", "hour": 3.0, "place": "home", "age": "58", "price": 4.5},
    "unknown user: the scenarios' mean": {"user_id": "new", "item_id": "i7", "hour": 12.0, "place": "work"},
    "unknown item and place": {"user_id": "u3", "item_id": "new", "hour": 12.0, "place": "moon"},
    "nothing but the keys": {"user_id": "u5", "item_id": "i2", "hour": None, "place": None},
    "classes given": {"user_id": "u5", "item_id": "i2", "hour": 1.0, "place": "home", "class": ["c", "new", "a"]},
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_json_and_onnxruntime_are_enough_to_score_a_row(exported, row):
    run, folder, _ = exported
    frame = pd.DataFrame({name: pd.Series([value], dtype=object) for name, value in row.items()})
    expected = recbole_msr.load(run).predict(frame)
    np.testing.assert_allclose(_score(folder, row), expected.iloc[0].to_numpy(), atol=1e-5)


def _batch(rows):
    columns = {name: arrow_column([row.get(name) for row in rows]) for row in rows for name in row}
    return Batch(pa.RecordBatch.from_pydict(columns), row_place(0))


def test_raw_rows_are_scored_and_counted_as_by_the_run(exported):
    run, folder, _ = exported
    run = recbole_msr.load(run)
    scorer = GraphScorer(run, folder)
    several = [*ROWS.values(), {"user_id": None, "item_id": 3, "price": 2}, {"user_id": "new", "item_id": "new"}]
    without = [{"user_id": "u3", "item_id": "i7", "hour": "7", "place": True}, {"user_id": "u1", "place": "home"}]
    for rows in (several, without, several[:1]):
        ours, theirs = RowCounts(), RowCounts()
        found = scorer.score_batch(_batch(rows), "rows", 8192, ours)
        with torch.no_grad():
            expected = run.scorer.score_batch(_batch(rows), "rows", 8192, theirs)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert ours.unknown == theirs.unknown
        assert ours.missing == theirs.missing
    with pytest.raises(InputError, match=r"no column '(hour|place)', which the model reads"):
        scorer.score_batch(_batch([{"user_id": "u3", "item_id": "i7"}]), "rows", 8192, RowCounts())
    rows = [{**ROWS["known"], "price": price} for price in (1.0, 1e300)]
    with pytest.raises(InputError, match=r"row 2: 'price' is 1e\+300, beyond what"):
        scorer.score_batch(_batch(rows), "rows", 8192, RowCounts())


def test_a_graph_leaves_out_what_no_row_needs(exported):
    """Unknown scenarios, towers of other scenarios, sequences that are given: each in a branch of its own."""
    graph = onnx.load(exported[1] / "model.onnx").graph
    outside = [node.op_type for node in graph.node]
    assert outside.count("If") == 1 + 3 + 1
    assert "ScatterND" not in outside
    branches = [part.g for node in graph.node if node.op_type == "If" for part in node.attribute]
    inside = [[node.op_type for node in branch.node] for branch in branches]
    assert sorted(operations.count("ScatterND") for operations in inside) == [0] * 5 + [1] * 5
    for operations in inside:
        assert ("ScatterND" in operations) == ("NonZero" in operations)


def test_an_export_is_served_for_its_own_run_alone(exported, data_path, tmp_path):
    testclient = pytest.importorskip("fastapi.testclient")
    pytest.importorskip("orjson")
    from recbole_msr.runs.serve import Server

    run, folder, _ = exported
    rows = [row for name, row in ROWS.items() if name != "nothing but the keys"]
    client = testclient.TestClient(Server(run, exported=folder).app)
    scores = client.post("/score", json={"rows": rows}).json()["scores"]
    expected = recbole_msr.load(run).predict(pd.DataFrame(rows, dtype=object))
    np.testing.assert_allclose(pd.DataFrame(scores).to_numpy(), expected.to_numpy(), atol=1e-5)
    other = _run(data_path, tmp_path / "other", "SharedBottom", seed=7)
    with pytest.raises(InputError, match=r"is no export of .*other: their scores differ"):
        Server(other, exported=folder)


def test_the_columns_of_the_output_are_named(exported):
    _, folder, _ = exported
    about = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    (output,) = about["signature"]["outputs"]
    assert [column["task"] for column in output["columns"]] == ["click", "like"]
    assert about["scenario"]["names"] == {"age<25": 1, "25<=age<40": 2, "age>=40": 3}


def test_the_check_compares_test_rows_and_drawn_rows(exported):
    _, folder, lines = exported
    check = json.loads((folder / "export.json").read_text(encoding="utf-8"))["check"]
    assert check["test_rows"]["rows"] == 60
    assert check["drawn_rows"]["rows"] > 0
    assert max(check[rows]["largest_difference"] for rows in ("test_rows", "drawn_rows")) < 1e-5
    assert "60 test rows" in lines[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(name, marks=() if name in MODELS else pytest.mark.more_models)
        for name in registry.registered_models()
        if name != "SharedBottom"
    ],
)
def test_every_model_scores_as_its_run(data_path, tmp_path, model, caplog):
    """Its program is converted as it is, without `torch.onnx.export`."""
    caplog.set_level(logging.DEBUG, logger=onnx_graph.logger.name)
    # Two scenarios: the time of an export grows with the number of a graph's operations.
    run = _run(data_path, tmp_path / "run", model, scenario={"field": "age", "bins": [30]})
    lines = export_run(run, tmp_path / "model")  # raises where a score differs
    assert sum("differ from predict's by at most" in line for line in lines) == 2
    assert not [record.getMessage() for record in caplog.records if record.name == onnx_graph.logger.name]


OPTIONS = {
    "numbers, classes, conditionals": {
        "scenario": {"field": "place"},
        "tasks": {
            "click": {"field": "rating", "at_least": 4},
            "like": {"field": "rating", "at_least": 5, "after": "click"},
            "minutes": {"field": "minutes", "type": "number", "transform": "quantile"},
            "stars": {"field": "rating", "type": "classes", "ordered": True},
        },
        "interaction": "cross",
        "numerical_as": "embedding",
    },
    "maps of each cell, knowledge": {
        "scenario": {"field": "place", "groups": {"in": ["home"]}, "other": "out"},
        "calibrate": "temperature",
        "calibrate_by": "cell",
        "eval_args": {"split": {"RS": [0.4, 0.5, 0.1]}, "order": "RO", "group_by": None, "mode": "labeled"},
        "interaction": "fm",
        "embedding_size_exponent": 0.3,
        "knowledge": "random",
        "knowledge_features": ["user", "item"],
        "knowledge_match": "dot",
        "knowledge_size": 16,
    },
    "steps, one scenario": {
        "scenario": None,
        "calibrate": "isotonic",
        "eval_args": {"split": {"RS": [0.4, 0.5, 0.1]}, "order": "RO", "group_by": None, "mode": "labeled"},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_with_these_options_a_model_scores_as_its_run(data_path, tmp_path, options):
    run = _run(data_path, tmp_path / "run", "SharedBottom", **options)
    lines = export_run(run, tmp_path / "model")  # raises where a score differs
    assert sum("differ from predict's by at most" in line for line in lines) == 2


@pytest.mark.slow
def test_where_the_data_are_gone_drawn_rows_are_compared(exported, data_path, tmp_path):
    run, _, _ = exported
    moved = Path(data_path / "tiny").rename(data_path / "moved")
    try:
        lines = export_run(run, tmp_path / "model", format="torch")
    finally:
        moved.rename(data_path / "tiny")
    assert "rows drawn from the vocabularies" in lines[1]
    assert "test rows were not compared" in lines[2]


@pytest.mark.slow
def test_scores_that_differ_write_nothing(exported, tmp_path, monkeypatch, capsys):
    run, _, _ = exported
    monkeypatch.setattr("recbole_msr.runs.export.check.TOLERANCE", -1.0)
    assert main(["export", "--run", str(run), "--out", str(tmp_path / "model")]) == 2
    assert "differ from the run's" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_embeddings_in_bytes(exported, tmp_path):
    """The graph's scores are those of the model with the rounded vectors (compared by the export); the loss is told."""
    run, whole, _ = exported
    lines = export_run(run, tmp_path / "model", embeddings="int8")
    assert sum("those of the model with embeddings in int8" in line for line in lines) == 2
    assert any(line.startswith("click: auc of the test rows") and "with these embeddings" in line for line in lines)
    row = ROWS["classes given"]
    difference = np.abs(_score(tmp_path / "model", row) - _score(whole, row)).max()
    assert 0 < difference < 0.01
    kinds = {tensor.data_type for tensor in onnx.load(tmp_path / "model" / "model.onnx").graph.initializer}
    assert onnx.TensorProto.INT8 in kinds


def test_bytes_are_the_nearest_of_255_for_each_vector():
    weight = torch.tensor([[0.5, -1.0, 0.126], [0.0, 0.0, 0.0], [3e-5, -1e-5, 1e-5]])
    table = ByteTable(weight)
    expected = torch.zeros(3, 3)
    for v in range(3):
        scale = max(abs(number) for number in weight[v].tolist()) / 127
        for k in range(3):
            expected[v, k] = round(weight[v, k].item() / scale) * scale if scale else 0.0
    torch.testing.assert_close(table(torch.arange(3)), expected)


@pytest.mark.slow
def test_a_program_of_pytorch_takes_any_number_of_rows(exported, tmp_path):
    """Traced with 5 rows, it is compared on the test rows and on others; embeddings are in half precision."""
    lines = export_run(exported[0], tmp_path / "model", format="torch", embeddings="float16")
    assert "torch.export, embeddings in float16" in lines[0]
    assert sum("those of the model with embeddings in float16" in line for line in lines) == 2
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"export.json", "model.pt2", "vocabulary.json"}
    program = torch.export.load(tmp_path / "model" / "model.pt2")
    assert torch.float16 in {tensor.dtype for tensor in program.state_dict.values()}


@pytest.mark.slow
def test_an_ensemble_is_one_graph(data_path, tmp_path):
    """Two models of other fields, with a conditional; compared with the ensemble's predictions."""
    tasks = {**SETTINGS["tasks"], "like": {"field": "rating", "at_least": 5, "after": "click"}}
    first = _run(data_path, tmp_path / "a", "SharedBottom", tasks=tasks)
    small = {"experts": 1, "expert_hidden_sizes": [8], "tower_hidden_sizes": []}
    second = _run(data_path, tmp_path / "b", "OMoE", tasks=tasks, numerical_features=["hour"], seed=7, **small)
    members = [Member(first, 2.0), Member(second, 1.0)]
    ensemble = write_ensemble(tmp_path / "ensemble", members)
    lines = export_run(ensemble, tmp_path / "model")
    assert "ensemble of 2 (SharedBottom + OMoE)" in lines[0]
    about = json.loads((tmp_path / "model" / "export.json").read_text(encoding="utf-8"))
    names = [column["name"] for column in about["signature"]["outputs"][0]["columns"]]
    row = ROWS["unknown user: the scenarios' mean"]
    frame = pd.DataFrame({name: pd.Series([value], dtype=object) for name, value in row.items()})
    expected = recbole_msr.load(ensemble).predict(frame)
    assert names == list(expected.columns)
    np.testing.assert_allclose(_score(tmp_path / "model", row), expected.iloc[0].to_numpy(), atol=1e-5)
    other = _run(data_path, tmp_path / "d", "SharedBottom", tasks=tasks, val_interval={"rating": "[3,5]"})
    mixed = write_ensemble(tmp_path / "mixed", [Member(first), Member(other)])
    with pytest.raises(InputError, match="one graph of an ensemble has one vocabulary"):
        export_run(mixed, tmp_path / "none")


@pytest.mark.parametrize(("option", "value"), [("embeddings", "int4"), ("format", "tflite")])
def test_other_words_are_refused(exported, tmp_path, option, value):
    with pytest.raises(InputError, match=f"--{option} must be one of .*, got '{value}'"):
        export_run(exported[0], tmp_path / "model", **{option: value})


def test_models_of_recbole_are_refused(data_path, tmp_path):
    run = _run(data_path, tmp_path / "run", "LR", numerical_features=[], strict=False)
    with pytest.raises(InputError, match="LR is one of RecBole's models"):
        export_run(run, tmp_path / "model")


HISTORIES = {
    "mean": {"history": {"fields": ["item_id", "class", "place"], "length": 3, "scenario": "own"}},
    "sum": {"history": {"given": {"viewed": "item_id"}}, "alias_of_item_id": ["viewed"]},
    "target_attention": {
        "history": {"fields": ["item_id", "place"], "given": {"viewed": "item_id"}, "length": 50},
        "alias_of_item_id": ["viewed"],
        "min_count": {"place": 250},
    },
}


@pytest.fixture(scope="module")
def viewed_path(data_path, tmp_path_factory):
    """The data with a column of viewed items, of which some rows have none."""
    path = shutil.copytree(data_path, tmp_path_factory.mktemp("viewed") / "data")
    rows, draw = pd.read_csv(path / "tiny" / "tiny.inter", sep="\t"), np.random.default_rng(3)
    rows["viewed:token_seq"] = [" ".join(f"i{n}" for n in draw.integers(30, size=draw.integers(6))) for _ in range(600)]
    rows.to_csv(path / "tiny" / "tiny.inter", sep="\t", index=False)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("pooling", "form"), [("mean", "onnx"), ("sum", "torch"), ("target_attention", "onnx")])
def test_histories_of_any_length_are_pooled_as_by_predict(viewed_path, tmp_path, pooling, form):
    run = _run(viewed_path, tmp_path / "run", "SharedBottom", **HISTORIES[pooling], history_pooling=pooling)
    lines = export_run(run, tmp_path / "model", format=form)  # raises where a score differs
    assert sum("differ from predict's by at most" in line for line in lines) == 2
    about = json.loads((tmp_path / "model" / "export.json").read_text(encoding="utf-8"))
    inputs = {field["name"]: field for field in about["signature"]["inputs"] if field["kind"] == "history"}
    if pooling == "sum":
        assert inputs["viewed"]["shape"] == ["batch", "viewed_length"]
        return
    assert {"history.item_id", "history.place"} <= inputs.keys()
    assert inputs["history.place"]["shape"] == ["batch", "history"]
    model, opened = ExportedModel(tmp_path / "model"), recbole_msr.load(run)
    row = {"user_id": ["new"], "item_id": ["i7"], "hour": [12.0], "place": ["work"], "viewed": [["i3"]], "age": ["20"]}
    histories = [(["i1"], ["home"]), (["i1", "i2", "i29"], ["home", "work", "moon"]), ([], [])]
    found = [
        model.predict(row | {"history.item_id": [items], "history.place": [places]})[0] for items, places in histories
    ]
    assert (found[0] != found[1]).any()  # else an input is not read
    expected = opened.predict(pd.DataFrame({name: pd.Series(value, dtype=object) for name, value in row.items()}))
    np.testing.assert_allclose(found[2], expected.iloc[0].to_numpy(), atol=1e-5)  # a new user has no earlier row
    np.testing.assert_allclose(model.predict(row)[0], found[2], atol=1e-7)
    columns = {name: arrow_column(value * 2) for name, value in row.items()}
    columns["user_id"] = arrow_column(["new", "u3"])
    batch, ours, theirs = Batch(pa.RecordBatch.from_pydict(columns), row_place(0)), RowCounts(), RowCounts()
    with torch.no_grad():
        expected = opened.scorer.score_batch(batch, "rows", 8192, theirs)
    np.testing.assert_allclose(
        GraphScorer(opened, tmp_path / "model").score_batch(batch, "rows", 8192, ours), expected, atol=1e-5
    )
    assert ours.unknown == theirs.unknown


def test_a_history_of_sequences_is_refused(viewed_path, tmp_path):
    settings = {"history": {"fields": ["viewed"], "length": 3}}
    run = _run(viewed_path, tmp_path / "run", "SharedBottom", **settings)
    with pytest.raises(InputError, match="'viewed' of the earlier rows is a sequence itself"):
        export_run(run, tmp_path / "model")


def test_a_folder_of_another_kind_is_left_alone(exported):
    run, _, _ = exported
    with pytest.raises(InputError, match="holds a run"):
        export_run(run, run)


def test_rare_and_hashed_values_are_read_as_by_predict(exported, data_path, tmp_path):
    settings = {"min_count": {"item_id": 14, "class": 100}, "hash_buckets": {"user_id": 7, "place": 5}}
    run = _run(data_path, tmp_path / "run", "SharedBottom", **settings)
    lines = export_run(run, tmp_path / "model")
    assert sum("scores differ from predict's" in line for line in lines) == 2
    about = json.loads((tmp_path / "model" / "export.json").read_text(encoding="utf-8"))
    assert about["format"] == 2
    user = next(field for field in about["signature"]["inputs"] if field["name"] == "user_id")
    vocabulary = json.loads((tmp_path / "model" / "vocabulary.json").read_text(encoding="utf-8"))["user_id"]
    first = len(vocabulary) + 1
    expected = {"function": "blake2b", "bytes": 8, "byte_order": "little", "buckets": 7, "first_id": first}
    assert user["hash"] == expected
    assert "unknown" not in user
    mixed = write_ensemble(tmp_path / "mixed", [Member(run), Member(exported[0])])
    with pytest.raises(InputError, match="read 'user_id' otherwise"):
        export_run(mixed, tmp_path / "none")


ALONE = {
    "a bin": (
        {"field": "age", "bins": [25, 35], "names": ["young", "mid", "old"]},
        "mid",
        "age",
        ["18", "30", "50", None],
    ),
    "the others": ({"field": "place", "groups": {"in": ["home"]}, "other": "out"}, "out", "place", ["home", "moon"]),
}


@pytest.mark.parametrize(("scenario", "name", "field", "values"), ALONE.values(), ids=ALONE)
def test_one_scenario_alone_is_exported(data_path, tmp_path, scenario, name, field, values):
    settings = {"scenario": scenario, "only_scenario": name, "load_col": None, "epochs": 1}
    run = _run(data_path, tmp_path / "run", "SharedBottom", **settings)
    lines = export_run(run, tmp_path / "model")
    assert sum("differ from predict's by at most" in line for line in lines) == 2
    about = json.loads((tmp_path / "model" / "export.json").read_text(encoding="utf-8"))
    assert about["scenario"]["names"] == {name: 1}
    assert about["format"] == (4 if "bins" in scenario else 1)
    opened = recbole_msr.load(run)
    for value in values:
        row = {"user_id": "u3", "item_id": "i7", "hour": 12.0, "place": "work"} | {field: value}
        frame = pd.DataFrame({column: pd.Series([cell], dtype=object) for column, cell in row.items()})
        np.testing.assert_allclose(_score(tmp_path / "model", row), opened.predict(frame).iloc[0].to_numpy(), atol=1e-5)


def test_an_export_that_is_cut_off_leaves_no_folder_of_two_exports(exported, tmp_path, monkeypatch):
    run, folder, _ = exported
    out = tmp_path / "model"
    shutil.copytree(folder, out)
    (out / "model.onnx.data").write_bytes(b"weights of a larger model")
    replace = os.replace

    def fails(source, target):
        if Path(target) == out / "vocabulary.json":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr("recbole_msr.runs.export.export.os.replace", fails)
    with pytest.raises(InputError, match="No space left"):
        export_run(run, out)
    assert not {"export.json", "model.onnx.data"} & {path.name for path in out.iterdir()}
    with pytest.raises(InputError, match="is no exported model"):
        ExportedModel(out)
