"""APG: adaptive parameter generation network.

Yan et al., "APG: Adaptive Parameter Generation Network for Click-Through Rate Prediction", NeurIPS 2022, arXiv
2203.16218.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from recbole_msr.errors import InputError
from recbole_msr.layers.apg import GeneratedLinear
from recbole_msr.layers.dropout import Dropout
from recbole_msr.layers.mlp import ACTIVATIONS, BatchNorm
from recbole_msr.layers.prior import prior_columns
from recbole_msr.layers.scenario_axes import Axes, ScenarioAxis
from recbole_msr.models.measures import Measure
from recbole_msr.models.towered import ToweredRecommender
from recbole_msr.options import Options

CONDITIONS = ("scenario", "mix", "self")


class APG(ToweredRecommender):
    """A network whose weights are generated, for the scenario or for every row.

    h^l = f(U^l S^l(z^l) V^l h^{l-1} + b^l),   h^0 = x       see `GeneratedLinear`
    S^l(z) = reshape(MLP^l(z))                               K x K, of the condition z
    y_t = sigmoid(tower_t(h^L))

    The condition is, as `condition` says,

    - `scenario`: z^l = e_i, the embedding of scenario i (the paper's group-wise);
    - `mix`: z^l = e_i ++ the part of x that `prior_fields` names (mix-wise);
    - `self`: z^l = e_i ++ h^{l-1} (self-wise; the paper's z is h^{l-1} alone, which knows no scenario).

    ++ puts vectors side by side. U and V may be products that pass through a larger width (`over_size`, the paper's
    over-parameterisation); they are multiplied anew in every step, as part of the network. The bias b is not
    generated. The paper knows one task: here all tasks share the network and each has a tower, by default one layer.
    The keys and their defaults are in properties/model/APG.yaml.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        option = Options(config)
        activation = option.choice("activation", ACTIVATIONS)
        dropout = option.number("dropout", at_least=0, below=1)
        batch_norm = option.flag("batch_norm")
        e_size, std = option.integer("scenario_embedding_size"), option.number("embedding_std", at_least=0)
        self.scenario_embedding = nn.Parameter(torch.randn(self.n_scenarios, e_size) * std)
        self.condition = option.choice("condition", CONDITIONS)
        self.prior: list[int] | None = None
        if self.condition == "mix":
            self.prior = prior_columns(config, self.features)
        elif config["prior_fields"] is not None:
            raise InputError(f"'prior_fields' is read with condition: mix, not with {self.condition}")

        sizes = [self.features.output_size, *option.sizes("hidden_sizes")]
        rank = option.integer("rank")
        over_size = None if config["over_size"] is None else option.integer("over_size", at_least=rank)
        z_sizes = {"scenario": 0, "mix": len(self.prior or ()), "self": None}
        z_size = z_sizes[self.condition]
        self.layers = nn.ModuleList(
            GeneratedLinear(
                d,
                h,
                rank,
                e_size + (d if z_size is None else z_size),
                option.sizes("generator_hidden_sizes", may_be_empty=True),
                activation,
                over_size,
            )
            for d, h in pairwise(sizes)
        )
        self.norms = nn.ModuleList(BatchNorm(h) for h in sizes[1:] if batch_norm)
        self.activation, self.dropout = ACTIVATIONS[activation](), Dropout(dropout)
        self.add_towers(option, sizes[-1])

    def logits(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Return every task's logit (B, T) of inputs x (B, D) and their scenarios (B,)."""
        return self.towers(self._network(x, scenario)[-1], scenario)

    def _network(self, x: Tensor, scenario: Tensor) -> list[Tensor]:
        """Return h^0 .. h^L."""
        levels = [x]
        for number, layer in enumerate(self.layers):
            if self.condition == "scenario":  # one S a scenario
                h = layer(levels[-1], self.scenario_embedding, scenario)
            else:
                h = layer(levels[-1], self._condition(x, levels[-1], scenario))
            if self.norms:
                h = self.norms[number](h)
            levels.append(self.dropout(self.activation(h)))
        return levels

    def _condition(self, x: Tensor, h: Tensor, scenario: Tensor) -> Tensor:
        """Return z (B, ...) of a layer that reads h."""
        e = self.scenario_embedding[scenario]
        if self.condition == "scenario":
            return e
        return torch.cat([e, h if self.prior is None else x[:, self.prior]], dim=1)

    def scenario_axes(self) -> Axes:
        """Return where scenarios stand in its tensors."""
        return {"scenario_embedding": (ScenarioAxis(),)}

    def measures(self, x: Tensor, scenario: Tensor) -> list[Measure]:
        """Return how much of every layer's S the condition makes."""
        levels = self._network(x, scenario)
        shares = []
        for layer, h in zip(self.layers, levels[:-1], strict=True):
            assert isinstance(layer, GeneratedLinear)
            shares.append(layer.share(self._condition(x, h, scenario)))
        says = (
            "How much of a layer's generated matrix S comes of the condition: 0 is a matrix that is the same for all."
        )
        columns = [f"layer {n + 1}" for n in range(len(shares))]
        return [Measure("APG: share of the condition", says, columns, torch.stack(shares, dim=1))]
