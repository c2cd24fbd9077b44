"""The activation unit of DIN over histories, with the backward pass written out for a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_msr.layers.manual_backward import by_autograd, is_differentiated, supports
from recbole_msr.layers.sequences import Sequences, blocks


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
    order, lengths = sequences.longest_first()
    weights = (unit.of_history, unit.of_product, *unit.slopes, *unit.weights, *unit.biases)
    rows = (places[order], there[order], lengths)
    sums: Tensor = _AttentionSums.apply(  # type: ignore[no-untyped-call]
        *rows, vectors, target[order], of_target.to(vectors.dtype)[order], *weights
    )
    return sums.index_select(0, order.argsort())


def _plain_sums(
    vectors: Tensor, places: Tensor, there: Tensor, target: Tensor, of_target: Tensor, unit: UnitWeights
) -> Tensor:
    """Return what `attention_sums` does, in operations that autograd knows."""
    return padded_attention_sums(Sequences(vectors, places, there).padded(), there, target, of_target, unit)


def padded_attention_sums(
    history: Tensor, there: Tensor, target: Tensor, of_target: Tensor, unit: UnitWeights
) -> Tensor:
    """Return the same of sequences e (B, L, D), of which `there` (B, L) says which vectors count."""
    hidden = F.linear(history, unit.of_history) + F.linear(history * target.unsqueeze(1), unit.of_product)
    hidden = hidden + of_target.unsqueeze(1)
    for slope, weight, bias in zip(unit.slopes, unit.weights, unit.biases, strict=True):
        hidden = F.linear(prelu(hidden, slope), weight, bias)
    a = hidden.squeeze(2) * there
    return (a.unsqueeze(1) @ history).squeeze(1)


def _unit_of(weights: Sequence[Tensor]) -> UnitWeights:
    depth = (len(weights) - 2) // 3
    slopes, matrices, biases = (weights[2 + k * depth : 2 + (k + 1) * depth] for k in range(3))
    return UnitWeights(weights[0], weights[1], slopes, matrices, biases)


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
            for rows, length in blocks(lengths):
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
        vectors, target, of_target, *weights = inputs
        unit = _unit_of(weights)
        back = (_OneLayer if len(unit.slopes) == 1 else _Layers)(target, of_target, unit, gradients)
        with torch.autocast("cpu", enabled=False):
            for rows, length in blocks(ctx.lengths):
                chosen = places[rows, :length].reshape(-1)
                e = vectors.index_select(0, chosen).view(-1, length, vectors.shape[1])
                matrices = torch.addcmul(unit.of_history, target[rows].unsqueeze(1), unit.of_product)
                hidden = torch.baddbmm(of_target[rows].unsqueeze(1), e, matrices.mT)
                d_a = torch.bmm(e, d_sums[rows].unsqueeze(2)).squeeze(2).mul_(there[rows, :length])
                d_e = back.through_block(rows, e, matrices, hidden, d_a, a[rows, :length], d_sums[rows])
                gradients[0].index_add_(0, chosen, d_e.flatten(0, 1))
            back.finish()
        return None, None, None, *gradients


class _Layers:
    """The way back through the unit, block by block: any number of hidden layers.

    Args:
        target, of_target: t and c of all rows.
        unit: the weights.
        gradients: those of vectors, t, c and the weights, to be added to.
    """

    def __init__(self, target: Tensor, of_target: Tensor, unit: UnitWeights, gradients: Sequence[Tensor]) -> None:
        self.target, self.of_target, self.unit = target, of_target, unit
        _, self.d_target, self.d_of_target, *d_weights = gradients
        self.d_unit = _unit_of(d_weights)

    def through_block(
        self, rows: slice, e: Tensor, matrices: Tensor, hidden: Tensor, d_a: Tensor, a: Tensor, d_sums: Tensor
    ) -> Tensor:
        """Return the gradient of e (B, L, D) of some rows, and add those of the other inputs.

        Args:
            rows: which rows.
            e: their vectors (B, L, D).
            matrices: M_t (B, H, D), which may be overwritten.
            hidden: M_t e + c_t (B, L, H).
            d_a: gradient of the unit's outputs (B, L).
            a: the outputs (B, L).
            d_sums: gradient of v (B, D).
        """
        unit, d_unit, t = self.unit, self.d_unit, self.target[rows].unsqueeze(1)
        d_hidden = _back_through_layers(hidden.flatten(0, 1), d_a.view(-1, 1), unit, d_unit).view_as(hidden)
        torch.sum(d_hidden, 1, out=self.d_of_target[rows])
        d_matrices = torch.bmm(d_hidden.mT, e)
        d_unit.of_history.add_(d_matrices.sum(0))
        torch.sum(d_matrices * unit.of_product, 1, out=self.d_target[rows])
        d_unit.of_product.add_(d_matrices.mul_(t).sum(0))
        d_e = torch.bmm(d_hidden, matrices)
        return d_e.baddbmm_(a.unsqueeze(2), d_sums.unsqueeze(1))

    def finish(self) -> None:
        """Add what is computed once, after all blocks."""


class _OneLayer(_Layers):
    """The same for one hidden layer, as in the paper, which needs a single pass over the hidden units.

    With q_l = dL/da_l [M e_l + c > 0] (H), and the slope s and the last weights w, the gradient of M e_l + c is
    w * ((1 - s) q_l + s dL/da_l). So the gradients of all weights follow from sums over the positions of a row,

        P = sum_l q_l e_l^T (H, D),   p = sum_l q_l (H),   A = sum_l dL/da_l e_l (D),   alpha = sum_l dL/da_l,

    as sum_l dL/da_l max(0, M e_l + c) = the diagonal of M P^T, plus c * p, and without the maximum it is M A + c alpha.
    """

    def __init__(self, target: Tensor, of_target: Tensor, unit: UnitWeights, gradients: Sequence[Tensor]) -> None:
        super().__init__(target, of_target, unit, gradients)
        self.slope, self.w = unit.slopes[0].item(), unit.weights[0].t()  # w (H, 1)
        self.w_product = self.w * unit.of_product
        self.p, self.d_a = torch.zeros_like(of_target), of_target.new_zeros(len(target), 1)
        self.d_a_e = torch.zeros_like(target)
        self.sum_p, self.sum_p_t = torch.zeros_like(unit.of_history), torch.zeros_like(unit.of_history)

    def through_block(
        self, rows: slice, e: Tensor, matrices: Tensor, hidden: Tensor, d_a: Tensor, a: Tensor, d_sums: Tensor
    ) -> Tensor:
        """Return the gradient of e, as `_Layers` does."""
        q = torch.ops.aten.threshold_backward(d_a.unsqueeze(2).expand_as(hidden), hidden, 0.0)
        torch.sum(q, 1, out=self.p[rows])
        torch.sum(d_a, 1, keepdim=True, out=self.d_a[rows])
        torch.bmm(d_a.unsqueeze(1), e, out=self.d_a_e[rows].unsqueeze(1))
        products = torch.bmm(q.mT, e)
        self.sum_p.add_(products.sum(0))
        torch.sum(products * self.w_product, 1, out=self.d_target[rows])
        self.sum_p_t.add_(products.mul_(self.target[rows].unsqueeze(1)).sum(0))
        weighted = matrices.mul_(self.w)
        left = torch.stack([d_a, a], dim=2)
        right = torch.stack([weighted.sum(1).mul_(self.slope), d_sums], dim=1)
        return torch.bmm(left, right).baddbmm_(q, weighted, alpha=1 - self.slope)

    def finish(self) -> None:
        """Add the gradients of the weights."""
        unit, d_unit, s, w, c = self.unit, self.d_unit, self.slope, self.w, self.of_target
        d_a_e_t = self.d_a_e * self.target
        self.d_target.mul_(1 - s).addcmul_(self.d_a_e, self.w_product.sum(0), value=s)
        self.d_of_target.copy_(w.t() * ((1 - s) * self.p + s * self.d_a))
        d_unit.of_history.add_(w * ((1 - s) * self.sum_p + s * self.d_a_e.sum(0)))
        d_unit.of_product.add_(w * ((1 - s) * self.sum_p_t + s * d_a_e_t.sum(0)))
        positive = (unit.of_history * self.sum_p + unit.of_product * self.sum_p_t).sum(1) + (c * self.p).sum(0)
        whole = unit.of_history @ self.d_a_e.sum(0) + unit.of_product @ d_a_e_t.sum(0) + (c * self.d_a).sum(0)
        d_unit.weights[0].add_((s * whole + (1 - s) * positive).unsqueeze(0))
        d_unit.biases[0].add_(self.d_a.sum())
        d_unit.slopes[0].add_(torch.dot(w.squeeze(1), whole - positive))


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
