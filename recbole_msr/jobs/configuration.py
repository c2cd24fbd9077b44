"""The configuration keys of a search or a comparison, merged and checked before anything is computed."""

from __future__ import annotations

from typing import Any

from recbole_msr.config.build import check_version, plain
from recbole_msr.config.merge import merge_settings
from recbole_msr.data.tables.dataset import place_tables
from recbole_msr.errors import InputError
from recbole_msr.jobs.options import JobOptions
from recbole_msr.runs.folder import FREE
from recbole_msr.tracking.wandb import resolve_mode

FREE_KEYS = (FREE - {"epochs"}) | {"data_path", "knowledge_dir", "checkpoint_dir"}
"""Keys that each machine may set otherwise: trials and runs stay comparable."""


def merge_configuration(options: JobOptions, **paths: Any) -> dict[str, Any]:
    """Merge the configuration files and the keys given beside them; later ones win.

    Args:
        options: the options.
        **paths: further options that are paths, by name.

    Raises:
        InputError: a path cannot be one, or a file cannot be read.
    """
    given = merge_settings(options.config_files, options.config, output=options.output, **paths)
    merged: dict[str, Any] = plain(place_tables(given, getattr(options, "dataset", None)))
    check_version(merged.pop("written_by", None))
    return merged


def require(what: str, value: Any, example: str) -> Any:
    """Return a value that must be set.

    Raises:
        InputError: it is not; the message names it and shows `example`.
    """
    if not value:
        raise InputError(f"no {what} given: {example}")
    return value


def take_tracking(options: JobOptions, config: dict[str, Any]) -> dict[str, str]:
    """Move W&B's mode and project out of the configuration; the options win over it.

    Returns:
        `wandb`, and `wandb_project` where one is named.

    Raises:
        InputError: there is no such mode.
    """
    in_config = {key: config.pop(key, None) for key in ("wandb", "wandb_project", "log_wandb")}
    project = options.wandb_project or in_config["wandb_project"]
    mode = resolve_mode(options.wandb or in_config["wandb"])
    return {"wandb": mode, **({"wandb_project": project} if project else {})}
