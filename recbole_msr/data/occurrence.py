"""The values of a field that the rows of a dataset have."""

from __future__ import annotations

from typing import Any

import torch
from recbole.utils import FeatureSource, FeatureType
from torch import Tensor

from recbole_msr.data.rows import PackedRows


def occurring(dataset: Any, field: str) -> Tensor:
    """Mark the ids of a field (V,) that a row of a split has, by itself or through its user or item.

    Of a numerical field in buckets they are the buckets.

    Args:
        dataset: a built RecBole dataset, with its interactions.
        field: a token or token_seq field, or a numerical feature.
    """
    tables = {
        FeatureSource.USER: (dataset.uid_field, dataset.user_feat),
        FeatureSource.ITEM: (dataset.iid_field, dataset.item_feat),
    }
    key, table = tables.get(dataset.field2source[field], (field, None))
    values = column_of(dataset.inter_feat, key)
    if table is not None:
        values = table[field][_flags(values, len(table)).nonzero().squeeze(1)]
    if dataset.field2type[field] == FeatureType.FLOAT:
        values = values[:, 1].long()  # RecBole hands a numerical feature over as (value, bucket)
    return _flags(values, dataset.num(field))


def _flags(ids: Tensor, length: int) -> Tensor:
    flags = torch.zeros(length, dtype=torch.bool)
    flags[ids.reshape(-1)] = True
    return flags


def column_of(inter: Any, field: str) -> Tensor:
    """Return a column (N, ...) of interactions, without keeping it where they are packed."""
    if isinstance(inter, PackedRows) and not inter.interaction.changed:
        return inter.packed.column(field)  # not `inter[field]`, which would keep it
    return torch.as_tensor(inter[field])
