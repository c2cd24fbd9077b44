"""PEPNet: parameter and embedding personalised network.

Chang et al., "PEPNet: Parameter and Embedding Personalized Network for Infusing with Personalized Prior Information",
KDD 2023, arXiv 2302.01115.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recbole_msr.errors import InputError
from recbole_msr.layers.groups import PER, Groups
from recbole_msr.layers.init import WEIGHT_INIT, reinitialise
from recbole_msr.layers.mlp import ACTIVATIONS
from recbole_msr.layers.pepnet import GateNU, PersonalizedTowers
from recbole_msr.layers.prior import prior_columns
from recbole_msr.layers.scenario_axes import Axes, ScenarioAxis
from recbole_msr.layers.towers import Towers
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.models.measures import Measure
from recbole_msr.options import Options

NETWORKS = ("both", "epnet", "ppnet")


class PEPNet(MultiScenarioRecommender):
    """Gates that scale the embeddings by scenario (EPNet), and the towers' hidden units by user and item (PPNet).

    U(z)     = gamma * sigmoid(W' relu(W z + b) + b')              gate neural unit
    delta_d  = U_ep(e_i ++ stop(x)),   O_ep = delta_d * x          EPNet; e_i: the embedding of scenario i
    O_prior  = x_user ++ x_item                                    what `prior_fields` says: their part of x
    delta^l  = U_pp^l(O_prior ++ stop(O_ep))                       PPNet, for each hidden layer l of a tower
    O_pp^l   = delta^l * H^l,   H^{l+1} = f(W^l O_pp^l + b^l)      H^1 is the first hidden layer; it reads O_ep
    y_t      = sigmoid(w_t O_pp^L + b_t)                           a tower and gates for each task, see `towers_per`

    ++ puts vectors side by side, and no gradient goes back through stop. `networks` leaves one of both out: without
    EPNet O_ep is x, and e_i joins O_prior (ours: else PPNet would not know the scenario); without PPNet towers are
    plain. The keys and their defaults are in properties/model/PEPNet.yaml.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        option = Options(config)
        activation = option.choice("activation", ACTIVATIONS)
        dropout = option.number("dropout", at_least=0, below=1)
        batch_norm = option.flag("batch_norm")
        networks = option.choice("networks", NETWORKS)
        gate_size = None if config["gate_hidden_size"] is None else option.integer("gate_hidden_size")
        scale = option.number("gate_scale", above=0)
        width = self.features.output_size

        e_size, std = option.integer("scenario_embedding_size"), option.number("embedding_std", at_least=0)
        self.scenario_embedding = nn.Parameter(torch.randn(self.n_scenarios, e_size) * std)
        self.epnet = GateNU(1, e_size + width, width, gate_size, scale) if networks != "ppnet" else None

        groups = Groups(option.choice("towers_per", PER), self.n_scenarios, self.n_outputs)
        hidden_sizes = option.sizes("tower_hidden_sizes", may_be_empty=networks == "epnet")
        self.prior: list[int] | None = None
        self.towers: Towers | PersonalizedTowers
        if networks == "epnet":
            if config["prior_fields"] is not None:
                raise InputError("'prior_fields' is read by PPNet's gates, and networks: epnet leaves PPNet out")
            self.towers = Towers(groups, width, hidden_sizes, activation, dropout, batch_norm)
        else:
            self.prior = prior_columns(config, self.features)
            gate_input = width + len(self.prior) + (e_size if self.epnet is None else 0)
            self.towers = PersonalizedTowers(
                groups, width, hidden_sizes, gate_input, gate_size, scale, activation, dropout, batch_norm
            )
        reinitialise(self, std, option.choice("weight_init", WEIGHT_INIT))

    def logits(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Return every task's logit (B, T) of inputs x (B, D) and their scenarios (B,)."""
        o_ep = x if self.epnet is None else self._delta_domain(x, scenario) * x
        if isinstance(self.towers, Towers):
            return self.towers(o_ep, scenario)
        return self.towers(o_ep, self._gate_input(x, o_ep, scenario), scenario)

    def _delta_domain(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Return delta_d (B, D)."""
        assert self.epnet is not None
        return self.epnet(torch.cat([self.scenario_embedding[scenario], x.detach()], dim=1)).squeeze(0)

    def _gate_input(self, x: Tensor, o_ep: Tensor, scenario: Tensor) -> Tensor:
        """Return O_prior ++ stop(O_ep)."""
        prior = [x[:, self.prior], o_ep.detach()]
        return torch.cat(prior if self.epnet is not None else [self.scenario_embedding[scenario], *prior], dim=1)

    def scenario_axes(self) -> Axes:
        """Return where scenarios stand in its tensors."""
        return {"scenario_embedding": (ScenarioAxis(),)}

    def measures(self, x: Tensor, scenario: Tensor) -> list[Measure]:
        """Return the mean of EPNet's gates over each field's columns, and of PPNet's over each hidden layer."""
        shown, o_ep = [], x
        if self.epnet is not None:
            delta = self._delta_domain(x, scenario)
            o_ep = delta * x
            parts = self.features.columns
            means = [part.mean(dim=1) for part in delta.split([part.width for part in parts], dim=1)]
            says = "The mean of delta over a field's columns: 1 leaves the field as it is, 0 takes it away."
            shown.append(Measure("EPNet: gates of the fields", says, [p.name for p in parts], torch.stack(means, 1)))
        if isinstance(self.towers, PersonalizedTowers):
            z = self._gate_input(x, o_ep, scenario)
            picked = [self.towers.outputs.groups.pick(delta, scenario) for delta in self.towers.deltas(z)]
            spread = torch.cat([delta.std(dim=-1, correction=0) for delta in picked]).t()
            says = (
                "How far a tower's hidden units are gated apart: the standard deviation of delta over the units of a "
                "layer. 0 is a layer that is gated as a whole."
            )
            names = self.output_names if len(picked[0]) > 1 else ["all tasks"]
            columns = [f"{name}, layer {n + 1}" for n in range(len(picked)) for name in names]
            shown.append(Measure("PPNet: gates of the hidden units", says, columns, spread))
        return shown
