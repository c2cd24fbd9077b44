"""Meta layers: layers whose weights a small network makes of a vector, one set of weights a vector.

Source: "LLM4MSR: An LLM-Enhanced Paradigm for Multi-Scenario Recommendation", CIKM 2024, arXiv 2406.12529. The paper's
equations were not at hand; what its sources leave open is our choice, named where it is made.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recbole_msr.layers.dropout import Dropout
from recbole_msr.layers.mlp import ACTIVATIONS, MLP
from recbole_msr.layers.tracing import is_exported

META_WEIGHTS = ("core", "low_rank", "full")
"""How a meta layer's matrix is made, see `MetaLayers`."""


class MetaLayers(nn.Module):
    """L layers with generated weights: f(x; theta), theta = MetaNet(h).

    f(x; theta) = W_L a(... a(W_1 x + b_1) ...) + b_L,   a an activation; so with L = 1, W_1 x + b_1.

    Every b_l (D,) is generated, and of every W_l (D, D)

    - `full`: all of it: D * D numbers for every h;
    - `low_rank`: two factors, W = A B with A (D, r) and B (r, D): 2 * D * r numbers;
    - `core`: what stands between two factors, W = A C B with C (r, r); A and B are learned and the same for every h:
      r * r numbers. This alone costs a CPU little where every row has an h of its own.

    MetaNet(h) = G z + g,   z = MLP(h). Half of a generated weight's variance at the start comes of g, the same for
    every h, and half of G z, so that the whole has the variance 1 / fan-in (as in Chang et al., "Principled Weight
    Initialization for Hypernetworks", ICLR 2020).

    >>> layers = MetaLayers(10, 4, [8], rank=2)
    >>> layers(torch.zeros(3, 10), layers.generate(torch.zeros(3, 4))).shape
    torch.Size([3, 10])

    Args:
        input_size: D, the width of x and of f(x).
        vector_size: K, the width of h.
        hidden_sizes: layers of the MLP in the meta network; [] for a linear meta network.
        n_layers: L.
        weights: a word of `META_WEIGHTS`.
        rank: r; not read where `full`.
        activation: of the meta network and between the meta layers, a key of `ACTIVATIONS`.
        dropout: after every hidden layer of either, in training.
        begins_as_zero: whether f(x) = 0 for every x and h at the start. The last generated factor and b_L are then
            zero, and the factors before it are not, so that the first step already moves them.

    Attributes:
        n_weights: P, how many numbers theta is.
        is_light: whether a set of weights for every row costs little.
    """

    def __init__(
        self,
        input_size: int,
        vector_size: int,
        hidden_sizes: Sequence[int],
        n_layers: int = 1,
        weights: str = "core",
        rank: int = 8,
        activation: str = "relu",
        dropout: float = 0.0,
        begins_as_zero: bool = False,
    ) -> None:
        super().__init__()
        d, r = input_size, rank
        self.generated = {"full": [(d, d)], "low_rank": [(d, r), (r, d)], "core": [(r, r)]}[weights]
        self.n_layers, self.input_size, self.is_light = n_layers, d, weights == "core"
        self._sizes = [rows * columns for rows, columns in self.generated] + [d]
        self.n_weights = n_layers * sum(self._sizes)
        self.before = self.after = None
        if weights == "core":
            self.before = nn.ParameterList(torch.empty(d, r) for _ in range(n_layers))
            self.after = nn.ParameterList(torch.empty(r, d) for _ in range(n_layers))
        self.network = MLP(vector_size, hidden_sizes, activation, dropout)
        self.generator = nn.Linear(self.network.output_size, self.n_weights)
        self.activation = ACTIVATIONS[activation]()
        self.dropout = Dropout(dropout)
        self._initialise(begins_as_zero)

    @torch.no_grad()
    def _initialise(self, begins_as_zero: bool) -> None:
        for factor in (*(self.before or ()), *(self.after or ())):
            bound = (3 / factor.shape[0]) ** 0.5
            factor.uniform_(-bound, bound)
        self.generator.weight.zero_()
        self.generator.bias.zero_()
        start = 0
        for layer in range(self.n_layers):
            for index, (fan_in, columns) in enumerate(self.generated):
                end = start + fan_in * columns
                last = layer == self.n_layers - 1 and index == len(self.generated) - 1
                if not (last and begins_as_zero):
                    bound = (1.5 / fan_in) ** 0.5
                    self.generator.bias[start:end].uniform_(-bound, bound)
                    bound /= self.generator.in_features**0.5
                    self.generator.weight[start:end].uniform_(-bound, bound)
                start = end
            start += self.input_size  # b begins as zero

    def generate(self, h: Tensor) -> Tensor:
        """Return theta (N, P) of vectors h (N, K)."""
        theta: Tensor = self.generator(self.network(h))
        return theta

    def layers(self, theta: Tensor) -> list[tuple[list[Tensor], Tensor]]:
        """Return theta (N, P) taken apart: of every layer the factors of W and b (N, D).

        A factor is (N, rows, columns), or (rows, columns) where it is the same for all; x goes through them from the
        left: x W = x factor_1 factor_2 ...
        """
        layers = []
        for layer, part in enumerate(theta.chunk(self.n_layers, dim=1)):
            *flat, bias = part.split(self._sizes, dim=1)
            factors = [f.unflatten(1, shape) for f, shape in zip(flat, self.generated, strict=True)]
            if self.before is not None and self.after is not None:
                factors = [self.before[layer], *factors, self.after[layer]]
            layers.append((factors, bias))
        return layers

    def forward(self, x: Tensor, theta: Tensor, group: Tensor | None = None) -> Tensor:
        """Return f(x; theta) (B, D).

        Args:
            x: rows (B, D).
            theta: generated weights, a set for every row (B, P), or with `group` for every group of rows (N, P).
            group: which set each row goes through (B,), 0..N-1. Quicker than a set a row where N is far below B.
        """
        for number, (factors, bias) in enumerate(self.layers(theta)):
            if number:
                x = self.dropout(self.activation(x))
            x = _by_row(x, factors, bias) if group is None else _by_group(x, factors, bias, group)
        return x

    def head(self, x: Tensor, theta: Tensor, group: Tensor, head: nn.Linear) -> Tensor:
        """Return the head's output for f(x; theta) (B, T), with a set of weights for each group.

        The last layer and the head are both linear, so they are multiplied into one (D, T) matrix a group first: far
        less work than their products with all rows.

        Args:
            x: as for `forward`.
            theta: as for `forward`.
            group: as for `forward`.
            head: from D to T.
        """
        *hidden, last = self.layers(theta)
        for inner, inner_bias in hidden:
            x = self.dropout(self.activation(_by_group(x, inner, inner_bias, group)))
        (matrix, offset), n_outputs = _with_head(*last, head), head.out_features
        every = x @ matrix.expand(len(theta), -1, -1).transpose(0, 1).flatten(1)  # (B, N * T)
        own = group.unsqueeze(1) * n_outputs + torch.arange(n_outputs, device=x.device)
        return every.gather(1, own) + offset[group]

    def every_head(self, x: Tensor, theta: Tensor, head: nn.Linear) -> Tensor:
        """Return the head's output for f(x; theta) of each row with each of N sets of weights (N, B, T).

        Args:
            x: rows (B, D).
            theta: a set of weights for every group (N, P).
            head: from D to T.
        """
        *hidden, last = self.layers(theta)
        for factors, bias in hidden:
            for factor in factors:
                x = x @ factor  # (N, B, columns) from the first generated factor on
            x = self.dropout(self.activation(x + bias.unsqueeze(1)))
        matrix, offset = _with_head(*last, head)
        return x @ matrix + offset.unsqueeze(1)


def _with_head(factors: Sequence[Tensor], bias: Tensor, head: nn.Linear) -> tuple[Tensor, Tensor]:
    """Return a matrix (N, D, T) and an offset (N, T): a last layer and the head after it."""
    matrix = head.weight.t()
    for factor in reversed(factors):
        matrix = factor @ matrix
    return matrix, bias @ head.weight.t() + head.bias


def _by_row(x: Tensor, factors: Sequence[Tensor], bias: Tensor) -> Tensor:
    """Return x W + b (B, D) where every row has a b, and where factors are (B, rows, columns) also a W, of its own."""
    for factor in factors[:-1]:
        x = _times(x, factor)
    last = factors[-1]
    return torch.addmm(bias, x, last) if last.dim() == 2 else _times(x, last) + bias


def _times(x: Tensor, factor: Tensor) -> Tensor:
    if factor.dim() == 2:
        return x @ factor
    if factor[0].numel() <= 64:  # batched products of so small ones take longer than multiplying by hand
        return (x.unsqueeze(2) * factor).sum(dim=1)
    return torch.bmm(x.unsqueeze(1), factor).squeeze(1)


def _by_group(x: Tensor, factors: Sequence[Tensor], bias: Tensor, group: Tensor) -> Tensor:
    """Return x W + b (B, D) with the W and b of each row's group: rows are put in the groups' order and back."""
    if is_exported():  # all groups for all rows, then each row's own
        return _every_group(x, factors, bias).gather(1, group.view(-1, 1, 1).expand(-1, 1, bias.shape[1])).squeeze(1)
    order = group.argsort(stable=True)
    sizes = group.bincount(minlength=len(bias)).tolist()
    parts = []
    for number, rows in enumerate(x[order].split(sizes)):
        for factor in factors:
            rows = rows @ (factor if factor.dim() == 2 else factor[number])
        parts.append(rows + bias[number])
    y = torch.cat(parts)
    return torch.empty_like(y).index_copy(0, order, y)


def _every_group(x: Tensor, factors: Sequence[Tensor], bias: Tensor) -> Tensor:
    """Return x W + b (B, N, D) of rows x (B, D) with the W and b of every one of N groups."""
    products = []
    for number in range(bias.shape[0]):
        rows = x
        for factor in factors:
            rows = rows @ (factor if factor.dim() == 2 else factor[number])
        products.append(rows + bias[number])
    return torch.stack(products, dim=1)
