"""Models of one task in a search over several models: trained once a task, with results merged over the tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial

from recbole_msr.evaluation.cells import Evaluation
from recbole_msr.evaluation.metrics import find_metric
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.trial_parts import merge_tasks, tasks_of


def final_tasks(settings: SearchSettings, trial: FrozenTrial) -> list[str | None]:
    """Return the task of each training of a trial's configuration: None for one training of all tasks, or one a task.

    The main task is the first of them.

    Args:
        settings: the search.
        trial: the trial.
    """
    return tasks_of(settings, trial.user_attrs.get("settings", {}))


def merged(settings: SearchSettings, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the results of one seed's trainings as those of one training; the first task's stand for the others'.

    Args:
        settings: the search.
        results: the content of result.json or validated.json of each training.
    """
    first = results[0]
    if len(results) == 1:
        return first
    whole = dict(first)
    for split in ("valid", "test"):
        if split in first:
            evaluation = merge_tasks([Evaluation.from_dict(result[split]) for result in results])
            whole[split] = {"metrics": first[split]["metrics"], **evaluation.to_dict()}
    values = Evaluation.from_dict(whole["valid"]).flat()
    whole["best_valid_score"] = values[find_metric(settings.quality, list(values)) or settings.quality]
    return whole
