"""All parameters of a trial at once: drawn by a sampler, followed along a path, or read off."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from recbole_msr.errors import InputError
from recbole_msr.tuning.space.space import Space

MOST_POINTS = 10_000
"""A space with more points counts as endless: no search tries them all."""


class Drawing(FixedTrial):
    """A trial whose parameters are given, or else taken from a function when the space asks for them.

    Args:
        given: parameters that are known.
        take: returns the value of another one, from its name and distribution.
    """

    def __init__(self, given: Mapping[str, Any], take: Callable[[str, BaseDistribution], Any]) -> None:
        super().__init__(dict(given))
        self._take = take

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if name not in self._params:
            self._params[name] = self._take(name, distribution)
        return super()._suggest(name, distribution)


def settings_key(settings: Mapping[str, Any]) -> str:
    """Return a text that is the same for equal settings alone; True is not 1, 64.0 is 64."""
    whole = {name: _plain_number(value) for name, value in settings.items()}
    return json.dumps(whole, sort_keys=True, default=str)


def _plain_number(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return [_plain_number(part) for part in value] if isinstance(value, (list, tuple)) else value


def key_of(space: Space, params: Mapping[str, Any]) -> str | None:
    """Return the key of the settings that parameters give; None where they do not give all of them."""
    try:
        return settings_key(space.settings(params))
    except InputError:
        return None


def points(space: Space, given: Mapping[str, Any], most: int = MOST_POINTS) -> dict[str, dict[str, Any]] | None:
    """Return all points of a space, with conditions: the key of their settings -> their parameters.

    Args:
        space: the space.
        given: parameters that all of them have.
        most: maximum number of points.

    Returns:
        The points; None where there are more, or where a number has no step.
    """
    found: dict[str, dict[str, Any]] = {}
    path: list[list[int]] = []  # [which value is taken, how many there are] for each parameter in turn
    try:
        for number, (settings, params) in enumerate(_walk(space, given, path)):
            if number >= most:
                return None
            found.setdefault(settings_key(settings), params)
    except _EndlessError:
        return None
    return found


def _walk(
    space: Space, given: Mapping[str, Any], path: list[list[int]]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Go through all combinations in the order of the space, the last parameter fastest."""
    while True:
        depth = 0

        def take(_: str, distribution: BaseDistribution) -> Any:
            nonlocal depth
            values = _values(distribution)
            if depth == len(path):
                path.append([0, len(values)])
            depth += 1
            return values[path[depth - 1][0]]

        drawing = Drawing(given, take)
        yield space.suggest(drawing), dict(drawing.params)
        while path and path[-1][0] + 1 == path[-1][1]:
            path.pop()
        if not path:
            return
        path[-1][0] += 1


class _EndlessError(Exception):
    """A parameter has endlessly many values, or too many."""


def _values(distribution: BaseDistribution) -> list[Any]:
    """Return all values of a parameter."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntDistribution):
        if (distribution.high - distribution.low) // distribution.step < MOST_POINTS:
            return list(range(distribution.low, distribution.high + 1, distribution.step))
    elif isinstance(distribution, FloatDistribution):
        if distribution.low == distribution.high:
            return [distribution.low]
        if distribution.step is not None:
            count = round((distribution.high - distribution.low) / distribution.step) + 1
            if count <= MOST_POINTS:
                return [distribution.low + distribution.step * index for index in range(count)]
    raise _EndlessError
