"""A log as Parquet, made here, and what preparing it costs: beside its atomic files, and from 5 to 20 million rows.

And the memory of training on it from the cache, with 2 million users.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import CLOCKS, peak_gb

ROWS = 2_000_000
SIZES = (5_000_000, 20_000_000)
USERS, ITEMS = 200_000, 50_000
MANY_USERS = 2_000_000
RESIDENT_GIB = 6
"""What training may hold with so many users, on the smaller of the sizes."""
GROWTH = 1.3
"""What the peak of memory may grow by from the smaller to the larger of the sizes."""
_PART = 1_000_000
_STEP = 611_953
"""A prime number: steps of it visit every user before one again."""
_SETTINGS: dict[str, Any] = {
    "tasks": {"click": {"field": "click"}},
    "scenario": {"field": "tab"},
    "numerical_features": ["price"],
    "dataset": "events",
}


def make(folder: Path, rows: int, users: int | None = None) -> Path:
    """Write a log of 7 columns and its users and items; return the log's file.

    Args:
        folder: for the files; those that are there already are used.
        rows: of the log.
        users: how many there are, each with as many rows; by default `USERS`, some with far more rows than others.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"events-{rows}{'' if users is None else f'-{users}'}.parquet"
    if file.is_file():
        return file
    of_users = {"user_id": np.arange(USERS), "age": draw.integers(15, 80, USERS), "city": draw.integers(0, 300, USERS)}
    items = {"item_id": np.arange(ITEMS), "category": draw.integers(0, 100, ITEMS), "length": draw.random(ITEMS)}
    for name, columns in (("users", of_users), ("items", items)):
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    temporary, writer = folder / f".{file.name}", None
    for start in range(0, rows, _PART):
        count = min(_PART, rows - start)
        columns = {
            "user_id": (USERS * draw.random(count) ** 2).astype(np.int64)
            if users is None
            else np.arange(start, start + count) * _STEP % users,
            "item_id": (ITEMS * draw.random(count) ** 2).astype(np.int64),
            "hour": draw.integers(0, 24, count),
            "tab": draw.integers(0, 8, count),
            "timestamp": 1.7e9 + np.arange(start, start + count) / 7,
            "price": draw.random(count).round(4),
            "click": (draw.random(count) < 0.3).astype(np.int8),
        }
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(temporary, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()
    temporary.replace(file)
    return file


def prepare(file: str, atomic: bool = False, beside: Sequence[str] = (), **settings: Any) -> dict[str, Any]:
    """From a log to its splits in packed tables, with an empty cache; the reading of the configuration is not counted.

    Args:
        file: the log.
        atomic: from its atomic file, which `write_atomic` has written.
        beside: "users" and "items", whose tables are taken too.
        settings: of the run, beside those of the log.

    Returns:
        Seconds of wall time and of processor time, rows of the splits, and the peak of the process's memory.
    """
    from recbole.data import create_dataset

    from benchmarks.measure import imports
    from recbole_msr.config.build import build_config
    from recbole_msr.data.tables.dataset import place_tables

    imports(recbole=False)
    given = {**_SETTINGS, **settings, "checkpoint_dir": os.getcwd()}
    if atomic:
        given |= {"data_path": str(_atomic(file)), "load_col": None}
    taken = dict.fromkeys(CLOCKS, 0.0)

    def timed(function: Callable[..., Any], *arguments: Any) -> Any:
        begin = {name: clock() for name, clock in CLOCKS.items()}
        result = function(*arguments)
        for name, clock in CLOCKS.items():
            taken[name] += clock() - begin[name]
        return result

    given = given if atomic else timed(place_tables, {**given, **_tables(file, beside)})
    config = build_config("SharedBottom", given.pop("dataset"), given)
    splits = timed(lambda: create_dataset(config).build())
    return {"seconds": taken["wall"], "processor": taken["cpu"], "peak_gb": peak_gb(), "rows": list(map(len, splits))}


def train(file: str, gradients: str, batch: int = 16_384) -> dict[str, Any]:
    """Train SharedBottom for an epoch on a log that is prepared already, and evaluate it.

    Args:
        file: the log.
        gradients: of the embeddings, dense or sparse.
        batch: rows of a step.

    Returns:
        Seconds of training, the peak of the process's memory, what of it was there before the run, training rows, and
        what dense Adam holds of all weights: each with its gradient and two moments, 4 bytes each.
    """
    import torch

    import recbole_msr
    from benchmarks.measure import imports

    imports(recbole=False)
    before = peak_gb()
    given = {**_SETTINGS, **_tables(file), "epochs": 1, "train_batch_size": batch, "eval_batch_size": batch}
    given |= {"embedding_gradients": gradients, "shuffle": "blocks", "output_dir": os.path.abspath("run")}
    given |= {"threads": 1, "use_gpu": False, "show_progress": False, "state": "ERROR"}
    run = recbole_msr.run("SharedBottom", config=given)
    found = {"seconds": run.summary["seconds"]["train"], "peak_gb": peak_gb(), "before_gb": before}
    weights = torch.load(run.folder / "best.ckpt", weights_only=True)["state_dict"].values()
    return found | {"rows": run.summary["rows"]["train"], "dense_gb": 4 * 4e-9 * sum(map(torch.numel, weights))}


def write_atomic(file: str) -> dict[str, Any]:
    """Write the atomic file of a log, for `prepare`."""
    from recbole_msr.data.tables.dataset import write_dataset

    if not _atomic(file).is_dir():
        write_dataset({**_SETTINGS, **_tables(file)}, _atomic(file))
    return {}


def _atomic(file: str) -> Path:
    return Path(file).parent / f"atomic-{Path(file).stem}"


def _tables(file: str, beside: Sequence[str] = ()) -> dict[str, str]:
    return {"data": file, **{name: str(Path(file).with_name(f"{name}.parquet")) for name in beside}}
