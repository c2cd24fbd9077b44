"""HAMUR: hyper adapter for multi-domain recommendation.

Li et al., "HAMUR: Hyper Adapter for Multi-Domain Recommendation", CIKM 2023, arXiv 2309.06217.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from recbole_msr.errors import InputError
from recbole_msr.layers.apg import square_generator
from recbole_msr.layers.groups import Groups, by_group
from recbole_msr.layers.mlp import ACTIVATIONS, MLP, MLPBank
from recbole_msr.layers.scenario_axes import Axes, ScenarioAxis
from recbole_msr.layers.star import PartitionedNorm
from recbole_msr.models.measures import Measure
from recbole_msr.models.towered import ToweredRecommender
from recbole_msr.options import Options

_INITIAL_GAMMA = 0.1
"""A norm makes the small differences between fresh adapters' outputs as large as gamma: with 1 they drown out h."""


class Adapter(nn.Module):
    """What an adapter adds to h: DN_i(W_up sigmoid(W_down h + b_down) + b_up).

    W_down = V_1 I U_1,   W_up = V_2 I U_2

    I (K, K) is the row's instance matrix, U and V are all rows' own. DN_i, the domain norm, is a batch norm with
    statistics, gamma and beta of scenario i.

    Args:
        n_scenarios: M.
        size: width H of h.
        bottleneck_size: width between the two layers.
        rank: K.
    """

    __call__: Callable[..., Tensor]

    def __init__(self, n_scenarios: int, size: int, bottleneck_size: int, rank: int) -> None:
        super().__init__()
        self.n_scenarios = n_scenarios
        self.down_in, self.down_out = nn.Linear(size, rank, bias=False), nn.Linear(rank, bottleneck_size)
        self.up_in, self.up_out = nn.Linear(bottleneck_size, rank, bias=False), nn.Linear(rank, size)
        self.norm = PartitionedNorm(n_scenarios, size, centred=False)
        for layer in (self.down_in, self.down_out, self.up_in, self.up_out):
            bound = (3 / layer.in_features) ** 0.5
            nn.init.uniform_(layer.weight, -bound, bound)
        nn.init.constant_(self.norm.own_gamma, _INITIAL_GAMMA)
        nn.init.zeros_(self.down_out.bias)
        nn.init.zeros_(self.up_out.bias)

    def forward(self, h: Tensor, instance: Tensor, scenario: Tensor) -> Tensor:
        """Return DN_i(...) (B, H).

        Args:
            h: rows (B, H).
            instance: each row's I (B, K, K).
            scenario: each row's scenario (B,), 0..M-1.
        """
        down = self.down_out(_times(instance, self.down_in(h))).sigmoid()
        up = self.up_out(_times(instance, self.up_in(down)))
        return by_group(up, scenario, self.n_scenarios, self.norm)

    def scenario_axes(self) -> Axes:
        """Return where scenarios stand in its tensors."""
        return {f"norm.{name}": (ScenarioAxis(),) for name in self.norm.own_tensors}


def _times(instance: Tensor, h: Tensor) -> Tensor:
    return torch.bmm(instance, h.unsqueeze(2)).squeeze(2)


class HAMUR(ToweredRecommender):
    """A network of each scenario's own, and adapters in it whose weights one hyper-network makes for every row.

    I   = reshape(G f(x) + g)                                       K x K instance matrix; f an MLP, shared by all
    h^l = phi(W_i^l h^{l-1} + b_i^l),   h^0 = x                     the network of scenario i
    h^l <- h^l + Adapter^l(h^l, I)                                  behind the last `adapters` layers, see `Adapter`
    y_t = sigmoid(tower_it(h^L))

    The paper knows one task: here all tasks share a scenario's network, and each has a tower in each scenario, by
    default one layer. In the authors' code every scenario's norm sees the rows of all scenarios; here its own rows,
    and moving averages in evaluation. The keys and their defaults are in properties/model/HAMUR.yaml.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        option = Options(config)
        activation = option.choice("activation", ACTIVATIONS)
        dropout = option.number("dropout", at_least=0, below=1)
        batch_norm = option.flag("batch_norm")
        width, hidden_sizes = self.features.output_size, option.sizes("hidden_sizes")
        self.groups = Groups("scenario", self.n_scenarios, 1)
        self.layers = nn.ModuleList(
            MLPBank(self.n_scenarios, d, [h], activation, dropout, batch_norm)
            for d, h in pairwise([width, *hidden_sizes])
        )
        self.rank, n_adapters = option.integer("rank"), option.integer("adapters")
        if n_adapters > len(hidden_sizes):
            raise InputError(
                f"'adapters' must be at most the number of 'hidden_sizes', {len(hidden_sizes)}, got {n_adapters}"
            )
        self.hyper_network = MLP(width, option.sizes("hyper_hidden_sizes"), activation)
        self.generator = square_generator(self.hyper_network.output_size, self.rank)
        bottleneck_size = option.integer("bottleneck_size")
        self.adapters = nn.ModuleList(
            Adapter(self.n_scenarios, h, bottleneck_size, self.rank) for h in hidden_sizes[-n_adapters:]
        )
        self.add_towers(option, hidden_sizes[-1])

    def logits(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Return every task's logit (B, T) of inputs x (B, D) and their scenarios (B,)."""
        return self.towers(self._network(x, scenario)[0], scenario)

    def _network(self, x: Tensor, scenario: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return h^L (B, H), and how large what each adapter adds is beside its h, |DN| / (|DN| + |h|) (B,)."""
        instance = self.generator(self.hyper_network(x)).unflatten(1, (self.rank, self.rank))
        h, shares, first = x, [], len(self.layers) - len(self.adapters)
        for number, layer in enumerate(self.layers):
            h = self.groups.pick(layer(h), scenario).squeeze(0)
            if number >= first:
                added = self.adapters[number - first](h, instance, scenario)
                with torch.no_grad():
                    shares.append(added.norm(dim=1) / (added.norm(dim=1) + h.norm(dim=1)).clamp(min=1e-12))
                h = h + added
        return h, shares

    def scenario_axes(self) -> Axes:
        """Return where scenarios stand in its tensors."""
        return {"layers": (ScenarioAxis(),)}

    def measures(self, x: Tensor, scenario: Tensor) -> list[Measure]:
        """Return how large what each adapter adds is."""
        shares = self._network(x, scenario)[1]
        says = "How large what an adapter adds is beside what it is added to, |added| / (|added| + |h|)."
        columns = [f"adapter {n + 1}" for n in range(len(shares))]
        return [Measure("HAMUR: share of the adapters", says, columns, torch.stack(shares, dim=1))]
