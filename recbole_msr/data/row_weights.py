"""The weights of a task's rows: what they must be, and the scale that they are brought to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd

from recbole_msr.data.rows import Packed
from recbole_msr.errors import InputError
from recbole_msr.schema import Task


def check_weights(tasks: Iterable[Task], interactions: pd.DataFrame, place: Callable[[int], str]) -> None:
    """Refuse weights that are negative, infinite, missing where the label is there, or all 0.

    Args:
        tasks: the declared tasks.
        interactions: the rows, with the tasks' fields as they were read.
        place: says where a row of the index stands.

    Raises:
        InputError: names the first such row.
    """
    for task in tasks:
        if task.weight is None:
            continue
        what = f"'{task.weight}', the weight of task '{task.name}'"
        weights = interactions[task.weight].to_numpy(dtype=np.float64)
        labelled = interactions[task.field].notna().to_numpy()
        beyond = ~((weights >= 0) & (weights <= np.finfo(np.float32).max)) & labelled
        if beyond.any():
            first = int(np.flatnonzero(beyond)[0])
            found = "empty" if np.isnan(weights[first]) else f"{weights[first]:g}"
            raise InputError(
                f"{place(int(interactions.index[first]))}: {what}, is {found}; a weight is a number >= 0 "
                f"({int(beyond.sum())} such rows)"
            )
        if len(weights) and not weights[labelled].any():
            raise InputError(
                f"{place(int(interactions.index[0]))}: {what}, is 0 there and in every other row that has its label: "
                "nothing would be learnt of the task"
            )


def scale_weights(tasks: Iterable[Task], packed: Packed, labels: Mapping[str, np.ndarray]) -> None:
    """Divide each task's weights by their mean over the training rows that carry its label.

    So only their proportions matter, and the task's loss stays of the size that it has without weights.

    Args:
        tasks: the declared tasks.
        packed: all rows, training rows first; its weights are changed.
        labels: task -> labels of the training rows (N,), missing ones among them.

    Raises:
        InputError: every such row has the weight 0.
    """
    for task in tasks:
        if task.weight_field is None:
            continue
        _, column, _ = packed.places[task.weight_field]
        weights = packed.floats[:, column]
        of_train = weights.numpy()[: len(labels[task.name])][labels[task.name] != task.missing_label]
        mean = float(of_train.mean(dtype=np.float64)) if len(of_train) else 0.0
        if not mean:
            raise InputError(
                f"task '{task.name}': the weight '{task.weight}' is 0 in every training row that has a label: nothing "
                "would be learnt of the task"
            )
        weights /= mean
