"""A table to read: a file of Parquet, CSV or Arrow, a folder or a pattern of such files, or a table in memory."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from recbole_msr.data.cache import remembered_digest
from recbole_msr.errors import InputError
from recbole_msr.files.outputs import check_path
from recbole_msr.files.row_files import SUFFIXES, Batch, open_rows, row_place

BATCH_ROWS = 65_536
"""Rows that are held at a time."""
_ENDINGS = ", ".join(SUFFIXES)


class TableSource:
    """A table whose rows are read batch by batch, in the order of its files and of their rows.

    Args:
        key: the setting that names it, for errors.
        given: a path, a pattern such as `day-*.parquet`, a list of paths, or a table of pandas, polars or Arrow. A
            folder stands for all tables in it, ordered by name.

    Attributes:
        name: it in words.
        files: its files; empty for a table in memory.

    Raises:
        InputError: there is no such file, files of several kinds, or no table.
    """

    def __init__(self, key: str, given: Any) -> None:
        self._key = key
        self.files: list[Path] = []
        self._table: pa.Table | None = None
        if isinstance(given, (str, Path)) or (isinstance(given, (list, tuple)) and given):
            self.files = _files(key, given)
            several = f"{self.files[0]}{' and others' if len(self.files) > 1 else ''}"
            self.name = str(given) if isinstance(given, (str, Path)) else several
        else:
            self._table = _in_memory(key, given)
            self.name = f"the table given as {key}"

    @property
    def is_text(self) -> bool:
        """Return whether its cells are text, of which types only the values tell."""
        return bool(self.files) and self.files[0].suffix == ".csv"

    @cached_property
    def schema(self) -> pa.Schema:
        """Return the columns, which all files must have alike.

        Raises:
            InputError: a file cannot be read, or has other columns than the first.
        """
        if self._table is not None:
            return self._table.schema
        first = None
        for file in self.files:
            with open_rows(file, BATCH_ROWS) as rows:
                if first is None:
                    first = rows.schema
                    continue
                for field in rows.schema:
                    before = first.field(field.name) if field.name in first.names else None
                    if before is None or before.type != field.type:
                        what = "does not have it" if before is None else f"has it as {before.type}"
                        raise InputError(
                            f"{file}: column '{field.name}' is a {field.type}, and {self.files[0]} {what}: files of "
                            f"one table have the same columns"
                        )
                lacking = [name for name in first.names if name not in rows.schema.names]
                if lacking:
                    raise InputError(f"{file} has no column '{lacking[0]}', and {self.files[0]} has")
        assert first is not None
        return first

    def batches(self, size: int = BATCH_ROWS) -> Iterator[Batch]:
        """Yield the rows; a batch's `place` names the file and the row or line in it.

        Args:
            size: rows of a batch at most.

        Raises:
            InputError: a file cannot be read.
        """
        if self._table is not None:
            start = 0
            for part in self._table.to_batches(size):
                yield Batch(part, _within(self.name, row_place(start)))
                start += part.num_rows
            return
        names = self.schema.names
        for file in self.files:
            with open_rows(file, size) as rows, closing(rows.batches) as batches:  # type: ignore[type-var]
                for batch in batches:
                    yield Batch(batch.columns.select(names), _within(str(file), batch.place))

    def write_arrow(self, path: Path) -> None:
        """Write a table in memory as an Arrow file.

        Raises:
            OSError: the file cannot be written.
        """
        assert self._table is not None
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, self._table.schema) as writer:
            writer.write_table(self._table, BATCH_ROWS)

    def digest(self, notes: Path) -> str:
        """Return a hash of its content.

        Args:
            notes: the folder in which the digests of unchanged files are remembered.
        """
        digest = hashlib.blake2b()
        for file in self.files:
            digest.update(f"{file.suffix} {remembered_digest(file, notes)}\n".encode())
        if self._table is not None:
            sink = _Hashed(digest)
            with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), self._table.schema) as stream:
                stream.write_table(self._table, BATCH_ROWS)
        return digest.hexdigest()


def _within(table: str, place: Callable[[int], str]) -> Callable[[int], str]:
    """Return a function that tells where row i is, with the name of its table."""
    return lambda i: f"{table}, {place(i)}"


class _Hashed:
    """A file that only takes the hash of what is written."""

    closed = False

    def __init__(self, digest: Any) -> None:
        self._digest, self._written = digest, 0

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._digest.update(view)
        self._written += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self._written

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def _files(key: str, given: str | Path | Sequence[Any]) -> list[Path]:
    """Return the files that a path, a pattern or a list of them stands for."""
    found: list[Path] = []
    for one in [given] if isinstance(given, (str, Path)) else given:
        check_path(key, one)
        path = Path(one).expanduser()
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
            if not inside:
                raise InputError(f"{key}: there is no table ({_ENDINGS}) in the folder {path}")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file())
            if not matches:
                raise InputError(f"{key}: there is no file {path}")
            found += matches
    kinds = sorted({file.suffix for file in found})
    if unknown := [file for file in found if file.suffix not in SUFFIXES]:
        raise InputError(f"{key}: {unknown[0]} is no table: its name must end with {_ENDINGS}")
    if len(kinds) > 1:
        raise InputError(f"{key}: the files of a table are of one kind, and these are {', '.join(kinds)}")
    return [file.resolve() for file in found]


def _in_memory(key: str, given: Any) -> pa.Table:
    """Return a table of pandas, polars or Arrow as an Arrow table."""
    import pandas as pd

    try:
        if isinstance(given, pd.DataFrame):
            return pa.Table.from_pandas(given, preserve_index=False)
        if isinstance(given, pa.RecordBatch):
            return pa.Table.from_batches([given])
        if isinstance(given, pa.Table):
            return given
        if hasattr(given, "__arrow_c_stream__"):
            return pa.table(given)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        if isinstance(given, pd.DataFrame):
            _refuse_mixed(key, given)
        raise InputError(f"{key}: the table cannot be read as Arrow: {' '.join(str(error).split())}") from error
    raise InputError(
        f"{key} is the path of a table ({_ENDINGS}), a folder or a pattern of them, or a table of pandas, polars or "
        f"Arrow; got {type(given).__name__}"
    )


def _refuse_mixed(key: str, frame: Any) -> None:
    """Refuse a column of a pandas table that holds values of several types, and name the first of another type.

    Raises:
        InputError: there is such a column.
    """
    for name in frame.columns:
        try:
            pa.array(frame[name], from_pandas=True)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            cells = [(row, cell) for row, cell in enumerate(frame[name].tolist()) if cell is not None and cell == cell]
            first = cells[0]
            other = next((cell for cell in cells if type(cell[1]) is not type(first[1])), None)
            if other is not None:
                raise InputError(
                    f"{key}: column '{name}' holds values of several types: {first[1]!r} in row {first[0] + 1} and "
                    f"{other[1]!r} in row {other[0] + 1}; make it of one, for instance by astype(str)"
                ) from None
