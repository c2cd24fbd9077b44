"""Which model the next trial of a search over several is of: the one that promises most for its time.

Every model is looked at with its defaults, the cheapest first, and then with a second trial where that is quick, as its
defaults may be bad on these data. From then on the next trial goes to the model with the largest

    expected improvement / sqrt(1 + trials without gain) / seconds of a trial

The expected improvement is that of one more value of the model over the best value of all models so far. The next value
is taken to have Student's t distribution: the predictive distribution of a normal distribution whose mean and variance
are unknown (Gelman et al., Bayesian Data Analysis, section 3.3), with a weak prior that the other models give. Its
centre is the median of the model's values, and its spread comes from those above the median: settings that fail badly
say nothing about how good the model can get. Trials without gain are those since the model's own best, and those that
run: a model that brings nothing new makes way for the others, and several workers do not all take the same.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial, TrialState
from scipy.special import gammaln, stdtr

from recbole_msr.tuning.space.joint import MODEL
from recbole_msr.tuning.study_view import params_of
from recbole_msr.tuning.trial_state import SO_FAR, counts

LOOKS = (0.5, 0.05)
"""Largest shares of the time that is left which a model's first trial may take, its defaults, and its second one."""
_PRIOR_VALUES = 0.5
"""Number of values that the other models' median counts for."""
_PRIOR_SPREADS = 8.0
"""Number of values that the other models' spread counts for."""
_PRIOR_FREEDOM = 3.0
"""Degrees of freedom before the first value: few, as surprises happen."""
_UNTRIED = 2.0
"""How much wider than other values the first value of a model may lie: models differ more than trials of one."""
_LEAST_SPREAD = 1e-3
"""Least spread that is assumed, as a share of the best value."""


@dataclass
class Record:
    """What is known of a model's trials.

    Attributes:
        values: their values, in the order in which they began; larger is better.
        seconds: seconds of each that has ended well.
        ended: number of all that have ended, those without a value among them.
        running: number of those that run.
        stale: number of those that have ended since the model's best.
    """

    values: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    ended: int = 0
    running: int = 0
    stale: int = 0

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
    record.stale += 1
    if trial.state != TrialState.FAIL and "seconds" in trial.user_attrs:
        record.seconds.append(float(trial.user_attrs["seconds"]))
    if values is not None and trial.state != TrialState.FAIL:
        value = sign * float(values[objective])
        if not record.values or value > max(record.values):
            record.stale = 0
        record.values.append(value)


class ModelChoice:
    """Chooses the model of the next trial.

    Args:
        costs: for every model an estimate of the seconds of a trial, by which first looks are ordered; those of one
            model relative to another's count, once a trial has ended.
    """

    def __init__(self, costs: Mapping[str, float]) -> None:
        self._costs = dict(costs)

    def __call__(self, known: Mapping[str, Record], left: float | None = None) -> str:
        """Return a model.

        Args:
            known: what is known of each model (`records`).
            left: seconds that are left for trials; None without a limit.
        """
        seconds = self.seconds(known)
        cheapest = min(self._costs, key=lambda model: seconds[model])
        if not any(record.begun for record in known.values()):
            return cheapest
        for number, share in enumerate(LOOKS):
            most = math.inf if left is None else share * left
            looks = [model for model in self._costs if known[model].begun == number and seconds[model] <= most]
            if looks:
                return min(looks, key=lambda model: seconds[model])
        fitting = [model for model in self._costs if left is None or seconds[model] <= left]
        if not fitting:
            return cheapest  # its best epoch up to the end may still be the best
        worth = self.worth(known)
        return max(fitting, key=lambda model: worth[model])

    def seconds(self, known: Mapping[str, Record]) -> dict[str, float]:
        """Return the seconds that a trial of each model takes: the median so far, or an estimate."""
        measured = {model: statistics.median(known[model].seconds) for model in self._costs if known[model].seconds}
        ratios = [seconds / self._costs[model] for model, seconds in measured.items() if self._costs[model] > 0]
        pace = statistics.median(ratios) if ratios else 1.0
        return {model: max(measured.get(model, pace * cost), 1e-9) for model, cost in self._costs.items()}

    def worth(self, known: Mapping[str, Record]) -> dict[str, float]:
        """Return the expected improvement a second of the next trial of each model."""
        gains, seconds = improvements(known), self.seconds(known)
        return {
            model: gains[model] / math.sqrt(1 + known[model].stale + known[model].running) / seconds[model]
            for model in self._costs
        }


def improvements(known: Mapping[str, Record]) -> dict[str, float]:
    """Return how much one more value of each model is expected to exceed the best value of all models.

    Without any value all are alike, but for the wider spread of those without a trial.
    """
    every = [value for record in known.values() for value in record.values]
    if not every:
        return {model: 1.0 if record.begun else _UNTRIED for model, record in known.items()}
    best, centre = max(every), statistics.median(every)
    spreads = [spread for record in known.values() if len(record.values) > 1 and (spread := _spread(record.values)) > 0]
    usual = statistics.median(spreads) if spreads else _spread(every)
    usual = max(usual, _LEAST_SPREAD * abs(best), 1e-12)
    return {model: _improvement(record.values, best, centre, usual) for model, record in known.items()}


def _improvement(values: Sequence[float], best: float, centre: float, usual: float) -> float:
    n = len(values)
    middle = statistics.median(values) if values else centre
    mean = (_PRIOR_VALUES * centre + n * middle) / (_PRIOR_VALUES + n)
    own = _spread(values) if n > 1 else usual
    freedom = _PRIOR_FREEDOM + n
    variance = (_PRIOR_SPREADS * usual**2 + n * own**2) / (_PRIOR_SPREADS + n)
    scale = math.sqrt(variance * (1 + 1 / (_PRIOR_VALUES + n))) * (1 if n else _UNTRIED)
    return expected_improvement(mean, scale, freedom, best)


def expected_improvement(mean: float, scale: float, freedom: float, best: float) -> float:
    """Return E[max(x - best, 0)] for x of Student's t distribution.

    With z = (mean - best) / scale and t, T the density and distribution function of the standard one it is
    scale * (z T(z) + (freedom + z^2) / (freedom - 1) t(z)).

    Args:
        mean: its mean.
        scale: its scale, above 0.
        freedom: its degrees of freedom, above 1.
        best: the value to exceed.
    """
    z = (mean - best) / scale
    peak = gammaln((freedom + 1) / 2) - gammaln(freedom / 2) - math.log(freedom * math.pi) / 2
    density = math.exp(peak - (freedom + 1) / 2 * math.log1p(z * z / freedom))
    tail = (freedom + z * z) / (freedom - 1) * density
    return scale * max(z * float(stdtr(freedom, z)) + tail, 0.0)


def _spread(values: Sequence[float]) -> float:
    """Return the root of the mean square of what lies above the median."""
    middle = statistics.median(values)
    above = [(value - middle) ** 2 for value in values if value >= middle]
    return math.sqrt(sum(above) / len(above))
