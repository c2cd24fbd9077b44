"""ECE and PCOC against loops that say what they are, row by row."""

import numpy as np
import pytest

from recbole_msr.evaluation.cells import Evaluation, evaluate_cells
from recbole_msr.schema import MISSING_LABEL


def _ece_by_hand(scores, labels):
    """15 bins of the sorted rows; a row counts with the mean label of all rows that have its prediction."""
    scores = np.clip(np.asarray(scores, dtype=np.float64), 0, 1)
    shared = np.array([labels[scores == score].mean() for score in scores])
    order = np.argsort(scores)
    total = 0.0
    for rows in np.array_split(order, 15):
        if len(rows):
            total += len(rows) / len(scores) * abs(scores[rows].mean() - shared[rows].mean())
    return total


def _one(scores, labels):
    """The only cell of one scenario and one task."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    found = evaluate_cells(
        scores[:, None], labels[:, None], np.ones(len(scores), int), None, ["all"], ["click"], "click"
    )
    return found.cells["all"]["click"]


@pytest.mark.parametrize("decimals", [1, 2, 7], ids=["many-ties", "ties", "hardly-a-tie"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_cell_equals_the_loops(dtype, decimals):
    """Three scenarios and rows of none, two tasks, missing labels, sizes that 15 does not divide."""
    random = np.random.default_rng(decimals)
    scores = random.random((1000, 2)).round(decimals).astype(dtype)
    labels = (random.random((1000, 2)) < scores * [0.8, 0.3]).astype(np.float32)
    labels[random.random((1000, 2)) < 0.1] = MISSING_LABEL
    scenario, users = random.choice(4, 1000, p=[0.1, 0.6, 0.25, 0.05]), random.integers(0, 90, 1000)
    found = evaluate_cells(scores, labels, scenario, users, "abc", ["click", "like"], "click")
    for task, name in enumerate(found.tasks):
        labelled = labels[:, task] != MISSING_LABEL
        cells = [(found.pooled[name], labelled)]
        cells += [(found.cells[s][name], labelled & (scenario == n)) for n, s in enumerate("abc", 1)]
        for cell, rows in cells:
            score, label = scores[rows, task].astype(np.float64), labels[rows, task].astype(np.float64)
            assert cell.value("ece") == pytest.approx(_ece_by_hand(score, label), abs=1e-12)
            assert cell.value("pcoc") == pytest.approx(score.mean() / label.mean(), rel=1e-12)


@pytest.mark.parametrize("rows", [2, 14, 15, 16, 29, 31])
@pytest.mark.parametrize("ties", [True, False])
def test_few_rows_fill_as_many_bins_as_they_can(rows, ties):
    random = np.random.default_rng(rows)
    scores = random.random(rows).round(1 if ties else 9)
    labels = np.arange(rows) % 2
    assert _one(scores, labels).value("ece") == pytest.approx(_ece_by_hand(scores, labels), abs=1e-12)


def test_one_row_is_one_bin_though_the_cell_has_no_auc():
    cell = _one([0.8], [1])
    assert (cell.auc, cell.undefined) == (None, "1 row, fewer than 2")
    assert (cell.value("ece"), cell.value("pcoc")) == (pytest.approx(0.2), pytest.approx(0.8))


def test_without_a_positive_there_is_an_ece_and_no_pcoc():
    cell = _one([0.25, 0.75], [0, 0])
    assert (cell.value("ece"), cell.value("pcoc")) == (0.5, None)


def test_without_rows_both_are_undefined():
    cell = _one(np.empty(0), np.empty(0))
    assert (cell.value("ece"), cell.value("pcoc")) == (None, None)


def test_a_constant_prediction_is_off_by_its_distance_from_the_mean_label():
    labels = np.repeat([0, 1], [60, 40])
    assert _one(np.full(100, 0.4), labels).value("ece") == pytest.approx(0, abs=1e-12)
    assert _one(np.full(100, 0.7), labels).value("ece") == pytest.approx(0.3)
    assert _one(np.full(100, 0.7), labels).value("pcoc") == pytest.approx(1.75)


def test_predictions_beyond_0_and_1_are_clipped_as_for_logloss():
    clipped, beyond = _one([0.0, 0.3, 1.0, 1.0], [0, 1, 0, 1]), _one([-2.0, 0.3, 1.0, 7.0], [0, 1, 0, 1])
    assert beyond.value("pcoc") == clipped.value("pcoc") == pytest.approx(2.3 / 2)
    # By score, 7.0 is no tie of 1.0: one bin a row.
    assert beyond.value("ece") == pytest.approx((0 + 0.7 + 1 + 0) / 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_neither_the_order_of_rows_nor_how_they_were_gathered_changes_a_digit(dtype):
    """Four processes each see every fourth row; their rows come one process after the other."""
    random = np.random.default_rng(3)
    scores = random.random((5000, 1)).round(2).astype(dtype)
    labels, scenario = (random.random((5000, 1)) < scores).astype(float), random.integers(0, 4, 5000)

    def values(order):
        found = evaluate_cells(scores[order], labels[order], scenario[order], None, "abc", ["click"], "click")
        return {key: value for key, value in found.flat().items() if key.startswith(("ece", "pcoc"))}

    first = values(np.arange(5000))
    assert len(first) == 2 * 8
    gathered = np.concatenate([np.arange(rank, 5000, 4) for rank in range(4)])
    assert values(gathered) == values(random.permutation(5000)) == first


def test_the_worst_pcoc_is_the_farthest_from_1_by_its_logarithm_and_the_worst_ece_the_largest():
    predicted = {"low": 0.3, "right": 0.5, "high": 0.8}  # of rows half of which are positive: 0.6, 1, 1.6
    scores = np.repeat(list(predicted.values()), 10)[:, None]
    found = evaluate_cells(
        scores, np.tile([[0], [1]], (15, 1)), np.repeat([1, 2, 3], 10), None, list(predicted), ["click"], "click"
    )
    assert found.worst("pcoc")[:2] == ("low", "click")  # |log 0.6| = 0.51, |log 1.6| = 0.47
    assert found.worst("pcoc").value == pytest.approx(0.6)
    assert found.macro("pcoc") == pytest.approx((0.6 + 1 + 1.6) / 3)
    assert found.worst("ece")[:2] == ("high", "click")
    assert found.macro("ece") == pytest.approx((0.2 + 0 + 0.3) / 3)


def test_a_pcoc_of_0_is_the_worst_there_is():
    scores = np.repeat([0.0, 1.0], 10)[:, None]
    labels = np.concatenate([np.tile([0, 1], 5), np.repeat([0, 1], [9, 1])])[:, None]
    found = evaluate_cells(scores, labels, np.repeat([1, 2], 10), None, ["none", "ten"], ["click"], "click")
    assert found.worst("pcoc") == ("none", "click", 0.0)


def test_what_the_version_before_wrote_is_read_and_lacks_both():
    random = np.random.default_rng(0)
    scores = random.random((50, 1))
    labels = (random.random((50, 1)) < scores).astype(float)
    written = evaluate_cells(scores, labels, np.ones(50, int), None, ["all"], ["click"], "click").to_dict()
    for cell in (written["pooled"]["click"], written["cells"]["all"]["click"]):
        del cell["ece"], cell["pcoc"]
    found = Evaluation.from_dict(written)
    assert found.pooled["click"].auc == written["pooled"]["click"]["auc"]
    assert (found.pooled["click"].value("ece"), found.macro("pcoc"), found.worst("ece")) == (None, None, None)
    assert not any(key.startswith(("ece", "pcoc")) for key in found.flat())
    assert Evaluation.from_dict(found.to_dict()) == found


def test_a_value_that_is_no_metric_is_refused():
    cell = _one([0.2, 0.8], [0, 1])
    with pytest.raises(KeyError, match="acu"):
        cell.value("acu")
    written = {"rows": 2, "positives": 1, "auc": 0.5, "speed": 3.0}
    with pytest.raises(TypeError, match="'speed' is no metric"):
        type(cell).from_dict(written)
