"""Count distinct ids of any number in eight bytes each, and compare counts with published ones."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa

from recbole_msr.data.public.spec import Published

_STEPS = {"K": 10**3, "M": 10**6, "B": 10**9}


class IdSet:
    """A set of ids that keeps a hash of 64 bits of each, so that millions of them fit into memory.

    Two different ids have the same hash with a probability of 3e-5 among 32 million.
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []  # sorted, each at least twice as long as the next

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def add(self, ids: pa.Array) -> np.ndarray:
        """Add ids (N,); return (N,) whether each is new, a second one within `ids` not."""
        hashes = hashes_of(ids)
        unique, first = np.unique(hashes, return_index=True)
        new = ~self._holds(unique)
        is_new = np.zeros(len(hashes), dtype=bool)
        is_new[first[new]] = True
        if new.any():
            self._runs.append(unique[new])
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]), kind="stable")
        return is_new

    def contains(self, ids: pa.Array) -> np.ndarray:
        """Return (N,) whether each of the ids is in the set."""
        return self._holds(hashes_of(ids))

    def lacks(self, others: IdSet) -> int:
        """Return how many of another set's ids are not in this one."""
        return sum(int((~self._holds(run)).sum()) for run in others._runs)

    def _holds(self, hashes: np.ndarray) -> np.ndarray:
        held = np.zeros(len(hashes), dtype=bool)
        for run in self._runs:
            places = np.searchsorted(run, hashes)
            places[places == len(run)] = 0
            held |= run[places] == hashes
        return held


def hashes_of(ids: pa.Array) -> np.ndarray:
    """Return a hash of 64 bits of each id (N,)."""
    encoded = ids.dictionary_encode()
    unique = pd.util.hash_array(np.asarray(encoded.dictionary.to_pylist(), dtype=object), categorize=False)
    return unique[encoded.indices.to_numpy(zero_copy_only=False)] if len(ids) else np.empty(0, np.uint64)


@dataclass
class Counts:
    """Rows, users and items of a dataset or a part of it."""

    rows: int = 0
    users: IdSet = field(default_factory=IdSet)
    items: IdSet = field(default_factory=IdSet)

    def add(self, users: pa.Array, items: pa.Array) -> None:
        """Count rows, by their users and items (N,)."""
        self.rows += len(users)
        self.users.add(users)
        self.items.add(items)

    def describe(self) -> str:
        """Return the counts in words."""
        return f"{self.rows:,} rows, {len(self.users):,} users, {len(self.items):,} items"

    def differences(self, published: Published) -> list[str]:
        """Return each count that is not the published one, with both figures."""
        compared = (
            ("rows", self.rows, published.rows),
            ("users", len(self.users), published.users),
            ("items", len(self.items), published.items),
        )
        return [
            f"{here:,} {what}, published {there if isinstance(there, str) else format(there, ',')}"
            for what, here, there in compared
            if there is not None and not _agree(here, there)
        ]


def _agree(here: int, published: int | str) -> bool:
    """Return whether a count is the published one, as far as that was rounded."""
    if isinstance(published, int):
        return here == published
    digits, step = published[:-1], _STEPS[published[-1]]
    decimals = len(digits.partition(".")[2])
    return bool(abs(here / step - float(digits)) <= 0.5 * 10**-decimals * (1 + 1e-9))
