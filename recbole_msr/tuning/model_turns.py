"""The next trial of a search over several models: which model it is of, and whether its settings are given.

`ModelTurns` is asked before a trial is handed out. It enqueues the model, or all parameters of a trial that nobody
samples: of each model the defaults, the best of earlier searches and first configurations come first, in this order
(`tuning/first_trials.py`). All else is drawn by the sampler, for this model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from recbole_msr.evaluation.metrics import smaller_is_better
from recbole_msr.tuning.budget import Budget
from recbole_msr.tuning.first_trials import FirstTrial, first_trials
from recbole_msr.tuning.model_choice import ModelChoice, model_of, records
from recbole_msr.tuning.model_costs import MODEL_COSTS
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.space.joint import MODEL
from recbole_msr.tuning.space.space import Space
from recbole_msr.tuning.study import epochs_of, is_exhausted
from recbole_msr.tuning.trial_settings import trial_config


class ModelTurns:
    """Enqueues the next trial of a search over several models.

    Args:
        settings: the search.
        space: its space.
        budget: the command's time.
    """

    def __init__(self, settings: SearchSettings, space: Space, budget: Budget) -> None:
        self._settings, self._space, self._budget = settings, space, budget
        self._given: dict[str, list[FirstTrial]] = {}

    def __call__(self, study: optuna.Study) -> None:
        """Enqueue the next trial, unless one waits already."""
        trials = study.get_trials(deepcopy=False)
        if any(trial.state == TrialState.WAITING for trial in trials):
            return
        model = next_model(self._settings, study, trials, self._budget.trials_left(), self._budget.trials_done())
        number = len({trial.user_attrs.get("first") for trial in trials if model_of(trial) == model} - {None})
        given = self._given_of(model)
        if number < len(given):
            # Two machines may do this at the same time: of trials with the same mark only one is trained.
            mark = {"origin": given[number].origin, "first": f"{model} {number}"}
            study.enqueue_trial(given[number].params, user_attrs=mark)
        else:
            study.enqueue_trial({MODEL: model})

    def _given_of(self, model: str) -> list[FirstTrial]:
        """Return the trials of a model that nobody samples, in their order."""
        if model not in self._given:
            config = trial_config(self._settings, {MODEL: model})
            self._given[model] = first_trials(self._settings, self._space, config, model)
        return self._given[model]


def next_model(
    settings: SearchSettings,
    study: optuna.Study,
    trials: Sequence[FrozenTrial],
    left: float = math.inf,
    done: float = 0.0,
) -> str:
    """Choose the model of the next trial.

    Args:
        settings: the search.
        study: its study, with the models' costs.
        trials: its trials.
        left: seconds that are left for trials; infinity without a limit.
        done: share of the time that is over.
    """
    costs: dict[str, Any] = study.user_attrs.get(MODEL_COSTS, {})
    taking = {
        model: max(float(costs.get(model, {}).get("seconds", 1.0)), 1e-9) * int(settings.config["epochs"])
        for model in settings.models
        if costs.get(model, {}).get("refused") is None
    }
    # A model of which every point has been tried makes way for the others.
    taking = {model: cost for model, cost in taking.items() if not is_exhausted(study, {MODEL: model})} or taking
    objective, smaller = settings.objectives.index(settings.quality), smaller_is_better(settings.quality)
    known = records(trials, list(taking), objective, smaller)
    if settings.trials is not None:
        done = max(done, sum(record.begun for record in known.values()) / settings.trials)
    if settings.epochs is not None:
        done = max(done, epochs_of(study) / settings.epochs)
    return ModelChoice(taking, settings.tolerance)(known, None if math.isinf(left) else left, done)
