"""Multi-layer perceptrons: one, and a bank of many of the same shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_msr.layers import manual_backward
from recbole_msr.layers.dropout import Dropout

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leakyrelu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


class BatchNorm(nn.BatchNorm1d):
    """`nn.BatchNorm1d` that accepts a training batch of one row.

    One row has no variance; it is normalised by the running statistics, which it leaves as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x normalised, in its shape (B, D)."""
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)

    def of_channels(self, x: Tensor, which: slice) -> Tensor:
        """Return x (B, C) normalised by some of the channels, whose statistics alone it moves.

        Args:
            x: values of those channels.
            which: their places, C of them.
        """
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        return F.batch_norm(
            x,
            self.running_mean[which],
            self.running_var[which],
            self.weight[which],
            self.bias[which],
            self.training and len(x) > 1,
            self.momentum,
            self.eps,
        )


_FEW = 16
"""Outputs of several MLPs that are computed as one product of what all of them hide, most of whose weights are 0."""
_Layers = tuple[list[Tensor], list[Tensor]]
"""W (E, H, D) and b (E, H) of every layer of E MLPs."""


@torch.no_grad()
def initialise(weight: Tensor, bias: Tensor) -> None:
    """Draw weights (..., H, D) uniformly with variance 2 / D, as He et al. (2015), and set biases to zero.

    This keeps the size of activations through ReLU layers. `nn.Linear`'s own draw shrinks them at every
    layer, and a model seven layers deep then begins as a constant.
    """
    bound = (6 / weight.shape[-1]) ** 0.5
    weight.uniform_(-bound, bound)
    bias.zero_()


class MLP(nn.Sequential):
    """h <- dropout(activation(norm(W h + b))) for every hidden layer; W h + b last, given an output size.

    >>> MLP(10, [8, 4])(torch.zeros(3, 10)).shape
    torch.Size([3, 4])

    Args:
        input_size: width D of the input (B, D).
        hidden_sizes: widths of the hidden layers; may be empty.
        activation: a key of `ACTIVATIONS`.
        dropout: share of activations dropped after every hidden layer in training, 0 <= dropout < 1.
        batch_norm: normalise every hidden layer over the batch, before its activation.
        output_size: width of a last, linear layer; None for none.

    Attributes:
        output_size: width H of the output (B, H).
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        input_size: int,
        hidden_sizes: Sequence[int],
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
        output_size: int | None = None,
    ) -> None:
        layers: list[nn.Module] = []
        width = input_size
        for size in hidden_sizes:
            layers.append(nn.Linear(width, size))
            if batch_norm:
                layers.append(BatchNorm(size))
            layers.append(ACTIVATIONS[activation]())
            if dropout:
                layers.append(Dropout(dropout))
            width = size
        if output_size is not None:
            layers.append(nn.Linear(width, output_size))
            width = output_size
        super().__init__(*layers)
        self.output_size = width
        for layer in layers:
            if isinstance(layer, nn.Linear):
                initialise(layer.weight, layer.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Return the output (B, H) of an input (B, D)."""
        return manual_backward.run_layers(self, input)


class MLPBank(nn.Module):
    """E independent MLPs of one shape: Q_e(x) for e = 1..E.

    The arithmetic is that of E separate `MLP`s, each initialised as they are. The weights of a layer are kept
    as one parameter (E, H, D), so that an optimiser has few tensors to step through and an accelerator can
    multiply all experts at once.

    >>> MLPBank(5, 10, [8, 4])(torch.zeros(3, 10)).shape
    torch.Size([5, 3, 4])

    Args:
        n_mlps: the number E of MLPs.
        input_size, hidden_sizes, activation, dropout, batch_norm, output_size: as for `MLP`, the same for
            all; at least one layer.

    Attributes:
        output_size: width H of each output.
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        n_mlps: int,
        input_size: int,
        hidden_sizes: Sequence[int],
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
        output_size: int | None = None,
    ) -> None:
        super().__init__()
        self.n_hidden = len(hidden_sizes)
        sizes = [input_size, *hidden_sizes, *([] if output_size is None else [output_size])]
        if len(sizes) < 2:
            raise ValueError("an MLPBank needs a layer: give hidden_sizes or an output_size")
        self.weights = nn.ParameterList(torch.empty(n_mlps, h, d) for d, h in pairwise(sizes))
        self.biases = nn.ParameterList(torch.empty(n_mlps, h) for h in sizes[1:])
        self.norms = nn.ModuleList(BatchNorm(n_mlps * h) for h in hidden_sizes if batch_norm)
        self.activation = ACTIVATIONS[activation]()
        self.dropout = Dropout(dropout)
        self.n_mlps, self.output_size = n_mlps, sizes[-1]
        for weight, bias in zip(self.weights, self.biases, strict=True):
            initialise(weight, bias)

    def forward(self, x: Tensor, reads: Sequence[int] | None = None) -> Tensor:
        """Return all outputs (E, B, H).

        Args:
            x: one input (B, D) for all MLPs, one for each (E, B, D), or those that `reads` names (S, B, D).
            reads: which input each MLP reads, E numbers of 0..S-1.
        """
        # On a CPU core one MLP after the other is quicker: 20 MLPs of [128, 64] batched take 1.6 times as long in
        # single precision and 2.1 times in bfloat16; 6 of them 1.4 times and as long (4096 rows, with backward).
        if x.device.type == "cpu" and not self.norms:
            return self._one_by_one(x, reads)
        return self._batched(x if reads is None else x[list(reads)])

    def layers(self) -> _Layers:
        """Return W (E, H, D) and b (E, H) of every layer."""
        return [*self.weights], [*self.biases]

    def in_parts(self, inputs: Sequence[Tensor], size: int) -> list[Tensor]:
        """Return the outputs (size, B_p, H) of each run p of `size` MLPs at rows of its own.

        Args:
            inputs: the rows of every run (B_p, D); a run without rows is not computed and has no output.
            size: MLPs in a run; E is a multiple of it.
        """
        weights, biases = ([layer.split(size) for layer in layers] for layers in self.layers())
        outputs = []
        for part, x in enumerate(inputs):
            if len(x):
                own = [w[part] for w in weights], [b[part] for b in biases]
                outputs.append(self._run(x, *own, part * size))
        return outputs

    def _run(self, x: Tensor, weights: list[Tensor], biases: list[Tensor], first: int) -> Tensor:
        """Return the outputs (S, B, H) at x (B, D) of the S MLPs from `first` on, of which these are the layers."""
        n = len(biases[0])
        if x.device.type == "cpu" and not self.norms:
            return self._one_by_one(x, [0] * n, (weights, biases))
        return self._batched(x, (weights, biases), first)

    def separate(self, x: Tensor, reads: Sequence[int] | None = None) -> list[Tensor]:
        """Return the output (B, H) of each MLP by itself; for an export, where one after the other needs no copies.

        Args:
            x: as for `forward`.
            reads: as for `forward`.
        """
        if self.norms:
            return [*self._batched(x if reads is None else x[list(reads)])]
        if reads is None:
            reads = [0] * self.n_mlps if x.dim() == 2 else range(self.n_mlps)
        return self._by_autograd(x.unsqueeze(0) if x.dim() == 2 else x, reads, self.layers())

    def some(self, x: Tensor, which: range) -> Tensor:
        """Return the outputs (B, S * H) of S of the MLPs at one input (B, D), as in evaluation; there are no norms.

        What the MLPs have side by side is one product of matrices: their first layers, which read the same rows, and
        a last one of few outputs, which reads what they have made of them.
        """
        part, h = slice(which.start, which.stop, which.step), [x]
        for depth, (weight, bias) in enumerate(zip(*self.layers(), strict=True)):
            weight, bias = weight[part], bias[part]
            n, size, _ = weight.shape
            if depth == 0:
                h = [F.linear(x, weight.flatten(0, 1), bias.flatten())]
            elif n * size <= _FEW:
                h = [F.linear(torch.cat(h, dim=1), torch.block_diag(*weight), bias.flatten())]
            else:
                h = [*h[0].split(weight.shape[2], dim=1)] if len(h) == 1 else h
                h = [F.linear(own, weight[e], bias[e]) for e, own in enumerate(h)]
            if depth < self.n_hidden:
                h = [self.activation(own) for own in h]
        return torch.cat(h, dim=1)

    def _one_by_one(self, x: Tensor, reads: Sequence[int] | None = None, layers: _Layers | None = None) -> Tensor:
        layers = layers or self.layers()
        if reads is None:
            reads = [0] * self.n_mlps if x.dim() == 2 else range(self.n_mlps)
        x = x.unsqueeze(0) if x.dim() == 2 else x
        hidden = (self.activation, self.dropout)
        if (
            manual_backward.supports(x)
            and isinstance(self.activation, nn.ReLU)
            and all(map(manual_backward.has_no_hooks, hidden))
        ):
            dropout = self.dropout.p if self.dropout.training else 0.0
            return manual_backward.relu_networks(x, reads, *layers, self.n_hidden, dropout)
        return torch.stack(self._by_autograd(x, reads, layers))

    def _by_autograd(self, x: Tensor, reads: Sequence[int], layers: _Layers) -> list[Tensor]:
        weights, biases = ([layer.unbind() for layer in part] for part in layers)  # [depth][MLP]
        outputs = []
        for e, read in enumerate(reads):
            h = x[read]
            for depth in range(len(weights)):
                h = F.linear(h, weights[depth][e], biases[depth][e])
                if depth < self.n_hidden:
                    h = self.dropout(self.activation(h))
            outputs.append(h)
        return outputs

    def _batched(self, h: Tensor, layers: _Layers | None = None, first: int = 0) -> Tensor:
        for depth, (weight, bias) in enumerate(zip(*(layers or self.layers()), strict=True)):
            if h.dim() == 2:  # the same rows for all MLPs: one matrix product
                side_by_side = F.linear(h, weight.flatten(0, 1), bias.flatten())
                h = torch.unflatten(side_by_side, 1, (len(bias), -1)).transpose(0, 1)
            else:
                h = torch.baddbmm(bias.unsqueeze(1), h, weight.transpose(1, 2))
            if depth < self.n_hidden:
                if self.norms:
                    h = self._normalise(h, depth, first)
                h = self.dropout(self.activation(h))
        return h

    def _normalise(self, h: Tensor, depth: int, first: int) -> Tensor:
        """Batch norm of every unit of the MLPs from `first` on over their rows h (S, B, H): S * H channels."""
        norm, n = self.norms[depth], h.shape[0]
        channels = h.transpose(0, 1).flatten(1)
        if n == self.n_mlps:
            channels = norm(channels)
        else:
            assert isinstance(norm, BatchNorm)
            channels = norm.of_channels(channels, slice(first * h.shape[2], (first + n) * h.shape[2]))
        return torch.unflatten(channels, 1, (n, -1)).transpose(0, 1)


class LowRankBank(MLPBank):
    """P parts of K MLPs each, whose weights are those that all parts share and a product of low rank of each one's own.

    W_pk = W_k + U_pk V_pk, in every layer, with U (H, r) and V (r, D);   b_pk is each MLP's own.

    A last part, the rest, has weights of its own instead, so that E = (P + 1) K. All weights begin with the variance of
    `initialise`, half of it shared. A layer has 2 K H D + P K r (H + D) weights, where a bank has (P + 1) K H D. The
    arithmetic is a bank's.

    Args:
        n_parts: P.
        part_size: K.
        rank: r.
        input_size, hidden_sizes, activation, dropout, batch_norm: as for `MLPBank`.
    """

    def __init__(
        self,
        n_parts: int,
        part_size: int,
        rank: int,
        input_size: int,
        hidden_sizes: Sequence[int],
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__((n_parts + 1) * part_size, input_size, hidden_sizes, activation, dropout, batch_norm)
        self.shape = (n_parts, part_size)
        full = [*self.weights]
        self.weights = nn.ParameterList(weight[-2 * part_size :].detach().clone() for weight in full)  # shared, rest
        n_own = n_parts * part_size
        self.own_out = nn.ParameterList(torch.empty(n_own, weight.shape[1], rank) for weight in full)
        self.own_in = nn.ParameterList(torch.empty(n_own, rank, weight.shape[2]) for weight in full)
        with torch.no_grad():
            for weight, own_out, own_in in zip(self.weights, self.own_out, self.own_in, strict=True):
                weight[:part_size] *= 0.5**0.5
                own_out.uniform_(-1, 1).mul_((3 / rank) ** 0.5)
                own_in.uniform_(-1, 1).mul_((3 / weight.shape[2]) ** 0.5)

    def layers(self) -> _Layers:
        """Return W (E, H, D) and b (E, H) of every layer."""
        weights = []
        for weight, own_out, own_in in zip(self.weights, self.own_out, self.own_in, strict=True):
            shared, rest = weight.split(self.shape[1])
            own = torch.unflatten(own_out @ own_in, 0, self.shape)
            weights.append(torch.cat([(shared + own).flatten(0, 1), rest]))
        return weights, [*self.biases]

    def own_tensors(self) -> tuple[str, str, str]:
        """Return the names of what is not shared: of the P parts alone, twice, and of the P parts and the rest."""
        return "own_out", "own_in", "biases"
