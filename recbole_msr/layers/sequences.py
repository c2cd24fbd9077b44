"""Sequences of vectors that occur again and again, computed on a CPU in blocks without padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recbole_msr.layers.manual_backward import by_autograd, is_differentiated, supports

_BLOCK = 3200
"""Positions computed at a time: all that is made for so many stays in the cache of a core."""


class Sequences(NamedTuple):
    """B sequences of vectors, each different vector stored once.

    Attributes:
        vectors: the different vectors (U, D).
        places: number of the vector at each position (B, L).
        there: which positions there are (B, L), bool; at the others `places` is any number.
    """

    vectors: Tensor
    places: Tensor
    there: Tensor

    def padded(self) -> Tensor:
        """Return the vectors by position (B, L, D)."""
        found = self.vectors.index_select(0, self.places.flatten())
        return found.view(*self.places.shape, self.vectors.shape[1])

    def longest_first(self) -> tuple[Tensor, list[int]]:
        """Return the order (B,) that puts the longest sequences first, and the lengths in this order."""
        numbers = torch.arange(1, self.there.shape[1] + 1, device=self.there.device)
        lengths = (self.there * numbers).amax(dim=1) if len(numbers) else self.there.new_zeros(len(self.there)).long()
        lengths, order = lengths.sort(descending=True)
        return order, lengths.tolist()


def blocks(lengths: Sequence[int]) -> Iterator[tuple[slice, int]]:
    """Yield rows of which the longest sequence comes first, and its length, until only empty ones are left."""
    first = 0
    while first < len(lengths) and lengths[first]:
        last = first + max(1, _BLOCK // lengths[first])
        yield slice(first, last), lengths[first]
        first = last


def sequence_sums(sequences: Sequences, weights: Tensor) -> Tensor:
    """Return v (B, D) = sum_l w_l e_l of sequences e.

    On a CPU this goes block by block, there and back; elsewhere, and where `supports` says no, by plain operations.

    Args:
        sequences: e.
        weights: w (B, L), without a gradient; 0 where there is no position.
    """
    vectors, places, _ = sequences
    if not supports(vectors):
        return _plain_sums(vectors, places, weights)
    order, lengths = sequences.longest_first()
    sums: Tensor = _Sums.apply(vectors, places[order], weights[order], lengths)  # type: ignore[no-untyped-call]
    return sums.index_select(0, order.argsort())


def _plain_sums(vectors: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    history = vectors.index_select(0, places.flatten()).view(*places.shape, vectors.shape[1])
    return (weights.unsqueeze(1) @ history).squeeze(1)


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, places: Tensor, weights: Tensor, lengths: list[int]) -> Tensor:
        sums = vectors.new_zeros(len(places), vectors.shape[1])
        with torch.autocast("cpu", enabled=False):
            for rows, length in blocks(lengths):
                e = vectors.index_select(0, places[rows, :length].reshape(-1)).view(-1, length, vectors.shape[1])
                torch.bmm(weights[rows, :length].unsqueeze(1), e, out=sums[rows].unsqueeze(1))
        ctx.lengths = lengths
        ctx.save_for_backward(vectors, places, weights)
        return sums

    @staticmethod
    def backward(ctx: Any, d_sums: Tensor) -> tuple[Tensor | None, ...]:
        vectors, places, weights = ctx.saved_tensors
        if is_differentiated(d_sums):
            with torch.enable_grad():
                sums = _plain_sums(vectors, places, weights)
            return *by_autograd(sums, [vectors], ctx.needs_input_grad[:1], d_sums), None, None, None
        d_vectors = torch.zeros_like(vectors)
        with torch.autocast("cpu", enabled=False):
            for rows, length in blocks(ctx.lengths):
                d_e = torch.bmm(weights[rows, :length].unsqueeze(2), d_sums[rows].unsqueeze(1))
                d_vectors.index_add_(0, places[rows, :length].reshape(-1), d_e.flatten(0, 1))
        return d_vectors, None, None, None
