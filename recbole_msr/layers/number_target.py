"""The output of a task of numbers: from a field's unit to a network's scale and back, and the loss there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_msr.layers.tracing import count_below, is_exported

_LARGEST_LOG = 88.0
"""exp of it is still a float32."""

_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": lambda z, target: (z - target).square(),
    "huber": lambda z, target: F.huber_loss(z, target, reduction="none"),
    "mae": lambda z, target: (z - target).abs(),
}


class NumberTarget(nn.Module):
    """One task of numbers.

    target = (transform(y) - mean) / scale,   loss = (z - target)^2, huber(z - target) or |z - target|

    where z is what the network puts out, mean and scale are those of the transformed numbers of the training rows, and
    huber(e) = e^2 / 2 up to |e| = 1, |e| - 1/2 beyond. A prediction in the field's unit is the inverse of z. That of a
    mean on the scale of log(1 + y) or of quantiles is not the mean of y: mse and log1p give about the median of a
    skewed number.

    transform: none; log1p, log(1 + y); quantile, the share of training rows below y, linear between 1,001 quantiles at
    most, so that predictions stay in the training rows' range (as labels of Zhan et al., "Deconfounding Duration Bias
    in Watch-time Prediction for Video Recommendation", KDD 2022).

    Args:
        transform: none, log1p or quantile.
        loss: mse, huber or mae.
        scale: what `data.label_scale.label_scales` found for the task.
    """

    typical: Tensor
    mean: Tensor
    scale: Tensor
    values: Tensor
    levels: Tensor

    def __init__(self, transform: str, loss: str, scale: Mapping[str, Any]) -> None:
        super().__init__()
        self.transform, self.loss = transform, loss
        for name in ("typical", "mean", "scale"):
            self.register_buffer(name, torch.tensor(float(scale[name])), persistent=False)
        if transform == "quantile":
            for name in ("values", "levels"):
                self.register_buffer(name, torch.tensor(scale[name]), persistent=False)

    def losses(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the loss of each row (B,), of outputs z (B,) and numbers y (B,); of a y that is not finite, any."""
        y = torch.where(y.isfinite(), y, self.typical)  # its gradient is masked, which does not help against NaN
        return _LOSSES[self.loss](z, (self._transformed(y) - self.mean) / self.scale)

    def predictions(self, z: Tensor) -> Tensor:
        """Return predictions (B,) in the field's unit, of outputs z (B,)."""
        transformed = z * self.scale + self.mean
        if self.transform == "log1p":
            return transformed.clamp(0, _LARGEST_LOG).expm1()
        if self.transform == "quantile":
            return _interpolated(transformed, self.levels, self.values)
        return transformed

    def _transformed(self, y: Tensor) -> Tensor:
        if self.transform == "log1p":
            return y.log1p()
        if self.transform == "quantile":
            return _interpolated(y, self.values, self.levels)
        return y


def _interpolated(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Return the piecewise linear function through (xs, ys) at x (B,), constant beyond the ends; xs ascend strictly."""
    place = count_below(x, xs) if is_exported() else torch.searchsorted(xs, x.contiguous())
    right = place.clamp(1, len(xs) - 1)
    left = right - 1
    share = ((x - xs[left]) / (xs[right] - xs[left])).clamp(0, 1)
    return ys[left] + share * (ys[right] - ys[left])
