"""result.json of a finished run, read back and checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_msr.errors import InputError
from recbole_msr.evaluation.cells import Evaluation
from recbole_msr.files.json import read_json

_CELL = {
    **{"rows": int, "positives": int},
    **{"auc": float | None, "gauc": float | None, "logloss": float | None, "undefined?": str | None},
}
_CELLS = {"main_task?": str, "pooled?": {str: _CELL}, "cells?": {str: {str: _CELL}}}
_SHAPE = {
    **{"model": str, "dataset": str, "seed": int, "best_epoch": int, "epochs": int, "parameters": int},
    "scenarios": ([str], None),
    "tasks": ([str], None),
    "main_task": str | None,
    "valid": {"metrics": {str: float | None}, **_CELLS},
    "test": {"metrics": {str: float | None}, **_CELLS},
    "seconds": {"train": float},
    "rows_per_second": float | None,
}


def read_result(path: Path, expected: Mapping[str, Any] | None = None, advice: str = "") -> dict[str, Any]:
    """Read a run's result.json.

    Args:
        path: the file.
        expected: what it must say (model, dataset, seed and so on) where it says it.
        advice: half a sentence for the errors: what to do.

    Raises:
        InputError: it is damaged, or of another run; the message names the file and what is expected.
        OSError: it is not there, or cannot be read.
    """
    result: dict[str, Any] = read_json(path, _SHAPE, advice)
    then = f"; {advice}" if advice else ""
    for split in ("valid", "test"):
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
    """What of an evaluation does not fit the run's scenarios and tasks, or cannot be."""
    if list(evaluation.cells) != result["scenarios"]:
        return f"its scenarios are {', '.join(evaluation.cells)}, not {', '.join(result['scenarios'] or [])}"
    tasks = set(evaluation.pooled)
    rows = {"all scenarios": evaluation.pooled, **evaluation.cells}
    for scenario, row in rows.items():
        if set(row) != tasks:
            return f"{scenario} has other tasks than the whole"
        for task, cell in row.items():
            bad = [m for m in ("auc", "gauc") if (value := cell.value(m)) is not None and not 0 <= value <= 1]
            if bad or not 0 <= cell.positives <= cell.rows:
                return f"{scenario}, {task}: {bad[0] if bad else 'positives'} is out of range"
    return None
