"""The sampler of a search: one of Optuna's, asked for whole points that are worth a training."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from recbole_msr.tuning.drawing import Drawing, settings_key
from recbole_msr.tuning.failure_risk import FailureRisk
from recbole_msr.tuning.known_trials import KnownTrials
from recbole_msr.tuning.space.space import Space
from recbole_msr.tuning.study_view import DRAWN, StudyView, as_learnt, of_choice

ModelChooser = Callable[[Sequence[FrozenTrial], int], str]
"""Chooses the model of a trial, from the study's other trials (`study_view.params_of` gives the parameters of running
ones, too) and a seed. The same trials and seed must give the same model."""
_RANDOM_DRAWS = 100
_ACCEPTED_RISK = 0.2
"""Probability of failure up to which a point is taken: not 0, as the best settings may lie close to the border."""
MODEL = "model"
"""Name of the parameter that a `ModelChooser` sets."""


class SeededByTrial(BaseSampler):
    """A sampler made anew for every trial, from the study's seed and the trial's place in the sequence of trials.

    So a resumed study does not draw its first trials again, workers do not draw the same, and one worker with the same
    seed gives the same trials: a trial that replaces one whose worker was killed has its place, and later trials have
    the places that they would have had.

    All parameters of a trial are drawn at once. A point whose settings are those of an earlier trial is drawn again.
    Where parameters are given to a trial, only the others are drawn.

    Args:
        build: makes a sampler from a seed.
        seed: the study's seed.
        space: the search space.
        choose_model: chooses the value of the parameter `model` before the others are drawn, which are then drawn by
            what is known of this model alone.
        redraws: how often a point is drawn again that was tried, or is likely to fail.
        shuns_failures: whether points that are likely to fail are drawn again; the sampler learns of failures in any
            case.
    """

    def __init__(
        self,
        build: Callable[[int], BaseSampler],
        seed: int,
        space: Space,
        choose_model: ModelChooser | None = None,
        redraws: int = 10,
        shuns_failures: bool = True,
    ) -> None:
        self._build, self._seed, self._choose_model, self._redraws = build, seed, choose_model, redraws
        self._space, self._shuns_failures = space, shuns_failures
        self.known = KnownTrials(space)
        build(seed)  # wrong options are refused now
        self._drawn: tuple[int, _Point] | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Draw the trial's point; return the distributions of its parameters, but for those that were given."""
        point = self._draw(study, trial)
        self._drawn = trial.number, point
        return point.distributions

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        """Return the trial's point."""
        if self._drawn is None or self._drawn[0] != trial.number:
            self._drawn = trial.number, self._draw(study, trial)
        return self._drawn[1].params

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        """Sample a parameter that the space does not have."""
        seed = _hash(f"{self._seed}/{_place(study, trial)}")
        return self._build(seed).sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Do nothing: the next trial has a seed of its own."""

    def _draw(self, study: Study, trial: FrozenTrial) -> _Point:
        """Draw a trial's point, and keep it with the trial."""
        given = dict(trial.system_attrs.get("fixed_params") or {})
        if self.known.key(given) is not None:  # nothing is left to draw
            return _Point({}, {}, {})
        others = [other for other in _trials(study) if other.number != trial.number]
        name = f"{self._seed}/{_place(study, trial)}"
        if self._choose_model is not None and MODEL not in given:
            chosen = {MODEL: self._choose_model(others, _hash(f"{name}/model"))}
        else:
            chosen = {MODEL: given[MODEL]} if self._choose_model is not None else {}
        shown = self._learnt(study, chosen)
        draw = _Draw(self._space, study, trial, given | chosen, shown, "/".join(map(str, chosen.values())))
        taken = self.known.by_key(others)
        point = self._worthwhile(draw, taken, name, self._risk(others, chosen)) or self._untried(draw, taken, name)
        if point is None and chosen and MODEL not in given:  # all of this model's points have been tried
            point = self._untried(_Draw(self._space, study, trial, given, shown, ""), taken, name)
        if point is None:  # all have been tried: whoever hands out trials sees that it is a repeat
            point = draw(self._build(_hash(name)))
        for key, value in {**point.noted, DRAWN: point.params}.items():
            study._storage.set_trial_system_attr(trial._trial_id, key, value)
        return point

    def _worthwhile(self, draw: _Draw, taken: Mapping[str, Any], name: str, risk: FailureRisk) -> _Point | None:
        """Draw points until one has not been tried and is not likely to fail.

        Returns:
            The point; the one least likely to fail if all are, None if all have been tried.
        """
        least, best = math.inf, None
        for attempt in range(self._redraws + 1):
            point = draw(self._build(_hash(f"{name}/{attempt}" if attempt else name)))
            if point.key in taken:
                continue
            likely = risk(point.params, point.distributions)
            if likely < least:
                least, best = likely, point
            if likely <= _ACCEPTED_RISK:
                break
        return best

    def _risk(self, others: Sequence[FrozenTrial], chosen: Mapping[str, Any]) -> FailureRisk:
        if not self._shuns_failures:
            return FailureRisk([], self.known.has_failed)
        return FailureRisk(of_choice(others, chosen), self.known.has_failed)

    def _untried(self, draw: _Draw, taken: Mapping[str, Any], name: str) -> _Point | None:
        """Return a point that no trial has tried, drawn at random; None where there is none."""
        points = self.known.points(draw.given)
        if points is None:
            drawn = (draw(RandomSampler(seed=_hash(f"{name}/random/{attempt}"))) for attempt in range(_RANDOM_DRAWS))
            return next((point for point in drawn if point.key not in taken), None)
        left = [params for key, params in points.items() if key not in taken]
        return draw.at(random.Random(_hash(f"{name}/untried")).choice(left)) if left else None

    def _learnt(self, study: Study, chosen: Mapping[str, Any]) -> list[FrozenTrial]:
        # Optuna's samplers ask `_get_trials`; a study that a pruner has filtered shows another `get_trials`.
        return as_learnt(study._get_trials(deepcopy=False), study.directions, self.known.has_failed, chosen)


def _trials(study: Study) -> list[FrozenTrial]:
    """Return all trials, of the whole study where a pruner has filtered it."""
    trials: list[FrozenTrial] = study._storage.get_all_trials(study._study_id, deepcopy=False)
    return trials


@dataclass(frozen=True)
class _Point:
    """A point of the space.

    Attributes:
        params: its parameters, without those that were given.
        distributions: theirs.
        noted: attributes that the sampler wants to keep with the trial.
        key: key of its settings.
    """

    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]
    noted: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""


class _Draw:
    """Draws points for a trial.

    Args:
        space: the search space.
        study: the study.
        trial: the trial.
        given: parameters that are not drawn.
        trials: what the sampler learns from.
        scope: what is added to the keys of the attributes that a sampler keeps with the study.
    """

    def __init__(
        self,
        space: Space,
        study: Study,
        trial: FrozenTrial,
        given: Mapping[str, Any],
        trials: Sequence[FrozenTrial],
        scope: str,
    ) -> None:
        self._space, self._study, self._trial, self.given = space, study, trial, given
        self._trials, self._scope = trials, scope

    def __call__(self, sampler: BaseSampler) -> _Point:
        """Draw a point."""
        view, trial = StudyView(self._study, self._trials, self._scope), self._trial
        kinds = sampler.infer_relative_search_space(view, trial)
        together = sampler.sample_relative(view, trial, kinds)

        def take(name: str, kind: BaseDistribution) -> Any:
            if kind.single():
                return kind.to_external_repr(_single(kind))
            if name in together and kinds[name] == kind:
                return together[name]
            return sampler.sample_independent(view, trial, name, kind)

        return self._point(take, view.noted.get(trial._trial_id, {}))

    def at(self, params: Mapping[str, Any]) -> _Point:
        """Return the point with these parameters."""
        return self._point(lambda name, _: params[name], {})

    def _point(self, take: Callable[[str, BaseDistribution], Any], noted: Mapping[str, Any]) -> _Point:
        drawing = Drawing(self.given, take)
        settings = self._space.suggest(drawing)
        return _Point(dict(drawing.params), dict(drawing.distributions), noted, settings_key(settings))


def _place(study: Study, trial: FrozenTrial) -> int:
    """Return a trial's place in the sequence of trials: its number, if no worker was ever killed.

    A trial that replaces another has the other's place, and so has the next one after a trial that was given up before
    it had parameters.
    """
    before = _trials(study)[: trial.number]
    first = trial.user_attrs.get("retry_of")
    if first is not None:
        before = before[: int(first)]
    return sum("replaces" not in earlier.user_attrs and not _never_began(earlier) for earlier in before)


def _never_began(trial: FrozenTrial) -> bool:
    return "uncounted" in trial.user_attrs and not trial.params and "fixed_params" not in trial.system_attrs


def _hash(text: str) -> int:
    """Return a seed."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")


def _single(kind: BaseDistribution) -> float:
    """Return Optuna's number of the only value that a distribution has."""
    return 0.0 if isinstance(kind, CategoricalDistribution) else float(kind.low)  # type: ignore[attr-defined]
