"""Banks of ReLU networks and sums over experts with the backward pass written out, for a CPU.

Autograd keeps what every operation makes and goes back through it operation by operation. Between the matrix products
of small experts that takes a CPU core as long as the products. Here what ReLU and dropout let through is read off a
layer's output, the same few buffers serve all experts, and gradients go straight to where they are wanted.

A gradient that is to be differentiated itself (`create_graph=True`), or that is asked for under `vmap`, is left to
autograd, which goes through the same values in plain operations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from recbole_msr.layers.dropout import Dropout, draw_mask
from recbole_msr.layers.tracing import is_looked_into

_plain: ContextVar[bool] = ContextVar("_plain", default=False)


def supports(x: Tensor) -> bool:
    """Return whether the functions here take x: on a CPU, and where no tracer looks into every operation.

    `torch.func`, `torch.compile` and `plain_operations` do.
    """
    return x.device.type == "cpu" and not (is_looked_into() or _plain.get())


@contextmanager
def plain_operations() -> Iterator[None]:
    """Layers compute with plain operations of PyTorch, so that what counts or records these sees all of them."""
    before = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(before)


def has_no_hooks(layer: nn.Module) -> bool:
    """Return whether a call of the layer runs its class's `forward` and nothing else."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return not any(hooks) and "forward" not in vars(layer) and not _has_any_global_hook()


def relu_networks(
    x: Tensor,
    reads: Sequence[int],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    n_hidden: int,
    dropout: float = 0.0,
) -> Tensor:
    """Return the outputs h_L (E, B, H) of E networks of L layers.

    In each network, with h_0 = x,

    h_l = m_l relu(a_l) / q,   a_l = W_l h_{l-1} + b_l       q = 1 - dropout; m_l is 1 with probability q, else 0

    in the first `n_hidden` layers, and h_l = a_l in the others. Back from dL/dh_L:

    dL/da_l = [h_l > 0] dL/dh_l / q,   dL/dh_{l-1} = W_l^T dL/da_l,
    dL/dW_l = sum_b dL/da_l h_{l-1}^T,   dL/db_l = sum_b dL/da_l       over the rows b.

    The division by q is left to the matrix products, as relu(a) / q = relu(a / q).

    Args:
        x: the inputs (S, B, D).
        reads: which of them each network reads, E numbers of 0..S-1.
        weights: W of every layer (E, H_l, H_{l-1}).
        biases: b of every layer (E, H_l).
        n_hidden: how many layers have a ReLU, from the first.
        dropout: 0 <= dropout < 1; 0 in evaluation.
    """
    layers = _same_type(x, *weights, *biases)
    settings = (tuple(reads), n_hidden, dropout, torch.is_grad_enabled())
    result: Tensor = _ReLUNetworks.apply(*settings, *layers)  # type: ignore[no-untyped-call]
    return result


class _ReLUNetworks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, reads: tuple[int, ...], n_hidden: int, dropout: float, keeps: bool, x: Tensor, *layers: Tensor
    ) -> Tensor:
        depth, n_rows = len(layers) // 2, x.shape[1]
        weights, biases = [w.mT.unbind() for w in layers[:depth]], [b.unbind() for b in layers[depth:]]  # [level][e]
        sizes = [b.shape[1] for b in layers[depth:]]
        out = x.new_empty(len(reads), n_rows, sizes[-1])
        scale = 1 / (1 - dropout)
        hidden = []  # h_1 .. h_{L-1} of one network after the other
        with torch.autocast("cpu", enabled=False):
            for e, read in enumerate(reads):
                h = x[read]
                for level, size in enumerate(sizes):
                    a = out[e] if level == depth - 1 else x.new_empty(n_rows, size)
                    if level < n_hidden:
                        torch.addmm(biases[level][e], h, weights[level][e], beta=scale, alpha=scale, out=a).relu_()
                        if dropout:
                            a.mul_(draw_mask(a, dropout))
                    else:
                        torch.addmm(biases[level][e], h, weights[level][e], out=a)
                    if keeps and level < depth - 1:
                        hidden.append(a)
                    h = a
        ctx.reads, ctx.n_hidden, ctx.scale = reads, n_hidden, scale
        ctx.save_for_backward(x, out, *layers, *hidden)
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        x, out, *saved = ctx.saved_tensors
        depth = (len(ctx.needs_input_grad) - 5) // 2
        layers, biases, hidden = saved[:depth], saved[depth : 2 * depth], saved[2 * depth :]
        if is_differentiated(d_out):
            with torch.enable_grad():
                z = _relu_networks_again(ctx, x, layers, biases, hidden, out)
            return None, None, None, None, *by_autograd(z, [x, *layers, *biases], ctx.needs_input_grad[4:], d_out)
        d_x = torch.zeros_like(x) if ctx.needs_input_grad[4] else None
        d_layers = [torch.empty_like(layer) for layer in layers]
        d_biases = [layer.new_empty(layer.shape[:2]) for layer in layers]
        weights, d_weights = [layer.unbind() for layer in layers], [d_layer.unbind() for d_layer in d_layers]
        buffers = [x.new_empty(x.shape[1], layer.shape[1]) for layer in layers]  # of each level, for all networks
        for e, read in enumerate(ctx.reads):
            h = [x[read], *hidden[e * (depth - 1) : (e + 1) * (depth - 1)], out[e]]
            d = d_out[e]  # dL/dh_l, then that through the ReLU and dropout, still without the scale
            for level in reversed(range(depth)):
                scale = ctx.scale if level < ctx.n_hidden else 1.0
                if level < ctx.n_hidden:
                    d = torch.ops.aten.threshold_backward.grad_input(d, h[level + 1], 0, grad_input=buffers[level])
                d_weight = d_weights[level][e]
                torch.addmm(d_weight, d.t(), h[level], beta=0, alpha=scale, out=d_weight)
                torch.sum(d, 0, out=d_biases[level][e])
                if level:
                    below = buffers[level - 1]
                    d = torch.addmm(below, d, weights[level][e], beta=0, alpha=scale, out=below)
                elif d_x is not None:
                    d_x[read].addmm_(d, weights[0][e], alpha=scale)
        for d_bias in d_biases[: ctx.n_hidden]:
            d_bias.mul_(ctx.scale)
        return None, None, None, None, d_x, *d_layers, *d_biases


def _relu_networks_again(
    ctx: Any, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], hidden: Sequence[Tensor], out: Tensor
) -> Tensor:
    """h_L as it was, in operations that autograd knows; what ReLU and dropout let through is read off h_l."""
    depth, outputs = len(weights), []
    for e, read in enumerate(ctx.reads):
        h = x[read]
        for level, was in enumerate([*hidden[e * (depth - 1) : (e + 1) * (depth - 1)], out.detach()[e]]):
            h = torch.addmm(biases[level][e], h, weights[level][e].t())
            if level < ctx.n_hidden:
                h = h * ((was > 0).to(h.dtype) * ctx.scale)
        outputs.append(h)
    return torch.stack(outputs)


class _Unit(NamedTuple):
    """A linear layer, and what follows it."""

    linear: nn.Linear
    relu: bool
    dropout: float


def run_layers(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Apply layers to x (B, D) as `nn.Sequential` does; linear ones with ReLU and dropout go by `relu_networks`."""
    layers = list(layers)
    if x.dim() == 2 and supports(x):
        layers = _units(layers)
    for kind, run in groupby(layers, lambda layer: (layer.relu, layer.dropout) if isinstance(layer, _Unit) else None):
        if kind is None:
            for layer in run:
                x = layer(x)
            continue
        units, (relu, dropout) = list(run), kind
        weights = [unit.linear.weight.unsqueeze(0) for unit in units]
        biases = [unit.linear.bias.unsqueeze(0) for unit in units]
        n_hidden = len(units) if relu else 0
        x = relu_networks(x.unsqueeze(0), (0,), weights, biases, n_hidden, dropout).squeeze(0)
    return x


def _units(layers: Sequence[nn.Module]) -> list[Any]:
    """Yield the layers; a linear layer, the ReLU after it and this package's dropout after that are one `_Unit`."""
    units: list[Any] = []
    for layer in layers:
        last = units[-1] if units and isinstance(units[-1], _Unit) else None
        if not has_no_hooks(layer):
            units.append(layer)
        elif type(layer) is nn.Linear and layer.bias is not None:
            units.append(_Unit(layer, False, 0.0))
        elif type(layer) is nn.ReLU and last is not None and not last.relu:
            units[-1] = last._replace(relu=True)
        elif type(layer) is Dropout and last is not None and last.relu and not last.dropout:
            units[-1] = last._replace(dropout=layer.p if layer.training else 0.0)
        else:
            units.append(layer)
    return units


def weighted_sums(weights: Tensor, values: Tensor, members: Sequence[Sequence[int]]) -> Tensor:
    """Compute z_p = sum_k w_pk v_e with e = members[p][k] (P, B, H): P gates, each over K of E experts.

    Back from dL/dz_p: dL/dv_e = sum of w_pk dL/dz_p over all (p, k) with members[p][k] = e;
    dL/dw_pk = <dL/dz_p, v_e> row by row.

    The result has the type of v, also where w is wider (a softmax under autocast): bfloat16 sums of five experts are
    off by 0.26 %, where rounding a float32 sum for the matrix product that follows is off by 0.17 %, and take, with
    their way back, a quarter less time or better.

    Args:
        weights: w (P, K, B).
        values: v (E, B, H).
        members: P lists of K numbers of 0..E-1.
    """
    result: Tensor = _WeightedSums.apply(weights, values, members)  # type: ignore[no-untyped-call]
    return result


def plain_sums(weights: Sequence[Tensor], values: Sequence[Tensor], members: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return the same z_p (B, H), in operations that an export records: one expert after the other, without copies.

    Args:
        weights: w_p (B, K) of each gate.
        values: v_e (B, H) of each expert.
        members: as for `weighted_sums`.
    """
    sums = []
    for of_gate, experts in zip(weights, members, strict=True):
        columns = of_gate.split(1, dim=1)
        z = columns[0] * values[experts[0]]
        for column, e in zip(columns[1:], experts[1:], strict=True):
            z = z + column * values[e]
        sums.append(z)
    return sums


class _WeightedSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, values: Tensor, members: Sequence[Sequence[int]]) -> Tensor:
        z = values.new_empty(len(members), *values.shape[1:])
        w = weights.to(values.dtype)
        for p, experts in enumerate(members):
            for k, e in enumerate(experts):
                _add_product(z[p], w[p, k].unsqueeze(-1), values[e], is_first=k == 0)
        ctx.members = members
        ctx.save_for_backward(weights, values)
        return z

    @staticmethod
    def backward(ctx: Any, d_z: Tensor) -> tuple[Tensor | None, ...]:
        weights, values = ctx.saved_tensors
        if is_differentiated(d_z):
            with torch.enable_grad():
                w = weights.to(values.dtype)
                gates = [list(zip(w_p, members, strict=True)) for w_p, members in zip(w, ctx.members, strict=True)]
                z = torch.stack([sum(w_k.unsqueeze(-1) * values[e] for w_k, e in gate) for gate in gates])
            return *by_autograd(z, [weights, values], ctx.needs_input_grad[:2], d_z), None
        d_weights, w = torch.empty_like(weights) if ctx.needs_input_grad[0] else None, weights.to(values.dtype)
        d_values = torch.empty_like(values)
        product = torch.empty_like(values[0])
        reached: set[int] = set()
        for p, experts in enumerate(ctx.members):
            for k, e in enumerate(experts):
                _add_product(d_values[e], w[p, k].unsqueeze(-1), d_z[p], is_first=e not in reached)
                reached.add(e)
                if d_weights is not None:
                    torch.mul(d_z[p], values[e], out=product)
                    torch.sum(product, -1, dtype=weights.dtype, out=d_weights[p, k])
        for e in set(range(len(values))) - reached:
            d_values[e].zero_()
        return d_weights, d_values, None


def is_differentiated(gradient: Tensor) -> bool:
    """Return whether the incoming gradient will be differentiated (`create_graph=True`), or is one of a `vmap`."""
    return torch.is_grad_enabled() or torch._C._functorch.is_legacy_batchedtensor(gradient)


def by_autograd(
    output: Tensor, inputs: Sequence[Tensor], needed: Sequence[bool], d_output: Tensor
) -> list[Tensor | None]:
    """Return the gradients of the inputs that need one, with a graph of their own where one is wanted."""
    asked = [tensor for tensor, is_needed in zip(inputs, needed, strict=True) if is_needed]
    gradients = iter(
        torch.autograd.grad(output, asked, d_output, create_graph=torch.is_grad_enabled(), allow_unused=True)
    )
    return [next(gradients) if is_needed else None for is_needed in needed]


def _add_product(total: Tensor, a: Tensor, b: Tensor, is_first: bool) -> None:
    """Add a * b to total; the first product of a total that is not zeroed yet takes its place."""
    if is_first:
        torch.mul(a, b, out=total)
    else:
        total.addcmul_(a, b)


def _same_type(x: Tensor, *others: Tensor) -> list[Tensor]:
    """Return the tensors in the type that a matrix product of x is computed in: autocast's where it is on, else x's."""
    wanted = x.dtype
    if torch.is_autocast_enabled("cpu") and x.dtype != torch.float64:
        wanted = torch.get_autocast_dtype("cpu")
        others = tuple(other.to(wanted) for other in others)
    return [x.to(wanted), *others]
