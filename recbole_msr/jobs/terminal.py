"""Keep the lines of runs out of a progress bar."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_terminal() -> Iterator[None]:
    """What runs tell of their epochs goes to their log files, not between the lines of a progress bar."""
    handlers = [one for one in logging.getLogger().handlers if not isinstance(one, logging.FileHandler)]
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)
