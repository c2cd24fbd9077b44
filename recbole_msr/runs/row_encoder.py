"""Encode raw rows as the inputs of a trained model, by the vocabulary and the tables that its run kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from recbole.utils import FeatureSource, FeatureType
from torch import Tensor

from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.data.history import HISTORY_FIELD
from recbole_msr.data.vocabulary import Vocabularies
from recbole_msr.errors import InputError
from recbole_msr.files.row_files import is_nested
from recbole_msr.layers.embedding import FeatureEmbedding
from recbole_msr.runs.row_columns import distinct_values, gather, to_numbers
from recbole_msr.runs.row_counts import RowCounts
from recbole_msr.runs.row_ids import HashedVocabulary, Vocabulary, to_id_sequences
from recbole_msr.schema import SCENARIO_FIELD, UNKNOWN_SCENARIO

Part = Literal["item", "context"]
OF_ITEM = (FeatureSource.ITEM, FeatureSource.ITEM_ID)
"""Where fields of the item come from; those of the context come from elsewhere."""


@dataclass(frozen=True)
class RawRows:
    """Rows to encode.

    Attributes:
        columns: the columns that the model may read, by name.
        names: the names of all columns, for an error that lists them.
        size: number of rows N.
        source: what an error calls the rows: "the rows", or a file.
        place: tells where row i is, for an error: "row 6", "rows.csv, line 7".
        counts: where rows that lack something are counted.
        texts: columns in which every row has a text, as Python has it, where that is at hand.
    """

    columns: Mapping[str, pa.Array]
    names: list[str]
    size: int
    source: str
    place: Callable[[int], str]
    counts: RowCounts
    texts: Mapping[str, Sequence[str]] = dataclass_field(default_factory=dict)


class RowEncoder:
    """Turns raw rows into the inputs of a model.

    Args:
        config: RecBole's Config of the run.
        dataset: the run's vocabularies and tables.
        features: the model's embedding, which knows the values that have a training row; anything else for a model
            that does not.
    """

    def __init__(self, config: Any, dataset: ScenarioDataset, features: Any) -> None:
        self._config, self._dataset, self._features = config, dataset, features
        self._vocabularies: dict[str, Vocabulary] = {}
        self._unseen: dict[str, np.ndarray] = {}
        fields = {*dataset.field2source} - {SCENARIO_FIELD}
        self.keys = (str(dataset.uid_field), str(dataset.iid_field))
        """The fields of users' and items' ids."""
        scenario = dataset.schema.scenario.field  # may be called SCENARIO_FIELD itself
        self.columns: set[str] = fields if scenario is None else fields | {scenario}
        """The columns that may be read; any other is ignored."""

    def encode(self, rows: RawRows, part: Part | None = None) -> dict[str, Tensor]:
        """Return the model's inputs by field, each of N rows.

        A value never seen in training becomes the unknown id. A field of a known user or item that the rows leave out
        or empty comes from the run's tables; for a missing number stands the mean of the training data.

        Args:
            rows: the rows.
            part: "item" for the item's fields alone, "context" for all others; None for all. Where the scenario is a
                field of the item, a context has the history of each scenario, (N, M + 1, 2).

        Raises:
            InputError: a needed column is missing, or a value is not what it must be.
        """
        dataset = self._dataset
        keys = {"context": (dataset.uid_field,), "item": (dataset.iid_field,)}
        own = keys.get(part or "", (dataset.uid_field, dataset.iid_field))
        inputs = {key: self._key_ids(key, rows) for key in own}
        known = {key: self._known_ids(key, ids) for key, ids in inputs.items()}
        tables = self._tables
        schema = dataset.schema
        unread = {dataset.uid_field, dataset.iid_field, dataset.time_field}
        unread |= {*schema.label_fields, *schema.weight_fields.values()}
        for field, source in dataset.field2source.items():
            if field in unread or (part is not None and (source in OF_ITEM) != (part == "item")):
                continue
            key, table = tables.get(source, (None, None))
            stored = None if table is None else table[field][known[key]]
            if field == SCENARIO_FIELD:
                inputs[field] = self._scenario_ids(rows, stored)
            else:
                unknown_key = None if stored is None else (known[str(key)] == 0).numpy()
                encoded = self._encode_field(field, rows, stored, unknown_key)
                if encoded is not None:
                    inputs[field] = encoded
        if dataset.history is not None and part != "item":
            users = known[dataset.uid_field]
            inputs[HISTORY_FIELD] = self._history_rows(rows, users, inputs.get(SCENARIO_FIELD))
        return inputs

    @property
    def _tables(self) -> dict[Any, tuple[Any, Any]]:
        """Return the key and the run's table of fields of users and of items, by their source."""
        dataset = self._dataset
        return {
            FeatureSource.USER: (dataset.uid_field, dataset.user_feat),
            FeatureSource.ITEM: (dataset.iid_field, dataset.item_feat),
        }

    def scenarios(self, rows: RawRows) -> Tensor:
        """Return each row's scenario (N,), 1 to M, or `UNKNOWN_SCENARIO`, as `encode` does; no other field is read.

        Raises:
            InputError: there is no column that tells the scenario of a row, or a value is not what it must be.
        """
        key, table = self._tables.get(self._dataset.field2source[SCENARIO_FIELD], (None, None))
        stored = None
        if table is not None:
            ids = self._known_ids(key, self._token_ids(key, rows)[0])
            if self._dataset.schema.scenario.field in rows.columns or (ids > 0).all():
                stored = table[SCENARIO_FIELD][ids]
        return self._scenario_ids(rows, stored)

    def _history_rows(self, rows: RawRows, users: Tensor, scenarios: Tensor | None) -> Tensor:
        """Return where the kept training rows before each row are (N, 2); a row without a time is after them all.

        Args:
            rows: the rows.
            users: their ids (N,).
            scenarios: their ids (N,); None where the item decides.

        Returns:
            Where the item decides and histories are of the row's own scenario, those of each scenario, 0 to M:
            (N, M + 1, 2).
        """
        dataset = self._dataset
        settings, history = dataset.history_settings, dataset.history
        assert settings is not None
        assert history is not None
        times = np.full(rows.size, np.inf)
        if settings.order == "time" and dataset.time_field in rows.columns:
            given = to_numbers(dataset.time_field, rows.columns[dataset.time_field], rows.place)
            times = np.where(np.isnan(given), np.inf, given)
        if settings.scenario == "all":
            scenarios = torch.zeros_like(users)
        if scenarios is not None:
            return history.find(users, scenarios, times)
        ids = range(len(dataset.scenario_names) + 1)
        return torch.stack([history.find(users, torch.full_like(users, one), times) for one in ids], dim=1)

    def _encode_field(
        self, field: str, rows: RawRows, stored: Tensor | None, unknown_key: np.ndarray | None
    ) -> Tensor | None:
        """Encode one field; None where the model can do without it.

        Args:
            field: the field.
            rows: the rows.
            stored: the field's values (N, ...) in the run's table of users or items, where it has one.
            unknown_key: which rows' user or item is not in that table (N,).
        """
        is_input, column = self._is_input(field), rows.columns.get(field)
        if column is not None and (is_input or (stored is None and not is_nested(column.type))):
            values, empty = self._encode_column(field, rows)
            if stored is not None and empty.any():
                values[torch.from_numpy(empty)] = stored[torch.from_numpy(empty)]
        elif stored is not None:
            values, empty = stored, np.ones(rows.size, dtype=bool)
        elif is_input:
            raise InputError(f"no column '{field}', which the model reads, in {rows.source}")
        else:
            return None
        if unknown_key is not None:
            empty = empty & unknown_key
        if field in self._config["numerical_features"]:
            rows.counts.add_missing(field, empty)
        return values

    def _encode_column(self, field: str, rows: RawRows) -> tuple[Tensor, np.ndarray]:
        """Return a field as the model reads it (N, ...), and the rows that have no value (N,)."""
        kind = self._dataset.field2type[field]
        if kind == FeatureType.TOKEN:
            ids, empty = self._token_ids(field, rows)
            rows.counts.add_unknown(field, self._is_unseen(field, ids) & ~empty)
            return ids, empty
        if kind == FeatureType.TOKEN_SEQ:
            return self._sequence_ids(field, rows)
        if kind == FeatureType.FLOAT_SEQ:
            if field in self._config["numerical_features"]:
                raise InputError(
                    f"'{field}' holds sequences of numbers: they come from the run's tables only; leave it out"
                )
            return torch.zeros(rows.size), np.ones(rows.size, dtype=bool)
        if field not in self._config["numerical_features"]:
            values = to_numbers(field, rows.columns[field], None)
            return torch.from_numpy(values.astype(np.float32)), np.isnan(values)
        return self._feature_numbers(field, rows)

    def reads(self, field: str) -> bool:
        """Return whether a field is among the model's inputs."""
        return field in self._dataset.field2source and field != SCENARIO_FIELD and self._is_input(field)

    def _is_input(self, field: str) -> bool:
        kind = self._dataset.field2type[field]
        return kind in (FeatureType.TOKEN, FeatureType.TOKEN_SEQ) or field in self._config["numerical_features"]

    # Ids.

    def _vocabulary(self, field: str) -> Vocabulary:
        if field not in self._vocabularies:
            own, vocabularies = self._dataset.table_rows.get(field), self._dataset.field2id_token
            tokens = vocabularies.column(field) if isinstance(vocabularies, Vocabularies) else None
            ids = partial(self._dataset.field2token_id.__getitem__, field)
            self._vocabularies[field] = (
                HashedVocabulary(ids, tokens, own.size - 1)
                if own is not None and own.is_hashed
                else Vocabulary(ids, tokens)
            )
        return self._vocabularies[field]

    def _known_ids(self, field: str, ids: Tensor) -> Tensor:
        """Return ids (...) with 0 in place of those beyond the vocabulary, which stand for a hash."""
        own = self._dataset.table_rows.get(field)
        if own is None or not own.is_hashed:
            return ids
        return ids.masked_fill(ids >= len(self._dataset.field2id_token[field]), 0)

    def _key_ids(self, key: str, rows: RawRows) -> Tensor:
        """Return the ids (N,) of users or items; a row without one counts as unknown."""
        if key not in rows.columns:
            raise InputError(f"no column '{key}' in {rows.source}: there are {', '.join(rows.names)}")
        ids, _ = self._token_ids(key, rows)
        rows.counts.add_unknown(key, self._is_unseen(key, ids))
        return ids

    def _token_ids(self, field: str, rows: RawRows) -> tuple[Tensor, np.ndarray]:
        vocabulary = self._vocabulary(field)
        found = vocabulary.ids_of_texts(rows.texts[field]) if field in rows.texts else None
        if found is not None:
            return torch.from_numpy(found), np.zeros(rows.size, dtype=bool)
        ids, empty = vocabulary.ids_of(field, rows.columns[field])
        return torch.from_numpy(ids), empty

    def _sequence_ids(self, field: str, rows: RawRows) -> tuple[Tensor, np.ndarray]:
        column = rows.columns[field]
        length, separator = self._dataset.field2seqlen[field], self._config["seq_separator"]
        table, outside = to_id_sequences(field, column, self._vocabulary(field), length, separator)
        ids = torch.from_numpy(table)
        untrained = (self._is_unseen(field, ids) & (table != 0)).any(axis=1)
        rows.counts.add_unknown(field, outside | untrained)
        return ids, column.is_null().to_numpy(zero_copy_only=False)

    def _is_unseen(self, field: str, ids: Tensor) -> np.ndarray:
        """Return which ids (...) the model takes for the unknown one: those of no token, or of no training row."""
        if field not in self._unseen:
            own, n_ids = self._dataset.table_rows.get(field), len(self._dataset.field2id_token[field])
            every = torch.arange(n_ids + (own.size - 1 if own is not None and own.is_hashed else 0))
            unseen, features = self._known_ids(field, every) == 0, self._features
            if isinstance(features, FeatureEmbedding) and field in (*features.token_fields, *features.token_seq_fields):
                unseen = unseen | ~features.has_seen(field, every.to(features.seen.device)).cpu()
            self._unseen[field] = unseen.numpy()
        found: np.ndarray = self._unseen[field][ids.numpy()]
        return found

    # Numbers.

    def _feature_numbers(self, field: str, rows: RawRows) -> tuple[Tensor, np.ndarray]:
        """Return a numerical feature as RecBole gives it to a model, (N, 2): the normalised value and 1."""
        _, empty, scaled = self._scaled_numbers(field, rows)
        return torch.from_numpy(np.stack([scaled, np.ones_like(scaled)], axis=1)), empty

    def _scaled_numbers(self, field: str, rows: RawRows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return a numerical feature (N,) in its unit, the rows without one, and the normalised values, float32."""
        if field in (self._config["discretization"] or {}):
            raise InputError(
                f"'{field}' was put into buckets made from the training data, which a new value cannot be; leave the "
                "column out where user and item are known"
            )
        values = to_numbers(field, rows.columns[field], rows.place)
        empty, scale = np.isnan(values), self._dataset.number_scale[field]
        with np.errstate(over="ignore"):
            scaled = ((np.where(empty, scale["mean"], values) - scale["low"]) / scale["width"]).astype(np.float32)
        if not np.isfinite(scaled).all():
            row = int((~np.isfinite(scaled)).argmax())
            raise InputError(f"{rows.place(row)}: '{field}' is {values[row]}, beyond what the model can compute with")
        return values, empty, scaled

    # Scenarios.

    def _scenario_ids(self, rows: RawRows, stored: Tensor | None) -> Tensor:
        """Return each row's scenario (N,), 1 to M, or `UNKNOWN_SCENARIO`."""
        source = self._dataset.schema.scenario.field
        if source is None:
            ids = torch.ones(rows.size, dtype=torch.int64)
        elif source in rows.columns:
            ids, empty = self._assign_scenarios(rows)
            if stored is not None:
                ids[torch.from_numpy(empty)] = stored[torch.from_numpy(empty)].to(ids.dtype)
        elif stored is not None:
            ids = stored
        else:
            raise InputError(f"no column '{source}', which tells the rows' scenario, in {rows.source}")
        rows.counts.add_unknown(SCENARIO_FIELD, (ids == UNKNOWN_SCENARIO).numpy())
        return ids

    def _assign_scenarios(self, rows: RawRows) -> tuple[Tensor, np.ndarray]:
        """Return each row's scenario (N,) by the column that declares it, and the rows without a value (N,)."""
        declared, names = self._dataset.schema.scenario, self._dataset.scenario_names
        source = str(declared.field)
        column = rows.columns[source]
        if declared.bins is not None:
            values = to_numbers(source, column, rows.place)
            return torch.from_numpy(declared.assign(values, names)), np.isnan(values)  # type: ignore[arg-type]
        tokens = [*names] if declared.groups is None else [v for group in declared.groups.values() for v in group]
        vocabulary = Vocabulary({token: place for place, token in enumerate(tokens, start=1)})
        places, distinct = distinct_values(source, column)
        spelled = [tokens[place - 1] if (place := vocabulary.find(value)) else value for value in distinct]
        return torch.from_numpy(gather(declared.assign(spelled, names), places, UNKNOWN_SCENARIO)), places < 0
