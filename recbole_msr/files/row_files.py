"""Read CSV, Parquet and Arrow files of rows a batch at a time, and write them, so that memory does not grow with them.

A CSV file is UTF-8, separated by commas, quoted as in RFC 4180. Its cells are text and stay it; an empty one is
missing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recbole_msr.errors import InputError
from recbole_msr.files.atomic import write_atomically
from recbole_msr.files.text_rows import Batch as Batch
from recbole_msr.files.text_rows import read_text

SUFFIXES = (".parquet", ".csv", ".arrow", ".feather")
"""What the names of files end with that can be read."""

_ROW_GROUP = 131_072
"""Rows of a row group in a Parquet file that is written; they are held in memory until it is full."""


class Rows(NamedTuple):
    """The rows of a file in their order.

    Attributes:
        schema: the file's columns.
        batches: at least one; a file without rows has one without rows.
    """

    schema: pa.Schema
    batches: Iterator[Batch]


def is_nested(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds lists, structures or the like."""
    return bool(pa.types.is_nested(kind.value_type if pa.types.is_dictionary(kind) else kind))


def row_place(start: int) -> Callable[[int], str]:
    """Return a function that tells where row i of a table's part is, after `start` rows: "row 6"."""
    return lambda i: f"row {start + i + 1}"


@contextmanager
def open_rows(path: str | Path, size: int) -> Iterator[Rows]:
    """Open a .csv, .parquet, .arrow or .feather file to read at most `size` rows at a time.

    Raises:
        InputError: the file cannot be read, here or while its batches are taken; of a CSV file the line is named.
    """
    readers = {".parquet": _read_parquet, ".arrow": _read_arrow, ".feather": _read_arrow}
    batches = readers.get(Path(path).suffix, read_text)(Path(path), size)
    schema = next(batches)
    _refuse_duplicates(path, schema.names)
    try:
        yield Rows(schema, batches)
    finally:
        batches.close()


def _refuse_duplicates(path: str | Path, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(
                f"cannot read {path}: there are two columns called '{name}'; every column needs its own name"
            )
        seen.add(name)


def _unreadable(path: Path, error: Exception, part: str = "") -> InputError:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return InputError(f"cannot read {path}: {part}{reason}")


def _read_parquet(path: Path, size: int) -> Any:
    """Yield the schema, then the batches."""
    groups: list[int] = []
    try:
        # pre_buffer, pyarrow's default, would hold a whole row group, which may be the whole file.
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            yield file.schema_arrow
            start, batch, place = 0, None, _parquet_place(file.metadata)
            for groups in _row_groups(file.metadata, size):
                for batch in file.iter_batches(size, row_groups=groups):
                    yield Batch(batch, partial(place, start))
                    start += batch.num_rows
            if batch is None:
                yield Batch(pa.RecordBatch.from_pylist([], file.schema_arrow), row_place(0))
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error, _damaged_column(path, groups)) from error


def _parquet_place(metadata: Any) -> Callable[[int, int], str]:
    """Return a function of the rows before and i that tells where row i is: "row 6 (row group 2 of 3)"."""
    count = metadata.num_row_groups
    ends = list(accumulate(metadata.row_group(number).num_rows for number in range(count)))

    def place(start: int, i: int) -> str:
        row = start + i
        group = f" (row group {bisect_right(ends, row) + 1} of {count})" if count > 1 else ""
        return f"row {row + 1}{group}"

    return place


def _damaged_column(path: Path, groups: list[int]) -> str:
    """Return which of some row groups of a Parquet file cannot be read, and which column of it; nothing if all can."""
    try:
        with pq.ParquetFile(path) as file:
            columns = [file.schema.column(number).path for number in range(len(file.schema.names))]
            for group in groups:
                for column in columns:
                    try:
                        file.read_row_group(group, columns=[column])
                    except (OSError, pa.ArrowException):
                        field = column.split(".")[0]
                        return f"row group {group + 1} of {file.num_row_groups}, column '{field}': "
    except (OSError, pa.ArrowException):
        pass
    return ""


def _row_groups(metadata: Any, size: int) -> Iterator[list[int]]:
    """Yield the row groups of a Parquet file by as many as hold `size` rows: a reader keeps all that it is given."""
    groups, rows = [], 0
    for number in range(metadata.num_row_groups):
        groups.append(number)
        rows += metadata.row_group(number).num_rows
        if rows >= size:
            yield groups
            groups, rows = [], 0
    if groups:
        yield groups


def _read_arrow(path: Path, size: int) -> Any:
    """Yield the schema, then the batches, of a file of Arrow's IPC format, which Feather's version 2 is."""
    try:
        with pa.OSFile(str(path)) as file:
            reader = pa.ipc.open_file(file)
            yield reader.schema
            start = 0
            for number in range(reader.num_record_batches):
                columns = reader.get_batch(number)
                for begin in range(0, columns.num_rows, size):
                    yield Batch(columns.slice(begin, size), row_place(start + begin))
                start += columns.num_rows
            if not start:
                yield Batch(pa.RecordBatch.from_pylist([], reader.schema), row_place(0))
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


class CsvWriter:
    """Writes batches as CSV: numbers as Arrow spells them, text as it is, in quotes where CSV needs them.

    Args:
        path: the file.
        schema: its columns.

    Raises:
        InputError: a column holds lists or the like, or bytes that are no text.
    """

    def __init__(self, path: str | Path, schema: pa.Schema) -> None:
        for field in schema:
            if is_nested(field.type):
                raise InputError(
                    f"column '{field.name}' is a {field.type}, which a CSV file cannot hold: write a .parquet"
                )
        self._file = open(path, "wb")  # noqa: SIM115
        self._write_lines([_quoted(pa.array([name], pa.large_string())) for name in schema.names])

    def write(self, batch: pa.RecordBatch) -> None:
        """Write a batch of rows."""
        columns = []
        for field, column in zip(batch.schema, batch.columns, strict=True):
            column = column.dictionary_decode() if pa.types.is_dictionary(field.type) else column
            try:
                text = pc.cast(column, pa.large_string())
                text.validate(full=True)
            except pa.ArrowException as error:
                raise InputError(
                    f"column '{field.name}' is a {field.type} that cannot be written as text: write a .parquet"
                ) from error
            columns.append(_quoted(text))
        self._write_lines(columns)

    def _write_lines(self, columns: list[pa.Array]) -> None:
        self._file.write(text_of(_joined(*columns[:-1], _joined(columns[-1], "\n", by=""), by=",")))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _quoted(column: pa.Array) -> pa.Array:
    """Put cells in quotes where there is a comma, a quote or the end of a line in them."""
    text = text_of(column)
    if not any(mark in text for mark in (b",", b'"', b"\n", b"\r")):
        return column
    inner = pc.replace_substring(column, '"', '""')
    return pc.if_else(pc.match_substring_regex(column, '[,"\n\r]'), _joined('"', inner, '"', by=""), column)


def _joined(*parts: Any, by: str) -> pa.Array:
    """Join columns, and texts that stand in every row, row by row; a missing cell is empty."""
    parts = tuple(pa.scalar(part, pa.large_string()) if isinstance(part, str) else part for part in parts)
    return pc.binary_join_element_wise(*parts, pa.scalar(by, pa.large_string()), null_handling="replace")


def text_of(column: pa.Array) -> bytes:
    """Return all cells of a column of type large_string, one after another."""
    _, offsets, text = column.buffers()
    if text is None or not len(column):
        return b""
    first, last = np.frombuffer(offsets, np.int64)[[column.offset, column.offset + len(column)]]
    return bytes(text[int(first) : int(last)])


class ParquetWriter:
    """Writes batches as Parquet, with the schema's metadata.

    Args:
        path: the file.
        schema: its columns.
        varied: columns whose values hardly repeat: a dictionary of them would be made, and thrown away as too long.
    """

    def __init__(self, path: str | Path, schema: pa.Schema, varied: Collection[str] = ()) -> None:
        self._schema = schema
        repeated: Any = [name for name in schema.names if name not in varied]
        if not varied or any(is_nested(field.type) for field in schema):  # of a list pyarrow wants the inner name
            repeated = True
        self._writer = pq.ParquetWriter(path, schema, use_dictionary=repeated)
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Write a batch of rows, once a row group is full."""
        self._waiting.append(batch)
        self._rows += batch.num_rows
        if self._rows >= _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_batches(self._waiting, self._schema))
        self._waiting, self._rows = [], 0

    def close(self) -> None:
        """Write the last row group and close the file."""
        try:
            self._flush()
        finally:
            self._writer.close()


def write_rows(
    out: str | Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch], varied: Collection[str] = ()
) -> int:
    """Write batches as a .parquet or .csv file, whole or not at all.

    Args:
        out: the file.
        schema: its columns.
        batches: the rows.
        varied: columns whose values hardly repeat.

    Returns:
        The number of rows.

    Raises:
        InputError: the file cannot be written.
    """
    rows = 0

    def write(temporary: str) -> None:
        nonlocal rows
        is_parquet = Path(out).suffix == ".parquet"
        writer = ParquetWriter(temporary, schema, varied) if is_parquet else CsvWriter(temporary, schema)
        try:
            for batch in batches:
                writer.write(batch)
                rows += batch.num_rows
        finally:
            writer.close()

    try:
        write_atomically(out, write)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from error
    return rows
