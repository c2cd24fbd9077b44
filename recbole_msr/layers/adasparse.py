"""AdaSparse's pruner.

Source: Yang et al., "AdaSparse: Learning Adaptively Sparse Structures for Multi-Domain Click-Through Rate Prediction",
CIKM 2022, arXiv 2206.13108.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from recbole_msr.layers.mlp import initialise

PRUNING = ("binarization", "scaling", "fusion")
"""How a weighting factor pi is made of v, see `Pruner`."""


class Pruner(nn.Module):
    """Weighting factors pi of a layer's units: 0 prunes a unit for this row.

    v = W (e_i ++ h)

    - `binarization`: pi = [sigmoid(alpha v) > epsilon], 1 or 0; its gradient is that of sigmoid(alpha v).
    - `scaling`: pi = beta sigmoid(v); nothing is pruned.
    - `fusion`: pi = p where p = beta sigmoid(alpha v) > epsilon, else 0.

    Args:
        size: units of the layer, the width of h.
        scenario_size: width of e_i.
        kind: a word of `PRUNING`.
        beta: the greatest value of a factor; not read by binarization.
        epsilon: below it a unit is pruned; not read by scaling.
    """

    __call__: Callable[..., tuple[Tensor, Tensor]]

    def __init__(self, size: int, scenario_size: int, kind: str = "fusion", beta: float = 2.0, epsilon: float = 0.25):
        super().__init__()
        self.linear = nn.Linear(scenario_size + size, size, bias=False)
        initialise(self.linear.weight, torch.empty(0))
        self.kind, self.beta, self.epsilon = kind, beta, epsilon

    def forward(self, e: Tensor, h: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Return pi (B, size), and the share of pruned units (B,), whose gradient is that of the sigmoid's mean.

        Args:
            e: each row's scenario embedding (B, scenario_size).
            h: the layer's units (B, size).
            alpha: how steep the sigmoid is, a number.
        """
        v = self.linear(torch.cat([e, h], dim=1))
        if self.kind == "scaling":
            return self.beta * v.sigmoid(), v.new_zeros(v.shape[0])
        p = (alpha * v).sigmoid() * (self.beta if self.kind == "fusion" else 1.0)
        kept = (p > self.epsilon).to(p.dtype)
        straight = kept + p - p.detach()  # kept, with the gradient of p
        return p * kept if self.kind == "fusion" else straight, 1 - straight.mean(dim=1)
