"""HiNet: Hierarchical Information Extraction Network.

Zhou et al., "HiNet: Novel Multi-Scenario & Multi-Task Learning with Hierarchical Information Extraction",
ICDE 2023, arXiv 2303.06095.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from recbole_msr.errors import InputError
from recbole_msr.layers.cgc import CGC
from recbole_msr.layers.embedding import INITIAL_STD
from recbole_msr.layers.experts import ScenarioAwareAttention, ScenarioExtraction
from recbole_msr.layers.mlp import ACTIVATIONS, MLPBank
from recbole_msr.layers.scenario_axes import Axes, ScenarioAxis
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.options import Options

logger = logging.getLogger(__name__)

EXPERT_SHARING = ("none", "low_rank")
"""What the experts of the scenarios share: nothing, or all but a product of low rank."""


class HiNet(MultiScenarioRecommender):
    """Scenario extraction layers, task extraction layers, towers.

    G    = SEI_shared(x)                                     scenario-shared expert
    S_i  = SEI_i(x)                                          scenario-specific expert of the row's scenario i
    A_i  = sum_{m != i} a_im S_m,  a_i = softmax(h(e_i))     scenario-aware attentive network (SAN)
    C_i  = concat[G, S_i, A_i]                               scenario extraction layer
    z_t  = sum_e w_te E_e(C_i),  w_t = softmax(W_t C_i)      task extraction layer (CGC)
    y_t  = sigmoid(tower_t(z_t))

    x holds every feature but the scenario; the scenario embedding e_i feeds the SAN and nothing else. Where a
    second scenario or task layer is asked for, it reads what the first one passes on.

    For many scenarios (not in the paper): with `san_top_k` the softmax is over the k other scenarios with the greatest
    h(e_i), and experts are computed for the rows that need them alone; with `expert_sharing: low_rank` the weights of a
    scenario's sub-experts are W_k + U_mk V_mk in each layer, of which W_k is that of all scenarios. The keys and their
    defaults are in properties/model/HiNet.yaml.
    """

    parts_by_count = ("scenario_embedding",)
    """What there is for more than two scenarios alone."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        option = Options(config)
        activation = option.choice("activation", ACTIVATIONS)
        dropout = option.number("dropout", at_least=0, below=1)
        batch_norm = option.flag("batch_norm")

        # e: one embedding a scenario, where there are weights to be made of it. It begins small, as all embeddings do:
        # e of N(0, 1) would make the SAN's softmax all but choose one scenario before anything is learnt.
        e_size = option.integer("scenario_embedding_size")
        self.scenario_embedding = None
        if ScenarioAwareAttention.learns(self.n_scenarios):
            self.scenario_embedding = nn.Parameter(torch.randn(self.n_scenarios, e_size) * INITIAL_STD)

        top_k = None if config["san_top_k"] is None else self._top_k(option)
        is_low_rank = option.choice("expert_sharing", EXPERT_SHARING) == "low_rank"
        rank = option.integer("expert_rank") if is_low_rank else None
        width = self.features.output_size
        self.scenario_layers = nn.ModuleList()
        for _ in range(option.integer("scenario_layers")):
            layer = ScenarioExtraction(
                self.n_scenarios,
                width,
                n_sub_experts=option.integer("sub_experts"),
                hidden_sizes=option.sizes("expert_hidden_sizes"),
                scenario_embedding_size=e_size,
                san_hidden_sizes=option.sizes("san_hidden_sizes", may_be_empty=True),
                activation=activation,
                dropout=dropout,
                batch_norm=batch_norm,
                top_k=top_k,
                rank=rank,
            )
            self.scenario_layers.append(layer)
            width = layer.output_size

        self.task_layers = nn.Sequential()
        depth = option.integer("task_layers")
        for level in range(depth):
            cgc = CGC(
                self.n_outputs,
                width,
                n_own=option.integer("task_own_experts"),
                n_shared=option.integer("task_shared_experts", at_least=0),
                hidden_sizes=option.sizes("task_expert_hidden_sizes"),
                activation=activation,
                dropout=dropout,
                batch_norm=batch_norm,
                passes_shared=level < depth - 1,
            )
            self.task_layers.append(cgc)
            width = cgc.output_size

        # One tower a task, or one for each task in each scenario.
        self.tower_per_scenario = option.flag("tower_per_scenario")
        self.towers = MLPBank(
            self.n_outputs * (self.n_scenarios if self.tower_per_scenario else 1),
            width,
            option.sizes("tower_hidden_sizes", may_be_empty=True),
            activation,
            dropout,
            batch_norm,
            output_size=1,
        )

    def _top_k(self, option: Options) -> int:
        """Return k of `san_top_k`."""
        k, others = option.integer("san_top_k"), self.n_scenarios - 1
        if others == 0:
            logger.warning("san_top_k: %d does nothing: there is one scenario", k)
        elif k > others:
            raise InputError(f"'san_top_k' must be at most {others}, the number of other scenarios, got {k}")
        return k

    def logits(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Return every task's logit (B, T) of inputs x (B, D) and their scenarios (B,)."""
        c = x
        for layer in self.scenario_layers:
            c = layer(c, scenario, self.scenario_embedding)
        z = self.task_layers(c)
        return self._tower(z, scenario)

    def every_scenario_logits(self, x: Tensor) -> Tensor:
        """Return every task's logit of each row in each scenario (M, B, T).

        The first scenario layer goes through its experts once. What it makes of a row differs between the scenarios,
        so that further layers have M rows for each.
        """
        m = self.n_scenarios
        first, *others = self.scenario_layers
        assert isinstance(first, ScenarioExtraction)
        c = first.every_scenario(x, self.scenario_embedding).flatten(0, 1)  # (M * B, D)
        scenario = torch.arange(m, device=x.device).unsqueeze(1).expand(m, x.shape[0]).flatten()
        for layer in others:
            c = layer(c, scenario, self.scenario_embedding)
        z = torch.unflatten(self.task_layers(c), 1, (m, -1))  # (T, M, B, H)
        y = self.towers(z.flatten(0, 1) if self.tower_per_scenario else z.flatten(1, 2))
        return y.view(self.n_outputs, m, -1).permute(1, 2, 0)

    def scenario_axes(self) -> Axes:
        """Return where scenarios stand in its tensors."""
        axes: dict[str, tuple[ScenarioAxis, ...]] = {"scenario_embedding": (ScenarioAxis(),)}
        return axes | ({"towers": (ScenarioAxis(self.n_outputs),)} if self.tower_per_scenario else {})

    def _tower(self, z: Tensor, scenario: Tensor) -> Tensor:
        """Return tower_t(z_t) (B, T) of z (T, B, H); or tower_it(z_t) with the towers of each row's scenario i."""
        if not self.tower_per_scenario:
            return self.towers(z).squeeze(-1).t()
        all_scenarios = self.towers(z, [t for t in range(self.n_outputs) for _ in range(self.n_scenarios)])
        by_task = torch.unflatten(all_scenarios, 0, (self.n_outputs, self.n_scenarios)).squeeze(-1)  # (T, M, B)
        return by_task[:, scenario, torch.arange(scenario.shape[0], device=z.device)].t()
