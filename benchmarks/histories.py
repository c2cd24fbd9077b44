"""What histories cost: building those of a million rows, and training with them.

    python -m benchmarks.histories

Prints seconds and memory of building, and for each pooling the training rate beside that without histories
(SharedBottom on ml-100k, histories of 50 with item and classes, one thread). Each stretch of steps is measured in turn
for all, and the median counts.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from typing import Any

import numpy as np
import torch

ROWS, USERS, ITEMS = 1_000_000, 50_000, 100_000
BATCH, STEPS, STRETCHES = 2048, 15, 5
HISTORY = {"history": {"fields": ["item_id", "class"], "length": 50}}
WAYS: dict[str, dict[str, Any]] = {
    "without": {},
    **{pooling: HISTORY | {"history_pooling": pooling} for pooling in ("mean", "sum", "target_attention")},
}


def building() -> dict[str, float]:
    """Return seconds and MiB that building the histories of a million rows takes beyond the rows themselves."""
    from recbole_msr.data.history import HistoryRows

    draw = np.random.default_rng(1)
    users = torch.from_numpy((USERS * draw.random(ROWS) ** 2).astype(np.int64) + 1)
    items, times = torch.from_numpy(draw.integers(1, ITEMS, ROWS)), draw.integers(10**9, 2 * 10**9, ROWS) * 1.0
    none, before, began = torch.zeros_like(users), _peak(), time.perf_counter()
    rows = HistoryRows.from_rows(users, none, torch.arange(ROWS), times, {"item_id": items})
    rows.find(users, none, times)
    return {"seconds": time.perf_counter() - began, "MiB": _peak() - before}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def training() -> dict[str, float]:
    """Return training rows a second of processor time, by pooling."""
    from recbole.data import create_dataset
    from recbole.utils import get_model

    from recbole_msr.config.build import build_config
    from recbole_msr.data.packed import PackedTable
    from recbole_msr.training.fast_paths import prepare_model
    from recbole_msr.training.optimizers import build_optimizer, parameter_groups

    ready = {}
    with tempfile.TemporaryDirectory() as cache:
        given = {"use_gpu": False, "state": "ERROR", "cache_dir": cache}
        for name, way in WAYS.items():
            config = build_config("SharedBottom", "ml-100k", given | way)
            train = create_dataset(config).build()[0]
            model = get_model("SharedBottom")(config, train).train()
            prepare_model(model, config)
            ready[name] = (PackedTable(train), model, build_optimizer(parameter_groups(model, config), config))
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(STRETCHES + 1):
        for name, (table, model, optimizer) in ready.items():
            order = torch.randperm(len(table)).split(BATCH)[:STEPS]
            began = time.process_time()
            for rows in order:
                optimizer.zero_grad()
                model.calculate_loss(table.batch(rows)).backward()
                optimizer.step()
            seconds[name].append(time.process_time() - began)
    return {name: BATCH * STEPS / statistics.median(times[1:]) for name, times in seconds.items()}


def main() -> None:
    """Measure both, and print them as Markdown."""
    torch.set_num_threads(1)
    found = building()
    print(f"{ROWS:,} rows, {USERS:,} users: histories built in {found['seconds']:.2f} s, {found['MiB']:.0f} MiB\n")
    rates = training()
    print("| history_pooling | rows a second | to without |\n|---|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:,.0f} | {rate / rates['without']:.2f} |")


if __name__ == "__main__":
    main()
