"""Controls: vectors that know nothing of what they stand for, in place of a language model's."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from recbole_msr.models.frozen_vectors import CHUNK, FrozenVectors, principal_axes

CONTROLS = ("none", "random", "permuted")


def random_vectors(tokens: Sequence[str], size: int, seed: int, level: str) -> np.ndarray:
    """Draw the control: standard normal vectors (N, size), float16, each from its token, the level and the seed alone.

    Neither the order of the tokens nor which others there are changes a vector, nor does any generator's state.
    """
    keys = _token_keys(tokens, seed, level)
    vectors = np.empty((len(tokens), size), dtype=np.float16)
    columns = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    step = max(1, CHUNK // 8 // size)
    for start in range(0, len(tokens), step):
        bits = keys[start : start + step, None] + columns  # the SplitMix64 generator, entered at any place
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits ^= bits >> np.uint64(31)
        radius = ((bits >> np.uint64(32)) + 1.0) / 2**32
        angle = (bits & np.uint64(0xFFFFFFFF)) / 2**32
        vectors[start : start + step] = np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle)  # Box-Muller
    return vectors


def random_like(vectors: FrozenVectors, tokens: Sequence[str], seed: int, level: str) -> np.ndarray:
    """Draw random vectors (N, H) with the mean and the covariance of given ones, and so with their spectrum.

    Of N given vectors with the variances s_k (r,) along their principal directions d_k (r, H), it is
    mean + sum_k g_k sqrt(s_k) d_k; the g (N, r) are drawn as in `random_vectors`, and made to have the mean 0 and no
    correlation. Of a large store, mean and variances are those of rows spread evenly over it (`principal_axes`). A
    single vector has nothing to be drawn from but its sign.

    Args:
        vectors: the given ones.
        tokens: whose they are (N).
        seed: as for `random_vectors`.
        level: as for `random_vectors`.
    """
    n, matrix = len(tokens), vectors.matrix
    mean, variances, directions = principal_axes(vectors)
    rank = len(variances)
    drawn = random_vectors(tokens, max(rank, 1), seed, level)[:, :rank]
    step = max(1, CHUNK // vectors.size)
    parts = [slice(start, start + step) for start in range(0, n, step)]
    offset = np.zeros(rank) if n == 1 else sum(drawn[part].astype(np.float64).sum(axis=0) for part in parts) / n
    gram = np.zeros((rank, rank))
    for part in parts:
        g = drawn[part] - offset
        gram += g.T @ g / n
    values, axes = np.linalg.eigh(gram)
    scale = axes / np.sqrt(values) @ axes.T * np.sqrt(variances)  # gram^(-1/2), then the deviations
    made = np.empty(matrix.shape, dtype=matrix.dtype)
    for part in parts:
        made[part] = mean + (drawn[part] - offset) @ scale @ directions
    return made


def permuted_rows(tokens: Sequence[str], seed: int, level: str) -> np.ndarray:
    """Deal the rows of a store to other tokens than theirs: for every row the one that it gets (N,).

    One cycle through all rows in an order that follows from the tokens, the level and the seed alone: with two
    vectors or more, none stays where it was.
    """
    order = np.argsort(_token_keys(tokens, seed, f"permuted {level}"), kind="stable")
    rows = np.empty(len(order), dtype=np.int64)
    rows[order] = np.roll(order, -1)
    return rows


def _token_keys(tokens: Sequence[str], seed: int, level: str) -> np.ndarray:
    """Return a number of 64 bits for every token (N,)."""
    return np.array(
        [int.from_bytes(hashlib.blake2b(f"{seed}/{level}/{token}".encode(), digest_size=8).digest(), "little")
         for token in tokens], dtype=np.uint64,
    )  # fmt: skip
