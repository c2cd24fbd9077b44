"""What a model of many scenarios takes, estimated before it is built: refused where it cannot fit, else told."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from recbole_msr.errors import InputError
from recbole_msr.layers.embedding import FeatureEmbedding
from recbole_msr.memory import total_memory
from recbole_msr.models.base import MultiScenarioRecommender

logger = logging.getLogger(__name__)

MANY_SCENARIOS = 50
"""Up to so many nothing is estimated."""
DEAR = 2_000_000
"""A model with more parameters outside its embeddings is worth a warning, if it has many scenarios."""
_PROBES = (3, 4, 5)
"""Numbers of scenarios that a model is built with. With 1 and 2 some have parts less (HiNet's attention)."""
_STATES = {"sgd": 0, "adagrad": 1, "rmsprop": 1}
"""Numbers that an optimiser keeps beside each parameter; the others, Adam and its kin, keep 2."""
_BYTES = 4
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class ModelSize:
    """The size of a model.

    Attributes:
        parameters: how many numbers are trained.
        dense: those outside the embeddings of features. Each is multiplied about once for every row.
        n_bytes: of parameters, gradients and the optimiser's state together, in single precision.
    """

    parameters: int
    dense: int
    n_bytes: int


def estimate_size(config: Any, dataset: Any, model_class: type[nn.Module]) -> ModelSize:
    """Compute the size of a model from those of the same model with few scenarios.

    The number of parameters is a polynomial of degree 2 in the number of scenarios M: parts of each scenario, and of
    each pair. So three small models tell it exactly.

    Args:
        config: RecBole's Config of the run.
        dataset: the training split.
        model_class: the model.
    """
    m = len(dataset.scenario_names)
    few = _Config(config)
    counts = []
    with torch.random.fork_rng(devices=[]):
        for n_scenarios in _PROBES:
            part = copy.copy(dataset)
            part.scenario_names = dataset.scenario_names[:n_scenarios]
            part.scenario_shares = [1 / n_scenarios] * n_scenarios
            counts.append(_counts(model_class(few, part)))
    parameters, embedded = (_extrapolate([count[i] for count in counts], m) for i in range(2))
    states = _STATES.get(str(config["learner"]).lower(), 2)
    return ModelSize(parameters, parameters - embedded, parameters * _BYTES * (2 + states))


def check_size(config: Any, dataset: Any, model_class: type[nn.Module], tell: bool = True) -> None:
    """Refuse a model of many scenarios that cannot fit into memory, and warn of one that is dear.

    Args:
        config: RecBole's Config of the run; `check_memory: False` leaves the refusal out.
        dataset: the training split.
        model_class: the model.
        tell: whether to warn.

    Raises:
        InputError: it needs more memory than there is.
    """
    m = len(getattr(dataset, "scenario_names", None) or ())
    if m <= MANY_SCENARIOS or not issubclass(model_class, MultiScenarioRecommender):
        return
    size, there = estimate_size(config, dataset, model_class), total_memory(config["device"])
    field, name = dataset.schema.scenario.field, config["model"]
    takes = (
        f"{name} has {_count(size.parameters)} parameters with the {m} scenarios of '{field}', which take "
        f"{_size(size.n_bytes)} with their gradients and the optimiser's state, and up to {_count(size.dense)} "
        "multiplications for every row"
    )
    advice = (
        f"keep the most frequent ones (scenario: {{field: {field}, top: 20, other: rest}}), put them in groups, or "
        "take a model that keeps less apart by scenario (SharedBottom with towers_per: task)"
    )
    if size.n_bytes > there and config["check_memory"] is not False:
        raise InputError(
            f"{takes}. {'The GPU' if torch.device(config['device']).type == 'cuda' else 'This machine'} has "
            f"{_size(there)} of memory: {advice}; check_memory: False tries it all the same"
        )
    if size.dense > DEAR and tell:
        logger.warning("%s: if that is too slow, %s", takes, advice)


class _Config:
    """A configuration without what names scenarios, counts them, or is told of; none of it changes a size."""

    _LEFT_OUT: Mapping[str, Any] = {"loss_weights": None, "loss_weighting": "fixed", "san_top_k": None}

    def __init__(self, config: Any) -> None:
        self._config = config

    def __getitem__(self, key: str) -> Any:
        return self._LEFT_OUT[key] if key in self._LEFT_OUT else self._config[key]

    def __contains__(self, key: object) -> bool:
        return key in self._config

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)


def _counts(model: nn.Module) -> tuple[int, int]:
    """Return the parameters of a model, and those of its features' embeddings."""
    features = {
        id(p): p for part in model.modules() if isinstance(part, FeatureEmbedding) for p in part.parameters()
    }.values()
    return (
        sum(p.numel() for p in model.parameters() if p.requires_grad),
        sum(p.numel() for p in features if p.requires_grad),
    )


def _extrapolate(values: list[int], m: int) -> int:
    """Return the value at m of the polynomial through the values at `_PROBES` (Newton's forward differences)."""
    first, second, third = values
    step = m - _PROBES[0]
    return first + step * (second - first) + step * (step - 1) // 2 * (third - 2 * second + first)


def _count(number: int) -> str:
    return f"{number / 1e6:,.1f} million" if number >= 1e6 else f"{number:,}"


def _size(n_bytes: float) -> str:
    for unit in _UNITS[:-1]:
        if n_bytes < 1024:
            return f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} {_UNITS[-1]}"
