"""Sets of items by list or user, as one sorted array."""

from __future__ import annotations

import numpy as np


def within_groups(counts: np.ndarray) -> np.ndarray:
    """Return the places 0, 1, ... within each of groups of so many, one group after the other.

    >>> within_groups(np.array([2, 3])).tolist()
    [0, 1, 0, 1, 2]
    """
    places: np.ndarray = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return places


class ItemSets:
    """A set of items for each of several owners: lists, or users.

    >>> ItemSets(np.array([1, 0, 1]), np.array([5, 3, 5]), 2, 10).pairs(np.array([1, 0]))
    (array([0, 1]), array([5, 3]))

    Args:
        owner: the owner of every pair (N,), in any order and repeated at will.
        items: its item (N,).
        n_owners: how many owners there are.
        n_items: the number of ids of items.

    Attributes:
        items: the items of all owners, one after the other.
        counts: how many each has (n_owners,).
    """

    def __init__(self, owner: np.ndarray, items: np.ndarray, n_owners: int, n_items: int) -> None:
        self._n_items = n_items
        self._codes = np.unique(owner.astype(np.int64) * n_items + items)
        self.items = self._codes % n_items
        self.counts = np.bincount(self._codes // n_items, minlength=n_owners)
        self._starts = np.cumsum(self.counts) - self.counts

    def pairs(self, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the items of some owners (n,): of each pair the place of its owner among these, and the item."""
        counts = self.counts[owners]
        place = np.repeat(np.arange(len(owners)), counts)
        return place, self.items[self._starts[owners][place] + within_groups(counts)]

    def contains(self, owner: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return whether pairs (n,) are among the sets (n,)."""
        codes = owner.astype(np.int64) * self._n_items + items
        place = np.searchsorted(self._codes, codes)
        found: np.ndarray = np.append(self._codes, -1)[place] == codes
        return found
