"""Customized gate control (CGC), the task extraction layer of HiNet and the layer PLE is made of.

Source: Tang et al., Progressive Layered Extraction (PLE), RecSys 2020.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recbole_msr.layers import manual_backward
from recbole_msr.layers.gates import GateBank
from recbole_msr.layers.mlp import BatchNorm, MLPBank
from recbole_msr.layers.tracing import is_exported


class CGC(nn.Module):
    """Own experts for every task, shared experts for all, and a gate a task over both.

    z_t = sum_e w_te E_e,   w_t = softmax(W_t x_t) over task t's own and the shared experts.

    In a stack, all layers but the last also pass on a shared representation, gated over all experts:
    z_shared = sum_e w_e E_e,   w = softmax(W_shared x_shared) over every task's own and the shared experts.
    Task t's own experts read x_t, the shared experts x_shared; in the first layer these are all the same x.

    >>> first, last = CGC(2, 10, 3, 1, [8], passes_shared=True), CGC(2, 8, 3, 1, [8])
    >>> last(first(torch.zeros(5, 10))).shape
    torch.Size([2, 5, 8])

    Args:
        n_tasks: T.
        input_size: width D of each input.
        n_own: experts that belong to one task alone, for each task.
        n_shared: experts for all tasks; n_own + n_shared >= 1.
        hidden_sizes: layers of every expert.
        activation, dropout, batch_norm: of the experts, see `MLP`.
        passes_shared: whether z_shared is also returned, for a next layer.
        gate_batch_norm: normalise the gates' scores over the batch, see `GateBank`.

    Attributes:
        output_size: width H of each z.
    """

    def __init__(
        self,
        n_tasks: int,
        input_size: int,
        n_own: int,
        n_shared: int,
        hidden_sizes: Sequence[int],
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
        passes_shared: bool = False,
        gate_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if n_own + n_shared < 1:
            raise ValueError("a task needs at least one expert, own or shared")
        self.n_tasks, self.n_own, self.n_shared = n_tasks, n_own, n_shared
        n_experts = n_tasks * n_own + n_shared
        self.experts = MLPBank(n_experts, input_size, hidden_sizes, activation, dropout, batch_norm)
        # A softmax over one expert is 1 whatever the gate says, so such a gate is not made.
        per_task = n_own + n_shared
        self.gates = GateBank(n_tasks, input_size, per_task, gate_batch_norm) if per_task > 1 else None
        self.shared_gate: nn.Module | None = None
        if passes_shared and n_experts > 1:
            self.shared_gate = nn.Linear(input_size, n_experts)
            nn.init.zeros_(self.shared_gate.bias)
            if gate_batch_norm:
                self.shared_gate = nn.Sequential(self.shared_gate, BatchNorm(n_experts))
        self.passes_shared = passes_shared
        self.output_size = self.experts.output_size

    def gate(self, x: Tensor) -> Tensor:
        """Return w (T, own + shared, B): every task's weights, its own experts first; sums to 1 over the experts.

        Args:
            x: as for `forward`.
        """
        if self.gates is None:
            return x.new_ones(self.n_tasks, 1, x.shape[-2])
        return self.gates(x if x.dim() == 2 else x[: self.n_tasks]).softmax(dim=-1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return z (T, B, H), or (T + 1, B, H) with z_shared last where `passes_shared`.

        Args:
            x: one input for all (B, D), or what a layer before passed on: (T + 1, B, D), the shared one last.
        """
        reads = None if x.dim() == 2 else self._reads()
        w = self.gate(x)
        if is_exported() and not self.passes_shared:
            gates, members = w.transpose(1, 2).unbind(), [self._members(t) for t in range(self.n_tasks)]
            return torch.stack(manual_backward.plain_sums(gates, self.experts.separate(x, reads), members))
        experts = self.experts(x, reads)
        if manual_backward.supports(experts):
            z = manual_backward.weighted_sums(w, experts, [self._members(t) for t in range(self.n_tasks)])
        else:
            n_all_own = self.n_tasks * self.n_own
            own, shared = experts[:n_all_own].unflatten(0, (self.n_tasks, self.n_own)), experts[n_all_own:]
            w = w.unsqueeze(-1)
            z = (w[:, : self.n_own] * own).sum(dim=1) + (w[:, self.n_own :] * shared).sum(dim=1)
        if not self.passes_shared:
            return z
        return torch.cat([z, self._pass_shared(x, experts).unsqueeze(0)])

    def _members(self, task: int) -> list[int]:
        """Return the experts of a task's gate: its own, then the shared ones."""
        n_all_own = self.n_tasks * self.n_own
        own = range(task * self.n_own, (task + 1) * self.n_own)
        return [*own, *range(n_all_own, n_all_own + self.n_shared)]

    def _reads(self) -> list[int]:
        """Return the input that each expert reads, a place in x_1 .. x_T, x_shared."""
        return [t for t in range(self.n_tasks) for _ in range(self.n_own)] + [self.n_tasks] * self.n_shared

    def _pass_shared(self, x: Tensor, experts: Tensor) -> Tensor:
        if self.shared_gate is None:
            return experts[0]
        w: Tensor = self.shared_gate(x if x.dim() == 2 else x[-1]).softmax(dim=-1).t()
        if manual_backward.supports(experts):
            return manual_backward.weighted_sums(w.unsqueeze(0), experts, [range(len(experts))]).squeeze(0)
        return (w.unsqueeze(-1) * experts).sum(dim=0)
