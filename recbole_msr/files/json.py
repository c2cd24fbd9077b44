"""Reading JSON that may be damaged: text, nesting and shape are checked, and what is wrong is one line."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_msr.errors import InputError

DEEPEST = 64
"""Levels of nesting that are read; what this package writes has at most about ten."""


def read_json(path: str | Path, shape: Any = dict, advice: str = "", finite: bool = True) -> Any:
    """Read a JSON file and check its shape.

    Args:
        path: the file.
        shape: what it must hold, see `mismatch`.
        advice: half a sentence for the error: what to do.
        finite: refuse NaN and infinities, which are no JSON.

    Raises:
        InputError: it is no JSON, is nested too deeply, or has another shape; the message names file and place.
        OSError: it is not there, or cannot be read.
    """
    return parse_json(Path(path).read_bytes(), str(path), shape, advice, finite)


def parse_json(content: bytes, name: str, shape: Any = dict, advice: str = "", finite: bool = True) -> Any:
    """`read_json` of bytes; `name` says in errors where they are from."""
    try:
        value = json.loads(content.decode("utf-8"), parse_constant=_refuse if finite else None)
        told = mismatch(value, shape)
        if told is None and _depth(value) > DEEPEST:
            told = f"it is nested deeper than {DEEPEST} levels"
    except RecursionError:
        told = f"it is nested deeper than {DEEPEST} levels"
    except ValueError as error:
        told = f"it cannot be read as JSON: {error}"
    if told is not None:
        raise InputError(f"{name} is damaged: {told}{f'; {advice}' if advice else ''}")
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
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _wrong(value, shape, where)
        found = (mismatch(one, shape[0], f"{where}[{index}]") for index, one in enumerate(value))
        return next((told for told in found if told), None)
    if isinstance(shape, tuple):  # alternatives of which one is a list or a mapping
        found_all = [mismatch(value, one, where) for one in shape]
        return None if None in found_all else found_all[0] if value is not None else _wrong(value, shape[0], where)
    if isinstance(shape, dict):
        if not isinstance(value, Mapping):
            return _wrong(value, shape, where)
        for key in value:
            if not isinstance(key, str):
                return f"{_at(where)} has the key {key!r}, which is no text"
        if set(shape) == {str}:
            pairs = [(key, shape[str]) for key in value]
        else:
            missing = [key for key in shape if not key.endswith("?") and key not in value]
            if missing:
                return f"{_at(where)} lacks the key '{missing[0]}'"
            names = {key.removesuffix("?"): of for key, of in shape.items()}
            pairs = [(key, of) for key, of in names.items() if key in value]
        found = (mismatch(value[key], of, f"{where}.{key}" if where else key) for key, of in pairs)
        return next((told for told in found if told), None)
    return None if _is(value, shape) else _wrong(value, shape, where)


def _is(value: Any, shape: Any) -> bool:
    if shape is Any:
        return True
    if isinstance(shape, types.UnionType):
        return any(_is(value, one) for one in shape.__args__)
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
        _WORDS[type(one)] if isinstance(one, (list, dict)) else _WORDS.get(one, getattr(one, "__name__", str(one)))
        for one in kinds
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
            for one in level
            if isinstance(one, (dict, list))
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
    return depth


def _refuse(word: str) -> None:
    raise ValueError(f"it holds {word}")
