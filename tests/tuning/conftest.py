"""A search that takes seconds: SharedBottom on "tiny"."""

import math
import time
from types import SimpleNamespace

import pytest
import torch

SPACE = {
    "model": "SharedBottom",
    "search": {
        "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
        "bottom_hidden_sizes": {"type": "layers", "depth": [1, 2], "width": [4, 8, 64, 128]},
        "dropout": {"type": "float", "low": 0.0, "high": 0.4},
    },
}
CONFIG = {
    "load_col": {
        "inter": ["user_id", "item_id", "rating", "timestamp"],
        "user": ["user_id", "age", "gender"],
        "item": ["item_id", "price"],
    },
    "tasks": {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5}},
    "scenario": {"field": "age", "bins": [30], "names": ["young", "old"]},
    "use_gpu": False,
    "epochs": 3,
    "train_batch_size": 64,
    "threads": 1,
}


def up_after_reports(reports, patch):
    """Let the time of a search be up once its trials have reported so many epochs."""
    from recbole_msr.tuning import budget
    from recbole_msr.tuning.objective import Attempt

    told, report = [], Attempt.report

    def counting(*given):
        told.append(given)
        return report(*given)

    def now():
        return math.inf if len(told) >= reports else time.monotonic()

    patch.setattr(Attempt, "report", counting)
    patch.setattr(budget, "time", SimpleNamespace(monotonic=now))


@pytest.fixture
def config(tiny_data):
    """Settings of every trial."""
    return {**CONFIG, "data_path": str(tiny_data)}


@pytest.fixture
def search(config, tmp_path, monkeypatch, no_pages):
    """recbole_msr.search on "tiny", in the folder `output` of the test; what is given wins. See `pages`."""
    from recbole_msr import search

    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)

    def go(trials=4, **options):
        given = {"space": SPACE, "output": "out", "final_seeds": 0, "wandb": "disabled", "progress": False}
        given |= {"first": "off", "ensemble": "off"}  # so that trials are sampled, and no more than a test needs
        own = {**config, **options.pop("config", {})}
        return search("SharedBottom", "tiny", trials, config=own, **{**given, **options})

    return go
