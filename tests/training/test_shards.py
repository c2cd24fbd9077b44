"""Several processes that train on one mapped table: each reads the rows of blocks of its own."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from recbole_msr.data.block_order import BLOCK_ROWS

ROWS = 20_000
TRAIN = """
import json, sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from recbole.data import create_dataset
from recbole.utils import get_model

from recbole_msr.config.build import build_config
from recbole_msr.data.tables.dataset import place_tables
from recbole_msr.training.module import PackedData, RecModule


class Look(pl.Callback):
    # Keeps which rows this process is given in each epoch.

    def __init__(self, path):
        self.path, self.rows = path, []

    def on_train_epoch_start(self, trainer, module):
        self.rows.append([])

    def on_train_batch_start(self, trainer, module, batch, number):
        self.rows[-1] += batch["number"][:, 0].long().tolist()

    def on_train_end(self, trainer, module):
        kept = [None] * trainer.world_size
        torch.distributed.all_gather_object(kept, self.rows)
        if trainer.is_global_zero:
            Path(self.path).write_text(json.dumps(kept))


given = place_tables(json.loads(Path("settings.json").read_text()))
name = given.pop("dataset")
for shuffle in ("blocks", True):
    config = build_config("SharedBottom", name, given | {"shuffle": shuffle})
    train, _, _ = create_dataset(config).build()
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy="ddp_fork", max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, limit_val_batches=0,
        callbacks=[Look(f"{shuffle}.json")],
    )
    module = RecModule(get_model("SharedBottom")(config, train), config)
    trainer.fit(module, datamodule=PackedData(config, {"train": train, "valid": None}))
    Path("order.json").write_text(json.dumps(train.inter_feat["number"][:, 0].long().tolist()))
"""


@pytest.mark.slow
def test_each_of_two_processes_reads_its_part_of_the_table_only(tmp_path):
    """Two real processes, one Parquet file: with blocks no row is near one of the other, in other parts each epoch."""
    draw = np.random.default_rng(0)
    columns = {"user_id": draw.integers(0, 50, ROWS), "item_id": draw.integers(0, 50, ROWS)}
    columns |= {"number": np.arange(ROWS, dtype=float), "click": draw.integers(0, 2, ROWS)}
    pd.DataFrame(columns).to_parquet(tmp_path / "rows.parquet")
    settings = {"data": "rows.parquet", "dataset": "rows", "cache_dir": "cache", "tasks": {"click": {"field": "click"}}}
    settings |= {"numerical_features": ["number"], "train_batch_size": 1000, "bottom_hidden_sizes": [4]}
    settings |= {"tower_hidden_sizes": [2], "embedding_size": 2, "use_gpu": False, "threads": 1, "state": "ERROR"}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    (tmp_path / "train.py").write_text(TRAIN)
    done = subprocess.run(
        [sys.executable, "train.py"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    order = json.loads((tmp_path / "order.json").read_text())
    place = {number: row for row, number in enumerate(order)}
    blocks = -(-len(order) // BLOCK_ROWS)
    seen = {}
    for shuffle in ("blocks", "True"):
        of_processes = json.loads((tmp_path / f"{shuffle}.json").read_text())
        for epoch in range(2):
            first, second = ([place[number] for number in rows[epoch]] for rows in of_processes)
            assert sorted(first + second) == list(range(len(order))), "every row once, by one of them"
            own = [{row // BLOCK_ROWS for row in rows} for rows in (first, second)]
            shared = len(own[0] & own[1])
            assert shared <= 1 if shuffle == "blocks" else shared == blocks, shuffle
            seen[shuffle, epoch] = own[0]
    assert seen["blocks", 0] != seen["blocks", 1]
