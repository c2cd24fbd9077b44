"""A sampler that searches close to the best trials, in turn with TPE.

Spaces of architectures have twenty parameters and more, and most of their points are bad: of points drawn at random
nine in ten are worse than the defaults, and TPE needs dozens of trials before it proposes anything better. What is
known to be good (the defaults, first configurations, the best trial so far) lies in a part where a few changes matter.
So most trials take one of the best trials and change a few of its parameters, as evolutionary searches do (Real et al.,
Regularized Evolution for Image Classifier Architecture Search, AAAI 2019, section 3). TPE, which learns from all
trials, draws the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from recbole_msr.tuning.study_view import is_shown_as_failed
from recbole_msr.tuning.trial_state import SO_FAR, best_first

STEPS = (0.05, 0.15, 0.4)
"""Standard deviations of a change of a number, as shares of its range, one of which is drawn."""


class LocalSampler(BaseSampler):
    """Draws one trial: close to one of the best, or by TPE.

    Args:
        seed: of this trial.
        tpe_share: share of the trials that TPE draws, once it has `n_startup_trials`.
        n_startup_trials: trials after which TPE draws some.
        best: number of best trials one of which is changed, each taken half as often as the one before.
        changes: expected number of parameters that change.
        tpe: TPE's options.
    """

    def __init__(
        self,
        seed: int,
        tpe_share: float = 0.4,
        n_startup_trials: int = 10,
        best: int = 3,
        changes: float = 2.0,
        **tpe: Any,
    ) -> None:
        self._rng = np.random.default_rng(seed)
        self._tpe = TPESampler(seed=seed, n_startup_trials=n_startup_trials, **tpe)
        self._random = RandomSampler(seed=seed)
        self._tpe_share, self._startup, self._best, self._changes = tpe_share, n_startup_trials, best, changes
        self._from: FrozenTrial | None = None
        self._changed: frozenset[str] = frozenset()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Choose the trial to change; return TPE's search space where there is none."""
        self._choose(study)
        return {} if self._from is not None else self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        """Return TPE's parameters where TPE draws this trial; the others are changed one by one."""
        return {} if self._from is not None else self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        """Return a parameter of the chosen trial, changed or not; one that it lacks is drawn at random."""
        if self._from is None:
            return self._tpe.sample_independent(study, trial, param_name, param_distribution)
        kept = self._from.params.get(param_name)
        if param_name not in self._from.params or not _contains(param_distribution, kept):
            return self._random.sample_independent(study, trial, param_name, param_distribution)
        return self._change(kept, param_distribution) if param_name in self._changed else kept

    def _choose(self, study: Study) -> None:
        """Choose the trial that is changed, and what; none where TPE draws, or where no trial has a value."""
        self._from, self._changed = None, frozenset()
        trials = study._get_trials(deepcopy=False)
        valued = _by_value(trials, study.directions)
        if not valued or (len(trials) >= self._startup and self._rng.random() < self._tpe_share):
            return
        first = valued[: self._best]
        weights = np.array([0.5**rank for rank in range(len(first))])
        self._from = first[int(self._rng.choice(len(first), p=weights / weights.sum()))]
        names = [name for name, kind in self._from.distributions.items() if not kind.single()]
        if names:
            count = 1 + int(self._rng.poisson(max(self._changes - 1.0, 0.0)))
            self._changed = frozenset(self._rng.choice(names, min(count, len(names)), replace=False).tolist())

    def _change(self, value: Any, kind: Any) -> Any:
        if isinstance(kind, CategoricalDistribution):
            return _other_choice(value, kind.choices, self._rng)
        return _other_number(value, kind, self._rng)


def _by_value(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> list[FrozenTrial]:
    """Return the trials with a value of training on all rows, the best first; none with several objectives."""
    if len(directions) > 1:
        return []
    ended = (trial for trial in trials if trial.state.is_finished() and not is_shown_as_failed(trial))
    full = (trial for trial in ended if trial.state == TrialState.COMPLETE or trial.user_attrs.get(SO_FAR) is not None)
    return best_first(full, 0, directions[0])


def _contains(kind: Any, value: Any) -> bool:
    """Return whether a distribution has a value."""
    if isinstance(kind, CategoricalDistribution):
        return value in kind.choices
    return isinstance(value, (int, float)) and bool(kind.low <= value <= kind.high)


def _other_choice(value: Any, choices: Sequence[Any], rng: np.random.Generator) -> Any:
    """Return another choice; of numbers in order mostly a neighbour."""
    numbers = all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in choices)
    place = choices.index(value)
    if numbers and list(choices) == sorted(choices) and rng.random() < 0.8:
        beside = [choices[other] for other in (place - 1, place + 1) if 0 <= other < len(choices)]
    else:
        beside = [other for index, other in enumerate(choices) if index != place]
    return beside[int(rng.integers(len(beside)))] if beside else value


def _other_number(value: float, kind: Any, rng: np.random.Generator) -> float | int:
    """Return a number at a normal distance on the distribution's scale; with a step, at least a step away."""
    low, high = (math.log(kind.low), math.log(kind.high)) if kind.log else (float(kind.low), float(kind.high))
    at = math.log(value) if kind.log else float(value)
    moved = at + float(rng.choice(STEPS)) * (high - low) * float(rng.normal())
    if moved < low or moved > high:  # reflected, so that a border is not drawn more often than what is beside it
        moved = 2 * (low if moved < low else high) - moved
    moved = min(max(moved, low), high)
    found = math.exp(moved) if kind.log else moved
    if kind.step is None:
        return float(min(max(found, kind.low), kind.high))
    found = kind.low + kind.step * round((found - kind.low) / kind.step)
    if math.isclose(found, value):
        way = 1 if rng.random() < 0.5 else -1
        beside = [value + sign * kind.step for sign in (way, -way)]
        found = next((one for one in beside if kind.low <= one <= kind.high + 1e-9 * abs(kind.step)), value)
    found = min(max(found, kind.low), kind.high)
    return round(found) if isinstance(kind.low, int) else float(found)
