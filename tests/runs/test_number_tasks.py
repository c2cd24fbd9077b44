"""Runs with a task of numbers: what is declared, trained, tested, predicted and refused."""

import numpy as np
import pandas as pd
import pytest

import recbole_msr
from recbole_msr.config.build import build_config
from recbole_msr.errors import InputError
from tests.runs.tiny import SMALL, write_tiny

TASKS = {
    "click": {"field": "rating", "at_least": 4},
    "time": {"field": "time", "type": "number", "transform": "log1p", "missing": "ignore"},
}
SETTINGS = {
    "scenario": {"field": "age", "bins": [30]},
    "tasks": TASKS,
    **SMALL,
    "save_predictions": True,
}


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    path = write_tiny(tmp_path_factory.mktemp("numbers"))
    file = path / "tiny" / "tiny.inter"
    rows = pd.read_csv(file, sep="\t")
    rows["time:float"] = (np.exp(rows["rating:float"]) * 100).round()
    rows.loc[::9, "time:float"] = np.nan
    rows.to_csv(file, sep="\t", index=False)
    return path


@pytest.fixture(scope="module")
def trained(run_tiny, tmp_path_factory):
    return run_tiny(tmp_path_factory.mktemp("run") / "first")


def test_test_metrics_are_those_of_the_predictions_file(trained):
    rows = pd.read_parquet(trained.folder / "predictions.parquet")
    rows = rows[rows["label_time"].notna()]
    errors = rows["score_time"].astype(float) - rows["label_time"].astype(float)
    cell = trained.test.pooled["time"]
    assert (cell.rows, cell.type) == (len(rows), "number")
    assert cell.value("mae") == pytest.approx(errors.abs().mean(), rel=1e-5)
    assert cell.value("rmse") == pytest.approx((errors**2).mean() ** 0.5, rel=1e-5)
    assert cell.value("auc") is None


def test_a_saved_run_predicts_numbers_in_the_fields_unit(trained, data_path):
    rows = pd.read_csv(data_path / "tiny" / "tiny.inter", sep="\t")
    frame = rows.rename(columns=lambda name: name.split(":")[0])[["user_id", "item_id"]]
    predicted = recbole_msr.load(trained.folder).predict(frame)
    assert list(predicted) == ["click", "time"]
    assert predicted["click"].between(0, 1).all()
    # A mean of logarithms lies between the smallest and the largest number.
    assert predicted["time"].between(rows["time:float"].min(), rows["time:float"].max()).mean() > 0.9


def test_a_main_task_of_numbers_is_validated_by_its_mae(run_tiny, tmp_path):
    made = run_tiny(tmp_path / "run", main_task="time", epochs=1)
    assert made.summary["valid_metric"] == "mae"
    assert set(made.summary["test"]["metrics"]) == {"mae", "rmse"}
    assert made.summary["test"]["metrics"]["mae"] == round(made.test.pooled["time"].value("mae"), 4)


@pytest.mark.parametrize("weighting", ["uncertainty", "dwa", "gradnorm", "pcgrad"])
def test_every_loss_weighting_takes_numbers(run_tiny, tmp_path, weighting):
    made = run_tiny(tmp_path / "run", loss_weighting=weighting, epochs=1)
    assert np.isfinite(made.test.pooled["time"].value("rmse"))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"valid_metric": "auc/time"}, "there is no valid_metric 'auc/time'"),
        ({"valid_metric": "xauc/click"}, "there is no valid_metric 'xauc/click'"),
        ({"tasks": TASKS | {"time": TASKS["time"] | {"missing": "error"}}}, "has no number in"),
        ({"tasks": TASKS | {"time": {"field": "offset", "type": "number", "transform": "log1p"}}}, "numbers >= 0"),
        ({"tasks": TASKS | {"time": {"field": "same", "type": "number"}}}, "is 7 in every training row"),
        ({"main_task": "time", "trainer": "recbole"}, "set trainer: lightning"),
    ],
)
def test_what_cannot_be_learnt_is_one_line(run_tiny, data_path, tmp_path, settings, told):
    file = data_path / "tiny" / "tiny.inter"
    rows = pd.read_csv(file, sep="\t")
    if "same:float" not in rows:
        rows["same:float"], rows["offset:float"] = 7, rows["rating:float"] - 3
        rows.to_csv(file, sep="\t", index=False)
    with pytest.raises(InputError, match=told) as raised:
        run_tiny(tmp_path / "run", **settings)
    assert "\n" not in str(raised.value)


def test_recboles_models_learn_a_binary_main_task_alone():
    with pytest.raises(InputError, match="main_task 'time' is of type number, and DeepFM, one of RecBole's models"):
        build_config("DeepFM", "ml-100k", {"tasks": TASKS, "main_task": "time", "use_gpu": False})


@pytest.mark.slow
def test_a_comparison_tests_numbers_and_trains_recboles_models_for_the_binary_tasks(data_path, tmp_path):
    comparison = recbole_msr.compare(
        models=["SharedBottom", "OMoE", "DeepFM"],
        dataset="tiny",
        seeds=2,
        output=tmp_path / "out",
        workers=1,
        config={key: value for key, value in SETTINGS.items() if key not in ("save_predictions", "state")}
        | {"data_path": str(data_path), "epochs": 1},
    )
    by_label = {entry["label"]: entry for entry in comparison.summary["entries"]}
    assert {entry["status"] for entry in by_label.values()} == {"complete"}
    ours, theirs = by_label["OMoE"], by_label["DeepFM"]
    assert {"mae/time", "rmse/time", "xauc/macro", "auc/macro", "auc/click"} <= set(ours["differences"])
    difference = ours["test"]["mae/time"]["mean"] - by_label["SharedBottom"]["test"]["mae/time"]["mean"]
    assert ours["differences"]["mae/time"]["mean"] == pytest.approx(difference, rel=1e-4, abs=1e-3)
    assert "auc/click" in theirs["differences"]
    assert not any(key.startswith(("mae", "xauc")) for key in {*theirs["test"], *theirs["differences"]})
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "XAUC" in page


@pytest.mark.parametrize("metric", ["mae/macro", "rmse/worst"])
def test_a_metric_that_mixes_units_chooses_nothing(run_tiny, data_path, tmp_path, metric):
    tasks = TASKS | {"stars": {"field": "rating", "type": "classes", "ordered": True}}
    told = rf"valid_metric '{metric}' would mix the units of time, stars: choose by one task, such as .*/time/macro"
    with pytest.raises(InputError, match=told):
        run_tiny(tmp_path / "run", tasks=tasks, valid_metric=metric)
    with pytest.raises(InputError, match=told.replace("valid_metric ", ".*")):
        recbole_msr.search(
            model="SharedBottom", dataset="tiny", trials=1, objectives=metric, output=tmp_path / "out",
            config=SETTINGS | {"data_path": str(data_path), "tasks": tasks},
        )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("fused", ["off", 2])
def test_a_search_is_for_a_metric_of_numbers(data_path, tmp_path, fused):
    found = recbole_msr.search(
        model="SharedBottom",
        dataset="tiny",
        trials=3,
        fused=fused,
        final_seeds=2,
        confirm=1,
        objectives="mae/macro",
        output=tmp_path / "out",
        workers=1,
        config={key: value for key, value in SETTINGS.items() if key not in ("save_predictions", "state")}
        | {"data_path": str(data_path), "epochs": 1},
    )
    values = [trial.value for trial in found.study.trials if trial.value is not None]
    assert found.best_value == min(values)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Gain in XAUC" in page or "The best trial is that of the defaults" in page
