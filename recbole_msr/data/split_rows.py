"""Splits of ordered rows, as arrays of row numbers: RecBole's, and those that hold users or items out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

LEFT_OUT = {"valid_and_test": (1, 1), "valid_only": (1, 0), "test_only": (0, 1)}
"""RecBole's modes of leaving one out: how many of a group's last rows are for validation and for test."""

HELD_OUT = ("cold_user", "cold_item")
"""The words of `group_by` with which whole users or items are in one split."""

Cuts = Callable[[np.ndarray], np.ndarray]
"""Of groups' sizes (G,), where each group's training and validation rows end (G, 2)."""


def ratio_cuts(ends: Callable[[int], Sequence[int]]) -> Cuts:
    """Cut every group by ratio.

    Args:
        ends: the ends of training and validation, of a group of so many rows.
    """

    def cuts(sizes: np.ndarray) -> np.ndarray:
        distinct, kinds = np.unique(sizes, return_inverse=True)
        return np.array([list(ends(int(size))) for size in distinct], dtype=np.int64).reshape(len(distinct), -1)[kinds]

    return cuts


def leave_one_out_cuts(mode: str) -> Cuts:
    """Take every group's last row for validation, test or both; one row at least stays for training, then the test."""
    valid, test = LEFT_OUT[mode]

    def cuts(sizes: np.ndarray) -> np.ndarray:
        out = np.minimum(valid + test, sizes - 1)
        return np.stack([sizes - out, sizes - np.minimum(out, test)], axis=1)

    return cuts


def split_groups(groups: np.ndarray, cuts: Cuts) -> list[np.ndarray]:
    """Cut each group of rows.

    Args:
        groups: of every row (N,), in the order of the rows.
        cuts: where to cut.

    Returns:
        The rows of each part, group by group as these first appear.
    """
    codes, distinct = pd.factorize(groups)
    rows, sizes = np.argsort(codes, kind="stable"), np.bincount(codes, minlength=len(distinct))
    places = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # within the group
    ends = cuts(sizes)
    part = np.zeros(len(rows), dtype=np.int8)
    for end in ends.T:
        part += places >= np.repeat(end, sizes)
    return [rows[part == number] for number in range(ends.shape[1] + 1)]


def held_out_parts(ids: np.ndarray, ends: Callable[[int], Sequence[int]]) -> np.ndarray:
    """Draw the part of each user or item, from torch's global generator; all of its rows are in that part.

    Args:
        ids: the user or item of every row (N,), from 0.
        ends: the ends of training and validation, of so many users or items in the order in which they are drawn.

    Returns:
        The part of every row: 0 training, 1 validation, 2 test (N,), int8.
    """
    there = np.flatnonzero(np.bincount(ids))
    drawn = there[torch.randperm(len(there)).numpy()]
    part = np.zeros(int(ids.max(initial=-1)) + 1, dtype=np.int8)
    for end in ends(len(drawn)):
        part[drawn[end:]] += 1
    found: np.ndarray = part[ids]
    return found
