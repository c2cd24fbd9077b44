"""The settings that a study's trials have tried, and those that are left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from recbole_msr.tuning.drawing import MOST_POINTS, key_of, points, settings_key
from recbole_msr.tuning.space.space import Space
from recbole_msr.tuning.study_view import params_of
from recbole_msr.tuning.trial_state import counts


class KnownTrials:
    """Compares the settings of trials; those of a finished one are found once.

    Args:
        space: the search space.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._keys: dict[int, str | None] = {}
        self._points: dict[str, dict[str, dict[str, Any]] | None] = {}

    def points(self, given: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
        """Return the parameters of all points by the key of their settings; None where these are too many.

        Args:
            given: parameters that the points have.
        """
        name = settings_key(given)
        if name not in self._points:
            self._points[name] = points(self._space, given) if _may_be_counted(self._space, given) else None
        return self._points[name]

    def key(self, params: Mapping[str, Any]) -> str | None:
        """Return the key of the settings that parameters give; None where they do not give all of them."""
        return key_of(self._space, params) if params else None

    def key_of_trial(self, trial: FrozenTrial) -> str | None:
        """Return the key of a trial's settings; None where not all of its parameters are known."""
        if trial.number not in self._keys:
            key = self.key(params_of(trial))
            if not trial.state.is_finished():
                return key
            self._keys[trial.number] = key
        return self._keys[trial.number]

    def has_failed(self, trial: FrozenTrial) -> bool:
        """Return whether a trial has failed by itself, with all its parameters drawn."""
        return trial.state == TrialState.FAIL and counts(trial) and self.key_of_trial(trial) is not None

    def by_key(self, trials: Sequence[FrozenTrial]) -> dict[str, FrozenTrial]:
        """Return the first trial of every key: those that count and have ended, that run, or that are next."""
        first: dict[str, FrozenTrial] = {}
        for trial in trials:
            if counts(trial):
                key = self.key_of_trial(trial)
                if key is not None:
                    first.setdefault(key, trial)
        return first

    def repeated(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
        """Return a trial with the same settings that has ended and counts, or began earlier; None without one."""
        key = self.key_of_trial(trial)
        if key is None:
            return None

        def is_before(other: FrozenTrial) -> bool:
            return other.state.is_finished() or (other.state == TrialState.RUNNING and other.number < trial.number)

        others = (other for other in trials if other.number != trial.number and counts(other) and is_before(other))
        return next((other for other in others if self.key_of_trial(other) == key), None)

    def is_exhausted(self, trials: Sequence[FrozenTrial], given: Mapping[str, Any]) -> bool:
        """Return whether every point of the space with the given parameters has been tried, or is under way."""
        every = self.points(given)
        return every is not None and every.keys() <= self.by_key(trials).keys()


def _may_be_counted(space: Space, given: Mapping[str, Any]) -> bool:
    """Return whether it is worth counting the points: the parameters that every trial has do not give too many."""
    always = [parameter for parameter in space.parameters if not parameter.when and parameter.name not in given]
    if any(parameter.is_endless for parameter in always):
        return False
    listed = [parameter.grid() or {} for parameter in always]
    return math.prod(len(values) for grid in listed for values in grid.values()) <= MOST_POINTS
