"""Interactions of the input's parts, computed before a model reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recbole_msr.layers.mlp import initialise


class Part(NamedTuple):
    """Neighbouring columns of an input vector that stand for one thing.

    Attributes:
        name: the field, or what else it is.
        width: how many columns.
        is_number: whether it is a plain number, not a learned vector.
    """

    name: str
    width: int
    is_number: bool = False


class BiInteraction(nn.Module):
    """The second-order term of a factorisation machine, as a vector: y (B, K) of x (B, D).

    y = sum_{f < g} v_f * v_g = 1/2 [(sum_f v_f)^2 - sum_f v_f^2],   v_f = e_f, or P_f e_f

    by elements, of the parts e_f of x. A part of the width K is taken as it is; of another width it is first brought to
    K by a learned matrix P_f (K, width), without a bias: a field of another width, a plain number (whose P_f is the
    vector that a factorisation machine has for it), a knowledge vector.

    Source: Rendle, "Factorization Machines", ICDM 2010, whose sum over K this is without; He and Chua, "Neural
    Factorization Machines for Sparse Predictive Analytics", SIGIR 2017, eq. 4 (bi-interaction pooling). P_f: Ginart et
    al., "Mixed Dimension Embeddings with Application to Memory-Efficient Recommendation Systems", ISIT 2021.

    >>> BiInteraction([Part("user", 4), Part("item", 4), Part("age", 2)], 4, 0.01)(torch.zeros(3, 10)).shape
    torch.Size([3, 4])

    Args:
        parts: the parts of x, in their order.
        size: K.
        std: standard deviation of the vector of a plain number at the start, as that of embeddings.
    """

    def __init__(self, parts: Sequence[Part], size: int, std: float) -> None:
        super().__init__()
        self.widths = [part.width for part in parts]
        self.projections = nn.ModuleDict()
        for place, part in enumerate(parts):
            if part.width != size:
                projection = nn.Linear(part.width, size, bias=False)
                nn.init.normal_(projection.weight, std=std if part.is_number else part.width**-0.5)
                self.projections[str(place)] = projection

    def forward(self, x: Tensor) -> Tensor:
        """Return y (B, K) of x (B, D)."""
        vectors = list(x.split(self.widths, dim=1))
        for place, projection in self.projections.items():
            vectors[int(place)] = projection(vectors[int(place)])
        v = torch.stack(vectors, dim=1)
        return (v.sum(dim=1).square() - v.square().sum(dim=1)) / 2


class CrossNetwork(nn.Module):
    """The cross layers of DCN-V2: x_L (B, D) of x_0 (B, D).

    x_{l+1} = x_0 * (W_l x_l + b_l) + x_l,   l = 0..L-1;   W_l (D, D), or U_l V_l^T with U_l, V_l (D, r)

    by elements; after L layers x_L holds products of up to L + 1 numbers of x_0. As embeddings begin small, x_L begins
    as x_0 but for products that are smaller still.

    Source: Wang et al., "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank
    Systems", WWW 2021, eqs. 1 and 2.

    >>> CrossNetwork(10, 2, rank=3)(torch.zeros(4, 10)).shape
    torch.Size([4, 10])

    Args:
        size: D.
        n_layers: L.
        rank: r; None for whole matrices.
    """

    def __init__(self, size: int, n_layers: int, rank: int | None = None) -> None:
        super().__init__()
        reduced = [nn.Linear(size, rank, bias=False) for _ in range(n_layers) if rank is not None]
        layers = [nn.Linear(size if rank is None else rank, size) for _ in range(n_layers)]
        for layer in layers:
            initialise(layer.weight, layer.bias)
        for layer in reduced:
            nn.init.normal_(layer.weight, std=size**-0.5)
        self.reduced, self.layers = nn.ModuleList(reduced), nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return x_L (B, D) of x_0 (B, D)."""
        crossed = x
        for number, layer in enumerate(self.layers):
            h = self.reduced[number](crossed) if self.reduced else crossed
            crossed = torch.addcmul(crossed, x, layer(h))
        return crossed
