"""AutoIFS with its authors' sizes and training on MovieLens-1M, beside HiNet, SharedBottom and STAR on the same rows.

    python -m benchmarks.autoifs_ml_1m --work=DIR [--rows N] [--seeds 1] [--search EPOCHS]

Method. `recbole_msr.compare` with the fields, labels and scenarios of the preset ml-1m-AutoIFS, rows split 8:1:1, batch
4096, one thread; judged by the mean test AUC of the six cells (three ages, click and like), as the paper does. AutoIFS
has that preset's sizes and rates, and ten epochs of search; the others have their defaults. All train for 60 epochs at
most, and stop after the third without a gain (AutoIFS's authors: after the first). `--rows` keeps whole users, drawn at
random. `--search` also searches across models, in as many epochs of all its trials together as AutoIFS trains for its
one model, those on a share of the rows counted as this share; its confirmation and final test, with as many seeds, come
on top. Finished trainings are kept; the same command resumes.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import torch

import recbole_msr
from benchmarks.anytime import of_search
from benchmarks.leaderboard import SETTINGS, table
from benchmarks.outside_data import SOURCE, prepare, present
from recbole_msr.files.yaml import read_yaml
from recbole_msr.registry import properties

DATA_KEYS = (
    *("scenario", "tasks", "main_task", "load_col", "item_inter_num_interval", "numerical_features"),
    *("normalize_field", "eval_args", "valid_metric", "train_batch_size", "eval_batch_size"),
)
"""What the preset says of data, batches and evaluation; the rest is of AutoIFS alone."""


def settings() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the keys of all entries, and those of AutoIFS."""
    preset = read_yaml(properties("dataset", "ml-1m-AutoIFS.yaml"))
    del preset["stopping_step"]
    common = {key: preset.pop(key) for key in DATA_KEYS}
    return common | SETTINGS | {"epochs": preset.pop("epochs"), "stopping_step": 2}, preset


def searched(dataset: str, config: dict[str, Any], epochs: int, seeds: int, output: Path) -> str:
    """Search across models in so many epochs of all trials, and return what came of it as a row of Markdown.

    Args:
        dataset: name of the data set.
        config: the keys of every trial.
        epochs: of all trials together.
        seeds: fresh seeds of confirmation and final test.
        output: the search's folder.
    """
    config = config | {"valid_metric": "auc/macro"}
    found = recbole_msr.search(
        None, dataset, models="auto", total_epochs=epochs, final_seeds=seeds, config=config, output=output,
        wandb="disabled", progress=False,
    )  # fmt: skip
    result, summary = of_search(output), found.summary
    row = f"| search, {epochs} epochs: {summary['model']} | {result['test']:.4f} | {summary['seconds']:.0f} |"
    ensemble = result["ensemble"]
    if ensemble is None:
        return row
    return f"{row}\n| - its ensemble of {ensemble['members']} | {ensemble['test']:.4f} | |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder for data and comparisons")
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder of the raw data")
    parser.add_argument("--rows", type=int, help="rows of whole users at most; all by default")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--search", type=int, metavar="EPOCHS", help="search across models too, in so many epochs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    common, own = settings()
    entries = {name: {"model": name} for name in ("SharedBottom", "STAR", "HiNet")}
    entries["AutoIFS"] = {"model": "AutoIFS", **own}
    for name in present(["ml-1m"], given.source):
        dataset, config = prepare(name, given.work / "data", rows=given.rows, source=given.source)
        compared = recbole_msr.compare(
            entries, dataset, config=config | common, seeds=given.seeds, output=given.work / dataset, progress=False
        )
        print(f"\n{dataset}, {given.seeds} seeds\n\n{table(compared)}\n")
        print("\n".join(compared.verdict), flush=True)
        if given.search is not None:
            output = given.work / f"{dataset}-search-{given.search}"
            row = searched(dataset, config | common, given.search, given.seeds, output)
            print(f"\n| what | auc/macro | seconds |\n|---|---:|---:|\n{row}", flush=True)


if __name__ == "__main__":
    main()
