"""Processor time of a row of an unknown scenario, by the number of scenarios M: one pass over the experts, or M passes;
and what HiNet gains where each row goes through the experts that it needs alone.

    python -m benchmarks.many_scenarios --models HiNet STAR --scenarios 10 150 --rows 1 64

Milliseconds a row, with fresh weights, one thread and the models' defaults; the best of some rounds, both ways in turn.
M passes are the loop of `MultiScenarioRecommender.every_scenario_logits`, which asks `logits` once for each scenario.

    python -m benchmarks.many_scenarios --what training --scenarios 60 --top_k 4

Rows a second of HiNet's training steps (loss, gradients, Adam) with all experts for every row, with `san_top_k`, with
`expert_sharing: low_rank`, and with both; the sides in turn, the best of some rounds.

    python -m benchmarks.many_scenarios --what quality --top_k 4 --seeds 3

The same sides on KuaiRand's log with the hour of the day as the scenario: the test AUC of the clicks of all rows, the
mean over the cells, and seconds of training. Means over seeds, and the standard deviation between them.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import recbole_msr
from benchmarks.outside_data import SOURCE, prepare, present
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


def make_model(name: str, data_path: Path, **more: Any) -> tuple[Any, Any]:
    """Return a model in evaluation mode, and its training rows."""
    settings = {
        "data_path": str(data_path),
        "scenario": "city",
        "tasks": {"click": "click", "buy": "buy"},
        "eval_args": {"group_by": "scenario"},
        "packed_cache": False,
        "use_gpu": False,
    }
    config = build_config(name, "many", settings | more)
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


def sides(top_k: int) -> dict[str, dict[str, Any]]:
    """Return the settings of the HiNets that are compared."""
    few, low_rank = {"san_top_k": top_k}, {"expert_sharing": "low_rank"}
    return {"full": {}, f"k = {top_k}": few, "low rank": low_rank, f"k = {top_k}, low rank": few | low_rank}


def compare_unknown(names: list[str], scenarios: list[int], row_counts: list[int]) -> None:
    """Print the time of rows of an unknown scenario."""
    print("| model | M | rows at once | one pass, ms a row | M passes | times |\n|---|---|---|---|---|---|")
    for m in scenarios:
        with tempfile.TemporaryDirectory() as folder:
            write_data(Path(folder, "many"), m)
            for name in names:
                model, train = make_model(name, Path(folder))
                for rows in row_counts:
                    x = model.embed(train.inter_feat[torch.arange(rows) % len(train)]).detach()
                    times = [[milliseconds(model, x, way) for way in (True, False)] for _ in range(ROUNDS)]
                    new, old = (min(way) for way in zip(*times, strict=True))
                    print(f"| {name} | {m} | {rows} | {new:.3f} | {old:.3f} | {old / new:.1f} |", flush=True)


def step_seconds(model: Any, optimiser: torch.optim.Optimizer, rows: Any) -> float:
    """Return the processor time of one training step."""
    start = time.process_time()
    optimiser.zero_grad()
    model.calculate_loss(rows).backward()
    optimiser.step()
    return time.process_time() - start


def compare_training(scenarios: list[int], top_k: int, n_rows: int, steps: int) -> None:
    """Print the rows a second of training steps."""
    print("| M | side | parameters | rows/s | times the full one |\n|---|---|---|---|---|")
    for m in scenarios:
        with tempfile.TemporaryDirectory() as folder:
            write_data(Path(folder, "many"), m)
            made = {side: make_model("HiNet", Path(folder), **given) for side, given in sides(top_k).items()}
            generator = torch.Generator().manual_seed(0)
            seconds: dict[str, list[float]] = {side: [] for side in made}
            optimisers = {side: torch.optim.Adam(model.train().parameters()) for side, (model, _) in made.items()}
            for _ in range(steps):
                for side, (model, train) in made.items():
                    rows = train.inter_feat[torch.randint(len(train), (n_rows,), generator=generator)]
                    seconds[side].append(step_seconds(model, optimisers[side], rows))
            for side, (model, _) in made.items():
                n, times = sum(p.numel() for p in model.parameters()), min(seconds["full"]) / min(seconds[side])
                print(f"| {m} | {side} | {n:,} | {n_rows / min(seconds[side]):,.0f} | {times:.1f} |", flush=True)


def compare_quality(top_k: int, seeds: int, source: Path) -> None:
    """Print the test AUCs on KuaiRand by the hour of the day, if its raw data are there."""
    if not list(present(["kuairand"], source)):
        return
    print("| side | AUC of the clicks, all rows | mean of the cells | seconds |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as work:
        dataset, config = prepare("kuairand", Path(work, "data"), source=source)
        config |= {"scenario": {"field": "hour"}, "load_col": {"inter": ["user_id", "item_id", "length"]}}
        config |= {"threads": 1, "use_gpu": False, "show_progress": False, "state": "ERROR", "data_seed": 1}
        for side, given in sides(top_k).items():
            found = []
            for seed in range(1, seeds + 1):
                own = {"seed": seed, "output_dir": str(Path(work, f"{side} {seed}"))}
                result = recbole_msr.run("HiNet", dataset, config=config | given | own)
                assert result.test is not None
                flat = result.test.flat()
                found.append([flat["auc"], flat["auc/macro"], result.summary["seconds"]["train"]])
            (auc, macro, seconds), (auc_std, macro_std, _) = np.mean(found, axis=0), np.std(found, axis=0, ddof=1)
            print(f"| {side} | {auc:.4f} ± {auc_std:.4f} | {macro:.4f} ± {macro_std:.4f} | {seconds:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=["unknown", "training", "quality"], default="unknown")
    parser.add_argument("--models", nargs="+", default=["HiNet", "STAR", "SharedBottom", "PLE"])
    parser.add_argument("--scenarios", nargs="+", type=int, default=[10, 150])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--top_k", type=int, default=4)
    parser.add_argument("--batch", type=int, default=2048, help="rows of a training step")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder of the raw data, for the quality")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    if given.what == "training":
        compare_training(given.scenarios, given.top_k, given.batch, given.steps)
    elif given.what == "quality":
        compare_quality(given.top_k, given.seeds, given.source)
    else:
        compare_unknown(given.models, given.scenarios, given.rows)


if __name__ == "__main__":
    main()
