"""Architecture search: spaces, studies that survive, and what they leave.

from recbole_msr import search
result = search("HiNet", dataset="ml-100k", trials=20)
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recbole_msr.search.run import SearchResult, search

__all__ = ["SearchResult", "search"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # these import torch, Lightning, RecBole and Optuna
        from recbole_msr.search import run

        return getattr(run, name)
    raise AttributeError(f"module 'recbole_msr.search' has no attribute {name!r}")


class _Search(ModuleType):
    """`from recbole_msr import search` gives this package once it has been imported: it is called as the function."""

    def __call__(self, *arguments: Any, **options: Any) -> SearchResult:
        from recbole_msr.search.run import search

        return search(*arguments, **options)


sys.modules[__name__].__class__ = _Search
