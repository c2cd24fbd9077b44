"""What has become of a trial: whether it counts, and its values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

SO_FAR = "values_so_far"
"""Attribute of a trial that has validated an epoch on all data: its best values up to now; None of one that failed."""
KEPT_EPOCHS = "kept_epochs"
"""Attribute of a trial: number of its epochs that its checkpoint has."""
RESUMED = "resumed"
"""Attribute of a trial that went on from a lost one's checkpoint: that one's number."""
EPOCHS_BEFORE = "epochs_before"
"""Attribute of such a trial: number of epochs that it did not train again."""


def counts(trial: FrozenTrial) -> bool:
    """Return whether a trial counts towards `--trials`: a lost trial only if its worker finished it."""
    return "uncounted" not in trial.user_attrs or trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def is_defaults(trial: FrozenTrial | Trial) -> bool:
    """Return whether a trial has a model's defaults, as near as the space holds them."""
    return trial.user_attrs.get("origin") in ("defaults", "near the defaults")


def values_of(trial: FrozenTrial) -> list[float] | None:
    """Return a trial's values; for a trial that was cut off or pruned, its best values up to then.

    A pruned trial that was not validated on all data has the value that it last reported, if any.
    """
    so_far: list[float] | None = trial.user_attrs.get(SO_FAR)
    return trial.values if so_far is None or trial.state == TrialState.COMPLETE else so_far


def best_first(trials: Iterable[FrozenTrial], index: int, direction: StudyDirection) -> list[FrozenTrial]:
    """Return the trials that have a value, the best first; of equal ones the earlier.

    Args:
        trials: the trials.
        index: which of their values counts.
        direction: which of two is better.
    """
    sign = 1 if direction == StudyDirection.MINIMIZE else -1
    found = [(trial, values[index]) for trial in trials if (values := values_of(trial)) is not None]
    valued = [(sign * value, trial.number, trial) for trial, value in found if math.isfinite(value)]
    return [trial for _, _, trial in sorted(valued, key=lambda entry: entry[:2])]


def best_of_each_model(ranked: Sequence[FrozenTrial], most: int) -> list[FrozenTrial]:
    """Return the best trials, and the best of each model that is not among them: models that differ average better.

    Args:
        ranked: the trials, the best first.
        most: number of best trials.
    """
    models = {trial.user_attrs.get("model") for trial in ranked[:most]}
    others: dict[Any, FrozenTrial] = {}
    for trial in ranked[most:]:
        others.setdefault(trial.user_attrs.get("model"), trial)
    return [*ranked[:most], *(trial for model, trial in others.items() if model not in models)]


def is_cut_off(trial: FrozenTrial) -> bool:
    """Return whether a trial was validated, but interrupted or cut off by `--timeout` before it finished."""
    lost = trial.user_attrs.get("uncounted") == "lost"
    return trial.state == TrialState.FAIL and lost and trial.user_attrs.get(SO_FAR) is not None


def is_under_way(trial: FrozenTrial) -> bool:
    """Return whether a trial runs and has validated an epoch."""
    return trial.state == TrialState.RUNNING and trial.user_attrs.get(SO_FAR) is not None


def is_unfinished(trial: FrozenTrial) -> bool:
    """Return whether a trial was validated, but has not come to its end, or not yet: its value may still improve."""
    is_pruned = trial.state == TrialState.PRUNED and trial.user_attrs.get(SO_FAR) is not None
    return is_pruned or is_cut_off(trial) or is_under_way(trial)


def has_succeeded(trial: FrozenTrial) -> bool:
    """Return whether a trial was validated, whatever became of it then."""
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or is_cut_off(trial)
