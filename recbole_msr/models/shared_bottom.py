"""SharedBottom: one bottom for all, a tower for each scenario and task.

Caruana, "Multitask Learning", Machine Learning 28, 1997.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from recbole_msr.layers.mlp import ACTIVATIONS, MLP
from recbole_msr.models.towered import ToweredRecommender
from recbole_msr.options import Options


class SharedBottom(ToweredRecommender):
    """Hard parameter sharing.

    h    = f(x)                        the bottom, an MLP that all scenarios and tasks share
    y_it = sigmoid(tower_it(h))        a tower for each task t in each scenario i

    `towers_per` says what towers are kept apart for. The keys and their defaults are in
    properties/model/SharedBottom.yaml.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        option = Options(config)
        activation = option.choice("activation", ACTIVATIONS)
        dropout = option.number("dropout", at_least=0, below=1)
        batch_norm = option.flag("batch_norm")
        self.bottom = MLP(
            self.features.output_size, option.sizes("bottom_hidden_sizes"), activation, dropout, batch_norm
        )
        self.add_towers(option, self.bottom.output_size)

    def logits(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Return every task's logit (B, T) of inputs x (B, D) and their scenarios (B,)."""
        return self.towers(self.bottom(x), scenario)

    def every_scenario_logits(self, x: Tensor) -> Tensor:
        """Return every task's logit of each row in each scenario (M, B, T)."""
        return self.towers.every_scenario(self.bottom(x))
