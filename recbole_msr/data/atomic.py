"""Atomic files read as text, column by column: what stands between two tabs is the value, quotes included.

Only an empty cell is missing; in a column of numbers, so are the words that stand for no number (NA, nan, null).
pyarrow reads tokens straight into numbers and a dictionary of the distinct ones, so that a column takes four bytes a
row. What it refuses or may read differently (short rows, lone carriage returns, 1_000, a separator of several
characters) is read line by line, which also finds the line that cannot be read.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv
from recbole.utils import FeatureType

from recbole_msr.errors import InputError

_BLOCK = 1 << 22
"""Bytes parsed at once; a file with a longer row is read line by line."""

_LINES = 1 << 16
"""Lines that are read one by one before they are packed."""

_LOW_BYTES = np.array([(1 << 8 * n) - 1 for n in range(9)], dtype="<u8")

# What stands for no number in a column of numbers; pandas' list.
NO_NUMBER = (
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"),
    *("NULL", "NaN", "None", "n/a", "nan", "null"),
)

_TYPES = ", ".join(kind.value for kind in FeatureType)
_SEPARATORS = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars", " ": "spaces"}


@dataclass(frozen=True)
class Table:
    """The columns read from a file.

    Attributes:
        frame: one row a line; tokens are categorical, their categories in the order of their first appearance.
            Numbers are float64, sequences strings as they stand in the file.
        short_rows: lines with fewer cells than the header; the cells that they lack are empty.
        first_short: number of the first such line in the file, from 1.
    """

    frame: pd.DataFrame
    short_rows: int = 0
    first_short: int | None = None


def read_header(path: str | Path, separator: str, encoding: str | None = None) -> dict[str, FeatureType]:
    """Read the first line of an atomic file: its fields in their order, with their types.

    Args:
        path: the file.
        separator: stands between columns; with several characters, a regular expression.
        encoding: of the file; UTF-8, with or without a byte order mark, if not given.

    Raises:
        InputError: the line is not `field:type`, tab, `field:type` and so on, or the file is empty or not text.
    """
    path, encoding = Path(path), _encoding(encoding)
    try:
        with open(path, encoding=encoding, newline="\n") as file:
            head = file.readline().rstrip("\r\n")
    except UnicodeError as error:
        raise _undecodable(path, encoding) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if "\0" in head:
        raise InputError(f"{path} is not a text file: its first line holds NUL bytes (UTF-16? Save it as UTF-8)")
    if not head:
        raise InputError(f"{path} is empty: its first line must name the columns as name:type, for instance {_EXAMPLE}")
    columns = _splitter(separator)(head)
    if len(columns) == 1:
        other = next((s for s in _SEPARATORS if s != separator and s in head), None)
        if other is not None:
            raise InputError(
                f"{path}: columns are separated by {_SEPARATORS.get(separator, repr(separator))}, but the first line "
                f"has {_SEPARATORS[other]}; write the file with {_SEPARATORS.get(separator, repr(separator))}, or set "
                f"field_separator: {other!r}"
            )
    header: dict[str, FeatureType] = {}
    for column in columns:
        field, colon, kind = column.partition(":")
        if not field or not colon:
            raise InputError(
                f"{path}: column '{column}' in the first line has no type; write name:type, for instance "
                f"{_EXAMPLE} (types: {_TYPES})"
            )
        try:
            typed = FeatureType(kind)
        except ValueError as error:
            raise InputError(
                f"{path}: column '{column}' has the type '{kind}', which there is not; types are {_TYPES}"
            ) from error
        if field in header:
            raise InputError(f"{path}: two columns are called '{field}'; rename or remove one of them")
        header[field] = typed
    return header


_EXAMPLE = "user_id:token<TAB>item_id:token<TAB>clicked:float"


def read_table(
    path: str | Path, separator: str, encoding: str | None, header: Mapping[str, FeatureType], fields: Any
) -> Table:
    """Read columns of an atomic file.

    Args:
        path: the file.
        separator: between two columns, one character.
        encoding: the file's; None for UTF-8.
        header: the fields and their types, as `read_header` returns them.
        fields: the fields to read.

    Raises:
        InputError: the file cannot be read, or holds a text where a number should be; it names line and value.
    """
    path, encoding = Path(path), _encoding(encoding)
    wanted = [field for field in header if field in set(fields)]
    arrow = _read_fast(path, separator, encoding, header, wanted)
    lines = _Lines(path, separator, encoding, header, wanted)
    if arrow is None:
        arrow = lines.read()
    if not len(arrow):
        raise InputError(f"{path} has no rows, only its first line")
    # One column after the other, each given back as soon as it is converted.
    columns = {}
    for name in arrow.column_names:
        columns[name] = _converted(arrow.column(name), header[name].value.endswith("seq"))
        arrow = arrow.drop_columns([name])
    return Table(pd.DataFrame(columns, copy=False), lines.short_rows, lines.first_short)


def line_number(path: str | Path, row: int, encoding: str | None = None) -> int:
    """Return the line of the file (from 1) that holds a row (from 0): empty lines are no rows."""
    with open(path, encoding=_encoding(encoding), newline="\n") as file:
        rows = (number for number, line in enumerate(file, start=1) if number > 1 and line.strip("\r\n"))
        return next((number for index, number in enumerate(rows) if index == row), row + 2)


def _encoding(configured: str | None) -> str:
    """Return the encoding to open with: UTF-8 where a byte order mark is skipped."""
    try:
        name = codecs.lookup(configured or "utf-8").name
    except LookupError as error:
        raise InputError(f"there is no encoding '{configured}'; encoding is a name such as utf-8 or latin-1") from error
    return "utf-8-sig" if name == "utf-8" else name


def _splitter(separator: str) -> Callable[[str], list[str]]:
    if len(separator) > 1:
        return re.compile(separator).split
    return lambda line: line.split(separator)


def _undecodable(path: Path, encoding: str) -> InputError:
    """Return the error for a file that is not in its encoding; names the line."""
    name = encoding.removesuffix("-sig")
    with open(path, "rb") as file:
        start = file.read(2)
        if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return InputError(f"{path} is not in {name} but in UTF-16; save it as UTF-8, or set encoding: utf-16")
        file.seek(0)
        for number, line in enumerate(file, start=1):
            try:
                line.decode(name)
            except UnicodeDecodeError as error:
                return InputError(
                    f"{path} is not in {name}: line {number} holds the byte 0x{line[error.start]:02x}; save the file "
                    "as UTF-8, or name its encoding, for instance encoding: latin-1"
                )
    return InputError(f"{path} is not in {name}; name its encoding, for instance encoding: latin-1")


def _read_fast(
    path: Path, separator: str, encoding: str, header: Mapping[str, FeatureType], wanted: list[str]
) -> pa.Table | None:
    """Return the columns as pyarrow reads them; None where it refuses, or may take a line for two."""
    plain = len(separator) == 1 and separator.isascii() and not separator.isalnum() and separator not in "\r\n "
    if not plain or len(header) < 2 or not _one_line_end(path):
        return None
    try:
        return csv.read_csv(
            path,
            read_options=csv.ReadOptions(
                use_threads=_several_threads(),
                block_size=_BLOCK,
                column_names=list(header),
                skip_rows=1,
                encoding=encoding.removesuffix("-sig"),
            ),
            parse_options=csv.ParseOptions(delimiter=separator, quote_char=False),
            convert_options=csv.ConvertOptions(
                column_types={field: _arrow_type(header[field]) for field in wanted},
                include_columns=wanted,
                null_values=NO_NUMBER,
                strings_can_be_null=False,
            ),
        )
    except (pa.ArrowException, OSError, ValueError, KeyError):
        return None


def _one_line_end(path: Path) -> bool:
    """Return whether every carriage return belongs to the end of a line, and no byte is NUL."""
    last = b""
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            if b"\0" in block:
                return False
            if b"\r" in block or last == b"\r":
                joined = last + block
                if joined.count(b"\r") - joined.endswith(b"\r") != joined.count(b"\r\n"):
                    return False
            last = block[-1:] if block.endswith(b"\r") else b""
    return last == b""


def _arrow_type(kind: FeatureType) -> pa.DataType:
    return pa.float64() if kind == FeatureType.FLOAT else pa.string()


class _Lines:
    """A file read line by line."""

    def __init__(
        self, path: Path, separator: str, encoding: str, header: Mapping[str, FeatureType], wanted: list[str]
    ) -> None:
        self._path, self._split, self._encoding = path, _splitter(separator), encoding
        self._header, self._wanted = header, wanted
        self.short_rows = 0
        self.first_short: int | None = None

    def read(self) -> pa.Table:
        """Read all rows.

        Raises:
            InputError: a line cannot be read; it names the line.
        """
        types = {field: _arrow_type(self._header[field]) for field in self._wanted}
        chunks: dict[str, list[pa.Array]] = {field: [] for field in self._wanted}
        for numbers, rows in self._parts():
            for field, cells in zip(self._header, zip(*rows, strict=True), strict=True):
                if field in chunks:
                    values: Any = cells
                    if self._header[field] == FeatureType.FLOAT:
                        values = [self._number(field, *column) for column in zip(cells, numbers, strict=True)]
                    chunks[field].append(pa.array(values, type=types[field]))
        columns = {field: pa.chunked_array(chunks[field], type=types[field]) for field in self._wanted}
        return pa.table(columns)

    def _parts(self) -> Iterator[tuple[list[int], list[list[str]]]]:
        numbers: list[int] = []
        rows: list[list[str]] = []
        try:
            with open(self._path, encoding=self._encoding, newline="\n") as file:
                file.readline()
                for number, line in enumerate(file, start=2):
                    line = line.removesuffix("\n").removesuffix("\r")
                    if line:
                        numbers.append(number)
                        rows.append(self._cells(number, line))
                    if len(rows) == _LINES:
                        yield numbers, rows
                        numbers, rows = [], []
        except UnicodeError as error:
            raise _undecodable(self._path, self._encoding) from error
        if rows:
            yield numbers, rows

    def _cells(self, number: int, line: str) -> list[str]:
        if "\0" in line:
            raise InputError(f"{self._path}, line {number} holds a NUL byte: the file is damaged, or not text")
        cells = self._split(line)
        lacking = len(self._header) - len(cells)
        if lacking < 0:
            raise InputError(
                f"{self._path}, line {number} has {len(cells)} cells, but the first line names {len(self._header)} "
                f"columns: {line[:80]!r}"
            )
        if lacking > 0:
            self.short_rows += 1
            self.first_short = self.first_short or number
            cells += [""] * lacking
        return cells

    def _number(self, field: str, text: str, number: int) -> float | None:
        if text in NO_NUMBER:
            return None
        try:
            return float(text)
        except ValueError as error:
            raise InputError(
                f"{self._path}, line {number}: '{field}' is a column of numbers, but holds '{text[:80]}'; write "
                f"numbers as 1234.5 and leave a missing one empty, or declare the column as {field}:token"
            ) from error


def _several_threads() -> bool:
    import torch

    return torch.get_num_threads() > 1


def _converted(column: pa.ChunkedArray, sequence: bool) -> Any:
    if pa.types.is_floating(column.type):
        return column.to_numpy()  # a missing value becomes NaN
    if sequence:
        return column.to_numpy(zero_copy_only=False)
    codes, tokens = _short_codes(column) or _codes(column)
    dtype = pd.CategoricalDtype(pd.Index(tokens, dtype=object))
    return pd.Categorical.from_codes(codes.astype(np.int32), dtype=dtype, validate=False)


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Of every row the number of its token (-1: the cell is empty), and the tokens as they first appear."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    codes, tokens = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    if "" in tokens:
        empty = tokens.index("")
        codes = np.where(codes == empty, -1, codes - (codes > empty))
        del tokens[empty]
    return codes, tokens


def _short_codes(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]] | None:
    """Do the same for tokens of at most eight bytes, several times faster: each is compared as one number."""
    keys = np.empty(len(column), dtype="<u8")
    begin = 0
    for chunk in column.chunks:
        rows = slice(begin, begin := begin + len(chunk))
        _, offsets, text = chunk.buffers()
        ends = np.frombuffer(offsets, dtype=np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        lengths = np.diff(ends)
        if len(lengths) and lengths.max() > 8:
            return None
        # Eight bytes from where each token begins; what belongs to the next one is cut off.
        padded = np.frombuffer((text.to_pybytes() if text is not None else b"") + bytes(8), dtype=np.uint8)
        eight = np.ndarray(len(padded) - 7, dtype="<u8", buffer=padded, strides=(1,))
        keys[rows] = eight[ends[:-1]] & _LOW_BYTES[lengths]
    codes, distinct = pd.factorize(keys)
    missing = np.flatnonzero(distinct == 0)  # an empty cell, since there are no NUL bytes
    if len(missing):
        codes = np.where(codes == missing[0], -1, codes - (codes > missing[0]))
        distinct = np.delete(distinct, missing[0])
    return codes, [token.decode() for token in np.asarray(distinct, dtype="<u8").view("S8").tolist()]
