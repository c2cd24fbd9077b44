"""A safetensors file whose large tensors are filled in afterwards, a part at a time."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

AT_ONCE = 1 << 24
"""Bytes of rows that are put in order in memory, about, ..."""
IN_MEMORY = 1 << 27
"""... unless all of them take no more than this."""
_NAMES = {"float64": "F64", "int64": "I64", "int32": "I32", "float32": "F32", "uint8": "U8", "bool": "BOOL"}


class TensorFile:
    """A file of tensors, of which some are written at once and others by rows.

    Args:
        path: the file, which must not be there.
        tensors: those that are written at once.
        tables: of the others their type and shape.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        tensors: Mapping[str, torch.Tensor],
        tables: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    ) -> None:
        arrays = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in tensors.items()}
        kinds = {name: (array.dtype, array.shape) for name, array in arrays.items()} | dict(tables)
        header, start = {}, 0
        for name in sorted(kinds, key=lambda name: (-kinds[name][0].itemsize, name)):  # each at a multiple of its size
            dtype, shape = kinds[name]
            end = start + math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": _NAMES[dtype.name], "shape": list(shape), "data_offsets": [start, end]}
            start = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._begin = {name: 8 + len(text) + entry["data_offsets"][0] for name, entry in header.items()}
        self._row = {name: math.prod(shape[1:]) * dtype.itemsize for name, (dtype, shape) in tables.items()}
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            _write_all(self._file, len(text).to_bytes(8, "little") + text, 0)
            for name, array in arrays.items():
                _write_all(self._file, array, self._begin[name])
            os.ftruncate(self._file, 8 + len(text) + start)
        except BaseException:
            self.close()
            raise

    def write(self, name: str, first: int, rows: np.ndarray) -> None:
        """Write rows of a table, from row `first` on."""
        _write_all(self._file, rows, self._begin[name] + first * self._row[name])

    def read_block(self, name: str, first: int, count: int, dtype: np.dtype, width: int) -> np.ndarray:
        """Read consecutive rows of a table (count, width)."""
        size = self._row[name]
        block = os.pread(self._file, count * size, self._begin[name] + first * size)
        return np.frombuffer(block, dtype).reshape(count, width)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _write_all(file: int, values: bytes | np.ndarray, at: int) -> None:
    left = memoryview(np.ascontiguousarray(values).data if isinstance(values, np.ndarray) else values)
    if left.nbytes == 0:
        return
    left = left.cast("B")
    while left:  # a disk that is nearly full takes a part
        written = os.pwrite(file, left, at)
        left, at = left[written:], at + written


class RowsInPlace:
    """Rows that come in one order and are written in another, through a file that has them by ranges of places.

    Args:
        path: of that file.
        rows: how many.
        dtype: of a row.
    """

    def __init__(self, path: Path, rows: int, dtype: np.dtype) -> None:
        # As plain bytes, which are moved several times faster than rows of fields.
        self._row, self._bytes = dtype, np.dtype((np.void, dtype.itemsize))
        self._kind = np.dtype([("place", np.int32), ("row", self._bytes)])
        self._all = np.empty(rows, self._bytes) if rows * self._bytes.itemsize <= IN_MEMORY else None
        self._range = max(1, AT_ONCE // self._kind.itemsize)
        self._filled = np.zeros(-(-rows // self._range), dtype=np.int64)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)

    def put(self, places: np.ndarray, rows: np.ndarray) -> None:
        """Take rows (n,) with their places (n,)."""
        if self._all is not None:
            self._all[places] = rows.view(self._bytes)
            return
        dealt = np.empty(len(rows), dtype=self._kind)
        dealt["place"], dealt["row"] = places, rows.view(self._bytes)
        ranges = places // self._range
        order = np.argsort(ranges, kind="stable")
        dealt, ranges = dealt[order], ranges[order]
        starts = np.flatnonzero(np.diff(ranges, prepend=-1))
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(dealt)], strict=True):
            number = int(ranges[start])
            at = (number * self._range + int(self._filled[number])) * self._kind.itemsize
            _write_all(self._file, dealt[start:end], at)
            self._filled[number] += end - start

    def ordered(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the first place of each range, and its rows in order."""
        if self._all is not None:
            for start in range(0, len(self._all), self._range):
                yield start, self._all[start : start + self._range].view(self._row)
            return
        for number, count in enumerate(self._filled.tolist()):
            first = number * self._range
            part = np.frombuffer(
                os.pread(self._file, count * self._kind.itemsize, first * self._kind.itemsize), self._kind
            )
            rows = np.empty(count, dtype=self._bytes)
            rows[part["place"] - first] = part["row"]
            yield first, rows.view(self._row)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
