"""Epoch by epoch, what denormal numbers cost a long training: with the mode that flushes them to 0, and without it.

Method. HiNet with its defaults on ml-1m (`benchmarks/outside_data.py`, all rows), one thread, the same seed twice: as
the package trains, and with PyTorch's mode turned off at the beginning of every epoch. The table has each epoch's
seconds, and whether both trainings have the same validation AUC to six digits.

    python -m benchmarks.denormals --work=DIR [--source=DATA] [--model HiNet] [--set ml-1m] [--epochs 12]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pytorch_lightning import Callback

import recbole_msr
from benchmarks.outside_data import DATASETS, SOURCE, prepare
from benchmarks.process import machine


class KeepDenormals(Callback):
    """Turns the mode off for each epoch."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Turn it off."""
        torch.set_flush_denormal(False)


def main() -> None:
    """Train both, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("denormals"), help="where data and runs are kept")
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder of the raw data")
    parser.add_argument("--model", default="HiNet")
    parser.add_argument("--set", default="ml-1m", choices=DATASETS)
    parser.add_argument("--epochs", type=int, default=12)
    given = parser.parse_args()
    dataset, config = prepare(given.set, given.work / "data", source=given.source)
    epochs = {}
    for name, callbacks in (("flushed", []), ("kept", [KeepDenormals()])):
        folder = given.work / f"{given.model}-{dataset}-{name}"
        own = {"data_path": str(given.work / "data"), "output_dir": str(folder), "epochs": given.epochs, "threads": 1}
        if not (folder / "result.json").is_file():
            recbole_msr.run(given.model, dataset, config={**config, **own, "show_progress": False}, callbacks=callbacks)
        epochs[name] = pd.read_csv(folder / "metrics.csv")
    print(json.dumps(machine()))
    print("| epoch | seconds, flushed | seconds, kept | ratio | same AUC |")
    print("|---:|---:|---:|---:|---|")
    for (_, flushed), (_, kept) in zip(epochs["flushed"].iterrows(), epochs["kept"].iterrows(), strict=False):
        ratio, same = kept["seconds"] / flushed["seconds"], flushed["valid/auc"] == kept["valid/auc"]
        seconds = f"{flushed['seconds']:.1f} | {kept['seconds']:.1f}"
        print(f"| {flushed['epoch']:.0f} | {seconds} | {ratio:.2f} | {'yes' if same else 'no'} |")


if __name__ == "__main__":
    main()
