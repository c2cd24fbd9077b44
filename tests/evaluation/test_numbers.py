"""MAE, RMSE and XAUC of tasks of numbers, beside binary tasks, against loops over rows and pairs."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from recbole_msr.evaluation.cells import Evaluation, evaluate_cells
from recbole_msr.evaluation.significance import Rows, differences
from recbole_msr.report.run.result_table import markdown
from recbole_msr.schema import MISSING_LABEL, MISSING_LABELS

NONE = MISSING_LABELS["number"]
TYPES = {"click": "binary", "time": "number"}


def _xauc_by_hand(scores, labels):
    right = pairs = 0.0
    for score, label in zip(scores, labels, strict=True):
        for other_score, other in zip(scores, labels, strict=True):
            if label > other:
                pairs += 1
                right += 1.0 if score > other_score else 0.5 if score == other_score else 0.0
    return right / pairs


def _by_hand(scores, labels):
    errors = [float(score) - float(label) for score, label in zip(scores, labels, strict=True)]
    return {
        "mae": sum(map(abs, errors)) / len(errors),
        "rmse": (sum(error**2 for error in errors) / len(errors)) ** 0.5,
        "xauc": _xauc_by_hand(scores, labels),
    }


def _made(rows=400, seed=0, decimals=1):
    """Three scenarios and rows of none, a binary task and one of numbers, of either sign, with missing labels."""
    random = np.random.default_rng(seed)
    signal = random.normal(size=rows)
    time = (3 * signal + random.normal(size=rows)).round(decimals)
    labels = np.stack([random.random(rows) < 0.4, time], axis=1).astype(np.float32)
    labels[random.random(rows) < 0.1, 0] = MISSING_LABEL
    labels[random.random(rows) < 0.1, 1] = NONE
    scores = np.stack([random.random(rows), (2 * signal + random.normal(size=rows)).round(decimals)], axis=1)
    return scores.astype(np.float32), labels, random.integers(0, 4, rows), random.integers(0, 50, rows)


def _evaluate(scores, labels, scenario, users=None, **more):
    names = ["a", "b", "c"]
    return evaluate_cells(scores, labels, scenario, users, names, list(TYPES), "click", types=TYPES, **more)


@pytest.mark.parametrize("decimals", [0, 1, 6], ids=["many-ties", "ties", "no-tie"])
def test_every_cell_equals_the_loops(decimals):
    scores, labels, scenario, users = _made(decimals=decimals)
    found = _evaluate(scores, labels, scenario, users)
    known = labels[:, 1] != NONE
    cells = [(found.pooled["time"], known)] + [
        (found.cells[name]["time"], known & (scenario == number)) for number, name in enumerate("abc", 1)
    ]
    for cell, rows in cells:
        assert cell.values == pytest.approx(_by_hand(scores[rows, 1], labels[rows, 1]), rel=1e-6)
        assert (cell.rows, cell.positives, cell.undefined) == (rows.sum(), None, None)
        assert cell.mean_label == pytest.approx(labels[rows, 1].mean(dtype=np.float64))


@pytest.mark.parametrize("rows", [1, 2, 3, 15, 16, 17, 31, 33, 64, 65, 200])
def test_xauc_is_that_of_all_pairs_for_any_number_of_rows(rows):
    random = np.random.default_rng(rows)
    labels, scores = random.integers(-3, 4, rows).astype(np.float32), random.integers(0, 9, rows).astype(np.float64)
    found = evaluate_cells(
        scores[:, None], labels[:, None], np.ones(rows, int), None, ["all"], ["time"], "time", types={"time": "number"}
    ).pooled["time"]
    expected = _xauc_by_hand(scores, labels) if len(set(labels)) > 1 else None
    assert found.value("xauc") == (expected if expected is None else pytest.approx(expected, abs=1e-12))


def test_xauc_of_zeros_and_ones_is_the_auc():
    random = np.random.default_rng(5)
    labels, scores = (random.random(500) < 0.3).astype(np.float32), random.random(500).round(2)
    found = evaluate_cells(
        scores[:, None], labels[:, None], np.ones(500, int), None, ["all"], ["time"], "time", types={"time": "number"}
    )
    assert found.pooled["time"].value("xauc") == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_a_binary_task_has_the_same_cells_beside_a_number():
    scores, labels, scenario, users = _made()
    both = _evaluate(scores, labels, scenario, users)
    alone = evaluate_cells(scores[:, :1], labels[:, :1], scenario, users, ["a", "b", "c"], ["click"], "click")
    assert {name: row["click"] for name, row in both.cells.items()} == {
        name: row["click"] for name, row in alone.cells.items()
    }
    assert {key: value for key, value in both.flat().items() if key in alone.flat()} == alone.flat()


def test_means_and_the_worst_cell_are_over_the_tasks_that_have_the_metric():
    found = _evaluate(*_made())
    of_time = [row["time"].value("xauc") for row in found.cells.values()]
    assert found.macro("xauc") == found.macro("xauc", "time") == pytest.approx(np.mean(of_time))
    assert found.worst("xauc").value == min(of_time)
    assert found.worst("rmse").value == max(row["time"].value("rmse") for row in found.cells.values())
    assert found.macro("auc") == found.macro("auc", "click")
    assert found.macro("auc", "time") is None


def test_units_of_several_tasks_are_not_mixed():
    scores, labels, scenario, users = _made()
    scores, labels = (np.concatenate([array, array[:, 1:] * 60], axis=1) for array in (scores, labels))
    tasks, types = ["click", "time", "seconds"], TYPES | {"seconds": "number"}
    found = evaluate_cells(scores, labels, scenario, users, ["a", "b", "c"], tasks, "click", types=types)
    of_time = [row["time"].value("mae") for row in found.cells.values()]
    assert found.macro("mae", "time") == pytest.approx(np.mean(of_time))
    assert found.macro("mae", "seconds") == pytest.approx(60 * np.mean(of_time))
    for metric in ("mae", "rmse"):
        assert found.macro(metric) is found.worst(metric) is None
        assert not {f"{metric}/macro", f"{metric}/worst"} & (set(found.flat()) | set(found.keys()))
        assert found.to_dict()["macro"][metric] is None
    assert found.macro("xauc") == found.macro("xauc", "time"), "shares have no unit"
    (line,) = [line for line in markdown(found).splitlines() if line.startswith("| macro mean | all |")]
    columns = markdown(found).splitlines()[0].split("|")
    assert line.split("|")[columns.index(" MAE ")].strip() == ""
    rows = Rows(labels, scenario, users, ["a", "b", "c"], tasks, types=types)
    tested = differences([rows.measure(scores)], [rows.measure(scores * 1.1)])
    assert "mae/macro" not in tested
    assert {"mae/time/macro", "mae/seconds/macro", "xauc/macro"} <= set(tested)


def test_keys_are_those_of_the_values():
    found = _evaluate(*_made())
    assert set(found.keys()) == set(found.flat())
    assert "xauc/time" in set(found.keys())
    assert not {"mae", "mae/click", "auc/time", "xauc/a/click"}.intersection(found.keys())


def test_equal_values_have_errors_and_no_xauc():
    scores, labels, scenario, _ = _made()
    labels[scenario == 2, 1] = 7
    cell = _evaluate(scores, labels, scenario).cells["b"]["time"]
    assert cell.value("xauc") is None
    assert cell.value("mae") == pytest.approx(np.abs(scores[scenario == 2, 1] - 7.0).mean(), rel=1e-6)
    assert cell.undefined is None


def test_too_few_rows_count_in_no_mean():
    scores, labels, scenario, _ = _made()
    labels[np.flatnonzero(scenario == 3)[4:], 1] = NONE
    found = _evaluate(scores, labels, scenario, min_rows=10)
    assert "fewer than 10" in found.cells["c"]["time"].undefined
    assert found.macro("mae") == pytest.approx(np.mean([found.cells[n]["time"].value("mae") for n in "ab"]))


def test_an_evaluation_is_the_same_after_it_was_written():
    found = _evaluate(*_made())
    assert Evaluation.from_dict(found.to_dict()) == found


def test_an_infinite_label_is_refused():
    scores, labels, scenario, _ = _made()
    labels[3, 1] = np.inf
    with pytest.raises(ValueError, match="finite numbers or -inf"):
        _evaluate(scores, labels, scenario)


# Differences between models.


def _differ(labels, scenario, users, first, second):
    rows = Rows(labels, scenario, users, ["a", "b", "c"], list(TYPES), types=TYPES)
    return differences([rows.measure(first)], [rows.measure(second)])


def test_differences_are_those_of_the_evaluations():
    first, labels, scenario, users = _made()
    second = _made(seed=1)[0]
    found = _differ(labels, scenario, users, first, second)
    one, other = (_evaluate(scores, labels, scenario, users).flat() for scores in (first, second))
    for metric in ("mae", "rmse", "xauc", "auc"):
        names = ["macro", "a/time", "time", "time/macro"] if metric != "auc" else ["macro", "a/click", "click"]
        for name in names:
            key = f"{metric}/{name}"
            assert found[key].mean == pytest.approx(one[key] - other[key], abs=1e-6)
    assert not {"mae/click", "auc/time"} & set(found)


@pytest.mark.parametrize("metric", ["mae", "rmse", "xauc"])
def test_the_error_is_that_of_leaving_out_one_user_after_the_other(metric):
    """The jackknife over users, which knows no formula of an influence."""
    first, labels, scenario, users = _made(rows=300)
    second = first.copy()
    second[:, 1] += np.random.default_rng(2).normal(size=300)
    labels[:, 1] = np.where(labels[:, 1] == NONE, 0.3, labels[:, 1])
    found = _differ(labels, scenario, users, first, second)[f"{metric}/time"]
    of_rest = []
    for user in np.unique(users):
        rest = users != user
        one, other = (_by_hand(scores[rest, 1], labels[rest, 1])[metric] for scores in (first, second))
        of_rest.append(one - other)
    n = len(of_rest)
    jackknife = ((n - 1) / n * np.square(np.array(of_rest) - np.mean(of_rest)).sum()) ** 0.5
    assert found.row_error == pytest.approx(jackknife, rel=0.1)


def test_a_better_model_of_numbers_is_found_and_told_by_its_direction():
    first, labels, scenario, users = _made(rows=1200)
    worse = first.copy()
    worse[:, 1] += 4 * np.random.default_rng(3).normal(size=1200)
    found = _differ(labels, scenario, users, first, worse)
    assert found["mae/time"].mean < 0 < found["xauc/time"].mean
    assert max(found[key].p for key in ("mae/time", "rmse/time", "xauc/time")) < 1e-4


def test_equal_values_in_a_cell_have_no_tested_xauc():
    first, labels, scenario, users = _made()
    labels[scenario == 1, 1] = 2
    found = _differ(labels, scenario, users, first, _made(seed=1)[0])
    assert "xauc/a/time" not in found
    others = [found[f"xauc/{name}/time"].mean for name in "bc"]
    assert found["xauc/time/macro"].mean == pytest.approx(np.mean(others))


def test_a_cell_of_numbers_refuses_metrics_of_another_type():
    cell = _evaluate(*_made()).pooled["time"]
    with pytest.raises(TypeError, match="no metric of a task of type number"):
        type(cell).from_dict(cell.to_dict() | {"auc": 0.5})
    assert replace(cell, values={}).value("auc") is None
