"""The trainings of a trial below full training, on shares of the rows."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial, Trial

from recbole_msr.data.positives import ranks_items
from recbole_msr.errors import InputError
from recbole_msr.training.fast_paths import has_bfloat16
from recbole_msr.training.module import whole_loss
from recbole_msr.tuning.fidelity import Ladder, Rung, choose_ladder, is_lost, keep_ladder, passed_before, standing
from recbole_msr.tuning.ranker_training import make_training
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.study_data import StudyData
from recbole_msr.tuning.trial_parts import parts_of
from recbole_msr.tuning.trial_state import is_defaults
from recbole_msr.tuning.trial_training import TrialTraining
from recbole_msr.tuning.trial_values import values_by_seed

logger = logging.getLogger(__name__)

RUNGS = "rungs"
"""Attribute of a trial: the rungs that it has come to; of each rung (from 1), share, epochs, value, seconds, passed."""
_PRECISION = "bf16-mixed"
QUICKER = 0.8
"""Share of the time that a training step may take at most in bfloat16, for low rungs to be trained in it."""
_STEPS = 3


class LowRungs:
    """Trains trials on a study's low rungs, in one process.

    Args:
        settings: the search.
        data: its data.
        ladder: the study's rungs.
    """

    def __init__(self, settings: SearchSettings, data: StudyData, ladder: Ladder) -> None:
        self._settings, self._data, self._ladder = settings, data, ladder

    def climb(
        self,
        trial: Trial,
        sampled: dict[str, Any],
        stop_after: Callable[[str], None],
        stop_within: Callable[[TrialTraining], None],
    ) -> None:
        """Train a trial on every rung, one after the other, as long as it is among the best.

        A trial that takes the place of one that was killed is not trained on them again if that one had passed all of
        them; otherwise it begins with the first.

        Args:
            trial: the trial; its values become those of steps 1, 2, ..., and its attribute `rungs` says more.
            sampled: its sampled keys.
            stop_after: called after every rung with its name; it may raise to stop the trial.
            stop_within: called before every batch with the training; likewise.

        Raises:
            TrialPruned: it is not among the best at a rung.
        """
        if not self._ladder.rungs:
            return
        trials = trial.study.get_trials(deepcopy=False)
        done = passed_before(trials, trial.user_attrs, len(self._ladder))
        for entry in done:
            trial.report(entry["value"], entry["rung"])
        if done:
            trial.set_user_attr(RUNGS, done)
            return
        for step, rung in enumerate(self._ladder.rungs, 1):
            begin = time.perf_counter()
            value = self._train(sampled, rung, stop_within)
            self._judge(trial, step, rung, value, time.perf_counter() - begin)
            stop_after(f"rung {step}")

    def _judge(self, trial: Trial, step: int, rung: Rung, value: float, seconds: float) -> None:
        trial.report(value, step)
        study = trial.study
        trials = study.get_trials(deepcopy=False)
        place = standing(trials, trial.number, step, value, study.direction, is_defaults(trials[trial.number]))
        passes = place.passes or is_exempt(trials, trial.number)
        entry = {"rung": step, **{"share": rung.share, "epochs": rung.epochs, "value": value}}
        entry |= {"seconds": round(seconds, 3), "passed": passes}
        trial.set_user_attr(RUNGS, [*(trial.user_attrs.get(RUNGS) or []), entry])
        if not passes:
            raise optuna.TrialPruned(
                f"ended at rung {step} ({rung.words}) with {self._settings.quality} {value:.4f}: place {place.place} "
                f"of {place.of}, and the first {place.last} go on"
            )

    def _train(self, sampled: dict[str, Any], rung: Rung, stop_within: Callable[[TrialTraining], None]) -> float:
        """Return a trial's value on a rung: the mean of its trainings."""
        runs = []
        for part in parts_of(self._settings, sampled):
            training = make_training(self._settings, self._data, sampled, part, None, rung, self._ladder.precision)
            training.run([], _nothing, time.perf_counter(), stop=partial(stop_within, training))
            training.release()
            runs.append(training)
            gc.collect()
        values = values_by_seed(runs)
        return sum(of_seed[0] for of_seed in values) / len(values)


def is_exempt(trials: list[FrozenTrial], number: int) -> bool:
    """Return whether a trial goes on whatever its values: the defaults of a search's first model."""
    earlier = [trial for trial in trials[:number] if is_defaults(trial) and not is_lost(trial)]
    return is_defaults(trials[number]) and not earlier


def set_ladder(study: optuna.Study, settings: SearchSettings, data: StudyData, fixed: Mapping[str, Any]) -> Ladder:
    """Choose the rungs of a study if it is new, and say which it has and why.

    Args:
        study: the study.
        settings: the search.
        data: its data.
        fixed: keys that its space gives all trials.

    Raises:
        InputError: those asked for do not go together with another option, or with the study.
    """
    ladder = choose_ladder(settings, len(data.train_split), int(data.config["train_batch_size"]))
    if ladder.rungs and not study.get_trials(deepcopy=False):
        ladder = replace(ladder, precision=quicker_precision(settings, data, fixed))
    kept = keep_ladder(study, settings, ladder)
    logger.info("rungs: %s", kept.words)
    return kept


def quicker_precision(settings: SearchSettings, data: StudyData, fixed: Mapping[str, Any]) -> str | None:
    """Return bf16-mixed if the defaults train clearly quicker in it on this processor; else None, the search's own.

    Only where nothing is said of the precision, and not in a search over several models, whose values are compared.

    Args:
        settings: the search.
        data: its data.
        fixed: keys that its space gives all trials.
    """
    if settings.models or data.config["device"].type != "cpu" or not has_bfloat16("cpu"):
        return None
    config = data.config
    if ranks_items(config):
        return None  # RecBole's own trainer, whose precision is its own
    given = config["precision"] is not None or config["enable_amp"] or config["compile"]
    if given or "precision" in (config["lightning"] or {}) or {"precision", "lightning", "compile"} & set(fixed):
        return None
    try:
        training = TrialTraining(settings, data, dict(fixed), parts_of(settings, fixed)[0])
    except InputError as error:  # LLM4MSR, for instance, whose knowledge is searched
        logger.info("bfloat16 is not tried, as the defaults lack a key that trials have: %s", error)
        return None
    model: Any = training.model
    rows = data.train.batch(slice(0, int(config["train_batch_size"])))

    def seconds(in_bf16: bool) -> float:
        taken = []
        for _ in range(_STEPS + 1):
            begin = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
                loss = whole_loss(model.calculate_loss(rows))
            loss.backward()
            taken.append(time.perf_counter() - begin)
        return min(taken[1:])

    share = seconds(True) / seconds(False)
    logger.info("a training step in bfloat16 takes %.2f of the time", share)
    return _PRECISION if share <= QUICKER else None


def _nothing(*_: Any) -> None:
    """Do nothing after an epoch."""
