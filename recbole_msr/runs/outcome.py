"""The results of training and test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recbole_msr.evaluation.cells import Evaluation


@dataclass
class Outcome:
    """The results of training and test.

    Attributes:
        summary: their part of result.json.
        valid, test: the scenario x task cells of the best epoch; None under RecBole's trainer.
        seconds_before: seconds of training before the run was resumed.
    """

    summary: dict[str, Any]
    valid: Evaluation | None = None
    test: Evaluation | None = None
    seconds_before: float = 0.0


def finite_metrics(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Return metrics as JSON can hold them: None in the place of NaN."""
    return {name: (float(value) if value == value else None) for name, value in metrics.items()}
