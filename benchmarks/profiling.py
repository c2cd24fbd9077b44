"""Where a training step goes: PyTorch's profiler, and the shares of its time by kind of work."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.cases import Case
from benchmarks.measure import as_recbole, configuration

KINDS = (
    "matrix products", "dropout", "embeddings", "other tensor work", "optimiser", "batches", "Python and the loop"
)  # fmt: skip
_SCOPES = {"benchmark: batch": "batches", "benchmark: dropout": "dropout"}
_MODEL = "benchmark: model"
_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear", "matmul", "einsum", "mkldnn_linear", "linear_backward")
_RANDOM = ("bernoulli", "random", "rand", "dropout")


def kind_of(event: Any) -> str:
    """The kind of work of a profiled operation, by its name and by what it is part of."""
    above = event
    while above is not None and above.name != _MODEL:  # Lightning's optimiser calls the model
        if above.name in _SCOPES:
            return _SCOPES[above.name]
        if above.name.startswith("Optimizer."):
            return "optimiser"
        if "embedding" in above.name.lower() or above.name.startswith("_Rows"):  # recbole_msr.training.fast_paths
            return "embeddings"
        if "ropout" in above.name:
            return "dropout"
        above = above.cpu_parent
    name = event.name.removeprefix("aten::").rstrip("_")
    if name in _PRODUCTS:
        return "matrix products"
    if any(word in name for word in _RANDOM):
        return "dropout"
    return "other tensor work"


def shares(
    model: str, dataset: str, side: str, data_path: str | None, steps: int, batch: int | None = None
) -> dict[str, Any]:
    """Shares of a step's time by `KINDS`, and the operations that take the most; `steps` are profiled after two."""
    from recbole.data import create_dataset
    from recbole.utils import get_model, init_seed

    case = Case(model, dataset, side)
    config = configuration(case, data_path, {"epochs": 1}, batch=batch)
    init_seed(config["seed"], config["reproducibility"])
    data = create_dataset(config)
    splits = data.build()
    init_seed(config["seed"], config["reproducibility"])
    built = get_model(case.class_name)(config, splits[0])
    _scope_dropout()
    built.calculate_loss = _scoped(built.calculate_loss)
    torch.Tensor.backward = _scoped(torch.Tensor.backward)  # type: ignore[method-assign]
    recorder = _Recorder(steps)
    (_under_recbole if case.under.recbole else _under_ours)(config, data, splits, built, recorder)

    spent: Counter[str] = Counter()
    operations: Counter[str] = Counter()
    for event in recorder.profile.events():
        spent[kind_of(event)] += event.self_cpu_time_total
        operations[event.name.removeprefix("aten::")] += event.self_cpu_time_total
    total = recorder.seconds * 1e6
    spent["Python and the loop"] += max(0.0, total - sum(spent.values()))
    return {
        "step": recorder.seconds / steps,
        "shares": {kind: spent[kind] / total for kind in KINDS},
        "operations": {name: value / total for name, value in operations.most_common(12)},
    }


class _Recorder:
    """Profiles `steps` steps of a loop that takes its batches from `of`."""

    def __init__(self, steps: int) -> None:
        self.steps, self.seconds = steps, 0.0
        self.profile = profile(activities=[ProfilerActivity.CPU], acc_events=True)

    def of(self, batches: Iterator[Any]) -> Iterator[Any]:
        for number in range(2 + self.steps + 1):
            if number == 2:
                self.profile.__enter__()
                begin = time.perf_counter()
            if number == 2 + self.steps:
                self.seconds = time.perf_counter() - begin
                self.profile.__exit__(None, None, None)
            with record_function("benchmark: batch"):
                one = next(batches)
            yield one


def _scope_dropout() -> None:
    """Name the forward pass of every dropout, whatever it is made of."""
    from recbole_msr.layers.dropout import Dropout

    for owner in (torch.nn.Dropout, Dropout):
        original = owner.forward

        def forward(self: Any, input: torch.Tensor, original: Callable[..., Any] = original) -> torch.Tensor:
            with record_function("benchmark: dropout"):
                return original(self, input)

        owner.forward = forward  # type: ignore[method-assign]


def _scoped(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        with record_function(_MODEL):
            return function(*arguments, **options)

    return call


def _under_recbole(config: Any, data: Any, splits: Any, model: Any, recorder: _Recorder) -> None:
    from recbole.data import data_preparation
    from recbole.trainer import Trainer

    loader = data_preparation(config, as_recbole(config, data, splits))[0]

    class Begin:
        shuffle = False

        def __iter__(self) -> Iterator[Any]:
            return recorder.of(iter(loader))

    Trainer(config, model)._train_epoch(Begin(), 0, show_progress=False)


def _under_ours(config: Any, data: Any, splits: Any, model: Any, recorder: _Recorder) -> None:
    from recbole_msr.data.packed import PackedLoader
    from recbole_msr.training.trainer import LightningTrainer

    original = PackedLoader.__iter__
    PackedLoader.__iter__ = lambda self: recorder.of(original(self))  # type: ignore[method-assign]
    config["lightning"] = {**(config["lightning"] or {}), "limit_train_batches": 2 + recorder.steps + 1}
    LightningTrainer(config, model).fit(splits[0], None, verbose=False, saved=False)
