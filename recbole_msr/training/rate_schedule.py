"""The learning rate from step to step: a warm-up, and a way down to zero."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from recbole_msr.config.key_table import SHAPES
from recbole_msr.errors import InputError
from recbole_msr.options import Options


@dataclass(frozen=True)
class RateSchedule:
    """A factor on the learning rate for every step.

    A step at the time p, in epochs since the start of the training, that takes 1/n of an epoch has the factor

        (p + 1/n) / w                                 during the warm-up, p < w
        1                                             afterwards, if constant
        1 - q,   q = (p - w) / (H - w)                linear
        (1 + cos(pi q)) / 2                           cosine

    so that the first step has a rate, and after H epochs there is none: the training ends then. Sources: Goyal et al.,
    "Accurate, Large Minibatch SGD", 2017 (warm-up); Loshchilov and Hutter, "SGDR", ICLR 2017, eq. 5 (cosine).

    Attributes:
        shape: a word of `SHAPES`.
        warmup: w, in epochs.
        horizon: H, in epochs.
    """

    shape: str
    warmup: float
    horizon: int

    @classmethod
    def from_config(cls, config: Any) -> RateSchedule | None:
        """Return what `learning_rate_schedule`, `schedule_epochs` and `warmup_epochs` say; None if they change nothing.

        Raises:
            InputError: an impossible value, or an `lr_scheduler` beside it.
        """
        option = Options(config)
        shape = option.choice("learning_rate_schedule", SHAPES)
        warmup = option.number("warmup_epochs", at_least=0)
        if shape == "constant" and not warmup:
            return None
        key = "warmup_epochs" if shape == "constant" else "learning_rate_schedule"
        if config["lr_scheduler"]:
            raise InputError(
                f"{key} and lr_scheduler both set the learning rate: leave one of them out (lr_scheduler has a class "
                "of PyTorch's, stepped every epoch; the other goes from step to step)"
            )
        given = None if shape == "constant" else config["schedule_epochs"]
        horizon = int(config["epochs"]) if given is None else option.integer("schedule_epochs")
        if warmup >= horizon:
            of = "epochs" if given is None else "schedule_epochs"
            raise InputError(f"warmup_epochs must be below {of} ({horizon}), got {warmup:g}")
        return cls(shape, warmup, horizon)

    def factor(self, done: float, step: float) -> float:
        """Return the factor on the learning rate of a step.

        Args:
            done: p, how many epochs are done when it begins.
            step: 1/n, its own part of an epoch.
        """
        if done < self.warmup:
            return min(1.0, (done + step) / self.warmup)
        if self.shape == "constant":
            return 1.0
        q = min(1.0, (done - self.warmup) / (self.horizon - self.warmup))
        return 1 - q if self.shape == "linear" else (1 + math.cos(math.pi * q)) / 2

    def ends_by(self, epoch: int) -> bool:
        """Return whether no learning rate is left after so many epochs."""
        return self.shape != "constant" and epoch >= self.horizon
