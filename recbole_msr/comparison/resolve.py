"""What the user gave becomes the settings of a comparison, checked before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_msr import registry
from recbole_msr.comparison.settings import CompareSettings, Entry
from recbole_msr.config.build import check_version, plain, plain_settings
from recbole_msr.config.keys import refused_keys
from recbole_msr.config.merge import make_folders_absolute, merge_settings
from recbole_msr.data.cache import fingerprint
from recbole_msr.errors import InputError, nearest
from recbole_msr.files.outputs import check_name, check_path, check_paths
from recbole_msr.files.yaml import read_yaml
from recbole_msr.schema import Schema
from recbole_msr.threads import log_worker_threads, share
from recbole_msr.tracking.wandb import resolve_mode
from recbole_msr.training.configure import training_config
from recbole_msr.tuning.settings import MOST, check_count
from recbole_msr.tuning.space.key_rules import check_space
from recbole_msr.tuning.space.space import Space

PROTOCOL = (
    "epochs",
    "stopping_step",
    "eval_step",
    "eval_args",
    "train_neg_sample_args",
    "min_scenario_rows",
    "metrics",
)
"""Keys that every run has from the reference's configuration, whatever its own model's defaults are."""
ROWS_MODEL = "SharedBottom"
"""A model of several tasks: its splits keep rows that lack the main task's label."""
_KNOWLEDGE = "minilm/full"
_COMMON = ("seed", "data_seed", "valid_metric", "trainer", "threads", "dataset", "main_task")
_OWN = ("output_dir", "resume", "save_predictions", "only_scenario")


def read_compare(
    models: str | Sequence[str] | Mapping[str, Any] | None,
    dataset: str | None,
    config_files: Sequence[str | Path],
    config: Mapping[str, Any],
    vary: Mapping[str, Any] | None,
    reference: str | None,
    output: str | Path | None,
    **options: Any,
) -> tuple[CompareSettings, Any]:
    """Everything that was given, checked; and a configuration that leads to the rows that all entries share.

    Raises:
        InputError: something that concerns all entries, or a misspelt name. What concerns one entry refuses that one.
    """
    check_count("trials", options["trials"], 0)
    for name in ("seeds", "workers"):
        check_count(name, options[name], 1, MOST)
    for name, most in (("timeout", math.inf), ("alpha", 1.0)):
        value = options[name]
        if value is not None and not (
            isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < most
        ):
            raise InputError(f"--{name} must be a number between 0 and {most:g}, got {value!r}")
    given = plain(merge_settings(config_files, config, output=output))
    check_version(given.pop("written_by", None))
    named = {key: given.pop(key, None) for key in ("models", "dataset")}
    models, dataset = models or named["models"], dataset or named["dataset"]
    for what, value in (("models", models), ("dataset", dataset)):
        if not value:
            raise InputError(f"no {what} given: --{what}={'A,B' if what == 'models' else 'NAME'}")
    check_name("dataset", dataset)
    check_paths(given)
    given.pop("model", None)
    for key in _OWN:
        if given.get(key) is not None:
            raise InputError(f"{key} is a single run's; a comparison sets it for each of its runs")
    if given.get("trainer") not in (None, "auto", "lightning"):
        raise InputError(f"all models of a comparison train under Lightning, not with trainer '{given['trainer']}'")
    make_folders_absolute(given)
    presets = [path.stem for path in registry.properties("dataset").glob("*.yaml")]
    if given.get("preset") is None and given.get("tasks") is None and dataset in presets:
        given["preset"] = dataset

    given["threads"] = given.get("threads") or share(options["workers"])
    given["valid_metric"] = _valid_metric(given.get("valid_metric"))
    given |= {"trainer": "lightning", "show_progress": False, "metric_decimal_place": 6}
    kept = {key: given.pop(key, None) for key in ("wandb", "wandb_project", "log_wandb")}
    mode, project = options.pop("wandb") or kept["wandb"], options.pop("wandb_project") or kept["wandb_project"]
    entries = _varied(read_models(models), vary or {})
    assert dataset is not None
    entries = _without_unread(entries, dataset, given)
    first = _reference(entries, reference)

    own = {key: value for key, value in first.settings.items() if key not in PROTOCOL}
    shared = training_config(first.model, dataset, {**given, **own})
    schema = Schema.from_config(shared)
    if schema is None:
        raise InputError(
            "a comparison needs to know what is learnt: declare tasks (and a scenario), for instance "
            "tasks: {click: {field: rating, at_least: 4}} and scenario: {field: age, bins: [25, 35]}"
        )
    if options["single_scenario"] and schema.scenario.field is None:
        raise InputError(
            "--single-scenario needs several scenarios: declare them, e.g. scenario: {field: age, bins: [30]}"
        )
    if "/" not in given["valid_metric"] and len(schema.tasks) > 1:
        raise InputError(
            f"valid_metric '{given['valid_metric']}' is about the main task alone, and a model of one task would be "
            f"chosen by its own: give {given['valid_metric']}/macro"
        )
    protocol = plain_settings(shared)
    given |= {key: protocol[key] for key in PROTOCOL if key in protocol}
    given |= {"seed": shared["seed"], "data_seed": shared["data_seed"]}
    rows = training_config(ROWS_MODEL, dataset, {**given, "main_task": schema.main_task, "strict": False})
    data = fingerprint(rows, rows["data_path"], dataset)
    searched = options["trials"] > 0 or options["timeout"] is not None
    checked = [_checked(entry, dataset, given, schema, data, searched) for entry in entries]
    refused = next((entry.refused for entry in checked if entry.label == first.label), None)
    if refused is not None:
        raise InputError(f"nothing can be tested against the reference '{first.label}': {refused}")
    log_worker_threads(options["workers"], given["threads"])
    settings = CompareSettings(
        dataset=dataset,
        entries=checked,
        reference=first.label,
        config=given,
        scenarios=[],
        tasks=schema.task_names,
        main_task=schema.main_task,
        output=str(Path(output) if output is not None else Path("comparisons", dataset)),
        wandb=resolve_mode(mode),
        **({"wandb_project": project} if project else {}),
        **options,
    )
    return settings, rows


def read_models(given: str | Sequence[str] | Mapping[str, Any]) -> list[Entry]:
    """Entries from names, "HiNet,DeepFM" or a list; from a mapping of labels to settings; or from a YAML file of those.

    Raises:
        InputError: two entries have one label, a label's settings are no mapping, or there is no such model.
    """
    if isinstance(given, str):
        given = given.strip()
        if given.endswith((".yaml", ".yml")):
            check_path("--models", given)
            given = read_yaml(given)
        else:
            given = [name.strip() for name in given.split(",") if name.strip()]
    if not isinstance(given, Mapping):
        twice = {name for name in given if list(given).count(name) > 1}
        if twice:
            raise InputError(f"{', '.join(sorted(twice))} is named twice: give the second one a label and settings")
        given = {str(name): {} for name in given}
    entries = []
    for label, settings in given.items():
        settings = {} if settings is None else settings
        if not isinstance(settings, Mapping):
            raise InputError(
                f"models: '{label}' must be a mapping such as {{model: HiNet, dropout: 0.1}}: {settings!r}"
            )
        check_name("models", str(label))
        own = dict(plain(settings))
        name = str(own.pop("model", label))
        registry.check_model_name(name)
        entries.append(Entry(str(label), name, own))
    if not entries:
        raise InputError("no models given: --models=A,B")
    return entries


def _varied(entries: Sequence[Entry], vary: Mapping[str, Any]) -> list[Entry]:
    """Each entry of a model of this package once for every combination of the varied keys; the others as they are."""
    own = registry.registered_models()
    for key, values in vary.items():
        if not isinstance(values, Sequence) or isinstance(values, str) or not values or None in values:
            raise InputError(f"--vary takes keys with lists of values, such as {{loss_weighting: [fixed, dwa]}}: {key}")
        entries = [
            Entry(f"{entry.label} {key}={value}", entry.model, {**entry.settings, key: value})
            if value is not None
            else entry
            for entry in entries
            for value in (values if entry.model in own else [None])
        ]
    labels = [entry.label for entry in entries]
    if len(set(labels)) < len(labels):
        raise InputError("--vary: a value is listed twice")
    return list(entries)


def _without_unread(entries: Sequence[Entry], dataset: str, given: Mapping[str, Any]) -> list[Entry]:
    """The entries; a shared key that an entry's model does not read keeps its default there.

    Raises:
        InputError: none of the models reads a key.
    """
    if given.get("strict") is False:
        return list(entries)
    unread: list[dict[str, str]] = []
    result = []
    for entry in entries:
        try:
            config = training_config(entry.model, dataset, {**given, **entry.settings, "strict": False})
        except InputError:  # told where the entry is checked
            result.append(entry)
            continue
        unread.append(refused_keys({key: given[key] for key in given if key not in entry.settings}, config))
        defaults = {
            key: plain(config.internal_config_dict[key]) for key in unread[-1] if key in config.internal_config_dict
        }
        result.append(Entry(entry.label, entry.model, {**defaults, **entry.settings}))
    for key, why in unread[0].items() if unread else ():
        if all(key in others for others in unread):
            raise InputError(f"{key} {why} (--strict=False passes keys through unchecked)")
    return result


def _reference(entries: Sequence[Entry], label: str | None) -> Entry:
    if label is None:
        return entries[0]
    for entry in entries:
        if entry.label == label:
            return entry
    labels = [entry.label for entry in entries]
    raise InputError(
        f"--reference '{label}' is not compared{nearest(label, labels) or '.'} There are {', '.join(labels)}."
    )


def _valid_metric(given: Any) -> str:
    """The metric that chooses epochs and trials: one that models of one task have as well as those of all.

    Raises:
        InputError: it is about one task or one scenario.
    """
    metric = "auc/macro" if given is None else str(given).lower()
    if metric.split("/")[1:] not in ([], ["macro"], ["worst"]):
        raise InputError(
            f"valid_metric '{given}' is about a part of the results; a comparison needs one that every model has, "
            "trained for one task or for all: auc/macro, auc/worst, logloss/macro, gauc/macro, auc, ..."
        )
    return metric


def space_of(model: str, dataset: str, settings: Mapping[str, Any]) -> Space:
    """What a model's search may change: its own space, but for what is given.

    Raises:
        InputError: there is no space for the model, or nothing left in it.
    """
    space = Space.of_model(model).resolve(dataset)
    return space.fixing({key: value for key, value in settings.items() if key in space.keys})


def _checked(entry: Entry, dataset: str, given: Mapping[str, Any], schema: Schema, data: str, searched: bool) -> Entry:
    """The entry with the tasks it is trained for, or with the reason why it cannot be compared."""
    settings = dict(entry.settings)
    try:
        class_ = registry.model_class(entry.model)
        several = hasattr(class_, "predict_tasks")
        changed = sorted({*PROTOCOL, *_COMMON, *_OWN} & set(settings))
        if changed:
            raise InputError(f"{', '.join(changed)} must be the same for all entries: give it for the comparison")
        own = {**given, **settings, "main_task": schema.main_task}
        config = training_config(entry.model, dataset, own)
        if several and config["backbone"] and config["knowledge"] is None and not searched:
            settings["knowledge"] = _KNOWLEDGE  # a search has its stores in the space
        if fingerprint(config, config["data_path"], dataset) != data:
            raise InputError("its settings lead to other rows, fields, labels or another split than the others'")
        if searched:
            space = space_of(entry.model, dataset, own)
            check_space(space, entry.model, training_config(entry.model, dataset, {**own, **space.fixed}))
    except InputError as error:
        return Entry(entry.label, entry.model, settings, refused=" ".join(str(error).split()))
    return Entry(entry.label, entry.model, settings, [None] if several else list(schema.task_names))
