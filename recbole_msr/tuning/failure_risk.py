"""How likely a point of the space is to fail, by the trials that have failed and those that have not."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

FEWEST_FAILURES = 3
"""With fewer failed trials nothing is said."""
_WEIGHT = 30.0  # of the data against the penalty: the inverse strength of regularisation


class FailureRisk:
    """A logistic regression of failure on the parameters.

    What makes trials fail is mostly too much of something, or of a product: a rate, or a memory that grows with widths
    times the batch. In parameters scaled to their range, logarithmic where the space has them so, its border is close
    to a plane.

    Args:
        trials: the trials of one model, or of all, as a sampler is shown them or not.
        has_failed: whether a trial has failed by itself.
    """

    def __init__(self, trials: Sequence[FrozenTrial], has_failed: Callable[[FrozenTrial], bool]) -> None:
        self._classifier: Any = None
        failed = [trial for trial in trials if has_failed(trial)]
        well = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        if len(failed) < FEWEST_FAILURES or not well:
            return
        from sklearn.linear_model import LogisticRegression

        rows = [_features(trial.params, trial.distributions) for trial in [*failed, *well]]
        self._names = sorted({name for row in rows for name in row})
        labels = [1] * len(failed) + [0] * len(well)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a fit that has not quite converged will do
            self._classifier = LogisticRegression(C=_WEIGHT, max_iter=200).fit(self._table(rows), labels)

    def __call__(self, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> float:
        """Return the probability that a point fails, from 0 to 1; 0 where too few trials have failed.

        Args:
            params: its parameters.
            distributions: of the same names.
        """
        if self._classifier is None:
            return 0.0
        return float(self._classifier.predict_proba(self._table([_features(params, distributions)]))[0, 1])

    def _table(self, rows: Sequence[Mapping[str, float]]) -> np.ndarray:
        return np.array([[row.get(name, 0.0) for name in self._names] for row in rows])


def _features(params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> dict[str, float]:
    """Return numbers from -0.5 to 0.5, and 1 for every choice taken; what is absent is 0."""
    row = {}
    for name, value in params.items():
        kind: Any = distributions.get(name)
        if isinstance(kind, CategoricalDistribution):
            row[f"{name}={value}"] = 1.0
        elif kind is not None and kind.low < kind.high:
            scale: Callable[[float], float] = math.log if kind.log else float
            low, high, at = scale(kind.low), scale(kind.high), scale(value)
            row[name] = (at - low) / (high - low) - 0.5
    return row
