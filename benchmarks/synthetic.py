"""A large multi-scenario, multi-task dataset as an atomic file, made of a planted model.

12 token fields (user_id, item_id, token_1 ... token_10), 2 float fields, 8 scenarios, the labels click and buy. Ids are
uneven: a field's most frequent ones stand in hundreds of times as many rows as its rarest. Every id of every field has
an effect on either task, a scenario weighs the fields in its own way, and labels are drawn from the logistic of the
sum: so that an AUC says whether a model has learnt something, and scenarios differ.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv

NAME = "synthetic"
TOKENS = ("user_id", "item_id", *(f"token_{n}" for n in range(1, 11)))
FLOATS = ("float_1", "float_2")
TASKS = ("click", "buy")
N_SCENARIOS = 8

SETTINGS: dict[str, Any] = {
    "load_col": None,
    "scenario": {"field": "scenario"},
    "tasks": {task: {"field": task} for task in TASKS},
    "main_task": "click",
    "numerical_features": list(FLOATS),
    "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": None, "mode": "labeled"},
    "metrics": ["AUC", "LogLoss"],
    "valid_metric": "AUC",
    "train_neg_sample_args": None,
}
"""What a configuration says of it."""


def make(folder: Path, rows: int = 2_000_000, ids: int = 100_000, seed: int = 2022) -> Path:
    """Write `folder/synthetic/synthetic.inter`, unless it is there with the same arguments.

    Args:
        folder: what is to be `data_path`.
        rows: rows of the file.
        ids: ids of each token field.
        seed: of all random numbers.

    Returns:
        The folder.
    """
    spec = {"rows": rows, "ids": ids, "seed": seed, "version": 1}
    target = folder / NAME
    spec_file = target / "spec.json"
    if spec_file.is_file() and json.loads(spec_file.read_text()) == spec:
        return folder
    target.mkdir(parents=True, exist_ok=True)
    spec_file.unlink(missing_ok=True)
    columns = draw(rows, ids, seed)
    kinds = {**dict.fromkeys((*TOKENS, "scenario"), "token"), **dict.fromkeys((*FLOATS, *TASKS), "float")}
    temporary = target / f".{os.getpid()}"
    with open(temporary, "wb") as file:
        file.write(("\t".join(f"{name}:{kinds[name]}" for name in columns) + "\n").encode())
        csv.write_csv(
            pa.table(columns), file, csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
        )
    temporary.replace(target / f"{NAME}.inter")
    spec_file.write_text(json.dumps(spec))
    return folder


def draw(rows: int, ids: int, seed: int) -> dict[str, np.ndarray]:
    """The columns of the file: token ids 1..ids, scenarios 1..8, floats, labels 0 and 1."""
    rng = np.random.default_rng(seed)
    shares = np.linspace(2, 1, N_SCENARIOS)
    scenario = rng.choice(N_SCENARIOS, rows, p=shares / shares.sum())
    columns: dict[str, np.ndarray] = {}
    logits = {task: np.zeros(rows, dtype=np.float32) for task in TASKS}
    for field in TOKENS:
        # Squared: id 0 has 1 / sqrt(ids) of the rows, the last ones half of an even share.
        drawn = (ids * rng.random(rows, dtype=np.float32) ** 2).astype(np.int32).clip(max=ids - 1)
        common = rng.standard_normal(ids, dtype=np.float32)
        for task in TASKS:
            effect = 0.8 * common + 0.6 * rng.standard_normal(ids, dtype=np.float32)
            weight = rng.uniform(0.3, 0.7, N_SCENARIOS).astype(np.float32)
            logits[task] += weight[scenario] * effect[drawn]
        columns[field] = drawn + 1
    columns["scenario"] = scenario + 1
    for field in FLOATS:
        value = rng.random(rows).round(4)
        for task in TASKS:
            logits[task] += rng.normal(0, 1) * (value - 0.5).astype(np.float32)
        columns[field] = value
    for task, base in zip(TASKS, (-0.5, -1.5), strict=True):
        own = rng.normal(base, 0.4, N_SCENARIOS).astype(np.float32)
        chance = 1 / (1 + np.exp(-(logits[task] + own[scenario])))
        columns[task] = (rng.random(rows, dtype=np.float32) < chance).astype(np.int8)
    return columns
