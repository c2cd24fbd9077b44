"""Whether operations are being recorded for another program, such as ONNX, rather than computed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def is_exported() -> bool:
    """Return whether `torch.export` is recording: what is computed must not depend on values then, only on shapes."""
    # PyTorch 2.6 has no word of its own for it.
    recording: bool = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()
    return recording


def is_looked_into() -> bool:
    """Return whether `torch.compile` or `torch.func` looks into every operation: none may depend on values then."""
    looked_into: bool = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    return looked_into


def count_below(x: Tensor, ascending: Tensor) -> Tensor:
    """Return how many of some numbers (K,) are below each x (B,), as `torch.searchsorted`, in operations of ONNX."""
    return (ascending < x.unsqueeze(1)).sum(dim=1)


def replace_rows(y: Tensor, where: Tensor, made: Callable[[Tensor], Tensor]) -> Tensor:
    """Return y (B, ...) with other values in some of its rows, in operations that an export records.

    `runs/export/branches.py` makes a branch of it that is left out where there is no such row.

    Args:
        y: the values.
        where: whether a row has others (B,).
        made: from the numbers of rows (R,) to their values (R, ...).
    """
    rows = where.nonzero().squeeze(1)
    some = torch.cat([rows, rows.new_zeros(1)])  # and one more: onnxruntime dies of none
    return y.index_put((rows,), made(some)[:-1])
