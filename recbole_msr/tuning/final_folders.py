"""The folders of the trainings with fresh seeds, below final/."""

from __future__ import annotations

import logging
from itertools import count
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from recbole_msr.runs.folder import is_finished, is_validated
from recbole_msr.runs.result_file import read_result
from recbole_msr.tuning.final_parts import final_tasks, merged
from recbole_msr.tuning.settings import SearchSettings

logger = logging.getLogger(__name__)

_ADVICE = "delete its folder, and the same command trains it again"


def fresh_seeds(settings: SearchSettings) -> list[int]:
    """Return the seeds of confirmation and test: they follow those of the trials, by which a trial was chosen."""
    first = int(settings.config["seed"]) + settings.trial_seeds
    return list(range(first, first + settings.final_seeds))


def final_folders(settings: SearchSettings, trial: FrozenTrial, seed: int) -> dict[str | None, Path]:
    """Return the folders of a trial's training with one seed: one, or one for each task (None: all tasks in one)."""
    name = f"trial-{trial.number}-seed-{seed}"
    return {
        task: settings.folder / "final" / (name if task is None else f"{name}-{task}")
        for task in final_tasks(settings, trial)
    }


def is_over(settings: SearchSettings, trial: FrozenTrial, seed: int, test: bool) -> bool:
    """Return whether a trial has been trained with a seed to its end, and tested if that is asked for."""
    ended = is_finished if test else is_validated
    return all(ended(folder) for folder in final_folders(settings, trial, seed).values())


def read_final(settings: SearchSettings, trial: FrozenTrial, seed: int, test: bool) -> dict[str, Any]:
    """Read the results of a trial's training with one seed; those of a model of one task are merged over the tasks.

    Args:
        settings: the search.
        trial: the trial.
        seed: the seed.
        test: whether the test is among them.

    Raises:
        InputError: a file is damaged, or of another run.
    """
    results = []
    for task, folder in final_folders(settings, trial, seed).items():
        same = {"model": trial.user_attrs.get("model", settings.model), "dataset": settings.dataset, "seed": seed}
        name = "result.json" if test or is_finished(folder) else "validated.json"
        splits = ("valid", "test") if name == "result.json" else ("valid",)
        expected = same if task is None else {**same, "main_task": task}
        results.append(read_result(folder / name, expected, _ADVICE, splits))
    return merged(settings, results)


def failure_mark(settings: SearchSettings, trial: FrozenTrial, seed: int) -> Path:
    """Return the file in which a worker leaves why a training has failed."""
    return settings.folder / "final" / f"trial-{trial.number}-seed-{seed}.failed"


def set_finals_aside(search: Path) -> None:
    """Rename the trainings with fresh seeds of a study that was removed: another one's trials have the same numbers.

    Args:
        search: the search's output folder, whose study has no trial yet.
    """
    finals = search / "final"
    if not finals.is_dir():
        return
    aside = next(path for number in count(1) if not (path := search / f"final-removed-{number}").exists())
    finals.rename(aside)
    logger.warning("%s is of a study that was removed: it is %s now, and nothing of it is used", finals, aside.name)


def tested_trials(settings: SearchSettings) -> list[int]:
    """Return the numbers of the trials whose configuration has been tested with any seed, by this command or before."""
    names = {path.parent.name for path in (settings.folder / "final").glob("trial-*-seed-*/result.json")}
    return sorted({int(name.split("-")[1]) for name in names if name.split("-")[1].isdigit()})
