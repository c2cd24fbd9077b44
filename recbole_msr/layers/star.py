"""STAR's two layers: a centred layer times one of the scenario's own, and partitioned normalisation.

Source: Sheng et al., "One Model to Serve All: Star Topology Adaptive Recommender for Multi-Domain CTR Prediction",
CIKM 2021, arXiv 2101.11427.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_msr.layers.mlp import initialise


class StarLinear(nn.Module):
    """(W_p * W) x + b_p + b: the weights shared by all groups, element by element times those of group p's own.

    W is drawn as in an `MLP` and every W_p begins as ones, so that all groups begin as the shared layer. (Two factors
    that are both drawn small would make a product far too small.)

    Args:
        n_groups: P.
        input_size: width D of x.
        output_size: width of the output.
    """

    own_tensors = ("own_weight", "own_bias")
    """Those with an entry for each group."""

    def __init__(self, n_groups: int, input_size: int, output_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(output_size, input_size))
        self.bias = nn.Parameter(torch.empty(output_size))
        self.own_weight = nn.Parameter(torch.ones(n_groups, output_size, input_size))
        self.own_bias = nn.Parameter(torch.zeros(n_groups, output_size))
        initialise(self.weight, self.bias)

    def forward(self, x: Tensor, group: int) -> Tensor:
        """(B, output_size) of rows x (B, D) that all belong to the one group."""
        return F.linear(x, self.own_weight[group] * self.weight, self.own_bias[group] + self.bias)


class PartitionedNorm(nn.Module):
    """Batch norm with statistics for each of P groups: gamma_p' (x - mu_p) / sqrt(var_p + eps) + beta_p'.

    mu_p and var_p are those of the group's rows in a training batch, and in evaluation their moving averages. With
    `centred` (the paper's partitioned normalisation) gamma_p' = gamma * gamma_p and beta_p' = beta + beta_p, where
    gamma and beta are shared by all groups; without it every group has a gamma and beta of its own alone.

    One row has no variance: it is normalised by the moving averages, which it leaves as they are.

    Args:
        n_groups: P.
        size: width D of x.
        centred: whether there are a shared gamma and beta as well.
    """

    own_tensors = ("own_gamma", "own_beta", "mean", "variance")
    """Those with an entry for each group."""
    mean: Tensor
    """Moving averages of mu (P, D)."""
    variance: Tensor
    """Moving averages of the (unbiased) variance (P, D)."""

    def __init__(self, n_groups: int, size: int, centred: bool = True) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(size)) if centred else None
        self.beta = nn.Parameter(torch.zeros(size)) if centred else None
        self.own_gamma = nn.Parameter(torch.ones(n_groups, size))
        self.own_beta = nn.Parameter(torch.zeros(n_groups, size))
        self.register_buffer("mean", torch.zeros(n_groups, size))
        self.register_buffer("variance", torch.ones(n_groups, size))

    def forward(self, x: Tensor, group: int) -> Tensor:
        """(B, D) of rows x (B, D) that all belong to the one group."""
        gamma, beta = self.own_gamma[group], self.own_beta[group]
        if self.gamma is not None and self.beta is not None:
            gamma, beta = self.gamma * gamma, self.beta + beta
        from_batch = self.training and len(x) > 1
        return F.batch_norm(x, self.mean[group], self.variance[group], gamma, beta, training=from_batch)
