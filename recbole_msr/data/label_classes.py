"""The classes of a task: found in the data or declared, and each row's class by its number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from recbole_msr.errors import InputError, nearest
from recbole_msr.schema import Task, as_token, interaction_place

MOST_CLASSES = 100
"""Each class has an output of its own in a model: more are rather a number, or to be grouped."""


def natural_order(values: Any) -> list[str]:
    """Return the distinct values as text; in the order of numbers where all are numbers, else of text."""
    tokens = [token for token in dict.fromkeys(map(as_token, values)) if token is not None]
    numbers = pd.to_numeric(pd.Series(tokens, dtype=object), errors="coerce")
    if numbers.notna().all():
        return [tokens[i] for i in np.argsort(numbers.to_numpy(), kind="stable")]
    return sorted(tokens)


def class_labels(
    task: Task, values: Any, place: Callable[[int], str] = interaction_place
) -> tuple[list[str], np.ndarray]:
    """Return the names of a task's classes, and the number of each row's class.

    Args:
        task: of type classes.
        values: raw values of the field (N,).
        place: tells where row i is, for errors.

    Returns:
        The K names, declared or in natural order; numbers (N,) from 0, float32, and the task's `missing_label`.

    Raises:
        InputError: a value is missing where it may not be, or is none of the declared classes; there is one class, or
            there are more than `MOST_CLASSES`; ordered classes are no numbers.
    """
    codes, found = pd.factorize(values)
    task.check_missing(codes < 0, place)
    tokens = [str(as_token(value)) for value in np.asarray(found, dtype=object)]
    names = list(task.classes) if task.classes is not None else natural_order(tokens)
    _check_names(task, names)
    numbers = {name: number for number, name in enumerate(names)}
    unknown = [token for token in tokens if token not in numbers]
    if unknown:
        rows = np.isin(codes, [tokens.index(token) for token in unknown])
        raise InputError(
            f"task '{task.name}': field '{task.field}' holds '{unknown[0]}' in {int(rows.sum())} rows (the first is "
            f"{place(int(rows.argmax()))}), which is none of its classes{nearest(unknown[0], names) or '.'} "
            f"They are: {', '.join(names)}."
        )
    of_code = np.array([*(numbers[token] for token in tokens), task.missing_label], dtype=np.float32)
    return names, of_code[codes]


def _check_names(task: Task, names: Sequence[str]) -> None:
    where = f"task '{task.name}': field '{task.field}'"
    if len(names) < 2:
        raise InputError(f"{where} holds {f'{names[0]!r} alone' if names else 'no value'}: there is nothing to learn")
    if len(names) > MOST_CLASSES:
        raise InputError(
            f"{where} holds {len(names)} different values, more than the {MOST_CLASSES} that type: classes is for: "
            "take type: number, or a threshold (at_least)"
        )
    if task.ordered:
        wrong = [name for name in names if not _is_number(name)]
        if wrong:
            raise InputError(f"{where} has ordered classes, which stand for numbers, and '{wrong[0]}' is none")


def check_trained(task: Task, names: Sequence[str], labels: np.ndarray, others: np.ndarray) -> list[str]:
    """Refuse classes without a training row, and return warnings of those that have one.

    Args:
        task: of type classes.
        names: its K classes.
        labels: numbers of the classes of the training rows (N,).
        others: those of validation and test.

    Raises:
        InputError: names the class.
    """
    counts, elsewhere = (
        np.bincount(part[part >= 0].astype(np.int64), minlength=len(names)) for part in (labels, others)
    )
    for name, count, other in zip(names, counts.tolist(), elsewhere.tolist(), strict=True):
        if count == 0:
            raise InputError(
                f"task '{task.name}': class '{name}' has no training row, {other} in validation and test: nothing can "
                "be learnt of it; join it with another in the data, or leave it out of the file"
            )
    return [
        f"task '{task.name}': class '{name}' has one training row"
        for name, count in zip(names, counts.tolist(), strict=True)
        if count == 1
    ]


def _is_number(name: str) -> bool:
    try:
        return bool(np.isfinite(float(name)))
    except ValueError:
        return False
