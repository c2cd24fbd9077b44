"""Every model of this package beside RecBole's context-aware ones: defaults, then the best after a search.

    python -m benchmarks.leaderboard --work=DIR [--sets yelp kuairand] [--rows 30000] [--seeds 3] [--best 5]

Method. `recbole_msr.compare` on the datasets of `benchmarks.outside_data`, on one thread: the same rows and split, and
the epochs and patience of the reference, SharedBottom, for all. The best `--best` by the macro AUC on the validation
rows, and the reference, are compared again with a search of `--search` each over their own spaces (`--best 0`: no
searches). A model of one task is trained, and searched, once for each task. Differences are to SharedBottom, over rows
and seeds; p is corrected by Holm. LLM4MSR is left out: it needs knowledge (`compare --knowledge-ablation`).

Prints tables in Markdown; the pages stay in `--work`. Finished trainings are kept there; the same command resumes.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import recbole_msr
from benchmarks.outside_data import SOURCE, prepare, present
from recbole_msr.comparison.run import CompareResult
from recbole_msr.registry import registered_models

RECBOLE = ("FM", "WideDeep", "DeepFM", "DCNV2", "AutoInt", "xDeepFM")
REFERENCE = "SharedBottom"
SETTINGS = {"use_gpu": False, "show_progress": False, "state": "ERROR", "threads": 1, "data_seed": 1}

COLUMNS = ["label", "auc/macro", "deviation.auc/macro", "difference", "difference_low", "difference_high"]
COLUMNS += ["p_adjusted", "parameters", "train_seconds"]
_FORMATS = ("", *[".4f"] * 5, ".2f", ",.0f", ".0f")


def models() -> list[str]:
    """Return the models that are compared, the reference first."""
    own = [name for name in registered_models() if name not in (REFERENCE, "LLM4MSR")]
    return [REFERENCE, *own, *RECBOLE]


def table(compared: CompareResult, more: Sequence[str] = ()) -> str:
    """Return a comparison's leaderboard in Markdown, the best on test first; with more qualities behind the label."""
    formats = (_FORMATS[0], *[".4f"] * len(more), *_FORMATS[1:])
    return compared.leaderboard[[COLUMNS[0], *more, *COLUMNS[1:]]].to_markdown(index=False, floatfmt=formats)


def best(compared: CompareResult, count: int) -> list[str]:
    """Return the reference and the best others by the macro AUC on the validation rows."""
    values = {
        entry["label"]: entry["valid"]["auc/macro"]["mean"]
        for entry in compared.summary["entries"]
        if entry["label"] != REFERENCE and entry["valid"].get("auc/macro")
    }
    return [REFERENCE, *sorted(values, key=lambda label: -values[label])[:count]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder for data and comparisons")
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder of the raw data")
    parser.add_argument("--sets", nargs="+", default=["yelp", "kuairand"])
    parser.add_argument("--models", nargs="+", choices=models(), default=models(), help="SharedBottom among them")
    parser.add_argument("--rows", type=int, default=30_000, help="rows of whole users at most")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--best", type=int, default=5, help="how many are searched besides the reference")
    parser.add_argument("--search", default="5m", help="time of each search")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    for name in present(given.sets, given.source):
        dataset, config = prepare(name, given.work / "data", rows=given.rows, source=given.source)
        common: dict[str, Any] = {"config": config | SETTINGS, "seeds": given.seeds, "reference": REFERENCE}
        compared = recbole_msr.compare(
            given.models, dataset, output=given.work / f"{name}-defaults", progress=False, **common
        )
        print(f"\n{name}, {given.rows} rows at most, {given.seeds} seeds, defaults\n\n{table(compared)}\n")
        print("\n".join(compared.verdict), flush=True)
        if not given.best:
            continue
        searched = recbole_msr.compare(
            best(compared, given.best), dataset, timeout=given.search, output=given.work / f"{name}-searched",
            progress=False, **common,
        )  # fmt: skip
        print(f"\n{name}, the best after a search of {given.search} each\n\n{table(searched)}\n")
        print("\n".join(searched.verdict), flush=True)


if __name__ == "__main__":
    main()
