"""Scenarios and tasks as a configuration declares them: read once, checked, and passed on as a value.

A configuration says, for instance::

    scenario: {field: age, bins: [25, 35]}
    tasks: {click: {field: rating, at_least: 4}, like: {field: rating, at_least: 5}}
    main_task: click
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from recbole_msr.errors import InputError, nearest
from recbole_msr.validation import Settings, validate
from recbole_msr.value_kinds import WrongValueError, is_finite, is_one_line

SCENARIO_FIELD = "scenario"
"""Name of the token field that holds a row's scenario: ids 1..M in the declared order, 0 for an unknown one."""

MISSING_LABEL = -1.0
"""Stands for "this row carries no label of this task" wherever labels of 0 and 1 are kept as numbers."""

TaskType = Literal["binary", "number", "classes", "ordered"]
"""What a task's label is: 0 or 1, a number, one of several classes, or one of several that stand for numbers."""

MISSING_LABELS: dict[TaskType, float] = {
    "binary": MISSING_LABEL,
    "number": -math.inf,
    "classes": MISSING_LABEL,
    "ordered": MISSING_LABEL,
}
"""The same for each type of task: a value that no label of it can have."""

UNKNOWN_SCENARIO = 0

_RESERVED_NAMES = ("macro", "worst", "all")
"""Names of means and sums in results, which no task may have in any case; nor may it have a metric's."""


def label_field(task: str) -> str:
    """Return the name of the float column with the labels of a task."""
    return f"label_{task}"


def weight_field(task: str) -> str:
    """Return the name of the float column with the weights of a task's rows."""
    return f"weight_{task}"


def is_conditional(name: str) -> bool:
    """Say whether a name of results is a probability given another label, such as "buy|click", and no task.

    >>> is_conditional("buy|click"), is_conditional("buy")
    (True, False)
    """
    return "|" in name


def wrong_labels(labels: np.ndarray, kind: TaskType) -> str | None:
    """Say what is wrong with the labels (N,) of a task of some type, as they are kept; None if nothing is."""
    if kind == "number":
        wrong = ~np.isfinite(labels) & (labels != MISSING_LABELS[kind])
        allowed = f"finite numbers or {MISSING_LABELS[kind]:g} (missing)"
    elif kind != "binary":
        wrong = (labels != np.floor(labels)) | (labels < MISSING_LABEL)
        allowed = f"numbers of classes, from 0, or {MISSING_LABEL:g} (missing)"
    else:
        wrong = (labels != 0) & (labels != 1) & (labels != MISSING_LABEL)
        allowed = f"0, 1 or {MISSING_LABEL:g} (missing)"
    return f"labels must be {allowed}, got {labels[wrong][0]}" if wrong.any() else None


def as_token(value: Any) -> str | None:
    """Return a raw value as it is written in an atomic file; None where there is none."""
    if value is None or (isinstance(value, Real) and math.isnan(value)):
        return None
    if isinstance(value, Real) and not isinstance(value, bool) and float(value).is_integer():
        return str(int(value))  # type: ignore[call-overload]
    return str(value)


def _name(value: Any) -> str:
    """Read the name of a task, a scenario or a field: text, or a number, which stands for its digits."""
    if isinstance(value, bool):
        raise ValueError(f"{value} is True or False, not a name: quote it if it is a word ('{value}', 'no', ...)")
    is_name = is_one_line(value) if isinstance(value, str) else value is None or is_finite(value)
    if not is_name:
        raise ValueError(f"{value!r} is no name: a name is text in one line, or a number")
    if value is None or not str(value).strip():
        raise ValueError(f"{value!r} is empty: give it a name" + ("" if value == "" else "; quote it if it is a word"))
    return str(value)


def _finite(value: Any) -> float:
    if not is_finite(value):
        raise WrongValueError("a number", value)
    return float(value)


def _count(value: Any) -> int:
    number = float(value) if is_finite(value) else 0.0
    if number < 1 or not number.is_integer():
        raise WrongValueError("a whole number of at least 1", value)
    return int(number)


def _edges(edges: Any) -> tuple[float, ...]:
    numeric = isinstance(edges, Sequence) and not isinstance(edges, str) and all(is_finite(edge) for edge in edges)
    if not numeric or not edges or any(low >= high for low, high in pairwise(edges)):
        raise WrongValueError("ascending numbers, the inner edges", edges)
    return tuple(float(edge) for edge in edges)


def _as_tuple(values: Any) -> tuple[Any, ...]:
    return (values,) if isinstance(values, str) or not isinstance(values, Sequence) else tuple(values)


def _groups(groups: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(groups, Mapping) or not groups:
        raise WrongValueError("a mapping of names to lists of values", groups)
    group_of: dict[str, str] = {}
    tokens_of: dict[str, tuple[str, ...]] = {}
    for key, values in groups.items():
        name = _declared_name("name", key)
        if name in tokens_of:
            raise ValueError(f"two groups have the name '{name}'")
        tokens_of[name] = _tokens(name, values)
        for token in tokens_of[name]:
            if token in group_of:
                raise ValueError(f"value '{token}' is in the groups '{group_of[token]}' and '{name}'")
            group_of[token] = name
    return tokens_of


def _tokens(group: str, values: Any) -> tuple[str, ...]:
    """Read the values of a group as they are written in an atomic file."""
    values = [values] if isinstance(values, (str, Real)) else values
    if not isinstance(values, Sequence) or not values:
        raise ValueError(f"group '{group}' must list values, got {values!r}")
    for value in values:
        if value is None:
            raise ValueError(f"group '{group}' lists an empty value; quote it if it is a word")
        if isinstance(value, bool):
            raise ValueError(
                f"group '{group}' lists {value}, which is True or False and no value of a field: quote it if it is a "
                "word, such as 'NO'"
            )
    return tuple(str(as_token(value)) for value in values)


def _classes(values: Any) -> tuple[str, ...]:
    """Read the classes of a task as they are written in an atomic file."""
    tokens = _tokens("classes", values)
    if len(set(tokens)) < len(tokens):
        raise ValueError(f"classes must be different, got {list(tokens)}")
    return tokens


Name = Annotated[str, BeforeValidator(_name)]
Number = Annotated[float, BeforeValidator(_finite)]


def _keeps_field(declared: Mapping[str, Any]) -> bool:
    is_derived = any(declared.get(key) is not None for key in ("bins", "groups", "top"))
    return is_derived and declared.get("field") != SCENARIO_FIELD


class Scenario(Settings):
    """Rule by which a row's scenario follows from one field.

    Exactly one of four ways: the field's own values (none of `bins`, `groups` and `top`), the bins of a number, named
    groups of values, or its most frequent values.
    """

    field: Annotated[str | None, BeforeValidator(_name)] = None
    """The field that decides; `None`, which cannot be declared, means that all rows are one scenario named "all"."""
    bins: Annotated[tuple[float, ...], BeforeValidator(_edges)] | None = None
    """Ascending inner edges, each of which belongs to the bin on its right; n edges make n + 1 scenarios."""
    groups: Annotated[dict[str, tuple[str, ...]], BeforeValidator(_groups)] | None = None
    """Scenario name -> the field's values that belong to it, as they are written in an atomic file."""
    names: Annotated[tuple[Name, ...], BeforeValidator(_as_tuple)] | None = None
    """Names for the bins, instead of those made of the edges, such as "age<25"."""
    top: Annotated[int, BeforeValidator(_count)] | None = None
    """How many of the field's values are scenarios: the most frequent ones of the training rows. All others are the
    scenario `other`."""
    other: Name | None = None
    """With `groups`: the scenario of every value that no group lists (without it, such a value is an error). With
    `top`: the scenario of the rest."""
    keep_field: bool = Field(default_factory=_keeps_field)
    """Keep the field as an ordinary feature too. True by default where the scenario is derived from it, and False where
    it is the scenario itself."""

    @model_validator(mode="after")
    def _consistent(self) -> Scenario:
        ways = [key for key in ("bins", "groups", "top") if getattr(self, key) is not None]
        if len(ways) > 1:
            raise ValueError(f"give {' or '.join(ways)}, not {'both' if len(ways) == 2 else 'all'}")
        if self.names is not None:
            n_bins = 0 if self.bins is None else len(self.bins) + 1
            if len(self.names) != n_bins or len(set(self.names)) < n_bins:
                raise ValueError(f"names are for bins, one more than edges and all different, got {list(self.names)}")
        if self.top is not None and self.other is None:
            raise ValueError("top needs the name of the scenario of all other values: other: rest")
        if self.other is not None and self.top is None and (self.groups is None or self.other in self.groups):
            raise ValueError("'other' goes with groups or top, and must not be the name of a group")
        if self.keep_field and self.field == SCENARIO_FIELD:
            raise ValueError(f"a field called '{SCENARIO_FIELD}' is replaced and cannot be kept; rename it")
        return self

    def fixed_names(self) -> list[str] | None:
        """Return the scenario names that follow from the declaration alone, in order; None where the data decide."""
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

    def with_top(self, values: Sequence[str], has_rest: bool) -> Scenario:
        """Return the declaration with `top` resolved: a group for each of the most frequent values, and the rest.

        Args:
            values: these values, in the order of the scenarios.
            has_rest: whether a row has another value; without one, a value that is none of these is unknown later on.
        """
        groups = {value: (value,) for value in values}
        return self.model_copy(update={"groups": groups, "top": None, "other": self.other if has_rest else None})

    def examples(self, name: str) -> list[Any]:
        """Return values of the field among which there are some of the named scenario, wherever one can be told."""
        if self.bins is not None:
            return [math.nextafter(self.bins[0], -math.inf), *self.bins]
        if self.groups is None:
            return [name]
        listed = [value for tokens in self.groups.values() for value in tokens]
        unlisted = f"{self.other}_"
        while unlisted in listed:
            unlisted += "_"
        return [*listed, unlisted]

    def assign(self, values: Sequence[Any], names: Sequence[str]) -> np.ndarray:
        """Return scenario ids of raw values, shape (N,): 1..M in the order of `names`, 0 for a value of no scenario."""
        if self.field is None:
            return np.ones(len(values), dtype=np.int64)
        if self.bins is not None:
            numbers = np.array([_number(value) for value in values], dtype=np.float64)
            ids = np.searchsorted(np.array(self.bins), numbers, side="right") + 1
            return np.where(np.isnan(numbers), UNKNOWN_SCENARIO, ids).astype(np.int64)
        id_of = {name: i for i, name in enumerate(names, start=1)}
        if self.groups is not None:
            id_of = {value: id_of[name] for name, tokens in self.groups.items() for value in tokens}
        fallback = len(names) if self.other else UNKNOWN_SCENARIO
        return np.array(
            [UNKNOWN_SCENARIO if token is None else id_of.get(token, fallback) for token in map(as_token, values)],
            dtype=np.int64,
        ).reshape(len(values))


def interaction_place(row: int) -> str:
    """Name a row by its number alone."""
    return f"interaction {row + 1}"


class Task(Settings):
    """A label: 0 or 1 (a 0/1 field, or a number compared with a threshold), a number to be predicted, or a class."""

    name: str
    """The task's name in results: the key of the declaration."""
    field: Name
    """The field the label is read from."""
    at_least: Number | None = None
    """Label 1 where the number is >= this; without a threshold the field holds 0 and 1 itself."""
    above: Number | None = None
    """Label 1 where the number is > this."""
    missing: Literal["error", "ignore"] = "error"
    """"error" (a row without a value stops the run) or "ignore" (such a row does not count for this task)."""
    weight: Name | None = None
    """The field with the weight of each row in the task's loss, numbers >= 0; without one all rows count alike."""
    weighted: bool = False
    """With `weight`: evaluate the task by the rows' weights, too; metrics so weighted are called weighted_METRIC."""
    type: Literal["binary", "number", "classes"] = "binary"
    """"binary" (a label of 0 and 1), "number" (a regression; predictions come in the field's unit) or "classes" (one of
    several values, each with a probability)."""
    classes: Annotated[tuple[str, ...], BeforeValidator(_classes)] | None = None
    """The classes in their order; by default the field's values, numbers ascending, else by text."""
    ordered: bool = False
    """Classes stand for numbers: the expected value is predicted too."""
    transform: Literal["none", "log1p", "quantile"] = "none"
    """Of a number, before it is brought to mean 0 and deviation 1 over the training rows: none, log(1 + y), or its
    quantile among the training rows."""
    loss: Literal["mse", "huber", "mae"] = "mse"
    """Of a number so brought: squared error, Huber's with delta 1, or absolute error."""
    after: Name | None = None
    """The task without which this one cannot be: p(buy) = p(click) p(buy | click) for a purchase after a click."""
    strict: bool = False
    """With `after`: refuse rows with label 1 of this task and 0 of the one before it, instead of a warning."""

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        if self.at_least is not None and self.above is not None:
            raise ValueError("give at_least or above, not both")
        if self.type == "number":
            if self.at_least is not None or self.above is not None:
                raise ValueError("at_least and above make a label of 0 and 1, which type: number is not")
        elif self.model_fields_set & {"transform", "loss"}:
            raise ValueError("transform and loss are for type: number")
        if self.type == "classes":
            if self.at_least is not None or self.above is not None:
                raise ValueError("at_least and above make a label of 0 and 1, which type: classes is not")
        elif self.model_fields_set & {"classes", "ordered"}:
            raise ValueError("classes and ordered are for type: classes")
        if self.after is not None and self.type != "binary":
            raise ValueError(f"after is for labels of 0 and 1, which type: {self.type} is not")
        if self.after is None and "strict" in self.model_fields_set:
            raise ValueError("strict goes with after, the task that comes before this one")
        if self.weight is None and "weighted" in self.model_fields_set:
            raise ValueError("weighted goes with weight, the field with the weights of the rows")
        return self

    @property
    def kind(self) -> TaskType:
        """The type, by which losses and metrics are chosen."""
        return "ordered" if self.ordered else self.type

    @property
    def label_field(self) -> str:
        """The name of the float column with the task's labels."""
        return label_field(self.name)

    @property
    def weight_field(self) -> str | None:
        """The name of the float column with the task's weights; None where rows count alike."""
        return None if self.weight is None else weight_field(self.name)

    @property
    def missing_label(self) -> float:
        """What stands for a label that a row does not carry."""
        return MISSING_LABELS[self.kind]

    def labels(self, values: Sequence[Any], place: Callable[[int], str] = interaction_place) -> np.ndarray:
        """Return the labels of raw values, shape (N,), float32: 0 and 1, or numbers, or `MISSING_LABELS` of the type.

        Args:
            values: (N,).
            place: tells where row i is, for errors.

        Raises:
            InputError: a value is not a number, not 0/1 where no threshold is given, missing where it may not be, or
                one that the transform does not take.
        """
        numbers = np.asarray(values)
        if numbers.dtype.kind not in "fiub":
            numbers = np.array([_number(value) for value in values], dtype=np.float64)
            no_numbers = [i for i in np.flatnonzero(np.isnan(numbers)).tolist() if not _is_missing(values[i])]
            if no_numbers:
                raise InputError(
                    f"task '{self.name}': field '{self.field}' must hold numbers, but holds "
                    f"'{values[no_numbers[0]]}' in {place(no_numbers[0])} ({len(no_numbers)} such values)"
                )
        numbers = numbers.astype(np.float64)
        missing = np.isnan(numbers)
        self.check_missing(missing, place)
        if self.type == "number":
            return self._checked_numbers(numbers, missing, place)
        if self.at_least is not None:
            labels = numbers >= self.at_least
        elif self.above is not None:
            labels = numbers > self.above
        else:
            wrong = ~missing & (numbers != 0) & (numbers != 1)
            if wrong.any():
                raise InputError(
                    f"task '{self.name}': field '{self.field}' must hold 0 and 1, but holds {numbers[wrong][0]:g} in "
                    f"{int(wrong.sum())} rows (the first is {place(int(wrong.argmax()))}). For a threshold, declare "
                    f"tasks: {{{self.name}: {{field: {self.field}, at_least: NUMBER}}}}."
                )
            labels = numbers == 1
        return np.where(missing, MISSING_LABEL, labels).astype(np.float32)

    def check_missing(self, missing: np.ndarray, place: Callable[[int], str] = interaction_place) -> None:
        """Refuse rows without a value (N,), where the declaration does not allow them; `place` as in `labels`.

        Raises:
            InputError: names the first one.
        """
        if missing.any() and self.missing == "error":
            raise InputError(
                f"task '{self.name}': field '{self.field}' has no {'value' if self.type == 'classes' else 'number'} in "
                f"{int(missing.sum())} of {len(missing)} rows (the first is {place(int(missing.argmax()))}). "
                "If rows may lack this label, declare it: "
                f"tasks: {{{self.name}: {{field: {self.field}, ..., missing: ignore}}}}; otherwise mend the data."
            )

    def _checked_numbers(self, numbers: np.ndarray, missing: np.ndarray, place: Callable[[int], str]) -> np.ndarray:
        beyond = ~missing & (np.abs(numbers) > np.finfo(np.float32).max)
        negative = ~missing & (numbers < 0) if self.transform == "log1p" else np.zeros(len(numbers), dtype=bool)
        for wrong, rule in (
            (beyond, "must hold finite numbers"),
            (negative, "must hold numbers >= 0 for transform: log1p (none and quantile take any)"),
        ):
            if wrong.any():
                raise InputError(
                    f"task '{self.name}': field '{self.field}' {rule}, but holds {numbers[wrong][0]:g} in "
                    f"{int(wrong.sum())} of {len(numbers)} rows (the first is {place(int(wrong.argmax()))})"
                )
        return np.where(missing, self.missing_label, numbers).astype(np.float32)


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
        """The tasks' names, in their declared order."""
        return [task.name for task in self.tasks]

    @property
    def label_fields(self) -> list[str]:
        """The names of the tasks' float columns with labels, in the declared order."""
        return [task.label_field for task in self.tasks]

    @property
    def weight_fields(self) -> dict[str, str]:
        """The names of the float columns with weights, by the tasks that have weights, in the declared order."""
        return {task.name: task.weight_field for task in self.tasks if task.weight_field is not None}

    @property
    def weighted_types(self) -> dict[str, TaskType]:
        """The type of each task and conditional that is evaluated by weights, too, by name."""
        weighted = {task.name for task in self.tasks if task.weighted}
        of = {name: self.conditionals.get(name, (name, None))[0] for name in self.predicted_types}
        return {name: kind for name, kind in self.predicted_types.items() if of[name] in weighted}

    def metric_weights(self, names: Iterable[str], column: Callable[[str], np.ndarray]) -> dict[str, np.ndarray]:
        """Return the weights of the rows (N,), by those of the tasks and conditionals that are evaluated by weights.

        A conditional has its task's weights.

        Args:
            names: names of tasks, and of `conditionals`.
            column: the weights (N,) of a weight field.
        """
        weighted = self.weighted_types
        tasks = {name: self.conditionals.get(name, (name, None))[0] for name in names if name in weighted}
        return {name: column(weight_field(task)) for name, task in tasks.items()}

    @property
    def metric_weight_fields(self) -> list[str]:
        """The names of the float columns with weights that the evaluation needs."""
        return [weight_field(task.name) for task in self.tasks if task.weighted]

    @property
    def types(self) -> dict[str, TaskType]:
        """The type of each task, by name, in the declared order."""
        return {task.name: task.kind for task in self.tasks}

    @property
    def missing_labels(self) -> list[float]:
        """What stands for a missing label of each task, in the declared order."""
        return [task.missing_label for task in self.tasks]

    @property
    def main_index(self) -> int:
        """The place of the main task among the tasks, from 0."""
        return self.task_names.index(self.main_task)

    @property
    def parents(self) -> dict[str, str]:
        """The task before each task that is declared with `after`, by name, in the declared order."""
        return {task.name: task.after for task in self.tasks if task.after is not None}

    @property
    def conditionals(self) -> dict[str, tuple[str, str]]:
        """The probabilities that are predicted beside the tasks: "buy|click" -> buy, click."""
        return {f"{task}|{parent}": (task, parent) for task, parent in self.parents.items()}

    @property
    def predicted_types(self) -> dict[str, TaskType]:
        """The type of each task and then of each conditional, by name: all that a model of all tasks predicts."""
        return {**self.types, **dict.fromkeys(self.conditionals, "binary")}

    def labels(self, names: Sequence[str], column: Callable[[str], np.ndarray]) -> np.ndarray:
        """Return the labels of tasks and conditionals (N, number of names).

        A conditional has its task's labels, where the task before it has label 1; elsewhere they are missing.

        Args:
            names: names of tasks, and of `conditionals`.
            column: the labels (N,) of a label field.
        """
        columns = []
        for name in names:
            task, parent = self.conditionals.get(name, (name, None))
            labels = column(label_field(task))
            if parent is not None:
                labels = np.where(column(label_field(parent)) == 1, labels, MISSING_LABEL).astype(labels.dtype)
            columns.append(labels)
        return np.stack(columns, axis=1)

    @classmethod
    def from_config(cls, config: Any) -> Schema | None:
        """Read the schema of a configuration (a mapping or a RecBole Config); None where it declares no tasks.

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
        declared = tuple(_task(_task_name(name), spec) for name, spec in tasks.items())
        names = [task.name for task in declared]
        if len(set(names)) < len(names):
            raise InputError(f"two tasks have the same name in {names}")
        _check_order(declared)
        main = names[0] if main_task is None else _declared_name("main_task", main_task)
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


def _declared_name(what: str, value: Any) -> str:
    try:
        return _name(value)
    except ValueError as error:
        raise InputError(f"{what} {error}") from None


def _task_name(key: Any) -> str:
    name = _declared_name("task name", key)
    if not all(character.isalnum() or character in "_-" for character in name):
        raise InputError(f"task name '{name}' may hold letters, digits, '_' and '-' only")
    if name.casefold() in _RESERVED_NAMES:
        raise InputError(
            f"task name '{name}' is taken: {', '.join(_RESERVED_NAMES)} are means and sums in results; choose another"
        )
    return name


def _task(name: str, declared: Any) -> Task:
    declared = {"field": declared} if isinstance(declared, str) else declared
    return validate(Task, declared, f"task '{name}'", example="{field: rating, at_least: 4}", preset={"name": name})


def _check_order(tasks: Sequence[Task]) -> None:
    """Refuse tasks after a task that there is not, that has no label of 0 and 1, or that comes after them in turn."""
    by_name = {task.name: task for task in tasks}
    for task in tasks:
        if task.after is None:
            continue
        if task.after not in by_name:
            others = [name for name in by_name if name != task.name]
            hint = nearest(task.after, others) or "."
            raise InputError(
                f"task '{task.name}': after: there is no task '{task.after}'{hint} The others are: {', '.join(others)}"
            )
        parent = by_name[task.after]
        if parent.type != "binary":
            raise InputError(
                f"task '{task.name}': after: task '{parent.name}' is of type {parent.type}, and a task comes after one "
                "with labels of 0 and 1"
            )
    for task in tasks:
        path = [task.name]
        while (before := by_name[path[-1]].after) is not None:
            if before in path:
                circle = [*path[path.index(before) :], before]
                raise InputError(f"tasks come after one another in a circle ({' after '.join(circle)}): take one out")
            path.append(before)


def _scenario(declared: Any) -> Scenario:
    if declared is None:
        return Scenario()
    declared = {"field": declared} if isinstance(declared, str) else declared
    scenario = validate(Scenario, declared, "scenario", example="{field: age, bins: [25, 35]}")
    if scenario.field is None:
        raise InputError("scenario needs a field, e.g. scenario: {field: age, bins: [25, 35]}")
    return scenario
