"""HMoE: hybrid of implicit and explicit mixture of experts.

Li et al., "Improving Multi-Scenario Learning to Rank in E-commerce by Exploiting Task Relationships in the Label
Space", CIKM 2020.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from recbole_msr.layers.gates import GateBank, mix
from recbole_msr.layers.groups import PER, Groups
from recbole_msr.layers.init import WEIGHT_INIT, reinitialise
from recbole_msr.layers.mlp import ACTIVATIONS, MLPBank
from recbole_msr.layers.scenario_axes import Axes
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.options import Options


class HMoE(MultiScenarioRecommender):
    """MMoE in the feature space, and on top of it a weighted sum of its predictions: the label space.

    f_k(x) = sum_e g_k(x)_e f_e(x),   g_k(x) = softmax(W_gk x)     implicit: experts f_e and the gate of k
    o_k    = h_k(f_k(x))                                           prediction (logit) of k's tower
    y_k    = sigmoid(sum_j a_k(x)_j o_j),   a_k(x) = softmax(W_ak x)    explicit: relations in the label space

    k is task t in scenario i. The sum goes over what `relations` names: the same task in all scenarios (the paper's),
    all tasks in the same scenario, or both. Task-constrained back-propagation (`stop_gradient`): in y_k the o_j of the
    others (j != k) are constants, so that k's loss trains o_k, the experts through it, and a_k, but no other's tower
    or gate.

    The abstract and public implementations were read, not the paper's equations: to sum logits and not probabilities,
    and a linear W_ak, are choices of ours. With nothing to sum over (one scenario) it is MMoE. The keys and their
    defaults are in properties/model/HMoE.yaml.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        option = Options(config)
        activation = option.choice("activation", ACTIVATIONS)
        dropout = option.number("dropout", at_least=0, below=1)
        batch_norm, gate_batch_norm = option.flag("batch_norm"), option.flag("gate_batch_norm")
        width, n_experts = self.features.output_size, option.integer("experts")
        self.groups = Groups("scenario_task", self.n_scenarios, self.n_outputs)
        self.experts = MLPBank(n_experts, width, option.sizes("expert_hidden_sizes"), activation, dropout, batch_norm)
        self.gates = None
        if n_experts > 1:
            self.gates = GateBank(self.groups.count, width, n_experts, gate_batch_norm)
        self.towers = MLPBank(
            self.groups.count,
            self.experts.output_size,
            option.sizes("tower_hidden_sizes", may_be_empty=True),
            activation,
            dropout,
            batch_norm,
            output_size=1,
        )
        self.relations = option.choice("relations", PER)
        self.stop_gradient = option.flag("stop_gradient")
        n_related = Groups(self.relations, self.n_scenarios, self.n_outputs).count
        self.relation_weights = GateBank(self.groups.count, width, n_related) if n_related > 1 else None
        reinitialise(self, option.number("embedding_std", at_least=0), option.choice("weight_init", WEIGHT_INIT))

    def logits(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Return every task's logit (B, T) of inputs x (B, D) and their scenarios (B,)."""
        o = self._outputs(x)
        own = self.groups.pick(o, scenario)  # (T, B)
        if self.relation_weights is None:
            return own.t()
        a = self.groups.pick(self.relation_weights(x).softmax(dim=-1), scenario)  # (T, B, J)
        if not self.stop_gradient:
            return (a * self._related(o, own)).sum(dim=-1).t()
        constants = (a * self._related(o.detach(), own.detach())).sum(dim=-1)
        # The value of the last term is 0: it gives o_k its gradient.
        return (constants + self._own_weight(a, scenario) * (own - own.detach())).t()

    def every_scenario_logits(self, x: Tensor) -> Tensor:
        """Return every task's logit of each row in each scenario (M, B, T)."""
        o = self.groups.by_task_and_scenario(self._outputs(x))  # (T, M, B)
        if self.relation_weights is None:
            return o.permute(1, 2, 0)
        a = self.groups.by_task_and_scenario(self.relation_weights(x).softmax(dim=-1))  # (T, M, B, J)
        if self.relations == "scenario":
            return torch.einsum("tmbj,tjb->mbt", a, o)
        if self.relations == "task":
            return torch.einsum("tmbj,jmb->mbt", a, o)
        return torch.einsum("tmbj,jb->mbt", a, o.flatten(0, 1))

    def _outputs(self, x: Tensor) -> Tensor:
        """Return o_k (T * M, B) of every tower k."""
        experts = self.experts(x)
        f = experts.squeeze(0) if self.gates is None else mix(self.gates(x).softmax(dim=-1), experts)
        return self.towers(f).squeeze(-1)

    def scenario_axes(self) -> Axes:
        """Return where scenarios stand in its tensors."""
        own = self.groups.axes
        related = Groups(self.relations, self.n_scenarios, self.n_outputs).axes
        weights = (*own, *(replace(axis, dim=1) for axis in related))  # W_a (P, J, ...)
        return {"gates": own, "towers": own, "relation_weights": weights}

    def _related(self, o: Tensor, own: Tensor) -> Tensor:
        """Return the o_j that each task's sum goes over (T or 1, B, J): of o (T * M, B) and each row's own (T, B)."""
        if self.relations == "scenario":
            return torch.unflatten(o, 0, (self.n_outputs, self.n_scenarios)).transpose(1, 2)
        return (own if self.relations == "task" else o).t().unsqueeze(0)

    def _own_weight(self, a: Tensor, scenario: Tensor) -> Tensor:
        """Return a_k's weight of o_k itself (T, B)."""
        tasks = torch.arange(self.n_outputs, device=a.device).unsqueeze(1)
        place = {
            "scenario": scenario.unsqueeze(0),
            "task": tasks,
            "scenario_task": tasks * self.n_scenarios + scenario,
        }[self.relations]
        return a.gather(-1, place.expand(a.shape[:2]).unsqueeze(-1)).squeeze(-1)
