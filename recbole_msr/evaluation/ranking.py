"""Metrics of ranked lists, with RecBole's definitions and values: of every list, and means of groups of lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


def hit(hits: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Return 1 where a positive is among the first k, else 0, for k = 1..K.

    Args:
        hits: whether the item at each place of a list is a positive (L, K).
        positives: the number of positives of each list (L,), at least 1.

    Returns:
        Values (L, K), here as in all functions of this module.
    """
    return (np.cumsum(hits, axis=1) > 0).astype(np.float64)


def mrr(hits: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Return 1 / the place of the first positive among the first k, 0 without one: reciprocal rank."""
    first = hits.argmax(axis=1)
    found = np.cumsum(hits, axis=1) > 0
    return np.where(found, 1.0 / (first + 1)[:, None], 0.0)


def precision(hits: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Return the share of positives among the first k."""
    shares: np.ndarray = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return shares


def recall(hits: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Return the share of the positives that are among the first k."""
    shares: np.ndarray = np.cumsum(hits, axis=1) / positives[:, None]
    return shares


def average_precision(hits: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Return the sum of the precision at the places of positives, over min(k, number of positives)."""
    sums = np.cumsum(precision(hits, positives) * hits, axis=1)
    averages: np.ndarray = sums / np.minimum(np.arange(1, hits.shape[1] + 1), positives[:, None])
    return averages


def ndcg(hits: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Return the sum of 1 / log2(1 + place) of positives among the first k, over the greatest that there could be."""
    discounts = 1.0 / np.log2(np.arange(1, hits.shape[1] + 1) + 1)
    greatest = np.cumsum(discounts)
    last = np.minimum(np.arange(1, hits.shape[1] + 1), positives[:, None])
    gains: np.ndarray = np.cumsum(np.where(hits, discounts, 0), axis=1) / greatest[last - 1]
    return gains


@dataclass(frozen=True)
class ListMetric:
    """A metric of ranked lists, of which a cutoff k makes a metric such as `ndcg@10`.

    Attributes:
        heading: its name in tables, and RecBole's.
        values: of the hits (L, K) and the numbers of positives (L,), the values at all cutoffs (L, K).
    """

    heading: str
    values: Callable[[np.ndarray, np.ndarray], np.ndarray]


LIST_METRICS: dict[str, ListMetric] = {
    "recall": ListMetric("Recall", recall),
    "mrr": ListMetric("MRR", mrr),
    "ndcg": ListMetric("NDCG", ndcg),
    "hit": ListMetric("Hit", hit),
    "precision": ListMetric("Precision", precision),
    "map": ListMetric("MAP", average_precision),
}
"""RecBole's metrics of ranked lists that are known here, by their names in lower case."""


def list_metric(name: str) -> tuple[ListMetric, int] | None:
    """Return the metric and the cutoff k of a name; None for another name.

    >>> list_metric("ndcg@10")[1], list_metric("ndcg"), list_metric("auc@10")
    (10, None, None)
    """
    metric, _, cutoff = name.partition("@")
    if metric not in LIST_METRICS or not cutoff.isdecimal() or cutoff.startswith("0"):
        return None
    return LIST_METRICS[metric], int(cutoff)


def list_metric_names(metrics: Sequence[str], cutoffs: Sequence[int]) -> list[str]:
    """Return the names of metrics at cutoffs, in RecBole's order.

    >>> list_metric_names(["Recall", "NDCG"], [5, 10])
    ['recall@5', 'recall@10', 'ndcg@5', 'ndcg@10']
    """
    return list(dict.fromkeys(f"{metric.lower()}@{cutoff}" for metric in metrics for cutoff in cutoffs))


def list_values(hits: np.ndarray, positives: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the values of metrics of each list (L,), by name.

    Args:
        hits: whether the item at each place of a list is a positive (L, K), K at least the greatest cutoff.
        positives: the number of positives of each list (L,), at least 1.
        names: such as `ndcg@10`.

    Raises:
        ValueError: a name is none of a metric of lists, or K is too small.
    """
    hits, positives = np.asarray(hits, dtype=bool), np.asarray(positives)
    tables: dict[str, np.ndarray] = {}
    values = {}
    for name in names:
        found = list_metric(name)
        if found is None or found[1] > hits.shape[1]:
            raise ValueError(f"'{name}' is no metric of lists of {hits.shape[1]} places")
        metric, cutoff = found
        if metric.heading not in tables:
            tables[metric.heading] = metric.values(hits, positives)
        values[name] = tables[metric.heading][:, cutoff - 1]
    return values


@dataclass(frozen=True)
class ListGroups:
    """Lists in G groups, with the means of their metrics.

    Attributes:
        group: the number of each group (G,).
        rows: how many lists it has (G,).
        positives: how many positives these have (G,).
        means: by metric the mean over the lists of each group (G,).
    """

    group: np.ndarray
    rows: np.ndarray
    positives: np.ndarray
    means: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, values: Mapping[str, np.ndarray], positives: np.ndarray, group: np.ndarray | None = None) -> ListGroups:
        """Group lists.

        Args:
            values: by metric each list's value (L,).
            positives: the number of positives of each list (L,).
            group: the group of each list (L,); None for one group of all, with the number 0.
        """
        if group is None:
            group = np.zeros(len(positives), dtype=np.int64)
        numbers = np.unique(group)
        of_group = [group == number for number in numbers]
        return cls(
            numbers,
            np.array([of.sum() for of in of_group], dtype=np.int64),
            np.array([positives[of].sum() for of in of_group], dtype=np.int64),
            {name: np.array([column[of].mean() for of in of_group]) for name, column in values.items()},
        )
