"""Whether the fast paths are as accurate as the exact one: test AUC on MovieLens-1M, over seeds.

Method. The protocol of the preset ml-1m, the same split for all, the seeds of weights, order and dropout the same for
every path, so that differences are taken seed by seed: their mean, and its 95 % interval by Student's t. A path is
within seed noise where the mean difference is at most twice the exact path's own deviation over seeds, or at most
0.001; with fewer than 3 seeds that is not known. A wide interval does not make it so: it says how well the difference
is known. A run that fell back to the exact path is not counted. Runs are whole (`recbole_msr.run`); as many at a time
as there are cores, for nothing is timed.
"""

from __future__ import annotations

import os
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.cases import SIDES, Case, Side
from benchmarks.process import measured
from benchmarks.targets import fell_back

EPOCHS = {"DeepFM": 2, "HiNet": 1}
PATHS = {
    "DeepFM": ("ours", "RecBole", "ours, fast", "ours, sparse", "ours, bf16"),
    "HiNet": ("ours", "RecBole, plain", "ours, sparse", "ours, bf16"),
}
"""The first is the exact path."""
LEAST_SEEDS, SMALL = 3, 0.001
"""Seeds from which noise is judged, and a difference of AUCs that counts as noise by any."""


def train_and_test(
    model: str, side: str, data_path: str | None, seed: int, epochs: int, dataset: str = "ml-1m"
) -> dict[str, Any]:
    """Test AUC of one run; for a process of its own."""
    import recbole_msr
    from benchmarks.measure import _Warnings

    case = Case(model, dataset, side)
    if case.under.plain:
        import benchmarks.plain_hinet  # noqa: F401  (registers it)
    settings = case.settings(data_path) | {"seed": seed, "epochs": epochs, "threads": 1, "weight_decay": 0.00001}
    settings |= {"trainer": "recbole" if case.under.recbole else "lightning", "output_dir": f"{side}-{seed}"}
    told = _Warnings()
    result = recbole_msr.run(case.class_name, dataset, config=settings)
    speed = result.summary.get("rows_per_second")
    return {"auc": result.test_metrics["auc"], "rows_per_second": speed, "warnings": told.messages}


def sides_of(model: str) -> list[Side]:
    return [SIDES[name] for name in PATHS[model]]


def compare(
    model: str, data_path: str | None, folder: Path, cache: Path, seeds: int = 3, epochs: int | None = None,
    dataset: str = "ml-1m",
) -> dict[str, Any]:  # fmt: skip
    """Test AUCs of every path of a model, by seed; without paths that fell back to another."""
    found: dict[str, list[float | None]] = {}
    known = sides_of(model)
    runs = [(side, seed) for seed in range(2022, 2022 + seeds) for side in known]

    def one(run: tuple[Side, int]) -> float | None:
        side, seed = run
        arguments = {"model": model, "side": side.name, "data_path": data_path, "seed": seed, "dataset": dataset}
        arguments["epochs"] = epochs or EPOCHS[model]
        result = measured(
            "accuracy.train_and_test",
            arguments,
            folder / f"{model}-{side.name}-{seed}",
            recbole=side.recbole,
            cache=cache,
        )
        print(f"  {model}, {side.name}, seed {seed}: test AUC {result['auc']:.4f}", flush=True)
        if fell_back(result):
            print(f"  not counted: {'; '.join(result['warnings'])}", flush=True)
            return None
        return float(result["auc"])

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for (side, _), auc in zip(runs, pool.map(one, runs), strict=True):
            found.setdefault(side.name, []).append(auc)
    return {name: [auc for auc in of_one if auc is not None] for name, of_one in found.items() if None not in of_one}


def lines(model: str, found: dict[str, list[float]]) -> list[str]:
    """The table of what `compare` found."""
    names = list(found)
    exact = found[names[0]]
    rows = [
        f"| {model} | test AUC | against '{names[0]}' | 95 % interval | within seed noise |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        own = found[name]
        deviation = statistics.stdev(own) if len(own) > 1 else 0.0
        cells = [name, f"{statistics.mean(own):.4f} ± {deviation:.4f}"]
        if name == names[0]:
            cells += ["", "", ""]
        else:
            mean, half = paired([a - b for a, b in zip(own, exact, strict=True)])
            interval = f"{mean - half:+.4f} to {mean + half:+.4f}" if len(own) > 1 else "not known"
            cells += [f"{mean:+.4f}", interval, judged(mean, exact)]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def judged(difference: float, exact: list[float]) -> str:
    """Whether a mean difference from the exact path is noise of its seeds: yes, no, or not known."""
    if len(exact) < LEAST_SEEDS:
        return "not known"
    return "yes" if abs(difference) <= max(2 * statistics.stdev(exact), SMALL) else "no"


def paired(differences: list[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval; infinite for one difference."""
    from scipy.stats import t

    if len(differences) < 2:
        return differences[0], float("inf")
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return statistics.mean(differences), float(t.ppf(0.975, len(differences) - 1)) * error
