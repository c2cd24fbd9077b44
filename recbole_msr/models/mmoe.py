"""MMoE: multi-gate mixture of experts.

Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", KDD 2018.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from recbole_msr.layers.gates import GateBank, mix
from recbole_msr.layers.groups import PER, Groups
from recbole_msr.layers.mlp import ACTIVATIONS, MLPBank
from recbole_msr.layers.scenario_axes import Axes
from recbole_msr.models.towered import ToweredRecommender
from recbole_msr.options import Options


class MMoE(ToweredRecommender):
    """Shared experts, and for each scenario and task a gate over them and a tower.

    f_k(x) = sum_e g_k(x)_e f_e(x),   g_k(x) = softmax(W_gk x)     experts f_e, MLPs, and the gate of k
    y_k    = sigmoid(h_k(f_k(x)))                                  the tower of k

    The paper's k is a task. Here it is a task in a scenario, or what `gates_per` and `towers_per` say; every row has
    the gates and towers of its own scenario. The gates have a bias beside W_gk (ours). With one expert there is
    nothing to weigh and no gate. The keys and their defaults are in properties/model/MMoE.yaml.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        option = Options(config)
        activation = option.choice("activation", ACTIVATIONS)
        dropout = option.number("dropout", at_least=0, below=1)
        batch_norm = option.flag("batch_norm")
        width, n_experts = self.features.output_size, option.integer("experts")
        self.experts = MLPBank(n_experts, width, option.sizes("expert_hidden_sizes"), activation, dropout, batch_norm)
        self.gate_groups = Groups(option.choice("gates_per", PER), self.n_scenarios, self.n_outputs)
        gate_batch_norm = option.flag("gate_batch_norm")
        self.gates = GateBank(self.gate_groups.count, width, n_experts, gate_batch_norm) if n_experts > 1 else None
        self.add_towers(option, self.experts.output_size, self.gate_groups if self.gates is not None else None)

    def logits(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Return every task's logit (B, T) of inputs x (B, D) and their scenarios (B,)."""
        return self.towers(self._mixed(x), scenario)

    def every_scenario_logits(self, x: Tensor) -> Tensor:
        """Return every task's logit of each row in each scenario (M, B, T)."""
        return self.towers.every_scenario(self._mixed(x))

    def _mixed(self, x: Tensor) -> Tensor:
        """Return f_k(x) (P, B, H) of every gate k; (B, H) where there is no gate."""
        experts = self.experts(x)
        return experts.squeeze(0) if self.gates is None else mix(self.gates(x).softmax(dim=-1), experts)

    def scenario_axes(self) -> Axes:
        """Return where scenarios stand in its tensors."""
        return {"gates": self.gate_groups.axes}
