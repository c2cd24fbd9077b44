"""AdaptDHM: adaptive distribution hierarchical model.

Li et al., "AdaptDHM: Adaptive Distribution Hierarchical Model for Multi-Domain CTR Prediction", 2022, arXiv 2211.12105.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_msr.layers.dropout import Dropout
from recbole_msr.layers.groups import by_group
from recbole_msr.layers.init import WEIGHT_INIT, reinitialise
from recbole_msr.layers.mlp import ACTIVATIONS
from recbole_msr.layers.scenario_axes import Axes, ScenarioAxis
from recbole_msr.layers.star import PartitionedNorm, StarLinear
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.models.measures import Measure
from recbole_msr.options import Options


class AdaptDHM(MultiScenarioRecommender):
    """Rows are put into clusters by what they are, and every cluster has weights of its own beside shared ones.

    v   = x ++ e_i                                              e_i: the embedding of scenario i
    k   = argmax_k c_k . v                                      the row's cluster: the centre that is most like it
    h^l = phi((W^l * W_k^l) h^{l-1} + b^l + b_k^l),  h^0 = v    W, b shared; W_k, b_k of cluster k alone
    y_t = sigmoid of the last layer's output t, without phi

    In training the centres follow the rows, `routing_iterations` times a step, without gradients:
    r_bk = softmax_k(c_k . u_b),   c_k <- normalised(rho c_k + (1 - rho) sum_b r_bk u_b / sum_b r_bk),
    with rho = `centre_momentum` and u = v / |v|. Scenario-Wise-Rec's code has v for u, so that with small embeddings
    all r are 1 / K and all centres move alike, and no division, so that a move depends on the size of the batch. The
    centres are kept with the weights. The paper knows one task: here the last
    layer has an output for each. The keys and their defaults are in properties/model/AdaptDHM.yaml.
    """

    centres: Tensor
    """c (K, width of v), of length 1."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        option = Options(config)
        self.activation = ACTIVATIONS[option.choice("activation", ACTIVATIONS)]()
        self.dropout = Dropout(option.number("dropout", at_least=0, below=1))
        e_size, std = option.integer("scenario_embedding_size"), option.number("embedding_std", at_least=0)
        self.scenario_embedding = nn.Parameter(torch.randn(self.n_scenarios, e_size) * std)
        self.n_clusters = option.integer("clusters")
        self.iterations = option.integer("routing_iterations", at_least=0)
        self.momentum = option.number("centre_momentum", at_least=0, below=1)
        sizes = [self.features.output_size + e_size, *option.sizes("fcn_hidden_sizes"), self.n_outputs]
        self.register_buffer("centres", F.normalize(torch.randn(self.n_clusters, sizes[0]), dim=1))
        self.fcn = nn.ModuleList(StarLinear(self.n_clusters, d, h) for d, h in pairwise(sizes))
        batch_norm = option.flag("batch_norm")
        self.norms = nn.ModuleList(
            PartitionedNorm(self.n_clusters, h, centred=False) for h in sizes[1:-1] if batch_norm
        )
        reinitialise(self, std, option.choice("weight_init", WEIGHT_INIT))

    def logits(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Return every task's logit (B, T) of inputs x (B, D) and their scenarios (B,)."""
        v = torch.cat([x, self.scenario_embedding[scenario]], dim=1)
        if self.training:
            self._move_centres(v)
        return by_group(v, self._cluster(v), self.n_clusters, self._network)

    @torch.no_grad()
    def _move_centres(self, v: Tensor) -> None:
        """Move the centres towards the rows v (B, D + E) of a training batch."""
        u = F.normalize(v.to(self.centres.dtype), dim=1)
        for _ in range(self.iterations):
            r = (u @ self.centres.t()).softmax(dim=1)
            means = (r.t() @ u) / r.sum(dim=0).unsqueeze(1).clamp(min=1e-12)
            self.centres.copy_(F.normalize(self.momentum * self.centres + (1 - self.momentum) * means, dim=1))

    def _cluster(self, v: Tensor) -> Tensor:
        """Return each row's cluster (B,)."""
        return (v.detach().to(self.centres.dtype) @ self.centres.t()).argmax(dim=1)

    def _network(self, h: Tensor, k: int) -> Tensor:
        """Return logits (B, T) of rows v (B, D + E) of cluster k."""
        for depth, layer in enumerate(self.fcn[:-1]):
            h = layer(h, k)
            if self.norms:
                h = self.norms[depth](h, k)
            h = self.dropout(self.activation(h))
        logits: Tensor = self.fcn[-1](h, k)
        return logits

    def scenario_axes(self) -> Axes:
        """Return where scenarios stand in its tensors."""
        return {"scenario_embedding": (ScenarioAxis(),)}

    def measures(self, x: Tensor, scenario: Tensor) -> list[Measure]:
        """Return which cluster each row is in."""
        k = self._cluster(torch.cat([x, self.scenario_embedding[scenario]], dim=1))
        columns = [f"cluster {n + 1}" for n in range(self.n_clusters)]
        says = "The share of a scenario's rows that are in each cluster."
        return [Measure("AdaptDHM: clusters", says, columns, F.one_hot(k, self.n_clusters).float())]
