"""From a row's history to one vector, which stands beside the row's other features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_msr.config.key_table import HISTORY_POOLINGS
from recbole_msr.data.history import HISTORY_FIELD, HistoryRows, HistorySettings, last_rows
from recbole_msr.layers.sequences import Sequences, sequence_sums
from recbole_msr.layers.target_attention import UnitWeights, attention_sums, padded_attention_sums, prelu
from recbole_msr.layers.tracing import is_exported
from recbole_msr.options import Options

EXPORTED_HISTORY = "history."
"""Begins the names of an exported model's inputs of earlier rows, before the field."""
LookUp = Callable[[str, Tensor], Tensor]
"""From a field and ids of it (..., or ..., S of a sequence) to their vectors (..., K)."""


class PReLU(nn.Module):
    """max(0, x) + a min(0, x) with one learned a."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.25))

    def forward(self, x: Tensor) -> Tensor:
        """Return the result in the shape of x."""
        return prelu(x, self.slope)


class TargetAttention(nn.Module):
    """v (B, D) of histories e (B, L, D) for candidates t (B, D): the local activation unit of DIN.

        v = sum_l a(e_l, t) e_l,   a(e, t) = w . PReLU(W [e, t, e * t] + b) + c

    The weights are not normalised, so that v keeps how much of the history is about t. The unit of Zhou et al. (Deep
    Interest Network for Click-Through Rate Prediction, KDD 2018, section 4.3) reads e - t, too, in the authors' code:
    before a linear layer that is no other function. W is kept in three parts, so that [e, t, e * t] is never stored
    (`attention_sums`).

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

    def forward(self, history: Sequences, target: Tensor) -> Tensor:
        """Return v (B, D) of B histories and target (B, D)."""
        return attention_sums(history, target, self._of_target(target), self._unit())

    def of_padded(self, history: Tensor, there: Tensor, target: Tensor) -> Tensor:
        """Return the same of histories (B, L, D), of which `there` (B, L) says which vectors count."""
        return padded_attention_sums(history, there, target, self._of_target(target), self._unit())

    def _of_target(self, target: Tensor) -> Tensor:
        of_target: Tensor = self.of_target(target)
        return of_target + self.of_history.bias

    def _unit(self) -> UnitWeights:
        layers = [layer for layer in self.rest if isinstance(layer, nn.Linear)]
        slopes = [layer.slope for layer in self.rest if isinstance(layer, PReLU)]
        weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
        return UnitWeights(self.of_history.weight, self.of_product.weight, slopes, weights, biases)


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
        if is_exported():
            return self._of_padded(interaction, look_up, seen)
        histories: list[tuple[Sequences, Sequence[str]]] = []
        if self.fields:
            rows, there = last_rows(interaction[HISTORY_FIELD], self.length)
            histories.append((self._rows.sequences(rows, there, look_up), self._rows.fields))
        for column, field in self.given.items():
            ids = seen(field, interaction[column])
            filled = (ids != 0).any(dim=0).nonzero()
            ids = ids[:, : int(filled.max()) + 1 if len(filled) else 0]  # padded by batch, not as the file is
            distinct, places = _distinct(ids, ids != 0)
            histories.append((Sequences(look_up(field, distinct), places, ids != 0), [field]))
        pooled = []
        for number, (history, fields) in enumerate(histories):
            if self.pooling == "target_attention":
                pooled.append(self.attention[number](history, self._target(interaction, fields, look_up)))
            else:
                pooled.append(sequence_sums(history, self._weights(history.there)))
        return torch.cat(pooled, dim=1)

    @staticmethod
    def _target(interaction: Any, fields: Sequence[str], look_up: LookUp) -> Tensor:
        """Return the vectors (B, D) of the same fields of the rows to be scored."""
        return torch.cat([look_up(field, interaction[field]) for field in fields], dim=1)

    def _weights(self, there: Tensor) -> Tensor:
        """Return w (B, L) of a sum or a mean over the positions that are there (B, L)."""
        weights = there.float()
        return weights / weights.sum(dim=1, keepdim=True).clamp(min=1) if self.pooling == "mean" else weights

    @property
    def inputs(self) -> dict[str, str]:
        """The fields of earlier rows whose ids an exported model is given, and the names of these inputs."""
        return {field: f"{EXPORTED_HISTORY}{field}" for field in (self._rows.read if self.fields else ())}

    def _of_padded(self, interaction: Any, look_up: LookUp, seen: Callable[[str, Tensor], Tensor]) -> Tensor:
        """Return the vectors (B, D) in operations that an export records.

        The ids of the earlier rows are inputs (B, L) of their own, -1 where there is no row.
        """
        histories: list[tuple[Tensor, Tensor, Sequence[str]]] = []
        if self.fields:
            ids = {field: interaction[name] for field, name in self.inputs.items()}
            there = next(iter(ids.values())) >= 0
            ids = {field: of_field.clamp(min=0) for field, of_field in ids.items()}
            histories.append((self._rows.padded(ids, look_up), there, self._rows.fields))
        for column, field in self.given.items():
            given = seen(field, interaction[column])
            histories.append((look_up(field, given), given != 0, [field]))
        pooled = []
        for number, (history, there, fields) in enumerate(histories):
            if self.pooling == "target_attention":
                attention: Any = self.attention[number]
                pooled.append(attention.of_padded(history, there, self._target(interaction, fields, look_up)))
            else:
                pooled.append((self._weights(there).unsqueeze(1) @ history).squeeze(1))
        return torch.cat(pooled, dim=1)


def _distinct(ids: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Return the different ids (U,), ascending, of those ids (...) that are there, and the number of each (...)."""
    counts = torch.bincount(ids.flatten(), there.flatten().float())
    distinct = counts.nonzero().squeeze(1)
    numbers = torch.zeros(len(counts), dtype=torch.int64, device=ids.device)
    numbers[distinct] = torch.arange(len(distinct), device=ids.device)
    return distinct, numbers[ids]


class _Lookup:
    """Vectors of the rows of histories; its tables go to the device that asks, and copies of a model share them.

    Args:
        rows: the rows.
        item: the field of items.
        items: the table of items, by id; None where there is none.
        fields: the fields.

    Attributes:
        fields: the fields in the order of the vectors: those of interactions, then those of items.
        read: the fields of rows that these are made of: those of interactions, and the item.
    """

    def __init__(self, rows: HistoryRows, item: str, items: Any, fields: Sequence[str]) -> None:
        self._item, self._of_rows = item, dict(rows.values)
        own = [field for field in fields if field in rows.values and field != item]
        self._of_item = [field for field in fields if field not in own]
        self.fields = [*own, *self._of_item]
        self._of_items = {field: items[field] for field in self._of_item if field != item}
        self.read = [*own, *([item] if self._of_item else [])]

    def sequences(self, rows: Tensor, there: Tensor, look_up: LookUp) -> Sequences:
        """Return the vectors of rows (B, L), those of fields that `look_up` gives.

        Where all fields are the items', each item's vector is made once; else there is one a position.
        """
        own = [field for field in self.fields if field not in self._of_item]
        if not own:
            distinct, places = _distinct(self._on(self._of_rows, self._item, rows)[rows].long(), there)
            return Sequences(self._item_vectors(distinct, look_up), places, there)
        vectors = [look_up(field, self._on(self._of_rows, field, rows)[rows].long()) for field in own]
        if self._of_item:
            items, numbers = _distinct(self._on(self._of_rows, self._item, rows)[rows].long(), there)
            vectors.append(Sequences(self._item_vectors(items, look_up), numbers, there).padded())
        places = torch.arange(rows.numel(), device=rows.device).view(rows.shape)
        return Sequences(torch.cat(vectors, dim=2).flatten(0, 1), places, there)

    def padded(self, ids: Mapping[str, Tensor], look_up: LookUp) -> Tensor:
        """Return the vectors (B, L, D) of rows whose ids (B, L) of the fields `read` are given."""
        vectors = []
        for field in self.fields:
            of_field = ids.get(field)
            if of_field is None:  # a field of the item
                table = self._of_items[field].long()
                of_field = F.embedding(ids[self._item], table if table.dim() == 2 else table.unsqueeze(1))
                of_field = of_field if table.dim() == 2 else of_field.squeeze(-1)
            vectors.append(look_up(field, of_field))
        return torch.cat(vectors, dim=2)

    def _item_vectors(self, items: Tensor, look_up: LookUp) -> Tensor:
        """Return the vectors (U, D) of items (U,)."""
        ids = {
            field: items if field == self._item else self._on(self._of_items, field, items)[items].long()
            for field in self._of_item
        }
        return torch.cat([look_up(field, of_field) for field, of_field in ids.items()], dim=1)

    @staticmethod
    def _on(tables: dict[str, Tensor], field: str, rows: Tensor) -> Tensor:
        if tables[field].device != rows.device:
            tables[field] = tables[field].to(rows.device)
        return tables[field]

    def __deepcopy__(self, _: Any) -> _Lookup:
        return self
