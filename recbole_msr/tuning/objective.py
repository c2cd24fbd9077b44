"""One trial of a search: sample settings, build the model, train it under Lightning, return its validation value."""

from __future__ import annotations

import gc
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any

import optuna
import torch
from optuna.trial import Trial, TrialState

from recbole_msr.errors import InputError
from recbole_msr.jobs.failure import ends_search, reason_of
from recbole_msr.tracking.wandb import TrackedRun
from recbole_msr.training.epoch_loggers import EpochLogger
from recbole_msr.tuning.best_model import BestModel
from recbole_msr.tuning.budget import Budget
from recbole_msr.tuning.fidelity import Ladder
from recbole_msr.tuning.low_rungs import LowRungs
from recbole_msr.tuning.ranker_training import make_training
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.space.space import Space
from recbole_msr.tuning.study_data import StudyData
from recbole_msr.tuning.trial_folder import TrialFolder
from recbole_msr.tuning.trial_parts import Part, parts_of
from recbole_msr.tuning.trial_settings import trial_model, trial_settings
from recbole_msr.tuning.trial_state import EPOCHS_BEFORE, KEPT_EPOCHS, SO_FAR, is_defaults
from recbole_msr.tuning.trial_training import TrialTraining
from recbole_msr.tuning.trial_values import merged_attributes, values_by_seed

logger = logging.getLogger(__name__)

FIRST_LOOK = 0.05
"""Share of the timeout for which the pruner leaves a model's defaults alone in a search over several models."""


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
        ladder: the study's rungs below full training; None for none.
    """

    def __init__(
        self,
        settings: SearchSettings,
        space: Space,
        data: StudyData,
        budget: Budget | None = None,
        ladder: Ladder | None = None,
    ) -> None:
        self._settings, self._space, self._data, self._budget = settings, space, data, budget
        self._best = BestModel(settings)
        self._ladder = ladder or Ladder()
        self._low_rungs = LowRungs(settings, data, self._ladder)

    @property
    def has_low_rungs(self) -> bool:
        """Return whether trials climb rungs below full training, each by itself."""
        return len(self._ladder) > 0

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
        """Sample a trial's settings, train it on the low rungs, and build the model of its first full training."""
        outcome, trial = attempt.outcome, attempt.trial
        outcome.settings = self._space.suggest(trial)
        trial.set_user_attr("settings", outcome.settings)
        trial.set_user_attr("model", trial_model(self._settings, outcome.settings))
        attempt.tracked = self._track(trial, outcome.settings)
        attempt.folder = TrialFolder.begin(self._settings.folder, trial)
        self._low_rungs.climb(trial, outcome.settings, self._stop_after, self._stop_within)
        self.begin_part(attempt, parts_of(self._settings, outcome.settings)[0])

    def begin_part(self, attempt: Attempt, part: Part) -> None:
        """Build the model of a trial's next training."""
        folder = attempt.folder.training(part.folder) if attempt.folder is not None else None
        attempt.runs.append(make_training(self._settings, self._data, attempt.outcome.settings, part, folder))

    def train(self, attempt: Attempt) -> None:
        """Train a trial that has begun, part after part; what a lost trial before it has trained is not repeated."""
        for number, part in enumerate(parts_of(self._settings, attempt.outcome.settings)):
            if number:
                self.begin_part(attempt, part)
            run = attempt.runs[-1]
            run.run(
                [attempt.epoch_logger(number)],
                self.after_epoch(attempt, run),
                attempt.started,
                on_resume=partial(self._resume, attempt, run),
                stop=partial(self._stop_within, run),
            )
            if self._settings.trial_seeds > 1 and part.is_last:
                self._after_seed(attempt, part.index)
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

    def _reports(self, run: TrialTraining) -> bool:
        """Return whether a training's epochs are reported; trials over several seeds report seed by seed.

        Those of one task of several are not: the trial's value is of all tasks.
        """
        return self._settings.trial_seeds == 1 and len(self._settings.objectives) == 1 and run.part.task is None

    def after_epoch(self, attempt: Attempt, run: TrialTraining) -> Callable[[int, float], None]:
        """Return the callback that reports epochs to the study and stops the trial if it is pruned.

        Before that it keeps the best so far, of the trial and of the search.
        """

        def report(epoch: int, score: float) -> None:
            self._keep_best(attempt, run)
            step = len(self._ladder) + epoch + 1
            compared = self._reports(run) and attempt.report(score, step) and not self._is_first_look(attempt)
            if compared and attempt.trial.should_prune():
                raise optuna.TrialPruned(f"pruned after epoch {epoch + 1} with {self._settings.quality} {score:.4f}")
            if epoch + 1 < run.epochs:
                self._stop_after(f"epoch {epoch + 1} of {run.epochs}")

        return report

    def _is_first_look(self, attempt: Attempt) -> bool:
        """Return whether a trial is the defaults of a model among several, which no pruner ends in its first time.

        Models learn at different paces: what one is worth is not known from how it compares after an epoch.
        """
        if not self._settings.models or not is_defaults(attempt.trial):
            return False
        timeout = self._settings.timeout
        return timeout is None or time.perf_counter() - attempt.started < FIRST_LOOK * timeout

    def _stop_after(self, what: str) -> None:
        """End a trial if the time for trials is up."""
        if self._budget is not None and self._budget.trials_over():
            raise _TimeUpError(f"the time was up after {what}")

    def _stop_within(self, run: TrialTraining) -> None:
        """End a training within an epoch if the command's time is up."""
        deadline = self._budget.deadline if self._budget is not None else None
        if deadline is not None and monotonic() > deadline:
            raise _TimeUpError(f"the time was up within epoch {len(run.history) + 1} of {run.epochs}")

    def _resume(self, attempt: Attempt, run: TrialTraining) -> None:
        """Report the epochs that a trial takes over from a lost one, so that pruning sees them."""
        attempt.trial.set_user_attr(EPOCHS_BEFORE, sum(one.epochs_before for one in attempt.runs))
        self._keep_best(attempt, run, resumed=True)
        if self._reports(run):
            for epoch, score in run.scores.items():
                attempt.report(score, len(self._ladder) + epoch)

    def _keep_best(self, attempt: Attempt, run: TrialTraining, resumed: bool = False) -> None:
        attempt.note_kept_epochs()
        if (resumed or run.improved) and attempt.note_best():
            self._best.settle(attempt.trial.study)

    def report_seeds(self, attempt: Attempt) -> None:
        """Report every seed's value of a trial whose seeds were trained together."""
        if self._settings.trial_seeds > 1 and len(self._settings.objectives) == 1:
            for index, values in enumerate(values_by_seed(attempt.runs)):
                attempt.report(values[0], index)

    def _after_seed(self, attempt: Attempt, index: int) -> None:
        if len(self._settings.objectives) > 1:
            return
        attempt.report(values_by_seed(attempt.runs)[index][0], index)
        if index + 1 < self._settings.trial_seeds and attempt.trial.should_prune():
            attempt.forget_best()  # a mean over fewer seeds than those of the others
            raise optuna.TrialPruned(f"pruned after {index + 1} of {self._settings.trial_seeds} seeds")


class Attempt:
    """A trial under way in this process.

    Args:
        trial: the trial.

    Attributes:
        runs: its trainings as far as they have begun.
        folder: where their checkpoints go; None to keep none.
        outcome: its outcome, as far as it is known.
        started: `time.perf_counter()` of its beginning.
        seconds: its share of the time, where other trials were trained at the same time.
        fused: number of trainings that ran together with it, if any.
    """

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.runs: list[TrialTraining] = []
        self.outcome = Outcome(TrialState.FAIL)
        self.folder: TrialFolder | None = None
        self.tracked: TrackedRun | None = None
        self.started = time.perf_counter()
        self.seconds: float | None = None
        self.fused: int | None = None
        self.closed = False
        self._kept_epochs = 0
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
        values = values_by_seed(self.runs)
        self.outcome.values = [sum(by_seed) / len(values) for by_seed in zip(*values, strict=True)]
        self.outcome.state = TrialState.COMPLETE

    def note_best(self) -> bool:
        """Note the values of its validated epochs with the trial: training it to its end can only improve its best.

        Returns:
            Whether there are any.
        """
        values = []
        with suppress(InputError):  # an objective without a value
            values = values_by_seed(self.runs)
        if values:
            self.outcome.values_so_far = [sum(by_seed) / len(values) for by_seed in zip(*values, strict=True)]
            self.trial.set_user_attr(SO_FAR, self.outcome.values_so_far)
        return bool(values)

    def forget_best(self) -> None:
        """Take back what `note_best` noted."""
        self.outcome.values_so_far = None
        self.trial.set_user_attr(SO_FAR, None)

    def note_kept_epochs(self) -> None:
        """Note with the trial how many of its epochs would not be lost with this process."""
        kept = sum(run.kept_epochs for run in self.runs)
        if kept > self._kept_epochs:
            self._kept_epochs = kept
            self.trial.set_user_attr(KEPT_EPOCHS, kept)

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
        seconds += sum(run.seconds_before for run in runs)
        outcome.attributes = {"seconds": round(seconds, 3), "threads": torch.get_num_threads()}
        if outcome.values_so_far is not None and outcome.state == TrialState.FAIL and not outcome.cut_off:
            outcome.attributes[SO_FAR] = None  # it fails again: it cannot be the best
        if self.fused is not None:
            outcome.attributes["fused"] = self.fused
        if runs:
            outcome.attributes |= merged_attributes(runs)
            outcome.attributes["epochs"] = sum(len(run.history) for run in runs)
            ends = [run.best_at for run in runs if run.best_at is not None]
            if ends:
                outcome.attributes["best_at"] = max(ends)
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
