"""The ranked lists on which finished runs are compared, with the runs' values for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_msr.data.ranked_lists import RankedLists
from recbole_msr.errors import InputError
from recbole_msr.evaluation.list_significance import Lists
from recbole_msr.evaluation.metrics import METRICS, CellType
from recbole_msr.jobs.shared_rows import AGAIN, reading
from recbole_msr.runs.list_file import LISTS_FILE
from recbole_msr.schema import SCENARIO_FIELD


class SharedLists:
    """The lists of the test split that all entries of a comparison share, in the place of `SharedRows`.

    Args:
        lists: the lists.
        scenarios: names of the scenarios.
        metrics: the metrics of lists, such as `ndcg@10`; the first is the headline, unless `headline` is given.
        least: `min_scenario_rows`.
        headline: the metric that models are ranked and judged by.
        tasks: the tasks; None for all of the data's.
    """

    def __init__(
        self,
        lists: RankedLists,
        scenarios: Sequence[str],
        metrics: Sequence[str],
        least: int,
        headline: str | None = None,
        tasks: Sequence[str] | None = None,
    ) -> None:
        self.tasks, self.scenarios = list(lists.tasks if tasks is None else tasks), list(scenarios)
        self.types: dict[str, CellType] = dict.fromkeys(self.tasks, "ranking")
        self.headline = headline or metrics[0]
        self.of_lists = sorted(metrics, key=lambda metric: metric != self.headline)
        self._users, self._scenario = lists.users, lists.scenarios
        self._positives = lists.n_positives[:, [lists.tasks.index(task) for task in self.tasks]]
        self._segments = lists.segments
        self.rows = Lists(
            self._positives, lists.scenarios, lists.users, self.scenarios, self.tasks, self.of_lists, least,
            lists.segments,
        )  # fmt: skip

    def cells(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Count the lists and positives of every scenario and task."""
        return {name: self._counts(self._scenario == number) for number, name in enumerate(self.scenarios, start=1)}

    def segments(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Count the same of every segment and task."""
        members = () if self._segments is None else self._segments.members()
        return {name: self._counts(there) for name, there in members}

    def _counts(self, lists: np.ndarray) -> dict[str, dict[str, Any]]:
        return {
            task: {"rows": int((column > 0).sum()), "positives": int(column.sum())}
            for task, column in zip(self.tasks, self._positives[lists].T, strict=True)
        }

    def place(self, into: np.ndarray, folder: Path, task: str | None, scenario: str | None) -> None:
        """Write the values of a run into its lists of a table.

        Args:
            into: the table, of the shape of `rows`.
            folder: folder of the run.
            task: its only task; None for all.
            scenario: its only scenario; None for all.

        Raises:
            InputError: they are of other lists.
        """
        path = folder / LISTS_FILE
        with reading(path) as frame:
            self._place(into, frame, path, task, scenario)

    def _place(self, into: np.ndarray, frame: Any, path: Path, task: str | None, scenario: str | None) -> None:
        here = np.ones(len(self._users), dtype=bool)
        if scenario is not None:
            here &= self._scenario == self.scenarios.index(scenario) + 1
        same = len(frame) == here.sum() and np.array_equal(frame["user"], self._users[here])
        if scenario is None and same:
            same = np.array_equal(frame[SCENARIO_FIELD], self._scenario[here])
        for column, name in enumerate(self.tasks):
            if task not in (None, name):
                continue
            if not same or not np.array_equal(frame[f"positives_{name}"], self._positives[here, column]):
                raise InputError(f"{path} holds other lists than those of the test split")
            for place, metric in enumerate(self.of_lists):
                values = frame[f"{metric}_{name}"].to_numpy(dtype=np.float64)
                least, greatest = METRICS[metric].bounds
                ranked = self._positives[here, column] > 0
                if not ((values[ranked] >= least) & (values[ranked] <= greatest)).all():
                    raise InputError(f"{path} is damaged: {metric}_{name} is out of range: {AGAIN}")
                into[here, column, place] = values
