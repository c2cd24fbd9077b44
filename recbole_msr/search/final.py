"""The final test: the best configuration, over seeds. Nothing else in a search reads the test split."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import torch
from tqdm.auto import tqdm

from recbole_msr.search.best import best_settings, best_trial
from recbole_msr.search.objective import trial_config
from recbole_msr.search.processes import run_finals
from recbole_msr.search.settings import SearchSettings
from recbole_msr.search.space import Space
from recbole_msr.search.work import open_search
from recbole_msr.training.run import run


def final_test(settings: SearchSettings, study: optuna.Study, progress: bool) -> list[dict[str, Any]]:
    """Train and test the best configuration with every final seed that is not there yet.

    Returns:
        result.json of each, in the order of the seeds.
    """
    best = best_trial(study, settings.tolerance)
    if best is None or settings.final_seeds == 0:
        return []
    first = int(settings.config["seed"])
    seeds = list(range(first, first + settings.final_seeds))
    missing = [seed for seed in seeds if not (_folder(settings, best.number, seed) / "result.json").is_file()]
    bar = tqdm(total=len(missing), desc="final test", unit="seed", disable=not (progress and missing), leave=False)
    with contextlib.closing(bar):
        if settings.workers == 1:
            with _quiet_terminal():
                for seed in missing:
                    run_final(settings, seed)
                    bar.update()
        else:
            run_finals(settings, missing, bar)
    return [
        json.loads((_folder(settings, best.number, seed) / "result.json").read_text(encoding="utf-8")) for seed in seeds
    ]


def _folder(settings: SearchSettings, number: int, seed: int) -> Path:
    return settings.folder / "final" / f"trial-{number}-seed-{seed}"


def run_final(settings: SearchSettings, seed: int) -> None:
    """Train the best configuration with one seed and test it; a run that was interrupted goes on."""
    space = Space.load(settings.space)
    data = trial_config(settings, dict(space.fixed))
    study = open_search(settings, space, data)
    best = best_trial(study, settings.tolerance)
    assert best is not None
    folder = _folder(settings, best.number, seed)
    config = {**best_settings(settings, best), "seed": seed, "show_progress": False}
    resume = folder.joinpath("config.yaml").is_file() and folder.joinpath("last.ckpt").is_file()
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    torch.set_num_threads(int(settings.config["threads"]))
    run(config=config | {"output_dir": str(folder), "resume": resume})


@contextlib.contextmanager
def _quiet_terminal() -> Iterator[None]:
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
