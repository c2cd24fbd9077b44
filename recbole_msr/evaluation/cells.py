"""The metrics of each scenario and task: cells, pooled values, macro mean, worst cell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from recbole_msr.evaluation.class_formulas import ClassGroups, PredictedClasses
from recbole_msr.evaluation.formulas import ScoredGroups, ScoredRows, ranks
from recbole_msr.evaluation.layout import CLASS_TYPES, Layout
from recbole_msr.evaluation.metrics import METRICS, CellType, metric_keys, metrics_among, metrics_of, mixes_units
from recbole_msr.evaluation.number_formulas import NumberGroups, PredictedNumbers
from recbole_msr.evaluation.ranking import ListGroups, list_values
from recbole_msr.evaluation.ranking_mode import list_metrics
from recbole_msr.evaluation.segments import Segments
from recbole_msr.evaluation.weighted_formulas import WeightedGroups
from recbole_msr.schema import MISSING_LABELS, UNKNOWN_SCENARIO, TaskType, is_conditional, wrong_labels

_COUNTS = ("type", "rows", "positives", "mean_label", "undefined")
"""What a cell has beside its metrics."""


@dataclass(frozen=True)
class Cell:
    """The metrics of some rows on one task.

    Attributes:
        rows: rows that carry the task's label; all else is about these. Of ranked lists, how many there are.
        positives: rows with label 1, and of ranked lists their positives; None for a task of numbers or classes.
        values: metric -> value; None where it is undefined for these rows (`Metric.needs_classes`), as GAUC also is
            where no user has both classes or users are not known. A metric that the writer of a file did not know is
            absent.
        undefined: why the cell counts in no mean (a binary task: why it has no AUC); None for a cell that does.
        type: the task's, or "ranking" of lists ranked by a task's predictions.
        mean_label: mean of the observed values of a task of numbers or ordered classes; None without rows, and for
            other tasks.
    """

    rows: int
    positives: int | None
    values: Mapping[str, float | None]
    undefined: str | None = None
    type: CellType = "binary"
    mean_label: float | None = None

    @property
    def auc(self) -> float | None:
        """Area under the ROC curve."""
        return self.value("auc")

    @property
    def gauc(self) -> float | None:
        """AUC averaged over users."""
        return self.value("gauc")

    @property
    def logloss(self) -> float | None:
        """Mean cross-entropy."""
        return self.value("logloss")

    def value(self, metric: str) -> float | None:
        """Return a metric's value; None where it is undefined, and where the writer of a file did not know it.

        Raises:
            KeyError: there is no such metric.
        """
        return self.values.get(metric) if metric in METRICS else self.values[metric]

    def to_dict(self) -> dict[str, Any]:
        """Return a flat mapping of plain JSON types: `rows`, `positives`, each metric, `undefined`.

        A cell of another than a binary task also has its `type`, and `mean_label` in the place of `positives`; one of
        ranked lists has `type` and `positives`.
        """
        counts: dict[str, Any] = {"rows": self.rows, "positives": self.positives}
        if self.type == "ranking":
            counts = {"type": self.type, **counts}
        elif self.type != "binary":
            counts = {"type": self.type, "rows": self.rows, "mean_label": self.mean_label}
        return {**counts, **self.values, "undefined": self.undefined}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Cell:
        """Return the cell that `to_dict` wrote, this version's or an earlier one's, which had fewer metrics.

        Raises:
            KeyError: it lacks its rows or positives.
            TypeError: it has a key that is no metric.
        """
        kind = data.get("type", "binary")
        values = {key: value for key, value in data.items() if key not in _COUNTS}
        unknown = [key for key in values if key not in METRICS or kind not in METRICS[key].types]
        if unknown:
            raise TypeError(f"'{unknown[0]}' is no metric" + ("" if kind == "binary" else f" of a task of type {kind}"))
        positives = data["positives"] if kind in ("binary", "ranking") else None
        return cls(data["rows"], positives, values, data.get("undefined"), kind, data.get("mean_label"))


class Worst(NamedTuple):
    """The cell with a metric's worst value."""

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
        segments: segment, such as `user_rows:1-5` -> task -> metrics over the rows of all scenarios; in no mean.
    """

    main_task: str
    pooled: Mapping[str, Cell]
    cells: Mapping[str, Mapping[str, Cell]]
    segments: Mapping[str, Mapping[str, Cell]] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks."""
        return list(self.pooled)

    @property
    def types(self) -> dict[str, CellType]:
        """The type of each task's cells."""
        return {task: cell.type for task, cell in self.pooled.items()}

    @property
    def metrics(self) -> list[str]:
        """The metrics that the cells hold: all of this version's, fewer in results of an earlier one."""
        return metrics_among(metric for cell in self.pooled.values() for metric in cell.values)

    @property
    def of_lists(self) -> list[str]:
        """The metrics of ranked lists, such as `ndcg@10`, that the cells hold."""
        return [metric for metric in self.metrics if "ranking" in METRICS[metric].types]

    @property
    def weighted(self) -> list[str]:
        """Names of the tasks that are evaluated by their rows' weights, too."""
        return [task for task, cell in self.pooled.items() if any(METRICS[metric].weighted for metric in cell.values)]

    def tasks_with(self, metric: str) -> list[str]:
        """Return the tasks whose cells can have a metric."""
        of = self.weighted if METRICS[metric].weighted else self.tasks
        return [task for task in of if self.pooled[task].type in METRICS[metric].types]

    @property
    def leading(self) -> str:
        """The metric by which the worst cell is shown: AUC, or the first one of ranked lists."""
        return next(iter(self.of_lists), "auc")

    @property
    def applicable(self) -> list[str]:
        """The metrics that this version computes for tasks of these types; of lists those that it holds."""
        weighted = [self.pooled[task].type for task in self.weighted]
        return [*metrics_of(self.types.values(), weighted), *self.of_lists]

    @property
    def undefined(self) -> list[tuple[str, str, str]]:
        """Scenario, task and reason of each cell that counts in no mean."""
        return [(*name, cell.undefined) for name, cell in _named(self.cells) if cell.undefined is not None]

    @property
    def undefined_segments(self) -> list[tuple[str, str, str]]:
        """Segment, task and reason of each segment's cell that has no AUC, or too few rows."""
        return [(*name, cell.undefined) for name, cell in _named(self.segments) if cell.undefined is not None]

    def macro(self, metric: str, task: str | None = None) -> float | None:
        """Return the unweighted mean of a metric over the defined cells of one task or of all; None without any.

        There is none over all tasks of a metric in the unit of each, such as MAE, where several tasks have it.

        Conditionals, such as "buy|click", are not among all tasks: they say the same as the tasks in another way.

        That of PCOC is a plain mean too: cells above and below 1 cancel out, and the worst cell shows them.
        """
        if task is None and self._mixes_units(metric):
            return None
        values = [v for (_, of), v in self._defined(metric) if of == task or (task is None and not is_conditional(of))]
        return float(np.mean(values)) if values else None

    def worst(self, metric: str = "auc") -> Worst | None:
        """Return the defined cell with the lowest AUC or GAUC, the highest LogLoss or ECE, or the PCOC farthest from 1.

        The distance of PCOC is |log PCOC|: 2 is as far as 1/2. Of equals it is the first. Conditionals do not count.
        As in `macro`, there is none where the values of several tasks are in units of their own.
        """
        if self._mixes_units(metric):
            return None
        cells = [Worst(*name, value) for name, value in self._defined(metric) if not is_conditional(name[1])]
        return max(cells, key=lambda cell: METRICS[metric].badness(cell.value)) if cells else None

    def flat(self) -> dict[str, float]:
        """Return all values under one name each, for logging and selection; what is undefined is absent.

        For each metric (`auc` here): `auc` (main task, pooled: RecBole's own value), `auc/TASK` (pooled),
        `auc/TASK/macro`, `auc/SCENARIO/TASK`, `auc/SEGMENT/TASK`, `auc/macro`, `auc/worst`. The last part of a key
        tells them apart, since no task may be called macro or worst.
        """
        values: dict[str, float | None] = {}
        for metric in self.metrics:
            worst = self.worst(metric)
            values[metric] = self.pooled[self.main_task].value(metric)
            values[f"{metric}/macro"] = self.macro(metric)
            values[f"{metric}/worst"] = None if worst is None else worst.value
            for task, cell in self.pooled.items():
                values[f"{metric}/{task}"] = cell.value(metric)
                values[f"{metric}/{task}/macro"] = self.macro(metric, task)
            for (name, task), cell in [*_named(self.cells), *_named(self.segments)]:
                values[f"{metric}/{name}/{task}"] = cell.value(metric)
        return {key: value for key, value in values.items() if value is not None}

    def keys(self) -> list[str]:
        """Return the names of all values of `flat`, those that are undefined among them."""
        return metric_keys([*self.cells, *self.segments], self.types, self.main_task, self.of_lists, self.weighted)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types; what follows from the cells is in it too, for other readers."""
        metrics = self.applicable
        worst = {metric: self.worst(metric) for metric in metrics}
        segments = {"segments": _to_dicts(self.segments)} if self.segments else {}
        return {
            "main_task": self.main_task,
            "pooled": {task: cell.to_dict() for task, cell in self.pooled.items()},
            "cells": _to_dicts(self.cells),
            **segments,
            "macro": {metric: self.macro(metric) for metric in metrics},
            "macro_by_task": {task: {metric: self.macro(metric, task) for metric in metrics} for task in self.tasks},
            "worst": {metric: None if cell is None else cell._asdict() for metric, cell in worst.items()},
            "undefined": [
                {"scenario": scenario, "task": task, "reason": reason} for scenario, task, reason in self.undefined
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Evaluation:
        """Return the evaluation that `to_dict` wrote, this version's or an earlier one's."""
        return cls(
            data["main_task"],
            {task: Cell.from_dict(cell) for task, cell in data["pooled"].items()},
            _from_dicts(data["cells"]),
            _from_dicts(data.get("segments", {})),
        )

    def _mixes_units(self, metric: str) -> bool:
        return mixes_units(metric, [self.pooled[task].type for task in self.tasks_with(metric)])

    def _defined(self, metric: str) -> Iterator[tuple[tuple[str, str], float]]:
        for name, cell in _named(self.cells):
            value = cell.value(metric)
            if cell.undefined is None and value is not None:
                yield name, value


def _named(cells: Mapping[str, Mapping[str, Cell]]) -> Iterator[tuple[tuple[str, str], Cell]]:
    for name, row in cells.items():
        for task, cell in row.items():
            yield (name, task), cell


def _to_dicts(cells: Mapping[str, Mapping[str, Cell]]) -> dict[str, dict[str, Any]]:
    return {name: {task: cell.to_dict() for task, cell in row.items()} for name, row in cells.items()}


def _from_dicts(cells: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Cell]]:
    return {name: {task: Cell.from_dict(cell) for task, cell in row.items()} for name, row in cells.items()}


def evaluate_cells(
    predictions: np.ndarray,
    labels: np.ndarray,
    scenario: np.ndarray,
    users: np.ndarray | None,
    scenario_names: Sequence[str],
    task_names: Sequence[str],
    main_task: str,
    min_rows: int = 2,
    metrics: Iterable[str] = METRICS,
    types: Mapping[str, TaskType] | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
    segments: Segments | None = None,
) -> Evaluation:
    """Compute the metrics of every scenario x task, and of each task over all rows.

    A cell is undefined (no AUC, no GAUC, counted in no mean and never the worst) where it has no rows, one
    class, or fewer than `min_rows` rows; its LogLoss and ECE are still given where it has rows, its PCOC where it has
    a positive. Means of all metrics are thus over the same cells, save that GAUC also needs a user with both classes.
    Pooled values ask for no `min_rows`.

    A cell of a task of numbers or classes is undefined with no rows or fewer than `min_rows`; its errors are still
    given where it has rows, its XAUC where two values differ.

    Args:
        predictions: (N, T) probabilities, or numbers for a task of numbers, and for a task of classes a column for each
            class (`Layout`); as in RecBole, LogLoss clips what lies outside [0, 1]; so do ECE and PCOC.
        labels: (N, T) of 0, 1, numbers, or numbers of classes from 0; and `MISSING_LABELS` of the task's type for a row
            that does not count for the task.
        scenario: (N,) integers 1..M in the order of `scenario_names`; rows with 0 (unknown) count in no cell.
        users: (N,) whose AUC is averaged for GAUC; None leaves GAUC out.
        scenario_names: names of the scenarios, in their order.
        task_names: names of the T tasks.
        main_task: the task whose pooled values have no task in their key.
        min_rows: 2, the fewest an AUC can have, drops no cell unasked; raise it where an AUC of a handful of
            rows would decide the worst cell.
        metrics: those that are computed, of those of the tasks' types; the cells know no others.
        types: the tasks' types by name; binary where not given.
        classes: of each task of classes the names of its classes.
        weights: of each task that is evaluated by weights, too, those of its rows (N,), finite and >= 0. Its cells have
            the weighted metrics beside the others; one is undefined where no row that counts has a weight.
        segments: of the N rows, whose metrics are computed too, over all scenarios.

    Raises:
        FloatingPointError: a prediction is NaN.
        ValueError: the arguments do not fit each other.
    """
    predictions, labels, scenario = np.asarray(predictions), np.asarray(labels), np.asarray(scenario)
    user_code = None if users is None else ranks(users)
    wanted = set(metrics)
    _check(predictions, labels, scenario, user_code, scenario_names, task_names, main_task)
    layout = Layout.of(task_names, types, classes)
    _check_predictions(predictions, labels, layout)
    scenario = scenario.astype(np.int64)

    pooled: dict[str, Cell] = {}
    cells: dict[str, dict[str, Cell]] = {name: {} for name in scenario_names}
    by_segment: dict[str, dict[str, Cell]] = {}
    for column, (task, kind) in enumerate(layout.types.items()):
        labelled = labels[:, column] != MISSING_LABELS[kind]
        rows = slice(None) if labelled.all() else labelled
        weight = None if weights is None or task not in weights else np.asarray(weights[task])[rows]
        of_task = [name for name in metrics_of([kind]) if name in wanted]
        by_weight = [name for name in metrics_of([], [kind]) if name in wanted and weight is not None]
        own, label = predictions[rows, layout.columns[task]], labels[rows, column]
        scored: ScoredRows | PredictedNumbers
        if kind == "number":
            scored = PredictedNumbers(own[:, 0], label)
        elif kind in CLASS_TYPES:
            scored = PredictedClasses(own, label, layout.class_values(task))
        else:
            user = None if user_code is None else user_code[rows]
            scored = ScoredRows(own[:, 0], label, user)
        of_row = scenario[rows]
        groups = scored.grouped()
        values = _values(groups, of_task) | _weighted_values(scored, weight, None, by_weight)
        (pooled[task],) = _cells(groups, values, [0], 1, kind)
        if len(scenario_names) == 1 and (of_row == 1).all():
            of_scenarios = _cells(groups, values, [0], min_rows, kind)
        else:
            del groups  # its arrays are as long as the rows: the next ones take their memory
            groups = scored.grouped(of_row)
            numbers = range(1, len(scenario_names) + 1)
            values = _values(groups, of_task) | _weighted_values(scored, weight, of_row, by_weight)
            of_scenarios = _cells(groups, values, numbers, min_rows, kind)
        for name, cell in zip(scenario_names, of_scenarios, strict=True):
            cells[name][task] = cell
        for names, segment in () if segments is None else segments.groups():
            groups = scored.grouped(segment[rows])
            values = _values(groups, of_task) | _weighted_values(scored, weight, segment[rows], by_weight)
            of_segments = _cells(groups, values, range(len(names)), min_rows, kind)
            for name, cell in zip(names, of_segments, strict=True):
                by_segment.setdefault(name, {})[task] = cell
    return Evaluation(main_task, pooled, cells, by_segment)


def evaluate_lists(
    hits: np.ndarray,
    positives: np.ndarray,
    scenario: np.ndarray,
    scenario_names: Sequence[str],
    task_names: Sequence[str],
    main_task: str,
    metrics: Sequence[str],
    min_rows: int = 2,
    segments: Segments | None = None,
) -> Evaluation:
    """Compute the metrics of ranked lists for every scenario x task, and of each task over all lists.

    A list counts for a task of which it has a positive. A cell is undefined (counted in no mean and never the worst)
    without such lists, or with fewer than `min_rows`; of fewer its values are still given.

    Args:
        hits: whether the item at each of the first K places is a positive of the task (L, T, K).
        positives: how many positives of the task each list has (L, T).
        scenario: (L,) integers 1..M in the order of `scenario_names`.
        scenario_names: names of the M scenarios.
        task_names: names of the T tasks.
        main_task: the task whose pooled values have no task in their key.
        metrics: such as `ndcg@10`, in the order of tables.
        min_rows: the fewest lists of a defined cell.
        segments: of the L lists, whose metrics are computed too, over all scenarios.

    Raises:
        ValueError: the arguments do not fit each other.
    """
    hits, positives, scenario = np.asarray(hits, dtype=bool), np.asarray(positives), np.asarray(scenario)
    if hits.shape[:2] != (len(scenario), len(task_names)) or positives.shape != hits.shape[:2]:
        raise ValueError(
            f"hits must be (lists, {len(task_names)} tasks, places) and positives (lists, tasks), "
            f"got {hits.shape} and {positives.shape} for {len(scenario)} scenarios of lists"
        )
    pooled: dict[str, Cell] = {}
    cells: dict[str, dict[str, Cell]] = {name: {} for name in scenario_names}
    by_segment: dict[str, dict[str, Cell]] = {}
    for column, task in enumerate(task_names):
        counts = positives[:, column] > 0
        of_task, of_list = positives[counts, column], scenario[counts]
        values = list_values(hits[counts, column], of_task, metrics)
        (pooled[task],) = _list_cells(ListGroups.of(values, of_task), metrics, [0], 1)
        groups = ListGroups.of(values, of_task, of_list)
        of_scenarios = _list_cells(groups, metrics, range(1, len(scenario_names) + 1), min_rows)
        for name, cell in zip(scenario_names, of_scenarios, strict=True):
            cells[name][task] = cell
        for names, segment in () if segments is None else segments.groups():
            groups = ListGroups.of(values, of_task, segment[counts])
            of_segments = _list_cells(groups, metrics, range(len(names)), min_rows)
            for name, cell in zip(names, of_segments, strict=True):
                by_segment.setdefault(name, {})[task] = cell
    return Evaluation(main_task, pooled, cells, by_segment)


def _list_cells(groups: ListGroups, metrics: Sequence[str], numbers: Iterable[int], min_rows: int) -> list[Cell]:
    places = {number: place for place, number in enumerate(groups.group.tolist())}

    def cell(number: int) -> Cell:
        place = places.get(number)
        if place is None:
            return Cell(0, 0, dict.fromkeys(metrics), "no list has a positive", "ranking")
        rows = int(groups.rows[place])
        reason = None if rows >= min_rows else f"{rows} list{'s' if rows > 1 else ''}, fewer than {min_rows}"
        values = {name: float(METRICS[name].values(groups)[place]) for name in metrics}
        return Cell(rows, int(groups.positives[place]), values, reason, "ranking")

    return [cell(number) for number in numbers]


def of_constant(config: Any, split: Any, task: str | None = None) -> Evaluation:
    """Evaluate one prediction for all rows: the values it has, any model's has, as the labels alone decide that.

    Args:
        config: RecBole's configuration.
        split: a split as a built dataset.
        task: the one that is predicted; None for all of them, with the conditionals.
    """
    inter, schema = split.inter_feat, getattr(split, "schema", None)
    types: dict[str, TaskType] = {} if schema is None else schema.predicted_types
    if schema is None:
        main = config["LABEL_FIELD"]
        scenarios, tasks, labels = ["all"], [main], inter[main].numpy()[:, None]
        scenario = np.ones(len(split), dtype=np.int64)
    else:
        main = task or schema.main_task
        scenarios, scenario = split.scenario_names, split.row_scenario(inter).numpy()
        tasks = list(types) if task is None else [task]
        labels = schema.labels(tasks, lambda field: inter[field].numpy())
    users = inter[split.uid_field].numpy() if split.uid_field in inter else None
    least = config["min_scenario_rows"] or 1
    layout = Layout.of(tasks, types, getattr(split, "label_classes", None))
    half = np.full((len(labels), layout.width), 0.5)
    weights = {} if schema is None else schema.metric_weights(tasks, lambda field: inter[field].numpy())
    return evaluate_cells(
        half,
        labels,
        scenario,
        users,
        scenarios,
        tasks,
        main,
        min_rows=least,
        types=types,
        classes=layout.classes,
        weights=weights,
        segments=None if schema is None else Segments.of_split(split, config),
    )


def of_lists_without_hits(config: Any, split: Any, lists: Any, task: str | None = None) -> Evaluation:
    """Evaluate lists whose positives all come last: the values it has, any model's has.

    Args:
        config: RecBole's configuration.
        split: a split as a built dataset.
        lists: its ranked lists.
        task: the one that is ranked for; None for all of them.
    """
    tasks = lists.tasks if task is None else [task]
    hits = np.zeros((len(lists), len(tasks), lists.most), dtype=bool)
    positives = lists.n_positives[:, [lists.tasks.index(name) for name in tasks]]
    least, main = config["min_scenario_rows"] or 1, task or split.schema.main_task
    metrics = list_metrics(config)
    names = split.scenario_names
    return evaluate_lists(hits, positives, lists.scenarios, names, tasks, main, metrics, least, lists.segments)


def recbole_metrics(cell: Cell, names: Iterable[str], decimals: int) -> dict[str, float]:
    """Return those of RecBole's metrics that a cell already knows, as RecBole would report them.

    Args:
        cell: the main task's, of all rows.
        names: RecBole's metrics; of these, `auc` and `logloss` are given. Of a task of numbers `mae` and `rmse` are,
            and those that need labels of 0 and 1 are undefined.
        decimals: RecBole's `metric_decimal_place`.

    Returns:
        Rounded values; NaN for what is undefined.
    """
    computed = ("auc", "logloss") if cell.type == "binary" else ("auc", "gauc", "logloss", "mae", "rmse")
    values = {name: cell.value(name) for name in computed}
    known = {name: values[name] for name in names if name in values}
    # NumPy rounds, and RecBole with it, not quite as Python does.
    return {name: float(round(np.float64(np.nan if one is None else one), decimals)) for name, one in known.items()}


def _values(groups: ScoredGroups | NumberGroups, metrics: Sequence[str]) -> dict[str, list[float]]:
    """Return each metric's values of the groups, NaN where undefined."""
    return {name: METRICS[name].values(groups).tolist() for name in metrics}


def _weighted_values(
    scored: ScoredRows | PredictedNumbers, weight: np.ndarray | None, groups: np.ndarray | None, metrics: Sequence[str]
) -> dict[str, list[float]]:
    """Return each weighted metric's values of the same groups; nothing without weights."""
    if weight is None or not metrics:
        return {}
    weighted = WeightedGroups(scored, weight, groups)
    return {name: METRICS[name].values(weighted).tolist() for name in metrics}


def _cells(
    groups: ScoredGroups | NumberGroups,
    columns: Mapping[str, Sequence[float]],
    numbers: Iterable[int],
    min_rows: int,
    kind: TaskType,
) -> list[Cell]:
    """Return the cells of the groups with these numbers; of some there may be no rows."""
    places = {number: place for place, number in enumerate(groups.group.tolist())}
    positives = 0 if kind == "binary" else None
    empty = Cell(0, positives, dict.fromkeys(columns), _few_rows(0, min_rows), kind)
    has_mean = isinstance(groups, NumberGroups) and not (isinstance(groups, ClassGroups) and not groups.is_ordered)

    def cell(place: int) -> Cell:
        rows = int(groups.rows[place])
        reason = _few_rows(rows, min_rows)
        if not isinstance(groups, NumberGroups):
            reason = reason or _one_class(rows, int(groups.positives[place]))
        values = {
            name: None if math.isnan(column[place]) or (reason and METRICS[name].needs_classes) else column[place]
            for name, column in columns.items()
        }
        if isinstance(groups, NumberGroups):
            mean = float(groups.mean_label[place]) if has_mean else None
            return Cell(rows, None, values, reason, kind, mean)
        return Cell(rows, int(groups.positives[place]), values, reason)

    return [cell(places[number]) if number in places else empty for number in numbers]


def _few_rows(rows: int, min_rows: int) -> str | None:
    if rows == 0:
        return "no rows"
    return f"{rows} row{'s' if rows > 1 else ''}, fewer than {min_rows}" if rows < min_rows else None


def _one_class(rows: int, positives: int) -> str | None:
    return f"one class: all {int(positives > 0)}" if positives in (0, rows) else None


def _check(
    predictions: np.ndarray,
    labels: np.ndarray,
    scenario: np.ndarray,
    users: np.ndarray | None,
    scenario_names: Sequence[str],
    task_names: Sequence[str],
    main_task: str,
) -> None:
    if predictions.ndim != 2 or labels.ndim != 2 or labels.shape != (len(predictions), len(task_names)):
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


def _check_predictions(predictions: np.ndarray, labels: np.ndarray, layout: Layout) -> None:
    rows = len(predictions)
    if predictions.shape[1] != layout.width:
        what = f"{layout.width} tasks" if layout.width == len(layout.types) else f"{layout.width} columns of tasks"
        raise ValueError(
            f"predictions and labels must both be (rows, {what}), got {predictions.shape} and {labels.shape}"
        )
    for column, kind in enumerate(layout.types.values()):
        wrong = wrong_labels(labels[:, column], kind)
        if wrong is not None:
            raise ValueError(wrong)
    nan = np.isnan(predictions)
    if nan.any():
        first, task = np.argwhere(nan)[0]
        raise FloatingPointError(
            f"predictions are NaN in {int(nan.any(axis=1).sum())} of {rows} rows "
            f"(the first is row {first}, task '{layout.names[task]}'): the training has diverged"
        )
