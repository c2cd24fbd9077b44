"""Tests of differences between two models on the same ranked lists: what `significance` takes in the place of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recbole_msr.evaluation.formulas import ranks
from recbole_msr.evaluation.segments import Segments
from recbole_msr.evaluation.significance import Measured, Part, Sums
from recbole_msr.schema import UNKNOWN_SCENARIO


@dataclass(frozen=True)
class _Cell:
    """The lists of a scenario that have a positive of a task, or of all scenarios."""

    task: int
    lists: np.ndarray
    pooled: bool
    parts: Mapping[str, tuple[Part, ...]]


class Lists:
    """The ranked lists of the test split, on which all models are measured.

    A metric of a cell is the mean over its lists, so a list is what a row is elsewhere; those of one user are not
    independent. Cells are defined as in `evaluate_lists`.

    Args:
        positives: how many positives of each task each list has (L, T).
        scenario: (L,) integers 1..M in the order of `scenario_names`.
        users: whose list it is (L,).
        scenario_names: names of the M scenarios.
        task_names: names of the T tasks.
        metrics: the metrics of lists, such as `ndcg@10`.
        min_rows: the fewest lists of a defined cell.
        segments: of the lists, which are compared as the cells are, over all scenarios.

    Attributes:
        shape: of the values that are measured (L, T, metrics).
        users: how many users have lists.
        metrics: as given.
        cells, means: the cells by SCENARIO/TASK and TASK, and the defined cells of each mean.
    """

    def __init__(
        self,
        positives: np.ndarray,
        scenario: np.ndarray,
        users: np.ndarray,
        scenario_names: Sequence[str],
        task_names: Sequence[str],
        metrics: Sequence[str],
        min_rows: int = 2,
        segments: Segments | None = None,
    ) -> None:
        self.metrics = list(metrics)
        self.shape = (*positives.shape, len(self.metrics))
        user = ranks(users)
        self.users = int(user.max(initial=-1)) + 1
        self.cells: dict[str, _Cell] = {}
        self.means: dict[str, list[str]] = {"macro": []}
        for column, task in enumerate(task_names):
            there = positives[:, column] > 0
            self._add(task, column, np.flatnonzero(there), user, pooled=True)
            self.means[f"{task}/macro"] = []
            for number, name in enumerate(scenario_names, UNKNOWN_SCENARIO + 1):
                lists, key = np.flatnonzero(there & (scenario == number)), f"{name}/{task}"
                self._add(key, column, lists, user)
                if len(lists) >= max(min_rows, 1):
                    self.means["macro"].append(key)
                    self.means[f"{task}/macro"].append(key)
            for name, members in () if segments is None else segments.members():
                self._add(f"{name}/{task}", column, np.flatnonzero(there & members), user, pooled=True)

    def _add(self, key: str, task: int, lists: np.ndarray, user: np.ndarray, pooled: bool = False) -> None:
        if len(lists):
            part = (Part(user[lists]),)
            self.cells[key] = _Cell(task, lists, pooled, dict.fromkeys(self.metrics, part))

    def measure(self, values: np.ndarray) -> Measured:
        """Measure one model of one seed: its metrics, and the influence of each user on them.

        Args:
            values: of each list, task and metric (L, T, metrics); NaN where the model does not rank a list. A cell that
                it does not rank as a whole is absent from the result.

        Raises:
            ValueError: the shape does not fit, or some lists of a cell are ranked and some are not.
        """
        if values.shape != self.shape:
            raise ValueError(f"values must be {self.shape}, one for each list, task and metric, got {values.shape}")
        means: dict[str, float] = {}
        sums: dict[str, Sums] = {}
        for key, cell in self.cells.items():
            of_cell = values[cell.lists, cell.task]
            missing = int(np.isnan(of_cell).any(axis=1).sum())
            if missing and not cell.pooled and missing < len(of_cell):
                raise ValueError(
                    f"{missing} of {len(of_cell)} lists of {key} are not ranked: a model ranks all or none"
                )
            if missing:
                continue
            for place, metric in enumerate(self.metrics):
                mean, name = float(of_cell[:, place].mean()), f"{metric}/{key}"
                means[name], sums[name] = mean, (cell.parts[metric][0].influence(of_cell[:, place], mean),)
        return Measured(self, means, sums)
