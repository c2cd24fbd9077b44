"""The final test: the best configuration and the defaults, over seeds that no trial had.

Nothing else in a search reads the test split.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial
from tqdm.auto import tqdm

from recbole_msr.files.atomic import write_atomically
from recbole_msr.jobs.failure import ends_search, reason_of
from recbole_msr.jobs.terminal import quiet_terminal
from recbole_msr.runs.folder import is_finished
from recbole_msr.runs.result_file import read_result
from recbole_msr.runs.seeds import run_seeds, seeds_not_fusable_reason
from recbole_msr.training.fused.loop import fused_group_size
from recbole_msr.tuning.final_workers import run_finals
from recbole_msr.tuning.outcome import FinalTest, best_settings
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.space.space import Space
from recbole_msr.tuning.study_data import StudyData
from recbole_msr.tuning.trial_settings import trial_config, trial_model
from recbole_msr.tuning.worker_loop import open_search

logger = logging.getLogger(__name__)


def final_test(settings: SearchSettings, trial: FrozenTrial, data: StudyData, progress: bool) -> FinalTest:
    """Train and test a trial's configuration with every final seed that has no result yet.

    Seeds are trained together where that is faster (`SearchSettings.fused`). They follow those of the trials: by these
    the trial has been chosen, so its value with them is optimistic.

    Args:
        settings: the search.
        trial: the trial.
        data: the search's data, for building the model.
        progress: show a progress bar.
    """
    first = int(settings.config["seed"]) + settings.trial_seeds
    files = {seed: _folder(settings, trial.number, seed) for seed in range(first, first + settings.final_seeds)}
    missing = [seed for seed, folder in files.items() if not is_finished(folder)]
    if not missing:
        return FinalTest(trial.number, _results(settings, trial, files))
    groups = _groups(settings, missing, _group_size(settings, trial, data, len(missing)))
    bar = tqdm(
        total=len(missing), desc=f"final test of trial {trial.number}", unit="seed", disable=not progress, leave=False
    )
    with contextlib.closing(bar):
        if settings.workers > 1:
            failed = _run_workers(settings, trial.number, groups, files, bar)
        else:
            failed = _run_here(settings, trial.number, groups, bar)
    left = {seed: reason for seed, reason in failed.items() if not is_finished(files[seed])}
    return FinalTest(trial.number, _results(settings, trial, files), left)


def _run_here(settings: SearchSettings, trial: int, groups: Sequence[Sequence[int]], bar: Any) -> dict[int, str]:
    failed: dict[int, str] = {}
    with quiet_terminal():
        for group in groups:
            try:
                failed |= run_final(settings, trial, group, bar.update)
            except Exception as error:
                if ends_search(error):
                    raise
                failed |= dict.fromkeys(group, reason_of(error))
    return failed


def _run_workers(
    settings: SearchSettings, trial: int, groups: Sequence[Sequence[int]], folders: Mapping[int, Path], bar: Any
) -> dict[int, str]:
    marks = {seed: _failed(folder) for seed, folder in folders.items()}
    for mark in marks.values():
        mark.unlink(missing_ok=True)
    lost = run_finals(settings, trial, groups, bar, lambda seed: is_finished(folders[seed]) or marks[seed].is_file())
    return lost | {seed: mark.read_text(encoding="utf-8") for seed, mark in marks.items() if mark.is_file()}


def _results(settings: SearchSettings, trial: FrozenTrial, folders: Mapping[int, Path]) -> list[dict[str, Any]]:
    advice = "delete its folder, and the same command trains it again"
    same = {"model": trial_model(settings, trial.user_attrs["settings"]), "dataset": settings.dataset}
    return [
        read_result(folder / "result.json", {**same, "seed": seed}, advice)
        for seed, folder in folders.items()
        if is_finished(folder)
    ]


def _group_size(settings: SearchSettings, trial: FrozenTrial, data: StudyData, seeds: int) -> int:
    """Return the maximum number of seeds that are trained at once."""
    from recbole.utils import get_model

    if seeds == 1 or settings.fused == "off":
        return 1
    config = trial_config(settings, trial.user_attrs["settings"])
    if seeds_not_fusable_reason(config, data.train_split) is not None:
        return 1
    if isinstance(settings.fused, int):
        return settings.fused
    try:
        return fused_group_size(get_model(config["model"])(config, data.train_split), config)
    except Exception as error:  # a large model, for instance, for which only a worker had the memory
        logger.warning(
            "the final test trains one seed at a time, as its model cannot be built here: %s", reason_of(error)
        )
        return 1


def _groups(settings: SearchSettings, seeds: Sequence[int], most: int) -> list[list[int]]:
    """Divide the seeds evenly into groups of at most `most`, so that no worker is idle."""
    rounds = -(-len(seeds) // (most * settings.workers))
    count = min(len(seeds), rounds * settings.workers)
    ends = [len(seeds) * k // count for k in range(count + 1)]
    return [list(seeds[begin:end]) for begin, end in pairwise(ends)]


def _folder(settings: SearchSettings, trial: int, seed: int) -> Path:
    return settings.folder / "final" / f"trial-{trial}-seed-{seed}"


def _failed(folder: Path) -> Path:
    """Return the file in which a worker leaves why a run has failed."""
    return folder.with_name(f"{folder.name}.failed")


def run_final(
    settings: SearchSettings, trial: int, seeds: Sequence[int], ended: Callable[[], Any] = lambda: None
) -> dict[int, str]:
    """Train a trial's configuration with several seeds at once, and test it; interrupted runs are resumed.

    Args:
        settings: the search.
        trial: number of the trial.
        seeds: the seeds.
        ended: called when a run is over, well or not.

    Returns:
        The reason of every seed that failed.
    """
    space = Space.load(settings.space)
    study = open_search(settings, space, trial_config(settings, dict(space.fixed)))
    config = {**best_settings(settings, study.trials[trial]), "show_progress": False}
    failed = {}
    for seed, error in run_seeds({seed: _folder(settings, trial, seed) for seed in seeds}, config, ended).items():
        if ends_search(error):
            raise error
        failed[seed] = reason_of(error)
        if failed[seed].startswith("error"):
            logger.error("the final run with seed %d", seed, exc_info=error)
    return failed


def run_final_in_worker(settings: SearchSettings, trial: int, seeds: Sequence[int]) -> None:
    """Run `run_final`, and leave the reason of a failed run beside its folder."""
    for seed in seeds:
        _failed(_folder(settings, trial, seed)).unlink(missing_ok=True)  # left by an earlier command
    for seed, reason in run_final(settings, trial, seeds).items():
        try:
            write_atomically(
                _failed(_folder(settings, trial, seed)),
                lambda path, reason=reason: Path(path).write_text(reason, encoding="utf-8"),
            )
        except OSError as error:
            logger.error("%s, and the final run with seed %d failed: %s", error, seed, reason)
