"""How the numbers of a task are brought to one scale: what the training rows say, kept with the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from recbole_msr.errors import InputError
from recbole_msr.schema import Schema, Task

QUANTILES = 1001
"""Most quantiles that `transform: quantile` keeps."""


def label_scales(schema: Schema, labels: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Return what each task of numbers needs to be learnt, from the labels of the training rows.

    Args:
        schema: the declared tasks.
        labels: task -> labels of the training rows (N,), missing ones among them.

    Returns:
        Task -> `typical`, its median; `mean` and `scale` (standard deviation) of the transformed numbers; and for
        `transform: quantile` the `values` at some quantiles, ascending, with their `levels`, from 0 to 1.

    Raises:
        InputError: the training rows have no number of a task, or one and the same.
    """
    return {
        task.name: _label_scale(task, labels[task.name][labels[task.name] != task.missing_label])
        for task in schema.tasks
        if task.type == "number"
    }


def _label_scale(task: Task, numbers: np.ndarray) -> dict[str, Any]:
    if not len(numbers) or numbers.min() == numbers.max():
        what = f"is {numbers[0]:g} in every training row that has it" if len(numbers) else "is in no training row"
        raise InputError(f"task '{task.name}': field '{task.field}' {what}: there is nothing to learn")
    numbers = numbers.astype(np.float64)
    scale: dict[str, Any] = {"typical": float(np.median(numbers))}
    if task.transform == "log1p":
        numbers = np.log1p(numbers)
    elif task.transform == "quantile":
        scale |= _quantiles(numbers)
        numbers = np.interp(numbers, scale["values"], scale["levels"])
    return scale | {"mean": float(numbers.mean()), "scale": float(numbers.std())}


def _quantiles(numbers: np.ndarray) -> dict[str, list[float]]:
    """Return values and their levels; a value of several quantiles has the mean of their levels."""
    levels = np.linspace(0, 1, min(QUANTILES, len(numbers)))
    values, place = np.unique(np.quantile(numbers, levels).astype(np.float32), return_inverse=True)
    means = np.bincount(place, levels) / np.bincount(place)
    return {"values": values.astype(float).tolist(), "levels": means.tolist()}
