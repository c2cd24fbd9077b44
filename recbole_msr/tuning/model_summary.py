"""What each model of a search over several got of the budget, and what it gave, for summary.json."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from recbole_msr.tuning.model_choice import model_of
from recbole_msr.tuning.model_costs import MODEL_COSTS
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.study import candidates, counted_trials
from recbole_msr.tuning.trial_state import values_of


def summarise_models(settings: SearchSettings, study: optuna.Study, best: FrozenTrial | None) -> dict[str, Any]:
    """Return the part of summary.json that is about the models of a search over several; nothing for one model.

    `models` has for each model the `trials` that count, `seconds` and `epochs` of all of its trials, their `share` of
    the seconds of all models, and `best` and `defaults`: values of the metric that chooses epochs, None without one.
    `left_out` has the reasons of those that had no trial; `model` is that of the best trial, or all without one.

    Args:
        settings: the search.
        study: its study.
        best: the best trial; None without one.
    """
    if not settings.models:
        return {}
    costs = study.user_attrs.get(MODEL_COSTS, {})
    refused = {model: cost["refused"] for model, cost in costs.items() if cost.get("refused") is not None}
    total = sum(_seconds(trial) for trial in study.get_trials(deepcopy=False))
    models = {model: _of_model(settings, study, model, total) for model in settings.models if model not in refused}
    no_time = {
        model: "the time did not suffice for a first trial" for model, found in models.items() if not found["seconds"]
    }
    return {
        "model": model_of(best) if best is not None else ", ".join(settings.models),
        "models": models,
        "left_out": {**settings.left_out, **refused, **no_time},
    }


def _of_model(settings: SearchSettings, study: optuna.Study, model: str, total: float) -> dict[str, Any]:
    index = settings.objectives.index(settings.quality)
    ended = [trial for trial in study.get_trials(deepcopy=False) if model_of(trial) == model]
    values = [found[index] for trial in candidates(study) if model_of(trial) == model and (found := values_of(trial))]
    smaller = study.directions[index] == StudyDirection.MINIMIZE
    defaults = next((one for one in candidates(study) if model_of(one) == model and _has_defaults(one)), None)
    of_defaults = values_of(defaults) if defaults is not None else None
    seconds = sum(_seconds(trial) for trial in ended)
    return {
        "trials": sum(model_of(trial) == model for trial in counted_trials(study)),
        "seconds": round(seconds, 3),
        "epochs": sum(int(trial.user_attrs.get("epochs") or 0) for trial in ended),
        "share": round(seconds / total, 4) if total else None,
        "best": (min(values) if smaller else max(values)) if values else None,
        "defaults": of_defaults[index] if of_defaults else None,
    }


def _has_defaults(trial: FrozenTrial) -> bool:
    return trial.user_attrs.get("origin") == "defaults"


def _seconds(trial: FrozenTrial) -> float:
    return float(trial.user_attrs.get("seconds") or 0.0)
