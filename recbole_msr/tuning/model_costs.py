"""A short look at each model of a search over several: whether it can be built on the data, and what a step takes."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import optuna
import torch
from filelock import FileLock

from recbole_msr.data.positives import positives_of, ranks_items
from recbole_msr.errors import InputError
from recbole_msr.jobs.failure import ends_search, reason_of
from recbole_msr.jobs.model_cost import parameters
from recbole_msr.runs.item_rankers import positives_loader
from recbole_msr.training.module import whole_loss
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.space.joint import MODEL
from recbole_msr.tuning.space.space import Space
from recbole_msr.tuning.study_data import StudyData, Tables
from recbole_msr.tuning.trial_parts import tasks_of
from recbole_msr.tuning.trial_settings import trial_config

logger = logging.getLogger(__name__)

_STEPS = 2
_BYTES = 16
"""Bytes that a trained number takes: itself, its gradient, and Adam's two means, four each."""
_MEMORY_SHARE = 0.5


@dataclass(frozen=True)
class ModelCost:
    """What a model's defaults cost on the data.

    Attributes:
        seconds: estimate of the seconds of an epoch of all its parts.
        parameters: numbers that are trained, of all parts together.
        refused: why it cannot be trained here; None if it can.
    """

    seconds: float
    parameters: int
    refused: str | None = None


MODEL_COSTS = "model_costs"
"""Attribute of a study over several models: a `ModelCost` as a mapping for each model."""


def keep_costs(study: optuna.Study, settings: SearchSettings, space: Space, data: StudyData) -> None:
    """Measure the models of a study that is new, and keep their costs with it, for all workers and commands.

    Args:
        study: the study.
        settings: the search.
        space: its space.
        data: its data.

    Raises:
        InputError: no model can be trained on the data, or the time does not suffice for an epoch of any.
    """
    with FileLock(settings.folder / "workers" / "together.lock"):
        if MODEL_COSTS not in study.user_attrs:
            costs = measure_models(settings, space, data)
            _check_time(settings, costs)
            study.set_user_attr(MODEL_COSTS, {model: asdict(cost) for model, cost in costs.items()})


def _check_time(settings: SearchSettings, costs: Mapping[str, ModelCost]) -> None:
    """Refuse a time limit that is shorter than an epoch of the cheapest model."""
    seconds = {model: cost.seconds for model, cost in costs.items() if cost.refused is None}
    cheapest = min(seconds, key=lambda model: seconds[model])
    if settings.timeout is not None and seconds[cheapest] > settings.timeout:
        raise InputError(
            f"the timeout of {settings.timeout:g} seconds is too short: an epoch of the cheapest model, {cheapest}, "
            f"takes about {seconds[cheapest]:.0f} seconds here"
        )


def measure_models(settings: SearchSettings, space: Space, data: StudyData) -> dict[str, ModelCost]:
    """Build each model with its defaults, and time some steps of its training.

    Args:
        settings: a search over several models.
        space: its space.
        data: its data.

    Raises:
        InputError: no model can be trained on the data.
    """
    costs = {model: _measure(settings, space, data, model) for model in settings.models}
    refused = {model: cost.refused for model, cost in costs.items() if cost.refused is not None}
    if refused and not settings.left_out:  # they were named
        raise InputError("; ".join(f"--models: {model} cannot take part: {why}" for model, why in refused.items()))
    for model, reason in refused.items():
        logger.warning("%s takes no part: %s", model, reason)
    if len(refused) == len(costs):
        reasons = "; ".join(f"{model}: {reason}" for model, reason in refused.items())
        raise InputError(f"no model of the search can be trained on '{settings.dataset}': {reasons}")
    return costs


def _measure(settings: SearchSettings, space: Space, data: StudyData, model: str) -> ModelCost:
    seconds, numbers = 0.0, 0
    try:
        with torch.random.fork_rng(devices=[]):
            sampled = _defaults(settings, space, model)
            for task in tasks_of(settings, sampled):
                config = trial_config(settings, sampled | ({} if task is None else {"main_task": task}))
                spent, count = _measure_part(config, data)
                seconds, numbers = seconds + spent, numbers + count
    except Exception as error:
        if ends_search(error):
            raise
        return ModelCost(0.0, 0, reason_of(error))
    finally:
        gc.collect()
    free = _memory(data.config) if settings.left_out else None  # a model that was named is tried
    if free is not None and numbers * _BYTES > _MEMORY_SHARE * free:
        size, room = numbers * _BYTES / 2**30, free / 2**30
        return ModelCost(seconds, numbers, f"its defaults train {numbers:,} numbers, {size:.1f} GiB of {room:.1f} GiB")
    return ModelCost(seconds, numbers)


def _defaults(settings: SearchSettings, space: Space, model: str) -> dict[str, Any]:
    """Return a model's defaults as the space holds them: a knowledge store among them, which has no default."""
    params, _ = space.params_of(trial_config(settings, {MODEL: model}))
    try:
        return space.settings(params)
    except InputError:  # a default lies outside of the space, and is sampled
        return {MODEL: model}


def _measure_part(config: Any, data: StudyData) -> tuple[float, int]:
    """Return the estimated seconds of an epoch, and the number of trained numbers."""
    from recbole.utils import get_model, init_seed

    init_seed(config["seed"], config["reproducibility"])
    tables = data.of(config)
    if ranks_items(config):
        return _measure_ranker(config, tables)
    model = get_model(config["model"])(config, tables.train_split).to(config["device"])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6)
    rows = min(int(config["train_batch_size"]), len(tables.train))
    best = float("inf")
    for _ in range(_STEPS):  # the first one is slower: the least counts
        started = time.perf_counter()
        loss = whole_loss(model.calculate_loss(tables.train.batch(slice(0, rows)).to(config["device"])))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if config["device"].type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best * len(tables.train) / rows, parameters(model)


def _measure_ranker(config: Any, tables: Tables) -> tuple[float, int]:
    """Return the same of a model that learns from positives, of which RecBole's loader makes the batches."""
    from recbole.utils import get_model

    positives = positives_of(tables.train_split, config)
    model = get_model(config["model"])(config, positives).to(config["device"])
    loader = positives_loader(config, positives)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6)
    best, started = float("inf"), time.perf_counter()
    for batch in islice(loader, _STEPS):
        optimizer.zero_grad()
        whole_loss(model.calculate_loss(batch.to(config["device"]))).backward()
        optimizer.step()
        best = min(best, time.perf_counter() - started)
        started = time.perf_counter()
    return best * len(loader), parameters(model)


def _memory(config: Any) -> int | None:
    """Return the bytes that are free for a model; None where that is not known."""
    if config["device"].type == "cuda":
        return int(torch.cuda.mem_get_info(config["device"])[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
