"""The configuration of something that will be trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_msr.config.build import build_config
from recbole_msr.tracking.wandb import resolve_mode
from recbole_msr.training.lightning_options import check_lightning
from recbole_msr.training.rate_schedule import RateSchedule


def training_config(model: str, dataset: str, settings: Mapping[str, Any]) -> Any:
    """Build RecBole's Config as `build_config` does, and check what only a training reads.

    Raises:
        InputError: as `build_config`, or W&B's mode, an option of Lightning or a schedule cannot be used.
    """
    config = build_config(model, dataset, settings)
    if config["wandb"] is not None:
        resolve_mode(config["wandb"])
    RateSchedule.from_config(config)
    if config["lightning"] or config["lr_scheduler"]:
        check_lightning(config)
    return config
