"""What a million rows cost beside training: their metrics, and their histories."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from benchmarks import histories as of_histories
from benchmarks.measure import peak_gb

ROWS, TIMES = 1_000_000, 5
LIMITS = {"XAUC": 1.0, "ECE": 1.0, "weighted AUC": 1.0, "histories": 10.0, "histories, GB": 2.0}
"""Seconds that each may take at most, and gigabytes."""


def metrics() -> dict[str, float]:
    """Return seconds of processor time, the median of five, for the metrics of a million rows, all in one group."""
    from recbole_msr.evaluation.formulas import ScoredRows, expected_calibration_error
    from recbole_msr.evaluation.number_formulas import PredictedNumbers, ordered_pairs
    from recbole_msr.evaluation.weighted_formulas import WeightedGroups, weighted_auc

    draw = np.random.default_rng(0)
    labels = (draw.random(ROWS) < 0.2).astype(np.float32)
    scores = (1 / (1 + np.exp(1.5 - labels - draw.normal(size=ROWS)))).astype(np.float32)
    seconds_watched = draw.gamma(2, 10, ROWS).round(1).astype(np.float32)
    predicted = (seconds_watched * draw.lognormal(0, 0.5, ROWS)).astype(np.float32)
    weights = draw.gamma(1, 1, ROWS).astype(np.float32)
    ways: dict[str, Callable[[], object]] = {
        "XAUC": lambda: ordered_pairs(PredictedNumbers(predicted, seconds_watched).grouped()),
        "ECE": lambda: expected_calibration_error(ScoredRows(scores, labels).grouped()),
        "weighted AUC": lambda: weighted_auc(WeightedGroups(ScoredRows(scores, labels), weights)),
    }
    return {name: statistics.median(_seconds(way) for _ in range(TIMES)) for name, way in ways.items()}


def histories() -> dict[str, float]:
    """Return seconds for building the histories of a million rows, and the most memory that the process has held."""
    found = of_histories.building()
    return {"histories": found["seconds"], "histories, GB": peak_gb()}


def _seconds(way: Callable[[], object]) -> float:
    began = time.process_time()
    way()
    return time.process_time() - began
