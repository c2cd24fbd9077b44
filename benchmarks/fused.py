"""Trainings at once against the same ones after the other: what `recbole-msr search --fused` gains.

Method. K trainings of one model for an epoch each, on the rows of the validation split, without validation: trials (one
seed, K learning rates, so the same batches for all) or seeds (one learning rate). The three ways take turns in one
process with one thread, after a turn of each that is not counted; their medians are compared.
    one by one      each by Lightning's trainer, as --fused=off does
    side by side    one member after the other on each batch: what a search does on a CPU
    stacked         one batched model: what a search does on a GPU
A way that a model cannot go (it cannot be stacked) is left out.

The final test is measured whole: the runs of `SEEDS` seeds as a search leaves them, with reading the data from the
cache, validation, test and files, two epochs each; together and one by one, by turns, in one process.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

SEEDS = 5
KINDS = ("trials", "seeds")
CASES = (
    *(("LR", kind, batch, 8) for batch in (2048, 4096) for kind in KINDS),
    *(("FM", kind, 2048, 8) for kind in KINDS),
    *(("DeepFM", kind, 256, 8) for kind in KINDS),
    ("DeepFM", "trials", 2048, 4),
    *(("DeepFM", kind, 2048, 8) for kind in KINDS),
    ("SharedBottom", "trials", 2048, 8),
    ("MMoE", "trials", 2048, 4),
    ("MMoE", "trials", 2048, 8),
    ("HiNet", "trials", 2048, 4),
)
"""Model, what differs, batch size, how many at once."""
FINALS = ("LR", "FM")


def _settings(model: str, dataset: str, data_path: str | None, gpu: bool, **own: Any) -> dict[str, Any]:
    from benchmarks.cases import Case

    return Case(model, dataset, "ours").settings(data_path, gpu=gpu) | {"checkpoint_dir": os.getcwd()} | own


def together(
    model: str, kind: str, batch: int, members: int, rounds: int, dataset: str, data_path: str | None, gpu: bool = False
) -> dict[str, Any]:
    """Rows a second of all trainings together, of every way; for a process of its own."""
    from recbole.data import create_dataset
    from recbole.utils import get_model, init_seed

    from recbole_msr.config.build import build_config
    from recbole_msr.data.packed import PackedTable
    from recbole_msr.training.fused.loop import train_members
    from recbole_msr.training.fused.member import Member
    from recbole_msr.training.trainer import LightningTrainer

    own = _settings(model, dataset, data_path, gpu, epochs=1, train_batch_size=batch)
    splits = create_dataset(build_config(model, dataset, own)).build()
    differ = {"trials": [{"learning_rate": 0.001 * (k + 1)} for k in range(members)]}
    differ["seeds"] = [{"seed": 2022 + k} for k in range(members)]
    configs = [build_config(model, dataset, own | one) for one in differ[kind]]
    rows = PackedTable.for_run(splits[1], configs[0])

    def built(config: Any) -> Any:
        init_seed(config["seed"], config["reproducibility"])
        return get_model(model)(config, splits[0]).to(config["device"])

    def one_by_one() -> float:
        begin = time.perf_counter()
        for config in configs:
            LightningTrainer(config, built(config)).fit(rows, None, verbose=False, saved=False)
        return time.perf_counter() - begin

    def at_once(how: str) -> float | None:
        begin = time.perf_counter()
        trained = [Member(config, built(config)) for config in configs]
        train_members(trained, rows, None, how)
        seconds = time.perf_counter() - begin
        for member in trained:
            if member.error is not None:
                raise member.error
        return seconds if all(member.stacked == (how == "stacked") for member in trained) else None

    ways: dict[str, Callable[[], float | None]] = {"one by one": one_by_one}
    ways |= {how: partial(at_once, how) for how in ("side by side", "stacked")}
    return {way: len(rows) * members / seconds for way, seconds in _medians(ways, rounds).items()}


def final(model: str, rounds: int, dataset: str, data_path: str | None, gpu: bool = False) -> dict[str, Any]:
    """Seconds of the final test of `SEEDS` seeds; for a process of its own."""
    from recbole_msr.runs.run_once import run_once
    from recbole_msr.runs.seeds import run_seeds

    own = _settings(model, dataset, data_path, gpu, epochs=2)
    own |= {"model": model, "dataset": dataset, "threads": 1}
    seeds = range(2022, 2022 + SEEDS)

    def timed(fused: bool) -> float:
        with tempfile.TemporaryDirectory(dir=os.getcwd()) as folder:
            folders = {seed: Path(folder, str(seed)) for seed in seeds}
            begin = time.perf_counter()
            if fused:
                errors = run_seeds(folders, own)
                if errors:
                    raise next(iter(errors.values()))
            else:
                for seed, path in folders.items():
                    run_once(path, own | {"seed": seed})
            return time.perf_counter() - begin

    return _medians({"one by one": partial(timed, False), "together": partial(timed, True)}, rounds)


def _medians(ways: dict[str, Callable[[], float | None]], rounds: int) -> dict[str, float]:
    """Seconds of each way that could be gone."""
    left = {way: go for way, go in ways.items() if go() is not None}
    found: dict[str, list[float]] = {way: [] for way in left}
    for _ in range(rounds):
        for way, go in left.items():
            seconds = go()
            assert seconds is not None
            found[way].append(seconds)
    return {way: statistics.median(seconds) for way, seconds in found.items()}
