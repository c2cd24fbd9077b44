"""A comparison as pandas tables: the leaderboard, every value of every seed, every difference; and all as files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_msr.files.atomic import write_atomically
from recbole_msr.files.spreadsheet import write_csv
from recbole_msr.report.comparison.latex_markdown import latex, markdown
from recbole_msr.report.comparison.tables import headline, known_keys, ranked

if TYPE_CHECKING:
    import pandas as pd

_SPREADS = ("train_seconds", "rows_per_second", "epochs")
_DIFFERENCE_TYPES = {  # field of a difference: its type in a table
    "mean": "float64",
    "low": "float64",
    "high": "float64",
    "row_error": "float64",
    "seed_error": "float64",
    "degrees": "float64",
    "p_rows": "float64",
    "p_seeds": "float64",
    "p": "float64",
    "p_adjusted": "float64",
    "significant": "boolean",
    "better": "boolean",
    "worse": "boolean",
    "seeds": "Int64",
}


def leaderboard_frame(summary: Mapping[str, Any]) -> pd.DataFrame:
    """Return a line an entry: the best macro AUC on test first, then those without one, the failed ones last.

    The columns depend on the scenarios and tasks alone, in this order:

    - `label`, `model`, `kind`, `status`, `reference` (true for one), `seeds` (how many have all tasks);
    - for every metric key of the test `KEY` (mean over the seeds) and `deviation.KEY` (sample deviation; empty for one
      seed): `auc/macro`, `auc/worst`, then for each task `auc/TASK` (all rows) and `auc/TASK/macro`, for each cell
      `auc/SCENARIO/TASK`, and for each segment `auc/SEGMENT/TASK`; the same with every other metric;
    - `worst_scenario`, `worst_task`: the cell with the lowest AUC;
    - the difference to the reference on auc/macro: `difference`, `difference_low`, `difference_high` (95 %, not
      corrected), `p_adjusted` (Holm), `significant`;
    - negative transfer, joint training minus training alone, on AUC: `transfer` (macro), `transfer_low`,
      `transfer_high`, `transfer_p_adjusted`, `transfer_significant`; for each scenario `transfer.SCENARIO`, the plain
      mean over its tasks;
    - `parameters`, `flops` (one row's forward), `latency_1`, `latency` (milliseconds, 1 and 4096 rows);
      `train_seconds`, `rows_per_second`, `epochs`, each a mean over the seeds with its `deviation.`;
    - `search_seconds`, `search_trials`, `search_epochs`;
    - `reasons`: why something failed, joined by "; ".

    What an entry does not have is empty: NaN, NA for whole numbers and for true and false, None for words.

    Args:
        summary: the content of a comparison's summary.json.
    """
    entries = ranked(summary)
    columns: dict[str, pd.Series] = {}

    def add(name: str, kind: str, values: Iterable[Any]) -> None:
        columns[name] = _column(list(values), kind)

    def add_spread(name: str, spreads: Sequence[Mapping[str, Any] | None]) -> None:
        add(name, "float64", (_get(spread, "mean") for spread in spreads))
        add(f"deviation.{name}", "float64", (_get(spread, "deviation") for spread in spreads))

    for name in ("label", "model", "kind", "status"):
        add(name, "object", (entry[name] for entry in entries))
    add("reference", "boolean", (entry["label"] == summary["reference"] for entry in entries))
    add("seeds", "Int64", (len(entry["seeds"]) for entry in entries))
    for key in known_keys(summary):
        add_spread(key, [entry["test"].get(key) for entry in entries])
    for part in ("scenario", "task"):
        add(f"worst_{part}", "object", (_get(entry["worst_cell"], part) for entry in entries))
    against = [_get(entry["differences"], f"{headline(summary)}/macro") for entry in entries]
    transfers = [_get(entry["transfer"], "macro") for entry in entries]
    for prefix, differences in (("difference", against), ("transfer", transfers)):
        names = {"mean": prefix, "low": f"{prefix}_low", "high": f"{prefix}_high"}
        names |= {
            field: field if differences is against else f"transfer_{field}" for field in ("p_adjusted", "significant")
        }
        for field, name in names.items():
            add(name, _DIFFERENCE_TYPES[field], (_get(difference, field) for difference in differences))
    for scenario in summary["scenarios"]:
        add(f"transfer.{scenario}", "float64", (_scenario_transfer(entry, scenario) for entry in entries))
    for name, kind in (("parameters", "Int64"), ("flops", "Int64"), ("latency_1", "float64"), ("latency", "float64")):
        add(name, kind, (entry["cost"][name] for entry in entries))
    for name in _SPREADS:
        add_spread(name, [entry["cost"][name] for entry in entries])
    for name, kind in (("search_seconds", "float64"), ("search_trials", "Int64"), ("search_epochs", "Int64")):
        add(name, kind, (entry["cost"][name] for entry in entries))
    add("reasons", "object", ("; ".join(entry["reasons"]) or None for entry in entries))
    return _frame(columns)


def cells_frame(summary: Mapping[str, Any]) -> pd.DataFrame:
    """Return a line for every entry, seed, split and metric key.

    Columns: `label`, `seed`, `split` (valid, test), `key`, `scenario`, `task`, `metric`, `value`. Where a value is over
    all scenarios `scenario` is empty, where it is over all tasks `task` is; `key` tells a mean over cells (`auc/macro`,
    `auc/TASK/macro`) from the value over all rows (`auc/TASK`). Of a segment its name stands in `scenario`. An
    undefined value is NaN.
    """
    keys = known_keys(summary)
    lines = []
    for entry in summary["entries"]:
        for split in ("valid", "test"):
            for key, (metric, scenario, task) in keys.items():
                values = entry[split][key]["values"] if key in entry[split] else []
                for seed, value in zip(entry["seeds"] if values else [], values, strict=True):
                    lines.append((entry["label"], seed, split, key, scenario, task, metric, value))
    kinds = {"label": "object", "seed": "int64", "split": "object", "key": "object", "scenario": "object"}
    return _lines(lines, kinds | {"task": "object", "metric": "object", "value": "float64"})


def differences_frame(summary: Mapping[str, Any]) -> pd.DataFrame:
    """Return a line for every difference that was tested.

    Columns: `label`; `against`, which is "reference" (the entry minus the reference) or "alone" (the entry trained on
    all scenarios minus the same on one scenario alone); `key`, `scenario`, `task`, `metric` as in `cells_frame`; then
    the fields of a difference: `mean`, `low`, `high`, `row_error`, `seed_error`, `degrees`, `p_rows`, `p_seeds`, `p`,
    `p_adjusted`, `significant`, `better`, `worse`, `seeds`.
    """
    keys = known_keys(summary)
    lines = []

    def add(label: str, against: str, key: str, difference: Mapping[str, Any] | None) -> None:
        if difference is not None:
            metric, scenario, task = keys[key]
            lines.append(
                (label, against, key, scenario, task, metric, *(difference[field] for field in _DIFFERENCE_TYPES))
            )

    for entry in summary["entries"]:
        for key in keys:
            add(entry["label"], "reference", key, _get(entry["differences"], key))
        if entry["transfer"] is not None:
            add(entry["label"], "alone", f"{headline(summary)}/macro", entry["transfer"]["macro"])
            for scenario, row in entry["transfer"]["cells"].items():
                for task, cell in row.items():
                    add(entry["label"], "alone", f"{headline(summary)}/{scenario}/{task}", _get(cell, "difference"))
    words = ("label", "against", "key", "scenario", "task", "metric")
    return _lines(lines, dict.fromkeys(words, "object") | _DIFFERENCE_TYPES)


def write_tables(summary: Mapping[str, Any], folder: str | Path) -> None:
    """Write leaderboard, cells and differences as .csv and .parquet, and leaderboard.md and leaderboard.tex.

    Each file is written as a whole or not at all.

    Args:
        summary: the content of a comparison's summary.json.
        folder: where to; it exists.
    """
    folder = Path(folder)
    frames = {"leaderboard": leaderboard_frame, "cells": cells_frame, "differences": differences_frame}
    for name, make in frames.items():
        frame = make(summary)
        write_atomically(folder / f"{name}.csv", lambda path, frame=frame: write_csv(frame, path))
        write_atomically(folder / f"{name}.parquet", lambda path, frame=frame: frame.to_parquet(path, index=False))
    for name, text in (("leaderboard.md", markdown(summary)), ("leaderboard.tex", latex(summary))):
        write_atomically(folder / name, lambda path, text=text: Path(path).write_text(text, encoding="utf-8"))


def _scenario_transfer(entry: Mapping[str, Any], scenario: str) -> float | None:
    cells = _get(entry["transfer"], "cells") or {}
    means = [cell["difference"]["mean"] for cell in cells.get(scenario, {}).values() if cell is not None]
    means = [mean for mean in means if mean is not None]
    return sum(means) / len(means) if means else None


def _get(mapping: Mapping[str, Any] | None, name: str) -> Any:
    return None if mapping is None else mapping.get(name)


def _lines(lines: Sequence[tuple[Any, ...]], kinds: Mapping[str, str]) -> pd.DataFrame:
    return _frame({name: _column([line[i] for line in lines], kind) for i, (name, kind) in enumerate(kinds.items())})


def _column(values: list[Any], kind: str) -> pd.Series:
    import pandas as pd

    if kind == "Int64":  # a cost that is a sum or a mean may come as 3.0
        values = [None if value is None else int(value) for value in values]
    return pd.Series(values, dtype=kind)


def _frame(columns: Mapping[str, pd.Series]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(dict(columns))
