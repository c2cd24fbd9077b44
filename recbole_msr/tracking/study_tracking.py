"""The run of a whole search in Weights & Biases."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_msr.tracking.wandb import TrackedRun

if TYPE_CHECKING:
    import optuna
    import pandas as pd

_SUMMARY = ("trials", "best", "confirmation", "final", "final_defaults", "final_reference", "failures", "seconds")
_FILES = ("best.yaml", "trials.csv", "summary.json", "report.html")


def track_study(
    study: optuna.Study,
    trials: pd.DataFrame,
    progress: pd.DataFrame,
    summary: Mapping[str, Any],
    folder: Path,
    *,
    mode: str,
    project: str,
    config: Mapping[str, Any],
) -> None:
    """Log the trials, the course, the importance of parameters, and the files of a search, in a run of its own.

    Args:
        study: the study.
        trials: its trials as a table.
        progress: every validation value with the time of the search (`report.tuning.progress.looks_frame`); drawn
            against it are the values and the best so far.
        summary: the content of summary.json.
        folder: the search's folder.
        mode: a word of `MODES`.
        project: the W&B project.
        config: what all trials share.
    """
    import pandas as pd

    name = summary["study"]
    tracked = TrackedRun(
        mode=mode, folder=folder / "wandb", project=project, name=name, group=name, job_type="study",
        config={"study": name, **config},
    )  # fmt: skip
    try:
        tracked.table("trials", trials)
        tracked.table("progress", progress)
        tracked.curve("search", "seconds", progress[["seconds", "value", "best", "share"]])
        importance = _importance(study)
        if importance:
            tracked.table("importance", pd.DataFrame(importance.items(), columns=["parameter", "importance"]))
        tracked.summary({key: summary[key] for key in _SUMMARY if key in summary})
        tracked.artifact(f"{name}-best", "search", [folder / file for file in _FILES if (folder / file).is_file()])
    finally:
        tracked.finish("complete" if summary["best"] else "failed")


def _importance(study: optuna.Study) -> dict[str, float]:
    """Return each parameter's share of the first objective's variance; empty where it cannot be estimated."""
    import optuna

    target = (lambda trial: trial.values[0]) if len(study.directions) > 1 else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a line for each parameter with few trials: of many models, hundreds
        try:
            return optuna.importance.get_param_importances(study, target=target)
        except (ValueError, RuntimeError):
            return {}
