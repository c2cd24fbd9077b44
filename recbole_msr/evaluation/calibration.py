"""Calibrated probabilities: a map of each task's, or each cell's, probabilities, fitted on validation rows.

- temperature: p -> sigmoid(logit(p) / t), with the t > 0 that has the least log loss (Guo et al., On Calibration of
  Modern Neural Networks, ICML 2017, section 4.2).
- isotonic: the rising step function with the least squared error, straight lines between its steps (Zadrozny and Elkan,
  Transforming Classifier Scores into Accurate Multiclass Probability Estimates, KDD 2002). With N rows it stays within
  1 / (N + 2) of 0 and 1: a step of positives alone does not make what is above it certain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from recbole_msr.evaluation.layout import Layout
from recbole_msr.schema import MISSING_LABEL

FEWEST_ROWS = 100
"""Labelled validation rows that a map needs."""
FEWEST_OF_A_CLASS = 10
"""Rows of each class that a map needs."""
EPSILON = 1e-7
"""Probabilities are kept so far from 0 and 1 before their logit is taken."""
_LOG_TEMPERATURES = (-4.0, 4.0)


class Map(Protocol):
    """A map of probabilities."""

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities of the same shape."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can have it."""
        ...


@dataclass(frozen=True)
class Temperature:
    """p -> sigmoid(logit(p) / t).

    Attributes:
        t: the temperature, above 0; above 1 it draws probabilities towards 0.5.
    """

    t: float

    @classmethod
    def fit(cls, probabilities: np.ndarray, labels: np.ndarray) -> Temperature:
        """Find the temperature with the least log loss.

        Args:
            probabilities: (N,).
            labels: (N,) of 0 and 1, both of them there.
        """
        from scipy.optimize import minimize_scalar

        logits, signs = _logit(probabilities), 2.0 * labels - 1.0

        def loss(log_t: float) -> float:
            return float(np.logaddexp(0.0, -signs * logits / math.exp(log_t)).mean())

        return cls(math.exp(float(minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded").x)))

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities."""
        return 1.0 / (1.0 + np.exp(-_logit(probabilities) / self.t))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can have it."""
        return {"t": self.t}


@dataclass(frozen=True)
class Isotonic:
    """Straight lines between points; constant outside of them.

    Attributes:
        x: probabilities before, rising.
        y: probabilities after, not falling; as many.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]

    @classmethod
    def fit(cls, probabilities: np.ndarray, labels: np.ndarray) -> Isotonic:
        """Fit the rising function with the least squared error.

        Args:
            probabilities: (N,).
            labels: (N,) of 0 and 1.
        """
        from sklearn.isotonic import IsotonicRegression

        least = 1.0 / (len(labels) + 2)
        fitted = IsotonicRegression(y_min=least, y_max=1.0 - least).fit(probabilities, labels)
        return cls(tuple(map(float, fitted.X_thresholds_)), tuple(map(float, fitted.y_thresholds_)))

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities."""
        found: np.ndarray = np.interp(probabilities, self.x, self.y)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can have it."""
        return {"x": list(self.x), "y": list(self.y)}


_MAPS: dict[str, type[Temperature] | type[Isotonic]] = {"temperature": Temperature, "isotonic": Isotonic}


@dataclass(frozen=True)
class Calibration:
    """The maps of a run's tasks.

    Attributes:
        method: temperature or isotonic.
        by: "task", or "cell": a map of its own for every scenario x task that has rows enough.
        columns: task -> number of its column of the scores, of the tasks with maps.
        scenarios: the scenarios, in their order.
        maps: task -> scenario, or "" for all rows -> map. A task without any stays as it is.
        left_out: what has no map of its own, and why.
    """

    method: str
    by: str
    columns: Mapping[str, int]
    scenarios: tuple[str, ...]
    maps: Mapping[str, Mapping[str, Map]]
    left_out: tuple[str, ...] = ()

    @classmethod
    def fit(
        cls,
        method: str,
        by: str,
        scores: np.ndarray,
        labels: np.ndarray,
        scenario: np.ndarray,
        layout: Layout,
        scenarios: Sequence[str],
    ) -> Calibration:
        """Fit the maps on validation rows.

        Args:
            method: temperature or isotonic.
            by: task or cell.
            scores: (N, C) predictions.
            labels: (N, T) of 0, 1, and `MISSING_LABEL`; of tasks that are not binary something else.
            scenario: (N,) numbers 1..M of the scenarios; 0 for an unknown one.
            layout: the T tasks and their columns; only probabilities of binary tasks are calibrated.
            scenarios: names of the M scenarios.
        """
        maps: dict[str, dict[str, Map]] = {}
        left_out: list[str] = []
        columns = {task: part.start for task, part in layout.columns.items()}
        for place, (task, kind) in enumerate(layout.types.items()):
            if kind != "binary":
                left_out.append(f"{task}: only tasks of 0 and 1 are calibrated")
                continue
            labelled = labels[:, place] != MISSING_LABEL
            units = {"": labelled}
            if by == "cell":
                units |= {name: labelled & (scenario == number) for number, name in enumerate(scenarios, start=1)}
            for name, rows in units.items():
                p, y = scores[rows, columns[task]].astype(np.float64), labels[rows, place].astype(np.float64)
                reason = _too_few(y)
                if reason is None:
                    maps.setdefault(task, {})[name] = _MAPS[method].fit(p, y)
                else:
                    left_out.append(f"{f'{name}, ' if name else ''}{task}: {reason}")
        kept = {task: columns[task] for task in maps}
        return cls(method, by, kept, tuple(scenarios), maps, tuple(left_out))

    def __call__(self, scores: np.ndarray, scenario: np.ndarray) -> np.ndarray:
        """Return calibrated scores.

        Args:
            scores: (N, C), as the model predicts them.
            scenario: (N,) numbers of the scenarios; a row of an unknown one is mapped as the whole task.

        Returns:
            (N, C), of the same type.
        """
        found = scores.copy()
        for task, own in self.maps.items():
            column = self.columns[task]
            if "" in own:
                found[:, column] = own[""](scores[:, column].astype(np.float64))
            for place, name in enumerate(self.scenarios, start=1):
                if name in own:
                    rows = scenario == place
                    found[rows, column] = own[name](scores[rows, column].astype(np.float64))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can have it."""
        return {
            "method": self.method,
            "by": self.by,
            "columns": dict(self.columns),
            "scenarios": list(self.scenarios),
            "maps": {task: {name: one.to_dict() for name, one in own.items()} for task, own in self.maps.items()},
            "left_out": list(self.left_out),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Calibration:
        """Return what `to_dict` wrote.

        Raises:
            ValueError: it is something else.
        """
        kind = _MAPS.get(plain["method"])
        if kind is None or plain["by"] not in ("task", "cell"):
            raise ValueError(f"there is no calibration '{plain['method']}' by '{plain['by']}'")
        maps: dict[str, dict[str, Map]] = {}
        for task, own in plain["maps"].items():
            for name, fitted in own.items():
                maps.setdefault(task, {})[name] = _read_map(kind, fitted)
        return cls(
            plain["method"],
            plain["by"],
            {task: int(plain["columns"][task]) for task in maps},
            tuple(plain["scenarios"]),
            maps,
            tuple(plain["left_out"]),
        )


def _read_map(kind: type[Temperature] | type[Isotonic], fitted: Mapping[str, Any]) -> Map:
    if kind is Temperature:
        t = float(fitted["t"])
        if not (math.isfinite(t) and t > 0):
            raise ValueError(f"a temperature is above 0, got {t}")
        return Temperature(t)
    x, y = (tuple(map(float, fitted[name])) for name in ("x", "y"))
    rising = all(a < b for a, b in pairwise(x)) and all(a <= b for a, b in pairwise(y))
    if len(x) != len(y) or not x or not rising or not all(0 <= value <= 1 for value in y):
        raise ValueError("points of an isotonic map rise, from 0 to 1")
    return Isotonic(x, y)


def _too_few(labels: np.ndarray) -> str | None:
    """Return why no map can be fitted to these labels; None if one can."""
    positives = int(labels.sum())
    if len(labels) < FEWEST_ROWS:
        return f"{len(labels)} validation rows, and {FEWEST_ROWS} are needed"
    fewest = min(positives, len(labels) - positives)
    if fewest < FEWEST_OF_A_CLASS:
        return f"{fewest} validation rows of a class, and {FEWEST_OF_A_CLASS} are needed"
    return None


def _logit(probabilities: np.ndarray) -> np.ndarray:
    p = np.clip(probabilities, EPSILON, 1 - EPSILON)
    found: np.ndarray = np.log(p) - np.log1p(-p)
    return found
