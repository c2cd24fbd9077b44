"""Dropout that does not cost a CPU more than the layers it stands between."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_LEVELS = 1 << 8


class Dropout(nn.Dropout):
    """y = x * m / (1 - p), each m 1 with probability 1 - p and else 0, in training; y = x in evaluation.

    On a CPU `draw_mask` draws m; elsewhere, and in what `torch.compile` compiles, it is PyTorch's own.

    Args:
        p: share of the elements dropped, 0 <= p < 1.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return y in the shape of the input."""
        if not self.training or self.p == 0 or input.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(input)
        return input * draw_mask(input, self.p).mul_(1 / (1 - self.p))


def draw_mask(like: Tensor, p: float) -> Tensor:
    """Draw m in the shape and type of `like`, on the CPU: each 0 with probability p and else 1, independently.

    PyTorch draws one number for every element, which takes a third of a training step of a model of many small
    experts. Here eight elements share the 64 bits of one draw. Eight bits an element make probabilities of n / 256
    alone, so too many ones are drawn at first, with the next greater n / 256 = (1 - p) exp(c), and a Poisson number of
    hits with the mean c an element, each on any element, makes zeros of the share exp(-c) of them that are too many.

    Args:
        like: a tensor.
        p: 0 <= p < 1.
    """
    size, mask = like.numel(), torch.empty(like.shape, dtype=like.dtype)
    n = math.ceil((1 - p) * _LEVELS)
    drawn = torch.empty((size + 7) // 8, dtype=torch.int64).random_(-(1 << 63), None)
    # A signed byte is at most n - 129 in n of 256 cases.
    torch.le(drawn.view(torch.int8)[:size].view(like.shape), n - 1 - _LEVELS // 2, out=mask)
    hits = size * math.log(n / _LEVELS / (1 - p))
    if hits > 0:
        n_hits = int(torch.poisson(torch.tensor(hits, dtype=torch.float64)))
        mask.view(-1).index_fill_(0, torch.randint(size, (n_hits,)), 0)
    return mask
