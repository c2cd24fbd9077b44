"""A study in its storage: made, or found again and compared with what is wanted now."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from recbole_msr.errors import InputError, StorageError
from recbole_msr.files.json import read_json
from recbole_msr.files.outputs import SEARCH
from recbole_msr.jobs.storage import hide_password, open_storage
from recbole_msr.runs.folder import FREE
from recbole_msr.tuning.samplers import GridOnce, Named, make_pruner, make_sampler
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.space.space import Space

_IDENTITY = "recbole_msr"
FREE_KEYS = (FREE - {"epochs"}) | {"data_path", "knowledge_dir", "checkpoint_dir"}


def open_study(settings: SearchSettings, space: Space, data: str, smaller: Mapping[str, bool], epochs: int) -> Study:
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
    directions = [StudyDirection.MINIMIZE if smaller[name] else StudyDirection.MAXIMIZE for name in settings.objectives]
    sampler = make_sampler(Named.read_back(settings.sampler), space, int(settings.config["seed"]))
    pruner = make_pruner(Named.read_back(settings.pruner), epochs, 1 if settings.trial_seeds == 1 else 0)
    identity = _identity(settings, space, data)
    storage = open_storage(settings.storage, settings.folder)  # last: what is refused has made no study
    with quiet(), storage_errors(settings):
        given: dict[str, Any] = {"study_name": settings.study, "storage": storage, "sampler": sampler, "pruner": pruner}
        if settings.study in optuna.get_all_study_names(storage):  # a journal notes every try to make one
            study = optuna.load_study(**given)
        else:
            study = optuna.create_study(**given, directions=directions, load_if_exists=True)
        if _IDENTITY not in study.user_attrs:
            if study.get_trials(deepcopy=False):
                raise InputError(
                    f"the study '{settings.study}' was not made by recbole-msr search: choose another name (--study)"
                )
            study.set_metric_names(list(settings.objectives))
            study.set_user_attr("objectives", list(settings.objectives))
            study.set_user_attr(_IDENTITY, identity)  # one write, and the last: there is never half a study
        _check_same(study, identity, settings.study)
    return study


def _identity(settings: SearchSettings, space: Space, data: str) -> dict[str, Any]:
    """What makes trials comparable. Paths, devices and threads are each machine's own."""
    config = {key: value for key, value in settings.config.items() if key not in FREE_KEYS}
    return {
        "model": settings.model,
        "dataset": settings.dataset,
        "data": data,
        "space": space.to_dict(),
        "config": config,
        "objectives": list(settings.objectives),
        "trial_seeds": settings.trial_seeds,
    }


_MEANINGS = {
    "model": "model",
    "dataset": "dataset",
    "data": "the data files, or how they are filtered, labelled and split",
    "config": "settings",
    "objectives": "objectives",
    "trial_seeds": "seeds of a trial",
}


def _check_same(study: optuna.Study, identity: Mapping[str, Any], name: str) -> None:
    before = study.user_attrs[_IDENTITY]
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


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of those asked for; one that was given up is if its worker ended it all the same."""
    given_up = "uncounted" in trial.user_attrs
    return not given_up or trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


SO_FAR = "values_so_far"
"""Attribute of a trial that the end of `--timeout` has cut off: its values by the epochs that were validated."""


def values_of(trial: FrozenTrial) -> list[float] | None:
    """A trial's values; of one that was cut off, those it had come to."""
    return trial.user_attrs.get(SO_FAR) if trial.values is None else trial.values


def is_cut_off(trial: FrozenTrial) -> bool:
    """Whether a trial was validated, but its time was up before it ended."""
    return trial.state == TrialState.FAIL and SO_FAR in trial.user_attrs


def candidates(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that may be the best: those that are complete, and those cut off that have not been ended since."""
    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and counts(trial)]
    ended = {trial.user_attrs.get("retry_of") for trial in trials if trial.state.is_finished() and counts(trial)}
    cut_off = [one for one in trials if is_cut_off(one) and one.user_attrs.get("retry_of", one.number) not in ended]
    return sorted([*complete, *cut_off], key=lambda trial: trial.number)


def epochs_of(study: optuna.Study) -> int:
    """Epochs trained by all trials that have ended."""
    return sum(int(trial.user_attrs.get("epochs", 0)) for trial in study.get_trials(deepcopy=False))


def counted_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that ended and count: not those of killed workers, which were tried again."""
    return [trial for trial in study.get_trials(deepcopy=False) if counts(trial) and trial.state.is_finished()]


def grid_points(study: optuna.Study) -> int | None:
    """How many points a grid has; None for other samplers."""
    return len(study.sampler.points) if isinstance(study.sampler, GridOnce) else None


class quiet:
    """Optuna's remarks on experimental features and on parameters outside the space are not for the user."""

    def __enter__(self) -> None:
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Fixed parameter .* is out of range")

    def __exit__(self, *_: Any) -> None:
        self._warnings.__exit__(*_)


class storage_errors:
    """Errors of the storage as one clear line."""

    def __init__(self, settings: SearchSettings) -> None:
        self._where = hide_password(settings.storage or str(settings.folder))

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if isinstance(error, optuna.exceptions.StorageInternalError):
            raise StorageError(f"the study's storage {self._where} does not answer: {error}") from error
        if isinstance(error, json.JSONDecodeError):
            raise InputError(
                f"the study's storage {self._where} is damaged: a line cannot be read ({error})"
            ) from error
        if isinstance(error, OSError) and not isinstance(error, InputError):  # which names its own file
            raise StorageError(
                f"the study's storage {self._where} cannot be written: {error.strerror or error}; "
                "nothing that ended is lost, and the same command goes on"
            ) from error


def check_study(folder: Path, study: str, storage: str | None) -> None:
    """Refuse the folder of another search: its best.yaml and trials.csv would be written over.

    Args:
        folder: the output folder.
        study, storage: the study's name, and the address where it is kept.

    Raises:
        InputError: it has another study, keeps it elsewhere, or does not tell.
    """
    shape, advice = {"study": str, "storage": str | None}, "remove it, and the same command goes on"
    try:
        before = read_json(folder / SEARCH.marks[0], shape, advice, finite=False)
    except OSError:  # there is none
        return
    other, where = before["study"], hide_password(before["storage"] or "")
    if other != study:
        raise InputError(
            f"{folder} holds the search '{other}', whose results '{study}' would write over: give another --output, or "
            f"--study={other} to go on with it"
        )
    if where != hide_password(storage or ""):
        raise InputError(
            f"{folder} holds the search '{other}', kept in {where or 'a journal there'}: go on with it without another "
            "--storage, or give another --output"
        )
