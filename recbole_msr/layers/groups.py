"""Groups of scenarios and tasks that parts of a model are kept apart for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from recbole_msr.layers.scenario_axes import ScenarioAxis
from recbole_msr.layers.tracing import is_exported, replace_rows

PER = ("scenario", "task", "scenario_task")
"""What experts, gates or towers may be kept apart for."""


@dataclass(frozen=True)
class Groups:
    """P groups: one a scenario, one a task, or one for each task in each scenario.

    Group t * M + m is task t in scenario m where there is one for both.

    >>> Groups("scenario_task", 3, 2).count
    6

    Args:
        per: a word of `PER`.
        n_scenarios: M.
        n_tasks: T.
    """

    per: str
    n_scenarios: int
    n_tasks: int

    @property
    def count(self) -> int:
        """P."""
        return {
            "scenario": self.n_scenarios,
            "task": self.n_tasks,
            "scenario_task": self.n_tasks * self.n_scenarios,
        }[self.per]

    @property
    def axes(self) -> tuple[ScenarioAxis, ...]:
        """Where the scenarios stand among P entries; none where groups are not kept apart by scenario."""
        return () if self.per == "task" else (ScenarioAxis(self.count // self.n_scenarios),)

    def pick(self, values: Tensor, scenario: Tensor) -> Tensor:
        """Of every group's values those of each row's own groups.

        Args:
            values: (P, B, ...).
            scenario: each row's scenario (B,), 0..M-1.

        Returns:
            (T, B, ...), one a task; (1, B, ...) where groups are not kept apart by task.
        """
        if self.per == "task" or self.n_scenarios == 1:
            return values
        n_sets, n_rows = self.count // self.n_scenarios, scenario.shape[0]  # len() is a constant in an export
        first = torch.arange(n_sets, device=scenario.device).unsqueeze(1) * self.n_scenarios
        rows = torch.arange(n_rows, device=scenario.device)
        places = (first + scenario) * n_rows + rows  # of each row's own groups in the flattened values
        picked = values.flatten(0, 1).index_select(0, places.flatten())
        return torch.unflatten(picked, 0, (n_sets, n_rows))

    def by_task_and_scenario(self, values: Tensor) -> Tensor:
        """Return every group's values (P, ...) by task and scenario (T or 1, M or 1, ...).

        1 stands where groups are not kept apart by tasks, or by scenarios.
        """
        n_tasks = 1 if self.per == "scenario" else self.n_tasks
        return torch.unflatten(values, 0, (n_tasks, self.count // n_tasks))


_GROUPS_IN_GRAPH = 16
"""Groups whose rows a graph takes apart; of more it computes all for all rows, which are fewer operations."""


def by_group(x: Tensor, group: Tensor, n_groups: int, layer: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Return what each row's own group makes of it (B, H).

    Args:
        x: rows (B, D).
        group: each row's group (B,), 0..n_groups-1.
        n_groups: how many there are.
        layer: takes some rows that all belong to one group, and its number, to (rows, H).
    """
    if is_exported():
        return _by_group_in_graph(x, group, n_groups, layer)
    sizes = torch.bincount(group, minlength=n_groups).tolist()
    if max(sizes) == len(x) > 0:
        return layer(x, sizes.index(len(x)))
    order = group.argsort(stable=True)
    parts = x[order].split(sizes)
    outputs = torch.cat([layer(part, number) for number, part in enumerate(parts) if len(part)])
    return torch.empty_like(outputs).index_copy(0, order, outputs)


def _by_group_in_graph(x: Tensor, group: Tensor, n_groups: int, layer: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Return the same in operations that an export records, which do not depend on how many rows a group has."""
    if n_groups > _GROUPS_IN_GRAPH:
        every = torch.stack([layer(x, number) for number in range(n_groups)])
        return Groups("scenario", n_groups, 1).pick(every, group).squeeze(0)
    outputs = x.new_zeros(x.shape[0], layer(x, 0).shape[1])
    for number in range(n_groups):
        outputs = replace_rows(outputs, group == number, partial(_of_rows, layer, x, number))
    return outputs


def _of_rows(layer: Callable[[Tensor, int], Tensor], x: Tensor, number: int, rows: Tensor) -> Tensor:
    return layer(x.index_select(0, rows), number)
