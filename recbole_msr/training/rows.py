"""Rows of CSV and Parquet files, read and written a batch at a time, so that memory does not grow with the file.

A CSV file is UTF-8, separated by commas, quoted as in RFC 4180. Its cells are text and stay it; an empty one is
missing.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recbole_msr.errors import InputError

_ROW_GROUP = 131_072
"""Rows of a group in a Parquet file that is written: they are held in memory until then."""


class Batch(NamedTuple):
    """Some rows, and how to say where row i of them stands: "line 7" or "row 6"."""

    columns: pa.RecordBatch
    place: Callable[[int], str]


class Rows(NamedTuple):
    """A file's columns, and its rows in their order; there is at least one batch, if of no rows."""

    schema: pa.Schema
    batches: Iterator[Batch]


def is_nested(kind: pa.DataType) -> bool:
    """Whether a column of this type holds lists, structures or the like."""
    return pa.types.is_nested(kind.value_type if pa.types.is_dictionary(kind) else kind)


def counted_from(start: int) -> Callable[[int], str]:
    """How to say where a row of a table is, of which `start` rows come before."""
    return lambda i: f"row {start + i + 1}"


@contextmanager
def open_rows(path: str | Path, size: int) -> Iterator[Rows]:
    """Open a .csv or .parquet file to read at most `size` rows at once.

    Raises:
        InputError: it cannot be read, here or while its batches are taken; with the line, if it is a CSV file.
    """
    opened = _parquet if Path(path).suffix == ".parquet" else _csv
    batches = opened(Path(path), size)
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


def _parquet(path: Path, size: int) -> Any:
    try:
        with pq.ParquetFile(path, buffer_size=1 << 20) as file:
            yield file.schema_arrow
            start, group = 0, None
            for group in file.iter_batches(size):
                yield Batch(group, counted_from(start))
                start += group.num_rows
            if group is None:
                yield Batch(pa.RecordBatch.from_pylist([], file.schema_arrow), counted_from(0))
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"cannot read {path}: {reason}") from error


def _csv(path: Path, size: int) -> Any:
    try:
        with open(path, "rb") as file:
            reader = csv.reader(_decoded(path, file), strict=True)
            records = _records(path, reader)
            _, names = next(records, (0, []))
            if not any(names):
                raise InputError(f"cannot read {path}: it is empty; its first line must name the columns")
            schema = pa.schema([(name, pa.string()) for name in names])
            yield schema
            lines: list[int] = []
            cells: list[list[str]] = []
            some = False
            for line, row in records:
                if len(row) != len(names):
                    raise InputError(
                        f"cannot read {path}: line {line} has {len(row)} fields, and the first line names "
                        f"{len(names)} columns"
                    )
                lines.append(line)
                cells.append(row)
                if len(cells) == size:
                    yield _text_batch(schema, lines, cells)
                    lines, cells, some = [], [], True
            if cells or not some:
                yield _text_batch(schema, lines, cells)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _decoded(path: Path, file: Any) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"cannot read {path}: line {number} is not UTF-8; save the file as UTF-8") from error


def _records(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """The line each record begins at, and its fields; empty lines may stand at the end alone."""
    first, empty = 1, 0
    try:
        for row in reader:
            if not row:
                empty = empty or first
            elif empty:
                raise InputError(f"cannot read {path}: line {empty} is empty")
            else:
                yield first, row
            first = reader.line_num + 1
    except csv.Error as error:
        reason = str(error).split(" - ")[0]
        if "expected after" in reason or "unexpected end" in reason or "field larger" in reason:
            reason = f'a quote is not closed, or text follows it (a quote within quoted text is written "") ({reason})'
        raise InputError(f"cannot read {path}: line {first}: {reason}") from error


def _text_batch(schema: pa.Schema, lines: list[int], cells: list[list[str]]) -> Batch:
    columns = zip(*cells, strict=True) if cells else [()] * len(schema)
    arrays = [pa.array([cell or None for cell in column], pa.string()) for column in columns]
    return Batch(pa.RecordBatch.from_arrays(arrays, schema=schema), lambda i: f"line {lines[i]}")


class CsvWriter:
    """Writes batches as CSV; numbers as Arrow spells them, text as it is, quoted where that takes it.

    Raises:
        InputError: a column holds lists or the like, or bytes that are no text.
    """

    def __init__(self, path: str | Path, schema: pa.Schema) -> None:
        for field in schema:
            if is_nested(field.type):
                raise InputError(
                    f"column '{field.name}' is a {field.type}, which a CSV file cannot hold: write a .parquet"
                )
        self._file = open(path, "w", encoding="utf-8", newline="")  # noqa: SIM115
        self._cells([schema.names])

    def write(self, batch: pa.RecordBatch) -> None:
        columns = []
        for field, column in zip(batch.schema, batch.columns, strict=True):
            column = column.dictionary_decode() if pa.types.is_dictionary(field.type) else column
            try:
                columns.append((column if column.type == pa.string() else pc.cast(column, pa.string())).to_pylist())
            except pa.ArrowException as error:
                raise InputError(
                    f"column '{field.name}' is a {field.type} that cannot be written as text: write a .parquet"
                ) from error
        self._cells(list(zip(*columns, strict=True)))

    def _cells(self, rows: Sequence[Sequence[str | None]]) -> None:
        # Some versions of Python leave a carriage return unquoted, where it would end the row for who reads the file.
        risky = any("\r" in cell for row in rows for cell in row if cell)
        options: Any = {"lineterminator": "\n", "quoting": csv.QUOTE_ALL if risky else csv.QUOTE_MINIMAL}
        csv.writer(self._file, **options).writerows(rows)

    def close(self) -> None:
        self._file.close()


class ParquetWriter:
    """Writes batches as Parquet, with the schema's metadata."""

    def __init__(self, path: str | Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema)
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(batch)
        self._rows += batch.num_rows
        if self._rows >= _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_batches(self._waiting, self._schema))
        self._waiting, self._rows = [], 0

    def close(self) -> None:
        try:
            self._flush()
        finally:
            self._writer.close()
