"""Find the raw files of a public dataset, and read them as the columns of an atomic file."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from recbole_msr.data.public.json_lines import read_json_lines
from recbole_msr.data.public.matrix import read_matrix
from recbole_msr.data.public.spec import Column, Form, JsonForm, PublicSet, Raw, Table
from recbole_msr.data.tables.columns import first_no_number
from recbole_msr.errors import InputError, nearest
from recbole_msr.files.text_rows import Batch, TextForm, read_text

BATCH_ROWS = 65_536
"""Rows that are held at a time."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """A raw file that is there, with the columns that have one value in all of its rows."""

    raw: Raw
    path: Path
    constants: Mapping[str, str]


def find_table(folder: Path, name: str, table: Table) -> list[Found]:
    """Return the raw files of a table that are there.

    Args:
        folder: the folder with the raw files, themselves or in folders of their own.
        name: the dataset's name, for errors.
        table: the table.

    Raises:
        InputError: one is not there, or stands in several places.
    """
    found, absent = [], []
    for raw in table.raws:
        paths = find_files(folder, raw.name)
        if raw.unlike is not None:
            paths = [path for path in paths if not path.match(f"{raw.unlike}*")]
        if not paths:
            absent.append(raw)
        elif raw.named is None and len(paths) > 1:
            raise InputError(f"{folder} has {raw.name} in several places: {', '.join(map(str, paths))}")
        for path in paths:
            named = {} if raw.named is None else {raw.named: _star(path, raw.name)}
            found.append(Found(raw, path, {**raw.constants, **named}))
    missing = [raw.name for raw in absent if not raw.optional]
    if missing or not found:
        wanted = missing[0] if missing else " or ".join(raw.name for raw in table.raws)
        every = ", ".join(raw.name for raw in table.raws)
        raise InputError(f"{folder} has neither {wanted} nor {wanted}.gz: {name} is made of {every}")
    for one in found:
        other = {"train": "test", "test": "train"}.get(one.raw.part or "")
        if other and not any(two.raw.part == other and two.constants == one.constants for two in found):
            partner = next(raw for raw in table.raws if raw.part == other and raw.constants == one.raw.constants)
            raise InputError(f"{folder} has {one.raw.name}, but neither {partner.name} nor {partner.name}.gz")
    if absent:
        logger.warning("%s: not there, so left out: %s", name, ", ".join(raw.name for raw in absent))
    return found


def find_files(folder: Path, name: str) -> list[Path]:
    """Return the files of a name or pattern, plain or gzipped, in a folder or below it; the nearest level's alone."""
    for depth in ("", "*/", "*/*/", "*/*/*/"):
        paths = sorted({path for end in ("", ".gz") for path in folder.glob(f"{depth}{name}{end}") if path.is_file()})
        if paths:
            return [path for path in paths if path.suffix != ".gz" or path.with_suffix("") not in paths]
    return []


def _star(path: Path, name: str) -> str:
    before, _, after = name.partition("*")
    return path.name.removesuffix(".gz").removeprefix(before).removesuffix(after)


def read_raw(path: Path, form: Form, size: int = BATCH_ROWS) -> Any:
    """Yield the schema of a raw file, then its batches.

    Raises:
        InputError: the file cannot be read as its form says.
    """
    if isinstance(form, TextForm):
        return read_text(path, size, form)
    return read_json_lines(path, size, form) if isinstance(form, JsonForm) else read_matrix(path, size, form)


def table_rows(folder: Path, files: list[Found], table: Table) -> Iterator[tuple[Found, Batch]]:
    """Yield the rows of a table as the text of its columns, batch by batch, with the file that they are from.

    Raises:
        InputError: a file cannot be read, lacks a column, or a value is missing or no number; file and line are named.
    """
    for found in files:
        step = found.raw.step(folder, found.path) if found.raw.step is not None else None
        with closing(read_raw(found.path, found.raw.form)) as batches:
            next(batches)
            for batch in batches:
                made = step(batch) if step is not None else batch
                place = _within(found.path, made)
                columns = [_cells(found, made.columns, name, column, place) for name, column in table.columns.items()]
                yield found, Batch(pa.RecordBatch.from_arrays(columns, list(table.columns)), place)


def _within(path: Path, batch: Batch) -> Any:
    return lambda i: f"{path}, {batch.place(i)}"


def _cells(found: Found, rows: pa.RecordBatch, name: str, column: Column, place: Any) -> pa.Array:
    """Return the text of a column's cells."""
    source = next((one for one in column.sources if one in rows.schema.names or one in found.constants), None)
    if source is None:
        if column.is_optional:
            return pa.nulls(rows.num_rows, pa.string())
        names = rows.schema.names
        raise InputError(
            f"{found.path} has no column '{column.sources[0]}'{nearest(column.sources[0], names) or '.'} "
            f"It has {', '.join(names)}"
        )
    if source in found.constants:
        cells = pa.array([found.constants[source]], pa.string()).take(pa.array([0] * rows.num_rows, pa.int8()))
    else:
        cells = rows.column(source)
    cells = column.convert(cells) if column.convert is not None else cells
    cells = cells if pa.types.is_string(cells.type) else pc.cast(cells, pa.string())
    if column.is_needed and cells.null_count:
        row = pc.index(pc.is_null(cells), True).as_py()
        raise InputError(f"{place(row)} is cut short or damaged: it has no '{source}'")
    if column.kind == "float" and (row := first_no_number(cells)) is not None:
        raise InputError(
            f"{place(row)} is damaged: '{source}' is {cells[row].as_py()[:80]!r}, which is no {_what(column)}"
        )
    return cells


def _what(column: Column) -> str:
    return "number" if column.convert is None else "number or date of this file's form"


def splits_of(public: PublicSet) -> tuple[str, ...]:
    """Return the suffixes of the atomic files of interactions."""
    return ("train.inter", "valid.inter", "test.inter") if public.has_splits else ("inter",)
