"""A trainer with RecBole's interface around `pytorch_lightning.Trainer`."""

from __future__ import annotations

import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher
from recbole.utils import EvaluatorType, InputType

from recbole_msr.config.build import plain_settings
from recbole_msr.data.negatives import NegativeSettings
from recbole_msr.errors import InputError
from recbole_msr.evaluation.cells import Evaluation
from recbole_msr.evaluation.ranking_mode import metric_names, ranks
from recbole_msr.memory import retain_freed_memory
from recbole_msr.threads import flushing_denormals
from recbole_msr.training.checkpoint import load_resumable, load_weights
from recbole_msr.training.epochs import EpochKeeper, ProgressBar
from recbole_msr.training.lightning_options import quiet_lightning, trainer_options
from recbole_msr.training.list_evaluation import ListEvaluation
from recbole_msr.training.module import PackedData, RecModule
from recbole_msr.training.optimizer_state import OptimizerState

logger = logging.getLogger(__name__)


class LightningTrainer:
    """Trains a RecBole pointwise model on labelled interactions; `fit` and `evaluate` are called as RecBole's own.

    Where a dataset has been split by RecBole, its rows are trained on in the order RecBole's loader would give them,
    so that (with `fused_optimizer: False`) the numbers are those of RecBole's own trainer.

    Args:
        config: RecBole's configuration; `config["lightning"]` holds options for `pytorch_lightning.Trainer`.
        model: the model, built for that configuration.
        callbacks: further Lightning callbacks.
        folder: where best.ckpt, last.ckpt and metrics.csv go; without it only the best weights are kept, in
            `checkpoint_dir`.
        settings: the run's settings, kept in the checkpoint (by default those of the configuration).
        resume_from: a last.ckpt to go on from.
        last_share: the share of the time that writing last.ckpt may take (`EpochKeeper`); 1 for after every epoch.
        optimizer_state: what the optimiser begins with; None for a new one.

    Attributes:
        saved_model_file: where the best epoch's weights are.
        evaluation: the scenario x task cells of the last `evaluate`.
        test_scores: (N, T) what it has predicted, with `save_predictions` or `calibrate`.
        test_lists: the ranked lists, with `save_predictions`, where the configuration asks for these.
        epochs: what is known of the epochs (`EpochKeeper`), after `fit`.
    """

    def __init__(
        self,
        config: Any,
        model: torch.nn.Module,
        callbacks: Sequence[pl.Callback] = (),
        folder: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        resume_from: str | Path | None = None,
        last_share: float = 1.0,
        optimizer_state: OptimizerState | None = None,
    ) -> None:
        if getattr(model, "input_type", config["MODEL_INPUT_TYPE"]) != InputType.POINTWISE:
            raise InputError(
                f"{config['model']} does not learn row by row; it needs RecBole's trainer (trainer: recbole)"
            )
        if config["train_neg_sample_args"]["distribution"] != "none" and NegativeSettings.from_config(config) is None:
            raise InputError(
                f"labels are read from the data here, and {config['model']} samples negatives by default: set "
                "train_neg_sample_args: ~, or declare tasks and say how they are sampled"
            )
        modes = config["eval_args"]["mode"]
        if not ranks(config):
            if config["eval_type"] != EvaluatorType.VALUE:
                raise InputError(f"metrics must be of labels, such as [AUC, LogLoss], got {config['metrics']}")
            if set(modes.values()) != {"labeled"}:
                raise InputError(f"eval_args: mode must be 'labeled' here, got {modes}")
        retain_freed_memory()
        self.config, self.model = config, model
        self._callbacks, self._settings, self._resume_from = list(callbacks), settings, resume_from
        self._folder, self._last_share = Path(folder) if folder is not None else None, last_share
        if self._folder is not None:
            self.saved_model_file = str(self._folder / "best.ckpt")
        else:
            name = f"{config['model']}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.ckpt"
            self.saved_model_file = str(Path(config["checkpoint_dir"], name))
        self.evaluation: Evaluation | None = None
        self.test_scores: torch.Tensor | None = None
        self.test_lists: ListEvaluation | None = None
        self.epochs: EpochKeeper | None = None
        self._module = RecModule(model, config)
        self._module.first_state = optimizer_state
        self._lightning: pl.Trainer | None = None

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Callable[[int, float], Any] | None = None,
    ) -> tuple[float, dict[str, float] | None]:
        """Train until `epochs` or early stopping.

        Args:
            train_data: a RecBole data loader, or a built dataset.
            valid_data: the same of the validation split; None to validate nothing.
            verbose: tell every epoch's result.
            saved: keep the best epoch's weights (in `saved_model_file`).
            show_progress: draw a progress bar.
            callback_fn: called after every validation with (epoch from 0, score).

        Returns:
            The best validation score and the RecBole metrics of that epoch; (-1, None) without validation data.
        """
        resumed = load_resumable(self._resume_from) if self._resume_from is not None else None
        best_path = Path(self.saved_model_file) if saved else None
        if best_path is not None:
            best_path.parent.mkdir(parents=True, exist_ok=True)
        settings = self._settings if self._settings is not None else plain_settings(self.config)
        keep = self._folder if saved else None
        self.epochs = EpochKeeper(
            self.config,
            settings,
            best_path,
            keep / "last.ckpt" if keep is not None else None,
            keep / "metrics.csv" if keep is not None else None,
            callback_fn,
            self._last_share,
        )
        logging.getLogger(EpochKeeper.__module__).setLevel(logging.INFO if verbose else logging.WARNING)
        validate = valid_data is not None and self.config["eval_step"] > 0
        data = PackedData(self.config, {"train": _split(train_data), "valid": _split(valid_data) if validate else None})
        self._lightning = self._build_lightning(show_progress, validate)
        state = resumed["callbacks"].get(self.epochs.state_key) if resumed is not None else None
        if state is not None and state["stopped"]:  # interrupted after its last epoch: nothing is left to train
            self.epochs.load_state_dict(state)
        else:
            self._train(data)
            self._check_ends(validate)
        self.model.to(self.config["device"])
        if not validate or self.epochs.best_score is None:
            return -1, None
        return self.epochs.best_score, self._recbole_only(self.epochs.best_metrics)

    def _train(self, data: PackedData) -> None:
        assert self._lightning is not None
        try:
            with quiet_lightning(), flushing_denormals():
                self._lightning.fit(self._module, datamodule=data, ckpt_path=self._resume_from, weights_only=True)
        except SystemExit as error:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from error
        # Its name has the time and the process in it where no folder is given.
        self.saved_model_file = self._lightning.strategy.broadcast(self.saved_model_file)

    def _check_ends(self, validate: bool) -> None:
        """Tell of an epoch that max_steps or max_time has cut off.

        Raises:
            InputError: no epoch was validated, so that there is no best one.
        """
        assert self.epochs is not None
        if not validate or not self.epochs.history or self.epochs.last_validated:
            return
        cut_off = [name for name in ("max_steps", "max_time") if (self.config["lightning"] or {}).get(name) is not None]
        if not cut_off:
            return
        ended = f"lightning: {' and '.join(cut_off)} ended epoch {len(self.epochs.history)} before its validation"
        if self.epochs.best_score is None:
            raise InputError(
                f"{ended}, and no epoch was validated before: there is no best one; give it more, or epochs"
            )
        logger.warning("%s: its weights are not looked at, the best epoch is %d", ended, self.epochs.best_epoch)

    def evaluate(
        self,
        eval_data: Any,
        load_best_model: bool = True,
        model_file: str | Path | None = None,
        show_progress: bool = False,
    ) -> OrderedDict[str, float]:
        """Evaluate on a split.

        Args:
            eval_data: a RecBole data loader, or a built dataset.
            load_best_model: load the best epoch's weights first (or those of `model_file`).
            model_file: a checkpoint of this package.
            show_progress: draw a progress bar.

        Returns:
            RecBole's metrics of the main task; the scenario x task cells are in `evaluation`.
        """
        if load_best_model:
            load_weights(self.model, model_file or self.saved_model_file, self.config["device"])
        if self._lightning is None:
            self._lightning = self._build_lightning(show_progress, False)
        with quiet_lightning():
            data = PackedData(self.config, {"test": _split(eval_data)})
            try:
                self._lightning.test(self._module, datamodule=data, verbose=False)
            except SystemExit as error:  # Lightning's answer to Ctrl-C
                raise KeyboardInterrupt from error
        self.model.to(self.config["device"])
        self.evaluation, self.test_scores = self._module.evaluation, self._module.test_scores
        self.test_lists = self._module.test_lists
        return self._recbole_only(self._module.metrics)

    def _recbole_only(self, metrics: Mapping[str, float]) -> OrderedDict[str, float]:
        return OrderedDict((name, metrics[name]) for name in metric_names(self.config))

    def _build_lightning(self, show_progress: bool, validate: bool) -> pl.Trainer:
        options = trainer_options(self.config)
        user_options = options.pop("given")
        options |= {
            "enable_progress_bar": bool(show_progress),
            "default_root_dir": str(Path(self.saved_model_file).parent),
        }
        callbacks = [*(user_options.pop("callbacks", None) or []), *self._callbacks]
        if self.epochs is not None:
            callbacks.append(self.epochs)
        options |= user_options
        _check_device_count(options)
        if options["enable_progress_bar"] and not any(isinstance(c, pl.callbacks.ProgressBar) for c in callbacks):
            callbacks.append(ProgressBar())
        options.setdefault("enable_checkpointing", self.epochs is not None)
        if not validate:
            options["limit_val_batches"] = 0
        try:
            with quiet_lightning():
                trainer = pl.Trainer(**options, callbacks=callbacks)
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise InputError(f"lightning: {error}") from error
        if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
            raise InputError(
                f"lightning: strategy '{options.get('strategy', 'auto')}' trains in processes that keep their results "
                "to themselves: set strategy: ddp (it starts the same command again: not in a notebook), or devices: 1"
            )
        return trainer


def _check_device_count(options: Mapping[str, Any]) -> None:
    """Refuse more GPUs than the machine shows to this process."""
    devices = options.get("devices")
    if (
        options.get("accelerator") in ("gpu", "cuda")
        and isinstance(devices, int)
        and devices > torch.cuda.device_count()
    ):
        raise InputError(
            f"lightning: devices: {devices}, but {torch.cuda.device_count()} GPUs are visible; RecBole's gpu_id "
            "(now the only one used) names them: --gpu_id=0,1"
        )


def _split(data: Any) -> Any:
    return getattr(data, "_dataset", data)
