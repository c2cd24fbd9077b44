"""Train under RecBole's own trainer, unchanged, with its files in the run's folder."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from recbole_msr.compat import tensorboard_below
from recbole_msr.errors import InputError, nearest
from recbole_msr.files.atomic import write_atomically
from recbole_msr.runs.folder import RunFolder
from recbole_msr.runs.outcome import Outcome, finite_metrics
from recbole_msr.tracking.wandb import TrackedRun
from recbole_msr.training.checkpoint import save_checkpoint
from recbole_msr.training.epoch_loggers import RecBoleEpochs
from recbole_msr.training.fast_paths import LIGHTNING_ONLY
from recbole_msr.training.trainer import LightningTrainer


def train_by_recbole(
    config: Any,
    model: torch.nn.Module,
    loaders: tuple[Any, Any, Any],
    folder: RunFolder,
    settings: Mapping[str, Any],
    tracked: TrackedRun | None,
) -> Outcome:
    """Train and test a model by RecBole's trainer.

    Args:
        config: RecBole's configuration; its `checkpoint_dir` becomes the folder.
        model: the model.
        loaders: RecBole's loaders of the three splits.
        folder: where best.ckpt and metrics.csv go.
        settings: the configuration as a user would write it, for the checkpoint.
        tracked: the W&B run.

    Raises:
        InputError: `valid_metric` is not among the metrics that RecBole's trainer computes.
    """
    _check_valid_metric(config)
    config["checkpoint_dir"] = str(folder.path)
    history: list[dict[str, Any]] = []
    with tensorboard_below(folder.path), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")  # its use of torch.cuda.amp
        trainer = make_trainer(config, model)
        epoch_logger = RecBoleEpochs(tracked) if tracked is not None else None
        if epoch_logger is not None:
            trainer.wandblogger = epoch_logger
        started = time.perf_counter()
        score, valid = trainer.fit(
            loaders[0],
            loaders[1],
            saved=True,
            show_progress=config["show_progress"],
            callback_fn=lambda epoch, value: history.append({"epoch": epoch + 1, "valid_score": float(value)}),
        )
        seconds = time.perf_counter() - started
        if epoch_logger is not None:
            epoch_logger.flush()
        test = trainer.evaluate(loaders[2], load_best_model=True, show_progress=config["show_progress"])
    Path(trainer.saved_model_file).unlink(missing_ok=True)  # a pickle; the weights go into best.ckpt
    n_epochs = len(trainer.train_loss_dict)
    best = 1 + max((row["epoch"] - 1 for row in history if row["valid_score"] == score), default=n_epochs - 1)
    save_checkpoint(folder.file("best.ckpt"), model, settings, best)
    write_history(folder, trainer.train_loss_dict, history)
    return Outcome(
        {
            "best_epoch": best,
            "epochs": n_epochs,
            "best_valid_score": float(score),
            "valid": {"metrics": finite_metrics(valid or {})},
            "test": {"metrics": finite_metrics(test or {})},
            "seconds": {"train": round(seconds, 3)},
            "rows_per_second": None,
        }
    )


def check_recbole_settings(config: Any, resume: bool) -> None:
    """Refuse what only a run under Lightning can do.

    Raises:
        InputError: a setting, or --resume, takes Lightning.
    """
    if config["save_predictions"]:
        raise InputError("save_predictions is for runs under Lightning: declare tasks, or set trainer: lightning")
    if config["calibrate"] != "none":
        raise InputError("calibrate is for runs under Lightning: declare tasks, or set trainer: lightning")
    if resume:
        raise InputError("RecBole's own trainer cannot resume a run; start it again (in another output_dir)")
    for key, plain in LIGHTNING_ONLY.items():
        if config[key] != plain:
            raise InputError(f"{key} is for runs under Lightning: declare tasks, or set trainer: lightning")


def _check_valid_metric(config: Any) -> None:
    from recbole.utils import EvaluatorType

    metrics = [name.lower() for name in config["metrics"]]
    if config["eval_type"] == EvaluatorType.RANKING:
        metrics = [f"{name}@{k}" for name in metrics for k in config["topk"]]
    if str(config["valid_metric"]).lower() not in metrics:
        raise InputError(
            f"RecBole's trainer computes no valid_metric '{config['valid_metric']}'"
            f"{nearest(str(config['valid_metric']), metrics) or '.'}"
            f" It computes {', '.join(metrics)} (metrics, topk)."
        )


def make_trainer(config: Any, model: torch.nn.Module) -> Any:
    """Make RecBole's trainer of a model, without a W&B run of its own, which RecBole never finishes."""
    from recbole.trainer import Trainer
    from recbole.utils import get_trainer

    trainer_class = get_trainer(config["MODEL_TYPE"], config["model"])
    if trainer_class is LightningTrainer:
        trainer_class = Trainer
    log_wandb = config["log_wandb"]
    config["log_wandb"] = False
    try:
        return trainer_class(config, model)
    finally:
        config["log_wandb"] = log_wandb


def write_history(folder: RunFolder, losses: Mapping[int, float], scores: Sequence[Mapping[str, Any]]) -> None:
    """Write metrics.csv: of every epoch the loss, and the validation score where there is one."""
    by_epoch = {row["epoch"]: row["valid_score"] for row in scores}
    lines = ["epoch,train_loss,valid_score"]
    lines += [f"{epoch + 1},{float(loss)},{by_epoch.get(epoch + 1, '')}" for epoch, loss in losses.items()]
    text = "\n".join(lines) + "\n"
    write_atomically(folder.file("metrics.csv"), lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))
