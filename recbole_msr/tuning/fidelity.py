"""Rungs below full training: a trial first trains on a share of the rows, and goes on only if it is among the best.

The rule is that of asynchronous successive halving (Li et al., "A System for Massively Parallel Hyperparameter Tuning",
MLSys 2020), with one difference: a trial that passes goes on at once, in its own process, and one that does not is
never taken up again. So no trial waits for others, and a trial's value is always that of one training.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from recbole_msr.errors import InputError
from recbole_msr.tuning.settings import SearchSettings

ETA = 3
"""One in so many trials goes on from a rung."""
_ATTRIBUTE = "fidelity"
_EXAMPLE = "auto, off, or shares of the training rows with epochs, such as 1/9 or 1/9:1,1/3:2"
_RUNG = re.compile(r"(\d+)/(\d+)(?::(\d+))?|(0?\.\d+)(?::(\d+))?")


@dataclass(frozen=True)
class Rung:
    """Training on a share of the rows.

    Attributes:
        share: share of the training rows, above 0 and below 1.
        epochs: epochs on them.
    """

    share: float
    epochs: int = 1

    def __str__(self) -> str:
        """Return it as `--fidelity` reads it, such as 1/9:2."""
        fraction = Fraction(self.share).limit_denominator(1000)
        share = f"{fraction}" if math.isclose(fraction, self.share) else f"{self.share:g}"
        return share if self.epochs == 1 else f"{share}:{self.epochs}"

    @property
    def words(self) -> str:
        """Return it in words."""
        return f"{str(self).split(':')[0]} of the training rows, {self.epochs} epoch{'s' if self.epochs > 1 else ''}"


def rung_settings(rung: Rung, precision: str | None) -> dict[str, Any]:
    """Return the configuration keys of a training on a rung, which is validated once, at its end.

    Args:
        rung: the rung.
        precision: `precision` of the training; None for that of the search.
    """
    keys: dict[str, Any] = {"epochs": rung.epochs, "eval_step": rung.epochs}
    return keys if precision is None else keys | {"precision": precision}


DEFAULT = (Rung(1 / 9), Rung(1 / 3))
"""The rungs that `auto` chooses from (docs/search.md has what they tell and cost)."""
LEAST_STEPS = 48
"""Optimiser steps that a rung of `auto` takes at least with the search's batches (2,048 rows: 98,304 rows).

With a dozen all models were near an AUC of 0.5 on ml-1m and ml-100k, and a search with such a rung lost good ones."""
LEAST_TRIALS = 30
"""Trials from which on `auto` takes them where the budget is a number of trials."""


@dataclass(frozen=True)
class Ladder:
    """The rungs below full training that every trial of a study climbs.

    Attributes:
        rungs: them, the cheapest first; empty for none.
        reason: why these, or why none.
        precision: `precision` of the trainings on them; None for that of the search.
    """

    rungs: tuple[Rung, ...] = ()
    reason: str = ""
    precision: str | None = None

    def __len__(self) -> int:
        return len(self.rungs)

    def __str__(self) -> str:
        """Return it as `--fidelity` reads it."""
        return ",".join(map(str, self.rungs)) or "off"

    @property
    def words(self) -> str:
        """Return it in words, with the reason."""
        if not self.rungs:
            return f"every trial trains on all rows: {self.reason}"
        steps = ", then ".join(rung.words for rung in self.rungs)
        in_bf16 = f" (precision: {self.precision})" if self.precision else ""
        return f"a trial first trains on {steps}{in_bf16}; the best third at each goes on: {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**asdict(self), "rungs": [asdict(rung) for rung in self.rungs]}

    @classmethod
    def of_study(cls, study: optuna.Study) -> Ladder:
        """Return the ladder of a study; one without rungs where none was chosen."""
        plain = study.user_attrs.get(_ATTRIBUTE)
        if plain is None:
            return cls(reason="the study was begun without rungs")
        return cls(tuple(Rung(**rung) for rung in plain["rungs"]), plain["reason"], plain["precision"])


def read_fidelity(fidelity: Any) -> str:
    """Read `--fidelity`: auto, off, or rungs; return these in one spelling.

    Raises:
        InputError: it is none of these, or the rungs do not grow.
    """
    if fidelity is None or fidelity is False:
        return "auto" if fidelity is None else "off"  # YAML reads a bare off as false
    parts = fidelity if isinstance(fidelity, Sequence) and not isinstance(fidelity, str) else str(fidelity).split(",")
    words = [str(part).strip().lower() for part in parts]
    if words in (["auto"], ["off"]):
        return words[0]
    rungs = _read_rungs(words, fidelity)
    if any(later.share < earlier.share for earlier, later in pairwise(rungs)):
        raise InputError(f"--fidelity {fidelity}: each rung must have at least the rows of the one before it")
    return str(Ladder(tuple(rungs)))


def _read_rungs(words: Sequence[str], given: Any) -> list[Rung]:
    rungs = []
    for word in words:
        match = _RUNG.fullmatch(word)
        if match is None or (match[2] is not None and int(match[2]) == 0):
            raise InputError(f"--fidelity must be {_EXAMPLE}, got {given!r}")
        share = float(match[4]) if match[4] else int(match[1]) / int(match[2])
        epochs = int(match[3] or match[5] or 1)
        if not 0 < share < 1 or epochs < 1:
            raise InputError(
                f"--fidelity {given}: a rung is a share above 0 and below 1 and, after a colon, at least 1 epoch, "
                f"got '{word}'"
            )
        rungs.append(Rung(share, epochs))
    return rungs


def choose_ladder(settings: SearchSettings, rows: int, batch: int) -> Ladder:
    """Choose the rungs of a new study.

    Args:
        settings: the search.
        rows: number of training rows.
        batch: rows of a training step, as the configuration says.

    Raises:
        InputError: rungs were asked for, and do not go together with another option.
    """
    if settings.fidelity == "off":
        return Ladder(reason="--fidelity=off")
    hindrance = check_fidelity(settings)
    if settings.fidelity != "auto":
        return Ladder(tuple(_read_rungs(settings.fidelity.split(","), settings.fidelity)), "as --fidelity says")
    hindrance = hindrance or _unsuited(settings) or _too_small(settings, rows, batch)
    if hindrance is not None:
        return Ladder(reason=hindrance)
    rungs = tuple(rung for rung in DEFAULT if round(rung.share * rows) >= LEAST_STEPS * batch)
    return Ladder(rungs, f"there are {rows:,} training rows: at each of them {LEAST_STEPS} or more steps of {batch:,}")


def check_fidelity(settings: SearchSettings) -> str | None:
    """Return why a search can have no rungs; None if it can.

    Raises:
        InputError: rungs were asked for all the same.
    """
    hindrance = _hindrance(settings)
    if hindrance is not None and settings.fidelity not in ("auto", "off"):
        raise InputError(f"--fidelity={settings.fidelity}: {hindrance}; give --fidelity=off")
    return hindrance


def _hindrance(settings: SearchSettings) -> str | None:
    """Return why there can be no rungs; None if there can."""
    if len(settings.objectives) > 1:
        return "trials with several objectives cannot be pruned (Optuna)"
    if settings.trial_seeds > 1:
        return "with --trial-seeds, trials are compared seed by seed"
    if isinstance(settings.fused, int) and settings.fused > 1:
        return f"with --fused={settings.fused}, trials are trained together"
    if settings.pruner["name"] in ("halving", "hyperband"):
        return f"the pruner {settings.pruner['name']} has rungs of its own"
    return None


def _unsuited(settings: SearchSettings) -> str | None:
    """Return why `auto` takes no rungs whatever the size of the data; None if it does."""
    if settings.pruner["name"] == "none":
        return "--pruner=none ends no trial early"
    if settings.sampler["name"] == "grid":
        return "a grid compares all of its points"
    if settings.sampler["name"] not in ("local", "tpe", "random", "qmc"):
        return f"the sampler {settings.sampler['name']} learns from complete trials alone"
    return None


def _too_small(settings: SearchSettings, rows: int, batch: int) -> str | None:
    """Return why the data or the budget are too small for rungs; None if they are not."""
    if round(DEFAULT[-1].share * rows) < LEAST_STEPS * batch:
        return f"{rows:,} training rows are too few: {DEFAULT[-1]} of them are below {LEAST_STEPS} steps of {batch:,}"
    if settings.trials is not None and settings.trials < LEAST_TRIALS:
        return f"--trials={settings.trials} are too few to end most of them early (below {LEAST_TRIALS})"
    return None


def keep_ladder(study: optuna.Study, settings: SearchSettings, ladder: Ladder) -> Ladder:
    """Keep a new study's ladder with it, and return the one that it has.

    A study that has one keeps it whatever `auto` would take now, and one that was begun without has none.

    Raises:
        InputError: others were asked for.
    """
    if _ATTRIBUTE not in study.user_attrs and not study.get_trials(deepcopy=False):
        study.set_user_attr(_ATTRIBUTE, ladder.to_dict())
    kept = Ladder.of_study(study)
    if settings.fidelity not in ("auto", str(kept)):
        raise InputError(
            f"the study '{settings.study}' has another --fidelity ({kept} -> {settings.fidelity}): its trials cannot "
            "be compared with these; leave --fidelity out, or give this one another name (--study=NAME, and "
            "--output=DIR)"
        )
    climb(study)
    return kept


def climb(study: optuna.Study) -> None:
    """Let a study's pruner see epochs on all rows alone, numbered from 1, if the study has rungs below them."""
    low = len(Ladder.of_study(study))
    if low and not isinstance(study.pruner, FullDataPruner):
        study.pruner = FullDataPruner(study.pruner, low)


class FullDataPruner(BasePruner):
    """A pruner that compares trials by their epochs on all rows.

    Args:
        wrapped: the pruner that does it: median, percentile, or one around these.
        low: number of rungs below: steps 1 to `low`; epoch e is step `low` + e.
    """

    def __init__(self, wrapped: BasePruner, low: int) -> None:
        self._wrapped, self._low = wrapped, low

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether the trial ends."""
        shown = _on_all_rows(trial, self._low)
        view: Any = _View(study, self._low)
        return bool(shown.intermediate_values) and self._wrapped.prune(view, shown)


class _View:
    """A study as pruners see it, whose trials have their epochs on all rows alone."""

    def __init__(self, study: optuna.Study, low: int) -> None:
        self._study, self._low = study, low

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(self, deepcopy: bool = True, states: Any = None) -> list[FrozenTrial]:
        return [_on_all_rows(trial, self._low) for trial in self._study.get_trials(deepcopy=False, states=states)]


def _on_all_rows(trial: FrozenTrial, low: int) -> FrozenTrial:
    shown = copy.copy(trial)
    shown.intermediate_values = {step - low: v for step, v in trial.intermediate_values.items() if step > low}
    return shown


@dataclass(frozen=True)
class Standing:
    """A trial's place at a rung.

    Attributes:
        place: its place from 1, the best.
        of: number of trials that have come there so far, with itself.
        last: the last place that goes on.
    """

    place: int
    of: int
    last: int

    @property
    def passes(self) -> bool:
        """Return whether the trial goes on."""
        return self.place <= self.last


def standing(
    trials: Sequence[FrozenTrial], trial: int, step: int, value: float, direction: StudyDirection, mild: bool = False
) -> Standing:
    """Return a trial's place at a rung among all that have come there so far.

    Args:
        trials: the trials of the study. Those that were lost and are tried again do not count twice.
        trial: number of the trial.
        step: number of the rung, from 1.
        value: the trial's value there.
        direction: of the objective.
        mild: whether only the worst third ends.

    Returns:
        Its place. One in `ETA` goes on, rounded up, so the first that comes does.
    """
    others = [
        other.intermediate_values[step]
        for other in trials
        if other.number != trial and step in other.intermediate_values and not is_lost(other)
    ]
    sign = 1.0 if direction == StudyDirection.MAXIMIZE else -1.0
    better = sum(sign * other > sign * value for other in others)
    count = len(others) + 1
    last = math.ceil(count / ETA) if not mild else math.ceil(count * (ETA - 1) / ETA)
    return Standing(better + 1, count, last)


def is_lost(trial: FrozenTrial) -> bool:
    """Return whether a trial was given up, for another to take its place."""
    return trial.state == TrialState.FAIL and "uncounted" in trial.user_attrs


def passed_before(trials: Sequence[FrozenTrial], attributes: Mapping[str, Any], rungs: int) -> list[dict[str, Any]]:
    """Return the rungs that a lost trial had passed, all of them, before this one took its place; else none.

    Args:
        trials: the trials of the study.
        attributes: attributes of the trial that takes the place.
        rungs: number of rungs.
    """
    replaced = attributes.get("replaces")
    if replaced is None:
        return []
    passed: list[dict[str, Any]] = trials[int(replaced)].user_attrs.get("rungs") or []
    return passed if len(passed) == rungs and all(entry["passed"] for entry in passed) else []
