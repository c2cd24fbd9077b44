"""A warm start: the best settings of earlier searches, of other data or models too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from recbole_msr.errors import InputError, nearest
from recbole_msr.files.json import read_json
from recbole_msr.files.outputs import SEARCH, check_path
from recbole_msr.jobs.storage import JOURNAL, hide_password, open_storage
from recbole_msr.tuning.space.space import Space
from recbole_msr.tuning.study import quiet

BEST = 5
"""Settings that are taken of each earlier study."""


def read_warm_start(sources: Any, models: Sequence[str], space: Space) -> list[dict[str, Any]]:
    """Read `--warm-start`.

    Args:
        sources: folders of searches, or STORAGE#STUDY: one, a list, or a text with commas between them.
        models: the models of the search.
        space: its space.

    Returns:
        The best settings of each study, those of all studies in turns: `settings` (configuration keys), `model` (that
        they were found with; None if unknown) and `of` (the study's name).

    Raises:
        InputError: a study cannot be read, has no finished trial, or nothing of it fits into the space.
    """
    if sources is None:
        return []
    if isinstance(sources, (str, Path)):
        sources = [part.strip() for part in str(sources).split(",")]
    found = []
    for source in map(str, sources):
        listed = _best(source, models)
        searched = set().union(*(space.keys_of(model) for model in models))
        if not any(searched & set(one["settings"]) for one in listed):
            keys = sorted({key for one in listed for key in one["settings"]})
            raise InputError(
                f"--warm-start: nothing of {hide_password(source)} fits: they set {', '.join(keys) or 'nothing'}, "
                f"and none of it is searched in {space.name}"
            )
        found.append(listed)
    return [one for one in chain.from_iterable(zip_longest(*found)) if one is not None]


def _best(source: str, models: Sequence[str]) -> list[dict[str, Any]]:
    study = _open(source)
    direction = study.directions[0]
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    if not trials:
        raise InputError(f"--warm-start: the study '{study.study_name}' of {_shown(source)} has no finished trial")
    identity = study.user_attrs.get("recbole_msr")
    known = identity.get("model") if isinstance(identity, Mapping) else None

    def rank(trial: FrozenTrial) -> float:
        return float(trial.values[0]) * (1 if direction == StudyDirection.MINIMIZE else -1)

    trials.sort(key=rank)
    listed: list[dict[str, Any]] = []
    for trial in trials:
        settings = trial.user_attrs.get("settings", trial.params)
        if not isinstance(settings, Mapping):
            raise InputError(f"--warm-start: trial {trial.number} of {_shown(source)} has no settings")
        model = trial.user_attrs.get("model", settings.get("model", known))
        keys = {str(key): value for key, value in settings.items() if key != "model"}
        if all(keys != other["settings"] for other in listed):
            listed.append({"settings": keys, "model": model, "of": study.study_name})
    own = [one for one in listed if one["model"] in models]
    return (own or listed)[:BEST]


def _open(source: str) -> optuna.Study:
    """Open a study that is there; nothing is created.

    Raises:
        InputError: there is none, or several and none is named.
    """
    if Path(source).is_dir():
        return _of_folder(Path(source))
    address, _, name = source.partition("#")
    if "://" not in address and not address.startswith("journal:"):
        raise InputError(
            f"--warm-start: there is no folder {source}: give a search's output folder, or STORAGE#STUDY such as "
            "sqlite:///FILE#STUDY"
        )
    return _of_storage(address, name, Path("."))


def _of_folder(folder: Path) -> optuna.Study:
    check_path("--warm-start", folder)
    try:
        found = read_json(folder / SEARCH.marks[0], {"study": str, "storage?": str | None}, finite=False)
    except OSError:
        raise InputError(f"--warm-start: {folder} is no folder of a search: it has no {SEARCH.marks[0]}") from None
    return _of_storage(found.get("storage"), found["study"], folder)


def _of_storage(address: str | None, name: str, folder: Path) -> optuna.Study:
    shown = hide_password(address or str(folder))
    for prefix in ("journal:", "sqlite:///"):  # these would be created
        file = folder / JOURNAL if address is None else Path(address.removeprefix(prefix))
        if (address is None or address.startswith(prefix)) and not file.is_file():
            raise InputError(f"--warm-start: there is no study's storage {file}")
    storage = open_storage(address, folder)
    with quiet():
        names = optuna.get_all_study_names(storage)
        if not name and len(names) == 1:
            name = names[0]
        if name not in names:
            hint = nearest(name, names) if name else None
            listed = f" There are {', '.join(names[:20])}." if names else " It has none."
            wanted = f"no study '{name}'{hint or '.'}" if name else "not one study alone: give STORAGE#STUDY."
            raise InputError(f"--warm-start: {shown} has {wanted}{listed}")
        return optuna.load_study(study_name=name, storage=storage)


def _shown(source: str) -> str:
    return hide_password(source)
