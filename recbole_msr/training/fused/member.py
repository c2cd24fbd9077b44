"""One training among several: configuration, model and random numbers of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recbole_msr.training.epochs import EpochKeeper
from recbole_msr.training.module import RecModule
from recbole_msr.training.optimizers import clip_sparse


class RandomState:
    """A state of PyTorch's global generators; `with` it, they go on from it, and it keeps what they come to.

    It begins as the generators are when it is made.

    Args:
        device: of the training; the CPU's generator belongs to it always.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self._states = self._read()

    def _read(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        if self._device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self._device))
        return states

    def _write(self, states: Sequence[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(states[1], self._device)

    def copy(self) -> RandomState:
        """Return a state that goes on from the same numbers."""
        other = object.__new__(RandomState)
        other._device, other._states = self._device, self._states
        return other

    def __enter__(self) -> None:
        self._outer = self._read()
        self._write(self._states)

    def __exit__(self, *_: Any) -> None:
        self._states = self._read()
        self._write(self._outer)


class Member:
    """One training among several.

    Made right after its model was built: the state of the random generators at that moment is the one from which its
    training would draw alone.

    Args:
        config: its RecBole configuration.
        model: its model, on its device.
        settings: its settings, kept in `best_path`.
        best_path: where the weights of the best epoch go; None to keep none.
        last_path: where the state goes after every epoch from which `LightningTrainer` can go on; None for none.
        metrics_path: where a table with one row an epoch goes; None for none.
        callback_fn: called after every validation with (epoch from 0, score). What it raises ends this member alone.
        last_share: the share of the time that writing `last_path` may take (`EpochKeeper`).
        on_end: called when it has ended, while others may go on. What it raises ends all.

    Attributes:
        epochs: what is known of its epochs, as of any training (`EpochKeeper`).
        error: what ended it before its time: what `callback_fn` raised, a `DivergedError`, or another `Exception`;
            None where it came to its end.
        seconds: its share of the time that its group has trained and validated.
        stacked: whether it is trained in a batched model.
    """

    def __init__(
        self,
        config: Any,
        model: nn.Module,
        settings: Mapping[str, Any] | None = None,
        best_path: Path | None = None,
        last_path: Path | None = None,
        metrics_path: Path | None = None,
        callback_fn: Callable[[int, float], Any] | None = None,
        on_end: Callable[[], Any] | None = None,
        last_share: float = 1.0,
    ) -> None:
        self.config, self.model, self.on_end = config, model, on_end
        self.module = RecModule(model, config).to(config["device"])  # what weighs the losses has tensors of its own
        self.random = RandomState(config["device"])
        paths = (best_path, last_path, metrics_path)
        self.epochs: EpochKeeper = MemberEpochs(config, settings or {}, *paths, callback_fn, last_share)
        self.error: Exception | None = None
        self.seconds = 0.0
        self.stacked = False
        if best_path is not None or last_path is not None:
            model.register_state_dict_post_hook(_own_tensors)
        self.optimizer: torch.optim.Optimizer = self.module.configure_optimizers()

    @property
    def order(self) -> tuple[Any, ...]:
        """The settings that decide the order of its rows: members with equal ones have the same batches."""
        return (self.config["seed"], self.config["shuffle"])

    def attempt(self, action: Callable[[], Any]) -> None:
        """Do something; what it raises becomes this member's `error`."""
        try:
            action()
        except Exception as error:
            self.error = error

    def check(self, loss: Tensor) -> None:
        """End it where its loss is no number."""
        self.attempt(lambda: self.module._check(loss))

    def end_steps(self, loss_sum: Tensor | None = None) -> None:
        """End an epoch's steps; `loss_sum` is the sum of their losses where the module has not seen them."""
        if loss_sum is not None:
            self.module._loss_sum = loss_sum
        self.attempt(self.module.on_train_epoch_end)

    def clip(self) -> None:
        """Clip its gradient, dense or sparse."""
        norm = (self.config["clip_grad_norm"] or {}).get("max_norm")
        if norm is not None:
            clip_sparse(self.optimizer, lambda parameters: torch.nn.utils.clip_grad_norm_(parameters, norm))


def _own_tensors(_: nn.Module, state: dict[str, Any], *__: Any) -> None:
    """Copy the tensors of a state: one that is part of a larger one would be saved with all members' weights."""
    for name, value in state.items():
        if isinstance(value, Tensor):
            state[name] = value.detach().clone()


class MemberEpochs(EpochKeeper):
    """An `EpochKeeper` that is told how long an epoch's steps took: a member's share of what all took together.

    Epochs are told of trainings that leave files, with the seed: lines of several of them mix.
    """

    def __init__(self, config: Any, *args: Any) -> None:
        super().__init__(config, *args)
        self._name = f"seed {config['seed']}: "

    def end(self, trainer: Any, module: RecModule, seconds: float) -> None:
        """End an epoch whose steps took `seconds`."""
        self._started, self._validation_seconds = time.perf_counter() - seconds, 0.0
        self._rows = len(trainer.train_dataloader.table)
        self.last_validated = trainer.validates(trainer.current_epoch + 1)
        self.on_train_epoch_end(trainer, module)

    def _log_epoch(self, *args: Any) -> None:
        if self._metrics_path is not None:
            super()._log_epoch(*args)
