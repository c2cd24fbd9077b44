"""From a row's history to one vector, which stands beside the row's other features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recbole_msr.config.key_table import HISTORY_POOLINGS
from recbole_msr.data.history import HISTORY_FIELD, HistoryRows, HistorySettings, last_rows
from recbole_msr.options import Options

LookUp = Callable[[str, Tensor], Tensor]
"""From a field and ids of it (..., or ..., S of a sequence) to their vectors (..., K)."""


class PReLU(nn.Module):
    """max(0, x) + a min(0, x) with one learned a: `nn.PReLU`, whose backward pass takes a CPU four times as long."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.25))

    def forward(self, x: Tensor) -> Tensor:
        """Return the result in the shape of x."""
        return x.clamp(min=0) + self.slope * x.clamp(max=0)


class TargetAttention(nn.Module):
    """v (B, D) of histories e (B, L, D) for candidates t (B, D): the local activation unit of DIN.

        v = sum_l a(e_l, t) e_l,   a(e, t) = w . PReLU(W [e, t, e * t] + b) + c

    The weights are not normalised, so that v keeps how much of the history is about t. The unit of Zhou et al. (Deep
    Interest Network for Click-Through Rate Prediction, KDD 2018, section 4.3) reads e - t, too, in the authors' code:
    before a linear layer that is no other function. W is kept in three parts, so that [e, t, e * t] is never stored.

    Args:
        size: D.
        hidden_sizes: widths of the hidden layers; the paper has one of 36.
    """

    __call__: Callable[..., Tensor]

    def __init__(self, size: int, hidden_sizes: Sequence[int]) -> None:
        super().__init__()
        first, *others = hidden_sizes
        self.of_history = nn.Linear(size, first)
        self.of_target = nn.Linear(size, first, bias=False)
        self.of_product = nn.Linear(size, first, bias=False)
        layers: list[nn.Module] = [PReLU()]
        for width, following in zip(hidden_sizes, others, strict=False):
            layers += [nn.Linear(width, following), PReLU()]
        self.rest = nn.Sequential(*layers, nn.Linear(hidden_sizes[-1], 1))

    def forward(self, history: Tensor, there: Tensor, target: Tensor) -> Tensor:
        """Return v (B, D) of history (B, L, D), which of its rows there are (B, L), and target (B, D)."""
        t = target.unsqueeze(1)
        hidden = self.of_history(history) + self.of_product(history * t) + self.of_target(t)
        weights = self.rest(hidden).squeeze(2) * there
        pooled: Tensor = (weights.unsqueeze(1) @ history).squeeze(1)
        return pooled


class HistoryFeatures(nn.Module):
    """Vectors (B, D) of the histories that `history` declares: one of the earlier rows, one a given column.

    The vectors of a row of a history are those of its fields, concatenated, from the tables that embed the fields of
    the row to be scored. `history_pooling` makes one of L: their mean, sum, or `TargetAttention` to the same fields
    of the row to be scored. A row without a history has zeros.

    Args:
        config: reads `history`, `history_pooling`, `history_hidden_sizes`.
        settings: the declaration.
        dataset: its history rows and its item table.
        widths: K of every embedded field.

    Attributes:
        parts: the parts of the output: name and width.
    """

    __call__: Callable[..., Tensor]

    def __init__(self, config: Any, settings: HistorySettings, dataset: Any, widths: Mapping[str, int]) -> None:
        super().__init__()
        option = Options(config)
        self.pooling = option.choice("history_pooling", HISTORY_POOLINGS)
        self.length, self.fields, self.given = settings.length, settings.fields, dict(settings.given)
        groups = [self.fields] if self.fields else []
        self._sets = [*groups, *((field,) for field in self.given.values())]
        sizes = [sum(widths[field] for field in fields) for fields in self._sets]
        names = [*("history" for _ in groups), *self.given]
        self.parts = list(zip(names, sizes, strict=True))
        attends = self.pooling == "target_attention"
        hidden = option.sizes("history_hidden_sizes") if attends else []
        self.attention = nn.ModuleList(TargetAttention(size, hidden) for size in sizes if attends)
        if self.fields:
            # No buffers: they are the data's, not the model's, and all models of a dataset share them.
            self._rows = _Lookup(dataset.history, dataset.iid_field, dataset.item_feat, self.fields)

    def forward(self, interaction: Any, look_up: LookUp, seen: Callable[[str, Tensor], Tensor]) -> Tensor:
        """Return the vectors (B, D).

        Args:
            interaction: B rows, with `HISTORY_FIELD` and the given columns.
            look_up: returns vectors.
            seen: returns ids of a field with 0 in place of what training has not had.
        """
        histories: list[tuple[Tensor, Tensor, Sequence[str]]] = []
        if self.fields:
            rows, there = last_rows(interaction[HISTORY_FIELD], self.length)
            histories.append((self._rows.vectors(rows, look_up), there, self._rows.fields))
        for column, field in self.given.items():
            ids = seen(field, interaction[column])
            filled = (ids != 0).any(dim=0).nonzero()
            ids = ids[:, : int(filled.max()) + 1 if len(filled) else 0]  # padded by batch, not as the file is
            histories.append((look_up(field, ids), ids != 0, [field]))
        pooled = []
        for number, (history, there, fields) in enumerate(histories):
            if self.pooling == "target_attention":
                target = torch.cat([look_up(field, interaction[field]) for field in fields], dim=1)
                pooled.append(self.attention[number](history, there.to(history.dtype), target))
                continue
            weights = there.to(history.dtype)
            if self.pooling == "mean":
                weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1)
            pooled.append((weights.unsqueeze(1) @ history).squeeze(1))
        return torch.cat(pooled, dim=1)


class _Lookup:
    """Vectors of the rows of histories; its tables go to the device that asks, and copies of a model share them.

    Args:
        rows: the rows.
        item: the field of items.
        items: the table of items, by id; None where there is none.
        fields: the fields.

    Attributes:
        fields: the fields in the order of the vectors: those of interactions, then those of items.
    """

    def __init__(self, rows: HistoryRows, item: str, items: Any, fields: Sequence[str]) -> None:
        self._item, self._of_rows = item, dict(rows.values)
        own = [field for field in fields if field in rows.values and field != item]
        self._of_item = [field for field in fields if field not in own]
        self.fields = [*own, *self._of_item]
        self._of_items = {field: items[field] for field in self._of_item if field != item}

    def vectors(self, rows: Tensor, look_up: LookUp) -> Tensor:
        """Return the vectors (B, L, D) of rows (B, L), which `look_up` gives by field."""
        own = [field for field in self.fields if field not in self._of_item]
        vectors = [look_up(field, self._on(self._of_rows, field, rows)[rows].long()) for field in own]
        if self._of_item:
            vectors.append(self._item_vectors(self._on(self._of_rows, self._item, rows)[rows].long(), look_up))
        return torch.cat(vectors, dim=2) if len(vectors) > 1 else vectors[0]

    def _item_vectors(self, items: Tensor, look_up: LookUp) -> Tensor:
        """Return the vectors (B, L, D) of items (B, L): each item's are made once, and read by all its rows."""
        if not self._of_items:
            return look_up(self._item, items)
        n_items = len(next(iter(self._of_items.values())))
        if n_items <= items.numel():
            distinct, places = torch.arange(n_items, device=items.device), items
        else:
            distinct, places = torch.unique(items, return_inverse=True)
        ids = {
            field: distinct if field == self._item else self._on(self._of_items, field, items)[distinct].long()
            for field in self._of_item
        }
        vectors = torch.cat([look_up(field, of_field) for field, of_field in ids.items()], dim=1)
        return vectors.index_select(0, places.flatten()).view(*items.shape, vectors.shape[1])

    @staticmethod
    def _on(tables: dict[str, Tensor], field: str, rows: Tensor) -> Tensor:
        if tables[field].device != rows.device:
            tables[field] = tables[field].to(rows.device)
        return tables[field]

    def __deepcopy__(self, _: Any) -> _Lookup:
        return self
