"""The nearest users, items and scenarios by the cosine of their vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from recbole_msr.models.frozen_vectors import FrozenVectors
from recbole_msr.models.knowledge import KnowledgeVectors
from recbole_msr.prompts.store import Knowledge
from recbole_msr.runs.explain.views import Neighbour

NEAREST = 5
"""So many are named."""
_READ_AT_ONCE = 8192


@torch.no_grad()
def nearest_ids(vectors: KnowledgeVectors, names: Sequence[str], chosen: Sequence[str]) -> dict[str, list[Neighbour]]:
    """Return the nearest to some ids by the vectors h that a model reads, scaled and reduced.

    Args:
        vectors: the vectors of a level.
        names: of all ids.
        chosen: names of those that neighbours are wanted of. One that the model does not know has none.
    """
    place = {name: number for number, name in enumerate(names)}
    ids = [place[name] for name in chosen if vectors.known[place[name]]]
    known = vectors.known.nonzero().squeeze(1)

    read = ((part.numpy(), vectors(part).double().numpy()) for part in known.split(_READ_AT_ONCE))
    found = _nearest(vectors(torch.tensor(ids, dtype=torch.long)).double().numpy(), ids, read)
    return {
        names[own]: [Neighbour(names[of], cosine) for of, cosine in best] for own, best in zip(ids, found, strict=True)
    }


@torch.no_grad()
def cosines(vectors: KnowledgeVectors, ids: Sequence[int]) -> list[list[float | None]]:
    """Return the cosines between the vectors h of ids (n, n); None of an unknown one, and of itself."""
    unit = _unit(vectors(torch.tensor(ids)).double().numpy())
    values = unit @ unit.T
    values[~vectors.known[torch.tensor(ids)].numpy()] = np.nan
    return [
        [
            None if i == j or not np.isfinite(values[i, j] + values[j, i]) else float(values[i, j])
            for j in range(len(ids))
        ]
        for i in range(len(ids))
    ]


def nearest_items(store: Knowledge, level: str, chosen: Sequence[str]) -> dict[str, list[Neighbour]]:
    """Return the items nearest to some users or scenarios by the store's vectors, each less the mean of its level.

    Of a profile it is the part `liked`, a mean of item vectors that are without their mean already.

    Args:
        store: the run's.
        level: "user" or "scenario".
        chosen: external names; those without a vector have none.
    """
    if not {level, "item"} <= set(store.levels):
        return {}
    width, parts = store.level_size("item"), store.parts(level)
    rows = store.rows(level, list(chosen))
    own = np.asarray(store.vectors(level)[rows.clip(0)], dtype=np.float64)
    if parts:
        end = int(np.cumsum(list(parts.values()))[list(parts).index("liked")])
        own = own[:, end - width : end]
    else:
        own -= _mean(FrozenVectors(store.vectors(level)))
    items = FrozenVectors(store.vectors("item"))
    mean, names = _mean(items), store.tokens("item")

    def candidates() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        start = 0
        for chunk in items.chunks():
            yield np.arange(start, start + len(chunk)), chunk - mean
            start += len(chunk)

    found = _nearest(own, [-1] * len(own), candidates())
    return {
        name: [Neighbour(str(names[of]), cosine) for of, cosine in best]
        for name, row, best in zip(chosen, rows, found, strict=True)
        if row >= 0 and best
    }


def _mean(vectors: FrozenVectors) -> np.ndarray:
    total: np.ndarray = sum(chunk.sum(axis=0) for chunk in vectors.chunks()) / len(vectors.matrix)
    return total


def _nearest(
    own: np.ndarray, left_out: Sequence[int], candidates: Iterator[tuple[np.ndarray, np.ndarray]]
) -> list[list[tuple[int, float]]]:
    """Return the numbers and cosines of the `NEAREST` candidates to each of n vectors (n, S), the nearest first.

    Args:
        own: the vectors.
        left_out: a candidate's number that each has not, being itself.
        candidates: numbers (c,) and vectors (c, S), part by part.
    """
    best: list[list[tuple[int, float]]] = [[] for _ in own]
    unit = _unit(own)
    for numbers, vectors in candidates:
        values = unit @ _unit(vectors).T
        for row, without in enumerate(left_out):
            there = np.isfinite(values[row]) & (numbers != without)  # a vector of zeros has no direction
            some, cosine = numbers[there], values[row][there]
            order = np.argsort(-cosine, kind="stable")[:NEAREST]
            new = [(int(some[place]), float(cosine[place])) for place in order]
            best[row] = sorted([*best[row], *new], key=lambda pair: -pair[1])[:NEAREST]
    return best


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (n, S) of length 1; not numbers where one has no length."""
    with np.errstate(invalid="ignore", divide="ignore"):
        unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
