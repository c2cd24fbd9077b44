"""From the options of a comparison to its settings, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recbole_msr import registry
from recbole_msr.comparison.entries import ablate_knowledge, find_reference, leave_unread_out, read_entries
from recbole_msr.comparison.options import CompareOptions, Models
from recbole_msr.comparison.settings import CompareSettings, Entry
from recbole_msr.config.build import plain_settings
from recbole_msr.config.merge import make_folders_absolute
from recbole_msr.config.ranking import with_ranking_defaults
from recbole_msr.data.cache import fingerprint
from recbole_msr.errors import InputError
from recbole_msr.files.outputs import check_name, check_paths
from recbole_msr.jobs.configuration import merge_configuration, require, take_tracking
from recbole_msr.jobs.options import same_fields
from recbole_msr.schema import Schema
from recbole_msr.threads import log_worker_threads, share
from recbole_msr.training.configure import training_config
from recbole_msr.tuning.models import PROTOCOL, ROWS_MODEL
from recbole_msr.tuning.space.key_rules import check_space
from recbole_msr.tuning.space.space import Space

_KNOWLEDGE = "minilm/full"
_SHARED_KEYS = ("seed", "data_seed", "valid_metric", "trainer", "threads", "dataset", "main_task")
_RUN_KEYS = ("output_dir", "resume", "save_predictions", "only_scenario")


def read_compare(options: CompareOptions) -> tuple[CompareSettings, Any]:
    """Resolve the options of a comparison.

    Returns:
        Its settings, and a RecBole configuration whose splits have the rows that all entries share.

    Raises:
        InputError: something that concerns all entries, or a misspelt name. What concerns one entry refuses that one.
    """
    config = merge_configuration(options)
    models, dataset = _models_and_dataset(options, config)
    config = _shared_configuration(options, config, dataset)
    tracking = take_tracking(options, config)
    entries = read_entries(models, options.vary or {})
    if options.knowledge_ablation:
        entries = ablate_knowledge(entries, config, _KNOWLEDGE)
    entries = leave_unread_out(entries, dataset, config)
    reference = find_reference(entries, options.reference)
    config, schema = _protocol(options, config, dataset, reference)
    rows_config = training_config(ROWS_MODEL, dataset, {**config, "main_task": schema.main_task, "strict": False})
    searched = options.trials > 0 or options.timeout is not None
    rows = fingerprint(rows_config, rows_config["data_path"], dataset, histories=False)
    check = _EntryCheck(dataset, config, schema, rows, searched)
    entries = [check(entry) for entry in entries]
    refused = next((entry.refused for entry in entries if entry.label == reference.label), None)
    if refused is not None:
        raise InputError(f"nothing can be tested against the reference '{reference.label}': {refused}")
    log_worker_threads(options.workers, config["threads"])
    resolved = {
        "dataset": dataset,
        "entries": entries,
        "reference": reference.label,
        "config": config,
        "scenarios": [],
        "tasks": schema.task_names,
        "main_task": schema.main_task,
        "output": str(Path("comparisons", dataset) if options.output is None else options.output),
    }
    unchanged = same_fields(options, CompareSettings)
    unchanged.pop("wandb_project")  # it may also be in the configuration: see `tracking`
    return CompareSettings(**{**unchanged, **resolved, **tracking}), rows_config


def _models_and_dataset(options: CompareOptions, config: dict[str, Any]) -> tuple[Models, str]:
    """Take the models and the dataset from the options, or else out of the configuration."""
    in_config = {key: config.pop(key, None) for key in ("models", "dataset")}
    models = require("models", options.models or in_config["models"], "--models=A,B")
    dataset = require("dataset", options.dataset or in_config["dataset"], "--dataset=NAME")
    check_name("dataset", dataset)
    return models, dataset


def _shared_configuration(options: CompareOptions, config: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    """Check the configuration keys of all runs, and add those that a comparison decides."""
    check_paths(config)
    shared = {key: value for key, value in config.items() if key != "model"}
    for key in _RUN_KEYS:
        if shared.get(key) is not None:
            raise InputError(f"{key} is a single run's; a comparison sets it for each of its runs")
    if shared.get("trainer") not in (None, "auto", "lightning"):
        raise InputError(f"all models of a comparison train under Lightning, not with trainer '{shared['trainer']}'")
    make_folders_absolute(shared)
    presets = [path.stem for path in registry.properties("dataset").glob("*.yaml")]
    if shared.get("preset") is None and shared.get("tasks") is None and dataset in presets:
        shared["preset"] = dataset
    return shared | {
        "threads": shared.get("threads") or share(options.workers),
        "valid_metric": _valid_metric(shared.get("valid_metric"), with_ranking_defaults(shared)),
        "trainer": "lightning",
        "show_progress": False,
        "metric_decimal_place": 6,
    }


def _valid_metric(configured: Any, ranking: Mapping[str, Any]) -> str:
    """Choose the metric that judges epochs and trials: one that single-task models have as well.

    Args:
        configured: the user's; None for the default.
        ranking: the defaults of a comparison by ranked lists; empty for one of labelled rows.

    Raises:
        InputError: it is of one task or one scenario.
    """
    default = f"{ranking['valid_metric']}/macro" if ranking else "auc/macro"
    metric = (default if configured is None else str(configured)).lower()
    if metric.split("/")[1:] not in ([], ["macro"], ["worst"]):
        raise InputError(
            f"valid_metric '{configured}' is about a part of the results; a comparison needs one that every model has, "
            "trained for one task or for all: auc/macro, auc/worst, logloss/macro, gauc/macro, ece/macro, auc, ..., "
            "and of ranked lists ndcg@10/macro, ndcg@10/worst, ..."
        )
    return metric


def _protocol(
    options: CompareOptions, config: Mapping[str, Any], dataset: str, reference: Entry
) -> tuple[dict[str, Any], Schema]:
    """Add the reference's protocol (epochs, stopping, evaluation, seeds) to the configuration of all runs.

    Returns:
        The configuration, and the declared tasks and scenarios.

    Raises:
        InputError: no tasks are declared, or no scenarios where they are needed.
    """
    own = {key: value for key, value in reference.settings.items() if key not in PROTOCOL}
    recbole_config = training_config(reference.model, dataset, replace(reference, settings=own).merge(config))
    schema = _schema(recbole_config, options.single_scenario, config["valid_metric"])
    protocol = plain_settings(recbole_config)
    shared = {key: protocol[key] for key in PROTOCOL if key in protocol}
    seeds = {key: recbole_config[key] for key in ("seed", "data_seed")}
    return {**config, **shared, **seeds}, schema


def _schema(recbole_config: Any, single_scenario: bool, valid_metric: str) -> Schema:
    schema = Schema.from_config(recbole_config)
    if schema is None:
        raise InputError(
            "a comparison needs to know what is learnt: declare tasks (and a scenario), for instance "
            "tasks: {click: {field: rating, at_least: 4}} and scenario: {field: age, bins: [25, 35]}"
        )
    if single_scenario and schema.scenario.field is None:
        raise InputError(
            "--single-scenario needs several scenarios: declare them, e.g. scenario: {field: age, bins: [30]}"
        )
    if "/" not in valid_metric and len(schema.tasks) > 1:
        raise InputError(
            f"valid_metric '{valid_metric}' is about the main task alone, and a model of one task would be "
            f"chosen by its own: give {valid_metric}/macro"
        )
    return schema


def space_of(model: str, dataset: str, settings: Mapping[str, Any]) -> Space:
    """Return what a model's search may change: its own space, without the keys that are set.

    Args:
        model: model name.
        dataset: dataset name.
        settings: configuration keys of the search.

    Raises:
        InputError: there is no space for the model, or nothing left in it.
    """
    space = Space.of_model(model).resolve(dataset)
    return space.fixing({key: value for key, value in settings.items() if key in space.keys})


@dataclass(frozen=True)
class _EntryCheck:
    """Finds an entry's tasks, or the reason why it cannot be compared.

    Attributes:
        dataset: dataset name.
        config: configuration keys of all runs.
        schema: the declared tasks and scenarios.
        data: fingerprint of the rows, fields, labels and split that all entries share; histories may differ.
        searched: whether each entry's settings are searched.
    """

    dataset: str
    config: Mapping[str, Any]
    schema: Schema
    data: str
    searched: bool

    def __call__(self, entry: Entry) -> Entry:
        entry = replace(entry, settings=dict(entry.settings))
        try:
            is_multi_task = self._check(entry)
        except InputError as error:
            return replace(entry, refused=" ".join(str(error).split()))
        return replace(entry, tasks=[None] if is_multi_task else list(self._binary))

    @property
    def _binary(self) -> list[str]:
        """The tasks that RecBole's models can learn."""
        weighted = self.schema.weight_fields
        return [task for task, kind in self.schema.types.items() if kind == "binary" and task not in weighted]

    def _check(self, entry: Entry) -> bool:
        """Check an entry's settings, and give a model that needs knowledge the default's.

        Returns:
            Whether the model learns all tasks at once.
        """
        model, settings = entry.model, entry.settings
        is_multi_task = hasattr(registry.model_class(model), "predict_tasks")
        changed = sorted({*PROTOCOL, *_SHARED_KEYS, *_RUN_KEYS} & set(settings))
        if changed:
            raise InputError(f"{', '.join(changed)} must be the same for all entries: give it for the comparison")
        main = self.schema.main_task
        if not is_multi_task and main not in self._binary:
            main = next(iter(self._binary), main)
        keys = {**entry.merge(self.config), "main_task": main}
        config = training_config(model, self.dataset, keys)
        if is_multi_task and config["backbone"] and config["knowledge"] is None and not self.searched:
            settings["knowledge"] = _KNOWLEDGE  # a search has its stores in the space
        if fingerprint(config, config["data_path"], self.dataset, histories=False) != self.data:
            raise InputError("its settings lead to other rows, fields, labels or another split than the others'")
        if self.searched:
            self._check_space(model, keys)
        return is_multi_task

    def _check_space(self, model: str, keys: Mapping[str, Any]) -> None:
        space = space_of(model, self.dataset, keys)
        check_space(space, model, training_config(model, self.dataset, {**keys, **space.fixed}))
