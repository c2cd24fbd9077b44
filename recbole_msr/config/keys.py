"""Check of configuration keys: those of the table exist, those that the model's source reads, and no others.

RecBole ignores a key it does not know, so a misspelt one changes nothing and says nothing.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import CodeType
from typing import Any

from recbole_msr.config.key_table import KEYS, unread_keys
from recbole_msr.errors import InputError, nearest
from recbole_msr.registry import model_class as get_class

_READ = re.compile(r"""(?:config\w*(?:\[|\.get\()|option\w*\.\w+\()\s*f?["'](\w+)["']""")


def check_keys(keys: Iterable[str], model_class: type, defaults: Mapping[str, Any]) -> None:
    """Refuse keys that nothing reads.

    Args:
        keys: the keys that the user set.
        model_class: the model they are for.
        defaults: all default settings of this model and dataset.

    Raises:
        InputError: names every unknown key, with the nearest known ones.
    """
    names = _names(model_class, defaults)
    unknown = [key for key in keys if key not in names]
    if unknown:
        listed = "; ".join(f"'{key}'{nearest(key, names)}" for key in unknown)
        raise InputError(
            f"unknown configuration key{'s' if len(unknown) > 1 else ''} {listed} "
            "(--strict=False passes keys through unchecked)"
        )


def unknown_keys(keys: Iterable[str], model_class: type, config: Any) -> list[str]:
    """Return the keys that nothing reads in a run with RecBole's Config, in their order."""
    names = _names(model_class, config.internal_config_dict)
    return [key for key in keys if key not in names]


def _names(model_class: type, defaults: Mapping[str, Any]) -> set[str]:
    return set(KEYS) | keys_read(model_class, defaults.get("backbone")) | set(defaults)


def check_read(settings: Mapping[str, Any], config: Any) -> None:
    """Refuse keys that this run does not read, and would leave without an effect.

    Raises:
        InputError: names them, and what to do instead.
    """
    unread = refused_keys(settings, config)
    if unread:
        reasons = "; ".join(f"{key} {why}" for key, why in unread.items())
        raise InputError(f"{reasons} (--strict=False passes keys through unchecked)")


def refused_keys(settings: Mapping[str, Any], config: Any) -> dict[str, str]:
    """Return the keys that this run does not read, where that is an error, each with the reason.

    Args:
        settings: the keys to be checked, with their values.
        config: RecBole's Config made of them.
    """
    reads = frozenset(keys_read(config.model_class, config["backbone"]))
    return {key: why for key, why, refused in unread_keys(settings, config, reads) if refused}


def unread_notes(config: Any) -> list[str]:
    """Return a line for each key that has no effect in this run, but does no harm either."""
    reads = frozenset(keys_read(config.model_class, config["backbone"]))
    return [f"{key} has no effect: it {why}" for key, why, _ in unread_keys(config.external_config_dict, config, reads)]


def known_keys(model_class: type) -> set[str]:
    """Return all keys that RecBole, this package and the model's classes read."""
    return set(KEYS) | keys_read(model_class)


def keys_read(model_class: type, backbone: Any = None) -> set[str]:
    """Return the keys that a model's classes read, and those of its backbone."""
    if backbone:
        return keys_read(model_class) | keys_read(get_class(str(backbone)))
    return set(_keys_read(model_class))


@lru_cache(maxsize=64)  # called several times a configuration, and a search makes one a trial
def _keys_read(model_class: type) -> frozenset[str]:
    parents = [c for c in model_class.__mro__ if c.__module__ not in ("builtins", "torch.nn.modules.module")]
    parents += getattr(model_class, "key_readers", ())
    sources = [_source(parent) for parent in parents]
    # A model gets preloaded vectors from its dataset.
    vectors = {"preload_weight"} if any("get_preload_weight" in source for source in sources) else set[str]()
    return frozenset({key for source in sources for key in _READ.findall(source)} | vectors)


def _source(parent: type) -> str:
    try:
        module = inspect.getmodule(parent)
        # One file of RecBole's holds the bases of all kinds of models.
        alone = module is None or module.__name__ == "recbole.model.abstract_recommender"
        return inspect.getsource(parent if alone else module)  # type: ignore[arg-type]
    except (OSError, TypeError):  # a class typed into a notebook: every word in its code may be a key
        words = [word for function in vars(parent).values() for word in _words(getattr(function, "__code__", None))]
        return " ".join(f'config["{word}"]' for word in words)


def _words(code: CodeType | None) -> list[str]:
    constants = code.co_consts if code is not None else ()
    inner = [word for constant in constants if isinstance(constant, CodeType) for word in _words(constant)]
    return [constant for constant in constants if isinstance(constant, str) and constant.isidentifier()] + inner
