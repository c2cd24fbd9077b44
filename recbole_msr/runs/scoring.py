"""Score raw rows with a trained model, in memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from recbole.data.interaction import Interaction
from recbole.utils import FeatureType

from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.errors import InputError
from recbole_msr.evaluation.calibration import Calibration
from recbole_msr.evaluation.class_formulas import expected_values
from recbole_msr.evaluation.layout import Layout
from recbole_msr.files.row_files import Batch, row_place
from recbole_msr.runs.row_columns import arrow_column
from recbole_msr.runs.row_counts import RowCounts
from recbole_msr.runs.row_encoder import Part, RawRows, RowEncoder
from recbole_msr.schema import SCENARIO_FIELD
from recbole_msr.threads import torch_threads

ENCODED_ROWS = 1 << 17
"""Least number of rows that are read and encoded at a time; more where a batch of the model's has more."""


class Scored(NamedTuple):
    """Scores, and the rows that lacked something.

    Attributes:
        scores: (N, C), a column a task; a task of classes has one for each class, TASK=CLASS, and where the classes are
            ordered one with the expected value under its own name. Last come the conditionals, such as "buy|click".
        unknown: by field, rows with a value never seen in training, or in whose sequence there is one.
        missing: by numerical feature, rows without a number, for which the mean of the training data stands.
    """

    scores: pd.DataFrame
    unknown: dict[str, int]
    missing: dict[str, int]


class Scorer:
    """Scores raw rows. Threads may share it.

    Args:
        config: RecBole's Config of the run.
        dataset: the run's vocabularies and tables.
        model: the trained model, in evaluation mode.
        calibration: maps its probabilities; None to leave them as they are.

    Attributes:
        tasks: the names of the tasks T; of a model of one task, the main task.
        columns: of each task and conditional, the names of its columns of the scores.
    """

    def __init__(
        self, config: Any, dataset: ScenarioDataset, model: Any, calibration: Calibration | None = None
    ) -> None:
        self._device, self._dataset, self._model = config["device"], dataset, model
        self._calibration = calibration
        self._encoder = RowEncoder(config, dataset, getattr(model, "features", None))
        schema = dataset.schema
        self.tasks: list[str] = schema.task_names if hasattr(model, "predict_tasks") else [schema.main_task]
        self._layout = getattr(model, "predicted", None) or Layout.of(self.tasks, schema.types, dataset.label_classes)
        self.columns = {
            task: [*self._layout.names[columns], *([task] if self._layout.types[task] == "ordered" else [])]
            for task, columns in self._layout.columns.items()
        }

    @property
    def names(self) -> list[str]:
        """The names of all columns of the scores."""
        return [name for names in self.columns.values() for name in names]

    @torch_threads()
    @torch.no_grad()
    def score(self, rows: pd.DataFrame, batch_size: int = 8192) -> Scored:
        """Score the rows of a table, and count those that lack something.

        Args:
            rows: a column for the user, the item, and every field of the interactions that the model reads; fields of
                users and items may be left out, or empty in some rows: those of known ones are in the run's tables.
            batch_size: rows scored at a time.

        Returns:
            The scores, in the order of the rows and with their index. A value never seen in training uses the
            unknown embedding; for a missing number stands the mean of the training data.

        Raises:
            InputError: a needed column is missing or there twice, or a value is no number where one is needed.
        """
        if not isinstance(rows, pd.DataFrame):
            raise InputError(f"rows to score are a pandas DataFrame, got {type(rows).__name__}")
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        names = [str(name) for name in rows.columns]
        readable = [name for name in rows.columns if name in self._encoder.columns]
        repeated = [name for name in readable if readable.count(name) > 1]
        if repeated:
            raise InputError(f"the rows have two columns called '{repeated[0]}'")
        counts = RowCounts()
        scores = np.empty((len(rows), len(self.names)), dtype=np.float32)
        size = max(batch_size, ENCODED_ROWS)
        for start in range(0, len(rows), size) or [0]:  # no rows are encoded too: their columns are checked
            part = rows.iloc[start : start + size]
            columns = {name: arrow_column(part[name]) for name in readable}
            raw = RawRows(columns, names, len(part), "the rows", row_place(start), counts)
            scores[start : start + size] = self._score(raw, batch_size)
        frame = pd.DataFrame(scores, columns=self.names, index=rows.index)
        return Scored(frame, dict(counts.unknown), dict(counts.missing))

    def score_batch(self, batch: Batch, path: Any, batch_size: int, counts: RowCounts) -> np.ndarray:
        """Score some rows of a file.

        Args:
            batch: the rows.
            path: their file, for errors.
            batch_size: rows scored at a time.
            counts: where rows that lack something are counted.

        Returns:
            Scores (n, C), float32.
        """
        names = batch.columns.schema.names
        columns = {name: batch.columns.column(name) for name in names if name in self._encoder.columns}
        raw = RawRows(
            columns, names, batch.columns.num_rows, str(path), lambda i: f"{path}, {batch.place(i)}", counts,
            batch.texts,
        )  # fmt: skip
        return self._score(raw, batch_size)

    def is_sequence(self, field: str) -> bool:
        """Return whether a field holds several tokens a row."""
        return bool(self._dataset.field2type[field] == FeatureType.TOKEN_SEQ)

    def encode(self, rows: RawRows, part: Part) -> dict[str, torch.Tensor]:
        """Return the fields of rows that belong to the item, or to the context, for `cross`."""
        return self._encoder.encode(rows, part)

    def cross(self, contexts: dict[str, torch.Tensor], items: dict[str, torch.Tensor], batch_size: int) -> np.ndarray:
        """Score every item for every context.

        Args:
            contexts: `encode(rows, "context")` of n rows.
            items: `encode(rows, "item")` of I items.
            batch_size: pairs scored at a time.

        Returns:
            Scores (n, I, C), float32.
        """
        n, width = (len(next(iter(part.values()))) for part in (contexts, items))
        scores = np.empty((n * width, len(self.names)), dtype=np.float32)
        for start in range(0, n * width, batch_size):
            pairs = torch.arange(start, min(start + batch_size, n * width))
            of_context = {name: column[pairs // width] for name, column in contexts.items()}
            of_item = {name: column[pairs % width] for name, column in items.items()}
            scores[start : start + len(pairs)] = self._predict(of_context | of_item, len(pairs), batch_size)
        return scores.reshape(n, width, -1)

    def _score(self, rows: RawRows, batch_size: int) -> np.ndarray:
        return self._predict(self._encoder.encode(rows), rows.size, batch_size)

    def _predict(self, inputs: dict[str, torch.Tensor], size: int, batch_size: int) -> np.ndarray:
        scores = np.empty((size, self._layout.width), dtype=np.float32)
        predict = getattr(self._model, "predict_tasks", self._model.predict)
        for start in range(0, size, batch_size):
            part = slice(start, start + batch_size)
            batch = Interaction({name: column[part] for name, column in inputs.items()}).to(self._device)
            scores[part] = predict(batch).reshape(-1, self._layout.width).float().cpu().numpy()
        if self._calibration is not None:
            scores = self._calibration(scores, inputs[SCENARIO_FIELD].numpy())
        return self._with_expected(scores)

    def _with_expected(self, scores: np.ndarray) -> np.ndarray:
        """Add the expected values of ordered classes to the predictions of the model."""
        if "ordered" not in self._layout.types.values():
            return scores
        parts = []
        for task, columns in self._layout.columns.items():
            parts.append(scores[:, columns])
            values = self._layout.class_values(task)
            if values is not None:
                parts.append(expected_values(scores[:, columns], values).astype(np.float32)[:, None])
        return np.concatenate(parts, axis=1)
