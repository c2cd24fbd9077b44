"""The note that stands for a dataset's interactions until somebody needs their atomic file: which tables they are.

A folder `NAME` of a dataset made of tables holds `NAME.inter.json` (this note) beside the atomic files of users and
items. `ScenarioDataset` reads the tables that it names; whatever else needs `NAME.inter` calls `write_interactions`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole.utils import FeatureType

from recbole_msr.data.cache import build_lock, remembered_digest
from recbole_msr.data.tables.columns import text_rows
from recbole_msr.data.tables.source import BATCH_ROWS, Partition, TableSource
from recbole_msr.errors import InputError
from recbole_msr.files.atomic import write_atomically
from recbole_msr.files.json import read_json
from recbole_msr.files.row_files import open_rows, text_of

_FORM: dict[str, Any] = {"name": str, "files": [str], "digests": [str], "types": {str: str}, "separator": str}
_FORM |= {"time_text?": int, "partitions?": [{str: str | None}]}


@dataclass(frozen=True)
class PlacedTable:
    """A table of interactions, as its note has it.

    Attributes:
        path: the note.
        name: the table in words.
        files: its files, absolute, in their order.
        digests: of their content, when the note was written.
        types: the columns that are read, with their types.
        separator: stands between the values of a sequence in an atomic file.
        time_text: `TIME_TEXT` of columns of times that are tokens; None where there are none.
        partitions: for each file, what its folders' names tell; nothing where they tell nothing.
    """

    path: Path
    name: str
    files: list[str]
    digests: list[str]
    types: Mapping[str, FeatureType]
    separator: str
    time_text: int | None = None
    partitions: Sequence[Partition] = ()

    @classmethod
    def of_dataset(cls, folder: str | Path, dataset: str) -> PlacedTable | None:
        """Return the table of a dataset's interactions; None where the dataset is not made of one.

        Raises:
            InputError: the note is damaged.
        """
        path = Path(folder, f"{dataset}.inter.json")
        if not path.is_file():
            return None
        try:
            note = read_json(path, _FORM)
            types = {field: FeatureType(kind) for field, kind in note["types"].items()}
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path} is damaged ({error}): remove {path.parent.parent}, and name the table again"
            ) from (error)
        return cls(
            path, note["name"], note["files"], note["digests"], types, note["separator"], note.get("time_text"),
            note.get("partitions", ()),
        )  # fmt: skip

    def write(self) -> None:
        """Write the note."""
        content: dict[str, Any] = {
            **{"name": self.name, "files": self.files, "digests": self.digests, "separator": self.separator},
            "types": {field: kind.value for field, kind in self.types.items()},
        }
        if self.time_text is not None:
            content["time_text"] = self.time_text
        if any(self.partitions):
            content["partitions"] = self.partitions
        self.path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def source(self, notes: Path) -> TableSource:
        """Return the table, to read it.

        Args:
            notes: the folder in which the digests of unchanged files are remembered.

        Raises:
            InputError: a file is gone, or is another than when the note was written.
        """
        for file, digest in zip(self.files, self.digests, strict=True):
            if not os.path.isfile(file):
                raise InputError(f"data: there is no file {file} any more: name the table again with data")
            if remembered_digest(Path(file), notes) != digest:
                raise InputError(f"data: {file} has changed since the dataset was made of it: name it again with data")
        return TableSource("data", list(self.files), self.partitions or [{}] * len(self.files))

    def place(self, row: int) -> str:
        """Name the place of a row (from 0) of the table: "row 7 of .../events.parquet", "line 8 of .../events.csv"."""
        start = 0
        for file in self.files:
            with open_rows(file, BATCH_ROWS) as rows:
                for batch in rows.batches:
                    if row < start + batch.columns.num_rows:
                        return f"{batch.place(row - start)} of {file}"
                    start += batch.columns.num_rows
        return f"row {row + 1} of {self.name}"


def write_interactions(folder: str | Path, dataset: str, notes: Path | None = None) -> Path:
    """Write the atomic file of interactions that a note stands for, unless it is there; return its path.

    Raises:
        InputError: the table cannot be read or has changed, or the file cannot be written; nothing of it is left then.
    """
    path = Path(folder, f"{dataset}.inter")
    placed = None if path.is_file() else PlacedTable.of_dataset(folder, dataset)
    if placed is None:
        return path
    lock = build_lock(path)  # another process may be writing the same
    try:
        if not path.is_file():
            source = placed.source(notes or path.parent.parent.parent.parent / ".digests")
            write_atomically(
                path, lambda temporary: write_atomic_file(temporary, source, placed.types, placed.separator)
            )
    except OSError as error:
        raise InputError(
            f"cannot write the dataset in {path.parent}: {error.strerror or error}; cache_dir names another folder"
        ) from error
    finally:
        if lock is not None:
            lock.release()
    return path


def write_atomic_file(path: str | Path, source: TableSource, types: Mapping[str, FeatureType], separator: str) -> None:
    """Write a table as an atomic file.

    Raises:
        InputError: the table cannot be read, has no rows, or has a value that an atomic file cannot hold.
        OSError: the file cannot be written.
    """
    with open(path, "wb") as out:
        out.write("\t".join(f"{field}:{kind.value}" for field, kind in types.items()).encode() + b"\n")
        rows = 0
        for lines in text_rows(source, types, separator):
            out.write(text_of(lines))
            rows += len(lines)
    if not rows:
        with suppress(OSError):
            os.unlink(path)
        raise InputError(f"{source.name} has no rows")
