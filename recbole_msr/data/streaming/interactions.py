"""Interactions in scratch files: the codes and numbers of their columns, and which rows stay."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from recbole.utils import FeatureType

from recbole_msr.data.streaming.encoding import TokenCodes, numbers
from recbole_msr.data.streaming.scratch import BLOCK, ScratchColumn, blocks
from recbole_msr.data.tables.source import TableSource


@dataclass
class NumberStats:
    """What is known of a column of numbers, of the rows that stay.

    Attributes:
        mean: of those that there are; NaN where there are none.
        low, high: the least and the greatest.
        first: the first one.
        missing: how many rows lack one.
        is_single: whether float32 holds all of them exactly, the mean in place of missing ones.
    """

    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    first: float = math.nan
    missing: int = 0
    is_single: bool = True


class Interactions:
    """The first pass over a table: every column in a file of its own, in the order of the table's rows.

    Args:
        folder: for the files.
        kinds: the columns to read, tokens or numbers.

    Attributes:
        kinds: as given.
        rows: how many were read.
        tokens: of each column of tokens its codes' tokens.
        stays: which rows were not left out (N,).
    """

    def __init__(self, folder: Path, kinds: Mapping[str, FeatureType]) -> None:
        self.kinds, self.rows = dict(kinds), 0
        self.tokens = {field: TokenCodes(field) for field, kind in kinds.items() if kind == FeatureType.TOKEN}
        self._indexes: dict[str, pd.Index] = {}
        self._missing = dict.fromkeys(self.tokens, False)
        self.columns = {
            field: ScratchColumn(folder / str(number), np.int32 if field in self.tokens else np.float64)
            for number, field in enumerate(kinds)
        }
        self.stays = np.empty(0, dtype=bool)

    def read(self, source: TableSource) -> None:
        """Read a table.

        Raises:
            InputError: a file cannot be read, or a value is not what its column holds; file, row and column are named.
            OSError: the scratch files cannot be written.
        """
        for batch in source.batches(BLOCK):
            for field, column in self.columns.items():
                cells = batch.columns.column(field)
                if field in self.tokens:
                    codes = self.tokens[field].encode(cells, batch.place)
                    self._missing[field] |= bool(len(codes) and codes.min() < 0)
                    column.append(codes)
                else:
                    column.append(numbers(field, cells, batch.place))
            self.rows += batch.columns.num_rows
        self.stays = np.ones(self.rows, dtype=bool)

    def close(self) -> None:
        """Close the files."""
        for column in self.columns.values():
            column.close()

    @property
    def kept(self) -> int:
        """Number of rows that stay."""
        return int(np.count_nonzero(self.stays))

    def index(self, field: str) -> pd.Index:
        """Return the tokens of a column by code."""
        if field not in self._indexes:
            self._indexes[field] = pd.Index(self.tokens[field].tokens, dtype=object)
        return self._indexes[field]

    def keep(self, is_right: Callable[[slice], np.ndarray]) -> tuple[int, int]:
        """Leave rows out.

        Args:
            is_right: tells of rows a to b which may stay.

        Returns:
            How many rows went, and the first of them (-1 if none did).
        """
        gone, first = 0, -1
        for rows in blocks(self.rows):
            goes = self.stays[rows] & ~is_right(rows)
            if goes.any():
                first = rows.start + int(goes.argmax()) if first < 0 else first
                gone += int(np.count_nonzero(goes))
                self.stays[rows] &= ~goes
        return gone, first

    def kept_blocks(self) -> Iterator[tuple[slice, np.ndarray | None]]:
        """Yield the rows block by block, with a mask of those that stay (None: all)."""
        for rows in blocks(self.rows):
            stays = self.stays[rows]
            yield rows, None if stays.all() else stays

    def take(self, field: str, rows: slice, stays: np.ndarray | None) -> np.ndarray:
        """Return a column's values in a block, of the rows that stay."""
        values = self.columns[field][rows]
        return values if stays is None else values[stays]

    def appearing(self, field: str) -> tuple[np.ndarray, bool]:
        """Return a column's codes as they first appear in rows that stay, and whether one of these has none."""
        size = len(self.tokens[field].tokens)
        if self.stays.all():
            return np.arange(size, dtype=np.int32), self._missing[field]
        seen, order, missing = np.zeros(size + 1, dtype=bool), [], False
        for rows, stays in self.kept_blocks():
            codes = self.take(field, rows, stays)
            new = codes[~seen[codes]]  # the last place is that of -1
            if len(new):
                new = pd.unique(new)
                seen[new] = True
                missing |= bool((new < 0).any())
                order.append(new[new >= 0])
        return np.concatenate(order) if order else np.empty(0, dtype=np.int32), missing

    def stats(self, field: str) -> NumberStats:
        """Return what is to be known of a column of numbers."""
        found, sums, count = NumberStats(), [], 0
        for rows, stays in self.kept_blocks():
            values = self.take(field, rows, stays)
            missing = np.isnan(values)
            count_missing = int(np.count_nonzero(missing))
            known = values[~missing] if count_missing else values
            found.missing += count_missing
            if not len(known):
                continue
            with np.errstate(all="ignore"):
                found.is_single = found.is_single and bool((known.astype(np.float32) == known).all())
                sums.append(float(known.sum()))
            if not count:
                found.first = float(known[0])
            count += len(known)
            found.low, found.high = np.fmin(found.low, known.min()), np.fmax(found.high, known.max())
        if count:
            found.low, found.high = float(found.low), float(found.high)
            found.mean = math.fsum(sums) / count if np.isfinite(sums).all() else float(np.sum(sums)) / count
            found.is_single &= not found.missing or float(np.float32(found.mean)) == found.mean
        return found
