"""The results of training and test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.evaluation.cells import Evaluation
from recbole_msr.evaluation.metrics import metric_name
from recbole_msr.evaluation.ranking_mode import metric_names
from recbole_msr.files.atomic import write_atomically
from recbole_msr.runs.folder import VALIDATED
from recbole_msr.runs.versions import versions
from recbole_msr.training.epochs import EpochKeeper


@dataclass
class Outcome:
    """The results of training and test.

    Attributes:
        summary: their part of result.json.
        valid, test: the scenario x task cells of the best epoch; None under RecBole's trainer.
        seconds_before: seconds of training before the run was resumed.
    """

    summary: dict[str, Any]
    valid: Evaluation | None = None
    test: Evaluation | None = None
    seconds_before: float = 0.0


def finite_metrics(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Return metrics as JSON can hold them: None in the place of NaN."""
    return {name: (float(value) if value == value else None) for name, value in metrics.items()}


def about(config: Any, dataset: Any) -> dict[str, Any]:
    """Return the part of result.json that says what was trained.

    Args:
        config: RecBole's configuration.
        dataset: the dataset, or one of its splits.
    """
    has_tasks = isinstance(dataset, ScenarioDataset)
    return {
        "model": config["model"],
        "dataset": config["dataset"],
        "seed": config["seed"],
        "data_seed": config["data_seed"] if has_tasks else config["seed"],
        "trainer": config["trainer"],
        "scenarios": getattr(dataset, "scenario_names", None),
        "tasks": dataset.schema.task_names if has_tasks else None,
        "main_task": config["main_task"],
        "valid_metric": metric_name(str(config["valid_metric"])),
    }


def validated(config: Any, epochs: EpochKeeper) -> dict[str, Any]:
    """Return the part of result.json that training and validation make, but for the seconds."""
    valid = Evaluation.from_dict(epochs.best_evaluation) if epochs.best_evaluation else None
    names = [name for name in metric_names(config) if name in epochs.best_metrics]
    return {
        "best_epoch": epochs.best_epoch,
        "epochs": len(epochs.history),
        "best_valid_score": epochs.best_score,
        "valid": {
            "metrics": finite_metrics({name: epochs.best_metrics[name] for name in names}),
            **(valid.to_dict() if valid else {}),
        },
    }


def speed(epochs: EpochKeeper) -> dict[str, Any]:
    """Return the part of result.json that says how long the training took."""
    rows = round(epochs.train_rows / epochs.train_seconds) if epochs.train_seconds else None
    return {"seconds": {"train": round(epochs.train_seconds, 3)}, "rows_per_second": rows}


def untested_result(config: Any, dataset: Any, epochs: EpochKeeper, parameters: int) -> dict[str, Any]:
    """Return the validated.json of a model that has not been tested: a trial's.

    Args:
        config: RecBole's configuration.
        dataset: the dataset, or one of its splits.
        epochs: the epochs so far.
        parameters: number of trained numbers.
    """
    return {
        **about(config, dataset),
        **validated(config, epochs),
        **speed(epochs),
        "parameters": parameters,
        "device": str(config["device"]),
        "versions": versions(),
    }


def write_validated(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write validated.json, whole or not at all."""
    text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(folder / VALIDATED, lambda path: Path(path).write_text(text, encoding="utf-8"))
