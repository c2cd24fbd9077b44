"""lists.parquet: the metrics of each ranked list of a finished run's test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_msr.data.ranked_lists import RankedLists
from recbole_msr.files.atomic import write_atomically
from recbole_msr.schema import SCENARIO_FIELD

LISTS_FILE = "lists.parquet"


def write_lists(
    path: Path, lists: RankedLists, tasks: Sequence[str], values: Sequence[Mapping[str, np.ndarray]]
) -> None:
    """Write a line a list, in the order of users and then scenarios.

    Columns: `scenario` (1..M, in the order of result.json's `scenarios`), `user` (RecBole's id), and for every task
    `positives_TASK` and each metric, such as `ndcg@10_TASK`: null where the list has no positive of the task.

    Args:
        path: the file.
        lists: L lists.
        tasks: the tasks that the run ranks for.
        values: of each task by metric the value of each list (L,), NaN for none.
    """
    import pandas as pd

    columns: dict[str, Any] = {SCENARIO_FIELD: lists.scenarios.astype(np.int16), "user": lists.users}
    for task, of_task in zip(tasks, values, strict=True):
        columns[f"positives_{task}"] = lists.n_positives[:, lists.tasks.index(task)].astype(np.int32)
        columns |= {f"{name}_{task}": column for name, column in of_task.items()}
    frame = pd.DataFrame(columns)
    options: dict[str, Any] = {"index": False, "compression": "zstd", "write_page_checksum": True}
    write_atomically(path, lambda temporary: frame.to_parquet(temporary, **options))
