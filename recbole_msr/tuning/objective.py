"""One trial of a search: sample settings, build the model, train it under Lightning, return its validation value."""

from __future__ import annotations

import gc
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import optuna
import torch
from optuna.trial import Trial, TrialState

from recbole_msr.errors import InputError
from recbole_msr.jobs.failure import ends_search, reason_of
from recbole_msr.tracking.wandb import TrackedRun
from recbole_msr.training.epoch_loggers import EpochLogger
from recbole_msr.tuning.budget import Budget
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.space.space import Space
from recbole_msr.tuning.study_data import StudyData
from recbole_msr.tuning.trial_settings import trial_model, trial_settings
from recbole_msr.tuning.trial_state import SO_FAR
from recbole_msr.tuning.trial_training import TrialTraining

logger = logging.getLogger(__name__)


@dataclass
class Outcome:
    """The outcome of a trial.

    Attributes:
        state: COMPLETE, PRUNED or FAIL.
        values: values of the objectives, if complete.
        reason: why it was pruned or failed.
        attributes: attributes that are kept with the trial.
        settings: its sampled configuration keys.
        cut_off: whether the search's time was up before it ended: the next command tries it again.
        values_so_far: if so, the values of the objectives in the best validated epoch.
    """

    state: TrialState
    values: list[float] | None = None
    reason: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    cut_off: bool = False
    values_so_far: list[float] | None = None


class _TimeUpError(Exception):
    """The search's time is up."""


class Objective:
    """Runs trials, one after the other, in one process.

    Args:
        settings: the search.
        space: its space.
        data: its data.
        budget: the command's time; a trial stops at the end of its epoch when it is over. None for no limit.
    """

    def __init__(self, settings: SearchSettings, space: Space, data: StudyData, budget: Budget | None = None) -> None:
        self._settings, self._space, self._data, self._budget = settings, space, data, budget

    def __call__(self, trial: Trial) -> Outcome:
        """Run a trial to its end. Its errors become its outcome; only those that end the search are raised."""
        attempt = Attempt(trial)
        try:
            with attempt.judged():
                self.begin(attempt)
                self.train(attempt)
        finally:
            attempt.close()
        return attempt.outcome

    def begin(self, attempt: Attempt) -> None:
        """Sample a trial's settings, and build the model of its first training."""
        outcome, trial = attempt.outcome, attempt.trial
        outcome.settings = self._space.suggest(trial)
        trial.set_user_attr("settings", outcome.settings)
        trial.set_user_attr("model", trial_model(self._settings, outcome.settings))
        attempt.tracked = self._track(trial, outcome.settings)
        self.begin_seed(attempt, 0)

    def begin_seed(self, attempt: Attempt, index: int) -> None:
        """Build the model of a trial's next training."""
        attempt.runs.append(TrialTraining(self._settings, self._data, attempt.outcome.settings, index))

    def train(self, attempt: Attempt) -> None:
        """Train a trial that has begun, seed after seed."""
        for index in range(self._settings.trial_seeds):
            if index:
                self.begin_seed(attempt, index)
            run = attempt.runs[-1]
            run.run([attempt.epoch_logger(index)], self.after_epoch(attempt, run.epochs), attempt.started)
            if self._settings.trial_seeds > 1:
                self._after_seed(attempt, index)
        attempt.complete()

    def _track(self, trial: Trial, sampled: dict[str, Any]) -> TrackedRun:
        settings = self._settings
        return TrackedRun(
            mode=settings.wandb,
            folder=settings.folder / "wandb",
            project=settings.wandb_project,
            name=f"{settings.study}-{trial.number}",
            group=settings.study,
            job_type="trial",
            config={
                "study": settings.study,
                "trial": trial.number,
                "model": trial_model(settings, sampled),
                "dataset": settings.dataset,
            }
            | trial_settings(settings, sampled),
        )

    def after_epoch(self, attempt: Attempt, epochs: int) -> Callable[[int, float], None]:
        """Return the callback that reports epochs to the study and stops the trial if it is pruned.

        Trials over several seeds report seed by seed instead.
        """

        def report(epoch: int, score: float) -> None:
            reports = self._settings.trial_seeds == 1 and len(self._settings.objectives) == 1
            if reports and attempt.report(score, epoch + 1) and attempt.trial.should_prune():
                raise optuna.TrialPruned(f"pruned after epoch {epoch + 1} with {self._settings.quality} {score:.4f}")
            if self._budget is not None and epoch + 1 < epochs and self._budget.trials_over():
                raise _TimeUpError(f"the time was up after epoch {epoch + 1} of {epochs}")

        return report

    def report_seeds(self, attempt: Attempt) -> None:
        """Report every seed's value of a trial whose seeds were trained together."""
        if self._settings.trial_seeds > 1 and len(self._settings.objectives) == 1:
            for index, run in enumerate(attempt.runs):
                attempt.report(run.values()[0], index)

    def _after_seed(self, attempt: Attempt, index: int) -> None:
        if len(self._settings.objectives) > 1:
            return
        attempt.report(attempt.runs[index].values()[0], index)
        if index + 1 < self._settings.trial_seeds and attempt.trial.should_prune():
            raise optuna.TrialPruned(f"pruned after {index + 1} of {self._settings.trial_seeds} seeds")


class Attempt:
    """A trial under way in this process.

    Args:
        trial: the trial.

    Attributes:
        runs: its trainings, one a seed.
        outcome: its outcome, as far as it is known.
        started: `time.perf_counter()` of its beginning.
        seconds: its share of the time, where other trials were trained at the same time.
        fused: number of trainings that ran together with it, if any.
    """

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.runs: list[TrialTraining] = []
        self.outcome = Outcome(TrialState.FAIL)
        self.tracked: TrackedRun | None = None
        self.started = time.perf_counter()
        self.seconds: float | None = None
        self.fused: int | None = None
        self.closed = False
        self._reported: set[int] = set()
        self._loggers: dict[int, EpochLogger] = {}

    def report(self, value: float, step: int) -> bool:
        """Report a step's value to the study, unless the step was reported before the training was begun anew.

        Returns:
            Whether it was reported.
        """
        if step in self._reported:
            return False
        self.trial.report(value, step)
        self._reported.add(step)
        return True

    def epoch_logger(self, index: int) -> EpochLogger:
        """Return the callback that sends a seed's epochs to W&B, each once, even if training begins anew."""
        assert self.tracked is not None
        return self._loggers.setdefault(index, EpochLogger(self.tracked))

    def complete(self) -> None:
        """Set the values of a trial whose trainings have all ended."""
        values = [run.values() for run in self.runs]
        self.outcome.values = [sum(by_seed) / len(values) for by_seed in zip(*values, strict=True)]
        self.outcome.state = TrialState.COMPLETE

    def _keep_so_far(self) -> None:
        """Keep the values of its validated epochs: training it to its end can only improve its best."""
        with suppress(InputError):  # an objective without a value
            values = [run.values() for run in self.runs if run.is_validated]
            if values:
                self.outcome.values_so_far = [sum(by_seed) / len(values) for by_seed in zip(*values, strict=True)]

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Turn an error into the outcome, unless it ends the search."""
        outcome = self.outcome
        try:
            yield
        except optuna.TrialPruned as stop:
            outcome.state, outcome.reason = TrialState.PRUNED, str(stop)
        except _TimeUpError as stop:
            outcome.cut_off, outcome.reason = True, str(stop)
            self._keep_so_far()
        except Exception as error:
            if ends_search(error):
                raise
            outcome.reason = reason_of(error)
            if outcome.reason.startswith("error"):
                logger.error("trial %d: %s", self.trial.number, traceback.format_exc())
            traceback.clear_frames(error.__traceback__)  # they hold the model
        except BaseException:
            outcome.reason = "interrupted"
            raise

    def close(self) -> None:
        """Store the attributes, end its W&B run, and release its models."""
        if self.closed:
            return
        self.closed = True
        outcome, runs = self.outcome, self.runs
        seconds = time.perf_counter() - self.started if self.seconds is None else self.seconds
        outcome.attributes = {"seconds": round(seconds, 3), "threads": torch.get_num_threads()}
        if outcome.values_so_far is not None:
            outcome.attributes[SO_FAR] = outcome.values_so_far
        if self.fused is not None:
            outcome.attributes["fused"] = self.fused
        if runs:
            outcome.attributes |= runs[0].attributes()
            outcome.attributes["epochs"] = sum(len(run.history) for run in runs)
        if outcome.reason:
            outcome.attributes["reason"] = outcome.reason
        if self.tracked is not None:
            _finish(self.tracked, outcome)
        runs.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _finish(tracked: TrackedRun, outcome: Outcome) -> None:
    if "valid" in outcome.attributes:
        tracked.log_cells("valid", outcome.attributes["valid"])
    left_out = ("history", "valid", "reason", SO_FAR)
    values = {key: value for key, value in outcome.attributes.items() if key not in left_out}
    if outcome.values is not None:
        values["value"] = outcome.values[0] if len(outcome.values) == 1 else outcome.values
    tracked.summary(values)
    state = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}.get(outcome.state, "failed")
    tracked.finish(state, outcome.reason)
