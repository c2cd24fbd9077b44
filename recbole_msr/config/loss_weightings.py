"""The registry of loss weightings: how the losses of the tasks become one, and what each needs of a run.

Key checks, models, training and messages read it. A new weighting is a subclass of
`recbole_msr.training.weighting.loss_weighting.LossWeighting`, an entry here, the defaults of its options in
`properties/overall.yaml`, and a row in `docs/loss-weighting.md`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from recbole_msr.value_kinds import Kind, number

_MODULE = "recbole_msr.training.weighting.loss_weighting"


@dataclass(frozen=True)
class WeightingInfo:
    """A loss weighting, before anything is built."""

    class_path: tuple[str, str] | None = None
    """Module and class that weigh the losses during a training; None where the model's own loss does."""
    is_constant: bool = False
    """True if the weights are constants, so that a model with a single loss takes it too."""
    reads_gradients: bool = False
    """True if it reads the whole gradient of every task."""
    options: Mapping[str, Kind] = field(default_factory=dict)
    """Configuration keys that it alone reads, with the kind of their values."""

    @property
    def needs_trainer(self) -> bool:
        """True if it follows the training over several batches, for which RecBole's own trainer has no place."""
        return self.class_path is not None

    def load(self) -> Any:
        """Import its class, a `LossWeighting`.

        Raises:
            ValueError: it has none: the model's own loss does what it says.
        """
        if self.class_path is None:
            raise ValueError("the model's own loss weighs the tasks")
        module, name = self.class_path
        return getattr(importlib.import_module(module), name)


LOSS_WEIGHTINGS: Mapping[str, WeightingInfo] = {
    "fixed": WeightingInfo(is_constant=True),
    "equal": WeightingInfo(is_constant=True),
    "uncertainty": WeightingInfo(),
    "gradnorm": WeightingInfo(
        (_MODULE, "GradNorm"),
        reads_gradients=True,
        options={"gradnorm_alpha": number(0), "gradnorm_learning_rate": number(above=0)},
    ),
    "dwa": WeightingInfo((_MODULE, "DynamicWeightAverage"), options={"dwa_temperature": number(above=0)}),
    "pcgrad": WeightingInfo((_MODULE, "PCGrad"), reads_gradients=True),
}
"""Value of `loss_weighting` -> what it is, in the order of messages and documentation."""


def weightings_where(condition: Callable[[WeightingInfo], bool], conjunction: str = "and") -> str:
    """Name the weightings that meet a condition, for a message.

    >>> weightings_where(lambda weighting: weighting.reads_gradients)
    'gradnorm and pcgrad'
    """
    *names, last = [name for name, weighting in LOSS_WEIGHTINGS.items() if condition(weighting)]
    return f"{', '.join(names)} {conjunction} {last}" if names else last
