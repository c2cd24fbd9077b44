"""Kinds of values that a configuration key may have: each says what is right, and takes a value or refuses it."""

from __future__ import annotations

import ast
import math
import operator
import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, NoReturn

from recbole_msr.errors import InputError, nearest

_LONGEST = 10_000
"""Longest text, in characters, that is parsed as a number or a list."""


class WrongValueError(ValueError):
    """A value is not of its kind.

    Args:
        right: what would be right, for "KEY must be RIGHT".
        value: the value.
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
        """Return the error of a value at `place` inside a larger value."""
        return WrongValueError(self.right, self.value, (place, *self.where), self.hint)


def shown(value: Any) -> str:
    """Return a value as a message shows it: cut where it is long."""
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
    """Return the value of a key as its kind passes it on.

    Raises:
        InputError: it is of another kind; the message names the key and what would be right.
    """
    try:
        return kind.take(value)
    except WrongValueError as error:
        raise InputError(error.message(key)) from None


def anything() -> Kind:
    """Accept any value, which its reader checks."""
    return Kind("anything", lambda value: value)


def whole(at_least: int | None = None, at_most: int | None = None) -> Kind:
    """Accept a whole number; 100.0 is one too."""
    right = "a whole number" + _between(at_least, at_most)

    def take(value: Any) -> int:
        parsed = literal(value)
        if not is_finite(parsed) or not (isinstance(parsed, Integral) or float(parsed).is_integer()):
            _refuse(right, value)
        if (at_least is not None and parsed < at_least) or (at_most is not None and parsed > at_most):
            _refuse(right, value)
        return int(parsed)

    return Kind(right, take)


def number(
    at_least: float | None = None, *, above: float | None = None, at_most: float | None = None,
    below: float | None = None, finite: bool = True,
) -> Kind:  # fmt: skip
    """Accept a number within the bounds, which is finite unless `finite` is False."""
    bounds = [
        (words, bound, is_met)
        for words, bound, is_met in (
            ("of at least", at_least, operator.ge),
            ("above", above, operator.gt),
            ("of at most", at_most, operator.le),
            ("below", below, operator.lt),
        )
        if bound is not None
    ]
    right = " ".join(["a number", " and ".join(f"{words} {bound:g}" for words, bound, _ in bounds)]).strip()

    def take(value: Any) -> Any:
        parsed: Any = literal(value)
        is_allowed = is_finite(parsed) if finite else _is_number(parsed) and parsed == parsed
        if not is_allowed or not all(is_met(parsed, bound) for _, bound, is_met in bounds):
            _refuse(right, value)
        return parsed

    return Kind(right, take)


def flag() -> Kind:
    """Accept True or False, and these words in any case."""

    def take(value: Any) -> bool:
        if isinstance(value, str) and value.strip().lower() in ("true", "false"):
            return value.strip().lower() == "true"
        if not isinstance(value, bool):
            _refuse("True or False", value)
        return value

    return Kind("True or False", take)


def text(what: str = "text", *, may_be_empty: bool = False) -> Kind:
    """Accept text that a file can hold; empty text only with `may_be_empty`."""

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
    """Accept the path of a file or folder; a `Path` becomes text."""

    def take(value: Any) -> Any:
        return text(what).take(os.fspath(value) if isinstance(value, os.PathLike) else value)

    return Kind(what, take)


def name(what: str) -> Kind:
    """Accept a name from the data or the user: text, or a number that stands for its digits."""

    def take(value: Any) -> Any:
        if isinstance(value, bool):
            _refuse(what, value, f"; quote it if it is a word: '{value}'")
        if is_finite(value):
            return value
        return text(what).take(value)

    return Kind(what, take)


def choice(*words: Any, any_case: bool = False) -> Kind:
    """Accept one of the listed values."""
    right = f"one of {', '.join(map(str, words))}"

    def take(value: Any) -> Any:
        for parsed in (value, literal(value)):
            for word in words:
                same = parsed == word or (any_case and str(parsed).lower() == str(word).lower())
                if same and isinstance(parsed, bool) == isinstance(word, bool):
                    return parsed
        _refuse(right, value, nearest(str(value), [str(word) for word in words]) if isinstance(value, str) else "")

    return Kind(right, take)


def listing(of: Kind, *, of_what: str, at_least: int = 0, alone: bool = False, exactly: int | None = None) -> Kind:
    """Accept a list of values of one kind.

    Args:
        of: the kind of the elements.
        of_what: the elements in a word, in the plural, for the message.
        at_least: minimum number of elements.
        alone: accept a single value without a list too, and pass it on without one.
        exactly: number of elements.
    """
    count = f"{exactly} " if exactly is not None else ""
    right = f"a list of {count}{of_what}" if at_least == 0 else f"a list of {count}{of_what}, not empty"

    def take(value: Any) -> Any:
        elements = literal(value) if isinstance(value, str) else value
        if isinstance(elements, (list, tuple)):
            if len(elements) < at_least or (exactly is not None and len(elements) != exactly):
                _refuse(right, value)
            return [_within(str(place), of, element) for place, element in enumerate(elements, start=1)]
        if not alone:
            _refuse(right, value)
        return of.take(value)

    return Kind(right, take)


def mapping(keys: Kind, values: Kind, example: str) -> Kind:
    """Accept a mapping with keys of one kind and values of one kind."""
    right = f"a mapping such as {example}"

    def take(value: Any) -> dict[Any, Any]:
        return {keys.take(key): _within(str(key), values, element) for key, element in _mapping(value, right).items()}

    return Kind(right, take)


def record(example: str, needed: Sequence[str] = (), **fields: Kind) -> Kind:
    """Accept a mapping with the keys of `fields`, each with a kind of its own."""
    right = f"a mapping such as {example}"

    def take(value: Any) -> dict[str, Any]:
        entries = _mapping(value, right)
        for key in entries:
            if key not in fields:
                _refuse(f"{right} (keys: {', '.join(fields)})", value, nearest(str(key), fields))
        for key in needed:
            if entries and key not in entries:
                _refuse(f"{right}, with '{key}'", value)
        return {key: _within(str(key), fields[key], entry) for key, entry in entries.items()}

    return Kind(right, take)


def maybe(of: Kind, *, word: bool = True) -> Kind:
    """Accept also None, `~` in YAML; and, as RecBole does, the word None, unless with `word=False` it may be a name."""
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
    """Accept a value of any of the kinds; the first that accepts it passes it on."""
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


def narrowed(of: Kind, right: str, is_right: Callable[[Any], bool], *, one_message: bool = False) -> Kind:
    """Values of a kind of which more must hold.

    Args:
        of: the kind.
        right: what would be right.
        is_right: whether it holds of a value of the kind.
        one_message: say `right` of every wrong value; by default the kind says by itself what is wrong.
    """

    def take(value: Any) -> Any:
        try:
            parsed = of.take(value)
        except WrongValueError:
            if not one_message:
                raise
            raise WrongValueError(right, value) from None
        if not is_right(parsed):
            raise WrongValueError(right, value)
        return parsed

    return Kind(right, take)


def checked(right: str, is_right: Callable[[Any], bool]) -> Kind:
    """Accept the values for which a function returns True."""

    def take(value: Any) -> Any:
        if not is_right(value):
            _refuse(right, value)
        return value

    return Kind(right, take)


_END = r"\s*[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+|inf)\s*"
_INTERVAL = re.compile(rf"\s*[\[(]({_END}),({_END})[\])]\s*")


def interval() -> Kind:
    """Accept intervals as RecBole writes them, "[5,inf)" or "(0,1];(2,3]"; a list of two numbers is a closed one."""
    right = 'an interval such as "[5,inf)" or "(0,10];[20,30]", the lower end first'

    def take(value: Any) -> str:
        if isinstance(value, (list, tuple)):
            return take(str(list(value)))
        if not isinstance(value, str):
            _refuse(right, value)
        for part in value.split(";"):
            ends = _INTERVAL.fullmatch(part)
            if ends is None or float(ends[1]) > float(ends[2]):
                _refuse(right, value)
        return value

    return Kind(right, take)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Return whether a value is a number, neither infinite nor too large for a float; True and False are no numbers."""
    try:
        return _is_number(value) and math.isfinite(value)
    except OverflowError:
        return False


def literal(value: Any) -> Any:
    """Return the value of a text that is a Python literal, as RecBole does; other values as they are."""
    if not isinstance(value, str) or len(value) > _LONGEST:
        return value
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return value


def _mapping(value: Any, right: str) -> Mapping[Any, Any]:
    parsed = literal(value)
    if not isinstance(parsed, Mapping):
        _refuse(right, value)
    return parsed


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
    """Return whether a text has no control character, such as a line break, and no half character."""
    return not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in value)


def _refuse(right: str, value: Any, hint: str = "") -> NoReturn:
    raise WrongValueError(right, value, (), hint)
