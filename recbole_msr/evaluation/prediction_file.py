"""predictions.parquet: the predictions of a finished run for the rows of its test split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_msr.files.atomic import write_atomically
from recbole_msr.schema import MISSING_LABELS, SCENARIO_FIELD, Schema, label_field


def write_predictions(path: Path, scores: torch.Tensor, split: Any) -> None:
    """Write a line a row of the split, in its order.

    Columns: `scenario` (1..M, in the order of result.json's `scenarios`), `user` (RecBole's id; where there are users),
    and for every task that the run predicts `label_TASK` (0, 1, or -1 for none) and `score_TASK` (the probability); of
    a task of numbers both are numbers, and a missing label is null.

    Args:
        path: the file.
        scores: (N, T) predictions of all tasks, or (N, 1) of the main task.
        split: the split as a built dataset, N rows.
    """
    import pandas as pd

    inter, schema = split.inter_feat, getattr(split, "schema", None)
    tasks = _tasks(schema, scores.shape[1]) if schema is not None else {split.label_field: split.label_field}
    types = {} if schema is None else schema.types
    columns: dict[str, np.ndarray] = {}
    if schema is not None:
        columns[SCENARIO_FIELD] = split.row_scenario(inter).numpy().astype(np.int16)
    if split.uid_field in inter:
        columns["user"] = inter[split.uid_field].numpy()
    for column, (task, label) in enumerate(tasks.items()):
        labels = inter[label].numpy()
        if types.get(task) == "number":
            columns[f"label_{task}"] = np.where(labels == MISSING_LABELS["number"], np.nan, labels)
        else:
            columns[f"label_{task}"] = labels.astype(np.int8)
        columns[f"score_{task}"] = scores[:, column].float().cpu().numpy()
    frame = pd.DataFrame(columns)
    options: dict[str, Any] = {"index": False, "compression": "zstd", "write_page_checksum": True}
    write_atomically(path, lambda temporary: frame.to_parquet(temporary, **options))


def _tasks(schema: Schema, count: int) -> dict[str, str]:
    """Return the tasks that `count` predicted columns are about, with the fields of their labels."""
    names = schema.task_names if count == len(schema.tasks) else [schema.main_task]
    return {name: label_field(name) for name in names}
