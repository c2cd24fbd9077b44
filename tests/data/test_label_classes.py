"""Classes of a task are found or declared, and what cannot be learnt is one line."""

import numpy as np
import pandas as pd
import pytest

from recbole_msr.data.label_classes import check_trained, class_labels, natural_order
from recbole_msr.errors import InputError
from recbole_msr.schema import MISSING_LABEL, Schema


def _task(**spec):
    return Schema.from_config({"tasks": {"t": {"field": "f", "type": "classes", **spec}}}).tasks[0]


@pytest.mark.parametrize(
    ("values", "names", "numbers"),
    [
        ([10.0, 2.0, 2.0, 3.5], ["2", "3.5", "10"], [2, 0, 0, 1]),
        (["b", "a", "b"], ["a", "b"], [1, 0, 1]),
        (pd.Series(["10", "2", "10"], dtype="category"), ["2", "10"], [1, 0, 1]),
    ],
)
def test_classes_are_the_values_in_natural_order(values, names, numbers):
    found, labels = class_labels(_task(), np.asarray(values) if isinstance(values, list) else values.values)
    assert (found, labels.tolist()) == (names, numbers)


def test_declared_classes_keep_their_order():
    names, labels = class_labels(_task(classes=["low", "mid", "high"]), np.array(["high", "low"], dtype=object))
    assert (names, labels.tolist()) == (["low", "mid", "high"], [2, 0])


def test_a_missing_value_is_no_class_where_it_may_be_missing():
    values = np.array([1.0, np.nan, 2.0])
    assert class_labels(_task(missing="ignore"), values)[1].tolist() == [0, MISSING_LABEL, 1]
    with pytest.raises(InputError, match=r"task 't': field 'f' has no value in 1 of 3 rows .* interaction 2"):
        class_labels(_task(), values)


@pytest.mark.parametrize(
    ("spec", "values", "told"),
    [
        ({}, [3.0, 3.0], "field 'f' holds '3' alone: there is nothing to learn"),
        ({}, list(range(101)), "holds 101 different values, more than the 100"),
        ({"ordered": True}, ["1", "high"], "ordered classes, which stand for numbers, and 'high' is none"),
        (
            {"classes": [1, 2, 3]},
            [1.0, 2.0, 4.0, 4.0],
            "holds '4' in 2 rows \\(the first is interaction 3\\), which is none of its classes",
        ),
    ],
)
def test_what_is_no_class_is_refused(spec, values, told):
    with pytest.raises(InputError, match=told):
        class_labels(_task(**spec), np.array(values, dtype=object))


def test_a_class_without_a_training_row_is_refused_and_one_row_is_told():
    task, names = _task(), ["a", "b", "c"]
    assert check_trained(task, names, np.array([0, 1, 1, 2, 2]), np.array([0])) == [
        "task 't': class 'a' has one training row"
    ]
    with pytest.raises(InputError, match="class 'c' has no training row, 2 in validation and test"):
        check_trained(task, names, np.array([0, 1, -1]), np.array([2, 2, 1]))


def test_numbers_are_ordered_as_numbers_and_text_as_text():
    assert natural_order([10, 9.5, "2"]) == ["2", "9.5", "10"]
    assert natural_order(["10", "x", "9"]) == ["10", "9", "x"]
