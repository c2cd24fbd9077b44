"""A pickle runs code when it is read. RecBole reads some that lie in the current folder, and some that keys name."""

import json
import os
import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_msr import compat
from recbole_msr.cli import run_recbole
from recbole_msr.config.build import build_config
from recbole_msr.errors import InputError
from tests.conftest import SETTINGS

PLAIN = {
    "load_col": {"inter": ["user_id", "item_id", "rating"]},
    "threshold": {"rating": 4},
    "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "mode": "labeled"},
    "train_neg_sample_args": None,
    "metrics": ["AUC", "LogLoss"],
    "valid_metric": "AUC",
    "epochs": 1,
    **{key: SETTINGS[key] for key in ("use_gpu", "show_progress")},
}
FILES = ("saved/tiny-Dataset.pth", "saved/tiny-for-LR-dataloader.pth", "saved/tiny-for-SharedBottom-dataloader.pth")


class _Plants:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.fixture
def marker(tiny_data, monkeypatch):
    """A folder that only the planted pickles make."""
    monkeypatch.chdir(tiny_data)
    monkeypatch.delenv(compat.LOAD_PICKLES, raising=False)
    monkeypatch.setattr(compat, "_warned", set())
    monkeypatch.setattr(sys, "argv", ["test"])  # RecBole's Config reads it
    return tiny_data / "marker"


@pytest.fixture
def planted(marker):
    """Pickles where RecBole looks for its own, and one more, `x.pth`; none of them may be read."""
    Path("saved").mkdir()
    for name in (*FILES, "x.pth"):
        Path(name).write_bytes(pickle.dumps(_Plants(marker)))
    yield
    assert not marker.exists()


def _words(model, settings, *more):
    given = {"model": model, "dataset": "tiny", "data_path": ".", **settings}
    return [
        *(f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in given.items()),
        *more,
    ]


def _metrics(folder):
    found = json.loads(Path(folder, "result.json").read_text())
    return found["valid"], found["test"]


def test_a_run_with_tasks_reads_none(planted, capsys):
    assert run_recbole(_words("SharedBottom", SETTINGS | {"epochs": 1}, "--output_dir=out")) == 0
    assert "pickle" not in capsys.readouterr().err


@pytest.mark.parametrize("key", ["dataset_save_path", "dataloaders_save_path"])
@pytest.mark.parametrize("model", ["SharedBottom", "LR"])
def test_a_key_that_asks_for_one_is_refused_with_tasks(planted, capsys, key, model):
    assert run_recbole(_words(model, SETTINGS, f"--{key}=x.pth", "--output_dir=out")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {key} ")
    assert "'x.pth'" in line
    assert not Path("out").exists()


@pytest.mark.parametrize("key", ["pretrain_path", "mf_pretrain_path", "mlp_pretrain_path", "pre_model_path", "warm_up"])
def test_pretrained_weights_in_a_pickle_are_refused_with_tasks(planted, marker, key):
    torch.save({"state_dict": {}, "config": _Plants(marker)}, "x.pth")
    for strict in (True, False):
        with pytest.raises(InputError, match=f"{key}.*x.pth is a pickle" if not strict else key):
            build_config("LR", "tiny", SETTINGS | {"data_path": ".", key: "x.pth", "strict": strict})


def test_with_tasks_a_model_starts_from_the_weights_of_another_run(marker):
    """KD_DAGFM's student needs its teacher's checkpoint: best.ckpt of a run holds weights alone."""
    settings = SETTINGS | {"epochs": 1, "embedding_size": 4}
    first = _words("KD_DAGFM", settings, "--phase=teacher_training", "--output_dir=teacher")
    assert run_recbole(first) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        second = _words("KD_DAGFM", settings, "--phase=distillation", "--warm_up=teacher/best.ckpt", "--output_dir=out")
        assert run_recbole(second) == 0
    teacher, student = (torch.load(f"{name}/best.ckpt", weights_only=True)["state_dict"] for name in ("teacher", "out"))
    name = next(name for name in teacher if name.startswith("teacher_network."))
    assert torch.equal(teacher[name], student[name])


def test_plain_recbole_prepares_the_data_anew_and_says_so(planted, caplog):
    assert run_recbole(_words("LR", PLAIN, "--output_dir=out")) == 0
    told = [record.getMessage() for record in caplog.records if "pickle" in record.getMessage()]
    assert [line.split(" ")[0] for line in told] == list(FILES[:2])
    for name in FILES:
        Path(name).unlink()
    assert run_recbole(_words("LR", PLAIN, "--output_dir=without")) == 0
    assert _metrics("out") == _metrics("without")


def _prepared(**settings):
    """The training rows of plain RecBole, by its own functions."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import init_seed

    config = Config(model="LR", dataset="tiny", config_dict=PLAIN | {"data_path": ".", **settings})
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    train, _, _ = data_preparation(config, dataset)
    return train.dataset.inter_feat


def test_recboles_own_functions_do_not_read_one_either(planted, caplog):
    _prepared(dataset_save_path="x.pth", dataloaders_save_path="x.pth")
    told = [record.getMessage() for record in caplog.records if "pickle" in record.getMessage()]
    assert [line.startswith("x.pth is a pickle") and compat.LOAD_PICKLES in line for line in told] == [True, True]


def test_the_environment_has_them_read_with_a_warning(marker, monkeypatch):
    rows = _prepared(save_dataset=True)
    monkeypatch.setenv(compat.LOAD_PICKLES, "1")
    with pytest.warns(RuntimeWarning, match=r"tiny-Dataset\.pth.*trust"):
        again = _prepared()
    assert all(torch.equal(rows[field], again[field]) for field in rows.interaction)
    Path(FILES[0]).write_bytes(pickle.dumps(_Plants(marker)))
    with pytest.raises(AttributeError):  # what it holds is no dataset
        _prepared()
    assert marker.is_dir()


def test_an_array_of_objects_is_not_unpickled(marker):
    from recbole.config import Config
    from recbole.data import create_dataset
    from recbole.utils import get_model

    given = {"data_path": ".", "load_col": PLAIN["load_col"], "use_gpu": False, "n_cate": 2, "state": "ERROR"}
    config = Config(model="LDiffRec", dataset="tiny", config_dict=given)
    dataset = create_dataset(config)
    held = np.empty(1, dtype=object)
    held[0] = _Plants(marker)
    np.save("tiny/item_emb.npy", held, allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        get_model("LDiffRec")(config, dataset.build()[0])
    assert not marker.exists()
