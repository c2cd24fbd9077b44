"""From the options of a search to its settings and its space, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recbole_msr import registry
from recbole_msr.config.merge import make_folders_absolute
from recbole_msr.errors import InputError
from recbole_msr.files.outputs import check_name, check_paths
from recbole_msr.jobs.configuration import merge_configuration, require, take_tracking
from recbole_msr.jobs.options import same_fields
from recbole_msr.schema import Schema
from recbole_msr.threads import log_worker_threads, share
from recbole_msr.training.configure import training_config
from recbole_msr.tuning.fidelity import check_fidelity, read_fidelity
from recbole_msr.tuning.first_configurations import read_first
from recbole_msr.tuning.models import ROWS_MODEL, check_quality, read_models
from recbole_msr.tuning.options import SearchOptions
from recbole_msr.tuning.samplers import Named, make_pruner, make_sampler
from recbole_msr.tuning.settings import (
    AUTO_PICKS,
    COSTS,
    SearchSettings,
    read_ensemble,
    read_fused,
    read_objectives,
    read_pruner,
    read_sampler,
)
from recbole_msr.tuning.space.joint import joint_space
from recbole_msr.tuning.space.key_rules import check_space
from recbole_msr.tuning.space.space import Space
from recbole_msr.tuning.trial_settings import trial_config
from recbole_msr.tuning.warm_start import read_warm_start

_NAMED = 3
"""A study of at most so many models has their names."""


def read_search(options: SearchOptions) -> tuple[SearchSettings, Space, Any]:
    """Resolve the options of a search.

    Returns:
        Its settings, its space, and RecBole's configuration with the space's fixed keys.

    Raises:
        InputError: an option, a configuration key or the space cannot be used.
    """
    config = _configuration(options)
    if options.models is not None:
        return _read_search_over_models(options, config)
    model, dataset, space = _model_dataset_space(options, config)
    make_folders_absolute(config)
    threads = config.get("threads") or (share(options.workers) if options.dask is None else 1)
    recbole_config = training_config(model, dataset, {**config, **space.fixed, "threads": threads})
    _require_tasks(recbole_config)
    settings = _settings(options, config, recbole_config, model, dataset, space, threads, f"{model}-{dataset}")
    settings = replace(settings, **_beginning(options, [model], space))
    recbole_config = trial_config(settings, dict(space.fixed))
    check_space(space, model, recbole_config)
    make_sampler(Named.read_back(settings.sampler), space, int(settings.config["seed"]))
    make_pruner(Named.read_back(settings.pruner), int(recbole_config["epochs"]))
    if options.dask is None:
        log_worker_threads(settings.workers, threads)
    return settings, space, recbole_config


def _configuration(options: SearchOptions) -> dict[str, Any]:
    """Merge the configuration, and refuse keys that are a single run's."""
    config = merge_configuration(options, space=None if isinstance(options.space, Mapping) else options.space)
    for key in ("output_dir", "resume"):
        if key in config:
            raise InputError(f"{key} belongs to a run; a search has --output=DIR, and resumes with the same command")
    if config.get("init_from") is not None:
        raise InputError("init_from belongs to a run: the trials of a search have other sizes than the run it names")
    if config.get("trainer") not in (None, "auto", "lightning"):
        raise InputError(f"a search trains under Lightning: trainer '{config['trainer']}' cannot be searched with")
    return config


def _model_dataset_space(options: SearchOptions, config: dict[str, Any]) -> tuple[str, str, Space]:
    """Find out the names and the space; keys of the configuration that are also in the space become fixed in it."""
    in_config = {key: config.pop(key, None) for key in ("model", "dataset")}
    space = Space.load(options.space) if options.space is not None else None
    model = options.model or in_config["model"] or (space.model if space is not None else None)
    model = require("model", model, "--model=NAME, or 'model: NAME' in a configuration file")
    dataset = _dataset(options, in_config["dataset"], config)
    registry.model_class(model)
    space = (space or Space.of_model(model, config)).resolve(dataset)
    fixed = {key: value for key, value in config.items() if key in space.keys}
    return model, dataset, space.fixing(fixed) if fixed else space


def _dataset(options: SearchOptions, in_config: Any, config: Mapping[str, Any]) -> str:
    """Return the dataset's name, and check all names and paths."""
    dataset = options.dataset or in_config
    dataset = require("dataset", dataset, "--dataset=NAME, or 'dataset: NAME' in a configuration file")
    check_name("dataset", dataset)
    if options.study is not None:
        check_name("--study", options.study)
    check_paths(config)
    return str(dataset)


def _read_search_over_models(options: SearchOptions, config: dict[str, Any]) -> tuple[SearchSettings, Space, Any]:
    """Resolve the options of a search over several models."""
    dataset = _dataset(options, config.pop("dataset", None), config)
    model = options.model or config.pop("model", None)
    if model is not None:
        raise InputError(
            f"--models names the models of the search, and the model is '{model}' as well: give one of them"
        )
    if options.space is not None:
        raise InputError(
            "--space is one model's, and with --models each model has its own: leave it out, or give --model=NAME"
        )
    make_folders_absolute(config)
    presets = [path.stem for path in registry.properties("dataset").glob("*.yaml")]
    if config.get("preset") is None and config.get("tasks") is None and dataset in presets:
        config["preset"] = dataset  # RecBole's models take it only where it is named
    threads = config.get("threads") or share(options.workers)
    taking = read_models(options.models or "", dataset, {**config, "threads": threads})
    recbole_config = training_config(ROWS_MODEL, dataset, taking.config_of(ROWS_MODEL))
    _require_tasks(recbole_config)
    space = joint_space(taking.models, dataset, {name: taking.config_of(name) for name in taking.models})
    study = options.study or f"{_study_of(options.models, taking.models)}-{dataset}"
    settings = _settings(options, taking.config, recbole_config, ROWS_MODEL, dataset, space, threads, study)
    settings = replace(
        settings,
        models=taking.models,
        unread=taking.unread,
        left_out=taking.left_out,
        tasks=_main_first(Schema.from_config(recbole_config)),
        **_beginning(options, taking.models, space),
    )
    for name in settings.objectives:
        if name not in COSTS:
            check_quality(name)
    make_sampler(Named.read_back(settings.sampler), space, int(settings.config["seed"]))
    make_pruner(Named.read_back(settings.pruner), int(recbole_config["epochs"]))
    log_worker_threads(settings.workers, threads)
    return settings, space, trial_config(settings, {})


def _beginning(options: SearchOptions, models: list[str], space: Space) -> dict[str, Any]:
    """Return the settings that say which trials come first."""
    return {
        "first": read_first(options.first, models, space),
        "warm_start": read_warm_start(options.warm_start, models, space),
    }


def _main_first(schema: Schema | None) -> list[str]:
    """Return the names of the tasks, the main task first."""
    return [] if schema is None else sorted(schema.task_names, key=lambda task: task != schema.main_task)


def _study_of(given: str | Sequence[str] | None, models: Sequence[str]) -> str:
    """Return the first part of the name of a study over several models."""
    if given == "auto" or list(given or ()) == ["auto"]:
        return "auto"
    return "-".join(models) if len(models) <= _NAMED else f"{len(models)}-models"


def _require_tasks(recbole_config: Any) -> None:
    if recbole_config["tasks"] is None:
        raise InputError(
            "a search needs to know what is learnt: declare tasks, for instance "
            "tasks: {click: {field: rating, at_least: 4}}, or give --preset=NAME; without them RecBole splits "
            "the rows by the seed, and values of several seeds or processes would be of different rows"
        )


def _settings(
    options: SearchOptions,
    config: Mapping[str, Any],
    recbole_config: Any,
    model: str,
    dataset: str,
    space: Space,
    threads: int,
    study: str,
) -> SearchSettings:
    objectives = read_objectives(options.objectives, str(recbole_config["valid_metric"]))
    kept = {key: value for key, value in config.items() if key != "valid_metric"}  # the first objective's metric is it
    tracking = take_tracking(options, kept)
    ensemble = read_ensemble(options.ensemble)
    study = options.study or study
    resolved = {
        "model": model,
        "dataset": dataset,
        "config": kept | {"seed": recbole_config["seed"], "data_seed": recbole_config["data_seed"], "threads": threads},
        "space": space.to_dict(),
        "objectives": objectives,
        "study": study,
        "output": str(Path("searches", study) if options.output is None else options.output),
        "epochs": options.total_epochs,
        "sampler": read_sampler(options.sampler),
        "pruner": read_pruner(options.pruner, objectives),
        "fused": read_fused(options.fused),
        "fidelity": read_fidelity(options.fidelity),
        "ensemble": ensemble or 0,
        **({} if options.dask is None else {"workers": 1}),  # on this machine, for what follows the trials
    }
    unchanged = same_fields(options, SearchSettings)
    for name in ("models", "first", "warm_start"):  # as they were given
        unchanged.pop(name)
    unchanged.pop("wandb_project")  # it may also be in the configuration: see `tracking`
    settings = SearchSettings(**{**unchanged, **resolved, **tracking})
    check_fidelity(settings)
    if ensemble is None and len(objectives) == 1 and settings.without_ensemble() is None:
        return replace(settings, ensemble=AUTO_PICKS)
    return settings
