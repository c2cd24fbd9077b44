"""OMoE: one-gate mixture of experts.

Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", KDD 2018, where it
is the baseline whose experts MMoE takes over.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from recbole_msr.layers.gates import GateBank, mix
from recbole_msr.layers.mlp import ACTIVATIONS, MLPBank
from recbole_msr.models.towered import ToweredRecommender
from recbole_msr.options import Options


class OMoE(ToweredRecommender):
    """Shared experts under one gate, a tower for each scenario and task.

    f(x) = sum_e g(x)_e f_e(x),   g(x) = softmax(W_g x)       experts f_e, MLPs, and the one gate
    y_it = sigmoid(h_it(f(x)))                                a tower for each task t in each scenario i

    The gate has a bias beside W_g (ours). With one expert there is nothing to weigh and no gate. The keys and their
    defaults are in properties/model/OMoE.yaml.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        option = Options(config)
        activation = option.choice("activation", ACTIVATIONS)
        dropout = option.number("dropout", at_least=0, below=1)
        batch_norm = option.flag("batch_norm")
        width, n_experts = self.features.output_size, option.integer("experts")
        self.experts = MLPBank(n_experts, width, option.sizes("expert_hidden_sizes"), activation, dropout, batch_norm)
        gate_batch_norm = option.flag("gate_batch_norm")
        self.gate = GateBank(1, width, n_experts, gate_batch_norm) if n_experts > 1 else None
        self.add_towers(option, self.experts.output_size)

    def logits(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Return every task's logit (B, T) of inputs x (B, D) and their scenarios (B,)."""
        return self.towers(self._mixed(x), scenario)

    def every_scenario_logits(self, x: Tensor) -> Tensor:
        """Return every task's logit of each row in each scenario (M, B, T)."""
        return self.towers.every_scenario(self._mixed(x))

    def _mixed(self, x: Tensor) -> Tensor:
        """Return f(x) (B, H)."""
        experts = self.experts(x)
        f = experts if self.gate is None else mix(self.gate(x).softmax(dim=-1), experts)  # (1, B, H)
        return f.squeeze(0)
