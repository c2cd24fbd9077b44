"""Reading and checking the result.json of a finished run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_msr.errors import InputError
from recbole_msr.evaluation.cells import Cell, Evaluation
from recbole_msr.evaluation.metrics import METRICS
from recbole_msr.files.json import read_json

_FIRST_METRICS = ("auc", "gauc", "logloss")
"""Metrics that every version has written."""


def _shape(splits: Sequence[str]) -> dict[str, Any]:
    """Return the shape of a result.json; a metric that the version that wrote it did not know may be absent."""
    cell = {
        **{"rows": int, "positives?": int, "undefined?": str | None, "type?": str, "mean_label?": float | None},
        **{f"{metric}?": float | None for metric in METRICS},
    }
    of_cells = {
        "main_task?": str,
        "pooled?": {str: cell},
        "cells?": {str: {str: cell}},
        "segments?": {str: {str: cell}},
    }
    split = {"metrics": {str: float | None}, **of_cells}
    return {
        **{"model": str, "dataset": str, "seed": int, "best_epoch": int, "epochs": int, "parameters": int},
        "trained_until?": float | None,
        "untrained_until?": int | None,
        "scenarios": ([str], None),
        "tasks": ([str], None),
        "main_task": str | None,
        **dict.fromkeys(splits, split),
        "calibrated?": {"method": str, "by": str, "left_out": [str], "test": of_cells},
        "seconds": {"train": float},
        "rows_per_second": float | None,
    }


def read_result(
    path: Path, expected: Mapping[str, Any] | None = None, advice: str = "", splits: Sequence[str] = ("valid", "test")
) -> dict[str, Any]:
    """Read a run's result.json, or validated.json.

    Args:
        path: the file.
        expected: what it must say (model, dataset, seed and so on) where it says it.
        advice: half a sentence for the errors: what to do.
        splits: the splits whose results it must have; `("valid",)` for a run that was not tested.

    Raises:
        InputError: it is damaged, or of another run; the message names the file and what is expected.
        OSError: it is not there, or cannot be read.
    """
    result: dict[str, Any] = read_json(path, _shape(splits), advice)
    then = f"; {advice}" if advice else ""
    for split in splits:
        cells = result[split]
        if "cells" in cells:
            try:
                told = _inconsistent(Evaluation.from_dict(cells), result)
            except (TypeError, KeyError) as error:
                told = f"{error} in its cells"
            if told:
                raise InputError(f"{path} is damaged: '{split}': {told}{then}")
    other = [key for key, value in (expected or {}).items() if key in result and result[key] != value]
    if other:
        told = ", ".join(f"{key} {result[key]!r}, expected {(expected or {})[key]!r}" for key in other)
        raise InputError(f"{path} is of another run: {told}{then}")
    return result


def _inconsistent(evaluation: Evaluation, result: Mapping[str, Any]) -> str | None:
    """Say what of an evaluation does not fit the run's scenarios and tasks, or cannot be; None if all does."""
    if list(evaluation.cells) != result["scenarios"]:
        return f"its scenarios are {', '.join(evaluation.cells)}, not {', '.join(result['scenarios'] or [])}"
    tasks = set(evaluation.pooled)
    rows = {"all scenarios": evaluation.pooled, **evaluation.cells, **evaluation.segments}
    for scenario, row in rows.items():
        if set(row) != tasks:
            return f"{scenario} has other tasks than the whole"
        for task, cell in row.items():
            if set(cell.values) != set(evaluation.pooled[task].values) or cell.type != evaluation.pooled[task].type:
                return f"{scenario}, {task} has other metrics than task {task} of all scenarios"
            bad = _out_of_range(cell)
            if bad is not None:
                return f"{scenario}, {task}: {bad} is out of range"
    return None


def _out_of_range(cell: Cell) -> str | None:
    for name, value in cell.values.items():
        least, greatest = METRICS[name].bounds
        if value is not None and not least <= value <= greatest:
            return name
    lacking = [metric for metric in _FIRST_METRICS if cell.type == "binary" and metric not in cell.values]
    if lacking:
        return lacking[0]
    if cell.positives is None or cell.type == "ranking":
        return None if (cell.positives or 0) >= 0 else "positives"
    return None if 0 <= cell.positives <= cell.rows else "positives"
