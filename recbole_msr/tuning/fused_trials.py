"""Train several trials of a worker at once: trials that differ in few settings share the work of training.

Each trial gets the numbers it gets alone (`recbole_msr.training.fused.loop`), and is reported epoch by epoch, pruned,
and told to the study when it finishes, independently of the others.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from optuna.trial import Trial
from torch import nn

from recbole_msr.jobs.failure import ends_search, reason_of
from recbole_msr.memory import is_out_of_memory
from recbole_msr.training.fused.loop import fused_group_size, not_fusable_reason, train_members
from recbole_msr.training.fused.member import Member
from recbole_msr.tuning.objective import Attempt, Objective, Outcome
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.space.space import Space
from recbole_msr.tuning.study_data import StudyData
from recbole_msr.tuning.trial_parts import parts_of

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _OpenTrial:
    """A running trial.

    Attributes:
        attempt: the trial.
        members: its trainings.
        left: number of trainings that have not ended.
        begun: seconds until its models were built.
    """

    attempt: Attempt
    members: list[Member] = field(default_factory=list)
    left: int = 0
    begun: float = 0.0


class FusedTrials:
    """A runner of trials in this process, as many at once as `SearchSettings.fused` says.

    Args:
        objective: runs a single trial.
        settings, space, data: of the search.
        wanted: total number of trials; None if there is no limit.
    """

    def __init__(
        self, objective: Objective, settings: SearchSettings, space: Space, data: StudyData, wanted: int | None = None
    ) -> None:
        self._objective, self._settings, self._data, self._wanted = objective, settings, data, wanted
        self._light = all(_is_light(parameter.key) for parameter in space.parameters)
        self._out_of_memory: list[_OpenTrial] = []  # ran out of memory among others: trained alone after them
        self._tell_error: BaseException | None = None  # raised while a finished trial was told to the study

    def __call__(self, first: Trial, more: Callable[[], Trial | None], tell: Callable[[Trial, Outcome], None]) -> None:
        """Run a trial, and others with it where that is faster.

        Args:
            first: the trial.
            more: returns a further trial, or None.
            tell: called with every trial and its outcome, as soon as the trial has finished.

        Raises:
            Exception: only an error that ends the search; others are outcomes of their trials.
        """
        opened: list[_OpenTrial] = []
        try:
            self._run(first, more, tell, opened)
        except BaseException:
            for open_trial in opened:
                if not open_trial.attempt.closed:
                    open_trial.attempt.outcome.reason = open_trial.attempt.outcome.reason or "interrupted"
                    open_trial.attempt.close()
            raise

    def _run(
        self,
        first: Trial,
        more: Callable[[], Trial | None],
        tell: Callable[[Trial, Outcome], None],
        opened: list[_OpenTrial],
    ) -> None:
        trial: Trial | None = first
        alone: Trial | None = None
        limit, begun = 1, 0
        self._out_of_memory.clear()
        while trial is not None:
            open_trial = _OpenTrial(Attempt(trial))
            opened.append(open_trial)
            with open_trial.attempt.judged():
                try:
                    self._objective.begin(open_trial.attempt)
                    if begun == 0:
                        limit = self.limit(open_trial.attempt)
                    if limit > 1:
                        self._make_members(open_trial, tell)
                except Exception as error:
                    if not (begun or open_trial.members) or not is_out_of_memory(error):
                        raise
                    self._postpone(open_trial, error)
                    limit = 0
            if open_trial.attempt.outcome.reason is not None:  # for example, its settings are invalid
                self._close(open_trial, tell)
            elif limit == 1:
                self._alone(open_trial, tell)
            begun += 1
            trial = more() if self._settings.trial_seeds == 1 and begun < limit else None
            if trial is not None and _is_retry(trial):
                alone, trial = trial, None
        members = [member for open_trial in opened if not open_trial.attempt.closed for member in open_trial.members]
        if members:
            self._train(members, opened)
            members.clear()  # they hold the models
        for open_trial in self._out_of_memory:
            self._train_postponed(open_trial, tell)
        if alone is not None:
            self._run(alone, _no_more, tell, opened)

    def limit(self, attempt: Attempt) -> int:
        """Return the number of trainings to run at once, for a trial whose model has been built."""
        settings, run = self._settings, attempt.runs[0]
        if self._objective.has_low_rungs or settings.models:  # trials of several models are not trained together
            return 1
        if settings.fused == "off" or _is_retry(attempt.trial) or not_fusable_reason(run.config) is not None:
            return 1
        if settings.trial_seeds > 1 and settings.pruner["name"] != "none":
            return 1  # whether a next seed is trained depends on the last one's value
        most = settings.fused if isinstance(settings.fused, int) else self._worthwhile(run.model, run.config)
        return 1 if most < settings.trial_seeds else most

    def _worthwhile(self, model: nn.Module, config: Any) -> int:
        """Estimate how many trainings of such a model are fastest together."""
        settings = self._settings
        several_seeds = settings.trial_seeds > 1
        if not several_seeds:
            if self._wanted is None or settings.epochs is not None or settings.timeout is not None:
                return 1  # when the budget is spent, a single trial may be cut off, but not a whole group
            if not self._light:
                return 1
        most = fused_group_size(model, config)
        if not several_seeds:
            assert self._wanted is not None
            share = self._wanted // settings.workers  # no worker should be idle
            if settings.sampler["name"] != "grid":
                share = min(share, self._wanted // 4)  # a sampler learns from trials that have ended
            most = min(most, max(1, share))
        return most

    def _make_members(self, open_trial: _OpenTrial, tell: Callable[[Trial, Outcome], None]) -> None:
        attempt, objective = open_trial.attempt, self._objective
        for index, part in enumerate(parts_of(self._settings, attempt.outcome.settings)):
            if index:
                objective.begin_part(attempt, part)
            run = attempt.runs[-1]
            report = objective.after_epoch(attempt, run)
            member = run.member(
                partial(self._after_epoch, open_trial, index, report), partial(self._ended, open_trial, tell)
            )
            run.first_batch(attempt.started)
            open_trial.members.append(member)
        open_trial.left = len(open_trial.members)
        open_trial.begun = time.perf_counter() - attempt.started

    def _after_epoch(
        self, open_trial: _OpenTrial, index: int, report: Callable[[int, float], None], epoch: int, score: float
    ) -> None:
        if len(open_trial.members) == 1:  # the epochs of several seeds are logged one seed after the other, at the end
            open_trial.attempt.epoch_logger(index).send(open_trial.members[index].epochs)
        report(epoch, score)

    def _train(self, members: list[Member], opened: list[_OpenTrial]) -> None:
        for open_trial in opened:
            open_trial.attempt.fused = len(members)
        try:
            train_members(members, self._data.train, self._data.valid)
        except Exception as error:
            if error is self._tell_error or ends_search(error):
                raise
            left = [
                open_trial
                for open_trial in opened
                if not open_trial.attempt.closed and open_trial not in self._out_of_memory
            ]
            logger.warning("%d trials cannot be trained together, now one by one: %s", len(left), reason_of(error))
            for open_trial in left:
                self._postpone(open_trial, error)

    def _ended(self, open_trial: _OpenTrial, tell: Callable[[Trial, Outcome], None]) -> None:
        open_trial.left -= 1
        if open_trial.left:
            return
        for member in open_trial.members:
            if member.error is not None and is_out_of_memory(member.error) and (open_trial.attempt.fused or 0) > 1:
                logger.warning("trial %d ran out of memory among others, later alone", open_trial.attempt.trial.number)
                self._postpone(open_trial, member.error)
                return
        try:
            self._judge(open_trial, tell)
        except BaseException as error:
            self._tell_error = error
            raise

    def _judge(self, open_trial: _OpenTrial, tell: Callable[[Trial, Outcome], None]) -> None:
        attempt = open_trial.attempt
        with attempt.judged():
            for index, member in enumerate(open_trial.members):
                attempt.epoch_logger(index).send(member.epochs)
            for member in open_trial.members:
                if member.error is not None:
                    raise member.error
            for run in attempt.runs:
                run.check_validated()
            self._objective.report_seeds(attempt)
            attempt.complete()
        attempt.seconds = open_trial.begun + sum(member.seconds for member in open_trial.members)
        open_trial.members.clear()
        self._close(open_trial, tell)

    def _postpone(self, open_trial: _OpenTrial, error: Exception) -> None:
        """Postpone a trial until the running ones have finished, and free its memory."""
        traceback.clear_frames(error.__traceback__)  # frames hold batches and layers' outputs
        open_trial.members.clear()
        open_trial.attempt.runs.clear()
        self._out_of_memory.append(open_trial)

    def _alone(self, open_trial: _OpenTrial, tell: Callable[[Trial, Outcome], None]) -> None:
        with open_trial.attempt.judged():
            self._objective.train(open_trial.attempt)
        self._close(open_trial, tell)

    def _train_postponed(self, open_trial: _OpenTrial, tell: Callable[[Trial, Outcome], None]) -> None:
        """Train a trial alone that could not be trained with the others."""
        attempt = open_trial.attempt
        attempt.fused, attempt.started = None, time.perf_counter()
        with attempt.judged():
            self._objective.begin_part(attempt, parts_of(self._settings, attempt.outcome.settings)[0])
            self._objective.train(attempt)
        self._close(open_trial, tell)

    @staticmethod
    def _close(open_trial: _OpenTrial, tell: Callable[[Trial, Outcome], None]) -> None:
        open_trial.attempt.close()
        tell(open_trial.attempt.trial, open_trial.attempt.outcome)


def _is_retry(trial: Trial) -> bool:
    """Return whether the trial's worker was lost before: the trial may need too much memory."""
    return "retry_of" in trial.user_attrs


def _no_more() -> None:
    """Return no trial."""


_LIGHT = {
    *("learning_rate", "learning_rate_schedule", "schedule_epochs", "warmup_epochs", "embedding_learning_rate_factor"),
    *("weight_decay", "embedding_weight_decay", "clip_grad_norm", "scenario_balance", "learner", "seed"),
}
"""Keys of the training alone, beside dropouts."""


def _is_light(key: str) -> bool:
    """Return whether trials that differ in this key only have models of the same architecture."""
    return key in _LIGHT or "dropout" in key
