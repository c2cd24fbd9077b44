"""The W&B run of `run_recbole --log_wandb=True`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recbole_msr.tracking.wandb import TrackedRun, resolve_mode, sync_command

logger = logging.getLogger(__name__)


@contextmanager
def tracked_run(config: Any, settings: Mapping[str, Any], folder: Path, resume: bool) -> Iterator[TrackedRun]:
    """Open a training's W&B run, below its folder; finished however the training ends.

    Args:
        config: RecBole's configuration: `wandb` is the mode, `wandb_project` the project.
        settings: the parameters that are kept.
        folder: the training's folder.
        resume: go on under the id of the interrupted training's run. The new run has all epochs again, and takes the
            other's place; what the other had written is moved to wandb/interrupted.
    """
    mode = resolve_mode(config["wandb"])
    with TrackedRun(
        mode,
        folder / "wandb",
        project=str(config["wandb_project"] or "recbole"),
        name=f"{config['model']}-{config['dataset']}",
        group=None,
        job_type="run",
        config={**settings, "output_dir": str(folder)},
        run_id=_interrupted(folder / "wandb") if resume and mode != "disabled" else None,
    ) as run:
        yield run
    if run.mode == "offline" and run.path is not None:
        logger.info(f"W&B: kept on disk; to upload it: {sync_command([run.path])}")


def _interrupted(folder: Path) -> str | None:
    """Return the id of the last run in a folder; its files are moved out of the way of `wandb sync FOLDER`."""
    folders = sorted(folder.glob("offline-run-*-*"))
    if not folders:
        return None
    identity = folders[-1].name.rpartition("-")[2]
    with contextlib.suppress(OSError):
        (folder / "interrupted").mkdir(exist_ok=True)
        for path in folders:
            if path.name.endswith(f"-{identity}"):
                path.rename(folder / "interrupted" / path.name)
        return identity
    return None


def log_result(run: TrackedRun, result: Mapping[str, Any]) -> None:
    """Log result.json: tables of scenarios x tasks, test and best validation metrics, best epoch, times."""
    for split in ("valid", "test"):
        split_result = result[split]
        if "cells" in split_result:
            run.log_cells(split, split_result)
        run.summary({f"{split}/{name}": value for name, value in split_result["metrics"].items()})
    names = ("best_epoch", "epochs", "best_valid_score", "valid_metric", "rows_per_second", "parameters", "device")
    run.summary({name: result[name] for name in names})
    run.summary({f"seconds/{what}": value for what, value in result["seconds"].items()})
