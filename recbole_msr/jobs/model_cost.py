"""The cost of a built model: its parameters, its arithmetic for a row, its time for a batch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from recbole_msr.errors import InputError
from recbole_msr.layers.manual_backward import plain_operations

LATENCY_ROWS = {"latency": 4096, "latency_1": 1}
"""Rows of the batch whose forward time each latency is."""


def parameters(model: Any) -> int:
    """Return how many numbers training may change; embedding tables are most of them."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def flops(model: Any, batch: Any) -> int:
    """Count the floating point operations of the forward pass for one row, multiplication and addition as two.

    Counted are the matrix products (and convolutions) that PyTorch really runs for `batch`, divided by its rows; the
    little that is computed once a batch, as HiNet's attention between scenarios, is shared out over them. Weights that
    a model computes once and keeps, as LLM4MSR does for the users it knows, are computed before the count.

    Not counted, as by most counters: activations, additions, normalisation, softmax; looking up and adding up
    embeddings; products written as multiply-and-sum, as the second-order part of FM and DeepFM. So LR costs nothing.
    Products with a sparse matrix and an LSTM's fused kernel are not counted either.

    RecBole's own counter (`recbole.utils.get_flops`) is not used: it hangs on modules' types through thop, so it knows
    `nn.Linear` and says 0 for what is written with tensors: the expert banks of this package, attention, cross layers.

    Args:
        model: a built RecBole model, ours or theirs.
        batch: rows as a model gets them, e.g. `PackedTable(valid).batch(slice(256))`.

    Raises:
        InputError: the batch has no rows.
    """
    rows = _rows(batch)
    with _undisturbed(model) as score, torch.no_grad():
        batch = batch.to(_device(model))
        score(batch)
        counter = FlopCounterMode(display=False, custom_mapping=_PRODUCTS)
        with counter, _plain_attention(), plain_operations():
            score(batch)
    return round(counter.get_total_flops() / rows)


def latency(model: Any, batch: Any, rows: int, repeats: int = 30, warmup: int = 5) -> float:
    """Measure the milliseconds of one forward pass in evaluation mode, on the model's device and in its precision.

    Returned is the median wall time over the repeats. It depends on the machine, on PyTorch's threads and on what else
    runs there: compare only what was measured in the same place.

    Args:
        model: a built RecBole model, ours or theirs.
        batch: rows as a model gets them; repeated or cut to `rows`.
        rows: how many rows go through at once.
        repeats: timed passes.
        warmup: passes before those, untimed.

    Raises:
        InputError: the batch has no rows, or a number is below 1 (`warmup`: below 0).
    """
    for name, value, least in (("rows", rows, 1), ("repeats", repeats, 1), ("warmup", warmup, 0)):
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")
    batch = batch[torch.arange(rows) % _rows(batch)].to(_device(model))
    on_gpu = _device(model).type == "cuda"
    seconds = []
    with _undisturbed(model) as score, torch.inference_mode():
        for turn in range(warmup + repeats):
            _finish_kernels(on_gpu)
            started = time.perf_counter()
            score(batch)
            _finish_kernels(on_gpu)
            if turn >= warmup:
                seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds)


@contextmanager
def _undisturbed(model: Any) -> Iterator[Callable[[Any], Any]]:
    """Give the model's scoring function, in evaluation mode; restore its modules' modes and torch's random state."""
    modes = {module: module.training for module in model.modules()}
    device = _device(model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            model.eval()
            yield model.predict_tasks if hasattr(model, "predict_tasks") else model.predict
        finally:
            for module, training in modes.items():
                module.training = training


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Compute attention by plain matrix products: the counter does not see its fused kernels on a CPU."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _finish_kernels(on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.synchronize()


def _device(model: Any) -> torch.device:
    device: torch.device = next(model.parameters()).device
    return device


def _rows(batch: Any) -> int:
    rows = len(batch)
    if rows == 0:
        raise InputError("the cost of a model is measured on rows of the validation split, and there is none")
    return rows


# What PyTorch's counter leaves out: products with one vector, and sums of products.


def _matrix_times_vector(matrix: Any, vector: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
    return 2 * int(prod(matrix))


def _added_matrix_times_vector(added: Any, matrix: Any, vector: Any, *rest: Any, **options: Any) -> int:
    return 2 * int(prod(matrix))


def _sum_of_products(added: Any, left: Any, right: Any, *rest: Any, **options: Any) -> int:
    return 2 * int(prod(left)) * int(right[-1])


_PRODUCTS = {
    torch.ops.aten.mv: _matrix_times_vector,
    torch.ops.aten.dot: _matrix_times_vector,
    torch.ops.aten.addmv: _added_matrix_times_vector,
    torch.ops.aten.addbmm: _sum_of_products,
}
