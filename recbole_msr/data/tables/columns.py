"""Types of a table's columns as RecBole names them, and the text of their cells as an atomic file has it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing

import pyarrow as pa
import pyarrow.compute as pc
from recbole.utils import FeatureType

from recbole_msr.data.atomic import NO_NUMBER
from recbole_msr.data.tables.source import TableSource
from recbole_msr.errors import InputError, nearest
from recbole_msr.files.row_files import Batch

TYPES = tuple(kind.value for kind in FeatureType)
_WHOLE = r"^-?(0|[1-9][0-9]*)$"
_CODE = r"^-?0[0-9]"
"""Matches what is no number but a code, such as 007."""
_BROKEN = "[\t\n\r\\x00]"
_ZEROS = r"(:[0-9]{2})(?:\.0+|(\.[0-9]*[1-9])0+)?(Z|[+-][0-9]{4})?$"
"""Matches the end of a time: its seconds, their fraction without the zeros behind it, and what its zone is."""
TIME_TEXT = 2
"""Raised whenever `time_text` writes other text; what was prepared of such columns is not found then."""
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DAY = 86_400

Place = Callable[[int], str]


def column_types(
    source: TableSource,
    tokens: Collection[str],
    numbers: Collection[str],
    either: Collection[str],
    given: Mapping[str, str],
) -> tuple[dict[str, FeatureType], dict[str, str]]:
    """Return the type of every column that an atomic file can hold, and why others are left out.

    Text, true or false, and whole numbers are tokens; other numbers, dates and times (as seconds since 1970) are
    numbers; lists are sequences of what they hold. Of a CSV file, whose cells are all text, the values tell.

    Args:
        source: the table.
        tokens: columns that are tokens by what they are for: ids, scenarios.
        numbers: columns that are numbers by what they are for: labels, weights, times, numerical features.
        either: columns that may be text by what they are for, and are numbers otherwise: labels of classes.
        given: types that the settings give, by column.

    Raises:
        InputError: `given` has a column that the table does not have, or a type that there is not.
    """
    names = source.schema.names
    for field, kind in given.items():
        if kind not in TYPES:
            raise InputError(f"types: '{kind}' of column '{field}' is none of {', '.join(TYPES)}")
    kinds = _text_kinds(source, [name for name in names if name not in tokens]) if source.is_text else {}
    types: dict[str, FeatureType] = {}
    left_out: dict[str, str] = {}
    for field in source.schema:
        name = field.name
        of_values = kinds.get(name) or _kind(field.type)
        if not name or re.search(r"[\t\n\r:]", name):
            left_out[name] = "an atomic file has no such name of a column"
        elif name in given:
            types[name] = FeatureType(given[name])
        elif of_values is None:
            left_out[name] = f"a {field.type} is neither a token, a number nor a list of these"
        elif of_values in ("tokens", "numbers"):
            types[name] = FeatureType.TOKEN_SEQ if of_values == "tokens" else FeatureType.FLOAT_SEQ
        elif name in numbers and name not in tokens:
            types[name] = FeatureType.FLOAT  # text that is no number is refused where it is read
        elif name in tokens or of_values == "text" or (of_values == "whole" and name not in either):
            types[name] = FeatureType.TOKEN
        else:
            types[name] = FeatureType.FLOAT
    return types, left_out


def whole_with_gaps(source: TableSource, types: Mapping[str, FeatureType]) -> list[str]:
    """Return columns of floats that, as far as the first rows tell, hold whole numbers and gaps: pandas' way of ids.

    Args:
        source: the table.
        types: the columns of which one may be such.
    """
    names = [
        field.name
        for field in source.schema
        if types.get(field.name) == FeatureType.FLOAT and pa.types.is_floating(field.type)
    ]
    if not names:
        return []
    with closing(source.batches()) as batches:  # type: ignore[type-var]
        first = next(batches, None)
    if first is None:  # a table in memory without rows
        return []
    found = []
    for name in names:
        column = first.columns.column(name)
        values = column.filter(pc.invert(column.is_null(nan_is_null=True)))
        if 0 < len(values) < len(column) and _all(pc.equal(pc.floor(values), values)):
            found.append(name)
    return found


def time_text_of(source: TableSource, types: Mapping[str, FeatureType]) -> int | None:
    """Return `TIME_TEXT` if a column of times is a token, or a sequence of them; else None."""
    tokens = [name for name, kind in types.items() if kind in (FeatureType.TOKEN, FeatureType.TOKEN_SEQ)]
    return TIME_TEXT if any(_holds_times(source.schema.field(name).type) for name in tokens) else None


def _holds_times(kind: pa.DataType) -> bool:
    while not pa.types.is_temporal(kind) and hasattr(kind, "value_type"):
        kind = kind.value_type
    return bool(pa.types.is_temporal(kind))


def check_columns(source: TableSource, fields: Mapping[str, str]) -> None:
    """Refuse columns that the settings name and the table does not have.

    Args:
        source: the table.
        fields: what each is for, by column.

    Raises:
        InputError: there is no such column; the message names the nearest.
    """
    for field, what in fields.items():
        if field not in source.schema.names:
            hint = nearest(field, source.schema.names) or "."
            raise InputError(
                f"{source.name} has no column '{field}' ({what}){hint} It has {', '.join(source.schema.names)}"
            )


def _kind(kind: pa.DataType) -> str | None:
    """Return what a column holds: text, whole, number, tokens, numbers; None for what cannot be used."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _kind(kind.value_type)
        return {"text": "tokens", "whole": "tokens", "number": "numbers"}.get(inner or "")
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return "whole"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_temporal(kind):
        return None if pa.types.is_time(kind) or pa.types.is_interval(kind) else "number"
    return "text" if _is_text(kind) else None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _text_kinds(source: TableSource, names: list[str]) -> dict[str, str]:
    """Return what the columns of a CSV file hold, by looking at every value."""
    kinds = dict.fromkeys(names, "whole")
    seen = set()
    for batch in source.batches():
        for name in [name for name, kind in kinds.items() if kind != "text"]:
            column = pc.drop_null(batch.columns.column(name))
            if not len(column):
                continue
            seen.add(name)
            if kinds[name] == "whole" and not _all(pc.match_substring_regex(column, _WHOLE)):
                kinds[name] = "number"
            if kinds[name] == "number" and (
                first_no_number(column) is not None or pc.any(pc.match_substring_regex(column, _CODE)).as_py()
            ):
                kinds[name] = "text"
    return {name: kind if name in seen else "text" for name, kind in kinds.items()}


def _all(flags: pa.Array) -> bool:
    return bool(pc.all(flags, min_count=0).as_py())


def first_no_number(column: pa.Array) -> int | None:
    """Return the first row of a column of text that holds no number (a missing one is none); None if all do."""
    words = pc.is_in(column, pa.array(NO_NUMBER, column.type))
    numbers = pc.if_else(words, None, column)
    try:
        pc.cast(numbers, pa.float64())
        return None
    except pa.ArrowException:
        return next(row for row, text in enumerate(numbers.to_pylist()) if text is not None and not _parses(text))


def _parses(text: str) -> bool:
    try:
        pc.cast(pa.scalar(text), pa.float64())
        return True
    except pa.ArrowException:
        return False


def as_text(name: str, column: pa.Array, kind: FeatureType, separator: str, place: Place) -> pa.Array:
    """Return a column's cells as an atomic file has them, of type large_string; empty where there is none.

    A token that is a whole number is written as one (3.0 as 3), true and false as 1 and 0, numbers with all their
    digits, times as seconds since 1970 in UTC. A time that is a token is written as `time_text` does.

    Args:
        name: the column's name, for errors.
        column: (N,).
        kind: its type.
        separator: stands between the values of a sequence.
        place: tells where row i is, for errors.

    Raises:
        InputError: a value holds a tab or the end of a line, a sequence's token the separator, or a number is text.
    """
    column = plain_column(column)
    check_text(name, column, place)
    if kind.value.endswith("seq"):
        return _sequences(name, column, kind, separator, place)
    text = _token_text(column) if kind == FeatureType.TOKEN else _number_text(name, column, place)
    _refuse(name, text, _BROKEN, "holds a tab or the end of a line, which an atomic file cannot", place)
    return pc.fill_null(text, "")


def plain_column(column: pa.Array) -> pa.Array:
    """Return a column without extension type and dictionary, and text in views as text that Arrow computes with."""
    column = column.storage if isinstance(column, pa.ExtensionArray) else column
    if pa.types.is_dictionary(column.type):
        column = pa.DictionaryArray.from_arrays(column.indices, plain_column(column.dictionary)).dictionary_decode()
    return pc.cast(column, pa.large_string()) if pa.types.is_string_view(column.type) else column


def check_text(name: str, column: pa.Array, place: Place) -> None:
    """Refuse a column of text whose bytes are none, which Arrow reads as they are.

    Raises:
        InputError: the first such row is named.
    """
    if not _is_text(column.type):
        return
    try:
        column.validate(full=True)
    except pa.ArrowException as error:
        for row in range(len(column)):
            try:
                column[row].as_py()
            except UnicodeDecodeError:
                raise InputError(
                    f"{place(row)}: '{name}' is {column[row].as_buffer().to_pybytes()[:80]!r}, which is not UTF-8; "
                    "write the column as UTF-8"
                ) from error
        raise


def _token_text(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_boolean(kind):
        return pc.cast(pc.cast(column, pa.int8()), pa.large_string())
    if pa.types.is_temporal(kind):
        return time_text(column)
    text = pc.cast(column, pa.large_string())
    if pa.types.is_decimal(kind):
        return pc.replace_substring_regex(text, r"\.0+$", "")
    if not pa.types.is_floating(kind):
        return text
    wide = pc.cast(column, pa.float64())
    whole = pc.and_(pc.equal(pc.floor(wide), wide), pc.less(pc.abs(wide), 2.0**63))
    integers = pc.cast(pc.cast(pc.if_else(whole, wide, 0.0), pa.int64()), pa.large_string())
    return pc.if_else(pc.is_nan(wide), None, pc.if_else(whole, integers, text))


def time_text(column: pa.Array) -> pa.Array:
    """Return dates and times as text of type large_string: 2024-01-31, 2024-01-31 08:30:00.25; durations as seconds.

    The text is the same in every unit (s, ms, us, ns): a fraction of a second has no zeros at its end.
    """
    if pa.types.is_duration(column.type):
        return _token_text(seconds(column))
    return pc.replace_substring_regex(pc.cast(column, pa.large_string()), _ZEROS, r"\1\2\3")


def _number_text(name: str, column: pa.Array, place: Place) -> pa.Array:
    kind = column.type
    if _is_text(kind):
        wrong = first_no_number(column)
        if wrong is not None:
            raise InputError(
                f"{place(wrong)}: '{name}' is a column of numbers, but holds {column[wrong].as_py()!r}; write numbers "
                f"as 1234.5 and leave a missing one empty, or declare types: {{{name}: token}}"
            )
        return pc.cast(column, pa.large_string())
    if pa.types.is_temporal(kind):
        column = seconds(column)
    elif pa.types.is_boolean(kind):
        column = pc.cast(column, pa.int8())
    elif pa.types.is_float16(kind):
        column = pc.cast(column, pa.float32())
    text = pc.cast(column, pa.large_string())
    return pc.if_else(pc.is_nan(column), None, text) if pa.types.is_floating(column.type) else text


def seconds(column: pa.Array) -> pa.Array:
    """Return dates, times of day and durations as seconds, float64."""
    kind = column.type
    if pa.types.is_date32(kind):
        return pc.multiply(pc.cast(pc.cast(column, pa.int32()), pa.float64()), float(_DAY))
    unit = "ms" if pa.types.is_date64(kind) else kind.unit
    # The whole and the rest apart: nanoseconds since 1970 are more than a float64 can hold exactly.
    ticks, per_second = pc.cast(column, pa.int64()), _PER_SECOND[unit]
    whole = pc.floor(pc.divide(pc.cast(ticks, pa.float64(), safe=False), float(per_second)))
    rest = pc.subtract(ticks, pc.multiply(pc.cast(whole, pa.int64()), per_second))
    return pc.add(whole, pc.divide(pc.cast(rest, pa.float64()), float(per_second)))


def _sequences(name: str, column: pa.Array, kind: FeatureType, separator: str, place: Place) -> pa.Array:
    if _is_text(column.type):
        _refuse(name, column, _BROKEN, "holds a tab or the end of a line, which an atomic file cannot", place)
        return pc.fill_null(pc.cast(column, pa.large_string()), "")
    if _kind(column.type) not in ("tokens", "numbers"):
        raise InputError(f"types: column '{name}' is a {column.type}, which is no sequence ({kind.value})")
    if pa.types.is_fixed_size_list(column.type):
        column = column.cast(pa.list_(column.type.value_type))
    parents = pc.list_parent_indices(column)
    inner = plain_column(pc.list_flatten(column))
    of_row = lambda i: place(parents[i].as_py())  # noqa: E731
    check_text(name, inner, of_row)
    text = _token_text(inner) if kind == FeatureType.TOKEN_SEQ else _number_text(name, inner, of_row)
    _refuse(name, text, f"{_BROKEN}|{re.escape(separator)}", "holds what stands between cells or values", of_row)
    lengths = pc.fill_null(pc.list_value_length(column), 0)
    ends = pa.array([0, *pc.cumulative_sum(pc.cast(lengths, pa.int64())).to_pylist()], pa.int64())
    lists = pa.LargeListArray.from_arrays(ends, pc.fill_null(text, ""))
    return pc.cast(pc.binary_join(lists, pa.scalar(separator, pa.large_string())), pa.large_string())


def _refuse(name: str, text: pa.Array, pattern: str, why: str, place: Place) -> None:
    """Refuse text that matches a pattern."""
    found = pc.fill_null(pc.match_substring_regex(text, pattern), False)
    row = pc.index(found, True).as_py()
    if row >= 0:
        raise InputError(
            f"{place(row)}: '{name}' is {text[row].as_py()[:80]!r}, which {why}; write it otherwise, or leave the "
            "column out with load_col or unload_col"
        )


def text_rows(source: TableSource, types: Mapping[str, FeatureType], separator: str) -> Iterator[pa.LargeStringArray]:
    """Yield the rows as lines of an atomic file, batch by batch.

    Args:
        source: the table.
        types: the columns to write, in their order.
        separator: stands between the values of a sequence.
    """
    for batch in source.batches():
        yield row_lines(batch, types, separator)


def row_lines(batch: Batch, types: Mapping[str, FeatureType], separator: str) -> pa.LargeStringArray:
    """Return rows as lines of an atomic file, with their ends.

    Args:
        batch: the rows, with the columns of `types`.
        types: the columns to write, in their order.
        separator: stands between the values of a sequence.
    """
    tab, newline = (pa.scalar(text, pa.large_string()) for text in "\t\n")
    lines = pc.binary_join_element_wise(*_cells(batch, types, separator), tab)
    return pc.binary_join_element_wise(lines, newline, pa.scalar("", pa.large_string()))


def _cells(batch: Batch, types: Mapping[str, FeatureType], separator: str) -> list[pa.Array]:
    return [as_text(name, batch.columns.column(name), kind, separator, batch.place) for name, kind in types.items()]
