"""Test AUC of a model on MovieLens-1M with Scenario-Wise-Rec's protocol, over seeds.

Method. Three age scenarios {1, 18}, {25}, {35, 45, 50, 56}; rating >= 4 is a click (and rating >= 5 a like, for
models with several tasks); fields user, item, gender, occupation, zip code, first genre, and the age scaled to 0..1
as one number; rows split 8:1:1 at random, anew for every seed; Adam, learning rate 1e-3, weight decay 1e-5, batch
4096; early stopping on the pooled validation AUC of clicks, patience 4; the best epoch is tested. These are the
defaults of properties/dataset/ml-1m.yaml. Published for this protocol (Scenario-Wise-Rec): 0.8063 (PPNet) to 0.8115
(M2M).

    recbole-msr data ml-1m RAW_DIR DIR
    python benchmarks/ml_1m.py --data_path=DIR --seeds=3 [--model=HiNet] [--key=value ...]
"""

from __future__ import annotations

import argparse
import statistics

from recbole_msr import run
from recbole_msr.cli import parse_settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="HiNet")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first_seed", type=int, default=2022)
    parser.add_argument("--output", default="runs/ml-1m", help="a folder a seed is made below it")
    given, rest = parser.parse_known_args()
    settings = {"preset": "ml-1m", "show_progress": False, "threads": 1} | parse_settings(rest)
    scores: dict[str, list[float]] = {}
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        own = {"data_path": given.data_path, "seed": seed, "data_seed": seed}
        own["output_dir"] = f"{given.output}/{given.model}-{seed}"
        result = run(given.model, "ml-1m", config=settings | own)
        assert result.test is not None
        found = {key: value for key, value in result.test.flat().items() if key.count("/") <= 1}
        for key, value in found.items():
            scores.setdefault(key, []).append(value)
        print(
            f"seed {seed}: test AUC {found['auc']:.4f}, best epoch {result.summary['best_epoch']}, "
            f"{result.summary['seconds']['total']:.0f} s, {result.summary['rows_per_second']} rows/s",
            flush=True,
        )
    print(f"{given.model} on ml-1m, {given.seeds} seeds: mean and standard deviation")
    for key, values in scores.items():
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"  {key:<20} {statistics.mean(values):.4f} +- {deviation:.4f}")


if __name__ == "__main__":
    main()
