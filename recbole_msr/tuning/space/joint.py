"""The space of a search over several models: the model first, then the space of the one that is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from recbole_msr.tuning.space.conditions import settled
from recbole_msr.tuning.space.parameters import Categorical, Parameter, plain
from recbole_msr.tuning.space.space import Space

MODEL = "model"
"""The parameter that chooses the model."""


def joint_space(models: Sequence[str], dataset: str, fixed: Mapping[str, Mapping[str, Any]]) -> Space:
    """Join the spaces of several models.

    The parameter `model` is one of them. A parameter of a model's own space is named `MODEL.NAME`, and exists where its
    model is chosen.

    Args:
        models: their names; each has a space in the package.
        dataset: dataset name.
        fixed: for each model, configuration keys that are set for all of its trials and thus not searched.

    Raises:
        InputError: there is no space for a model.
    """
    parameters: list[Parameter] = [Categorical(MODEL, MODEL, choices=tuple(models))]
    for model in models:
        parameters += _parameters_of(model, dataset, fixed.get(model, {}))
    return Space(None, {}, parameters, f"the spaces of {', '.join(models)}")


def _parameters_of(model: str, dataset: str, fixed: Mapping[str, Any]) -> list[Parameter]:
    space = Space.of_model(model, fixed).resolve(dataset)
    kept = {key: value for key, value in space.fixed.items() if key not in fixed}
    keys = {parameter.name: parameter.key for parameter in space.parameters}
    searched = settled(
        [parameter for parameter in space.parameters if parameter.key not in fixed], {**kept, **plain(fixed)}, keys
    )
    choices = [Categorical(key, key, choices=(value,), place=space.name) for key, value in kept.items()]
    return [_under(model, parameter) for parameter in [*choices, *searched]]


def _under(model: str, parameter: Parameter) -> Parameter:
    """Return a parameter of a model's space under the condition that the model is chosen."""
    when = {f"{model}.{name}": values for name, values in parameter.when.items()}
    return replace(parameter, name=f"{model}.{parameter.name}", when={MODEL: (model,), **when})
