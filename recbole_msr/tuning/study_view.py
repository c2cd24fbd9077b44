"""A study as its sampler sees it: failed trials among those to learn from, and only the trials of one model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

DRAWN = "drawn"
"""System attribute of a trial: all parameters drawn for it, from the moment on in which it is handed out."""
_CONSTRAINT = "constraints:has failed"  # as Optuna keeps the constraint "has failed": above 0 where it is violated


class StudyView(Study):
    """A study that shows its sampler other trials than it holds, and keeps what the sampler notes until it is wanted.

    Args:
        study: the study.
        trials: the trials to show.
        scope: what is added to the keys of attributes that a sampler keeps with the study.

    Attributes:
        noted: attributes that the sampler has set for trials: trial id -> key -> value.
    """

    def __init__(self, study: Study, trials: Sequence[FrozenTrial], scope: str = "") -> None:
        self.study_name, self._study_id, self._directions = study.study_name, study._study_id, study._directions
        self.sampler, self.pruner = study.sampler, study.pruner
        self._thread_local, self._stop_flag = study._thread_local, False
        self._shown = list(trials)
        self._storage: Any = _Notes(study._storage, scope)

    @property
    def noted(self) -> Mapping[int, Mapping[str, Any]]:
        """Return the attributes that the sampler has set for trials."""
        noted: Mapping[int, Mapping[str, Any]] = self._storage.noted
        return noted

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = [trial for trial in self._shown if states is None or trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials


class _Notes:
    """A storage that keeps the attributes of trials to itself, and gives those of the study a scope of their own."""

    def __init__(self, storage: Any, scope: str) -> None:
        self._storage, self._scope = storage, scope
        self.noted: dict[int, dict[str, Any]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.noted.setdefault(trial_id, {})[key] = value

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._storage.set_study_system_attr(study_id, self._scope + key, value)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        attributes: dict[str, Any] = self._storage.get_study_system_attrs(study_id)
        length = len(self._scope)
        return {key[length:]: value for key, value in attributes.items() if key.startswith(self._scope)}


def is_shown_as_failed(trial: FrozenTrial) -> bool:
    """Return whether `as_learnt` shows a trial as one that has failed."""
    return float(trial.system_attrs.get(_CONSTRAINT, -1.0)) > 0


def params_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return a trial's parameters: those given to it, those drawn for it, and those that it has asked for."""
    attributes = trial.system_attrs
    return {**attributes.get(DRAWN, {}), **(attributes.get("fixed_params") or {}), **trial.params}


def of_choice(trials: Sequence[FrozenTrial], chosen: Mapping[str, Any]) -> list[FrozenTrial]:
    """Return the trials that have these parameters."""
    return [trial for trial in trials if all(params_of(trial).get(key) == value for key, value in chosen.items())]


def as_learnt(
    trials: Sequence[FrozenTrial],
    directions: Sequence[StudyDirection],
    has_failed: Callable[[FrozenTrial], bool],
    chosen: Mapping[str, Any],
) -> list[FrozenTrial]:
    """Return the trials that a sampler learns from.

    A failed trial becomes a complete one with the worst values of all, which violates a constraint: samplers that know
    constraints put it behind all others, and those that do not still find it bad. The study itself keeps it as failed.

    Args:
        trials: the trials of the study.
        directions: of its objectives.
        has_failed: whether a trial has failed by itself, with all its parameters drawn.
        chosen: parameters that are given, not drawn: only trials with these values are returned, and without them.
    """
    alike = of_choice(trials, chosen)
    failed = {trial.number for trial in alike if has_failed(trial)}
    if not failed and not chosen:
        return alike
    values = [trial.values for trial in alike if trial.state == TrialState.COMPLETE and trial.values]
    worst = (
        [
            (max if direction == StudyDirection.MINIMIZE else min)(column)
            for direction, column in zip(directions, zip(*values, strict=True), strict=True)
        ]
        if values
        else [0.0] * len(directions)
    )
    return [_shown(trial, chosen, bool(failed), worst if trial.number in failed else None) for trial in alike]


def _shown(
    trial: FrozenTrial, chosen: Mapping[str, Any], constrained: bool, as_failed: list[float] | None
) -> FrozenTrial:
    shown = copy.copy(trial)
    if chosen:
        shown._params = {name: value for name, value in trial.params.items() if name not in chosen}
        shown._distributions = {name: kind for name, kind in trial.distributions.items() if name not in chosen}
    if constrained and (as_failed is not None or trial.state in (TrialState.COMPLETE, TrialState.PRUNED)):
        shown._system_attrs = {**trial.system_attrs, _CONSTRAINT: -1.0 if as_failed is None else 1.0}
    if as_failed is not None:
        shown.state, shown._values = TrialState.COMPLETE, list(as_failed)
    return shown
