"""Settings of a model, read from a configuration and checked one by one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any, NoReturn

from recbole_msr.errors import InputError, nearest


class Options:
    """Typed access to a configuration (a RecBole `Config` or a mapping).

    Every method takes a key and returns its value, or raises an `InputError` that names the key, what was
    found and what would be right.

    >>> Options({"sub_experts": 5}).integer("sub_experts", at_least=1)
    5
    """

    def __init__(self, config: Any) -> None:
        self._config = config

    def integer(self, key: str, *, at_least: int = 1) -> int:
        """Return a whole number not below `at_least`."""
        value = self._value(key)
        if _is_integer(value, at_least):
            return int(value)
        self._refuse(key, f"an integer >= {at_least}")

    def number(
        self, key: str, *, at_least: float = -math.inf, above: float = -math.inf, below: float = math.inf
    ) -> float:
        """Return a finite number x with `at_least` <= x, `above` < x and x < `below`."""
        value = self._value(key)
        if isinstance(value, Real) and not isinstance(value, bool):
            number = float(value)
            if math.isfinite(number) and at_least <= number and above < number < below:
                return number
        bounds = [
            f">= {at_least:g}" if at_least > -math.inf else "",
            f"> {above:g}" if above > -math.inf else "",
            f"< {below:g}" if below < math.inf else "",
        ]
        self._refuse(key, " ".join(["a number", " and ".join(filter(None, bounds))]).strip())

    def flag(self, key: str) -> bool:
        """Return True or False."""
        value = self._value(key)
        if isinstance(value, bool):
            return value
        self._refuse(key, "true or false")

    def choice(self, key: str, choices: Iterable[str]) -> str:
        """Return one of the words in `choices`."""
        value, choices = self._value(key), list(choices)
        if isinstance(value, str) and value in choices:
            return value
        self._refuse(key, f"one of {', '.join(choices)}", nearest(str(value), choices))

    def sizes(self, key: str, *, may_be_empty: bool = False) -> list[int]:
        """Return layer widths, a list of integers >= 1."""
        value = self._value(key)
        is_list = isinstance(value, Sequence) and not isinstance(value, str) and (value or may_be_empty)
        if is_list and all(_is_integer(size, 1) for size in value):
            return [int(size) for size in value]
        example = "such as [128, 64]" + (", or []" if may_be_empty else "")
        self._refuse(key, f"a {'' if may_be_empty else 'non-empty '}list of integers >= 1, {example}")

    def words(self, key: str, choices: Iterable[str]) -> list[str]:
        """Return a list of different words in `choices`."""
        value, choices = self._value(key), list(choices)
        if not isinstance(value, Sequence) or isinstance(value, str) or len({str(v) for v in value}) < len(value):
            self._refuse(key, f"a list of different words of {', '.join(choices)}")
        for word in value:
            if word not in choices:
                self._refuse(key, f"a list of words of {', '.join(choices)}", nearest(str(word), choices))
        return [str(word) for word in value]

    def _value(self, key: str) -> Any:
        try:
            return self._config[key]
        except KeyError:
            return None

    def _refuse(self, key: str, right: str, hint: str = "") -> NoReturn:
        value = self._value(key)
        found = "but it is not set" if value is None else f"got {value!r}"
        raise InputError(f"'{key}' must be {right}, {found}{hint}")


def _is_integer(value: Any, at_least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= at_least
