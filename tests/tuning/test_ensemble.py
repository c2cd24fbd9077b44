"""`--ensemble`: greedy selection by validation, a folder that predicts, gain and cost beside the single model."""

import itertools
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

import recbole_msr
from recbole_msr.errors import InputError
from recbole_msr.tuning.greedy import select_greedily
from recbole_msr.tuning.options import SearchOptions
from recbole_msr.tuning.resolve import read_search
from recbole_msr.tuning.trial_state import best_of_each_model


def macro_auc(mean, labels, scenario):
    """The mean AUC over the cells that have both classes, by scikit-learn."""
    values = []
    for of, task in itertools.product(np.unique(scenario), range(labels.shape[1])):
        of_cell = labels[scenario == of, task]
        if len(set(of_cell)) == 2:
            values.append(roc_auc_score(of_cell, mean[scenario == of, task]))
    return sum(values) / len(values)


def slow_selection(scores, labels, scenario, picks):
    """As in the paper: try every model beside the bag, keep the best; then cut the bag where it was at its best."""
    bag, history = [], []
    for _ in range(picks):
        values = []
        for place in range(len(scores)):
            tried = [*bag, place]
            mean = [[sum(scores[p][n][t] for p in tried) / len(tried) for t in range(2)] for n in range(len(labels))]
            values.append(macro_auc(np.array(mean), labels, scenario))
        bag.append(values.index(max(values)))
        history.append(max(values))
    return bag[: history.index(max(history)) + 1]


@pytest.mark.parametrize("seed", range(4))
def test_the_selection_is_that_of_a_slow_one(seed):
    draw = np.random.default_rng(seed)
    labels, scenario = draw.integers(0, 2, (40, 2)), draw.integers(0, 2, 40)
    scores = [np.clip(0.3 * labels + draw.uniform(0, 0.7, (40, 2)), 0, 1) for _ in range(5)]
    picks = select_greedily(scores, lambda mean: -macro_auc(mean, labels, scenario), 6)
    assert picks == slow_selection(scores, labels, scenario, 6)
    best = max(macro_auc(one, labels, scenario) for one in scores)
    assert macro_auc(np.mean([scores[p] for p in picks], axis=0), labels, scenario) >= best


def test_the_best_alone_is_an_ensemble_if_no_mean_is_better():
    perfect, noise = np.array([[0.9], [0.1]]), np.array([[0.1], [0.9]])
    picks = select_greedily([noise, perfect], lambda mean: float(mean[1, 0] - mean[0, 0]), 4)
    assert picks == [1]
    assert select_greedily([noise, perfect], lambda mean: np.nan, 2) == [0], "without any value the first stands"


def test_no_pick_follows_once_it_is_told_to_stop():
    scores = [np.array([[0.4], [0.6]]), np.array([[0.6], [0.4]])]
    target = np.array([[0.5], [0.5]])
    distance = lambda mean: float(abs(mean - target).sum())  # noqa: E731
    assert select_greedily(scores, distance, 2) == [0, 1]
    assert select_greedily(scores, distance, 2, stop=lambda: True) == [0]


@pytest.fixture
def small():
    """Options of a search whose trials differ."""
    space = {
        "model": "SharedBottom",
        "search": {"learning_rate": [0.003, 0.01, 0.03, 0.1], "embedding_size": [2, 8]},
    }
    return {
        "space": space,
        "pruner": "none",
        "config": {"epochs": 2, "valid_metric": "auc/macro", "packed_cache": False},
    }


def split_scores(checkpoint):
    """Labels, scenarios, and a model's probabilities of the validation and of the test rows, by RecBole's data path."""
    from recbole.quick_start import load_data_and_model

    _, model, _, _, valid, test = load_data_and_model(str(checkpoint))
    model.eval()
    found = {}
    for name, loader in (("valid", valid), ("test", test)):
        rows = loader._dataset[torch.arange(len(loader._dataset))]
        with torch.no_grad():
            scores = model.predict_tasks(rows) if hasattr(model, "predict_tasks") else model.predict(rows)[:, None]
        labels = np.stack([rows["label_click"].numpy(), rows["label_like"].numpy()], axis=1)
        found[name] = (labels, rows["scenario"].numpy(), scores.double().numpy())
    return found


def checkpoint_of(model, folder):
    """The checkpoint of a trial's own model, or of the one with a fresh seed."""
    number, seed = model["trial"], model["seed"]
    found = (folder / "trials" / str(number)).glob("*/best.ckpt")
    return next(found) if seed is None else folder / "final" / f"trial-{number}-seed-{seed}" / "best.ckpt"


@pytest.mark.slow
def test_the_ensemble_of_a_search_is_the_slow_ones_and_stands_beside_the_best_model(search, small, tmp_path):
    result = search(trials=6, ensemble=4, final_seeds=1, confirm=2, **small)
    told = result.summary["ensemble"]
    confirmed = [one["trial"] for one in result.summary["confirmation"]["candidates"]]
    models = [(one["trial"], one["seed"]) for one in told["candidates"]]
    assert sorted(models[:6]) == [(number, None) for number in range(6)], "the trials' own models come first"
    (fresh,) = {seed for _, seed in models[6:]}
    assert fresh == result.summary["confirmation"]["seeds"][0]
    assert {number for number, _ in models[6:]} >= set(confirmed)
    of_models = [split_scores(checkpoint_of(one, tmp_path / "out")) for one in told["candidates"]]
    labels, scenario, _ = of_models[0]["valid"]
    scores = [one["valid"][2] for one in of_models]
    chosen = slow_selection(scores, labels, scenario, 4)
    picks = Counter(models[place] for place in chosen)
    assert {(member["trial"], member["seed"]): member["weight"] for member in told["members"]} == picks
    single = models.index((told["single"], None))
    for split in ("valid", "test"):
        labels, scenario, alone = of_models[single][split]
        mean = sum(of_models[place][split][2] for place in chosen) / len(chosen)
        assert told[split]["value"] == pytest.approx(macro_auc(mean, labels, scenario), abs=1e-9)
        assert told[split]["single"] == pytest.approx(macro_auc(alone, labels, scenario), abs=1e-9)
        assert told[split]["gain"] == pytest.approx(told[split]["value"] - told[split]["single"])
        assert told[split]["cells"]["macro"]["auc"] == told[split]["value"]
    assert told["valid"]["value"] >= max(macro_auc(one, *of_models[0]["valid"][:2]) for one in scores)
    assert told["cost"]["parameters"]["ensemble"] == sum(
        result.study.trials[number].user_attrs["parameters"] for number, _ in picks
    )
    assert told["cost"]["latency"]["ensemble"] > 0
    gain = told["gain"]["winner"]
    assert (gain["trial"], gain["seeds"]) == (result.summary["confirmation"]["winner"], [fresh])
    labels, scenario, of_winner = of_models[models.index((gain["trial"], fresh))]["test"]
    difference = told["test"]["value"] - macro_auc(of_winner, labels, scenario)
    assert gain["differences"]["auc/macro"]["mean"] == pytest.approx(difference, abs=1e-6)
    folder = tmp_path / "out" / "ensemble"
    frame = pd.DataFrame({"user_id": ["u1", "u2"], "item_id": ["i1", "i2"]})
    alone = [recbole_msr.load(path.parent).predict(frame) for path in sorted(folder.glob("members/*/best.ckpt"))]
    weights = [member["weight"] for member in told["members"]]
    expected = sum(weight * one for weight, one in zip(weights, alone, strict=True)) / sum(weights)
    pd.testing.assert_frame_equal(recbole_msr.load(folder).predict(frame), expected, check_dtype=False)


@pytest.mark.slow
def test_an_ensemble_comes_again_from_what_is_kept_and_skips_a_damaged_model(search, small, tmp_path, caplog, pages):
    first = search(trials=3, ensemble=2, **small).summary["ensemble"]
    assert first["test"] is first["gain"] is None, "without a final test nothing reads the test split"
    again = search(trials=3, ensemble=2, **small).summary["ensemble"]
    for key in ("members", "valid", "candidates"):
        assert again[key] == first[key]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Members" in page
    assert f"The predictions of {len(first['members'])} of 3 models" in page
    best = first["candidates"][0]["trial"]
    (checkpoint,) = (tmp_path / "out" / "trials" / str(best)).glob("*/best.ckpt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    third = search(trials=3, ensemble=2, **small).summary["ensemble"]
    assert {"trial": best, "seed": None} not in third["candidates"]
    assert f"trial {best} cannot join the ensemble" in caplog.text
    shutil.rmtree(tmp_path / "out" / "trials")
    assert "ensemble" not in search(trials=3, ensemble=2, **small).summary
    assert "no model of a trial is kept" in caplog.text


@pytest.mark.slow
def test_a_model_of_one_task_joins_with_a_run_for_each_task(config, small, tmp_path, monkeypatch, no_pages):
    monkeypatch.chdir(tmp_path)
    told = recbole_msr.search(
        **{"models": "FM,LR", "dataset": "tiny", "trials": 3, "ensemble": 3, "config": {**config, **small["config"]}},
        **{"output": "out", "final_seeds": 0, "wandb": "disabled", "progress": False, "first": "off"},
    ).summary["ensemble"]
    assert len(told["candidates"]) == 3
    total, means = 0, {}
    for member in told["members"]:
        paths = sorted((tmp_path / "out" / "trials" / str(member["trial"])).glob("*/best.ckpt"))
        of_tasks = [split_scores(path)["valid"] for path in paths]  # the main task's first
        means[member["trial"]] = np.concatenate([scores for _, _, scores in of_tasks], axis=1)
        labels, scenario, _ = of_tasks[0]
        assert member["value"] == pytest.approx(macro_auc(means[member["trial"]], labels, scenario), abs=1e-9)
        total = total + member["weight"] * means[member["trial"]]
    mean = total / sum(member["weight"] for member in told["members"])
    assert told["valid"]["value"] == pytest.approx(macro_auc(mean, labels, scenario), abs=1e-9)
    ensemble = recbole_msr.load(tmp_path / "out" / "ensemble")
    assert ensemble.tasks == ["click", "like"]
    assert ensemble.member_tasks == [["click"], ["like"]] * len(told["members"])


def test_a_metric_that_is_not_of_cells_cannot_choose(search):
    with pytest.raises(InputError, match="an ensemble is chosen by a metric of scenarios and tasks"):
        search(trials=1, ensemble=2, config={"valid_metric": "MAE", "metrics": ["MAE"]})


def test_a_search_has_an_ensemble_unless_it_is_turned_off_or_cannot_be_chosen(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def picks(**options):
        given = {"model": "SharedBottom", "dataset": "tiny", "trials": 1, "config": config, "wandb": "disabled"}
        return read_search(SearchOptions(**{**given, **options}))[0].ensemble

    assert picks() == picks(ensemble="auto") == 10
    assert picks(ensemble="off") == picks(ensemble=0) == 0
    assert picks(ensemble="3") == 3
    assert picks(objectives="auc/macro,parameters", pruner="none") == 0, "K models cost more"
    assert picks(config={**config, "valid_metric": "MAE", "metrics": ["MAE"]}) == 0
    with pytest.raises(InputError, match="--ensemble must be auto, off, or how many models"):
        picks(ensemble="many")


def test_an_error_while_an_ensemble_is_made_is_told_and_loses_nothing(search, monkeypatch, caplog):
    def fails(*_):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr("recbole_msr.tuning.run.describe_ensemble", fails)
    search(trials=1, ensemble=2, config={"epochs": 1})
    assert "there is no ensemble: " in caplog.text
    assert "CUDA error: out of memory" in caplog.text
    assert json.loads(Path("out/summary.json").read_text())["best"]["number"] == 0


def test_the_best_of_each_other_model_is_kept_beside_the_best():
    def trial(number, model):
        return optuna.trial.create_trial(value=1.0 - number / 10, user_attrs={"model": model, "number": number})

    ranked = [trial(number, model) for number, model in enumerate(["A", "A", "B", "A", "C", "B", "C"])]
    kept = [one.user_attrs["number"] for one in best_of_each_model(ranked, 2)]
    assert kept == [0, 1, 2, 4]
