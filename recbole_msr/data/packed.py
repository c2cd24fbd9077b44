"""Packed tables: a split as a few tensors, cut into batches by indexing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from recbole.data.interaction import Interaction


class PackedTable:
    """One split of a built RecBole dataset, joined with its user and item fields.

    Fields with one number a row lie side by side: token ids in an int32 table (N, F), floats in a float32 table.
    Fields with several numbers a row (sequences, numerical features) stay tensors of their own; those of users and
    items are not copied for every row but looked up by the row's id when a batch is made.

    Args:
        dataset: a built split (its `inter_feat` is an Interaction).
        device: where the tables live.

    Attributes:
        scenario_names: those of the dataset; None where it knows no scenarios.
    """

    def __init__(self, dataset: Any, device: torch.device | str = "cpu") -> None:
        self._narrow: dict[torch.dtype, dict[str, torch.Tensor]] = {torch.int64: {}, torch.float32: {}}
        self._wide: dict[str, torch.Tensor] = {}
        self._looked_up: list[tuple[str, dict[str, torch.Tensor]]] = []
        self.scenario_names: list[str] | None = getattr(dataset, "scenario_names", None)
        inter = dataset.inter_feat
        self._length = len(inter)
        self._add(inter.interaction)
        for key, feat in ((dataset.uid_field, dataset.user_feat), (dataset.iid_field, dataset.item_feat)):
            if feat is None or key not in inter:
                continue
            columns = {name: column for name, column in feat.interaction.items() if name != key}
            self._add({name: c[inter[key]] for name, c in columns.items() if c.dim() == 1})
            wide = {name: c.to(device) for name, c in columns.items() if c.dim() > 1}
            if wide:
                self._looked_up.append((key, wide))
        self._tokens = self._stack(torch.int64, torch.int32, device)
        self._floats = self._stack(torch.float32, torch.float32, device)
        self._wide = {name: column.to(device) for name, column in self._wide.items()}

    def _add(self, columns: dict[str, torch.Tensor]) -> None:
        for name, column in columns.items():
            if column.dim() == 1 and column.dtype in self._narrow:
                self._narrow[column.dtype][name] = column
            else:
                self._wide[name] = column

    def _stack(self, kind: torch.dtype, kept_as: torch.dtype, device: torch.device | str) -> torch.Tensor:
        columns = list(self._narrow[kind].values())
        self._narrow[kind] = dict.fromkeys(self._narrow[kind], torch.empty(0))  # only the names are still needed
        table = torch.empty((self._length, len(columns)), dtype=kept_as)
        for j, column in enumerate(columns):
            table[:, j] = column
        return table.to(device)

    def __len__(self) -> int:
        return self._length

    @property
    def device(self) -> torch.device:
        return self._tokens.device

    def batch(self, rows: torch.Tensor | slice) -> Interaction:
        """The named rows, as RecBole's data loader would give them (fields in another order).

        Args:
            rows: row numbers (B,), or a slice of rows.
        """
        values = dict(zip(self._narrow[torch.int64], self._tokens[rows].t().long().contiguous(), strict=True))
        values |= dict(zip(self._narrow[torch.float32], self._floats[rows].t().contiguous(), strict=True))
        values |= {name: column[rows] for name, column in self._wide.items()}
        for key, columns in self._looked_up:
            values |= {name: column[values[key]] for name, column in columns.items()}
        return Interaction(values)


class EpochOrder:
    """The order of the rows in every epoch: the one RecBole's own data loader draws from the same seed.

    It follows from the seed and the epoch alone, so that it is the same for any number of workers or processes and
    after a resume.
    """

    def __init__(self, length: int, seed: int, shuffle: bool = True) -> None:
        self._length, self._seed, self._shuffle = length, seed, shuffle
        self._drawn = -1
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def rows(self) -> torch.Tensor | None:
        """Row numbers (N,) of the current epoch; None for the rows as they stand."""
        if not self._shuffle:
            return None
        if self._epoch < self._drawn or self._drawn < 0:
            self._generator = torch.Generator()
            self._generator.manual_seed(self._seed)
            self._drawn = -1
        while self._drawn < self._epoch:
            # RecBole's loader is a torch DataLoader: each pass draws a seed for workers, a permutation, and a second
            # permutation of which it takes nothing.
            torch.empty((), dtype=torch.int64).random_(generator=self._generator)
            order = torch.randperm(self._length, generator=self._generator)
            torch.randperm(self._length, generator=self._generator)
            self._order, self._drawn = order, self._drawn + 1
        return self._order


class PackedLoader:
    """Batches of a packed table, for any loop that iterates over a data loader.

    With several processes, every batch is cut into as many parts (so `batch_size` is that of all together): for
    training each process gets the same number of batches; for evaluation every row is seen exactly once.

    Args:
        table: the rows.
        batch_size: rows a batch, over all processes.
        order: the order of the rows for training; None for evaluation.
        rank, world_size: which of how many processes this is.
    """

    def __init__(
        self, table: PackedTable, batch_size: int, order: EpochOrder | None = None, rank: int = 0, world_size: int = 1
    ) -> None:
        self.table, self.batch_size, self.order = table, max(int(batch_size), world_size), order
        self.rank, self.world_size = rank, world_size
        if order is not None:
            self.sampler, self.batch_sampler = order, None  # Lightning calls sampler.set_epoch before every epoch

    def __len__(self) -> int:
        full, rest = divmod(len(self.table), self.batch_size)
        needed = self.world_size if self.order is not None else self.rank + 1
        return full + (rest >= needed)

    def __iter__(self) -> Iterator[Interaction]:
        rows = self.order.rows() if self.order is not None else None
        if rows is not None:
            rows = rows.to(self.table.device)
        for number in range(len(self)):
            start = number * self.batch_size
            end = min(start + self.batch_size, len(self.table))
            if self.order is not None and self.world_size > 1:
                end -= (end - start) % self.world_size  # equal parts
            part = slice(start + self.rank, end, self.world_size)
            yield self.table.batch(part if rows is None else rows[part])


def row_numbers(loader: PackedLoader) -> torch.Tensor:
    """Which rows of the table an evaluation loader of this process goes through, in its order."""
    rows = torch.arange(len(loader.table))
    return torch.cat([batch[loader.rank :: loader.world_size] for batch in rows.split(loader.batch_size)])
