"""The targets of this package's speed, and what a run of the benchmarks found of each."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.large import GROWTH, MANY_USERS, RESIDENT_GIB, SIZES
from benchmarks.synthetic import NAME as SYNTHETIC

Results = Mapping[str, Any]
_FELL_BACK = "the model could not be compiled"


@dataclass(frozen=True)
class Target:
    """One row of the table.

    Attributes:
        what: what is divided by what.
        ratio: what was found; None where it was not measured.
        least: the target.
        note: what else there is to know.
    """

    what: str
    ratio: float | None
    least: float
    note: str = ""

    @property
    def met(self) -> bool | None:
        return None if self.ratio is None else self.ratio >= self.least

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


def median(results: Results, dataset: str, model: str, side: str, key: str = "rows_per_second") -> float | None:
    """Median over all stretches of all rounds of one side's training, without those that fell back to another."""
    runs = results.get("train", {}).get(dataset, {}).get(model, {}).get(side, [])
    return middle([run for run in runs if not fell_back(run)], key)


def middle(runs: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """Median of a key over runs that have it; of lists, over all their values."""
    kept = [run[key] for run in runs if key in run]
    values = [value for one in kept for value in (one if isinstance(one, list) else [one])]
    return statistics.median(values) if values else None


def fell_back(run: Mapping[str, Any]) -> bool:
    """Whether a measurement is of another side than was asked for: its model could not be compiled."""
    return any(line.startswith("compile:") for line in run.get("warnings", ()))


def divided(a: float | None, b: float | None) -> float | None:
    return None if not a or not b else a / b


def targets(results: Results) -> list[Target]:
    """Every target, in the order of the documentation."""
    ml_1m, found = "ml-1m", []

    def speed(what: str, model: str, dataset: str, side: str, base: str, least: float, note: str = "") -> None:
        ratio = divided(median(results, dataset, model, side), median(results, dataset, model, base))
        runs = results.get("train", {}).get(dataset, {}).get(model, {}).get(side, [])
        if ratio is None and any(map(fell_back, runs)):
            note = _FELL_BACK
        found.append(Target(what, ratio, least, note))

    trained = "training rows/s, ml-1m, batch 4096, one thread: ours / RecBole's Trainer"
    speed(f"LR, {trained}", "LR", ml_1m, "ours", "RecBole", 3)
    speed(f"DeepFM, {trained}", "DeepFM", ml_1m, "ours", "RecBole", 2, "the same random draws as RecBole")
    speed("DeepFM, same, fast_dropout", "DeepFM", ml_1m, "ours, fast", "RecBole", 2)
    speed("DeepFM, same, fast_dropout and bf16", "DeepFM", ml_1m, "ours, fast, bf16", "RecBole", 2)
    plain = "RecBole's Trainer with the plain HiNet"
    speed(f"HiNet, same, fp32: ours / {plain}", "HiNet", ml_1m, "ours", "RecBole, plain", 1.5)
    kind = results.get("machine", {}).get("bf16")
    note = "" if kind == "AMX" else f"the target is for CPUs with AMX; this one: {kind}"
    speed("HiNet, same, bf16", "HiNet", ml_1m, "ours, bf16", "RecBole, plain", 2.5, note)
    size = results.get("synthetic") or {"rows": 2_000_000, "ids": 100_000}
    rows = f"{size['rows']:,} rows"
    large = f"DeepFM, training rows/s, {rows} x {size['ids']:,} ids a field"
    speed(f"{large}: sparse path / RecBole's Trainer", "DeepFM", SYNTHETIC, "ours, sparse", "RecBole", 4)
    speed("same, sparse path and fast_dropout", "DeepFM", SYNTHETIC, "ours, sparse, fast", "RecBole", 4)
    speed("same, sparse path, fast_dropout and bf16", "DeepFM", SYNTHETIC, "ours, sparse, fast, bf16", "RecBole", 4)
    speed("same, exact path", "DeepFM", SYNTHETIC, "ours", "RecBole", 1, "no target of its own")

    found += _loading(results, rows)
    for model, least, note in (("DeepFM", 3, ""), ("LR", 3, ""), ("HiNet", 3, "the model is what takes the time")):
        ratio = divided(
            median(results, ml_1m, model, "RecBole", "evaluation"), median(results, ml_1m, model, "ours", "evaluation")
        )
        found.append(Target(f"evaluation of 100,000 rows (ml-1m, {model}): RecBole / ours", ratio, least, note))
    for model in ("LR", "HiNet"):
        sides = results.get("search", {}).get(model, {})
        ratio = divided(_seconds(sides.get("HyperTuning")), _seconds(sides.get("search, 2 workers")))
        found.append(Target(f"search, 8 trials of {model}, no pruning: HyperTuning / ours with 2 workers", ratio, 4))
    return found + _tables(results) + _product(results) + _gpu(results)


def _product(results: Results) -> list[Target]:
    exported, predicted, served = (results.get(part) or {} for part in ("export", "predict", "serve"))
    rows = f"{predicted.get('rows', 2_000_000):,} rows"
    p99 = divided(served.get("bare_ms"), served.get("onnxruntime", {}).get("p99_ms"))
    return [
        Target("HiNet, 4096 rows, one thread: onnxruntime / PyTorch",
               divided(exported.get("PyTorch"), exported.get("onnxruntime")), 1.2),
        Target(f"DeepFM, one core, {rows} of Parquet: rows/s of predict / of an evaluation",
               divided(predicted.get("predict"), predicted.get("evaluation")), 0.8),
        Target("serve --exported, SharedBottom, 16 clients, 200 rows: bare forward pass / 99th percentile", p99, 0.1),
    ]  # fmt: skip


def _tables(results: Results) -> list[Target]:
    def of(part: str, side: str, key: str) -> float | None:
        return middle(results.get(part, {}).get(side, []), key)

    quicker = divided(of("tables", "atomic files", "seconds"), of("tables", "Parquet", "seconds"))
    small, large = (of("large", f"{rows:,} rows", "peak_gb") for rows in SIZES)
    held = of("resident", "dense", "peak_gb")
    flat = divided(small and GROWTH * small, large)
    what = f"{GROWTH} x peak memory of preparing {SIZES[0]:,} rows / that of {SIZES[1]:,} rows"
    return [
        Target("into packed tables, 2,000,000 rows: from atomic files / from Parquet, seconds", quicker, 2),
        Target(what, flat, 1),
        Target(
            f"{RESIDENT_GIB} GiB / peak memory of training on {SIZES[0]:,} rows with {MANY_USERS:,} users",
            divided(RESIDENT_GIB * 1.024**2, held),
            1,
        ),
    ]


def _seconds(side: Any) -> float | None:
    return side["seconds"] if side else None


def _loading(results: Results, rows: str) -> list[Target]:
    sides = results.get("start", {}).get(SYNTHETIC, {})

    def of(side: str, *keys: str) -> float | None:
        runs = sides.get(side, [])
        return statistics.median(sum(run[key] for key in keys) for run in runs) if runs else None

    theirs = of("RecBole", "load")
    first, cached = of("ours, first", "load", "pack"), of("ours, cached", "load", "pack")
    memory = divided(of("RecBole", "peak_gb"), of("ours, first", "peak_gb"))
    return [
        Target(f"dataset load, {rows}: RecBole / ours, first time", divided(theirs, first), 5, "packing included"),
        Target("same: RecBole / ours, from the cache", divided(theirs, cached), 50, "packing included"),
        Target("same, peak memory of the process: RecBole / ours, first time", memory, 2),
    ]


def _gpu(results: Results) -> list[Target]:
    """A row for each side of ours; that of the target is as exact as RecBole's."""
    runs = {name: run for name, run in results.get("gpu", {}).items() if run and "rows_per_second" in run}
    limits = results.get("gpu", {}).get("limit") or {}
    sides = list(dict.fromkeys(["ours", *(_side(name) for name in runs if _side(name).startswith("ours"))]))

    def best(*names: str) -> float | None:
        kept = [run for name, run in runs.items() if _side(name) in names and not fell_back(run)]
        return max((statistics.median(run["rows_per_second"]) for run in kept), default=None)

    theirs, found = best("RecBole", "RecBole, plain"), []
    for side in sides:
        note = "" if runs else "no GPU here"
        if any(fell_back(run) for name, run in runs.items() if _side(name) == side):
            note = _FELL_BACK
        limit = limits.get("bf16" if "bf16" in side else "fp32") or {}
        found += [
            Target(f"GPU: HiNet rows/s at batch 65536: {side} / RecBole's Trainer at its best batch",
                   divided(best(side), theirs), 10, note),
            Target(f"GPU: HiNet, {side}, share of the measured GEMM limit",
                   divided(best(side), limit.get("rows_per_second")), 1 / 3, note),
        ]  # fmt: skip
    return found


def _side(name: str) -> str:
    """The side of a measurement that is named after it and its batch."""
    return name.partition(", batch ")[0]
