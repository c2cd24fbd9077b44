"""PLE: progressive layered extraction.

Tang et al., "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL) Model for Personalized
Recommendations", RecSys 2020.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from recbole_msr.layers.cgc import CGC
from recbole_msr.layers.groups import PER, Groups
from recbole_msr.layers.mlp import ACTIVATIONS
from recbole_msr.layers.scenario_axes import Axes, ScenarioAxis
from recbole_msr.models.towered import ToweredRecommender
from recbole_msr.options import Options


class PLE(ToweredRecommender):
    """A stack of CGC layers (`levels`; one level is the paper's CGC), and towers.

    g_k^j(x) = w_k^j(g_k^{j-1}) S_k^j      level j: S_k^j stacks the outputs of k's own experts, which read g_k^{j-1},
                                           and of the shared ones, which read g_s^{j-1}; g^0 = x
    w_k^j    = softmax(W_k^j g_k^{j-1})    k's gate over its own and the shared experts
    g_s^j    = w_s^j(g_s^{j-1}) S_s^j      the shared gate over all experts, in every level but the last
    y_k      = sigmoid(tower_k(g_k^N(x)))

    The paper's k is a task. Here it is a task in a scenario, or what `experts_per` and `towers_per` say; every row is
    read from its own scenario's. The gates have a bias beside W (ours). The keys and their defaults are in
    properties/model/PLE.yaml.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        option = Options(config)
        activation = option.choice("activation", ACTIVATIONS)
        dropout = option.number("dropout", at_least=0, below=1)
        batch_norm = option.flag("batch_norm")
        groups = self.groups = Groups(option.choice("experts_per", PER), self.n_scenarios, self.n_outputs)
        width, levels = self.features.output_size, option.integer("levels")
        self.levels = nn.Sequential()
        for level in range(levels):
            cgc = CGC(
                groups.count,
                width,
                n_own=option.integer("own_experts"),
                n_shared=option.integer("shared_experts"),
                hidden_sizes=option.sizes("expert_hidden_sizes"),
                activation=activation,
                dropout=dropout,
                batch_norm=batch_norm,
                passes_shared=level < levels - 1,
                gate_batch_norm=option.flag("gate_batch_norm"),
            )
            self.levels.append(cgc)
            width = cgc.output_size
        self.add_towers(option, width, groups)

    def logits(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Return every task's logit (B, T) of inputs x (B, D) and their scenarios (B,)."""
        return self.towers(self.levels(x), scenario)

    def every_scenario_logits(self, x: Tensor) -> Tensor:
        """Return every task's logit of each row in each scenario (M, B, T)."""
        return self.towers.every_scenario(self.levels(x))

    def scenario_axes(self) -> Axes:
        """Return where scenarios stand in its tensors."""
        axes: dict[str, tuple[ScenarioAxis, ...]] = {}
        for number, level in enumerate(self.levels):
            assert isinstance(level, CGC)
            # The shared experts stand behind the groups' own ones.
            experts = tuple(replace(axis, block=level.n_own, rest=level.n_shared) for axis in self.groups.axes)
            axes |= {f"levels.{number}.{part}": experts for part in ("experts", "shared_gate")}
            axes[f"levels.{number}.gates"] = self.groups.axes
        return axes
