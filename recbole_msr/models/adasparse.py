"""AdaSparse: adaptively sparse structures for multi-domain prediction.

Yang et al., "AdaSparse: Learning Adaptively Sparse Structures for Multi-Domain Click-Through Rate Prediction", CIKM
2022, arXiv 2206.13108.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from recbole_msr.errors import InputError
from recbole_msr.layers.adasparse import PRUNING, Pruner
from recbole_msr.layers.mlp import ACTIVATIONS, MLP
from recbole_msr.layers.scenario_axes import Axes, ScenarioAxis
from recbole_msr.layers.tracing import is_exported
from recbole_msr.models.measures import Measure
from recbole_msr.models.towered import ToweredRecommender
from recbole_msr.options import Options


class AdaSparse(ToweredRecommender):
    """One network, of which every scenario uses a part: a pruner weighs the units of each layer, or prunes them.

    h^0 = e_i ++ (pi^0 * x),   h^l = pi^l * f(W^l h^{l-1} + b^l)       e_i: the embedding of scenario i
    pi^l = Pruner^l(e_i, what it weighs)                               see `Pruner` for its three kinds
    y_t = sigmoid(tower_t(h^L))
    L   = sum_t BCE(y_t, label_t) + lambda * mean_b 1/(L + 1) sum_l penalty(r_b^l)
    penalty(r) = (r - (low + high) / 2)^2 where r is not within [low, high], else 0

    r_b^l is the share of layer l's units that are pruned for row b: the sparsity term (`sparsity_weight` is lambda)
    draws it into the range [`sparsity_low`, `sparsity_high`]. The sigmoid's steepness alpha grows by `alpha_step` in
    every training step (it is kept with the weights). The paper knows one task: here all tasks share the pruned
    network and each has a tower, by default one layer. Inside LLM4MSR there is no sparsity term. The keys and their
    defaults are in properties/model/AdaSparse.yaml.
    """

    alpha: Tensor
    """How steep the pruners' sigmoid is by now."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        option = Options(config)
        activation = option.choice("activation", ACTIVATIONS)
        dropout = option.number("dropout", at_least=0, below=1)
        batch_norm = option.flag("batch_norm")
        e_size, std = option.integer("scenario_embedding_size"), option.number("embedding_std", at_least=0)
        self.scenario_embedding = nn.Parameter(torch.randn(self.n_scenarios, e_size) * std)

        kind = option.choice("pruning", PRUNING)
        beta, epsilon = option.number("beta", at_least=0), option.number("epsilon", at_least=0)
        width, hidden_sizes = self.features.output_size, option.sizes("hidden_sizes")
        sizes = [e_size + width, *hidden_sizes]
        self.layers = nn.ModuleList(MLP(d, [h], activation, dropout, batch_norm) for d, h in pairwise(sizes))
        self.pruners = nn.ModuleList(Pruner(d, e_size, kind, beta, epsilon) for d in [width, *hidden_sizes])
        self.register_buffer("alpha", torch.tensor(option.number("alpha", at_least=0)))
        self.alpha_step = option.number("alpha_step", at_least=0)

        self.sparsity_weight = option.number("sparsity_weight", at_least=0) if kind != "scaling" else 0.0
        self.low = option.number("sparsity_low", at_least=0, below=1)
        self.high = option.number("sparsity_high", at_least=0, below=1)
        if self.low > self.high:
            raise InputError(f"'sparsity_low' {self.low:g} is above 'sparsity_high' {self.high:g}")
        self._penalty: Tensor | None = None
        self._is_penalised = False
        self.add_towers(option, sizes[-1])

    def logits(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Return every task's logit (B, T) of inputs x (B, D) and their scenarios (B,)."""
        if self.training and self.alpha_step and not is_exported():
            self.alpha += self.alpha_step
        h, pruned = self._network(x, scenario)
        if self._is_penalised:
            r = pruned - (self.low + self.high) / 2
            self._penalty = torch.where((pruned < self.low) | (pruned > self.high), r * r, 0.0).mean(dim=1)
        return self.towers(h, scenario)

    def _network(self, x: Tensor, scenario: Tensor) -> tuple[Tensor, Tensor]:
        """Return h^L (B, H), and the shares of pruned units r (B, L + 1)."""
        e = self.scenario_embedding[scenario]
        pi, share = self.pruners[0](e, x, self.alpha)
        h, pruned = torch.cat([e, pi * x], dim=1), [share]
        for layer, pruner in zip(self.layers, self.pruners[1:], strict=True):
            h = layer(h)
            pi, share = pruner(e, h, self.alpha)
            h = pi * h
            pruned.append(share)
        return h, torch.stack(pruned, dim=1)

    def row_losses(self, interaction: Any) -> tuple[Tensor, Tensor]:
        """Return the losses as `MultiScenarioRecommender.row_losses`, in training with the sparsity term."""
        self._is_penalised = self.training and self.sparsity_weight > 0
        try:
            return super().row_losses(interaction)
        finally:
            self._is_penalised, self._penalty = False, None

    def calibration(self, logits: Tensor) -> Tensor | float:
        """Return the sparsity term, a T-th of it for each task (B, T); 0 outside of `row_losses`."""
        if self._penalty is None:
            return 0.0
        return (self.sparsity_weight / self.n_tasks * self._penalty).unsqueeze(1).expand(-1, self.n_tasks)

    def scenario_axes(self) -> Axes:
        """Return where scenarios stand in its tensors."""
        return {"scenario_embedding": (ScenarioAxis(),)}

    def measures(self, x: Tensor, scenario: Tensor) -> list[Measure]:
        """Return the shares of pruned units."""
        columns = ["input", *(f"layer {n + 1}" for n in range(len(self.layers)))]
        says = "The share of a layer's units that are pruned, the mean over rows."
        return [Measure("AdaSparse: pruned units", says, columns, self._network(x, scenario)[1])]
