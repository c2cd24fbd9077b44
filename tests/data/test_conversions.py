"""Purchases without their click: told with their number, or refused."""

import numpy as np
import pytest

from recbole_msr.data.conversions import check_conversions
from recbole_msr.errors import InputError
from recbole_msr.schema import Schema

LABELS = {"label_click": np.array([0.0, 1, 0, -1, 1, 0]), "label_buy": np.array([0.0, 1, 1, 1, -1, 1])}
"""Rows 3 and 6 have a purchase without a click; of row 4 nobody knows whether there was one."""


def _place(row):
    return f"toy.inter, line {row + 2}"


def _schema(**buy):
    return Schema.from_config({"tasks": {"buy": {"field": "bought", "after": "click", **buy}, "click": "clicked"}})


def test_a_conversion_without_its_click_is_told_with_the_count():
    (warning,) = check_conversions(_schema(), LABELS, _place)
    assert warning.startswith("toy.inter, line 4: task 'buy' has label 1 although task 'click', which it comes after")
    assert "(2 such rows, of 4 with label 1 of 'buy')" in warning


def test_strict_refuses_a_conversion_without_its_click():
    with pytest.raises(InputError, match=r"\(2 such rows, of 4 .*strict: true refuses"):
        check_conversions(_schema(strict=True), LABELS, _place)


def test_nothing_is_told_where_every_conversion_has_its_click():
    labels = {"label_click": np.array([0.0, 1, 1]), "label_buy": np.array([0.0, 1, 0])}
    assert check_conversions(_schema(strict=True), labels, _place) == []
