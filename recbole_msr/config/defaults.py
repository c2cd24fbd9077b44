"""Default settings that depend on others: those of a backbone, and presets of datasets."""

from __future__ import annotations

from typing import Any

from recbole_msr.errors import InputError, nearest
from recbole_msr.files.yaml import read_defaults
from recbole_msr.registry import Registration, properties, registered_models, registrations


def with_backbone(defaults: dict[str, Any], chosen: Any) -> dict[str, Any]:
    """Return the defaults of a model around a backbone: what it does not set itself is as in the backbone's defaults.

    Raises:
        InputError: there is no such backbone; the message names those there are.
    """
    name = defaults["backbone"] if chosen is None else chosen
    registration = registrations().get(str(name))
    if registration is None:
        others = [model for model in registered_models() if "backbone" not in registrations()[model].default_settings()]
        raise InputError(
            f"'backbone': there is no model '{name}'{nearest(str(name), others) or '.'} There are {', '.join(others)}."
        )
    return registration.default_settings() | defaults | {"backbone": name}


def preset_settings(name: str | None, dataset: str, registration: Registration | None) -> dict[str, Any]:
    """Read the settings of a preset; a registered model has the preset of the dataset's name without asking for it.

    Args:
        name: the name of the preset; None if the user gave none.
        dataset: the name of the dataset.
        registration: the registration of the model; None for one of RecBole's.

    Raises:
        InputError: there is no such preset; the message names those there are.
    """
    available = sorted(path.stem for path in properties("dataset").glob("*.yaml"))
    if name is None:
        if registration is None or dataset not in available:
            return {}
        name = dataset
    if name not in available:
        raise InputError(
            f"there is no preset '{name}'{nearest(name, available) or '.'} Presets: {', '.join(available)}."
        )
    return read_defaults(properties("dataset", f"{name}.yaml"))
