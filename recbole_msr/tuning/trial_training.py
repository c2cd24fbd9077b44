"""One training of a trial: its model, its epochs, its costs and its values."""

from __future__ import annotations

import logging
import math
import time
import traceback
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from recbole_msr.config.build import plain_settings
from recbole_msr.config.merge import make_folders_absolute
from recbole_msr.errors import InputError
from recbole_msr.evaluation.cells import Evaluation
from recbole_msr.evaluation.metrics import find_metric
from recbole_msr.files.atomic import write_atomically
from recbole_msr.files.yaml import write_yaml_text
from recbole_msr.jobs.model_cost import LATENCY_ROWS, flops, latency, parameters
from recbole_msr.runs.outcome import untested_result, write_validated
from recbole_msr.training.epochs import EpochKeeper
from recbole_msr.training.fused.member import Member
from recbole_msr.training.trainer import LightningTrainer
from recbole_msr.tuning.fidelity import Rung, rung_settings
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.study_data import StudyData
from recbole_msr.tuning.trial_folder import BEST, LAST, keep_vocabulary, resumable
from recbole_msr.tuning.trial_parts import Part
from recbole_msr.tuning.trial_settings import trial_config, trial_model

logger = logging.getLogger(__name__)

WRITE_SHARE = 0.05
"""Share of the time of a trial that writing its state to resume from may take."""


class TrialTraining:
    """One training of a trial.

    Args:
        settings: the search.
        data: the search's data.
        sampled: the trial's sampled keys.
        part: which of the trial's trainings it is.
        folder: where its config.yaml, checkpoints and validated.json go, and what it goes on from if they are there;
            None to keep nothing.
        rung: a share of the training rows and epochs on them; None to train in full.
        precision: `precision` on a rung; None for that of the search.

    Attributes:
        part: which of the trial's trainings it is.
        epochs: largest number of epochs.
        costs: the model's costs.
        seconds_before: seconds of the epochs that it did not train again, as it went on from a checkpoint.
        epochs_before: number of those epochs.
    """

    def __init__(
        self,
        settings: SearchSettings,
        data: StudyData,
        sampled: dict[str, Any],
        part: Part,
        folder: Path | None = None,
        rung: Rung | None = None,
        precision: str | None = None,
    ) -> None:
        self._settings, self.part, self._folder, self._rung = settings, part, folder, rung
        self._model_name = trial_model(settings, sampled)
        below = rung_settings(rung, precision) if rung is not None else {}
        self._config = trial_config(settings, {**sampled, **part.keys, **below})
        self._data = data.of(self._config)
        self._build()
        self.epochs = int(self._config["epochs"])
        self._kept: EpochKeeper | None = None
        self._setup_seconds: float | None = None
        self.seconds_before, self.epochs_before = 0.0, 0
        self.costs = self._measure()

    def _build(self) -> None:
        from recbole.utils import get_model, init_seed

        init_seed(self._config["seed"], self._config["reproducibility"])
        model = get_model(self._model_name)(self._config, self._data.train_split).to(self._config["device"])
        self._model: torch.nn.Module = model

    def run(
        self,
        callbacks: list[pl.Callback],
        after_epoch: Callable[[int, float], None],
        started: float,
        on_resume: Callable[[], None] = lambda: None,
        stop: Callable[[], None] = lambda: None,
    ) -> None:
        """Train and validate, epoch by epoch; go on where an earlier trial was interrupted, if its state is there.

        Args:
            callbacks: Lightning callbacks.
            after_epoch: called after every validation with (epoch from 0, score); it may raise to stop the training.
            started: `time.perf_counter()` of the trial's beginning.
            on_resume: called once it is known which epochs are not trained again.
            stop: called before every batch; it may raise to stop the training within an epoch.

        Raises:
            InputError: no epoch was validated.
        """
        state = self._begin_folder()
        watch = Watch(self, started, stop)
        try:
            self._fit([*callbacks, watch], after_epoch, state, on_resume)
        except Exception as error:
            if state is None or watch.began:
                raise
            logger.warning("the checkpoint of a trial cannot be gone on from, so it is trained anew: %s", error)
            traceback.clear_frames(error.__traceback__)
            self._build()
            self._fit([*callbacks, watch], after_epoch, None, on_resume)
        self.check_validated()

    def _begin_folder(self) -> Mapping[str, Any] | None:
        """Make the folder, and return the state to go on from, if there is one."""
        if self._folder is None:
            return None
        state = resumable(self._folder)
        if state is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            text = write_yaml_text(self._settings_of_run)
            write_atomically(self._folder / "config.yaml", lambda path: Path(path).write_text(text, encoding="utf-8"))
        return state

    def _fit(
        self,
        callbacks: list[pl.Callback],
        after_epoch: Callable[[int, float], None],
        state: Mapping[str, Any] | None,
        on_resume: Callable[[], None],
    ) -> None:
        folder = self._folder
        trainer = LightningTrainer(
            self._config,
            self._model,
            callbacks,
            folder,
            self._settings_of_run if folder is not None else None,
            folder / LAST if folder is not None and state is not None else None,
            WRITE_SHARE,
        )
        if state is not None:
            self._kept = EpochKeeper(self._config, {})
            self._kept.load_state_dict(state["callbacks"][EpochKeeper.__name__])
            self.seconds_before, self.epochs_before = self._kept.wall_seconds, len(self._kept.history)
            on_resume()

        def validated(epoch: int, score: float) -> None:
            self._kept = trainer.epochs
            self.keep_result()
            after_epoch(epoch, score)

        try:
            rows = self._data.train if self._rung is None else self._data.share(self._rung.share)
            trainer.fit(rows, self._data.valid, verbose=False, saved=folder is not None, callback_fn=validated)
        finally:
            if trainer.epochs is not None and (trainer.epochs.history or state is None):
                self._kept = trainer.epochs

    def member(self, after_epoch: Callable[[int, float], None], on_end: Callable[[], None]) -> Member:
        """Make it a member of a fused training; call this before anything else draws random numbers."""
        self._begin_folder()
        folder = self._folder

        def validated(epoch: int, score: float) -> None:
            self.keep_result()
            after_epoch(epoch, score)

        made = Member(
            self._config,
            self._model,
            self._settings_of_run if folder is not None else None,
            best_path=folder / BEST if folder is not None else None,
            last_path=folder / LAST if folder is not None else None,
            callback_fn=validated,
            on_end=on_end,
            last_share=WRITE_SHARE,
        )
        self._kept = made.epochs
        return made

    @cached_property
    def _settings_of_run(self) -> dict[str, Any]:
        """The configuration as plain values, as a run keeps it."""
        settings = plain_settings(self._config)
        make_folders_absolute(settings, ("data_path", "knowledge_dir"))
        return settings

    def keep_result(self) -> None:
        """Write validated.json beside best.ckpt, if the last epoch is the best."""
        if self._folder is None or not self.improved:
            return
        assert self._kept is not None
        keep_vocabulary(self._folder, self._data.train_split, self._data.name)
        parameters_ = int(self.costs["parameters"])
        write_validated(self._folder, untested_result(self._config, self._data.train_split, self._kept, parameters_))

    @property
    def improved(self) -> bool:
        """Return whether the last epoch is the best."""
        return self._kept is not None and self._kept.best_epoch == len(self._kept.history) > 0

    @property
    def kept_epochs(self) -> int:
        """Return the number of epochs that need not be trained again if this process is killed."""
        return max(self.epochs_before, self._kept.kept_epochs if self._kept is not None else 0)

    @property
    def scores(self) -> dict[int, float]:
        """Return the validation score of every validated epoch, by its number from 1."""
        if self._kept is None:
            return {}
        key = f"valid/{self._kept.metric}"
        return {int(row["epoch"]): float(row[key]) for row in self._kept.history if key in row}

    def release(self) -> None:
        """Free the model; its epochs and values stay known."""
        self._model = torch.nn.Module()

    @property
    def search(self) -> SearchSettings:
        """Return the search that it belongs to."""
        return self._settings

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

    @property
    def best_at(self) -> float | None:
        """Return the time (seconds since 1970) at which the best epoch ended."""
        if not self.is_validated or self._kept is None or len(self._kept.times) < self._kept.best_epoch:
            return None
        return self._kept.times[self._kept.best_epoch - 1]

    def first_batch(self, started: float) -> None:
        """Note, once, how long it took to the first batch."""
        if self._setup_seconds is None:
            self._setup_seconds = time.perf_counter() - started

    @property
    def history(self) -> list[dict[str, Any]]:
        """Return a mapping a finished epoch, with the time `at` which it ended (seconds since 1970)."""
        if self._kept is None:
            return []
        times = [*self._kept.times, *[None] * len(self._kept.history)]
        return [row if at is None else {**row, "at": at} for row, at in zip(self._kept.history, times, strict=False)]

    def values(self) -> list[float]:
        """Return the objectives' values in the best epoch."""
        assert self._kept is not None
        cells = self.evaluation.keys() if self.evaluation is not None else []
        values = self._kept.best_metrics | self.costs
        keys = {name: find_metric(name, [*values, *cells]) for name in self._settings.objectives}
        objectives = {name: values[key] for name, key in keys.items() if key in values}
        objectives[self._settings.quality] = float(self._kept.best_score)  # type: ignore[arg-type]
        return in_order(self._settings, objectives)

    @property
    def evaluation(self) -> Evaluation | None:
        """Return the scenario x task cells of the best epoch; None before an epoch, and for data without tasks."""
        found = self._kept.best_evaluation if self._kept is not None else None
        return Evaluation.from_dict(found) if found else None

    def attributes(self) -> dict[str, Any]:
        """Return what is kept with the trial: costs, history, best epoch and its cells."""
        attributes: dict[str, Any] = dict(self.costs)
        if self._setup_seconds is not None:
            attributes["setup_seconds"] = round(self._setup_seconds, 3)
        if self._kept is not None:
            attributes |= {"history": self.history, "best_epoch": self._kept.best_epoch}
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


def in_order(settings: SearchSettings, values: Mapping[str, float]) -> list[float]:
    """Return the objectives' values in the order of the search.

    Raises:
        InputError: one has no finite value.
    """
    missing = [name for name in settings.objectives if not math.isfinite(values.get(name, math.nan))]
    if missing:
        raise InputError(f"{', '.join(missing)} has no value on the validation split")
    return [float(values[name]) for name in settings.objectives]


class Watch(pl.Callback):
    """Callback that notes the first batch, and asks before each batch whether to stop."""

    def __init__(self, training: TrialTraining, started: float, stop: Callable[[], None]) -> None:
        self._training, self._started, self._stop = training, started, stop
        self.began = False

    def on_train_batch_start(self, *_: Any) -> None:
        """Note the first batch, and ask whether to stop."""
        self.began = True
        self._training.first_batch(self._started)
        self._stop()
