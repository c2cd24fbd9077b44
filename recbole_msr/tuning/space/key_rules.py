"""Rules for the keys of a space: the model reads them, and they are none that all trials must share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from recbole.utils.argument_list import dataset_arguments

from recbole_msr import registry
from recbole_msr.config.keys import known_keys
from recbole_msr.data import cache
from recbole_msr.errors import InputError, nearest
from recbole_msr.files.yaml import parse_yaml
from recbole_msr.tuning.space.conditions import needs
from recbole_msr.tuning.space.parameters import Parameter
from recbole_msr.tuning.space.space import Space

_DATA = {
    *cache._KEYS,
    *dataset_arguments,
    *(
        "dataset",
        "data_path",
        "history",
        "min_count",
        "hash_buckets",
        "preset",
        "main_task",
        "data_seed",
        "seed",
        "train_neg_sample_args",
        "repeatable",
    ),
    *(
        "dataset_save_path",
        "dataloaders_save_path",
        "save_dataset",
        "save_dataloaders",
        "min_scenario_rows",
        "segments",
    ),
}
"""Keys that change the rows, the labels, the split or the cells. (RecBole's own datasets split by `seed`.)"""

_STUDY = {
    *("model", "metrics", "valid_metric", "valid_metric_bigger", "topk", "metric_decimal_place", "config_file"),
    *("config_files", "output_dir", "resume", "checkpoint_dir", "log_wandb", "wandb_project", "strict"),
}
"""Keys that belong to the search as a whole."""

_SAME_FOR_ALL = {
    *("epochs", "eval_step", "eval_batch_size", "trainer", "lightning", "threads", "worker", "data_device"),
    *("packed_cache", "cache_dir", "use_gpu", "gpu_id", "reproducibility", "state", "show_progress"),
    *("fused_optimizer", "compile"),
    *("loss_decimal_place", "knowledge_dir", "knowledge_device", "knowledge_bake"),
}
"""Keys that change how long trials take or where they run. The budget of epochs must be the same for all."""


def check_space(space: Space, model: str, config: Any) -> None:
    """Refuse a space that cannot be searched with a model.

    Args:
        space: the space.
        model: model name.
        config: RecBole's configuration of the search.

    Raises:
        InputError: a key that the model does not read, that changes the data or the split, or that belongs to the
            search as a whole; with the file's line.
    """
    if space.model is not None and space.model != model:
        raise InputError(f"{space.name} is the search space of {space.model}, not of {model}")
    places = {parameter.key: parameter.place or space.name for parameter in space.parameters}
    for key in space.keys:
        place = places.get(key, space.name)
        if key in _DATA:
            raise InputError(
                f"{place}: '{key}' cannot be part of a search: it changes the data or their split, and the split never "
                "depends on the trial; set it for the whole search instead"
            )
        if key in _STUDY:
            raise InputError(f"{place}: '{key}' cannot be part of a search space: it belongs to the search as a whole")
        if key in _SAME_FOR_ALL and key in places:
            raise InputError(
                f"{place}: '{key}' cannot be searched: it must be the same for all trials to be compared; it may stand "
                "under 'fixed:'"
            )
    if config["strict"] is not False:
        _check_known(space, model, config)


def _check_known(space: Space, model: str, config: Any) -> None:
    """Refuse keys that the model does not read, whatever backbone it has."""
    choice = _backbone_choice(space)
    by_backbone = {name: _keys_read(model, name, config) for name in _backbones(space, config)}
    by_name = {parameter.name: parameter for parameter in space.parameters}
    for parameter in space.parameters:
        backbones = needs(parameter, by_name).get(choice.name) if choice is not None else None
        keys = by_backbone if backbones is None else {name: by_backbone[name] for name in backbones}
        _check_key(parameter.key, parameter.place or space.name, model, keys)
    for key in space.fixed:
        _check_key(key, space.name, model, by_backbone)


def _backbone_choice(space: Space) -> Parameter | None:
    return next((parameter for parameter in space.parameters if parameter.key == "backbone"), None)


def _check_key(key: str, place: str, model: str, by_backbone: Mapping[Any, set[str]]) -> None:
    reading = [name for name, keys in by_backbone.items() if key in keys]
    if len(reading) == len(by_backbone):
        return
    if reading:
        others = ", ".join(str(name) for name in by_backbone if name not in reading)
        raise InputError(
            f"{place}: '{key}' is read by {', '.join(map(str, reading))}, but the backbone may also be {others}: "
            f"search it under the condition when: {{backbone: [{', '.join(map(str, reading))}]}}"
        )
    every: set[str] = set().union(*by_backbone.values())
    raise InputError(f"{place}: {model} does not read '{key}'{nearest(key, every)}")


def _backbones(space: Space, config: Any) -> Iterable[Any]:
    """Return all backbones that the model may have; [None] for a model without."""
    if "backbone" in space.fixed:
        return [space.fixed["backbone"]]
    choice = _backbone_choice(space)
    return [config["backbone"]] if choice is None else choice.values() or []


def _keys_read(model: str, backbone: Any, config: Any) -> set[str]:
    """Return the keys that a model reads, with a backbone inside."""
    if not backbone:
        return known_keys(registry.model_class(model)) | set(config.internal_config_dict)
    # Not internal_config_dict: it has the defaults of one backbone.
    both = (model, str(backbone))
    return set().union(*(known_keys(registry.model_class(name)) | set(_defaults(name)) for name in both))


def _defaults(model: str) -> dict[str, Any]:
    return parse_yaml(registry.describe(model), model) or {}
