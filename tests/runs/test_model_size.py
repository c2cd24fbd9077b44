"""Models of many scenarios: their size is known before they are built; refused where they cannot fit, else told."""

import logging

import numpy as np
import pandas as pd
import pytest

import recbole_msr
from recbole_msr.errors import InputError
from recbole_msr.registry import BUILT_IN_MODELS, model_class
from recbole_msr.runs import model_size

M = 60


@pytest.fixture
def many(tiny_data):
    """The data_path of "tiny" with 60 tabs."""
    path = tiny_data / "tiny" / "tiny.inter"
    inter = pd.read_csv(path, sep="\t")
    inter["tab:token"] = np.arange(len(inter)) % M
    inter.to_csv(path, sep="\t", index=False)
    return tiny_data


def settings(data, **given):
    return {
        "data_path": str(data),
        "load_col": None,
        "scenario": "tab",
        "tasks": {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5}},
        "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "scenario", "mode": "labeled"},
        "packed_cache": False,
        "use_gpu": False,
        "state": "ERROR",
        "knowledge": "random",
        "knowledge_size": 8,
        "loss_weights": {"click": {"59": 0.5}},
    } | given


def test_the_estimate_is_the_number_of_parameters(many):
    from recbole.config import Config
    from recbole.data import create_dataset

    config = Config(model="LLM4MSR", dataset="tiny", config_dict=settings(many))
    train = create_dataset(config).build()[0]
    for name in BUILT_IN_MODELS:
        config = Config(model=name, dataset="tiny", config_dict=settings(many))
        size = model_size.estimate_size(config, train, model_class(name))
        built = model_class(name)(config, train)
        parameters = sum(p.numel() for p in built.parameters() if p.requires_grad)
        assert size.parameters == parameters, name
        assert size.dense == parameters - sum(p.numel() for p in built.features.parameters()), name
        assert size.n_bytes == 16 * parameters, name


def test_what_cannot_fit_is_refused_unless_wanted(many, tmp_path, monkeypatch):
    monkeypatch.setattr(model_size, "total_memory", lambda device: 1 << 20)
    given = settings(many, output_dir=str(tmp_path / "run"), epochs=1, show_progress=False, threads=1)
    del given["knowledge"], given["knowledge_size"]
    message = (
        r"HiNet has [\d.]+ million parameters with the 60 scenarios of 'tab', which take [\d.]+ MiB .* This machine "
        r"has 1\.0 MiB of memory: keep the most frequent ones \(scenario: \{field: tab, top: 20, other: rest\}\)"
    )
    with pytest.raises(InputError, match=message):
        recbole_msr.run("HiNet", "tiny", config=given)
    small = {"embedding_size": 2, "bottom_hidden_sizes": [64], "tower_hidden_sizes": [32]}
    with pytest.raises(InputError, match="SharedBottom has"):
        recbole_msr.run("SharedBottom", "tiny", config=given | small)
    result = recbole_msr.run("SharedBottom", "tiny", config=given | small | {"check_memory": False})
    assert len(result.summary["scenarios"]) == M


def test_what_is_dear_is_told(many, caplog):
    from recbole.config import Config
    from recbole.data import create_dataset

    config = Config(model="HiNet", dataset="tiny", config_dict=settings(many))
    train = create_dataset(config).build()[0]
    with caplog.at_level(logging.WARNING):
        model_size.check_size(config, train, model_class("HiNet"))
    assert "million multiplications for every row: if that is too slow, keep the most frequent ones" in caplog.text
    train.scenario_names = train.scenario_names[:10]
    caplog.clear()
    model_size.check_size(config, train, model_class("HiNet"))
    assert not caplog.text


def test_memory_is_that_of_the_machine_or_less():
    import psutil

    from recbole_msr.memory import total_memory

    assert 0 < total_memory("cpu") <= psutil.virtual_memory().total
