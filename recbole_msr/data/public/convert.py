"""Write a public dataset's raw files as atomic files, with its preset and a comparison with the published counts."""

from __future__ import annotations

import filecmp
import logging
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
from recbole.utils import FeatureType

from recbole_msr.data.public.catalog import SETS, preset_file, refuse_unknown
from recbole_msr.data.public.counts import Counts, IdSet
from recbole_msr.data.public.raw_files import Found, find_files, find_table, splits_of, table_rows
from recbole_msr.data.public.spec import PublicSet, Table
from recbole_msr.data.tables.columns import row_lines
from recbole_msr.errors import InputError
from recbole_msr.files.outputs import check_paths, holds
from recbole_msr.files.row_files import text_of
from recbole_msr.files.text_rows import Batch

logger = logging.getLogger(__name__)


def convert(
    dataset: str, raw_dir: str | Path, out_dir: str | Path, sample: int | None = None, seed: int = 2020
) -> Path:
    """Write `out_dir/DATASET/DATASET.inter, .user, .item` and the preset `DATASET.yaml` from raw files.

    Rows are read and written some at a time, so memory does not grow with the files, but for eight bytes a user and an
    item. The counts are logged beside the published ones.

    Args:
        dataset: whose raw files they are.
        raw_dir: the folder with the raw files, plain or gzipped, in it or in folders below it.
        out_dir: the folder to write below (what is `data_path` later). If it already is called as the dataset, the
            files go right into it.
        sample: keep this many random interactions only.
        seed: seed of the sample, and of the halves of test rows that become validation and test rows.

    Returns:
        The dataset's folder.

    Raises:
        InputError: an unknown dataset, missing or unreadable raw files, an impossible sample, other files there.
    """
    if dataset not in SETS:
        refuse_unknown(dataset)
    if sample is not None and sample < 1:
        raise InputError(f"--sample must be at least 1, got {sample}")
    check_paths({}, raw_dir=raw_dir, out_dir=out_dir)
    raw, out = Path(raw_dir), Path(out_dir)
    if not raw.is_dir():
        raise InputError(f"there is no folder {raw} with raw files")
    folder = out if out.resolve().name == dataset else out / dataset
    if (kind := holds(folder)) is not None:
        raise InputError(f"{folder} holds {kind.content}, and a dataset does not go into it: give another folder")
    conversion = _Conversion(SETS[dataset], raw, sample, seed)
    missing = [one for one in (folder, *folder.parents) if not os.path.lexists(one)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{dataset}-", dir=folder) as temporary:
            made = conversion.write(Path(temporary))
            for path in made:
                _check_same(path, folder / path.name)
            for path in made:  # all of them, or none
                path.replace(folder / path.name)
    except (OSError, InputError) as error:
        for path in missing:
            with suppress(OSError):
                path.rmdir()
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot write to {folder}: {error.strerror or error}") from error
    return folder


def _check_same(new: Path, there: Path) -> None:
    """Refuse to put a file in the place of another one: RecBole's own conversion, say, or another sample.

    Raises:
        InputError: there is a file with another content.
    """
    if os.path.lexists(there) and not (there.is_file() and filecmp.cmp(new, there, shallow=False)):
        raise InputError(
            f"{there} exists and differs from what the raw files give: give another folder, or remove it if it is not "
            "needed any more"
        )


class _Conversion:
    """One conversion: the files that are read, and what has been counted.

    Raises:
        InputError: a raw file is not there.
    """

    def __init__(self, public: PublicSet, raw: Path, sample: int | None, seed: int) -> None:
        self._set, self._raw, self._sample = public, raw, sample
        self._rng = np.random.default_rng(seed)
        self._inter = find_table(raw, public.name, public.inter)
        self._sides = {suffix: find_table(raw, public.name, table) for suffix, table in public.sides.items()}
        self._total = Counts()
        self._parts: dict[str, Counts] = defaultdict(Counts)

    def write(self, folder: Path) -> list[Path]:
        """Write all files into a folder, log the counts, and return the files."""
        for pattern, why in self._set.left_out.items():
            for path in find_files(self._raw, pattern):
                logger.info("%s: %s is not read: %s", self._set.name, path, why)
        self._write_interactions(folder)
        for suffix in self._sides:
            self._write_side(folder, suffix)
        shutil.copyfile(preset_file(self._set.preset), self._path(folder, "yaml"))
        self._report()
        return sorted(folder.iterdir())

    def _path(self, folder: Path, suffix: str) -> Path:
        return folder / f"{self._set.name}.{suffix}"

    def _write_interactions(self, folder: Path) -> None:
        table, suffixes = self._set.inter, splits_of(self._set)
        with ExitStack() as stack:
            files = {suffix: stack.enter_context(self._begin(folder, suffix, table)) for suffix in suffixes}
            for found, batch in self._sampled():
                self._count(batch.columns)
                lines = row_lines(batch, _types(table), " ")
                if found.raw.part == "test":
                    is_test = self._rng.random(batch.columns.num_rows) < 0.5
                    files["valid.inter"].write(text_of(lines.filter(pa.array(~is_test))))
                    files["test.inter"].write(text_of(lines.filter(pa.array(is_test))))
                else:
                    files[suffixes[0]].write(text_of(lines))
        if not self._total.rows:
            raise InputError(f"{self._inter[0].path} has no rows")

    def _begin(self, folder: Path, suffix: str, table: Table) -> IO[bytes]:
        file = open(self._path(folder, suffix), "wb")  # noqa: SIM115
        file.write("\t".join(f"{name}:{column.kind}" for name, column in table.columns.items()).encode() + b"\n")
        return file

    def _rows(self) -> Iterator[tuple[Found, Batch]]:
        return table_rows(self._raw, self._inter, self._set.inter)

    def _sampled(self) -> Iterator[tuple[Found, Batch]]:
        """Yield the interactions that are kept, in their order."""
        if self._sample is None:
            yield from self._rows()
            return
        total = sum(batch.columns.num_rows for _, batch in self._rows())
        if self._sample > total:
            raise InputError(f"--sample {self._sample} is more than the {total} interactions there are")
        kept = np.sort(self._rng.choice(total, self._sample, replace=False, shuffle=False))
        start = 0
        for found, batch in self._rows():
            first, last = np.searchsorted(kept, [start, start + batch.columns.num_rows])
            if last > first:
                rows = pa.array(kept[first:last] - start)
                yield found, Batch(batch.columns.take(rows), _moved(batch, rows))
            start += batch.columns.num_rows

    def _count(self, rows: pa.RecordBatch) -> None:
        users, items = self._ids(rows)
        self._total.add(users, items)
        if self._set.counted_by is None:
            return
        by = rows.column(self._set.counted_by)
        for value in by.unique():
            of_part = pa.compute.equal(by, value)
            self._parts[str(value.as_py())].add(users.filter(of_part), items.filter(of_part))

    def _ids(self, rows: pa.RecordBatch) -> tuple[pa.Array, pa.Array]:
        return rows.column(self._set.user_field), rows.column(self._set.item_field)

    def _write_side(self, folder: Path, suffix: str) -> None:
        """Write the users or items, each once."""
        table = self._set.sides[suffix]
        key = next(iter(table.columns))
        used = self._total.users if suffix == "user" else self._total.items
        known, repeated, unused = IdSet(), 0, 0
        with self._begin(folder, suffix, table) as file:
            for _, batch in table_rows(self._raw, self._sides[suffix], table):
                ids = batch.columns.column(key)
                keep = known.add(ids)
                repeated += int((~keep).sum())
                if table.only_used or self._sample is not None:
                    is_used = used.contains(ids)
                    unused += int((keep & ~is_used).sum())
                    keep &= is_used
                file.write(text_of(row_lines(batch, _types(table), " ").filter(pa.array(keep))))
        what = "users" if suffix == "user" else "items"
        if repeated:
            logger.warning("%s: %s of %s are there twice; the first is kept", self._set.name, f"{repeated:,}", what)
        if unused:
            logger.info("%s: %s %s have no interaction and are left out", self._set.name, f"{unused:,}", what)
        self._check_complete(suffix, key, used, known)

    def _check_complete(self, suffix: str, key: str, used: IdSet, known: IdSet) -> None:
        """Tell of users or items of the interactions that the raw files say nothing of, or refuse that."""
        table, path, lacking = self._set.sides[suffix], self._sides[suffix][0].path, known.lacks(used)
        if lacking and table.is_complete:
            for _, batch in self._rows():
                ids = batch.columns.column(key)
                absent = ~known.contains(ids)
                if absent.any():
                    row = int(absent.argmax())
                    raise InputError(f"{path} lacks {key} {ids[row].as_py()}, which {batch.place(row)} names")
        if lacking:
            what = "users" if suffix == "user" else "items"
            logger.info("%s: %s says nothing of %s of the %s", self._set.name, path, f"{lacking:,}", what)

    def _report(self) -> None:
        for part, counts in {"": self._total, **self._parts}.items():
            label = f"{self._set.name}, {part}" if part else self._set.name
            published = self._set.published.get(part) if self._sample is None else None
            differences = counts.differences(published) if published is not None else []
            if differences:
                logger.warning(
                    "%s: %s. Other counts than published (%s), as another version of the files has: %s",
                    label, counts.describe(), self._set.source, "; ".join(differences),
                )  # fmt: skip
            else:
                as_published = "" if published is None else f", as published ({self._set.source})"
                logger.info("%s: %s%s", label, counts.describe(), as_published)


def _types(table: Table) -> dict[str, FeatureType]:
    return {name: FeatureType(column.kind) for name, column in table.columns.items()}


def _moved(batch: Batch, rows: pa.Array) -> Callable[[int], str]:
    return lambda i: batch.place(rows[i].as_py())
