"""Profiles: vectors of users and scenarios that are means of the vectors of their items in the training interactions.

No text of a user is encoded, only one of each item, and a user's whole history counts, however long it is. With item
vectors v_i, brought to the mean 0 over all items that have one, a part of a profile is sum_i w_i v_i / sum_i w_i over
training rows of the user, and 0 (the mean item) where there is none:

    liked      rows whose label is 1, w = 1
    not_liked  rows whose label is 0, w = 1
    recent     rows whose label is 1, w = 1/2 ^ (r / 10) of the r-th newest, r = 0, 1, ...
    scenarios  `liked` of each scenario's rows, one after the other

A scenario's profile has `liked` and `not_liked` of its rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import csr_matrix

from recbole_msr.prompts.facts import Facts

HALF_LIFE = 10
"""So many likings back a liking counts half in `recent`."""
IDENTITY = {"version": 1, "half_life": HALF_LIFE}
"""What decides about profiles beside the data and the items' vectors: part of the key of knowledge."""
PARTS = ("liked", "not_liked", "recent", "scenarios")
"""The parts of a user's profile, in their order."""
_SHOWN = 5
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Profiles:
    """The profiles of one level, as weights of item vectors.

    Attributes:
        level: "user" or "scenario".
        tokens: external ids or scenario names (N).
        parts: name -> weights (N, I), one matrix or with `scenarios` one for each scenario; rows sum to 1 or are 0.
        texts: what each is made of, for people (N).
    """

    level: str
    tokens: list[str]
    parts: dict[str, list[csr_matrix]]
    texts: list[str]

    def write(self, folder: Path, item_vectors: np.ndarray, dtype: str) -> dict[str, Any]:
        """Write the vectors, their index and the texts into the folder of a store.

        Args:
            folder: the folder.
            item_vectors: of the items (I, H).
            dtype: of the vectors on disk.

        Returns:
            What knowledge.json says of the level.
        """
        width, n = item_vectors.shape[1], len(self.tokens)
        sizes = {name: len(weights) * width for name, weights in self.parts.items()}
        size = sum(sizes.values())
        matrix = np.lib.format.open_memmap(
            folder / f"{self.level}.npy", mode="w+", dtype=np.dtype(dtype), shape=(n, size)
        )
        for rows, vectors in profile_vectors(self.parts, centred(item_vectors, mean_item(item_vectors))):
            matrix[rows] = vectors
        matrix.flush()
        tokens = pa.array(self.tokens, pa.string())
        zeros = np.zeros(n, dtype=np.int64)
        index = {"token": tokens, "row": np.arange(n), "n_tokens": zeros, "truncated": zeros.astype(bool)}
        texts = {"token": tokens, "prompt": pa.array(self.texts, pa.string()), "answer": pa.nulls(n, pa.string())}
        pq.write_table(pa.table(index), folder / f"{self.level}.parquet")
        pq.write_table(pa.table(texts), folder / f"{self.level}_texts.parquet", compression="zstd")
        return {"rows": n, "size": size, "parts": sizes, "truncated": 0}


def make_profiles(facts: Facts, level: str, items: Sequence[str]) -> Profiles:
    """Make the profiles of all scenarios, or of all users that have a training row of an item with a vector.

    Args:
        facts: of the training interactions.
        level: "user" or "scenario".
        items: external ids of the items that have a vector (I).
    """
    rows = facts.rows()
    rows["item"] = pd.Index(np.asarray(items, dtype=object)).get_indexer(facts.items[rows["item"]].astype(str))
    rows = rows[rows["item"] >= 0]
    if level == "scenario":
        users, tokens = rows["scenario"].to_numpy(), list(facts.scenarios)
    else:
        kept, users = np.unique(rows["user"].to_numpy(), return_inverse=True)
        tokens = [str(token) for token in facts.users[kept]]
    rows = rows.assign(owner=users)
    names = [part for part in PARTS if part != "recent" or facts.has_times] if level == "user" else PARTS[:2]
    parts = profile_parts(rows, (len(tokens), len(items)), names, len(facts.scenarios))
    return Profiles(level, tokens, parts, _texts(facts, rows, len(tokens), items))


def profile_parts(
    rows: pd.DataFrame, shape: tuple[int, int], names: Collection[str], n_scenarios: int
) -> dict[str, list[csr_matrix]]:
    """Return parts of profiles as weights of item vectors, as `Profiles.parts`.

    Args:
        rows: by owner and, of each, newest first; columns owner (from 0), item (its number among those with a vector),
            label, and for `scenarios` scenario (from 0).
        shape: the number of owners, and of items (N, I).
        names: the parts wanted, some of `PARTS`.
        n_scenarios: M; read for `scenarios`.
    """
    liked, not_liked = rows[rows["label"] == 1], rows[rows["label"] == 0]
    parts = {}
    if "liked" in names:
        parts["liked"] = [_weights(liked, shape)]
    if "not_liked" in names:
        parts["not_liked"] = [_weights(not_liked, shape)]
    if "recent" in names:
        parts["recent"] = [_weights(liked, shape, recency(liked.groupby("owner").cumcount().to_numpy()))]
    if "scenarios" in names:
        parts["scenarios"] = [_weights(liked[liked["scenario"] == m], shape) for m in range(n_scenarios)]
    return parts


def mean_item(item_vectors: np.ndarray) -> np.ndarray:
    """Return the mean (H,) of all items' vectors (I, H), float32."""
    mean: np.ndarray = item_vectors.astype(np.float32).mean(axis=0)
    return mean


def centred(item_vectors: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return item vectors (n, H) less the mean of all items, float32."""
    vectors: np.ndarray = item_vectors.astype(np.float32)
    vectors -= mean
    return vectors


def profile_vectors(parts: Mapping[str, Sequence[csr_matrix]], items: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the profiles (n, P H) of some owners at a time, with their places.

    Args:
        parts: weights of item vectors (N, I).
        items: the items' `centred` vectors (I, H).
    """
    flat = [weights for part in parts.values() for weights in part]
    n = flat[0].shape[0]
    for start in range(0, n, _ROWS_AT_ONCE):
        rows = slice(start, min(n, start + _ROWS_AT_ONCE))
        yield rows, np.concatenate([weights[rows] @ items for weights in flat], axis=1)


def recency(age: np.ndarray) -> np.ndarray:
    """Return the weights (n,) in `recent` of likings, of which the newest has the age 0, the next one 1."""
    weights: np.ndarray = 0.5 ** (age / HALF_LIFE)
    return weights


def rows_without_vector(facts: Facts, items: Sequence[str]) -> int:
    """Count the training rows whose item has no vector."""
    has = np.isin(facts.items.astype(str), np.asarray(items, dtype=str))
    return int((~has[facts.rows()["item"].to_numpy()]).sum())


def _weights(rows: pd.DataFrame, shape: tuple[int, int], weights: np.ndarray | None = None) -> csr_matrix:
    """Return the weights (N, I) of the items of each owner's rows; they sum to 1 where there are any."""
    owner = rows["owner"].to_numpy()
    weights = np.ones(len(rows)) if weights is None else weights
    sums = np.bincount(owner, weights=weights, minlength=shape[0])
    return csr_matrix(((weights / sums[owner]).astype(np.float32), (owner, rows["item"].to_numpy())), shape=shape)


def _texts(facts: Facts, rows: pd.DataFrame, count: int, items: Sequence[str]) -> list[str]:
    is_liked = rows["label"].to_numpy() == 1
    likings = np.bincount(rows["owner"].to_numpy()[is_liked], minlength=count)
    others = np.bincount(rows["owner"].to_numpy()[rows["label"].to_numpy() == 0], minlength=count)
    newest = rows[is_liked].groupby("owner").head(_SHOWN)
    shown: list[list[str]] = [[] for _ in range(count)]
    for owner, item in zip(newest["owner"], newest["item"], strict=True):
        named = facts.item(str(items[item]))
        shown[owner].append(named.title or ", ".join(named.categories))
    return [
        f"Means of the vectors of {n} liked and of {m} other items"
        + (f"; liked, for instance: {'; '.join(titles)}" if titles else "")
        for n, m, titles in zip(likings, others, shown, strict=True)
    ]
