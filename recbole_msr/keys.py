"""Which configuration keys exist: those RecBole and the model read, those of this package, and no others.

RecBole ignores a key it does not know, so a misspelt one changes nothing and says nothing. It has no list of its
keys either; they are found where they are used: in its default files and as `config["key"]` in its source.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

from recbole_msr.errors import InputError, nearest
from recbole_msr.plugin import model_class as get_class
from recbole_msr.plugin import properties, read_yaml

_READ = re.compile(r"""(?:config\w*(?:\[|\.get\()|option\w*\.\w+\()\s*f?["'](\w+)["']""")
# Read by RecBole's own scripts or by name only, so that no `config["key"]` shows them.
_OTHER = {
    *(
        "model",
        "dataset",
        "config_files",
        "config_file",
        "nproc",
        "world_size",
        "ip",
        "port",
        "group_offset",
        "verbose",
    ),
    *("alias_of_user_id", "alias_of_item_id", "alias_of_entity_id", "alias_of_relation_id"),
}


def check_keys(keys: Iterable[str], model_class: type, defaults: Mapping[str, Any]) -> None:
    """Refuse keys that nothing reads.

    Args:
        keys: the keys the user gave.
        model_class: the model they are for.
        defaults: all default settings of this model and dataset.

    Raises:
        InputError: names every unknown key, with the nearest known ones.
    """
    known = known_keys(model_class) | set(defaults)
    if defaults.get("backbone"):  # a model around another reads that one's keys too
        known |= known_keys(get_class(str(defaults["backbone"])))
    unknown = [key for key in keys if key not in known]
    if unknown:
        told = "; ".join(f"'{key}'{nearest(key, known)}" for key in unknown)
        raise InputError(
            f"unknown configuration key{'s' if len(unknown) > 1 else ''} {told} "
            "(--strict=False passes keys through unchecked)"
        )


def known_keys(model_class: type) -> set[str]:
    """All keys that RecBole, this package and the model's classes read."""
    parents = [c for c in model_class.__mro__ if c.__module__ not in ("builtins", "torch.nn.modules.module")]
    if hasattr(model_class, "predict_tasks"):
        from recbole_msr.layers.embedding import FeatureEmbedding

        parents.append(FeatureEmbedding)
    read_by_model = {key for parent in parents for key in _READ.findall(_source(parent))}
    return set(_recbole_keys()) | set(read_yaml(properties("overall.yaml"))) | read_by_model | _OTHER


def _source(parent: type) -> str:
    try:
        module = inspect.getmodule(parent)
        return inspect.getsource(module if module is not None else parent)
    except (OSError, TypeError):  # a class typed into a notebook: every word in its code may be a key
        words = [word for function in vars(parent).values() for word in _words(getattr(function, "__code__", None))]
        return " ".join(f'config["{word}"]' for word in words)


def _words(code: CodeType | None) -> list[str]:
    constants = code.co_consts if code is not None else ()
    inner = [word for one in constants if isinstance(one, CodeType) for word in _words(one)]
    return [one for one in constants if isinstance(one, str) and one.isidentifier()] + inner


@cache
def _recbole_keys() -> frozenset[str]:
    import recbole

    (folder,) = recbole.__path__
    keys: set[str] = set()
    for path in (Path(folder, "properties", "overall.yaml"), *Path(folder, "properties", "dataset").glob("*.yaml")):
        if "url" not in path.stem:
            keys.update(read_yaml(path))
    for path in Path(folder, "properties", "quick_start_config").glob("*.yaml"):
        keys.update(read_yaml(path))
    for path in Path(folder).rglob("*.py"):
        if "model" not in path.relative_to(folder).parts or path.name in ("layers.py", "abstract_recommender.py"):
            keys.update(_READ.findall(path.read_text(encoding="utf-8")))
    return frozenset(keys)
