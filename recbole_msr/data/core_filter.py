"""RecBole's filter by numbers of interactions, over codes that need not be in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

_BLOCK = 1 << 18


@dataclass
class CoreSide:
    """Users or items, of which those with too few or too many interactions go.

    Attributes:
        size: codes are below it.
        codes: gives the codes of rows a to b of the interactions, -1 for none.
        of_table: the code of every row of their own table (M,), -1 for those without interactions.
        least: of interactions, below which a row of their own table goes.
        is_within: tells which numbers of interactions are right.
        in_table: the rows of their own table that stay (M,).
    """

    size: int
    codes: Callable[[slice], np.ndarray]
    of_table: np.ndarray
    least: float
    is_within: Callable[[np.ndarray], np.ndarray]
    in_table: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.in_table = np.ones(len(self.of_table), dtype=bool)

    def ban(self, stays: np.ndarray) -> np.ndarray | None:
        """Return which codes go (size + 1,), the last one for -1; None where none does."""
        counts = np.zeros(self.size + 1, dtype=np.int64)
        for rows in _blocks(len(stays)):
            counts[:-1] += np.bincount(self.codes(rows)[stays[rows]], minlength=self.size)
        banned = (counts > 0) & ~self.is_within(counts)
        few = self.in_table & (counts[self.of_table] < self.least)
        banned[self.of_table[few]] = True
        any_goes = bool(banned[:-1].any() or few.any())
        banned[-1] = False
        self.in_table &= ~(few | banned[self.of_table])
        return banned if any_goes else None


def filter_to_core(sides: Sequence[CoreSide], stays: np.ndarray) -> None:
    """Take interactions out until every user and item left has as many as it must.

    Args:
        sides: users, items or both; their `in_table` is set.
        stays: the interactions that stay (N,), changed in place.
    """
    while True:
        all_banned = [side.ban(stays) for side in sides]
        if not any(banned is not None for banned in all_banned):
            return
        for rows in _blocks(len(stays)):
            for side, banned in zip(sides, all_banned, strict=True):
                if banned is not None:
                    stays[rows] &= ~banned[side.codes(rows)]


def _blocks(rows: int) -> list[slice]:
    return [slice(start, min(start + _BLOCK, rows)) for start in range(0, rows, _BLOCK)]
