"""A lock on the output folder of a search or a comparison while a command works in it."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from recbole_msr.errors import InputError
from recbole_msr.files.outputs import NO_ROOM, FolderChanges, FolderKind, WriteError, check_folder

_REFUSED = (*NO_ROOM, errno.EACCES, errno.EPERM, errno.EIO)


class OutputLock:
    """A folder that a command has locked.

    Attributes:
        begun: whether anything worth keeping is in it; a command that ends earlier leaves nothing behind.
    """

    begun = False


@contextlib.contextmanager
def lock_output(folder: Path, occupied: str, kind: FolderKind) -> Iterator[OutputLock]:
    """Lock a folder for one command of this machine at a time; a missing folder is made.

    Until the caller sets `begun`, a command that ends removes its files there, and the folders that it made.

    Args:
        folder: the output folder.
        occupied: message if another command has locked it.
        kind: the kind of folder that the command makes of it.

    Raises:
        InputError: the folder holds something else, another command has locked it, or it cannot be written, now or
            later.
    """
    check_folder(folder, kind, "--output")
    made, output = FolderChanges(folder, kind), OutputLock()
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
        yield output
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        more = "; what has ended is kept, and the same command resumes" if output.begun else ""
        raise WriteError.of(error.filename or folder, error, more) from error
    finally:
        if not output.begun:
            made.undo()
        lock.release()
