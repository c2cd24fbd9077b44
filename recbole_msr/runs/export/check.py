"""Check an exported model: onnxruntime's scores are those of `predict`, on test rows and on rows drawn at random."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.utils import FeatureType

from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.errors import InputError
from recbole_msr.evaluation.calibration import Calibration, Map
from recbole_msr.evaluation.cells import evaluate_cells
from recbole_msr.evaluation.layout import Layout
from recbole_msr.evaluation.metrics import headline
from recbole_msr.evaluation.prediction_file import labels_of_split
from recbole_msr.files.row_files import row_place
from recbole_msr.runs.ensemble import SavedEnsemble
from recbole_msr.runs.ensemble_scorer import EnsembleScorer
from recbole_msr.runs.explain.sources import RunSources
from recbole_msr.runs.export.document import bin_values
from recbole_msr.runs.export.embeddings import round_embeddings
from recbole_msr.runs.export.exported_model import PROGRAM, ExportedModel
from recbole_msr.runs.export.fields import Field
from recbole_msr.runs.export.graph_encoder import GraphEncoder
from recbole_msr.runs.export.program_model import ProgramModel
from recbole_msr.runs.row_columns import arrow_column
from recbole_msr.runs.row_counts import RowCounts
from recbole_msr.runs.row_encoder import RawRows
from recbole_msr.runs.saved_run import SavedRun
from recbole_msr.runs.scoring import Scorer
from recbole_msr.schema import Scenario

TOLERANCE = 1e-5
"""Largest difference that is allowed, of numbers above 1 relative to them."""
_DRAWN = 512
_BATCH = 8192
_UNKNOWN = "\x00no such value"


def check_export(
    run: SavedRun | SavedEnsemble, folder: Path, fields: list[Field], embeddings: str = "float32"
) -> dict[str, Any]:
    """Score rows by the exported model and by the run, and compare.

    The rows are those of the test split, where the data are still there as they were, and rows drawn from the
    vocabularies, in which some values are missing and some unknown. With embeddings of fewer bits the run's own are
    rounded to them before, in place.

    Args:
        run: the run or the ensemble.
        folder: the exported model.
        fields: what it reads.
        embeddings: the numbers of its embedding tables.

    Returns:
        The rows and the largest difference of each kind of rows; `test_rows_left_out` says why there are none; `lost`
        has each task's metric on the test rows before and after the rounding.

    Raises:
        InputError: a score differs by more than `TOLERANCE`.
    """
    exported = ProgramModel(folder) if (folder / PROGRAM).exists() else ExportedModel(folder)
    found: dict[str, Any] = {"tolerance": TOLERANCE, "compared_with": "predict's"}
    frames = {"drawn_rows": with_histories(run, drawn_rows(run.members[0].dataset, fields))}
    try:
        test = RunSources(run.members[0]).split("test")
        frames["test_rows"] = with_histories(run, rows_of_split(test, fields))
    except InputError as error:
        found["test_rows_left_out"] = str(error)
    if embeddings != "float32":
        found["compared_with"] = f"those of the model with embeddings in {embeddings}"
        before = _metrics(run, test, frames["test_rows"]) if "test_rows" in frames else {}
        for member in run.members:
            round_embeddings(member.model, embeddings)
        after = _metrics(run, test, frames["test_rows"]) if "test_rows" in frames else {}
        found["lost"] = {
            task: {"metric": metric, "before": value, "after": after[task][1]}
            for task, (metric, value) in before.items()
            if value is not None
        }
    for name, frame in frames.items():
        largest = _largest_difference(run, exported, frame)
        found[name] = {"rows": len(frame), "largest_difference": largest}
        if largest > TOLERANCE:
            raise InputError(
                f"the exported model's scores of {len(frame)} {name.replace('_', ' ')} differ from the run's by up to "
                f"{largest:.2g}, more than {TOLERANCE:g}: nothing was written; --no-check writes it all the same"
            )
    return found


def check_drawn_rows(run: SavedRun | SavedEnsemble, exported: ExportedModel, fields: list[Field]) -> None:
    """Refuse an exported model whose scores of rows drawn from the vocabularies are not those of a run.

    Args:
        run: the run or the ensemble.
        exported: the exported model.
        fields: what the run's model reads.

    Raises:
        InputError: a score differs by more than `TOLERANCE`.
    """
    largest = _largest_difference(run, exported, with_histories(run, drawn_rows(run.members[0].dataset, fields)))
    if largest > TOLERANCE:
        raise InputError(
            f"{exported.folder} is no export of {run.folder}: their scores differ by up to {largest:.2g}; export the "
            "run again"
        )


def _largest_difference(run: SavedRun | SavedEnsemble, exported: ExportedModel, rows: pd.DataFrame) -> float:
    """Return how far the exported model's scores of some rows are from the run's at most; infinite for one of NaN."""
    largest = 0.0
    for start in range(0, len(rows), _BATCH):
        part = rows.iloc[start : start + _BATCH]
        scores = exported.predict({str(column): part[column].tolist() for column in part})
        differences = _differences(run, part, scores)
        largest = max(largest, float(differences.max()) if np.isfinite(differences).all() else np.inf)
    return largest


def _metrics(run: SavedRun | SavedEnsemble, split: Any, rows: pd.DataFrame) -> dict[str, tuple[str, float | None]]:
    """Return of each task the name and the pooled value of its metric (AUC of a binary one) on a split."""
    whole = split.every_label
    types = {task: split.schema.types[task] for task in run.tasks}
    layout = Layout(types, split.label_classes)
    scores = run.predict(rows)[layout.names].to_numpy()
    evaluation = evaluate_cells(
        scores, labels_of_split(whole, layout), whole.row_scenario(whole.inter_feat).numpy(), None,
        whole.scenario_names, list(types), next(iter(types)), types=types, classes=split.label_classes,
    )  # fmt: skip
    return {task: (name := headline([kind]), evaluation.pooled[task].value(name)) for task, kind in types.items()}


def _differences(run: SavedRun | SavedEnsemble, rows: pd.DataFrame, scores: np.ndarray) -> np.ndarray:
    """Return how far scores (N, C) are from those of `predict`, of numbers above 1 relative to them.

    An isotonic map may be so steep that the rounding of a probability becomes large: its scores may be any that
    probabilities within `TOLERANCE` come to.
    """
    expected = low = high = run.predict(rows).to_numpy(dtype=np.float64)
    if any(member.calibration is not None and member.calibration.method == "isotonic" for member in run.members):
        low, high = (_score_shifted(run, shift, rows) for shift in (-TOLERANCE, TOLERANCE))
    outside = np.maximum(np.maximum(low - scores, scores - high), 0)
    return np.asarray(outside / np.maximum(np.abs(expected), 1))


def _score_shifted(run: SavedRun | SavedEnsemble, shift: float, rows: pd.DataFrame) -> np.ndarray:
    """Return scores (N, C) of a run whose probabilities are moved before its isotonic maps."""
    scorers = []
    for member in run.members:
        calibration = member.calibration
        if calibration is not None and calibration.method == "isotonic":
            calibration = _shifted(calibration, shift)
        scorers.append(Scorer(member.recbole_config, member.dataset, member.model, calibration))
    if not isinstance(run, SavedEnsemble):
        return scorers[0].score(rows).scores.to_numpy(dtype=np.float64)
    scores = EnsembleScorer(scorers, run.weights, run.member_tasks, run.tasks).score(rows).scores
    return scores.to_numpy(dtype=np.float64)


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


def drawn_rows(dataset: ScenarioDataset, fields: list[Field], seed: int = 0, rows: int = _DRAWN) -> pd.DataFrame:
    """Return rows with values drawn from the vocabularies, a tenth of them missing and a tenth unknown.

    Args:
        dataset: the run's vocabularies and tables.
        fields: what the model reads.
        seed: of the draws.
        rows: their number.
    """
    draw = np.random.default_rng(seed)
    columns: dict[str, list[Any]] = {}
    for field in fields:
        if field.is_given and field.rows is None and field.column not in columns:
            values = _drawn_values(dataset, field, draw, rows)
            chance = draw.random(rows)
            unknown = _unknown_value(field, dataset.schema.scenario)
            columns[field.column] = [
                None if c < 0.1 else unknown if unknown and c < 0.2 else value
                for c, value in zip(chance, values, strict=True)
            ]
    return _frame(columns)


def with_histories(run: SavedRun | SavedEnsemble, rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with the columns of their earlier rows, which an exported model is given and `predict` looks up."""
    found = rows
    for member in run.members:
        encoder = GraphEncoder.of_run(member)
        if any(field.rows is not None for field in encoder.fields):
            columns = {str(name): arrow_column(rows[name]) for name in rows}
            raw = RawRows(columns, [*columns], len(rows), "the rows", row_place(0), RowCounts())
            histories = encoder.histories(raw)
            found = found.assign(**{name: pd.Series(values, dtype=object) for name, values in histories.items()})
    return found


def _unknown_value(field: Field, scenario: Scenario) -> Any:
    """Return a value that no vocabulary has; None where a value is a number."""
    if field.kind == "number" or (field.column == scenario.field and scenario.bins is not None):
        return None
    return [_UNKNOWN] if field.kind in ("token_seq", "history") else _UNKNOWN


def _drawn_values(dataset: ScenarioDataset, field: Field, draw: np.random.Generator, rows: int) -> list[Any]:
    if field.kind == "number":
        scale = field.scale or {}
        return list(scale["mean"] + scale["width"] * draw.normal(size=rows) / 4)
    if field.kind == "scenario":
        examples = _examples(dataset.schema.scenario, list(dataset.scenario_names))
        return [examples[i] for i in draw.integers(len(examples), size=rows)]
    tokens = np.asarray(dataset.field2id_token[field.name])[1:].tolist()
    if not tokens:
        return [_UNKNOWN] * rows
    if field.kind == "token":
        return [tokens[i] for i in draw.integers(len(tokens), size=rows)]
    return [[tokens[i] for i in draw.integers(len(tokens), size=draw.integers(field.length + 1))] for _ in range(rows)]


def _examples(declared: Scenario, names: list[str]) -> list[Any]:
    """Return a raw value of each bin, group or value that a declaration knows, in their order."""
    if declared.bins is not None:
        return bin_values(declared.bins)
    if declared.groups is None:
        return names
    listed = [tokens[0] for tokens in declared.groups.values()]
    return [*listed, *([_UNKNOWN] if declared.other else [])]


def rows_of_split(split: ScenarioDataset, fields: list[Field]) -> pd.DataFrame:
    """Return the rows of a split, as a file of rows has them; fields of users and items come from the run's tables."""
    rows = split.every_label[torch.arange(len(split.every_label))]  # type: ignore[index, arg-type]
    columns: dict[str, list[Any]] = {}
    for field in fields:
        if field.key is None and field.rows is None and field.column not in columns:
            columns[field.column] = _raw_values(split, field, rows[field.name])
    return _frame(columns)


def _raw_values(test: Any, field: Field, values: torch.Tensor) -> list[Any]:
    """Return the raw values that encoded ones stand for."""
    if field.kind == "number":
        scale = field.scale or {}
        return (values[:, 0].double() * scale["width"] + scale["low"]).tolist()
    if field.kind == "scenario":
        declared, names = test.schema.scenario, list(test.scenario_names)
        examples = _examples(declared, names)
        by_id = dict(zip(declared.assign(examples, names).tolist(), examples, strict=True))
        return [by_id[i] if i else None for i in values.tolist()]
    tokens = np.asarray(test.field2id_token[field.name])
    if test.field2type[field.name] == FeatureType.TOKEN:
        return [tokens[i] if i else None for i in values.tolist()]
    return [[tokens[i] for i in ids if i] for ids in values.tolist()]


def _frame(columns: dict[str, list[Any]]) -> pd.DataFrame:
    """Return columns as a table that keeps every value as it is."""
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
