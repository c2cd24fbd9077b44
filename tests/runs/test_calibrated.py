"""Runs with `calibrate`: fitted on validation rows alone, kept with the run, applied by predict."""

import json

import numpy as np
import pandas as pd
import pytest

import recbole_msr
from recbole_msr.errors import InputError
from recbole_msr.evaluation.calibration import Calibration
from tests.runs.tiny import write_tiny
from tests.tuning.conftest import CONFIG

SPLIT = {"split": {"RS": [0.5, 0.3, 0.2]}, "order": "RO", "group_by": None, "mode": "labeled"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same training without and with calibration."""
    folder = tmp_path_factory.mktemp("runs")
    config = {**CONFIG, "data_path": str(write_tiny(folder)), "epochs": 2, "show_progress": False}
    config |= {"save_predictions": True, "eval_args": SPLIT}
    return {
        method: recbole_msr.run(
            "SharedBottom",
            "tiny",
            config={**config, "output_dir": str(folder / method), "calibrate": method},
        )
        for method in ("none", "isotonic")
    }


def test_nothing_else_changes(runs):
    plain, calibrated = (dict(runs[method].summary) for method in ("none", "isotonic"))
    assert "calibrated" not in plain
    assert calibrated["test"] == plain["test"]
    assert calibrated["valid"] == plain["valid"]
    one, other = (pd.read_parquet(runs[method].folder / "predictions.parquet") for method in ("none", "isotonic"))
    pd.testing.assert_frame_equal(one, other)


def test_predict_gives_calibrated_probabilities(runs):
    users = pd.read_csv(runs["none"].folder.parent / "data" / "tiny" / "tiny.user", sep="\t").head(40)
    users.columns = [name.split(":")[0] for name in users.columns]
    rows = users.assign(item_id="i1", price=2.5)
    plain, calibrated = (recbole_msr.load(runs[method].folder) for method in ("none", "isotonic"))
    written = json.loads((runs["isotonic"].folder / "calibration.json").read_text())
    maps = Calibration.from_dict(written).maps
    before, after = plain.predict(rows), calibrated.predict(rows)
    assert maps, "some task has rows enough"
    for task in before:
        expected = maps[task][""](before[task].to_numpy(np.float64)) if task in maps else before[task]
        assert after[task].to_numpy() == pytest.approx(np.asarray(expected), abs=1e-6)


def test_the_result_has_the_test_cells_after_calibration(runs):
    found = runs["isotonic"].summary["calibrated"]
    maps = Calibration.from_dict(json.loads((runs["isotonic"].folder / "calibration.json").read_text()))
    rows = pd.read_parquet(runs["isotonic"].folder / "predictions.parquet")
    names = ["click", "like"]
    p = maps(rows[[f"score_{task}" for task in names]].to_numpy(np.float64), rows["scenario"].to_numpy())
    for column, task in enumerate(names):
        y, own = rows[f"label_{task}"].to_numpy(), p[:, column]
        own, y = own[y >= 0], y[y >= 0]
        loss = -np.mean(np.where(y == 1, np.log(own), np.log(1 - own)))
        assert found["test"]["pooled"][task]["logloss"] == pytest.approx(loss, abs=1e-5)
    assert (found["method"], found["by"]) == ("isotonic", "task")


def test_a_missing_or_damaged_calibration_is_refused(runs, tmp_path):
    path = runs["isotonic"].folder / "calibration.json"
    content = path.read_text()
    try:
        path.write_text(content.replace('"isotonic"', '"platt"'))
        with pytest.raises(InputError, match=r"calibration\.json is damaged: there is no calibration 'platt'"):
            _ = recbole_msr.load(path.parent).calibration
        path.unlink()
        with pytest.raises(InputError, match=r"is calibrated, and has no calibration\.json"):
            _ = recbole_msr.load(path.parent).calibration
    finally:
        path.write_text(content)


def test_a_conditional_has_a_map_of_its_own(tmp_path):
    tasks = {"click": {"field": "rating", "at_least": 3}, "buy": {"field": "rating", "at_least": 5, "after": "click"}}
    config = {**CONFIG, "data_path": str(write_tiny(tmp_path)), "epochs": 1, "eval_args": SPLIT, "tasks": tasks}
    config |= {"calibrate": "temperature", "output_dir": str(tmp_path / "run"), "show_progress": False}
    made = recbole_msr.run("SharedBottom", "tiny", config=config)
    assert list(made.summary["calibrated"]["test"]["pooled"]) == ["click", "buy", "buy|click"]
    kept = json.loads((tmp_path / "run" / "calibration.json").read_text())
    assert kept["columns"] == {"click": 0, "buy": 1, "buy|click": 2}
