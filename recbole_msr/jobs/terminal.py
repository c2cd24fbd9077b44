"""A terminal in which only the progress bar and warnings are shown."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_terminal() -> Iterator[None]:
    """Keep the epochs' log lines of runs in their log files: they would break a progress bar."""
    handlers = [handler for handler in logging.getLogger().handlers if not isinstance(handler, logging.FileHandler)]
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)
