"""The test rows on which finished runs are compared, with the runs' predictions for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from recbole_msr.errors import InputError
from recbole_msr.evaluation.metrics import headline
from recbole_msr.evaluation.segments import Segments
from recbole_msr.evaluation.significance import Rows
from recbole_msr.jobs.failure import PARQUET_DAMAGE
from recbole_msr.schema import MISSING_LABELS, SCENARIO_FIELD, TaskType, label_field

AGAIN = "delete its folder, and the same command trains it again"
"""Advice for a damaged run of a comparison or a search."""


@contextmanager
def reading(path: Path) -> Iterator[Any]:
    """Read a run's Parquet file as a data frame; what is wrong with it may also show while it is used.

    Raises:
        InputError: it is missing or damaged.
    """
    import pandas as pd

    try:
        yield pd.read_parquet(path, page_checksum_verification=True)
    except InputError:
        raise
    except PARQUET_DAMAGE as error:
        raise InputError(
            f"{path} is missing or damaged: {AGAIN} ({type(error).__name__}: {str(error)[:200]})"
        ) from error


class SharedRows:
    """The test rows that all entries of a comparison share, or all final runs of a search.

    Args:
        split: test split of a multi-task model, which keeps rows that lack the main task's label; that of a model of
            one task, if all are of that task.
        least: `min_scenario_rows`.
        tasks: the tasks; None for all of the data's.
        segments: of the split's rows; None for none.
    """

    def __init__(
        self, split: Any, least: int, tasks: Sequence[str] | None = None, segments: Segments | None = None
    ) -> None:
        inter, schema = split.inter_feat, split.schema
        self.tasks = list(schema.task_names if tasks is None else tasks)
        self.types: dict[str, TaskType] = {task: schema.types[task] for task in self.tasks}
        self.labels = np.stack([inter[label_field(task)].numpy() for task in self.tasks], axis=1)
        self.scenario = split.row_scenario(inter).numpy()
        self.users = inter[split.uid_field].numpy() if split.uid_field in inter else None
        self.scenarios = list(split.scenario_names)
        classes = split.label_classes
        weights = schema.metric_weights(self.tasks, lambda field: inter[field].numpy())
        self._segments = segments
        self.rows = Rows(
            self.labels, self.scenario, self.users, self.scenarios, self.tasks, least, self.types, classes, weights,
            segments,
        )  # fmt: skip

    of_lists: ClassVar[list[str]] = []
    """Metrics of ranked lists: none of rows."""

    @property
    def headline(self) -> str:
        """The metric that models are ranked and judged by."""
        return headline(self.types.values())

    def cells(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Count rows and positives of every scenario and task; of another than a binary task the mean of numbers."""
        return {name: self._counts(self.scenario == number) for number, name in enumerate(self.scenarios, start=1)}

    def segments(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Count the same of every segment and task."""
        members = () if self._segments is None else self._segments.members()
        return {name: self._counts(there) for name, there in members}

    def _counts(self, rows: np.ndarray) -> dict[str, dict[str, Any]]:
        return {
            task: _count(column[column != MISSING_LABELS[kind]], kind)
            for (task, kind), column in zip(self.types.items(), self.labels[rows].T, strict=True)
        }

    def place(self, into: np.ndarray, folder: Path, task: str | None, scenario: str | None) -> None:
        """Write the predictions of a run into its rows of a table.

        Args:
            into: the table, of the shape of `rows`.
            folder: folder of the run.
            task: its only task; None for all.
            scenario: its only scenario; None for all.

        Raises:
            InputError: they are of other rows.
        """
        with reading(folder / "predictions.parquet") as frame:
            self._place(into, frame, folder, task, scenario)

    def _place(self, into: np.ndarray, frame: Any, folder: Path, task: str | None, scenario: str | None) -> None:
        here = np.ones(len(self.labels), dtype=bool)
        if scenario is not None:
            here &= self.scenario == self.scenarios.index(scenario) + 1
        if task is not None:  # a model of one task sees the rows that have its label
            here &= self.labels[:, self.tasks.index(task)] != MISSING_LABELS[self.types[task]]
        for column, name in enumerate(self.tasks):
            if task not in (None, name):
                continue
            labels = frame[f"label_{name}"].fillna(MISSING_LABELS[self.types[name]])  # of numbers null is none
            same = len(frame) == here.sum() and np.array_equal(labels, self.labels[here, column])
            if scenario is None and same:
                same = np.array_equal(frame[SCENARIO_FIELD], self.scenario[here])
            if not same:
                raise InputError(f"{folder / 'predictions.parquet'} holds other rows than the test split")
            columns = self.rows.layout.columns[name]
            names = [f"score_{column}" for column in self.rows.layout.names[columns]]
            scores = frame[names].to_numpy(dtype=np.float64)
            is_number = self.types[name] == "number"
            if not (np.isfinite(scores) if is_number else (scores >= 0) & (scores <= 1)).all():
                what = "finite number" if is_number else "probability"
                raise InputError(
                    f"{folder / 'predictions.parquet'} is damaged: {names[0]} is no {what} everywhere: {AGAIN}"
                )
            into[here, columns] = scores


def _count(labels: np.ndarray, kind: TaskType) -> dict[str, Any]:
    """Return the rows of labels that are there, and their positives, or the mean of numbers."""
    if kind == "binary":
        return {"rows": len(labels), "positives": int((labels == 1).sum())}
    if kind != "number":
        return {"rows": len(labels)}
    return {"rows": len(labels), "mean_label": float(labels.mean(dtype=np.float64)) if len(labels) else None}
