"""Faster forms of a model's parts, and the settings that ask for them.

Each is made in the model that is there: parameters, their names and the state of the model stay the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning.strategies import SingleDeviceStrategy, Strategy
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_msr.config.key_table import PRECISIONS
from recbole_msr.errors import InputError
from recbole_msr.layers.dropout import Dropout
from recbole_msr.layers.manual_backward import run_layers
from recbole_msr.options import Options
from recbole_msr.training.optimizers import sum_at
from recbole_msr.training.weighting.loss_weighting import (
    GradientWeighting,
    LossWeighting,
    gradient_weightings,
)

logger = logging.getLogger(__name__)

LIGHTNING_ONLY = {"fast_dropout": False, "embedding_gradients": "dense", "precision": None, "compile": False}
"""The keys read here, which RecBole's own trainer does not have, with the values that change nothing."""


def prepare_model(model: nn.Module, config: Any) -> None:
    """Give a model the dropout and the embedding gradients that the configuration asks for.

    - `fast_dropout: True`: its `nn.Dropout` modules draw as those of this package's models do, and the ReLU layers
      between them are computed as there (on a CPU).
    - `embedding_gradients: sparse`: its embedding tables get sparse gradients. With `dense`, they get the gradient they
      had, bit for bit, in less time (on a CPU).

    Raises:
        InputError: a value that is none of the key's.
    """
    option = Options(config)
    fast_dropout = option.flag("fast_dropout")
    sparse = option.choice("embedding_gradients", ("dense", "sparse")) == "sparse"
    for module in model.modules():
        # The class alone changes, so that whoever holds a module, and what is hooked to it, stays. A `Sequential` does
        # not call the layers that it computes together: `run_layers` leaves those with hooks as they are.
        if type(module) is nn.Dropout and fast_dropout:
            module.__class__ = Dropout
        elif type(module) is nn.Sequential:
            module.__class__ = Sequential
            module.trains_quickly = fast_dropout  # type: ignore[assignment]
        elif type(module) is nn.Embedding and not sparse:
            module.__class__ = Embedding
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            module.sparse = sparse and not (isinstance(module, nn.EmbeddingBag) and module.mode == "max")


class Sequential(nn.Sequential):
    """`nn.Sequential` whose linear layers with ReLU are computed together.

    In evaluation, which gives the same bits; in training if asked for, with a backward pass written out and this
    package's dropout.
    """

    trains_quickly = False

    def forward(self, input: Any) -> Any:
        """Return the result of PyTorch's own layer."""
        quick = self.trains_quickly or not (self.training or torch.is_grad_enabled())
        if not quick or not isinstance(input, Tensor):  # EulerNet's layers hand on pairs of tensors
            return super().forward(input)  # type: ignore[no-untyped-call]
        return run_layers(self, input)


class Embedding(nn.Embedding):
    """`nn.Embedding` whose gradient takes a CPU a third to a fortieth of the time; all values are the same bits.

    PyTorch's own calls the library for vectors once for every index, which costs more than the addition itself.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the result of PyTorch's own layer."""
        plain = self.max_norm is None and not self.scale_grad_by_freq and not self.sparse
        plain &= self.weight.dtype in (torch.float32, torch.float64)  # PyTorch rounds sums of half precision otherwise
        if self.weight.device.type != "cpu" or not plain or torch.compiler.is_compiling():
            return super().forward(input)
        rows: Tensor = _Rows.apply(self.weight, input, self.padding_idx)  # type: ignore[no-untyped-call]
        return rows


class _Rows(torch.autograd.Function):
    """Rows of a table (V, K) by their numbers (...): (..., K)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, places: Tensor, padding: int | None) -> Tensor:
        return F.embedding(places, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int | None], output: Tensor) -> None:
        weight, places, ctx.padding = inputs
        ctx.save_for_backward(places)
        ctx.length = len(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        total = sum_at(places.reshape(-1), gradient.reshape(-1, gradient.shape[-1]), ctx.length)
        if ctx.padding is not None:
            total[ctx.padding] = 0.0
        return total, None, None


def check_sparse(weighting: LossWeighting | None, strategy: Strategy) -> None:
    """Refuse what cannot work with sparse gradients.

    Raises:
        InputError: a loss weighting that reads whole gradients, or several processes.
    """
    if isinstance(weighting, GradientWeighting):
        raise InputError(
            f"loss_weighting: {gradient_weightings()} compare whole gradients of the tasks: they need "
            "embedding_gradients: dense"
        )
    if type(strategy) is not SingleDeviceStrategy:
        raise InputError(
            "embedding_gradients: sparse is for one device; with several, or with lightning: strategy, set dense "
            f"(got {type(strategy).__name__})"
        )


def lightning_precision(config: Any) -> str:
    """Return the precision of `pytorch_lightning.Trainer` that `precision` and `enable_amp` ask for.

    Raises:
        InputError: there is no such precision, the device has none, or one setting contradicts another.
    """
    device = config["device"].type
    amp = "bf16-mixed" if device == "cpu" else "16-mixed"
    wanted = config["precision"]
    if wanted is None:
        return amp if config["enable_amp"] else "32-true"
    if isinstance(wanted, bool) or wanted not in PRECISIONS:
        raise InputError(f"precision must be {', '.join(map(str, PRECISIONS))}, or not set, got {wanted!r}")
    if config["enable_amp"] and wanted == 32:
        raise InputError("enable_amp: True asks for mixed precision, precision: 32 for none: take one of them back")
    if wanted == "16-mixed" and device == "cpu":
        raise InputError("precision: 16-mixed needs a GPU; on a CPU set bf16-mixed")
    within = (config["lightning"] or {}).get("precision")
    if within is not None and str(within) not in (str(wanted), *(["32-true"] if wanted == 32 else [])):
        raise InputError(f"precision: {wanted} and lightning: {{precision: {within}}} contradict each other: set one")
    if wanted == "bf16-mixed" and not has_bfloat16(device):
        logger.warning(
            "precision: bf16-mixed will be slower than 32 here: this %s has no instructions for bfloat16%s",
            "processor" if device == "cpu" else "GPU",
            " (AMX or AVX512-BF16)" if device == "cpu" else "",
        )
    return "32-true" if wanted == 32 else str(wanted)


def has_bfloat16(device: str) -> bool:
    """Return whether a device computes in bfloat16: by name, cpu or cuda."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    checks = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("amx_tile", "avx512_bf16")]
    # A PyTorch too old to be asked is not evidence against the processor; neither is one of another kind.
    available = [check for check in checks if check is not None]
    return not available or any(check() for check in available)


def compiled(function: Callable[[Any], Any], device: torch.device) -> Callable[[Any], Any]:
    """`torch.compile` of a model's loss, with the way back: what cannot be compiled goes on as it is, with a warning.

    On a GPU its kernels are replayed as CUDA graphs (`mode: reduce-overhead`), so that small ones need not be launched
    one by one. A graph's outputs are overwritten by its next run, so what is returned are copies. The size of the batch
    becomes a variable when a second one is met, so that no more are compiled.

    Args:
        function: from a batch to its loss.
        device: where the model is.
    """
    fast = torch.compile(function, mode="reduce-overhead" if device.type == "cuda" else None)
    failed = False

    def loss(batch: Any) -> Any:
        nonlocal failed
        if not failed:
            try:
                result = fast(batch)
                return _copied(result) if device.type == "cuda" else result
            except Exception as error:
                failed = True  # if it is not the compiler's fault, it happens again below, and is told
                result = function(batch)
                reason = " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__
                logger.warning("compile: the model is trained without: it could not be compiled (%s)", reason)
                return result
        return function(batch)

    return loss


def _copied(value: Any) -> Any:
    """Return a tensor, or tuples of tensors, with memory of their own."""
    if isinstance(value, tuple):
        return tuple(map(_copied, value))
    return value.clone() if isinstance(value, Tensor) else value
