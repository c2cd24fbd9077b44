"""The formulas of the evaluation, for many groups of rows at once: AUC, GAUC, LogLoss, ECE, PCOC. NumPy only."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np

ECE_BINS = 15


class GroupedAUC(NamedTuple):
    """AUC of each group that has rows; every array has shape (G,), in ascending order of `group`."""

    group: np.ndarray
    """The groups, as they were given."""
    auc: np.ndarray
    """float64, NaN where a group has only one class."""
    rows: np.ndarray
    positives: np.ndarray


class ScoredRows:
    """Rows sorted by their scores, once; any grouping of them is then measured without sorting by score again.

    Args:
        scores: (N,), no NaN.
        labels: (N,), 0 or 1.
        users: (N,) integers from 0 whose AUC is averaged for GAUC; None leaves GAUC undefined.
    """

    def __init__(self, scores: np.ndarray, labels: np.ndarray, users: np.ndarray | None = None) -> None:
        self.scores, self.labels, self.users = np.asarray(scores), np.asarray(labels), users
        self.order = stable_order(sortable(self.scores))
        self.ordered = self.scores[self.order]
        # A row's place among the different scores, and 1 for a negative in the last bit: looked up together.
        narrow = np.int32 if len(self.order) < 2**30 else np.int64
        self.places = np.cumsum(changes(self.ordered), dtype=narrow) * 2 + (self.labels != 1)[self.order]

    def grouped(self, groups: np.ndarray | None = None) -> ScoredGroups:
        """Sort the rows into groups.

        Args:
            groups: (N,) integers from 0; None for all rows as one group, 0.
        """
        return ScoredGroups(self, groups)

    def auc(self, groups: np.ndarray | None = None) -> GroupedAUC:
        """Return the AUC of each group's rows; `groups` as in `grouped`."""
        found = ScoredGroups(self, groups)
        return GroupedAUC(found.group, found.auc, found.rows, found.positives)

    @cached_property
    def losses(self) -> np.ndarray:
        """Cross-entropy of each row, (N,)."""
        return log_losses(self.scores, self.labels)

    @cached_property
    def user_auc(self) -> GroupedAUC:
        """AUC of each user over all rows."""
        assert self.users is not None
        return self.auc(self.users)


class ScoredGroups:
    r"""Rows in groups, such as the scenarios: what a metric computes one value a group from.

    AUC: with P positives and N negatives, the chance that a positive scores above a negative, ties counted half
    (Mann-Whitney, the same as the area by average ranks):

    .. math:: AUC = \frac{\sum_{i:\,y_i=1} 2 \cdot \#\{j: y_j=0, s_j<s_i\} + \#\{j: y_j=0, s_j=s_i\}}{2 P N}

    Numerator and denominator are exact integers, so the value does not depend on the order of the rows, hence
    not on how many processes they were gathered from.

    Args:
        scored: the rows.
        groups: (N,) integers from 0; None for all rows as one group, 0.

    Attributes:
        group: (G,) the groups that have rows, ascending.
        rows, positives: (G,) their rows, and those with label 1.
        auc: (G,) float64, NaN where a group has only one class.
        starts: (G,) where each group begins in `sorted_scores`.
    """

    def __init__(self, scored: ScoredRows, groups: np.ndarray | None = None) -> None:
        self._scored, self._groups = scored, groups
        self._order: np.ndarray | None = None
        rows = scored.places
        self.group = self.starts = np.zeros(min(1, len(rows)), np.int64)
        if groups is not None and len(rows):
            narrow = groups.astype(np.uint16) if groups.max() < 2**16 else groups
            by_score = narrow[scored.order]
            self._order = stable_order(by_score)  # by group, and in each group still by score
            rows, by_group = rows[self._order], by_score[self._order]
            self.starts = np.flatnonzero(changes(by_group))
            self.group = by_group[self.starts].astype(np.int64)
        self.rows = np.diff(self.starts, append=len(rows))

        # Runs are rows of one group with one score. `below` has the negatives before each run, of all groups.
        edge = np.ones(len(rows) + 1, dtype=bool)
        edge[:-1] = changes(rows >> 1)
        edge[self.starts] = True
        self._edges = edges = np.flatnonzero(edge)
        below = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(rows & 1, out=below[1:])
        if len(edges) < len(below):  # some scores are equal
            below = below[edges]
        self._below = below
        positives_of_run = np.diff(edges)
        positives_of_run -= np.diff(below)
        runs = np.searchsorted(edges, self.starts)  # the first of each group

        self.positives = np.add.reduceat(positives_of_run, runs)
        before = below[runs]
        negatives = np.diff(before, append=below[-1])
        positives_of_run *= below[:-1] + below[1:]
        wins = np.add.reduceat(positives_of_run, runs) - 2 * self.positives * before
        self.auc = np.full(len(self.rows), np.nan)
        both = (self.positives > 0) & (negatives > 0)
        np.divide(wins, 2 * self.positives * negatives, out=self.auc, where=both)

    @property
    def scores(self) -> np.ndarray:
        """Predictions of the rows as they stand, (N,)."""
        return self._scored.scores

    @property
    def labels(self) -> np.ndarray:
        """Labels of the rows as they stand, (N,)."""
        return self._scored.labels

    @property
    def losses(self) -> np.ndarray:
        """Cross-entropy of the rows as they stand, (N,)."""
        return self._scored.losses

    @cached_property
    def sorted_scores(self) -> np.ndarray:
        """Predictions (N,) clipped to [0, 1], by group and in each group ascending."""
        ordered: np.ndarray = self._scored.ordered
        if len(ordered) and (ordered[0] < 0 or ordered[-1] > 1):
            ordered = np.clip(ordered, 0, 1)
        if self._order is not None:
            ordered = ordered[self._order]
        return ordered

    @cached_property
    def bins(self) -> tuple[np.ndarray, np.ndarray]:
        """Sums of predictions and of labels in the 15 bins of each group, both (G, 15); see the ECE."""
        size, longer = np.divmod(self.rows[:, None], ECE_BINS)
        number = np.arange(ECE_BINS + 1)
        edges = self.starts[:, None] + number * size + np.minimum(number, longer)  # (G, 16)
        begins, filled = edges[:, :-1], np.diff(edges) > 0
        predicted = np.zeros(begins.shape)
        predicted[filled] = np.add.reduceat(self.sorted_scores, begins[filled], dtype=np.float64)
        return predicted, np.diff(self.positives_before(edges))

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Return the mean in each group (G,) of a value for each row as it stands (N,)."""
        if self._groups is None or not len(values):
            return np.full(len(self.rows), values.sum()) / self.rows
        return np.bincount(self._groups, values)[self.group] / self.rows

    def positives_before(self, places: np.ndarray) -> np.ndarray:
        """Return the positives of all groups before places in `sorted_scores`, of any shape.

        Rows of one group with equal scores cannot be told apart: each counts with the share of positives among them,
        so that no order of theirs decides.
        """
        run = np.minimum(np.searchsorted(self._edges, places, side="right") - 1, len(self._edges) - 2)
        start, end = self._edges[run], self._edges[run + 1]
        first, last = start - self._below[run], end - self._below[run + 1]
        positives: np.ndarray = first + (places - start) * (last - first) / (end - start)
        return positives

    def user_auc(self) -> list[GroupedAUC] | None:
        """Return the AUC of each user in each of the G groups; None where users are not known."""
        users, groups = self._scored.users, self._groups
        if users is None:
            return None
        by_user = self._scored.user_auc
        if groups is None:
            return [by_user] * len(self.group)
        width = int(users.max(initial=0)) + 1
        only = np.zeros(width, dtype=groups.dtype)
        only[users] = groups
        if (only[users] == groups).all():  # a user's rows are all of one group, and are counted already
            where = only[by_user.group]
            return [GroupedAUC(*(part[where == number] for part in by_user)) for number in self.group]
        # Group by group, and in each user by user: the users of a group stay together.
        found = self._scored.auc(groups * width + users)
        edges = [*np.searchsorted(found.group, self.group * width), len(found.group)]
        return [GroupedAUC(*(part[start:stop] for part in found)) for start, stop in pairwise(edges)]


def auc(groups: ScoredGroups) -> np.ndarray:
    """Return the area under the ROC curve of each group (G,), as `ScoredGroups` counts it; NaN with one class."""
    return groups.auc


def gauc(groups: ScoredGroups) -> np.ndarray:
    """Return the GAUC of each group (G,), see `weighted_mean_auc`; NaN where no user has both classes."""
    users = groups.user_auc()
    values = [None] * len(groups.group) if users is None else [weighted_mean_auc(of_group) for of_group in users]
    return np.array(values, dtype=np.float64)


def log_loss(groups: ScoredGroups) -> np.ndarray:
    """Return the mean cross-entropy of each group (G,), see `log_losses`."""
    return groups.mean(groups.losses)


def expected_calibration_error(groups: ScoredGroups) -> np.ndarray:
    r"""Return the expected calibration error of each group (G,), over 15 bins of equal mass.

    .. math:: ECE = \sum_{b=1}^{15} \frac{n_b}{n} \left| \bar p_b - \bar y_b \right|

    where :math:`\bar p_b` and :math:`\bar y_b` are the mean prediction and the mean label of the :math:`n_b` rows of
    bin b: the rows are sorted by prediction and split into bins as `numpy.array_split` does, whose sizes differ by at
    most one row; with fewer rows than bins every row is a bin. Naeini, Cooper and Hauskrecht, "Obtaining Well
    Calibrated Probabilities Using Bayesian Binning", AAAI 2015; bins of equal mass as in Nixon et al., "Measuring
    Calibration in Deep Learning", CVPR Workshops 2019.

    Equal predictions may fall into neighbouring bins. Which of these rows go where would depend on the order of the
    rows, or favour one label; so each of them counts with the mean label of all of them. A constant prediction has
    |p - mean label|. The value is the same for every order of the rows, to the last digit.
    """
    predicted, positives = groups.bins
    errors: np.ndarray = np.abs(predicted - positives).sum(axis=1) / groups.rows
    return errors


def predicted_over_observed(groups: ScoredGroups) -> np.ndarray:
    r"""Return the PCOC ("predicted click over click") of each group (G,); NaN without a positive.

    .. math:: PCOC = \frac{\frac1n \sum_i p_i}{\frac1n \sum_i y_i}

    It is 1 where as many positives are predicted as there are, and above 1 where too many are predicted: the usual
    calibration of click-through rates, "the ratio of the average estimated CTR and empirical CTR" of He et al.,
    "Practical Lessons from Predicting Clicks on Ads at Facebook", ADKDD 2014. Predictions that are too high for some
    rows and too low for others cancel out: ECE sees them.
    """
    predicted, positives = groups.bins[0].sum(axis=1), groups.positives
    ratios: np.ndarray = np.full(len(predicted), np.nan)
    np.divide(predicted, positives, out=ratios, where=positives > 0)
    return ratios


def grouped_auc(groups: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> GroupedAUC:
    """Return the AUC of each group's rows, as `ScoredGroups` counts it.

    Args:
        groups: (N,), anything that sorts.
        scores: (N,), no NaN.
        labels: (N,), 0 or 1.
    """
    code, group = _codes(groups)
    found = ScoredRows(scores, labels).auc(code)
    return found._replace(group=group[found.group])


def ranks(values: np.ndarray) -> np.ndarray:
    """Return integers 0..N-1 that order as `values` do, equal for equal values; shape (N,)."""
    return _codes(values)[0]


def weighted_mean_auc(users: GroupedAUC) -> float | None:
    r"""Return the GAUC, the mean of the users' AUC weighted by their rows; None where no user has both classes.

    .. math:: GAUC = \frac{\sum_u n_u \cdot AUC_u}{\sum_u n_u}

    over the users with a positive and a negative, :math:`n_u` being all rows of the user (Zhou et al., "Deep
    Interest Network for Click-Through Rate Prediction", KDD 2018, section "Metrics").
    """
    both = ~np.isnan(users.auc)
    return float(np.average(users.auc[both], weights=users.rows[both])) if both.any() else None


def log_losses(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each row's cross-entropy (N,), float64.

    Their mean is RecBole's `LogLoss`, its clipping of scores to [1e-15, 1 - 1e-15] included.
    """
    losses = np.array(scores, dtype=np.float64)
    np.clip(losses, 1e-15, 1 - 1e-15, out=losses)
    np.subtract(1, losses, out=losses, where=np.asarray(labels) != 1)
    np.log(losses, out=losses)
    return np.negative(losses, out=losses)


def log_loss_terms(scores: np.ndarray, labels: np.ndarray) -> tuple[float, tuple[np.ndarray, ...]]:
    """Return the LogLoss and the losses (N,) whose mean it is."""
    losses = log_losses(scores, labels)
    return float(losses.mean()), (losses,)


def auc_terms(scores: np.ndarray, labels: np.ndarray) -> tuple[float, tuple[np.ndarray, ...]]:
    """Return the AUC, and the placement values whose mean it is in each class.

    These are the share of negatives below each positive (P,) and the share of positives above each negative (N - P,);
    ties count half. Counted in integers, so the AUC is that of `grouped_auc` to the last digit.
    """
    positive = np.asarray(labels) == 1
    code = ranks(scores)
    levels = int(code.max()) + 1
    positives = np.bincount(code[positive], minlength=levels)
    negatives = np.bincount(code[~positive], minlength=levels)
    wins = 2 * np.cumsum(negatives) - negatives  # twice: of a positive at this level
    above = np.cumsum(positives[::-1])[::-1]
    losses = 2 * above - positives  # twice: of a negative at this level
    p, n = int(positives.sum()), int(negatives.sum())
    value = int((positives * wins).sum()) / (2 * p * n)
    return value, (wins[code[positive]] / (2 * n), losses[code[~positive]] / (2 * p))


def changes(ordered: np.ndarray) -> np.ndarray:
    """Mark (N,) where a run of equal values begins."""
    begins = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=begins[1:])
    return begins


def sortable(values: np.ndarray) -> np.ndarray:
    """Return unsigned integers (N,) that order as `values` do and are equal where these are."""
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


def stable_order(key: np.ndarray) -> np.ndarray:
    """Return the order (N,) that sorts non-negative integers, equal ones as they stood.

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
    """Return codes (N,) that order as `values` do, and the value of each code; no more codes than rows."""
    values = np.asarray(values)
    if len(values) and values.dtype.kind in "iu":
        low, high = int(values.min()), int(values.max())
        if high - low < len(values):  # small integers already are codes; np.unique would sort them for nothing
            return values.astype(np.int64) - low, np.arange(low, high + 1)
    distinct, codes = np.unique(values, return_inverse=True)
    return codes.reshape(-1), distinct
