"""What a model has to show of how it treats rows."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Measure(NamedTuple):
    """Numbers that a model computes for every row on the way to its logits; `explain` shows their means by scenario.

    Attributes:
        title, says: what they are, in a few words and in a sentence or two.
        columns: what each number is of (C).
        values: (B, C).
    """

    title: str
    says: str
    columns: list[str]
    values: Tensor
