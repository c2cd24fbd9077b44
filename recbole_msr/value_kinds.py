"""Kinds of values that a configuration key may have: each says what is right, and takes a value or refuses it."""

from __future__ import annotations

import ast
import math
import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, NoReturn

from recbole_msr.errors import InputError, nearest

_LONGEST = 10_000
"""A text longer than this is not looked into for a number or a list."""


class WrongValueError(ValueError):
    """A value is not of its kind.

    Args:
        right: what would be right, for "KEY must be RIGHT".
        value: what was found.
        where: the keys and places that lead to it inside the whole value, outermost first.
        hint: further advice.
    """

    def __init__(self, right: str, value: Any, where: tuple[str, ...] = (), hint: str = "") -> None:
        super().__init__(right)
        self.right, self.value, self.where, self.hint = right, value, where, hint

    def message(self, key: str) -> str:
        """Return one line for the user about the value of `key`."""
        return f"{': '.join([key, *self.where])} must be {self.right}, got {shown(self.value)}{self.hint}"

    def within(self, place: str) -> WrongValueError:
        return WrongValueError(self.right, self.value, (place, *self.where), self.hint)


def shown(value: Any) -> str:
    """A value as a message shows it: cut where it is long."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    Attributes:
        right: what it is in words, for instance "a whole number of at least 1".
        take: returns the value as it is passed on (100.0 as 100 where a whole number is asked for), or raises
            `WrongValueError`.
    """

    right: str
    take: Callable[[Any], Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Let a pydantic model declare a field as `Annotated[int, whole(1)]`."""
        from pydantic_core import core_schema  # pydantic alone asks for it, and has imported it then

        return core_schema.no_info_plain_validator_function(self.take)


def take(key: str, kind: Kind, value: Any) -> Any:
    """The value of a key as its kind passes it on.

    Raises:
        InputError: it is of another kind; the message names the key and what would be right.
    """
    try:
        return kind.take(value)
    except WrongValueError as error:
        raise InputError(error.message(key)) from None


def anything() -> Kind:
    """No check here: who reads it checks it."""
    return Kind("anything", lambda value: value)


def whole(at_least: int | None = None, at_most: int | None = None) -> Kind:
    """A whole number; 100.0 is one."""
    right = "a whole number" + _between(at_least, at_most)

    def take(value: Any) -> int:
        number = literal(value)
        if not is_finite(number) or not (isinstance(number, Integral) or float(number).is_integer()):
            _refuse(right, value)
        if (at_least is not None and number < at_least) or (at_most is not None and number > at_most):
            _refuse(right, value)
        return int(number)

    return Kind(right, take)


def number(
    at_least: float | None = None, *, above: float | None = None, at_most: float | None = None,
    below: float | None = None, finite: bool = True,
) -> Kind:  # fmt: skip
    """A number, finite unless said otherwise, within the bounds."""
    bounds = [
        *([f"of at least {at_least:g}"] if at_least is not None else []),
        *([f"above {above:g}"] if above is not None else []),
        *([f"of at most {at_most:g}"] if at_most is not None else []),
        *([f"below {below:g}"] if below is not None else []),
    ]
    right = " ".join(["a number", " and ".join(bounds)]).strip()

    def take(value: Any) -> Any:
        found: Any = literal(value)
        if not _is_number(found) or found != found:
            _refuse(right, value)
        if finite and not is_finite(found):
            _refuse(right, value)
        wrong = (at_least is not None and found < at_least) or (above is not None and found <= above)
        if wrong or (at_most is not None and found > at_most) or (below is not None and found >= below):
            _refuse(right, value)
        return found

    return Kind(right, take)


def flag() -> Kind:
    """True or False."""

    def take(value: Any) -> bool:
        if isinstance(value, str) and value.strip().lower() in ("true", "false"):
            return value.strip().lower() == "true"
        if not isinstance(value, bool):
            _refuse("True or False", value)
        return value

    return Kind("True or False", take)


def text(what: str = "text", *, may_be_empty: bool = False) -> Kind:
    """Text that a file can hold; not empty unless said otherwise."""

    def take(value: Any) -> str:
        if not isinstance(value, str):
            _refuse(what, value, "; quote it if it is meant as text" if isinstance(value, (bool, Real)) else "")
        if "\0" in value or not _is_unicode(value):
            _refuse(f"{what} without NUL or broken characters", value)
        if not value.strip() and not (may_be_empty or value in ("\t", " ")):
            _refuse(f"{what}, not empty", value)
        return value

    return Kind(what, take)


def path(what: str) -> Kind:
    """The path of a file or folder; one of Python's `Path` becomes text."""

    def take(value: Any) -> str:
        return str(text(what).take(os.fspath(value) if isinstance(value, os.PathLike) else value))

    return Kind(what, take)


def name(what: str) -> Kind:
    """A name that the data or the user gives: text, or a number that stands for its digits."""

    def take(value: Any) -> Any:
        if isinstance(value, bool):
            _refuse(what, value, f"; quote it if it is a word: '{value}'")
        if is_finite(value):
            return value
        return text(what).take(value)

    return Kind(what, take)


def choice(*words: Any, any_case: bool = False) -> Kind:
    """One of the listed values."""
    right = f"one of {', '.join(map(str, words))}"

    def take(value: Any) -> Any:
        for found in (value, literal(value)):
            for word in words:
                same = found == word or (any_case and str(found).lower() == str(word).lower())
                if same and isinstance(found, bool) == isinstance(word, bool):
                    return found
        _refuse(right, value, nearest(str(value), [str(word) for word in words]) if isinstance(value, str) else "")

    return Kind(right, take)


def listing(of: Kind, *, of_what: str, at_least: int = 0, alone: bool = False, exactly: int | None = None) -> Kind:
    """A list of values of one kind.

    Args:
        of: the kind of each.
        of_what: what the list is of, in the plural.
        at_least: how many there must be.
        alone: whether a single value may stand without a list; it is passed on so.
        exactly: how many there must be, no more and no fewer.
    """
    count = f"{exactly} " if exactly is not None else ""
    right = f"a list of {count}{of_what}" if at_least == 0 else f"a list of {count}{of_what}, not empty"

    def take(value: Any) -> Any:
        found = literal(value) if isinstance(value, str) else value
        if isinstance(found, (list, tuple)):
            if len(found) < at_least or (exactly is not None and len(found) != exactly):
                _refuse(right, value)
            return [_within(str(place), of, one) for place, one in enumerate(found, start=1)]
        if not alone:
            _refuse(right, value)
        return of.take(value)

    return Kind(right, take)


def mapping(keys: Kind, values: Kind, example: str) -> Kind:
    """A mapping whose keys and values are each of one kind."""
    right = f"a mapping such as {example}"

    def take(value: Any) -> dict[Any, Any]:
        found = _mapping(value, right)
        return {keys.take(key): _within(str(key), values, one) for key, one in found.items()}

    return Kind(right, take)


def record(example: str, needed: Sequence[str] = (), **fields: Kind) -> Kind:
    """A mapping with known keys, each with its own kind."""
    right = f"a mapping such as {example}"

    def take(value: Any) -> dict[str, Any]:
        found = _mapping(value, right)
        for key in found:
            if key not in fields:
                _refuse(f"{right} (keys: {', '.join(fields)})", value, nearest(str(key), fields))
        for key in needed:
            if found and key not in found:
                _refuse(f"{right}, with '{key}'", value)
        return {key: _within(str(key), fields[key], one) for key, one in found.items()}

    return Kind(right, take)


def maybe(of: Kind, *, word: bool = True) -> Kind:
    """Also nothing: `~` in YAML, None in Python; and the word None, which RecBole takes so, unless it may be a name."""
    right = f"{of.right}, or not set"

    def take(value: Any) -> Any:
        if value is None or (word and isinstance(value, str) and value == "None"):
            return None
        try:
            return of.take(value)
        except WrongValueError as error:
            raise (
                error if error.where else WrongValueError(f"{error.right}, or not set", value, (), error.hint)
            ) from None

    return Kind(right, take)


def either(*kinds: Kind) -> Kind:
    """A value of any of several kinds; the first that takes it has it."""
    right = " or ".join(kind.right for kind in kinds)

    def take(value: Any) -> Any:
        for kind in kinds:
            try:
                return kind.take(value)
            except WrongValueError as error:
                wrong = error
                if wrong.where:  # it has the right shape, and is wrong inside
                    raise
        raise WrongValueError(right, value, (), wrong.hint)

    return Kind(right, take)


def checked(right: str, good: Callable[[Any], bool]) -> Kind:
    """Whatever a function says is right."""

    def take(value: Any) -> Any:
        if not good(value):
            _refuse(right, value)
        return value

    return Kind(right, take)


_END = r"\s*[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+|inf)\s*"
_INTERVAL = re.compile(rf"\s*[\[(]({_END}),({_END})[\])]\s*")


def interval() -> Kind:
    """Intervals as RecBole writes them: "[5,inf)", several separated by ";". A list of two numbers is a closed one."""
    right = 'an interval such as "[5,inf)" or "(0,10];[20,30]", the lower end first'

    def take(value: Any) -> str:
        if isinstance(value, (list, tuple)):
            return take(str(list(value)))
        if not isinstance(value, str):
            _refuse(right, value)
        for part in value.split(";"):
            found = _INTERVAL.fullmatch(part)
            if found is None or float(found[1]) > float(found[2]):
                _refuse(right, value)
        return value

    return Kind(right, take)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Whether a value is a number, neither infinite nor one that no float can hold; True and False are none."""
    try:
        return _is_number(value) and math.isfinite(value)
    except OverflowError:
        return False


def literal(value: Any) -> Any:
    """What a text stands for that is written as a Python literal, as RecBole takes it; else the value as it is."""
    if not isinstance(value, str) or len(value) > _LONGEST:
        return value
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return value


def _mapping(value: Any, right: str) -> Mapping[Any, Any]:
    found = literal(value)
    if not isinstance(found, Mapping):
        _refuse(right, value)
    return found


def _within(place: str, kind: Kind, value: Any) -> Any:
    try:
        return kind.take(value)
    except WrongValueError as error:
        raise error.within(place) from None


def _between(at_least: float | None, at_most: float | None) -> str:
    bounds = [f"at least {at_least}"] if at_least is not None else []
    bounds += [f"at most {at_most}"] if at_most is not None else []
    return f" of {' and '.join(bounds)}" if bounds else ""


def _is_unicode(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def is_one_line(value: str) -> bool:
    """Whether a text has no control character, a line break say, and no half of a character."""
    return not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in value)


def _refuse(right: str, value: Any, hint: str = "") -> NoReturn:
    raise WrongValueError(right, value, (), hint)
