"""The hash of a file's content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20


def file_digest(path: Path, algorithm: Callable[[], Any] = hashlib.sha256) -> str:
    """Return the digest of a file's content, in hexadecimal; it is read a block at a time.

    Args:
        path: the file.
        algorithm: makes the hash, such as `hashlib.sha256`.
    """
    digest = algorithm()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    text: str = digest.hexdigest()
    return text
