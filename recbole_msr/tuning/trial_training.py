"""One training of a trial: its model, its epochs, its costs and its values."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch

from recbole_msr.errors import InputError
from recbole_msr.evaluation.cells import Evaluation
from recbole_msr.evaluation.metrics import find_metric
from recbole_msr.jobs.model_cost import LATENCY_ROWS, flops, latency, parameters
from recbole_msr.training.epochs import EpochKeeper
from recbole_msr.training.fused.member import Member
from recbole_msr.training.trainer import LightningTrainer
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.study_data import StudyData
from recbole_msr.tuning.trial_settings import trial_config, trial_model


class TrialTraining:
    """One training of a trial."""

    def __init__(self, settings: SearchSettings, data: StudyData, sampled: dict[str, Any], index: int) -> None:
        from recbole.utils import get_model, init_seed

        self._settings, self._data = settings, data
        config = trial_config(settings, {**sampled, "seed": settings.config["seed"] + index})
        init_seed(config["seed"], config["reproducibility"])
        model = get_model(trial_model(settings, sampled))(config, data.train_split).to(config["device"])
        self._config = config
        self._model: torch.nn.Module = model
        self.epochs = int(config["epochs"])
        self._kept: EpochKeeper | None = None
        self._setup_seconds: float | None = None
        self.costs = self._measure()

    def run(self, callbacks: list[pl.Callback], after_epoch: Callable[[int, float], None], started: float) -> None:
        """Train and validate, epoch by epoch.

        Args:
            callbacks: Lightning callbacks.
            after_epoch: called after every validation with (epoch from 0, score); it may raise to stop the training.
            started: `time.perf_counter()` of the trial's beginning.

        Raises:
            InputError: no epoch was validated.
        """
        trainer = LightningTrainer(self._config, self._model, [*callbacks, _FirstBatch(self, started)])
        try:
            trainer.fit(self._data.train, self._data.valid, verbose=False, saved=False, callback_fn=after_epoch)
        finally:
            self._kept = trainer.epochs
        self.check_validated()

    def member(self, after_epoch: Callable[[int, float], None], on_end: Callable[[], None]) -> Member:
        """Make it a member of a fused training; call this before anything else draws random numbers."""
        made = Member(self._config, self._model, callback_fn=after_epoch, on_end=on_end)
        self._kept = made.epochs
        return made

    @property
    def config(self) -> Any:
        """Return RecBole's configuration."""
        return self._config

    @property
    def model(self) -> torch.nn.Module:
        """Return the model."""
        model: torch.nn.Module = self._model
        return model

    def check_validated(self) -> None:
        """Refuse a training without a validated epoch."""
        if self._kept is None or self._kept.best_score is None:
            raise InputError(
                "no epoch was validated: eval_step must be at least 1 and not larger than epochs "
                f"(they are {self._config['eval_step']} and {self._config['epochs']})"
            )

    @property
    def is_validated(self) -> bool:
        """Return whether an epoch was validated."""
        return self._kept is not None and self._kept.best_score is not None

    def first_batch(self, started: float) -> None:
        """Note, once, how long it took to the first batch."""
        if self._setup_seconds is None:
            self._setup_seconds = time.perf_counter() - started

    @property
    def history(self) -> list[dict[str, Any]]:
        """Return a mapping a finished epoch."""
        return self._kept.history if self._kept is not None else []

    def values(self) -> list[float]:
        """Return the objectives' values in the best epoch."""
        assert self._kept is not None
        cells = Evaluation.from_dict(self._kept.best_evaluation).keys() if self._kept.best_evaluation else []
        values = self._kept.best_metrics | self.costs
        keys = {name: find_metric(name, [*values, *cells]) for name in self._settings.objectives}
        objectives = {name: values[key] for name, key in keys.items() if key in values}
        objectives[self._settings.quality] = float(self._kept.best_score)  # type: ignore[arg-type]
        missing = [name for name in self._settings.objectives if not math.isfinite(objectives.get(name, math.nan))]
        if missing:
            raise InputError(f"{', '.join(missing)} has no value on the validation split")
        return [float(objectives[name]) for name in self._settings.objectives]

    def attributes(self) -> dict[str, Any]:
        """Return what is kept with the trial: costs, history, best epoch and its cells."""
        attributes: dict[str, Any] = dict(self.costs)
        if self._setup_seconds is not None:
            attributes["setup_seconds"] = round(self._setup_seconds, 3)
        if self._kept is not None:
            attributes |= {"history": self._kept.history, "best_epoch": self._kept.best_epoch}
            if self._kept.best_evaluation is not None:
                attributes["valid"] = self._kept.best_evaluation
        return attributes

    def _measure(self) -> dict[str, float]:
        """Count the parameters, and measure the other costs only where they are objectives, because that takes time."""
        objectives = self._settings.objectives
        costs: dict[str, float] = {"parameters": parameters(self._model)}
        rows = self._data.valid
        if "flops" in objectives:
            costs["flops"] = flops(self._model, self._batch(min(256, len(rows))))
        for name, count in LATENCY_ROWS.items():
            if name in objectives:
                costs[name] = latency(self._model, self._batch(min(count, len(rows))), count)
        return costs

    def _batch(self, rows: int) -> Any:
        return self._data.valid.batch(slice(0, rows)).to(self._config["device"])


class _FirstBatch(pl.Callback):
    def __init__(self, training: TrialTraining, started: float) -> None:
        self._training, self._started = training, started

    def on_train_batch_start(self, *_: Any) -> None:
        self._training.first_batch(self._started)
