"""The rows of a request: from JSON to columns, and their types as OpenAPI shows them.

A request's rows are read as columns at once. What is not plainly right (a missing key, a field of another name, a value
of another kind) is not judged here: it is left to pydantic, whose errors name the row and the field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import orjson
from pydantic import ConfigDict
from recbole.utils import FeatureSource, FeatureType
from typing_extensions import NotRequired, TypedDict

from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.schema import SCENARIO_FIELD

STRICT = ConfigDict(extra="forbid")
"""Of an object of a request: no other keys."""
Value = str | int | float | bool | None
_NOTHING = frozenset({type(None)})
_VALUES = frozenset({str, int, float, bool}) | _NOTHING


class ColumnTypes(NamedTuple):
    """The types of the values of a column, and those inside its lists."""

    values: frozenset[type]
    inside: frozenset[type] = frozenset()

    @classmethod
    def of(cls, column: Sequence[Any]) -> ColumnTypes:
        """Return the types of a column (N,)."""
        values = frozenset(map(type, column))
        if list not in values:
            return cls(values)
        lists = (value for value in column if type(value) is list)
        return cls(values, frozenset(map(type, chain.from_iterable(lists))))

    def is_within(self, allowed: ColumnTypes) -> bool:
        """Return whether all of the types are allowed."""
        return self.values <= allowed.values and self.inside <= allowed.inside


class RowColumns(NamedTuple):
    """The rows of a request by field.

    Attributes:
        columns: by field, a value a row, None where a row has none; fields that no row has are left out.
        size: number of rows, 1 or more.
        types: the types of each column. Rows of the same fields and `types` may be encoded together: a column of
            several types is read otherwise than one of each.
    """

    columns: dict[str, list[Any]]
    size: int
    types: frozenset[tuple[str, ColumnTypes]]

    @classmethod
    def of_rows(cls, rows: Sequence[Mapping[str, Any]]) -> RowColumns:
        """Return rows, which may have other fields each, as columns."""
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: [row.get(name) for row in rows] for name in names}
        return cls.of_columns(columns, {name: ColumnTypes.of(column) for name, column in columns.items()})

    @classmethod
    def of_columns(cls, columns: Mapping[str, list[Any]], types: Mapping[str, ColumnTypes]) -> RowColumns:
        """Return columns of one length, without those that have no value."""
        given = {name: of_column for name, of_column in types.items() if of_column.values != _NOTHING}
        size = len(next(iter(columns.values()))) if columns else 0
        return cls({name: columns[name] for name in given}, size, frozenset(given.items()))

    @classmethod
    def join(cls, parts: Sequence[RowColumns]) -> RowColumns:
        """Return the rows of several parts of the same `types`, one part after the other."""
        first = parts[0]
        if len(parts) == 1:
            return first
        columns = {name: [*chain.from_iterable(part.columns[name] for part in parts)] for name in first.columns}
        return cls(columns, sum(part.size for part in parts), first.types)


class RowReader:
    """Reads the body of a request for scores.

    Args:
        dataset: the run's vocabularies.
        most_rows: rows of a request at most.
    """

    def __init__(self, dataset: ScenarioDataset, most_rows: int) -> None:
        self._most, fields = most_rows, _fields(dataset)
        self._allowed = {field.name: field.json_types for field in fields}
        self._needed = {field.name for field in fields if field.is_key}
        self._numbers = {field.name for field in fields if field.kind == FeatureType.FLOAT and not field.is_key}

    def read(self, body: bytes) -> RowColumns | None:
        """Return the rows of a body; None where pydantic must look at it."""
        try:
            given = orjson.loads(body)
        except ValueError:
            return None
        if type(given) is not dict or given.keys() != {"rows"} or type(given["rows"]) is not list:
            return None
        rows = given["rows"]
        if not 1 <= len(rows) <= self._most or {*map(type, rows)} != {dict}:
            return None
        names = rows[0].keys()
        if {*map(len, rows)} != {len(names)} or not self._needed <= names <= self._allowed.keys():
            return None
        try:  # as many keys as the first row, and all of its keys: the same ones
            columns = {name: [*map(itemgetter(name), rows)] for name in names}
        except KeyError:
            return None
        types = {name: ColumnTypes.of(column) for name, column in columns.items()}
        if not all(types[name].is_within(self._allowed[name]) for name in names) or _has_huge(columns, types):
            return None
        for name in self._numbers & names:
            if int in types[name].values:
                columns[name] = [None if value is None else float(value) for value in columns[name]]
                types[name] = ColumnTypes.of(columns[name])
        return RowColumns.of_columns(columns, types)


def _has_huge(columns: Mapping[str, list[Any]], types: Mapping[str, ColumnTypes]) -> bool:
    """Return whether a number may have been a whole one beyond 64 bits, which orjson reads as a float."""
    for name, of_column in types.items():
        values: Iterable[Any] = columns[name]
        if list in of_column.values:
            values = chain(values, *(value for value in values if type(value) is list))
        if float in of_column.values | of_column.inside and any(
            type(value) is float and abs(value) >= 2**63 for value in values
        ):
            return True
    return False


@dataclass(frozen=True)
class _RowField:
    """A field that a row of a request may have, and must have if it is the key of users or items."""

    name: str
    kind: FeatureType
    is_key: bool
    of_item: bool

    @property
    def json_types(self) -> ColumnTypes:
        """The types of JSON that its values, and those inside its lists, have without conversion."""
        if self.is_key:
            return ColumnTypes(frozenset({str, int}))
        if self.kind == FeatureType.FLOAT:
            return ColumnTypes(frozenset({float, int}) | _NOTHING)
        if self.kind == FeatureType.TOKEN_SEQ:
            return ColumnTypes(frozenset({list, str}) | _NOTHING, _VALUES)
        return ColumnTypes(_VALUES)

    @property
    def value_type(self) -> Any:
        """The type of its values as pydantic reads it."""
        if self.is_key:
            return str | int
        if self.kind == FeatureType.FLOAT:
            return NotRequired[float | None]
        return NotRequired[list[Value] | str | None if self.kind == FeatureType.TOKEN_SEQ else Value]


def _fields(dataset: ScenarioDataset) -> list[_RowField]:
    schema = dataset.schema
    unread = {*schema.label_fields, *schema.weight_fields.values(), SCENARIO_FIELD}
    keys, of_item = (dataset.uid_field, dataset.iid_field), (FeatureSource.ITEM, FeatureSource.ITEM_ID)
    fields = [
        _RowField(name, dataset.field2type[name], name in keys, source in of_item)
        for name, source in dataset.field2source.items()
        if name not in unread
    ]
    scenario = schema.scenario.field  # may be called SCENARIO_FIELD itself
    if scenario is not None and scenario not in [field.name for field in fields]:
        fields.append(_RowField(scenario, FeatureType.TOKEN, False, False))
    return fields


def row_types(dataset: ScenarioDataset) -> tuple[Any, Any]:
    """Return the types of a row to score, and of a row of the context of a list: without the item's fields.

    They are dictionaries with a type for each key: an object for each row would take longer to make than the scores.

    Args:
        dataset: the run's vocabularies.
    """
    fields = _fields(dataset)
    row = TypedDict("Row", {field.name: field.value_type for field in fields})  # type: ignore[misc]
    context = TypedDict(  # type: ignore[misc]
        "Context", {field.name: field.value_type for field in fields if not field.of_item}
    )
    for kind in (row, context):
        kind.__pydantic_config__ = STRICT  # type: ignore[attr-defined]
    return row, context
