"""The output folder of a search or a comparison while a command is at work in it."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from recbole_msr.errors import InputError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""No trial's and no run's fault: writing ends for all."""
_REFUSED = (*NO_ROOM, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO)


@contextlib.contextmanager
def held(folder: Path, occupied: str) -> Iterator[None]:
    """Hold a folder for one command of this machine at a time; it is made where it does not exist.

    Args:
        folder: the output folder.
        occupied: what to say if another command holds it.

    Raises:
        InputError: another command holds it, or it cannot be written, now or later.
    """
    try:
        (folder / "workers").mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "workers" / "command.lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(occupied) from None
    except OSError as error:
        raise InputError(f"the output folder {folder} cannot be written: {error.strerror or error}") from error
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        raise InputError(
            f"{folder} cannot be written: {error.strerror or error}; what has ended is kept, and the same "
            "command goes on"
        ) from error
    finally:
        lock.release()
