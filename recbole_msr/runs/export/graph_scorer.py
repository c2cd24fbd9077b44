"""Score raw rows with an exported model: tokens by the run's vocabularies, scores by onnxruntime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from recbole_msr.errors import InputError
from recbole_msr.files.row_files import Batch
from recbole_msr.runs.ensemble import SavedEnsemble
from recbole_msr.runs.export.check import check_drawn_rows
from recbole_msr.runs.export.ensemble_graph import shared_inputs
from recbole_msr.runs.export.exported_model import ExportedModel
from recbole_msr.runs.export.graph_encoder import GraphEncoder
from recbole_msr.runs.row_counts import RowCounts
from recbole_msr.runs.row_encoder import RawRows
from recbole_msr.runs.saved_run import SavedRun


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
        self._encoders = [GraphEncoder.of_run(member) for member in run.members]
        fields = shared_inputs([encoder.fields for encoder in self._encoders])
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
            columns, names, batch.columns.num_rows, str(path), lambda i: f"{path}, {batch.place(i)}", counts,
            batch.texts,
        )  # fmt: skip
        if len(self._encoders) == 1:
            return self._model.score(self._encoders[0].inputs(raw))
        inputs: dict[str, np.ndarray] = {}
        members = [counts.fresh() for _ in self._encoders]
        for encoder, own in zip(self._encoders, members, strict=True):
            inputs |= encoder.inputs(replace(raw, counts=own))
        counts.add_most(members)
        return self._model.score({name: inputs[name] for name in self._model.input_names})
