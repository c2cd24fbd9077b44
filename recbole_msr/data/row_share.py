"""A share of the training rows: whole users, spread so that every scenario x task cell keeps its share."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch

from recbole_msr.data.packed import PackedTable

_STEP = (5**0.5 - 1) / 2
"""The golden ratio's inverse: the fractional parts of its multiples are even on every stretch (Kronecker sequence)."""
LEAST_USERS = 100
"""Below so many users rows are drawn one by one: a few users are no share."""
_LEVELS = 4
"""Levels of a user's share of positives that are told apart."""


def share_rows(
    table: PackedTable,
    share: float,
    seed: int,
    user: str | None,
    scenario: str | None,
    labels: list[str],
    numbers: Collection[str] = (),
) -> torch.Tensor:
    """Return the rows of a share: all rows of some users, or single rows where the table has hardly any.

    Users of one scenario, with like shares of positives and like numbers of rows, stand side by side in a list, and
    every stretch of the list gives its share of users. A larger share of the same table and seed has all rows of a
    smaller one. A cell (scenario x label) with both classes has both in every share: if none of the users drawn has
    one, the first in the order of drawing who has is added.

    Args:
        table: the training rows, N of them.
        share: above 0, at most 1.
        seed: decides which users are drawn; the same seed draws the same ones in every process.
        user: column of the users' ids; None, or no column of the table, or below
            `LEAST_USERS` of them: rows are drawn one by one.
        scenario: column of the scenarios' ids; likewise, all rows are of one scenario.
        labels: columns of the labels, 0 or 1, and below 0 where there is none.
        numbers: those of these columns that hold numbers, and -inf where there is none: a positive is one above the
            median.

    Returns:
        Row numbers in ascending order.
    """
    length = len(table)
    if share >= 1:
        return torch.arange(length)
    whole = table.whole(name for name in (user, scenario, *labels) if name is not None).interaction
    columns = {name: column.cpu().numpy() for name, column in whole.items()}
    given = columns.get(user) if user is not None else None
    users = _groups(given, length)
    scenarios = columns.get(scenario) if scenario is not None else None
    scenarios = np.zeros(length, dtype=np.int64) if scenarios is None else np.unique(scenarios, return_inverse=True)[1]
    values = [_binary(columns[name]) if name in numbers else columns[name] for name in labels if name in columns]
    draw = _draw(users, scenarios, values, seed)
    chosen = draw < share
    chosen[_needed(users, scenarios, values, draw)] = True
    return torch.from_numpy(np.flatnonzero(chosen[users]))


def _binary(numbers: np.ndarray) -> np.ndarray:
    """Return 1 for numbers above the median, 0 for others, -1 where there is none; (N,)."""
    known = np.isfinite(numbers)
    return np.where(known, numbers > (np.median(numbers[known]) if known.any() else 0), -1.0)


def _groups(users: np.ndarray | None, length: int) -> np.ndarray:
    """Return the group (N,) of each row that is drawn as a whole: its user, or itself where these are too few."""
    if users is not None:
        distinct, groups = np.unique(users, return_inverse=True)
        if len(distinct) >= LEAST_USERS:
            return groups
    return np.arange(length)


def _draw(users: np.ndarray, scenarios: np.ndarray, labels: list[np.ndarray], seed: int) -> np.ndarray:
    """Return a number from 0 to below 1 a user (U,), evenly spread among users that are alike."""
    random = np.random.default_rng(seed)
    rows = np.bincount(users)
    order = [random.random(len(rows)), rows]
    for label in reversed(labels):
        known = label >= 0
        of_user = np.bincount(users[known], minlength=len(rows))
        positives = np.bincount(users[known], weights=label[known] > 0, minlength=len(rows))
        rate = np.divide(positives, of_user, out=np.full(len(rows), -1.0), where=of_user > 0)
        order.append(np.searchsorted(np.quantile(rate, np.arange(1, _LEVELS) / _LEVELS), rate, side="left"))
    order.append(_most_frequent(users, scenarios, len(rows)))
    place = np.empty(len(rows))
    place[np.lexsort(order)] = np.arange(len(rows))
    return np.asarray((place * _STEP + random.random()) % 1.0)


def _most_frequent(users: np.ndarray, scenarios: np.ndarray, count: int) -> np.ndarray:
    """Return the scenario (U,) in which a user has most rows, the first of equals."""
    kinds = int(scenarios.max(initial=0)) + 1
    pairs, rows = np.unique(users.astype(np.int64) * kinds + scenarios, return_counts=True)
    best = np.full(count, -1)
    order = np.lexsort((-pairs, rows))  # later ones write over earlier ones
    best[pairs[order] // kinds] = pairs[order] % kinds
    return best


def _needed(users: np.ndarray, scenarios: np.ndarray, labels: list[np.ndarray], draw: np.ndarray) -> np.ndarray:
    """Return, for each class of each cell that has both, the user of it who is drawn first."""
    by_draw = np.argsort(draw[users], kind="stable")
    needed: list[np.ndarray] = []
    for label in labels:
        known = by_draw[label[by_draw] >= 0]
        kinds = scenarios[known] * 2 + (label[known] > 0)
        present, first = np.unique(kinds, return_index=True)
        both = np.isin(present ^ 1, present)
        needed.append(users[known[first[both]]])
    return np.concatenate([np.empty(0, dtype=np.int64), *needed])
