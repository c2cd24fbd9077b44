"""A table to read: a file of Parquet, CSV or Arrow, a folder or a pattern of such files, or a table in memory."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from recbole_msr.data.cache import remembered_digest
from recbole_msr.errors import InputError
from recbole_msr.files.outputs import check_path
from recbole_msr.files.row_files import SUFFIXES, Batch, open_rows, row_place

BATCH_ROWS = 65_536
"""Rows that are held at a time."""
_ENDINGS = ", ".join(SUFFIXES)
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""Stands in the name of a folder for a missing value, as Spark writes it."""

logger = logging.getLogger(__name__)

Partition = Mapping[str, str | None]
"""The values of a file's rows that its folders' names tell: {country: FR} of a file in `country=FR/`."""


class TableSource:
    """A table whose rows are read batch by batch, in the order of its files and of their rows.

    Args:
        key: the setting that names it, for errors.
        given: a path, a pattern such as `day-*.parquet`, a list of paths, or a table of pandas, polars or Arrow. A
            folder stands for all tables in it, ordered by name, but for those whose names, or whose folders' names,
            begin with a dot or `_`: what an editor or an unfinished job has left there. Of files in folders
            `NAME=VALUE` below it, below the first wildcard of a pattern, or below what the files of a list have in
            common, NAME is a column of text, unless the files have it themselves.
        partitions: of a list of files, what their folders' names tell, where that is known already.

    Attributes:
        name: it in words.
        files: its files; empty for a table in memory.
        partitions: for each of its files, what its folders' names tell.

    Raises:
        InputError: there is no such file, files of several kinds, or no table.
    """

    def __init__(self, key: str, given: Any, partitions: Sequence[Partition] | None = None) -> None:
        self._key = key
        self.files: list[Path] = []
        self.partitions: list[Partition] = []
        self._table: pa.Table | None = None
        if isinstance(given, (str, Path)) or (isinstance(given, (list, tuple)) and given):
            found = _files(key, given)
            self.files = [file for file, _ in found]
            self.partitions = [values for _, values in found] if partitions is None else list(partitions)
            several = f"{self.files[0]}{' and others' if len(self.files) > 1 else ''}"
            self.name = str(given) if isinstance(given, (str, Path)) else several
        else:
            self._table = _in_memory(key, given)
            self.name = f"the table given as {key}"

    @property
    def is_text(self) -> bool:
        """Return whether its cells are text, of which types only the values tell."""
        return bool(self.files) and self.files[0].suffix == ".csv"

    @cached_property
    def schema(self) -> pa.Schema:
        """Return the columns, which all files must have alike.

        Raises:
            InputError: a file cannot be read, or has other columns than the first.
        """
        if self._table is not None:
            return self._table.schema
        first = None
        for file, partition in zip(self.files, self.partitions, strict=True):
            if partition.keys() != self.partitions[0].keys():
                more, fewer = sorted((partition, self.partitions[0]), key=len, reverse=True)
                name = next(name for name in more if name not in fewer)
                raise InputError(
                    f"{file} and {self.files[0]} are not both in a folder {name}=...: files of one table have the same "
                    "columns"
                )
            with open_rows(file, BATCH_ROWS) as rows:
                if first is None:
                    first = rows.schema
                    continue
                for field in rows.schema:
                    before = first.field(field.name) if field.name in first.names else None
                    if before is None or before.type != field.type:
                        what = "does not have it" if before is None else f"has it as {before.type}"
                        raise InputError(
                            f"{file}: column '{field.name}' is a {field.type}, and {self.files[0]} {what}: files of "
                            f"one table have the same columns"
                        )
                lacking = [name for name in first.names if name not in rows.schema.names]
                if lacking:
                    raise InputError(f"{file} has no column '{lacking[0]}', and {self.files[0]} has")
        assert first is not None
        for name in self.partitions[0]:
            if name not in first.names:
                first = first.append(pa.field(name, pa.string()))
        return first

    def batches(self, size: int = BATCH_ROWS) -> Iterator[Batch]:
        """Yield the rows; a batch's `place` names the file and the row or line in it.

        Args:
            size: rows of a batch at most.

        Raises:
            InputError: a file cannot be read.
        """
        if self._table is not None:
            start = 0
            for part in self._table.to_batches(size):
                yield Batch(part, _within(self.name, row_place(start)))
                start += part.num_rows
            return
        names = self.schema.names
        for file, partition in zip(self.files, self.partitions, strict=True):
            with open_rows(file, size) as rows, closing(rows.batches) as batches:  # type: ignore[type-var]
                for batch in batches:
                    columns = _with_partition(batch.columns, partition)
                    yield Batch(columns.select(names), _within(str(file), batch.place))

    def write_arrow(self, path: Path) -> None:
        """Write a table in memory as an Arrow file.

        Raises:
            OSError: the file cannot be written.
        """
        assert self._table is not None
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, self._table.schema) as writer:
            writer.write_table(self._table, BATCH_ROWS)

    def digest(self, notes: Path) -> str:
        """Return a hash of its content.

        Args:
            notes: the folder in which the digests of unchanged files are remembered.
        """
        digest = hashlib.blake2b()
        for file in self.files:
            digest.update(f"{file.suffix} {remembered_digest(file, notes)}\n".encode())
        if any(self.partitions):
            digest.update(json.dumps(self.partitions).encode())
        if self._table is not None:
            sink = _Hashed(digest)
            with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), self._table.schema) as stream:
                stream.write_table(self._table, BATCH_ROWS)
        return digest.hexdigest()


def _within(table: str, place: Callable[[int], str]) -> Callable[[int], str]:
    """Return a function that tells where row i is, with the name of its table."""
    return lambda i: f"{table}, {place(i)}"


class _Hashed:
    """A file that only takes the hash of what is written."""

    closed = False

    def __init__(self, digest: Any) -> None:
        self._digest, self._written = digest, 0

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._digest.update(view)
        self._written += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self._written

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def _with_partition(columns: pa.RecordBatch, partition: Partition) -> pa.RecordBatch:
    """Return rows with the values that the folders' names tell; a column of the file's own stays."""
    for name, value in partition.items():
        if name not in columns.schema.names:
            values = pa.repeat(pa.scalar(value, pa.string()), columns.num_rows)
            columns = columns.append_column(name, values)
    return columns


def _files(key: str, given: str | Path | Sequence[Any]) -> list[tuple[Path, Partition]]:
    """Return the files that a path, a pattern or a list of them stands for, and what their folders' names tell."""
    found: list[Path] = []
    roots: list[Path | None] = []
    for one in [given] if isinstance(given, (str, Path)) else given:
        check_path(key, one)
        path, root = Path(one).expanduser(), None
        if path.is_dir():
            root, matches = path, _finished(path, [file for file in path.rglob("*") if file.suffix in SUFFIXES])
            if not matches:
                raise InputError(f"{key}: there is no table ({_ENDINGS}) in the folder {path}")
        elif path.is_file():
            matches = [path]
        else:
            root = _before_wildcard(path)
            matches = [Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file()]
            if "**" in path.parts:
                matches = _finished(root, matches)
            if not matches:
                raise InputError(f"{key}: there is no file {path}")
        found += sorted(matches)
        roots += [root] * len(matches)
    kinds = sorted({file.suffix for file in found})
    if unknown := [file for file in found if file.suffix not in SUFFIXES]:
        raise InputError(f"{key}: {unknown[0]} is no table: its name must end with {_ENDINGS}")
    if len(kinds) > 1:
        raise InputError(f"{key}: the files of a table are of one kind, and these are {', '.join(kinds)}")
    common = Path(os.path.commonpath([os.path.abspath(file.parent) for file in found]))
    return [
        (file.resolve(), _partition(Path(os.path.abspath(file)), Path(os.path.abspath(root or common))))
        for file, root in zip(found, roots, strict=True)
    ]


def _finished(folder: Path, files: Sequence[Path]) -> list[Path]:
    """Return the files below a folder but for hidden and unfinished ones, the number of which is told."""
    left = [file for file in sorted(files) if file.is_file()]
    hidden = [file for file in left if any(map(_is_hidden, file.relative_to(folder).parts))]
    if hidden:
        logger.warning(
            "%s: %d %s left out, whose names, or whose folders' names, begin with . or _ (such as %s)",
            folder, len(hidden), "table is" if len(hidden) == 1 else "tables are", hidden[0].relative_to(folder),
        )  # fmt: skip
    return [file for file in left if file not in set(hidden)]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def _before_wildcard(pattern: Path) -> Path:
    """Return the folders of a pattern before its first wildcard."""
    fixed = Path(pattern.anchor)
    for part in pattern.relative_to(pattern.anchor).parts[:-1]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed


def _partition(file: Path, root: Path) -> Partition:
    """Return the values that the names of a file's folders tell, below some folder."""
    pairs = [part.split("=", 1) for part in file.relative_to(root).parts[:-1] if "=" in part]
    return {unquote(name): None if value == _NO_VALUE else unquote(value) for name, value in pairs if name}


def _in_memory(key: str, given: Any) -> pa.Table:
    """Return a table of pandas, polars or Arrow as an Arrow table, with one dictionary for each of its columns."""
    import pandas as pd

    table = None
    try:
        if isinstance(given, pd.DataFrame):
            table = pa.Table.from_pandas(given, preserve_index=False)
        elif isinstance(given, pa.RecordBatch):
            table = pa.Table.from_batches([given])
        elif isinstance(given, pa.Table):
            table = given
        elif hasattr(given, "__arrow_c_stream__"):
            table = pa.table(given)
        if table is not None:
            return table.unify_dictionaries()  # a file of Arrow holds no others
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        if isinstance(given, pd.DataFrame):
            _refuse_mixed(key, given)
        raise InputError(f"{key}: the table cannot be read as Arrow: {' '.join(str(error).split())}") from error
    raise InputError(
        f"{key} is the path of a table ({_ENDINGS}), a folder or a pattern of them, or a table of pandas, polars or "
        f"Arrow; got {type(given).__name__}"
    )


def _refuse_mixed(key: str, frame: Any) -> None:
    """Refuse a column of a pandas table that holds values of several types, and name the first of another type.

    Raises:
        InputError: there is such a column.
    """
    for name in frame.columns:
        try:
            pa.array(frame[name], from_pandas=True)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            cells = [(row, cell) for row, cell in enumerate(frame[name].tolist()) if cell is not None and cell == cell]
            first = cells[0]
            other = next((cell for cell in cells if type(cell[1]) is not type(first[1])), None)
            if other is not None:
                raise InputError(
                    f"{key}: column '{name}' holds values of several types: {first[1]!r} in row {first[0] + 1} and "
                    f"{other[1]!r} in row {other[0] + 1}; make it of one, for instance by astype(str)"
                ) from None
