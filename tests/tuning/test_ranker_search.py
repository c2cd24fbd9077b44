"""A search over RecBole's ranking models beside a multi-scenario model, by ranked lists."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import recbole_msr
from recbole_msr.config.build import build_config
from recbole_msr.errors import InputError
from recbole_msr.tuning.models import RANKERS
from recbole_msr.tuning.space.key_rules import check_space
from recbole_msr.tuning.space.space import Space

from .conftest import CONFIG

RANKING = {
    "eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "TO", "group_by": "user", "mode": "full"},
    "metrics": ["NDCG", "Recall"],
    "topk": [3, 5],
    "epochs": 2,
    "train_batch_size": 64,
}


@pytest.fixture
def over(tiny_data, tmp_path, monkeypatch, no_pages):
    """recbole_msr.search on ranked lists of "tiny"."""
    monkeypatch.chdir(tmp_path)

    def go(trials, config=None, **options):
        own = {**CONFIG, "data_path": str(tiny_data), **RANKING, **(config or {})}
        own = {key: value for key, value in own.items() if value is not None}
        given = {"output": "out", "final_seeds": 0, "wandb": "disabled", "progress": False, "first": "off"}
        return recbole_msr.search(dataset="tiny", trials=trials, config=own, **{**given, **options})

    return go


@pytest.mark.slow
def test_ranking_models_are_searched_beside_a_multi_scenario_model(over, tmp_path):
    models = ["SharedBottom", "BPR", "SASRec", "Pop"]
    found = over(4, models=models, final_seeds=1, confirm=1, fidelity="off")
    assert [one["name"] for one in found.summary["objectives"]] == ["ndcg@3/macro"], "the first metric and cutoff"
    trials = found.study.get_trials()
    reasons = [trial.user_attrs.get("reason") for trial in trials if trial.value is None]
    assert {trial.user_attrs["model"] for trial in trials if trial.value is not None} == set(models), reasons
    for trial in (one for one in trials if one.value is not None):
        cells = trial.user_attrs["valid"]["cells"]
        values = [cell["ndcg@3"] for row in cells.values() for cell in row.values() if cell["undefined"] is None]
        assert trial.value == pytest.approx(np.mean(values))
        assert {task for row in cells.values() for task in row} == {"click", "like"}
    lists = [pd.read_parquet(path) for path in (tmp_path / "out" / "final").glob("*/lists.parquet")]
    assert lists, "the confirmed are tested on lists"
    final = found.summary["final"]
    tested = [path for path in (tmp_path / "out" / "final").iterdir() if f"trial-{final['trial']}-" in path.name]
    frames = [pd.read_parquet(path) for folder in tested for path in folder.glob("lists.parquet")]
    of_click = [frame for frame in frames if "ndcg@3_click" in frame]
    assert final["test"]["metrics"]["ndcg@3"]["mean"] == pytest.approx(of_click[0]["ndcg@3_click"].mean(), abs=1e-5)


@pytest.mark.slow
def test_a_trial_of_a_ranking_model_is_the_run_alone(over, tmp_path):
    found = over(2, model="BPR", sampler="random", config={"main_task": "like"}, fidelity="off")
    best = found.study.best_trial
    (folder,) = (tmp_path / "out" / "trials" / str(best.number)).iterdir()
    given = json.loads((tmp_path / "out" / "workers" / "search.json").read_text())["config"]
    alone = recbole_msr.run(
        "BPR", "tiny",
        config=given | best.user_attrs["settings"]
        | {"valid_metric": found.summary["objectives"][0]["name"], "metric_decimal_place": 6}
        | {"output_dir": "alone", "show_progress": False},
    )  # fmt: skip
    assert alone.summary["best_valid_score"] == pytest.approx(best.value, abs=1e-9)
    weights = [torch.load(path / "best.ckpt", weights_only=True)["state_dict"] for path in (folder, alone.folder)]
    for name, value in weights[0].items():
        assert value.equal(weights[1][name]), name


def test_on_a_rung_a_ranking_model_learns_the_positives_of_a_share(over):
    found = over(2, model="BPR", sampler="random", fidelity="1/2")
    for trial in found.study.get_trials():
        (rung,) = trial.user_attrs["rungs"]
        assert rung["share"] == 0.5
        assert 0 < rung["value"] < 1
    assert found.study.best_trial.value > 0


def test_without_lists_ranking_models_take_no_part(over):
    with pytest.raises(
        InputError, match="BPR cannot take part: it ranks items, and rows are evaluated by their labels"
    ):
        over(
            2,
            {"eval_args": {"mode": "labeled"}, "metrics": ["AUC", "LogLoss"], "topk": None},
            models=["SharedBottom", "BPR"],
        )


@pytest.mark.parametrize("model", RANKERS)
def test_their_spaces_hold_the_defaults_and_keys_that_the_models_read(tiny_data, model):
    settings = {**CONFIG, "data_path": str(tiny_data), **RANKING}
    settings.pop("train_batch_size")
    space, config = Space.of_model(model).resolve("tiny"), build_config(model, "tiny", settings)
    check_space(space, model, config)
    params, _ = space.params_of(config)
    found = space.settings(params)
    assert found == {key: config[key] for key in found}
    assert {parameter.key for parameter in space.parameters} == set(found), "all have their default in the space"
