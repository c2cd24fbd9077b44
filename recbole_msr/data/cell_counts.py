"""Rows and labels of every scenario x task, by split, counted a block of rows at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from recbole_msr.schema import Schema

_SPLITS = 3


class CellCounts:
    """Counts of a dataset's cells.

    Args:
        schema: the declared tasks.
        n_scenarios: M; ids of scenarios are 1..M, 0 for a row of none.
    """

    def __init__(self, schema: Schema, n_scenarios: int) -> None:
        self._tasks, self._shape = schema.tasks, (_SPLITS, n_scenarios + 1)
        self._rows = np.zeros(self._shape, dtype=np.int64).ravel()
        self._labels = {task.name: np.zeros((2, self._rows.size), dtype=np.int64) for task in self._tasks}
        self._least = {task.name: np.full(self._rows.size, np.inf) for task in self._tasks if task.type != "binary"}

    def add(self, split: np.ndarray | int, scenario: np.ndarray, labels: Mapping[str, np.ndarray]) -> None:
        """Count rows.

        Args:
            split: which of train, valid and test they are of, 0 to 2, (n,) or one number for all.
            scenario: their scenarios (n,).
            labels: task -> labels (n,).
        """
        cell = scenario.astype(np.int64) + split * self._shape[1]
        size = self._rows.size
        self._rows += np.bincount(cell, minlength=size)
        for task in self._tasks:
            own, counts = labels[task.name], self._labels[task.name]
            if task.type == "binary":
                # -1, 0 and 1 of every cell side by side
                counts += np.bincount(cell * 3 + own.astype(np.int64) + 1, minlength=3 * size).reshape(size, 3).T[1:]
                continue
            known = own != task.missing_label
            cells, numbers, least = cell[known], own[known], self._least[task.name]
            before = least.copy()
            np.minimum.at(least, cells, numbers)
            counts[1] += np.where(least < before, counts[0], 0)  # the least so far is the least no more
            counts[0][least < before] = 0
            for value, is_it in enumerate((numbers <= least[cells], numbers > least[cells])):
                counts[value] += np.bincount(cells[is_it], minlength=size)

    @property
    def unknown(self) -> int:
        """Number of rows of no scenario."""
        return int(self._rows.reshape(self._shape)[:, 0].sum())

    def cells(self) -> dict[str, Any]:
        """Return by split the rows of every scenario, and by task how many are labelled 0 and 1 there.

        Of a task of numbers or classes, how many are the least of their scenario and above it.
        """
        return {
            "rows": self._by_split(self._rows),
            "labels": {
                name: [list(values) for values in zip(*map(self._by_split, counts), strict=True)]
                for name, counts in self._labels.items()
            },
        }

    def _by_split(self, counts: np.ndarray) -> list[list[int]]:
        of_splits: list[list[int]] = counts.reshape(self._shape)[:, 1:].tolist()
        return of_splits
