"""The values of a trial from those of its trainings: metrics of all tasks together, and means over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_msr.evaluation.metrics import find_metric
from recbole_msr.tuning.settings import COSTS
from recbole_msr.tuning.trial_parts import merge_tasks
from recbole_msr.tuning.trial_training import TrialTraining, in_order


def values_by_seed(runs: Sequence[TrialTraining]) -> list[list[float]]:
    """Return the objectives' values of every seed whose trainings have all been validated.

    Where each task has a training of its own, a metric is that of all scenario x task cells together, as for a model of
    all tasks, and a cost is the sum.

    Args:
        runs: trainings of one trial, in their order.

    Raises:
        InputError: an objective has no value.
    """
    return [_values(of_seed) for of_seed in _of_seeds(runs) if all(run.is_validated for run in of_seed)]


def _of_seeds(runs: Sequence[TrialTraining]) -> list[list[TrialTraining]]:
    """Return the trainings of each seed that has begun with all of them."""
    by_seed: dict[int, list[TrialTraining]] = {}
    for run in runs:
        by_seed.setdefault(run.part.index, []).append(run)
    return [of_seed for of_seed in by_seed.values() if of_seed[-1].part.is_last]


def _values(runs: Sequence[TrialTraining]) -> list[float]:
    if len(runs) == 1:
        return runs[0].values()
    evaluation = merge_tasks([run.evaluation for run in runs if run.evaluation is not None])
    values = evaluation.flat()
    keys = {name: find_metric(name, evaluation.keys()) for name in runs[0].search.objectives if name not in COSTS}
    objectives = {name: values[key] for name, key in keys.items() if key in values}
    objectives |= {name: sum(run.costs[name] for run in runs) for name in runs[0].search.objectives if name in COSTS}
    return in_order(runs[0].search, objectives)


def merged_attributes(runs: Sequence[TrialTraining]) -> dict[str, Any]:
    """Return what is kept with a trial of its first seed: costs, history, best epoch and its cells.

    Where each task has a training of its own, costs are sums, the epochs of the history follow each other and name
    their task, the best epoch is the first task's, and the cells are those of all tasks that have been validated.

    Args:
        runs: trainings of one trial, in their order.
    """
    of_seed = [run for run in runs if run.part.index == 0]
    attributes = of_seed[0].attributes()
    if of_seed[0].part.task is None:
        return attributes
    attributes |= {name: sum(run.costs[name] for run in of_seed) for name in of_seed[0].costs}
    rows = [{**row, "task": run.part.task} for run in of_seed for row in run.history]
    attributes["history"] = [{**row, "epoch": number} for number, row in enumerate(rows, 1)]
    validated = [run.evaluation for run in of_seed if run.evaluation is not None]
    if validated:
        attributes["valid"] = merge_tasks(validated).to_dict()
    return attributes
