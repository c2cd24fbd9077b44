"""Read raw columns of new rows: their distinct values, and numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recbole_msr.data.tables.columns import plain_column, seconds, time_text
from recbole_msr.errors import InputError
from recbole_msr.files.row_files import is_nested
from recbole_msr.schema import as_token


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
    places, distinct = encode_distinct(name, column)
    return places, decode_distinct(name, distinct)


def decode_distinct(name: str, distinct: pa.Array) -> list[Any]:
    """Return the distinct values of a column (D,) as Python values."""
    try:
        values = distinct.to_pylist()
    except (pa.ArrowException, ValueError) as error:
        raise no_text(name, distinct, error) from error
    if pa.types.is_float32(distinct.type) or pa.types.is_float16(distinct.type):
        shortest = distinct.to_numpy(zero_copy_only=False)
        values = [float(str(value)) for value in shortest]  # 0.1, not 0.10000000149
    return list(values)


def encode_distinct(name: str, column: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """Return the place of every row's value among the distinct ones, as `distinct_values`, and these (D,)."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if is_nested(column.type):
        raise InputError(f"column '{name}' is a {column.type}, and the model reads one value a row from it")
    try:
        column = plain_column(column)
        if pa.types.is_temporal(column.type):
            column = time_text(column)
        if _is_binary(column.type):
            column = pc.cast(column, pa.string())
        encoded = column.dictionary_encode()
        encoded.dictionary.validate(full=True)
    except (pa.ArrowException, ValueError) as error:
        raise no_text(name, column, error) from error
    places = encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    nothing = encoded.dictionary.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
    if is_text(column.type):
        nothing = nothing | pc.equal(encoded.dictionary, "").fill_null(False).to_numpy(zero_copy_only=False)
    missing = np.append(nothing, True)
    return np.where(missing[places], -1, places), encoded.dictionary


def no_text(name: str, column: pa.Array, error: Exception) -> InputError:
    """Return the error of a column whose values are no text."""
    return InputError(f"column '{name}' is a {column.type} that cannot be read as text: {error}")


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_time(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds dates, times or durations."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_temporal(kind) and not pa.types.is_interval(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def gather(converted: list[Any] | np.ndarray, places: np.ndarray, missing: Any = 0) -> np.ndarray:
    """Return every row's converted value (N,) by its place among the distinct ones; `missing` where it has none."""
    return np.append(np.asarray(converted), missing)[places] if len(converted) else np.full(len(places), missing)


def to_numbers(name: str, column: pa.Array, place: Callable[[int], str] | None) -> np.ndarray:
    """Convert a column to float64 (N,), NaN where there is no number; dates and times become seconds since 1970.

    Args:
        name: the column's name, for errors.
        column: (N,).
        place: tells where a row is, for the error; without it, a value that is no finite number counts as missing.

    Raises:
        InputError: a value is text that is no number, or infinite.
    """
    if is_time(column.type):
        column = seconds(plain_column(column))
    if pa.types.is_float64(column.type):
        exact: np.ndarray = pc.fill_null(column, math.nan).to_numpy(zero_copy_only=False)
        if not np.isinf(exact).any():
            return exact
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
