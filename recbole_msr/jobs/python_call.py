"""The call in Python that made a search or a comparison, for whoever wants to do it again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

_LEFT_OUT = ("progress", "command")


def python_call(function: Callable[..., Any], given: Mapping[str, Any]) -> str:
    """The import and the call with everything that was given, as Python reads them.

    Args:
        function: `search` or `compare`.
        given: its arguments by name.
    """
    name = function.__name__
    words = [
        f"{key}={_plain(given[key])!r}"
        for key, parameter in inspect.signature(function).parameters.items()
        if key not in _LEFT_OUT and _plain(given[key]) not in (_plain(parameter.default), {}, None)
    ]
    return f"from recbole_msr import {name}; {name}({', '.join(words)})"


def _plain(value: Any) -> Any:
    """A value whose `repr` Python reads again: paths as text, tuples as lists."""
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value
