"""Gates over experts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recbole_msr.layers import manual_backward
from recbole_msr.layers.mlp import BatchNorm, MLPBank


class GateBank(MLPBank):
    """The scores of P linear gates over E experts each: W_p x + b_p; the softmax is the caller's.

    >>> GateBank(2, 10, 4)(torch.zeros(3, 10)).shape
    torch.Size([2, 3, 4])

    Args:
        n_gates: P.
        input_size: width D of x.
        n_experts: E.
        batch_norm: normalise every score over the batch. No paper asks for it; Scenario-Wise-Rec does so.
    """

    def __init__(self, n_gates: int, input_size: int, n_experts: int, batch_norm: bool = False) -> None:
        super().__init__(n_gates, input_size, [], output_size=n_experts)
        self.norm = BatchNorm(n_gates * n_experts) if batch_norm else None

    def forward(self, x: Tensor, reads: Sequence[int] | None = None) -> Tensor:
        """Return scores (P, B, E).

        Args:
            x: one input (B, D) for all gates, or one for each (P, B, D).
            reads: as for `MLPBank`.
        """
        # So few outputs a gate are one product also on a CPU, where all gates read the same rows.
        scores = self._batched(x) if x.dim() == 2 else super().forward(x, reads)
        if self.norm is None:
            return scores
        channels = self.norm(scores.transpose(0, 1).flatten(1))
        return torch.unflatten(channels, 1, (self.n_mlps, -1)).transpose(0, 1)


def mix(weights: Tensor, experts: Tensor) -> Tensor:
    """Mix the experts: z_p = sum_e w_pe E_e for every gate p.

    Args:
        weights: w (P, B, E).
        experts: (E, B, H).

    Returns:
        z (P, B, H).
    """
    if manual_backward.supports(experts):
        everyone = range(len(experts))
        return manual_backward.weighted_sums(weights.transpose(1, 2), experts, [everyone for _ in weights])
    return torch.einsum("pbe,ebh->pbh", weights, experts)
