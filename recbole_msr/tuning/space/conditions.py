"""Conditions between parameters: an order in which all are known, and what can never be."""

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
    """Every parameter behind those that its conditions name; else as given. Conditions list values in their order.

    Raises:
        InputError: conditions in a circle, or parameters that can never exist.
    """
    rest = list(parameters)
    placed: dict[str, Parameter] = {}
    while rest:
        free = next((one for one in rest if all(name in placed for name in one.when)), None)
        if free is None:
            circle = _circle(rest)
            told = " needs ".join(one.name for one in [*circle, circle[0]])
            raise InputError(f"{circle[0].place}: conditions in a circle: {told}")
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
    """Parameters each of which waits for the next, the last for the first."""
    by_name = {parameter.name: parameter for parameter in rest}
    path = [next(one for one in rest if any(name in by_name for name in one.when))]
    while True:
        following = next(by_name[name] for name in path[-1].when if name in by_name)
        if following in path:
            return path[path.index(following) :]
        path.append(following)


def _tidy(parameter: Parameter, placed: Mapping[str, Parameter]) -> Parameter:
    """Conditions list values in the order of the parameter they are on; one that always holds is dropped."""
    when = {}
    for name, wanted in parameter.when.items():
        values = placed[name].values() or []
        if not placed[name].is_known:
            when[name] = wanted
        elif placed[name].when or not all(_among(value, wanted) for value in values):
            when[name] = tuple(value for value in values if _among(value, wanted)) or wanted
    return replace(parameter, when=when)


def needs(parameter: Parameter, known: Mapping[str, Parameter]) -> Needs:
    """All that must be for a parameter to exist: its conditions, and those of what it depends on."""
    found: Needs = {}
    waiting = [parameter]
    while waiting:
        for name, values in waiting.pop().when.items():
            found[name] = [v for v in found[name] if _among(v, values)] if name in found else list(values)
            waiting.append(known[name])
    return found


def refuse_overlaps(parameters: Sequence[Parameter]) -> None:
    """Refuse two parameters that may set one key at once.

    Raises:
        InputError: names both.
    """
    known = {parameter.name: parameter for parameter in parameters}
    for one, other in combinations(parameters, 2):
        if one.key == other.key:
            first, second = needs(one, known), needs(other, known)
            apart = (name for name in first if name in second)
            if all(any(_among(v, second[name]) for v in first[name]) for name in apart):
                raise InputError(
                    f"{other.place}: '{one.name}' and '{other.name}' may both set '{other.key}': give them conditions "
                    "of which only one holds"
                )


def settled(parameters: Iterable[Parameter], fixed: Mapping[str, Any], keys: Mapping[str, str]) -> list[Parameter]:
    """Parameters with conditions on fixed values decided: one that holds is dropped, where one fails the parameter is.

    Args:
        parameters: those that are searched.
        fixed: values by configuration key.
        keys: the configuration key of every parameter, those among them that are fixed now.
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
    return any(same(value, one) for one in values)
