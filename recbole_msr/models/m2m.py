"""M2M: multi-scenario multi-task meta learning.

Zhang et al., "Leaving No One Behind: A Multi-Scenario Multi-Task Meta Learning Approach for Advertiser Modeling",
WSDM 2022, arXiv 2201.06814.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from recbole_msr.layers.gates import mix
from recbole_msr.layers.groups import Groups
from recbole_msr.layers.init import WEIGHT_INIT, reinitialise
from recbole_msr.layers.meta import MetaLayers
from recbole_msr.layers.mlp import ACTIVATIONS, MLP, MLPBank
from recbole_msr.layers.scenario_axes import Axes, ScenarioAxis
from recbole_msr.layers.towers import Towers
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.models.measures import Measure
from recbole_msr.options import Options


class MetaUnit(nn.Module):
    """h^K, with h^k = sigma(W^k h^{k-1} + b^k): layers whose W^k and b^k are linear in the scenario's view.

    Args:
        size: width of h, the same before and after.
        view_size: width of a scenario's view.
        n_layers: K.
        activation: sigma, a key of `ACTIVATIONS`.
        closes: whether sigma follows the last layer as well.
    """

    __call__: Callable[..., Tensor]

    def __init__(self, size: int, view_size: int, n_layers: int, activation: str, closes: bool = True) -> None:
        super().__init__()
        self.layers = MetaLayers(size, view_size, [], n_layers, weights="full", activation=activation)
        self.last = ACTIVATIONS[activation]() if closes else nn.Identity()

    def forward(self, h: Tensor, views: Tensor, scenario: Tensor) -> Tensor:
        """Return h^K (B, size) of rows h (B, size), all scenarios' views (M, view_size), and each row's scenario."""
        output: Tensor = self.last(self.layers(h, self.layers.generate(views), scenario))
        return output


class MetaAttention(nn.Module):
    """The scores a_i = v . Meta(E_i ++ T_t) of one task's attention to the experts; the softmax is the caller's.

    Args:
        size: width of E_i and of T_t.
        view_size, n_layers, activation: of the meta unit.
    """

    __call__: Callable[..., Tensor]

    def __init__(self, size: int, view_size: int, n_layers: int, activation: str) -> None:
        super().__init__()
        self.unit = MetaUnit(2 * size, view_size, n_layers, activation)
        self.v = nn.Linear(2 * size, 1, bias=False)

    def forward(self, experts: Tensor, task: Tensor, views: Tensor, scenario: Tensor) -> Tensor:
        """Return a (B, k) of experts E (k, B, size), the task's view T_t (size,), and the scenarios."""
        k, n_rows, _ = experts.shape
        pairs = torch.cat([experts, task.expand(k, n_rows, -1)], dim=2).flatten(0, 1)
        scores: Tensor = self.v(self.unit(pairs, views, scenario.repeat(k)))
        return scores.view(k, n_rows).t()


class M2M(MultiScenarioRecommender):
    """Experts; for each task an attention over them and a tower, whose weights are made of the scenario.

    E_i  = f_i(x)                                            expert i of k, an MLP
    T_t  = f_T(u_t)                                          view of task t, of its embedding u_t
    S_m  = f_S(e_m)                                          view of scenario m, of its embedding e_m
    Meta(h): h^0 = h, h^k = sigma(W^k h^{k-1} + b^k)         meta unit: W^k and b^k are linear in the row's S_m
    R_t  = sum_i alpha_ti E_i,   alpha_t = softmax_i(v_t . Meta_t(E_i ++ T_t))      meta attention
    L^j  = sigma(Meta_t^j(L^{j-1}) + L^{j-1}),   L^0 = R_t                          meta tower
    y_t  = sigmoid(tower_t(L^J))

    ++ puts vectors side by side. The paper's backbone is a transformer over a sequence of behaviour, and its scenario
    view also reads the advertiser's profile; here x holds what `history` pools, and the view is the scenario's alone,
    so that there is one set of generated weights a scenario. The paper's tasks are counts (Poisson); here they are of
    any type. With one expert there is nothing to attend to. The keys and their defaults are in
    properties/model/M2M.yaml.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        option = Options(config)
        activation = option.choice("activation", ACTIVATIONS)
        dropout = option.number("dropout", at_least=0, below=1)
        batch_norm = option.flag("batch_norm")
        n_experts = option.integer("experts")
        self.experts = MLPBank(
            n_experts,
            self.features.output_size,
            option.sizes("expert_hidden_sizes"),
            activation,
            dropout,
            batch_norm,
        )
        size = self.experts.output_size

        std = option.number("embedding_std", at_least=0)
        e_size, view_size = option.integer("scenario_embedding_size"), option.integer("view_size")
        self.scenario_embedding = nn.Parameter(torch.randn(self.n_scenarios, e_size) * std)
        self.scenario_view = MLP(e_size, [view_size], activation)
        n_layers = option.integer("unit_layers")
        self.task_embedding = self.task_view = self.attention = None
        if n_experts > 1:
            self.task_embedding = nn.Parameter(torch.randn(self.n_outputs, e_size) * std)
            self.task_view = MLP(e_size, [size], activation)
            self.attention = nn.ModuleList(
                MetaAttention(size, view_size, n_layers, activation) for _ in range(self.n_outputs)
            )
        self.activation = ACTIVATIONS[activation]()
        self.meta_towers = nn.ModuleList(
            nn.ModuleList(
                MetaUnit(size, view_size, n_layers, activation, closes=False)
                for _ in range(option.integer("meta_tower_layers"))
            )
            for _ in range(self.n_outputs)
        )
        by_task = Groups("task", self.n_scenarios, self.n_outputs)
        hidden_sizes = option.sizes("tower_hidden_sizes", may_be_empty=True)
        self.towers = Towers(by_task, size, hidden_sizes, activation, dropout, batch_norm, inputs=by_task)
        reinitialise(self, std, option.choice("weight_init", WEIGHT_INIT))

    def logits(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Return every task's logit (B, T) of inputs x (B, D) and their scenarios (B,)."""
        experts, views = self.experts(x), self.scenario_view(self.scenario_embedding)
        if self.attention is None:
            r = experts.expand(self.n_outputs, -1, -1)
        else:
            r = mix(self._alpha(experts, views, scenario), experts)
        towers = []
        for units, level in zip(self.meta_towers, r.unbind(), strict=True):
            assert isinstance(units, nn.ModuleList)
            for unit in units:
                level = self.activation(unit(level, views, scenario) + level)
            towers.append(level)
        return self.towers(torch.stack(towers), scenario)

    def _alpha(self, experts: Tensor, views: Tensor, scenario: Tensor) -> Tensor:
        """Return alpha (T, B, k)."""
        assert self.attention is not None
        assert self.task_view is not None
        tasks = self.task_view(self.task_embedding)
        attentions = zip(self.attention, tasks, strict=True)
        return torch.stack([attend(experts, task, views, scenario) for attend, task in attentions]).softmax(dim=-1)

    def scenario_axes(self) -> Axes:
        """Return where scenarios stand in its tensors."""
        return {"scenario_embedding": (ScenarioAxis(),)}

    def measures(self, x: Tensor, scenario: Tensor) -> list[Measure]:
        """Return the weights of the experts in every task's attention."""
        if self.attention is None:
            return []
        alpha = self._alpha(self.experts(x), self.scenario_view(self.scenario_embedding), scenario)
        columns = [f"{task}, expert {i + 1}" for task in self.output_names for i in range(alpha.shape[2])]
        says = "The mean weight alpha that a task's attention gives to each expert; those of a task sum to 1."
        return [Measure("Meta attention", says, columns, alpha.transpose(0, 1).flatten(1))]
