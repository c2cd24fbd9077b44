"""The trials of a study, handed out one by one; those of dead workers are tried again.

Optuna keeps the trials. What is added here holds for any storage and any number of processes:

- `--trials` counts trials that ended, over all workers and restarts, and trials under way; a worker that finds all of
  them taken waits until they have ended, in case one of them is lost.
- A worker holds a lock on a file of its own while it lives. The kernel releases it when the process ends, however it
  ended, so a trial under way whose worker's lock is free belongs to a dead worker. Workers that do not share the folder
  (other machines) also show that they live by a beat, a user attribute of their trial that changes.
- A trial of a dead worker fails with the reason, does not count, and is tried again with the same parameters.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, Trial, TrialState

from recbole_msr.errors import InputError
from recbole_msr.tuning.objective import Outcome
from recbole_msr.tuning.samplers import GridOnce
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.study import counted_trials, counts, epochs_of, quiet, storage_errors

logger = logging.getLogger(__name__)

BEAT_SECONDS = 20.0
"""How often a worker shows that it lives."""
SILENT_SECONDS = 120.0
"""A worker of another folder that has not shown it for so long is taken for dead."""
_WAIT_SECONDS = 0.5
_LOST, _SURPLUS = "lost", "surplus"
_KILLED = "its worker was killed"
Together = Callable[[Trial, Callable[[], Trial | None], Callable[[Trial, Outcome], None]], None]
"""Runs a trial and, if it wants, others that the second argument hands out (None: there are no more now); calls the
third with each of them and its outcome."""


class Trials:
    """Hands out the trials of a study to one worker.

    Args:
        study: the study.
        settings: the search.
        wanted: how many trials there are to be, at most (`--trials`, or the points of a grid); None for no limit.
        deadline: `time.monotonic()` after which no trial begins; None for none.
    """

    def __init__(
        self, study: optuna.Study, settings: SearchSettings, wanted: int | None, deadline: float | None = None
    ) -> None:
        self._study, self._settings, self._wanted, self._deadline = study, settings, wanted, deadline
        self._folder = settings.folder / "workers"
        self._folder.mkdir(parents=True, exist_ok=True)
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._alive = FileLock(self._folder / f"{self.worker}.lock")
        self._together = FileLock(self._folder / "together.lock")
        self._seen: dict[int, tuple[Any, float]] = {}

    def __enter__(self) -> Trials:
        self._alive.acquire()
        return self

    def __exit__(self, *_: Any) -> None:
        self._alive.release()
        Path(self._alive.lock_file).unlink(missing_ok=True)

    def run(
        self,
        objective: Callable[[Trial], Outcome],
        after: Callable[[FrozenTrial], Any] | None = None,
        stop: Callable[[], bool] = lambda: False,
        together: Together | None = None,
    ) -> None:
        """Run trials until the budget is spent.

        Args:
            objective: runs one.
            after: called with every trial that has ended.
            stop: asked after every trial whether to end.
            together: runs one or more, in place of `objective`.

        Raises:
            InputError: too many trials failed in a row, or the storage is gone.
        """
        with quiet(), storage_errors(self._settings):
            while not stop() and (trial := self._next()) is not None:
                self._run(trial, together or _one_by_one(objective), after, stop)
                self.check_failures()

    def _run(
        self, first: Trial, objective: Together, after: Callable[[FrozenTrial], Any] | None, stop: Callable[[], bool]
    ) -> None:
        beats: dict[int, _Beat] = {}
        trials: dict[int, Trial] = {}

        def take(trial: Trial | None) -> Trial | None:
            if trial is not None:
                trials[trial.number], beats[trial.number] = trial, _Beat(trial)
                beats[trial.number].start()
            return trial

        def tell(trial: Trial, outcome: Outcome) -> None:
            beats.pop(trial.number).end()
            self._tell(trial, outcome)
            del trials[trial.number]
            if after is not None:
                after(self._frozen(trial))

        take(first)
        try:
            objective(first, lambda: None if stop() else take(self._next(waits=False)), tell)
        except BaseException as error:
            reason = "interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"
            for trial in trials.values():
                with contextlib.suppress(Exception):  # the storage may be what failed; then the next reaper does it
                    self._lose(self._frozen(trial), f"its worker ended: {reason}", trial)
            raise
        finally:
            for beat in beats.values():
                beat.end()

    def _tell(self, trial: Trial, outcome: Outcome) -> None:
        try:
            for key, value in outcome.attributes.items():
                trial.set_user_attr(key, value)
            if outcome.cut_off:
                self._lose(self._frozen(trial), outcome.reason or "", trial)
            else:
                self._study.tell(trial, outcome.values, outcome.state)
        except optuna.exceptions.UpdateFinishedTrialError:
            # The machine slept, say, and the others took this worker for dead.
            logger.warning("trial %d has been given to another worker meanwhile", trial.number)

    def _next(self, waits: bool = True) -> Trial | None:
        """The next trial; None when the budget is spent. Waits while all that are left are under way."""
        while True:
            with self._together:
                self.reap()
                ended, running = self._count()
                if self._spent(ended):
                    return None
                if self._wanted is None or ended + running < self._wanted:
                    trial = self._study.ask()
                    trial.set_user_attr("worker", self.worker)
                    if not self._surplus(trial):
                        return trial
                    continue
            if not waits:
                return None
            time.sleep(_WAIT_SECONDS)

    def _spent(self, ended: int) -> bool:
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return True
        if self._settings.epochs is not None and epochs_of(self._study) >= self._settings.epochs:
            return True
        return self._wanted is not None and ended >= self._wanted

    def _surplus(self, trial: Trial) -> bool:
        """Whether another machine has taken this trial, or the last one, at the same moment; this one is given up."""
        all_trials = self._study.get_trials(deepcopy=False)
        before = [one for one in all_trials if one.number < trial.number]
        own = all_trials[trial.number].user_attrs
        same = any(
            one.user_attrs.get("replaces") == own.get("replaces") and one.user_attrs.get("first") == own.get("first")
            for one in before
            if "replaces" in own or "first" in own
        )
        late = self._wanted is not None and sum(map(counts, before)) >= self._wanted
        if not (same or late):
            return False
        trial.set_user_attr("reason", "one too many: another worker has taken it at the same moment")
        trial.set_user_attr("uncounted", _SURPLUS)
        self._study.tell(trial, state=TrialState.FAIL)
        return True

    def _count(self) -> tuple[int, int]:
        """Trials that have ended, and trials under way."""
        states = [trial.state for trial in self._study.get_trials(deepcopy=False) if counts(trial)]
        return sum(state.is_finished() for state in states), states.count(TrialState.RUNNING)

    def reap(self) -> None:
        """Fail the trials of dead workers, and have every trial that was lost tried again.

        Done in two steps, each of which can be repeated: whoever is killed between them, nothing is lost.
        """
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._dead(trial):
                self._lose(trial, _KILLED)
        trials = self._study.get_trials(deepcopy=False)
        replaced = {trial.user_attrs.get("replaces") for trial in trials}
        for trial in trials:
            lost = trial.state == TrialState.FAIL and trial.user_attrs.get("uncounted") == _LOST
            if lost and trial.number not in replaced:
                self._replace(trial, trials)

    def _dead(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get("worker")
        if worker == self.worker:
            return False
        if worker is not None and (self._folder / f"{worker}.lock").exists():
            try:
                with FileLock(self._folder / f"{worker}.lock", timeout=0):
                    pass
            except Timeout:
                return False
            (self._folder / f"{worker}.lock").unlink(missing_ok=True)
            return True
        if self._settings.storage is None:  # all workers are of this folder, and make their trials under its lock
            return True
        sign = (worker, trial.user_attrs.get("beat"), len(trial.intermediate_values))
        before, since = self._seen.get(trial.number, (None, 0.0))
        if sign != before:
            self._seen[trial.number] = (sign, time.monotonic())
            return False
        return time.monotonic() - since > SILENT_SECONDS

    def _lose(self, trial: FrozenTrial, reason: str, own: Trial | None = None) -> None:
        """Fail a trial that nobody trains any more; `reap` has it tried again."""
        storage: Any = self._study._storage  # a trial of another process has no public face to write to
        try:
            storage.set_trial_user_attr(trial._trial_id, "reason", reason)
            storage.set_trial_user_attr(trial._trial_id, "uncounted", _LOST)
            self._study.tell(own if own is not None else trial.number, state=TrialState.FAIL)
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError):
            return  # somebody else was faster; ValueError is Optuna's word for the same
        logger.warning("trial %d: %s; it is tried again", trial.number, reason)

    def _replace(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> None:
        """Enqueue the parameters of a lost trial, unless its worker was killed again and again."""
        params = self._params(trial)
        if not params:
            return  # it had not begun: the next one takes its place
        first = int(trial.user_attrs.get("retry_of", trial.number))
        killed = sum(
            one.user_attrs.get("retry_of", one.number) == first and one.user_attrs.get("reason") == _KILLED
            for one in trials
        )
        if killed > self._settings.retries:
            self._study.add_trial(_given_up(trial, first, killed))
            return
        attributes: dict[str, Any] = {"origin": f"retry of {first}", "retry_of": first, "replaces": trial.number}
        if trial.user_attrs.get("first"):
            attributes |= {"first": True, "origin": trial.user_attrs["origin"]}
        self._study.enqueue_trial(params, user_attrs=attributes)

    def _params(self, trial: FrozenTrial) -> dict[str, Any]:
        """What it was to be tried with, as far as that was known; a point of a grid is known from the start."""
        point = trial.system_attrs.get("grid_id")
        if point is not None and isinstance(self._study.sampler, GridOnce):
            return self._study.sampler.point(int(point))
        return {**(trial.system_attrs.get("fixed_params") or {}), **trial.params}

    def check_failures(self) -> None:
        """Stop the search where trial after trial fails.

        Raises:
            InputError: it names the last reason.
        """
        ended = counted_trials(self._study)
        ended.sort(key=lambda one: one.datetime_complete or datetime.max)
        last = ended[-self._settings.max_failures :]
        if len(last) == self._settings.max_failures and all(one.state == TrialState.FAIL for one in last):
            reason = last[-1].user_attrs.get("reason", "no reason is known")
            raise InputError(f"the last {len(last)} trials failed, so the search stops; the last one: {reason}")

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[trial.number]


class _Beat:
    """Shows, while a trial runs, that its worker lives."""

    def __init__(self, trial: Trial) -> None:
        self._trial, self._end = trial, threading.Event()
        self._thread = threading.Thread(target=self._go, daemon=True)

    def _go(self) -> None:
        beat = 0
        while not self._end.wait(BEAT_SECONDS):
            beat += 1
            try:
                self._trial.set_user_attr("beat", beat)
            except Exception as error:  # the trial itself will say so where it matters
                logger.debug("no beat: %s", error)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._end.set()
        self._thread.join()


def _one_by_one(objective: Callable[[Trial], Outcome]) -> Together:
    return lambda trial, _, tell: tell(trial, objective(trial))


def _given_up(trial: FrozenTrial, first: int, killed: int) -> FrozenTrial:
    """The trial once more, as one that failed and counts."""
    attributes = {
        key: value for key, value in trial.user_attrs.items() if key not in ("uncounted", "worker", "beat", "replaces")
    }
    return optuna.trial.create_trial(
        state=TrialState.FAIL,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={**attributes, "reason": f"{_KILLED} {killed} times", "retry_of": first, "replaces": trial.number},
    )
