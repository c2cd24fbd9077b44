"""Settings from files and from a caller become one mapping; paths in it are made absolute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from recbole_msr.files.outputs import check_paths
from recbole_msr.files.yaml import read_yaml

FOLDER_KEYS = ("data_path", "knowledge_dir", "cache_dir", "init_from")
"""Keys of folders that are read from another working directory too: by workers, by a resumed run, by a prediction."""


def merge_settings(
    config_files: Iterable[str | Path] = (), config: Mapping[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    """Merge configuration files and further settings; of two values of one key the later one wins.

    Args:
        config_files: YAML files.
        config: settings that win over the files.
        options: paths that were given as options of the command, which are checked with the others; None for one that
            was not given.

    Raises:
        InputError: a file cannot be read as settings, or a path cannot be one.
    """
    config, config_files = config or {}, list(config_files)
    check_paths(config, config_files, **options)
    merged: dict[str, Any] = {}
    for file in config_files:
        merged |= read_yaml(file)
    return {**merged, **config}


def absolute(folder: str | Path) -> str:
    """Return the absolute path of a folder; `~` is the user's home.

    >>> absolute("/data/../shop")
    '/shop'
    """
    return str(Path(folder).expanduser().resolve())


def make_folders_absolute(settings: MutableMapping[str, Any], keys: Iterable[str] = FOLDER_KEYS) -> None:
    """Make the folders in settings absolute, in place; a key without a folder is left as it is."""
    for key in keys:
        if settings.get(key):
            settings[key] = absolute(settings[key])
