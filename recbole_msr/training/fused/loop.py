"""Several trainings at once: settings of a search, or seeds, that share data and model and differ in little else.

Each is a `Member`, with a configuration, a model and random numbers of its own, and comes to the numbers it would come
to alone. What they share is the work: batches are made once, and where the models are alike they are stacked, so that
one call of a kernel serves all of them (`recbole_msr.training.fused.vmap_stack`).
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.__version__ import version as lightning_version
from torch import nn

from recbole_msr.config.loss_weightings import LOSS_WEIGHTINGS
from recbole_msr.data.packed import PackedLoader, PackedTable
from recbole_msr.data.positives import ranks_items
from recbole_msr.errors import InputError
from recbole_msr.memory import retain_freed_memory
from recbole_msr.threads import flushing_denormals
from recbole_msr.training.fused.member import Member, MemberEpochs
from recbole_msr.training.fused.vmap_stack import Stack, stack_mismatch
from recbole_msr.training.lightning_options import quiet_lightning
from recbole_msr.training.module import PackedData

_SHARED_ON_CPU = 1_000_000
"""Numbers of a model's layers times rows of a batch; LR and FM gain from shared batches, models with layers do not."""
MOST = {"cpu": 8, "cuda": 16}
"""Trainings at once, where nobody says how many."""
_MOST_NUMBERS = 400_000_000
"""Parameters and buffers of all of them; with the parameters' gradients and Adam's state at most 6.4 GB."""
HOW = ("auto", "stacked", "side by side")
"""How members may be trained: see `train_members`."""


class Steps(Protocol):
    """A way to train members on a batch each."""

    def step(self, members: Sequence[Member], batch_of: Mapping[Any, Any], number: int) -> None:
        """One step of every member; sets the `error` of one that cannot go on.

        Args:
            members: those under way.
            batch_of: for each `Member.order`, its batch.
            number: of the batch in the epoch, from 0.
        """

    def end_epoch(self, members: Sequence[Member]) -> None:
        """End an epoch: set `train_loss` of each member's module, or its `error`."""

    def drop(self, members: Sequence[Member]) -> None:
        """Go on with these members only."""


class SideBySide:
    """One member after the other on each batch: any model, each with exactly the arithmetic it has alone."""

    def step(self, members: Sequence[Member], batch_of: Mapping[Any, Any], number: int) -> None:
        """Do one step of every member."""
        for member in members:
            member.attempt(partial(self._step, member, batch_of[member.order], number))

    @staticmethod
    def _step(member: Member, batch: Any, number: int) -> None:
        member.module.on_train_batch_start(batch, number)
        with member.random:
            loss = member.module.training_step(batch, number)
            member.optimizer.zero_grad()
            member.module.backward(loss)
        member.clip()
        member.optimizer.step()

    def end_epoch(self, members: Sequence[Member]) -> None:
        """End an epoch of every member."""
        for member in members:
            member.end_steps()

    def drop(self, members: Sequence[Member]) -> None:
        """Go on with these members only; nothing is kept of the others."""
        pass


def not_fusable_reason(config: Any) -> str | None:
    """Return the reason that a configuration cannot be trained among others; None if it can."""
    if ranks_items(config):
        return "RecBole's trainer trains one model"
    if config["lightning"]:
        return "it has options for Lightning's trainer, which trains one model"
    if config["enable_amp"] or config["precision"] not in (None, 32):
        return "it trains in mixed precision"
    if config["compile"]:
        return "it is compiled"
    if config["save_optimizer"] or config["init_optimizer"]:
        return "its optimiser's state is kept or taken over"
    if (config["clip_grad_norm"] or {}).get("norm_type", 2) != 2:
        return "its clip_grad_norm is of another norm than 2"
    if config["embedding_gradients"] == "sparse" and LOSS_WEIGHTINGS[config["loss_weighting"]].reads_gradients:
        return "its loss_weighting compares whole gradients, and they are sparse"
    return None


def train_members(members: Sequence[Member], train: PackedTable, valid: PackedTable | None, how: str = "auto") -> None:
    """Train members until they end; the results are in `Member.epochs` and `Member.error`.

    A member ends after all epochs, by early stopping, or by an error.

    The models hold the weights of the last epoch then. With `how="side by side"` every member does bit for bit what
    it does alone. With "stacked", members whose models are alike (all but learning rate, weight decay, dropout, seed
    and initial weights) are one batched model, where PyTorch has batched forms of all that the model does: sums are
    then taken in another order, so numbers are those of a member alone up to rounding. What cannot be stacked is
    trained side by side. "auto" takes what is faster, see `prefers_stacking`.

    A member that ends, is stopped by its `callback_fn` or diverges leaves the others as they are.

    Args:
        members: of one model and dataset, on one device, that `not_fusable_reason` has no objection to.
        train: the table of the training split.
        valid: that of the validation split; None to validate nothing.
        how: a word of `HOW`.

    Raises:
        InputError: a member that cannot be trained among others, no such word, or no batch to train on.
    """
    if how not in HOW:
        raise InputError(f"members are trained {', '.join(HOW[:-1])} or {HOW[-1]}, got '{how}'")
    for member in members:
        if (reason := not_fusable_reason(member.config)) is not None:
            raise InputError(f"this configuration cannot be trained together with others: {reason}")
    retain_freed_memory()
    groups: dict[Any, list[Member]] = {}
    for member in members:
        groups.setdefault(member.config["train_batch_size"], []).append(member)
    # As Lightning does: a model of RecBole's (SINE) turns anomaly detection on for all when it is imported.
    with torch.autograd.set_detect_anomaly(False), flushing_denormals():
        for group in groups.values():
            began = time.perf_counter()
            for part, steps in _parts(group, train, how):
                for member in part:
                    member.stacked = isinstance(steps, Stack)
                _Group(part, train, valid, steps, began).run()
                began = time.perf_counter()


def _parts(members: list[Member], train: PackedTable, how: str) -> Iterator[tuple[list[Member], Steps]]:
    """Members that are trained together, and how."""
    left = list(members)
    while left:
        first, alike = left[0], left[:1]
        others: list[Member] = []
        for member in left[1:]:
            same = stack_mismatch(first.model, member.model) is None
            (alike if same else others).append(member)
        stack = None
        if len(alike) > 1 and (how == "stacked" or (how == "auto" and prefers_stacking(first.model))):
            stack = Stack.from_members(alike, train)
        if stack is None:
            yield left, SideBySide()  # nothing more is to be had from what the others share
            return
        yield alike, stack
        left = others


def prefers_stacking(model: nn.Module) -> bool:
    """Return whether stacking is expected to be faster than training side by side: on a GPU.

    One small model leaves most of a GPU idle. A CPU core is busy with one model, and takes longer for batched products
    of small matrices than for one after the other.
    """
    return next(model.parameters()).device.type != "cpu"


def fused_group_size(model: nn.Module, config: Any) -> int:
    """Return the number of trainings of one model that are clearly quicker at once than in turn; 1 if none are.

    On a GPU, several of all but the largest models. On a CPU only batches are shared, so only where making them is much
    of a step: in models of no or hardly any layers (LR, FM).

    Args:
        model: the model, on any device.
        config: its RecBole configuration (`device`, `train_batch_size`).
    """
    device = config["device"].type
    if device == "cpu":
        tables = {id(part.weight) for part in model.modules() if isinstance(part, (nn.Embedding, nn.EmbeddingBag))}
        layers = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in tables)
        if layers * config["train_batch_size"] > _SHARED_ON_CPU:
            return 1
    size = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    return min(MOST.get(device, 1), max(1, _MOST_NUMBERS // max(1, size)))


class _Group:
    """Trains members of one batch size, epoch by epoch; `began` is when they began to take time."""

    def __init__(
        self, members: Sequence[Member], train: PackedTable, valid: PackedTable | None, steps: Steps, began: float
    ) -> None:
        self._members, self._steps, self._shared_until = list(members), steps, began
        self._train, self._validate = train, valid is not None
        self._trainers = {}
        self._loaders: dict[Any, PackedLoader] = {}
        for member in members:
            data = PackedData(member.config, {"train": train, "valid": valid})
            loader = data.train_dataloader()
            self._loaders.setdefault(member.order, loader)
            validated = self._validate and member.config["eval_step"] > 0
            self._trainers[member] = _Trainer(member, data, loader, data.val_dataloader() if validated else None)

    def run(self) -> None:
        if not all(len(loader) for loader in self._loaders.values()):
            raise InputError("there is no row to train on")
        for member, trainer in self._trainers.items():
            trainer.ended = member.config["epochs"] < 1
        self._drop_finished()
        epoch = 0
        while self._members:
            self._share_time()
            before = {member: member.seconds for member in self._members}
            for member in self._members:
                self._trainers[member].current_epoch = epoch
                member.module.train()
                member.module.on_train_epoch_start()
            self._train_epoch(epoch)
            self._steps.end_epoch(self._members)
            self._drop_finished()
            self._share_time()
            steps = {member: member.seconds - before[member] for member in self._members}
            self._validate_epoch(epoch + 1)
            for member in self._members:
                self._end_epoch(member, epoch + 1, steps[member])
            self._drop_finished()
            epoch += 1

    def _train_epoch(self, epoch: int) -> None:
        orders = {member.order: self._loaders[member.order] for member in self._members}
        for loader in orders.values():
            assert loader.order is not None
            loader.order.set_epoch(epoch)
        device = self._members[0].config["device"]
        for number, batches in enumerate(zip(*orders.values(), strict=True)):
            moved = [batch.to(device) for batch in batches]
            self._steps.step(self._members, dict(zip(orders, moved, strict=True)), number)
            self._drop_finished()
            if not self._members:
                return

    def _drop_finished(self) -> None:
        """Leave out who has ended."""
        remaining = [m for m in self._members if m.error is None and not self._trainers[m].ended]
        if len(remaining) == len(self._members):
            return
        self._share_time()
        over = [member for member in self._members if member not in remaining]
        self._members = remaining
        self._steps.drop(remaining)
        for member in over:
            self._trainers.pop(member)
            if member.on_end is not None:
                member.on_end()
        self._shared_until = time.perf_counter()

    def _share_time(self) -> None:
        now = time.perf_counter()
        for member in self._members:
            member.seconds += (now - self._shared_until) / len(self._members)
        self._shared_until = now

    @torch.no_grad()
    def _validate_epoch(self, epoch: int) -> None:
        """Validate those whose turn it is, all on the same batches, each as it is alone."""
        due = [member for member in self._members if self._trainers[member].validates(epoch)]
        if not due:
            return
        for member in due:
            member.module.eval()
            member.attempt(member.module.on_validation_epoch_start)
        loader, device = self._trainers[due[0]].val_dataloaders, due[0].config["device"]
        assert loader is not None
        for number, batch in enumerate(loader):
            batch = batch.to(device)
            for member in due:
                if member.error is None:
                    with member.random:
                        member.attempt(partial(member.module.validation_step, batch, number))
        for member in due:
            if member.error is None:
                member.attempt(member.module.on_validation_epoch_end)

    def _end_epoch(self, member: Member, epoch: int, seconds: float) -> None:
        if member.error is None:
            trainer, keeper = self._trainers[member], member.epochs
            assert isinstance(keeper, MemberEpochs)
            member.attempt(lambda: keeper.end(trainer, member.module, seconds))
            trainer.ended = trainer.should_stop or epoch >= member.config["epochs"]


class _Trainer:
    """The part of `pytorch_lightning.Trainer` that `RecModule` and `EpochKeeper` use, for one member."""

    testing = False
    is_global_zero = True
    world_size = 1
    progress_bar_callback = None
    should_stop = False
    ended = False
    current_epoch = 0

    def __init__(self, member: Member, data: PackedData, train: PackedLoader, valid: PackedLoader | None) -> None:
        config = member.config
        self.datamodule, self.train_dataloader, self.val_dataloaders = data, train, valid
        self.check_val_every_n_epoch = max(min(config["eval_step"], config["epochs"]), 1)
        self.optimizers = [member.optimizer]
        self.num_training_batches = len(train)
        self._member = weakref.proxy(member)  # which has the module, which has this: models are freed at once
        member.module.trainer = self  # type: ignore[assignment]

    def validates(self, epoch: int) -> bool:
        return self.val_dataloaders is not None and epoch % self.check_val_every_n_epoch == 0

    def save_checkpoint(self, path: Path) -> None:
        """At the end of an epoch: what Lightning's trainer saves of a training alone."""
        member, batches = self._member, len(self.train_dataloader)
        content: dict[str, Any] = {
            "pytorch-lightning_version": lightning_version,
            "epoch": self.current_epoch,
            "global_step": (self.current_epoch + 1) * batches,
            "state_dict": member.module.state_dict(),
            "optimizer_states": [member.optimizer.state_dict()],
            "lr_schedulers": [],
            "callbacks": {member.epochs.state_key: member.epochs.state_dict()},
            "loops": {"fit_loop": _fit_loop(self.current_epoch + 1, batches)},
        }
        with member.random:
            member.module.on_save_checkpoint(content)
        torch.save(content, path)


def _fit_loop(epochs: int, batches: int) -> dict[str, Any]:
    """Return the state of Lightning's loop at the end of an epoch, before its last callback has returned."""
    loop = _any_trainer().fit_loop
    optimizer = loop.epoch_loop.automatic_optimization.optim_progress.optimizer
    for part, each, total in (
        (loop.epoch_progress, epochs, epochs),
        (loop.epoch_loop.batch_progress, batches, epochs * batches),
        (optimizer.step, batches, epochs * batches),
        (optimizer.zero_grad, batches, epochs * batches),
    ):
        for counts, count in ((part.current, each), (part.total, total)):
            for name in vars(counts):
                setattr(counts, name, count)
    loop.epoch_progress.current.completed = loop.epoch_progress.total.completed = epochs - 1
    loop.epoch_loop.batch_progress.is_last_batch = True
    loop.epoch_loop._batches_that_stepped = epochs * batches
    return loop.state_dict()


@cache
def _any_trainer() -> pl.Trainer:
    """One whose loop can be asked how it would be saved; it trains nothing."""
    with quiet_lightning():
        return pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
