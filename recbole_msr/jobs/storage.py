"""The storage of a study: a journal file in the output folder, or any database that Optuna supports."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from recbole_msr.errors import InputError
from recbole_msr.files.json import parse_json
from recbole_msr.files.outputs import check_path

logger = logging.getLogger(__name__)

JOURNAL = "study.journal"
_BEGINNING = b'{"op_code"'
_LINE = {"op_code": int, "worker_id": str}
_CREATE_TRIAL = 4  # its op_code


_DRIVERS = {"postgresql://": "postgresql+psycopg://", "postgres://": "postgresql+psycopg://"}


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """Open a study's storage, and create it if it does not exist.

    Args:
        url: a database (postgresql://USER:PASSWORD@HOST/NAME, mysql://..., sqlite:///FILE), journal:FILE, or None
            for a journal in `folder`.
        folder: the search's output folder.

    Raises:
        InputError: the storage cannot be opened.
    """
    if url is None or url.startswith("journal:"):
        path = Path(url.removeprefix("journal:")) if url else folder / JOURNAL
        _check_journal(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = KernelLock(path)
            lock.check()
            return _replayed(path, lock)
        except OSError as error:
            raise InputError(f"the study's journal {path} cannot be opened: {error.strerror or error}") from error
    if "://" not in url:
        raise InputError(
            f"--storage '{hide_password(url)}' is no address: give postgresql://USER:PASSWORD@HOST/NAME, "
            "sqlite:///FILE or journal:FILE"
        )
    return _database(url)


def _check_journal(path: Path) -> None:
    """Refuse a file that is no journal: opening it as one would cut off what follows its last line.

    Raises:
        InputError: the file is no journal of Optuna, or cannot be read.
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
    begun = not first.endswith(b"\n") and (first.startswith(_BEGINNING) or _BEGINNING.startswith(first))
    if not begun:  # a full disk may have left a part of the line
        name = f"line 1 of the study's journal {path}"
        parse_json(first, name, _LINE, "it is no journal of Optuna: give another file, journal:FILE", finite=False)


def _replayed(path: Path, lock: KernelLock) -> JournalStorage:
    """Return Optuna's storage of a journal whose lines can be parsed.

    Raises:
        InputError: Optuna cannot replay the lines; names the first that it cannot use.
    """
    backend = _CountingBackend(str(path), lock)
    try:
        return JournalStorage(backend)
    except OSError:
        raise
    except Exception as error:  # Optuna checks no line before it uses it
        raise InputError(
            f"the study's journal {path} is damaged or no journal of Optuna: line {backend.line} cannot be used "
            f"({type(error).__name__}: {error})"
        ) from error


class _CountingBackend(JournalFileBackend):
    """A journal that knows the number of the line read last."""

    line = 0

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        self.line = log_number_from
        for log in super().read_logs(log_number_from):
            self.line += 1
            yield log


def _database(url: str) -> RDBStorage:
    for prefix, driver in _DRIVERS.items():
        if url.startswith(prefix):
            url = driver + url.removeprefix(prefix)
    # Connections that the server or the network has dropped are opened again.
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
    """Return an address with stars in place of its password."""
    url = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)
    return re.sub(r"(password=)[^&\s]+", r"\1***", url, flags=re.IGNORECASE)


class KernelLock(JournalFileSymlinkLock):
    """A lock on a journal that the kernel releases when its process ends, for whatever reason.

    Optuna's own locks are files, which a killed process leaves behind. `acquire` also removes the half line that a full
    disk may have left at the end, which would make the journal unreadable.

    `release` writes the journal's length and its CRC-32 to JOURNAL.seen. A journal is only ever appended to, so one
    that is shorter, or begins differently, has been damaged.
    """

    def __init__(self, journal: Path) -> None:
        self._journal, self._note = journal, Path(f"{journal}.seen")
        self._length, self._sum = 0, 0  # of the journal, as far as this process has read it
        self._lock = FileLock(f"{journal}.held")  # .lock is Optuna's own, of the dashboard for instance

    def acquire(self) -> bool:
        """Take the lock, and cut off a half line at the end of the journal."""
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
        """Note the journal's length and checksum, and give the lock back."""
        try:
            self._write_note()
        finally:
            self._lock.release()

    def check(self) -> None:
        """Refuse a journal that has lost lines, or holds other lines than were written.

        A refused journal stays as it is; a half line at the end is left to `acquire`.

        Raises:
            InputError: names the file, and the damaged line if there is one.
            OSError: the journal cannot be read.
        """
        self._lock.acquire()
        try:
            noted = self._read_note()
            content = self._journal.read_bytes() if os.path.exists(self._journal) else b""
            content = content[: content.rfind(b"\n") + 1]
            self._check_lines(content)
            if noted is None:
                return
            length, checksum = noted
            advice = f"put the whole file back, or remove {self._note} to go on with what is there"
            if len(content) < length:
                problem = (
                    f"holds {len(content)} bytes of the {length} that were written" if content else "is gone or empty"
                )
                raise InputError(
                    f"the study's journal {self._journal} {problem}: the last of its trials are missing; {advice}"
                )
            if zlib.crc32(content[:length]) != checksum:
                raise InputError(
                    f"the study's journal {self._journal} is damaged: its first {length} bytes are not those that were "
                    f"written; {advice}"
                )
        finally:
            self._lock.release()

    def _check_lines(self, content: bytes) -> None:
        line_numbers: dict[bytes, int] = {}
        for number, line in enumerate(content.split(b"\n")[:-1], start=1):
            name = f"line {number} of the study's journal {self._journal}"
            log = parse_json(line, name, _LINE, "it is damaged or no journal of Optuna", finite=False)
            # Such a line holds the microsecond and the worker, so two equal lines are copies. (An enqueued trial has no
            # time yet.)
            if (
                log["op_code"] == _CREATE_TRIAL
                and log.get("datetime_start")
                and line_numbers.setdefault(line, number) != number
            ):
                raise InputError(
                    f"{name} is damaged: it is line {line_numbers[line]} again; remove what stands there twice"
                )

    def _read_note(self) -> tuple[int, int] | None:
        """Return the length and CRC-32 noted last; None if there are none, or they cannot be read."""
        try:
            words = self._note.read_text(encoding="ascii").split()
            return int(words[0]), int(words[1])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, IndexError):
            logger.warning("%s cannot be read: whether the study's journal is whole is not known", self._note)
            return None

    def _write_note(self) -> None:
        # If the disk is full the older note stays: a lower bound of the length, and its checksum holds.
        with contextlib.suppress(OSError), open(self._journal, "rb") as file:
            file.seek(self._length)
            new = file.read()
            new = new[: new.rfind(b"\n") + 1]
            self._length, self._sum = self._length + len(new), zlib.crc32(new, self._sum)
            # One write of fixed size, in place: a kill leaves the old note or the new one.
            descriptor = os.open(self._note, os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                os.pwrite(descriptor, f"{self._length:20d} {self._sum:10d}\n".encode("ascii"), 0)
            finally:
                os.close(descriptor)


def _cut_half_line(file: Any) -> None:
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)


def objective_names(study: optuna.Study) -> list[str]:
    """Return the names of the study's values, in order; "value" or "value 1", ... for a study that does not say."""
    names = study.user_attrs.get("objectives")
    if names is None or len(names) != len(study.directions):
        several = len(study.directions) > 1
        return [f"value {i + 1}" if several else "value" for i in range(len(study.directions))]
    return [str(name) for name in names]
