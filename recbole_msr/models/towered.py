"""What models whose last part is a tower for each group of scenarios and tasks build alike."""

from __future__ import annotations

from recbole_msr.layers.groups import PER, Groups
from recbole_msr.layers.init import WEIGHT_INIT, reinitialise
from recbole_msr.layers.mlp import ACTIVATIONS
from recbole_msr.layers.towers import Towers
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.options import Options


class ToweredRecommender(MultiScenarioRecommender):
    """A model that ends in `Towers`, kept apart as `towers_per` says.

    This is not in `MultiScenarioRecommender`, as a model counts as reading the keys of its parents' files.
    """

    towers: Towers

    def add_towers(self, option: Options, input_size: int, inputs: Groups | None = None) -> None:
        """Build the towers behind all other layers, and give the whole model the initial values asked for.

        Args:
            option: towers_per, tower_hidden_sizes, activation, dropout, batch_norm, embedding_std and weight_init.
            input_size: width of what the towers read.
            inputs: what it is kept apart for; None for one for all.
        """
        self.towers = Towers(
            Groups(option.choice("towers_per", PER), self.n_scenarios, self.n_outputs),
            input_size,
            option.sizes("tower_hidden_sizes", may_be_empty=True),
            option.choice("activation", ACTIVATIONS),
            option.number("dropout", at_least=0, below=1),
            option.flag("batch_norm"),
            inputs,
        )
        reinitialise(self, option.number("embedding_std", at_least=0), option.choice("weight_init", WEIGHT_INIT))
