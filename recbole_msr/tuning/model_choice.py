"""Which model the next trial of a search over several is of: halving over models, by time.

Every model is looked at with its defaults, the cheapest first. Then the budget has rounds of equal length: in the first
one all models take part, in each further one the better half of those of the round before, in the last one the best
alone, judged by their best values; one that is as good within the tolerance stays, too (sequential halving: Karnin,
Koren and Somekh, Almost Optimal Exploration in Multi-Armed Bandits, ICML 2013, here over models as arms whose best
value counts). In a round the next trial goes to the model that has had the least time so far, so all get the same
time, cheap ones more trials; but a model of the round that has had its defaults alone comes first: its first
configuration may be worth more than many trials of a cheaper model.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial, TrialState

from recbole_msr.tuning.space.joint import MODEL
from recbole_msr.tuning.study_view import params_of
from recbole_msr.tuning.trial_state import SO_FAR, counts

FIRST_LOOK = 0.5
"""Largest share of the time that is left which a model's first trial may take, its defaults, and its second one."""


@dataclass
class Record:
    """What is known of a model's trials.

    Attributes:
        values: their values, in the order in which they began; larger is better.
        seconds: seconds of each that has ended well.
        ended: number of all that have ended, those without a value among them.
        running: number of those that run.
    """

    values: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    ended: int = 0
    running: int = 0

    @property
    def begun(self) -> int:
        """Return the number of trials that have begun."""
        return self.ended + self.running


def model_of(trial: FrozenTrial) -> str | None:
    """Return the model of a trial in any state; None where it is not known yet."""
    model = trial.user_attrs.get("model", params_of(trial).get(MODEL))
    return None if model is None else str(model)


def records(
    trials: Sequence[FrozenTrial], models: Sequence[str], objective: int = 0, smaller: bool = False
) -> dict[str, Record]:
    """Return what is known of each model.

    Args:
        trials: all trials of the study.
        models: names of the models.
        objective: which of a trial's values judges.
        smaller: whether smaller values are better.
    """
    found = {model: Record() for model in models}
    for trial in trials:
        record = found.get(model_of(trial) or "")
        if record is None or trial.state == TrialState.WAITING:
            continue
        if not trial.state.is_finished():
            record.running += 1
        elif counts(trial):
            _note(record, trial, objective, -1.0 if smaller else 1.0)
    return found


def _note(record: Record, trial: FrozenTrial, objective: int, sign: float) -> None:
    """Add a trial that has ended; one that was pruned counts with the best of its epochs on all data."""
    values = trial.values if trial.state == TrialState.COMPLETE else trial.user_attrs.get(SO_FAR)
    record.ended += 1
    if trial.state != TrialState.FAIL and "seconds" in trial.user_attrs:
        record.seconds.append(float(trial.user_attrs["seconds"]))
    if values is not None and trial.state != TrialState.FAIL:
        record.values.append(sign * float(values[objective]))


class ModelChoice:
    """Chooses the model of the next trial.

    Args:
        costs: for every model an estimate of the seconds of a trial, by which first looks are ordered; those of one
            model relative to another's count, once a trial has ended.
        tolerance: as `survivors` takes it.
    """

    def __init__(self, costs: Mapping[str, float], tolerance: float = 0.0) -> None:
        self._costs, self._tolerance = dict(costs), tolerance

    def __call__(self, known: Mapping[str, Record], left: float | None = None, done: float = 0.0) -> str:
        """Return a model.

        Args:
            known: what is known of each model (`records`).
            left: seconds that are left for trials; None without a limit.
            done: share of the budget that is spent, from 0 to 1.
        """
        seconds = self.seconds(known)
        cheapest = min(self._costs, key=lambda model: seconds[model])
        begun = [model for model in self._costs if known[model].begun]
        if not begun:
            return cheapest
        most = math.inf if left is None else FIRST_LOOK * left
        looks = [model for model in self._costs if model not in begun and seconds[model] <= most]
        if looks:
            return min(looks, key=lambda model: seconds[model])
        fitting = [model for model in begun if left is None or seconds[model] <= left]
        if not fitting:
            return cheapest  # its best epoch up to the end may still be the best
        ranked = [model for model in survivors(known) if model in fitting]
        stay = [model for model in survivors(known, done, self._tolerance) if model in fitting] or ranked[:1]
        seen_once = [model for model in stay if known[model].begun < 2 and seconds[model] <= most]
        if seen_once:
            return min(seen_once, key=lambda model: seconds[model])
        return min(stay, key=lambda model: (_spent(known[model], seconds[model]), seconds[model]))

    def seconds(self, known: Mapping[str, Record]) -> dict[str, float]:
        """Return the seconds that a trial of each model takes: the median so far, or an estimate."""
        measured = {model: statistics.median(known[model].seconds) for model in self._costs if known[model].seconds}
        ratios = [seconds / self._costs[model] for model, seconds in measured.items() if self._costs[model] > 0]
        pace = statistics.median(ratios) if ratios else 1.0
        return {model: max(measured.get(model, pace * cost), 1e-9) for model, cost in self._costs.items()}


def survivors(known: Mapping[str, Record], done: float = 0.0, tolerance: float = 0.0) -> list[str]:
    """Return the models that are still in the race, the best first; those without a value come last.

    Args:
        known: what is known of each model.
        done: share of the budget that is spent, from 0 to 1.
        tolerance: how much worse than the last of a round's models a further one may be; there are at most as many
            further ones. A model with few trials is not out because another seed was luckier.
    """
    ranked = sorted(known, key=lambda model: -_best(known[model]))
    rounds = math.ceil(math.log2(len(ranked))) + 1
    this = min(int(done * rounds), rounds - 1)
    count = math.ceil(len(ranked) / 2**this)
    limit = _best(known[ranked[count - 1]]) - tolerance
    return ranked[:count] + [model for model in ranked[count : 2 * count] if _best(known[model]) >= limit > -math.inf]


def _best(record: Record) -> float:
    return max(record.values, default=-math.inf)


def _spent(record: Record, seconds: float) -> float:
    """Return the time that a model has had, that of its failed and its running trials estimated."""
    return sum(record.seconds) + seconds * (record.begun - len(record.seconds))
