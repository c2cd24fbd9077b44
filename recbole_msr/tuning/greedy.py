"""Greedy selection of an ensemble: Caruana et al., Ensemble Selection from Libraries of Models, ICML 2004."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def select_greedily(
    scores: Sequence[np.ndarray],
    badness: Callable[[np.ndarray], float],
    picks: int,
    stop: Callable[[], bool] = lambda: False,
) -> list[int]:
    """Pick models one after the other, each the one whose predictions improve the mean most; again and again, too.

    It is the paper's forward selection with replacement, which begins with the best model. What is returned ends with
    the pick after which the mean was at its best, the first of equals; so it is never worse than the best model alone
    on the rows that select.

    Args:
        scores: each model's predictions (N, C); of equal models the first one is picked.
        badness: of predictions (N, C), smaller is better; infinite or NaN where they have no value.
        picks: number of picks, at least 1.
        stop: asked before every pick but the first whether to end.

    Returns:
        The picks by their places in `scores`; a model's weight is the number of its picks.
    """
    total = np.zeros_like(scores[0], dtype=np.float64)
    picked: list[int] = []
    best_length, best_value = 1, np.inf
    for count in range(1, picks + 1):
        if picked and stop():
            break
        values = [_finite(badness((total + one) / count)) for one in scores]
        place = int(np.argmin(values))
        picked.append(place)
        total += scores[place]
        if values[place] < best_value:
            best_length, best_value = count, values[place]
    return picked[:best_length]


def _finite(value: float) -> float:
    return np.inf if np.isnan(value) else value
