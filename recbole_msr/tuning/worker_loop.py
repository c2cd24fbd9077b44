"""Trials until the budget is spent: what each process of a search does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from recbole_msr.data.cache import fingerprint
from recbole_msr.evaluation.metrics import smaller_is_better
from recbole_msr.tuning.best_model import BestModel
from recbole_msr.tuning.budget import Budget
from recbole_msr.tuning.fidelity import Ladder, climb
from recbole_msr.tuning.fused_trials import FusedTrials
from recbole_msr.tuning.model_turns import ModelTurns
from recbole_msr.tuning.objective import Objective
from recbole_msr.tuning.settings import COSTS, SearchSettings
from recbole_msr.tuning.space.space import Space
from recbole_msr.tuning.study import grid_points, open_study
from recbole_msr.tuning.study_data import StudyData
from recbole_msr.tuning.trials import Trials


def open_search(settings: SearchSettings, parameters: Space, config: Any) -> optuna.Study:
    """Open the study of a search, or create it."""
    data = fingerprint(config, config["data_path"], settings.dataset)
    smaller = {name: name in COSTS or smaller_is_better(name) for name in settings.objectives}
    # `ModelTurns` says the model before a trial is drawn: this is asked where it did not.
    choose = (lambda *_: settings.models[0]) if settings.models else None
    study: optuna.Study = open_study(settings, parameters, data, smaller, int(config["epochs"]), choose)
    climb(study)
    return study


def wanted_trials(settings: SearchSettings, study: optuna.Study) -> int | None:
    """Return the number of trials that the search is to have, at most the points of a grid; None without a limit."""
    limits = [number for number in (settings.trials, grid_points(study)) if number is not None]
    return min(limits) if limits else None


def run_trials(
    settings: SearchSettings,
    deadline: float | None,
    orphaned: Callable[[], bool] = lambda: False,
    data: StudyData | None = None,
    study: optuna.Study | None = None,
    after: Callable[[FrozenTrial], Any] | None = None,
) -> None:
    """Run trials in this process until the budget is spent, as one worker of the search.

    Args:
        settings: the search.
        deadline: `time.monotonic()` at which the command shall be over, with what follows the trials.
        orphaned: asked after every trial whether to end.
        data: the data; read if None.
        study: the study; opened if None.
        after: called after every trial.
    """
    space = Space.load(settings.space)
    data = data or StudyData(settings)
    study = study or open_search(settings, space, data.config)
    wanted, best = wanted_trials(settings, study), BestModel(settings)

    def ended(trial: FrozenTrial) -> None:
        best.settle(study)
        best.trim(study)
        if after is not None:
            after(trial)

    budget = Budget(settings, study, deadline)
    turns = ModelTurns(settings, space, budget) if settings.models else _nothing
    with Trials(study, settings, wanted, budget, turns) as trials:
        objective = Objective(settings, space, data, budget, Ladder.of_study(study))
        trials.run(objective, ended, orphaned, FusedTrials(objective, settings, space, data, wanted))


def _nothing(_: optuna.Study) -> None:
    """Enqueue nothing before a trial of a search of one model."""
