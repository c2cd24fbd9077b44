"""M3oE: multi-domain multi-task mixture of experts.

Zhang et al., "M3oE: Multi-Domain Multi-Task Mixture-of-Experts Recommendation Framework", SIGIR 2024, arXiv 2404.18465.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recbole_msr.layers.gates import GateBank, mix
from recbole_msr.layers.groups import Groups, by_group
from recbole_msr.layers.init import WEIGHT_INIT, reinitialise
from recbole_msr.layers.mlp import ACTIVATIONS, MLP, MLPBank
from recbole_msr.layers.scenario_axes import Axes, ScenarioAxis
from recbole_msr.layers.star import StarLinear
from recbole_msr.layers.towers import Towers
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.models.measures import Measure
from recbole_msr.options import Options

_INITIAL = 1.0
"""What the numbers before the sigmoid of the fusion weights begin with, as in the authors' code: weights of 0.73."""


class M3oE(MultiScenarioRecommender):
    """Shared experts, an expert of each scenario and of each task, and learned weights that fuse them.

    r   = MLP((W * W_i) x + b + b_i) + MLP_skip(x)                 domain representation; W_i, b_i of scenario i
    s   = sum_e g_e S_e(r),   g = softmax(W_it stop(r) + c_it)     shared experts, a gate for each task in each scenario
    d   = beta_d D_i(r) + (1 - beta_d) mean_{j != i} D_j(r)        an expert of each scenario
    q_t = beta_t Q_t(r) + (1 - beta_t) mean_{u != t} Q_u(r)        an expert of each task
    y_t = sigmoid(tower_it(s + alpha_d d + alpha_t q_t))

    alpha and beta are sigmoids of learned numbers: beta where there are several scenarios, or several tasks. The paper
    learns them apart from the other weights, in steps on validation data; here they are trained with them. No gradient
    goes back through stop, as in the authors' code. The keys and their defaults are in properties/model/M3oE.yaml.
    """

    parts_by_count = ("fusion.beta_d",)
    """What there is with several scenarios alone."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        option = Options(config)
        activation = option.choice("activation", ACTIVATIONS)
        layer = (activation, option.number("dropout", at_least=0, below=1), option.flag("batch_norm"))
        width, star_size, size = (
            self.features.output_size,
            option.integer("star_size"),
            option.integer("representation_size"),
        )
        self.star = StarLinear(self.n_scenarios, width, star_size)
        self.representation = MLP(star_size, [size], *layer)
        self.skip = MLP(width, [size], *layer)

        n_shared, expert_sizes = option.integer("shared_experts"), option.sizes("expert_hidden_sizes")
        self.groups = Groups("scenario_task", self.n_scenarios, self.n_outputs)
        self.shared_experts = MLPBank(n_shared, size, expert_sizes, *layer)
        self.gates = GateBank(self.groups.count, size, n_shared) if n_shared > 1 else None
        self.scenario_experts = MLPBank(self.n_scenarios, size, expert_sizes, *layer)
        self.task_experts = MLPBank(self.n_outputs, size, expert_sizes, *layer)
        # Before the sigmoid; beta where there are others to weigh.
        names = {"alpha_d": True, "alpha_t": True, "beta_d": self.n_scenarios > 1, "beta_t": self.n_outputs > 1}
        self.fusion = nn.ParameterDict(
            {name: nn.Parameter(torch.tensor([_INITIAL])) for name, is_there in names.items() if is_there}
        )
        self.towers = Towers(
            self.groups,
            expert_sizes[-1],
            option.sizes("tower_hidden_sizes", may_be_empty=True),
            *layer,
            inputs=Groups("task", self.n_scenarios, self.n_outputs),
        )
        std = option.number("embedding_std", at_least=0)
        reinitialise(self, std, option.choice("weight_init", WEIGHT_INIT))

    def logits(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Return every task's logit (B, T) of inputs x (B, D) and their scenarios (B,)."""
        r = self._representation(x, scenario)
        weight = {name: value.sigmoid() for name, value in self.fusion.items()}
        shared = self.shared_experts(r)
        s = shared if self.gates is None else mix(self._gates(r, scenario), shared)  # (T or 1, B, H)

        experts = self.scenario_experts(r)
        own = Groups("scenario", self.n_scenarios, 1).pick(experts, scenario).squeeze(0)
        d = _balanced(own, experts.sum(dim=0), self.n_scenarios, weight.get("beta_d"))
        tasks = self.task_experts(r)
        q = _balanced(tasks, tasks.sum(dim=0), self.n_outputs, weight.get("beta_t"))
        return self.towers(s + weight["alpha_d"] * d + weight["alpha_t"] * q, scenario)

    def _representation(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Return r (B, representation_size)."""
        return self.representation(by_group(x, scenario, self.n_scenarios, self.star)) + self.skip(x)

    def _gates(self, r: Tensor, scenario: Tensor) -> Tensor:
        """Return g (T, B, E)."""
        assert self.gates is not None
        return self.groups.pick(self.gates(r.detach()).softmax(dim=-1), scenario)

    def scenario_axes(self) -> Axes:
        """Return where scenarios stand in its tensors."""
        own = {f"star.{name}": (ScenarioAxis(),) for name in self.star.own_tensors}
        return own | {"gates": self.groups.axes, "scenario_experts": (ScenarioAxis(),)}

    def measures(self, x: Tensor, scenario: Tensor) -> list[Measure]:
        """Return the weights of the shared experts, and those of the fusion."""
        shown = []
        if self.gates is not None:
            g = self._gates(self._representation(x, scenario), scenario)
            columns = [f"{task}, shared expert {e + 1}" for task in self.output_names for e in range(g.shape[2])]
            says = "The mean weight that a task's gate gives to each shared expert; those of a task sum to 1."
            shown.append(Measure("M3oE: weights of the shared experts", says, columns, g.transpose(0, 1).flatten(1)))
        says = (
            "alpha_d and alpha_t: the weights of the scenarios' and the tasks' experts beside the shared ones. beta_d "
            "and beta_t: the share of the own expert among them. One number for all rows."
        )
        weights = torch.cat([value.sigmoid() for value in self.fusion.values()]).expand(len(x), -1)
        return [*shown, Measure("M3oE: weights of the fusion", says, list(self.fusion), weights)]


def _balanced(own: Tensor, total: Tensor, n: int, beta: Tensor | None) -> Tensor:
    """Return beta * own + (1 - beta) * the mean of the other n - 1, of which all together sum to `total`."""
    return own if beta is None else beta * own + (1 - beta) / (n - 1) * (total - own)
