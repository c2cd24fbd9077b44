"""Counts of rows that lack something, by field: of all rows together, or of each part of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np


class RowCounts:
    """Rows that lack something, by field.

    Attributes:
        unknown: rows with a value never seen in training, or in whose sequence there is one.
        missing: by numerical feature, rows without a number, for which the mean of the training data stands.
        with_history: rows whose user has a profile made of a given history.
    """

    def __init__(self) -> None:
        self.unknown: Counter[str] = Counter()
        self.missing: Counter[str] = Counter()
        self.with_history = 0

    def add_unknown(self, field: str, rows: np.ndarray) -> None:
        """Count the rows of a mask (N,) as ones whose value of a field was never seen in training."""
        _count(self.unknown, field, rows)

    def add_missing(self, field: str, rows: np.ndarray) -> None:
        """Count the rows of a mask (N,) as ones without a number."""
        _count(self.missing, field, rows)

    def fresh(self) -> RowCounts:
        """Return counts of the same rows, none counted yet: those of one member of an ensemble."""
        return RowCounts()

    def add_most(self, members: Sequence[RowCounts]) -> None:
        """Add, for each field, the most rows that any member of an ensemble counts."""
        for own, counted in (
            (self.unknown, [member.unknown for member in members]),
            (self.missing, [member.missing for member in members]),
        ):
            most: dict[str, int] = {}
            for one in counted:
                take_most(most, one)
            own.update(most)
        self.with_history += max((member.with_history for member in members), default=0)


class PartCounts(RowCounts):
    """The same of each of several parts that are encoded together.

    Args:
        sizes: the number of rows of each part, 1 or more; their sum is N.

    Attributes:
        parts: the counts of each part.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self._sizes = list(sizes)
        self._starts = np.cumsum([0, *sizes[:-1]])
        self.parts = [RowCounts() for _ in sizes]

    def add_unknown(self, field: str, rows: np.ndarray) -> None:
        """Count the rows of a mask (N,) as ones whose value of a field was never seen in training."""
        for part, count in self._of_parts(rows):
            part.unknown[field] += count

    def add_missing(self, field: str, rows: np.ndarray) -> None:
        """Count the rows of a mask (N,) as ones without a number."""
        for part, count in self._of_parts(rows):
            part.missing[field] += count

    def _of_parts(self, rows: np.ndarray) -> list[tuple[RowCounts, int]]:
        """Return the parts that have some of the rows, and how many."""
        if not rows.any():
            return []
        counts = np.add.reduceat(rows, self._starts, dtype=np.int64).tolist()
        return [(part, count) for part, count in zip(self.parts, counts, strict=True) if count]

    def fresh(self) -> PartCounts:
        """Return counts of the same parts, none counted yet."""
        return PartCounts(self._sizes)

    def add_most(self, members: Sequence[RowCounts]) -> None:
        """Add, for each part and field, the most rows that any member of an ensemble counts."""
        of_members = [member.parts for member in members if isinstance(member, PartCounts)]
        for part, counted in zip(self.parts, zip(*of_members, strict=True), strict=True):
            part.add_most(counted)


def take_most(counts: dict[str, int], others: Mapping[str, int]) -> None:
    """Raise counts to those of others where they are smaller."""
    for field, count in others.items():
        counts[field] = max(count, counts.get(field, 0))


def _count(counter: Counter[str], field: str, rows: np.ndarray) -> None:
    if count := int(np.count_nonzero(rows)):
        counter[field] += count
