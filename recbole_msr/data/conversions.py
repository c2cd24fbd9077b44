"""Check the labels of tasks behind tasks: a purchase without its click is told or refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from recbole_msr.errors import InputError
from recbole_msr.schema import Schema


def check_conversions(schema: Schema, labels: Mapping[str, np.ndarray], place: Callable[[int], str]) -> list[str]:
    """Return a warning for each task that has label 1 where the task before it has label 0.

    Args:
        schema: the declared tasks.
        labels: label field -> labels of all rows (N,), missing ones among them.
        place: says where a row stands, by its number among these, from 0.

    Raises:
        InputError: there are such rows, and the task is declared with `strict: true`.
    """
    warnings = []
    by_name = {task.name: task for task in schema.tasks}
    for task in schema.tasks:
        if task.after is None:
            continue
        before = by_name[task.after]
        positive = labels[task.label_field] == 1
        without = np.flatnonzero(positive & (labels[before.label_field] == 0))
        if not len(without):
            continue
        told = (
            f"{place(int(without[0]))}: task '{task.name}' has label 1 although task '{before.name}', which it comes "
            f"after, has label 0 ({len(without)} such rows, of {int(positive.sum())} with label 1 of '{task.name}')"
        )
        if task.strict:
            raise InputError(
                f"{told}, and strict: true refuses that: mend the data, or leave 'after' or 'strict' out of task "
                f"'{task.name}'"
            )
        warnings.append(f"{told}; they are learnt as they are, and strict: true refuses them")
    return warnings
