"""Multi-scenario, multi-task recommendation on RecBole.

Importing this package makes RecBole run on today's NumPy, pandas and torch, and its models known to RecBole.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from recbole_msr import plugin
from recbole_msr.errors import InputError
from recbole_msr.registry import register
from recbole_msr.schema import Schema
from recbole_msr.version import __version__

if TYPE_CHECKING:
    from recbole_msr.comparison.run import CompareResult, compare
    from recbole_msr.runs.run import RunResult, run
    from recbole_msr.runs.saved_run import SavedRun, load
    from recbole_msr.tuning.run import SearchResult, search

__all__ = [
    "CompareResult",
    "InputError",
    "RunResult",
    "SavedRun",
    "Schema",
    "SearchResult",
    "__version__",
    "compare",
    "load",
    "register",
    "run",
    "search",
]

_LAZY = {  # these import torch, Lightning, RecBole and Optuna
    "run": "recbole_msr.runs.run",
    "RunResult": "recbole_msr.runs.run",
    "load": "recbole_msr.runs.saved_run",
    "SavedRun": "recbole_msr.runs.saved_run",
    "search": "recbole_msr.tuning.run",
    "SearchResult": "recbole_msr.tuning.run",
    "compare": "recbole_msr.comparison.run",
    "CompareResult": "recbole_msr.comparison.run",
}

plugin.activate()


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'recbole_msr' has no attribute {name!r}")
