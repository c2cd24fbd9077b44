"""Read tables of text a batch at a time: CSV files, and what public datasets write in its place.

By default a file is UTF-8, separated by commas, quoted as in RFC 4180, and its first line names the columns; `TextForm`
tells what is otherwise. Cells are text and stay it; an empty one is missing. A name that ends with .gz means gzip.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv

from recbole_msr.errors import InputError

BLOCK = 1 << 22
"""Bytes of a file that are read at a time."""
UNREADABLE = (OSError, EOFError, zlib.error)
"""What reading a file may raise that is not there, cut short or damaged, gzipped or not."""
_MARK = b"\xef\xbb\xbf"
_UNIT = "\x1f"
"""Stands for a separator of two characters, of which Arrow and Python's reader know none."""


class Batch(NamedTuple):
    """Some rows of a file.

    Attributes:
        columns: the rows.
        place: tells where row i of them stands in the file: "line 7" or "row 6".
        texts: columns in which every row has a text, as Python has it, where that is at hand.
    """

    columns: pa.RecordBatch
    place: Callable[[int], str]
    texts: Mapping[str, Sequence[str]] = MappingProxyType({})


@dataclass(frozen=True)
class TextForm:
    r"""How a text file holds a table.

    Attributes:
        separators: what may stand between cells ("," or "::"); the first of them that the first line has is the file's.
        names: the columns of a file whose first line is a row; None where the first line names them.
        quoted: whether cells may stand in quotes; otherwise quotes are text.
        strict: whether a quote within quoted text must be doubled, and text after it is an error.
        encoding: utf-8 or latin-1.
    """

    separators: tuple[str, ...] = (",",)
    names: tuple[str, ...] | None = None
    quoted: bool = True
    strict: bool = True
    encoding: str = "utf-8"


CSV = TextForm()


@dataclass(frozen=True)
class _Dialect:
    """A form with the separator that a file has."""

    form: TextForm
    separator: str

    @property
    def delimiter(self) -> str:
        return self.separator if len(self.separator) == 1 else _UNIT

    @cached_property
    def quoted_cell(self) -> re.Pattern[bytes]:
        """Match a cell in quotes, from one separator or line's end to the next."""
        between = re.escape(self.delimiter.encode())
        return re.compile(rb'(?<![^%b\n])"[^"]*(?:""[^"]*)*"(?![^%b\r\n])' % (between, between))

    def prepare(self, lines: bytes) -> bytes:
        """Return whole lines as UTF-8 with a separator of one character."""
        if self.form.encoding != "utf-8":
            lines = lines.decode(self.form.encoding).encode()
        return lines.replace(self.separator.encode(), _UNIT.encode()) if self.delimiter == _UNIT else lines

    def reader(self, lines: Iterable[str]) -> Any:
        if not self.form.quoted:
            return _PlainReader(lines, self.delimiter)
        return csv.reader(lines, delimiter=self.delimiter, strict=self.form.strict)


class _PlainReader:
    """Read lines without quotes as `csv.reader` reads others: of any length, with the number of lines read so far."""

    def __init__(self, lines: Iterable[str], delimiter: str) -> None:
        self._lines, self._delimiter = lines, delimiter
        self.line_num = 0

    def __iter__(self) -> Iterator[list[str]]:
        for line in self._lines:
            self.line_num += 1
            cells = line.rstrip("\r\n")
            yield cells.split(self._delimiter) if cells else []


def open_bytes(path: Path) -> Any:
    """Open a file to read its bytes, those within where it is gzipped."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")


def read_failure(path: Path, error: BaseException) -> InputError:
    """Return the error of a file that cannot be read."""
    return InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}")


def read_text(path: Path, size: int, form: TextForm = CSV) -> Any:
    """Yield the schema, then batches of at most `size` rows.

    Raises:
        InputError: the file cannot be read, or a line is not as the form says; the line is named.
    """
    try:
        with open_bytes(path) as file:
            first = file.readline()
            separator = next((one for one in form.separators if one.encode() in first), form.separators[0])
            dialect = _Dialect(form, separator)
            names: list[str] = list(form.names or ())
            head, line = first.removeprefix(_MARK), 1
            if form.names is None:
                reader = dialect.reader(_decoded(path, map(dialect.prepare, chain([first] * bool(first), file)), 1))
                _, names = next(_records(path, reader, 1), (0, []))
                head, line = b"", reader.line_num + 1
            if not any(names):
                raise InputError(f"cannot read {path}: it is empty; its first line must name the columns")
            schema = pa.schema([(name, pa.string()) for name in names])
            yield schema
            batch = None
            for batch in _read_blocks(path, file, head, schema, line, size, dialect):
                yield batch
            if batch is None:
                yield _text_batch(schema, [], [])
    except UNREADABLE as error:
        raise read_failure(path, error) from error


def _read_blocks(
    path: Path, file: Any, head: bytes, schema: pa.Schema, line: int, size: int, dialect: _Dialect
) -> Iterator[Batch]:
    """Yield the rows from `line` on, a block at a time by Arrow; `head` is what of them has been read already.

    From the first block on that Arrow might read otherwise than Python's reader, it is Python's reader that reads.
    """
    data, more = head, b"."
    while more:
        more = file.read(BLOCK)
        data += more
        end = _end_of_records(data, dialect.form.quoted) if more else len(data)
        if end == 0 and len(data) < 4 * BLOCK:
            continue
        block = dialect.prepare(data[:end])
        columns = _parse_by_arrow(block, schema, dialect) if end else None
        if columns is None:
            lines = map(dialect.prepare, chain(io.BytesIO(data), file))
            yield from _parse_by_python(path, lines, schema, line, size, dialect)
            return
        data = data[end:]
        for start in range(0, columns.num_rows, size):
            yield Batch(columns.slice(start, size), partial(_line_of_row, path, block, line, start, dialect))
        line += block.count(b"\n")


def _end_of_records(data: bytes, quoted: bool) -> int:
    """Return where the last line ends that is not within quotes; 0 if there is none."""
    end = data.rfind(b"\n") + 1
    quotes = data.count(b'"', 0, end) if quoted else 0
    while end and quotes % 2:
        last, end = end, data.rfind(b"\n", 0, end - 1) + 1
        quotes -= data.count(b'"', end, last)
    return end


def _parse_by_arrow(block: bytes, schema: pa.Schema, dialect: _Dialect) -> pa.RecordBatch | None:
    """Parse whole lines by Arrow; None where it refuses them or might read them otherwise than Python's reader."""
    may_quote = dialect.form.quoted and b'"' in block
    plain = dialect.quoted_cell.sub(b"q", block) if may_quote else block
    if may_quote and b'"' in plain:
        return None
    read = arrow_csv.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=schema.names)
    parse = arrow_csv.ParseOptions(
        delimiter=dialect.delimiter, quote_char='"' if plain is not block else False, newlines_in_values=True
    )
    convert = arrow_csv.ConvertOptions(
        column_types=schema, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=True
    )
    try:
        table = arrow_csv.read_csv(pa.BufferReader(block), read, parse, convert)
    except pa.ArrowException:
        return None
    lines = plain.count(b"\n") + (not plain.endswith(b"\n"))
    if table.num_rows != lines:  # empty lines are no rows to Arrow
        return None
    longest = max((pc.max(pc.binary_length(column)).as_py() or 0 for column in table.columns), default=0)
    if dialect.form.quoted and longest > csv.field_size_limit():
        return None
    return table.combine_chunks().to_batches()[0]


def _line_of_row(path: Path, block: bytes, line: int, start: int, dialect: _Dialect, row: int) -> str:
    records = _records(path, dialect.reader(_decoded(path, io.BytesIO(block), line)), line)
    return f"line {next(islice(records, start + row, None))[0]}"


def _parse_by_python(
    path: Path, source: Iterable[bytes], schema: pa.Schema, line: int, size: int, dialect: _Dialect
) -> Iterator[Batch]:
    """Parse lines from `line` on by Python's reader, which tells what is wrong and where."""
    lines: list[int] = []
    cells: list[list[str]] = []
    for number, row in _records(path, dialect.reader(_decoded(path, source, line)), line):
        if len(row) != len(schema):
            wanted = "a line has" if dialect.form.names else "the first line names"
            raise InputError(
                f"cannot read {path}: line {number} has {len(row)} fields, and {wanted} {len(schema)} columns"
            )
        lines.append(number)
        cells.append(row)
        if len(cells) == size:
            yield _text_batch(schema, lines, cells)
            lines, cells = [], []
    if cells:
        yield _text_batch(schema, lines, cells)


def _decoded(path: Path, lines: Iterable[bytes], first: int) -> Iterator[str]:
    for number, line in enumerate(lines, start=first):
        if number == 1:
            line = line.removeprefix(_MARK)
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"cannot read {path}: line {number} is not UTF-8; save the file as UTF-8") from error


def _records(path: Path, reader: Any, line: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the line at which each record begins, and its fields; empty lines may stand at the end alone."""
    first, empty, before = line, 0, line - 1
    try:
        for row in reader:
            if not row:
                empty = empty or first
            elif empty:
                raise InputError(f"cannot read {path}: line {empty} is empty")
            else:
                yield first, row
            first = before + reader.line_num + 1
    except csv.Error as error:
        reason = str(error).split(" - ")[0]
        if "expected after" in reason or "unexpected end" in reason or "field larger" in reason:
            reason = f'a quote is not closed, or text follows it (a quote within quoted text is written "") ({reason})'
        raise InputError(f"cannot read {path}: line {first}: {reason}") from error


def _text_batch(schema: pa.Schema, lines: list[int], cells: list[list[str]]) -> Batch:
    columns = zip(*cells, strict=True) if cells else [()] * len(schema)
    arrays = [pa.array([cell or None for cell in column], pa.string()) for column in columns]
    return Batch(pa.RecordBatch.from_arrays(arrays, schema=schema), lambda i: f"line {lines[i]}")
