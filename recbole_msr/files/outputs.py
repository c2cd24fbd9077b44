"""Checks of what commands write: names, paths, folders that are not empty, disks that are full."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_msr.errors import InputError
from recbole_msr.value_kinds import is_one_line

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
"""Error numbers of a disk that can take no file, whoever writes."""
_LONGEST_NAME = 200
"""Bytes of a name. File systems take 255, which leaves room for what is appended (a time, `.lock`)."""
_LONGEST_PART, _LONGEST_PATH = 255, 4095
_PATH_KEYS = ("data_path", "knowledge_dir", "cache_dir", "checkpoint_dir", "output_dir")


# Names and paths.


def check_name(what: str, name: Any) -> str:
    """Refuse what cannot be the name of a folder inside another one.

    Args:
        what: the thing that has this name, for the message.
        name: the name.

    Raises:
        InputError: it is no text, empty, too long, hidden, or leads elsewhere.
    """
    if not isinstance(name, str):
        raise InputError(f"{what}: a name is text, got {name!r}")
    reason = None
    if not name.strip():
        reason = "it is empty"
    elif "/" in name or "\\" in name:
        reason = "it has a separator of folders in it"
    elif name[0] in ".-":
        reason = f"it begins with '{name[0]}'"
    elif not is_one_line(name):
        reason = "it has a control character or half a character in it"
    elif len(name.encode()) > _LONGEST_NAME:
        reason = f"it has {len(name.encode())} bytes, more than {_LONGEST_NAME}"
    if reason is not None:
        raise InputError(f"{what}: {_shown(name)} cannot name a folder: {reason}; give a plain name such as shop-1")
    return name


def check_path(what: str, path: Any) -> None:
    """Refuse what no file system takes as a path; None is left alone.

    Args:
        what: the option or key, for the message.
        path: the path.

    Raises:
        InputError: it is no path.
    """
    if path is None:
        return
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    reason = None
    if not isinstance(text, str):
        reason = "it is no text"
    elif not text.strip():
        reason = "it is empty"
    elif "\0" in text:
        reason = "it has a NUL character in it"
    elif any("\ud800" <= letter <= "\udfff" for letter in text):
        reason = "it is not UTF-8"
    elif len(text.encode()) > _LONGEST_PATH or max(len(part.encode()) for part in text.split("/")) > _LONGEST_PART:
        reason = f"a name in a path has at most {_LONGEST_PART} bytes, and a path {_LONGEST_PATH}"
    if reason is not None:
        raise InputError(f"{what}: {_shown(text)} is no path: {reason}")


def check_paths(settings: Mapping[str, Any], files: Iterable[Any] = (), **options: Any) -> None:
    """Check the configuration keys that are paths, configuration files, and options, as `check_path` does."""
    for key in _PATH_KEYS:
        check_path(key, settings.get(key))
    for file in files:
        check_path("config_files", file)
    for name, path in options.items():
        check_path(f"--{name.replace('_', '-')}", path)


def _shown(text: Any) -> str:
    shown = ascii(text) if not str(text).isprintable() else repr(text)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


# Folders.


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that a command makes.

    Attributes:
        content: what such a folder holds, in words.
        marks: files each of which alone shows that the folder is of this kind.
        names: files and folders that the command overwrites.
        added: folders in it to which other programs may add.
    """

    content: str
    marks: tuple[str, ...]
    names: tuple[str, ...]
    added: tuple[str, ...] = ()

    def is_in(self, folder: Path) -> bool:
        """Return whether a folder is of this kind."""
        return any(os.path.isfile(folder / mark) for mark in self.marks)


RUN = FolderKind(
    "a run",
    ("result.json", "best.ckpt", "last.ckpt"),
    (
        *("config.yaml", "metrics.csv", "best.ckpt", "last.ckpt", "result.json", "vocabulary", "predictions.parquet"),
        *("start.json", "explain.html", "explain-runs.html", "run.log", "validated.json"),
        *("explain-importance.csv", "explain-importance.json"),
    ),
    ("wandb", "lightning_logs", "tensorboard"),
)
SEARCH = FolderKind(
    "a search",
    ("workers/search.json", "study.journal"),
    (
        *("best.yaml", "trials.csv", "trials.parquet", "summary.json", "report.html", "study.journal"),
        *("study.journal.held", "study.journal.seen", "final", "ensemble", "best", "trials"),
    ),
    ("wandb", "workers"),
)
COMPARISON = FolderKind(
    "a comparison",
    ("workers/comparison.json", "workers/made_by.json"),
    (
        *("leaderboard.csv", "leaderboard.parquet", "leaderboard.md", "leaderboard.tex", "cells.csv", "cells.parquet"),
        *("differences.csv", "differences.parquet", "summary.json", "report.html", "runs", "searches"),
    ),
    ("wandb", "workers"),
)
ENSEMBLE = FolderKind("an ensemble", ("ensemble.json",), ("ensemble.json", "members"))
EXPORT = FolderKind(
    "an exported model",
    ("export.json",),
    ("export.json", "vocabulary.json", "model.onnx", "model.onnx.data"),
)
KNOWLEDGE = FolderKind("knowledge", ("knowledge.json",), ("knowledge.json",))


def holds(folder: str | Path) -> FolderKind | None:
    """Return the kind of a folder that a command made; None for any other folder, and for none."""
    folder = Path(folder)
    return next((kind for kind in (COMPARISON, SEARCH, KNOWLEDGE, ENSEMBLE, EXPORT, RUN) if kind.is_in(folder)), None)


def is_dataset(folder: str | Path) -> bool:
    """Return whether a folder holds atomic files, such as shop/shop.inter, or the note of a table in their place."""
    folder = Path(os.path.abspath(folder))
    return any(os.path.isfile(folder / f"{folder.name}.inter{end}") for end in ("", ".json"))


def check_folder(folder: str | Path, kind: FolderKind, option: str) -> None:
    """Refuse a folder of another kind, and one whose files a command would write over; nothing in it is touched.

    Args:
        folder: the folder, which need not exist.
        kind: the kind of folder that it shall become.
        option: the option that names another folder, for the message.

    Raises:
        InputError: it says what the folder holds.
    """
    folder, existing = Path(folder), holds(folder)
    if existing is kind:
        taken = next((name for name in kind.names if Path(name).suffix and (folder / name).is_dir()), None)
        if taken is not None:
            raise InputError(f"{folder / taken} is a folder, where {kind.content} writes a file: move it away")
        return
    if existing is not None or is_dataset(folder):
        what = existing.content if existing is not None else "a dataset"
        raise InputError(f"{folder} holds {what}, and {kind.content} does not go into it: give another {option}")
    foreign = [name for name in kind.names if os.path.lexists(folder / name)]
    if foreign and kind is not RUN:  # a run goes below such a folder
        raise InputError(
            f"{folder} holds no {kind.content.removeprefix('a ')}, but {', '.join(foreign)}, which one would write "
            f"over: give another {option}"
        )


class FolderChanges:
    """The files and folders that a command adds, which `undo` removes if the command fails.

    Args:
        folder: the folder, before it is made.
        kind: the kind of folder that it becomes.
    """

    def __init__(self, folder: Path, kind: FolderKind) -> None:
        self._folder = folder
        self._missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
        paths = [folder / name for name in (*kind.names, *kind.added)]
        workers = folder / "workers"
        self._added = [path for path in paths if not os.path.lexists(path)]
        self._in_workers = set(os.listdir(workers)) if os.path.isdir(workers) else None

    def undo(self) -> None:
        """Remove the files that were not there before, and the folders that were made, as far as they are empty."""
        if self._in_workers is not None:
            workers = self._folder / "workers"
            self._added += [workers / name for name in os.listdir(workers) if name not in self._in_workers]
        for path in self._added:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
        for folder in self._missing:
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                return


# Files.


def check_replaced(out: str | Path, what: str) -> None:
    """Refuse to overwrite a file of a run, a search, a comparison or knowledge by a table.

    Raises:
        InputError: `out` is such a file, by whatever path.
    """
    path = Path(os.path.realpath(out))
    if path.is_dir():
        raise InputError(f"{what} must be a file, but {out} is a folder")
    if not path.exists():
        return
    for folder in path.parents:
        kind = holds(folder)
        if kind is not None and path.relative_to(folder).parts[0] in (*kind.names, *kind.added):
            raise InputError(f"{out} is a file of {kind.content} (in {folder}): give another {what}")
        if kind is KNOWLEDGE:
            raise InputError(f"{out} is a file of knowledge (in {folder}): give another {what}")


def check_result(out: str | Path, sources: Mapping[str, str | Path | None], columns: Iterable[str], what: str) -> None:
    """Refuse to overwrite anything by a result but an older one, the files that it is made of least of all.

    Args:
        out: the file of the result, .csv or .parquet.
        sources: the files that it is made of, by what an error calls them; None for one that is not given.
        columns: those by which a result is known.
        what: what the result is: "scores" or "lists".

    Raises:
        InputError: `out` is a source, a file of a run or of another folder of ours, or a file without the columns.
    """
    check_replaced(out, "--out")
    if not os.path.exists(out):
        return
    for source, path in sources.items():
        if path is not None and os.path.exists(path) and os.path.samefile(path, out):
            raise InputError(f"--out {out} is the file of {source}: {what} go into another file")
    there = _columns(Path(out))
    absent = [column for column in columns if column not in there]
    if absent:
        raise InputError(
            f"{out} exists and holds no {what} (it has no column '{absent[0]}'): give another --out, or remove it"
        )


def _columns(table: Path) -> list[str]:
    """List the columns of a table; none where it cannot be read as one."""
    import pandas as pd
    import pyarrow.parquet as pq

    try:
        if table.suffix == ".parquet":
            return list(pq.read_schema(table).names)
        return list(pd.read_csv(table, nrows=0).columns)
    except (OSError, ValueError):
        return []


class WriteError(InputError, OSError):
    """Failure to write a file, for instance on a full disk; with the `errno`, `strerror` and `filename` of OSError."""

    @classmethod
    def of(cls, path: str | Path, error: OSError, more: str = "") -> WriteError:
        """Make the error of a path from the system's; `more` goes on after its reason."""
        write_error = cls(f"{path} cannot be written: {error.strerror or error}{more}")
        write_error.errno, write_error.strerror, write_error.filename = error.errno, error.strerror, str(path)
        return write_error

    def __str__(self) -> str:
        return str(self.args[0])


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Name the file in the error of a `with` block that cannot write it.

    Raises:
        WriteError: in place of OSError.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, InputError):
            raise
        raise WriteError.of(path, error) from error


def save_tensors(content: Any, path: str | Path) -> None:
    """Save by `torch.save`, and raise the system's error of a full disk, which `torch.save` hides.

    Raises:
        OSError: the file cannot be written.
    """
    import torch

    with _Watched(path, "w") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if file.error is not None:
                raise file.error from error
            raise


class _Watched(io.FileIO):
    """A file that remembers why it could not be written."""

    error: OSError | None = None

    def write(self, content: Any) -> int:
        """Write all of the content, and keep the error if that fails."""
        try:
            return _write_all(super().write, memoryview(content).cast("B"))
        except OSError as error:
            self.error = error
            raise


def _write_all(write: Callable[[memoryview], int | None], content: memoryview) -> int:
    done = 0
    while done < len(content):
        done += write(content[done:]) or 0
    return done
