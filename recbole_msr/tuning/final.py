"""Trainings of trials' configurations with fresh seeds, which no trial had, and their tests.

Nothing else in a search reads the test split.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from tqdm.auto import tqdm

from recbole_msr.files.atomic import write_atomically
from recbole_msr.jobs.failure import ends_search, reason_of
from recbole_msr.jobs.terminal import quiet_terminal
from recbole_msr.runs.seeds import run_seeds, seeds_not_fusable_reason
from recbole_msr.training.fused.loop import fused_group_size
from recbole_msr.tuning.budget import Budget
from recbole_msr.tuning.final_folders import failure_mark, final_folders, is_over
from recbole_msr.tuning.final_workers import Group, Run, run_finals
from recbole_msr.tuning.outcome import best_settings
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.space.space import Space
from recbole_msr.tuning.study_data import StudyData
from recbole_msr.tuning.trial_settings import trial_config
from recbole_msr.tuning.worker_loop import open_search

logger = logging.getLogger(__name__)

NO_TIME = "no time was left for it"
"""Reason of a training that did not begin."""


class _TimeUpError(Exception):
    """The command's time is up."""


@dataclass(frozen=True)
class Wanted:
    """Trainings that are to be there.

    Attributes:
        trial: the trial whose configuration is trained.
        seeds: with which seeds.
        test: whether they are to be tested, too.
    """

    trial: FrozenTrial
    seeds: Sequence[int]
    test: bool


def train_finals(
    settings: SearchSettings,
    study: optuna.Study,
    wanted: Sequence[Wanted],
    data: StudyData,
    budget: Budget,
    about: str,
    progress: bool,
) -> dict[Run, str]:
    """Train, and test where it is asked for, what is not there yet; interrupted runs go on.

    Seeds of a trial are trained together where that is faster (`SearchSettings.fused`). A training that would end
    after the deadline is not begun.

    Args:
        settings: the search.
        study: its study.
        wanted: the trainings.
        data: the search's data, for building models.
        budget: the command's time.
        about: what the progress bar says.
        progress: show a progress bar.

    Returns:
        Why a training is not there.
    """
    trials = {wish.trial.number: wish for wish in wanted}
    of_trials = [_groups_of(settings, wish, data, budget) for wish in wanted]
    # The first seeds of all trials before the next ones: if time is up, they have seeds in common.
    groups = [group for layer in zip_longest(*of_trials) for group in layer if group is not None]
    if not groups:
        return {}

    def over(run: Run) -> bool:
        wish = trials[run[0]]
        return is_over(settings, wish.trial, run[1], wish.test)

    runs = [run for group in groups for run in group.runs]
    bar = tqdm(total=len(runs), desc=about, unit="run", disable=not progress, leave=False)
    with contextlib.closing(bar):
        if settings.workers > 1:
            failed = _run_workers(settings, trials, groups, over, budget, bar)
        else:
            failed = _run_here(settings, study, groups, budget, bar)
    return {run: failed.get(run, NO_TIME) for run in runs if not over(run)}


def _run_here(
    settings: SearchSettings,
    study: optuna.Study,
    groups: Sequence[Group],
    budget: Budget,
    bar: Any,
) -> dict[Run, str]:
    failed: dict[Run, str] = {}
    with quiet_terminal():
        for group in groups:
            if group.seconds > budget.left():
                continue
            try:
                failed |= run_final(settings, study, group, budget, bar.update)
            except Exception as error:
                if ends_search(error):
                    raise
                failed |= dict.fromkeys(group.runs, reason_of(error))
    return failed


def _run_workers(
    settings: SearchSettings,
    trials: dict[int, Wanted],
    groups: Sequence[Group],
    over: Callable[[Run], bool],
    budget: Budget,
    bar: Any,
) -> dict[Run, str]:
    marks = {run: failure_mark(settings, trials[run[0]].trial, run[1]) for group in groups for run in group.runs}
    for mark in marks.values():
        mark.unlink(missing_ok=True)

    def begun(run: Run) -> bool:
        folders = final_folders(settings, trials[run[0]].trial, run[1]).values()
        return any((folder / "metrics.csv").is_file() for folder in folders)

    def ended(count: int) -> None:
        if count > bar.n:
            bar.update(count - bar.n)

    deadline = budget.deadline
    lost = run_finals(settings, groups, lambda run: over(run) or marks[run].is_file(), begun, ended, deadline)
    return lost | {run: mark.read_text(encoding="utf-8") for run, mark in marks.items() if mark.is_file()}


def _groups_of(settings: SearchSettings, wish: Wanted, data: StudyData, budget: Budget) -> list[Group]:
    """Divide the seeds of a trial that are missing into groups; those that lack their test alone are one group."""
    trial, test = wish.trial, wish.test
    missing = [seed for seed in wish.seeds if not is_over(settings, trial, seed, test)]
    validated = [seed for seed in missing if is_over(settings, trial, seed, False)]
    new = [seed for seed in missing if seed not in validated]
    groups = [validated] if validated else []
    groups += _groups(settings, new, _group_size(settings, trial, data, len(new))) if new else []
    return [
        Group(trial.number, tuple(seeds), test, sum(budget.run_seconds(trial, seed, test) for seed in seeds))
        for seeds in groups
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
        return fused_group_size(get_model(config["model"])(config, data.of(config).train_split), config)
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


def run_final(
    settings: SearchSettings,
    study: optuna.Study,
    group: Group,
    budget: Budget,
    ended: Callable[[], Any] = lambda: None,
) -> dict[Run, str]:
    """Train a trial's configuration with several seeds at once, and test it; interrupted runs are resumed.

    Args:
        settings: the search.
        study: its study.
        group: the trial and the seeds.
        budget: the command's time.
        ended: called when a run is over, well or not.

    Returns:
        The reason of every run that failed.
    """
    trial = study.get_trials(deepcopy=False)[group.trial]
    config = {**best_settings(settings, trial), "show_progress": False, "save_predictions": True}
    epochs = int(config["epochs"])

    def after_epoch(epoch: int, _: float) -> None:
        if epoch + 1 < epochs and budget.over():
            raise _TimeUpError(f"the time was up after epoch {epoch + 1} of {epochs}")

    by_seed = {seed: final_folders(settings, trial, seed) for seed in group.seeds}
    tasks = list(by_seed[group.seeds[0]])
    failed: dict[Run, str] = {}
    for task in tasks:
        folders = {seed: paths[task] for seed, paths in by_seed.items() if (group.trial, seed) not in failed}
        if not folders:  # the time is up, for instance: no further task is begun
            break
        given = config if task is None else {**config, "main_task": task}
        last = task == tasks[-1]
        errors = run_seeds(folders, given, ended if last else lambda: None, group.test, after_epoch)
        for seed, error in errors.items():
            failed.setdefault((group.trial, seed), _reason(error, seed))
    return failed


def _reason(error: Exception, seed: int) -> str:
    """Return why a run failed.

    Raises:
        Exception: the error, if it ends the search.
    """
    if ends_search(error):
        raise error
    if isinstance(error, _TimeUpError):
        return str(error)
    reason = reason_of(error)
    if reason.startswith("error"):
        logger.error("the final run with seed %d", seed, exc_info=error)
    return reason


def run_finals_in_worker(settings: SearchSettings, groups: Sequence[Group], deadline: float | None) -> None:
    """Run groups one after the other, and leave the reason of a failed run beside its folder.

    Args:
        settings: the search.
        groups: the trials and seeds.
        deadline: `time.monotonic()` at which the command shall be over; a group that would end later is not begun.
    """
    space = Space.load(settings.space)
    study = open_search(settings, space, trial_config(settings, dict(space.fixed)))
    trials = study.get_trials(deepcopy=False)
    budget = Budget(settings, study, deadline)
    for group in groups:
        trial = trials[group.trial]
        if sum(budget.run_seconds(trial, seed, group.test) for seed in group.seeds) > budget.left():
            continue
        try:
            failed = run_final(settings, study, group, budget)
        except Exception as error:
            if ends_search(error):
                raise
            failed = dict.fromkeys(group.runs, reason_of(error))
        for (_, seed), reason in failed.items():
            _leave_reason(failure_mark(settings, trial, seed), seed, reason)


def _leave_reason(mark: Path, seed: int, reason: str) -> None:
    try:
        write_atomically(mark, lambda path: Path(path).write_text(reason, encoding="utf-8"))
    except OSError as error:
        logger.error("%s, and the final run with seed %d failed: %s", error, seed, reason)
