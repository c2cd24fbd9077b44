"""The configuration of a trial: the keys of the search, then the sampled ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_msr.training.configure import training_config
from recbole_msr.tuning.settings import SearchSettings


def trial_model(settings: SearchSettings, sampled: Mapping[str, Any]) -> str:
    """Return the model of a trial: the sampled one in a search over several models, else that of the search."""
    return str(sampled["model"]) if settings.models and "model" in sampled else settings.model


def trial_config(settings: SearchSettings, sampled: Mapping[str, Any]) -> Any:
    """Return RecBole's configuration of a trial."""
    return training_config(trial_model(settings, sampled), settings.dataset, trial_settings(settings, sampled))


def trial_settings(settings: SearchSettings, sampled: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration keys of a trial: those of the search, then the sampled ones; `model` is not among them.

    A key of the search that the trial's model does not read is left out, so that it keeps its default.
    """
    fixed = {
        "valid_metric": settings.quality,
        "trainer": "lightning",
        "show_progress": False,
        "metric_decimal_place": 6,
    }
    left_out = settings.unread.get(trial_model(settings, sampled), ())
    config = {key: value for key, value in settings.config.items() if key not in left_out}
    keys = {key: value for key, value in sampled.items() if not (settings.models and key == "model")}
    return {**fixed, **config, **keys}
