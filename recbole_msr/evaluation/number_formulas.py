"""The formulas for tasks of numbers, for many groups of rows at once: MAE, RMSE, XAUC. NumPy only."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from recbole_msr.evaluation.formulas import changes, sortable, stable_order

_BLOCK = 16
"""Neighbours in rank among which pairs are compared one by one."""


class PredictedNumbers:
    """Rows with a predicted and an observed number.

    Args:
        scores: (N,) predictions, no NaN.
        labels: (N,) observed values, in the same unit.
    """

    def __init__(self, scores: np.ndarray, labels: np.ndarray) -> None:
        self.scores, self.labels = np.asarray(scores), np.asarray(labels)

    @cached_property
    def errors(self) -> np.ndarray:
        """Prediction less observed value, (N,), float64."""
        return self.scores.astype(np.float64) - self.labels.astype(np.float64)

    def grouped(self, groups: np.ndarray | None = None) -> NumberGroups:
        """Sort the rows into groups.

        Args:
            groups: (N,) integers from 0; None for all rows as one group, 0.
        """
        return NumberGroups(self, groups)


class NumberGroups:
    """Rows with numbers in groups, such as the scenarios.

    Args:
        predicted: the rows.
        groups: (N,) integers from 0; None for all rows as one group, 0.

    Attributes:
        group: (G,) the groups that have rows, ascending.
        rows: (G,) their rows.
    """

    def __init__(self, predicted: PredictedNumbers, groups: np.ndarray | None = None) -> None:
        n = len(predicted.labels)
        self._predicted = predicted
        codes = np.zeros(n, dtype=np.int64) if groups is None else np.asarray(groups)
        counts = np.bincount(codes, minlength=0)
        self.group = np.flatnonzero(counts)
        self.rows = counts[self.group]
        self._place = np.zeros(len(counts), dtype=np.int64)
        self._place[self.group] = np.arange(len(self.group))
        self._codes = self._place[codes]

    @property
    def errors(self) -> np.ndarray:
        """Prediction less observed value of the rows as they stand, (N,)."""
        return self._predicted.errors

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Return the mean in each group (G,) of a value for each row as it stands (N,)."""
        return self.sum(values) / self.rows

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Return the sum in each group (G,) of a value for each row as it stands (N,)."""
        if len(self.group) == 1:
            return np.array([values.sum()], dtype=np.float64)
        return np.bincount(self._codes, values, minlength=len(self.group))

    @cached_property
    def mean_label(self) -> np.ndarray:
        """Mean of the observed values of each group, (G,)."""
        return self.mean(self._predicted.labels.astype(np.float64))

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each row (N,) twice the pairs in the right order, ties half, and the pairs; see `pair_counts`."""
        return pair_counts(self._predicted.scores, self._predicted.labels, self._codes)


def mean_absolute_error(groups: NumberGroups) -> np.ndarray:
    """Return the mean absolute error of each group (G,), in the unit of the field."""
    return groups.mean(np.abs(groups.errors))


def root_mean_squared_error(groups: NumberGroups) -> np.ndarray:
    """Return the root of the mean squared error of each group (G,), in the unit of the field."""
    roots: np.ndarray = np.sqrt(groups.mean(np.square(groups.errors)))
    return roots


def ordered_pairs(groups: NumberGroups) -> np.ndarray:
    r"""Return the XAUC of each group (G,): the share of pairs in the right order; NaN where all values are equal.

    .. math:: XAUC = \frac{\#\{i, j: y_i > y_j, s_i > s_j\} + \frac12 \#\{i, j: y_i > y_j, s_i = s_j\}}
                          {\#\{i, j: y_i > y_j\}}

    Zhan et al., "Deconfounding Duration Bias in Watch-time Prediction for Video Recommendation", KDD 2022, section
    "Evaluation metrics", over all pairs instead of a sample of them. Pairs with equal observed values do not count,
    pairs with equal predictions count half, so that it is the AUC where the values are 0 and 1.
    """
    twice_right, pairs = groups.pairs
    right, all_pairs = groups.sum(twice_right), groups.sum(pairs)
    shares: np.ndarray = np.full(len(all_pairs), np.nan)
    np.divide(right, 2 * all_pairs, out=shares, where=all_pairs > 0)
    return shares


def pair_counts(scores: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count, for each row, the pairs with rows of its group that have another label, and those in the right order.

    Args:
        scores: (N,) predictions, no NaN.
        labels: (N,) observed values, no NaN.
        groups: (N,) integers from 0.

    Returns:
        Twice the pairs in the right order, those with equal predictions counted half, and the pairs; both (N,), int64,
        in the order of the rows.
    """
    groups = groups.astype(np.uint16) if groups.max(initial=0) < 2**16 else groups
    by_label = stable_order(sortable(labels))
    order = by_label[stable_order(sortable(scores[by_label]))]
    order = order[stable_order(groups[order])]  # by group, score, label
    group, score, label = groups[order], scores[order], labels[order]
    # Rows in the order of group and label, equal ones as they stand: their places are ranks that differ.
    by_value = stable_order(sortable(label))
    by_value = by_value[stable_order(group[by_value])]
    rank = np.empty(len(order), dtype=np.int64)
    rank[by_value] = np.arange(len(order))

    new_group = changes(group)
    new_score = new_group | changes(score)
    in_group = _run_lengths(new_group)
    same_score = _run_lengths(new_score)
    same_both = _run_lengths(new_score | changes(label))
    same_label = np.empty_like(in_group)
    same_label[by_value] = _run_lengths(changes(group[by_value]) | changes(label[by_value]))

    pairs = in_group - same_label
    tied = same_score - same_both
    twice_right = 2 * (pairs - tied - _inversions(rank)) + tied
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return twice_right[back], pairs[back]


def mae_terms(scores: np.ndarray, labels: np.ndarray) -> tuple[float, tuple[np.ndarray, ...]]:
    """Return the MAE and the absolute errors (N,) whose mean it is."""
    errors = np.abs(PredictedNumbers(scores, labels).errors)
    return float(errors.mean()), (errors,)


def rmse_terms(scores: np.ndarray, labels: np.ndarray) -> tuple[float, tuple[np.ndarray, ...]]:
    """Return the RMSE and terms (N,) whose mean it is: the root's linear part in each squared error (delta method)."""
    squares = np.square(PredictedNumbers(scores, labels).errors)
    value = float(np.sqrt(squares.mean()))
    return value, (np.full(len(squares), value) if value == 0 else value + (squares - value**2) / (2 * value),)


def xauc_terms(scores: np.ndarray, labels: np.ndarray) -> tuple[float, tuple[np.ndarray, ...]]:
    """Return the XAUC and terms (N,) whose mean it is.

    A pair's part is shared by its two rows: with a_i pairs of row i in the right order among b_i, the term is
    XAUC + 2 (a_i - XAUC b_i) / mean b, the first projection of a ratio of two U statistics (Hoeffding, "A class of
    statistics with asymptotically normal distribution", Annals of Mathematical Statistics 1948).
    """
    twice_right, pairs = pair_counts(scores, labels, np.zeros(len(labels), dtype=np.int64))
    value = float(twice_right.sum() / (2 * pairs.sum()))
    return value, (value + (twice_right - 2 * value * pairs) / pairs.mean(),)


def _run_lengths(begins: np.ndarray) -> np.ndarray:
    """Return the length of the run (N,) that each place belongs to; `begins` marks where one begins."""
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=len(begins))
    return np.repeat(lengths, lengths)


def _inversions(rank: np.ndarray) -> np.ndarray:
    """Count, for each place of a permutation (N,), the earlier greater and the later smaller numbers; (N,), int64.

    A radix sort from the highest bit: in each step the numbers that agree in the higher bits stand side by side, as
    many with the bit as without, and the former count the latter behind them. The last `_BLOCK` are compared one by
    one. O(N log N) in whole arrays.
    """
    n = len(rank)
    width = max(_BLOCK, 1 << max(n - 1, 0).bit_length())
    kind = np.int32 if width < 2**31 else np.int64
    numbers: np.ndarray = np.arange(width, dtype=kind)  # those beyond N are in no inversion
    numbers[:n] = rank
    counts = np.zeros_like(numbers)
    while width > _BLOCK:
        half = width // 2
        high = (numbers & half) != 0
        before: np.ndarray = np.cumsum(high, dtype=numbers.dtype).reshape(-1, width)
        before -= before[:, :1] - high.reshape(-1, width)[:, :1]  # high ones up to here, in the block
        behind = half - np.arange(1, width + 1, dtype=numbers.dtype) + before  # low ones after here
        counts += np.where(high.reshape(-1, width), behind, before).reshape(-1)
        numbers, counts = _halved(numbers, high, half), _halved(counts, high, half)
        width = half
    columns, of_column = numbers.reshape(-1, _BLOCK).T.copy(), counts.reshape(-1, _BLOCK).T.copy()
    for first in range(_BLOCK):
        for second in range(first + 1, _BLOCK):
            inverted = columns[first] > columns[second]
            of_column[first] += inverted
            of_column[second] += inverted
    by_number = np.empty(numbers.shape, dtype=np.int64)
    by_number[columns.T.reshape(-1)] = of_column.T.reshape(-1)
    inversions: np.ndarray = by_number[rank]
    return inversions


def _halved(values: np.ndarray, high: np.ndarray, half: int) -> np.ndarray:
    """Move the low half of every block before its high half, each in its order."""
    parts = np.empty((len(values) // (2 * half), 2, half), dtype=values.dtype)
    parts[:, 0] = values[~high].reshape(-1, half)
    parts[:, 1] = values[high].reshape(-1, half)
    return parts.reshape(-1)
