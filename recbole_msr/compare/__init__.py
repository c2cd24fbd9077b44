"""Comparison: several models on equal terms, with statistics; a leaderboard, and a folder for every run.

from recbole_msr import compare
result = compare(["HiNet", "PLE", "DeepFM"], dataset="ml-100k", seeds=3)
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recbole_msr.compare.run import CompareResult, compare

__all__ = ["CompareResult", "compare"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # these import torch, Lightning, RecBole and Optuna
        from recbole_msr.compare import run

        return getattr(run, name)
    raise AttributeError(f"module 'recbole_msr.compare' has no attribute {name!r}")


class _Compare(ModuleType):
    """`from recbole_msr import compare` gives this package once it has been imported: it is called as the function."""

    def __call__(self, *arguments: Any, **options: Any) -> CompareResult:
        from recbole_msr.compare.run import compare

        return compare(*arguments, **options)


sys.modules[__name__].__class__ = _Compare
