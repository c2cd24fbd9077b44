"""Whether operations are being recorded for another program, such as ONNX, rather than computed."""

from __future__ import annotations

import torch
from torch import Tensor


def is_exported() -> bool:
    """Return whether `torch.export` is recording: what is computed must not depend on values then, only on shapes."""
    # PyTorch 2.6 has no word of its own for it.
    recording: bool = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()
    return recording


def count_below(x: Tensor, ascending: Tensor) -> Tensor:
    """Return how many of some numbers (K,) are below each x (B,), as `torch.searchsorted`, in operations of ONNX."""
    return (ascending < x.unsqueeze(1)).sum(dim=1)
