"""Turn raw rows into the inputs of an exported model, by the vocabularies of its run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from recbole_msr.data.history import last_rows
from recbole_msr.errors import InputError
from recbole_msr.runs.export.fields import MISSING_ID, Field, exportable_model, model_fields
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

    Attributes:
        fields: the same.
    """

    def __init__(self, config: Any, dataset: Any, features: Any, fields: Sequence[Field]) -> None:
        super().__init__(config, dataset, features)
        self.fields = list(fields)

    @classmethod
    def of_run(cls, run: SavedRun) -> GraphEncoder:
        """Return that of a run.

        Raises:
            InputError: its model cannot be exported.
        """
        model = exportable_model(run)
        fields = model_fields(run.recbole_config, run.dataset, model)
        return cls(run.recbole_config, run.dataset, model.features, fields)

    def inputs(self, rows: RawRows) -> dict[str, np.ndarray]:
        """Return the graph's inputs by name, and count rows that lack something, as `encode` does.

        Raises:
            InputError: a needed column is missing, or a value is not what it must be.
        """
        found: dict[str, np.ndarray] = {}
        known: dict[str, torch.Tensor] = {}
        scenarios = np.ones(rows.size, dtype=np.int64)
        for field in self.fields:
            if field.key is None and field.name in self.keys:
                ids = self._key_ids(field.name, rows)
                found[field.name], known[field.name] = ids.numpy(), self._known_ids(field.name, ids)
                continue
            stored = None if field.table is None else (field.table, known[str(field.key)])
            if field.kind == "scenario":
                found[field.name], scenarios = self._scenario_input(field, rows, stored)
            elif field.rows is not None:
                continue  # made of all others
            elif field.column in rows.columns:
                found[field.name], empty = self._input(field, rows)
                self._count_missing(field, rows, empty, stored)
            elif stored is not None:
                if field.is_given:
                    found[field.name] = _missing(field, rows.size)
                self._count_missing(field, rows, np.ones(rows.size, dtype=bool), stored)
            else:
                raise InputError(f"no column '{field.column}', which the model reads, in {rows.source}")
        found |= self._earlier_rows(rows, known[self.keys[0]], scenarios)
        return {field.name: found[field.name] for field in self.fields if field.is_given}

    def _earlier_rows(self, rows: RawRows, users: torch.Tensor, scenarios: np.ndarray) -> dict[str, np.ndarray]:
        """Return the inputs of the kept training rows before each row, the latest first."""
        fields = [field for field in self.fields if field.rows is not None]
        if not fields:
            return {}
        history = self._dataset.history
        assert history is not None
        numbers, there = last_rows(self._history_rows(rows, users, torch.from_numpy(scenarios)), fields[0].length)
        if not numbers.shape[1]:  # a graph takes one position or more
            numbers, there = (torch.zeros(rows.size, 1, dtype=kind.dtype) for kind in (numbers, there))
        ids = {field.name: history.values[field.vocabulary][numbers].long() for field in fields}
        return {field.name: ids[field.name].masked_fill(~there, field.padding).numpy() for field in fields}

    def histories(self, rows: RawRows) -> dict[str, list[list[str]]]:
        """Return the tokens of each row's earlier rows by input, as a row of an exported model has them."""
        inputs = self.inputs(rows)
        return {
            field.column: [
                [str(tokens[number]) for number in of_row if number != field.padding]
                for of_row in inputs[field.name].tolist()
            ]
            for field in self.fields
            if field.rows is not None
            for tokens in [np.asarray(self._dataset.field2id_token[field.vocabulary])]
        }

    def _input(self, field: Field, rows: RawRows) -> tuple[np.ndarray, np.ndarray]:
        """Return an input of a column that is there, and the rows without a value (N,)."""
        if field.kind == "number":
            values, empty, _ = self._scaled_numbers(field.name, rows)
            return values, empty
        ids, empty = self._encode_column(field.name, rows)
        values = ids.numpy()
        if field.kind == "history":  # a given column: as long as the longest of these rows
            filled = np.flatnonzero((values != 0).any(axis=0))
            return values[:, : filled[-1] + 1 if len(filled) else 1], empty
        values[empty] = MISSING_ID
        return values, empty

    @staticmethod
    def _count_missing(field: Field, rows: RawRows, empty: np.ndarray, stored: Any) -> None:
        if field.kind != "number":
            return
        if stored is not None:  # the table of a known user or item has the number
            empty = empty & (stored[1] == 0).numpy()
        rows.counts.add_missing(field.name, empty)

    def _scenario_input(self, field: Field, rows: RawRows, stored: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the input, and each row's scenario by the table where the input has none, both (N,)."""
        if field.column in rows.columns:
            ids, empty = self._assign_scenarios(rows)
            given = ids.numpy()
        elif stored is not None:
            given, empty = _missing(field, rows.size), np.ones(rows.size, dtype=bool)
        else:
            raise InputError(f"no column '{field.column}', which tells the rows' scenario, in {rows.source}")
        given[empty] = MISSING_ID
        of_row = given
        if empty.any():
            of_row = np.where(empty, UNKNOWN_SCENARIO if stored is None else stored[0][stored[1]].numpy(), given)
        rows.counts.add_unknown(field.name, of_row == UNKNOWN_SCENARIO)
        return given, of_row.astype(np.int64)


def _missing(field: Field, size: int) -> np.ndarray:
    """Return an input of rows that all have no value."""
    if field.kind == "number":
        return np.full(size, np.nan)
    return np.full((size, field.length) if field.kind == "token_seq" else size, MISSING_ID, dtype=np.int64)
