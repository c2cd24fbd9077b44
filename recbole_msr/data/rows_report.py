"""What became of every row of the files: used, or left out by which rule; and features that give a label away."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_msr.schema import MISSING_LABEL, SCENARIO_FIELD

_SAMPLE = 20_000
"""Training rows that features are tried on."""

_BUCKETS = 128
"""Parts into which the values of a numerical feature are cut."""

_FEW = 10
"""Rows of either label without which nothing is said of a feature."""

ALMOST_PERFECT = 0.99
"""AUC from which a single feature is told."""

logger = logging.getLogger(__name__)


_shown: set[str] = set()


def warn(warning: str) -> None:
    """Log a warning of the data; the terminal of a command shows it once, however many runs read the same data."""
    logger.warning("%s", warning, extra={"shown": _was_shown(warning)})


def _was_shown(line: str) -> bool:
    known = line in _shown
    _shown.add(line)
    return known


def describe_left_out(dropped: Mapping[str, Any]) -> str:
    """One entry of `dropped` in words."""
    return f"{dropped['rows']} where {dropped['rule']}" + (f" ({dropped['key']})" if dropped["key"] else "")


def tell_rows(dataset: Any, folder: Path | None = None) -> None:
    """Log what became of the rows of a dataset's files.

    The line of the interactions is for the terminal too, once; those of users and items for run.log alone.

    Args:
        dataset: a `ScenarioDataset` whose `build` was called; any other says nothing.
        folder: of the run in whose log alone it belongs.
    """
    if not hasattr(dataset, "row_report"):
        return
    report = dataset.row_report()
    for suffix, of_file in report["files"].items():
        line = f"{of_file['file']}: {of_file['read']} rows read, {of_file['used']} used"
        left_out = list(of_file["dropped"])
        if suffix == "inter":
            line += " (" + ", ".join(f"{part['used']} {name}" for name, part in report["splits"].items()) + ")"
            parts = report["splits"].items()
            left_out += [{**d, "rule": f"{d['rule']} in {name}"} for name, part in parts for d in part["dropped"]]
        if left_out:
            line += "; left out: " + ", ".join(map(describe_left_out, left_out))
        extra = {"shown": suffix != "inter" or _was_shown(line), "folder": folder}
        logger.info("data: %s", line, extra=extra)


def revealing_features(dataset: Any) -> list[tuple[str, str, float]]:
    """Find single features that rank a task's label almost perfectly on the training rows.

    The mean label of every value is taken from half of a sample of rows, and ranks the other half, so that an id with
    one row has no advantage.

    Args:
        dataset: a `ScenarioDataset` with packed rows, train first.

    Returns:
        Task, field and AUC of each, users and items left out.
    """
    n, packed = dataset.split_sizes[0], dataset.inter_feat.packed
    sample = packed.select(np.linspace(0, n - 1, min(n, _SAMPLE)).astype(np.int64))
    labels = {task.name: sample.column(task.label_field).numpy() for task in dataset.schema.tasks}
    found = []
    for field in packed.places:
        codes = None if field in (dataset.uid_field, dataset.iid_field) else _codes(dataset, sample, field)
        for task, label in labels.items():
            auc = None if codes is None else _auc_of(codes, label)
            if auc is not None and auc > ALMOST_PERFECT:
                found.append((task, field, auc))
    return found


def _codes(dataset: Any, sample: Any, field: str) -> np.ndarray | None:
    """A small number for the value of every row; None of a field that is no input, or a sequence."""
    table, _, shape = sample.places[field]
    if field == SCENARIO_FIELD or field in dataset.schema.label_fields:
        return None
    if table == "tokens" and not shape:
        return sample.column(field).numpy()
    if field not in (dataset.config["numerical_features"] or []) or shape != (2,):
        return None
    values = sample.column(field).numpy()
    values = values[:, 1] if field in (dataset.config["discretization"] or {}) else values[:, 0]
    return np.searchsorted(np.unique(np.quantile(values, np.linspace(0, 1, _BUCKETS + 1))), values, side="right")


def _auc_of(codes: np.ndarray, label: np.ndarray) -> float | None:
    known = label != MISSING_LABEL
    codes, label = codes[known], label[known]
    seen, of_seen, other, of_other = codes[::2], label[::2], codes[1::2], label[1::2]
    positives = int(of_other.sum())
    if min(positives, len(of_other) - positives) < _FEW or not len(seen):
        return None
    size = int(codes.max()) + 1
    counts, sums = np.bincount(seen, minlength=size), np.bincount(seen, weights=of_seen, minlength=size)
    means = (sums + of_seen.mean()) / (counts + 1)
    ranks = pd.Series(means[other]).rank().to_numpy()
    above = ranks[of_other == 1].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(of_other) - positives)))
