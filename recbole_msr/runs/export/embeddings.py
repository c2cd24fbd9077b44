"""Embedding tables in fewer bits: half precision, or bytes with a scale for each vector."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KINDS = ("float32", "float16", "int8")
"""What the numbers of embedding tables may be."""


class HalfTable(nn.Module):
    """An embedding table (V, K) in half precision.

    Args:
        weight: the vectors (V, K), float32.
    """

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().half())

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors (..., K), float32, of ids (...)."""
        return F.embedding(ids, self.weight).float()


class ByteTable(nn.Module):
    """An embedding table (V, K) in bytes: w_v = s_v q_v, s_v = max |w_v| / 127, q_v the nearest integers.

    Args:
        weight: the vectors (V, K), float32.
    """

    weight: Tensor
    """q (V, K)."""
    scale: Tensor
    """s (V, 1)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        scale = weight.detach().abs().amax(dim=1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.register_buffer(
            "weight", (weight.detach() / scale.clamp(min=1e-30)).round().clamp(-127, 127).to(torch.int8)
        )

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors (..., K), float32, of ids (...)."""
        return F.embedding(ids, self.weight).float() * F.embedding(ids, self.scale)


_TABLES: dict[str, Any] = {"float16": HalfTable, "int8": ByteTable}


@torch.no_grad()
def round_embeddings(model: nn.Module, kind: str) -> None:
    """Give a model the embeddings that tables of a kind have, in place; they stay float32.

    Args:
        model: the model.
        kind: a word of `KINDS`.
    """
    if kind in _TABLES:
        for _, table in _embeddings(model):
            table.weight.copy_(_TABLES[kind](table.weight)(torch.arange(len(table.weight), device=table.weight.device)))


def make_tables_small(model: nn.Module, kind: str) -> None:
    """Put tables of a kind in the place of a model's embeddings."""
    for name, table in _embeddings(model) if kind in _TABLES else ():
        parent, _, attribute = name.rpartition(".")
        model.get_submodule(parent).register_module(attribute, _TABLES[kind](table.weight))


def _embeddings(model: nn.Module) -> list[tuple[str, Any]]:
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.weight.dtype == torch.float32
    ]
