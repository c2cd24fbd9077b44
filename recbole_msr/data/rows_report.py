"""The report on the files' rows: used, or left out by which rule; and the features that give a label away."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recbole.utils import FeatureType

from recbole_msr.data.history import HISTORY_FIELD
from recbole_msr.data.rows import Packed
from recbole_msr.data.table_rows import describe as describe_table_rows
from recbole_msr.schema import MISSING_LABEL, SCENARIO_FIELD, Task

_SAMPLE = 20_000
"""Training rows that features are tried on."""

_BUCKETS = 128
"""Parts into which the values of a numerical feature are cut."""

_VALUES = 100
"""Values of a sequence that are looked at."""

_FEW = 10
"""Rows of either label without which nothing is said of a feature."""

_RARE = 1e-6
"""A mean label is at least so far from 0 and 1."""

ALMOST_PERFECT = 0.99
"""AUC from which a single feature is told."""

logger = logging.getLogger(__name__)


_shown: set[str] = set()


def warn(warning: str) -> None:
    """Log a warning of the data; the terminal of a command shows it once, however many runs read the same data."""
    logger.warning("%s", warning, extra={"shown": _was_shown(warning)})


def _was_shown(line: str) -> bool:
    was_shown = line in _shown
    _shown.add(line)
    return was_shown


def describe_left_out(dropped: Mapping[str, Any]) -> str:
    """One entry of `dropped` in words."""
    return f"{dropped['rows']} where {dropped['rule']}" + (f" ({dropped['key']})" if dropped["key"] else "")


def log_rows(dataset: Any, folder: Path | None = None) -> None:
    """Log what became of the rows of a dataset's files.

    The line of the interactions is for the terminal too, once; those of users and items for run.log alone.

    Args:
        dataset: a `ScenarioDataset` whose `build` was called; any other says nothing.
        folder: of the run in whose log alone it belongs.
    """
    if not hasattr(dataset, "row_report"):
        return
    report = dataset.row_report()
    if "top_scenarios" in report:
        top = report["top_scenarios"]
        line = (
            f"scenarios: the {top['values']} most frequent values; '{top['other']}' is {top['other_values']} values in "
            f"{top['other_rows']} rows, {top['other_training_rows']} of them training rows"
        )
        logger.info("data: %s", line, extra={"shown": _was_shown(line), "folder": folder})
    for line in describe_table_rows(report.get("table_rows", {})):
        logger.info("data: %s", line, extra={"shown": _was_shown(line), "folder": folder})
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


def sample_rows(n: int) -> np.ndarray:
    """Return the training rows that features are tried on, of n."""
    return np.linspace(0, n - 1, min(n, _SAMPLE)).astype(np.int64)


def revealing_features(
    dataset: Any, packed: Packed | None = None, rows: np.ndarray | None = None
) -> list[tuple[str, str, float]]:
    """Find single features that rank a task's label almost perfectly on the training rows; numbers by their median.

    The mean label of every value is taken from half of a sample of rows, and ranks the other half, so that an id with
    one row has no advantage. The values of a sequence, up to the first `_VALUES`, are taken together: their log odds
    are added up.

    Args:
        dataset: a `ScenarioDataset`.
        packed: packed rows; None for those of the dataset, train first.
        rows: those of them to try features on; None for `sample_rows` of training.

    Returns:
        Task, field and AUC of each, users and items left out.
    """
    packed = dataset.inter_feat.packed if packed is None else packed
    rows = sample_rows(dataset.split_sizes[0]) if rows is None else rows
    labels = {task.name: _binary(task, _values(packed, task.label_field, rows)[:, 0]) for task in dataset.schema.tasks}
    revealing = []
    for field, values in _columns(dataset, packed, rows):
        codes = _codes(dataset, field, values)
        for task, label in labels.items():
            auc = None if codes is None else _auc_of(codes, label)
            if auc is not None and auc > ALMOST_PERFECT:
                revealing.append((task, field, auc))
    return revealing


def _binary(task: Task, labels: np.ndarray) -> np.ndarray:
    """Return labels 0, 1 or `MISSING_LABEL` (n,): of numbers, whether they are above their median."""
    if task.type == "binary":
        return labels
    known = labels != task.missing_label
    middle = np.median(labels[known]) if known.any() else 0.0
    return np.where(known, labels > middle, MISSING_LABEL)


def _columns(dataset: Any, packed: Packed, rows: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every field of the rows and of their users and items, with its values (n, L)."""
    keys = {dataset.uid_field: dataset.user_feat, dataset.iid_field: dataset.item_feat}
    for field in packed.places:
        if field not in keys:
            yield field, _values(packed, field, rows)
    for key, table in keys.items():
        for field, values in {} if table is None else table.interaction.items():
            if field not in packed.places:  # not packed with the rows
                yield field, values.reshape(len(values), -1)[:, :_VALUES].numpy()[_values(packed, key, rows)[:, 0]]


def _values(packed: Packed, field: str, rows: np.ndarray) -> np.ndarray:
    """Return the values (n, L) of a field; of a sequence not more than are looked at."""
    table, start, shape = packed.places[field]
    if table == "others":
        rows_of_several: np.ndarray = packed.others[field].numpy()[rows]
        return rows_of_several.reshape(len(rows), -1)
    width = min(shape[0], _VALUES) if shape else 1
    return getattr(packed, table)[:, start : start + width].numpy()[rows]  # type: ignore[no-any-return]


def _codes(dataset: Any, field: str, values: np.ndarray) -> np.ndarray | None:
    """Code the values (n, L) from 0, with -1 where a row has fewer; return None for a field that is no input."""
    if field in (SCENARIO_FIELD, HISTORY_FIELD, *dataset.schema.label_fields):
        return None
    kind = dataset.field2type[field]
    if kind == FeatureType.TOKEN:
        return values
    if kind == FeatureType.TOKEN_SEQ:
        return values - 1
    if kind != FeatureType.FLOAT or field not in (dataset.config["numerical_features"] or []):
        return None
    if field in (dataset.config["discretization"] or {}):
        return values[:, 1:].astype(np.int64)
    numbers = values[:, :1]  # RecBole hands a numerical feature over as (value, bucket)
    return np.searchsorted(np.unique(np.quantile(numbers, np.linspace(0, 1, _BUCKETS + 1))), numbers, side="right")


def _auc_of(codes: np.ndarray, label: np.ndarray) -> float | None:
    is_labelled = label != MISSING_LABEL
    codes, label = codes[is_labelled] + 1, label[is_labelled]
    seen, of_seen, other, of_other = codes[::2], label[::2], codes[1::2], label[1::2]
    positives = int(of_other.sum())
    if min(positives, len(of_other) - positives) < _FEW or not len(seen):
        return None
    size, width = int(codes.max()) + 1, codes.shape[1]
    counts = np.bincount(seen.ravel(), minlength=size)
    sums = np.bincount(seen.ravel(), weights=np.repeat(of_seen, width), minlength=size)
    mean = np.clip(of_seen.mean(), _RARE, 1 - _RARE)
    means = (sums + mean) / (counts + 1)
    odds = np.log(means / (1 - means)) - np.log(mean / (1 - mean))
    odds[0] = 0.0  # no value at all
    ranks = pd.Series(odds[other].sum(axis=1)).rank().to_numpy()
    above = ranks[of_other == 1].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(of_other) - positives)))
