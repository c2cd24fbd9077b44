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


def grouped_auc(groups: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> GroupedAUC:
    r"""AUC of each group's rows, all groups in one sort.

    With P positives and N negatives, the chance that a positive scores above a negative, ties counted half
    (Mann-Whitney, the same as the area by average ranks):

    .. math:: AUC = \frac{\sum_{i:\,y_i=1} 2 \cdot \#\{j: y_j=0, s_j<s_i\} + \#\{j: y_j=0, s_j=s_i\}}{2 P N}

    Numerator and denominator are exact integers, so the value does not depend on the order of the rows, hence
    not on how many processes they were gathered from.

    Args:
        groups: (N,), anything that sorts.
        scores: (N,), no NaN. Where the same scores are grouped several ways, give their `ranks`: faster.
        labels: (N,), 0 or 1.
    """
    group_code, group = _codes(groups)
    score_code, score = _codes(scores)
    positive = np.asarray(labels) == 1
    if not len(positive):
        return GroupedAUC(group, np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))

    # (group, score, label) as one number: sorting numbers is several times faster than sorting rows by them.
    # Both codes are below N, so it fits into 63 bits up to two thousand million rows.
    key = np.sort((group_code * len(score) + score_code) * 2 + positive)
    positive = key & 1
    key >>= 1

    first = _starts(key)  # of each run of rows with the same group and the same score
    run_group = key[first] // len(score)
    run_rows = np.diff(first, append=len(key))
    run_positives = np.add.reduceat(positive, first)
    run_negatives = run_rows - run_positives

    first = _starts(run_group)  # of each group's runs
    rows = np.add.reduceat(run_rows, first)
    positives = np.add.reduceat(run_positives, first)
    negatives = rows - positives

    below = np.cumsum(run_negatives) - run_negatives
    below -= np.repeat(below[first], np.diff(first, append=len(below)))
    wins = np.add.reduceat(run_positives * (2 * below + run_negatives), first)
    auc = np.full(len(rows), np.nan)
    np.divide(wins, 2 * positives * negatives, out=auc, where=(positives > 0) & (negatives > 0))
    return GroupedAUC(group[run_group[first]], auc, rows, positives)


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
    scores = np.clip(np.asarray(scores, dtype=np.float64), 1e-15, 1 - 1e-15)
    return -labels * np.log(scores) - (1 - labels) * np.log(1 - scores)


def _starts(ordered: np.ndarray) -> np.ndarray:
    """The first position of each run of equal values."""
    return np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))


def _codes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes (N,) that order as `values` do, and what each code stands for: no more of these than rows."""
    values = np.asarray(values)
    if len(values) and values.dtype.kind in "iu":
        low, high = int(values.min()), int(values.max())
        if high - low < len(values):  # small integers already are codes; np.unique would sort them for nothing
            return values.astype(np.int64) - low, np.arange(low, high + 1)
    distinct, codes = np.unique(values, return_inverse=True)
    return codes.reshape(-1), distinct
