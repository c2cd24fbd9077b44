"""The one place that enters RecBole's registries: models, their defaults, the dataset, the trainer.

After `import recbole_msr`, a registered model is found by every RecBole function that takes a model's name, reads its
defaults from `properties/model/<Name>.yaml`, and trains under Lightning. A configuration that declares tasks gets a
`ScenarioDataset`, whatever the model. RecBole models without tasks are left exactly as they are.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from recbole_msr import compat
from recbole_msr.errors import InputError, nearest
from recbole_msr.schema import MISSING_LABEL, Schema, label_field
from recbole_msr.yaml_files import NAME_KEYS, SafeLoader, TypedSettings, python_literal, read_yaml, write_yaml_text

ENTRY_POINT_GROUP = "recbole_msr.models"
_PACKAGE = "recbole.model.context_aware_recommender"
VISIBLE_GPUS = os.environ.get("CUDA_VISIBLE_DEVICES")
"""What this process was given; RecBole's configurations write their `gpu_id` there."""
_BUILT_IN = {
    "AITM": "recbole_msr.models.aitm",
    "HMoE": "recbole_msr.models.hmoe",
    "HiNet": "recbole_msr.models.hinet",
    "LLM4MSR": "recbole_msr.models.llm4msr",
    "MMoE": "recbole_msr.models.mmoe",
    "OMoE": "recbole_msr.models.omoe",
    "PLE": "recbole_msr.models.ple",
    "STAR": "recbole_msr.models.star",
    "SharedBottom": "recbole_msr.models.shared_bottom",
}


@dataclass(frozen=True)
class Registration:
    """A model that RecBole is to find: how its class is got, and its default settings."""

    name: str
    load: Callable[[], type]
    defaults: Mapping[str, Any] | str | Path | None = None

    def default_settings(self) -> dict[str, Any]:
        if self.defaults is None:
            return dict(getattr(self.load(), "defaults", None) or {})
        if isinstance(self.defaults, Mapping):
            return dict(self.defaults)
        return read_yaml(Path(self.defaults))


_registered: dict[str, Registration] = {}


def register(model_class: type, defaults: Mapping[str, Any] | str | Path | None = None) -> type:
    """Make a model known to RecBole under its class name; may be used as a decorator.

    Args:
        model_class: a RecBole recommender class, for instance a `recbole_msr.models.base.MultiScenarioRecommender`.
        defaults: its default settings, as a mapping or the path of a YAML file; else the class attribute `defaults`.

    Raises:
        InputError: another class is registered under this name.

    A package can do the same without being imported first: an entry point of the group `recbole_msr.models`, named
    as the class, that leads to the class.
    """
    name = model_class.__name__
    known = _registrations().get(name)
    if known is not None and _place(known.load()) != _place(model_class):
        raise InputError(f"a model named '{name}' is registered already: {known.load()}")
    if name.lower() in {other.lower() for other in recbole_models()}:
        raise InputError(f"RecBole has a model '{name}' of its own, which would be found instead: choose another name")
    sys.modules.pop(f"{_PACKAGE}.{name.lower()}", None)  # found there before, if the class was defined anew
    _registered[name] = Registration(name, lambda: model_class, defaults)
    return model_class


def _place(model_class: type) -> tuple[str, str]:
    """Where a class is defined: the same for one that a notebook cell defines again."""
    return model_class.__module__, model_class.__qualname__


def registered_models() -> list[str]:
    """Names of the models that this package or others have registered."""
    return sorted(_registrations())


def recbole_models() -> list[str]:
    """Names of RecBole's own models."""
    compat.require_recbole()
    (folder,) = importlib.import_module("recbole").__path__
    return sorted((path.stem for path in Path(folder, "properties", "model").glob("*.yaml")), key=str.lower)


def model_class(name: str) -> type:
    """The class of a model, ours or RecBole's.

    Raises:
        InputError: there is no such model; the message suggests the nearest names.
    """
    check_model_name(name)
    from recbole.utils import get_model

    return get_model(name)


def check_model_name(name: str) -> None:
    """Refuse a name that no model has; the model itself is not imported.

    Raises:
        InputError: there is no such model; the message suggests the nearest names.
    """
    known = [*registered_models(), *recbole_models()]
    if name not in known:
        raise InputError(
            f"there is no model '{name}'{nearest(name, known) or '.'} `recbole-msr models` lists all of them."
        )


def properties(*parts: str) -> Path:
    """A file of the installed `properties` folder (beside the package in a checkout, inside it in a wheel)."""
    return _installed("properties").joinpath(*parts)


def search_spaces(*parts: str) -> Path:
    """A file of the installed `search_spaces` folder."""
    return _installed("search_spaces").joinpath(*parts)


def _installed(folder: str) -> Path:
    here = Path(__file__).resolve().parent
    inside = here / folder
    return inside if inside.is_dir() else here.parent / folder


def _registrations() -> dict[str, Registration]:
    found = {
        name: Registration(
            name,
            lambda module=module, name=name: getattr(importlib.import_module(module), name),  # type: ignore[misc]
            properties("model", f"{name}.yaml"),
        )
        for name, module in _BUILT_IN.items()
    }
    for point in entry_points(group=ENTRY_POINT_GROUP):
        found.setdefault(point.name, Registration(point.name, _loader(point)))
    return found | _registered


def _loader(point: EntryPoint) -> Callable[[], type]:
    return lambda: point.load()


# RecBole looks a model up as recbole.model.<family>_recommender.<name in lower case>.


class _ModelFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers for the module in which RecBole looks for a registered model: one that holds the registered class."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, module = fullname.rpartition(".")
        if package != _PACKAGE or not any(name.lower() == module for name in _registrations()):
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        lower = module.__name__.rpartition(".")[2]
        for name, registration in _registrations().items():
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


@contextmanager
def tensorboard_below(folder: Path) -> Iterator[None]:
    """RecBole's trainer writes its TensorBoard files into a folder, not into the current one."""
    from torch.utils.tensorboard import SummaryWriter

    module: Any = importlib.import_module("recbole.trainer.trainer")
    original = module.get_tensorboard
    module.get_tensorboard = lambda logger: SummaryWriter(str(folder / "tensorboard"))
    try:
        yield
    finally:
        module.get_tensorboard = original


def _wrap(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace `owner.name` by `make(owner.name)`, once."""
    original = getattr(owner, name)
    if not hasattr(original, "_recbole_msr"):
        wrapped = make(original)
        wrapped._recbole_msr = True
        setattr(owner, name, wrapped)


def _extend_config(configurator: ModuleType) -> None:
    """Our defaults after RecBole's, so that a model can set what RecBole's dataset and quick-start files set too."""

    def load_internal(original: Any) -> Any:
        def _load_internal_config_dict(self: Any, model: str, model_class: type, dataset: str) -> None:
            original(self, model, model_class, dataset)
            internal = self.internal_config_dict
            internal.update(read_yaml(properties("overall.yaml")))
            registration = _registrations().get(model)
            ours = registration.default_settings() if registration is not None else {}
            if "backbone" in ours:
                ours = _with_backbone(ours, self.external_config_dict.get("backbone"))
            ours |= _preset(self.external_config_dict.get("preset"), dataset, registration)
            internal.update(ours)
            declared = self.external_config_dict.get("tasks") or internal["tasks"]
            if declared and dataset != "ml-100k" and "load_col" not in ours:
                internal["load_col"] = None  # RecBole's default is the ids alone; its ml-100k comes with a list

        return _load_internal_config_dict

    def convert(original: Any) -> Any:
        def _convert_config_dict(self: Any, config_dict: dict[str, Any]) -> dict[str, Any]:
            # RecBole passes every text to eval, and would run what a file says. Until it does not.
            if isinstance(config_dict, TypedSettings):
                return dict(config_dict)
            return {
                key: python_literal(value) if isinstance(value, str) and key not in NAME_KEYS else value
                for key, value in config_dict.items()
            }

        return _convert_config_dict

    def build_loader(original: Any) -> Any:
        def _build_yaml_loader(self: Any) -> Any:
            return SafeLoader  # RecBole's resolves !!python/name

        return _build_yaml_loader

    def get_final(original: Any) -> Any:
        def _get_final_config_dict(self: Any) -> dict[str, Any]:
            final = original(self)
            if final.get("knowledge_dir"):  # a run is scored with, and resumed, from other folders too
                final["knowledge_dir"] = str(Path(final["knowledge_dir"]).expanduser().resolve())
            schema = Schema.from_config(final)
            if schema is not None:
                final["main_task"] = schema.main_task
                final["LABEL_FIELD"] = label_field(schema.main_task)
                final["threshold"] = None
                # RecBole's pickles know neither tasks nor data_seed: an old one would be taken for the new data.
                final["save_dataset"] = final["save_dataloaders"] = False
            return final

        return _get_final_config_dict

    def set_default(original: Any) -> Any:
        def _set_default_parameters(self: Any) -> None:
            original(self)
            # RecBole knows "logloss" as smaller-is-better; "logloss/macro" is so too.
            metric = str(self.final_config_dict["valid_metric"]).split("@")[0].split("/")[0].lower()
            self.final_config_dict["valid_metric_bigger"] = metric not in configurator.smaller_metrics
            # A data_path that is the dataset's own folder is understood too.
            folder = Path(self.final_config_dict["data_path"])
            if not folder.is_dir() and (folder.parent / f"{self.dataset}.inter").is_file():
                self.final_config_dict["data_path"] = str(folder.parent)

        return _set_default_parameters

    _wrap(configurator.Config, "_convert_config_dict", convert)
    _wrap(configurator.Config, "_build_yaml_loader", build_loader)
    _wrap(configurator.Config, "_load_internal_config_dict", load_internal)
    _wrap(configurator.Config, "_get_final_config_dict", get_final)
    _wrap(configurator.Config, "_set_default_parameters", set_default)


def _with_backbone(defaults: dict[str, Any], chosen: Any) -> dict[str, Any]:
    """Defaults of a model around another: what it does not set itself is as in the other's defaults."""
    name = defaults["backbone"] if chosen is None else chosen
    registration = _registrations().get(str(name))
    if registration is None:
        others = [
            known for known in registered_models() if "backbone" not in _registrations()[known].default_settings()
        ]
        raise InputError(
            f"'backbone': there is no model '{name}'{nearest(str(name), others) or '.'} There are {', '.join(others)}."
        )
    return registration.default_settings() | defaults | {"backbone": name}


def _preset(name: str | None, dataset: str, registration: Registration | None) -> dict[str, Any]:
    available = sorted(path.stem for path in properties("dataset").glob("*.yaml"))
    if name is None:
        if registration is None or dataset not in available:
            return {}
        name = dataset
    if name not in available:
        raise InputError(
            f"there is no preset '{name}'{nearest(name, available) or '.'} Presets: {', '.join(available)}."
        )
    return read_yaml(properties("dataset", f"{name}.yaml"))


def _extend_dataset(module: ModuleType) -> None:
    """`Dataset(config)` is a ScenarioDataset where the configuration declares tasks."""
    dataset_class = module.Dataset

    def make(original: Any) -> Any:
        def __new__(cls: type, config: Any = None, *args: Any, **kwargs: Any) -> Any:
            if cls is dataset_class and config is not None and config["tasks"] is not None:
                from recbole_msr.data.dataset import ScenarioDataset

                cls = ScenarioDataset
            return object.__new__(cls)

        return __new__

    _wrap(dataset_class, "__new__", make)


def _extend_trainers(module: ModuleType) -> None:
    """`recbole.trainer.<Name>Trainer` of a registered model is the Lightning trainer."""

    def __getattr__(name: str) -> Any:
        if name.endswith("Trainer") and name.removesuffix("Trainer") in _registrations():
            from recbole_msr.training.trainer import LightningTrainer

            return LightningTrainer
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    module.__getattr__ = __getattr__  # type: ignore[method-assign]


def _extend_collector(module: ModuleType) -> None:
    """Rows without the main task's label do not count, under RecBole's own trainer either."""

    def make(original: Any) -> Any:
        def eval_batch_collect(self: Any, scores: Any, interaction: Any, positive_u: Any, positive_i: Any) -> None:
            if self.config["tasks"] is not None:
                labelled = interaction[self.config["LABEL_FIELD"]] != MISSING_LABEL
                scores, interaction = scores[labelled.to(scores.device)], interaction[labelled]
            original(self, scores, interaction, positive_u, positive_i)

        return eval_batch_collect

    _wrap(module.Collector, "eval_batch_collect", make)


def _extend_loading(module: ModuleType) -> None:
    """`load_data_and_model` also opens this package's checkpoints."""

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


def describe(name: str) -> str:
    """A model's settings with their defaults and comments, as its YAML file has them.

    Raises:
        InputError: there is no such model.
    """
    model_class(name)
    registration = _registrations().get(name)
    if registration is not None and not isinstance(registration.defaults, (str, Path)):
        return write_yaml_text(registration.default_settings())
    if registration is not None:
        return Path(str(registration.defaults)).read_text(encoding="utf-8")
    (folder,) = importlib.import_module("recbole").__path__
    return Path(folder, "properties", "model", f"{name}.yaml").read_text(encoding="utf-8").rstrip("\n") + "\n"
