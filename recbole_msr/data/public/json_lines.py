"""Read files with a JSON object in each line, a batch at a time: by Arrow, and by Python where a line is unusual."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as arrow_json

from recbole_msr.data.public.spec import JsonForm
from recbole_msr.errors import InputError
from recbole_msr.files.text_rows import BLOCK, UNREADABLE, Batch, open_bytes, read_failure


def read_json_lines(path: Path, size: int, form: JsonForm) -> Any:
    """Yield the schema, then batches of at most `size` rows.

    Raises:
        InputError: the file cannot be read; a line is no JSON object, or lacks a key; the line is named.
    """
    schema = pa.schema([(name, kind) for name, kind in form.fields.items()])
    try:
        with open_bytes(path) as file:
            yield schema
            data, more, line = b"", b".", 1
            while more:
                more = file.read(BLOCK)
                data += more
                end = data.rfind(b"\n") + 1 if more else len(data)
                block, data = data[:end], data[end:]
                if not block.strip():
                    line += block.count(b"\n")
                    continue
                columns = _parse_by_arrow(block, schema)
                if columns is None:
                    columns = _parse_by_python(path, block, line, schema)
                _check_needed(path, columns, form, line)
                for start in range(0, columns.num_rows, size):
                    yield Batch(columns.slice(start, size), _place(line + start))
                line += block.count(b"\n")
    except UNREADABLE as error:
        raise read_failure(path, error) from error


def _place(first: int) -> Any:
    return lambda i: f"line {first + i}"


def _check_needed(path: Path, columns: pa.RecordBatch, form: JsonForm, line: int) -> None:
    for name in form.needed:
        row = pc.index(pc.is_null(columns.column(name)), True).as_py()
        if row >= 0:
            raise InputError(f"cannot read {path}: line {line + row} has no '{name}'")


def _parse_by_arrow(block: bytes, schema: pa.Schema) -> pa.RecordBatch | None:
    parse = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    read = arrow_json.ReadOptions(use_threads=False, block_size=len(block) + 1)
    try:
        table = arrow_json.read_json(pa.BufferReader(block), read, parse)
    except pa.ArrowException:
        return None
    lines = block.count(b"\n") + (not block.endswith(b"\n"))
    return table.combine_chunks().to_batches()[0] if table.num_rows == lines else None


def _parse_by_python(path: Path, block: bytes, first: int, schema: pa.Schema) -> pa.RecordBatch:
    rows = []
    for number, line in enumerate(block.removesuffix(b"\n").split(b"\n"), start=first):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"cannot read {path}: line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"cannot read {path}: line {number} is no JSON object, as each line of this file is")
        try:
            rows.append([pa.scalar(_value(row.get(field.name), field.type), field.type) for field in schema])
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise InputError(f"cannot read {path}: line {number} has values of other types: {error}") from error
    columns = [pa.array([row[i].as_py() for row in rows], field.type) for i, field in enumerate(schema)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _value(value: Any, kind: pa.DataType) -> Any:
    """Return a value as its column's type wants it, where other values of the same meaning are known in these files."""
    if pa.types.is_string(kind) and value is not None and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if pa.types.is_list(kind):
        if value is None or value == "":
            return None
        several = value if isinstance(value, list) else [value]
        return [
            one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in several if one is not None
        ]
    return value
