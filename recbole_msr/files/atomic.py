"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from recbole_msr.files.outputs import writing


def write_atomically(path: str | Path, write: Any, private: bool = False) -> None:
    """Call `write(temporary_path)` and rename the file into place, so that `path` is never half a file.

    Args:
        path: the file.
        write: writes the content.
        private: whether only the owner may read it.

    Raises:
        WriteError: the file cannot be written; it is named.
    """
    path = Path(path)
    with writing(path):
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        os.close(handle)
        try:
            if not private:  # mkstemp gives 0600; results are for others to read too
                os.chmod(temporary, 0o666 & ~_umask())
            write(temporary)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
