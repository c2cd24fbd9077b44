"""Scenarios and tasks as a configuration declares them: read once, checked, and passed on as a value.

A configuration says, for instance::

    scenario: {field: age, bins: [25, 35]}
    tasks: {click: {field: rating, at_least: 4}, like: {field: rating, at_least: 5}}
    main_task: click
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np

from recbole_msr.errors import InputError, nearest
from recbole_msr.value_kinds import is_finite, is_one_line

SCENARIO_FIELD = "scenario"
"""Name of the token field that holds a row's scenario: ids 1..M in the declared order, 0 for an unknown one."""

MISSING_LABEL = -1.0
"""Stands for "this row carries no label of this task" wherever labels are kept as numbers."""

UNKNOWN_SCENARIO = 0

_TAKEN = ("auc", "gauc", "logloss", "macro", "worst", "all")
"""Names of metrics, means and sums in results, which no task may have in any case."""


def label_field(task: str) -> str:
    """Name of the float column with the 0/1 labels of a task."""
    return f"label_{task}"


@dataclass(frozen=True)
class Scenario:
    """How a row's scenario follows from one field.

    Exactly one of three ways: the field's own values (neither `bins` nor `groups`), the bins of a number
    (`bins` are the inner edges, each belongs to the bin on its right), or named groups of values.

    Attributes:
        field: the field looked at; `None` means that all rows are one scenario named "all".
        bins: ascending inner edges; n edges make n + 1 scenarios.
        groups: scenario name -> the values it takes in.
        names: names for the bins, instead of the made ones such as "age<25".
        other: with `groups`: the scenario of every value that no group lists (without it, such a value is an error).
        keep_field: whether the field also stays an ordinary feature. By default it does when the scenario is
            derived from it, and does not when it is the scenario itself.
    """

    field: str | None = None
    bins: tuple[float, ...] | None = None
    groups: Mapping[str, tuple[str, ...]] | None = None
    names: tuple[str, ...] | None = None
    other: str | None = None
    keep_field: bool = False

    def fixed_names(self) -> list[str] | None:
        """The scenario names that the declaration alone gives, in order; None where the data give them."""
        if self.field is None:
            return ["all"]
        if self.names is not None:
            return list(self.names)
        if self.bins is not None:
            edges = [f"{edge:g}" for edge in self.bins]
            inner = [f"{low}<={self.field}<{high}" for low, high in pairwise(edges)]
            return [f"{self.field}<{edges[0]}", *inner, f"{self.field}>={edges[-1]}"]
        if self.groups is not None:
            return [*self.groups, *([self.other] if self.other else [])]
        return None

    def assign(self, values: Sequence[Any], names: Sequence[str]) -> np.ndarray:
        """Scenario ids (1..M in the order of `names`, 0 where the value belongs to none) of raw values, shape (N,)."""
        if self.field is None:
            return np.ones(len(values), dtype=np.int64)
        if self.bins is not None:
            numbers = np.array([_number(value) for value in values], dtype=np.float64)
            ids = np.searchsorted(np.array(self.bins), numbers, side="right") + 1
            return np.where(np.isnan(numbers), UNKNOWN_SCENARIO, ids).astype(np.int64)
        id_of = {name: i for i, name in enumerate(names, start=1)}
        if self.groups is not None:
            id_of = {value: id_of[name] for name, listed in self.groups.items() for value in listed}
        fallback = len(names) if self.other else UNKNOWN_SCENARIO
        return np.array(
            [UNKNOWN_SCENARIO if token is None else id_of.get(token, fallback) for token in map(as_token, values)],
            dtype=np.int64,
        ).reshape(len(values))


@dataclass(frozen=True)
class Task:
    """A binary label: a 0/1 field, or a number compared with a threshold.

    Attributes:
        name: what the task is called in results.
        field: the field the label is read from.
        at_least: label 1 where the number is >= this; None for a field that holds 0 and 1 itself.
        above: label 1 where the number is > this.
        missing: "error" (a row without a value stops the run) or "ignore" (such a row does not count for this task).
    """

    name: str
    field: str
    at_least: float | None = None
    above: float | None = None
    missing: str = "error"

    @property
    def label_field(self) -> str:
        return label_field(self.name)

    def labels(self, values: Sequence[Any]) -> np.ndarray:
        """Labels 0, 1 or `MISSING_LABEL` of raw values, shape (N,), float32.

        Raises:
            InputError: a value is not a number, not 0/1 where no threshold is given, or missing where it may not be.
        """
        numbers = np.asarray(values)
        if numbers.dtype.kind not in "fiub":
            numbers = np.array([_number(value) for value in values], dtype=np.float64)
            words = [i for i in np.flatnonzero(np.isnan(numbers)).tolist() if not _is_missing(values[i])]
            if words:
                raise InputError(
                    f"task '{self.name}': field '{self.field}' must hold numbers, but holds '{values[words[0]]}' in "
                    f"interaction {words[0] + 1} ({len(words)} such values)"
                )
        numbers = numbers.astype(np.float64)
        missing = np.isnan(numbers)
        if missing.any() and self.missing == "error":
            raise InputError(
                f"task '{self.name}': field '{self.field}' has no number in {int(missing.sum())} of {len(numbers)} "
                f"rows (the first is interaction {int(np.flatnonzero(missing)[0]) + 1}). If rows may lack this label, "
                "declare it: "
                f"tasks: {{{self.name}: {{field: {self.field}, ..., missing: ignore}}}}; otherwise mend the data."
            )
        if self.at_least is not None:
            labels = numbers >= self.at_least
        elif self.above is not None:
            labels = numbers > self.above
        else:
            wrong = ~missing & (numbers != 0) & (numbers != 1)
            if wrong.any():
                raise InputError(
                    f"task '{self.name}': field '{self.field}' must hold 0 and 1, but holds {numbers[wrong][0]:g} in "
                    f"{int(wrong.sum())} rows. For a threshold, declare "
                    f"tasks: {{{self.name}: {{field: {self.field}, at_least: NUMBER}}}}."
                )
            labels = numbers == 1
        return np.where(missing, MISSING_LABEL, labels).astype(np.float32)


@dataclass(frozen=True)
class Schema:
    """The scenario and the tasks of a run.

    Attributes:
        scenario: how rows fall into scenarios.
        tasks: the tasks in their declared order.
        main_task: the task that single-task models train on and that RecBole's metrics are about.
    """

    scenario: Scenario
    tasks: tuple[Task, ...]
    main_task: str

    @property
    def task_names(self) -> list[str]:
        return [task.name for task in self.tasks]

    @property
    def label_fields(self) -> list[str]:
        return [task.label_field for task in self.tasks]

    @property
    def main_index(self) -> int:
        return self.task_names.index(self.main_task)

    @classmethod
    def from_config(cls, config: Any) -> Schema | None:
        """The schema of a configuration (a mapping or a RecBole Config), or None where it declares no tasks.

        Raises:
            InputError: a key is unknown or a value impossible; the message names it.
        """
        scenario, tasks, main_task = (_get(config, key) for key in ("scenario", "tasks", "main_task"))
        if tasks is None:
            if scenario is not None:
                raise InputError("'scenario' is declared but 'tasks' is not; add e.g. tasks: {click: {field: label}}")
            return None
        if not isinstance(tasks, Mapping) or not tasks:
            raise InputError(f"'tasks' must map names to fields, e.g. {{click: {{field: label}}}}, got {tasks!r}")
        declared = tuple(_task(_name("task name", name), spec) for name, spec in tasks.items())
        names = [task.name for task in declared]
        if len(set(names)) < len(names):
            raise InputError(f"two tasks have the same name in {names}")
        main = names[0] if main_task is None else _name("main_task", main_task)
        if main not in names:
            raise InputError(f"main_task '{main}' is not among the tasks {names}{nearest(main, names)}")
        return cls(_scenario(scenario), declared, main)


def _get(config: Any, key: str) -> Any:
    return config.get(key) if isinstance(config, Mapping) else config[key]


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _is_missing(value: Any) -> bool:
    text = str(value).strip().lower()
    return value is None or text in ("", "nan", "<na>")


def as_token(value: Any) -> str | None:
    """A raw value as it is written in an atomic file; None where there is none."""
    if value is None or (isinstance(value, Real) and math.isnan(value)):
        return None
    if isinstance(value, Real) and not isinstance(value, bool) and float(value).is_integer():
        return str(int(value))  # type: ignore[call-overload]
    return str(value)


def _refuse_unknown(what: str, spec: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in spec:
        if key not in known:
            raise InputError(f"{what}: unknown key '{key}'{nearest(key, known) or '.'} Known keys: {', '.join(known)}.")


def _name(what: str, given: Any) -> str:
    """The name of a task, a scenario or a field: text, or a number, whose digits it is."""
    if isinstance(given, bool):
        raise InputError(
            f"{what} {given} is True or False, not a name: quote it if it is a word ('{given}', 'no', ...)"
        )
    good = is_one_line(given) if isinstance(given, str) else given is None or is_finite(given)
    if not good:
        raise InputError(f"{what} {given!r} is no name: a name is text in one line, or a number")
    if given is None or not str(given).strip():
        raise InputError(
            f"{what} {given!r} is empty: give it a name" + ("" if given == "" else "; quote it if it is a word")
        )
    return str(given)


def _task(name: str, spec: Any) -> Task:
    if isinstance(spec, str):
        spec = {"field": spec}
    if not isinstance(spec, Mapping):
        raise InputError(f"task '{name}' must be a mapping such as {{field: rating, at_least: 4}}, got {spec!r}")
    if not all(character.isalnum() or character in "_-" for character in name):
        raise InputError(f"task name '{name}' may hold letters, digits, '_' and '-' only")
    if name.casefold() in _TAKEN:
        raise InputError(
            f"task name '{name}' is taken: {', '.join(_TAKEN)} are metrics, means and sums in results; choose another"
        )
    _refuse_unknown(f"task '{name}'", spec, ("field", "at_least", "above", "missing"))
    if "field" not in spec:
        raise InputError(f"task '{name}' needs a field, e.g. {{field: rating, at_least: 4}}")
    thresholds = {}
    for key in ("at_least", "above"):
        if spec.get(key) is not None:
            if not is_finite(spec[key]):
                raise InputError(f"task '{name}': {key} must be a number, got {spec[key]!r}")
            thresholds[key] = float(spec[key])
    if len(thresholds) > 1:
        raise InputError(f"task '{name}': give at_least or above, not both")
    missing = spec.get("missing", "error")
    if missing not in ("error", "ignore"):
        raise InputError(f"task '{name}': missing must be 'error' or 'ignore', got {missing!r}")
    return Task(name, _name(f"task '{name}': field", spec["field"]), missing=missing, **thresholds)


def _scenario(spec: Any) -> Scenario:
    if spec is None:
        return Scenario()
    if isinstance(spec, str):
        spec = {"field": spec}
    if not isinstance(spec, Mapping):
        raise InputError(f"'scenario' must be a mapping such as {{field: age, bins: [25, 35]}}, got {spec!r}")
    _refuse_unknown("scenario", spec, ("field", "bins", "groups", "names", "other", "keep_field"))
    if "field" not in spec:
        raise InputError("scenario needs a field, e.g. scenario: {field: age, bins: [25, 35]}")
    field, bins, groups = _name("scenario: field", spec["field"]), spec.get("bins"), spec.get("groups")
    names, other = spec.get("names"), spec.get("other")
    if bins is not None and groups is not None:
        raise InputError("scenario: give bins or groups, not both")
    if bins is not None:
        numeric = isinstance(bins, Sequence) and all(is_finite(edge) for edge in bins)
        if isinstance(bins, str) or not numeric or not bins or any(a >= b for a, b in pairwise(bins)):
            raise InputError(f"scenario: bins must be ascending numbers, the inner edges, got {bins!r}")
        bins = tuple(float(edge) for edge in bins)
    if groups is not None:
        groups = _groups(groups)
    if names is not None:
        names = (names,) if isinstance(names, str) or not isinstance(names, Sequence) else names
        names = tuple(_name("scenario: names:", name) for name in names)
        if bins is None or len(names) != len(bins) + 1 or len(set(names)) != len(names):
            raise InputError(f"scenario: names are for bins, one more than edges and all different, got {list(names)}")
    other = None if other is None else _name("scenario: other:", other)
    if other is not None and (groups is None or other in groups):
        raise InputError("scenario: 'other' goes with groups, and must not be the name of one")
    keep = spec.get("keep_field", field != SCENARIO_FIELD and (bins is not None or groups is not None))
    if not isinstance(keep, bool):
        raise InputError(f"scenario: keep_field must be true or false, got {keep!r}")
    if keep and field == SCENARIO_FIELD:
        raise InputError(f"scenario: a field called '{SCENARIO_FIELD}' is replaced and cannot be kept; rename it")
    return Scenario(field, bins, groups, names, other, keep)


def _groups(groups: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(groups, Mapping) or not groups:
        raise InputError(f"scenario: groups must map a name to a list of values, got {groups!r}")
    seen: dict[str, str] = {}
    result: dict[str, tuple[str, ...]] = {}
    for given, values in groups.items():
        name = _name("scenario: groups: name", given)
        listed = [values] if isinstance(values, (str, Real)) else values
        if not isinstance(listed, Sequence) or not listed:
            raise InputError(f"scenario: group '{name}' must list values, got {values!r}")
        if name in result:
            raise InputError(f"scenario: two groups have the name '{name}'")
        tokens = tuple(str(as_token(value)) for value in listed)
        for value, token in zip(listed, tokens, strict=True):
            if value is None:
                raise InputError(f"scenario: group '{name}' lists an empty value; quote it if it is a word")
            if isinstance(value, bool):
                raise InputError(
                    f"scenario: group '{name}' lists {value}, which is True or False and no value of a field: quote it "
                    "if it is a word, such as 'NO'"
                )
            if token in seen:
                raise InputError(f"scenario: value '{token}' is in the groups '{seen[token]}' and '{name}'")
            seen[token] = name
        result[name] = tokens
    return result
