"""One configuration with several seeds: runs that are trained together, each as it is alone."""

from __future__ import annotations

import gc
import logging
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.data.packed import PackedTable
from recbole_msr.data.rows_report import log_rows
from recbole_msr.errors import InputError
from recbole_msr.memory import is_out_of_memory
from recbole_msr.runs.folder import RunFolder, is_finished
from recbole_msr.runs.run import (
    Run,
    can_resume,
    configured,
    log_level,
    log_to_folder,
    run_folder,
    run_lock,
    run_once,
    run_threads,
    under_lightning,
)
from recbole_msr.threads import log_threads
from recbole_msr.training.epochs import EpochKeeper
from recbole_msr.training.fused.loop import not_fusable_reason, train_members
from recbole_msr.training.fused.member import Member

logger = logging.getLogger(__name__)


def seeds_not_fusable_reason(config: Any, dataset: Any) -> str | None:
    """Why runs that differ in the seed cannot be trained together; None if they can.

    Args:
        config: RecBole's configuration of one.
        dataset: what it makes of the data.
    """
    if not under_lightning(config):
        return "RecBole's trainer trains one model"
    if not isinstance(dataset, ScenarioDataset):
        return "without declared tasks, each seed has a split of its own"
    if config["log_wandb"] or config["wandb"] is not None:
        return "each has a W&B run of its own"
    return not_fusable_reason(config)


def run_seeds(
    folders: Mapping[int, Path], settings: Mapping[str, Any], ended: Callable[[], Any] = lambda: None
) -> dict[int, Exception]:
    """Train and test a configuration with several seeds at once; each run is in its folder as soon as it has ended.

    Nothing is done where a run has ended before. One that was interrupted goes on, alone. What runs out of memory among
    others, or cannot be trained so, is trained alone.

    Args:
        folders: seed -> the run's folder.
        settings: all settings, `model` and `dataset` among them.
        ended: called with every run that is over, well or not.

    Returns:
        What ended the runs that did not come to their end.
    """
    errors: dict[int, Exception] = {}
    over: set[int] = set()
    with ExitStack() as locks:
        for _, folder in sorted(folders.items()):
            locks.enter_context(run_lock(folder))
        new = {seed: folder for seed, folder in folders.items() if not is_finished(folder) and not can_resume(folder)}
        if len(new) > 1:
            group = _Group(new, settings, ended)
            group.go()
            errors, over = group.errors, group.over
            del group
            gc.collect()  # what is trained alone now has all of the memory
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    for seed in sorted(set(folders) - over):
        try:
            run_once(folders[seed], {**settings, "seed": seed})
        except Exception as error:
            errors[seed] = error
        ended()
    return errors


class _Group:
    """Runs that are trained together.

    Attributes:
        over: the seeds whose runs have ended, well or not; the others are to be trained alone.
        errors: what ended those that did not end well.
    """

    def __init__(self, folders: Mapping[int, Path], settings: Mapping[str, Any], ended: Callable[[], Any]) -> None:
        self._folders, self._settings, self._ended = folders, settings, ended
        self._open: dict[int, _OneOfSeveral] = {}
        self.over: set[int] = set()
        self.errors: dict[int, Exception] = {}

    def go(self) -> None:
        try:
            config = configured(None, None, self._settings)
            with log_level(config), run_threads(config):
                self._begin()
                if self._open:
                    self._train()
        except Exception as error:
            logger.warning("these seeds cannot be trained together, now one by one: %s", error)
            self._close_all(error)
        except BaseException as error:
            self._close_all(error)
            raise

    def _begin(self) -> None:
        self._began, first = time.perf_counter(), None
        for seed, folder in self._folders.items():
            one = self._open[seed] = _OneOfSeveral()
            try:
                one.begin(folder, {**self._settings, "seed": seed}, first, partial(self._end, seed))
            except Exception as error:
                self._over(seed, error)
                continue
            if first is None:
                first = one.run
                reason = seeds_not_fusable_reason(first.config, first.dataset)
                if reason is not None:
                    raise InputError(reason)

    def _train(self) -> None:
        log_threads()
        logging.getLogger(EpochKeeper.__module__).setLevel(logging.INFO)  # which a search's trials keep silent
        seeds = ", ".join(map(str, self._open))
        logger.info("trained together: the runs with seeds %s", seeds)
        run = next(iter(self._open.values())).run
        train, valid = (PackedTable.for_run(loader._dataset, run.config) for loader in run.loaders[:2])
        seconds = time.perf_counter() - self._began
        for one in self._open.values():
            one.count(len(self._open), run.data_seconds, seconds)
        train_members([one.member for one in self._open.values()], train, valid)

    def _end(self, seed: int) -> None:
        """A training has ended: test it, while the others go on."""
        one = self._open[seed]
        error = one.member.error
        if error is None:
            try:
                one.finish()
            except Exception as raised:
                error = raised
        self._over(seed, error)

    def _over(self, seed: int, error: Exception | None) -> None:
        error = self._open[seed].close(error)
        del self._open[seed]
        if error is not None and is_out_of_memory(error):
            logger.warning("the run with seed %d ran out of memory among others, later alone", seed)
            return
        if error is not None:
            self.errors[seed] = error
        self.over.add(seed)
        self._ended()

    def _close_all(self, error: BaseException) -> None:
        for one in self._open.values():
            one.close(error)
        self._open.clear()


class _OneOfSeveral:
    """One of the runs, from its folder's making to its result."""

    run: Run
    member: Member

    def __init__(self) -> None:
        self._contexts = ExitStack()
        self._fused, self._seconds = 1, 0.0

    def begin(self, path: Path, settings: Mapping[str, Any], first: Run | None, on_end: Callable[[], Any]) -> None:
        """Build the model, with random numbers as a run alone has them.

        Args:
            path: the run's folder.
            settings: all settings.
            first: a run that has read the data.
            on_end: called when the training has ended.
        """
        config = configured(None, None, settings)
        shutil.rmtree(path, ignore_errors=True)  # what an interrupted one has left
        folder: RunFolder = self._contexts.enter_context(run_folder(config, path))
        self._contexts.enter_context(log_to_folder(folder))
        self.run = Run(config, folder, started=time.perf_counter())
        if first is None:
            self.run.load()
        else:
            self.run.dataset, self.run.loaders = first.dataset, first.loaders
            log_rows(first.dataset, folder.path)
        self.run.build()
        self._trainer = self.run.trainer()
        self.member = Member(
            config,
            self.run.model,
            self.run.settings,
            best_path=folder.file("best.ckpt"),
            last_path=folder.file("last.ckpt"),
            metrics_path=folder.file("metrics.csv"),
            on_end=on_end,
        )

    def count(self, fused: int, data: float, seconds: float) -> None:
        """It begins with so many, after so many seconds, of which reading the data took a part; they share them."""
        self._fused, self._seconds = fused, seconds / fused
        self.run.data_seconds = data / fused

    def finish(self) -> None:
        """Test the best epoch, and write the result."""
        began = time.perf_counter()
        outcome = self.run.test(self._trainer, self.member.epochs)
        if self._fused > 1:
            outcome.summary["fused"] = self._fused
        self.run.finish(outcome, None, self._seconds + self.member.seconds + time.perf_counter() - began)

    def close(self, error: Exception | BaseException | None) -> Any:
        """Let go of the folder, and of all that takes memory.

        Returns:
            The error, as the folder tells it: one of a full disk names the file.
        """
        if error is None:
            self._contexts.close()
        else:
            try:
                self._contexts.__exit__(type(error), error, error.__traceback__)
            except Exception as told:
                error = told
            traceback.clear_frames(error.__traceback__)
        vars(self).clear()
        return error
