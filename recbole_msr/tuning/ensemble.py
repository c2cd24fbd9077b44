"""The ensemble of a search: its models, chosen by validation, whose predictions are averaged.

Selection reads the validation rows alone. The ensemble is tested once, beside the best trial's model, on the same rows.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from recbole_msr.errors import InputError
from recbole_msr.evaluation.metrics import smaller_is_better
from recbole_msr.jobs.shared_rows import SharedRows
from recbole_msr.runs.ensemble import Member, write_ensemble
from recbole_msr.tuning.ensemble_models import EnsembleRows, ModelKey, TrialModel, trial_models
from recbole_msr.tuning.greedy import select_greedily
from recbole_msr.tuning.settings import SearchSettings

logger = logging.getLogger(__name__)

SHARE_OF_TIME = 0.6
"""Share of the time that is left after the confirmation that choosing an ensemble may take; its test takes the rest."""


@dataclass
class Ensemble:
    """An ensemble of a search's models.

    Attributes:
        candidates: the models that could join, as `trial_models` orders them.
        weights: number of picks of each member, by its key, in the order of the first picks.
        folder: where it lies.
        seconds: how long choosing it took.
    """

    candidates: Sequence[TrialModel]
    weights: Mapping[ModelKey, int]
    folder: Path
    seconds: float
    rows: EnsembleRows
    tasks: Sequence[str]
    valid_scores: Mapping[ModelKey, np.ndarray]

    @property
    def members(self) -> list[TrialModel]:
        """Return the members' models."""
        by_key = {one.key: one for one in self.candidates}
        return [by_key[key] for key in self.weights]

    def mean(self, scores: Mapping[ModelKey, np.ndarray]) -> np.ndarray:
        """Return the weighted mean of the members' predictions, given by key, each (N, C)."""
        total = sum(self.weights.values())
        parts = [scores[key] * (weight / total) for key, weight in self.weights.items()]
        mean: np.ndarray = np.sum(parts, axis=0)
        return mean

    def single(self, winner: int | None) -> TrialModel:
        """Return the model that it is compared with: the winner's of `best/`, or the best of the candidates."""
        return next((one for one in self.candidates if one.key == (winner, None)), self.candidates[0])


def choose_ensemble(
    settings: SearchSettings, study: optuna.Study, left: Callable[[], float] = lambda: math.inf
) -> Ensemble | None:
    """Choose an ensemble from a search's models by the validation rows, and write it to `ensemble/`.

    Args:
        settings: the search.
        study: its study.
        left: returns the seconds that are left for choosing and testing it.

    Returns:
        The ensemble; None where no model is kept, or no time is left.
    """
    started = time.monotonic()
    end = started + SHARE_OF_TIME * left()
    found, tasks = trial_models(settings, study)
    if not found:
        logger.warning("there is no ensemble: no model of a trial is kept in %s", settings.folder / "trials")
        return None
    rows = EnsembleRows(settings)
    ordered = [task for task in rows.tasks if task in tasks]
    scores: dict[ModelKey, np.ndarray] = {}
    candidates: list[TrialModel] = []
    for model in found:
        if time.monotonic() > end and candidates:
            logger.warning("the ensemble is chosen from %d models, as no more time is left", len(candidates))
            break
        try:
            predicted = model.valid_scores(rows, ordered)
        except InputError as error:
            logger.warning("%s cannot join the ensemble: %s", model.name, error)
            continue
        scores[model.key] = predicted
        candidates.append(model)
    if not candidates:
        return None
    picks = select_greedily(
        [scores[model.key] for model in candidates],
        lambda mean: rows.badness(mean, ordered),
        settings.ensemble,
        lambda: time.monotonic() > end,
    )
    weights = dict(Counter(candidates[place].key for place in picks))
    by_key = {model.key: model for model in candidates}
    folder = write_ensemble(
        settings.folder / "ensemble",
        [
            Member(path, weight, own)
            for key, weight in weights.items()
            for path, own in zip(by_key[key].folders, by_key[key].tasks, strict=True)
        ],
    )
    return Ensemble(candidates, weights, folder, time.monotonic() - started, rows, ordered, scores)


def describe_ensemble(
    ensemble: Ensemble, winner: int | None, gains: Callable[[SharedRows, np.ndarray], dict[str, Any]] | None
) -> dict[str, Any]:
    """Return the ensemble's part of summary.json: members, values beside the single model's, gain and cost.

    Args:
        ensemble: the ensemble.
        winner: number of the trial whose model it is compared with.
        gains: tests the ensemble on the test rows, given its predictions (N, C) for them, against what the search
            has tested; both are then evaluated on the test split, too: once, at the end. None for no test.
    """
    rows, tasks = ensemble.rows, ensemble.tasks
    single = ensemble.single(winner)
    valid_scores = ensemble.valid_scores
    splits = {"valid": (ensemble.mean(valid_scores), valid_scores[single.key])}
    tested = None
    if gains is not None:
        models = {model.key: model for model in [*ensemble.members, single]}
        scores = {key: model.predict(rows.test, rows.layout(tasks)) for key, model in models.items()}
        splits["test"] = (ensemble.mean(scores), scores[single.key])
        tested = gains(rows.shared_test(tasks), splits["test"][0])
    described: dict[str, Any] = {
        "folder": ensemble.folder.name,
        "metric": rows.metric,
        "candidates": [{"trial": model.trial, "seed": model.seed} for model in ensemble.candidates],
        "members": [
            {
                "trial": model.trial,
                "seed": model.seed,
                "model": model.model,
                "weight": ensemble.weights[model.key],
                "value": rows.value(rows.evaluate(valid_scores[model.key], tasks, all_metrics=False)),
            }
            for model in ensemble.members
        ],
        "single": single.trial,
        "valid": None,
        "test": None,
        "gain": tested,
        "cost": _costs(ensemble, single),
        "seconds": round(ensemble.seconds, 3),
    }
    for split, (mean, alone) in splits.items():
        described[split] = _compared(rows, tasks, mean, alone, split == "test")
    return described


def _compared(
    rows: EnsembleRows, tasks: Sequence[str], mean: np.ndarray, alone: np.ndarray, test: bool
) -> dict[str, Any]:
    """Evaluate the ensemble and the single model on a split."""
    of_mean, of_single = (rows.evaluate(scores, tasks, test) for scores in (mean, alone))
    value, before = rows.value(of_mean), rows.value(of_single)
    sign = -1 if smaller_is_better(rows.metric) else 1
    return {
        "value": value,
        "single": before,
        "gain": None if value is None or before is None else sign * (value - before),
        "cells": of_mean.to_dict(),
        "single_cells": of_single.to_dict(),
    }


def _costs(ensemble: Ensemble, single: TrialModel) -> dict[str, Any]:
    """Return parameters and milliseconds for 4096 rows of the ensemble and of the single model."""
    models = {model.key: model for model in [*ensemble.members, single]}
    by_key = {key: model.cost(ensemble.rows) for key, model in models.items()}
    of_members = [by_key[model.key] for model in ensemble.members]
    return {
        name: {"ensemble": sum(cost[name] for cost in of_members), "single": by_key[single.key][name]}
        for name in ("parameters", "latency")
    }
