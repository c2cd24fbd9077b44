"""The time of a search's command: what its trials may take, and what is kept for confirmation, test and page.

`--timeout` is the whole command's. What a training with a fresh seed costs is known from the trials: a trial's own
seconds on all rows, with its validations. From that the reserve follows, and at the end the plan of what still fits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from recbole_msr.tuning.final_folders import fresh_seeds, is_over
from recbole_msr.tuning.model_choice import model_of
from recbole_msr.tuning.outcome import beside_trials, contenders
from recbole_msr.tuning.settings import SearchSettings

MOST_RESERVED = 0.35
"""Share of the timeout that is kept for what follows the trials, at most."""
FIRST_RESERVED = 0.05
"""The share that is kept while no trial has ended, of which the costs would follow."""
PAGE_SECONDS = 6.0
"""For tables, summary and page; of a short timeout, at most `FIRST_RESERVED`."""
ENSEMBLE_SHARE = 0.05
"""The share that is kept for choosing and testing an ensemble, where there is to be one."""
_MARGIN = 1.15
"""A fresh seed may stop some epochs later than the trial did."""
_UNFINISHED = 1.5
"""The same for a trial that was cut off or pruned: how long it takes to its end is not known."""
_TEST_SHARE = 0.1
"""Seconds of a test, as a share of those of the training."""
_START_SECONDS = 1.0
"""To read the prepared data and build the model."""
_PROCESS_SECONDS = 7.0
"""To start worker processes, which import all first."""
_STOP_SECONDS = 2.0
"""Until worker processes have ended after their trials."""
_LOOK_SECONDS = 1.0
"""Between two looks at the study's trials."""


class Budget:
    """The time of one command.

    Args:
        settings: the search.
        study: its study.
        deadline: `time.monotonic()` at which the command shall be over; None for no deadline.
        clock: returns the time; by default `time.monotonic`.
    """

    def __init__(
        self,
        settings: SearchSettings,
        study: optuna.Study,
        deadline: float | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._settings, self._study, self._deadline = settings, study, deadline
        self._clock = clock if clock is not None else lambda: time.monotonic()
        self._reserve, self._looked = 0.0, -math.inf
        self._total = settings.timeout
        if self._total is None and deadline is not None:
            self._total = max(0.0, deadline - self._clock())

    @property
    def deadline(self) -> float | None:
        """Return the time at which the command shall be over."""
        return self._deadline

    def trials_over(self) -> bool:
        """Return whether no trial may begin any more, and those under way are to stop after their epoch."""
        return self.trials_left() <= 0

    def trials_left(self) -> float:
        """Return the seconds that are left for trials; infinity without a deadline."""
        if self._deadline is None:
            return math.inf
        now = self._clock()
        if now < self._deadline and now - self._looked >= _LOOK_SECONDS:
            self._reserve, self._looked = self.reserve(), now
        return self._deadline - self._reserve - now

    def trials_done(self) -> float:
        """Return which share of the time for trials is over, from 0 to 1; 0 without a deadline."""
        if self._deadline is None or not self._total:
            return 0.0
        left = self.trials_left()
        whole = self._total - self._reserve
        return min(max(1.0 - left / whole, 0.0), 1.0) if whole > 0 else 1.0

    def reserve(self) -> float:
        """Estimate the seconds that confirmation, test and page will take, at most `MOST_RESERVED` of the timeout."""
        if self._total is None:
            return 0.0
        more = self.ensemble_seconds
        if not self._settings.final_seeds:
            return self.page_seconds + more
        found = contenders(self._study, self._settings)
        if not found:
            return FIRST_RESERVED * self._total + more
        beside = beside_trials(self._study, self._settings, found[0])
        whole = Plan(len(found), self._settings.final_seeds, bool(beside))
        needed = self.seconds(whole, found, beside) + self.page_seconds + more + self._stopping_seconds()
        return min(MOST_RESERVED * self._total, needed)

    def _stopping_seconds(self) -> float:
        """Estimate how long trials under way take to stop after their epoch: as long as their models' longest one.

        Without this time the plan for which the rest was kept would never fit into what is left then.
        """
        trials = self._study.get_trials(deepcopy=False)
        running = {self._model(trial) for trial in trials if trial.state == TrialState.RUNNING}
        if not running:
            return 0.0
        ended = [trial for trial in trials if trial.state.is_finished() and self._model(trial) in running]
        rows = [row for trial in ended for row in trial.user_attrs.get("history") or ()]
        return _STOP_SECONDS + max((float(row.get("seconds") or 0.0) for row in rows), default=0.0)

    def _model(self, trial: FrozenTrial) -> str:
        return model_of(trial) or self._settings.model

    @property
    def ensemble_seconds(self) -> float:
        """Return the seconds that are kept for choosing and testing an ensemble."""
        return 0.0 if self._total is None or not self._settings.ensemble else ENSEMBLE_SHARE * self._total

    @property
    def page_seconds(self) -> float:
        """Return the seconds that are kept for tables, summary and page."""
        return 0.0 if self._total is None else min(PAGE_SECONDS, FIRST_RESERVED * self._total)

    def left(self) -> float:
        """Return the seconds until only the page's are left; infinity without a deadline."""
        return math.inf if self._deadline is None else self._deadline - self.page_seconds - self._clock()

    def over(self) -> bool:
        """Return whether trainings of the confirmation and the test are to stop after their epoch."""
        return self.left() <= 0

    def seconds(self, plan: Plan, candidates: Sequence[FrozenTrial], beside: Sequence[FrozenTrial]) -> float:
        """Estimate the seconds of a plan with as many workers as the search has.

        Args:
            plan: the plan.
            candidates: the best trials, the best first.
            beside: the trials that are tested beside the winner.
        """
        seeds = fresh_seeds(self._settings)[: plan.seeds]
        chosen = candidates[: plan.candidates]
        first = [self.run_seconds(trial, seed, False) for trial in chosen for seed in seeds] if len(chosen) > 1 else []
        numbers = {trial.number for trial in chosen}
        others = [trial for trial in beside if trial.number not in numbers] if plan.beside else []
        second = [self.run_seconds(trial, seed, True) for trial in others for seed in seeds]
        if len(chosen) == 1:
            second += [self.run_seconds(chosen[0], seed, True) for seed in seeds]
        else:  # one of them is the winner, and others may be tested beside it
            tested = 1 + sum(trial.number in numbers for trial in beside)
            slowest = max((_training_seconds(self._settings, trial) for trial in chosen), default=0.0)
            second += [_START_SECONDS + _TEST_SHARE * slowest] * (min(tested, len(chosen)) * len(seeds))
        return self._span(first) + self._span(second)

    def _span(self, runs: Sequence[float]) -> float:
        """Return the seconds of runs that the workers share."""
        process = _PROCESS_SECONDS if self._settings.workers > 1 and any(runs) else 0.0
        return process + makespan(runs, self._settings.workers)

    def run_seconds(self, trial: FrozenTrial, seed: int, test: bool) -> float:
        """Estimate the seconds of a trial's training with a fresh seed, as far as it is not done yet.

        Args:
            trial: the trial.
            seed: the seed.
            test: whether the test belongs to it.
        """
        if is_over(self._settings, trial, seed, test):
            return 0.0
        training = _training_seconds(self._settings, trial)
        tested = _TEST_SHARE * training if test else 0.0
        if is_over(self._settings, trial, seed, False):
            return _START_SECONDS + tested
        return _START_SECONDS + training + tested

    def plan(self, candidates: Sequence[FrozenTrial], beside: Callable[[FrozenTrial], Sequence[FrozenTrial]]) -> Plan:
        """Choose what is trained again and tested in the time that is left.

        Where not all fits, there are fewer candidates, then fewer seeds; then the best trial is tested alone, and at
        last nothing is.

        Args:
            candidates: the best trials, the best first.
            beside: returns the trials that are tested beside a winner.
        """
        most, left = min(self._settings.confirm, len(candidates)), self.left() - self.ensemble_seconds
        others = list(beside(candidates[0]))
        wishes = [Plan(count, self._settings.final_seeds, True) for count in range(most, 0, -1)]
        wishes += [Plan(1, seeds, True) for seeds in range(self._settings.final_seeds - 1, 0, -1)]
        wishes.append(Plan(1, 1, False))
        return next((wish for wish in wishes if self.seconds(wish, candidates, others) <= left), Plan(0, 0, False))


@dataclass(frozen=True, order=True)
class Plan:
    """What is trained again with fresh seeds, and tested; a larger one has more candidates, then seeds, then tests.

    Attributes:
        candidates: number of best trials that are confirmed; 1 is tested without a choice, 0 means no test at all.
        seeds: fresh seeds of each.
        beside: whether the defaults and the reference are tested beside the winner.
    """

    candidates: int
    seeds: int
    beside: bool


def makespan(seconds: Iterable[float], workers: int) -> float:
    """Return the seconds until jobs have all ended, of which each worker takes the longest that is left.

    >>> makespan([3, 3, 2, 2, 2], 2)
    7.0
    """
    ends = [0.0] * workers
    for job in sorted(seconds, reverse=True):
        ends[ends.index(min(ends))] += job
    return max(ends)


def _training_seconds(settings: SearchSettings, trial: FrozenTrial) -> float:
    """Estimate the seconds of one training of a trial's configuration on all rows, with its validations."""
    known = trial.user_attrs
    low = sum(float(rung.get("seconds", 0.0)) for rung in known.get("rungs") or ())
    epochs = sum(float(row.get("seconds") or 0.0) for row in known.get("history") or ())
    whole = max((float(known.get("seconds") or 0.0) - low) / settings.trial_seeds, epochs)
    return whole * (_MARGIN if trial.state == TrialState.COMPLETE else _UNFINISHED)
