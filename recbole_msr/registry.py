"""The models by name: built in, registered, RecBole's own; the files of defaults and search spaces."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from recbole_msr import compat
from recbole_msr.errors import InputError, nearest
from recbole_msr.files.yaml import read_defaults, write_yaml_text

ENTRY_POINT_GROUP = "recbole_msr.models"

RECBOLE_PACKAGE = "recbole.model.context_aware_recommender"
"""The package in which RecBole looks for registered models."""

VISIBLE_GPUS = os.environ.get("CUDA_VISIBLE_DEVICES")
"""The GPUs that this process may use; RecBole's configurations write their `gpu_id` there."""

BUILT_IN_MODELS = {
    "AITM": "recbole_msr.models.aitm",
    "APG": "recbole_msr.models.apg",
    "AdaSparse": "recbole_msr.models.adasparse",
    "AdaptDHM": "recbole_msr.models.adaptdhm",
    "AutoIFS": "recbole_msr.models.autoifs",
    "HAMUR": "recbole_msr.models.hamur",
    "HMoE": "recbole_msr.models.hmoe",
    "HiNet": "recbole_msr.models.hinet",
    "LLM4MSR": "recbole_msr.models.llm4msr",
    "M2M": "recbole_msr.models.m2m",
    "M3oE": "recbole_msr.models.m3oe",
    "MMoE": "recbole_msr.models.mmoe",
    "OMoE": "recbole_msr.models.omoe",
    "PEPNet": "recbole_msr.models.pepnet",
    "PLE": "recbole_msr.models.ple",
    "SARNet": "recbole_msr.models.sarnet",
    "STAR": "recbole_msr.models.star",
    "SharedBottom": "recbole_msr.models.shared_bottom",
}
"""Name -> module of the models of this package; defaults are in `properties/model/NAME.yaml`."""


@dataclass(frozen=True)
class Registration:
    """A model that RecBole shall find.

    Attributes:
        name: the name of its class.
        load: imports and returns its class.
        defaults: its default settings, or the path of their YAML file; None for the class's attribute `defaults`.
    """

    name: str
    load: Callable[[], type]
    defaults: Mapping[str, Any] | str | Path | None = None

    def default_settings(self) -> dict[str, Any]:
        """Return the model's own default settings."""
        if self.defaults is None:
            return dict(getattr(self.load(), "defaults", None) or {})
        if isinstance(self.defaults, Mapping):
            return dict(self.defaults)
        return read_defaults(self.defaults)


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
    registered = registrations().get(name)
    if registered is not None and _place(registered.load()) != _place(model_class):
        raise InputError(f"a model named '{name}' is registered already: {registered.load()}")
    if name.lower() in {other.lower() for other in recbole_models()}:
        raise InputError(f"RecBole has a model '{name}' of its own, which would be found instead: choose another name")
    sys.modules.pop(f"{RECBOLE_PACKAGE}.{name.lower()}", None)  # found there before, if the class was defined anew
    _registered[name] = Registration(name, lambda: model_class, defaults)
    return model_class


def _place(model_class: type) -> tuple[str, str]:
    """Return where a class is defined: the same place for a class that a notebook cell defines again."""
    return model_class.__module__, model_class.__qualname__


def registered_models() -> list[str]:
    """List the models that this package or others have registered."""
    return sorted(registrations())


def recbole_models() -> list[str]:
    """List RecBole's own models."""
    compat.require_recbole()
    (folder,) = importlib.import_module("recbole").__path__
    return list(_names_of_files(Path(folder, "properties", "model")))


@cache
def _names_of_files(folder: Path) -> tuple[str, ...]:
    return tuple(sorted((path.stem for path in folder.glob("*.yaml")), key=str.lower))


def model_class(name: str) -> type:
    """Return the class of a model, ours or RecBole's.

    Raises:
        InputError: there is no such model; the message suggests the nearest names.
    """
    check_model_name(name)
    from recbole.utils import get_model

    class_: type = get_model(name)
    return class_


def check_model_name(name: str) -> None:
    """Refuse a name that no model has; the model itself is not imported.

    Raises:
        InputError: there is no such model; the message suggests the nearest names.
    """
    names = [*registered_models(), *recbole_models()]
    if name not in names:
        raise InputError(
            f"there is no model '{name}'{nearest(name, names) or '.'} `recbole-msr models` lists all of them."
        )


def properties(*parts: str) -> Path:
    """Return a path in the `properties` folder, which is inside an installed package and beside it in a checkout."""
    return _installed("properties").joinpath(*parts)


def search_spaces(*parts: str) -> Path:
    """Return a path in the `search_spaces` folder, which lies where `properties` does."""
    return _installed("search_spaces").joinpath(*parts)


@cache
def _installed(folder: str) -> Path:
    here = Path(__file__).resolve().parent
    inside = here / folder
    return inside if inside.is_dir() else here.parent / folder


def registrations() -> dict[str, Registration]:
    """Return all registered models by name: built in, by entry points of other packages, and by `register`."""
    models = {
        name: Registration(
            name,
            lambda module=module, name=name: getattr(importlib.import_module(module), name),  # type: ignore[misc]
            properties("model", f"{name}.yaml"),
        )
        for name, module in BUILT_IN_MODELS.items()
    }
    for point in _entry_points(tuple((folder, _modified(folder)) for folder in sys.path)):
        models.setdefault(point.name, Registration(point.name, _loader(point)))
    return models | _registered


@lru_cache(maxsize=1)
def _entry_points(path: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    """Return other packages' models, read again when a folder of the path has changed: each package has a file."""
    return tuple(entry_points(group=ENTRY_POINT_GROUP))


def _modified(folder: str) -> int:
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:
        return 0


def _loader(point: EntryPoint) -> Callable[[], type]:
    return lambda: point.load()


def describe(name: str) -> str:
    """Return a model's settings with their defaults and comments, as its YAML file has them.

    Raises:
        InputError: there is no such model.
    """
    model_class(name)
    registration = registrations().get(name)
    if registration is not None and not isinstance(registration.defaults, (str, Path)):
        return write_yaml_text(registration.default_settings())
    if registration is not None:
        return Path(str(registration.defaults)).read_text(encoding="utf-8")
    (folder,) = importlib.import_module("recbole").__path__
    return Path(folder, "properties", "model", f"{name}.yaml").read_text(encoding="utf-8").rstrip("\n") + "\n"


def summary(name: str) -> str:
    """Return a line on a registered model: the one that its YAML file of defaults begins with; "" for none."""
    defaults = registrations()[name].defaults
    if not isinstance(defaults, (str, Path)):
        return ""
    first = Path(defaults).read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip().removeprefix(name).strip() if first.startswith("#") else ""


_SHARED_SECTIONS = {"Input and loss of this package's models": True, "Training": False}
"""Headings of `properties/overall.yaml` whose keys are a model's as well; whether they are of this package's alone."""


def describe_shared(name: str) -> str:
    """Return the settings that a model shares with others, with their defaults and comments: of input and training."""
    is_own = name in registrations()
    sections = properties("overall.yaml").read_text(encoding="utf-8").split("\n\n")
    wanted = [f"# {heading}\n" for heading, own_alone in _SHARED_SECTIONS.items() if is_own or not own_alone]
    chosen = [section.rstrip("\n") for section in sections if section.startswith(tuple(wanted))]
    return "\n" + "\n\n".join(chosen) + "\n"
