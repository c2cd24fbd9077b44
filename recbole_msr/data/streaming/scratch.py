"""Columns in files of a scratch folder, read and written by blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

BLOCK = 1 << 17
"""Rows that are held at a time."""


def blocks(rows: int) -> Iterator[slice]:
    """Yield the rows 0 to `rows` by blocks."""
    for start in range(0, rows, BLOCK):
        yield slice(start, min(start + BLOCK, rows))


class ScratchColumn:
    """A column (N,) in a file. It is read, not mapped: what was read takes no memory of the process.

    Args:
        path: the file.
        dtype: of a value.
    """

    def __init__(self, path: Path, dtype: Any) -> None:
        self._path, self.dtype = path, np.dtype(dtype)
        self._out: BinaryIO | None = open(path, "wb", buffering=0)  # noqa: SIM115
        self._in: BinaryIO | None = None

    def append(self, values: np.ndarray) -> None:
        """Write values behind those that are there.

        Raises:
            OSError: they cannot be written, on a full disk for instance.
        """
        assert self._out is not None
        left = memoryview(np.ascontiguousarray(values, dtype=self.dtype).data).cast("B")
        while left:  # a disk that is nearly full takes a part
            left = left[self._out.write(left) :]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Read rows of consecutive numbers."""
        if self._out is not None:
            self._out.close()
            self._out, self._in = None, open(self._path, "rb", buffering=0)  # noqa: SIM115
        assert self._in is not None
        self._in.seek(rows.start * self.dtype.itemsize)
        return np.fromfile(self._in, self.dtype, rows.stop - rows.start)

    def close(self) -> None:
        """Close the file."""
        for file in (self._out, self._in):
            if file is not None:
                file.close()
        self._out = self._in = None
