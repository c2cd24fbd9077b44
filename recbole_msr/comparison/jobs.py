"""The jobs of a comparison: searches and runs, taken one by one by each process until none is left."""

from __future__ import annotations

import gc
import json
import logging
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from recbole_msr.comparison.settings import CompareSettings, Search, Training
from recbole_msr.errors import InputError
from recbole_msr.files.atomic import write_atomically
from recbole_msr.files.json import read_json
from recbole_msr.files.outputs import NO_ROOM
from recbole_msr.jobs.configuration import FREE_KEYS
from recbole_msr.jobs.failure import reason_of
from recbole_msr.jobs.terminal import quiet_terminal
from recbole_msr.runs.folder import is_finished
from recbole_msr.runs.run_once import run_once
from recbole_msr.tuning.run import search
from recbole_msr.tuning.trials_table import read_trials

logger = logging.getLogger(__name__)

_WAIT_SECONDS = 1.0
_DONE = {"trials": int | None, "timeout": float | None, "model": str, "config": dict}

Job = Search | Training


class Jobs:
    """All jobs of a comparison, with their state as the folder shows it; every process has its own object.

    A job's marks lie beside its folder: `.failed` with the reason, `.attempts` with one line for every start that was
    cut short, `.done` with the settings of a finished search. Failed jobs are tried again by the next command.

    Args:
        settings: the comparison.
    """

    def __init__(self, settings: CompareSettings) -> None:
        self.settings = settings
        self.jobs: list[Job] = [*settings.searches(), *settings.trainings()]

    def folder(self, job: Job) -> Path | None:
        """Return the folder of a job's files; None for a training whose search has not ended."""
        if isinstance(job, Search):
            return self.settings.folder / job.path
        try:
            return self.settings.folder / job.path(self.settings.trial(job.entry, job.task))
        except FileNotFoundError:
            return None

    def finished(self, job: Job) -> bool:
        """Return whether a job has a result with the settings that are asked for now."""
        if isinstance(job, Search):
            return self.searched(job) == self.asked(job)
        if self.settings.searched and not self.finished(Search(job.entry, job.task)):
            return False
        folder = self.folder(job)
        return folder is not None and is_finished(folder)

    def failure(self, job: Job) -> str | None:
        """Return why a job failed, None if it did not; a training fails with its search."""
        if isinstance(job, Search):
            return _read(self.settings.folder / job.path, ".failed")
        if self.settings.searched:
            failed = self.failure(Search(job.entry, job.task))
            if failed is not None:
                return f"its search failed: {failed}"
        folder = self.folder(job)
        return None if folder is None else _read(folder, ".failed")

    def over(self, job: Job) -> bool:
        """Return whether a job is finished or has failed."""
        return self.finished(job) or self.failure(job) is not None

    def count_over(self) -> int:
        """Return the number of jobs that are over."""
        return sum(self.over(job) for job in self.jobs)

    def forget_failures(self) -> None:
        """Let failed jobs be tried again, before a command begins; starts that were killed still count."""
        for name in ("searches", "runs"):
            for mark in (self.settings.folder / name).rglob("*.failed"):
                mark.with_suffix(".attempts").unlink(missing_ok=True)
                mark.unlink()

    def work(self, orphaned: Callable[[], bool] = lambda: False, after: Callable[[], Any] | None = None) -> None:
        """Do jobs until all are over, but for those that another process is working on.

        Args:
            orphaned: asked before every job whether to end.
            after: called after every job.
        """
        while not orphaned():
            left = [job for job in self.jobs if not self.over(job)]
            if not left:
                return
            has_done_any = False
            for job in left:
                if orphaned():
                    return
                if self.over(job) or not self._ready(job):
                    continue
                has_done_any |= self._try(job)
                if after is not None:
                    after()
            if not has_done_any:
                time.sleep(_WAIT_SECONDS)

    def _ready(self, job: Job) -> bool:
        return isinstance(job, Search) or not self.settings.searched or self.finished(Search(job.entry, job.task))

    def _try(self, job: Job) -> bool:
        """Do a job, unless another process holds it.

        Returns:
            Whether this process held it.
        """
        folder = self.folder(job)
        assert folder is not None
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(f"{folder}.claim", timeout=0):
                if not self.over(job):
                    self._attempt(job, folder)
                return True
        except Timeout:
            return False

    def _attempt(self, job: Job, folder: Path) -> None:
        """Do a job, and mark it failed with the reason if it fails; the other jobs go on."""
        tries = (_read(folder, ".attempts") or "").count("\n")
        # A search tries its own trials again, and gives up one that is killed again and again.
        if tries > self.settings.retries and isinstance(job, Training):
            _write(folder, ".failed", f"its process was killed {tries} times, by too little memory perhaps")
            return
        _write(folder, ".attempts", "started\n" * (tries + 1))
        try:
            with quiet_terminal():
                self._do(job, folder)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                raise
            reason = reason_of(error)
            if reason.startswith("error"):
                logger.error("%s: %s", folder, traceback.format_exc())
            traceback.clear_frames(error.__traceback__)  # they hold the model
            _write(folder, ".failed", reason)
            logger.warning("%s: %s", job.describe(), reason)
        finally:
            Path(f"{folder}.attempts").unlink(missing_ok=True)  # it was not killed
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _do(self, job: Job, folder: Path) -> None:
        if isinstance(job, Search):
            self._search(job, folder)
        else:
            run_once(folder, self.run_settings(job))

    def run_settings(self, job: Training) -> dict[str, Any]:
        """Return all settings of a run, as `recbole_msr.run(config=...)` takes them."""
        settings = self.settings
        _, tuned = settings.tuned(job.entry, job.task)
        config = {**tuned, **job.entry.merge(settings.config)}  # the last two were fixed in the search as well
        if job.scenario is not None and isinstance(config.get("loss_weights"), Mapping):
            config["loss_weights"] = _weights_of(config["loss_weights"], job.scenario)
        return {
            **config,
            "main_task": job.task or settings.main_task,
            "model": job.entry.model,
            "dataset": settings.dataset,
            "seed": job.seed,
            "only_scenario": job.scenario,
            "save_predictions": True,
            "show_progress": False,
            "wandb": settings.wandb if settings.wandb != "disabled" else None,
            "wandb_project": settings.wandb_project,
        }

    def _search(self, job: Search, folder: Path) -> None:
        settings = self.settings
        result = search(
            job.entry.model,
            settings.dataset,
            settings.trials or None,
            config={**job.entry.merge(settings.config), "main_task": job.task or settings.main_task},
            study=f"{job.entry.label}-{job.task or settings.dataset}",
            output=folder,
            timeout=self._time_left(folder),
            final_seeds=0,
            ensemble="off",
            wandb=settings.wandb,
            wandb_project=settings.wandb_project,
            progress=False,
        )
        if result.best_config is None:
            reasons = ", ".join(result.summary["failures"])
            raise InputError(f"none of its trials was completed{f' ({reasons})' if reasons else ''}")
        _write(folder, ".done", json.dumps(self.asked(job)))

    def _time_left(self, folder: Path) -> float | None:
        """Return the seconds of a search that earlier, interrupted commands have not used."""
        if self.settings.timeout is None or not (folder / "trials.parquet").is_file():
            return self.settings.timeout
        spent = read_trials(folder)["seconds"].sum()
        return max(1e-3, self.settings.timeout - float(spent))  # with nothing left, the results are written yet

    def searched(self, job: Search) -> dict[str, Any] | None:
        """Return the budget and settings of a search that has ended; None of one that has not.

        Raises:
            InputError: the mark is damaged.
        """
        path = Path(f"{self.settings.folder / job.path}.done")
        return (
            read_json(path, _DONE, "remove it, and the same command goes on", finite=False) if path.exists() else None
        )

    def asked(self, job: Search) -> dict[str, Any]:
        """Return the budget of a search, and all settings that decide its trials."""
        settings = self.settings
        config = job.entry.merge(settings.config)
        return {
            "trials": settings.trials,
            "timeout": settings.timeout,
            "model": job.entry.model,
            "config": json.loads(json.dumps({key: config[key] for key in sorted(set(config) - FREE_KEYS)})),
        }


def _weights_of(weights: Mapping[str, Any], scenario: str) -> dict[str, Any]:
    """Return the losses' weights of one scenario, by task."""
    of_scenario = {task: by.get(scenario) if isinstance(by, Mapping) else by for task, by in weights.items()}
    return {task: weight for task, weight in of_scenario.items() if weight is not None}


def _write(folder: Path, suffix: str, text: str) -> None:
    write_atomically(f"{folder}{suffix}", lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))


def _read(folder: Path, suffix: str) -> str | None:
    try:
        return Path(f"{folder}{suffix}").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
