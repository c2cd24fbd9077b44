"""The call in Python that made a search or a comparison, for whoever wants to repeat it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from recbole_msr.jobs.options import JobOptions, declared_options

_LEFT_OUT = ("progress", "command")


def python_call(function: str, options: JobOptions) -> str:
    """Return the import and the call, with every option that is not its default.

    Args:
        function: `search` or `compare`.
        options: its options.
    """
    arguments = [
        f"{option.name}={value!r}"
        for option in declared_options(type(options))
        if option.name not in _LEFT_OUT
        and (value := _plain(getattr(options, option.name))) not in (_plain(option.default), {}, None)
    ]
    return f"from recbole_msr import {function}; {function}({', '.join(arguments)})"


def _plain(value: Any) -> Any:
    """Return a value whose `repr` Python reads again: paths as text, tuples as lists; of a table it is its type."""
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "columns"):
        return f"<{type(value).__name__}>"
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value
