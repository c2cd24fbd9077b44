"""Train and test in a folder once, whichever process comes first."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from recbole_msr.runs.folder import can_resume, is_finished
from recbole_msr.runs.run import run


def run_once(folder: Path, config: Mapping[str, Any]) -> None:
    """Train and test in a folder, once: a finished run stays as it is, and an interrupted one is resumed.

    Args:
        folder: the run's folder.
        config: all settings, `model` and `dataset` among them.
    """
    with run_lock(folder):
        if not is_finished(folder):
            resume = can_resume(folder)
            if not resume:
                shutil.rmtree(folder, ignore_errors=True)
            run(config={**config, "output_dir": str(folder), "resume": resume})


def run_lock(folder: Path) -> FileLock:
    """Return a lock of the process that trains in a folder; it waits for another process that is training there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{folder}.lock")
