"""Items to draw from, uniformly or in proportion to weights, and drawing of items that an owner does not have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recbole_msr.data.item_sets import ItemSets

_ROUNDS = 20
"""Rounds of drawing again what an owner has; what is left then is drawn from the owner's other items alone."""


class ItemPool:
    """Items with the probabilities of being drawn.

    Args:
        items: different items (n,).
        weights: how likely each is (n,), above 0; None for all alike.

    Attributes:
        items: the items (n,).
        weights: the weights (n,), or None.
    """

    def __init__(self, items: np.ndarray, weights: np.ndarray | None = None) -> None:
        self.items = items
        self.weights = None if weights is None else weights.astype(np.float64)
        self._sums = None if self.weights is None else np.cumsum(self.weights)

    def __len__(self) -> int:
        return len(self.items)

    def draw(self, number: int, rng: np.random.Generator) -> np.ndarray:
        """Draw a number of items with replacement (number,)."""
        if self._sums is None:
            place = rng.integers(len(self.items), size=number)
        else:
            place = np.searchsorted(self._sums, rng.random(number) * self._sums[-1], side="right")
        drawn: np.ndarray = self.items[place]
        return drawn

    def without(self, items: np.ndarray) -> ItemPool:
        """Return the pool without some items."""
        stays = ~np.isin(self.items, items)
        return ItemPool(self.items[stays], None if self.weights is None else self.weights[stays])

    def left(self, owners: np.ndarray, had: ItemSets) -> np.ndarray:
        """Return how many items of the pool each of some owners (n,) does not have (n,)."""
        there = np.zeros(max(int(self.items.max(initial=0)), int(had.items.max(initial=0))) + 1, dtype=bool)
        there[self.items] = True
        place, items = had.pairs(owners)
        left: np.ndarray = len(self.items) - np.bincount(place[there[items]], minlength=len(owners))
        return left


def draw_others(
    pools: Sequence[ItemPool], kind: np.ndarray, owner: np.ndarray, had: ItemSets, rng: np.random.Generator
) -> np.ndarray:
    """Draw an item for each of n draws that its owner does not have, with replacement.

    Args:
        pools: what is drawn from, G pools.
        kind: the pool of each draw (n,), 0..G-1.
        owner: the owner of each draw (n,), who has at least one item of the pool left.
        had: the items that each owner has.
        rng: draws.

    Returns:
        Items (n,).
    """
    drawn = np.zeros(len(owner), dtype=np.int64)
    for number, pool in enumerate(pools):
        wanted = np.flatnonzero(kind == number)
        for _ in range(_ROUNDS):
            if not len(wanted):
                break
            drawn[wanted] = pool.draw(len(wanted), rng)
            wanted = wanted[had.contains(owner[wanted], drawn[wanted])]
        owners, place = np.unique(owner[wanted], return_inverse=True)
        for one, of_owner in enumerate(owners):  # few, who have nearly all that is likely to be drawn
            draws = wanted[place == one]
            drawn[draws] = pool.without(had.pairs(np.array([of_owner]))[1]).draw(len(draws), rng)
    return drawn
