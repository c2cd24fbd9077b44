"""The output folder of a search or a comparison while a command is at work in it."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from recbole_msr.errors import InputError
from recbole_msr.files.outputs import NO_ROOM, Kind, Made, WriteError, check_folder

_REFUSED = (*NO_ROOM, errno.EACCES, errno.EPERM, errno.EIO)


class OutputLock:
    """A folder that a command holds.

    Attributes:
        begun: whether anything worth keeping is in it; what ends the command before leaves nothing behind.
    """

    begun = False


@contextlib.contextmanager
def lock_output(folder: Path, occupied: str, kind: Kind) -> Iterator[OutputLock]:
    """Hold a folder for one command of this machine at a time; it is made where it does not exist.

    Until its user sets `begun`, whatever ends the command removes what it has put there, and the folders that it made.

    Args:
        folder: the output folder.
        occupied: what to say if another command holds it.
        kind: what the command makes of it.

    Raises:
        InputError: it holds something else, another command holds it, or it cannot be written, now or later.
    """
    check_folder(folder, kind, "--output")
    made, hold = Made(folder, kind), OutputLock()
    try:
        (folder / "workers").mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "workers" / "command.lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(occupied) from None
    except OSError as error:
        made.undo()
        raise InputError(f"the output folder {folder} cannot be written: {error.strerror or error}") from error
    try:
        yield hold
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        more = "; what has ended is kept, and the same command goes on" if hold.begun else ""
        raise WriteError.of(error.filename or folder, error, more) from error
    finally:
        if not hold.begun:
            made.undo()
        lock.release()
