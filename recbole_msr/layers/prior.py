"""The part of an input vector that stands for some fields."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from recbole_msr.layers.embedding import FeatureEmbedding
from recbole_msr.options import Options


def prior_columns(config: Any, features: FeatureEmbedding) -> list[int]:
    """Return the columns of x that `prior_fields` names: those of the user's and the item's id where it names none.

    Raises:
        InputError: a name is no part of x.
    """
    parts = features.columns
    names = [config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]]
    if config["prior_fields"] is not None:
        names = Options(config).words("prior_fields", [part.name for part in parts])
    ends = accumulate(part.width for part in parts)
    of_part = {part.name: range(end - part.width, end) for part, end in zip(parts, ends, strict=True)}
    return [column for name in names for column in of_part.get(name, ())]
