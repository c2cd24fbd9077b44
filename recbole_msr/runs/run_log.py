"""Log into a run's folder, at the level that `state` asks for."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from recbole_msr.errors import InputError
from recbole_msr.files.outputs import WriteError
from recbole_msr.runs.folder import RunFolder


class _LogFile(logging.FileHandler):
    """A log file; a line that cannot be written ends the run in one line, as with any other of its files."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise WriteError.of(self.baseFilename, error) from error
        super().handleError(record)


@contextmanager
def log_to_folder(folder: RunFolder) -> Iterator[None]:
    """Copy the log into the run's run.log, except for records of another run (their `folder`)."""
    path = folder.file("run.log")
    try:
        handler = _LogFile(path, encoding="utf-8", errors="backslashreplace", delay=True)
    except OSError as error:
        raise InputError(f"the log file {path} cannot be written: {error}") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(lambda record: getattr(record, "folder", None) in (None, folder.path))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        with suppress(OSError):  # of a full disk: the lost line has raised it already
            handler.close()


@contextmanager
def log_level(config: Any) -> Iterator[None]:
    """Log at the level that the setting `state` names."""
    level = getattr(logging, str(config["state"] or "INFO").upper(), logging.INFO)
    root = logging.getLogger()
    before = root.level
    root.setLevel(min(level, before) if before else level)
    try:
        yield
    finally:
        root.setLevel(before)
