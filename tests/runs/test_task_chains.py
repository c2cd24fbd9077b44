"""Runs with a task behind a task: what is evaluated, written, predicted, compared and searched."""

import json

import numpy as np
import pandas as pd
import pytest

import recbole_msr
from recbole_msr.errors import InputError
from recbole_msr.report.comparison.tables import tables_of
from tests.runs.tiny import SMALL

TASKS = {
    "click": {"field": "rating", "at_least": 3},
    "buy": {"field": "rating", "at_least": 5, "after": "click"},
}
SETTINGS = {
    "scenario": {"field": "age", "bins": [30]},
    "tasks": TASKS,
    **SMALL,
    "save_predictions": True,
}


@pytest.fixture(scope="module")
def trained(run_tiny, tmp_path_factory):
    return run_tiny(tmp_path_factory.mktemp("run") / "first", valid_metric="auc/buy|click")


def _auc(scores, labels):
    pairs = [(p > n) + (p == n) / 2 for p in scores[labels == 1] for n in scores[labels == 0]]
    return np.mean(pairs)


def test_the_conditional_is_evaluated_on_the_clicked_rows(trained):
    rows = pd.read_parquet(trained.folder / "predictions.parquet")
    clicked = rows[rows["label_click"] == 1]
    cell = trained.test.pooled["buy|click"]
    assert (cell.rows, cell.positives) == (len(clicked), int(clicked["label_buy"].sum()))
    expected = _auc(clicked["score_buy|click"].to_numpy(), clicked["label_buy"].to_numpy())
    assert cell.auc == pytest.approx(expected, rel=1e-6)
    assert (rows.loc[rows["label_click"] == 0, "label_buy|click"] == -1).all()


def test_macro_and_worst_are_of_the_tasks_alone(trained):
    cells = [(scenario, task, cell.auc) for scenario, row in trained.test.cells.items() for task, cell in row.items()]
    of_tasks = [value for _, task, value in cells if task in TASKS]
    assert len(cells) == len(of_tasks) + 2
    assert trained.test.macro("auc") == pytest.approx(np.mean(of_tasks))
    assert trained.test.worst("auc").value == min(of_tasks)
    assert trained.test.macro("auc", "buy|click") == np.mean([value for _, task, value in cells if task not in TASKS])


def test_a_saved_run_predicts_the_product_and_the_conditional(trained, data_path):
    rows = pd.read_csv(data_path / "tiny" / "tiny.inter", sep="\t")
    frame = rows.rename(columns=lambda name: name.split(":")[0])[["user_id", "item_id"]]
    predicted = recbole_msr.load(trained.folder).predict(frame)
    assert list(predicted) == ["click", "buy", "buy|click"]
    np.testing.assert_allclose(predicted["click"] * predicted["buy|click"], predicted["buy"], rtol=1e-5)


def test_a_result_names_the_conditional_beside_the_tasks(trained):
    assert trained.summary["tasks"] == ["click", "buy"]
    assert trained.summary["valid_metric"] == "auc/buy|click"
    assert list(trained.summary["test"]["pooled"]) == ["click", "buy", "buy|click"]


@pytest.mark.parametrize("weighting", ["uncertainty", "dwa", "gradnorm", "pcgrad"])
def test_every_loss_weighting_takes_a_task_behind_a_task(run_tiny, tmp_path, weighting):
    made = run_tiny(tmp_path / "run", loss_weighting=weighting, epochs=1)
    assert np.isfinite(made.test.pooled["buy"].logloss)


def test_conversions_without_a_click_are_told_in_the_result_and_refused_by_strict(run_tiny, data_path, tmp_path):
    tasks = {"like": {"field": "rating", "at_least": 5}, "click": {"field": "rating", "above": 3, "after": "like"}}
    made = run_tiny(tmp_path / "run", tasks=tasks, epochs=1)
    ratings = pd.read_csv(data_path / "tiny" / "tiny.inter", sep="\t")["rating:float"]
    told = f"({(ratings == 4).sum()} such rows, of {(ratings > 3).sum()} with label 1 of 'click')"
    assert any(told in warning for warning in made.summary["data"]["warnings"])
    with pytest.raises(InputError, match="strict: true refuses that"):
        run_tiny(tmp_path / "strict", tasks=tasks | {"click": tasks["click"] | {"strict": True}})


def test_a_conversion_without_its_click_is_found_by_its_line_where_earlier_rows_are_left_out(
    run_tiny, data_path, tmp_path
):
    tasks = {"like": {"field": "rating", "at_least": 5}, "click": {"field": "rating", "above": 3, "after": "like"}}
    strict, kept = {"click": tasks["click"] | {"strict": True}}, {"timestamp": "[100,inf)"}
    ratings = pd.read_csv(data_path / "tiny" / "tiny.inter", sep="\t")["rating:float"]
    line = 2 + int((ratings[100:] == 4).idxmax())  # the first line has the names
    with pytest.raises(InputError, match=rf"tiny\.inter, line {line}: task 'click' has label 1 although task 'like'"):
        run_tiny(tmp_path / "strict", tasks=tasks | strict, val_interval=kept)


def test_an_ensemble_averages_the_tasks_and_its_conditional_is_their_quotient(trained, run_tiny, tmp_path):
    from recbole_msr.runs.ensemble import Member, write_ensemble

    other = run_tiny(tmp_path / "other", seed=5, epochs=1)
    members = [Member(trained.folder), Member(other.folder, 3)]
    frame = pd.DataFrame({"user_id": ["u1", "u2"], "item_id": ["i3", "i4"]})
    one, two = (recbole_msr.load(member.folder).predict(frame) for member in members)
    found = recbole_msr.load(write_ensemble(tmp_path / "both", members)).predict(frame)
    assert list(found) == ["click", "buy", "buy|click"]
    for task in ("click", "buy"):
        np.testing.assert_allclose(found[task], (one[task] + 3 * two[task]) / 4, rtol=1e-6)
    np.testing.assert_allclose(found["buy|click"], found["buy"] / found["click"], rtol=1e-5)
    parts = [Member(trained.folder, 1, ["click"]), Member(other.folder, 1, ["buy"])]
    apart = recbole_msr.load(write_ensemble(tmp_path / "apart", parts)).predict(frame)
    assert list(apart) == ["click", "buy"], "of other members there is no conditional"


def test_an_ensemble_is_not_chosen_by_a_conditional(data_path, tmp_path):
    with pytest.raises(InputError, match=r"an ensemble averages .* not chosen by auc/buy\|click"):
        recbole_msr.search(
            model="SharedBottom",
            dataset="tiny",
            trials=1,
            ensemble=2,
            objectives="auc/buy|click",
            output=tmp_path / "out",
            config=SETTINGS | {"data_path": str(data_path)},
        )


@pytest.mark.slow
def test_a_comparison_takes_models_of_all_tasks_and_of_one(data_path, tmp_path):
    comparison = recbole_msr.compare(
        models=["SharedBottom", "DeepFM"],
        dataset="tiny",
        seeds=1,
        output=tmp_path / "out",
        workers=1,
        config={key: value for key, value in SETTINGS.items() if key not in ("save_predictions", "state")}
        | {"data_path": str(data_path), "epochs": 1},
    )
    assert comparison.summary["tasks"] == ["click", "buy"]
    assert [entry["status"] for entry in comparison.summary["entries"]] == ["complete", "complete"]
    joint, single = comparison.summary["entries"]
    result = json.loads(next((tmp_path / "out").glob("runs/SharedBottom/**/result.json")).read_text())
    value = result["test"]["macro_by_task"]["buy|click"]["auc"]
    assert joint["test"]["auc/buy|click/macro"]["mean"] == pytest.approx(value, abs=1e-9)
    assert "auc/buy|click/macro" not in single["test"]
    table = next(table for table in tables_of(comparison.summary) if table.name == "conditionals")
    assert [column.name for column in table.columns] == ["buy|click", "buy|click"]
    assert "buy\\|click" in (tmp_path / "out" / "leaderboard.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("fused", ["off", 2])
def test_a_search_is_for_a_metric_of_a_conditional(data_path, tmp_path, fused):
    found = recbole_msr.search(
        model="SharedBottom",
        dataset="tiny",
        trials=2,
        fused=fused,
        final_seeds=1,
        confirm=1,
        objectives="auc/buy|click",
        output=tmp_path / "out",
        workers=1,
        config={key: value for key, value in SETTINGS.items() if key not in ("save_predictions", "state")}
        | {"data_path": str(data_path), "epochs": 1},
    )
    values = [trial.value for trial in found.study.trials if trial.value is not None]
    assert found.best_value == max(values)
