"""Default settings that depend on others: those of a backbone, and presets of datasets."""

from __future__ import annotations

from typing import Any

from recbole_msr.errors import InputError, nearest
from recbole_msr.files.yaml import read_yaml
from recbole_msr.registry import Registration, properties, registered_models, registrations


def with_backbone(defaults: dict[str, Any], chosen: Any) -> dict[str, Any]:
    """Defaults of a model around another: what it does not set itself is as in the other's defaults."""
    name = defaults["backbone"] if chosen is None else chosen
    registration = registrations().get(str(name))
    if registration is None:
        others = [known for known in registered_models() if "backbone" not in registrations()[known].default_settings()]
        raise InputError(
            f"'backbone': there is no model '{name}'{nearest(str(name), others) or '.'} There are {', '.join(others)}."
        )
    return registration.default_settings() | defaults | {"backbone": name}


def preset_settings(name: str | None, dataset: str, registration: Registration | None) -> dict[str, Any]:
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
