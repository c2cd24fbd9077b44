"""Train and test in a folder once, whichever process comes first."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from recbole_msr.runs.folder import can_resume, is_finished, is_validated
from recbole_msr.runs.run import AfterEpoch, run
from recbole_msr.runs.tested_later import finish_with_test


def run_once(folder: Path, config: Mapping[str, Any], test: bool = True, after_epoch: AfterEpoch | None = None) -> None:
    """Train and test in a folder, once: a finished run stays as it is, and an interrupted one is resumed.

    Args:
        folder: the run's folder.
        config: all settings, `model` and `dataset` among them.
        test: False stops before the test; a later call tests what was trained.
        after_epoch: as `run` takes it.
    """
    with run_lock(folder):
        if is_finished(folder) or (is_validated(folder) and not test):
            return
        if is_validated(folder):
            finish_with_test(folder)
            return
        resume = can_resume(folder)
        if not resume:
            shutil.rmtree(folder, ignore_errors=True)
        settings = {**config, "output_dir": str(folder), "resume": resume}
        run(config=settings, test=test, after_epoch=after_epoch)


def run_lock(folder: Path) -> FileLock:
    """Return a lock of the process that trains in a folder; it waits for another process that is training there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{folder}.lock")
