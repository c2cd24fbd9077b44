"""Rows as a few tables: what a split of a dataset is made of, in memory or mapped from a file of the cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_msr.compat import one_index

ROW_FIELD = "training_row"
"""The number of a row among the training rows, in batches of training; -1 for a row of a drawn item."""
_CHUNK = 1 << 16
"""Rows packed at once: the part of the table that they fill stays in the processor's cache."""


@dataclass
class Packed:
    """Columns side by side: token ids in an int32 table (N, F), floats in a float32 table (N, G).

    A column with several numbers a row (a sequence, a numerical feature) takes as many places in the table.

    Attributes:
        tokens, floats: the tables.
        places: column -> (its table, its first place there, the shape of one row's value).
        others: columns of other types, as they are.
        times: the time of every row (N,) in float64; None where the float32 column holds the same numbers.
    """

    tokens: torch.Tensor
    floats: torch.Tensor
    places: dict[str, tuple[str, int, tuple[int, ...]]]
    others: dict[str, torch.Tensor] = field(default_factory=dict)
    times: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def size(self) -> int:
        """Bytes of the tables."""
        return sum(t.numel() * t.element_size() for t in (self.tokens, self.floats, *self.others.values()))

    def select(self, rows: Any) -> Packed:
        """Return some of the rows: a slice shares the memory, anything else is a copy."""
        others = {name: column[rows] for name, column in self.others.items()}
        times = None if self.times is None else self.times[rows]
        return Packed(self.tokens[rows], self.floats[rows], self.places, others, times)

    def column(self, name: str) -> torch.Tensor:
        """Return a column as RecBole has it: int64 or float32, with one or more numbers a row."""
        table, start, shape = self.places[name]
        if table == "others":
            return self.others[name]
        values: torch.Tensor = getattr(self, table)[:, start : start + math.prod(shape)]
        values = values.long() if table == "tokens" else values.contiguous()
        return values.reshape(len(values), *shape)


def pack(length: int, columns: Mapping[str, tuple[torch.Tensor, torch.Tensor | None]]) -> Packed:
    """Pack columns.

    Args:
        length: the number of rows N.
        columns: name -> values, and for each of the N rows which of them it has (None: row n has value n).
    """
    places: dict[str, tuple[str, int, tuple[int, ...]]] = {}
    widths = {"tokens": 0, "floats": 0}
    others = {}
    for name, (values, index) in columns.items():
        shape = tuple(values.shape[1:])
        kind = {torch.int64: "tokens", torch.int32: "tokens", torch.float32: "floats"}.get(values.dtype, "others")
        places[name] = (kind, widths.get(kind, 0), shape)
        if kind == "others":
            others[name] = values if index is None else values[index]
        else:
            widths[kind] += math.prod(shape)
    tables = {
        "tokens": torch.empty((length, widths["tokens"]), dtype=torch.int32),
        "floats": torch.empty((length, widths["floats"]), dtype=torch.float32),
    }
    for start in range(0, length, _CHUNK):
        rows = slice(start, min(start + _CHUNK, length))
        for name, (values, index) in columns.items():
            kind, place, shape = places[name]
            if kind != "others":
                part = values[rows] if index is None else values[index[rows]]
                tables[kind][rows, place : place + math.prod(shape)] = part.reshape(len(part), -1)
    return Packed(tables["tokens"], tables["floats"], places, others)


class LazyColumns(MutableMapping[str, torch.Tensor]):
    """Columns by name, made when they are first asked for."""

    def __init__(self, makers: Mapping[str, Callable[[], torch.Tensor]]) -> None:
        self._makers: dict[str, Callable[[], torch.Tensor] | None] = dict(makers)
        self._made: dict[str, torch.Tensor] = {}
        self._replaced = False

    @property
    def changed(self) -> bool:
        """True once a column was put in, taken out or written to (which a NumPy view of it would hide)."""
        return self._replaced or any(map(_version, self._made.values()))

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._made:
            make = self._makers[name]
            assert make is not None
            # A tensor of its own, so that writing to it is noticed; in inference mode it would not be.
            with torch.inference_mode(False):
                self._made[name] = make().detach()
        return self._made[name]

    def __setitem__(self, name: str, column: torch.Tensor) -> None:
        self._makers[name], self._made[name], self._replaced = None, column, True

    def __delitem__(self, name: str) -> None:
        del self._makers[name]
        self._made.pop(name, None)
        self._replaced = True

    def __contains__(self, name: object) -> bool:
        return name in self._makers

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


class SelectedRows(Interaction):
    """Some rows of columns that stay where they are: shuffling, sorting and splitting change row numbers alone.

    Args:
        source: the columns, token ids in any integer type.
        rows: which rows (n,), in which order; None for all as they stand.
        exact: columns in float64, by name: rows are sorted by these where the column itself has rounded them.
    """

    def __init__(
        self,
        source: Mapping[str, torch.Tensor],
        rows: torch.Tensor | None = None,
        exact: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.source, self.exact = dict(source), dict(exact or {})
        self.rows = torch.arange(len(next(iter(source.values())))) if rows is None else rows
        self.length = len(self.rows)
        self._forget()

    def _forget(self) -> None:
        self.interaction = LazyColumns({name: partial(self._take, name) for name in self.source})

    def _take(self, name: str) -> torch.Tensor:
        values = self.source[name][self.rows]
        return values if values.is_floating_point() else values.long()

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            return self.interaction[index]
        if not isinstance(index, (slice, int, np.integer)):
            index = one_index(index)
        if isinstance(index, (int, np.integer)):  # one row, of numbers that stand alone
            return super().__getitem__(int(index))
        return SelectedRows(self.source, self.rows[index], self.exact)

    def __setitem__(self, name: str, column: torch.Tensor) -> None:
        values = torch.zeros((len(next(iter(self.source.values()))), *column.shape[1:]), dtype=column.dtype)
        values[self.rows] = column
        self.source[name] = values
        self._forget()

    def drop(self, column: str) -> None:
        """Take a column out, as RecBole's `Interaction.drop`."""
        super().drop(column)
        del self.source[column]
        self.exact.pop(column, None)

    def numbers(self, name: str) -> torch.Tensor:
        """Return a column (n,) of numbers as exactly as it was read: float64 where float32 rounds it."""
        return self.exact[name][self.rows] if name in self.exact else self.interaction[name]

    def sort(self, by: Any, ascending: Any = True) -> None:
        """Sort the rows in place, as RecBole's `Interaction.sort`."""
        if isinstance(by, str) and by in self.exact and ascending is True:
            self._reindex(np.argsort(self.numbers(by).numpy(), kind="stable"))
        else:
            super().sort(by, ascending)

    def _reindex(self, index: Any) -> None:
        self.rows = self.rows[torch.as_tensor(np.asarray(index))]
        self._forget()


class PackedRows(Interaction):
    """Interactions that are packed, together with the fields of their users and items.

    Args:
        packed: all columns.
        own: those of the interactions themselves, which this is an Interaction of.
        joined: the user and the item table that the other columns come from.
    """

    def __init__(self, packed: Packed, own: list[str], joined: tuple[Interaction | None, Interaction | None]) -> None:
        self.packed, self.own = packed, own
        self.length = len(packed)
        self.interaction = LazyColumns({name: partial(packed.column, name) for name in own})
        self._joined = _state_of(joined)

    def part(self, rows: Any, joined: tuple[Interaction | None, Interaction | None]) -> PackedRows:
        """Return some of the rows with the fields of their users and items; packed where nothing was changed since."""
        return PackedRows(self.packed.select(rows), self.own, joined)

    def is_as_packed(self, joined: tuple[Interaction | None, Interaction | None]) -> bool:
        """Return whether nothing was changed since, here or in the user and item tables."""
        return not self.interaction.changed and self._joined == _state_of(joined)


def _state_of(tables: tuple[Interaction | None, Interaction | None]) -> Any:
    return [
        None
        if table is None
        else [(name, column.data_ptr(), _version(column)) for name, column in table.interaction.items()]
        for table in tables
    ]


def _version(column: torch.Tensor) -> int:
    """Return the number of writes to a tensor; None for one made in inference mode, which does not count them."""
    return 0 if column.is_inference() else column._version


def pack_dataset(dataset: Any) -> PackedRows:
    """Return the interactions of a dataset that was made into tensors, packed with the fields of their users and items.

    Columns of users and items with several numbers a row are left where they are.
    """
    inter, times = dataset.inter_feat, None
    if isinstance(inter, SelectedRows):
        if dataset.time_field in inter.exact:
            times = inter.numbers(dataset.time_field)
        columns: dict[str, tuple[torch.Tensor, torch.Tensor | None]] = {
            name: (values, inter.rows) for name, values in inter.source.items()
        }
    else:
        columns = {name: (values, None) for name, values in inter.interaction.items()}
    own = list(columns)
    for key, table in ((dataset.uid_field, dataset.user_feat), (dataset.iid_field, dataset.item_feat)):
        if table is not None and key in inter:
            ids = inter[key]
            columns |= {n: (c, ids) for n, c in table.interaction.items() if n != key and c.dim() == 1}
    packed = pack(len(inter), columns)
    packed.times = times
    return PackedRows(packed, own, (dataset.user_feat, dataset.item_feat))
