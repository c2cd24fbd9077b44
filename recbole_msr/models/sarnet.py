"""SAR-Net: scenario-aware ranking network.

Shen et al., "SAR-Net: A Scenario-Aware Ranking Network for Personalized Fair Recommendation in Hundreds of Travel
Scenarios", CIKM 2021, arXiv 2110.06475.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recbole_msr.layers.gates import GateBank, mix
from recbole_msr.layers.groups import Groups
from recbole_msr.layers.mlp import ACTIVATIONS, BatchNorm, MLPBank
from recbole_msr.layers.scenario_axes import Axes, ScenarioAxis
from recbole_msr.models.measures import Measure
from recbole_msr.models.towered import ToweredRecommender
from recbole_msr.options import Options


class NormedExperts(nn.Module):
    """E experts, MLPs with a linear output, that may normalise their input: Q_e(gamma_e * norm(v) + beta_e).

    Args:
        n_experts: E.
        input_size, hidden_sizes, output_size, activation, dropout, batch_norm: of each, see `MLP`.
        input_norm: whether the input is normalised over the batch; else Q_e(v).
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        n_experts: int,
        input_size: int,
        hidden_sizes: Sequence[int],
        activation: str,
        dropout: float,
        batch_norm: bool,
        output_size: int,
        input_norm: bool,
    ) -> None:
        super().__init__()
        self.bank = MLPBank(n_experts, input_size, hidden_sizes, activation, dropout, batch_norm, output_size)
        self.norm = self.gamma = self.beta = None
        if input_norm:
            self.norm = BatchNorm(input_size, affine=False)
            self.gamma = nn.Parameter(torch.ones(n_experts, 1, input_size))
            self.beta = nn.Parameter(torch.zeros(n_experts, 1, input_size))

    def forward(self, v: Tensor) -> Tensor:
        """Return the outputs (E, B, H) of rows v (B, D)."""
        return self.bank(v if self.norm is None else self.gamma * self.norm(v) + self.beta)


class SARNet(ToweredRecommender):
    """A linear transformation by scenario, shared and own experts, a gate over them.

    v   = w_i * x + b_i                                scenario-specific transformation, element by element
    Q_e(v), e = 1..E_shared;   Q_ie(v), e = 1..E_own   experts: shared by all, and of the row's scenario i
    z   = sum_e g_e Q_e,   g = softmax(W v + c)        the gate over the shared and the own experts
    y_t = sigmoid(tower_t(z))

    Not here: the paper's two attentions over a user's behaviour (that is `history_pooling: target_attention`), and its
    fairness coefficient, which weighs samples whose exposure was set by hand; data without such a mark have nothing to
    make it of. The paper knows one task: here all tasks share everything but the towers. `expert_input_norm` is a batch
    norm in front of each expert. The keys and their defaults are in properties/model/SARNet.yaml.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        option = Options(config)
        activation = option.choice("activation", ACTIVATIONS)
        dropout = option.number("dropout", at_least=0, below=1)
        batch_norm = option.flag("batch_norm")
        width, size = self.features.output_size, option.integer("expert_output_size")
        self.weight = nn.Parameter(torch.ones(self.n_scenarios, width))
        self.bias = nn.Parameter(torch.zeros(self.n_scenarios, width))

        n_shared, n_own = option.integer("shared_experts"), option.integer("own_experts")
        self.groups = Groups("scenario_task", self.n_scenarios, n_own)  # own expert e of scenario i is number e * M + i
        hidden_sizes = option.sizes("expert_hidden_sizes", may_be_empty=True)
        like = (width, hidden_sizes, activation, dropout, batch_norm, size, option.flag("expert_input_norm"))
        self.shared_experts = NormedExperts(n_shared, *like)
        self.own_experts = NormedExperts(self.groups.count, *like)
        self.gate = GateBank(1, width, n_shared + n_own)
        self.add_towers(option, size)

    def logits(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Return every task's logit (B, T) of inputs x (B, D) and their scenarios (B,)."""
        v = self._transformed(x, scenario)
        own = self.groups.pick(self.own_experts(v), scenario)
        experts = torch.cat([self.shared_experts(v), own])
        z = mix(self.gate(v).softmax(dim=-1), experts).squeeze(0)
        return self.towers(z, scenario)

    def _transformed(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Return v (B, D)."""
        return self.weight[scenario] * x + self.bias[scenario]

    def scenario_axes(self) -> Axes:
        """Return where scenarios stand in its tensors."""
        own = {f"own_experts.{part}": self.groups.axes for part in ("bank", "gamma", "beta")}
        return {"weight": (ScenarioAxis(),), "bias": (ScenarioAxis(),)} | own

    def measures(self, x: Tensor, scenario: Tensor) -> list[Measure]:
        """Return the weights of the experts."""
        g = self.gate(self._transformed(x, scenario)).softmax(dim=-1).squeeze(0)
        n_own = self.groups.n_tasks
        columns = [f"shared expert {e + 1}" for e in range(g.shape[1] - n_own)]
        columns += [f"own expert {e + 1}" for e in range(n_own)]
        says = (
            "The mean weight that the gate gives to each expert, the shared ones and the scenario's own; they sum to 1."
        )
        return [Measure("SAR-Net: weights of the experts", says, columns, g)]
