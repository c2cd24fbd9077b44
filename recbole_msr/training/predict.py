"""Scoring new rows with a finished run, without the data it was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType

from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.errors import InputError
from recbole_msr.layers.embedding import FeatureEmbedding
from recbole_msr.outputs import check_paths, check_scored
from recbole_msr.schema import SCENARIO_FIELD, UNKNOWN_SCENARIO, as_token
from recbole_msr.threads import torch_threads
from recbole_msr.training.checkpoint import load_checkpoint, load_weights, write_atomically
from recbole_msr.training.config import build_config


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
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"the vocabulary in {folder} is damaged: {error}") from error
        from recbole.utils import get_model

        self._model = get_model(self._config["model"])(self._config, self._dataset)
        load_weights(self._model, checkpoint)
        self._model.to(self._config["device"]).eval()
        several = hasattr(self._model, "predict_tasks")
        self.tasks: list[str] = self._dataset.schema.task_names if several else [self._dataset.schema.main_task]
        self.unknown: dict[str, int] = {}

    @torch_threads()
    @torch.no_grad()
    def predict(self, rows: pd.DataFrame, batch_size: int = 8192) -> pd.DataFrame:
        """Probabilities of new rows.

        Args:
            rows: a column for the user, the item, and every field of the interactions that the model reads; fields of
                users and items may be left out, or empty in some rows: those of known ones are in the run's tables.
            batch_size: rows scored at once.

        Returns:
            A frame (N, T) with a column a task. Values never seen in training use the unknown embedding; how many
            there were is in `unknown`, by field.

        Raises:
            InputError: a needed column is missing.
        """
        self.unknown = {}
        inputs = self._encode(rows)
        scores = np.empty((len(rows), len(self.tasks)), dtype=np.float32)
        for start in range(0, len(rows), batch_size):
            part = slice(start, start + batch_size)
            batch = Interaction({name: column[part] for name, column in inputs.items()}).to(self._config["device"])
            predict = getattr(self._model, "predict_tasks", self._model.predict)
            scores[part] = predict(batch).reshape(-1, len(self.tasks)).float().cpu().numpy()
        return pd.DataFrame(scores, columns=self.tasks, index=rows.index)

    def _encode(self, rows: pd.DataFrame) -> dict[str, torch.Tensor]:
        dataset, inputs = self._dataset, {}
        labels = set(dataset.schema.label_fields)
        tables = {
            FeatureSource.USER: (dataset.uid_field, dataset.user_feat),
            FeatureSource.ITEM: (dataset.iid_field, dataset.item_feat),
        }
        for key in (dataset.uid_field, dataset.iid_field):
            if key not in rows:
                raise InputError(f"the rows have no column '{key}'; they have {', '.join(map(str, rows.columns))}")
            inputs[key] = self._tokens(key, rows[key])
        for field, source in dataset.field2source.items():
            if field in inputs or field in labels or field == dataset.time_field:
                continue
            key, table = tables.get(source, (None, None))
            if field == SCENARIO_FIELD:
                inputs[field] = self._scenario(rows, inputs, key, table)
            elif field in rows:
                inputs[field] = self._values(field, rows[field])
                if table is not None:
                    self._fill(inputs[field], rows[field], table[field][inputs[key]])
            elif table is not None:
                inputs[field] = table[field][inputs[key]]
            elif self._is_input(field):
                raise InputError(f"the rows have no column '{field}', which the model reads")
        return inputs

    def _is_input(self, field: str) -> bool:
        kind = self._dataset.field2type[field]
        return kind in (FeatureType.TOKEN, FeatureType.TOKEN_SEQ) or field in self._config["numerical_features"]

    @staticmethod
    def _fill(column: torch.Tensor, values: pd.Series, instead: torch.Tensor) -> None:
        """Put in what the tables know where a row has no value."""
        missing = torch.tensor(values.isna().tolist(), dtype=torch.bool)
        column[missing] = instead[missing]

    def _tokens(self, field: str, values: Any) -> torch.Tensor:
        known = self._dataset.field2token_id[field]
        ids = np.array([self._id(value, known) for value in values], dtype=np.int64)
        unseen = self._unseen(field, torch.from_numpy(ids)).numpy()
        if field not in (self._dataset.uid_field, self._dataset.iid_field):
            unseen &= values.notna().to_numpy(dtype=bool)
        if unseen.any():
            self.unknown[field] = int(unseen.sum())
        return torch.from_numpy(ids)

    def _unseen(self, field: str, ids: torch.Tensor) -> torch.Tensor:
        """Which ids (n,) the model takes for the unknown one: what the vocabulary or the training rows do not have."""
        features = getattr(self._model, "features", None)
        if isinstance(features, FeatureEmbedding) and field in features.token_fields:
            return (ids == 0) | ~features.has_seen(field, ids.to(features.seen.device)).cpu()
        return ids == 0

    @staticmethod
    def _id(value: Any, known: Mapping[str | None, int]) -> int:
        token = as_token(value)
        if token not in known and isinstance(value, str) and value.endswith(".0"):
            token = value.removesuffix(".0")  # how a table with gaps writes whole numbers
        return known.get(token, 0)

    def _values(self, field: str, values: pd.Series) -> torch.Tensor:
        kind = self._dataset.field2type[field]
        if kind == FeatureType.TOKEN:
            return self._tokens(field, values)
        if kind == FeatureType.TOKEN_SEQ:
            known, length = self._dataset.field2token_id[field], self._dataset.field2seqlen[field]
            table = np.zeros((len(values), length), dtype=np.int64)
            for row, value in enumerate(values):
                if isinstance(value, str):
                    tokens = value.split(self._config["seq_separator"])
                elif isinstance(value, Iterable):
                    tokens = list(value)
                else:
                    tokens = [] if pd.isna(value) else [value]
                ids = [self._id(token, known) for token in tokens if token != ""][:length]
                table[row, : len(ids)] = ids
            return torch.from_numpy(table)
        if kind == FeatureType.FLOAT_SEQ:
            if field in self._config["numerical_features"]:
                raise InputError(
                    f"'{field}' holds sequences of numbers: they come from the run's tables only; leave it out"
                )
            return torch.zeros(len(values))
        numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64)
        if field not in self._config["numerical_features"]:
            return torch.from_numpy(numbers.astype(np.float32))
        if field in (self._config["discretization"] or {}):
            raise InputError(
                f"'{field}' was put into buckets made from the training data, which a new value cannot be; leave the "
                "column out where user and item are known"
            )
        scale = self._dataset.number_scale[field]
        numbers = (np.where(np.isnan(numbers), scale["mean"], numbers) - scale["low"]) / scale["width"]
        return torch.from_numpy(np.stack([numbers, np.ones_like(numbers)], axis=1).astype(np.float32))

    def _scenario(self, rows: pd.DataFrame, inputs: dict[str, torch.Tensor], key: Any, table: Any) -> torch.Tensor:
        declared = self._dataset.schema.scenario
        if declared.field is None or declared.field in rows:
            values = rows.iloc[:, 0] if declared.field is None else rows[declared.field]
            names = self._dataset.scenario_names
            ids = torch.from_numpy(declared.assign([None if pd.isna(v) else v for v in values], names))
            if table is not None:
                self._fill(ids, values, table[SCENARIO_FIELD][inputs[key]])
        elif table is not None:
            ids = table[SCENARIO_FIELD][inputs[key]]
        else:
            raise InputError(f"the rows have no column '{declared.field}', which tells their scenario")
        if bool((ids == UNKNOWN_SCENARIO).any()):
            self.unknown[SCENARIO_FIELD] = int((ids == UNKNOWN_SCENARIO).sum())
        return ids


def predict_file(run_dir: str | Path, data: str | Path, out: str | Path, batch_size: int = 8192) -> list[str]:
    """Score the rows of a CSV or Parquet file; the output has the input's columns and one a task.

    Returns:
        Lines that say what was done.

    Raises:
        InputError: a file cannot be read or written, or is neither .csv nor .parquet.
    """
    check_paths({}, run=run_dir, data=data, out=out)
    for path in (data, out):
        if Path(path).suffix not in (".csv", ".parquet"):
            raise InputError(f"{path} must be a .csv or .parquet file")
    if batch_size < 1:
        raise InputError(f"--batch-size must be at least 1, got {batch_size}")
    predictor = Predictor(run_dir)
    check_scored(data, out, predictor.tasks)
    try:
        rows = pd.read_parquet(data) if Path(data).suffix == ".parquet" else pd.read_csv(data, dtype=object)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {data}: {error}") from error
    scores = predictor.predict(rows, batch_size)
    result = pd.concat([rows.drop(columns=[t for t in predictor.tasks if t in rows]), scores], axis=1)
    try:
        if Path(out).suffix == ".parquet":
            write_atomically(out, lambda temporary: result.to_parquet(temporary, index=False))
        else:
            write_atomically(out, lambda temporary: result.to_csv(temporary, index=False))
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from error
    lines = [f"{len(rows)} rows scored for {', '.join(predictor.tasks)}: {out}"]
    for field, count in predictor.unknown.items():
        what = "averaged over all scenarios" if field == SCENARIO_FIELD else "the unknown embedding"
        lines.append(f"{count} rows have a {field} never seen in training: {what}")
    return lines
