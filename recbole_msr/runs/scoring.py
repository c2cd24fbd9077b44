"""Score raw rows with a trained model, in memory."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from recbole.data.interaction import Interaction
from recbole.utils import FeatureType

from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.data.history import HISTORY_FIELD
from recbole_msr.errors import InputError
from recbole_msr.evaluation.calibration import Calibration
from recbole_msr.evaluation.class_formulas import expected_values
from recbole_msr.evaluation.layout import Layout
from recbole_msr.files.row_files import Batch, row_place
from recbole_msr.models.given_profiles import GivenProfiles, give_profiles
from recbole_msr.runs.row_columns import arrow_column
from recbole_msr.runs.row_counts import RowCounts
from recbole_msr.runs.row_encoder import Part, RawRows, RowEncoder
from recbole_msr.schema import SCENARIO_FIELD
from recbole_msr.threads import torch_threads

if TYPE_CHECKING:
    from recbole_msr.runs.given_histories import Histories, HistoryCounts, HistoryReader

PROFILE_FIELD = "given_profile"
"""The number of the profile that a row's user has by a given history, beside the inputs of a model; -1 for none."""
ENCODED_ROWS = 1 << 17
"""Least number of rows that are read and encoded at a time; more where a batch of the model's has more."""


@dataclass(frozen=True)
class Scored:
    """Scores, and the rows that lacked something; may be unpacked as `scores, unknown, missing`.

    Attributes:
        scores: (N, C), a column a task; a task of classes has one for each class, TASK=CLASS, and where the classes are
            ordered one with the expected value under its own name. Last come the conditionals, such as "buy|click".
        unknown: by field, rows with a value never seen in training, or in whose sequence there is one.
        missing: by numerical feature, rows without a number, for which the mean of the training data stands.
        with_history: rows whose user has a profile of the given histories.
        histories: what became of the rows of histories; None where none were given.
    """

    scores: pd.DataFrame
    unknown: dict[str, int]
    missing: dict[str, int]
    with_history: int = 0
    histories: HistoryCounts | None = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.scores, self.unknown, self.missing))


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
        histories: the profiles of the users of `with_histories`; None without.
    """

    def __init__(
        self, config: Any, dataset: ScenarioDataset, model: Any, calibration: Calibration | None = None
    ) -> None:
        self._config = config
        self._device, self._dataset, self._model = config["device"], dataset, model
        self._calibration = calibration
        self._encoder = RowEncoder(config, dataset, getattr(model, "features", None))
        self._reader: HistoryReader | None = None
        self.histories: Histories | None = None
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

    @property
    def history_reader(self) -> HistoryReader:
        """What makes profiles of histories.

        Raises:
            InputError: the run reads no profiles of users.
        """
        from recbole_msr.runs.given_histories import HistoryReader

        if self._reader is None:
            self._reader = HistoryReader(self._config, self._dataset, self._encoder, self._model)
        return self._reader

    def with_histories(self, histories: RawRows | pd.DataFrame | str | Path) -> Scorer:
        """Return a scorer by which the users of some histories have the profiles that these make.

        Args:
            histories: a row an event: the user, the item, the label of the task that profiles are made by, and the time
                and the scenario where the run's profiles have such parts; or a file of that.

        Raises:
            InputError: the run reads no profiles of users, a column is missing, or a value is not what it must be.
        """
        from recbole_msr.runs.given_histories import open_histories

        reader = self.history_reader
        if not isinstance(histories, RawRows):
            histories = open_histories(histories, self._config["field_separator"], self._config["encoding"])
        scorer = copy(self)
        scorer.histories = reader.read(histories)
        return scorer

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
        told = None if self.histories is None else self.histories.counts
        return Scored(frame, dict(counts.unknown), dict(counts.missing), counts.with_history, told)

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

    def reads(self, field: str) -> bool:
        """Return whether a field is among the model's inputs."""
        return self._encoder.reads(field)

    def is_sequence(self, field: str) -> bool:
        """Return whether a field holds several tokens a row."""
        return bool(self._dataset.field2type[field] == FeatureType.TOKEN_SEQ)

    def encode(self, rows: RawRows, part: Part) -> dict[str, torch.Tensor]:
        """Return the fields of rows that belong to the item, or to the context, for `cross`."""
        return self._encode(rows, part)

    def _encode(self, rows: RawRows, part: Part | None = None) -> dict[str, torch.Tensor]:
        inputs = self._encoder.encode(rows, part)
        if self.histories is not None and part != "item":
            inputs[PROFILE_FIELD] = self.histories.numbers(self._encoder.keys[0], rows)
        return inputs

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
            histories = of_context.get(HISTORY_FIELD)
            if histories is not None and histories.dim() == 3:  # one for each scenario that an item may have
                of_context[HISTORY_FIELD] = histories[torch.arange(len(pairs)), of_item[SCENARIO_FIELD]]
            scores[start : start + len(pairs)] = self._predict(of_context | of_item, len(pairs), batch_size)
        return scores.reshape(n, width, len(self.names))

    def _score(self, rows: RawRows, batch_size: int) -> np.ndarray:
        return self._predict(self._encode(rows), rows.size, batch_size)

    def _predict(self, inputs: dict[str, torch.Tensor], size: int, batch_size: int) -> np.ndarray:
        scores = np.empty((size, self._layout.width), dtype=np.float32)
        predict = getattr(self._model, "predict_tasks", self._model.predict)
        for start in range(0, size, batch_size):
            part = slice(start, start + batch_size)
            batch = self._batch({name: column[part] for name, column in inputs.items()})
            scores[part] = predict(batch).reshape(-1, self._layout.width).float().cpu().numpy()
        if self._calibration is not None:
            scores = self._calibration(scores, inputs[SCENARIO_FIELD].numpy())
        return self._with_expected(scores)

    def _batch(self, columns: dict[str, torch.Tensor]) -> Interaction:
        """Return rows as the model takes them, with the profiles of those that have one by a history."""
        numbers = columns.pop(PROFILE_FIELD, None)
        batch = Interaction(columns).to(self._device)
        if numbers is not None and self.histories is not None and (numbers >= 0).any():
            own, which = numbers.unique(return_inverse=True)
            has_others = int(own[0] < 0)
            profiles = torch.from_numpy(self.histories.vectors[own[has_others:].numpy()].astype(np.float32))
            given = (column.to(self._device) for column in (which - has_others, profiles))
            give_profiles(batch, GivenProfiles(*given))
        return batch

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
