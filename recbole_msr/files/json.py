"""JSON that may be damaged: text, nesting and shape are checked, and an error is one line."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recbole_msr.errors import InputError

DEEPEST = 64
"""Deepest nesting that is read; files of this package have about ten levels at most."""


def read_json(path: str | Path, shape: Any = dict, advice: str = "", finite: bool = True) -> Any:
    """Read a JSON file and check its shape.

    Args:
        path: the file.
        shape: the shape of its content, see `mismatch`.
        advice: half a sentence for the error, which says what to do.
        finite: refuse NaN and infinities, which are no JSON.

    Raises:
        InputError: it is no JSON, is nested too deeply, or has another shape; the message names file and place.
        OSError: it is not there, or cannot be read.
    """
    return parse_json(Path(path).read_bytes(), str(path), shape, advice, finite)


def parse_json(content: bytes, name: str, shape: Any = dict, advice: str = "", finite: bool = True) -> Any:
    """Read JSON from bytes as `read_json` does; `name` says in errors where they come from."""
    try:
        value = json.loads(content.decode("utf-8"), parse_constant=_refuse if finite else None)
        damage = mismatch(value, shape)
        if damage is None and _depth(value) > DEEPEST:
            damage = f"it is nested deeper than {DEEPEST} levels"
    except RecursionError:
        damage = f"it is nested deeper than {DEEPEST} levels"
    except ValueError as error:
        damage = f"it cannot be read as JSON: {error}"
    if damage is not None:
        raise InputError(f"{name} is damaged: {damage}{f'; {advice}' if advice else ''}")
    return value


def mismatch(value: Any, shape: Any, where: str = "") -> str | None:
    """Say how a value differs from a shape; None if it does not.

    Args:
        value: JSON's or a checkpoint's plain values.
        shape: a type (int is also a float, a bool is no number, numbers are finite); an alternative (`int | None`); a
            list with the shape of all elements ([int]); a mapping of keys to shapes, all of which must be there unless
            they end with "?"; further keys are allowed; {str: shape} has the shape for every key.
        where: the place, for the message.

    >>> mismatch({"seed": "1"}, {"seed": int})
    "'seed' must be a whole number, got '1'"
    """
    if isinstance(shape, tuple):  # alternatives of which one is a list or a mapping
        mismatches = [mismatch(value, alternative, where) for alternative in shape]
        return None if None in mismatches else mismatches[0] if value is not None else _wrong(value, shape[0], where)
    if isinstance(shape, (list, dict)):
        if not isinstance(value, list if isinstance(shape, list) else Mapping):
            return _wrong(value, shape, where)
        parts = _list_parts if isinstance(shape, list) else _mapping_parts
        return _key_mismatch(value, shape, where) or next(
            (text for inner in parts(value, shape, where) if (text := mismatch(*inner))), None
        )
    return None if _is(value, shape) else _wrong(value, shape, where)


def _list_parts(values: Any, shape: Any, where: str) -> Iterator[tuple[Any, Any, str]]:
    for index, value in enumerate(values):
        yield value, shape[0], f"{where}[{index}]"


def _mapping_parts(values: Any, shape: Any, where: str) -> Iterator[tuple[Any, Any, str]]:
    shapes = dict.fromkeys(values, shape[str]) if str in shape else _by_name(shape)
    for key, inner in shapes.items():
        if key in values:
            yield values[key], inner, f"{where}.{key}" if where else key


def _key_mismatch(value: Any, shape: Any, where: str) -> str | None:
    """Say which key of a mapping is no text, or is missing; None of a list, and where no key is wrong."""
    if isinstance(shape, list):
        return None
    for key in value:
        if not isinstance(key, str):
            return f"{_at(where)} has the key {key!r}, which is no text"
    if str in shape:
        return None
    missing = [key for key in shape if not key.endswith("?") and key not in value]
    return f"{_at(where)} lacks the key '{missing[0]}'" if missing else None


def _by_name(shape: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removesuffix("?"): inner for key, inner in shape.items()}


def _is(value: Any, shape: Any) -> bool:
    if shape is Any:
        return True
    if isinstance(shape, types.UnionType):
        return any(_is(value, alternative) for alternative in shape.__args__)
    if shape is None or shape is type(None):
        return value is None
    if shape in (int, float) and isinstance(value, bool):
        return False
    if shape is float:
        return isinstance(value, (int, float)) and (isinstance(value, int) or math.isfinite(value))
    return isinstance(value, shape)


_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    str: "text",
    bool: "true or false",
    dict: "a mapping",
    list: "a list",
    type(None): "null",
}


def _wrong(value: Any, shape: Any, where: str) -> str:
    kinds = shape.__args__ if isinstance(shape, types.UnionType) else (shape,)
    words = [
        _WORDS[type(kind)] if isinstance(kind, (list, dict)) else _WORDS.get(kind, getattr(kind, "__name__", str(kind)))
        for kind in kinds
    ]
    got = "null" if value is None else type(value).__name__ if isinstance(value, (list, Mapping)) else repr(value)[:40]
    return f"{_at(where)} must be {' or '.join(words)}, got {got}"


def _at(where: str) -> str:
    return f"'{where}'" if where else "it"


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level and depth <= DEEPEST:
        depth += 1
        level = [
            inner
            for value in level
            if isinstance(value, (dict, list))
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    return depth


def _refuse(word: str) -> None:
    raise ValueError(f"it holds {word}")
