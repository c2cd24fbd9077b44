"""HiNet's scenario extraction layer: sub-expert integration and the scenario-aware attentive network.

Source: Zhou et al., "HiNet: Novel Multi-Scenario & Multi-Task Learning with Hierarchical Information
Extraction", ICDE 2023, arXiv 2303.06095.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_msr.layers import manual_backward
from recbole_msr.layers.groups import Groups
from recbole_msr.layers.mlp import MLP, LowRankBank, MLPBank
from recbole_msr.layers.scenario_axes import Axes, ScenarioAxis
from recbole_msr.layers.tracing import is_exported, is_looked_into


class SubExpertIntegration(nn.Module):
    """A bank of sub-expert integrations (SEI), each an expert made of K sub-experts and a gate over them.

    SEI_e(x) = sum_k g_ek(x) Q_ek(x),   g_e(x) = softmax(W_e x + b_e) over K,   Q_ek an MLP.

    Args:
        n_experts: how many experts; HiNet has one a scenario and a shared one.
        n_sub_experts: K.
        input_size: width D of x.
        hidden_sizes: layers of every Q_ek.
        activation, dropout, batch_norm: of Q_ek, see `MLP`.
        rank: where given, the weights of all experts but the last are those that they share and a product of this rank
            of each one's own, see `LowRankBank`.

    Attributes:
        output_size: width H of each expert's output.
    """

    def __init__(
        self,
        n_experts: int,
        n_sub_experts: int,
        input_size: int,
        hidden_sizes: Sequence[int],
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
        rank: int | None = None,
    ) -> None:
        super().__init__()
        self.shape = (n_experts, n_sub_experts)
        layers = (input_size, hidden_sizes, activation, dropout, batch_norm)
        self.sub_experts = (
            MLPBank(n_experts * n_sub_experts, *layers)
            if rank is None
            else LowRankBank(n_experts - 1, n_sub_experts, rank, *layers)
        )
        self.gates = nn.Linear(input_size, n_experts * n_sub_experts)
        nn.init.zeros_(self.gates.bias)
        self.output_size = self.sub_experts.output_size

    def gate(self, x: Tensor) -> Tensor:
        """Return g (experts, K, B) of rows x (B, D); sums to 1 over K."""
        return torch.unflatten(self.gates(x), 1, self.shape).softmax(dim=-1).permute(1, 2, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Return every expert's output (experts, B, H) for rows x (B, D)."""
        q, g = self.sub_experts(x), self.gate(x)
        if manual_backward.supports(q):
            return manual_backward.weighted_sums(g, q, self._members)
        return (g.unsqueeze(-1) * torch.unflatten(q, 0, self.shape)).sum(dim=1)

    def of_rows(self, x: Sequence[Tensor]) -> Tensor:
        """Return what each expert makes of rows of its own, one expert's rows behind another's (sum of B_e, H).

        Args:
            x: the rows of every expert (B_e, D); an expert without rows costs nothing.
        """
        k = self.shape[1]
        weights, biases = self.gates.weight.split(k), self.gates.bias.split(k)
        outputs = iter(self.sub_experts.in_parts(x, k))
        mixed = []
        for rows, weight, bias in zip(x, weights, biases, strict=True):
            if len(rows):
                q, g = next(outputs), F.linear(rows, weight, bias).softmax(dim=-1).t()
                if manual_backward.supports(q):
                    mixed.append(manual_backward.weighted_sums(g.unsqueeze(0), q, [range(k)]).squeeze(0))
                else:
                    mixed.append((g.unsqueeze(-1) * q).sum(dim=0))
        return torch.cat(mixed)

    def is_plain(self) -> bool:
        """Return whether no hook waits for the outputs of all experts."""
        return manual_backward.has_no_hooks(self) and manual_backward.has_no_hooks(self.sub_experts)

    def separate(self, x: Tensor) -> list[Tensor]:
        """Return the output (B, H) of each expert by itself, in operations that an export records."""
        gates = torch.unflatten(self.gates(x), 1, self.shape).softmax(dim=-1).unbind(dim=1)
        return manual_backward.plain_sums(gates, self.sub_experts.separate(x), self._members)

    @property
    def _members(self) -> list[range]:
        """The sub-experts of each expert."""
        n_experts, k = self.shape
        return [range(e * k, (e + 1) * k) for e in range(n_experts)]


class ScenarioAwareAttention(nn.Module):
    """The scenario-aware attentive network (SAN): how much scenario i takes from each other scenario.

    a_i = softmax(h(e_i)) over the M - 1 other scenarios,   A_i = sum_{m != i} a_im S_m.

    The weights follow from the scenario alone, so they are computed once a batch for all M scenarios. With
    two scenarios the only weight is 1, and with one there is none: h would learn nothing and is left out.

    With `top_k`, the softmax is over the k other scenarios with the greatest h(e_i), as in a sparsely gated mixture of
    experts (Shazeer et al., ICLR 2017, without its noise): the other weights are 0 and have no gradient.

    Args:
        n_scenarios: M.
        embedding_size: width E of the scenario embedding.
        hidden_sizes: hidden layers of h; empty for a linear h.
        activation: of h's hidden layers, see `MLP`.
        top_k: k, below M - 1; None for all other scenarios.
    """

    itself: Tensor
    """(M, M), true on the diagonal."""

    parts_by_count = ("h",)
    """What there is for more than two scenarios alone."""

    def __init__(
        self,
        n_scenarios: int,
        embedding_size: int,
        hidden_sizes: Sequence[int],
        activation: str = "relu",
        top_k: int | None = None,
    ) -> None:
        super().__init__()
        self.h, self.top_k = None, top_k
        if self.learns(n_scenarios):
            self.h = MLP(embedding_size, hidden_sizes, activation, output_size=n_scenarios)
        self.register_buffer("itself", torch.eye(n_scenarios, dtype=torch.bool), persistent=False)

    @staticmethod
    def learns(n_scenarios: int) -> bool:
        """Return whether there is a choice between other scenarios to be learnt."""
        return n_scenarios > 2

    def scenario_axes(self) -> Axes:
        """Return where scenarios stand in its tensors."""
        return {} if self.h is None else {f"h.{len(self.h) - 1}": (ScenarioAxis(),)}

    def weights(self, e: Tensor | None) -> Tensor:
        """Return a (M, M): row i holds scenario i's weights, 0 on the diagonal; each sums to 1 (to 0 if M = 1).

        Args:
            e: embeddings of all scenarios (M, E); not read if M <= 2.
        """
        if self.h is None:
            return (~self.itself).float()
        scores: Tensor = self.h(e).masked_fill(self.itself, -torch.inf)
        if self.top_k is not None:
            strongest = scores.topk(self.top_k, dim=1).indices
            is_weak = torch.ones_like(self.itself).scatter(1, strongest, False)
            scores = scores.masked_fill(is_weak, -torch.inf)
        return scores.softmax(dim=-1)

    def strongest(self, e: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the k other scenarios that each scenario takes from (M, k), and their weights (M, k)."""
        assert self.top_k is not None
        weights, scenarios = self.weights(e).topk(self.top_k, dim=1)
        return scenarios, weights

    def forward(self, s: Tensor, scenario: Tensor, e: Tensor | None) -> Tensor:
        """A_i (B, H).

        Args:
            s: outputs of all scenarios' experts (M, B, H).
            scenario: each row's own scenario i (B,), 0-based.
            e: see `weights`.
        """
        a = self.weights(e)[scenario].t()
        if manual_backward.supports(s):
            return manual_backward.weighted_sums(a.unsqueeze(0), s, [range(len(s))]).squeeze(0)
        return (a.unsqueeze(-1) * s).sum(dim=0)


class ScenarioExtraction(nn.Module):
    """One scenario extraction layer: C_i = concat[G, S_i, A_i].

    G = SEI_shared(x), S_m = SEI_m(x) for every scenario m, S_i the row's own, A_i from the same S_m through
    the SAN. Nothing is detached: a row of scenario i also trains the other scenarios' experts. Layers can be
    stacked; the next one's x is C_i.

    With one scenario A_i is 0, and C_i = concat[G, S_i] says the same without constant inputs.

    Args:
        n_scenarios: M.
        input_size: width D of x.
        n_sub_experts: K, sub-experts in each SEI.
        hidden_sizes: layers of every sub-expert.
        scenario_embedding_size: width E of the scenario embedding.
        san_hidden_sizes: hidden layers of the SAN's h.
        activation, dropout, batch_norm: of the sub-experts, see `MLP`.
        top_k: k other scenarios that A_i takes from; None for all. Where k < M - 1, a scenario's expert is computed for
            the rows that need it alone: those of the scenario, and of those that take from it.
        rank: of what the scenarios' experts do not share, see `SubExpertIntegration`; None where they share nothing.

    Attributes:
        output_size: width of C_i.
    """

    def __init__(
        self,
        n_scenarios: int,
        input_size: int,
        n_sub_experts: int,
        hidden_sizes: Sequence[int],
        scenario_embedding_size: int,
        san_hidden_sizes: Sequence[int] = (),
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
        top_k: int | None = None,
        rank: int | None = None,
    ) -> None:
        super().__init__()
        self.experts = SubExpertIntegration(
            n_scenarios + 1, n_sub_experts, input_size, hidden_sizes, activation, dropout, batch_norm, rank
        )
        top_k = top_k if top_k is not None and top_k < n_scenarios - 1 else None
        self.san = ScenarioAwareAttention(n_scenarios, scenario_embedding_size, san_hidden_sizes, activation, top_k)
        self.n_scenarios, self.own = n_scenarios, Groups("scenario", n_scenarios, 1)
        self.output_size = (3 if n_scenarios > 1 else 2) * self.experts.output_size

    def scenario_axes(self) -> Axes:
        """Return where scenarios stand in its tensors."""
        _, k = self.experts.shape
        with_shared = (ScenarioAxis(block=k, rest=k),)  # the shared expert is the last one
        bank = self.experts.sub_experts
        if not isinstance(bank, LowRankBank):
            return {"experts": with_shared}
        own = dict.fromkeys((f"experts.sub_experts.{name}" for name in ("own_out", "own_in")), (ScenarioAxis(block=k),))
        rest = ("experts.gates", "experts.sub_experts.biases", "experts.sub_experts.norms")
        return own | dict.fromkeys(rest, with_shared)

    def forward(self, x: Tensor, scenario: Tensor, e: Tensor | None) -> Tensor:
        """C_i (B, output_size).

        Args:
            x: rows (B, D).
            scenario: each row's scenario (B,), 0-based.
            e: embeddings of all scenarios (M, E); not read if M <= 2.
        """
        if self._chooses(x):
            return self._of_needed(x, scenario, e)
        if is_exported() and self.n_scenarios > 1:
            *each, g = self.experts.separate(x)
            a = self.san.weights(e).index_select(0, scenario)
            (a_i,) = manual_backward.plain_sums([a], each, [range(self.n_scenarios)])
            return torch.cat([g, self.own.pick(torch.stack(each), scenario).squeeze(0), a_i], dim=-1)
        s, g = self.experts(x).split([self.n_scenarios, 1])  # the scenarios' experts, then the shared one
        g, s_i = g.squeeze(0), self.own.pick(s, scenario).squeeze(0)
        if self.n_scenarios == 1:
            return torch.cat([g, s_i], dim=-1)
        a_i = self.san(s, scenario, e)
        return torch.cat([g, s_i, a_i], dim=-1)

    def _chooses(self, x: Tensor) -> bool:
        """Return whether experts are computed for the rows that need them alone: that depends on values."""
        is_traced = is_exported() or is_looked_into()
        return self.san.top_k is not None and len(x) > 0 and not is_traced and self.experts.is_plain()

    def _of_needed(self, x: Tensor, scenario: Tensor, e: Tensor | None) -> Tensor:
        """C_i (B, output_size), as `forward`: pairs of a row and an expert that it needs, sorted by the expert."""
        m, n_rows = self.n_scenarios, len(x)
        others, weights = self.san.strongest(e)
        needed = torch.cat([torch.arange(m, device=x.device).unsqueeze(1), others], dim=1)  # (M, 1 + k)
        expert = needed[scenario].flatten()
        order = expert.argsort(stable=True)
        sizes = expert.bincount(minlength=m).tolist()
        of_experts = x.index_select(0, order // needed.shape[1]).split(sizes)
        outputs = self.experts.of_rows([*of_experts, x])
        s, g = outputs.split([len(expert), n_rows])
        place = torch.empty_like(order).index_copy(0, order, torch.arange(len(order), device=x.device))
        s = s.index_select(0, place).view(n_rows, needed.shape[1], -1)
        a_i = (weights[scenario].to(s.dtype).unsqueeze(-1) * s[:, 1:]).sum(dim=1)
        return torch.cat([g, s[:, 0], a_i], dim=-1)

    def every_scenario(self, x: Tensor, e: Tensor | None) -> Tensor:
        """Return C_i of each row in each scenario i (M, B, output_size), with one pass over the experts.

        Args:
            x: rows (B, D).
            e: as for `forward`.
        """
        s, g = self.experts(x).split([self.n_scenarios, 1])
        if self.n_scenarios == 1:
            return torch.cat([g, s], dim=-1)
        a = torch.unflatten(self.san.weights(e) @ s.flatten(1), 1, (-1, s.shape[2]))
        return torch.cat([g.expand_as(s), s, a], dim=-1)
