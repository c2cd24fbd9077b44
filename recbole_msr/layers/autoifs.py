"""AutoIFS's units: a linear layer that all share, beside one of low rank that each scenario, or each task, has alone.

Source: Yang et al., "Automated Information Flow Selection for Multi-scenario Multi-task Recommendation", WSDM 2026,
arXiv 2512.13396.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_msr.layers.groups import by_group

_OWN_OUT_STD = 0.01


class LowRankUnits(nn.Module):
    """N linear layers (h A_n) B_n + b_n of rank r, with A (D, r) and B (r, H).

    A begins as Glorot and Bengio (2010) have it, B nearly as zeros and b as zeros, so that at the start all that is
    computed is what is shared.

    Args:
        n_units: N.
        input_size: D.
        output_size: H.
        rank: r.

    Attributes:
        own_tensors: names of the tensors, of which each unit has an entry.
    """

    own_tensors = ("into", "out", "bias")

    def __init__(self, n_units: int, input_size: int, output_size: int, rank: int) -> None:
        super().__init__()
        self.into = nn.Parameter(torch.randn(n_units, input_size, rank) * (2 / (input_size + rank)) ** 0.5)
        self.out = nn.Parameter(torch.randn(n_units, rank, output_size) * _OWN_OUT_STD)
        self.bias = nn.Parameter(torch.zeros(n_units, output_size))

    def of_groups(self, h: Tensor, unit: Tensor) -> Tensor:
        """Return what each row's own unit makes of it (B, H).

        Args:
            h: rows (B, D).
            unit: each row's unit (B,), 0..N-1.
        """
        return by_group(h, unit, len(self.bias), lambda rows, n: rows @ self.into[n] @ self.out[n] + self.bias[n])

    def of_all(self, h: Tensor) -> Tensor:
        """Return what every unit of one output makes of rows h (B, D): (B, N)."""
        return h @ (self.into @ self.out).squeeze(2).t() + self.bias.squeeze(1)
