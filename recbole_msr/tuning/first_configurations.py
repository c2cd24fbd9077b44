"""First configurations: settings of a model that were good on other data, tried before anything is sampled.

Each model may have a file, `search_spaces/first/MODEL.yaml`, which `benchmarks/portfolio.py` writes::

    model: HiNet
    configurations:
      - {dropout: 0.0}
      - {learning_rate: 0.003, sub_experts: 3}

A configuration has the keys in which it differs from the defaults. The first ones help most.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_msr import registry
from recbole_msr.errors import InputError, nearest
from recbole_msr.files.outputs import check_path
from recbole_msr.files.yaml import read_yaml
from recbole_msr.tuning.space.space import Space

OFF = "off"
MOST = 100
"""Configurations of a file at most."""


def first_configurations(model: str, path: str | Path | None = None) -> list[dict[str, Any]]:
    """Read a model's first configurations.

    Args:
        model: model name.
        path: a file of one's own; by default that of the package.

    Returns:
        Their settings, in the order in which they are tried; none for a model without a file.

    Raises:
        InputError: the file cannot be read, is of another model or holds something else.
    """
    if path is None:
        path = registry.search_spaces("first", f"{model}.yaml")
        if not path.is_file():
            return []
    content = read_yaml(path)
    for word in content:
        if word not in ("model", "configurations"):
            raise InputError(f"{path}: unknown key '{word}'{nearest(str(word), ('model', 'configurations')) or '.'}")
    if content.get("model", model) != model:
        raise InputError(f"{path} has first configurations of {content['model']}, not of {model}")
    listed = content.get("configurations")
    if not isinstance(listed, list) or not 1 <= len(listed) <= MOST:
        raise InputError(f"{path}: 'configurations' must be a list of 1 to {MOST} mappings such as {{dropout: 0.1}}")
    for number, one in enumerate(listed, start=1):
        if not isinstance(one, Mapping) or not one:
            raise InputError(f"{path}: configuration {number} must be a mapping such as {{dropout: 0.1}}, got {one!r}")
    return [dict(one) for one in listed]


def read_first(first: Any, models: list[str], space: Space) -> dict[str, list[dict[str, Any]]]:
    """Read `--first`: on, off, a file, or a folder with a file for each model.

    Args:
        first: its value.
        models: the models of the search.
        space: its space.

    Returns:
        The first configurations of every model that has some.

    Raises:
        InputError: a file cannot be read, or has a key or a value that the space does not hold; the folder has none of
            these models.
    """
    word = str(first).strip().lower() if isinstance(first, (str, bool)) else None
    if word in (OFF, "false"):
        return {}
    if first is None or word in ("on", "true"):
        found = {model: first_configurations(model) for model in models}
        return {model: listed for model, listed in found.items() if listed}
    if not isinstance(first, (str, Path)):
        raise InputError(f"--first must be on, off or the path of a file or a folder, got {first!r}")
    check_path("--first", first)
    found = {model: first_configurations(model, path) for model, path in _own_files(Path(first), models).items()}
    for model, listed in found.items():
        check_configurations(listed, model, space, str(first))
    return found


def _own_files(path: Path, models: list[str]) -> dict[str, Path]:
    """Return the file of each model that one's own file, or a folder of them, has first configurations of."""
    if not path.is_dir():
        return {_model_of(path, models): path}
    found = {model: path / f"{model}.yaml" for model in models if (path / f"{model}.yaml").is_file()}
    if not found:
        raise InputError(f"--first={path}: the folder has no file of a model of the search, such as {models[0]}.yaml")
    return found


def _model_of(path: str | Path, models: list[str]) -> str:
    """Return the model of one's own file: that it names, or the only one of the search."""
    named = read_yaml(path).get("model")
    if named is None and len(models) > 1:
        raise InputError(f"{path} must say which model's its configurations are, 'model: NAME', of {', '.join(models)}")
    if named is not None and named not in models:
        raise InputError(f"{path} has first configurations of {named}, and the search is of {', '.join(models)}")
    return models[0] if named is None else str(named)


def check_configurations(listed: list[dict[str, Any]], model: str, space: Space, name: str) -> None:
    """Refuse configurations with keys or values that a space does not hold.

    Args:
        listed: the configurations.
        model: their model.
        space: the space.
        name: the file's name, for messages.

    Raises:
        InputError: names the file, the configuration's number and the key.
    """
    known = [*space.keys_of(model), *space.fixed]
    for number, settings in enumerate(listed, start=1):
        for key in settings:
            if key not in known:
                hint = nearest(str(key), known) or "."
                raise InputError(f"{name}: configuration {number}: '{key}' is not in the space of {model}{hint}")
        searched = {key: value for key, value in settings.items() if key not in space.fixed}
        for key, (_, outside) in space.params_by_key({"model": model, **searched}).items():
            if outside and key in searched:
                raise InputError(f"{name}: configuration {number}: {outside[0]}")
