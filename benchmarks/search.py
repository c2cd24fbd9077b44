"""A search of this package beside RecBole's HyperTuning doing the same trials; and what a trial costs besides training.

Method. HiNet on a random sample of MovieLens-1M (200,000 ratings), eight trials: all combinations of two learning
rates, two dropouts and two numbers of sub-experts; the same rows, split, epochs, model code and thread total (the
cores of the machine) on every side, each side in a process of its own, one after the other, nothing else running:
    HyperTuning       RecBole's HyperTuning (hyperopt, exhaustive) over RecBole's own Trainer, one process, all threads
    search, 1 worker  one process, all threads
    search, 2 workers two processes, half the threads each
None prunes. The wall time of the whole command is taken, imports and reading the data included; our runs begin with an
empty cache. Then the search with two workers and more epochs, without and with the median pruner (after two trials,
from the first epoch on): trials an hour. The fixed cost of a trial is the time from `ask` to its first batch
(`setup_seconds`), once the data are prepared: the first trial of a process is left out. Needs `pip install hyperopt`.

    recbole-msr data ml-1m RAW_DIR DIR --sample=200000
    python benchmarks/search.py --data_path=DIR
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
from pathlib import Path
from typing import Any

import yaml

from recbole_msr import search

POINTS = {"learning_rate": [0.001, 0.003], "dropout": [0.1, 0.3], "sub_experts": [2, 4]}


def settings_of(given: argparse.Namespace, epochs: int, threads: int) -> dict[str, Any]:
    return {
        "preset": "ml-1m",
        "data_path": given.data_path,
        "epochs": epochs,
        "threads": threads,
        "show_progress": False,
        "use_gpu": False,
        "state": "ERROR",
    }


def hyper_tuning(given: argparse.Namespace, folder: Path, threads: int) -> None:
    """RecBole's search; run in a process of its own."""
    import torch
    from recbole.data import create_dataset, data_preparation
    from recbole.trainer import HyperTuning, Trainer
    from recbole.utils import get_model, init_seed

    from recbole_msr.training.config import build_config

    torch.set_num_threads(threads)
    own = settings_of(given, given.epochs, threads) | {"packed_cache": False, "checkpoint_dir": str(folder)}

    def objective(config_dict: Any = None, config_file_list: Any = None) -> dict[str, Any]:
        # recbole.quick_start.objective_function, but for where the configuration comes from.
        config = build_config("HiNet", "ml-1m", own | dict(config_dict))
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
        train, valid, test = data_preparation(config, dataset)
        init_seed(config["seed"], config["reproducibility"])
        model = get_model("HiNet")(config, train._dataset).to(config["device"])
        trainer = Trainer(config, model)
        score, result = trainer.fit(train, valid, verbose=False, saved=True, show_progress=False)
        tested = trainer.evaluate(test, load_best_model=True, show_progress=False)
        print(json.dumps({**config_dict, "valid": float(score)}, default=float), flush=True)
        return {
            "model": "HiNet",
            "best_valid_score": score,
            "valid_score_bigger": config["valid_metric_bigger"],
            "best_valid_result": result,
            "test_result": tested,
        }

    space = {"choice": POINTS}
    HyperTuning(objective, params_dict=space, algo="exhaustive", max_evals=8, early_stop=100).run()


def ours(given: argparse.Namespace, folder: Path, workers: int, threads: int, epochs: int, pruner: str) -> None:
    """This package's search; run in a process of its own."""
    search(
        "HiNet",
        "ml-1m",
        space={"model": "HiNet", "search": POINTS},
        sampler="grid",
        config=settings_of(given, epochs, threads),
        output=folder / "out",
        workers=workers,
        pruner=yaml.safe_load(pruner),
        final_seeds=0,
        wandb="disabled",
        progress=False,
    )


def measured(arguments: list[str], threads: int, folder: Path) -> float:
    """Wall seconds of this script, called with the arguments of one side."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "RECBOLE_MSR_CACHE": str(folder / "cache")}
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, __file__, *arguments, f"--folder={folder}"], check=True, env=environment, cwd=folder
    )
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", required=True)
    parser.add_argument("--epochs", type=int, default=1, help="of every trial in the comparison")
    parser.add_argument("--pruned_epochs", type=int, default=4, help="of every trial in the runs on pruning")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="in all")
    parser.add_argument("--side", choices=["hyper_tuning", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--pruner", default="none", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.data_path = str(Path(given.data_path).resolve())
    if given.side == "hyper_tuning":
        return hyper_tuning(given, given.folder, given.threads)
    if given.side == "ours":
        return ours(given, given.folder, given.workers, given.threads, given.epochs, given.pruner)

    common = [f"--data_path={given.data_path}", f"--epochs={given.epochs}"]
    half = max(1, given.threads // 2)
    seconds: dict[str, float] = {}
    fixed: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        for side, options, threads in (
            ("HyperTuning", ["--side=hyper_tuning"], given.threads),
            ("search, 1 worker", ["--side=ours"], given.threads),
            ("search, 2 workers", ["--side=ours", "--workers=2"], half),
        ):
            folder = Path(name, side.replace(" ", "-").replace(",", ""))
            folder.mkdir()
            seconds[side] = measured([*common, *options, f"--threads={threads}"], threads, folder)
            ratio = seconds["HyperTuning"] / seconds[side]
            print(f"{side:<20} {seconds[side]:7.1f} s   HyperTuning / it: {ratio:.2f}", flush=True)
            fixed += setup_seconds(folder)
        print(f"fixed cost of a trial: median {statistics.median(fixed):.2f} s, most {max(fixed):.2f} s", flush=True)
        for pruner in ("none", "{name: median, n_startup_trials: 2, n_warmup_steps: 0}"):
            folder = Path(name, f"pruner-{len(pruner)}")
            folder.mkdir()
            options = [
                f"--data_path={given.data_path}",
                f"--epochs={given.pruned_epochs}",
                "--side=ours",
                "--workers=2",
            ]
            taken = measured([*options, f"--threads={half}", f"--pruner={pruner}"], half, folder)
            print(f"pruner {pruner}: {8 * 3600 / taken:6.0f} trials an hour ({taken:.1f} s)", flush=True)


def setup_seconds(folder: Path) -> list[float]:
    """Of the trials after the first of each process."""
    import pandas as pd

    file = folder / "out" / "trials.csv"
    if not file.is_file():
        return []
    frame = pd.read_csv(file).sort_values("started")
    later = frame[frame.duplicated("worker")]
    return [float(value) for value in later["setup_seconds"].dropna()]


if __name__ == "__main__":
    main()
