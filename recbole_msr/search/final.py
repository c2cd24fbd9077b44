"""The final test: the best configuration, over seeds. Nothing else in a search reads the test split."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial
from tqdm.auto import tqdm

from recbole_msr.search.best import best_settings
from recbole_msr.search.objective import reason_of, trial_config
from recbole_msr.search.processes import run_finals
from recbole_msr.search.settings import SearchSettings
from recbole_msr.search.space import Space
from recbole_msr.search.work import open_search
from recbole_msr.training.run import run_once


def final_test(
    settings: SearchSettings, trial: FrozenTrial, progress: bool
) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Train and test a trial's configuration with every final seed that is not there yet.

    Returns:
        result.json of each seed that ended well, and for each of the others, why not.
    """
    first = int(settings.config["seed"])
    seeds = list(range(first, first + settings.final_seeds))
    files = {seed: _folder(settings, trial.number, seed) / "result.json" for seed in seeds}
    missing = [seed for seed in seeds if not files[seed].is_file()]
    bar = tqdm(total=len(missing), desc="final test", unit="seed", disable=not (progress and missing), leave=False)
    with contextlib.closing(bar):
        if settings.workers > 1:
            failed = run_finals(settings, trial.number, missing, bar)
        else:
            failed = _run_here(settings, trial.number, missing, bar)
    found = [json.loads(files[seed].read_text(encoding="utf-8")) for seed in seeds if files[seed].is_file()]
    return found, failed


def _run_here(settings: SearchSettings, trial: int, seeds: Sequence[int], bar: Any) -> dict[int, str]:
    failed = {}
    with quiet_terminal():
        for seed in seeds:
            try:
                run_final(settings, trial, seed)
            except Exception as error:
                failed[seed] = reason_of(error)
            bar.update()
    return failed


def _folder(settings: SearchSettings, trial: int, seed: int) -> Path:
    return settings.folder / "final" / f"trial-{trial}-seed-{seed}"


def run_final(settings: SearchSettings, trial: int, seed: int) -> None:
    """Train a trial's configuration with one seed and test it; a run that was interrupted goes on."""
    space = Space.load(settings.space)
    study = open_search(settings, space, trial_config(settings, dict(space.fixed)))
    config = {**best_settings(settings, study.trials[trial]), "seed": seed, "show_progress": False}
    run_once(_folder(settings, trial, seed), config)  # waits: one that outlived its parent may still be at it


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
