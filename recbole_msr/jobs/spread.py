"""Mean and deviation of a metric over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Return mean and sample standard deviation of the values that exist, and all values.

    >>> spread([0.5, None, 0.7])["mean"]
    0.6
    """
    defined = [value for value in values if value is not None]
    return {
        "mean": statistics.mean(defined) if defined else None,
        "deviation": statistics.stdev(defined) if len(defined) > 1 else None,
        "values": list(values),
    }
