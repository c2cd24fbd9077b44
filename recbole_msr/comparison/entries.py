"""From the models that a comparison names to its entries."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from recbole_msr import registry
from recbole_msr.comparison.options import Models
from recbole_msr.comparison.settings import Entry
from recbole_msr.config.build import plain
from recbole_msr.config.keys import refused_keys, unknown_keys
from recbole_msr.data.positives import ranks_items
from recbole_msr.errors import InputError, nearest
from recbole_msr.files.outputs import check_name, check_path
from recbole_msr.files.yaml import read_yaml
from recbole_msr.training.configure import training_config

logger = logging.getLogger(__name__)
_LLM4MSR = "LLM4MSR"
_OF_FEATURES = ("knowledge_feature_size", "knowledge_match")
"""Keys that are read with `knowledge_features` alone."""


def read_entries(models: Models, vary: Mapping[str, Any]) -> list[Entry]:
    """Return the entries that a comparison names, with those that `--vary` makes of them.

    Args:
        models: names ("HiNet,DeepFM" or a list), a mapping of labels to settings, or the path of a YAML file of one.
        vary: keys with lists of values.

    Raises:
        InputError: two entries have one label, a label's settings are no mapping, there is no such model, or `vary`
            has no lists of different values.
    """
    entries = [_entry(str(label), settings) for label, settings in _labels_and_settings(models).items()]
    if not entries:
        raise InputError("no models given: --models=A,B")
    return _varied(entries, vary)


def _labels_and_settings(models: Models) -> Mapping[str, Any]:
    if isinstance(models, str):
        models = models.strip()
        if models.endswith((".yaml", ".yml")):
            check_path("--models", models)
            return read_yaml(models)
        models = [name.strip() for name in models.split(",") if name.strip()]
    if isinstance(models, Mapping):
        return models
    twice = {name for name in models if list(models).count(name) > 1}
    if twice:
        raise InputError(f"{', '.join(sorted(twice))} is named twice: give the second one a label and settings")
    return {str(name): {} for name in models}


def _entry(label: str, settings: Any) -> Entry:
    settings = {} if settings is None else settings
    if not isinstance(settings, Mapping):
        raise InputError(f"models: '{label}' must be a mapping such as {{model: HiNet, dropout: 0.1}}: {settings!r}")
    check_name("models", label)
    keys = dict(plain(settings))
    model = str(keys.pop("model", label))
    registry.check_model_name(model)
    return Entry(label, model, keys)


def _varied(entries: Sequence[Entry], vary: Mapping[str, Any]) -> list[Entry]:
    """Enter each model of this package once for every combination of the varied keys, and the others as they are."""
    registered = registry.registered_models()
    for key, values in vary.items():
        if not isinstance(values, Sequence) or isinstance(values, str) or not values or None in values:
            raise InputError(f"--vary takes keys with lists of values, such as {{loss_weighting: [fixed, dwa]}}: {key}")
        entries = [
            varied
            for entry in entries
            for varied in (_with_each(entry, key, values) if entry.model in registered else [entry])
        ]
    if len({entry.label for entry in entries}) < len(entries):
        raise InputError("--vary: a value is listed twice")
    return list(entries)


def ablate_knowledge(entries: Sequence[Entry], config: Mapping[str, Any], default: str) -> list[Entry]:
    """Enter each model that can read a language model's vectors without them, with them, and with controls.

    LLM4MSR is entered as its backbone alone, with each level, both and all, and with the vectors as its backbone's
    features; any other model of this package alone and with the features. Both levels, and the features, are entered
    again with the two controls. RecBole's models stay as they are. What is read with the features alone, such as
    `knowledge_match`, goes to the entries that have them.

    Args:
        entries: the entries.
        config: the shared configuration keys.
        default: the knowledge where none is given.

    Raises:
        InputError: none of the models reads vectors, a key is given that the ablation varies, or `knowledge` names no
            vectors.
    """
    ablated = [row for entry in entries for row in _ablated(entry, config, default)]
    if len(ablated) == len(entries):
        raise InputError(
            "--knowledge-ablation takes models of this package, such as LLM4MSR or HiNet; of those that are given none "
            "reads a language model's vectors"
        )
    return ablated


def _ablated(entry: Entry, config: Mapping[str, Any], default: str) -> list[Entry]:
    if entry.model not in registry.registered_models():
        return [entry]
    given = {**config, **entry.settings}
    varied = ("knowledge_level", "knowledge_features", "knowledge_control")
    if set_here := [key for key in varied if given.get(key) is not None]:
        raise InputError(f"--knowledge-ablation sets {', '.join(set_here)} for each row itself: leave that out")
    knowledge = str(given.get("knowledge") or default)
    if knowledge in ("none", "random"):
        raise InputError(
            f"--knowledge-ablation compares real vectors with none and with controls, and knowledge is '{knowledge}': "
            "name a store, or ENCODER/TEMPLATE such as minilm/full"
        )
    read = {"knowledge": knowledge}
    features = read | {"knowledge_features": ["user", "item"]}
    rows: dict[str, dict[str, Any]] = {"none": {"knowledge": "none"}}
    if entry.model == _LLM4MSR:
        rows |= {level: read | {"knowledge_level": level} for level in ("scenario", "user", "item", "both", "all")}
        rows |= _with_controls("both", rows["both"])
        features |= {"knowledge_level": "none"}
    rows["features"] = features
    rows |= _with_controls("features", features)
    return [_ablation_row(entry, name, keys) for name, keys in rows.items()]


def _ablation_row(entry: Entry, name: str, keys: Mapping[str, Any]) -> Entry:
    settings, left_out = {**entry.settings, **keys}, []
    if "knowledge_features" not in keys:
        settings = {key: value for key, value in settings.items() if key not in _OF_FEATURES}
        left_out = list(_OF_FEATURES)
    return Entry(f"{entry.label} {name}", entry.model, settings, left_out=left_out)


def _with_controls(name: str, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {f"{name} {control}": {**settings, "knowledge_control": control} for control in ("random", "permuted")}


def _with_each(entry: Entry, key: str, values: Sequence[Any]) -> list[Entry]:
    return [Entry(f"{entry.label} {key}={value}", entry.model, {**entry.settings, key: value}) for value in values]


def leave_unread_out(entries: Sequence[Entry], dataset: str, config: Mapping[str, Any]) -> list[Entry]:
    """Give each entry the default of every shared key that its model does not read, and none that it does not have.

    Args:
        entries: the entries.
        dataset: dataset name.
        config: the shared configuration keys.

    Raises:
        InputError: none of the models reads a key.
    """
    if config.get("strict") is False:
        return list(entries)
    full_configs = [_full_config(entry, dataset, config) for entry in entries]
    kept, unread = [], []
    for entry, full, left_out in zip(entries, full_configs, _keys_left_out(entries, full_configs, config), strict=True):
        shared = {key: value for key, value in config.items() if key not in (*entry.left_out, *left_out)}
        entry = replace(entry, left_out=sorted({*entry.left_out, *left_out}))
        for key, why in sorted(left_out.items()):
            logger.info("%s: %s %s, and is left out for it", entry.label, key, why)
        if full is None:
            kept.append(entry)
            continue
        shared = {key: value for key, value in shared.items() if key not in entry.settings}
        unread.append(refused_keys(shared, full) | left_out)
        defaults = full.internal_config_dict
        own = {key: plain(defaults[key]) for key in unread[-1] if key in defaults and key not in left_out}
        kept.append(replace(entry, settings={**own, **entry.settings}))
    _refuse_unread_by_all(unread)
    return kept


def _full_config(entry: Entry, dataset: str, config: Mapping[str, Any]) -> Any:
    """Return RecBole's Config of an entry; None where it is refused, which is reported where the entry is checked."""
    try:
        return training_config(entry.model, dataset, {**config, **entry.settings, "strict": False})
    except InputError:
        return None


def _keys_left_out(
    entries: Sequence[Entry], full_configs: Sequence[Any], config: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Return for each of RecBole's models of items the shared keys that only other models have, with the reason."""
    unknown = [
        None if full is None else set(unknown_keys(set(config) - set(entry.settings), full.model_class, full))
        for entry, full in zip(entries, full_configs, strict=True)
    ]
    by_all = set[str]().union(*[keys for keys in unknown if keys])
    by_all = by_all.intersection(*[keys for keys in unknown if keys is not None])  # misspelt: refused
    return [
        dict.fromkeys(sorted(keys - by_all), f"is no key of {entry.model}") if keys and ranks_items(full) else {}
        for entry, full, keys in zip(entries, full_configs, unknown, strict=True)
    ]


def _refuse_unread_by_all(unread: Sequence[Mapping[str, str]]) -> None:
    for key, why in unread[0].items() if unread else ():
        if all(key in others for others in unread):
            raise InputError(f"{key} {why} (--strict=False passes keys through unchecked)")


def find_reference(entries: Sequence[Entry], label: str | None) -> Entry:
    """Return the entry with a label, or the first.

    Raises:
        InputError: no entry has this label.
    """
    if label is None:
        return entries[0]
    for entry in entries:
        if entry.label == label:
            return entry
    labels = [entry.label for entry in entries]
    raise InputError(
        f"--reference '{label}' is not compared{nearest(label, labels) or '.'} There are {', '.join(labels)}."
    )
