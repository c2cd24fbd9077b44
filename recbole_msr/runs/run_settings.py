"""The settings of a run as RecBole's configuration, and what follows from it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from recbole_msr.errors import InputError
from recbole_msr.runs.knowledge import built_knowledge
from recbole_msr.runs.run_files import RunFiles
from recbole_msr.threads import local_processes, torch_threads
from recbole_msr.training.configure import training_config

logger = logging.getLogger(__name__)


def configure_run(model: str | None, dataset: str | None, settings: Mapping[str, Any]) -> Any:
    """Build RecBole's configuration of a run; knowledge that it names by encoder and template is built.

    Args:
        model: a model's name; None if it is among the settings.
        dataset: a dataset's name; likewise.
        settings: configuration keys.

    Raises:
        InputError: a name is missing, or a setting cannot be used.
    """
    settings = dict(settings)
    in_settings = settings.pop("model", None), settings.pop("dataset", None)
    name, data_name = model or in_settings[0], dataset or in_settings[1]
    for what, value in (("model", name), ("dataset", data_name)):
        if not value:
            raise InputError(f"no {what} given: --{what}=NAME, or '{what}: NAME' in a configuration file")
    if "/" in str(settings.get("knowledge") or ""):
        training_config(name, data_name, settings)  # a wrong setting is refused before hours of encoding
        settings["knowledge"] = built_knowledge(str(name), str(data_name), settings)
    config = training_config(name, data_name, settings)
    if config["only_new"]:
        after = _last_time(config["init_from"], config["rows_after"])
        # The run keeps it, for what reads its data again when the earlier run may be gone.
        config["rows_after"] = config.external_config_dict["rows_after"] = after
    return config


def _last_time(folder: str, given: float | None) -> float:
    """Return the time of the last row that a run was trained on.

    Args:
        folder: of the run.
        given: `rows_after` beside `only_new`, as config.yaml of a run has it.

    Raises:
        InputError: the run cannot be read or has no times, or another time is given.
    """
    if given is not None and not Path(folder).is_dir():  # a run that is resumed
        return given
    result = RunFiles(folder).result
    until = result.get("trained_until")
    if until is None:
        raise InputError(
            f"only_new: the run in {folder} does not say when its last training row was: it had no times (TIME_FIELD), "
            "or is of an earlier version; rows_after: TIME says it"
        )
    if given not in (None, until):
        raise InputError(
            f"only_new and rows_after: {given:.15g} are two times: the run in {folder} ends at {until:.15g}"
        )
    if untrained := result.get("untrained_until"):
        logger.warning(
            "only_new: %d validation and test rows of the run in %s are not later than its last training row (%.15g): "
            "no run that goes on from there is trained on them",
            untrained, folder, until,
        )  # fmt: skip
    return float(until)


def under_lightning(config: Any) -> bool:
    """Return whether Lightning trains the run, rather than RecBole's own trainer."""
    if config["trainer"] == "auto":
        return config["tasks"] is not None
    return bool(config["trainer"] == "lightning")


def run_threads(config: Any) -> AbstractContextManager[None]:
    """Compute with as many threads as `threads` says, or as are this process's share."""
    # RecBole's own trainer keeps PyTorch's choice: with more or fewer its sums have other last digits.
    if config["threads"] is None and not under_lightning(config):
        return nullcontext()
    return torch_threads(config["threads"], local_processes(config["lightning"]), trains=under_lightning(config))
