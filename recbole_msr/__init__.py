"""Multi-scenario, multi-task recommendation on RecBole.

Importing this package makes RecBole run on today's NumPy, pandas and torch, and its models known to RecBole. The
functions and classes that need torch, Lightning and Optuna are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from recbole_msr import plugin
from recbole_msr.errors import InputError
from recbole_msr.memory import no_collections
from recbole_msr.registry import register
from recbole_msr.schema import Schema
from recbole_msr.version import __version__

if TYPE_CHECKING:
    from recbole_msr.comparison.options import CompareOptions
    from recbole_msr.comparison.run import CompareResult, compare
    from recbole_msr.runs.ensemble import SavedEnsemble
    from recbole_msr.runs.open_folder import load
    from recbole_msr.runs.run import RunResult, run
    from recbole_msr.runs.saved_run import SavedRun
    from recbole_msr.tuning.options import SearchOptions
    from recbole_msr.tuning.run import SearchResult, search

__all__ = [
    "CompareOptions",
    "CompareResult",
    "InputError",
    "RunResult",
    "SavedEnsemble",
    "SavedRun",
    "Schema",
    "SearchOptions",
    "SearchResult",
    "__version__",
    "compare",
    "load",
    "register",
    "run",
    "search",
]

_LAZY = {
    "CompareOptions": "recbole_msr.comparison.options",
    "CompareResult": "recbole_msr.comparison.run",
    "RunResult": "recbole_msr.runs.run",
    "load": "recbole_msr.runs.open_folder",
    "SavedEnsemble": "recbole_msr.runs.ensemble",
    "SavedRun": "recbole_msr.runs.saved_run",
    "SearchOptions": "recbole_msr.tuning.options",
    "SearchResult": "recbole_msr.tuning.run",
    "compare": "recbole_msr.comparison.run",
    "run": "recbole_msr.runs.run",
    "search": "recbole_msr.tuning.run",
}
"""Name -> the module that it is imported from when it is first used."""

plugin.activate()


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        with no_collections():
            value = globals()[name] = getattr(importlib.import_module(_LAZY[name]), name)
        return value
    raise AttributeError(f"module 'recbole_msr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
