"""predictions.parquet: the predictions of a finished run for the rows of its test split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_msr.evaluation.layout import Layout
from recbole_msr.files.atomic import write_atomically
from recbole_msr.schema import MISSING_LABELS, SCENARIO_FIELD, Schema


def write_predictions(path: Path, scores: torch.Tensor, split: Any) -> None:
    """Write a line a row of the split, in its order.

    Columns: `scenario` (1..M, in the order of result.json's `scenarios`), `user` (RecBole's id; where there are users),
    and for every task that the run predicts `label_TASK` (0, 1, or -1 for none) and `score_TASK` (the probability); of
    a task of numbers both are numbers, and a missing label is null. A task of classes has `score_TASK=CLASS` for each
    class, and `label_TASK` is the number of the class among these, from 0. A conditional such as "buy|click" has both
    columns as a task has, its label missing where click is not 1.

    Args:
        path: the file.
        scores: (N, C) predictions of all tasks (`Layout`), or (N, 1) of the main task.
        split: the split as a built dataset, N rows.
    """
    import pandas as pd

    inter, schema = split.inter_feat, getattr(split, "schema", None)
    columns: dict[str, np.ndarray] = {}
    if schema is not None:
        columns[SCENARIO_FIELD] = split.row_scenario(inter).numpy().astype(np.int16)
    if split.uid_field in inter:
        columns["user"] = inter[split.uid_field].numpy()
    layout = layout_of_split(split, scores.shape[1])
    labels_of = labels_of_split(split, layout)
    for (task, kind), labels in zip(layout.types.items(), labels_of.T, strict=True):
        if kind == "number":
            columns[f"label_{task}"] = np.where(labels == MISSING_LABELS["number"], np.nan, labels)
        else:
            columns[f"label_{task}"] = labels.astype(np.int8)
        own = layout.columns[task]
        for name, column in zip(layout.names[own], scores[:, own].float().cpu().numpy().T, strict=True):
            columns[f"score_{name}"] = column
    frame = pd.DataFrame(columns)
    options: dict[str, Any] = {"index": False, "compression": "zstd", "write_page_checksum": True}
    write_atomically(path, lambda temporary: frame.to_parquet(temporary, **options))


def layout_of_split(split: Any, count: int) -> Layout:
    """Return the tasks that `count` predicted columns of a split's rows are about, and their columns."""
    schema: Schema | None = getattr(split, "schema", None)
    if schema is None:
        return Layout({split.label_field: "binary"})
    return Layout.predicted(schema, split.label_classes, count)


def labels_of_split(split: Any, layout: Layout) -> np.ndarray:
    """Return the labels of a split's rows (N, T), of the tasks and conditionals of a layout."""
    schema: Schema | None = getattr(split, "schema", None)
    if schema is None:
        labels: np.ndarray = split.inter_feat[split.label_field].numpy()[:, None]
        return labels
    return schema.labels(list(layout.types), lambda field: split.inter_feat[field].numpy())
