"""RecBole's configuration, built from settings and checked before anything is computed."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from recbole_msr import registry
from recbole_msr.compat import refuse_pickles
from recbole_msr.config.key_table import read_model_values, read_values
from recbole_msr.config.keys import check_keys, check_read
from recbole_msr.config.ranking import check_metrics_fit, check_ranking, with_ranking_defaults
from recbole_msr.errors import InputError, one_line
from recbole_msr.files.outputs import check_name, check_paths
from recbole_msr.files.yaml import TypedSettings
from recbole_msr.schema import Schema
from recbole_msr.version import __version__

logger = logging.getLogger(__name__)
_own_arguments = threading.Lock()
"""Held while the arguments of the process are hidden from RecBole: several threads may open runs."""


def check_version(written_by: Any) -> None:
    """Warn of a configuration of another version, which may mean something else or lack a setting of today."""
    this_version = f"recbole-msr {__version__}"
    if written_by is not None and written_by != this_version:
        logger.warning("the configuration was written by %s, this is %s: results may differ", written_by, this_version)


def build_config(model: str, dataset: str, settings: Mapping[str, Any]) -> Any:
    """Build RecBole's Config for a model and a dataset, and check it; the command line of the process is not read.

    Args:
        model: the name of a registered model or of one of RecBole's.
        dataset: the name of a dataset.
        settings: configuration keys with their values.

    Raises:
        InputError: an unknown model or key, a value that cannot be used, or one that RecBole refuses.
    """
    model_class = registry.model_class(model)
    check_name("dataset", dataset)
    check_paths(settings)
    _check_kind_of_model(model, model_class, settings)
    settings = _with_mode(read_values(settings), model_class)
    repeatable = settings.get("repeatable", False)
    is_sequential_ranking = _is_sequential(model_class) and bool(with_ranking_defaults(settings))
    negatives = None
    if is_sequential_ranking and _learns_tasks(settings, model_class):
        # RecBole wants it True of a sequential model, and leaves no item out then: here it is what the user says.
        settings = {key: value for key, value in settings.items() if key != "repeatable"}
        # RecBole's default draws negatives, and refuses them beside the default loss (CE) of most such models.
        negatives = settings.get("train_neg_sample_args")
        settings = {**settings, "train_neg_sample_args": None}
    if _learns_tasks(settings, model_class):
        check_metrics_fit(settings)
    config = _recbole_config(model, dataset, settings)
    if negatives is not None:
        config = _with_negatives(config, settings, negatives)
    if is_sequential_ranking and config["tasks"] is not None:
        config["repeatable"] = config.internal_config_dict["repeatable"] = repeatable
    if config["strict"]:
        check_keys(settings, model_class, config.internal_config_dict)
    model_values = read_model_values(config.external_config_dict, config.internal_config_dict)
    config.external_config_dict.update(model_values)
    config.final_config_dict.update(model_values)
    _check_data_device(config["data_device"])
    refuse_pickles(config)
    _check_declarations(config, model_class)
    _check_labels(config, model_class)
    check_ranking(config)
    if config["strict"]:
        check_read(config.external_config_dict, config)
    if config["tasks"] is not None and not config["use_gpu"]:
        config["device"] = torch.device("cpu")  # RecBole takes a GPU that is there all the same
    return config


def _check_kind_of_model(model: str, model_class: type, settings: Mapping[str, Any]) -> None:
    from recbole.utils import ModelType

    kind = getattr(model_class, "type", None)
    if kind == ModelType.DECISIONTREE:
        raise InputError(f"{model} is trained by its own library, not by PyTorch; use recbole.quick_start.run_recbole")
    if _is_sequential(model_class) and with_ranking_defaults(settings):
        return  # it learns the positives of the main task: see runs/item_rankers.py
    if settings.get("tasks") and kind in (ModelType.SEQUENTIAL, ModelType.KNOWLEDGE):
        raise InputError(
            f"{model} is a {kind.name.lower()} model, with data of its own kind: scenarios and tasks are for models "
            "that predict from one row's fields"
        )


def _recbole_config(model: str, dataset: str, settings: Mapping[str, Any]) -> Any:
    """Let RecBole make its Config of settings.

    Raises:
        InputError: RecBole refuses them.
    """
    from recbole.config import Config

    with _own_arguments:
        arguments = sys.argv
        try:
            sys.argv = arguments[:1]  # RecBole's Config would read it behind our back
            return Config(model=model, dataset=dataset, config_dict=TypedSettings(settings))
        except InputError:
            raise
        except Exception as error:
            lacks_mode = settings.get("eval_args") is not None and "mode" not in settings["eval_args"]
            hint = " (eval_args without a mode asks for it: add mode: labeled)"
            hint = hint if lacks_mode and "Full sort" in str(error) else ""
            raise InputError(f"RecBole refuses the configuration: {one_line(error)}{hint}") from error
        finally:
            sys.argv = arguments


def _with_negatives(config: Any, settings: Mapping[str, Any], negatives: Any) -> Any:
    """Return the configuration of a sequential model with `train_neg_sample_args`, which RecBole refuses beside CE.

    They say that the log is one of positives, for all models of a comparison. A model that learns by cross-entropy over
    all items draws none of them.
    """
    settings = {**settings, "train_neg_sample_args": negatives}
    if config["loss_type"] != "CE":
        return _recbole_config(config["model"], config["dataset"], settings)
    # What RecBole makes of them, beside another loss.
    of_pairs = _recbole_config(config["model"], config["dataset"], {**settings, "loss_type": "BPR"})
    config["train_neg_sample_args"] = of_pairs["train_neg_sample_args"]
    config.external_config_dict["train_neg_sample_args"] = negatives
    return config


def _check_declarations(config: Any, model_class: type) -> None:
    """Refuse a scenario, or a model of several tasks, without tasks."""
    if config["tasks"] is not None:
        return
    if config["only_scenario"] is not None:
        raise InputError(
            f"only_scenario: '{config['only_scenario']}' is to be one of several scenarios, but neither tasks nor a "
            "scenario are declared"
        )
    if hasattr(model_class, "predict_tasks"):
        raise InputError(
            f"{config['model']} needs to know what it is to learn: declare tasks (and a scenario), for instance "
            "tasks: {click: {field: rating, at_least: 4}} and scenario: {field: age, bins: [25, 35]}"
        )


def _check_labels(config: Any, model_class: type) -> None:
    """Refuse a task of numbers where labels are taken for 0 and 1, and weights where rows have none."""
    schema = Schema.from_config(config)
    if schema is not None and schema.main_task in schema.weight_fields and not hasattr(model_class, "predict_tasks"):
        raise InputError(
            f"main_task '{schema.main_task}' has a weight, and {config['model']}, one of RecBole's models, counts "
            "every row once: leave the weight out, or choose another main_task or a model of recbole-msr"
        )
    if schema is None or schema.types[schema.main_task] == "binary":
        return
    main = f"main_task '{schema.main_task}' is of type {schema.types[schema.main_task]}"
    if not hasattr(model_class, "predict_tasks"):
        raise InputError(
            f"{main}, and {config['model']}, one of RecBole's models, learns labels of 0 and 1: choose a binary "
            "main_task, or a model of recbole-msr"
        )
    if config["trainer"] == "recbole":
        raise InputError(f"{main}, and RecBole's own trainer takes labels for 0 and 1: set trainer: lightning")


def _check_data_device(device: str | None) -> None:
    """Refuse a device that would fail deep inside PyTorch."""
    try:
        torch.empty(0, device=device or "cpu")
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"data_device '{device}' is no device here: {one_line(error)}") from error


def _with_mode(settings: dict[str, Any], model_class: type) -> dict[str, Any]:
    """Evaluate the rows of the data where tasks are learnt; RecBole's default is to rank all items."""
    eval_args = settings.get("eval_args")
    if eval_args is None or "mode" in eval_args or not _learns_tasks(settings, model_class):
        return settings
    return {**settings, "eval_args": {**eval_args, "mode": "labeled"}}


def _is_sequential(model_class: type) -> bool:
    from recbole.utils import ModelType

    return bool(getattr(model_class, "type", None) == ModelType.SEQUENTIAL)


def _learns_tasks(settings: Mapping[str, Any], model_class: type) -> bool:
    return bool(hasattr(model_class, "predict_tasks") or settings.get("tasks") or settings.get("preset"))


@contextmanager
def reading_data(config: Any) -> Iterator[None]:
    """Silence RecBole while it reads a dataset, and report what it raises there as bad input.

    Raises:
        InputError: in place of what RecBole raises; it names the dataset.
    """
    root = logging.getLogger()
    level = root.level
    root.setLevel(max(level, logging.WARNING))  # RecBole logs its settings, which are in config.yaml
    try:
        yield
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, NotImplementedError, OSError) as error:
        raise InputError(f"dataset '{config['dataset']}' cannot be used: {one_line(error)}") from error
    finally:
        root.setLevel(level)


def plain_settings(config: Any) -> dict[str, Any]:
    """Return a configuration's settings as a user would write them: plain values, before RecBole fills them in."""
    merged = {**config.internal_config_dict, **config.external_config_dict}
    left_out = ("MODEL_TYPE", "config_files", "config_file", "output_dir", "resume")
    settings = {key: plain(value) for key, value in merged.items() if key not in left_out}
    return {"model": config["model"], "dataset": config["dataset"], **settings}


def plain(value: Any) -> Any:
    """Return a setting as a file holds it: mappings, lists, texts and numbers."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(element) for element in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
