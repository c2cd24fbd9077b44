"""The mask of the parameters' numbers that each task's loss depends on, by the model's structure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from recbole_msr.models.base import MultiScenarioRecommender

_ROWS = 8
"""Rows of every scenario that are sent through."""


def task_parameter_mask(
    model: MultiScenarioRecommender, interaction: Any, parameters: Sequence[nn.Parameter]
) -> Tensor:
    """Return whether task t's loss depends on a number of the parameters, by the model's structure (T, P).

    What tasks share cannot be told by parameter: a bank of towers or of experts is one tensor, with a part for each
    task. Nor by one gradient: a unit may be dead in a batch, a user may be missing. So random rows of every scenario go
    through `logits` with positive random weights (no unit is dead then) and a number is reached where its gradient is
    not 0; task t's loss also reaches what the logits do that the model's `calibration` reads for it. What `embed`
    reads, the tables of features above all, every task reaches. What no task reaches is counted so, too.

    The model is left as it was; no random number is taken from a global generator.

    Args:
        model: any model of M scenarios and T tasks.
        interaction: rows for `embed`, of which only the shape and the parameters that are read count.
        parameters: of the model; P is how many numbers they have together.

    Returns:
        A boolean (T, P), in the order of `parameters`, each one flattened.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.enable_grad(), torch.autocast(parameters[0].device.type, enabled=False):
            x = model.embed(interaction)
            read = torch.autograd.grad(x.sum(), parameters, allow_unused=True)
            behind = [p for p, gradient in zip(parameters, read, strict=True) if gradient is None]
            gradients = _gradients(model, x, behind)
    finally:
        for module, training in modes:
            module.training = training
    reads = _reads(model, x.device)
    logit_reaches = iter(gradients)
    reached = []
    for parameter, gradient in zip(parameters, read, strict=True):
        if gradient is not None:
            reached.append(torch.ones(model.n_tasks, parameter.numel(), dtype=torch.bool, device=parameter.device))
        else:
            here = (reads.float() @ next(logit_reaches).float()) > 0
            reached.append(here | ~here.any(dim=0))
    return torch.cat(reached, dim=1)


def _reads(model: MultiScenarioRecommender, device: torch.device) -> Tensor:
    """Return whether task t's loss reads logit c (T, C): those of its chain, and those that its `calibration` reads."""
    reads = model.task_reads_logits().to(device)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, model.n_outputs, generator=generator).to(device).requires_grad_()
    with torch.enable_grad():
        calibration = model.calibration(logits)
        if isinstance(calibration, Tensor) and calibration.requires_grad:
            for t, terms in enumerate(calibration.sum(dim=0)):
                (gradient,) = torch.autograd.grad(terms, logits, retain_graph=True)
                reads[t] |= (gradient != 0).any(dim=0)
    return reads


def _gradients(model: MultiScenarioRecommender, x: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """For every parameter, where each logit has a gradient (C, numbers of the parameter)."""
    generator = torch.Generator().manual_seed(0)

    def positive(like: Tensor, scale: float) -> Tensor:
        drawn = (torch.rand(like.shape, generator=generator) + 0.5) * scale
        return drawn.to(like.device, like.dtype)

    inner = _Logits(model)
    wanted = {id(parameter) for parameter in parameters}
    drawn: dict[str, Tensor] = {}
    places: dict[int, str] = {}
    for name, parameter in inner.named_parameters():
        if id(parameter) in wanted:  # of the width of one layer's input, so that nothing grows from layer to layer
            scale = 1 / parameter.shape[-1] if parameter.dim() > 1 else 1.0
            drawn[name] = positive(parameter, scale).requires_grad_()
            places[id(parameter)] = name
    for name, buffer in inner.named_buffers():  # moving averages as before training: later ones may silence a unit
        if name.endswith("mean"):
            drawn[name] = torch.zeros_like(buffer)
        elif name.endswith(("var", "variance")):
            drawn[name] = torch.ones_like(buffer)
    scenario = torch.arange(model.n_scenarios, device=x.device).repeat(_ROWS)
    rows = positive(x.new_empty(len(scenario), x.shape[1]), 1.0)
    logits = functional_call(inner, drawn, (rows, scenario))
    leaves = [drawn[places[id(parameter)]] for parameter in parameters]
    by_task = [torch.autograd.grad(logit, leaves, retain_graph=True, allow_unused=True) for logit in logits.sum(dim=0)]
    return [
        torch.stack(
            [torch.zeros_like(leaf).flatten() if of_task[i] is None else of_task[i].flatten() for of_task in by_task]
        ) != 0
        for i, leaf in enumerate(leaves)
    ]  # fmt: skip


class _Logits(nn.Module):
    """`functional_call` calls a module; this one is the model's `logits`."""

    def __init__(self, model: MultiScenarioRecommender) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, scenario: Tensor) -> Tensor:
        return self.model.logits(x, scenario)
