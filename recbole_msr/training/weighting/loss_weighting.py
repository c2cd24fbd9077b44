"""Loss weighting: how the losses of T tasks become one step of training.

What `fixed`, `equal` and `uncertainty` do is in the model's own loss (`MultiScenarioRecommender.calculate_loss`). Here
are those that look at more than one batch's loss: at the gradients of single tasks, or at former epochs. The loss L_t
of a task is what `counted_losses` gives, with the weights of `loss_weights` inside.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from torch import Tensor, nn

from recbole_msr.config.loss_weightings import LOSS_WEIGHTINGS, weightings_where
from recbole_msr.errors import InputError
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.options import Options
from recbole_msr.training.weighting.task_dependence import task_parameter_mask


def build_weighting(model: Any, config: Any) -> LossWeighting | None:
    """Return the weighting that `loss_weighting` names; None where the model's own loss is all there is to it.

    Args:
        model: the model to be trained.
        config: its configuration.

    Raises:
        InputError: no such weighting, one that this model cannot have, or an impossible option of it.
    """
    if not isinstance(model, MultiScenarioRecommender):
        chosen = Options(config).choice("loss_weighting", LOSS_WEIGHTINGS)
        if LOSS_WEIGHTINGS[chosen].is_constant:
            return None
        raise InputError(
            f"loss_weighting: {chosen} needs a model with a loss for each task, and {type(model).__name__} has one "
            "loss: set loss_weighting: fixed, or take a model of recbole-msr"
        )
    weighting = LOSS_WEIGHTINGS[model.loss_weighting]
    if not weighting.needs_trainer:
        return None
    built: LossWeighting = weighting.load().from_options(model.n_tasks, Options(config))
    return built


def gradient_weightings() -> str:
    """Name the weightings that read whole gradients, for a message."""
    return weightings_where(lambda weighting: weighting.reads_gradients)


class LossWeighting(nn.Module):
    """L = sum_t w_t L_t with weights that change; its state is part of the training's checkpoint.

    Args:
        n_tasks: T.
    """

    weights: Tensor
    """w (T,)."""

    def __init__(self, n_tasks: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.ones(n_tasks))

    @classmethod
    def from_options(cls, n_tasks: int, options: Options) -> LossWeighting:
        """Build it for T tasks from a configuration.

        Raises:
            InputError: an option has an impossible value.
        """
        return cls(n_tasks)

    def forward(self, losses: Tensor, counts: Tensor) -> Tensor:
        """Return L, a scalar, of a batch's losses L_t (T,) and of how many rows carry each task's label (T,)."""
        return (self.weights * losses).sum()

    def task_weights(self) -> Tensor | None:
        """Return the weights of the finished epoch, w (T,); None where there are none."""
        return self.weights

    def start_epoch(self) -> None:
        """Prepare an epoch."""

    def end_epoch(self) -> None:
        """Close an epoch, before its checkpoint is written."""


class DynamicWeightAverage(LossWeighting):
    """Dynamic weight average (DWA): tasks whose loss fell little from epoch to epoch weigh more.

    w_t(e) = T exp(r_t(e-1) / temperature) / sum_i exp(r_i(e-1) / temperature),   r_t(e-1) = L_t(e-1) / L_t(e-2)

    where L_t(e) is the mean of L_t over the batches of epoch e that have the task's label. r_t is 1 in the first two
    epochs, and where a task had no label at all. Source: Liu, Johns and Davison, "End-to-End Multi-Task Learning with
    Attention", CVPR 2019, eq. 7.

    Args:
        n_tasks: T.
        temperature: > 0; 2 in the paper.
    """

    averages: Tensor
    """L_t of the last two epochs (2, T), the last one last; not a number where there was none."""

    def __init__(self, n_tasks: int, temperature: float) -> None:
        super().__init__(n_tasks)
        self.temperature = temperature
        self.register_buffer("averages", torch.full((2, n_tasks), torch.nan))
        # No buffer: it is each process's own until the epoch is over.
        self._seen: Tensor | None = None

    @classmethod
    def from_options(cls, n_tasks: int, options: Options) -> DynamicWeightAverage:
        """Build it from the options of a configuration."""
        temperature = options.number("dwa_temperature", at_least=0)
        if temperature == 0:
            raise InputError("'dwa_temperature' must be a number > 0, got 0")
        return cls(n_tasks, temperature)

    def forward(self, losses: Tensor, counts: Tensor) -> Tensor:
        """Return L, a scalar, and note the losses."""
        seen = torch.stack([losses.detach(), (counts > 0).to(losses.dtype)])
        self._seen = seen if self._seen is None else self._seen + seen
        return super().forward(losses, counts)

    def start_epoch(self) -> None:
        """Set w of the epoch from the two before it."""
        self._seen = None
        ratio = self.averages[1] / self.averages[0]
        ratio = torch.where(ratio.isfinite(), ratio, 1.0)
        self.weights.copy_(len(ratio) * (ratio / self.temperature).softmax(dim=0))

    def end_epoch(self) -> None:
        """Note the epoch's mean losses."""
        if self._seen is None:
            return
        total, batches = summed(self._seen)
        self.averages.copy_(torch.stack([self.averages[1], total / batches]))  # 0 / 0: not a number


class GradientWeighting(LossWeighting):
    """A weighting that reads the gradient of every task, at the price of T backward passes a step instead of one.

    `backward` takes the place of the loss's own and leaves the gradient in the parameters; clipping, accumulation, loss
    scaling and the optimiser go on as ever. With several processes (DDP) the gradients of the tasks are averaged over
    them before they are looked at, so that all processes take the step that one would take on the whole batch.
    """

    def __init__(self, n_tasks: int) -> None:
        super().__init__(n_tasks)
        self._reached: Tensor | None = None

    def backward(
        self, model: MultiScenarioRecommender, batch: Any, losses: Tensor, counts: Tensor, loss: Tensor
    ) -> None:
        """Add this step's gradient to that of the parameters.

        Args:
            model: the model.
            batch: the rows of the step.
            losses: L_t (T,), with their graph.
            counts: how many rows carry each task's label (T,).
            loss: what the trainer makes of L (scaled, or divided by the number of batches of a step).
        """
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if self._reached is None:
            self._reached = task_parameter_mask(model, batch, parameters)
        (scales,) = torch.autograd.grad(loss, losses, retain_graph=True)  # w_t, times what the trainer has put to it
        gradients, used = _gradients(losses, scales, parameters)
        gradients = averaged(gradients)
        present = (counts > 0).to(losses.dtype)
        total, n = summed(torch.stack([losses.detach() * present, present]))
        step = self.combine(gradients, self._reached, scales, total / n)
        sizes = [parameter.numel() for parameter in parameters]
        for parameter, part, is_used in zip(parameters, step.split(sizes), used, strict=True):
            if is_used:
                part = part.view_as(parameter)
                parameter.grad = part if parameter.grad is None else parameter.grad + part

    def combine(self, gradients: Tensor, reached: Tensor, scales: Tensor, losses: Tensor) -> Tensor:
        """Return the gradient of the step (P,).

        Args:
            gradients: of s_t L_t (T, P); may be overwritten.
            reached: which numbers each task's loss depends on (T, P).
            scales: s_t (T,), w_t times the same factor for all tasks.
            losses: L_t (T,); not a number where the batch has none of the task's labels.
        """
        raise NotImplementedError

    @staticmethod
    def check_strategy(strategy: Strategy) -> None:
        """Refuse strategies under which a process does not have all of every gradient.

        Raises:
            InputError: it is neither one device's nor plain DDP.
        """
        if type(strategy) not in (SingleDeviceStrategy, DDPStrategy):
            raise InputError(
                f"loss_weighting: {gradient_weightings()} need whole gradients: lightning: strategy may be ddp (or "
                f"none is given, for one device), got {type(strategy).__name__}"
            )


class GradNorm(GradientWeighting):
    """GradNorm: weights that bring the tasks' gradients to norms at which all tasks train at one rate.

    G_t     = ||grad_W w_t L_t||,   G = mean_t G_t
    r_t     = (L_t / L_t(0)) / mean_i (L_i / L_i(0))
    L_grad  = sum_t |G_t - G r_t^alpha|                  G r_t^alpha is a constant here

    After every step w goes down the gradient of L_grad by Adam, and is scaled to sum_t w_t = T. As
    G_t = w_t ||grad_W L_t||, that gradient is sign(G_t - G r_t^alpha) ||grad_W L_t||. Source: Chen et al., "GradNorm:
    Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks", ICML 2018, algorithm 1.

    W is all that every task's loss depends on, from the embeddings up (`task_parameter_mask`). The paper lets W be any
    part of the network, and takes the last shared layer to save time; which layer that is differs from model to model
    (and is one number in some), and all of the shared part is what the tasks compete for.

    L_t(0) is the loss of the first step. A step whose batch lacks a task's label altogether, or whose gradient is not
    finite, leaves w as it is. No weight falls below `least`: of a weight below 0 the paper says nothing.

    Args:
        n_tasks: T.
        alpha: how strongly tasks are pulled to one rate, >= 0; 0 makes the norms equal.
        learning_rate: Adam's, of w.
    """

    initial: Tensor
    """L_t(0) (T,); not a number before the first step."""
    moments: Tensor
    """Adam's first and second moment (2, T)."""
    steps: Tensor
    """Steps of w so far, a scalar."""
    least = 0.01
    betas, eps = (0.9, 0.999), 1e-8

    def __init__(self, n_tasks: int, alpha: float, learning_rate: float) -> None:
        super().__init__(n_tasks)
        self.alpha, self.learning_rate = alpha, learning_rate
        self.register_buffer("initial", torch.full((n_tasks,), torch.nan))
        self.register_buffer("moments", torch.zeros(2, n_tasks))
        self.register_buffer("steps", torch.zeros(()))

    @classmethod
    def from_options(cls, n_tasks: int, options: Options) -> GradNorm:
        """Build it from the options of a configuration."""
        rate = options.number("gradnorm_learning_rate", at_least=0)
        return cls(n_tasks, options.number("gradnorm_alpha", at_least=0), rate)

    def combine(self, gradients: Tensor, reached: Tensor, scales: Tensor, losses: Tensor) -> Tensor:
        """Return sum_t g_t (P,), and step w by the norms of the gradients."""
        norms = torch.where(reached.all(dim=0), gradients, 0.0).norm(dim=1) / scales
        self.update(losses, norms)
        return gradients.sum(dim=0)

    def update(self, losses: Tensor, norms: Tensor) -> None:
        """One step of w, from L_t (T,) and ||grad_W L_t|| (T,)."""
        usable = (losses.isfinite() & norms.isfinite()).all()
        initial = torch.where(self.initial.isnan(), losses, self.initial)
        ratios = losses / initial
        rates = ratios / ratios.mean()
        g = self.weights * norms
        slope = (g - g.mean() * rates**self.alpha).sign() * norms

        (beta1, beta2), steps = self.betas, self.steps + 1
        first = beta1 * self.moments[0] + (1 - beta1) * slope
        second = beta2 * self.moments[1] + (1 - beta2) * slope**2
        change = (first / (1 - beta1**steps)) / ((second / (1 - beta2**steps)).sqrt() + self.eps)
        weights = (self.weights - self.learning_rate * change).clamp(min=self.least)
        weights = weights * (len(weights) / weights.sum())

        for state, new in (
            (self.initial, initial),
            (self.moments, torch.stack([first, second])),
            (self.steps, steps),
            (self.weights, weights),
        ):
            state.copy_(torch.where(usable, new, state))  # without waiting for the device


class PCGrad(GradientWeighting):
    """PCGrad: of two tasks' gradients that point apart, each loses its part against the other.

    For every task i, g_i' = g_i; then for every other task j, in random order: if g_i' . g_j < 0,
    g_i' <- g_i' - (g_i' . g_j) / ||g_j||^2 g_j. The step's gradient is sum_i g_i'. Source: Yu et al., "Gradient
    Surgery for Multi-Task Learning", NeurIPS 2020, algorithm 1.

    For a pair of tasks the vectors hold what both losses depend on, see `task_parameter_mask`: what belongs to one task
    alone keeps its own gradient, and takes no part in the product.

    Args:
        n_tasks: T.
        seed: of the random orders, which follow from it and from the number of steps before.
    """

    def __init__(self, n_tasks: int, seed: int) -> None:
        super().__init__(n_tasks)
        self._generator = torch.Generator().manual_seed(seed)

    @classmethod
    def from_options(cls, n_tasks: int, options: Options) -> PCGrad:
        """Build it from the options of a configuration."""
        return cls(n_tasks, options.integer("seed", at_least=0))

    def task_weights(self) -> None:
        """Return None: the tasks have no weights."""
        return None

    def combine(self, gradients: Tensor, reached: Tensor, scales: Tensor, losses: Tensor) -> Tensor:
        """Return sum_i g_i' (P,), see the class."""
        n_tasks = len(gradients)
        step = torch.zeros_like(gradients[0])
        for i in range(n_tasks):
            projected = gradients[i].clone()
            for other in torch.randperm(n_tasks - 1, generator=self._generator).tolist():
                j = other + (other >= i)
                g_j = torch.where(reached[i] & reached[j], gradients[j], 0.0)
                against = projected.dot(g_j).clamp(max=0.0)
                projected -= against / g_j.dot(g_j).clamp(min=torch.finfo(g_j.dtype).tiny) * g_j
            step += projected
        return step

    def get_extra_state(self) -> Tensor:
        """Return the state of the random orders, for the checkpoint."""
        return self._generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the state of the random orders."""
        self._generator.set_state(state.cpu())


def _gradients(losses: Tensor, scales: Tensor, parameters: list[nn.Parameter]) -> tuple[Tensor, list[bool]]:
    """Return the gradient of every s_t L_t (T, P), and which parameters the losses depend on."""
    rows, used = [], [False] * len(parameters)
    for scale_of_task in torch.diag(scales):
        of_task = torch.autograd.grad(losses, parameters, scale_of_task, retain_graph=True, allow_unused=True)
        used = [before or gradient is not None for before, gradient in zip(used, of_task, strict=True)]
        pairs = zip(parameters, of_task, strict=True)
        rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in pairs]))
    return torch.stack(rows), used


def summed(values: Tensor) -> Tensor:
    """Sum values over the processes, in place."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
    return values


def averaged(values: Tensor) -> Tensor:
    """Return the mean over the processes; without other processes, the values themselves."""
    if dist.is_available() and dist.is_initialized():
        return summed(values.clone()) / dist.get_world_size()
    return values
