"""Tested differences of a comparison's summary: their marks, and what they say in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_msr.report.tables import MISSING
from recbole_msr.report.terminal_table import SIGNS

Difference = Mapping[str, Any]
"""A difference of two entries as the summary has it: mean, low, high, p, p_adjusted, significant, better, worse, ..."""


def mark_of(difference: Difference | None) -> str | None:
    """Return "better" or "worse" where a difference is significant, else None."""
    if difference is None or not difference["significant"]:
        return None
    return "better" if difference["better"] else "worse" if difference["worse"] else None


def sign_of(difference: Difference | None) -> str:
    """Return ▲ or ▼ where a difference is significant, else nothing."""
    mark = mark_of(difference)
    return SIGNS[mark] if mark else ""


def describe_difference(difference: Difference, against: str) -> str:
    """Return a difference in one line: its size, its interval, its p, and what follows."""
    mark, low, high = mark_of(difference), difference["low"], difference["high"]
    interval = "" if low is None or high is None else f", 95 % interval {low:+.4f} to {high:+.4f}"
    return (
        f"{difference['mean']:+.4f} against {against}{interval}, p adjusted {p_number(difference['p_adjusted'])}: "
        f"{f'significantly {mark}' if mark else 'not significant'}"
    )


def p_number(p: float | None) -> str:
    """Return a p value with three decimals, for a column of them.

    >>> p_number(0.0496), p_number(0.00001)
    ('0.050', '< 0.001')
    """
    return MISSING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_clause(p: float | None) -> str:
    """Return a p value with three digits, for a sentence.

    >>> p_clause(0.04961), p_clause(0.00001)
    ('p = 0.0496', 'p < 0.0001')
    """
    return "p unknown" if p is None else "p < 0.0001" if p < 0.0001 else f"p = {p:.3g}"
