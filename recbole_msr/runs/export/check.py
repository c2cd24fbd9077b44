"""Check an exported model: onnxruntime's scores are those of `predict`, on test rows and on rows drawn at random."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.utils import FeatureType

from recbole_msr.config.build import reading_data
from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.errors import InputError
from recbole_msr.evaluation.calibration import Calibration, Map
from recbole_msr.runs.explain.sources import data_changes
from recbole_msr.runs.export.exported_model import ExportedModel
from recbole_msr.runs.export.fields import Field
from recbole_msr.runs.saved_run import SavedRun
from recbole_msr.runs.scoring import Scorer
from recbole_msr.schema import Scenario

TOLERANCE = 1e-5
"""Largest difference that is allowed, of numbers above 1 relative to them."""
_DRAWN = 512
_BATCH = 8192
_UNKNOWN = "\x00no such value"


def check_export(run: SavedRun, folder: Path, fields: list[Field]) -> dict[str, Any]:
    """Score rows by the exported model and by the run, and compare.

    The rows are those of the test split, where the data are still there as they were, and rows drawn from the
    vocabularies, in which some values are missing and some unknown.

    Args:
        run: the run.
        folder: the exported model.
        fields: what it reads.

    Returns:
        The rows and the largest difference of each kind of rows; `test_rows_left_out` says why there are none.

    Raises:
        InputError: a score differs by more than `TOLERANCE`.
    """
    exported = ExportedModel(folder)
    found: dict[str, Any] = {"tolerance": TOLERANCE}
    frames = {"drawn_rows": drawn_rows(run.dataset, fields)}
    try:
        frames["test_rows"] = rows_of_test(run, fields)
    except InputError as error:
        found["test_rows_left_out"] = str(error)
    for name, frame in frames.items():
        largest = 0.0
        for start in range(0, len(frame), _BATCH):
            part = frame.iloc[start : start + _BATCH]
            scores = exported.predict({str(column): part[column].tolist() for column in part})
            differences = _differences(run, part, scores)
            largest = max(largest, float(differences.max()) if np.isfinite(differences).all() else np.inf)
        found[name] = {"rows": len(frame), "largest_difference": largest}
        if largest > TOLERANCE:
            raise InputError(
                f"the exported model's scores of {len(frame)} {name.replace('_', ' ')} differ from the run's by up to "
                f"{largest:.2g}, more than {TOLERANCE:g}: nothing was written; --no-check writes it all the same"
            )
    return found


def _differences(run: SavedRun, rows: pd.DataFrame, scores: np.ndarray) -> np.ndarray:
    """Return how far scores (N, C) are from those of `predict`, of numbers above 1 relative to them.

    An isotonic map may be so steep that the rounding of a probability becomes large: its scores may be any that
    probabilities within `TOLERANCE` come to.
    """
    expected = low = high = run.predict(rows).to_numpy(dtype=np.float64)
    if run.calibration is not None and run.calibration.method == "isotonic":
        shifted = [_shifted(run.calibration, shift) for shift in (-TOLERANCE, TOLERANCE)]
        scorers = [Scorer(run.recbole_config, run.dataset, run.model, one) for one in shifted]
        low, high = (scorer.score(rows).scores.to_numpy(dtype=np.float64) for scorer in scorers)
    outside = np.maximum(np.maximum(low - scores, scores - high), 0)
    return np.asarray(outside / np.maximum(np.abs(expected), 1))


@dataclass(frozen=True)
class _Shifted:
    """A map of probabilities that are moved before it."""

    inner: Map
    shift: float

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities."""
        return self.inner(probabilities + self.shift)

    def to_dict(self) -> dict[str, Any]:
        """Return the map itself."""
        return self.inner.to_dict()


def _shifted(calibration: Calibration, shift: float) -> Calibration:
    """Return a calibration of probabilities that are moved before it."""
    maps = {task: {name: _Shifted(one, shift) for name, one in own.items()} for task, own in calibration.maps.items()}
    return replace(calibration, maps=maps)


def drawn_rows(dataset: ScenarioDataset, fields: list[Field], seed: int = 0) -> pd.DataFrame:
    """Return rows with values drawn from the vocabularies, a tenth of them missing and a tenth unknown.

    Args:
        dataset: the run's vocabularies and tables.
        fields: what the model reads.
        seed: of the draws.
    """
    draw = np.random.default_rng(seed)
    columns: dict[str, list[Any]] = {}
    for field in fields:
        if field.is_given and field.column not in columns:
            values = _drawn_values(dataset, field, draw)
            chance = draw.random(_DRAWN)
            unknown = _unknown_value(field, dataset.schema.scenario)
            columns[field.column] = [
                None if c < 0.1 else unknown if unknown and c < 0.2 else value
                for c, value in zip(chance, values, strict=True)
            ]
    return _frame(columns)


def _unknown_value(field: Field, scenario: Scenario) -> Any:
    """Return a value that no vocabulary has; None where a value is a number."""
    if field.kind == "number" or (field.column == scenario.field and scenario.bins is not None):
        return None
    return [_UNKNOWN] if field.kind == "token_seq" else _UNKNOWN


def _drawn_values(dataset: ScenarioDataset, field: Field, draw: np.random.Generator) -> list[Any]:
    if field.kind == "number":
        scale = field.scale or {}
        return list(scale["mean"] + scale["width"] * draw.normal(size=_DRAWN) / 4)
    if field.kind == "scenario":
        examples = _examples(dataset.schema.scenario, list(dataset.scenario_names))
        return [examples[i] for i in draw.integers(len(examples), size=_DRAWN)]
    tokens = np.asarray(dataset.field2id_token[field.name])[1:].tolist()
    if not tokens:
        return [_UNKNOWN] * _DRAWN
    if field.kind == "token":
        return [tokens[i] for i in draw.integers(len(tokens), size=_DRAWN)]
    return [
        [tokens[i] for i in draw.integers(len(tokens), size=draw.integers(field.length + 1))] for _ in range(_DRAWN)
    ]


def _examples(declared: Scenario, names: list[str]) -> list[Any]:
    """Return a raw value of each scenario, in their order."""
    if declared.bins is not None:
        return [declared.bins[0] - 1, *declared.bins]
    if declared.groups is None:
        return names
    listed = [tokens[0] for tokens in declared.groups.values()]
    return [*listed, *([_UNKNOWN] if declared.other else [])]


def rows_of_test(run: SavedRun, fields: list[Field]) -> pd.DataFrame:
    """Return the run's test rows, as a file of rows has them; fields of users and items come from the run's tables.

    Raises:
        InputError: the data are no longer there, or are others.
    """
    from recbole.data import create_dataset

    config = run.build_config({"use_gpu": False})
    with reading_data(config):
        train, _, test = create_dataset(config).build()
    change = data_changes(run.dataset, train)
    if change is not None:
        raise InputError(f"the data in {train.dataset_path} have changed since the run ({change})")
    rows = test[torch.arange(len(test))]
    columns: dict[str, list[Any]] = {}
    for field in fields:
        if field.key is None and field.column not in columns:
            columns[field.column] = _raw_values(test, field, rows[field.name])
    return _frame(columns)


def _raw_values(test: Any, field: Field, values: torch.Tensor) -> list[Any]:
    """Return the raw values that encoded ones stand for."""
    if field.kind == "number":
        scale = field.scale or {}
        return (values[:, 0].double() * scale["width"] + scale["low"]).tolist()
    if field.kind == "scenario":
        examples = [None, *_examples(test.schema.scenario, list(test.scenario_names))]
        return [examples[i] for i in values.tolist()]
    tokens = np.asarray(test.field2id_token[field.name])
    if test.field2type[field.name] == FeatureType.TOKEN:
        return [tokens[i] if i else None for i in values.tolist()]
    return [[tokens[i] for i in ids if i] for ids in values.tolist()]


def _frame(columns: dict[str, list[Any]]) -> pd.DataFrame:
    """Return columns as a table that keeps every value as it is."""
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
