"""The registry of metrics: one entry a metric, which all tables, pages, checks and tests read.

To add a metric, write its function in `recbole_msr.evaluation.formulas` and add an entry to `METRICS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from recbole_msr.errors import InputError
from recbole_msr.evaluation import class_formulas, formulas, number_formulas, weighted_formulas
from recbole_msr.evaluation.ranking import ListGroups, list_metric
from recbole_msr.schema import TaskType

CellType = TaskType | Literal["ranking"]
"""What a cell's values are of: the labels of a type of task, or lists ranked by the predictions of a binary task."""


class Direction(Enum):
    """Which values of a metric are better."""

    LARGER = "larger"
    SMALLER = "smaller"
    NEAREST_TO_ONE = "nearest to 1"


@dataclass(frozen=True)
class MeanOfTerms:
    """A metric as a mean of terms of the rows: what `recbole_msr.evaluation.significance` tests a difference by.

    Attributes:
        terms: of predictions (N,), or (N, K) of K classes, and labels (N,), the metric's value, and the terms: one
            array for all rows, or one for the positives and one for the negatives; each has the value as its mean. Of
            a weighted metric the third argument is the weights (N,), and the mean is weighted.
        over: "rows"; "classes", where both classes are needed; "pairs", of rows where two labels differ.
    """

    terms: Callable[..., tuple[float, tuple[np.ndarray, ...]]]
    over: Literal["rows", "classes", "pairs"]


@dataclass(frozen=True)
class Metric:
    """A metric of the cells of scenarios and tasks.

    Attributes:
        name: the key in results, configurations and files.
        heading: the name in tables and pages.
        direction: which values are better.
        values: the values of G groups of rows (G,), NaN where a group has none. The groups are what its task types
            have: `formulas.ScoredGroups`, `number_formulas.NumberGroups`, `class_formulas.ClassGroups`,
            `ranking.ListGroups`; those of a weighted metric are `weighted_formulas.WeightedGroups`.
        types: the types of cells that it is of.
        bounds: the least and the greatest possible value.
        needs_classes: undefined in a cell of one class or of fewer than `min_scenario_rows` rows. Other metrics have a
            value there, which counts in no mean.
        undefined_reason: why a cell that has an AUC may lack it.
        hidden_if_undefined: the table of a run has no column for it where no value is defined.
        difference: how `compare` tests the difference of two models; None for a metric that is not tested.
        compared: columns of it in the first table of a comparison: "macro", "worst", "tasks" (the macro mean of each
            of several tasks), "all rows" (pooled, for each task).
        digits: format of a value.
        weighted: of tasks declared with `weighted: true` alone, by the rows' weights.
        has_unit: it is in the unit of the task's field, so that values of several tasks have no mean and no worst.
    """

    name: str
    heading: str
    direction: Direction
    values: Callable[[Any], np.ndarray]
    types: tuple[CellType, ...] = ("binary",)
    bounds: tuple[float, float] = (0.0, 1.0)
    needs_classes: bool = False
    undefined_reason: str = "undefined"
    hidden_if_undefined: bool = False
    difference: MeanOfTerms | None = None
    compared: tuple[Literal["macro", "worst", "tasks", "all rows"], ...] = ("macro",)
    digits: str = ".4f"
    weighted: bool = False
    has_unit: bool = False

    def badness(self, value: float) -> float:
        """Return what is larger the worse a value is; of PCOC |log value|, so that 2 is as bad as 1/2."""
        if self.direction is Direction.NEAREST_TO_ONE:
            return abs(math.log(value)) if value > 0 else math.inf
        return value if self.direction is Direction.SMALLER else -value


@lru_cache(maxsize=256)
def _metric_of_lists(name: str) -> Metric | None:
    found = list_metric(name)
    if found is None:
        return None

    def mean(groups: ListGroups) -> np.ndarray:
        return groups.means[name]

    heading = f"{found[0].heading}@{found[1]}"
    return Metric(name, heading, Direction.LARGER, mean, ("ranking",))


class _Registry(dict[str, Metric]):
    """The metrics by name. Those of ranked lists, such as `ndcg@10`, are found by name and are not iterated over."""

    def __missing__(self, name: str) -> Metric:
        metric = _metric_of_lists(name)
        if metric is None:
            raise KeyError(name)
        return metric

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and _metric_of_lists(name) is not None)


def _weighted_metrics() -> list[Metric]:
    """Return the metrics by the rows' weights; GAUC, ECE, XAUC and those of ranked lists have none."""
    larger, smaller = Direction.LARGER, Direction.SMALLER
    log_loss_terms = MeanOfTerms(weighted_formulas.weighted_log_loss_terms, "rows")
    accuracy_terms = MeanOfTerms(weighted_formulas.weighted_accuracy_terms, "rows")
    common: dict[str, Any] = {"weighted": True, "undefined_reason": "no weight"}
    unbounded: dict[str, Any] = {**common, "bounds": (0.0, math.inf)}
    number: dict[str, Any] = {**unbounded, "types": ("number", "ordered"), "compared": ("all rows",), "digits": ".5g"}
    number["has_unit"] = True
    return [
        Metric(
            "weighted_auc",
            "Weighted AUC",
            larger,
            weighted_formulas.weighted_auc,
            weighted=True,
            needs_classes=True,
            undefined_reason="no weight in a class",
            difference=MeanOfTerms(weighted_formulas.weighted_auc_terms, "classes"),
            compared=("macro", "worst", "tasks"),
        ),
        Metric(
            "weighted_logloss",
            "Weighted LogLoss",
            smaller,
            weighted_formulas.weighted_log_loss,
            types=("binary", "classes", "ordered"),
            difference=log_loss_terms,
            compared=("macro", "all rows"),
            **unbounded,
        ),
        Metric(
            "weighted_pcoc",
            "Weighted PCOC",
            Direction.NEAREST_TO_ONE,
            weighted_formulas.weighted_predicted_over_observed,
            compared=("macro", "worst"),
            **unbounded,
        ),
        Metric(
            "weighted_accuracy",
            "Weighted accuracy",
            larger,
            weighted_formulas.weighted_accuracy,
            types=("classes", "ordered"),
            difference=accuracy_terms,
            compared=("macro", "worst", "tasks"),
            **common,
        ),
        Metric(
            "weighted_mae",
            "Weighted MAE",
            smaller,
            weighted_formulas.weighted_mae,
            difference=MeanOfTerms(weighted_formulas.weighted_mae_terms, "rows"),
            **number,
        ),
        Metric(
            "weighted_rmse",
            "Weighted RMSE",
            smaller,
            weighted_formulas.weighted_rmse,
            difference=MeanOfTerms(weighted_formulas.weighted_rmse_terms, "rows"),
            **number,
        ),
    ]


METRICS: dict[str, Metric] = _Registry(
    (metric.name, metric)
    for metric in (
        Metric(
            name="auc",
            heading="AUC",
            direction=Direction.LARGER,
            values=formulas.auc,
            needs_classes=True,
            difference=MeanOfTerms(formulas.auc_terms, "classes"),
            compared=("macro", "worst", "tasks"),
        ),
        Metric(
            name="gauc",
            heading="GAUC",
            direction=Direction.LARGER,
            values=formulas.gauc,
            needs_classes=True,
            undefined_reason="no user has both classes",
            hidden_if_undefined=True,
        ),
        Metric(
            name="logloss",
            heading="LogLoss",
            direction=Direction.SMALLER,
            values=formulas.log_loss,
            types=("binary", "classes", "ordered"),
            bounds=(0.0, math.inf),
            difference=MeanOfTerms(class_formulas.log_loss_terms, "rows"),
            compared=("macro", "all rows"),
        ),
        Metric(
            name="ece",
            heading="ECE",
            direction=Direction.SMALLER,
            values=formulas.expected_calibration_error,
        ),
        Metric(
            name="pcoc",
            heading="PCOC",
            direction=Direction.NEAREST_TO_ONE,
            values=formulas.predicted_over_observed,
            bounds=(0.0, math.inf),
            compared=("macro", "worst"),
        ),
        Metric(
            name="accuracy",
            heading="Accuracy",
            direction=Direction.LARGER,
            values=class_formulas.accuracy,
            types=("classes", "ordered"),
            difference=MeanOfTerms(class_formulas.accuracy_terms, "rows"),
            compared=("macro", "worst", "tasks"),
        ),
        Metric(
            name="mae",
            heading="MAE",
            direction=Direction.SMALLER,
            values=number_formulas.mean_absolute_error,
            types=("number", "ordered"),
            bounds=(0.0, math.inf),
            difference=MeanOfTerms(number_formulas.mae_terms, "rows"),
            compared=("all rows",),
            digits=".5g",
            has_unit=True,
        ),
        Metric(
            name="rmse",
            heading="RMSE",
            direction=Direction.SMALLER,
            values=number_formulas.root_mean_squared_error,
            types=("number", "ordered"),
            bounds=(0.0, math.inf),
            difference=MeanOfTerms(number_formulas.rmse_terms, "rows"),
            compared=("all rows",),
            digits=".5g",
            has_unit=True,
        ),
        Metric(
            name="xauc",
            heading="XAUC",
            direction=Direction.LARGER,
            values=number_formulas.ordered_pairs,
            types=("number", "ordered"),
            undefined_reason="all values are equal",
            difference=MeanOfTerms(number_formulas.xauc_terms, "pairs"),
            compared=("macro", "worst", "tasks"),
        ),
        *_weighted_metrics(),
    )
)
"""The metrics of labels by name, in the order of tables; those of ranked lists are found too (`METRICS["ndcg@10"]`)."""


def metrics_of(types: Iterable[CellType], weighted: Iterable[CellType] = ()) -> list[str]:
    """Return the metrics of labels that cells of any of these types have, in the order of tables.

    Args:
        types: the types of the tasks' cells.
        weighted: those of the tasks that are evaluated by their rows' weights, too.
    """
    there, of_weighted = set(types), set(weighted)
    return [
        name
        for name, metric in METRICS.items()
        if (of_weighted if metric.weighted else there).intersection(metric.types)
    ]


def mixes_units(metric: str, types: Iterable[CellType]) -> bool:
    """Return whether values of a metric over tasks of these types are in several units: there is no mean of them.

    >>> mixes_units("mae", ["binary", "number"]), mixes_units("mae", ["ordered", "number"])
    (False, True)
    """
    return METRICS[metric].has_unit and sum(kind in METRICS[metric].types for kind in types) > 1


def metrics_among(names: Iterable[str]) -> list[str]:
    """Return the metrics among some names: those of labels in the order of tables, then those of ranked lists.

    >>> metrics_among(["rows", "ndcg@10", "logloss", "auc"])
    ['auc', 'logloss', 'ndcg@10']
    """
    there = dict.fromkeys(name for name in names if name in METRICS)
    of_labels = list(METRICS)
    return [*(name for name in of_labels if name in there), *(name for name in there if name not in of_labels)]


def headline(types: Iterable[CellType], of_lists: Sequence[str] = ()) -> str:
    """Return the metric that models are ranked and judged by.

    It is AUC; XAUC where no task of these types is binary, and the accuracy where none is of numbers either. Of ranked
    lists it is the first of their metrics `of_lists`.
    """
    there = set(types)
    if "ranking" in there and of_lists:
        return of_lists[0]
    if "binary" in there:
        return "auc"
    return "xauc" if there & {"number", "ordered"} else "accuracy"


def headlines(types: Mapping[str, CellType], of_lists: Sequence[str] = ()) -> dict[str, list[str]]:
    """Return the metrics that single tasks are judged by, each with the names of its tasks.

    >>> headlines({"click": "binary", "minutes": "number", "like": "binary"})
    {'auc': ['click', 'like'], 'xauc': ['minutes']}
    """
    found: dict[str, list[str]] = {}
    for task, kind in types.items():
        found.setdefault(headline([kind], of_lists), []).append(task)
    return found


_SMALLER_IN_RECBOLE = ("logloss", "rmse", "mae", "averagepopularity", "giniindex")
"""Metrics of RecBole that declare that smaller is better."""


def smaller_is_better(key: str) -> bool:
    """Say whether a smaller value is better, for a key of `Evaluation.flat` or the name of a RecBole metric.

    >>> smaller_is_better("logloss/macro"), smaller_is_better("auc/mae/click"), smaller_is_better("NDCG@10")
    (True, False, False)
    """
    name = _metric_of(key).split("@")[0]
    return METRICS[name].direction is Direction.SMALLER if name in METRICS else name in _SMALLER_IN_RECBOLE


def check_task_names(tasks: Iterable[str]) -> None:
    """Refuse a task that is called like a metric, in any case: `auc/auc` could be either.

    Raises:
        InputError: names the task, and all metrics.
    """
    for task in tasks:
        if task.casefold() in METRICS:
            raise InputError(f"task name '{task}' is taken: {', '.join(METRICS)} are metrics; choose another")


def cannot_choose(key: str) -> str | None:
    """Say why a metric cannot choose an epoch or a trial, and which can; None for one that can."""
    metric = METRICS.get(_metric_of(key))
    if metric is None or metric.direction is not Direction.NEAREST_TO_ONE:
        return None
    smaller = (m.name for m in METRICS.values() if m.direction is Direction.SMALLER and not m.weighted)
    others = " or ".join(sorted(smaller))
    return (
        f"'{key}' cannot choose an epoch or a trial: {metric.heading} is best at 1, so neither the largest nor the "
        f"smallest value is the best one; choose by {others}, where smaller is better, or by auc"
    )


def metric_heading(metric: str) -> str:
    """Return a metric's name in tables; one that is not registered keeps its own."""
    return METRICS[metric].heading if metric in METRICS else metric


def shown(metric: str, value: float) -> str:
    """Return a value as tables print it."""
    return format(value, METRICS[metric].digits)


def metric_name(key: str) -> str:
    """Return a metric's key as `Evaluation.flat` has it: case matters in the names of scenarios and tasks alone.

    >>> metric_name("AUC/Macro"), metric_name("AUC/A/Click")
    ('auc/macro', 'auc/A/Click')
    """
    metric, *names = key.strip().split("/")
    if names and names[-1].lower() in ("macro", "worst"):  # no task is called so
        names[-1] = names[-1].lower()
    return "/".join([metric.lower(), *names])


def find_metric(wanted: str, known: Iterable[str]) -> str | None:
    """Return the key that is meant: the one that is written so, else the only one that differs in case alone."""
    known = list(known)
    exact = metric_name(wanted)
    if exact in known:
        return exact
    alike = {key for key in known if key.casefold() == exact.casefold()}
    return alike.pop() if len(alike) == 1 else None


def metric_keys(
    scenarios: Iterable[str],
    tasks: Mapping[str, CellType],
    main_task: str,
    of_lists: Sequence[str] = (),
    weighted: Sequence[str] = (),
) -> list[str]:
    """Return the names of all values that `Evaluation.flat` may have.

    Args:
        scenarios: names of the scenarios.
        tasks: name -> type of each task's cells.
        main_task: the task whose pooled values have no task in their key.
        of_lists: the metrics of ranked lists, such as `ndcg@10`.
        weighted: the tasks that are evaluated by their rows' weights, too.
    """
    scenarios = list(scenarios)
    keys: list[str] = []
    for metric in [*metrics_of(tasks.values(), [tasks[task] for task in weighted]), *of_lists]:
        able = {task: tasks[task] for task in weighted} if METRICS[metric].weighted else tasks
        of_metric = [task for task, kind in able.items() if kind in METRICS[metric].types]
        over_tasks = [] if mixes_units(metric, able.values()) else ["macro", "worst"]
        names = [*of_metric, *over_tasks, *(f"{task}/macro" for task in of_metric)]
        names += [f"{scenario}/{task}" for scenario in scenarios for task in of_metric]
        keys += [metric] if main_task in of_metric else []
        keys += [f"{metric}/{name}" for name in names]
    return keys


def _metric_of(key: str) -> str:
    """Return the metric of a key, lower case."""
    return key.strip().split("/")[0].lower()
