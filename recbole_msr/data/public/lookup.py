"""Columns of another file by its key, for raw files that are joined before they are rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_msr.data.public.counts import hashes_of
from recbole_msr.data.public.raw_files import read_raw
from recbole_msr.data.public.spec import Convert
from recbole_msr.errors import InputError
from recbole_msr.files.text_rows import Batch, TextForm


class Lookup:
    """A file in memory: of each row eight bytes for its key and four for each column, eight for exact numbers.

    Numbers are kept in single precision where that gives every number of the column as it is written, and in double
    precision otherwise: 16,777,217 has no float of 32 bits.

    Args:
        path: the file.
        form: how it holds its rows.
        key: the column of its keys; of a key that is there twice the first row counts.
        columns: the columns to keep, by name, each made of a raw column.
        numbers: those of them that are numbers; others are kept as categories.

    Raises:
        InputError: the file cannot be read, or a number is none.
    """

    def __init__(
        self,
        path: Path,
        form: TextForm,
        key: str,
        columns: Mapping[str, tuple[str, Convert | None]],
        numbers: Collection[str] = (),
    ) -> None:
        self.path, self._columns = path, list(columns)
        parts: dict[str, list[pa.Array]] = {name: [] for name in columns}
        hashes = []
        batches = read_raw(path, form)
        next(batches)
        for batch in batches:
            hashes.append(hashes_of(batch.columns.column(key)))
            for name, (raw, convert) in columns.items():
                parts[name].append(_kept(path, batch, raw, convert, name in numbers))
        joined = np.concatenate(hashes)
        if not len(joined):
            raise InputError(f"{path} has no rows")
        whole = [pa.chunked_array(_of_one_type(chunks)) for chunks in parts.values()]
        self._table = pa.table(whole, names=self._columns).unify_dictionaries().combine_chunks()
        self._order = np.argsort(joined, kind="stable")
        self._sorted = joined[self._order]

    def join(self, batch: Batch, key: str) -> Batch:
        """Return rows with the columns of this file beside theirs.

        Raises:
            InputError: a row's key is not in this file.
        """
        ids = batch.columns.column(key)
        hashes = hashes_of(ids)
        places = np.minimum(np.searchsorted(self._sorted, hashes), len(self._sorted) - 1)
        absent = self._sorted[places] != hashes
        if absent.any():
            row = int(absent.argmax())
            raise InputError(f"{self.path} lacks {key} {ids[row].as_py()}, which {batch.place(row)} of its rows names")
        rows = batch.columns
        taken = self._table.take(pa.array(self._order[places]))
        for name in self._columns:
            column = taken.column(name).combine_chunks()
            column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
            rows = rows.append_column(name, pc.cast(column, pa.string()))
        return Batch(rows, batch.place)


def _kept(path: Path, batch: Batch, raw: str, convert: Convert | None, is_number: bool) -> pa.Array:
    cells = batch.columns.column(raw)
    cells = convert(cells) if convert is not None else cells
    if not is_number:
        return cells.dictionary_encode()
    try:
        exact = pc.cast(cells, pa.float64())
    except pa.ArrowException as error:
        raise InputError(f"{path}, {batch.place(0)} or later is damaged: '{raw}': {error}") from error
    beyond = pc.and_(pc.greater_equal(pc.abs(exact), float(1 << 53)), pc.match_substring_regex(cells, r"^-?\d+$"))
    row = pc.index(beyond, True).as_py()
    if row >= 0:
        raise InputError(
            f"{path}, {batch.place(row)}: '{raw}' is {cells[row].as_py()}, beyond the whole numbers that a float holds"
        )
    single = pc.cast(exact, pa.float32(), safe=False)
    return single if _widened(single).equals(exact) else exact


def _widened(single: pa.Array) -> pa.Array:
    """Return numbers in double precision as they are written: 0.1, and not the nearest float of 32 bits."""
    return pc.cast(pc.cast(single, pa.string()), pa.float64())


def _of_one_type(chunks: list[pa.Array]) -> list[pa.Array]:
    """Return the chunks of a column; in double precision where one of them is."""
    if len({chunk.type for chunk in chunks}) == 1:
        return chunks
    return [_widened(chunk) if pa.types.is_float32(chunk.type) else chunk for chunk in chunks]
