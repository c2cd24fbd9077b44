"""A study in its storage: made or found again, its trials handed out one by one, those of dead workers tried again.

Optuna keeps the trials. What is added here holds for any storage and any number of processes:

- `--trials` counts trials that ended, over all workers and restarts, and trials under way; a worker that finds all of
  them taken waits until they have ended, in case one of them is lost.
- A worker holds a lock on a file of its own while it lives. The kernel releases it when the process ends, however it
  ended, so a trial under way whose worker's lock is free belongs to a dead worker. Workers that do not share the folder
  (other machines) also show that they live by a beat, a user attribute of their trial that changes.
- A trial of a dead worker fails with the reason, does not count, and is tried again with the same parameters.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from recbole_msr.errors import InputError
from recbole_msr.search.objective import Outcome
from recbole_msr.search.samplers import GridOnce, Named, make_pruner, make_sampler
from recbole_msr.search.settings import SearchSettings
from recbole_msr.search.space import Space
from recbole_msr.search.storage import hide_password, open_storage

logger = logging.getLogger(__name__)

BEAT_SECONDS = 20.0
"""How often a worker shows that it lives."""
SILENT_SECONDS = 120.0
"""A worker of another folder that has not shown it for so long is taken for dead."""
_WAIT_SECONDS = 0.5
_LOST, _SURPLUS = "lost", "surplus"
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def open_study(settings: SearchSettings, space: Space, data: str, smaller: Mapping[str, bool], epochs: int) -> Any:
    """Make the study, or find it again.

    Args:
        settings: the search.
        space: its space.
        data: what identifies the data and their split.
        smaller: for every objective, whether smaller is better.
        epochs: how many a trial trains at most.

    Raises:
        InputError: the storage cannot be used, or it has a study of this name with another space, data or settings.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = open_storage(settings.storage, settings.folder)
    directions = [StudyDirection.MINIMIZE if smaller[name] else StudyDirection.MAXIMIZE for name in settings.objectives]
    sampler = make_sampler(Named.read_back(settings.sampler), space, int(settings.config["seed"]))
    pruner = make_pruner(Named.read_back(settings.pruner), epochs)
    identity = _identity(settings, space, data)
    with _quiet(), _told(settings):
        known = {summary.study_name for summary in optuna.get_all_study_summaries(storage, include_best_trial=False)}
        if settings.study in known:
            study = optuna.load_study(study_name=settings.study, storage=storage, sampler=sampler, pruner=pruner)
            _check_same(study, identity, settings.study)
            return study
        study = optuna.create_study(
            study_name=settings.study,
            storage=storage,
            sampler=sampler,
            pruner=pruner,
            directions=directions,
            load_if_exists=True,  # another machine may have made it this moment
        )
        _check_same(study, identity, settings.study)
        study.set_metric_names(list(settings.objectives))
        for key, value in {**identity, "objectives": list(settings.objectives)}.items():
            study.set_user_attr(key, value)
    return study


def _identity(settings: SearchSettings, space: Space, data: str) -> dict[str, Any]:
    # `threads` decides the last digits, and workers of different machines may have different ones.
    config = {key: value for key, value in settings.config.items() if key not in ("threads", "gpu_id", "data_path")}
    return {
        "model": settings.model,
        "dataset": settings.dataset,
        "data": data,
        "space": space.to_dict(),
        "config": config,
        "compared": list(settings.objectives),
        "trial_seeds": settings.trial_seeds,
    }


_MEANINGS = {
    "model": "model",
    "dataset": "dataset",
    "data": "the data files, or how they are filtered, labelled and split",
    "config": "settings",
    "compared": "objectives",
    "trial_seeds": "seeds of a trial",
}


def _check_same(study: optuna.Study, identity: Mapping[str, Any], name: str) -> None:
    before = study.user_attrs
    if "space" not in before:
        if study.get_trials(deepcopy=False):
            raise InputError(f"the study '{name}' was not made by recbole-msr search: choose another name (--study)")
        return
    told = []
    for key, meaning in _MEANINGS.items():
        old, new = before[key], identity[key]
        if old == new:
            continue
        if key == "config":
            keys = [k for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
            told += [f"{k}: {old.get(k)!r} -> {new.get(k)!r}" for k in keys]
        elif key == "data":
            told.append(f"{meaning} have changed")
        else:
            told.append(f"{meaning}: {old!r} -> {new!r}")
    if before["space"] != identity["space"]:
        told += Space.load(identity["space"]).differences(Space.load(before["space"])) or ["the space"]
    if told:
        raise InputError(
            f"there is a study '{name}' with other settings ({'; '.join(told)}): its trials cannot be compared with "
            "these; give this one another name (--study=NAME, and --output=DIR)"
        )


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
    ) -> None:
        """Run trials until the budget is spent.

        Args:
            objective: runs one.
            after: called with every trial that has ended.
            stop: asked after every trial whether to end.

        Raises:
            InputError: too many trials failed in a row, or the storage is gone.
        """
        with _quiet(), _told(self._settings):
            while not stop() and (trial := self._next()) is not None:
                with _Beat(trial):
                    self._run(trial, objective)
                if after is not None:
                    after(self._frozen(trial))
                self.check_failures()

    def _run(self, trial: Trial, objective: Callable[[Trial], Outcome]) -> None:
        try:
            outcome = objective(trial)
        except BaseException as error:
            reason = "interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"
            self._lose(self._frozen(trial), f"its worker ended: {reason}", trial)
            raise
        try:
            for key, value in outcome.attributes.items():
                trial.set_user_attr(key, value)
            self._study.tell(trial, outcome.values if outcome.state == TrialState.COMPLETE else None, outcome.state)
        except optuna.exceptions.UpdateFinishedTrialError:
            # The machine slept, say, and the others took this worker for dead.
            logger.warning("trial %d has been given to another worker meanwhile", trial.number)

    def _next(self) -> Trial | None:
        """The next trial; None when the budget is spent. Waits while all that are left are under way elsewhere."""
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
            time.sleep(_WAIT_SECONDS)

    def _spent(self, ended: int) -> bool:
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return True
        if self._settings.epochs is not None and epochs_of(self._study) >= self._settings.epochs:
            return True
        return self._wanted is not None and ended >= self._wanted

    def _surplus(self, trial: Trial) -> bool:
        """Whether another machine has taken the last trial at the same moment; then this one is given up."""
        if self._wanted is None:
            return False
        before = [one for one in self._study.get_trials(deepcopy=False) if one.number < trial.number and _counts(one)]
        if len(before) < self._wanted:
            return False
        trial.set_user_attr("reason", "one more than asked for: workers took the last one at the same moment")
        trial.set_user_attr("uncounted", _SURPLUS)
        self._study.tell(trial, state=TrialState.FAIL)
        return True

    def _count(self) -> tuple[int, int]:
        """Trials that have ended, and trials under way."""
        states = [trial.state for trial in self._study.get_trials(deepcopy=False) if _counts(trial)]
        return sum(state in _ENDED for state in states), states.count(TrialState.RUNNING)

    def reap(self) -> None:
        """Fail the trials of dead workers, and have them tried again."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._dead(trial):
                self._lose(trial, "its worker was killed")

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
        """Fail a trial that nobody trains any more, and have its parameters tried again."""
        storage: Any = self._study._storage  # a trial of another process has no public face to write to
        try:
            storage.set_trial_user_attr(trial._trial_id, "reason", reason)
            storage.set_trial_user_attr(trial._trial_id, "uncounted", _LOST)
            self._study.tell(own if own is not None else trial.number, state=TrialState.FAIL)
        except optuna.exceptions.UpdateFinishedTrialError:
            return  # somebody else was faster
        except ValueError:  # Optuna's word for the same
            return
        first = int(trial.user_attrs.get("retry_of", trial.number))
        lost = 1 + sum(
            one.user_attrs.get("retry_of", one.number) == first and one.user_attrs.get("uncounted") == _LOST
            for one in self._study.get_trials(deepcopy=False)
            if one.number != trial.number
        )
        if not trial.params and "fixed_params" not in trial.system_attrs:
            return  # it had not begun: the next one takes its place
        if lost > self._settings.retries:
            self._study.add_trial(_given_up(trial, first, lost))
            return
        params = dict(trial.system_attrs.get("fixed_params") or {}) | trial.params
        attributes = {"origin": trial.user_attrs.get("origin") or f"retry of {first}", "retry_of": first}
        self._study.enqueue_trial(params, user_attrs=attributes)
        logger.warning("trial %d: %s; it is tried again", trial.number, reason)

    def check_failures(self) -> None:
        """Stop the search where trial after trial fails.

        Raises:
            InputError: it names the last reason.
        """
        ended = [one for one in self._study.get_trials(deepcopy=False) if _counts(one) and one.state in _ENDED]
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

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: Any) -> None:
        self._end.set()
        self._thread.join()


def _counts(trial: FrozenTrial) -> bool:
    return "uncounted" not in trial.user_attrs


def epochs_of(study: optuna.Study) -> int:
    """Epochs trained by all trials that have ended."""
    return sum(int(trial.user_attrs.get("epochs", 0)) for trial in study.get_trials(deepcopy=False))


def counted_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that ended and count: not those of killed workers, which were tried again."""
    return [trial for trial in study.get_trials(deepcopy=False) if _counts(trial) and trial.state in _ENDED]


def _given_up(trial: FrozenTrial, first: int, lost: int) -> FrozenTrial:
    """The trial once more, as one that failed and counts."""
    attributes = {key: value for key, value in trial.user_attrs.items() if key not in ("uncounted", "worker", "beat")}
    return optuna.trial.create_trial(
        state=TrialState.FAIL,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={**attributes, "reason": f"its worker was killed {lost} times", "retry_of": first},
    )


def grid_points(study: optuna.Study) -> int | None:
    """How many trials a grid takes, the defaults in front included; None for other samplers."""
    sampler = study.sampler
    if not isinstance(sampler, GridOnce):
        return None
    enqueued = any(trial.user_attrs.get("origin") == "defaults" for trial in study.get_trials(deepcopy=False))
    return len(sampler.points) + int(enqueued)


class _quiet:
    """Optuna's remarks on experimental features and on parameters outside the space are not for the user."""

    def __enter__(self) -> None:
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Fixed parameter .* is out of range")

    def __exit__(self, *_: Any) -> None:
        self._warnings.__exit__(*_)


class _told:
    """Errors of the storage as one clear line."""

    def __init__(self, settings: SearchSettings) -> None:
        self._where = hide_password(settings.storage or str(settings.folder))

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if isinstance(error, optuna.exceptions.StorageInternalError):
            raise InputError(f"the study's storage {self._where} does not answer: {error}") from error
        if isinstance(error, OSError) and not isinstance(error, InputError):
            raise InputError(
                f"the study's storage {self._where} cannot be written: {error.strerror or error}; "
                "nothing that ended is lost, and the same command goes on"
            ) from error
