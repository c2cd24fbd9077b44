"""Rows a second and peak memory: RecBole's own trainer and data loaders against this package's, on the same HiNet.

Method. Both train the same model on the same rows in the same order from the same seed, with one thread. Each
measurement is a process of its own (so that its peak memory is its own), and the two take turns, `--rounds` times.
Counted is the time of the training epochs after the first (which warms caches up), validation left out. RecBole runs
as it is published, without this package's speed-ups of its loading and indexing. Both end with a validation AUC,
printed as a check that they did the same work: with --fused=False it is the same number.

    python benchmarks/trainer_speed.py --dataset=ml-1m --data_path=DIR
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any


def measure(side: str, given: argparse.Namespace) -> dict[str, Any]:
    """Train in this process; rows a second over the epochs after the first, and the peak memory in GB."""
    import torch

    torch.set_num_threads(1)
    from recbole.data import create_dataset, data_preparation
    from recbole.trainer import Trainer
    from recbole.utils import get_model, init_seed

    from recbole_msr.training.config import build_config
    from recbole_msr.training.trainer import LightningTrainer

    settings = {"epochs": given.epochs, "stopping_step": given.epochs, "show_progress": False, "use_gpu": False}
    settings |= {"data_path": given.data_path, "packed_cache": False, "fused_optimizer": given.fused, "state": "ERROR"}
    settings |= {"preset": given.preset} if given.preset else {}
    settings |= {"checkpoint_dir": tempfile.mkdtemp()}
    config = build_config(given.model, given.dataset, settings)
    started = time.perf_counter()
    init_seed(config["seed"], config["reproducibility"])
    train, valid, _ = data_preparation(config, create_dataset(config))
    loaded = time.perf_counter() - started
    init_seed(config["seed"], config["reproducibility"])
    model = get_model(given.model)(config, train._dataset)
    seconds: list[float] = []
    if side == "recbole":

        class Timed(Trainer):
            def _train_epoch(self, *args: Any, **kwargs: Any) -> Any:
                begin = time.perf_counter()
                loss = super()._train_epoch(*args, **kwargs)
                seconds.append(time.perf_counter() - begin)
                return loss

        os.chdir(settings["checkpoint_dir"])
        score, _ = Timed(config, model).fit(train, valid, verbose=False)
    else:
        trainer = LightningTrainer(config, model)
        score, _ = trainer.fit(train, valid, verbose=False)
        assert trainer.epochs is not None
        seconds = [row["seconds"] for row in trainer.epochs.history]
    rows = len(train._dataset)
    return {
        "rows_per_second": rows * len(seconds[1:]) / sum(seconds[1:]),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "load_seconds": loaded,
        "valid_auc": float(score),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="HiNet")
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--preset", help="for a model of RecBole's: the preset whose rows and tasks it gets")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fused", type=lambda text: text == "True", default=True, metavar="True|False")
    parser.add_argument("--side", choices=("recbole", "ours"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        print(json.dumps(measure(given.side, given)))
        return
    results: dict[str, list[dict[str, Any]]] = {"recbole": [], "ours": []}
    for _ in range(given.rounds):
        for side in results:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            if side == "recbole":
                environment["RECBOLE_MSR_NO_SPEEDUPS"] = "1"
            command = [sys.executable, os.path.abspath(__file__), f"--side={side}", *sys.argv[1:]]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            results[side].append(json.loads(done.stdout.splitlines()[-1]))
            print(side, results[side][-1], flush=True)
    mean = {
        side: {key: sum(one[key] for one in measured) / len(measured) for key in measured[0]}
        for side, measured in results.items()
    }
    print(f"\n{given.model} on {given.dataset}, {given.epochs} epochs, one thread, mean of {given.rounds} rounds")
    for key, unit in (("rows_per_second", "rows/s"), ("peak_gb", "GB peak"), ("load_seconds", "s to load and split")):
        theirs, ours = mean["recbole"][key], mean["ours"][key]
        print(f"  {unit:<20} RecBole {theirs:>10.2f}   recbole-msr {ours:>10.2f}   ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
