"""Metrics weighted by the rows, against scikit-learn and against loops over rows and pairs."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, mean_absolute_error, mean_squared_error, roc_auc_score

from recbole_msr.evaluation.cells import Evaluation, evaluate_cells
from recbole_msr.evaluation.significance import Rows, differences

SCENARIOS = ["a", "b", "c"]


def _made(rows=400, seed=0):
    """Scores with many ties, labels, weights with zeros, scenarios, users."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < 0.3).astype(float)
    scores = np.clip(np.round(rng.normal(0.3 + 0.2 * labels, 0.2), 1), 0.05, 0.95)
    weights = rng.choice([0, 0.25, 1, 3.5], rows)
    return scores, labels, weights, rng.integers(1, 4, rows), rng.integers(0, 40, rows)


def _evaluate(scores, labels, weights, scenario, users=None, kind="binary", **more):
    scores = scores.reshape(len(labels), -1)
    types, of_task = {"t": kind}, {} if weights is None else {"t": weights}
    return evaluate_cells(
        scores, labels[:, None], scenario, users, SCENARIOS, ["t"], "t", types=types, weights=of_task, **more
    )


def _auc_by_pairs(scores, labels, weights):
    won = total = 0.0
    for i in np.flatnonzero(labels == 1):
        for j in np.flatnonzero(labels == 0):
            pair = weights[i] * weights[j]
            total += pair
            won += pair * ((scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]))
    return won / total


def test_auc_is_that_of_all_weighted_pairs_in_every_cell():
    scores, labels, weights, scenario, _ = _made()
    found = _evaluate(scores, labels, weights, scenario)
    assert found.pooled["t"].value("weighted_auc") == pytest.approx(_auc_by_pairs(scores, labels, weights), abs=1e-12)
    for number, name in enumerate(SCENARIOS, 1):
        rows = scenario == number
        expected = _auc_by_pairs(scores[rows], labels[rows], weights[rows])
        assert found.cells[name]["t"].value("weighted_auc") == pytest.approx(expected, abs=1e-12)


def test_binary_metrics_are_those_of_scikit_learn():
    scores, labels, weights, scenario, _ = _made(3000)
    cell = _evaluate(scores, labels, weights, scenario).pooled["t"]
    assert cell.value("weighted_auc") == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12)
    assert cell.value("weighted_logloss") == pytest.approx(log_loss(labels, scores, sample_weight=weights), abs=1e-12)
    expected = np.average(scores, weights=weights) / np.average(labels, weights=weights)
    assert cell.value("weighted_pcoc") == pytest.approx(expected, abs=1e-12)


def test_errors_of_numbers_are_those_of_scikit_learn():
    scores, _, weights, scenario, _ = _made()
    labels = np.random.default_rng(1).gamma(1, 0.5, len(scores))
    cell = _evaluate(scores, labels, weights, scenario, kind="number").pooled["t"]
    assert cell.value("weighted_mae") == pytest.approx(mean_absolute_error(labels, scores, sample_weight=weights))
    squared = mean_squared_error(labels, scores, sample_weight=weights)
    assert cell.value("weighted_rmse") == pytest.approx(squared**0.5)


@pytest.mark.parametrize("kind", ["classes", "ordered"])
def test_metrics_of_classes_are_those_of_scikit_learn(kind):
    rng = np.random.default_rng(2)
    probabilities, labels = rng.dirichlet(np.ones(3), 300), rng.integers(0, 3, 300)
    weights, scenario = rng.random(300), rng.integers(1, 4, 300)
    classes = {"t": ["1", "2", "5"]}
    cell = _evaluate(probabilities, labels.astype(float), weights, scenario, kind=kind, classes=classes).pooled["t"]
    hits = accuracy_score(labels, probabilities.argmax(axis=1), sample_weight=weights)
    assert cell.value("weighted_accuracy") == pytest.approx(hits)
    assert cell.value("weighted_logloss") == pytest.approx(log_loss(labels, probabilities, sample_weight=weights))
    if kind == "ordered":
        values = np.array([1, 2, 5])
        expected = mean_absolute_error(values[labels], probabilities @ values, sample_weight=weights)
        assert cell.value("weighted_mae") == pytest.approx(expected)


def test_a_row_of_weight_two_counts_as_two_rows():
    scores, labels, _, scenario, _ = _made()
    twice = np.random.default_rng(3).integers(0, 3, len(scores))
    weighted = _evaluate(scores, labels, twice, scenario).flat()
    copied = _evaluate(*(np.repeat(part, twice) for part in (scores, labels)), None, np.repeat(scenario, twice)).flat()
    for key, value in weighted.items():
        if key.startswith("weighted_"):
            assert value == pytest.approx(copied[key.removeprefix("weighted_")], abs=1e-12), key


def test_the_order_of_rows_changes_no_digit_of_the_auc():
    parts = _made()
    order = np.random.default_rng(4).permutation(len(parts[0]))
    once, again = (_evaluate(*of) for of in (parts[:4], [part[order] for part in parts[:4]]))
    assert [key for key in once.flat() if once.flat()[key] != again.flat()[key] and "auc" in key] == []


def test_macro_and_worst_are_over_the_weighted_cells():
    scores, labels, weights, scenario, _ = _made()
    found = _evaluate(scores, labels, weights, scenario)
    cells = {name: found.cells[name]["t"].value("weighted_auc") for name in SCENARIOS}
    assert found.flat()["weighted_auc/macro"] == pytest.approx(np.mean(list(cells.values())))
    assert found.worst("weighted_auc")[0] == min(cells, key=cells.get)


def test_without_weights_nothing_is_added_and_with_them_nothing_else_changes():
    scores, labels, weights, scenario, users = _made()
    bare = _evaluate(scores, labels, None, scenario, users).flat()
    weighted = _evaluate(scores, labels, weights, scenario, users).flat()
    assert {key: value for key, value in weighted.items() if not key.startswith("weighted_")} == bare
    assert not [key for key in bare if key.startswith("weighted_")]


def test_a_cell_with_no_weight_in_a_class_has_no_weighted_auc_and_counts_in_no_mean_of_it():
    scores, labels, weights, scenario, _ = _made()
    weights[(scenario == 2) & (labels == 1)] = 0
    found = _evaluate(scores, labels, weights, scenario)
    cell = found.cells["b"]["t"]
    assert (cell.value("weighted_auc"), cell.auc is None) == (None, False)
    rest = [found.cells[name]["t"].value("weighted_auc") for name in "ac"]
    assert found.macro("weighted_auc") == pytest.approx(np.mean(rest))


def test_weighted_values_are_kept_by_files():
    found = _evaluate(*_made()[:4])
    assert Evaluation.from_dict(found.to_dict()) == found
    assert {"weighted_auc/macro", "weighted_pcoc/b/t", "weighted_logloss"} < set(found.keys())


def _measured(parts, *scores, weights=None):
    _, labels, _, scenario, users = parts
    weights = {} if weights is None else {"t": weights}
    rows = Rows(labels[:, None], scenario, users, SCENARIOS, ["t"], weights=weights)
    return [rows.measure(of[:, None]) for of in scores]


def test_equal_weights_test_a_difference_as_no_weights_do():
    parts = _made()
    other = _made(seed=5)[0]
    found = differences(*([one] for one in _measured(parts, parts[0], other, weights=np.full(len(other), 7.0))))
    for key, difference in found.items():
        if key.startswith("weighted_"):
            bare = found[key.removeprefix("weighted_")].to_dict()
            assert difference.to_dict() == {name: pytest.approx(value, abs=1e-9) for name, value in bare.items()}


@pytest.mark.parametrize(("metric", "value"), [("auc", _auc_by_pairs), ("logloss", log_loss)])
def test_the_error_of_a_difference_is_that_of_leaving_out_one_user_after_another(metric, value):
    parts = _made(300)
    scores, labels, weights, _, users = parts
    other = np.clip(scores + np.random.default_rng(6).normal(0, 0.2, len(scores)).round(1), 0.05, 0.95)

    def difference(rows):
        if metric == "auc":
            return value(scores[rows], labels[rows], weights[rows]) - value(other[rows], labels[rows], weights[rows])
        return np.subtract(*(value(labels[rows], s[rows], sample_weight=weights[rows]) for s in (scores, other)))

    without = np.array([difference(users != user) for user in np.unique(users)])
    error = ((len(without) - 1) * np.square(without - without.mean()).mean()) ** 0.5
    model, reference = _measured(parts, scores, other, weights=weights)
    found = differences([model], [reference])[f"weighted_{metric}/t"]
    assert found.mean == pytest.approx(difference(np.ones(len(users), dtype=bool)), abs=1e-9)
    assert found.row_error == pytest.approx(error, rel=0.1)


def test_compared_values_are_those_of_the_evaluation():
    parts = _made()
    (measured,) = _measured(parts, parts[0], weights=parts[2])
    found = _evaluate(*parts[:4]).flat()
    for key in ("weighted_auc/t", "weighted_auc/macro", "weighted_logloss/t", "weighted_auc/b/t"):
        assert measured.value(key) == pytest.approx(found[key], abs=1e-12)
