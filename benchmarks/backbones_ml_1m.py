"""Backbones on MovieLens-1M beside what Scenario-Wise-Rec publishes of them: parameters and test AUC, over seeds.

Method. The protocol of benchmarks/ml_1m.py with clicks as the only task and the published sizes, as the presets
ml-1m-MODEL have them; the rows are split anew for every seed. Parameters
are counted without the rows for unknown values (one a token field, 96 numbers), which the publication has not. A mean
AUC passes that is at most 0.003 below the published one.

    recbole-msr data ml-1m RAW_DIR DIR
    python benchmarks/backbones_ml_1m.py --data_path=DIR --seeds=3 [--models STAR MMoE] [--key=value ...]
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from recbole_msr import run
from recbole_msr.cli import parse_settings

PUBLISHED = {
    "SharedBottom": (227.59, 0.8095),
    "MMoE": (217.80, 0.8086),
    "PLE": (224.20, 0.8091),
    "STAR": (308.63, 0.8096),
    "AdaSparse": (230.32, 0.8108),
    "AdaptDHM": (257.49, 0.8083),
    "PEPNet": (232.33, 0.8097),  # its EPNet
    "SARNet": (239.34, 0.8092),
}
"""Parameters in thousands, and test AUC."""
TOLERANCE = 0.003


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=PUBLISHED, default=list(PUBLISHED))
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first_seed", type=int, default=2022)
    parser.add_argument("--output", default="runs/backbones-ml-1m", help="a folder a model and seed is made below it")
    given, rest = parser.parse_known_args()
    own = parse_settings(rest)
    for model in given.models:
        published_size, published_auc = PUBLISHED[model]
        aucs, size = [], 0.0
        for seed in range(given.first_seed, given.first_seed + given.seeds):
            settings = {"preset": f"ml-1m-{model}", "show_progress": False, "threads": 1, "data_path": given.data_path}
            settings |= own | {"seed": seed, "data_seed": seed, "output_dir": f"{given.output}/{model}-{seed}"}
            result = run(model, "ml-1m", config=settings)
            assert result.test is not None
            assert result.model is not None
            features: Any = result.model.features
            unknown = len(features.token_fields) * features.table.embedding_dim
            size = (sum(parameter.numel() for parameter in result.model.parameters()) - unknown) / 1000
            found = result.test.flat()
            aucs.append(found["auc"])
            print(
                f"{model}, seed {seed}: test AUC {found['auc']:.4f}, logloss {found['logloss']:.4f}, "
                f"best epoch {result.summary['best_epoch']} of {result.summary['epochs']}, "
                f"{result.summary['seconds']['total']:.0f} s",
                flush=True,
            )
        mean = statistics.mean(aucs)
        deviation = statistics.stdev(aucs) if len(aucs) > 1 else 0.0
        verdict = "passes" if mean >= published_auc - TOLERANCE else "is more than 0.003 below"
        print(
            f"{model}: {size:.2f}K parameters (published {published_size:.2f}K), AUC {mean:.4f} +- {deviation:.4f} "
            f"over {len(aucs)} seeds (published {published_auc:.4f}): {verdict}",
            flush=True,
        )


if __name__ == "__main__":
    main()
