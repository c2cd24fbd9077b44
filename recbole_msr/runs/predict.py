"""Scoring new rows with a finished run, without the data it was trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType

from recbole_msr.config.build import build_config
from recbole_msr.data.cache import DAMAGE as VOCABULARY_DAMAGE
from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.errors import InputError
from recbole_msr.files.atomic import write_atomically
from recbole_msr.files.outputs import check_paths, check_scored
from recbole_msr.layers.embedding import FeatureEmbedding
from recbole_msr.runs.columns import Vocabulary, arrow_column, distinct, numbers, sequences, take
from recbole_msr.runs.rows import Batch, CsvWriter, ParquetWriter, counted_from, is_nested, open_rows
from recbole_msr.schema import SCENARIO_FIELD, UNKNOWN_SCENARIO
from recbole_msr.threads import torch_threads
from recbole_msr.training.checkpoint import load_checkpoint, load_weights

_AT_ONCE = 16_384
"""Rows that are read and encoded at once, at least; more if a batch of the model's has more."""


class Scored(NamedTuple):
    """Scores, and what was not there to compute them from.

    Attributes:
        scores: (N, T), a column a task.
        unknown: by field, rows with a value never seen in training, or in whose sequence there is one.
        missing: by numerical feature, rows without a number, for which the mean of the training data stands.
    """

    scores: pd.DataFrame
    unknown: dict[str, int]
    missing: dict[str, int]


@dataclass(frozen=True)
class _Given:
    """Rows to encode: their columns, what to call the table, where a row of it is, and what is counted."""

    columns: Mapping[str, pa.Array]
    names: list[str]
    size: int
    source: str
    place: Callable[[int], str]
    unknown: Counter[str]
    missing: Counter[str]

    def count(self, counted: Counter[str], field: str, rows: np.ndarray) -> None:
        if rows.any():
            counted[field] += int(rows.sum())


class Predictor:
    """A trained model with what turns raw values into its inputs.

    Args:
        run_dir: a run's folder (best.ckpt and vocabulary/).

    Raises:
        InputError: the folder holds no finished run, or its files are damaged.
    """

    def __init__(self, run_dir: str | Path) -> None:
        folder = Path(run_dir)
        if not folder.is_dir():
            raise InputError(f"there is no run folder {folder}")
        checkpoint = folder / "best.ckpt"
        settings = dict(load_checkpoint(checkpoint)["config"])
        if not (folder / "vocabulary").is_dir():
            reason = "it has not come to its end (--resume goes on with it)" if settings.get("tasks") else (
                "it was made without tasks, and only runs with tasks keep the vocabulary that takes"
            )  # fmt: skip
            raise InputError(f"the run in {folder} cannot score new rows: {reason}")
        self._config = build_config(settings.pop("model"), settings.pop("dataset"), settings | {"strict": False})
        try:
            self._dataset = ScenarioDataset.from_vocabulary(self._config, folder / "vocabulary")
        except VOCABULARY_DAMAGE as error:
            raise InputError(f"the vocabulary in {folder} is damaged: {error}") from error
        from recbole.utils import get_model

        self._model = get_model(self._config["model"])(self._config, self._dataset)
        load_weights(self._model, checkpoint)
        self._model.to(self._config["device"]).eval()
        several = hasattr(self._model, "predict_tasks")
        self.tasks: list[str] = self._dataset.schema.task_names if several else [self._dataset.schema.main_task]
        self.unknown: dict[str, int] = {}
        self.missing: dict[str, int] = {}
        self._vocabularies: dict[str, Vocabulary] = {}

    def predict(self, rows: pd.DataFrame, batch_size: int = 8192) -> pd.DataFrame:
        """Probabilities of new rows, as `score` gives them.

        Returns:
            A frame (N, T) with a column a task. What was unknown or missing in the last call is in `unknown` and
            `missing`; where several threads share a predictor, take what `score` returns instead.
        """
        found = self.score(rows, batch_size)
        self.unknown, self.missing = found.unknown, found.missing
        return found.scores

    @torch_threads()
    @torch.no_grad()
    def score(self, rows: pd.DataFrame, batch_size: int = 8192) -> Scored:
        """Score new rows, and count what was unknown or missing.

        Args:
            rows: a column for the user, the item, and every field of the interactions that the model reads; fields of
                users and items may be left out, or empty in some rows: those of known ones are in the run's tables.
            batch_size: rows scored at once.

        Returns:
            The scores, in the order of the rows and with their index. A value never seen in training uses the
            unknown embedding; for a missing number stands the mean of the training data.

        Raises:
            InputError: a needed column is missing or there twice, or a number is none.
        """
        names = [str(name) for name in rows.columns]
        read = [name for name in rows.columns if name in self._read()]
        if len(set(read)) < len(read):
            raise InputError(f"the rows have two columns called '{next(n for n in read if read.count(n) > 1)}'")
        unknown: Counter[str] = Counter()
        missing: Counter[str] = Counter()
        scores = np.empty((len(rows), len(self.tasks)), dtype=np.float32)
        size = max(batch_size, _AT_ONCE)
        for start in range(0, len(rows), size) or [0]:
            part = rows.iloc[start : start + size]
            columns = {name: arrow_column(part[name]) for name in read}
            given = _Given(columns, names, len(part), "the rows", counted_from(start), unknown, missing)
            scores[start : start + size] = self._score(given, batch_size)
        frame = pd.DataFrame(scores, columns=self.tasks, index=rows.index)
        return Scored(frame, dict(unknown), dict(missing))

    def score_batch(
        self, batch: Batch, path: str | Path, batch_size: int, unknown: Counter[str], missing: Counter[str]
    ) -> Any:
        """Scores (n, T) of some rows of a file, float32; what is unknown or missing is added to the counts."""
        names = batch.columns.schema.names
        columns = {name: batch.columns.column(name) for name in names if name in self._read()}
        return self._score(
            _Given(
                columns,
                names,
                batch.columns.num_rows,
                str(path),
                lambda i: f"{path}, {batch.place(i)}",
                unknown,
                missing,
            ),
            batch_size,
        )

    def _read(self) -> set[str | None]:
        """The columns that may be read: whatever else is in the rows does not matter."""
        return ({*self._dataset.field2source} - {SCENARIO_FIELD}) | {self._dataset.schema.scenario.field}

    def _score(self, given: _Given, batch_size: int) -> np.ndarray:
        inputs = self._encode(given)
        scores = np.empty((given.size, len(self.tasks)), dtype=np.float32)
        predict = getattr(self._model, "predict_tasks", self._model.predict)
        for start in range(0, given.size, batch_size):
            part = slice(start, start + batch_size)
            batch = Interaction({name: column[part] for name, column in inputs.items()}).to(self._config["device"])
            scores[part] = predict(batch).reshape(-1, len(self.tasks)).float().cpu().numpy()
        return scores

    def _encode(self, given: _Given) -> dict[str, torch.Tensor]:
        dataset, inputs = self._dataset, {}
        labels = set(dataset.schema.label_fields)
        tables = {
            FeatureSource.USER: (dataset.uid_field, dataset.user_feat),
            FeatureSource.ITEM: (dataset.iid_field, dataset.item_feat),
        }
        for key in (dataset.uid_field, dataset.iid_field):
            if key not in given.columns:
                raise InputError(f"no column '{key}' in {given.source}: there are {', '.join(given.names)}")
            inputs[key], _ = self._tokens(key, given, nothing_is_unknown=True)
        for field, source in dataset.field2source.items():
            if field in inputs or field in labels or field == dataset.time_field:
                continue
            key, table = tables.get(source, (None, None))
            known = None if table is None else table[field][inputs[key]]
            if field == SCENARIO_FIELD:
                inputs[field] = self._scenario(given, known)
                continue
            read = self._is_input(field)
            if field in given.columns and (read or (known is None and not is_nested(given.columns[field].type))):
                inputs[field], empty = self._values(field, given)
            elif known is not None:
                inputs[field], empty = known, np.ones(given.size, dtype=bool)
            elif read:
                raise InputError(f"no column '{field}', which the model reads, in {given.source}")
            else:
                continue
            if known is not None:
                inputs[field][torch.from_numpy(empty)] = known[torch.from_numpy(empty)]
                empty = empty & (inputs[key] == 0).numpy()
            if field in self._config["numerical_features"]:
                given.count(given.missing, field, empty)
        return inputs

    def _is_input(self, field: str) -> bool:
        kind = self._dataset.field2type[field]
        return kind in (FeatureType.TOKEN, FeatureType.TOKEN_SEQ) or field in self._config["numerical_features"]

    def is_sequence(self, field: str) -> bool:
        """Whether a field holds several tokens a row."""
        return bool(self._dataset.field2type[field] == FeatureType.TOKEN_SEQ)

    def _vocabulary(self, field: str) -> Vocabulary:
        if field not in self._vocabularies:
            self._vocabularies[field] = Vocabulary(self._dataset.field2token_id[field])
        return self._vocabularies[field]

    def _tokens(self, field: str, given: _Given, nothing_is_unknown: bool = False) -> tuple[torch.Tensor, np.ndarray]:
        places, values = distinct(field, given.columns[field])
        ids = take(self._vocabulary(field).ids(values), places)
        empty = places < 0
        unseen = self._unseen(field, torch.from_numpy(ids)).numpy()
        given.count(given.unknown, field, unseen if nothing_is_unknown else unseen & ~empty)
        return torch.from_numpy(ids), empty

    def _unseen(self, field: str, ids: torch.Tensor) -> torch.Tensor:
        """Which ids (...) the model takes for the unknown one: what the vocabulary or the training rows do not have."""
        features = getattr(self._model, "features", None)
        if isinstance(features, FeatureEmbedding) and field in (*features.token_fields, *features.token_seq_fields):
            return (ids == 0) | ~features.has_seen(field, ids.to(features.seen.device)).cpu()
        return ids == 0

    def _values(self, field: str, given: _Given) -> tuple[torch.Tensor, np.ndarray]:
        """The field as the model reads it, and in which rows there is nothing."""
        kind, column = self._dataset.field2type[field], given.columns[field]
        if kind == FeatureType.TOKEN:
            return self._tokens(field, given)
        if kind == FeatureType.TOKEN_SEQ:
            length, separator = self._dataset.field2seqlen[field], self._config["seq_separator"]
            found, unknown = sequences(field, column, self._vocabulary(field), length, separator)
            table = torch.from_numpy(found)
            left_out = (self._unseen(field, table) & (table != 0)).any(dim=1).numpy()
            given.count(given.unknown, field, unknown | left_out)
            return table, column.is_null().to_numpy(zero_copy_only=False)
        if kind == FeatureType.FLOAT_SEQ:
            if field in self._config["numerical_features"]:
                raise InputError(
                    f"'{field}' holds sequences of numbers: they come from the run's tables only; leave it out"
                )
            return torch.zeros(given.size), np.ones(given.size, dtype=bool)
        if field not in self._config["numerical_features"]:
            found = numbers(field, column, None)
            return torch.from_numpy(found.astype(np.float32)), np.isnan(found)
        if field in (self._config["discretization"] or {}):
            raise InputError(
                f"'{field}' was put into buckets made from the training data, which a new value cannot be; leave the "
                "column out where user and item are known"
            )
        found = numbers(field, column, given.place)
        empty, scale = np.isnan(found), self._dataset.number_scale[field]
        with np.errstate(over="ignore"):
            scaled = ((np.where(empty, scale["mean"], found) - scale["low"]) / scale["width"]).astype(np.float32)
        if not np.isfinite(scaled).all():
            row = int((~np.isfinite(scaled)).argmax())
            raise InputError(f"{given.place(row)}: '{field}' is {found[row]}, beyond what the model can compute with")
        return torch.from_numpy(np.stack([scaled, np.ones_like(scaled)], axis=1)), empty

    def _scenario(self, given: _Given, known: torch.Tensor | None) -> torch.Tensor:
        declared, names = self._dataset.schema.scenario, self._dataset.scenario_names
        if declared.field is None:
            ids = torch.ones(given.size, dtype=torch.int64)
        elif declared.field in given.columns:
            column = given.columns[declared.field]
            if declared.bins is not None:
                found = numbers(declared.field, column, given.place)
                empty, ids = np.isnan(found), torch.from_numpy(declared.assign(found, names))  # type: ignore[arg-type]
            else:
                listed = [*names] if declared.groups is None else [v for vs in declared.groups.values() for v in vs]
                vocabulary = Vocabulary({token: place for place, token in enumerate(listed, start=1)})
                places, values = distinct(declared.field, column)
                spelled = [listed[place - 1] if (place := vocabulary.find(value)) else value for value in values]
                ids = torch.from_numpy(take(declared.assign(spelled, names), places, UNKNOWN_SCENARIO))
                empty = places < 0
            if known is not None:
                ids[torch.from_numpy(empty)] = known[torch.from_numpy(empty)].to(ids.dtype)
        elif known is not None:
            ids = known
        else:
            raise InputError(f"no column '{declared.field}', which tells the rows' scenario, in {given.source}")
        given.count(given.unknown, SCENARIO_FIELD, (ids == UNKNOWN_SCENARIO).numpy())
        return ids


@torch_threads()
@torch.no_grad()
def predict_file(
    run_dir: str | Path, data: str | Path, out: str | Path, batch_size: int = 8192, prefix: str = ""
) -> list[str]:
    """Score the rows of a CSV or Parquet file; the output has the input's columns as they were, and one a task.

    Both files are read and written a part at a time, so memory does not grow with them.

    Args:
        run_dir: a run's folder.
        data: a file with a row an event.
        out: where the rows go; there is a file only once all of them are scored.
        batch_size: rows scored at once.
        prefix: what the names of the scores begin with, before the task's name.

    Returns:
        Lines that say what was done.

    Raises:
        InputError: a file cannot be read or written, or is neither .csv nor .parquet; the input has a column called
            like a score; a value is not what it must be.
    """
    check_paths({}, run=run_dir, data=data, out=out)
    for path in (data, out):
        if Path(path).suffix not in (".csv", ".parquet"):
            raise InputError(f"{path} must be a .csv or .parquet file")
    if batch_size < 1:
        raise InputError(f"--batch-size must be at least 1, got {batch_size}")
    predictor = Predictor(run_dir)
    names = [prefix + task for task in predictor.tasks]
    check_scored(data, out, names)
    unknown: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    rows = 0
    with open_rows(data, max(batch_size, _AT_ONCE)) as (schema, batches):
        taken = [name for name in names if name in schema.names]
        if taken:
            raise InputError(
                f"{data} has a column '{taken[0]}' already, as the scores are called: name them otherwise with "
                f"--prefix, such as --prefix=score_"
            )
        for name in names:
            schema = schema.append(pa.field(name, pa.float32()))

        def write(temporary: str) -> None:
            nonlocal rows
            writer = (ParquetWriter if Path(out).suffix == ".parquet" else CsvWriter)(temporary, schema)
            try:
                for batch in batches:
                    scores = predictor.score_batch(batch, data, batch_size, unknown, missing)
                    columns = [*batch.columns.columns, *(pa.array(column) for column in scores.T.copy())]
                    writer.write(pa.RecordBatch.from_arrays(columns, schema=schema))
                    rows += len(scores)
            finally:
                writer.close()

        try:
            write_atomically(out, write)
        except OSError as error:
            raise InputError(f"cannot write {out}: {error.strerror or error}") from error
    lines = [f"{rows} rows scored for {', '.join(predictor.tasks)}: {out}"]
    for field, count in unknown.items():
        what = "averaged over all scenarios" if field == SCENARIO_FIELD else "the unknown embedding is used"
        if predictor.is_sequence(field):
            what = "left out of the sequence"
        lines.append(f"{field}: {_rows_have(count)} a value never seen in training ({what})")
    for field, count in missing.items():
        lines.append(f"{field}: {_rows_have(count)} no value (the mean of the training data is used)")
    return lines


def _rows_have(count: int) -> str:
    return "1 row has" if count == 1 else f"{count} rows have"
