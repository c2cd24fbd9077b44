"""What the user gave becomes the settings of a search and its space, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_msr import registry
from recbole_msr.config.build import check_version, plain
from recbole_msr.config.merge import make_folders_absolute, merge_settings
from recbole_msr.errors import InputError
from recbole_msr.files.outputs import check_name, check_paths
from recbole_msr.threads import log_worker_threads, share
from recbole_msr.tracking.wandb import resolve_mode
from recbole_msr.training.configure import training_config
from recbole_msr.tuning.objective import trial_config
from recbole_msr.tuning.samplers import Named, make_pruner, make_sampler
from recbole_msr.tuning.settings import (
    SearchSettings,
    check_count,
    read_fused,
    read_objectives,
    read_pruner,
    read_sampler,
)
from recbole_msr.tuning.space.key_rules import check_space
from recbole_msr.tuning.space.space import Space


def read_search(
    model: str | None,
    dataset: str | None,
    config_files: Sequence[str | Path],
    config: Mapping[str, Any],
    space: str | Path | Mapping[str, Any] | None,
    study: str | None,
    output: str | Path | None,
    **options: Any,
) -> tuple[SearchSettings, Space, Any]:
    """Everything that was given, checked before anything is computed."""
    space_file = None if isinstance(space, Mapping) else space
    given = plain(merge_settings(config_files, config, output=output, space=space_file))
    check_version(given.pop("written_by", None))
    model = model or given.get("model")
    dataset = dataset or given.get("dataset")
    for key in ("model", "dataset"):
        given.pop(key, None)
    for key in ("output_dir", "resume"):
        if key in given:
            raise InputError(f"{key} is a run's; a search has --output=DIR, and the same command again goes on")
    if given.get("trainer") not in (None, "auto", "lightning"):
        raise InputError(f"a search trains under Lightning: trainer '{given['trainer']}' cannot be searched with")
    parameters = Space.load(space) if space is not None else None
    model = model or (parameters.model if parameters is not None else None)
    for what, value in (("model", model), ("dataset", dataset)):
        if not value:
            raise InputError(f"no {what} given: --{what}=NAME, or '{what}: NAME' in a configuration file")
    assert model is not None
    assert dataset is not None
    check_name("dataset", dataset)
    if study is not None:
        check_name("--study", study)
    check_paths(given)
    registry.model_class(model)
    parameters = (parameters or Space.of_model(model)).resolve(dataset)
    own = {key: value for key, value in given.items() if key in parameters.keys}
    parameters = parameters.fixing(own) if own else parameters
    make_folders_absolute(given)

    check_count("workers", options["workers"], 1)
    threads = given.get("threads") or share(options["workers"])
    recbole_config = training_config(model, dataset, {**given, **parameters.fixed, "threads": threads})
    if recbole_config["tasks"] is None:
        raise InputError(
            "a search needs to know what is learnt: declare tasks, for instance "
            "tasks: {click: {field: rating, at_least: 4}}, or give --preset=NAME; without them RecBole splits "
            "the rows by the seed, and values of several seeds or processes would be of different rows"
        )
    objectives = read_objectives(options.pop("objectives"), str(recbole_config["valid_metric"]))
    given.pop("valid_metric", None)  # it is the first objective that is a metric
    options["sampler"] = read_sampler(options["sampler"])
    options["pruner"] = read_pruner(options["pruner"], objectives)
    options["fused"] = read_fused(options.get("fused"))
    kept = {key: given.pop(key, None) for key in ("wandb", "wandb_project", "log_wandb")}
    mode, project = options.pop("wandb") or kept["wandb"], options.pop("wandb_project") or kept["wandb_project"]
    name = study or f"{model}-{dataset}"
    settings = SearchSettings(
        model=model,
        dataset=dataset,
        config={
            **given,
            "seed": recbole_config["seed"],
            "data_seed": recbole_config["data_seed"],
            "threads": threads,
        },
        space=parameters.to_dict(),
        objectives=objectives,
        study=name,
        output=str(Path(output) if output is not None else Path("searches", name)),
        wandb=resolve_mode(mode),
        **({"wandb_project": project} if project else {}),
        **options,
    )
    recbole_config = trial_config(settings, dict(parameters.fixed))
    check_space(parameters, model, recbole_config)
    make_sampler(Named.read_back(settings.sampler), parameters, int(settings.config["seed"]))
    make_pruner(Named.read_back(settings.pruner), int(recbole_config["epochs"]))
    log_worker_threads(settings.workers, threads)
    return settings, parameters, recbole_config
