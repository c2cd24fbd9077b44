"""AITM: adaptive information transfer multi-task.

Xi et al., "Modeling the Sequential Dependence among Audience Multi-step Conversions with Multi-task Learning in
Targeted Display Advertising", KDD 2021, arXiv 2105.08489.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_msr.layers.groups import Groups
from recbole_msr.layers.init import WEIGHT_INIT, reinitialise
from recbole_msr.layers.mlp import ACTIVATIONS, MLPBank
from recbole_msr.layers.scenario_axes import Axes, ScenarioAxis
from recbole_msr.layers.task_chain import task_chains
from recbole_msr.layers.transfer import InformationTransfer
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.options import Options


class AITM(MultiScenarioRecommender):
    """Tasks in order, as declared: what task t - 1 has learnt is handed on to task t.

    Where tasks are declared with `after`, a task is handed what the task that it comes after has learnt, and a task
    without `after` is handed nothing. Probabilities are then products along the chain, as in every model, and need no
    calibrator.

    q_t     = f_t(x)                               the tower of task t, an MLP of width k
    p_{t-1} = g_{t-1}(z_{t-1})                     what task t - 1 hands over, one layer
    z_t     = AIT(p_{t-1}, q_t),   z_1 = q_1       adaptive information transfer, see `InformationTransfer`
    y_t     = sigmoid(W_t z_t + b_t)
    L       = sum_t BCE(y_t, label_t) + alpha * sum_{t > 1} mean_b max(y_t - y_{t-1}, 0)

    The second term of L, the behavioural expectation calibrator, says that a later step (a purchase) cannot be likelier
    than the one before it (a click); set `calibrator_weight: 0` for tasks of which this is not true. It counts over the
    rows that carry task t's label, where tasks t and t - 1 are binary. AIT is one and the same for all tasks, as in the
    authors' code.

    The paper knows no scenarios: with `towers_per: scenario_task` f_t, g_t and W_t are each scenario's own. With one
    task it is a tower. The keys and their defaults are in properties/model/AITM.yaml.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        option = Options(config)
        activation = option.choice("activation", ACTIVATIONS)
        dropout = option.number("dropout", at_least=0, below=1)
        batch_norm = option.flag("batch_norm")
        self.calibrator_weight = option.number("calibrator_weight", at_least=0)
        self.per_scenario = option.choice("towers_per", ("task", "scenario_task")) == "scenario_task"
        n_each = self.n_scenarios if self.per_scenario else 1  # of every part of a task
        self.groups = Groups("scenario", n_each, 1)
        self.tower = MLPBank(
            self.n_outputs * n_each,
            self.features.output_size,
            option.sizes("tower_hidden_sizes"),
            activation,
            dropout,
            batch_norm,
        )
        k = self.tower.output_size
        self.sources = self._sources()
        self.hand_over = nn.ModuleList(MLPBank(n_each, k, [k], activation, dropout, batch_norm) for _ in self.sources)
        self.transfer = InformationTransfer(k) if self.sources else None
        self.outputs = nn.ModuleList(MLPBank(n_each, k, [], output_size=1) for _ in range(self.n_outputs))
        reinitialise(self, option.number("embedding_std", at_least=0), option.choice("weight_init", WEIGHT_INIT))

    def logits(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Return every task's logit (B, T) of inputs x (B, D) and their scenarios (B,)."""
        towers = self._towers(x)
        z = {t: self._of_scenario(towers[t], scenario) for t in range(self.n_outputs) if t not in self.sources}
        for (t, source), hand_over in zip(self.sources.items(), self.hand_over, strict=True):
            p = self._of_scenario(hand_over(z[source]), scenario)
            assert self.transfer is not None
            z[t] = self.transfer(p, self._of_scenario(towers[t], scenario))
        logits = [self._of_scenario(output(z[t]), scenario) for t, output in enumerate(self.outputs)]
        return torch.cat(logits, dim=1)

    def every_scenario_logits(self, x: Tensor) -> Tensor:
        """Return every task's logit of each row in each scenario (M, B, T)."""
        z = dict(enumerate(self._towers(x)))  # (M, B, k), M = 1 where parts are not each scenario's own
        for (t, source), hand_over in zip(self.sources.items(), self.hand_over, strict=True):
            assert self.transfer is not None
            z[t] = self.transfer(hand_over(z[source]), z[t])
        logits = [output(z[t]) for t, output in enumerate(self.outputs)]
        return torch.cat(logits, dim=2).expand(self.n_scenarios, -1, -1)

    def _towers(self, x: Tensor) -> Tensor:
        """Return q_t (T, M, B, k) of every scenario's towers."""
        return torch.unflatten(self.tower(x), 0, (self.n_outputs, -1))

    def scenario_axes(self) -> Axes:
        """Return where scenarios stand in its tensors."""
        if not self.per_scenario:
            return {}
        return {"tower": (ScenarioAxis(self.n_outputs),), "hand_over": (ScenarioAxis(),), "outputs": (ScenarioAxis(),)}

    def _sources(self) -> dict[int, int]:
        """Return by output the output that hands over to it, those that hand over before those that are handed to."""
        if not self.parents:
            return {t: t - 1 for t in range(1, self.n_outputs)}
        starts = {task: columns.start for task, columns in self.layout.columns.items()}
        chains = sorted(task_chains(self.task_names, self.parents).values(), key=len)
        return {starts[chain[-1]]: starts[chain[-2]] for chain in chains}

    def _of_scenario(self, values: Tensor, scenario: Tensor) -> Tensor:
        """Return each row's own (B, ...) of what every scenario's part gives (M, B, ...)."""
        return self.groups.pick(values, scenario).squeeze(0)

    def calibration(self, logits: Tensor) -> Tensor:
        """Return alpha * max(y_t - y_{t-1}, 0) (B, T) of logits; 0 for the first task, and where tasks have `after`."""
        if self.parents:
            return logits.new_zeros(len(logits), self.n_tasks)
        y = logits[:, [columns.start for columns in self.layout.columns.values()]].sigmoid()
        excess = F.pad((y[:, 1:] - y[:, :-1]).relu(), (1, 0))
        binary = [kind == "binary" for kind in self.layout.types.values()]
        if not all(binary):
            both = [False, *(before and here for before, here in pairwise(binary))]
            excess = torch.where(torch.tensor(both, device=y.device), excess, 0.0)
        return self.calibrator_weight * excess
