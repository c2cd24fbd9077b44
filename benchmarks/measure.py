"""What is measured of starting, training and evaluating; `benchmarks.process.measured` calls it in a new process."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_BEGAN = time.perf_counter()
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
"""The processor's time of a process is less disturbed by what else runs on the machine."""


def imports(recbole: bool) -> float:
    """Seconds from the start of this process until what a run needs is imported."""
    names = ("recbole_msr", "recbole.quick_start", "recbole.trainer") if recbole else ("recbole_msr.runs.run",)
    for name in names:
        importlib.import_module(name)
    return time.perf_counter() - _BEGAN


def configuration(case: Any, data_path: str | None, settings: dict[str, Any] | None = None, **options: Any) -> Any:
    from recbole_msr.config.build import build_config

    if case.under.plain:
        import benchmarks.plain_hinet  # noqa: F401  (registers it)
    given = case.settings(data_path, **options) | {"checkpoint_dir": os.getcwd(), **(settings or {})}
    return build_config(case.class_name, case.dataset, given)


# Reading data


def start(model: str, dataset: str, data_path: str | None, kind: str, again: bool = False) -> dict[str, Any]:
    """From nothing to the first batch.

    Args:
        kind: "recbole" (RecBole alone, no tasks), or "ours" (from the cache, if there is an entry).
        again: then everything but the imports once more, as RecBole's HyperTuning does it for every trial.
    """
    from benchmarks.cases import without_tasks

    found: dict[str, Any] = {"import": imports(kind == "recbole")}
    if kind == "recbole":
        from recbole.data import create_dataset, data_preparation
        from recbole.trainer import Trainer
        from recbole.utils import get_model, init_seed

        from recbole_msr.config.build import build_config

        def once() -> dict[str, float]:
            begin = time.perf_counter()
            own = without_tasks(dataset, data_path) | {"train_batch_size": 4096, "use_gpu": False, "state": "ERROR"}
            config = build_config(model, dataset, own | {"checkpoint_dir": os.getcwd(), "show_progress": False})
            init_seed(config["seed"], config["reproducibility"])
            train, _, _ = data_preparation(config, create_dataset(config))
            loaded = time.perf_counter()
            trainer = Trainer(config, get_model(model)(config, train._dataset))
            assert trainer.optimizer is not None
            next(iter(train))
            return {"load": loaded - begin, "trial": time.perf_counter() - begin, "rows": len(train._dataset)}

        found |= once() | {"pack": 0.0}
        found["peak_gb"] = peak_gb()
        if again:
            found["trial"] = once()["trial"]
        return found

    from recbole.data import create_dataset

    from benchmarks.cases import Case
    from recbole_msr.training.module import PackedData

    begin = time.perf_counter()
    config = configuration(Case(model, dataset, "ours"), data_path)
    splits = create_dataset(config).build()
    loaded = time.perf_counter()
    PackedData(config, dict(zip(("train", "valid", "test"), splits, strict=True)))
    packed = time.perf_counter()
    found |= {"load": loaded - begin, "pack": packed - loaded, "rows": len(splits[0]), "peak_gb": peak_gb()}
    return found


def prepare(model: str, dataset: str, data_path: str | None) -> dict[str, Any]:
    """Put a dataset into the cache as a model wants it."""
    from recbole.data import create_dataset

    from benchmarks.cases import Case

    splits = create_dataset(configuration(Case(model, dataset, "ours"), data_path)).build()
    return {"rows": [len(split) for split in splits]}


def trials(model: str, dataset: str, data_path: str | None) -> dict[str, Any]:
    """Fixed seconds of a trial of ours: from `ask` to the first batch, for the trials after a process's first."""
    from benchmarks.cases import Case
    from recbole_msr.tuning.run import search

    settings = Case(model, dataset, "ours").settings(data_path)
    settings |= {"epochs": 1, "lightning": {"limit_train_batches": 1}}
    points = {"model": model, "search": {"learning_rate": [0.001, 0.002, 0.003, 0.004]}}
    found = search(
        model, dataset, space=points, sampler="grid", config=settings, output=Path("search"), workers=1, final_seeds=0,
        wandb="disabled", progress=False,
    )  # fmt: skip
    frame = found.trials.sort_values("started")
    later = frame[frame.duplicated("worker")]["setup_seconds"].dropna()
    return {"trial": float(later.median())}


# Training


def train(
    model: str, dataset: str, side: str, data_path: str | None, steps: int, stretches: int,
    batch: int | None = None, gpu: bool = False, extra: dict[str, Any] | None = None, clock: str = "wall",
) -> dict[str, Any]:  # fmt: skip
    """Rows a second over stretches of `steps` batches after one that warms up; then the evaluation of the test split.

    A stretch is the beginning of an epoch: all sides go through the same rows in the same order. Counted is from when
    its second batch is asked for to when its last one is: whole steps, the making of their batches included.
    """
    from benchmarks.cases import Case

    case = Case(model, dataset, side)
    found: dict[str, Any] = {"import": imports(case.under.recbole)}
    import torch
    from recbole.data import create_dataset
    from recbole.utils import get_model, init_seed

    begin = time.perf_counter()
    config = configuration(case, data_path, {"epochs": 1 + stretches, **(extra or {})}, batch=batch, gpu=gpu)
    init_seed(config["seed"], config["reproducibility"])
    dataset_ = create_dataset(config)
    splits = dataset_.build()
    found["load"] = time.perf_counter() - begin
    init_seed(config["seed"], config["reproducibility"])
    built = get_model(case.class_name)(config, splits[0]).to(config["device"])
    found["parameters"] = sum(p.numel() for p in built.parameters())
    size, n_rows = int(config["train_batch_size"]), len(splits[0])
    count = min(steps + 2, n_rows // size)  # batches of a stretch; the first and the last are not counted
    if count < 3:
        raise ValueError(f"{n_rows} rows make too few batches of {size}")
    now = CLOCKS[clock]
    told = _Warnings()
    how = _train_recbole if case.under.recbole else _train_ours
    marks, evaluate = how(config, dataset_, splits, built, count, stretches, now)
    per_step = [(asked[-1] - asked[1]) / (count - 2) for asked in marks[1:]]
    # An epoch also draws the order of its rows, which the first batch waits for.
    before = [max(0.0, asked[1] - asked[0] - step) for asked, step in zip(marks[1:], per_step, strict=True)]
    found["steps"] = count - 2
    found["rows_per_second"] = [size / step for step in per_step]
    found["epoch"] = [b + step * n_rows / size for b, step in zip(before, per_step, strict=True)]
    found["train_rows"] = n_rows
    found["peak_gb"] = peak_gb()
    if gpu:
        found["peak_gpu_gb"] = torch.cuda.max_memory_allocated() / 1e9
    spent, auc = [], float("nan")
    for _ in range(3):
        begin = now()
        auc = float(evaluate()["auc"])
        spent.append(now() - begin)
        if sum(spent) > 4:  # long enough to be measured once
            break
    found["warnings"] = told.messages
    found |= {"evaluation": spent, "evaluated_rows": len(splits[2]), "auc": auc}
    return found


class _Warnings(logging.Handler):
    """What this package warns of: that a model could not be compiled, for instance."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        logging.getLogger("recbole_msr").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


Marks = list[list[float]]
"""For every epoch, when each of its batches was asked for."""


def _marked(batches: Iterator[Any], count: int, marks: Marks, now: Clock) -> Iterator[Any]:
    """The first `count` batches; notes when they are asked for."""
    marks.append([])
    for number in range(count):
        if number in (1, count - 1):
            synchronize()
        marks[-1].append(now())
        yield next(batches)


def synchronize() -> None:
    """Wait for a GPU, if it is used."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _train_recbole(
    config: Any, dataset: Any, splits: Any, model: Any, count: int, stretches: int, now: Clock
) -> tuple[Marks, Callable[[], Any]]:
    import torch
    from recbole.data import data_preparation
    from recbole.trainer import Trainer

    loader, _, test = data_preparation(config, as_recbole(config, dataset, splits))
    trainer = Trainer(config, model)
    marks: Marks = []

    class Begin:
        """The beginning of an epoch of RecBole's loader."""

        shuffle = False

        def __iter__(self) -> Iterator[Any]:
            yield from _marked(iter(loader), count, marks, now)
            if count < len(loader):  # what the loader would have drawn at the epoch's end
                torch.randperm(len(loader._dataset), generator=loader.generator)

    for epoch in range(1 + stretches):
        trainer._train_epoch(Begin(), epoch, show_progress=False)
    return marks, lambda: trainer.evaluate(test, load_best_model=False, show_progress=False)


def as_recbole(config: Any, dataset: Any, splits: Any) -> Any:
    """A built dataset with its tables as RecBole itself would have them, and without this package's look for labels."""
    from recbole.data.interaction import Interaction

    for split in splits:
        columns = {name: split.inter_feat[name].clone() for name in split.inter_feat.columns}
        split.inter_feat = Interaction(columns)
    dataset.build = lambda: splits
    config["tasks"] = None  # every row here has its labels; the collector need not select those that do
    return dataset


def _train_ours(
    config: Any, dataset: Any, splits: Any, model: Any, count: int, stretches: int, now: Clock
) -> tuple[Marks, Callable[[], Any]]:
    from recbole_msr.data.packed import PackedLoader
    from recbole_msr.training.trainer import LightningTrainer

    marks: Marks = []
    original = PackedLoader.__iter__

    def __iter__(self: Any) -> Iterator[Any]:
        return original(self) if self.order is None else _marked(original(self), count, marks, now)

    PackedLoader.__iter__ = __iter__  # type: ignore[method-assign]
    config["lightning"] = {**(config["lightning"] or {}), "limit_train_batches": count}
    trainer = LightningTrainer(config, model)
    trainer.fit(splits[0], None, verbose=False, saved=False)
    return marks, lambda: trainer.evaluate(splits[2], load_best_model=False)


def peak_gb() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def main() -> None:
    given = json.loads(sys.argv[1])
    module, _, name = given.pop("what").rpartition(".")
    import torch

    torch.set_num_threads(given.pop("threads"))
    function = getattr(importlib.import_module(f"benchmarks.{module}"), name) if module else globals()[name]
    with contextlib.redirect_stdout(sys.stderr):
        result = function(**given)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
