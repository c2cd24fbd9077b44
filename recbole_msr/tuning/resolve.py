"""From the options of a search to its settings and its space, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_msr import registry
from recbole_msr.config.merge import make_folders_absolute
from recbole_msr.errors import InputError
from recbole_msr.files.outputs import check_name, check_paths
from recbole_msr.jobs.configuration import merge_configuration, require, take_tracking
from recbole_msr.jobs.options import same_fields
from recbole_msr.threads import log_worker_threads, share
from recbole_msr.training.configure import training_config
from recbole_msr.tuning.options import SearchOptions
from recbole_msr.tuning.samplers import Named, make_pruner, make_sampler
from recbole_msr.tuning.settings import SearchSettings, read_fused, read_objectives, read_pruner, read_sampler
from recbole_msr.tuning.space.key_rules import check_space
from recbole_msr.tuning.space.space import Space
from recbole_msr.tuning.trial_settings import trial_config


def read_search(options: SearchOptions) -> tuple[SearchSettings, Space, Any]:
    """Resolve the options of a search.

    Returns:
        Its settings, its space, and RecBole's configuration with the space's fixed keys.

    Raises:
        InputError: an option, a configuration key or the space cannot be used.
    """
    config = _configuration(options)
    model, dataset, space = _model_dataset_space(options, config)
    make_folders_absolute(config)
    threads = config.get("threads") or share(options.workers)
    recbole_config = training_config(model, dataset, {**config, **space.fixed, "threads": threads})
    _require_tasks(recbole_config)
    settings = _settings(options, config, recbole_config, model, dataset, space, threads)
    recbole_config = trial_config(settings, dict(space.fixed))
    check_space(space, model, recbole_config)
    make_sampler(Named.read_back(settings.sampler), space, int(settings.config["seed"]))
    make_pruner(Named.read_back(settings.pruner), int(recbole_config["epochs"]))
    log_worker_threads(settings.workers, threads)
    return settings, space, recbole_config


def _configuration(options: SearchOptions) -> dict[str, Any]:
    """Merge the configuration, and refuse keys that are a single run's."""
    config = merge_configuration(options, space=None if isinstance(options.space, Mapping) else options.space)
    for key in ("output_dir", "resume"):
        if key in config:
            raise InputError(f"{key} belongs to a run; a search has --output=DIR, and resumes with the same command")
    if config.get("trainer") not in (None, "auto", "lightning"):
        raise InputError(f"a search trains under Lightning: trainer '{config['trainer']}' cannot be searched with")
    return config


def _model_dataset_space(options: SearchOptions, config: dict[str, Any]) -> tuple[str, str, Space]:
    """Find out the names and the space; keys of the configuration that are also in the space become fixed in it."""
    in_config = {key: config.pop(key, None) for key in ("model", "dataset")}
    space = Space.load(options.space) if options.space is not None else None
    model = options.model or in_config["model"] or (space.model if space is not None else None)
    model = require("model", model, "--model=NAME, or 'model: NAME' in a configuration file")
    dataset = options.dataset or in_config["dataset"]
    dataset = require("dataset", dataset, "--dataset=NAME, or 'dataset: NAME' in a configuration file")
    check_name("dataset", dataset)
    if options.study is not None:
        check_name("--study", options.study)
    check_paths(config)
    registry.model_class(model)
    space = (space or Space.of_model(model)).resolve(dataset)
    fixed = {key: value for key, value in config.items() if key in space.keys}
    return model, dataset, space.fixing(fixed) if fixed else space


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
) -> SearchSettings:
    objectives = read_objectives(options.objectives, str(recbole_config["valid_metric"]))
    kept = {key: value for key, value in config.items() if key != "valid_metric"}  # the first objective's metric is it
    tracking = take_tracking(options, kept)
    study = options.study or f"{model}-{dataset}"
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
    }
    unchanged = same_fields(options, SearchSettings)
    unchanged.pop("wandb_project")  # it may also be in the configuration: see `tracking`
    return SearchSettings(**{**unchanged, **resolved, **tracking})
