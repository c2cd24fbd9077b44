"""Multi-scenario, multi-task recommendation on RecBole.

Importing this package makes RecBole run on today's NumPy, pandas and torch, and its models known to RecBole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recbole_msr import plugin
from recbole_msr.errors import InputError
from recbole_msr.plugin import register
from recbole_msr.schema import Schema

if TYPE_CHECKING:
    from recbole_msr.training.run import RunResult, run

__version__ = "0.1.0"
__all__ = ["InputError", "RunResult", "Schema", "register", "run"]

plugin.activate()


def __getattr__(name: str) -> Any:
    if name in ("run", "RunResult"):  # these import torch, Lightning and RecBole
        from recbole_msr.training import run as module

        return getattr(module, name)
    raise AttributeError(f"module 'recbole_msr' has no attribute {name!r}")
