"""The one place that enters RecBole's registries: models, their defaults, the dataset, the trainer.

After `import recbole_msr`, a registered model is found by every RecBole function that takes a model's name, reads its
defaults from `properties/model/<Name>.yaml`, and trains under Lightning. A configuration that declares tasks gets a
`ScenarioDataset`, whatever the model. RecBole models without tasks are left exactly as they are.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from recbole_msr import compat
from recbole_msr.config.defaults import preset_settings, with_backbone
from recbole_msr.config.merge import make_folders_absolute
from recbole_msr.config.ranking import with_ranking_defaults
from recbole_msr.evaluation.metrics import check_task_names, smaller_is_better
from recbole_msr.files.yaml import NAME_KEYS, SafeLoader, TypedSettings, python_literal, read_defaults
from recbole_msr.registry import RECBOLE_PACKAGE, properties, registrations
from recbole_msr.schema import MISSING_LABEL, Schema, label_field

# RecBole looks a model up as recbole.model.<family>_recommender.<name in lower case>.


class _ModelFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finder of the modules in which RecBole looks for registered models: each holds the registered class."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Answer for a module that is named as a registered model."""
        package, _, module = fullname.rpartition(".")
        if package != RECBOLE_PACKAGE or not any(name.lower() == module for name in registrations()):
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        """Put the registered class into the module."""
        lower = module.__name__.rpartition(".")[2]
        for name, registration in registrations().items():
            if name.lower() == lower:
                setattr(module, name, registration.load())


_finder = _ModelFinder()


def activate() -> None:
    """Enter RecBole's registries. Imports nothing of RecBole by itself; may be called any number of times."""
    compat.apply()
    if _finder not in sys.meta_path:
        sys.meta_path.append(_finder)  # behind the others: a module of RecBole's own always wins
    compat.after_import("recbole.config.configurator", _extend_config)
    compat.after_import("recbole.data.dataset.dataset", _extend_dataset)
    compat.after_import("recbole.trainer", _extend_trainers)
    compat.after_import("recbole.evaluator.collector", _extend_collector)
    compat.after_import("recbole.quick_start.quick_start", _extend_loading)


def _wrap(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace `owner.name` by `make(owner.name)`, once."""
    original = getattr(owner, name)
    if not hasattr(original, "_recbole_msr"):
        wrapped = make(original)
        wrapped._recbole_msr = True
        setattr(owner, name, wrapped)


def _extend_config(configurator: ModuleType) -> None:
    """Teach RecBole's Config this package's defaults and declarations, and to run no code that a file holds."""
    config_class = configurator.Config
    _wrap(config_class, "_convert_config_dict", _convert_without_eval)
    _wrap(config_class, "_build_yaml_loader", _load_yaml_safely)
    _wrap(config_class, "_update_internal_config_dict", _read_defaults_once)
    _wrap(config_class, "_load_internal_config_dict", _add_defaults)
    _wrap(config_class, "_get_final_config_dict", _derive_from_schema)
    _wrap(config_class, "_set_default_parameters", partial(_set_direction_and_folder, configurator.smaller_metrics))


def _convert_without_eval(original: Any) -> Any:
    """Make texts of the command line and of dictionaries values without RecBole's `eval`."""

    def _convert_config_dict(self: Any, config_dict: dict[str, Any]) -> dict[str, Any]:
        if isinstance(config_dict, TypedSettings):
            return dict(config_dict)
        return {
            key: python_literal(value) if isinstance(value, str) and key not in NAME_KEYS else value
            for key, value in config_dict.items()
        }

    return _convert_config_dict


def _load_yaml_safely(original: Any) -> Any:
    """Read YAML without RecBole's loader, which resolves `!!python/name`."""

    def _build_yaml_loader(self: Any) -> Any:
        return SafeLoader

    return _build_yaml_loader


def _read_defaults_once(original: Any) -> Any:
    """Read RecBole's own files of defaults once a process; RecBole parses them again for every configuration."""

    def _update_internal_config_dict(self: Any, file: str) -> dict[str, Any]:
        defaults = read_defaults(file)
        self.internal_config_dict.update(defaults)
        return defaults

    return _update_internal_config_dict


def _add_defaults(original: Any) -> Any:
    """Put our defaults after RecBole's, so that a model can set what its dataset and quick-start files set too."""

    def _load_internal_config_dict(self: Any, model: str, model_class: type, dataset: str) -> None:
        original(self, model, model_class, dataset)
        external, internal = self.external_config_dict, self.internal_config_dict
        internal.update(read_defaults(properties("overall.yaml")))
        registration = registrations().get(model)
        defaults = registration.default_settings() if registration is not None else {}
        if "backbone" in defaults:
            defaults = with_backbone(defaults, external.get("backbone"))
        defaults |= preset_settings(external.get("preset"), dataset, registration)
        internal.update(defaults)
        main_type = _main_type(external.get("tasks") or internal["tasks"], external.get("main_task"))
        if main_type in _METRICS:
            internal["metrics"], internal["valid_metric"] = _METRICS[main_type], _METRICS[main_type][0]
        has_tasks = external.get("tasks") or internal["tasks"]
        if has_tasks:
            internal.update(with_ranking_defaults(external))
        if has_tasks and dataset != "ml-100k" and "load_col" not in defaults:
            internal["load_col"] = None  # RecBole's default is the ids alone; its ml-100k comes with a list

    return _load_internal_config_dict


_METRICS = {"number": ["MAE", "RMSE"], "classes": ["LogLoss"]}
"""By the type of the main task what RecBole's metrics are if nothing is said; the first chooses the epoch."""


def _main_type(tasks: Any, main_task: Any) -> str | None:
    """Return the type that the main task is declared with; what is wrong with a declaration is told later."""
    if not isinstance(tasks, Mapping) or not tasks:
        return None
    main = tasks.get(next(iter(tasks)) if main_task is None else main_task)
    return str(main.get("type")) if isinstance(main, Mapping) else None


def _derive_from_schema(original: Any) -> Any:
    """Set what follows from declared tasks, and make the folder of knowledge absolute."""

    def _get_final_config_dict(self: Any) -> dict[str, Any]:
        final: dict[str, Any] = original(self)
        make_folders_absolute(final, ("knowledge_dir",))  # a run is scored and resumed from other folders too
        schema = Schema.from_config(final)
        if schema is not None:
            check_task_names(schema.task_names)
            final["main_task"] = schema.main_task
            final["LABEL_FIELD"] = label_field(schema.main_task)
            final["threshold"] = None
            # RecBole's pickles know neither tasks nor data_seed: an old one would be taken for the new data.
            final["save_dataset"] = final["save_dataloaders"] = False
        return final

    return _get_final_config_dict


def _set_direction_and_folder(smaller_metrics: Collection[str], original: Any) -> Any:
    """Set the direction of metrics such as "logloss/macro", and accept a `data_path` that is the dataset's folder."""

    def _set_default_parameters(self: Any) -> None:
        original(self)
        final = self.final_config_dict
        metric = str(final["valid_metric"]).split("@")[0].split("/")[0].lower()
        # RecBole looks for the whole name among its own.
        final["valid_metric_bigger"] = not (metric in smaller_metrics or smaller_is_better(metric))
        folder = Path(final["data_path"])
        if not folder.is_dir() and (folder.parent / f"{self.dataset}.inter").is_file():
            final["data_path"] = str(folder.parent)

    return _set_default_parameters


def _extend_dataset(module: ModuleType) -> None:
    """Let `Dataset(config)` make a ScenarioDataset where the configuration declares tasks."""
    dataset_class = module.Dataset

    def make(original: Any) -> Any:
        def __new__(cls: type, config: Any = None, *args: Any, **kwargs: Any) -> Any:
            if cls is dataset_class and config is not None and config["tasks"] is not None:
                from recbole_msr.data.streaming.dataset import StreamedDataset

                cls = StreamedDataset
            elif cls.__module__.startswith("recbole.") and config is not None:  # which reads atomic files alone
                from recbole_msr.data.tables.placed import write_interactions

                write_interactions(config["data_path"], config["dataset"])
            return object.__new__(cls)

        return __new__

    _wrap(dataset_class, "__new__", make)


def _extend_trainers(module: ModuleType) -> None:
    """Let `recbole.trainer.<Name>Trainer` of a registered model be the Lightning trainer."""

    def __getattr__(name: str) -> Any:
        if name.endswith("Trainer") and name.removesuffix("Trainer") in registrations():
            from recbole_msr.training.trainer import LightningTrainer

            return LightningTrainer
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    module.__getattr__ = __getattr__  # type: ignore[method-assign]


def _extend_collector(module: ModuleType) -> None:
    """Leave rows without the main task's label out of evaluation under RecBole's own trainer."""

    def make(original: Any) -> Any:
        def eval_batch_collect(self: Any, scores: Any, interaction: Any, positive_u: Any, positive_i: Any) -> None:
            if self.config["tasks"] is not None:
                labelled = interaction[self.config["LABEL_FIELD"]] != _missing_label(self.config)
                scores, interaction = scores[labelled.to(scores.device)], interaction[labelled]
            original(self, scores, interaction, positive_u, positive_i)

        return eval_batch_collect

    _wrap(module.Collector, "eval_batch_collect", make)


def _missing_label(config: Any) -> float:
    schema = Schema.from_config(config)
    return MISSING_LABEL if schema is None else schema.tasks[schema.main_index].missing_label


def _extend_loading(module: ModuleType) -> None:
    """Let `load_data_and_model` open this package's checkpoints too."""

    def make(original: Any) -> Any:
        def load_data_and_model(model_file: Any) -> Any:
            from recbole_msr.training.checkpoint import is_checkpoint, load_data_and_model

            return (load_data_and_model if is_checkpoint(model_file) else original)(model_file)

        load_data_and_model.__doc__ = original.__doc__
        return load_data_and_model

    _wrap(module, "load_data_and_model", make)
    package = sys.modules.get("recbole.quick_start")
    if package is not None and hasattr(package, "load_data_and_model"):
        package.load_data_and_model = module.load_data_and_model  # type: ignore[attr-defined]
