"""A study in its storage: created, or loaded and checked against the settings of the search."""

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
from recbole_msr.jobs.configuration import FREE_KEYS
from recbole_msr.jobs.storage import hide_password, open_storage
from recbole_msr.tuning.samplers import GridOnce, Named, make_pruner, make_sampler
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.space.space import Space
from recbole_msr.tuning.trial_sampler import ModelChooser, SeededByTrial
from recbole_msr.tuning.trial_state import RESUMED, counts, is_cut_off, is_under_way, is_unfinished

_IDENTITY = "recbole_msr"


def open_study(
    settings: SearchSettings,
    space: Space,
    data: str,
    smaller: Mapping[str, bool],
    epochs: int,
    choose_model: ModelChooser | None = None,
) -> Study:
    """Create the study, or load it.

    Args:
        settings: the search.
        space: the search space.
        data: fingerprint of the data and their split.
        smaller: for every objective, whether smaller is better.
        epochs: maximum number of epochs of a trial.
        choose_model: in a search over several models, chooses the model of a trial.

    Raises:
        InputError: the storage cannot be used, or it has a study of this name with another space, data or settings.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directions = [StudyDirection.MINIMIZE if smaller[name] else StudyDirection.MAXIMIZE for name in settings.objectives]
    sampler = make_sampler(Named.read_back(settings.sampler), space, int(settings.config["seed"]), choose_model)
    pruner = make_pruner(Named.read_back(settings.pruner), epochs, 1 if settings.trial_seeds == 1 else 0)
    identity = _identity(settings, space, data)
    storage = open_storage(settings.storage, settings.folder)  # last: refused settings leave no study behind
    with quiet(), storage_errors(settings):
        arguments: dict[str, Any] = {
            **{"study_name": settings.study, "storage": storage},
            **{"sampler": sampler, "pruner": pruner},
        }
        if settings.study in optuna.get_all_study_names(storage):  # a journal records every attempt to create one
            study = optuna.load_study(**arguments)
        else:
            study = optuna.create_study(**arguments, directions=directions, load_if_exists=True)
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
    """Return the settings that must agree for comparable trials; paths, devices and threads may differ."""
    config = {key: value for key, value in settings.config.items() if key not in FREE_KEYS}
    return {
        "model": settings.model,
        "models": settings.models,
        "dataset": settings.dataset,
        "data": data,
        "space": space.to_dict(),
        "config": config,
        "objectives": list(settings.objectives),
        "trial_seeds": settings.trial_seeds,
    }


_MEANINGS = {
    "model": "model",
    "models": "models",
    "dataset": "dataset",
    "data": "the data files, or how they are filtered, labelled and split",
    "config": "settings",
    "objectives": "objectives",
    "trial_seeds": "seeds of a trial",
}


def _check_same(study: optuna.Study, identity: Mapping[str, Any], name: str) -> None:
    before = study.user_attrs[_IDENTITY]
    differences = []
    for key, meaning in _MEANINGS.items():
        old, new = before.get(key, []), identity[key]  # studies of earlier versions have no models
        if old == new:
            continue
        if key == "config":
            keys = [k for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
            differences += [f"{k}: {old.get(k)!r} -> {new.get(k)!r}" for k in keys]
        elif key == "data":
            differences.append(f"{meaning} have changed")
        else:
            differences.append(f"{meaning}: {old!r} -> {new!r}")
    if before["space"] != identity["space"] and before.get("models", []) == identity["models"]:
        differences += Space.load(identity["space"]).differences(Space.load(before["space"])) or ["the space"]
    if differences:
        raise InputError(
            f"there is a study '{name}' with other settings ({'; '.join(differences)}): its trials cannot be compared "
            "with these; give this one another name (--study=NAME, and --output=DIR)"
        )


def candidates(study: optuna.Study, running: bool = False) -> list[FrozenTrial]:
    """Return the trials that may be the best: complete ones, pruned ones, and cut-off ones not finished since.

    A pruned trial counts with its best epoch on all data: training it to its end can only give this value or a better
    one. One that was never validated on all data is none of them.

    Args:
        study: the study.
        running: also those that run and have validated an epoch.
    """
    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and counts(trial)]
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED and is_unfinished(trial)]
    finished = {trial.user_attrs.get("retry_of") for trial in trials if trial.state.is_finished() and counts(trial)}
    cut_off = [t for t in trials if is_cut_off(t) and t.user_attrs.get("retry_of", t.number) not in finished]
    under_way = [trial for trial in trials if running and is_under_way(trial)]
    return sorted([*complete, *pruned, *cut_off, *under_way], key=lambda trial: trial.number)


def epochs_of(study: optuna.Study) -> float:
    """Return the number of epochs that all finished trials trained.

    The epochs that a trial took over from a lost one count once; one on a share of the rows counts as this share.
    """
    whole: dict[int, int] = {}  # by the first of the trials that went on one from the other
    first: dict[int, int] = {}
    low: dict[int, float] = {}
    for trial in study.get_trials(deepcopy=False):
        resumed = trial.user_attrs.get(RESUMED)
        root = first[trial.number] = trial.number if resumed is None else first[resumed]
        of_rungs = sum(rung["share"] * rung["epochs"] for rung in trial.user_attrs.get("rungs", ()))
        low[root] = max(low.get(root, 0.0), of_rungs)
        whole[root] = max(whole.get(root, 0), int(trial.user_attrs.get("epochs", 0)))
    return sum(low.values()) + sum(whole.values())


def counted_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the finished trials that count: not those of killed workers, which are retried."""
    return [trial for trial in study.get_trials(deepcopy=False) if counts(trial) and trial.state.is_finished()]


def grid_points(study: optuna.Study) -> int | None:
    """Return the number of points of a grid; None for other samplers."""
    return len(study.sampler.points) if isinstance(study.sampler, GridOnce) else None


def is_exhausted(study: optuna.Study, given: Mapping[str, Any] | None = None) -> bool:
    """Return whether every point of a study's space has been tried, or is under way; a grid has an end of its own.

    Args:
        study: the study.
        given: only the points with these parameters count: those of one model, for instance.
    """
    if not isinstance(study.sampler, SeededByTrial):
        return False
    return study.sampler.known.is_exhausted(study.get_trials(deepcopy=False), given or {})


class quiet:
    """Silence Optuna's remarks on experimental features and on parameters outside the space."""

    def __enter__(self) -> None:
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Fixed parameter .* is out of range")

    def __exit__(self, *_: Any) -> None:
        self._warnings.__exit__(*_)


class storage_errors:
    """Turn errors of the storage into one clear line."""

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
        if isinstance(error, OSError) and not isinstance(error, InputError):  # an InputError names its file
            raise StorageError(
                f"the study's storage {self._where} cannot be written: {error.strerror or error}; "
                "nothing that ended is lost, and the same command goes on"
            ) from error


def check_study(folder: Path, study: str, storage: str | None) -> None:
    """Refuse the folder of another search, whose best.yaml and trials.csv would be overwritten.

    Args:
        folder: the output folder.
        study: name of the study.
        storage: address of its storage; None for a journal in the folder.

    Raises:
        InputError: the folder has another study, keeps it elsewhere, or does not say.
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
