"""Atomic files read column by column, with what pandas would read from them to the bit.

RecBole reads with `pandas.read_csv`, which makes a Python string of every token. Here pyarrow reads tokens straight
into numbers and a dictionary of the distinct ones, so that a column takes four bytes a row. Only files on which both
readers are known to agree are read so; every other file is left to pandas: with quotes, a byte order mark, NUL bytes or
lone carriage returns in it, not in UTF-8, with rows of unequal length, with numbers that pyarrow does not read (1_000).
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv

_BLOCK = 1 << 22
"""Bytes parsed at once; a file with a longer row is left to pandas."""

_LOW_BYTES = np.array([(1 << 8 * n) - 1 for n in range(9)], dtype="<u8")

# What pandas takes for a missing value (keep_default_na).
_MISSING = (
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"),
    *("NULL", "NaN", "None", "n/a", "nan", "null"),
)


def read_columns(path: str | Path, delimiter: str, **options: Any) -> pd.DataFrame | None:
    """What `pandas.read_csv` gives with these options, with every column of tokens categorical.

    The categories stand in the order of their first appearance. Sequences of tokens stay strings.

    Args:
        path: the file; its first line names the columns as `field:type`.
        delimiter: between columns.
        options: as RecBole gives them to pandas: `usecols` and `dtype` by column name, `encoding`.

    Returns:
        The columns that `usecols` names, in the file's order; None where the file is one for pandas.
    """
    if not _plain(delimiter, str(options.get("encoding") or "utf-8")) or not _agreed(Path(path)):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            header = file.readline().rstrip("\n").split(delimiter)
    except UnicodeDecodeError:
        return None
    wanted: Sequence[str] = options["usecols"]
    if len(header) < 2 or len(set(header)) < len(header) or not set(wanted) <= set(header):
        return None
    kinds = {name: _kind(options["dtype"][name]) for name in wanted}
    try:
        table = csv.read_csv(
            path,
            read_options=csv.ReadOptions(use_threads=_several_threads(), block_size=_BLOCK),
            parse_options=csv.ParseOptions(delimiter=delimiter, quote_char=False),
            convert_options=csv.ConvertOptions(
                column_types=kinds,
                include_columns=[name for name in header if name in kinds],
                null_values=_MISSING,
                strings_can_be_null=True,
            ),
        )
    except (pa.ArrowException, OSError, ValueError, KeyError):
        return None
    if not len(table):
        return None
    # One column after the other, each given back as soon as it is converted.
    columns = {}
    for name in table.column_names:
        columns[name] = _converted(table.column(name), name.endswith("_seq"))
        table = table.drop_columns([name])
    return pd.DataFrame(columns, copy=False)


def _plain(delimiter: str, encoding: str) -> bool:
    try:
        utf8 = codecs.lookup(encoding).name == "utf-8"
    except LookupError:
        return False
    return (
        utf8 and len(delimiter) == 1 and delimiter.isascii() and not delimiter.isalnum() and delimiter not in '"\r\n '
    )


def _agreed(path: Path) -> bool:
    """Whether nothing is in the file that pandas and pyarrow may read differently."""
    last = b""
    with open(path, "rb") as file:
        if file.read(3) == codecs.BOM_UTF8:
            return False
        file.seek(0)
        while block := file.read(1 << 20):
            if b'"' in block or b"\0" in block:
                return False
            if b"\r" in block or last == b"\r":
                joined = last + block
                if joined.count(b"\r") - joined.endswith(b"\r") != joined.count(b"\r\n"):
                    return False
            last = block[-1:] if block.endswith(b"\r") else b""
    return last == b""


def _kind(dtype: Any) -> pa.DataType:
    return pa.string() if dtype is str else pa.float64()


def _several_threads() -> bool:
    import torch

    return torch.get_num_threads() > 1


def _converted(column: pa.ChunkedArray, sequence: bool) -> Any:
    if pa.types.is_floating(column.type):
        return column.to_numpy()  # a missing value becomes NaN
    if sequence:  # as this version of pandas holds text
        return pd.Series(column.to_numpy(zero_copy_only=False), dtype=pd.Series([""]).dtype)
    codes, tokens = _short_codes(column) or _codes(column)
    dtype = pd.CategoricalDtype(pd.Index(tokens, dtype=object))
    return pd.Categorical.from_codes(codes.astype(np.int32), dtype=dtype, validate=False)


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Of every row the number of its token (-1: missing), and the tokens as they first appear."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    return encoded.indices.fill_null(-1).to_numpy(), encoded.dictionary.to_pylist()


def _short_codes(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]] | None:
    """The same where no token is longer than eight bytes, several times faster: each is told apart as one number."""
    keys = np.empty(len(column), dtype="<u8")
    begin = 0
    for chunk in column.chunks:
        rows = slice(begin, begin := begin + len(chunk))
        _, offsets, text = chunk.buffers()
        ends = np.frombuffer(offsets, dtype=np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        lengths = np.diff(ends)
        if chunk.null_count:
            lengths[chunk.is_null().to_numpy(zero_copy_only=False)] = 0
        if len(lengths) and lengths.max() > 8:
            return None
        # Eight bytes from where each token begins; what belongs to the next one is cut off.
        padded = np.frombuffer((text.to_pybytes() if text is not None else b"") + bytes(8), dtype=np.uint8)
        eight = np.ndarray(len(padded) - 7, dtype="<u8", buffer=padded, strides=(1,))
        keys[rows] = eight[ends[:-1]] & _LOW_BYTES[lengths]
    codes, distinct = pd.factorize(keys)
    missing = np.flatnonzero(distinct == 0)  # an empty text is a missing value, and there are no NUL bytes
    if len(missing):
        codes = np.where(codes == missing[0], -1, codes - (codes > missing[0]))
        distinct = np.delete(distinct, missing[0])
    return codes, [token.decode() for token in np.asarray(distinct, dtype="<u8").view("S8").tolist()]
