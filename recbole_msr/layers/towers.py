"""Towers: from what a model has extracted to one logit a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from recbole_msr.layers import manual_backward
from recbole_msr.layers.groups import Groups, by_group
from recbole_msr.layers.mlp import MLPBank
from recbole_msr.layers.scenario_axes import Axes
from recbole_msr.layers.tracing import is_exported


class Towers(nn.Module):
    """y_t = tower_p(z_p'): a small MLP for each group p of scenarios and tasks.

    One tower a scenario has an output for every task; every other tower has one output. Where z was extracted
    for the same groups, tower p reads z_p; else each row's own z.

    Args:
        groups: what the towers are kept apart for.
        input_size: width H of z.
        hidden_sizes: hidden layers of every tower, before its outputs; may be empty.
        activation, dropout, batch_norm: of the hidden layers, see `MLP`.
        inputs: what z is kept apart for; None for one z for all.
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        groups: Groups,
        input_size: int,
        hidden_sizes: Sequence[int],
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
        inputs: Groups | None = None,
    ) -> None:
        super().__init__()
        self.groups, self.inputs = groups, inputs
        n_outputs = groups.n_tasks if groups.per == "scenario" else 1
        self.bank = MLPBank(
            groups.count, input_size, hidden_sizes, activation, dropout, batch_norm, output_size=n_outputs
        )

    def forward(self, z: Tensor, scenario: Tensor) -> Tensor:
        """Logits (B, T).

        Args:
            z: (B, H), or (P', B, H) for every group of `inputs`.
            scenario: each row's scenario (B,), 0..M-1.
        """
        groups, reads = self.groups, None
        if z.dim() == 2 and self._chooses(z):
            return by_group(z, scenario, groups.n_scenarios, self._of_scenario)
        if self.inputs is not None and self.inputs.per != groups.per:
            z = self.inputs.pick(z, scenario)  # (T or 1, B, H)
            if z.shape[0] == 1:
                z = z.squeeze(0)
            elif groups.per == "scenario":
                return self._own_output(z, scenario)
            elif groups.per == "scenario_task":
                reads = [t for t in range(groups.n_tasks) for _ in range(groups.n_scenarios)]
        own = groups.pick(self.bank(z, reads), scenario)
        return own.squeeze(0) if groups.per == "scenario" else own.squeeze(-1).t()

    def _chooses(self, z: Tensor) -> bool:
        """Return whether each row goes through its own scenario's towers alone.

        Gradients of all towers are computed faster together.
        """
        if self.groups.per == "task" or self.groups.n_scenarios == 1 or self.bank.norms or self.training:
            return False
        return is_exported() or (manual_backward.supports(z) and not torch.is_grad_enabled())

    def _of_scenario(self, z: Tensor, m: int) -> Tensor:
        """Return the logits (B, T) of scenario m's towers at z (B, H)."""
        return self.bank.some(z, range(m, self.groups.count, self.groups.n_scenarios))

    def every_scenario(self, z: Tensor) -> Tensor:
        """Return the logits of each row in each scenario (M, B, T).

        Args:
            z: as for `forward`.
        """
        groups = self.groups
        n_tasks, n_scenarios = groups.n_tasks, groups.n_scenarios
        if z.dim() == 2:
            outputs = self.bank(z)  # (P, B, T or 1)
        else:
            assert self.inputs is not None
            z = self.inputs.by_task_and_scenario(z)  # (T or 1, M or 1, B, H)
            if groups.per == "task":
                outputs = self.bank(z.expand(n_tasks, -1, -1, -1).flatten(1, 2))  # (T, M * B or B, 1)
            elif groups.per == "scenario_task":
                outputs = self.bank(z.expand(n_tasks, n_scenarios, -1, -1).flatten(0, 1))
            else:
                outputs = self.bank(z.expand(-1, n_scenarios, -1, -1).transpose(0, 1).flatten(1, 2))  # (M, T * B, T)
                if z.shape[0] > 1:  # of tower m at z_t its output t
                    by_task = torch.unflatten(outputs, 1, (n_tasks, -1))
                    outputs = torch.diagonal(by_task, dim1=1, dim2=3)
        if groups.per == "scenario":
            return outputs  # (M, B, T)
        if groups.per == "task":
            by_scenario = torch.unflatten(outputs.squeeze(-1), 1, (1 if z.dim() == 2 else z.shape[1], -1))
        else:
            by_scenario = torch.unflatten(outputs.squeeze(-1), 0, (n_tasks, n_scenarios))
        return by_scenario.permute(1, 2, 0).expand(n_scenarios, -1, -1)

    def scenario_axes(self) -> Axes:
        """Return where scenarios stand in its tensors."""
        return {"bank": self.groups.axes}

    def _own_output(self, z: Tensor, scenario: Tensor) -> Tensor:
        """Output t of each row's own tower at z_t; z (T, B, H)."""
        outputs = self.bank(z.flatten(0, 1))  # (M, T * B, T)
        own = (
            self.groups.pick(outputs, scenario.repeat(z.shape[0])).squeeze(0).unflatten(0, (z.shape[0], -1))
        )  # (T, B, T)
        return torch.diagonal(own, dim1=0, dim2=2)
