"""Rows of drawn items beside the positives of a packed table, made batch by batch."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor

from recbole_msr.data.negatives import NegativeSampler, NegativeSettings, positive_rows
from recbole_msr.data.rows import ROW_FIELD, Packed

_LABEL_OF_SAMPLED = 0.0
_WEIGHT_OF_SAMPLED = 1.0
"""What a sampled row counts in a task with weights: as much as the mean of the rows that carry its label."""


class NegativeRows:
    """The positives of a table of N rows, and what the rows of items drawn for them differ in.

    Such a row has the user, the scenario, the context and the history of its positive. The columns of the item are
    those of the drawn item, the scenario too where it is the item's. The label of every binary task is 0, and no other
    task has one.

    Args:
        train: the training split of a `ScenarioDataset`.
        packed: its packed rows.
        settings: the declaration.
        device: of the table.

    Attributes:
        number: how many are drawn for each positive.
        is_positive: which rows of the table are positives (N,), on the CPU.
    """

    def __init__(self, train: Any, packed: Packed, settings: NegativeSettings, device: torch.device | str) -> None:
        self.number, self._device = settings.sample_num, device
        self._sampler = NegativeSampler.of_training(train, settings)
        self.is_positive = torch.from_numpy(positive_rows(train.inter_feat, train.schema))
        self._users = packed.column(train.uid_field)
        self._scenarios = train.row_scenario(train.inter_feat)
        self._of_item = _item_columns(train, packed, device)
        tasks = train.schema.tasks
        labels = {t.label_field: _LABEL_OF_SAMPLED if t.type == "binary" else t.missing_label for t in tasks}
        labels |= dict.fromkeys(train.schema.weight_fields.values(), _WEIGHT_OF_SAMPLED)
        self._floats = {packed.places[name][1]: value for name, value in labels.items() if name in packed.places}

    def part(self, rows: Tensor) -> NegativeRows:
        """Return those of some rows (n,) of the table; what a user has is that of all rows."""
        part = copy.copy(self)
        rows = rows.cpu()
        part.is_positive = self.is_positive[rows]
        part._users, part._scenarios = self._users[rows], self._scenarios[rows]
        return part

    @property
    def only_positives(self) -> bool:
        """Whether every row is a positive, so that batches of as many rows have as many sampled ones."""
        return bool(self.is_positive.all())

    def draw(self, seed: int, epoch: int) -> DrawnRows:
        """Draw the items of an epoch, for all positives: they follow from the seed and the epoch alone."""
        rows = self.is_positive.nonzero().squeeze(1)
        users, scenarios = (column[rows].numpy() for column in (self._users, self._scenarios))
        items = torch.from_numpy(self._sampler.draw(users, scenarios, self.number, [seed, epoch]))
        place = None
        if not self.only_positives:
            place = torch.full((len(self.is_positive),), -1)
            place[rows] = torch.arange(len(rows))
            place = place.to(self._device)
        return DrawnRows(place, items.to(self._device), self._of_item, self._floats)


class DrawnRows:
    """The items that were drawn for an epoch.

    Args:
        place: of each row of the table its number among the positives, -1 of others (N,); None where all are positives.
        items: ids of the items drawn for each positive (P, n).
        of_item: what has to be set in the tables of a batch, by table: places there (k,), and values by item (I, k).
        floats: place in the table of floats -> its value in every sampled row.
    """

    def __init__(
        self, place: Tensor | None, items: Tensor, of_item: dict[str, tuple[Tensor, Tensor]], floats: dict[int, float]
    ) -> None:
        self._place, self._items, self._of_item, self._floats = place, items, of_item, floats

    def extend(self, rows: Tensor, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """Put the sampled rows of a batch behind its own: a row for each positive, then the second ones, and so on.

        Args:
            rows: the batch's rows of the table (B,).
            parts: its tables and other columns, (B, ...) each.
        """
        positives, own = torch.arange(len(rows), device=rows.device), rows
        if self._place is not None:
            own = self._place[rows]
            positives = (own >= 0).nonzero().squeeze(1)
            own = own[positives]
        items = self._items[own].t().reshape(-1)
        source = positives.repeat(self._items.shape[1])
        return {name: torch.cat([table, self._sampled(name, table[source], items)]) for name, table in parts.items()}

    def _sampled(self, name: str, table: Tensor, items: Tensor) -> Tensor:
        """Return the rows of positives (n, ...) with what belongs to the items (n,) and their labels."""
        if name == f"/{ROW_FIELD}":
            return torch.full_like(table, -1)
        if name.startswith("/"):  # a column by itself
            return self._of_item[name][1][items] if name in self._of_item else table
        if name in self._of_item:
            places, values = self._of_item[name]
            table[:, places] = values[items]
        if name == "floats":
            for place, value in self._floats.items():
                table[:, place] = value
        return table


def _item_columns(train: Any, packed: Packed, device: torch.device | str) -> dict[str, tuple[Tensor, Tensor]]:
    """Return, by table, the places of the item's columns (k,) and their values by item (I, k); others by "/name"."""
    columns = {train.iid_field: torch.arange(int(train.item_num))}
    if train.item_feat is not None:
        columns |= {name: c for name, c in train.item_feat.interaction.items() if name != train.iid_field}
    found: dict[str, list[tuple[int, Tensor]]] = {}
    others = {}
    for name, values in columns.items():
        if name not in packed.places:  # several numbers an item: looked up by the id that a row has
            continue
        kind, start, shape = packed.places[name]
        if kind == "others":
            others[f"/{name}"] = (torch.empty(0, dtype=torch.int64), values.to(device))
            continue
        assert math.prod(shape) == 1
        found.setdefault(kind, []).append((start, values))
    types = {"tokens": torch.int32, "floats": torch.float32}
    tables = {
        kind: (
            torch.tensor([start for start, _ in of_kind], device=device),
            torch.stack([values.to(types[kind]) for _, values in of_kind], dim=1).to(device),
        )
        for kind, of_kind in found.items()
    }
    return tables | others
