r"""The formulas of metrics weighted by the rows, for many groups of rows at once. NumPy only.

A row of weight w counts as w rows would: with all weights 1 the values are those without weights, up to rounding, and a
factor on all weights changes nothing. In tests of differences the weights are drawn with the rows: the variance of a
weighted mean, :math:`\bar t = \sum_i w_i t_i / \sum_i w_i`, is that of its linear part, the sum of
:math:`w_i (t_i - \bar t) / \sum_i w_i` (Särndal, Swensson and Wretman, "Model Assisted Survey Sampling", 1992, chapter
5).
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from recbole_msr.evaluation.class_formulas import PredictedClasses, log_loss_terms
from recbole_msr.evaluation.formulas import ScoredRows, changes, ranks, sortable, stable_order
from recbole_msr.evaluation.number_formulas import PredictedNumbers

Terms = tuple[float, tuple[np.ndarray, ...]]


class WeightedGroups:
    """Weighted rows in groups, such as the scenarios; a row of weight 0 counts for nothing.

    Args:
        scored: the rows (N,), as the metrics without weights take them.
        weights: (N,) finite numbers >= 0.
        groups: (N,) integers from 0; None for all rows as one group, 0.

    Attributes:
        scored: the rows.
        group: (G,) the groups that have rows, ascending.
        total: (G,) the sum of their weights.
    """

    def __init__(
        self, scored: ScoredRows | PredictedNumbers, weights: np.ndarray, groups: np.ndarray | None = None
    ) -> None:
        self.scored, self.weights = scored, np.asarray(weights, dtype=np.float64)
        codes = np.zeros(len(self.weights), dtype=np.int64) if groups is None else np.asarray(groups, dtype=np.int64)
        self.group = np.flatnonzero(np.bincount(codes))
        self._codes = np.searchsorted(self.group, codes)
        self.total = self.sum(np.ones_like(self.weights))

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Return the sum of weight times value in each group (G,), of a value for each row (N,)."""
        return np.bincount(self._codes, self.weights * values, minlength=len(self.group))

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Return the weighted mean in each group (G,) of a value for each row (N,); NaN where no row has a weight."""
        return _ratio(self.sum(values), self.total)

    @cached_property
    def auc(self) -> np.ndarray:
        """Weighted AUC of each group (G,), see `weighted_auc`."""
        scores, positive = self.scored.scores, self.scored.labels == 1
        # By group, score, label and weight: rows that are alike in all of these are in no order, so the value is the
        # same for every order of the rows, to the last digit.
        order = stable_order(sortable(self.weights))
        for key in (positive.astype(np.uint16), sortable(scores), self._codes):
            order = order[stable_order(key[order])]
        group, weights, positive = self._codes[order], self.weights[order], positive[order]
        new_group = changes(group)
        runs = np.flatnonzero(new_group | changes(scores[order]))  # rows of one group with one score
        if not len(runs):
            return np.zeros(0)
        positives = np.add.reduceat(np.where(positive, weights, 0), runs)
        negatives = np.add.reduceat(np.where(positive, 0, weights), runs)
        starts = np.flatnonzero(new_group[runs])
        below = np.cumsum(negatives) - negatives  # the negatives before each run, first of all groups
        below -= np.repeat(below[starts], np.diff(starts, append=len(runs)))
        wins = np.add.reduceat(positives * (below + negatives / 2), starts)
        pairs = np.add.reduceat(positives, starts) * np.add.reduceat(negatives, starts)
        areas: np.ndarray = np.clip(_ratio(wins, pairs), 0, 1)
        return areas


def weighted_auc(groups: WeightedGroups) -> np.ndarray:
    r"""Return the weighted AUC of each group (G,); NaN where one of the classes has no weight.

    .. math:: AUC_w = \frac{\sum_{i: y_i=1} \sum_{j: y_j=0} w_i w_j
              \left([s_i > s_j] + \frac12 [s_i = s_j]\right)}{\sum_{i: y_i=1} w_i \sum_{j: y_j=0} w_j}

    It is the area under the ROC curve in which every row counts with its weight, found from one sort.
    """
    return groups.auc


def weighted_log_loss(groups: WeightedGroups) -> np.ndarray:
    """Return the weighted mean cross-entropy of each group (G,)."""
    assert isinstance(groups.scored, (ScoredRows, PredictedClasses))
    return groups.mean(groups.scored.losses)


def weighted_predicted_over_observed(groups: WeightedGroups) -> np.ndarray:
    """Return the sum of weight times prediction over that of weight times label of each group (G,); NaN without any."""
    predicted = np.clip(np.asarray(groups.scored.scores, dtype=np.float64), 0, 1)
    return _ratio(groups.sum(predicted), groups.sum((groups.scored.labels == 1).astype(np.float64)))


def weighted_accuracy(groups: WeightedGroups) -> np.ndarray:
    """Return the share of each group's weight (G,) that rows have whose likeliest class is the observed one."""
    assert isinstance(groups.scored, PredictedClasses)
    return groups.mean(groups.scored.hits)


def weighted_mae(groups: WeightedGroups) -> np.ndarray:
    """Return the weighted mean absolute error of each group (G,), in the unit of the field."""
    assert isinstance(groups.scored, PredictedNumbers)
    return groups.mean(np.abs(groups.scored.errors))


def weighted_rmse(groups: WeightedGroups) -> np.ndarray:
    """Return the root of the weighted mean squared error of each group (G,), in the unit of the field."""
    assert isinstance(groups.scored, PredictedNumbers)
    roots: np.ndarray = np.sqrt(groups.mean(np.square(groups.scored.errors)))
    return roots


def weighted_auc_terms(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Terms:
    """Return the weighted AUC, and the placement values whose weighted mean it is in each class.

    These are the share of the negatives' weight below each positive (P,), and of the positives' weight above each
    negative (N - P,); ties count half.
    """
    positive = np.asarray(labels) == 1
    code = ranks(scores)
    levels = int(code.max()) + 1
    positives = np.bincount(code[positive], weights[positive], minlength=levels)
    negatives = np.bincount(code[~positive], weights[~positive], minlength=levels)
    below = (np.cumsum(negatives) - negatives / 2) / negatives.sum()
    above = (np.cumsum(positives[::-1])[::-1] - positives / 2) / positives.sum()
    return float(positives @ below / positives.sum()), (below[code[positive]], above[code[~positive]])


def weighted_log_loss_terms(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Terms:
    """Return the weighted LogLoss of probabilities (N,) or (N, K), and the losses (N,) whose weighted mean it is."""
    _, (losses,) = log_loss_terms(scores, labels)
    return float(np.average(losses, weights=weights)), (losses,)


def weighted_accuracy_terms(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Terms:
    """Return the weighted accuracy and the hits (N,) whose weighted mean it is."""
    hits = PredictedClasses(probabilities, labels).hits
    return float(np.average(hits, weights=weights)), (hits,)


def weighted_mae_terms(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Terms:
    """Return the weighted MAE and the absolute errors (N,) whose weighted mean it is."""
    errors = np.abs(PredictedNumbers(scores, labels).errors)
    return float(np.average(errors, weights=weights)), (errors,)


def weighted_rmse_terms(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Terms:
    """Return the weighted RMSE and terms (N,) whose weighted mean it is, as `number_formulas.rmse_terms` has them."""
    squares = np.square(PredictedNumbers(scores, labels).errors)
    value = float(np.sqrt(np.average(squares, weights=weights)))
    return value, (np.full(len(squares), value) if value == 0 else value + (squares - value**2) / (2 * value),)


def _ratio(values: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Return values / by (G,), NaN where `by` is 0."""
    ratios: np.ndarray = np.full(len(values), np.nan)
    np.divide(values, by, out=ratios, where=by > 0)
    return ratios
