"""How good predictions are in each scenario and task: AUC, GAUC, LogLoss; pooled, macro mean, worst cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from recbole_msr.schema import MISSING_LABEL, UNKNOWN_SCENARIO
from recbole_msr.training.metrics import GroupedAUC, grouped_auc, log_losses, ranks, weighted_mean_auc

METRICS = ("auc", "gauc", "logloss")

_SMALLER = ("logloss", "rmse", "mae", "averagepopularity", "giniindex")  # what RecBole's metrics declare


def smaller_is_better(key: str) -> bool:
    """Whether a smaller value is better, for a key of `Evaluation.flat` or the name of a RecBole metric.

    >>> smaller_is_better("logloss/macro"), smaller_is_better("auc/mae/click"), smaller_is_better("NDCG@10")
    (True, False, False)
    """
    return key.split("/")[0].split("@")[0].lower() in _SMALLER


@dataclass(frozen=True)
class Cell:
    """The metrics of some rows on one task.

    Attributes:
        rows: rows that carry the task's label; all else is about these.
        positives: rows with label 1.
        auc: None where undefined.
        gauc: None where undefined, where no user has both classes, or where users are not known.
        logloss: None only where there are no rows.
        undefined: why the cell has no AUC and counts in no mean; None for a cell that does.
    """

    rows: int
    positives: int
    auc: float | None
    gauc: float | None
    logloss: float | None
    undefined: str | None = None

    def value(self, metric: str) -> float | None:
        return getattr(self, metric)


class Worst(NamedTuple):
    scenario: str
    task: str
    value: float


@dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate_cells`.

    Attributes:
        main_task: the task that RecBole's `auc` and `logloss` are about.
        pooled: task -> metrics over the rows of all scenarios, those of an unknown scenario among them.
        cells: scenario -> task -> metrics.
    """

    main_task: str
    pooled: Mapping[str, Cell]
    cells: Mapping[str, Mapping[str, Cell]]

    @property
    def tasks(self) -> list[str]:
        return list(self.pooled)

    @property
    def undefined(self) -> list[tuple[str, str, str]]:
        """(scenario, task, reason) of each cell that counts in no mean."""
        return [(*name, cell.undefined) for name, cell in self._named() if cell.undefined is not None]

    def macro(self, metric: str, task: str | None = None) -> float | None:
        """Mean of a metric over the defined cells of one task or of all, unweighted; None without any."""
        values = [value for (_, of), value in self._defined(metric) if task in (None, of)]
        return float(np.mean(values)) if values else None

    def worst(self, metric: str = "auc") -> Worst | None:
        """The defined cell with the lowest AUC or GAUC, or the highest LogLoss; the first of equals."""
        pick = max if smaller_is_better(metric) else min
        found = [Worst(*name, value) for name, value in self._defined(metric)]
        return pick(found, key=lambda cell: cell.value) if found else None

    def flat(self) -> dict[str, float]:
        """All values under one name each, for logging and selection; what is undefined is absent.

        For each metric (`auc` here): `auc` (main task, pooled: RecBole's own value), `auc/TASK` (pooled),
        `auc/TASK/macro`, `auc/SCENARIO/TASK`, `auc/macro`, `auc/worst`. The last part of a key tells them
        apart, since no task may be called macro or worst.
        """
        values: dict[str, float | None] = {}
        for metric in METRICS:
            worst = self.worst(metric)
            values[metric] = self.pooled[self.main_task].value(metric)
            values[f"{metric}/macro"] = self.macro(metric)
            values[f"{metric}/worst"] = None if worst is None else worst.value
            for task, cell in self.pooled.items():
                values[f"{metric}/{task}"] = cell.value(metric)
                values[f"{metric}/{task}/macro"] = self.macro(metric, task)
            for (scenario, task), cell in self._named():
                values[f"{metric}/{scenario}/{task}"] = cell.value(metric)
        return {key: value for key, value in values.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types; what follows from the cells is in it too, for other readers."""
        worst = {metric: self.worst(metric) for metric in METRICS}
        return {
            "main_task": self.main_task,
            "pooled": {task: asdict(cell) for task, cell in self.pooled.items()},
            "cells": {
                scenario: {task: asdict(cell) for task, cell in row.items()} for scenario, row in self.cells.items()
            },
            "macro": {metric: self.macro(metric) for metric in METRICS},
            "macro_by_task": {task: {metric: self.macro(metric, task) for metric in METRICS} for task in self.tasks},
            "worst": {metric: None if cell is None else cell._asdict() for metric, cell in worst.items()},
            "undefined": [
                {"scenario": scenario, "task": task, "reason": reason} for scenario, task, reason in self.undefined
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Evaluation:
        """The evaluation that `to_dict` wrote."""
        return cls(
            data["main_task"],
            {task: Cell(**cell) for task, cell in data["pooled"].items()},
            {scenario: {task: Cell(**cell) for task, cell in row.items()} for scenario, row in data["cells"].items()},
        )

    def _named(self) -> Iterator[tuple[tuple[str, str], Cell]]:
        for scenario, row in self.cells.items():
            for task, cell in row.items():
                yield (scenario, task), cell

    def _defined(self, metric: str) -> Iterator[tuple[tuple[str, str], float]]:
        for name, cell in self._named():
            value = cell.value(metric)
            if cell.undefined is None and value is not None:
                yield name, value


def evaluate_cells(
    predictions: np.ndarray,
    labels: np.ndarray,
    scenario: np.ndarray,
    users: np.ndarray | None,
    scenario_names: Sequence[str],
    task_names: Sequence[str],
    main_task: str,
    min_rows: int = 2,
) -> Evaluation:
    """AUC, GAUC and LogLoss of every scenario x task, and of each task over all rows.

    A cell is undefined (no AUC, no GAUC, counted in no mean and never the worst) where it has no rows, one
    class, or fewer than `min_rows` rows; its LogLoss is still given where it has rows. Means of all metrics
    are thus over the same cells, save that GAUC also needs a user with both classes. Pooled values ask for no
    `min_rows`.

    Args:
        predictions: (N, T) probabilities; as in RecBole, LogLoss clips what lies outside [0, 1].
        labels: (N, T) of 0, 1, or `MISSING_LABEL` for a row that does not count for the task.
        scenario: (N,) integers 1..M in the order of `scenario_names`; rows with 0 (unknown) count in no cell.
        users: (N,) whose AUC is averaged for GAUC; None leaves GAUC out.
        min_rows: 2, the fewest an AUC can have, drops no cell unasked; raise it where an AUC of a handful of
            rows would decide the worst cell.

    Raises:
        FloatingPointError: a prediction is NaN.
        ValueError: the arguments do not fit each other.
    """
    predictions, labels, scenario = np.asarray(predictions), np.asarray(labels), np.asarray(scenario)
    user_code = None if users is None else ranks(users)
    _check(predictions, labels, scenario, user_code, scenario_names, task_names, main_task)
    scenario = scenario.astype(np.int64)

    pooled: dict[str, Cell] = {}
    cells: dict[str, dict[str, Cell]] = {name: {} for name in scenario_names}
    for column, task in enumerate(task_names):
        known = labels[:, column] != MISSING_LABEL
        of = _Rows(predictions[known, column], labels[known, column], None if user_code is None else user_code[known])
        everywhere = np.full(len(of.label), UNKNOWN_SCENARIO + 1)
        pooled[task] = of.cells(everywhere, 1, min_rows=1)[0]
        for name, cell in zip(scenario_names, of.cells(scenario[known], len(scenario_names), min_rows), strict=True):
            cells[name][task] = cell
    return Evaluation(main_task, pooled, cells)


class _Rows:
    """One task's labelled rows; ranks and losses are worked out once for all groupings."""

    def __init__(self, prediction: np.ndarray, label: np.ndarray, user: np.ndarray | None) -> None:
        self.label, self.user = label, user
        self.rank = ranks(prediction)
        self.loss = log_losses(prediction, label)

    def cells(self, scenario: np.ndarray, count: int, min_rows: int) -> list[Cell]:
        """The cells of scenarios 1..count, given each row's scenario."""
        by_scenario = grouped_auc(scenario, self.rank, self.label)
        # A lone group is summed as RecBole sums it (pairwise): the last digits agree.
        loss = [0.0, self.loss.sum()] if count == 1 and (scenario == 1).all() else np.bincount(scenario, self.loss)
        gauc = self._gauc(scenario, count)
        found = {}
        for number, auc, rows, positives in zip(*(part.tolist() for part in by_scenario), strict=True):
            reason = _why_undefined(rows, positives, min_rows)
            found[number] = Cell(
                rows,
                positives,
                auc=auc if reason is None else None,
                gauc=gauc[number] if reason is None else None,
                logloss=float(loss[number]) / rows,
                undefined=reason,
            )
        empty = Cell(0, 0, None, None, None, undefined=_why_undefined(0, 0, min_rows))
        return [found.get(number, empty) for number in range(1, count + 1)]

    def _gauc(self, scenario: np.ndarray, count: int) -> list[float | None]:
        if self.user is None:
            return [None] * (count + 1)
        # Scenario by scenario, and in each user by user: the groups of a scenario stay together.
        width = int(self.user.max(initial=0)) + 1
        by_user = grouped_auc(scenario * width + self.user, self.rank, self.label)
        edges = np.searchsorted(by_user.group, np.arange(count + 2) * width)
        return [
            weighted_mean_auc(GroupedAUC(*(part[start:stop] for part in by_user))) for start, stop in pairwise(edges)
        ]


def _why_undefined(rows: int, positives: int, min_rows: int) -> str | None:
    if rows == 0:
        return "no rows"
    if rows < min_rows:
        return f"{rows} row{'s' if rows > 1 else ''}, fewer than {min_rows}"
    if positives in (0, rows):
        return f"one class: all {int(positives > 0)}"
    return None


def _check(
    predictions: np.ndarray,
    labels: np.ndarray,
    scenario: np.ndarray,
    users: np.ndarray | None,
    scenario_names: Sequence[str],
    task_names: Sequence[str],
    main_task: str,
) -> None:
    if predictions.ndim != 2 or predictions.shape != labels.shape or predictions.shape[1] != len(task_names):
        raise ValueError(
            f"predictions and labels must both be (rows, {len(task_names)} tasks), "
            f"got {predictions.shape} and {labels.shape}"
        )
    rows = len(predictions)
    for what, values in (("scenario", scenario), ("users", users)):
        if values is not None and values.shape != (rows,):
            raise ValueError(f"{what} must be ({rows},), one value a prediction, got {values.shape}")
    for what, names in (("scenario", scenario_names), ("task", task_names)):
        if len(set(names)) != len(names):
            raise ValueError(f"{what} names must differ, got {list(names)}")
    if main_task not in task_names:
        raise ValueError(f"main_task '{main_task}' is not among the tasks {list(task_names)}")
    outside = (scenario < UNKNOWN_SCENARIO) | (scenario > len(scenario_names))
    if scenario.dtype.kind not in "iu" or outside.any():
        raise ValueError(
            f"scenario must hold integers from {UNKNOWN_SCENARIO} (unknown) to {len(scenario_names)}, got "
            f"{scenario[outside][0] if outside.any() else scenario.dtype}"
        )
    wrong = (labels != 0) & (labels != 1) & (labels != MISSING_LABEL)
    if wrong.any():
        raise ValueError(f"labels must be 0, 1 or {MISSING_LABEL:g} (missing), got {labels[wrong][0]}")
    nan = np.isnan(predictions)
    if nan.any():
        first, task = np.argwhere(nan)[0]
        raise FloatingPointError(
            f"predictions are NaN in {int(nan.any(axis=1).sum())} of {rows} rows "
            f"(the first is row {first}, task '{task_names[task]}'): the training has diverged"
        )
