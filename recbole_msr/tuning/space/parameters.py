"""Searched parameters: sampling of a value, and the inverse."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

MAX_VALUES = 10_000
"""A number with more values can be neither in a condition nor in a grid."""

Found = tuple[dict[str, Any], list[str]]
"""Optuna parameters that give a value, and a line for every part of it that is outside the space."""


@dataclass(frozen=True)
class Parameter(ABC):
    """One searched key.

    Attributes:
        name: its name in the space and in Optuna; of a list of layers, the prefix of its Optuna names.
        key: the configuration key it sets; the name, unless several parameters set one key under different conditions.
        when: other parameter -> values of it with which this one exists; all must hold.
        place: "FILE:LINE" for messages.
    """

    name: str
    key: str
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    place: str = field(default="", compare=False)

    @abstractmethod
    def suggest(self, trial: BaseTrial) -> Any:
        """Sample the key's value."""

    @abstractmethod
    def find(self, value: Any) -> Found:
        """Invert `suggest`. A number outside the space becomes the nearest inside; other values give no parameters."""

    @abstractmethod
    def grid(self) -> dict[str, list[Any]] | None:
        """Return all values by Optuna name; None where they cannot be listed."""

    @abstractmethod
    def values(self) -> list[Any] | None:
        """Return all values of the key; None where they cannot be a condition."""

    @property
    def is_known(self) -> bool:
        """Return whether `values` is complete."""
        return True

    @property
    def is_endless(self) -> bool:
        """Return whether there are more values than can be counted: a float without a step."""
        return False

    @abstractmethod
    def body(self) -> dict[str, Any]:
        """Return the keys of the file, without `key` and `when`."""

    def to_dict(self) -> dict[str, Any]:
        """Return all keys of the file."""
        key = {"key": self.key} if self.key != self.name else {}
        when = {"when": {name: list(values) for name, values in self.when.items()}} if self.when else {}
        return key | self.body() | when


@dataclass(frozen=True)
class Number(Parameter):
    """An integer or a float between bounds, both included; every `step`, or log-uniform."""

    low: float = 0
    high: float = 0
    is_integer: bool = False
    log: bool = False
    step: float | None = None

    def suggest(self, trial: BaseTrial) -> Any:
        """Sample the key's value."""
        if not self.is_integer:
            return self._on_step(trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log))
        return trial.suggest_int(self.name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)

    def find(self, value: Any) -> Found:
        """Invert `suggest`."""
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            return {}, [f"{self.key} is {shown(value)}, no number: it is sampled"]
        nearest = self._on_step(min(max(float(value), self.low), self.high))
        lines = []
        if not math.isclose(nearest, float(value), rel_tol=1e-9, abs_tol=1e-12):
            lines = [
                f"{self.key} is {shown(value)}, the space holds {self._range()}: the nearest, {nearest:g}, is taken"
            ]
        return {self.name: int(nearest) if self.is_integer else nearest}, lines

    def grid(self) -> dict[str, list[Any]] | None:
        """Return all values by Optuna name; None where they cannot be listed."""
        values = self.values()
        return None if values is None else {self.name: values}

    def values(self) -> list[Any] | None:
        """Return all values of the key; None where they cannot be a condition."""
        if self.log or (self.step is None and not self.is_integer):
            return None
        low, step = Decimal(str(self.low)), Decimal(str(self.step or 1))
        count = int((Decimal(str(self.high)) - low) / step)
        if count >= MAX_VALUES:
            return None
        numbers = [low + step * i for i in range(count + 1)]
        return [int(number) if self.is_integer else float(number) for number in numbers]

    @property
    def is_endless(self) -> bool:
        """Return whether it is a float without a step."""
        return not self.is_integer and self.step is None and self.low < self.high

    def body(self) -> dict[str, Any]:
        """Return the keys of the file, without `key` and `when`."""
        kind = {"type": "int" if self.is_integer else "float", "low": self.low, "high": self.high}
        return kind | ({"log": True} if self.log else {}) | ({} if self.step is None else {"step": self.step})

    def _on_step(self, value: float) -> float:
        step = 1 if self.is_integer and self.step is None else self.step
        if step is None:
            return value
        # In decimals: 0.1 + 2 * 0.1 is 0.3, not 0.30000000000000004.
        return float(Decimal(str(self.low)) + Decimal(str(step)) * round((value - self.low) / step))

    def _range(self) -> str:
        return f"{self.low:g} to {self.high:g}" + (f" by {self.step:g}" if self.step is not None else "")


@dataclass(frozen=True)
class Categorical(Parameter):
    """A choice between plain values. Optuna keeps words and numbers; a list has its JSON as label."""

    choices: tuple[Any, ...] = ()

    def suggest(self, trial: BaseTrial) -> Any:
        """Sample the key's value."""
        chosen = trial.suggest_categorical(self.name, [label(choice) for choice in self.choices])
        return plain(next(choice for choice in self.choices if same(label(choice), chosen)))

    def find(self, value: Any) -> Found:
        """Invert `suggest`."""
        value = plain(value)
        for choice in self.choices:
            if same(choice, value):
                return {self.name: label(choice)}, []
        held = f"{self.key} is {shown(value)}, the space holds {', '.join(shown(choice) for choice in self.choices)}"
        if is_number(value) and all(is_number(choice) for choice in self.choices):
            nearest = min(self.choices, key=lambda choice: abs(choice - value))
            return {self.name: nearest}, [f"{held}: the nearest, {nearest}, is taken"]
        return {}, [f"{held}: it is sampled"]

    def grid(self) -> dict[str, list[Any]]:
        """Return all values by Optuna name; None where they cannot be listed."""
        return {self.name: [label(choice) for choice in self.choices]}

    def values(self) -> list[Any]:
        """Return all values of the key; None where they cannot be a condition."""
        return [plain(choice) for choice in self.choices]

    def body(self) -> dict[str, Any]:
        """Return the keys of the file, without `key` and `when`."""
        return {"type": "categorical", "choices": self.values()}


@dataclass(frozen=True)
class Layers(Parameter):
    """A list of widths: their number (`NAME.depth`), and one parameter for each layer (`NAME.1`, `NAME.2`, ...).

    Attributes:
        fewest: smallest number of layers.
        most: largest number of layers.
        width: the parameter of every layer, without a name.
    """

    fewest: int = 1
    most: int = 1
    width: Number | Categorical = field(default_factory=lambda: Categorical("", ""))

    def suggest(self, trial: BaseTrial) -> list[Any]:
        """Sample the key's value."""
        depth = self.fewest if self._depth is None else self._depth.suggest(trial)
        return [self._layer(i).suggest(trial) for i in range(1, depth + 1)]

    def find(self, value: Any) -> Found:
        """Invert `suggest`."""
        if isinstance(value, str) or not isinstance(value, Sequence):
            return {}, [f"{self.key} is {shown(value)}, no list of layers: it is sampled"]
        params: dict[str, Any] = {}
        lines: list[str] = []
        depth = min(max(len(value), self.fewest), self.most)
        if depth != len(value):
            held = f"{self.fewest} to {self.most}" if self.fewest < self.most else f"{self.most}"
            lines.append(f"{self.key} has {len(value)} layers, the space holds {held}: {depth} are taken")
        if self._depth is not None:
            params[self._depth.name] = depth
        for i, width in enumerate(value[:depth], start=1):
            inside, outside = self._layer(i).find(width)
            params |= inside
            lines += outside
        return params, lines

    def grid(self) -> dict[str, list[Any]] | None:
        """Return all values by Optuna name; None where they cannot be listed."""
        if self.fewest < self.most:
            return None  # the second layer's width depends on there being one
        grids = [self._layer(i).grid() for i in range(1, self.most + 1)]
        return None if None in grids else {name: values for grid in grids if grid for name, values in grid.items()}

    def values(self) -> None:
        """Return all values of the key; None where they cannot be a condition."""
        return None

    @property
    def is_endless(self) -> bool:
        """Return whether widths are floats without a step."""
        return self.width.is_endless

    def body(self) -> dict[str, Any]:
        """Return the keys of the file, without `key` and `when`."""
        width = self.width.body()
        widths = (
            width["choices"] if isinstance(self.width, Categorical) else {k: width[k] for k in width if k != "type"}
        )
        depth = [self.fewest, self.most] if self.fewest < self.most else self.most
        return {"type": "layers", "depth": depth, "width": widths}

    @property
    def _depth(self) -> Number | None:
        if self.fewest == self.most:
            return None
        return Number(f"{self.name}.depth", self.key, low=self.fewest, high=self.most, is_integer=True)

    def _layer(self, number: int) -> Number | Categorical:
        return replace(self.width, name=f"{self.name}.{number}", key=f"{self.key}[{number - 1}]")


def is_number(value: Any) -> bool:
    """Return whether a value is a real number; True and False are not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """Return a deep copy of a value, with lists in place of tuples."""
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def same(value: Any, other: Any) -> bool:
    """Return whether two plain values are equal, where True is not 1."""
    return isinstance(value, bool) == isinstance(other, bool) and bool(plain(value) == plain(other))


def label(choice: Any) -> Any:
    """Return what Optuna keeps of a choice: itself, or the JSON of a list or a mapping."""
    return json.dumps(choice) if isinstance(choice, (list, tuple, Mapping)) else choice


def shown(value: Any) -> str:
    """Return a value for a message."""
    return "not set" if value is None else str(label(value))
