"""The calibration of a run: fitted on its validation rows, kept in calibration.json, and its effect on test rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from recbole_msr.errors import InputError
from recbole_msr.evaluation.calibration import Calibration
from recbole_msr.evaluation.cells import evaluate_cells
from recbole_msr.evaluation.prediction_file import labels_of_split, layout_of_split
from recbole_msr.evaluation.segments import Segments
from recbole_msr.files.json import read_json

CALIBRATION = "calibration.json"
METRICS = ("auc", "logloss", "ece", "pcoc", "weighted_auc", "weighted_logloss", "weighted_pcoc")
"""Metrics of calibrated predictions in result.json; AUC changes where cells have maps of their own."""
_ADVICE = "put it back from a copy, or train again"


class SplitRows:
    """The labels and scenarios of a split's rows, as cells are computed from them.

    Args:
        split: the split as a built dataset, N rows.
        columns: number of predicted columns: of all tasks, with conditionals if there are any, or of the main task.
    """

    def __init__(self, split: Any, columns: int) -> None:
        self.layout = layout_of_split(split, columns)
        self.main, self.scenarios = split.schema.main_task, list(split.scenario_names)
        self.labels = labels_of_split(split, self.layout)
        self.scenario = split.row_scenario(split.inter_feat).numpy()
        self.weights = split.schema.metric_weights(self.layout.types, lambda field: split.inter_feat[field].numpy())


def fit_calibration(config: Any, scores: torch.Tensor, split: Any) -> Calibration:
    """Fit what `calibrate` and `calibrate_by` say on the validation rows.

    Args:
        config: RecBole's configuration.
        scores: (N, C) predictions of the validation rows.
        split: the validation split as a built dataset.
    """
    rows = SplitRows(split, scores.shape[1])
    return Calibration.fit(
        config["calibrate"],
        config["calibrate_by"],
        scores.numpy(),
        rows.labels,
        rows.scenario,
        rows.layout,
        rows.scenarios,
    )


def calibrated_test(config: Any, calibration: Calibration, scores: torch.Tensor, split: Any) -> dict[str, Any]:
    """Return what calibration makes of the test rows, for result.json: the method, and the cells after it.

    Args:
        config: RecBole's configuration.
        calibration: the calibration.
        scores: (N, C) predictions of the test rows, before it.
        split: the test split as a built dataset.
    """
    rows = SplitRows(split, scores.shape[1])
    calibrated = calibration(scores.numpy(), rows.scenario)
    least = config["min_scenario_rows"] or 1
    found = evaluate_cells(
        calibrated,
        rows.labels,
        rows.scenario,
        None,
        rows.scenarios,
        list(rows.layout.types),
        rows.main,
        min_rows=least,
        metrics=METRICS,
        types=rows.layout.types,
        classes=rows.layout.classes,
        weights=rows.weights,
        segments=Segments.of_split(split, config),
    )
    told = {"method": calibration.method, "by": calibration.by, "left_out": list(calibration.left_out)}
    return {**told, "test": found.to_dict()}


def read_calibration(folder: Path) -> Calibration:
    """Read a run's calibration.json.

    Raises:
        InputError: it is missing or damaged.
    """
    path = folder / CALIBRATION
    try:
        return Calibration.from_dict(read_json(path, dict, _ADVICE))
    except FileNotFoundError as error:
        raise InputError(f"the run in {folder} is calibrated, and has no {CALIBRATION}: {_ADVICE}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged: {error}; {_ADVICE}") from error
