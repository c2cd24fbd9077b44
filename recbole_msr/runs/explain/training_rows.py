"""The training rows that an explanation looks at."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch

from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.data.packed import PackedTable
from recbole_msr.schema import SCENARIO_FIELD

MAX_ROWS = 2048
"""Maximum number of training rows of a scenario, a user or an item that are looked at; they are spread evenly."""
MAX_SCENARIOS = 30
"""Maximum number of scenarios shown: those with most training rows."""


class TrainingRows:
    """Training rows by scenario, user and item.

    Args:
        train: the training split.

    Attributes:
        scenario: of every row, counted from 0 (N,).
        of_scenario: by scenario its rows' places.
    """

    def __init__(self, train: ScenarioDataset) -> None:
        # Not `train[rows]`, which would make whole columns and keep them for as long as the run trains.
        self._table = PackedTable(train)
        self._id_fields = {"user": train.uid_field, "item": train.iid_field}
        self._ids: dict[str, np.ndarray] = {}
        self.scenario = self._table.whole([SCENARIO_FIELD])[SCENARIO_FIELD].numpy() - 1
        order = np.argsort(self.scenario, kind="stable")
        edges = np.searchsorted(self.scenario[order], np.arange(len(train.scenario_names) + 1))
        self.of_scenario = [order[start:end] for start, end in pairwise(edges)]

    def ids(self, level: str) -> np.ndarray:
        """Return the user or the item of every row (N,)."""
        if level not in self._ids:
            field = self._id_fields[level]
            self._ids[level] = self._table.whole([field])[field].numpy()
        return self._ids[level]

    def batch(self, rows: np.ndarray) -> Any:
        """Return these rows with all their fields; of many, `MAX_ROWS` evenly spread."""
        if len(rows) > MAX_ROWS:
            rows = rows[np.linspace(0, len(rows) - 1, MAX_ROWS).astype(np.int64)]
        return self._table.batch(torch.from_numpy(rows))


def largest_scenarios(dataset: ScenarioDataset) -> list[int]:
    """Return the scenarios that are shown, counted from 0 and in their order."""
    if len(dataset.scenario_names) <= MAX_SCENARIOS:
        return list(range(len(dataset.scenario_names)))
    by_size = np.argsort(-np.asarray(dataset.scenario_shares), kind="stable")
    return sorted(by_size[:MAX_SCENARIOS].tolist())
