"""Where a search begins: the defaults, the best settings of earlier studies, first configurations."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from filelock import FileLock

from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.space.space import Space

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FirstTrial:
    """Parameters of a trial that nobody samples.

    Attributes:
        params: Optuna's parameters.
        origin: "defaults", "near the defaults", "warm start", or "first configuration K".
    """

    params: dict[str, Any]
    origin: str


def first_trials(settings: SearchSettings, space: Space, config: Any, model: str | None = None) -> list[FirstTrial]:
    """Return the trials that a search begins with, the defaults first.

    What does not fit into the space is left out and named, once.

    Args:
        settings: the search.
        space: its space.
        config: RecBole's configuration of the model, with the keys that are fixed for all trials.
        model: in a search over several models, the one whose trials are wanted.
    """
    given = {"model": model} if model is not None else {}
    params, outside = space.params_of(_Over(config, given))
    for line in outside:
        which = "trial 0 is not quite the" if model is None else f"the first trial of {model} is not quite its"
        logger.warning("%s defaults: %s", which, line)
    trials = [FirstTrial(params, "near the defaults" if outside else "defaults")]
    name = model or settings.model
    trials += _warm(settings.warm_start, name, space, config, model)
    trials += _configured(settings.first.get(name, []), name, space, config, model)
    return _different(trials)


def _configured(
    listed: Sequence[Mapping[str, Any]], name: str, space: Space, config: Any, model: str | None
) -> list[FirstTrial]:
    trials, left_out = [], {}
    for number, one in enumerate(listed, start=1):
        fitting, lines = split(one, space, config, name)
        if lines:
            left_out[number] = lines[0]
        elif fitting:
            trials.append(FirstTrial(_params(space, config, fitting, model), f"first configuration {number}"))
    if left_out:
        numbers, reason = ", ".join(map(str, left_out)), next(iter(left_out.values()))
        logger.info(
            "first configurations %s of %s are left out, as they are outside the space: %s", numbers, name, reason
        )
    return trials


def _warm(
    listed: Sequence[Mapping[str, Any]], name: str, space: Space, config: Any, model: str | None
) -> list[FirstTrial]:
    trials = []
    left_out: dict[str, dict[str, str]] = {}
    for start in listed:
        fitting, lines = split(start["settings"], space, config, name)
        if fitting:
            trials.append(FirstTrial(_params(space, config, fitting, model), "warm start"))
        named = left_out.setdefault(start["of"], {})
        for line in lines:
            named.setdefault(line.split(" ")[0], line)
    for study, named in left_out.items():
        if named:
            logger.warning("of the warm start from '%s' is left out for %s: %s", study, name, "; ".join(named.values()))
    return trials


def split(settings: Mapping[str, Any], space: Space, config: Any, model: str) -> tuple[dict[str, Any], list[str]]:
    """Split settings into those that a space holds and the reasons why it does not hold the others.

    Keys that are fixed in the space are in neither: the search says what they are.

    Args:
        settings: configuration keys.
        space: the space.
        config: RecBole's configuration, for keys that are not among the settings.
        model: the model.
    """
    searched = space.keys_of(model)
    lines = [f"{key} is not searched" for key in settings if key not in searched and key not in space.fixed]
    taken = {key: value for key, value in settings.items() if key in searched}
    found = space.params_by_key(_Over(config, {**taken, "model": model}))
    for key, (_, outside) in found.items():
        if key in taken and outside:
            lines += outside[:1]
            del taken[key]
    return taken, lines


def _params(space: Space, config: Any, taken: Mapping[str, Any], model: str | None) -> dict[str, Any]:
    given = {"model": model} if model is not None else {}
    return space.params_of(_Over(config, {**taken, **given}))[0]


def _different(trials: Sequence[FirstTrial]) -> list[FirstTrial]:
    """Return the trials that have parameters, without those that are equal to an earlier one."""
    kept: list[FirstTrial] = []
    for trial in trials:
        if trial.params and all(trial.params != other.params for other in kept):
            kept.append(trial)
    return kept


class _Over:
    """A configuration with some keys set anew."""

    def __init__(self, config: Any, keys: Mapping[str, Any]) -> None:
        self._config, self._keys = config, keys

    def __getitem__(self, key: str) -> Any:
        return self._keys[key] if key in self._keys else self._config[key]


def enqueue_first_trials(study: optuna.Study, space: Space, config: Any, settings: SearchSettings) -> None:
    """Make the defaults trial 0, so that the search never ends below them, and enqueue what is known to be good.

    A grid has only its points. A study that has trials has begun already. In a search over several models each model's
    come when it is its turn (`tuning/model_turns.py`).
    """
    if settings.sampler["name"] == "grid":
        return
    with FileLock(settings.folder / "workers" / "together.lock"):
        if study.get_trials(deepcopy=False):
            if settings.warm_start:
                logger.warning("--warm-start is for a study's beginning: '%s' has trials already", settings.study)
            return
        for number, trial in enumerate(first_trials(settings, space, config)[: settings.trials]):
            # Two machines may do this at the same time: of trials with the same mark only one is trained.
            study.enqueue_trial(trial.params, user_attrs={"origin": trial.origin, "first": f"trial {number}"})
