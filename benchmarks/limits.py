"""The arithmetic limit: how long a step's matrix products alone take on this machine, measured shape by shape."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

_aten = torch.ops.aten
_FIRST = {_aten.mm: 0, _aten.bmm: 0, _aten.addmm: 1, _aten.addmm_: 1, _aten.baddbmm: 1, _aten.baddbmm_: 1}
"""Matrix products, and which of their arguments is the first factor."""


class Factor(NamedTuple):
    """A factor of a matrix product: its shape, and whether its rows or its columns lie together in memory."""

    shape: tuple[int, ...]
    transposed: bool

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Factor:
        return cls(tuple(tensor.shape), tensor.stride(-1) != 1 and tensor.stride(-2) == 1)

    def make(self, dtype: torch.dtype, device: str) -> torch.Tensor:
        shape = (*self.shape[:-2], self.shape[-1], self.shape[-2]) if self.transposed else self.shape
        made = torch.randn(shape, device=device).to(dtype)
        return made.transpose(-2, -1) if self.transposed else made


class Products(TorchDispatchMode):
    """Counts the matrix products that are computed inside it, by the shapes of their factors."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[Factor, Factor]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first = _FIRST.get(func.overloadpacket)
        if first is not None:
            self.found[Factor.of(args[first]), Factor.of(args[first + 1])] += 1
        return func(*args, **(kwargs or {}))


def flops(a: Factor, b: Factor) -> int:
    """Of one product: two for every multiplication and addition."""
    *batch, m, k = a.shape
    count = 2 * m * k * b.shape[-1]
    for size in batch:
        count *= size
    return count


def seconds(function: Callable[[], Any], at_least: float = 0.05) -> float:
    """Median time of a call, over `at_least` seconds of calls."""
    function()
    taken: list[float] = []
    begin = time.perf_counter()
    while len(taken) < 5 or time.perf_counter() - begin < at_least:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        started = time.perf_counter()
        function()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def limit(
    model: str, dataset: str, side: str, data_path: str | None, batch: int | None = None, gpu: bool = False
) -> dict[str, Any]:
    """What a step of a model must compute, and how long that takes at the measured rates.

    Returns:
        `flops_per_row` of a whole step (by PyTorch's counter, or of all products where it misses some), `products`, how
        many there are in a step, and for each precision `rate` (FLOP/s over all of them) and `rows_per_second`, were
        there nothing else to do.
    """
    from recbole.data import create_dataset
    from recbole.utils import get_model, init_seed

    from benchmarks.cases import Case
    from benchmarks.measure import configuration
    from recbole_msr.data.packed import PackedTable

    case = Case(model, dataset, side)
    config = configuration(case, data_path, batch=batch, gpu=gpu)
    split = create_dataset(config).build()[0]
    init_seed(config["seed"], config["reproducibility"])
    built = get_model(case.class_name)(config, split).to(config["device"]).train()
    table = PackedTable(split)
    rows = min(int(config["train_batch_size"]), len(table))
    interaction = table.batch(slice(0, rows)).to(config["device"])

    def step() -> None:
        losses = built.calculate_loss(interaction)
        (sum(losses) if isinstance(losses, tuple) else losses).backward()

    step()
    with Products() as products:
        step()
    with FlopCounterMode(display=False) as counter:
        step()
    own = sum(count * flops(*pair) for pair, count in products.found.items())
    result: dict[str, Any] = {
        "batch": rows,
        "flops_per_row": max(own, counter.get_total_flops()) / rows,
        "products": sum(products.found.values()),
    }
    device = str(config["device"])
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        needed = 0.0
        for (a, b), count in products.found.items():
            x, y = a.make(dtype, device), b.make(dtype, device)
            needed += count * seconds(lambda x=x, y=y: torch.matmul(x, y))  # type: ignore[misc]
        result[name] = {"rate": own / needed, "rows_per_second": rows / needed} if needed else None
    return result
