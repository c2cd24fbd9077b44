"""The formulas for tasks of classes: accuracy, cross-entropy, and the errors of the expected value. NumPy only."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from recbole_msr.evaluation import formulas
from recbole_msr.evaluation.number_formulas import NumberGroups, PredictedNumbers


class PredictedClasses(PredictedNumbers):
    """Rows with a probability for each class, and the class that was observed.

    Args:
        probabilities: (N, K), no NaN.
        labels: (N,) the number of the class, from 0.
        values: (K,) the numbers that ordered classes stand for; None for classes without order.

    Attributes:
        scores, labels: of ordered classes the expected value and the observed one; of others the likeliest class and
            the observed one.
    """

    def __init__(self, probabilities: np.ndarray, labels: np.ndarray, values: np.ndarray | None = None) -> None:
        self.probabilities, self.places = np.asarray(probabilities), np.asarray(labels).astype(np.int64)
        self.is_ordered = values is not None
        if values is None:
            super().__init__(self.probabilities.argmax(axis=1), self.places)
        else:
            super().__init__(expected_values(self.probabilities, values), values[self.places])

    @cached_property
    def losses(self) -> np.ndarray:
        """Cross-entropy of each row, (N,)."""
        return class_losses(self.probabilities, self.places)

    @cached_property
    def hits(self) -> np.ndarray:
        """1.0 for each row whose likeliest class is the observed one, else 0.0; (N,)."""
        return class_hits(self.probabilities, self.places)

    def grouped(self, groups: np.ndarray | None = None) -> ClassGroups:
        """Sort the rows into groups, as `PredictedNumbers.grouped`."""
        return ClassGroups(self, groups)


class ClassGroups(NumberGroups):
    """Rows with classes in groups, such as the scenarios."""

    def __init__(self, predicted: PredictedClasses, groups: np.ndarray | None = None) -> None:
        super().__init__(predicted, groups)
        self._classes = predicted

    @property
    def is_ordered(self) -> bool:
        """Whether the classes stand for numbers."""
        return self._classes.is_ordered

    @property
    def losses(self) -> np.ndarray:
        """Cross-entropy of the rows as they stand, (N,)."""
        return self._classes.losses

    @property
    def hits(self) -> np.ndarray:
        """1.0 for a row whose likeliest class is the observed one, else 0.0; as they stand, (N,)."""
        return self._classes.hits


def accuracy(groups: ClassGroups) -> np.ndarray:
    """Return the share of rows of each group (G,) whose likeliest class, the first of equals, is the observed one."""
    return groups.mean(groups.hits)


def expected_values(probabilities: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return sum_k p_k v_k (N,), float64, of probabilities (N, K) and the numbers of the classes (K,)."""
    expected: np.ndarray = np.asarray(probabilities, dtype=np.float64) @ values
    return expected


def class_losses(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each row's cross-entropy -log p (N,), p of its class clipped from below to 1e-15 as in RecBole."""
    own = np.take_along_axis(np.asarray(probabilities), labels.astype(np.int64)[:, None], axis=1)[:, 0]
    losses: np.ndarray = -np.log(np.clip(own.astype(np.float64), 1e-15, 1))
    return losses


def class_hits(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return 1.0 for each row whose likeliest class is the observed one, else 0.0; (N,)."""
    hits: np.ndarray = (np.asarray(probabilities).argmax(axis=1) == labels).astype(np.float64)
    return hits


def accuracy_terms(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, tuple[np.ndarray, ...]]:
    """Return the accuracy and the hits (N,) whose mean it is."""
    hits = class_hits(probabilities, labels)
    return float(hits.mean()), (hits,)


def log_loss_terms(scores: np.ndarray, labels: np.ndarray) -> tuple[float, tuple[np.ndarray, ...]]:
    """Return the LogLoss of probabilities (N,) of label 1 or (N, K) of classes, and the losses that it averages."""
    if np.ndim(scores) == 1:
        return formulas.log_loss_terms(scores, labels)
    losses = class_losses(scores, labels)
    return float(losses.mean()), (losses,)
