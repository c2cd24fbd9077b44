"""AutoIFS: automated information flow selection.

Yang et al., "Automated Information Flow Selection for Multi-scenario Multi-task Recommendation", WSDM 2026,
arXiv 2512.13396.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from recbole_msr.errors import InputError
from recbole_msr.layers.autoifs import LowRankUnits
from recbole_msr.layers.dropout import Dropout
from recbole_msr.layers.gates import GateBank
from recbole_msr.layers.init import WEIGHT_INIT, reinitialise
from recbole_msr.layers.mlp import ACTIVATIONS, MLP, BatchNorm
from recbole_msr.layers.scenario_axes import Axes, ScenarioAxis
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.models.measures import Measure
from recbole_msr.options import Options

logger = logging.getLogger(__name__)

FLOWS = ("shared to shared", "own to own", "shared to own", "own to shared")
"""From the scenario's unit to the task's: that of all scenarios or the row's own, to that of all tasks or its own."""
_HEAD_SHARE = 0.01


class AutoIFS(MultiScenarioRecommender):
    """Shared units of scenarios and of tasks with low-rank ones of each; a gate prunes the flows between them by row.

    p    = MLP(x ++ e_i)                                        e_i: the embedding of scenario i
    u    = W p + b,      l = (p A_i) B_i + b_i                  scenario units: of all scenarios, and scenario i's own
    h    = phi(u + l)
    T(v) = w . v + c,    L_t(v) = (v A_t) B_t + c_t             task units: of all tasks, and task t's own
    F_t  = [T(u), L_t(l), L_t(u), T(l)]                         the four flows of task t, as in `FLOWS`
    g_t  = W_t MLP_gate(stop(x ++ e_i)) + d_t                   (4,): above 0, the flow is to be pruned
    y_t  = sigmoid(T(h) + L_t(h) - sum_j s(g_tj) F_tj)

    Search: for `search_epochs` E, s(g) = sigmoid(tau g), with tau = `final_temperature`^(n / (E - 1)) in epoch n =
    0..E-1. The gates learn at `gate_learning_rate_factor` times the learning rate, without weight decay.
    Retraining, from epoch E on: s(g) = 1 if g > 0, else 0, and the gates are not trained any more. All other weights
    begin again with what they were before the last epoch of the search, and the optimiser anew. Only epochs of the
    retraining compete for being the best, unless there are none, and the training does not stop early before them.

    No gradient goes back through stop. The equations are those of the authors' code, where u and l enter the flows
    without phi, though h has it. The keys and their defaults are in properties/model/AutoIFS.yaml.
    """

    temperature: Tensor
    """tau."""
    is_selected: Tensor
    """Whether the flows are those that the search has selected."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        if config["trainer"] == "recbole":
            raise InputError(
                "AutoIFS searches in its first epochs and trains again after them, which RecBole's own trainer does "
                "not tell it of: set trainer: lightning"
            )
        option = Options(config)
        activation = option.choice("activation", ACTIVATIONS)
        layer = (activation, option.number("dropout", at_least=0, below=1), option.flag("batch_norm"))
        e_size, std = option.integer("scenario_embedding_size"), option.number("embedding_std", at_least=0)
        self.scenario_embedding = nn.Parameter(torch.randn(self.n_scenarios, e_size) * std)

        width = self.features.output_size + e_size
        unit_size, rank = option.integer("unit_size"), option.integer("rank")
        self.bottom = MLP(width, option.sizes("bottom_hidden_sizes"), *layer)
        self.scenario_unit = nn.Linear(self.bottom.output_size, unit_size)
        self.own_scenario_units = LowRankUnits(self.n_scenarios, self.bottom.output_size, unit_size, rank)
        self.norm = BatchNorm(unit_size) if option.flag("batch_norm") else None
        self.activation, self.dropout = ACTIVATIONS[activation](), Dropout(layer[1])
        self.task_unit = nn.Linear(unit_size, 1)
        self.own_task_units = LowRankUnits(self.n_outputs, unit_size, 1, rank)

        self.gate_network = MLP(width, option.sizes("gate_hidden_sizes"), *layer)
        self.gate_heads = GateBank(self.n_outputs, self.gate_network.output_size, len(FLOWS))
        reinitialise(self, std, option.choice("weight_init", WEIGHT_INIT))
        with torch.no_grad():  # else most gates would keep the sign that they are drawn with
            self.gate_heads.weights[0].mul_(_HEAD_SHARE)
            self.gate_heads.biases[0].mul_(_HEAD_SHARE)

        self.search_epochs = option.integer("search_epochs")
        self.final_temperature = option.number("final_temperature", at_least=1)
        factor = option.number("gate_learning_rate_factor", at_least=0)
        if factor == 0:
            raise InputError("'gate_learning_rate_factor' must not be 0: no flow would be selected")
        self.learning_rate_factors = {"gate_network": factor, "gate_heads": factor}
        self.without_weight_decay = ("gate_network", "gate_heads")
        self.n_epochs = int(config["epochs"])
        self.first_best_epoch = self.search_epochs + 1
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("is_selected", torch.tensor(False))
        self._kept: dict[str, Tensor] = {}

    def logits(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Return every task's logit (B, T) of inputs x (B, D) and their scenarios (B,)."""
        v = self._input(x, scenario)
        p = self.bottom(v)
        u, own = self.scenario_unit(p), self.own_scenario_units.of_groups(p, scenario)
        h = u + own
        h = self.dropout(self.activation(h if self.norm is None else self.norm(h)))
        shared, tasks = self.task_unit, self.own_task_units
        # A shared task unit has one output, which broadcasts over the tasks.
        flows = torch.stack([shared(u).expand(-1, self.n_outputs), tasks.of_all(own), tasks.of_all(u),
                             shared(own).expand(-1, self.n_outputs)], dim=2)  # (B, T, 4)  # fmt: skip
        logits: Tensor = shared(h) + tasks.of_all(h) - (self._pruned(v) * flows).sum(dim=2)
        return logits

    def _input(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Return x ++ e_i (B, D + E)."""
        return torch.cat([x, self.scenario_embedding[scenario]], dim=1)

    def _pruned(self, v: Tensor) -> Tensor:
        """Return s(g) (B, T, 4) of inputs v (B, D + E)."""
        g = self.gate_heads(self.gate_network(v.detach())).transpose(0, 1)
        return torch.where(self.is_selected, (g > 0).to(g.dtype), (self.temperature.to(g.dtype) * g).sigmoid())

    @torch.no_grad()
    def start_epoch(self, epoch: int) -> bool:
        """Set the temperature of an epoch of the search, or begin the retraining: see `MultiScenarioRecommender`."""
        super().start_epoch(epoch)
        last = self.search_epochs - 1
        if epoch == 0 and self.n_epochs <= self.search_epochs:
            logger.warning(
                "AutoIFS: all %d epochs are search (search_epochs: %d): no flow is pruned for good",
                self.n_epochs,
                self.search_epochs,
            )
        if epoch <= last:
            self.temperature.fill_(self.final_temperature ** (epoch / max(last, 1)))
            self.is_selected.fill_(False)  # it is true where the run begins with an earlier one's weights
        if epoch == last:
            kept = self.state_dict().items()
            self._kept = {name: value.clone() for name, value in kept if not _is_of_selection(name)}
        if epoch == self.search_epochs and self._kept:
            for name, value in self.state_dict().items():
                if name in self._kept:
                    value.copy_(self._kept[name])
            self.is_selected.fill_(True)
            self._kept = {}
            return True
        return False

    def training_state(self) -> dict[str, Tensor]:
        """Return what an interrupted training needs beside the model's own state: the weights it goes back to."""
        return super().training_state() | self._kept

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Take over the `training_state` of an interrupted training."""
        self._kept = dict(state)

    def scenario_axes(self) -> Axes:
        """Return where scenarios stand in its tensors."""
        own = {f"own_scenario_units.{name}": (ScenarioAxis(),) for name in LowRankUnits.own_tensors}
        return own | {"scenario_embedding": (ScenarioAxis(),)}

    def measures(self, x: Tensor, scenario: Tensor) -> list[Measure]:
        """Return how far each task's flows are pruned."""
        pruned = self._pruned(self._input(x, scenario))
        columns = [f"{task}: {flow}" for task in self.output_names for flow in FLOWS]
        says = (
            "The share of a scenario's rows for which a flow is pruned; of a training that has not gone beyond its "
            "search, the mean of the gates. A flow goes from the unit of all scenarios (shared) or the scenario's own "
            "to the unit of all tasks (shared) or the task's own."
        )
        return [Measure("AutoIFS: pruned flows", says, columns, pruned.flatten(1))]


def _is_of_selection(name: str) -> bool:
    """Return whether a tensor is one that the search ends with, and does not go back."""
    return name.startswith(("gate_", "temperature", "is_selected", "scenario_shares"))
