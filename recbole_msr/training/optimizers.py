"""The optimiser of a run, and its row-wise form for embedding tables of which a batch touches few rows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from recbole_msr.errors import InputError, one_line

_OPTIMIZERS: dict[str, Any] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
    "sparse_adam": torch.optim.SparseAdam,
}
_FUSED = ("adam", "adamw", "sgd", "adagrad")


def parameter_groups(model: nn.Module, config: Any) -> Any:
    """Return the model's parameters, those apart that are trained otherwise.

    - Embedding tables (the weights of `nn.Embedding` and `nn.EmbeddingBag`), with `embedding_learning_rate_factor`
      other than 1 or an `embedding_weight_decay`: their learning rate is `learning_rate` times the factor.
    - Parts of the model with a learning rate of their own: those that its `learning_rate_factors` name, a factor each.
      Those of them that `without_weight_decay` names do not decay.
    - The uncertainties of the losses, where the model has them: they do not decay.

    Args:
        model: the model.
        config: its configuration.

    Returns:
        For `build_optimizer`. The first group has `learning_rate`, where the model has more than tables.

    Raises:
        InputError: a weight decay for a learner that has none.
    """
    options = _embedding_options(config)
    log_variances = getattr(model, "log_variances", None)
    factors: Mapping[str, float] = getattr(model, "learning_rate_factors", {})
    if log_variances is None and not options and not factors:
        return model.parameters()
    tables = {id(part.weight) for part in model.modules() if isinstance(part, (nn.Embedding, nn.EmbeddingBag))}
    parts = {name: list(model.get_submodule(name).parameters()) for name in factors}
    of_parts = {id(parameter) for parameters in parts.values() for parameter in parameters}
    apart = tables - of_parts if options else set()
    others: list[nn.Parameter] = []
    embeddings: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter is not log_variances and id(parameter) not in of_parts:
            (embeddings if id(parameter) in apart else others).append(parameter)
    groups: list[dict[str, Any]] = [{"params": others}, {"params": embeddings, **options}]
    undecayed = getattr(model, "without_weight_decay", ())
    for name, factor in factors.items():
        decay = {"weight_decay": 0.0} if name in undecayed else {}
        groups.append({"params": parts[name], "lr": factor * config["learning_rate"], **decay})
    if log_variances is not None:
        groups.append({"params": [log_variances], "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def _embedding_options(config: Any) -> dict[str, float]:
    """Return what the optimiser is told of embedding tables alone."""
    options = {}
    factor, decay = config["embedding_learning_rate_factor"], config["embedding_weight_decay"]
    if factor != 1:
        options["lr"] = factor * config["learning_rate"]
    if decay is not None and decay != (config["weight_decay"] or 0.0):
        if str(config["learner"]).lower() == "sparse_adam":
            raise InputError("learner sparse_adam has no weight decay: leave embedding_weight_decay out")
        options["weight_decay"] = decay
    return options


def build_optimizer(parameters: Any, config: Any) -> torch.optim.Optimizer:
    """Build the optimiser of RecBole's `learner`, `learning_rate` and `weight_decay`, with fused kernels if asked.

    With `embedding_gradients: sparse` it updates a parameter whose gradient is sparse row by row (`RowWise`).

    Raises:
        InputError: there is no such learner, or it has no row-wise form.
    """
    learner = str(config["learner"]).lower()
    if learner not in _OPTIMIZERS:
        raise InputError(f"learner must be one of {', '.join(_OPTIMIZERS)}, got '{config['learner']}'")
    options: dict[str, Any] = {"lr": config["learning_rate"]}
    if learner != "sparse_adam":
        options["weight_decay"] = config["weight_decay"] or 0.0
    if config["fused_optimizer"] and learner in _FUSED and not _clips_mixed(config):
        options["fused"] = True
    kind = _OPTIMIZERS[learner]
    if config["embedding_gradients"] == "sparse":
        if learner == "sparse_adam":
            raise InputError(
                "learner sparse_adam takes no dense gradients, which all parameters but embeddings have; with "
                "embedding_gradients: sparse set learner: adam, which updates embeddings as sparse_adam does"
            )
        kind = row_wise(kind)
    try:
        optimizer: torch.optim.Optimizer = kind(parameters, **options)
    except (ValueError, TypeError) as error:
        raise InputError(f"learner {learner}: {error}") from error
    return optimizer


def _clips_mixed(config: Any) -> bool:
    """Return whether gradients are clipped in mixed precision, which Lightning refuses to do with fused kernels."""
    lightning = config["lightning"] or {}
    mixed = config["enable_amp"] or "mixed" in f"{config['precision']} {lightning.get('precision', '')}"
    return bool(mixed and (config["clip_grad_norm"] or lightning.get("gradient_clip_val")))


class RowWise(torch.optim.Optimizer):
    """Makes a PyTorch optimiser lazy: of a parameter with a sparse gradient, only the rows in the gradient change.

    For such a parameter the optimiser is given the rows that the gradient names: their weights, their summed gradient
    and their part of the state; the results go back to their places. So a step costs as much as the batch has rows of
    the table, however long the table is. Parameters with dense gradients are updated as ever, in the same call.

    What differs from a dense update, where a row is in no sample of a batch: it stays as it is. A dense Adam would move
    it by its fading first moment, let both moments fade, and decay its weight. The number of steps, from which Adam
    corrects its moments, is that of the table. For SGD and Adagrad without weight decay there is no difference. Where
    a batch has all rows, there is none for any optimiser.

    This is PyTorch's SparseAdam, for all of its optimisers that treat every number of a parameter by itself, with
    weight decay, and with the fused kernels.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one step, on the rows that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with self._touched_rows():
            super().step()
        return loss

    @contextmanager
    def _touched_rows(self) -> Iterator[None]:
        """While it lasts, parameters with sparse gradients are replaced by their touched rows."""
        replaced: list[tuple[list[Tensor], int, Tensor, Tensor, nn.Parameter]] = []
        find = UniqueRows()
        for group in self.param_groups:
            members = group["params"]
            for place, table in enumerate(members):
                if table.grad is None or not table.grad.is_sparse:
                    continue
                rows, gradient = find.summed(table.grad)
                part = nn.Parameter(_take(table, rows))
                part.grad = gradient
                if table in self.state:
                    self.state[part] = {
                        name: _take(value, rows) if _is_by_row(value, table) else value
                        for name, value in self.state[table].items()
                    }
                members[place] = part
                replaced.append((members, place, table, rows, part))
        try:
            yield
            for _, _, table, rows, part in replaced:
                _put(table, rows, part)
                state = self.state[table]
                for name, value in self.state[part].items():
                    if _is_by_row(value, part):
                        if name not in state:  # PyTorch's optimisers begin from zeros
                            state[name] = value.new_zeros(table.shape)
                        _put(state[name], rows, value)
                    else:
                        state[name] = value
        finally:
            for members, place, table, _, part in replaced:
                members[place] = table
                self.state.pop(part, None)


def row_wise(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """Return the row-wise form of one of PyTorch's optimisers that treat every number by itself."""
    return type(f"RowWise{kind.__name__}", (RowWise, kind), {})


def _is_by_row(value: Any, parameter: Tensor) -> bool:
    """Return whether an entry of the state has a number for each number of the parameter (and is no count of steps)."""
    return isinstance(value, Tensor) and value.shape == parameter.shape


def _take(table: Tensor, rows: Tensor) -> Tensor:
    """Rows (R, K) of a table (V, K)."""
    if table.shape[1:] == (1,) and table.is_contiguous():  # as numbers: a third of the time that short rows take
        return table.view(-1).index_select(0, rows).unsqueeze(1)
    return table.index_select(0, rows)


def _put(table: Tensor, rows: Tensor, values: Tensor) -> None:
    """Write rows (R, K) to their places in a table (V, K)."""
    table, values = table.detach(), values.detach().contiguous()
    if table.is_contiguous():
        if table.shape[1:] == (1,):
            table, values = table.view(-1), values.view(-1)
        elif table.element_size() == 4 and not any(
            place % 2 for place in (table.shape[-1], table.storage_offset(), values.storage_offset())
        ):  # copied number by number: half as many
            table, values = table.view(torch.int64), values.view(torch.int64)
    table.index_copy_(0, rows, values)


class UniqueRows:
    """The rows that sparse gradients name, each once; tables that were read at the same rows are sorted once."""

    def __init__(self) -> None:
        self._sorted: list[tuple[Tensor, _Occurrences]] = []

    def summed(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows (R,) of a sparse gradient, in their order, and its sum for each (R, K)."""
        indices, values = gradient._indices()[0], gradient._values()
        if gradient.is_coalesced():
            return indices, values
        occurrences = next(
            (occurrences for sorted_indices, occurrences in self._sorted if torch.equal(sorted_indices, indices)), None
        )
        if occurrences is None:
            occurrences = _Occurrences.of(indices, len(gradient))
            self._sorted.append((indices, occurrences))
        return occurrences.rows, occurrences.sums(values)


class _Occurrences(NamedTuple):
    """The places of row numbers (n,): most are named once by a batch of a large vocabulary, and need not be added up.

    Attributes:
        rows: the R different ones, in their order.
        first: where each of them occurs first (R,).
        again: where others occur again (n - R,), for each row in the order of the occurrences.
        places: which of `rows` these are.
    """

    rows: Tensor
    first: Tensor
    again: Tensor
    places: Tensor

    @classmethod
    def of(cls, indices: Tensor, length: int) -> _Occurrences:
        """Of indices (n,), each less than `length`."""
        short = indices.int() if length < 2**31 else indices  # sorted in half the time
        ordered, order = short.sort(stable=True)
        is_first = torch.ones_like(ordered, dtype=torch.bool)
        is_first[1:] = ordered[1:] != ordered[:-1]
        starts, rest = is_first.nonzero().squeeze(1), is_first.logical_not().nonzero().squeeze(1)
        places = torch.searchsorted(starts, rest) - 1
        return cls(ordered[starts].long(), order[starts], order[rest], places)

    def sums(self, values: Tensor) -> Tensor:
        """Return the sum (R, K) of each row's values, of (n, K), added up in their order."""
        total = _take(values, self.first)
        _add_at(total, self.places, _take(values, self.again))
        return total


def sum_at(places: Tensor, values: Tensor, length: int) -> Tensor:
    """Return y (length, K) with y[p] the sum of the values (n, K) whose place (n,) is p, added up in their order."""
    total = values.new_zeros(length, values.shape[1])
    _add_at(total, places, values)
    return total


def _add_at(total: Tensor, places: Tensor, values: Tensor) -> None:
    if values.shape[1] == 1:  # one number a row is added without the cost of a row
        total.view(-1).index_add_(0, places, values.reshape(-1))
    else:
        total.index_add_(0, places, values)


def clip_sparse(optimizer: torch.optim.Optimizer, clip: Callable[[list[nn.Parameter]], Any]) -> None:
    """Clip gradients some of which are sparse, which PyTorch's own clipping does not take.

    Args:
        optimizer: whose parameters' gradients are clipped; the sparse ones are coalesced.
        clip: clips the gradients of parameters in place, for instance by `torch.nn.utils.clip_grad_norm_`.
    """
    whole: list[nn.Parameter] = []
    find = UniqueRows()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is not None and gradient.is_sparse:
                rows, values = find.summed(gradient)
                shape = gradient.shape
                parameter.grad = torch.sparse_coo_tensor(
                    rows[None], values, shape, is_coalesced=True, check_invariants=False
                )
                part = nn.Parameter(values, requires_grad=False)
                part.grad = parameter.grad._values()
                whole.append(part)
            elif gradient is not None:
                whole.append(parameter)
    clip(whole)


def build_scheduler(optimizer: torch.optim.Optimizer, schedule: Any) -> Any:
    """Build a scheduler of `torch.optim.lr_scheduler` from {name: CLASS, argument: value, ...}; None for none.

    Raises:
        InputError: no such class, or its arguments do not fit.
    """
    if not schedule:
        return None
    if not isinstance(schedule, Mapping) or "name" not in schedule:
        raise InputError(
            f"lr_scheduler must be a mapping such as {{name: CosineAnnealingLR, T_max: 10}}, got {schedule!r}"
        )
    arguments = {key: value for key, value in schedule.items() if key != "name"}
    scheduler_class = getattr(torch.optim.lr_scheduler, str(schedule["name"]), None)
    of_torch = torch.optim.lr_scheduler
    if not inspect.isclass(scheduler_class) or not issubclass(
        scheduler_class, (of_torch.LRScheduler, of_torch.ReduceLROnPlateau)
    ):
        raise InputError(f"lr_scheduler: torch.optim.lr_scheduler has no class '{schedule['name']}'")
    scheduler: Any = scheduler_class
    try:
        return scheduler(optimizer, **arguments)
    except Exception as error:  # each class checks its arguments in its own way, or not at all
        reason = one_line(error)
        raise InputError(f"lr_scheduler {schedule['name']}: {reason}") from error
