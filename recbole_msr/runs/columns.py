"""Raw columns of new rows as the ids and numbers that a model reads."""

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

from recbole_msr.errors import InputError
from recbole_msr.runs.rows import is_nested
from recbole_msr.schema import as_token

_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))(?:\.0+)?", re.ASCII)
"""A whole number, which a table with gaps writes as 3.0. 007 is none: it is a name."""


class Vocabulary:
    """Ids of raw values, whatever type a table keeps them in.

    The text of a value comes first. Where the vocabulary has no such text, a whole number also goes by its other
    spellings (3, 3.0), unless the vocabulary holds several of them.

    Args:
        known: ids by token; 0 is no id of a value (padding).

    >>> Vocabulary({"3.0": 1, "x": 2}).find(3)
    1
    """

    def __init__(self, known: Mapping[Any, int]) -> None:
        self._known = known
        self._spelled: dict[str, set[int]] = {}
        for token, number in known.items():
            whole = _WHOLE.fullmatch(token) if isinstance(token, str) and "." in token else None
            if whole:
                self._spelled.setdefault(whole[1], set()).add(number)

    def find(self, value: Any) -> int:
        """The id, 0 where there is none."""
        if isinstance(value, bool):
            return self._known.get(str(value), 0) or self._only("true" if value else "false", "1" if value else "0")
        if isinstance(value, int) and str(value) in self._known:
            return self._known[str(value)]
        if isinstance(value, (int, float, Decimal)) and math.isfinite(value) and value == int(value):
            return self._only(str(int(value)))
        text = str(value)
        if text in self._known:
            return self._known[text]
        if not self._spelled and "." not in text:
            return 0
        whole = _WHOLE.fullmatch(text)
        return self._only(whole[1]) if whole else 0

    def ids(self, values: Sequence[Any]) -> np.ndarray:
        """`find` of values that are all of one type, shape (N,)."""
        found: Iterable[int | None] = [None] * len(values)
        if values and isinstance(values[0], (str, int)):  # of these, the text comes first
            found = map(self._known.get, values if isinstance(values[0], str) else map(str, values))
        pairs = zip(found, values, strict=True)
        return np.array([self.find(value) if place is None else place for place, value in pairs], dtype=np.int64)

    def _only(self, *texts: str) -> int:
        """The id of the one token that is spelled so, 0 if there are several."""
        found = {self._known[text] for text in texts if text in self._known}
        found = found.union(*(self._spelled.get(text, ()) for text in texts))
        return found.pop() if len(found) == 1 else 0


def arrow_column(values: pd.Series) -> pa.Array:
    """A pandas column as an Arrow array; what has no one type becomes text."""
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


def distinct(name: str, column: pa.Array) -> tuple[np.ndarray, list[Any]]:
    """The place of every row's value in the list of distinct values, -1 where it is missing (null, NaN, empty text).

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
    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(check(kind) for check in checks)


def take(found: list[Any] | np.ndarray, places: np.ndarray, missing: Any = 0) -> np.ndarray:
    """What was found for each distinct value, for every row; `missing` where there is no value."""
    return np.append(np.asarray(found), missing)[places] if len(found) else np.full(len(places), missing)


def numbers(name: str, column: pa.Array, place: Callable[[int], str] | None) -> np.ndarray:
    """A column of numbers as float64, NaN where there is none.

    Args:
        place: says where a row is, for the error; without it, what is no finite number is as good as missing.

    Raises:
        InputError: a value is text that is no number, or infinite.
    """
    places, values = distinct(name, column)
    try:
        found = pc.cast(pa.array(values), pa.float64()).to_numpy(zero_copy_only=False)
    except (pa.ArrowException, OverflowError):
        found = np.array([_number(value) for value in values], dtype=np.float64)
    found = take(found, places, math.nan)
    wrong = (places >= 0) & ~np.isfinite(found)
    if place is not None and wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"{place(row)}: '{name}' is '{values[places[row]]}', which is not a finite number (such as 12.5); "
            "leave the cell empty where there is none"
        )
    return found


def _number(value: Any) -> float:
    if isinstance(value, str) and "_" in value:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def sequences(
    name: str, column: pa.Array, vocabulary: Vocabulary, length: int, separator: str
) -> tuple[np.ndarray, np.ndarray]:
    """Ids (N, length) of a column of lists or of separated text, padded with 0; and which rows hold unknown tokens."""
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        places, values = distinct(name, column)
        lists = [value.split(separator) if isinstance(value, str) else [value] for value in values]
        tokens = [[vocabulary.find(token) for token in listed if token != ""][:length] for listed in lists]
        table = np.zeros((len(lists) + 1, length), dtype=np.int64)  # the last is that of rows without a value
        for row, found in enumerate(tokens):
            table[row, : len(found)] = found
        return table[places], take([0 in found for found in tokens], places, False).astype(bool)
    places, values = distinct(name, pc.list_flatten(column))
    ids = take(vocabulary.ids(values), places)
    rows = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)[places >= 0]
    ids = ids[places >= 0]
    position = np.arange(len(rows)) - np.searchsorted(rows, rows)
    rows, ids, position = (part[position < length] for part in (rows, ids, position))
    table, unknown = np.zeros((len(column), length), dtype=np.int64), np.zeros(len(column), dtype=bool)
    table[rows, position] = ids
    unknown[rows[ids == 0]] = True
    return table, unknown
