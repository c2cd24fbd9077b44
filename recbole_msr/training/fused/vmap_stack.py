"""Models of one architecture as one batched model: stacked parameters, each member with its own random numbers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_msr.data.packed import PackedTable
from recbole_msr.training.fused.member import Member, RandomState

logger = logging.getLogger(__name__)

_PROBE_ROWS = 64
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
"""Those that multiply by a mask; others draw from random numbers that `vmap` refuses."""


def stack_mismatch(first: nn.Module, other: nn.Module) -> str | None:
    """Return the reason that two models cannot be stacked; None where they differ in numbers alone that may differ.

    Parameters and buffers may, and what has "dropout" in its name or is of a dropout. Settings that are plain values
    must be the same in every part.
    """
    if type(first) is not type(other):
        return f"they are a {type(first).__name__} and a {type(other).__name__}"
    parts, others = dict(first.named_modules()), dict(other.named_modules())
    if list(parts) != list(others):
        return "they have different parts"
    for name, part in parts.items():
        if type(part) is not type(others[name]):
            return f"'{name}' is of two kinds"
        for key, value in vars(part).items():
            if isinstance(part, _DROPOUTS) or "dropout" in key.lower() or key.startswith("_"):
                continue
            if not _alike(value, vars(others[name]).get(key)):
                return f"'{name}.{key}' differs"
    for kind in ("named_parameters", "named_buffers"):
        tensors, of_other = dict(getattr(first, kind)()), dict(getattr(other, kind)())
        if list(tensors) != list(of_other):
            return "they have different parameters"
        for name, tensor in tensors.items():
            if tensor.shape != of_other[name].shape or tensor.dtype != of_other[name].dtype:
                return f"'{name}' has two shapes or types"
    return None


def _alike(first: Any, other: Any) -> bool:
    if isinstance(first, (bool, int, float, str)) or first is None:
        return type(first) is type(other) and first == other
    if isinstance(first, (list, tuple)):
        return type(first) is type(other) and len(first) == len(other) and all(map(_alike, first, other))
    if isinstance(first, Mapping):
        return (
            isinstance(other, Mapping) and list(first) == list(other) and all(_alike(first[k], other[k]) for k in first)
        )
    return True  # tensors are compared with the parameters; other objects come from the same data


class Stack:
    """Members whose models are stacked: every parameter and buffer is (K, ...), and slice k is member k's own.

    The members' models hold views of the slices, so that each member's optimiser and validation work on its own model
    as ever. In a step `torch.vmap` runs one model's code for all. A dropout draws each member's mask from the member's
    own random numbers with its own p: it is what that member's own module makes of ones.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = list(members)
        first = members[0].model
        self._base = _Loss(first)
        self._parameters: dict[str, Tensor] = {}
        self._buffers: dict[str, Tensor] = {}
        self._restack()
        self._sums: Tensor | None = None

    @classmethod
    def from_members(cls, members: Sequence[Member], train: PackedTable) -> Stack | None:
        """Stack the members; None where their model has no batched form, or gives other numbers with it.

        That is tried on the first rows.
        """
        if any(member.module.weighting is not None for member in members):
            return None
        if any(getattr(part, "sparse", False) is True for part in members[0].model.modules()):
            return None
        if train.negatives is not None and not train.negatives.only_positives:
            return None  # batches of different orders have different numbers of sampled rows
        rows = train.batch(slice(0, _PROBE_ROWS)).to(members[0].config["device"])
        before = [{name: buffer.clone() for name, buffer in m.model.named_buffers()} for m in members]
        states = [member.random.copy() for member in members]
        alone = [cls._alone(member, rows) for member in members]
        cls._restore(members, before, states)
        stack = cls(members)
        try:
            together = stack._losses({member.order: rows for member in members})
            together.sum().backward()
            reason = None
        except Exception as error:  # whatever a model's code may do where it meets a batch of models
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        stack._clear()
        cls._restore(members, before, states)
        if reason is None and not torch.allclose(together.detach(), torch.stack(alone), rtol=1e-4, atol=1e-6):
            reason = "it comes to other numbers so"
        if reason is not None:
            logger.info("%s is not stacked: %s", type(members[0].model).__name__, reason)
            stack._release()
            return None
        return stack

    @staticmethod
    def _alone(member: Member, rows: Any) -> Tensor:
        with torch.no_grad(), member.random:
            member.model.train()
            model: Any = member.model
            return _total(model.calculate_loss(rows)).detach()

    @staticmethod
    def _restore(members: Sequence[Member], buffers: Sequence[Mapping[str, Tensor]], states: Sequence[Any]) -> None:
        for member, kept, state in zip(members, buffers, states, strict=True):
            member.random = state.copy()
            for name, buffer in member.model.named_buffers():
                buffer.copy_(kept[name])

    def _restack(self) -> None:
        """Stack what the members' models hold, and have them hold views of it."""
        for kind, into in (("named_parameters", self._parameters), ("named_buffers", self._buffers)):
            each = [dict(getattr(member.model, kind)()) for member in self._members]
            for name in each[0]:
                stacked = torch.stack([tensors[name].detach() for tensors in each])
                for k, tensors in enumerate(each):
                    tensors[name].data = stacked[k]
                if kind == "named_parameters":
                    stacked.requires_grad_(each[0][name].requires_grad)
                into[name] = stacked
        self._each = [list(member.model.parameters()) for member in self._members]
        self._index = torch.arange(len(self._members))
        self._dropouts = []
        for name, part in self._members[0].model.named_modules():
            if isinstance(part, _DROPOUTS):
                self._dropouts.append((part, [member.model.get_submodule(name) for member in self._members]))

    def _release(self) -> None:
        """Give the models tensors of their own again."""
        for member in self._members:
            for tensor in (*member.model.parameters(), *member.model.buffers()):
                tensor.data = tensor.detach().clone()

    def _clear(self) -> None:
        for stacked in self._parameters.values():
            stacked.grad = None

    def _losses(self, batch_of: Mapping[Any, Any]) -> Tensor:
        """Return every member's loss (K,)."""
        orders = [member.order for member in self._members]
        batches = [batch_of[order].interaction for order in orders]
        shared = len(set(orders)) == 1
        columns = batches[0] if shared else {n: torch.stack([b[n] for b in batches]) for n in batches[0]}
        call = torch.vmap(self._one, in_dims=(0, 0, 0, None if shared else 0), randomness="error")
        return call(self._parameters, self._buffers, self._index, columns)

    def _one(self, parameters: Any, buffers: Any, index: Tensor, columns: Any) -> Tensor:
        tensors = {f"model.{name}": tensor for name, tensor in (*parameters.items(), *buffers.items())}
        with self._own_dropouts(index):
            result: Tensor = torch.func.functional_call(self._base, tensors, (Interaction(columns),))
        return result

    @contextmanager
    def _own_dropouts(self, index: Tensor) -> Iterator[None]:
        """Let the dropouts of the shared model draw for all members inside this context."""
        for part, own in self._dropouts:
            part.forward = partial(self._drop, index, own)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for part, _ in self._dropouts:
                del part.forward

    def _drop(self, index: Tensor, own: Sequence[nn.Module], x: Tensor) -> Tensor:
        if all(part.p == 0 for part in own):
            return x
        draws = [member.random for member in self._members]
        masks: Tensor = _Masks.apply(index, x.detach(), own, draws)  # type: ignore[no-untyped-call]
        return x * masks

    def step(self, members: Sequence[Member], batch_of: Mapping[Any, Any], number: int) -> None:
        """Do one step of every member, with one product for all."""
        losses = self._losses(batch_of)
        detached = losses.detach()
        if losses.device.type == "cpu" and not torch.isfinite(detached).all():
            for member, loss in zip(members, detached, strict=True):
                member.check(loss)
        self._clear()
        losses.sum().backward()
        self._sums = detached if self._sums is None else self._sums + detached
        gradients = [None if p.grad is None else p.grad.unbind() for p in self._parameters.values()]
        for k, member in enumerate(members):
            if member.error is not None:
                continue
            member.module.on_train_batch_start(batch_of[member.order], number)
            for parameter, gradient in zip(self._each[k], gradients, strict=True):
                parameter.grad = None if gradient is None else gradient[k]
            member.clip()
            member.optimizer.step()

    def end_epoch(self, members: Sequence[Member]) -> None:
        """End an epoch of every member."""
        if self._sums is not None:
            for member, total in zip(members, self._sums, strict=True):
                member.end_steps(total)
        self._sums = None

    def drop(self, members: Sequence[Member]) -> None:
        """Go on with these members only, and stack their weights again."""
        kept = [k for k, member in enumerate(self._members) if member in members]
        if self._sums is not None:
            self._sums = self._sums[kept]
        self._release()
        self._members = list(members)
        if members:
            self._base = _Loss(members[0].model)
            self._restack()


class _Loss(nn.Module):
    """A model whose call is its loss."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: Any) -> Tensor:
        return _total(self.model.calculate_loss(rows))


def _total(losses: Any) -> Tensor:
    return sum(losses) if isinstance(losses, tuple) else losses  # type: ignore[return-value]


class _Masks(torch.autograd.Function):
    """The masks of each member's own dropout (K, ...), for an x (...) of each member, or one for all.

    The numbers 0..K-1 of the members are among the inputs because only what differs from member to member comes to
    `vmap` at all.
    """

    @staticmethod
    def forward(index: Tensor, x: Tensor, own: Sequence[nn.Module], states: Sequence[RandomState]) -> Tensor:
        raise RuntimeError("masks are drawn for members under vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return (None,) * 4

    @staticmethod
    def vmap(
        info: Any,
        in_dims: Any,
        index: Tensor,
        x: Tensor,
        own: Sequence[nn.Module],
        states: Sequence[RandomState],
    ) -> tuple[Tensor, int]:
        of_one_member = x if in_dims[1] is None else x.select(in_dims[1], 0)
        ones = torch.ones_like(of_one_member)
        masks = []
        for part, state in zip(own, states, strict=True):
            with state:
                masks.append(type(part).forward(part, ones))  # not `part.forward`, which may be replaced
        return torch.stack(masks), 0
