"""The formulas of the evaluation: AUC of many groups at once, GAUC, LogLoss. NumPy only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class GroupedAUC(NamedTuple):
    """AUC of each group that has rows; every array has shape (G,), in ascending order of `group`."""

    group: np.ndarray
    """The groups, as they were given."""
    auc: np.ndarray
    """float64, NaN where a group has only one class."""
    rows: np.ndarray
    positives: np.ndarray


class ScoredRows:
    r"""Rows sorted by their scores, once; the AUC of any grouping of them is then counted without sorting again.

    With P positives and N negatives, the chance that a positive scores above a negative, ties counted half
    (Mann-Whitney, the same as the area by average ranks):

    .. math:: AUC = \frac{\sum_{i:\,y_i=1} 2 \cdot \#\{j: y_j=0, s_j<s_i\} + \#\{j: y_j=0, s_j=s_i\}}{2 P N}

    Numerator and denominator are exact integers, so the value does not depend on the order of the rows, hence
    not on how many processes they were gathered from.

    Args:
        scores: (N,), no NaN.
        labels: (N,), 0 or 1.
    """

    def __init__(self, scores: np.ndarray, labels: np.ndarray) -> None:
        key = _sortable(np.asarray(scores))
        self._order = _stable_order(key)
        # A row's place among the different scores, and 1 for a negative in the last bit: looked up together.
        narrow = np.int32 if len(key) < 2**30 else np.int64
        self._rows = np.cumsum(_changes(key[self._order]), dtype=narrow) * 2 + (np.asarray(labels) != 1)[self._order]

    def auc(self, groups: np.ndarray | None = None) -> GroupedAUC:
        """AUC of each group's rows.

        Args:
            groups: (N,) integers from 0; None for all rows as one group, 0.
        """
        if not len(self._order):
            return GroupedAUC(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))
        rows, group, starts = self._rows, np.zeros(1, np.int64), np.zeros(1, np.int64)
        if groups is not None:
            if groups.max() < 2**16:
                groups = groups.astype(np.uint16)
            by_score = groups[self._order]
            order = _stable_order(by_score)  # by group, and in each group still by score
            rows, by_group = rows[order], by_score[order]
            starts = np.flatnonzero(_changes(by_group))
            group = by_group[starts].astype(np.int64)

        # Runs are rows of one group with one score. `below` has the negatives before each run, of all groups.
        edge = np.ones(len(rows) + 1, dtype=bool)
        edge[:-1] = _changes(rows >> 1)
        edge[starts] = True
        edges = np.flatnonzero(edge)
        below = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(rows & 1, out=below[1:])
        if len(edges) < len(below):  # some scores are equal
            below = below[edges]
        positives_of_run = np.diff(edges)
        positives_of_run -= np.diff(below)
        runs = np.searchsorted(edges, starts)  # the first of each group

        count = np.diff(starts, append=len(rows))
        positives = np.add.reduceat(positives_of_run, runs)
        before = below[runs]
        negatives = np.diff(before, append=below[-1])
        positives_of_run *= below[:-1] + below[1:]
        wins = np.add.reduceat(positives_of_run, runs) - 2 * positives * before
        auc = np.full(len(count), np.nan)
        np.divide(wins, 2 * positives * negatives, out=auc, where=(positives > 0) & (negatives > 0))
        return GroupedAUC(group, auc, count, positives)


def grouped_auc(groups: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> GroupedAUC:
    """AUC of each group's rows, as `ScoredRows` counts it.

    Args:
        groups: (N,), anything that sorts.
        scores: (N,), no NaN.
        labels: (N,), 0 or 1.
    """
    code, group = _codes(groups)
    found = ScoredRows(scores, labels).auc(code)
    return found._replace(group=group[found.group])


def ranks(values: np.ndarray) -> np.ndarray:
    """Integers 0..N-1 that order as `values` do, equal for equal values; shape (N,)."""
    return _codes(values)[0]


def weighted_mean_auc(users: GroupedAUC) -> float | None:
    r"""GAUC, the mean of the users' AUC weighted by their rows; None where no user has both classes.

    .. math:: GAUC = \frac{\sum_u n_u \cdot AUC_u}{\sum_u n_u}

    over the users with a positive and a negative, :math:`n_u` being all rows of the user (Zhou et al., "Deep
    Interest Network for Click-Through Rate Prediction", KDD 2018, section "Metrics").
    """
    both = ~np.isnan(users.auc)
    return float(np.average(users.auc[both], weights=users.rows[both])) if both.any() else None


def log_losses(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Each row's cross-entropy (N,), float64.

    Their mean is RecBole's `LogLoss`, its clipping of scores to [1e-15, 1 - 1e-15] included.
    """
    losses = np.array(scores, dtype=np.float64)
    np.clip(losses, 1e-15, 1 - 1e-15, out=losses)
    np.subtract(1, losses, out=losses, where=np.asarray(labels) != 1)
    np.log(losses, out=losses)
    return np.negative(losses, out=losses)


def _changes(ordered: np.ndarray) -> np.ndarray:
    """Where (N,) a run of equal values begins."""
    begins = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=begins[1:])
    return begins


def _sortable(values: np.ndarray) -> np.ndarray:
    """Unsigned integers (N,) that order as `values` do and are equal where these are."""
    if values.dtype.kind in "iu" and len(values):
        return values.astype(np.uint64) - np.uint64(int(values.min()) % 2**64)  # exact: it wraps around twice
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    if values.dtype not in (np.float32, np.float64):
        return _codes(values)[0].astype(np.uint64)
    # IEEE numbers order as their bits do, once those of negative numbers are flipped and the others' sign bit is set
    # (that of -0.0 stays: it equals 0.0).
    size = values.dtype.itemsize * 8
    bits = values.view(f"u{size // 8}")
    sign = bits.dtype.type(1 << (size - 1))
    if not len(bits) or bits.max() < sign:
        return bits
    return np.where(bits > sign, ~bits, bits | sign)


def _stable_order(key: np.ndarray) -> np.ndarray:
    """What puts non-negative integers (N,) in order, equal ones as they stood.

    Sixteen bits at a time, for which NumPy has a radix sort: several times faster than sorting floats or long integers.
    """
    bits = int(key.max()).bit_length() if len(key) else 0
    order = None
    for shift in range(0, max(bits, 1), 16):
        digits = (key >> key.dtype.type(shift)).astype(np.uint16)  # the cast drops the higher bits
        step = np.argsort(digits if order is None else digits[order], kind="stable")
        order = step if order is None else order[step]
    assert order is not None
    return order


def _codes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes (N,) that order as `values` do, and what each code stands for: no more of these than rows."""
    values = np.asarray(values)
    if len(values) and values.dtype.kind in "iu":
        low, high = int(values.min()), int(values.max())
        if high - low < len(values):  # small integers already are codes; np.unique would sort them for nothing
            return values.astype(np.int64) - low, np.arange(low, high + 1)
    distinct, codes = np.unique(values, return_inverse=True)
    return codes.reshape(-1), distinct
