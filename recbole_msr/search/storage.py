"""Where a study is kept: a journal file in the output folder, or any database that Optuna knows."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from recbole_msr.errors import InputError
from recbole_msr.outputs import check_path

JOURNAL = "study.journal"
_BEGINNING = b'{"op_code"'


class StorageError(InputError):
    """The storage does not answer or cannot be written; it may do so again later."""


_DRIVERS = {"postgresql://": "postgresql+psycopg://", "postgres://": "postgresql+psycopg://"}


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """Open a study's storage, making it where it does not exist.

    Args:
        url: a database (postgresql://USER:PASSWORD@HOST/NAME, mysql://..., sqlite:///FILE), journal:FILE, or None
            for a journal in `folder`.
        folder: the search's output folder.

    Raises:
        InputError: it cannot be opened.
    """
    if url is None or url.startswith("journal:"):
        path = Path(url.removeprefix("journal:")) if url else folder / JOURNAL
        _check_journal(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(str(path), KernelLock(path)))
        except OSError as error:
            raise InputError(f"the study's journal {path} cannot be opened: {error.strerror or error}") from error
        except (ValueError, KeyError) as error:
            raise InputError(f"the study's journal {path} is damaged or no journal of Optuna: {error}") from error
    if "://" not in url:
        raise InputError(
            f"--storage '{hide_password(url)}' is no address: give postgresql://USER:PASSWORD@HOST/NAME, "
            "sqlite:///FILE or journal:FILE"
        )
    return _database(url)


def _check_journal(path: Path) -> None:
    """Refuse a file that is no journal: opening it as one would cut what follows its last line.

    Raises:
        InputError: it is none.
    """
    check_path("--storage", path)
    if path.is_dir():
        raise InputError(f"the study's journal {path} is a folder: give the path of a file, journal:FILE")
    try:
        with open(path, "rb") as file:
            first = file.readline(1 << 16)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise InputError(f"the study's journal {path} cannot be read: {error.strerror or error}") from error
    try:
        begun = not first.endswith(b"\n") and (first.startswith(_BEGINNING) or _BEGINNING.startswith(first))
        good = begun or "op_code" in json.loads(first)  # a full disk may have left a part of the line
    except (ValueError, TypeError):
        good = False
    if first and not good:
        raise InputError(
            f"the study's journal {path} is damaged or no journal of Optuna: give another file, journal:FILE"
        )


def _database(url: str) -> RDBStorage:
    for prefix, driver in _DRIVERS.items():
        if url.startswith(prefix):
            url = driver + url.removeprefix(prefix)
    # A connection that the server or the network has dropped meanwhile is opened again.
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("postgresql"):
        options["connect_args"] = {"connect_timeout": 10}
    try:
        return RDBStorage(url, engine_kwargs=options)
    except ImportError as error:
        extra = "pip install 'recbole-msr[postgres]'" if "postgres" in url else "install its driver"
        raise InputError(f"no driver for {hide_password(url)} ({error}): {extra}") from error
    except Exception as error:  # SQLAlchemy's and the driver's own
        reason = str(error).split("(Background on this error")[0]
        raise InputError(f"the storage {hide_password(url)} cannot be reached: {' '.join(reason.split())}") from error


def hide_password(url: str) -> str:
    url = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)
    return re.sub(r"(password=)[^&\s]+", r"\1***", url, flags=re.IGNORECASE)


class KernelLock(JournalFileSymlinkLock):
    """A lock that ends with the process that holds it, whatever ended the process.

    Optuna's own locks are files, which a killed process leaves behind. Whoever takes the lock also removes the half
    line that a full disk may have left, which would make the journal unreadable.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._lock = FileLock(f"{journal}.held")  # .lock is Optuna's own, of the dashboard for instance

    def acquire(self) -> bool:
        self._lock.acquire()
        try:
            if os.path.exists(self._journal):
                with open(self._journal, "rb+") as file:
                    _cut_half_line(file)
        except BaseException:
            self._lock.release()
            raise
        return True

    def release(self) -> None:
        self._lock.release()


def _cut_half_line(file: Any) -> None:
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)
