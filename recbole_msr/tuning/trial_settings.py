"""The configuration of a trial: the keys of the search, then the sampled ones."""

from __future__ import annotations

from typing import Any

from recbole_msr.training.configure import training_config
from recbole_msr.tuning.settings import SearchSettings


def trial_config(settings: SearchSettings, sampled: dict[str, Any]) -> Any:
    """Return RecBole's configuration of a trial."""
    return training_config(settings.model, settings.dataset, trial_settings(settings, sampled))


def trial_settings(settings: SearchSettings, sampled: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration keys of a trial: those of the search, then the sampled ones."""
    fixed = {
        "valid_metric": settings.quality,
        "trainer": "lightning",
        "show_progress": False,
        "metric_decimal_place": 6,
    }
    return {**fixed, **settings.config, **sampled}
