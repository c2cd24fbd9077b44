"""AITM's adaptive information transfer (AIT).

Source: Xi et al., "Modeling the Sequential Dependence among Audience Multi-step Conversions with Multi-task Learning
in Targeted Display Advertising", KDD 2021, arXiv 2105.08489.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class InformationTransfer(nn.Module):
    """Attention over two vectors: the one that the task before hands over, and the task's own.

    z = sum_u w_u h_1(u)  over u in {p, q},   w = softmax over u of <h_2(u), h_3(u)> / sqrt(k).

    p is what the task before hands over, q the task's own; h_1, h_2 and h_3 are linear and k wide, without a bias,
    as in the authors' code.

    Args:
        size: width k of p, q and z.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.h1, self.h2, self.h3 = (nn.Linear(size, size, bias=False) for _ in range(3))
        for h in (self.h1, self.h2, self.h3):
            nn.init.xavier_uniform_(h.weight)

    def weights(self, u: Tensor) -> Tensor:
        """Return w (2, B) of u (2, B, k): the share of p, then that of q; they sum to 1."""
        score: Tensor = (self.h2(u) * self.h3(u)).sum(dim=-1) / u.shape[-1] ** 0.5
        return score.softmax(dim=0)

    def forward(self, p: Tensor, q: Tensor) -> Tensor:
        """Return z (B, k) of p and q (B, k)."""
        u = torch.stack([p, q])
        z: Tensor = (self.weights(u).unsqueeze(-1) * self.h1(u)).sum(dim=0)
        return z
