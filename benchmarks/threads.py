"""One search with all cores in one worker, with two workers that share them, and with two that both take all of them.

Method. Four trials of a small HiNet (a grid of learning rates and dropouts, no pruning, none trained together, no final
test) on ml-100k, one epoch each, by one command in a process of its own:
    1 worker             as this package does it: a thread for each core
    2 workers            likewise: each has half of the threads
    2 workers, unshared  each has a thread for each core, PyTorch's choice in a process that knows of no other
They take turns, `--rounds` times; the data are prepared before, and found in the cache. Two times are taken: that of
the whole command, with imports, the start of the workers and the writing of the results, and that of the trials alone,
from the first one's begin to the last one's end. The medians are compared. A command that takes longer than `--limit`
seconds is ended and counts as that long.

    python -m benchmarks.threads [--rounds=3] [--dataset=ml-1m --data_path=DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.process import ROOT

SIDES = {"1 worker": (1, False), "2 workers": (2, False), "2 workers, unshared": (2, True)}
"""Workers, and whether each takes all cores."""
SPACE = {"model": "HiNet", "search": {"learning_rate": [0.001, 0.003], "dropout": [0.0, 0.2]}}
SMALL = {"sub_experts": 2, "expert_hidden_sizes": [32], "task_expert_hidden_sizes": [32], "tower_hidden_sizes": [16]}
TRIALS = 4


def searched(workers: int, unshared: bool, dataset: str, data_path: str | None, epochs: int) -> dict[str, Any]:
    """The search, in this process; seconds of its trials, and their threads."""
    from recbole_msr.threads import cores
    from recbole_msr.tuning.run import search

    config = {**SMALL, "preset": dataset, "epochs": epochs, "use_gpu": False, "show_progress": False}
    config |= ({"data_path": data_path} if data_path else {}) | ({"threads": cores()} if unshared else {})
    found = search(
        "HiNet", dataset, TRIALS, config=config, space=SPACE, sampler="grid", pruner="none", workers=workers,
        output=Path("search"), final_seeds=0, wandb="disabled", progress=False, fused="off",
    )  # fmt: skip
    trials = [trial for trial in found.study.trials if trial.datetime_start and trial.datetime_complete]
    begin = min(trial.datetime_start for trial in trials if trial.datetime_start)
    end = max(trial.datetime_complete for trial in trials if trial.datetime_complete)
    return {
        "trials": int((found.trials["state"] == "complete").sum()),
        "seconds_of_trials": (end - begin).total_seconds(),
        "threads": sorted({trial.user_attrs["threads"] for trial in trials}),
        "best": found.best_value,
    }


def measured(given: argparse.Namespace, side: str, cache: str) -> dict[str, Any]:
    """The search in a process of its own, with the seconds of the whole command."""
    workers, unshared = SIDES[side]
    environment = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    environment |= {"RECBOLE_MSR_CACHE": cache}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = [workers, unshared, given.dataset, given.data_path and str(Path(given.data_path).resolve()), given.epochs]
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.threads", f"--search={json.dumps(own)}"],
            env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            out, told = process.communicate(timeout=given.limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)  # it and its workers
            process.communicate()
            return {"trials": 0, "seconds": given.limit, "seconds_of_trials": given.limit, "threads": [], "best": None}
        if process.returncode:
            sys.exit(told)
        return {**json.loads(out.splitlines()[-1]), "seconds": time.perf_counter() - begin}


def compared(given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """All sides by turns; the medians of each."""
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as cache:
        measured(given, "1 worker", cache)  # prepares the data
        for _ in range(given.rounds):
            for side, found in results.items():
                found.append(measured(given, side, cache))
                print(f"  {side}: {found[-1]}", file=sys.stderr, flush=True)
    return {
        side: {
            "seconds": statistics.median(one["seconds"] for one in found),
            "seconds_of_trials": statistics.median(one["seconds_of_trials"] for one in found),
            "threads": found[-1]["threads"],
            "ended": all(one["trials"] == TRIALS for one in found),
            "best": found[-1]["best"],
        }
        for side, found in results.items()
    }


def table(results: dict[str, dict[str, Any]]) -> list[str]:
    """The sides beside one worker, as Markdown."""
    lines = [
        "| search | threads each | command, s | 1 worker / it | trials, s | trials an hour | 1 worker / it |",
        "|---|---|---|---|---|---|---|",
    ]
    first = results["1 worker"]
    for side, found in results.items():
        whole, own = found["seconds"], found["seconds_of_trials"]
        more = "" if found["ended"] else "more than "
        lines.append(
            f"| {side} | {', '.join(map(str, found['threads'])) or '?'} | {more}{whole:.1f} "
            f"| {first['seconds'] / whole:.2f} | {more}{own:.1f} | {3600 * TRIALS / own:.0f} "
            f"| {first['seconds_of_trials'] / own:.2f} |"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data_path")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds after which a command is ended")
    parser.add_argument("--search", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.search:
        print(json.dumps(searched(*json.loads(given.search))))
        return
    print("\n".join(table(compared(given))))


if __name__ == "__main__":
    main()
