"""APG's layer: low-rank, with a middle matrix that is generated for each row.

Source: Yan et al., "APG: Adaptive Parameter Generation Network for Click-Through Rate Prediction", NeurIPS 2022,
arXiv 2203.16218.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from recbole_msr.layers.mlp import MLP


class GeneratedLinear(nn.Module):
    """U (S(z) (V h)) + b: S (K, K) is generated of a row's condition z, U (H, K) and V (K, D) are all rows' own.

    S(z) = G f(z) + g, reshaped; f an MLP. With `over_size` P, U = U_left U_right and V = V_left V_right pass through
    a width of P > K: more parameters to train, and the same two matrices once they are multiplied.

    Args:
        input_size: D.
        output_size: H.
        rank: K.
        condition_size: width of z.
        hidden_sizes: layers of f; [] for S linear in z.
        activation: of f, a key of `ACTIVATIONS`.
        over_size: P; None for no such product.
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        input_size: int,
        output_size: int,
        rank: int,
        condition_size: int,
        hidden_sizes: Sequence[int] = (),
        activation: str = "relu",
        over_size: int | None = None,
    ) -> None:
        super().__init__()
        p = [] if over_size is None else [over_size]
        self.into = nn.Sequential(*_factors([input_size, *p, rank], gain=1.0))
        self.network = MLP(condition_size, hidden_sizes, activation)
        self.generator = square_generator(self.network.output_size, rank)
        self.out = nn.Sequential(*_factors([rank, *p, output_size], gain=2.0))
        self.bias = nn.Parameter(torch.zeros(output_size))
        self.rank = rank

    def forward(self, h: Tensor, z: Tensor, group: Tensor | None = None) -> Tensor:
        """Return (B, H).

        Args:
            h: rows (B, D).
            z: a condition for every row (B, condition_size), or with `group` for every group of rows (N, ...).
            group: which condition is each row's (B,), 0..N-1.
        """
        s = self.generated(z)
        s = s if group is None else s[group]
        inner = torch.bmm(s, self.into(h).unsqueeze(2)).squeeze(2)
        output: Tensor = self.out(inner) + self.bias
        return output

    def generated(self, z: Tensor) -> Tensor:
        """Return S (N, K, K) of conditions z (N, condition_size)."""
        s: Tensor = self.generator(self.network(z)).unflatten(1, (self.rank, self.rank))
        return s

    def share(self, z: Tensor) -> Tensor:
        """Return how much of S the condition makes (N,): |G f(z)| / (|G f(z)| + |g|)."""
        of_z = (self.generated(z).flatten(1) - self.generator.bias).norm(dim=1)
        share: Tensor = of_z / (of_z + self.generator.bias.norm())
        return share


@torch.no_grad()
def square_generator(input_size: int, rank: int) -> nn.Linear:
    """Return a linear layer whose output, reshaped, is a matrix (K, K) of the variance 1 / K.

    Half of the variance comes of the bias, the same for every input, and half of inputs of the variance 1.
    """
    layer, bound = nn.Linear(input_size, rank * rank), (1.5 / rank) ** 0.5
    layer.bias.uniform_(-bound, bound)
    layer.weight.uniform_(-bound, bound).div_(input_size**0.5)
    return layer


def _factors(sizes: Sequence[int], gain: float) -> list[nn.Module]:
    """Return linear layers without biases whose product has entries of the variance gain / the first size."""
    layers: list[nn.Module] = []
    for d, h in pairwise(sizes):
        layer = nn.Linear(d, h, bias=False)
        bound = (3 * (1.0 if layers else gain) / d) ** 0.5
        nn.init.uniform_(layer.weight, -bound, bound)
        layers.append(layer)
    return layers
