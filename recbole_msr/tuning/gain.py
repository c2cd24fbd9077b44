"""What a search has gained: the winner's test minus that of the defaults and of the reference, on the same seeds.

The test is the comparison's (`evaluation/significance.py`), over test rows and seeds together.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from recbole_msr.config.build import reading_data
from recbole_msr.errors import InputError, one_line
from recbole_msr.evaluation.metrics import METRICS, headline
from recbole_msr.evaluation.significance import Measured, adjust, differences
from recbole_msr.jobs.shared_rows import SharedRows
from recbole_msr.schema import Schema
from recbole_msr.tuning.final_folders import final_folders
from recbole_msr.tuning.settings import SearchSettings

logger = logging.getLogger(__name__)


def gains(
    settings: SearchSettings,
    config: Any,
    winner: FrozenTrial,
    others: Mapping[str, FrozenTrial | None],
    seeds: Mapping[int, Sequence[int]],
) -> dict[str, dict[str, Any] | None]:
    """Test the winner minus each other trial, over the seeds with which both were tested.

    The others are one family: p values of a metric are corrected by Holm for as many as are tested.

    Args:
        settings: the search.
        config: RecBole's configuration with which the data are read.
        winner: the winner.
        others: "defaults" and "reference"; None for one that there is not.
        seeds: trial -> the seeds with which it was tested.

    Returns:
        For each of the others `trial`, `model`, `seeds`, `metric` (the key that answers for all: that of validation
        where it is tested, else the macro AUC, or the macro XAUC without a binary task), `differences` (metric key ->
        what `evaluation.significance.adjust` returns), and `reason`, why there are none.
    """
    found: dict[str, dict[str, Any] | None] = {}
    tested: dict[int, FrozenTrial] = {}
    for name, trial in others.items():
        if trial is None:
            found[name] = None
            continue
        common = [seed for seed in seeds.get(winner.number, ()) if seed in seeds.get(trial.number, ())]
        reason = "the winner is these defaults" if trial.number == winner.number else None
        if reason is None and not common:
            reason = "they were not tested with the same seeds"
        found[name] = {
            **{"trial": trial.number, "model": trial.user_attrs.get("model", settings.model), "seeds": common},
            **{"metric": None, "differences": {}, "reason": reason},
        }
        if reason is None:
            tested[trial.number] = trial
    try:
        by_trial = _differences(settings, config, winner, tested, seeds) if tested else {}
    except InputError as error:
        logger.warning("the gain on the test rows cannot be tested: %s", error)
        by_trial = {}
        for of in found.values():
            if of is not None and of["reason"] is None:
                of["reason"] = one_line(error)
    for of in found.values():
        if of is not None and of["trial"] in by_trial:
            of["differences"] = by_trial[of["trial"]]
            of["metric"] = _headline(settings, config, by_trial[of["trial"]])
    return found


def _differences(
    settings: SearchSettings,
    config: Any,
    winner: FrozenTrial,
    others: Mapping[int, FrozenTrial],
    seeds: Mapping[int, Sequence[int]],
) -> dict[int, dict[str, dict[str, Any]]]:
    shared = _test_rows(settings, config)
    measured: dict[tuple[int, int], Measured] = {}

    def measure(trial: FrozenTrial, seed: int) -> Measured:
        if (trial.number, seed) not in measured:
            table = np.full(shared.rows.shape, np.nan)
            for task, folder in final_folders(settings, trial, seed).items():
                shared.place(table, folder, task, None)
            measured[trial.number, seed] = shared.rows.measure(table)
        return measured[trial.number, seed]

    untested = {}
    for number, trial in others.items():
        common = [seed for seed in seeds[winner.number] if seed in seeds[number]]
        of_winner, of_other = ([measure(one, seed) for seed in common] for one in (winner, trial))
        untested[str(number)] = differences(of_winner, of_other)
    return {int(number): tested for number, tested in adjust(untested).items()}


def _test_rows(settings: SearchSettings, config: Any) -> SharedRows:
    from recbole.data import create_dataset
    from recbole.utils import get_model

    with reading_data(config):
        split = create_dataset(config).build()[2]
    all_tasks = bool(settings.models) or hasattr(get_model(settings.model), "predict_tasks")
    tasks = None if all_tasks else [config["main_task"]]
    return SharedRows(split, int(config["min_scenario_rows"] or 1), tasks)


def _headline(settings: SearchSettings, config: Any, tested: Mapping[str, Any]) -> str | None:
    """Return the metric key that answers for all."""
    metric, _, rest = settings.quality.partition("/")
    if metric in METRICS and not rest:
        rest = str(config["main_task"])
    schema = Schema.from_config(config)
    first = headline(["binary"] if schema is None else schema.types.values())
    keys = (f"{metric}/{rest}", f"{first}/macro", f"{first}/{config['main_task']}")
    return next((key for key in keys if key in tested), None)
