"""A run a day: beginning with yesterday's run (`init_from`, `only_new`) beside training anew on all days.

    python -m benchmarks.next_day [--model=SharedBottom] [--days=7] [--seeds=5] [--data=DIR]

Method. KuaiRand's log, by its column date. Each evening a model is trained on the rows until then and tested on those
of the next day, which it has not seen. Of the rows until then the last tenth of the newest day is for validation
(early stopping, patience 2); so it trains on it the day after. Scenario: the quarter of the day; tasks is_click and
long_view. Sides, in turn:

- anew: all days so far, from a new model;
- one day: the newest day alone, from a new model;
- warm: the newest day alone, from yesterday's warm run;
- warm, optimiser: the same with the state of its optimiser.

All sides have the same settings, one thread. Prints as Markdown the pooled AUC of the next day's clicks, mean over the
seeds; the deviation over seeds of the mean of all days but the first; and the processor's seconds of all evenings but
the first (reading, training, test). The first evening is the same training for all.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.outside_data import SOURCE

SIDES = ("anew", "one day", "warm", "warm, optimiser")
SETTINGS: dict[str, Any] = {
    "columns": {"user": "user_id", "item": "video_id", "time": "time_ms"},
    "types": {"quarter": "token", "length": "token"},
    "scenario": {"field": "quarter"},
    "tasks": {"is_click": {"field": "is_click"}, "long_view": {"field": "long_view"}},
    "valid_metric": "AUC",
    **{"epochs": 30, "stopping_step": 2, "train_batch_size": 512, "learning_rate": 0.002},
    **{"threads": 1, "use_gpu": False, "packed_cache": False, "show_progress": False, "state": "ERROR"},
    "metrics": ["AUC", "LogLoss"],
}


def read_log(folder: Path) -> pd.DataFrame:
    """Return KuaiRand's rows in the order of time, with the quarter of the day.

    Raises:
        FileNotFoundError: the log is not there.
    """
    rows = pd.read_csv(folder / "kuairand" / "log.csv.gz")
    rows["quarter"] = np.array(["night", "morning", "afternoon", "evening"])[rows["hourmin"] // 600]
    rows["length"] = np.log2(1 + rows["duration_ms"] / 1000).round().astype(int)  # twice as long, one more
    kept = ["user_id", "video_id", "time_ms", "quarter", "length", "is_click", "long_view", "date"]
    return rows[kept].sort_values("time_ms", kind="stable").reset_index(drop=True)


def parts(rows: pd.DataFrame, day: int, since: int) -> dict[str, pd.DataFrame]:
    """Return the rows to train on, to validate with and to test on, in the evening of a day.

    Args:
        rows: all.
        day: number of the day, from 0.
        since: the first day that is trained on.
    """
    days = np.sort(rows["date"].unique())
    of_day = rows["date"].map({date: number for number, date in enumerate(days)}).to_numpy()
    newest = np.flatnonzero(of_day == day)
    valid = newest[-(len(newest) // 10) :]
    train = np.flatnonzero((of_day >= since) & (of_day <= day))
    train = train[train < valid[0]]
    chosen = {"train": train, "valid": valid, "test": np.flatnonzero(of_day == day + 1)}
    return {name: rows.iloc[places].drop(columns="date") for name, places in chosen.items()}


def evening(model: str, rows: pd.DataFrame, day: int, side: str, seed: int, folder: Path) -> dict[str, float]:
    """Train in the evening of a day; return the next day's AUC, the processor's seconds, and the rows trained on."""
    import recbole_msr

    settings = SETTINGS | {"seed": seed}
    since = day if side == "one day" else 0
    if side.startswith("warm"):
        settings["save_optimizer"] = side != "warm"
        if day:
            # The table has all days; only_new leaves those after the last row that yesterday's run was trained on.
            settings |= {"init_from": str(folder / f"{side} {day - 1}"), "only_new": True}
            settings["init_optimizer"] = side != "warm"
    # Ready-made splits are cut by only_new, too: validation and test rows are later anyway.
    settings |= {"data": parts(rows, day, since), "dataset": "kuairand", "output_dir": str(folder / f"{side} {day}")}
    began = time.process_time()
    result = recbole_msr.run(model, config=settings | {"cache_dir": str(folder / "cache")})
    seconds = time.process_time() - began
    assert result.test is not None
    return {"auc": result.test.flat()["auc"], "seconds": seconds, "rows": result.summary["rows"]["train"]}


def main() -> None:
    """Train every side on every day and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="SharedBottom")
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=5, help="how often each training is done, with seeds 1, 2, ...")
    parser.add_argument("--data", type=Path, default=SOURCE, help="the folder of kuairand/log.csv.gz")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    rows = read_log(given.data)
    found = {name: np.zeros((len(SIDES), given.seeds, given.days)) for name in ("auc", "seconds", "rows")}
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as work:
            for day in range(given.days):
                for number, side in enumerate(SIDES):
                    trained = evening(given.model, rows, day, side, seed + 1, Path(work))
                    for name, values in found.items():
                        values[number, seed, day] = trained[name]
                    print(f"seed {seed + 1}, day {day + 1}, {side}: " + json.dumps(trained), flush=True)
    print("\n".join(["", *table(**found)]))


def table(auc: np.ndarray, seconds: np.ndarray, rows: np.ndarray) -> list[str]:
    """Return the lines of a table.

    Args:
        auc: of the next day, by side, seed and day.
        seconds: of the processor, likewise.
        rows: that were trained on, likewise.
    """
    days = auc.shape[2]
    tested = [f"day {day + 2}" for day in range(days)]
    lines = ["| AUC of clicks on | " + " | ".join(tested) + f" | mean of days 3 to {days + 1} | seconds | rows |"]
    lines.append("|---" + "|---:" * (days + 3) + "|")
    for number, side in enumerate(SIDES):
        later = auc[number, :, 1:].mean(axis=1)  # one value a seed; the first evening is the same for all sides
        cells = [f"{value:.3f}" for value in auc[number].mean(axis=0)]
        cells.append(f"{later.mean():.4f} ± {later.std(ddof=1) if len(later) > 1 else 0:.4f}")
        cells.append(f"{seconds[number, :, 1:].sum(axis=1).mean():.1f}")
        lines.append(f"| {side} | " + " | ".join([*cells, f"{rows[number, 0, 1:].sum():,.0f}"]) + " |")
    return lines


if __name__ == "__main__":
    main()
