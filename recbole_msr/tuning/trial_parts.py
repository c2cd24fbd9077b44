"""The trainings that a trial consists of: one for each seed, and of a single-task model one for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recbole_msr import registry
from recbole_msr.evaluation.cells import Evaluation
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.trial_settings import trial_model


@dataclass(frozen=True)
class Part:
    """One of the trainings that a trial consists of.

    Attributes:
        seed: its seed.
        index: the number of its seed, from 0.
        task: the task that it learns; None for all of them, or that of a search of one single-task model.
        number: the number of its task, from 1; 0 without one.
        is_last: whether it is the last one of its seed.
    """

    seed: int
    index: int = 0
    task: str | None = None
    number: int = 0
    is_last: bool = True

    @property
    def folder(self) -> str:
        """Return the name of its folder below the trial's."""
        return f"seed-{self.seed}" + (f"-task-{self.number}" if self.task is not None else "")

    @property
    def keys(self) -> dict[str, Any]:
        """Return its own configuration keys."""
        return {"seed": self.seed} | ({"main_task": self.task} if self.task is not None else {})


def tasks_of(settings: SearchSettings, sampled: Mapping[str, Any]) -> list[str | None]:
    """Return the task of each training of one seed, the main task first; [None] for one training of all tasks.

    In a search over several models a model of one task is trained once for each task.

    Args:
        settings: the search.
        sampled: the sampled keys of a trial.
    """
    if not settings.models or hasattr(registry.model_class(trial_model(settings, sampled)), "predict_tasks"):
        return [None]
    return list(settings.tasks)


def parts_of(settings: SearchSettings, sampled: Mapping[str, Any]) -> list[Part]:
    """Return the trainings of a trial, in their order: seed by seed, and for each seed task by task.

    Args:
        settings: the search.
        sampled: its sampled keys.
    """
    first, tasks = int(settings.config["seed"]), tasks_of(settings, sampled)
    return [
        Part(first + index, index, task, 0 if task is None else number, number == len(tasks))
        for index in range(settings.trial_seeds)
        for number, task in enumerate(tasks, 1)
    ]


def merge_tasks(parts: Sequence[Evaluation]) -> Evaluation:
    """Merge the evaluations of trainings of one task each into that of all tasks; the first one's main task is its.

    Args:
        parts: the evaluations, on the rows of the same scenarios.
    """
    pooled = {task: cell for part in parts for task, cell in part.pooled.items()}
    cells, segments = (
        {name: {task: cell for rows in of_parts for task, cell in rows[name].items()} for name in of_parts[0]}
        for of_parts in ([part.cells for part in parts], [part.segments for part in parts])
    )
    return Evaluation(parts[0].main_task, pooled, cells, segments)
