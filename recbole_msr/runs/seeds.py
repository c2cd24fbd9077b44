"""Train one configuration with several seeds at once; each run comes out as it does alone."""

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
from recbole_msr.runs.folder import RunFolder, can_resume, is_validated, run_folder
from recbole_msr.runs.run import AfterEpoch, Run
from recbole_msr.runs.run_log import log_level, log_to_folder
from recbole_msr.runs.run_once import run_lock, run_once
from recbole_msr.runs.run_settings import configure_run, run_threads, under_lightning
from recbole_msr.threads import log_threads
from recbole_msr.training.epochs import EpochKeeper
from recbole_msr.training.fused.loop import not_fusable_reason, train_members
from recbole_msr.training.fused.member import Member

logger = logging.getLogger(__name__)


def seeds_not_fusable_reason(config: Any, dataset: Any) -> str | None:
    """Say why runs that differ in the seed cannot be trained together; None if they can.

    Args:
        config: RecBole's configuration of one of them.
        dataset: the dataset that it makes.
    """
    if not under_lightning(config):
        return "RecBole's trainer trains one model"
    if not isinstance(dataset, ScenarioDataset):
        return "without declared tasks, each seed has a split of its own"
    if config["log_wandb"] or config["wandb"] is not None:
        return "each has a W&B run of its own"
    return not_fusable_reason(config)


def run_seeds(
    folders: Mapping[int, Path],
    settings: Mapping[str, Any],
    on_end: Callable[[], Any] = lambda: None,
    test: bool = True,
    after_epoch: AfterEpoch | None = None,
) -> dict[int, Exception]:
    """Train and test a configuration with several seeds at once; each run is in its folder as soon as it has ended.

    A finished run stays as it is, and an interrupted one is resumed, alone. A run that runs out of memory among the
    others, or cannot be trained with them, is trained alone.

    Args:
        folders: seed -> the run's folder.
        settings: all settings, `model` and `dataset` among them.
        on_end: called at the end of every run, whether it succeeded or failed.
        test: False stops before the test; a later call tests what was trained.
        after_epoch: as `run` takes it, for each run.

    Returns:
        By seed the errors of the runs that failed.
    """
    errors: dict[int, Exception] = {}
    over: set[int] = set()
    with ExitStack() as locks:
        for _, folder in sorted(folders.items()):
            locks.enter_context(run_lock(folder))
        new = {seed: folder for seed, folder in folders.items() if not is_validated(folder) and not can_resume(folder)}
        if len(new) > 1:
            group = _Group(new, settings, on_end, test, after_epoch)
            group.train()
            errors, over = group.errors, group.over
            del group
            gc.collect()  # what is trained alone now has all of the memory
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    for seed in sorted(set(folders) - over):
        try:
            run_once(folders[seed], {**settings, "seed": seed}, test, after_epoch)
        except Exception as error:
            errors[seed] = error
        on_end()
    return errors


class _Group:
    """Runs that are trained together.

    Attributes:
        over: the seeds whose runs have ended, well or not; the others are to be trained alone.
        errors: the errors of those that failed.
    """

    def __init__(
        self,
        folders: Mapping[int, Path],
        settings: Mapping[str, Any],
        on_end: Callable[[], Any],
        test: bool = True,
        after_epoch: AfterEpoch | None = None,
    ) -> None:
        self._folders, self._settings, self._on_end = folders, settings, on_end
        self._test, self._after_epoch = test, after_epoch
        self._open: dict[int, _GroupedRun] = {}
        self.over: set[int] = set()
        self.errors: dict[int, Exception] = {}

    def train(self) -> None:
        """Train and test all runs; those that cannot be trained together are left out of `over`."""
        try:
            config = configure_run(None, None, self._settings)
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
            run = self._open[seed] = _GroupedRun(self._after_epoch)
            try:
                run.begin(folder, {**self._settings, "seed": seed}, first, partial(self._end, seed))
            except Exception as error:
                self._close(seed, error)
                continue
            if first is None:
                first = run.run
                reason = seeds_not_fusable_reason(first.config, first.dataset)
                if reason is not None:
                    raise InputError(reason)

    def _train(self) -> None:
        log_threads()
        logging.getLogger(EpochKeeper.__module__).setLevel(logging.INFO)  # a search's trials have silenced it
        seeds = ", ".join(map(str, self._open))
        logger.info("trained together: the runs with seeds %s", seeds)
        first = next(iter(self._open.values())).run
        train, valid = (PackedTable.for_run(loader._dataset, first.config) for loader in first.loaders[:2])
        seconds = time.perf_counter() - self._began
        for run in self._open.values():
            run.share_seconds(len(self._open), first.data_seconds, seconds)
        train_members([run.member for run in self._open.values()], train, valid)

    def _end(self, seed: int) -> None:
        """Finish a run whose training has ended, while the others go on."""
        run = self._open[seed]
        error = run.member.error
        if error is None:
            try:
                run.finish(self._test)
            except Exception as raised:
                error = raised
        self._close(seed, error)

    def _close(self, seed: int, error: Exception | None) -> None:
        error = self._open[seed].close(error)
        del self._open[seed]
        if error is not None and is_out_of_memory(error):
            logger.warning("the run with seed %d ran out of memory among others, later alone", seed)
            return
        if error is not None:
            self.errors[seed] = error
        self.over.add(seed)
        self._on_end()

    def _close_all(self, error: BaseException) -> None:
        for run in self._open.values():
            run.close(error)
        self._open.clear()


class _GroupedRun:
    """One of the runs, from its folder to its result."""

    run: Run
    member: Member

    def __init__(self, after_epoch: AfterEpoch | None = None) -> None:
        self._contexts, self._after_epoch = ExitStack(), after_epoch
        self._fused, self._seconds = 1, 0.0

    def begin(self, path: Path, settings: Mapping[str, Any], first: Run | None, on_end: Callable[[], Any]) -> None:
        """Build the model, with random numbers as a run alone has them.

        Args:
            path: the run's folder.
            settings: all settings.
            first: a run that has read the data.
            on_end: called when the training has ended.
        """
        config = configure_run(None, None, settings)
        shutil.rmtree(path, ignore_errors=True)  # of a run that was interrupted before its first epoch's end
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
            callback_fn=self._after_epoch,
            on_end=on_end,
        )

    def share_seconds(self, n_runs: int, data: float, seconds: float) -> None:
        """Share the seconds until the training evenly among the runs.

        Args:
            n_runs: number of runs that are trained together.
            data: seconds that reading the data took.
            seconds: all seconds until the training.
        """
        self._fused, self._seconds = n_runs, seconds / n_runs
        self.run.data_seconds = data / n_runs

    def finish(self, test: bool) -> None:
        """Test the best epoch, unless that is left for later, and write the result."""
        began = time.perf_counter()
        outcome = self.run.outcome(self._trainer, self.member.epochs, test)
        if self._fused > 1:
            outcome.summary["fused"] = self._fused
        self.run.finish(outcome, None, self._seconds + self.member.seconds + time.perf_counter() - began)

    def close(self, error: Exception | BaseException | None) -> Any:
        """Let go of the folder, and of everything that takes memory.

        Returns:
            The error; `run_folder` has put the file's name into one of a full disk.
        """
        if error is None:
            self._contexts.close()
        else:
            try:
                self._contexts.__exit__(type(error), error, error.__traceback__)
            except Exception as named:
                error = named
            traceback.clear_frames(error.__traceback__)
        vars(self).clear()
        return error
