"""Several trials of one worker at once: those that differ in little share the work of training.

Each comes to the numbers it comes to alone (`recbole_msr.training.fused.loop`), is reported epoch by epoch, pruned, and
told when it has ended, whatever becomes of the others.
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
from recbole_msr.tuning.objective import Attempt, Objective, Outcome, StudyData
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.space.space import Space

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Open:
    """A trial under way with others.

    Attributes:
        attempt: the trial.
        members: its trainings.
        left: how many of them have not ended.
        begun: seconds until its models were there.
    """

    attempt: Attempt
    members: list[Member] = field(default_factory=list)
    left: int = 0
    begun: float = 0.0


class FusedTrials:
    """Runs trials of one process, as many at once as `SearchSettings.fused` says.

    Args:
        objective: runs one alone.
        settings, space, data: of the search.
        wanted: how many trials there are to be in all, if that is known.
    """

    def __init__(
        self, objective: Objective, settings: SearchSettings, space: Space, data: StudyData, wanted: int | None = None
    ) -> None:
        self._objective, self._settings, self._data, self._wanted = objective, settings, data, wanted
        self._light = all(_is_light(parameter.key) for parameter in space.parameters)
        self._no_room: list[_Open] = []  # what ran out of memory among others: trained alone after them
        self._told_wrong: BaseException | None = None  # what came of telling that a trial has ended

    def __call__(self, first: Trial, more: Callable[[], Trial | None], tell: Callable[[Trial, Outcome], None]) -> None:
        """Run a trial to its end, and others with it where that is worth it. Only what ends the search is raised.

        Args:
            first: the trial.
            more: gives another one, or None.
            tell: called with every trial and its outcome, as soon as it has ended.
        """
        opened: list[_Open] = []
        try:
            self._run(first, more, tell, opened)
        except BaseException:
            for one in opened:
                if not one.attempt.closed:
                    one.attempt.outcome.reason = one.attempt.outcome.reason or "interrupted"
                    one.attempt.close()
            raise

    def _run(
        self,
        first: Trial,
        more: Callable[[], Trial | None],
        tell: Callable[[Trial, Outcome], None],
        opened: list[_Open],
    ) -> None:
        trial: Trial | None = first
        alone: Trial | None = None
        limit, begun = 1, 0
        self._no_room.clear()
        while trial is not None:
            one = _Open(Attempt(trial))
            opened.append(one)
            with one.attempt.judged():
                try:
                    self._objective.begin(one.attempt)
                    if begun == 0:
                        limit = self.limit(one.attempt)
                    if limit > 1:
                        self._make_members(one, tell)
                except Exception as error:
                    if not (begun or one.members) or not is_out_of_memory(error):
                        raise
                    self._put_off(one, error)
                    limit = 0
            if one.attempt.outcome.reason is not None:  # its settings are impossible, say
                self._close(one, tell)
            elif limit == 1:
                self._alone(one, tell)
            begun += 1
            trial = more() if self._settings.trial_seeds == 1 and begun < limit else None
            if trial is not None and _is_retry(trial):
                alone, trial = trial, None
        members = [member for one in opened if not one.attempt.closed for member in one.members]
        if members:
            self._train(members, opened)
            members.clear()  # they hold the models
        for one in self._no_room:
            self._again(one, tell)
        if alone is not None:
            self._run(alone, _no_more, tell, opened)

    def limit(self, attempt: Attempt) -> int:
        """How many trainings there are to be at once, given a trial that has begun."""
        settings, run = self._settings, attempt.runs[0]
        if settings.fused == "off" or _is_retry(attempt.trial) or not_fusable_reason(run.config) is not None:
            return 1
        if settings.trial_seeds > 1 and settings.pruner["name"] != "none":
            return 1  # whether a next seed is trained depends on the last one's value
        most = settings.fused if isinstance(settings.fused, int) else self._worthwhile(run.model, run.config)
        return 1 if most < settings.trial_seeds else most

    def _worthwhile(self, model: nn.Module, config: Any) -> int:
        """How many trainings of such a model are quicker together, as far as can be foreseen."""
        settings = self._settings
        several_seeds = settings.trial_seeds > 1
        if not several_seeds:
            if self._wanted is None or settings.epochs is not None or settings.timeout is not None:
                return 1  # when the budget is spent, one trial may be half done, and not a group of them
            if not self._light:
                return 1
        most = fused_group_size(model, config)
        if not several_seeds:
            assert self._wanted is not None
            share = self._wanted // settings.workers  # no worker is to stand idle
            if settings.sampler["name"] != "grid":
                share = min(share, self._wanted // 4)  # a sampler learns from trials that have ended
            most = min(most, max(1, share))
        return most

    def _make_members(self, one: _Open, tell: Callable[[Trial, Outcome], None]) -> None:
        attempt, objective = one.attempt, self._objective
        for index in range(self._settings.trial_seeds):
            if index:
                objective.begin_seed(attempt, index)
            run = attempt.runs[-1]
            report = objective.after_epoch(attempt, run.epochs)
            member = run.member(partial(self._after_epoch, one, index, report), partial(self._ended, one, tell))
            run.first_batch(attempt.started)
            one.members.append(member)
        one.left = len(one.members)
        one.begun = time.perf_counter() - attempt.started

    def _after_epoch(
        self, one: _Open, index: int, report: Callable[[int, float], None], epoch: int, score: float
    ) -> None:
        if len(one.members) == 1:  # the epochs of several seeds come one after the other, at the end
            one.attempt.epoch_logger(index).send(one.members[index].epochs)
        report(epoch, score)

    def _train(self, members: list[Member], opened: list[_Open]) -> None:
        for one in opened:
            one.attempt.fused = len(members)
        try:
            train_members(members, self._data.train, self._data.valid)
        except Exception as error:
            if error is self._told_wrong or ends_search(error):
                raise
            left = [one for one in opened if not one.attempt.closed and one not in self._no_room]
            logger.warning("%d trials cannot be trained together, now one by one: %s", len(left), reason_of(error))
            for one in left:
                self._put_off(one, error)

    def _ended(self, one: _Open, tell: Callable[[Trial, Outcome], None]) -> None:
        one.left -= 1
        if one.left:
            return
        for member in one.members:
            if member.error is not None and is_out_of_memory(member.error) and (one.attempt.fused or 0) > 1:
                logger.warning("trial %d ran out of memory among others, later alone", one.attempt.trial.number)
                self._put_off(one, member.error)
                return
        try:
            self._judge(one, tell)
        except BaseException as error:
            self._told_wrong = error
            raise

    def _judge(self, one: _Open, tell: Callable[[Trial, Outcome], None]) -> None:
        attempt = one.attempt
        with attempt.judged():
            for index, member in enumerate(one.members):
                attempt.epoch_logger(index).send(member.epochs)
            for member in one.members:
                if member.error is not None:
                    raise member.error
            for run in attempt.runs:
                run.check_validated()
            self._objective.report_seeds(attempt)
            attempt.complete()
        attempt.seconds = one.begun + sum(member.seconds for member in one.members)
        one.members.clear()
        self._close(one, tell)

    def _put_off(self, one: _Open, error: Exception) -> None:
        """Keep a trial for when those under way have ended, and let go of what it holds."""
        traceback.clear_frames(error.__traceback__)  # they hold batches and layers' outputs
        one.members.clear()
        one.attempt.runs.clear()
        self._no_room.append(one)

    def _alone(self, one: _Open, tell: Callable[[Trial, Outcome], None]) -> None:
        with one.attempt.judged():
            self._objective.train(one.attempt)
        self._close(one, tell)

    def _again(self, one: _Open, tell: Callable[[Trial, Outcome], None]) -> None:
        """Train a trial alone that could not be trained with the others."""
        attempt = one.attempt
        attempt.fused, attempt.started = None, time.perf_counter()
        with attempt.judged():
            self._objective.begin_seed(attempt, 0)
            self._objective.train(attempt)
        self._close(one, tell)

    @staticmethod
    def _close(one: _Open, tell: Callable[[Trial, Outcome], None]) -> None:
        one.attempt.close()
        tell(one.attempt.trial, one.attempt.outcome)


def _is_retry(trial: Trial) -> bool:
    """Whether it is tried again since a worker was lost with it. It may have been too much for the memory."""
    return "retry_of" in trial.user_attrs


def _no_more() -> None:
    """No trial."""


def _is_light(key: str) -> bool:
    """Whether trials that differ in this key have models of one architecture."""
    return key in ("learning_rate", "weight_decay", "seed") or "dropout" in key
