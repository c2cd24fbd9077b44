"""Processor time of a row of an unknown scenario, by the number of scenarios M: one pass over the experts, or M passes.

    python -m benchmarks.many_scenarios --models HiNet STAR --scenarios 10 150 --rows 1 64

Milliseconds a row, with fresh weights, one thread and the models' defaults; the best of some rounds, both ways in turn.
M passes are the loop of `MultiScenarioRecommender.every_scenario_logits`, which asks `logits` once for each scenario.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from recbole_msr.config.build import build_config
from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.registry import model_class

ROUNDS = 2


def write_data(folder: Path, n_scenarios: int) -> None:
    """Write interactions with two tasks, 20 in each scenario."""
    rng, n = np.random.default_rng(0), 20 * n_scenarios
    frame = pd.DataFrame(
        {
            "user_id:token": rng.integers(0, 200, n),
            "item_id:token": rng.integers(0, 500, n),
            "city:token": np.arange(n) % n_scenarios,
            "click:float": rng.integers(0, 2, n),
            "buy:float": rng.integers(0, 2, n),
        }
    )
    folder.mkdir(parents=True)
    frame.to_csv(folder / "many.inter", sep="\t", index=False)


def make_model(name: str, n_scenarios: int, data_path: Path) -> tuple[Any, Any]:
    """Return a model in evaluation mode, and its training rows."""
    settings = {
        "data_path": str(data_path),
        "scenario": "city",
        "tasks": {"click": "click", "buy": "buy"},
        "eval_args": {"group_by": "scenario"},
        "packed_cache": False,
        "use_gpu": False,
    }
    config = build_config(name, "many", settings)
    train = ScenarioDataset(config).build()[0]
    torch.manual_seed(0)
    return model_class(name)(config, train).eval(), train


@torch.no_grad()
def milliseconds(model: Any, x: torch.Tensor, one_pass: bool) -> float:
    """Return the time of scoring inputs x (B, D) in every scenario, of one row."""
    of = type(model) if one_pass else MultiScenarioRecommender
    start = time.process_time()
    of.every_scenario_logits(model, x)
    return 1e3 * (time.process_time() - start) / len(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["HiNet", "STAR", "SharedBottom", "PLE"])
    parser.add_argument("--scenarios", nargs="+", type=int, default=[10, 150])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 64])
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | M | rows at once | one pass, ms a row | M passes | times |\n|---|---|---|---|---|---|")
    for m in given.scenarios:
        with tempfile.TemporaryDirectory() as folder:
            write_data(Path(folder, "many"), m)
            for name in given.models:
                model, train = make_model(name, m, Path(folder))
                for rows in given.rows:
                    x = model.embed(train.inter_feat[torch.arange(rows) % len(train)]).detach()
                    times = [[milliseconds(model, x, way) for way in (True, False)] for _ in range(ROUNDS)]
                    new, old = (min(way) for way in zip(*times, strict=True))
                    print(f"| {name} | {m} | {rows} | {new:.3f} | {old:.3f} | {old / new:.1f} |", flush=True)


if __name__ == "__main__":
    main()
