"""How good predictions are in each scenario and task: AUC, GAUC, LogLoss; pooled, macro mean, worst cell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from recbole_msr.evaluation.formulas import GroupedAUC, ScoredRows, log_losses, ranks, weighted_mean_auc
from recbole_msr.evaluation.metrics import METRICS, metric_keys, smaller_is_better
from recbole_msr.schema import MISSING_LABEL, UNKNOWN_SCENARIO, label_field


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
        value: float | None = getattr(self, metric)
        return value


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

    def keys(self) -> list[str]:
        """The names of all values of `flat`, those that are undefined among them."""
        return metric_keys(self.cells, self.pooled)

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
        rows = slice(None) if known.all() else known
        of = _Rows(predictions[rows, column], labels[rows, column], None if user_code is None else user_code[rows])
        pooled[task] = of.together(min_rows=1)
        for name, cell in zip(scenario_names, of.cells(scenario[rows], len(scenario_names), min_rows), strict=True):
            cells[name][task] = cell
    return Evaluation(main_task, pooled, cells)


def of_constant(config: Any, split: Any, task: str | None = None) -> Evaluation:
    """The evaluation of one prediction for all rows: which values it has, any model's has, as labels alone decide it.

    Args:
        config: RecBole's configuration.
        split: a split as a built dataset.
        task: the one that is predicted; None for all of them.
    """
    inter, schema = split.inter_feat, getattr(split, "schema", None)
    if schema is None:
        main = config["LABEL_FIELD"]
        scenarios, tasks, fields = ["all"], [main], [main]
        scenario = np.ones(len(split), dtype=np.int64)
    else:
        main = task or schema.main_task
        scenarios, scenario = split.scenario_names, split.row_scenario(inter).numpy()
        tasks = schema.task_names if task is None else [task]
        fields = [label_field(name) for name in tasks]
    labels = np.stack([inter[field].numpy() for field in fields], axis=1)
    users = inter[split.uid_field].numpy() if split.uid_field in inter else None
    least = config["min_scenario_rows"] or 1
    half = np.full(labels.shape, 0.5)
    return evaluate_cells(half, labels, scenario, users, scenarios, tasks, main, min_rows=least)


def recbole_metrics(cell: Cell, names: Iterable[str], decimals: int) -> dict[str, float]:
    """Those of RecBole's metrics that a cell already knows, as RecBole would report them.

    Args:
        cell: the main task's, of all rows.
        names: RecBole's metrics; of these, `auc` and `logloss` are given.
        decimals: RecBole's `metric_decimal_place`.

    Returns:
        Rounded values; NaN for what is undefined.
    """
    values = {"auc": cell.auc, "logloss": cell.logloss}
    known = {name: values[name] for name in names if name in values}
    # NumPy rounds, and RecBole with it, not quite as Python does.
    return {name: float(round(np.float64(np.nan if one is None else one), decimals)) for name, one in known.items()}


class _Rows:
    """One task's labelled rows; they are sorted, and losses worked out, once for all groupings."""

    def __init__(self, prediction: np.ndarray, label: np.ndarray, user: np.ndarray | None) -> None:
        self._user = user
        self._scored = ScoredRows(prediction, label)
        self._loss = log_losses(prediction, label)
        self._together = self._scored.auc()
        self._by_user = None if user is None else self._scored.auc(user)

    def together(self, min_rows: int) -> Cell:
        """The cell of all rows."""
        if not len(self._loss):
            return _cell(0, None, 0, 0.0, None, min_rows)
        auc, rows, positives = (part.item() for part in self._together[1:])
        # Summed as RecBole sums it (pairwise): the last digits agree.
        return _cell(rows, auc, positives, self._loss.sum(), self._by_user, min_rows)

    def cells(self, scenario: np.ndarray, count: int, min_rows: int) -> list[Cell]:
        """The cells of scenarios 1..count, given each row's scenario."""
        if count == 1 and (scenario == 1).all():
            return [self.together(min_rows)]
        loss = np.bincount(scenario, self._loss, minlength=count + 1)
        by_user = [None] * (count + 1) if self._user is None else self._by_scenario(scenario, count)
        cells = [_cell(0, None, 0, 0.0, None, min_rows)] * (count + 1)
        for number, auc, rows, positives in zip(*(part.tolist() for part in self._scored.auc(scenario)), strict=True):
            cells[number] = _cell(rows, auc, positives, loss[number], by_user[number], min_rows)
        return cells[1:]

    def _by_scenario(self, scenario: np.ndarray, count: int) -> list[GroupedAUC]:
        """The AUC of each user in scenarios 0..count."""
        assert self._user is not None
        assert self._by_user is not None
        width = int(self._user.max(initial=0)) + 1
        only = np.zeros(width, dtype=scenario.dtype)
        only[self._user] = scenario
        if (only[self._user] == scenario).all():  # a user's rows are all of one scenario, and are counted already
            where = only[self._by_user.group]
            return [GroupedAUC(*(part[where == number] for part in self._by_user)) for number in range(count + 1)]
        # Scenario by scenario, and in each user by user: the groups of a scenario stay together.
        users = self._scored.auc(scenario * width + self._user)
        edges = np.searchsorted(users.group, np.arange(count + 2) * width)
        return [GroupedAUC(*(part[start:stop] for part in users)) for start, stop in pairwise(edges)]


def _cell(rows: int, auc: float | None, positives: int, loss: float, by_user: GroupedAUC | None, min_rows: int) -> Cell:
    """A cell from what was counted: its rows, the sum of their losses, and the AUC of each of its users."""
    reason = _why_undefined(rows, positives, min_rows)
    return Cell(
        rows,
        positives,
        auc=auc if reason is None else None,
        gauc=weighted_mean_auc(by_user) if reason is None and by_user is not None else None,
        logloss=float(loss) / rows if rows else None,
        undefined=reason,
    )


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
