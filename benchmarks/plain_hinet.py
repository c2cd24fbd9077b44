"""HiNet as one writes it down from the paper: a loop over experts, each an `nn.Sequential` of its own.

What `recbole_msr.models.hinet` is measured against. The equations, the sizes, the initial distributions, the features
and the loss are the same; only how the arithmetic is laid out is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

import recbole_msr
from recbole_msr.errors import InputError
from recbole_msr.layers.embedding import INITIAL_STD
from recbole_msr.layers.mlp import ACTIVATIONS, initialise
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.options import Options
from recbole_msr.registry import properties


def mlp(sizes: Sequence[int], activation: str, dropout: float, output_size: int | None = None) -> nn.Sequential:
    """Linear, activation, dropout for every layer; a last linear one if it has an output size."""
    layers: list[nn.Module] = []
    for width, size in pairwise(sizes):
        layers += [nn.Linear(width, size), ACTIVATIONS[activation](), nn.Dropout(dropout)]
    if output_size is not None:
        layers.append(nn.Linear(sizes[-1], output_size))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            initialise(layer.weight, layer.bias)
    return nn.Sequential(*layers)


class SubExperts(nn.Module):
    """SEI(x) = sum_k g_k(x) Q_k(x),  g = softmax(W x + b)."""

    def __init__(self, n: int, sizes: Sequence[int], activation: str, dropout: float) -> None:
        super().__init__()
        self.experts = nn.ModuleList(mlp(sizes, activation, dropout) for _ in range(n))
        self.gate = nn.Linear(sizes[0], n)
        nn.init.zeros_(self.gate.bias)

    def forward(self, x: Tensor) -> Tensor:
        g = torch.softmax(self.gate(x), dim=-1)
        q = torch.stack([expert(x) for expert in self.experts], dim=1)  # (B, K, H)
        return (g.unsqueeze(-1) * q).sum(dim=1)


class PlainHiNet(MultiScenarioRecommender):
    """HiNet with one scenario extraction layer and one CGC layer; reads HiNet's settings."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        option = Options(config)
        if (option.integer("scenario_layers"), option.integer("task_layers")) != (1, 1):
            raise InputError("PlainHiNet has one scenario layer and one task layer")
        if option.flag("tower_per_scenario") or option.flag("batch_norm"):
            raise InputError("PlainHiNet has neither towers for each scenario nor batch norm")
        activation, dropout = option.choice("activation", ACTIVATIONS), option.number("dropout", at_least=0, below=1)

        sizes = [self.features.output_size, *option.sizes("expert_hidden_sizes")]
        k = option.integer("sub_experts")
        self.shared = SubExperts(k, sizes, activation, dropout)
        self.specific = nn.ModuleList(SubExperts(k, sizes, activation, dropout) for _ in range(self.n_scenarios))
        self.h = None
        if self.n_scenarios > 2:
            e_size = option.integer("scenario_embedding_size")
            self.scenario_embedding = nn.Embedding(self.n_scenarios, e_size)
            nn.init.normal_(self.scenario_embedding.weight, std=INITIAL_STD)
            h_sizes = [e_size, *option.sizes("san_hidden_sizes", may_be_empty=True)]
            self.h = mlp(h_sizes, activation, 0.0, self.n_scenarios)

        width = sizes[-1] * (3 if self.n_scenarios > 1 else 2)
        sizes = [width, *option.sizes("task_expert_hidden_sizes")]
        own, shared = option.integer("task_own_experts"), option.integer("task_shared_experts", at_least=0)
        self.task_own = nn.ModuleList(
            nn.ModuleList(mlp(sizes, activation, dropout) for _ in range(own)) for _ in range(self.n_tasks)
        )
        self.task_shared = nn.ModuleList(mlp(sizes, activation, dropout) for _ in range(shared))
        self.task_gates = nn.ModuleList(nn.Linear(width, own + shared) for _ in range(self.n_tasks))
        for gate in self.task_gates:
            initialise(gate.weight, gate.bias)
        sizes = [sizes[-1], *option.sizes("tower_hidden_sizes", may_be_empty=True)]
        self.towers = nn.ModuleList(mlp(sizes, activation, dropout, 1) for _ in range(self.n_tasks))

    def logits(self, x: Tensor, scenario: Tensor) -> Tensor:
        g = self.shared(x)
        s = torch.stack([expert(x) for expert in self.specific], dim=1)  # (B, M, H)
        s_i = s[torch.arange(len(x), device=x.device), scenario]
        c = [g, s_i]
        if self.n_scenarios > 1:
            c.append((self._attention()[scenario].unsqueeze(-1) * s).sum(dim=1))
        c_i = torch.cat(c, dim=-1)

        shared = [expert(c_i) for expert in self.task_shared]
        y = []
        for own, gate, tower in zip(self.task_own, self.task_gates, self.towers, strict=True):
            w = torch.softmax(gate(c_i), dim=-1)
            e = torch.stack([*(expert(c_i) for expert in own), *shared], dim=1)
            y.append(tower((w.unsqueeze(-1) * e).sum(dim=1)))
        return torch.cat(y, dim=-1)

    def _attention(self) -> Tensor:
        """a (M, M): what each scenario takes from the others; 0 from itself."""
        itself = torch.eye(self.n_scenarios, dtype=torch.bool, device=self.loss_weights.device)
        if self.h is None:
            return (~itself).float()
        return self.h(self.scenario_embedding.weight).masked_fill(itself, -torch.inf).softmax(dim=-1)


recbole_msr.register(PlainHiNet, defaults=properties("model", "HiNet.yaml"))
