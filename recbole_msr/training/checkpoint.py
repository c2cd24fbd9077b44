"""Write and load checkpoints: weights and plain values, whole or not at all, and never by unpickling."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from recbole_msr.errors import InputError
from recbole_msr.files.atomic import write_atomically
from recbole_msr.files.json import mismatch
from recbole_msr.files.outputs import save_tensors
from recbole_msr.files.yaml import TypedSettings

_FORMAT_NAME = "recbole-msr/"
FORMAT = f"{_FORMAT_NAME}1"

_SHAPE = {
    "config": {"model": str, "dataset": str},
    "epoch": int,
    "state_dict": {str: torch.Tensor},
    "other_parameter": {str: torch.Tensor | bool | int | float | str},
    "left_out": [str],
}
_PROGRESS = {"total": {str: int}, "current": {str: int}}
_FIT_LOOP = {
    **dict.fromkeys(("epoch_progress", "epoch_loop.batch_progress", "epoch_loop.scheduler_progress"), _PROGRESS),
    **dict.fromkeys(("state_dict", "epoch_loop.state_dict", "epoch_loop.val_loop.state_dict"), dict),
    "epoch_loop.automatic_optimization.state_dict": dict,
    "epoch_loop.automatic_optimization.optim_progress": {
        "optimizer": {"step": _PROGRESS, "zero_grad": _PROGRESS},
    },
    "epoch_loop.manual_optimization.state_dict": dict,
    "epoch_loop.manual_optimization.optim_step_progress": _PROGRESS,
    "epoch_loop.val_loop.batch_progress": _PROGRESS,
}
"""The part of its loop's state that Lightning reads when a training resumes."""
_RESUMABLE = {
    "epoch": int,
    "global_step": int,
    "loops": {"fit_loop": _FIT_LOOP},
    "state_dict": {str: torch.Tensor},
    "optimizer_states": [{"state": Any, "param_groups": [dict]}],
    "lr_schedulers": list,
    "callbacks": {
        "EpochKeeper?": {
            "best_score": (float, None),
            "best_epoch": int,
            "best_metrics": {str: Any},
            "best_evaluation": ({"main_task": str, "pooled": dict, "cells": dict}, None),
            "history": [dict],
            "train_seconds": float,
            "train_rows": int,
            "stopped": bool,
            "_without_gain": int,
            "times?": [float],
            "wall_seconds?": float,
        }
    },
}


def save_checkpoint(path: str | Path, model: torch.nn.Module, settings: Mapping[str, Any], epoch: int) -> None:
    """Save a model with what rebuilds it.

    Args:
        path: the file, replaced as a whole.
        model: a RecBole model.
        settings: the run's settings (plain values), among them "model" and "dataset".
        epoch: the epoch the weights are from, counted from 0.
    """
    other: dict[str, Any] = model.other_parameter() if hasattr(model, "other_parameter") else {}  # type: ignore[operator]
    # Modules among them are in the state_dict too; SciPy's and NumPy's objects would be pickles.
    other = {key: value for key, value in other.items() if not isinstance(value, (torch.nn.Module, type(None)))}
    plain = (torch.Tensor, bool, int, float, str)
    content = {
        "format": FORMAT,
        "config": dict(settings),
        "epoch": epoch,
        "state_dict": model.state_dict(),
        "other_parameter": {key: value for key, value in other.items() if isinstance(value, plain)},
        "left_out": [key for key, value in other.items() if not isinstance(value, plain)],
    }
    write_atomically(path, lambda temporary: save_tensors(content, temporary))


def load_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Load a checkpoint of this package, with `weights_only=True`.

    Returns:
        The content: `config` (the run's settings), `epoch` (counted from 0), `state_dict`, `other_parameter`,
        `left_out`.

    Raises:
        InputError: there is no such file, it is damaged, of another version's format, or something else.
    """
    content = _load(path, map_location)
    written = content.get("format") if isinstance(content, dict) else None
    if written != FORMAT:
        reason = "another kind of file"
        if isinstance(written, str) and written.startswith(_FORMAT_NAME):
            reason = f"{written}: open it with the version of recbole-msr that wrote it (versions in result.json)"
        raise InputError(f"the checkpoint {path} is not of the format {FORMAT}, but {reason}")
    _check_shape(path, content, _SHAPE)
    return content  # type: ignore[no-any-return]


def load_resumable(path: str | Path) -> dict[str, Any]:
    """Load a last.ckpt, from which a training resumes.

    Raises:
        InputError: there is no such file, it is damaged, or it is something else.
    """
    content = _load(path, "cpu")
    if not isinstance(content, dict) or not {"loops", "state_dict", "optimizer_states"} <= set(content):
        raise InputError(f"the checkpoint {path} cannot be read as the state of an interrupted run")
    _check_shape(path, content, _RESUMABLE)
    return content


def load_plain(path: str | Path, shape: Any) -> dict[str, Any]:
    """Load a file of tensors and plain values.

    Args:
        path: the file.
        shape: what it must hold (`files.json.mismatch`).

    Raises:
        InputError: there is no such file, or it is damaged.
    """
    content: dict[str, Any] = _load(path, "cpu")
    _check_shape(path, content, shape)
    return content


def _check_shape(path: str | Path, content: Any, shape: Any) -> None:
    damage = mismatch(content, shape)
    if damage is not None:
        raise InputError(f"the checkpoint {path} is damaged: {damage}")


def _load(path: str | Path, map_location: Any) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns of a pickle's protocol before it refuses the pickle
            if zipfile.is_zipfile(path):
                _check_sums(path)
            return torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"there is no checkpoint {path}") from error
    except Exception as error:  # torch raises many kinds for a damaged file
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"the checkpoint {path} cannot be read: it is damaged, cut short, or not a recbole-msr checkpoint ({first})"
        ) from error


def _check_sums(path: str | Path) -> None:
    """Compare the content with the checksums (CRC-32) that every zip file keeps; PyTorch reads past them.

    Raises:
        ValueError: a part is not as it was written.
    """
    with zipfile.ZipFile(path) as file:
        packed = [part.filename for part in file.infolist() if part.compress_type != zipfile.ZIP_STORED]
        if packed:  # never by torch.save; a small file could unpack to any size
            raise ValueError(f"its part {packed[0]} is compressed")
        wrong = file.testzip()
        if wrong is not None:
            raise ValueError(f"its part {wrong} is not as it was written")


def load_weights(model: torch.nn.Module, path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Load a checkpoint's weights into a model that was built for them.

    Returns:
        The checkpoint's content.

    Raises:
        InputError: as `load_checkpoint` and `apply_weights`.
    """
    content = load_checkpoint(path, map_location)
    apply_weights(model, content, path)
    return content


def apply_weights(model: torch.nn.Module, content: Mapping[str, Any], path: str | Path) -> None:
    """Put the weights of a loaded checkpoint into a model.

    Args:
        model: built with the checkpoint's settings and data.
        content: as `load_checkpoint` returns it.
        path: the checkpoint's file, for the error.

    Raises:
        InputError: the weights are of a model of other sizes, or the checkpoint lacks a part of the model.
    """
    try:
        model.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        raise InputError(
            f"the weights in {path} do not fit this {type(model).__name__}: it was trained with other settings or "
            f"data ({str(error).splitlines()[-1].strip()})"
        ) from error
    if content["left_out"]:
        raise InputError(
            f"{path} cannot give {type(model).__name__} back: its {', '.join(content['left_out'])} is no tensor, and "
            "only tensors are kept; train it again"
        )
    if hasattr(model, "load_other_parameter"):
        model.load_other_parameter(content["other_parameter"])  # type: ignore[operator]


def is_checkpoint(path: str | Path) -> bool:
    """Return whether a file is a checkpoint of this package (rather than RecBole's, which is a pickle)."""
    try:
        return zipfile.is_zipfile(path) and bool(load_checkpoint(path))
    except InputError:
        return False


def load_data_and_model(path: str | Path) -> tuple[Any, ...]:
    """Open a checkpoint of this package as RecBole's `load_data_and_model` opens RecBole's.

    Returns:
        config, model, dataset, train_data, valid_data, test_data
    """
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, init_seed

    content = load_checkpoint(path)
    config = Config(config_dict=TypedSettings(content["config"]))
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    train_data, valid_data, test_data = data_preparation(config, dataset)
    init_seed(config["seed"], config["reproducibility"])
    model = get_model(config["model"])(config, train_data._dataset).to(config["device"])
    load_weights(model, path, config["device"])
    return config, model, dataset, train_data, valid_data, test_data
