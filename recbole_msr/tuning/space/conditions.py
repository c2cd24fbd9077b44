"""Conditions between parameters: their order, and combinations that can never exist."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from recbole_msr.errors import InputError
from recbole_msr.tuning.space.parameters import Parameter, same

Needs = dict[str, list[Any]]
"""Parameter -> the values it must be among."""


def in_order(parameters: Sequence[Parameter]) -> list[Parameter]:
    """Put every parameter after those that its conditions name, in stable order; sort the values of conditions.

    Raises:
        InputError: conditions in a circle, or parameters that can never exist.
    """
    rest = list(parameters)
    placed: dict[str, Parameter] = {}
    while rest:
        free = next((parameter for parameter in rest if all(name in placed for name in parameter.when)), None)
        if free is None:
            circle = _circle(rest)
            names = " needs ".join(parameter.name for parameter in [*circle, circle[0]])
            raise InputError(f"{circle[0].place}: conditions in a circle: {names}")
        rest.remove(free)
        placed[free.name] = _tidy(free, placed)
    for parameter in placed.values():
        for name, values in needs(parameter, placed).items():
            if not values:
                raise InputError(
                    f"{parameter.place}: '{parameter.name}' can never exist: its conditions, and those of what it "
                    f"depends on, want '{name}' to have two values at once"
                )
    return list(placed.values())


def _circle(rest: Sequence[Parameter]) -> list[Parameter]:
    """Return parameters each of which depends on the next, the last on the first."""
    by_name = {parameter.name: parameter for parameter in rest}
    path = [next(parameter for parameter in rest if any(name in by_name for name in parameter.when))]
    while True:
        following = next(by_name[name] for name in path[-1].when if name in by_name)
        if following in path:
            return path[path.index(following) :]
        path.append(following)


def _tidy(parameter: Parameter, placed: Mapping[str, Parameter]) -> Parameter:
    """Sort the values of a parameter's conditions as their parameter has them; drop conditions that always hold."""
    when = {}
    for name, wanted in parameter.when.items():
        values = placed[name].values() or []
        if not placed[name].is_known:
            when[name] = wanted
        elif placed[name].when or not all(_among(value, wanted) for value in values):
            when[name] = tuple(value for value in values if _among(value, wanted)) or wanted
    return replace(parameter, when=when)


def needs(parameter: Parameter, by_name: Mapping[str, Parameter]) -> Needs:
    """Return all conditions for a parameter to exist: its own, and those of the parameters that it depends on."""
    needed: Needs = {}
    waiting = [parameter]
    while waiting:
        for name, values in waiting.pop().when.items():
            needed[name] = [v for v in needed[name] if _among(v, values)] if name in needed else list(values)
            waiting.append(by_name[name])
    return needed


def refuse_overlaps(parameters: Sequence[Parameter]) -> None:
    """Refuse two parameters that may set one key at once.

    Raises:
        InputError: names both.
    """
    by_name = {parameter.name: parameter for parameter in parameters}
    for parameter, other in combinations(parameters, 2):
        if parameter.key == other.key:
            first, second = needs(parameter, by_name), needs(other, by_name)
            shared = (name for name in first if name in second)
            if all(any(_among(v, second[name]) for v in first[name]) for name in shared):
                raise InputError(
                    f"{other.place}: '{parameter.name}' and '{other.name}' may both set '{other.key}': give them "
                    "conditions of which only one holds"
                )


def settled(parameters: Iterable[Parameter], fixed: Mapping[str, Any], keys: Mapping[str, str]) -> list[Parameter]:
    """Decide conditions on fixed values: drop those that hold, and parameters with one that does not.

    Args:
        parameters: the searched parameters.
        fixed: values by configuration key.
        keys: configuration key of every parameter, also of those that are fixed now.
    """
    kept = list(parameters)
    while True:
        names = {parameter.name for parameter in kept}
        following = []
        for parameter in kept:
            when = {}
            for name, wanted in parameter.when.items():
                if name in names:
                    when[name] = wanted
                elif not _among(fixed.get(keys.get(name, name), _NOTHING), wanted):
                    break
            else:
                following.append(replace(parameter, when=when))
        if following == kept:
            return kept
        kept = following


_NOTHING = object()


def _among(value: Any, values: Iterable[Any]) -> bool:
    return any(same(value, other) for other in values)
