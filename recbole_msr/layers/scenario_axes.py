"""Where in a model's tensors the scenarios stand, so that a model of other scenarios can take its weights over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ScenarioAxis:
    """A dimension of a tensor in which each of M scenarios has entries of its own.

    The entries are `sets` times M blocks of `block` entries, then `rest` entries of no scenario. With T tasks, experts
    for each task in each scenario are T sets of M blocks; M scenario experts of K sub-experts before a shared one are
    one set of blocks of K, with a rest of K.

    Args:
        sets: times that the M scenarios are listed.
        block: entries of a scenario in each set.
        rest: entries behind them.
        dim: the dimension.
    """

    sets: int = 1
    block: int = 1
    rest: int = 0
    dim: int = 0

    def size(self, n_scenarios: int) -> int:
        """Return the number of entries for M scenarios."""
        return self.sets * n_scenarios * self.block + self.rest

    def of_size(self, size: int, n_scenarios: int) -> ScenarioAxis:
        """Return the axis of a tensor with `size` entries there, several for each of this axis's, side by side."""
        each = size // self.size(n_scenarios)
        return replace(self, block=self.block * each, rest=self.rest * each)

    def mix(self, values: Tensor, weights: Tensor) -> Tensor:
        """Return a tensor for M' scenarios, each a mixture of the M scenarios of another.

        Args:
            values: for M scenarios.
            weights: of each new scenario those of the M (M', M).
        """
        values = values.movedim(self.dim, 0)
        own = self.sets * weights.shape[1] * self.block
        blocks = values[:own].reshape(self.sets, weights.shape[1], -1)
        mixed = torch.einsum("nm,smk->snk", weights.to(values), blocks)
        mixed = mixed.reshape(-1, *values.shape[1:])
        return torch.cat([mixed, values[own:]]).movedim(0, self.dim)


Axes = Mapping[str, tuple[ScenarioAxis, ...]]
"""By the name of a tensor or of a module inside, whose tensors all have them: the dimensions with scenarios."""


@runtime_checkable
class HasScenarioAxes(Protocol):
    """A module that knows which of its tensors have entries of single scenarios."""

    def scenario_axes(self) -> Axes:
        """Return the axes of its own tensors and of modules inside that do not know of scenarios themselves."""


def parts_by_count(model: nn.Module) -> list[str]:
    """Return the names of the parts that a model has for some numbers of scenarios alone (`parts_by_count`)."""
    found = []
    for prefix, module in model.named_modules():
        parts = getattr(module, "parts_by_count", ())
        found += [f"{prefix}.{part}" if prefix else part for part in parts]
    return found


def is_inside(path: str, name: str) -> bool:
    """Return whether a tensor's name is that of a path, or of a tensor of the module there."""
    return name == path or name.startswith(path + ".")


def scenario_axes(model: nn.Module, n_scenarios: int) -> dict[str, tuple[ScenarioAxis, ...]]:
    """Return the axes of all tensors of a model's `state_dict` that have entries of single scenarios.

    Args:
        model: with modules that have `scenario_axes`.
        n_scenarios: M.
    """
    state = {name: value for name, value in model.state_dict().items() if value.dim()}
    found: dict[str, tuple[ScenarioAxis, ...]] = {}
    for prefix, module in model.named_modules():
        if not isinstance(module, HasScenarioAxes):
            continue
        for part, axes in module.scenario_axes().items():
            path = f"{prefix}.{part}" if prefix else part
            for name in (name for name in state if is_inside(path, name)):
                found[name] = tuple(axis.of_size(state[name].shape[axis.dim], n_scenarios) for axis in axes)
    return found


def for_scenarios(model: nn.Module, shares: Tensor) -> dict[str, Tensor]:
    """Return the `state_dict` of a model for other scenarios, each of which is a mixture of the model's.

    Args:
        model: of M scenarios, with modules that have `scenario_axes`.
        shares: of each new scenario the shares of the model's ones (M', M).
    """
    state: dict[str, Tensor] = dict(model.state_dict())
    if shares.shape[0] == shares.shape[1] and bool((shares == torch.eye(len(shares))).all()):
        return state
    for name, axes in scenario_axes(model, shares.shape[1]).items():
        for axis in axes:
            state[name] = axis.mix(state[name], shares.to(state[name].device))
    return state
