"""Epochs as they come, from Lightning's trainer and from RecBole's own, to a tracked run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl

from recbole_msr.tracking.wandb import TrackedRun
from recbole_msr.training.epochs import EpochKeeper


class EpochLogger(pl.Callback):
    """Callback that sends each epoch's row (`EpochKeeper.history`) to a tracked run; in the first process only.

    Of a resumed training, the epochs before the interruption are sent too: its run is whole.
    """

    def __init__(self, run: TrackedRun) -> None:
        self._run, self._sent = run, 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Send the row of the epoch before."""
        self._send_all(trainer)  # EpochKeeper, a checkpoint callback, comes last in an epoch: its row is there only now

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Send the last rows."""
        self._send_all(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Send the rows of the epochs before the failure."""
        self._send_all(trainer)

    def _send_all(self, trainer: pl.Trainer) -> None:
        for keeper in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(keeper, EpochKeeper) and trainer.is_global_zero:
                self.send(keeper)

    def send(self, keeper: EpochKeeper) -> None:
        """Send the rows that have not been sent."""
        for row in keeper.history[self._sent :]:
            self._run.log_epoch(row)
        self._sent = max(self._sent, len(keeper.history))  # a training that is begun anew has had them before


class RecBoleEpochs:
    """Stands in for the `wandblogger` of a RecBole trainer, which would start a run of its own and never finish it.

    RecBole calls it once after an epoch's training and once after its validation; both become one row.
    """

    def __init__(self, run: TrackedRun) -> None:
        self._run = run
        self._row: dict[str, Any] = {}

    def log_metrics(self, metrics: Mapping[str, Any], head: str = "train", commit: bool = True) -> None:
        """Collect the metrics of an epoch's training or validation."""
        if head == "train":
            self.flush()
            loss = metrics["train_loss"]
            total = float(sum(loss)) if isinstance(loss, tuple) else float(loss)
            self._row = {"epoch": int(metrics["epoch"]) + 1, "train_loss": total}
        else:
            self._row |= {f"{head}/{key}": value for key, value in metrics.items() if key != "valid_step"}

    def log_eval_metrics(self, metrics: Mapping[str, Any], head: str = "eval") -> None:
        """Ignore the test's metrics, which come with the run's results."""

    def flush(self) -> None:
        """Send the last epoch."""
        if self._row:
            self._run.log_epoch(self._row)
            self._row = {}
