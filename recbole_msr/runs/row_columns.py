"""Convert raw columns of new rows to the ids and numbers that a model reads."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recbole_msr.data.table_rows import bucket_of
from recbole_msr.errors import InputError
from recbole_msr.files.row_files import is_nested
from recbole_msr.schema import as_token

_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))(?:\.0+)?", re.ASCII)
"""Matches a whole number, which a table with gaps writes as 3.0; 007 is a name."""


class Vocabulary:
    """Finds the ids of raw values, whatever type a table keeps them in.

    The text of a value comes first. Where the vocabulary has no such text, a whole number also goes by its other
    spellings (3, 3.0), unless the vocabulary holds several of them.

    Args:
        ids: ids by token; 0 (padding) is the id of no value.

    >>> Vocabulary({"3.0": 1, "x": 2}).find(3)
    1
    """

    def __init__(self, ids: Mapping[Any, int]) -> None:
        self._ids = ids
        self._spelled: dict[str, set[int]] = {}
        for token, number in ids.items():
            whole = _WHOLE.fullmatch(token) if isinstance(token, str) and "." in token else None
            if whole:
                self._spelled.setdefault(whole[1], set()).add(number)

    def find(self, value: Any) -> int:
        """Return the id of a value, 0 where there is none."""
        if isinstance(value, bool):
            return self._ids.get(str(value), 0) or self._only("true" if value else "false", "1" if value else "0")
        if isinstance(value, int) and str(value) in self._ids:
            return self._ids[str(value)]
        if isinstance(value, (int, float, Decimal)) and math.isfinite(value) and value == int(value):
            return self._only(str(int(value)))
        text = str(value)
        if text in self._ids:
            return self._ids[text]
        if not self._spelled and "." not in text:
            return 0
        whole = _WHOLE.fullmatch(text)
        return self._only(whole[1]) if whole else 0

    def ids(self, values: Sequence[Any]) -> np.ndarray:
        """Return `find` of values that are all of one type, shape (N,)."""
        exact: Iterable[int | None] = [None] * len(values)
        if values and isinstance(values[0], (str, int)):  # of these types the text comes first: one look-up each
            exact = map(self._ids.get, values if isinstance(values[0], str) else map(str, values))
        pairs = zip(exact, values, strict=True)
        return np.array([self.find(value) if known is None else known for known, value in pairs], dtype=np.int64)

    def _only(self, *texts: str) -> int:
        """Return the id of the only token with one of these spellings, 0 if there are several or none."""
        ids = {self._ids[text] for text in texts if text in self._ids}
        ids = ids.union(*(self._spelled.get(text, ()) for text in texts))
        return ids.pop() if len(ids) == 1 else 0


class HashedVocabulary(Vocabulary):
    """A vocabulary of V ids, whose unknown values have ids beyond it: V + the bucket of the value's hash.

    Args:
        ids: see `Vocabulary`; V of them.
        buckets: the number of buckets.
    """

    def __init__(self, ids: Mapping[Any, int], buckets: int) -> None:
        super().__init__(ids)
        self._buckets = buckets

    def find(self, value: Any) -> int:
        """Return the id of a value: for one that is not in the vocabulary that of its bucket."""
        return super().find(value) or len(self._ids) + bucket_of(str(as_token(value)), self._buckets)


def arrow_column(values: pd.Series | Sequence[Any]) -> pa.Array:
    """Convert a column of pandas, or a list, to an Arrow array; a column of mixed types becomes text."""
    try:
        column = pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        cells = [_cell(value) for value in values]
        if any(isinstance(cell, list) for cell in cells):
            cells = [cell if cell is None or isinstance(cell, list) else [cell] for cell in cells]
        column = pa.array(cells)
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _cell(value: Any) -> Any:
    if not isinstance(value, str) and isinstance(value, Iterable):
        return [_cell(inner) for inner in value]
    return None if pd.api.types.is_scalar(value) and pd.isna(value) else as_token(value)


def distinct_values(name: str, column: pa.Array) -> tuple[np.ndarray, list[Any]]:
    """List the distinct values of a column.

    Args:
        name: the column's name, for errors.
        column: (N,).

    Returns:
        The place of every row's value in the list (N,), -1 where it is missing (null, NaN, empty text); and the list.

    Raises:
        InputError: the column holds lists or the like.
    """
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if is_nested(column.type):
        raise InputError(f"column '{name}' is a {column.type}, and the model reads one value a row from it")
    try:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pa.types.is_string_view(column.type) or _is_binary(column.type):
            column = pc.cast(column, pa.string())
        encoded = column.dictionary_encode()
        values = encoded.dictionary.to_pylist()
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"column '{name}' is a {column.type} that cannot be read as text: {error}") from error
    if pa.types.is_float32(column.type) or pa.types.is_float16(column.type):
        shortest = encoded.dictionary.to_numpy(zero_copy_only=False)
        values = [float(str(value)) for value in shortest]  # 0.1, not 0.10000000149
    places = encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    nothing = encoded.dictionary.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        nothing = nothing | np.array([value == "" for value in values], dtype=bool)
    missing = np.append(nothing, True)
    return np.where(missing[places], -1, places), values


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def gather(converted: list[Any] | np.ndarray, places: np.ndarray, missing: Any = 0) -> np.ndarray:
    """Return every row's converted value (N,) by its place among the distinct ones; `missing` where it has none."""
    return np.append(np.asarray(converted), missing)[places] if len(converted) else np.full(len(places), missing)


def to_numbers(name: str, column: pa.Array, place: Callable[[int], str] | None) -> np.ndarray:
    """Convert a column to float64 (N,), NaN where there is no number.

    Args:
        name: the column's name, for errors.
        column: (N,).
        place: tells where a row is, for the error; without it, a value that is no finite number counts as missing.

    Raises:
        InputError: a value is text that is no number, or infinite.
    """
    places, values = distinct_values(name, column)
    try:
        converted = pc.cast(pa.array(values), pa.float64()).to_numpy(zero_copy_only=False)
    except (pa.ArrowException, OverflowError):
        converted = np.array([_parse_number(value) for value in values], dtype=np.float64)
    converted = gather(converted, places, math.nan)
    wrong = (places >= 0) & ~np.isfinite(converted)
    if place is not None and wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"{place(row)}: '{name}' is '{values[places[row]]}', which is not a finite number (such as 12.5); "
            "leave the cell empty where there is none"
        )
    return converted


def _parse_number(value: Any) -> float:
    if isinstance(value, str) and "_" in value:  # Python reads 1_000, no other program does
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def to_id_sequences(
    name: str, column: pa.Array, vocabulary: Vocabulary, length: int, separator: str
) -> tuple[np.ndarray, np.ndarray]:
    """Convert a column of lists, or of separated text, to sequences of ids.

    Args:
        name: the column's name, for errors.
        column: (N,).
        vocabulary: ids of tokens.
        length: the most tokens of a sequence; further ones are cut off.
        separator: between the tokens of a text.

    Returns:
        Ids (N, length), padded with 0; and which rows hold unknown tokens (N,).
    """
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _split_lists(name, column, vocabulary, length)
    places, values = distinct_values(name, column)
    lists = [value.split(separator) if isinstance(value, str) else [value] for value in values]
    sequences = [[vocabulary.find(token) for token in tokens if token != ""][:length] for tokens in lists]
    table = np.zeros((len(lists) + 1, length), dtype=np.int64)  # the last row is that of rows without a value
    for row, ids in enumerate(sequences):
        table[row, : len(ids)] = ids
    return table[places], gather([0 in ids for ids in sequences], places, False).astype(bool)


def _split_lists(name: str, column: pa.Array, vocabulary: Vocabulary, length: int) -> tuple[np.ndarray, np.ndarray]:
    places, values = distinct_values(name, pc.list_flatten(column))
    ids = gather(vocabulary.ids(values), places)
    rows = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)[places >= 0]
    ids = ids[places >= 0]
    position = np.arange(len(rows)) - np.searchsorted(rows, rows)
    rows, ids, position = (part[position < length] for part in (rows, ids, position))
    table, unknown = np.zeros((len(column), length), dtype=np.int64), np.zeros(len(column), dtype=bool)
    table[rows, position] = ids
    unknown[rows[ids == 0]] = True
    return table, unknown
