"""STAR: star topology adaptive recommender.

Sheng et al., "One Model to Serve All: Star Topology Adaptive Recommender for Multi-Domain CTR Prediction", CIKM 2021,
arXiv 2101.11427.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from recbole_msr.layers.dropout import Dropout
from recbole_msr.layers.groups import PER, Groups
from recbole_msr.layers.init import WEIGHT_INIT, reinitialise
from recbole_msr.layers.mlp import ACTIVATIONS, MLP
from recbole_msr.layers.scenario_axes import Axes, ScenarioAxis
from recbole_msr.layers.star import PartitionedNorm, StarLinear
from recbole_msr.layers.tracing import is_exported
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.options import Options


class STAR(MultiScenarioRecommender):
    """Partitioned normalisation, a star of fully connected networks (FCN), and an auxiliary network.

    x'  = gamma * gamma_p * (x - mu_p) / sqrt(var_p + eps) + beta + beta_p     partitioned normalisation
    h   = phi((W * W_p) h + b + b_p)      each layer of the FCN; W, b shared, W_p, b_p of p alone; h^0 = x'
    s_m = the FCN's last layer, without phi
    s_a = auxiliary([e_p, x])             an MLP on the embedding of the scenario, with the other features
    y_p = sigmoid(s_m + s_a)

    The paper's p is a scenario, and a batch holds rows of one scenario; here every batch is taken apart by scenario.
    With several tasks p is a task in a scenario, or what `specific_per` says; where that is the scenario alone, the
    last layer has an output for every task.

    Not the paper's, but Scenario-Wise-Rec's: `batch_norm` (in the hidden layers of the FCN, for each p, and of the
    auxiliary network), `output_norm` other than none, and `auxiliary_input: features`. The keys and their defaults are
    in properties/model/STAR.yaml.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        option = Options(config)
        activation = option.choice("activation", ACTIVATIONS)
        dropout = option.number("dropout", at_least=0, below=1)
        batch_norm = option.flag("batch_norm")
        self.groups = Groups(option.choice("specific_per", PER), self.n_scenarios, self.n_outputs)
        n_groups, width = self.groups.count, self.features.output_size

        self.input_norm = PartitionedNorm(n_groups, width) if option.flag("partitioned_norm") else None
        n_outputs = self.n_outputs if self.groups.per == "scenario" else 1
        sizes = [width, *option.sizes("fcn_hidden_sizes"), n_outputs]
        self.fcn = nn.ModuleList(StarLinear(n_groups, d, h) for d, h in pairwise(sizes))
        self.norms = nn.ModuleList(PartitionedNorm(n_groups, h, centred=False) for h in sizes[1:-1] if batch_norm)
        self.activation = ACTIVATIONS[activation]()
        self.dropout = Dropout(dropout)
        output_norm = option.choice("output_norm", ("none", "batch_norm", "batch_norm_relu"))
        self.output_norm = None
        if output_norm != "none":
            self.output_norm = PartitionedNorm(n_groups, n_outputs, centred=False)
        self.output_relu = output_norm == "batch_norm_relu"

        auxiliary_input = option.choice("auxiliary_input", ("both", "scenario", "features"))
        e_size = option.integer("scenario_embedding_size")
        self.scenario_embedding = None
        if auxiliary_input != "features":
            # As small as the features'; of N(0, 1) it would give every scenario a random logit to begin with.
            std = option.number("embedding_std", at_least=0)
            self.scenario_embedding = nn.Parameter(torch.randn(self.n_scenarios, e_size) * std)
        self.auxiliary_reads_x = auxiliary_input != "scenario"
        self.auxiliary = MLP(
            {"both": e_size + width, "scenario": e_size, "features": width}[auxiliary_input],
            option.sizes("auxiliary_hidden_sizes", may_be_empty=True),
            activation,
            dropout,
            batch_norm,
            output_size=self.n_outputs,
        )
        reinitialise(self, option.number("embedding_std", at_least=0), option.choice("weight_init", WEIGHT_INIT))

    def logits(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Return every task's logit (B, T) of inputs x (B, D) and their scenarios (B,)."""
        if self.groups.per == "task":
            s_m = torch.cat([self._network(x, task) for task in range(self.n_outputs)], dim=1)
            return s_m + self._auxiliary(x, scenario)
        n_sets = self.groups.count // self.n_scenarios  # each scenario's networks: one, or one a task
        if is_exported():
            # A graph can compute the networks of all scenarios for all rows, then take each row's.
            every = self._of_every_scenario(x, n_sets)
            own = Groups("scenario", self.n_scenarios, 1).pick(every, scenario).squeeze(0)
            return own + self._auxiliary(x, scenario)
        order = scenario.argsort(stable=True)
        parts = x[order].split(torch.bincount(scenario, minlength=self.n_scenarios).tolist())
        by_scenario = [
            torch.cat([self._network(part, n * self.n_scenarios + i) for n in range(n_sets)], dim=1)
            for i, part in enumerate(parts)
            if len(part)
        ]
        s_m = torch.cat(by_scenario)[order.argsort()]
        return s_m + self._auxiliary(x, scenario)

    def scenario_axes(self) -> Axes:
        """Return where scenarios stand in its tensors."""
        axes: dict[str, tuple[ScenarioAxis, ...]] = {"scenario_embedding": (ScenarioAxis(),)}
        for path, module in self.named_modules():
            if isinstance(module, (StarLinear, PartitionedNorm)):
                axes |= {f"{path}.{name}": self.groups.axes for name in module.own_tensors}
        return axes

    def every_scenario_logits(self, x: Tensor) -> Tensor:
        """Return every task's logit of each row in each scenario (M, B, T)."""
        if self.groups.per == "task":
            s_m = torch.cat([self._network(x, task) for task in range(self.n_outputs)], dim=1)
        else:
            s_m = self._of_every_scenario(x, self.groups.count // self.n_scenarios)
        by_scenario = x.expand(self.n_scenarios, -1, -1)
        inputs = [] if self.scenario_embedding is None else [self.scenario_embedding.unsqueeze(1)]
        inputs = [e.expand(-1, x.shape[0], -1) for e in inputs] + ([by_scenario] if self.auxiliary_reads_x else [])
        s_a = self.auxiliary(torch.cat(inputs, dim=2).flatten(0, 1))
        return s_m + torch.unflatten(s_a, 0, (self.n_scenarios, -1))

    def _of_every_scenario(self, x: Tensor, n_sets: int) -> Tensor:
        """Return s_m (M, B, T): the networks of all scenarios for all rows."""
        every = [
            torch.cat([self._network(x, n * self.n_scenarios + i) for n in range(n_sets)], dim=1)
            for i in range(self.n_scenarios)
        ]
        return torch.stack(every)

    def _network(self, h: Tensor, p: int) -> Tensor:
        """Group p's s_m (B, 1), or (B, T) for all tasks; h: rows x (B, D)."""
        if self.input_norm is not None:
            h = self.input_norm(h, p)
        for depth, layer in enumerate(self.fcn[:-1]):
            h = layer(h, p)
            if self.norms:
                h = self.norms[depth](h, p)
            h = self.dropout(self.activation(h))
        s_m: Tensor = self.fcn[-1](h, p)
        if self.output_norm is not None:
            s_m = self.output_norm(s_m, p)
        return s_m.relu() if self.output_relu else s_m

    def _auxiliary(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Return s_a (B, T)."""
        inputs = [] if self.scenario_embedding is None else [self.scenario_embedding[scenario]]
        inputs += [x] if self.auxiliary_reads_x else []
        return self.auxiliary(torch.cat(inputs, dim=1))
