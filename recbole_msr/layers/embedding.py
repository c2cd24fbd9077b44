"""From the fields of a RecBole interaction to one input vector a row."""

from __future__ import annotations

from collections.abc import Collection
from itertools import accumulate
from typing import Any

import torch
from recbole.utils import FeatureSource, FeatureType
from torch import Tensor, nn

from recbole_msr.data.occurrence import occurring
from recbole_msr.errors import InputError
from recbole_msr.options import Options

_FEATURE_SOURCES = [
    FeatureSource.INTERACTION,
    FeatureSource.USER,
    FeatureSource.USER_ID,
    FeatureSource.ITEM,
    FeatureSource.ITEM_ID,
]

INITIAL_STD = 0.01
"""Standard deviation of a fresh embedding's entries.

xavier_normal over a whole table (RecBole) shrinks with the number of values; a fixed one does not. On ml-100k
HiNet starts fastest from 0.01 and ends alike from 0.01, 0.02 and 0.05; from 0.1 it ends lower.
"""


class FeatureEmbedding(nn.Module):
    """x (B, D): the embeddings of all feature fields, concatenated.

    - A token field is looked up in the one table that all token fields share, each at its own offset. A
      field's index 0 stands for an unknown or missing value; its vector starts at zero, and only rows that
      have it train it.
    - A token_seq field is the mean of its tokens' vectors, padding (0) left out; an empty sequence is zero.
    - A float field counts as a feature only if `numerical_features` lists it, as in RecBole. With
      `numerical_as: raw` its value is one column of x. With `numerical_as: embedding` it is value * v, with a
      learned vector v (one a bucket where RecBole's `discretization` makes buckets).

    What no training row has (a user of the test rows alone, say) no row trains: in evaluation it is read as index 0, so
    that all such values, and those that the vocabulary lacks, come to the same.

    Fields stand in x by kind, then by name, whatever the order of columns in the files.

    Args:
        config: reads `embedding_size` K, `numerical_features` and `numerical_as`.
        dataset: a RecBole dataset, for its fields, their types and numbers of values; its rows are those trained on.
            Without rows (a finished run's, restored) what they had comes with the weights.
        exclude: fields that are no features: labels, and the scenario.

    Attributes:
        token_fields, token_seq_fields, float_fields: names of the fields in x, in their order.
        output_size: D.

    Raises:
        InputError: there is no feature field, or a numerical feature cannot be used as configured.
    """

    offsets: Tensor
    """Where each token field begins in the table, (token fields,)."""
    seen: Tensor
    """Which values the training rows have: those of the token fields, the token_seq fields, the buckets (values,)."""

    def __init__(self, config: Any, dataset: Any, exclude: Collection[str] = ()) -> None:
        super().__init__()
        option = Options(config)
        size = option.integer("embedding_size")
        self.numerical_as = option.choice("numerical_as", ("raw", "embedding"))
        numerical = config["numerical_features"] or []
        self.token_fields: list[str] = []
        self.token_seq_fields: list[str] = []
        self.float_fields: list[str] = []
        fields_of = {
            FeatureType.TOKEN: self.token_fields,
            FeatureType.TOKEN_SEQ: self.token_seq_fields,
            FeatureType.FLOAT: self.float_fields,
        }
        for field in sorted(dataset.fields(source=_FEATURE_SOURCES)):
            kind = dataset.field2type[field]
            is_token = kind in (FeatureType.TOKEN, FeatureType.TOKEN_SEQ)
            if field in exclude or not (is_token or field in numerical):
                continue
            if kind == FeatureType.FLOAT_SEQ:
                raise InputError(
                    f"numerical_features lists '{field}', a float_seq, but this model takes single numbers: "
                    "store its values as one float field each, or leave it out"
                )
            fields_of[kind].append(field)
        if not (self.token_fields or self.token_seq_fields or self.float_fields):
            raise InputError("the dataset has no feature field: load some with load_col (e.g. user: [user_id, gender])")

        if self.token_fields:
            n_values = [dataset.num(field) for field in self.token_fields]
            offsets = torch.tensor([0, *accumulate(n_values)][:-1])
            self.register_buffer("offsets", offsets, persistent=False)
            self.table = nn.Embedding(sum(n_values), size)
            _initialise(self.table, unknown=offsets)
        self.seq_tables = nn.ModuleList(
            nn.EmbeddingBag(dataset.num(field), size, mode="mean", padding_idx=0) for field in self.token_seq_fields
        )
        if self.numerical_as == "raw":
            for field in self.float_fields:
                if field in (config["discretization"] or {}):
                    raise InputError(
                        f"numerical feature '{field}' is cut into buckets by discretization, so it has no "
                        "value to use as it is: set numerical_as: embedding, or take it out of discretization"
                    )
        embedded = self.float_fields if self.numerical_as == "embedding" else []
        self.float_tables = nn.ModuleList(nn.Embedding(dataset.num(field), size) for field in embedded)
        for table in (*self.seq_tables, *self.float_tables):
            _initialise(table, unknown=torch.tensor([0]))
        self._note_seen(dataset, [*self.token_fields, *self.token_seq_fields, *embedded])
        n_embedded = len(self.token_fields) + len(self.token_seq_fields) + len(self.float_tables)
        self.output_size = n_embedded * size + (len(self.float_fields) if self.numerical_as == "raw" else 0)

    def _note_seen(self, dataset: Any, fields: list[str]) -> None:
        n_values = [dataset.num(field) for field in fields]
        self._starts = dict(zip(fields, [0, *accumulate(n_values)], strict=False))
        seen = torch.ones(sum(n_values), dtype=torch.bool)
        if getattr(dataset, "inter_feat", None) is not None:
            seen = torch.cat([torch.empty(0, dtype=torch.bool), *(occurring(dataset, field) for field in fields)])
        self.register_buffer("seen", seen)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        # Runs of versions that did not note it are scored as they were trained.
        state_dict.setdefault(prefix + "seen", torch.ones_like(self.seen))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def has_seen(self, field: str, ids: Tensor) -> Tensor:
        """Return whether a training row had these ids (...) of a field that is embedded."""
        return self.seen[ids + self._starts[field]]

    def forward(self, interaction: Any) -> Tensor:
        """Return x (B, D) of a RecBole `Interaction` of B rows."""
        parts = []
        if self.token_fields:
            ids = torch.stack([interaction[field] for field in self.token_fields], dim=1)
            places = ids + self.offsets
            if not self.training:
                places = torch.where(self.seen[places], places, self.offsets)
            parts.append(self.table(places).flatten(1))
        for field, table in zip(self.token_seq_fields, self.seq_tables, strict=True):
            parts.append(table(self._read_as(field, interaction[field])))
        # RecBole hands a numerical feature over as (value, bucket).
        numbers = {field: interaction[field] for field in self.float_fields}
        if self.numerical_as == "raw":
            parts += [number[:, :1] for number in numbers.values()]
        else:
            parts += [
                number[:, :1] * table(self._read_as(field, number[:, 1].long()))
                for (field, number), table in zip(numbers.items(), self.float_tables, strict=True)
            ]
        return torch.cat(parts, dim=1)

    def _read_as(self, field: str, ids: Tensor) -> Tensor:
        """Return the ids of a field (...); in evaluation 0 in place of those that no training row has."""
        return ids if self.training else ids.masked_fill(~self.has_seen(field, ids), 0)


@torch.no_grad()
def _initialise(table: nn.Embedding | nn.EmbeddingBag, unknown: Tensor) -> None:
    nn.init.normal_(table.weight, std=INITIAL_STD)
    table.weight[unknown] = 0.0
