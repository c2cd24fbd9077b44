"""Confirmation: the best trials are trained again with fresh seeds, and the best of them by validation is tested.

A trial's value is the best of many, on the seed by which it was chosen: it is optimistic. Fresh seeds say what it is
worth, and which of the best is the best; the best defaults of all models are among them. Only then the test split is
read, by the winner, its model's defaults and the reference; candidates that lose are never tested.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from recbole_msr.evaluation.cells import Evaluation
from recbole_msr.evaluation.metrics import find_metric
from recbole_msr.jobs.spread import spread
from recbole_msr.tuning.budget import Budget, Plan
from recbole_msr.tuning.final import Wanted, train_finals
from recbole_msr.tuning.final_folders import fresh_seeds, is_over, read_final, tested_trials
from recbole_msr.tuning.final_workers import Run
from recbole_msr.tuning.gain import gains
from recbole_msr.tuning.outcome import (
    FinalTest,
    beside_trials,
    choose,
    contenders,
    defaults_trial,
    final_spreads,
    reference_trial,
)
from recbole_msr.tuning.settings import COSTS, SearchSettings
from recbole_msr.tuning.study_data import StudyData
from recbole_msr.tuning.trial_state import values_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """One of the best trials, with what fresh seeds made of it.

    Attributes:
        trial: the trial.
        told: its validation value as a trial.
        fresh: seed -> its validation value with that seed.
        values: seed -> the values of all objectives.
    """

    trial: FrozenTrial
    told: float
    fresh: Mapping[int, float]
    values: Mapping[int, Sequence[float]]


@dataclass
class Confirmation:
    """What came of the confirmation and the final test.

    Attributes:
        winner: the trial that was confirmed; the best one by its own value where nothing could be trained again.
        candidates: the trials that were trained again, the best by their own values first.
        seeds: the fresh seeds by which the winner was chosen.
        tests: the final tests by trial.
        defaults, reference: the trials of the winner model's defaults, and of the best defaults of all models.
        failed: why a training is not there.
        left_out: what the time did not allow, in a sentence; None if it allowed all.
        tested_before: trials that earlier commands tested, and that are not among those tested now.
        gain: what `gain.gains` returns.
    """

    winner: FrozenTrial
    candidates: Sequence[Candidate] = ()
    seeds: Sequence[int] = ()
    tests: Mapping[int, FinalTest] = field(default_factory=dict)
    defaults: FrozenTrial | None = None
    reference: FrozenTrial | None = None
    failed: Mapping[Run, str] = field(default_factory=dict)
    left_out: str | None = None
    tested_before: Sequence[int] = ()
    gain: Mapping[str, Any] = field(default_factory=dict)

    @property
    def won(self) -> Candidate | None:
        """Return the winner as a candidate; None where it has no value with fresh seeds."""
        of_winner = (one for one in self.candidates if one.trial.number == self.winner.number and one.fresh)
        return next(of_winner, None)

    def sentence(self, settings: SearchSettings) -> str | None:
        """Return how fresh seeds confirmed the winner, for best.yaml; None where they did not.

        Args:
            settings: the search.
        """
        won = self.won
        if won is None:
            return None
        values = [won.fresh[seed] for seed in self.seeds]
        text = f"{settings.quality} {statistics.mean(values):.6g} on average with the seeds {_listed(self.seeds)}"
        others = sum(bool(one.fresh) for one in self.candidates)
        return f"Trained again, it has {text}" + (f", the best of {others} trials." if others > 1 else ".")

    def describe_failures(self) -> dict[str, str]:
        """Return the reason of each training that is not there, by words that name it."""
        return {self._name(run): reason for run, reason in self.failed.items()}

    def _name(self, run: Run) -> str:
        number, seed = run
        if number == self.winner.number:
            return f"{seed}"
        for what, trial in (("defaults", self.defaults), ("reference", self.reference)):
            if trial is not None and trial.number == number:
                return f"{seed}, {what}"
        return f"{seed}, trial {number}"

    def summary(self, settings: SearchSettings, study: optuna.Study) -> dict[str, Any]:
        """Return its part of summary.json.

        Args:
            settings: the search.
            study: its study.
        """
        smaller = study.directions[settings.objectives.index(settings.quality)] == StudyDirection.MINIMIZE
        sign = -1.0 if smaller else 1.0
        won = self.won
        described = [_described(one, settings, self.seeds, sign) for one in self.candidates]
        of_winner = next((one for one in described if won is not None and one["trial"] == won.trial.number), None)
        return {
            "confirmation": {
                "metric": settings.quality,
                "seeds": list(self.seeds),
                "winner": self.winner.number,
                "told": of_winner["told"] if of_winner else None,
                "confirmed": of_winner["confirmed"] if of_winner else None,
                "optimism": of_winner["optimism"] if of_winner else None,
                "candidates": described,
                "left_out": self.left_out,
                "tested_before": list(self.tested_before),
                "gain": {"defaults": None, "reference": None, **self.gain},
            },
            "final": self._spreads(self.winner),
            "final_defaults": self._spreads(self.defaults),
            "final_reference": self._spreads(self.reference),
            "final_failures": self.describe_failures(),
        }

    def _spreads(self, trial: FrozenTrial | None) -> dict[str, Any] | None:
        test = self.tests.get(trial.number) if trial is not None else None
        return final_spreads(test) if test is not None else None


def confirm(
    settings: SearchSettings, study: optuna.Study, data: StudyData, budget: Budget, progress: bool
) -> Confirmation | None:
    """Train the best trials again with fresh seeds, choose by validation, and test the winner beside the defaults.

    What earlier commands have trained is not trained again.

    Args:
        settings: the search.
        study: its study.
        data: its data.
        budget: the command's time.
        progress: show a progress bar.

    Returns:
        What came of it; None where there is no best trial, or nothing is to be tested.
    """
    found = contenders(study, settings) if settings.final_seeds else []
    if not found:
        return None
    plan, failed = _retrain(settings, study, data, budget, found, progress)
    if not plan.candidates:
        return Confirmation(found[0], left_out=_left_out(settings, plan, len(found)))
    seeds, chosen = fresh_seeds(settings)[: plan.seeds], found[: plan.candidates]
    candidates = [_candidate(settings, trial, seeds) for trial in chosen]
    winner, common = _winner(settings, study, candidates) if len(chosen) > 1 else (chosen[0], seeds)
    confirmation = Confirmation(
        winner,
        candidates,
        common,
        defaults=defaults_trial(study, True, winner.user_attrs.get("model", settings.model)),
        reference=reference_trial(study, settings),
        failed=failed,
    )
    if len(chosen) == 1:  # trained and tested in one step
        plan = _test(settings, study, data, budget, confirmation, plan, None, progress)
        confirmation.candidates = [_candidate(settings, winner, fresh_seeds(settings)[: plan.seeds])]
        confirmation.seeds = list(confirmation.candidates[0].fresh)
    elif confirmation.won is not None:
        _test(settings, study, data, budget, confirmation, plan, list(confirmation.won.fresh), progress)
    confirmation.left_out = _left_out(settings, plan, len(found))
    return confirmation


def _retrain(
    settings: SearchSettings,
    study: optuna.Study,
    data: StudyData,
    budget: Budget,
    found: Sequence[FrozenTrial],
    progress: bool,
) -> tuple[Plan, dict[Run, str]]:
    """Train candidates with fresh seeds, and more of them where those took less time than estimated.

    A single one has nothing to be chosen from: it is trained when it is tested.

    Returns:
        What has been done, and why a training is not there.
    """
    failed: dict[Run, str] = {}
    plan = _plan(settings, study, budget, found)
    while plan.candidates > 1:
        seeds = fresh_seeds(settings)[: plan.seeds]
        wanted = [Wanted(trial, seeds, False) for trial in found[: plan.candidates]]
        failed = train_finals(settings, study, wanted, data, budget, "confirmation", progress)
        more = _plan(settings, study, budget, found)
        if failed or more <= plan:
            break
        plan = more
    return plan, failed


def _plan(settings: SearchSettings, study: optuna.Study, budget: Budget, found: Sequence[FrozenTrial]) -> Plan:
    """Plan what the time allows; what is there already takes none."""
    return budget.plan(found, lambda winner: beside_trials(study, settings, winner))


def _test(
    settings: SearchSettings,
    study: optuna.Study,
    data: StudyData,
    budget: Budget,
    confirmation: Confirmation,
    plan: Plan,
    own: Sequence[int] | None,
    progress: bool,
) -> Plan:
    """Test the winner, and what stands beside it with the plan's seeds; nothing else is tested.

    Args:
        settings: the search.
        study: its study.
        data: its data.
        budget: the command's time.
        confirmation: what came of the confirmation; the tests are added.
        plan: what fits into the time.
        own: the winner's seeds; None for the plan's, of which there are more where tests took less time than estimated.
        progress: show a progress bar.

    Returns:
        What has been done.
    """
    winner = confirmation.winner
    _tell_earlier_tests(settings, study, confirmation)
    while True:
        seeds = fresh_seeds(settings)[: plan.seeds]
        beside = beside_trials(study, settings, winner) if plan.beside else []
        wanted = [
            Wanted(winner, seeds if own is None else own, True),
            *(Wanted(trial, seeds, True) for trial in beside),
        ]
        failed = train_finals(settings, study, wanted, data, budget, "final test", progress)
        more = plan if own is not None or failed else _plan(settings, study, budget, [winner])
        if more <= plan:
            break
        plan = more
    confirmation.failed = {**confirmation.failed, **failed}
    ended = {
        wish.trial.number: [seed for seed in wish.seeds if is_over(settings, wish.trial, seed, True)] for wish in wanted
    }
    confirmation.tests = {
        wish.trial.number: FinalTest(
            wish.trial.number,
            [read_final(settings, wish.trial, seed, True) for seed in ended[wish.trial.number]],
            {seed: reason for (number, seed), reason in failed.items() if number == wish.trial.number},
        )
        for wish in wanted
    }
    others = {"defaults": confirmation.defaults, "reference": confirmation.reference}
    confirmation.gain = gains(settings, data.config, winner, others, ended)
    return plan


def _tell_earlier_tests(settings: SearchSettings, study: optuna.Study, confirmation: Confirmation) -> None:
    """Note and say which trials earlier commands have tested that this one does not."""
    others = (*beside_trials(study, settings, confirmation.winner), confirmation.defaults, confirmation.reference)
    tested_now = {trial.number for trial in (confirmation.winner, *others) if trial is not None}
    confirmation.tested_before = sorted(set(tested_trials(settings)) - tested_now)
    if confirmation.tested_before:
        logger.warning(
            "the test rows have been read before, by trial %s: choose the number of trials before the first test",
            _listed(confirmation.tested_before),
        )


def _candidate(settings: SearchSettings, trial: FrozenTrial, seeds: Sequence[int]) -> Candidate:
    told = values_of(trial) or []
    results = {
        seed: read_final(settings, trial, seed, False) for seed in seeds if is_over(settings, trial, seed, False)
    }
    return Candidate(
        trial,
        told[settings.objectives.index(settings.quality)],
        {seed: float(result["best_valid_score"]) for seed, result in results.items()},
        {seed: _objectives(settings, told, result) for seed, result in results.items()},
    )


def _objectives(settings: SearchSettings, told: Sequence[float], result: Mapping[str, Any]) -> list[float]:
    """Return the objectives' values of a training: metrics of its best epoch; costs are the trial's."""
    of_recbole = {name: one for name, one in result["valid"]["metrics"].items() if one is not None}
    values: dict[str, float] = {**of_recbole, **Evaluation.from_dict(result["valid"]).flat()}

    def value(name: str, of_trial: float) -> float:
        if name in COSTS:
            return of_trial
        if name == settings.quality:
            return float(result["best_valid_score"])
        return values.get(find_metric(name, list(values)) or name, of_trial)

    return [value(name, of_trial) for name, of_trial in zip(settings.objectives, told, strict=True)]


def _winner(
    settings: SearchSettings, study: optuna.Study, candidates: Sequence[Candidate]
) -> tuple[FrozenTrial, list[int]]:
    """Choose the best by the mean over the seeds that the candidates have in common.

    A candidate is left out that has none of the seeds of those before it: means over other seeds do not compare.
    """
    common: list[int] = []
    compared: list[Candidate] = []
    for one in candidates:
        seeds = [seed for seed in common if seed in one.fresh] if compared else list(one.fresh)
        if seeds:
            common, compared = seeds, [*compared, one]
    if not compared:
        return candidates[0].trial, []
    means = {
        one.trial.number: [statistics.mean(values) for values in zip(*(one.values[s] for s in common), strict=True)]
        for one in compared
    }
    best = choose(study.directions, means, settings.tolerance)
    return next(one.trial for one in compared if one.trial.number == best), common


def _described(one: Candidate, settings: SearchSettings, seeds: Sequence[int], sign: float) -> dict[str, Any]:
    values = spread([one.fresh[seed] for seed in seeds if seed in one.fresh])
    return {
        "trial": one.trial.number,
        "model": one.trial.user_attrs.get("model", settings.model),
        "told": one.told,
        "confirmed": values if values["mean"] is not None else None,
        "optimism": sign * (one.told - values["mean"]) if values["mean"] is not None else None,
    }


def _left_out(settings: SearchSettings, plan: Plan, found: int) -> str | None:
    """Say, in the log too, what the time did not allow; None if it allowed all."""
    said = _describe_left_out(settings, plan, min(settings.confirm, found))
    if said is not None:
        logger.warning("%s", said)
    return said


def _describe_left_out(settings: SearchSettings, plan: Plan, most: int) -> str | None:
    if plan == Plan(most, settings.final_seeds, True):
        return None
    if not plan.candidates:
        return "the best trial is not tested: no time was left for it; the same command with more time tests it"
    parts = []
    if plan.candidates < most:
        parts.append(
            f"{plan.candidates} of the {most} candidates {'is' if plan.candidates == 1 else 'are'} trained again"
        )
    if plan.seeds < settings.final_seeds:
        parts.append(f"with {plan.seeds} of {settings.final_seeds} seeds")
    if not plan.beside:
        parts.append("without the defaults beside it")
    return f"the time allows less than was asked for: {', '.join(parts)}"


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
