"""Where each row goes: RecBole's order and split, in scratch files, with at most one number a row in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from recbole_msr.data.split_rows import Cuts
from recbole_msr.data.streaming.interactions import Interactions
from recbole_msr.data.streaming.scratch import BLOCK, ScratchColumn, blocks

_SORTED_AT_ONCE = 4 * BLOCK
"""Rows that are sorted in memory, about, ..."""
_MOST_FILES = 256
"""... unless that takes more files than this, all of them open: systems allow 1,024, some fewer."""
_SAMPLE = 1 << 16


def random_order(rows: int, folder: Path) -> ScratchColumn:
    """Draw RecBole's random order from torch's global generator, which draws the same numbers for any type."""
    order = ScratchColumn(folder / "order", np.int32)
    order.append(torch.randperm(rows, dtype=torch.int32).numpy())
    return order


def time_order(log: Interactions, field: str, folder: Path) -> ScratchColumn:
    """Sort the rows that stay by time; those of one time stay in their order.

    The rows are dealt to files by ranges of time that have about as many rows each, and each file is sorted.

    Args:
        log: the rows.
        field: the times.
        folder: for the files.
    """
    count = log.kept
    parts, step = min(-(-count // _SORTED_AT_ONCE), _MOST_FILES), max(1, count // _SAMPLE)
    edges = np.empty(0)
    if parts > 1:
        sample = np.concatenate([log.take(field, rows, stays)[::step] for rows, stays in log.kept_blocks()])
        edges = np.unique(np.quantile(sample, np.arange(1, parts) / parts))
    kind = [("time", np.float64), ("row", np.int32)]
    dealt = [ScratchColumn(folder / f"time-{number}", kind) for number in range(len(edges) + 1)]
    sizes, first = np.zeros(len(dealt), dtype=np.int64), 0
    for rows, stays in log.kept_blocks():
        times = log.take(field, rows, stays)
        of_block = np.empty(len(times), dtype=kind)
        of_block["time"], of_block["row"] = times, np.arange(first, first + len(times))
        first += len(times)
        files = np.searchsorted(edges, times, side="right")
        for number in np.unique(files).tolist():
            dealt[number].append(of_block[files == number])
        sizes += np.bincount(files, minlength=len(dealt))
    order = ScratchColumn(folder / "order", np.int32)
    for file, size in zip(dealt, sizes.tolist(), strict=True):
        if size:
            of_file = file[slice(0, size)]
            order.append(of_file["row"][np.argsort(of_file["time"], kind="stable")])
        file.close()
    return order


def split_places(
    rows: int, order: ScratchColumn, groups: np.ndarray | None, cuts: Cuts, folder: Path
) -> tuple[np.ndarray, list[int]]:
    """Return the place of each row among the rows of train, valid and test (N,), int32, and the size of each.

    Args:
        rows: how many.
        order: their numbers in the order in which they are cut.
        groups: code of every row's group (N,), by the row's number; None for one group.
        cuts: where to cut each group.
        folder: for scratch files.
    """
    places = np.empty(rows, dtype=np.int32)
    if groups is None:
        for block in blocks(rows):
            places[order[block]] = np.arange(block.start, block.stop)
        ends = cuts(np.array([rows]))[0]
        return places, np.diff([0, *ends.tolist(), rows]).tolist()
    of_row, sizes = _in_order(rows, order, groups, folder)
    ends = cuts(sizes)
    of_part = np.diff(ends, axis=1, prepend=0, append=sizes[:, None])  # (G, 3): rows of each group in each part
    split_sizes = of_part.sum(axis=0)
    # Where each group's rows begin within a part, and the part among all; less those of it that went to parts before.
    begin = np.cumsum(of_part, axis=0) - of_part + np.cumsum(split_sizes) - split_sizes
    begin[:, 1:] -= ends
    seen = np.zeros(len(sizes), dtype=np.int64)
    for block in blocks(rows):
        group = of_row[block]
        rank = _ranks(group, seen)
        part = (rank >= ends[group, 0]).astype(np.int64) + (rank >= ends[group, 1])
        places[order[block]] = begin[group, part] + rank
    of_row.close()
    return places, split_sizes.tolist()


def part_places(order: ScratchColumn, parts: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Return the same as `split_places` of rows whose part is known.

    Args:
        order: numbers of the rows in the order that they have within their part.
        parts: the part of every row (N,), by the row's number: 0 training, 1 validation, 2 test.
    """
    places = np.empty(len(parts), dtype=np.int32)
    sizes = np.bincount(parts, minlength=3)
    begin, seen = np.cumsum(sizes) - sizes, np.zeros(3, dtype=np.int64)
    for block in blocks(len(parts)):
        rows = order[block]
        places[rows] = begin[parts[rows]] + _ranks(parts[rows], seen)
    return places, sizes.tolist()


def _in_order(rows: int, order: ScratchColumn, groups: np.ndarray, folder: Path) -> tuple[ScratchColumn, np.ndarray]:
    """Return the groups of the rows in order, numbered as they first appear there, and the groups' sizes."""
    number = np.full(int(groups.max(initial=-1)) + 1, -1, dtype=np.int32)
    ordered, count = ScratchColumn(folder / "groups", np.int32), 0
    for block in blocks(rows):
        of_block = groups[order[block]]
        new, first = np.unique(of_block[number[of_block] < 0], return_index=True)
        new = new[np.argsort(first)]
        number[new] = np.arange(count, count + len(new))
        count += len(new)
        ordered.append(number[of_block])
    sizes = np.zeros(count, dtype=np.int64)
    for block in blocks(rows):
        sizes += np.bincount(ordered[block], minlength=count)
    return ordered, sizes


def _ranks(group: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return how many rows of its group come before each (n,), with `seen` before the block, which is counted up."""
    sort = np.argsort(group, kind="stable")
    ordered = group[sort]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    lengths = np.diff(starts, append=len(ordered))
    rank: np.ndarray = np.empty(len(group), dtype=np.int64)
    rank[sort] = np.arange(len(group)) - np.repeat(starts, lengths) + seen[ordered]
    seen[ordered[starts]] += lengths
    return rank
