"""Score raw rows with an exported model: tokens by the run's vocabularies, scores by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_msr.errors import InputError
from recbole_msr.files.row_files import Batch
from recbole_msr.runs.ensemble import SavedEnsemble
from recbole_msr.runs.export.check import check_drawn_rows
from recbole_msr.runs.export.ensemble_graph import shared_inputs
from recbole_msr.runs.export.exported_model import ExportedModel
from recbole_msr.runs.export.fields import MISSING_ID, Field, exportable_model, model_fields
from recbole_msr.runs.row_counts import RowCounts
from recbole_msr.runs.row_encoder import RawRows, RowEncoder
from recbole_msr.runs.saved_run import SavedRun
from recbole_msr.schema import UNKNOWN_SCENARIO


class GraphEncoder(RowEncoder):
    """Turns raw rows into the inputs of an exported model, which has the users' and items' tables itself.

    Args:
        config: RecBole's Config of the run.
        dataset: the run's vocabularies and tables.
        features: the model's embedding.
        fields: what the model reads.
    """

    def __init__(self, config: Any, dataset: Any, features: Any, fields: Sequence[Field]) -> None:
        super().__init__(config, dataset, features)
        self._fields = list(fields)

    def inputs(self, rows: RawRows) -> dict[str, np.ndarray]:
        """Return the graph's inputs by name, and count rows that lack something, as `encode` does.

        Raises:
            InputError: a needed column is missing, or a value is not what it must be.
        """
        found: dict[str, np.ndarray] = {}
        known: dict[str, torch.Tensor] = {}
        for field in self._fields:
            if field.key is None and field.name in self.keys:
                ids = self._key_ids(field.name, rows)
                found[field.name], known[field.name] = ids.numpy(), self._known_ids(field.name, ids)
                continue
            stored = None if field.table is None else (field.table, known[str(field.key)])
            if field.kind == "scenario":
                found[field.name] = self._scenario_input(field, rows, stored)
            elif field.column in rows.columns:
                found[field.name], empty = self._input(field, rows)
                self._count_missing(field, rows, empty, stored)
            elif stored is not None:
                if field.is_given:
                    found[field.name] = _missing(field, rows.size)
                self._count_missing(field, rows, np.ones(rows.size, dtype=bool), stored)
            else:
                raise InputError(f"no column '{field.column}', which the model reads, in {rows.source}")
        return found

    def _input(self, field: Field, rows: RawRows) -> tuple[np.ndarray, np.ndarray]:
        """Return an input of a column that is there, and the rows without a value (N,)."""
        if field.kind == "number":
            values, empty, _ = self._scaled_numbers(field.name, rows)
            return values, empty
        ids, empty = self._encode_column(field.name, rows)
        values = ids.numpy()
        values[empty] = MISSING_ID
        return values, empty

    @staticmethod
    def _count_missing(field: Field, rows: RawRows, empty: np.ndarray, stored: Any) -> None:
        if field.kind != "number":
            return
        if stored is not None:  # the table of a known user or item has the number
            empty = empty & (stored[1] == 0).numpy()
        rows.counts.add_missing(field.name, empty)

    def _scenario_input(self, field: Field, rows: RawRows, stored: Any) -> np.ndarray:
        if field.column in rows.columns:
            ids, empty = self._assign_scenarios(rows)
            given = ids.numpy()
        elif stored is not None:
            given, empty = _missing(field, rows.size), np.ones(rows.size, dtype=bool)
        else:
            raise InputError(f"no column '{field.column}', which tells the rows' scenario, in {rows.source}")
        given[empty] = MISSING_ID
        of_row = given
        if empty.any() and stored is not None:
            of_row = np.where(empty, stored[0][stored[1]].numpy(), given)
        rows.counts.add_unknown(field.name, (of_row == UNKNOWN_SCENARIO) | (of_row == MISSING_ID))
        return given


def _missing(field: Field, size: int) -> np.ndarray:
    """Return an input of rows that all have no value."""
    if field.kind == "number":
        return np.full(size, np.nan)
    return np.full((size, field.length) if field.kind == "token_seq" else size, MISSING_ID, dtype=np.int64)


class GraphScorer:
    """Scores raw rows as a run's `Scorer` does, by its exported model.

    Args:
        run: the run or the ensemble.
        folder: what `export_run` wrote of it.
        threads: onnxruntime's threads.

    Attributes:
        names: the names of all columns of the scores.

    Raises:
        InputError: the folder is no export, or not of this run.
    """

    def __init__(self, run: SavedRun | SavedEnsemble, folder: str | Path, threads: int = 1) -> None:
        self._model = ExportedModel(folder, threads)
        self.names: list[str] = self._model.columns
        self._encoders, every = [], []
        for member in run.members if isinstance(run, SavedEnsemble) else [run]:
            model, config, dataset = exportable_model(member), member.recbole_config, member.dataset
            every.append(model_fields(config, dataset, model))
            self._encoders.append(GraphEncoder(config, dataset, model.features, every[-1]))
        fields = shared_inputs(every)
        rounded = self._model.document.get("embeddings", "float32")
        if rounded != "float32":
            raise InputError(
                f"{folder} has embeddings in {rounded}: its scores are not the run's; export it with "
                "--embeddings=float32 to serve it"
            )
        inputs = [field.name for field in fields if field.is_given]
        if self.names != run.scorer.names or self._model.input_names != inputs:
            raise InputError(f"{folder} is no export of {run.folder}: it has other inputs or predictions")
        check_drawn_rows(run, self._model, fields)

    def score_batch(self, batch: Batch, path: Any, batch_size: int, counts: RowCounts) -> np.ndarray:
        """Score some rows as `Scorer.score_batch` does; (n, C), float32."""
        names = batch.columns.schema.names
        columns = {name: batch.columns.column(name) for name in names if name in self._encoders[0].columns}
        raw = RawRows(
            columns, names, batch.columns.num_rows, str(path), lambda i: f"{path}, {batch.place(i)}", counts
        )  # fmt: skip
        if len(self._encoders) == 1:
            return self._model.score(self._encoders[0].inputs(raw))
        inputs: dict[str, np.ndarray] = {}
        members = [counts.fresh() for _ in self._encoders]
        for encoder, own in zip(self._encoders, members, strict=True):
            inputs |= encoder.inputs(replace(raw, counts=own))
        counts.add_most(members)
        return self._model.score({name: inputs[name] for name in self._model.input_names})
