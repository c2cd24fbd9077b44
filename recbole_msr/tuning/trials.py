"""Hand out the trials of a study to workers, and retry the trials of dead workers.

Optuna keeps the trials. This module adds, for any storage and any number of processes:

- `--trials` counts finished and running trials over all workers and restarts. A worker that finds all of them taken
  waits until they have finished, in case one is lost.
- A worker holds a lock on its own file while it lives. The kernel releases it when the process ends, for whatever
  reason, so a running trial whose worker's lock is free belongs to a dead worker. Workers on other machines, which do
  not share the folder, also write a heartbeat, a user attribute of their trial that changes.
- A trial of a dead worker fails with the reason, does not count ("lost"), and is retried with the same parameters,
  before any other.
- A trial whose settings another one has, that ended or is under way, is not trained: it fails with the other's value as
  its reason, and does not count ("repeat"). Samplers draw such points only where no other is left, but first
  configurations may be equal. Where every point of a space has been tried, no trial is handed out any more.
- Workers of one folder take trials one after the other, under a lock. Two machines may take the same trial at the same
  moment: the one with the lower number is trained, the other fails untrained and does not count ("surplus").
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
from recbole_msr.tuning.budget import Budget
from recbole_msr.tuning.objective import Outcome
from recbole_msr.tuning.samplers import GridOnce
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.study import counted_trials, epochs_of, is_exhausted, quiet, storage_errors
from recbole_msr.tuning.trial_folder import KILLED, KILLED_WITH_COMMAND, fruitless_kills
from recbole_msr.tuning.trial_sampler import SeededByTrial
from recbole_msr.tuning.trial_state import counts, has_succeeded, values_of

logger = logging.getLogger(__name__)

COMMAND = "RECBOLE_MSR_SEARCH"
"""Environment variable of a search's processes: which command they belong to."""
BEAT_SECONDS = 20.0
"""Seconds between two heartbeats of a worker."""
SILENT_SECONDS = 120.0
"""Seconds without a heartbeat after which a worker of another folder is taken for dead."""
_WAIT_SECONDS = 0.5
_LOST, _SURPLUS, _REPEAT = "lost", "surplus", "repeat"
_MOST_REPEATS = 100
"""Number of trials in a row with known settings after which no other is asked for."""
_ONCE_WELL = 10
"""How many times `max_failures` failed trials in a row end a search in which a trial has succeeded."""
_ONE_TOO_MANY = "one too many: another worker has taken it at the same moment"
TrialRunner = Callable[[Trial, Callable[[], Trial | None], Callable[[Trial, Outcome], None]], None]
"""Runs a trial and, if it wants, further trials that the second argument hands out (None: no more for now); calls the
third with each trial and its outcome."""


class Trials:
    """The trials of a study as one worker takes them.

    Args:
        study: the study.
        settings: the search.
        wanted: maximum number of trials (`--trials`, or the points of a grid); None for no limit.
        budget: the command's time; None for no limit.
        prepare: called before a trial is asked for; it may enqueue one.
    """

    def __init__(
        self,
        study: optuna.Study,
        settings: SearchSettings,
        wanted: int | None,
        budget: Budget | None = None,
        prepare: Callable[[optuna.Study], None] = lambda _: None,
    ) -> None:
        self._prepare = prepare
        self._study, self._settings, self._wanted, self._budget = study, settings, wanted, budget
        self._folder = settings.folder / "workers"
        self._folder.mkdir(parents=True, exist_ok=True)
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._alive = FileLock(self._folder / f"{self.worker}.lock")
        self._taking = FileLock(self._folder / "together.lock")
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
        together: TrialRunner | None = None,
    ) -> None:
        """Run trials until the budget is spent.

        Args:
            objective: runs one trial.
            after: called with every finished trial.
            stop: asked after every trial whether to end.
            together: runs one or more trials at once, in place of `objective`.

        Raises:
            InputError: trial after trial failed, or the storage is gone.
        """
        with quiet(), storage_errors(self._settings):
            while not stop() and (trial := self._next()) is not None:
                self._run(trial, together or _one_by_one(objective), after, stop)
                self.check_failures()

    def _run(
        self, first: Trial, runner: TrialRunner, after: Callable[[FrozenTrial], Any] | None, stop: Callable[[], bool]
    ) -> None:
        heartbeats: dict[int, _Heartbeat] = {}
        trials: dict[int, Trial] = {}

        def take(trial: Trial | None) -> Trial | None:
            if trial is not None:
                trials[trial.number], heartbeats[trial.number] = trial, _Heartbeat(trial)
                heartbeats[trial.number].start()
            return trial

        def tell(trial: Trial, outcome: Outcome) -> None:
            heartbeats.pop(trial.number).end()
            self._tell(trial, outcome)
            del trials[trial.number]
            if after is not None:
                after(self._frozen(trial))

        take(first)
        try:
            runner(first, lambda: None if stop() else take(self._next(waits=False)), tell)
        except BaseException as error:
            reason = "interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"
            for trial in trials.values():
                with contextlib.suppress(Exception):  # if the storage itself failed, `reap` of another worker does it
                    self._lose(self._frozen(trial), f"its worker ended: {reason}", trial)
            raise
        finally:
            for heartbeat in heartbeats.values():
                heartbeat.end()

    def _tell(self, trial: Trial, outcome: Outcome) -> None:
        try:
            for key, value in outcome.attributes.items():
                trial.set_user_attr(key, value)
            if outcome.cut_off:
                self._lose(self._frozen(trial), outcome.reason or "", trial)
            else:
                self._study.tell(trial, outcome.values, outcome.state)
        except optuna.exceptions.UpdateFinishedTrialError:
            # For example, this machine was suspended, and the others took this worker for dead.
            logger.warning("trial %d has been given to another worker meanwhile", trial.number)

    def _next(self, waits: bool = True) -> Trial | None:
        """Return the next trial, or None when the budget is spent. Wait while all that are left are running."""
        repeats = 0
        while repeats < _MOST_REPEATS:
            with self._taking:
                self.reap()
                finished, running = self._count()
                exhausted = self._is_exhausted()
                if self._spent(finished) or (exhausted and not running):
                    return None
                if not exhausted and (self._wanted is None or finished + running < self._wanted):
                    self._prepare(self._study)
                    trial = self._ask()
                    trial.set_user_attr("worker", self.worker)
                    if COMMAND in os.environ:
                        trial.set_user_attr("command", os.environ[COMMAND])
                    if self._is_surplus(trial):
                        self._fail(self._frozen(trial), _SURPLUS, _ONE_TOO_MANY, trial)
                        continue
                    _ = trial.relative_params  # draws its point now, while no other worker takes one
                    if not self._is_repeat(trial):
                        return trial
                    repeats += 1
                    continue
            if not waits:
                return None
            time.sleep(_WAIT_SECONDS)
        logger.warning("no further trial begins: the settings of the last %d were known already", repeats)
        return None

    def _ask(self) -> Trial:
        """Return a trial that waits, a lost one's retry before others, or a new one.

        Optuna takes the one that has waited longest. First configurations wait from the search's beginning: killed
        defaults would be tried again after all of these, or not at all in the time.
        """
        storage: Any = self._study._storage
        for waiting in self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            if "replaces" not in waiting.user_attrs:
                continue
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):  # as Study.ask does
                if storage.set_trial_state_values(waiting._trial_id, state=TrialState.RUNNING):
                    return Trial(self._study, waiting._trial_id)
        return self._study.ask()

    def _spent(self, finished: int) -> bool:
        if self._budget is not None and self._budget.trials_over():
            return True
        if self._settings.epochs is not None and epochs_of(self._study) >= self._settings.epochs:
            return True
        return self._wanted is not None and finished >= self._wanted

    def _is_exhausted(self) -> bool:
        """Return whether every point of the space has been tried or is under way, and no further trial is enqueued."""
        trials = self._study.get_trials(deepcopy=False)
        return is_exhausted(self._study) and not any(trial.state == TrialState.WAITING for trial in trials)

    def _is_repeat(self, trial: Trial) -> bool:
        """Return whether a trial's settings are known from another one; if so, it has ended without a training."""
        sampler = self._study.sampler
        if not isinstance(sampler, SeededByTrial):
            return False
        trials = self._study.get_trials(deepcopy=False)
        other = sampler.known.repeated(trials[trial.number], trials)
        if other is None:
            return False
        trial.set_user_attr("repeat_of", other.number)
        self._fail(trials[trial.number], _REPEAT, f"not trained: {_known(other, self._settings.objectives)}", trial)
        return True

    def _is_surplus(self, trial: Trial) -> bool:
        """Return whether another machine has taken this trial, or the last one, at the same moment."""
        trials = self._study.get_trials(deepcopy=False)
        taken = [one for one in trials[: trial.number] if counts(one) and one.state != TrialState.WAITING]
        late = self._wanted is not None and len(taken) >= self._wanted
        return late or _is_duplicate(trials[trial.number], trials)

    def _count(self) -> tuple[int, int]:
        """Return the number of finished and of running trials that count."""
        states = [trial.state for trial in self._study.get_trials(deepcopy=False) if counts(trial)]
        return sum(state.is_finished() for state in states), states.count(TrialState.RUNNING)

    def reap(self) -> None:
        """Fail the trials of dead workers, and enqueue every lost trial again.

        There are two steps, each of which can be repeated: if this worker is killed between them, nothing is lost.
        """
        trials = self._study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state != TrialState.RUNNING or not self._is_dead(trial):
                continue
            if _is_duplicate(trial, trials):  # its worker was killed before it could give the trial up
                self._fail(trial, _SURPLUS, _ONE_TOO_MANY)
            else:
                same = trial.user_attrs.get("command") == os.environ.get(COMMAND)
                self._lose(trial, KILLED if same else KILLED_WITH_COMMAND)
        trials = self._study.get_trials(deepcopy=False)
        replaced = {trial.user_attrs.get("replaces") for trial in trials}
        for trial in trials:
            lost = trial.state == TrialState.FAIL and trial.user_attrs.get("uncounted") == _LOST
            if lost and trial.number not in replaced:
                self._replace(trial, trials)

    def _is_dead(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get("worker")
        if worker == self.worker:
            return False
        # A lock that another machine holds in a folder that both share may not be seen here; a journal's is.
        is_near = self._settings.storage is None or str(worker).startswith(f"{socket.gethostname()}-")
        if worker is not None and is_near and (self._folder / f"{worker}.lock").exists():
            try:
                with FileLock(self._folder / f"{worker}.lock", timeout=0):
                    pass
            except Timeout:
                return False
            (self._folder / f"{worker}.lock").unlink(missing_ok=True)
            return True
        if self._settings.storage is None:  # all workers are of this folder, and take their trials under its lock
            return True
        progress = (worker, trial.user_attrs.get("beat"), len(trial.intermediate_values))
        last_progress, since = self._seen.get(trial.number, (None, 0.0))
        if progress != last_progress:
            self._seen[trial.number] = (progress, time.monotonic())
            return False
        return time.monotonic() - since > SILENT_SECONDS

    def _lose(self, trial: FrozenTrial, reason: str, live: Trial | None = None) -> None:
        """Fail a trial that no worker trains any more; `reap` enqueues it again."""
        if self._fail(trial, _LOST, reason, live):
            logger.warning("trial %d: %s; it is tried again", trial.number, reason)

    def _fail(self, trial: FrozenTrial, uncounted: str, reason: str, live: Trial | None = None) -> bool:
        """Fail a trial so that it does not count; return False if another worker has ended it already.

        `live` is the trial itself where this worker runs it.
        """
        storage: Any = self._study._storage  # Optuna has no public way to write to a trial of another process
        try:
            storage.set_trial_user_attr(trial._trial_id, "reason", reason)
            storage.set_trial_user_attr(trial._trial_id, "uncounted", uncounted)
            self._study.tell(live if live is not None else trial.number, state=TrialState.FAIL)
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError):  # Optuna raises either
            return False
        return True

    def _replace(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> None:
        """Enqueue the parameters of a lost trial, unless its worker was killed again and again within one epoch."""
        params = self._params(trial)
        if not params:
            return  # it had not begun: the next trial takes its place
        first = int(trial.user_attrs.get("retry_of", trial.number))
        killed = fruitless_kills(trial, trials)
        if killed > self._settings.retries:
            self._study.add_trial(_given_up(trial, first, killed))
            return
        attributes: dict[str, Any] = {"origin": f"retry of {first}", "retry_of": first, "replaces": trial.number}
        if trial.user_attrs.get("first"):
            attributes |= {key: trial.user_attrs[key] for key in ("first", "origin")}
        self._study.enqueue_trial(params, user_attrs=attributes)

    def _params(self, trial: FrozenTrial) -> dict[str, Any]:
        """Return the parameters drawn for a trial so far; those of a grid's point are known from the start."""
        point = trial.system_attrs.get("grid_id")
        if point is not None and isinstance(self._study.sampler, GridOnce):
            return self._study.sampler.point(int(point))
        return {**(trial.system_attrs.get("fixed_params") or {}), **trial.params}

    def check_failures(self) -> None:
        """Stop the search if trial after trial fails.

        That is `max_failures` of them where no trial has ever succeeded, and ten times as many in a row otherwise.

        Raises:
            InputError: names the last reason.
        """
        well = any(map(has_succeeded, self._study.get_trials(deepcopy=False)))
        most = self._settings.max_failures * (_ONCE_WELL if well else 1)
        finished = counted_trials(self._study)
        finished.sort(key=lambda trial: trial.datetime_complete or datetime.max)
        last = finished[-most:]
        if len(last) == most and all(trial.state == TrialState.FAIL for trial in last):
            reason = last[-1].user_attrs.get("reason", "no reason is known")
            raise InputError(f"the last {len(last)} trials failed, so the search stops; the last one: {reason}")

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[trial.number]


class _Heartbeat:
    """A thread that writes, while a trial runs, that its worker lives."""

    def __init__(self, trial: Trial) -> None:
        self._trial, self._end = trial, threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)

    def _write(self) -> None:
        beat = 0
        while not self._end.wait(BEAT_SECONDS):
            beat += 1
            try:
                self._trial.set_user_attr("beat", beat)
            except Exception as error:  # where it matters, the trial itself meets the same error
                logger.debug("no heartbeat: %s", error)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._end.set()
        self._thread.join()


def _one_by_one(objective: Callable[[Trial], Outcome]) -> TrialRunner:
    return lambda trial, _, tell: tell(trial, objective(trial))


def _is_duplicate(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
    """Return whether an earlier trial retries the same lost trial, or is the same first trial."""
    sign = (trial.user_attrs.get("replaces"), trial.user_attrs.get("first"))
    if sign == (None, None):
        return False
    earlier = trials[: trial.number]
    return any((other.user_attrs.get("replaces"), other.user_attrs.get("first")) == sign for other in earlier)


def _known(trial: FrozenTrial, objectives: Sequence[str]) -> str:
    """Return, for a message, that a trial's settings are known, with what became of it."""
    values = values_of(trial)
    if trial.state == TrialState.RUNNING:
        known = "is under way"
    elif trial.state == TrialState.FAIL or values is None:
        known = f"ended as {trial.state.name.lower()}: {trial.user_attrs.get('reason', 'no reason is known')}"
    else:
        known = "has " + ", ".join(f"{name} {value:.6g}" for name, value in zip(objectives, values, strict=True))
    return f"these are the settings of trial {trial.number}, which {known}"


def _given_up(trial: FrozenTrial, first: int, killed: int) -> FrozenTrial:
    """Return a copy of a trial as one that failed and counts."""
    attributes = {
        key: value for key, value in trial.user_attrs.items() if key not in ("uncounted", "worker", "beat", "replaces")
    }
    return optuna.trial.create_trial(
        state=TrialState.FAIL,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={**attributes, "reason": f"{KILLED} {killed} times", "retry_of": first, "replaces": trial.number},
    )
