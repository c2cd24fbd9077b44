"""What a search has gained: the winner's test minus that of the defaults and the reference, and the ensemble's.

The test is the comparison's (`evaluation/significance.py`), over test rows and seeds together.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from recbole_msr.config.build import reading_data
from recbole_msr.data.ranked_lists import ranked_lists
from recbole_msr.errors import InputError, one_line
from recbole_msr.evaluation.metrics import METRICS, CellType, headline
from recbole_msr.evaluation.ranking_mode import list_metrics, ranks
from recbole_msr.evaluation.significance import Difference, Measured, adjust, differences
from recbole_msr.jobs.shared_lists import SharedLists
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
    of_winner = set(seeds.get(winner.number, ()))
    common = {number: [seed for seed in of_trial if seed in of_winner] for number, of_trial in seeds.items()}
    found = _untested(settings, others, common)
    for of in found.values():
        if of is not None and of["trial"] == winner.number:
            of["reason"] = "the winner is these defaults"

    def differences_to(tested: Mapping[int, FrozenTrial]) -> dict[int, dict[str, Difference]]:
        finals = _Finals(settings, _test_rows(settings, config), _only_task(settings, config))
        return {
            number: differences(finals.measured(winner, common[number]), finals.measured(trial, common[number]))
            for number, trial in tested.items()
        }

    return _tested(settings, config, found, others, differences_to)


def ensemble_gains(
    settings: SearchSettings,
    config: Any,
    shared: SharedRows,
    scores: np.ndarray,
    others: Mapping[str, FrozenTrial | None],
    seeds: Mapping[int, Sequence[int]],
) -> dict[str, dict[str, Any] | None]:
    """Test an ensemble minus each other trial, over all seeds with which that one was tested.

    Args:
        settings: the search.
        config: as `gains` takes it.
        shared: the test rows.
        scores: the ensemble's predictions for them, (N, columns of `shared`).
        others: "winner" and "reference"; None for one that there is not.
        seeds: as `gains` takes them.

    Returns:
        What `gains` returns.
    """
    found = _untested(settings, others, seeds)
    for of in found.values():
        if of is not None and of["reason"] is not None:
            of["reason"] = "it was not tested with a fresh seed"

    def differences_to(tested: Mapping[int, FrozenTrial]) -> dict[int, dict[str, Difference]]:
        finals = _Finals(settings, shared, _only_task(settings, config))
        own = shared.rows.measure(scores)
        return {
            number: differences([own] * len(seeds[number]), finals.measured(trial, seeds[number]))
            for number, trial in tested.items()
        }

    return _tested(settings, config, found, others, differences_to)


def _untested(
    settings: SearchSettings, others: Mapping[str, FrozenTrial | None], seeds: Mapping[int, Sequence[int]]
) -> dict[str, dict[str, Any] | None]:
    """Return what `gains` does, without any difference yet."""
    return {
        name: None
        if trial is None
        else {
            **{"trial": trial.number, "model": trial.user_attrs.get("model", settings.model)},
            **{"seeds": list(seeds.get(trial.number, ())), "metric": None, "differences": {}},
            "reason": None if seeds.get(trial.number) else "they were not tested with the same seeds",
        }
        for name, trial in others.items()
    }


def _tested(
    settings: SearchSettings,
    config: Any,
    found: dict[str, dict[str, Any] | None],
    others: Mapping[str, FrozenTrial | None],
    differences_to: Callable[[Mapping[int, FrozenTrial]], dict[int, dict[str, Difference]]],
) -> dict[str, dict[str, Any] | None]:
    """Add the differences to those of `found` that can be tested; in place."""
    open_ones = [(name, of) for name, of in found.items() if of is not None and of["reason"] is None]
    tested = {of["trial"]: trial for name, of in open_ones if (trial := others[name]) is not None}
    if not tested:
        return found
    try:
        untested = {str(number): of for number, of in differences_to(tested).items()}
    except InputError as error:
        logger.warning("the gain on the test rows cannot be tested: %s", error)
        for _, of in open_ones:
            of["reason"] = one_line(error)
        return found
    adjusted = adjust(untested)
    for _, of in open_ones:
        of["differences"] = adjusted[str(of["trial"])]
        of["metric"] = _headline(settings, config, of["differences"])
    return found


class _Finals:
    """The final runs of a search, measured on shared test rows.

    Args:
        settings: the search.
        shared: the test rows.
        task: the only task of all runs; None where they have all, or each its own.
    """

    def __init__(self, settings: SearchSettings, shared: SharedRows | SharedLists, task: str | None) -> None:
        self._settings, self._shared = settings, shared
        self._task = task if isinstance(shared, SharedRows) else None
        self._measured: dict[tuple[int, int], Measured] = {}

    def measured(self, trial: FrozenTrial, seeds: Sequence[int]) -> list[Measured]:
        """Measure a trial's runs with these seeds.

        Raises:
            InputError: the predictions of one are missing, damaged, or of other rows.
        """
        for seed in seeds:
            if (trial.number, seed) not in self._measured:
                table = np.full(self._shared.rows.shape, np.nan)
                for task, folder in final_folders(self._settings, trial, seed).items():
                    self._shared.place(table, folder, task if task is not None else self._task, None)
                self._measured[trial.number, seed] = self._shared.rows.measure(table)
        return [self._measured[trial.number, seed] for seed in seeds]


def _only_task(settings: SearchSettings, config: Any) -> str | None:
    """Return the task of a search of one model that has only one; None for other searches."""
    from recbole.utils import get_model

    if settings.models or hasattr(get_model(settings.model), "predict_tasks"):
        return None
    return str(config["main_task"])


def _test_rows(settings: SearchSettings, config: Any) -> SharedRows | SharedLists:
    from recbole.data import create_dataset

    with reading_data(config):
        split = create_dataset(config).build()[2]
    only = _only_task(settings, config)
    tasks = None if only is None else [only]
    least = int(config["min_scenario_rows"] or 1)
    lists = ranked_lists(split, config)
    if lists is None:
        return SharedRows(split, least, tasks)
    return SharedLists(lists, split.scenario_names, list_metrics(config), least, tasks=tasks)


def _headline(settings: SearchSettings, config: Any, tested: Mapping[str, Any]) -> str | None:
    """Return the metric key that answers for all."""
    metric, _, rest = settings.quality.partition("/")
    if metric in METRICS and not rest:
        rest = str(config["main_task"])
    schema = Schema.from_config(config)
    types: list[CellType] = ["binary"] if schema is None else [*schema.types.values()]
    first = list_metrics(config)[0] if ranks(config) else headline(types)
    keys = (f"{metric}/{rest}", f"{first}/macro", f"{first}/{config['main_task']}")
    return next((key for key in keys if key in tested), None)
