"""Purchases without their click: told with their number, or refused."""

import numpy as np
import pytest

from recbole_msr.data.conversions import check_conversions
from recbole_msr.errors import InputError
from recbole_msr.schema import Schema

LABELS = {"label_click": np.array([0.0, 1, 0, -1, 1, 0]), "label_buy": np.array([0.0, 1, 1, 1, -1, 1])}
"""Rows 3 and 6 have a purchase without a click; of row 4 nobody knows whether there was one."""


def _schema(**buy):
    return Schema.from_config({"tasks": {"buy": {"field": "bought", "after": "click", **buy}, "click": "clicked"}})


def test_a_conversion_without_its_click_is_told_with_the_count():
    (warning,) = check_conversions(_schema(), LABELS)
    assert warning.startswith("task 'buy' has label 1 in 2 of 4 rows although task 'click', which it comes after, has")
    assert "the first is interaction 3" in warning


def test_strict_refuses_a_conversion_without_its_click():
    with pytest.raises(InputError, match=r"in 2 of 4 rows.*strict: true refuses"):
        check_conversions(_schema(strict=True), LABELS)


def test_nothing_is_told_where_every_conversion_has_its_click():
    labels = {"label_click": np.array([0.0, 1, 1]), "label_buy": np.array([0.0, 1, 0])}
    assert check_conversions(_schema(strict=True), labels) == []
