"""A shuffle for rows that are mapped from a disk: blocks of neighbouring rows in random order, mixed in a buffer.

A full permutation reads a page of the disk for every row, and each page as often as it has rows, once memory is less
than the table. Here each page is read once an epoch: the rows of `BLOCK_ROWS` neighbours stand within the same
`BUFFER_ROWS` places of the order. The system's cache of pages is the buffer; the process holds row numbers alone.
"""

from __future__ import annotations

import numpy as np
import torch

BLOCK_ROWS = 1024
"""Neighbouring rows that are read together, some pages of a disk."""
BUFFER_ROWS = 1 << 20
"""Rows whose order is random among each other; a split with fewer is permuted as a whole."""


class BlockOrder:
    """The order of the rows in every epoch, which follows from the seed, the epoch and how many processes there are.

    All blocks of an epoch are in random order; the rows of each run of blocks that fill the buffer are in random order
    among each other. With several processes each takes the rows of a part of the blocks, another one every epoch.

    Args:
        length: number of rows.
        seed: the seed.

    Attributes:
        seed: the seed.
        epoch: the epoch whose order is drawn next, counted from 0.
    """

    def __init__(self, length: int, seed: int) -> None:
        self._length, self.seed, self.epoch = length, seed, 0
        self._batch_size, self._processes = max(1, length), 1
        self._drawn: tuple[int, torch.Tensor] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is drawn next, counted from 0."""
        self.epoch = epoch

    def share(self, batch_size: int, processes: int) -> None:
        """Say how places are dealt: place p of a batch belongs to process p modulo their number."""
        self._batch_size, self._processes, self._drawn = batch_size, processes, None

    def rows(self) -> torch.Tensor:
        """Row numbers (N,) of the current epoch, int32."""
        if self._drawn is None or self._drawn[0] != self.epoch:
            self._drawn = self.epoch, torch.from_numpy(self._draw())
        return self._drawn[1]

    def _draw(self) -> np.ndarray:
        draw = np.random.default_rng([self.seed, self.epoch])
        order = np.empty(self._length, dtype=np.int32)
        starts = draw.permutation(-(-self._length // BLOCK_ROWS)) * BLOCK_ROWS
        first = np.cumsum(np.minimum(BLOCK_ROWS, self._length - starts))  # where the next block begins in the epoch
        first -= np.minimum(BLOCK_ROWS, self._length - starts)
        begin = 0
        for process in range(self._processes):
            places = self._places(process)
            count = len(range(*places.indices(self._length))) if isinstance(places, slice) else len(places)
            rows = np.empty(count, dtype=np.int32)
            for at in range(0, count, BUFFER_ROWS):
                part = slice(at, min(at + BUFFER_ROWS, count))
                rows[part] = self._of_blocks(starts, first, begin + part.start, begin + part.stop)
                draw.shuffle(rows[part])
            order[places] = rows
            begin += count
        return order

    def _places(self, process: int) -> np.ndarray | slice:
        if self._processes == 1:
            return slice(None)
        places = np.arange(self._length, dtype=np.int32)
        found: np.ndarray = np.flatnonzero(places % self._batch_size % self._processes == process)
        return found

    def _of_blocks(self, starts: np.ndarray, first: np.ndarray, begin: int, end: int) -> np.ndarray:
        """Return the rows from place `begin` to place `end` of the blocks one after another."""
        block = int(np.searchsorted(first, begin, side="right")) - 1
        last = int(np.searchsorted(first, end, side="left"))
        rows = (starts[block:last, None] + np.arange(BLOCK_ROWS)).ravel()
        rows = rows[rows < self._length]
        skipped = begin - int(first[block])
        return rows[skipped : skipped + end - begin]
