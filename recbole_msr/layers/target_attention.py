"""The activation unit of DIN over histories, with the backward pass written out for a CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

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

    def lengths(self) -> Tensor:
        """Return the number of positions (B,) up to the last one that there is."""
        numbers = torch.arange(1, self.there.shape[1] + 1, device=self.there.device)
        return (self.there * numbers).amax(dim=1) if len(numbers) else self.there.new_zeros(len(self.there)).long()


class UnitWeights(NamedTuple):
    """What the unit has learned, of K hidden layers.

    Attributes:
        of_history, of_product: the parts of the first layer W that read e and e * t (H, D).
        slopes: a of each hidden layer's PReLU, without dimensions.
        weights, biases: of the layers after each hidden one (H_k+1, H_k), (H_k+1,); the last gives one number.
    """

    of_history: Tensor
    of_product: Tensor
    slopes: Sequence[Tensor]
    weights: Sequence[Tensor]
    biases: Sequence[Tensor]


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """Return max(0, x) + slope min(0, x), as `F.prelu`, whose backward pass takes a CPU four times as long."""
    return x.clamp(min=0) + slope * x.clamp(max=0)


def attention_sums(sequences: Sequences, target: Tensor, of_target: Tensor, unit: UnitWeights) -> Tensor:
    """Return v (B, D) = sum_l a(e_l, t) e_l of sequences e for targets t.

    The first hidden layer of a row is linear in e, with a matrix of the row:

        W_e e + W_t t + W_p (e * t) + b = (W_e + W_p diag(t)) e + (W_t t + b) = M_t e + c_t

    so that a block of rows takes one batched product, and e * t is never made. Back from G = dL/d(M_t e + c_t) (L, H):

        dL/dM_t = G^T e,  dL/de = G M_t + a dL/dv,  dL/dW_e = sum dL/dM_t,  dL/dW_p = sum dL/dM_t diag(t),
        dL/dt = sum over hidden units of W_p * dL/dM_t,  dL/dc_t = sum_l G,  dL/da_l = <dL/dv, e_l>

    On a CPU this goes block by block of rows that are about as long as each other, so that little padding is computed,
    and the hidden layers are made again on the way back: a batch keeps no number per position but a. Elsewhere, and
    under `torch.func`, `torch.compile` and `plain_operations`, it is left to autograd. In autocast it is computed in
    the vectors' own precision.

    Args:
        sequences: e.
        target: t (B, D).
        of_target: c_t (B, H).
        unit: the weights.
    """
    vectors, places, there = sequences
    if not supports(vectors):
        return _plain_sums(vectors, places, there, target, of_target, unit)
    lengths = sequences.lengths()
    order = lengths.argsort(descending=True)
    weights = (unit.of_history, unit.of_product, *unit.slopes, *unit.weights, *unit.biases)
    rows = (places[order], there[order], lengths[order].tolist())
    sums: Tensor = _AttentionSums.apply(  # type: ignore[no-untyped-call]
        *rows, vectors, target[order], of_target.to(vectors.dtype)[order], *weights
    )
    return sums.index_select(0, order.argsort())


def _plain_sums(
    vectors: Tensor, places: Tensor, there: Tensor, target: Tensor, of_target: Tensor, unit: UnitWeights
) -> Tensor:
    """Return what `attention_sums` does, in operations that autograd knows."""
    history = Sequences(vectors, places, there).padded()
    hidden = F.linear(history, unit.of_history) + F.linear(history * target.unsqueeze(1), unit.of_product)
    hidden = hidden + of_target.unsqueeze(1)
    for slope, weight, bias in zip(unit.slopes, unit.weights, unit.biases, strict=True):
        hidden = F.linear(prelu(hidden, slope), weight, bias)
    a = hidden.squeeze(2) * there
    return (a.unsqueeze(1) @ history).squeeze(1)


def _blocks(lengths: Sequence[int]) -> Iterator[tuple[slice, int]]:
    """Yield rows of which the longest sequence comes first, and its length, until only empty ones are left."""
    first = 0
    while first < len(lengths) and lengths[first]:
        last = first + max(1, _BLOCK // lengths[first])
        yield slice(first, last), lengths[first]
        first = last


def _unit_of(weights: Sequence[Tensor]) -> UnitWeights:
    depth = (len(weights) - 2) // 3
    rest = [weights[2 + k * depth : 2 + (k + 1) * depth] for k in range(3)]
    return UnitWeights(*weights[:2], *rest)


class _AttentionSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        places: Tensor,
        there: Tensor,
        lengths: list[int],
        vectors: Tensor,
        target: Tensor,
        of_target: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        unit, size = _unit_of(weights), vectors.shape[1]
        a, sums = vectors.new_zeros(places.shape), vectors.new_zeros(len(places), size)
        with torch.autocast("cpu", enabled=False):
            for rows, length in _blocks(lengths):
                e = vectors.index_select(0, places[rows, :length].reshape(-1)).view(-1, length, size)
                matrices = torch.addcmul(unit.of_history, target[rows].unsqueeze(1), unit.of_product)
                hidden = torch.baddbmm(of_target[rows].unsqueeze(1), e, matrices.mT).flatten(0, 1)
                for slope, weight, bias in zip(unit.slopes, unit.weights, unit.biases, strict=True):
                    hidden = torch.addmm(bias, F.leaky_relu_(hidden, slope.item()), weight.t())
                torch.mul(hidden.view(-1, length), there[rows, :length], out=a[rows, :length])
                torch.bmm(a[rows, :length].unsqueeze(1), e, out=sums[rows].unsqueeze(1))
        ctx.lengths = lengths
        ctx.save_for_backward(places, there, a, vectors, target, of_target, *weights)
        return sums

    @staticmethod
    def backward(ctx: Any, d_sums: Tensor) -> tuple[Tensor | None, ...]:
        places, there, a, *inputs = ctx.saved_tensors
        if is_differentiated(d_sums):
            with torch.enable_grad():
                sums = _plain_sums(inputs[0], places, there, inputs[1], inputs[2], _unit_of(inputs[3:]))
            return None, None, None, *by_autograd(sums, inputs, ctx.needs_input_grad[3:], d_sums)
        gradients = [torch.zeros_like(tensor) for tensor in inputs]
        vectors, target, of_target, unit = *inputs[:3], _unit_of(inputs[3:])
        d_vectors, d_target, d_of_target, d_unit = *gradients[:3], _unit_of(gradients[3:])
        with torch.autocast("cpu", enabled=False):
            for rows, length in _blocks(ctx.lengths):
                chosen, t = places[rows, :length].reshape(-1), target[rows].unsqueeze(1)
                e = vectors.index_select(0, chosen).view(-1, length, vectors.shape[1])
                matrices = torch.addcmul(unit.of_history, t, unit.of_product)
                hidden = torch.baddbmm(of_target[rows].unsqueeze(1), e, matrices.mT).flatten(0, 1)
                d_a = torch.bmm(e, d_sums[rows].unsqueeze(2)).squeeze(2).mul_(there[rows, :length])
                d_hidden = _back_through_layers(hidden, d_a.view(-1, 1), unit, d_unit).view(-1, length, hidden.shape[1])
                torch.sum(d_hidden, 1, out=d_of_target[rows])
                d_matrices = torch.bmm(d_hidden.mT, e)
                d_unit.of_history.add_(d_matrices.sum(0))
                torch.sum(d_matrices * unit.of_product, 1, out=d_target[rows])
                d_unit.of_product.add_(d_matrices.mul_(t).sum(0))
                d_e = torch.bmm(d_hidden, matrices)
                d_e.baddbmm_(a[rows, :length].unsqueeze(2), d_sums[rows].unsqueeze(1))
                d_vectors.index_add_(0, chosen, d_e.flatten(0, 1))
        return None, None, None, *gradients


def _back_through_layers(hidden: Tensor, d_out: Tensor, unit: UnitWeights, d_unit: UnitWeights) -> Tensor:
    """Return the gradient of the first hidden layer, and add those of the layers after it.

    Args:
        hidden: the first hidden layer before its PReLU (N, H).
        d_out: gradient of the last layer's output (N, 1).
        unit: the weights.
        d_unit: their gradients so far.
    """
    before, after = [hidden], []  # each PReLU
    slopes = [slope.item() for slope in unit.slopes]
    for slope, weight, bias in zip(slopes, unit.weights, unit.biases, strict=True):
        after.append(F.leaky_relu(before[-1], slope))
        if len(after) < len(slopes):
            before.append(torch.addmm(bias, after[-1], weight.t()))
    for level in reversed(range(len(slopes))):
        d_unit.weights[level].addmm_(d_out.t(), after[level])
        d_unit.biases[level].add_(d_out.sum(0))
        d_after = d_out @ unit.weights[level]
        negative = before[level].clamp(max=0)
        d_unit.slopes[level].add_(torch.dot(d_after.view(-1), negative.view(-1)))
        d_out = torch.ops.aten.leaky_relu_backward(d_after, before[level], slopes[level], False)
    return d_out
