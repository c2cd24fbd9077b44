"""Accuracy, cross-entropy and the errors of the expected value of tasks of classes, against loops over rows."""

import math

import numpy as np
import pytest

from recbole_msr.evaluation.cells import Evaluation, evaluate_cells
from recbole_msr.evaluation.layout import Layout
from recbole_msr.evaluation.significance import Rows, differences
from recbole_msr.schema import MISSING_LABEL

TYPES = {"click": "binary", "stars": "ordered", "genre": "classes"}
CLASSES = {"stars": ["1", "2", "5"], "genre": ["b", "a"]}
STARS = [1.0, 2.0, 5.0]


def _made(rows=300, seed=0):
    """Three scenarios and rows of none; columns click, three of stars, two of genre; missing labels."""
    random = np.random.default_rng(seed)
    stars, genre = random.dirichlet([1, 1, 1], rows), random.dirichlet([1, 1], rows)
    scores = np.concatenate([random.random((rows, 1)), stars, genre], axis=1)
    labels = np.stack([random.integers(0, high, rows) for high in (2, 3, 2)], axis=1).astype(np.float32)
    labels[random.random(labels.shape) < 0.1] = MISSING_LABEL
    return scores, labels, random.integers(0, 4, rows), random.integers(0, 40, rows)


def _evaluate(scores, labels, scenario, users=None, **more):
    names = ["a", "b", "c"]
    return evaluate_cells(
        scores, labels, scenario, users, names, list(TYPES), "click", types=TYPES, classes=CLASSES, **more
    )


def _by_hand(probabilities, labels):
    n = len(labels)
    hits = losses = absolute = squares = right = pairs = 0.0
    expected = [sum(p * v for p, v in zip(row, STARS, strict=False)) for row in probabilities]
    for row, label, value in zip(probabilities, labels, expected, strict=True):
        hits += max(range(len(row)), key=lambda k: row[k]) == label
        losses -= math.log(row[int(label)])
        if len(row) == len(STARS):
            absolute += abs(value - STARS[int(label)])
            squares += (value - STARS[int(label)]) ** 2
    for one, label in zip(expected, labels, strict=True):
        for other, other_label in zip(expected, labels, strict=True):
            if label > other_label:
                pairs += 1
                right += one > other
    values = {"accuracy": hits / n, "logloss": losses / n}
    return values | {"mae": absolute / n, "rmse": (squares / n) ** 0.5, "xauc": right / pairs}


def test_every_cell_equals_the_loops():
    scores, labels, scenario, _ = _made()
    found = _evaluate(scores, labels, scenario)
    for task, column, columns in (("stars", 1, slice(1, 4)), ("genre", 2, slice(4, 6))):
        known = labels[:, column] != MISSING_LABEL
        for number, name in enumerate("abc", 1):
            rows = known & (scenario == number)
            expected = _by_hand(scores[rows, columns].tolist(), labels[rows, column].tolist())
            metrics = expected if task == "stars" else ("accuracy", "logloss")
            cell = found.cells[name][task]
            assert cell.values == pytest.approx({metric: expected[metric] for metric in metrics}, rel=1e-9)
            assert (cell.rows, cell.positives, cell.type) == (rows.sum(), None, TYPES[task])


def test_the_mean_label_is_that_of_ordered_classes_alone():
    scores, labels, scenario, _ = _made()
    found = _evaluate(scores, labels, scenario)
    known = labels[:, 1] != MISSING_LABEL
    assert found.pooled["stars"].mean_label == pytest.approx(np.mean([STARS[int(k)] for k in labels[known, 1]]))
    assert found.pooled["genre"].mean_label is None


def test_an_evaluation_is_the_same_after_it_was_written():
    found = _evaluate(*_made())
    assert Evaluation.from_dict(found.to_dict()) == found
    assert set(found.keys()) == set(found.flat())


def test_columns_are_named_by_task_and_class():
    layout = Layout(TYPES, CLASSES)
    assert layout.names == ["click", "stars=1", "stars=2", "stars=5", "genre=b", "genre=a"]
    assert layout.columns == {"click": slice(0, 1), "stars": slice(1, 4), "genre": slice(4, 6)}


def test_a_class_that_is_no_whole_number_is_refused():
    scores, labels, scenario, _ = _made()
    labels[3, 1] = 0.5
    with pytest.raises(ValueError, match="numbers of classes, from 0, or -1"):
        _evaluate(scores, labels, scenario)


def test_differences_are_those_of_the_evaluations_and_find_the_better_model():
    first, labels, scenario, users = _made(rows=900)
    second = first.copy()
    known = labels[:, 1] != MISSING_LABEL
    first[known, 1:4] = 0.7 * first[known, 1:4]
    first[np.flatnonzero(known), 1 + labels[known, 1].astype(int)] += 0.3  # knows something of the label
    rows = Rows(labels, scenario, users, ["a", "b", "c"], list(TYPES), types=TYPES, classes=CLASSES)
    found = differences([rows.measure(first)], [rows.measure(second)])
    one, other = (_evaluate(scores, labels, scenario, users).flat() for scores in (first, second))
    for metric in ("accuracy", "logloss", "mae", "rmse", "xauc"):
        for name in ("stars", "b/stars", "macro"):
            key = f"{metric}/{name}"
            assert found[key].mean == pytest.approx(one[key] - other[key], abs=1e-9)
        assert found[f"{metric}/stars"].p < 1e-3
    assert found["accuracy/genre"].p == 1.0
    assert not {"mae/genre", "auc/stars", "xauc/genre"} & set(found)
