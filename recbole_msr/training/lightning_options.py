"""Options of `pytorch_lightning.Trainer` from a configuration, checked before anything is computed."""

from __future__ import annotations

import inspect
import logging
import math
import types
import typing
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch

from recbole_msr.errors import InputError, nearest, one_line
from recbole_msr.training.fast_paths import lightning_precision
from recbole_msr.training.optimizers import build_optimizer, build_scheduler

_EVERY_ROW = "results are exact only if every row is evaluated"
_OWN_OPTIONS = {
    **dict.fromkeys(("limit_val_batches", "limit_test_batches", "fast_dev_run", "num_sanity_val_steps"), _EVERY_ROW),
    "overfit_batches": _EVERY_ROW,
    **dict.fromkeys(("check_val_every_n_epoch", "val_check_interval"), "eval_step says when to validate"),
    "use_distributed_sampler": "the loaders know their process",
}
_LEAST = {
    **dict.fromkeys(("max_epochs", "max_steps", "num_nodes", "accumulate_grad_batches"), 1),
    **dict.fromkeys(("min_epochs", "min_steps", "log_every_n_steps", "limit_train_batches"), 0),
    **dict.fromkeys(("gradient_clip_val", "reload_dataloaders_every_n_epochs"), 0),
}
"""The least value of options that are numbers."""
_NO_END = {"max_epochs": -1, "max_steps": -1}  # Lightning's word for no limit
_MOST_DEVICES = 1024
_HARDWARE = ("accelerator", "devices", "num_nodes", "strategy", "precision", "plugins", "sync_batchnorm")
_STEPS = 10_000  # epochs that a schedule is tried for


def trainer_options(config: Any) -> dict[str, Any]:
    """Return the arguments of `pytorch_lightning.Trainer` but callbacks, and under `given` the user's own.

    Raises:
        InputError: an option that does not exist, that the user cannot set, or that has another type or range.
    """
    clip = config["clip_grad_norm"] or {}
    if clip.get("norm_type", 2) != 2:
        raise InputError(f"clip_grad_norm: only norm_type 2 is clipped here, got {clip['norm_type']}")
    options: dict[str, Any] = {
        "accelerator": "gpu" if config["device"].type == "cuda" else "cpu",
        "devices": 1,
        "max_epochs": config["epochs"],
        "check_val_every_n_epoch": max(min(config["eval_step"], config["epochs"]), 1),
        "gradient_clip_val": clip.get("max_norm"),
        "precision": lightning_precision(config),
        "num_sanity_val_steps": 0,
        "logger": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,  # the loaders know their process
    }
    return {**options, "given": _user_options(config)}


def _user_options(config: Any) -> dict[str, Any]:
    """Return the options that the user gives, each checked by itself."""
    user_options = dict(config["lightning"] or {})
    trainer_parameters = inspect.signature(pl.Trainer).parameters
    for key in user_options:
        if key not in trainer_parameters:
            raise InputError(
                f"lightning: pytorch_lightning.Trainer has no option '{key}'{nearest(str(key), trainer_parameters)}"
            )
        if key in _OWN_OPTIONS:
            raise InputError(f"lightning: '{key}' cannot be set: {_OWN_OPTIONS[key]}")
        _check_option(key, user_options[key])
    return user_options


def check_lightning(config: Any) -> None:
    """Refuse options of Lightning's trainer, and a schedule of the learning rate, that cannot be used.

    Both are built once to see whether they can be: the trainer without a model and for one CPU (a run's settings are
    read on other machines too, to predict with it), the schedule with an optimiser of one number, for as many epochs as
    there may be.

    Raises:
        InputError: it names the key, what was found and what would be right.
    """
    if config["lightning"]:
        options = {key: value for key, value in _user_options(config).items() if key not in _HARDWARE}
        own = {"logger": False, "enable_checkpointing": True, "enable_progress_bar": False, "accelerator": "cpu"}
        try:
            with quiet_lightning():
                pl.Trainer(**{**own, "enable_model_summary": False, "devices": 1, **options})
        except Exception as error:  # Lightning's own, and whatever its parts raise
            raise InputError(f"lightning: {one_line(error)}") from error
    if config["lr_scheduler"]:
        _try_schedule(config)


def _try_schedule(config: Any) -> None:
    optimizer = build_optimizer(_groups_to_try(config), _Plain(config))
    scheduler = build_scheduler(optimizer, config["lr_scheduler"])
    name = config["lr_scheduler"]["name"]
    of_metric = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
    epochs = min(int(config["epochs"]), _STEPS)
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    are_equal = len(set(rates)) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for epoch in range(1, epochs + 1):
            try:
                scheduler.step(*([0.5] if of_metric else []))
                rates = [float(group["lr"]) for group in optimizer.param_groups]
            except Exception as error:  # T_max: 0 divides by it, and so on
                raise InputError(f"lr_scheduler {name}: after epoch {epoch} of {epochs}: {one_line(error)}") from error
            are_equal &= len(set(rates)) == 1
            if not all(math.isfinite(rate) and rate >= 0 for rate in rates):
                raise InputError(
                    f"lr_scheduler {name}: after epoch {epoch} of {epochs} the learning rate would be {rates[0]!r}; "
                    "it must be a number of at least 0"
                )
    if are_equal and len(rates) > 1:
        asked = [key for key, factor in _factors(config).items() if factor != 1]
        raise InputError(
            f"lr_scheduler {name} sets one learning rate for all parameters, and {' and '.join(asked)} "
            f"{'asks' if len(asked) == 1 else 'ask'} for another one of a part: leave one of them out, or take "
            "learning_rate_schedule"
        )


def _factors(config: Any) -> dict[str, float]:
    """Return what the learning rate of a part of the model is multiplied by, of the keys that its model has."""
    keys = (f"{part}_learning_rate_factor" for part in ("embedding", "user_level", "item_level", "scenario_level"))
    return {key: float(config[key]) for key in keys if config[key] is not None}


def _groups_to_try(config: Any) -> list[dict[str, Any]]:
    """Return a parameter, and one more for every other learning rate that a part of the model has."""
    rates = {factor * config["learning_rate"] for factor in (1.0, *_factors(config).values())}
    groups = []
    for rate in rates:
        parameter = torch.nn.Parameter(torch.zeros(1))
        parameter.grad = torch.zeros(1)
        groups.append({"params": [parameter], "lr": rate})
    return groups


class _Plain:
    """A configuration whose optimiser has neither fused kernels nor sparse gradients: it has one number to update."""

    def __init__(self, config: Any) -> None:
        self._config = config

    def __getitem__(self, key: str) -> Any:
        return {"fused_optimizer": False, "embedding_gradients": "dense"}.get(key, self._config[key])


def _check_option(key: str, value: Any) -> None:
    hint = typing.get_type_hints(pl.Trainer.__init__).get(key)
    if hint is not None and not _fits(value, hint):
        raise InputError(f"lightning: '{key}' must be {_in_words(hint)}, got {value!r:.80}")
    names = {"accelerator": _accelerators, "strategy": _strategies}
    if key in names and isinstance(value, str) and value.lower() not in names[key]():
        choices = names[key]()
        raise InputError(
            f"lightning: there is no {key} '{value}'{nearest(value, choices) or '.'} Known: {', '.join(choices)}"
        )
    if key == "precision" and value is not None and str(value) not in _precisions():
        raise InputError(f"lightning: 'precision' must be one of {', '.join(_precisions())}, got {value!r}")
    if key == "devices" and not _are_devices(value):
        raise InputError(f"lightning: 'devices' must be how many, a list of them, or auto, got {value!r:.80}")
    numbers = value if isinstance(value, (list, tuple)) else [value]
    if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
        raise InputError(f"lightning: '{key}' must be finite, got {value!r:.80}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        least = _LEAST.get(key)
        if least is not None and value < least and value != _NO_END.get(key):
            raise InputError(f"lightning: '{key}' must be at least {least}, got {value!r}")
        if key == "limit_train_batches" and (value == 0 or (isinstance(value, float) and value > 1)):
            raise InputError(f"lightning: '{key}' must be a number of batches, or a share up to 1.0, got {value!r}")
        if key in ("devices", "num_nodes") and value > _MOST_DEVICES:
            raise InputError(f"lightning: '{key}' must be at most {_MOST_DEVICES}, got {value!r}")


def _accelerators() -> list[str]:
    from pytorch_lightning.accelerators import AcceleratorRegistry

    return ["auto", "gpu", *AcceleratorRegistry.available_accelerators()]


def _strategies() -> list[str]:
    from pytorch_lightning.strategies import StrategyRegistry

    return ["auto", *StrategyRegistry.available_strategies()]


def _precisions() -> list[str]:
    from lightning_fabric.plugins.precision.precision import (
        _PRECISION_INPUT_INT,
        _PRECISION_INPUT_STR,
        _PRECISION_INPUT_STR_ALIAS,
    )

    listed = (_PRECISION_INPUT_STR, _PRECISION_INPUT_STR_ALIAS, _PRECISION_INPUT_INT)
    return [str(word) for kind in listed for word in typing.get_args(kind)]


def _are_devices(value: Any) -> bool:
    """Return whether a value names devices, or their number; not whether this machine has them."""
    if isinstance(value, str):
        return value == "auto" or all(part.strip().removeprefix("-").isdigit() for part in value.split(","))
    if isinstance(value, (list, tuple)):
        return bool(value) and all(device >= 0 for device in value) and len(set(value)) == len(value)
    return isinstance(value, int) and not isinstance(value, bool) and (value == -1 or value >= 1)


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value is of a type as an annotation has it."""
    kind, parts = typing.get_origin(hint), typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if kind is typing.Literal:
        return any(value == part and type(value) is type(part) for part in parts)
    if hint is None or hint is type(None):
        return value is None
    if hint in (int, float):
        allowed = (int,) if hint is int else (int, float)
        return isinstance(value, allowed) and not isinstance(value, bool)
    if kind is not None and isinstance(kind, type) and issubclass(kind, Iterable) and not issubclass(kind, Mapping):
        return isinstance(value, (list, tuple)) and all(_fits(element, parts[0]) for element in value if parts)
    if kind is not None:
        return isinstance(value, kind)
    return not isinstance(hint, type) or isinstance(value, hint)


def _in_words(hint: Any) -> str:
    """Return the plain values that an annotation takes."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", type(None): "null"}
    kind, parts = typing.get_origin(hint), typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        found = dict.fromkeys(word for part in parts for word in _in_words(part).split("; ") if word)
        return "; ".join(found).replace("; ", ", ") if len(found) > 1 else "".join(found)
    if kind is typing.Literal:
        return ", ".join(map(repr, parts))
    if kind is not None and parts and isinstance(kind, type) and issubclass(kind, list):
        return f"a list of {_in_words(parts[0])}"
    return words.get(hint, getattr(hint, "__name__", str(hint)))


class quiet_lightning:
    """Lightning's advice about data loaders and its start-up lines are not for the reader of a result."""

    _LOGGERS = ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric")

    def __enter__(self) -> None:
        loggers = map(logging.getLogger, self._LOGGERS)
        # Inside another such block nothing is set: each time all loggers of the process forget what they log.
        self._levels = {logger: logger.level for logger in loggers if logger.level != logging.ERROR}
        for logger in self._levels:
            logger.setLevel(logging.ERROR)
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric)\..*")
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")

    def __exit__(self, *_: Any) -> None:
        self._warnings.__exit__(*_)
        for logger, level in self._levels.items():
            logger.setLevel(level)
