"""The work at the end of an epoch: best epoch, early stopping, checkpoints, metrics.csv."""

from __future__ import annotations

import csv
import io
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from recbole.utils import early_stopping

from recbole_msr.errors import InputError, nearest
from recbole_msr.evaluation.metrics import find_metric, metric_name
from recbole_msr.files.atomic import write_atomically
from recbole_msr.files.outputs import save_tensors, writing
from recbole_msr.training.checkpoint import save_checkpoint
from recbole_msr.training.module import RecModule
from recbole_msr.training.optimizer_state import OPTIMIZER, state_by_name

logger = logging.getLogger(__name__)

_LONGEST_GAP = 3.0
"""Most seconds of training between two writings of the state to resume from, where they are spared."""


class EpochKeeper(Checkpoint):
    """Callback that keeps the best epoch by the validation metric, and stops a training that gains no more.

    RecBole's rule holds: ties count as better, and training stops after more than `stopping_step` evaluations without
    gain. Epochs before the model's `first_best_epoch` compete with each other alone, until there is a later one, and
    do not stop the training. The state is part of Lightning's checkpoint, so that a resumed run remembers all epochs.

    Args:
        config: RecBole's configuration (`valid_metric`, `valid_metric_bigger`, `stopping_step`, `eval_step`).
        settings: the run's settings, kept in the best checkpoint.
        best_path: where the weights of the best epoch go; None to keep none.
        last_path: where the state to resume from goes after every epoch; None for none.
        metrics_path: where a table with one row an epoch goes; None for none.
        callback_fn: called with (epoch counted from 0, validation score), as RecBole does.
        last_share: the share of the time that writing `last_path` may take: epochs that are short beside it are kept a
            few at a time, at most 3 seconds of training without; 1 for all of them.

    Attributes:
        best_score, best_epoch, best_metrics, best_evaluation: the best epoch (counted from 1), its score and results.
        history: a mapping a finished epoch.
        stopped: whether early stopping, or the end of the learning rate's schedule, has ended the training.
        last_validated: whether the last epoch was validated.
        train_seconds, train_rows: time spent in and rows seen by training steps, validation left out.
        seconds_before: the part of train_seconds from before the run was resumed.
        times: the time (seconds since 1970) at which each epoch of the history ended.
        kept_epochs: number of epochs in the file to resume from.
        wall_seconds: seconds of the epochs of the history with their validations, also of those before it was resumed.
    """

    def __init__(
        self,
        config: Any,
        settings: Mapping[str, Any],
        best_path: Path | None = None,
        last_path: Path | None = None,
        metrics_path: Path | None = None,
        callback_fn: Callable[[int, float], Any] | None = None,
        last_share: float = 1.0,
    ) -> None:
        self._config, self._settings, self._callback_fn = config, settings, callback_fn
        self._last_share, self._last_written, self._last_seconds = last_share, -math.inf, 0.0
        self._best_path, self._last_path, self._metrics_path = best_path, last_path, metrics_path
        self.metric = metric_name(str(config["valid_metric"]))
        self.bigger = bool(config["valid_metric_bigger"])
        self.best_score: float | None = None
        self.best_epoch = 0
        self.best_metrics: dict[str, float] = {}
        self.best_evaluation: dict[str, Any] | None = None
        self.history: list[dict[str, Any]] = []
        self.train_seconds = 0.0
        self.train_rows = 0
        self.seconds_before = 0.0
        self.times: list[float] = []
        self.wall_seconds, self.kept_epochs = 0.0, 0
        self.stopped = False
        self.last_validated = False
        self._without_gain = 0
        self._name = ""  # of the training, in what is told of its epochs

    _STATE = (
        *("best_score", "best_epoch", "best_metrics", "best_evaluation", "history", "train_seconds", "train_rows"),
        *("stopped", "_without_gain", "times", "wall_seconds"),
    )

    @property
    def state_key(self) -> str:
        """The key of the state in a checkpoint, the same for classes that derive from this one."""
        return EpochKeeper.__name__  # of those that derive from it too: either goes on from the other's checkpoint

    def state_dict(self) -> dict[str, Any]:
        """Return the state to resume from."""
        return {key: getattr(self, key) for key in self._STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of an interrupted training."""
        for key in self._STATE:
            if key in state_dict:  # times and wall_seconds are not in those of earlier versions
                setattr(self, key, state_dict[key])
        self.seconds_before = self.train_seconds

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of an epoch."""
        self._started = time.perf_counter()
        self._validation_seconds = 0.0
        self.last_validated = False
        self._rows = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the rows of a batch."""
        self._rows += trainer.train_dataloader.rows_of(batch_idx)  # type: ignore[union-attr]

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of a validation, which is no training time."""
        self._validation_started = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock of a validation."""
        self._validation_seconds = time.perf_counter() - self._validation_started
        self.last_validated = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the epoch, keep it if it is the best, write its files, and stop a training without gain."""
        module = pl_module
        assert isinstance(module, RecModule)
        seconds = time.perf_counter() - self._started - self._validation_seconds
        rows = self._rows
        self.train_seconds += seconds
        self.train_rows += rows
        epoch = trainer.current_epoch + 1
        # Not where max_steps or max_time has cut the epoch off: what was measured last is another epoch's.
        validated = self.last_validated
        metrics = module.metrics if validated else {}
        row = {
            "epoch": epoch,
            "train_loss": module.train_loss,
            "seconds": round(seconds, 3),
            "rows_per_second": round(rows / seconds),
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            **{f"weight/{task}": weight for task, weight in module.task_weights.items()},
            **{f"valid/{key}": value for key, value in metrics.items()},
        }
        self.history.append(row)
        self.times.append(round(time.time(), 3))
        self.wall_seconds += time.perf_counter() - self._started
        score = self._judge(epoch, module) if validated else None
        module.step_scheduler(score)
        if trainer.val_dataloaders is None:
            self.best_epoch = epoch
        # The last weights are to be looked at before a training ends that has no learning rate left.
        if module.schedule is not None and module.schedule.ends_by(epoch) and (validated or self.best_epoch == epoch):
            self.stopped = trainer.should_stop = True
        improved = self.best_epoch == epoch
        if trainer.is_global_zero:
            if improved and self._best_path is not None:
                save_checkpoint(self._best_path, module.model, self._settings, epoch)
                if self._config["save_optimizer"]:
                    state = state_by_name(trainer.optimizers[0], module.model, self._config["learner"])
                    path = self._best_path.with_name(OPTIMIZER)
                    write_atomically(path, lambda temporary: save_tensors(state, temporary))
            if self._metrics_path is not None:
                self._write_metrics(self._metrics_path)
        self._log_epoch(trainer, row, score, improved)
        if self._last_path is not None and self._last_is_due():
            self._save_last(trainer, self._last_path)
        if score is not None and self._callback_fn is not None:
            self._callback_fn(epoch - 1, score)

    def _judge(self, epoch: int, module: RecModule) -> float:
        metrics = module.metrics
        # Undefined ones too: else a scenario without a value would have that of one called alike.
        every = [*metrics, *(module.evaluation.keys() if module.evaluation is not None else [])]
        self.metric = find_metric(self.metric, every) or self.metric
        if self.metric not in metrics:
            names = list(module.metrics)
            undefined = module.evaluation.undefined if module.evaluation is not None else []
            reasons = "; ".join(f"{scenario}, {task}: {reason}" for scenario, task, reason in undefined)
            raise InputError(
                f"valid_metric '{self._config['valid_metric']}' has no value on the validation split"
                f"{nearest(self.metric, names) or '.'} It has: {', '.join(names)}."
                f"{' Undefined cells: ' + reasons if reasons else ''}"
            )
        score = float(metrics[self.metric])
        if score != score:
            raise InputError(
                f"valid_metric '{self.metric}' is undefined on the validation split: it holds one class only"
            )
        start = float("-inf") if self.bigger else float("inf")
        first = getattr(module.model, "first_best_epoch", 1)
        if epoch >= first > self.best_epoch:  # what came before does not compete
            self.best_score, self._without_gain = None, 0
        self.best_score, self._without_gain, stop, improved = early_stopping(
            score,
            start if self.best_score is None else self.best_score,
            self._without_gain,
            max_step=self._config["stopping_step"],
            bigger=self.bigger,
        )
        if improved:
            self.best_epoch = epoch
            self.best_metrics = dict(module.metrics)
            self.best_evaluation = module.evaluation.to_dict() if module.evaluation is not None else None
        if stop and epoch >= first:
            self.stopped = module.trainer.should_stop = True
        return score

    def _log_epoch(self, trainer: pl.Trainer, row: Mapping[str, Any], score: float | None, improved: bool) -> None:
        if not trainer.is_global_zero:
            return
        line = f"{self._name}epoch {row['epoch']:>3}  loss {row['train_loss']:.4f}  {row['rows_per_second']:,} rows/s"
        if score is not None:
            line += f"  valid {self.metric} {score:.4f}{'  best' if improved else ''}"
        bar = trainer.progress_bar_callback
        shown = isinstance(bar, pl.callbacks.TQDMProgressBar) and bar.is_enabled
        if shown:
            bar.print(line)  # type: ignore[union-attr]
        folder = None if self._metrics_path is None else self._metrics_path.parent
        logger.info(line, extra={"shown": shown, "folder": folder})  # for the log file; a terminal has it already

    def _write_metrics(self, path: Path) -> None:
        columns = list(dict.fromkeys(key for row in self.history for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        write_atomically(path, lambda temporary: Path(temporary).write_text(text.getvalue(), encoding="utf-8"))

    def _last_is_due(self) -> bool:
        """Return whether the state is written after this epoch: unless that would take too much of the time."""
        gap = min(_LONGEST_GAP, self._last_seconds / self._last_share)
        return self._last_share >= 1 or time.perf_counter() - self._last_written >= gap

    def _save_last(self, trainer: pl.Trainer, path: Path) -> None:
        began = time.perf_counter()
        temporary = path.with_name(f".{path.name}-saving")
        try:
            with writing(path):
                trainer.save_checkpoint(temporary)
                if trainer.is_global_zero:
                    os.replace(temporary, path)
            self._last_written = time.perf_counter()
            self._last_seconds, self.kept_epochs = self._last_written - began, len(self.history)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


class ProgressBar(pl.callbacks.TQDMProgressBar):
    """Lightning's progress bar, drawn seldom enough not to slow small batches down; epochs count from 1."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=10)

    def on_train_epoch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Name the epoch, counted from 1."""
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(f"Epoch {trainer.current_epoch + 1}")
