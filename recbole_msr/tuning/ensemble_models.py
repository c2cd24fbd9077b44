"""The models that may join a search's ensemble: the best trials' and those with fresh seeds, and their predictions."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.trial import FrozenTrial

from recbole_msr.config.build import reading_data
from recbole_msr.data.packed import PackedTable
from recbole_msr.errors import InputError
from recbole_msr.evaluation.cells import Evaluation, evaluate_cells
from recbole_msr.evaluation.layout import Layout
from recbole_msr.evaluation.metrics import METRICS, find_metric, smaller_is_better
from recbole_msr.evaluation.segments import segment_names
from recbole_msr.files.atomic import write_atomically
from recbole_msr.files.json import read_json
from recbole_msr.jobs.model_cost import LATENCY_ROWS, latency, parameters
from recbole_msr.jobs.shared_rows import SharedRows
from recbole_msr.runs.folder import VALIDATED, is_finished
from recbole_msr.runs.saved_run import SavedRun
from recbole_msr.schema import is_conditional, label_field
from recbole_msr.training.configure import training_config
from recbole_msr.tuning.best_model import KEPT_TRIALS
from recbole_msr.tuning.final_folders import final_folders, fresh_seeds, is_over
from recbole_msr.tuning.models import ROWS_MODEL
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.trial_settings import trial_settings
from recbole_msr.tuning.trial_state import best_first, best_of_each_model

logger = logging.getLogger(__name__)

ModelKey = tuple[int, int | None]
"""Number of a trial, and the fresh seed of its configuration; None for the trial itself."""
_CACHE = "valid.npz"
_BATCH_ROWS = 4096


class EnsembleRows:
    """The validation and the test rows, for models of all tasks and of one.

    Args:
        settings: the search.

    Attributes:
        tasks: the names of all tasks T.
        metric: the metric that selects.
    """

    def __init__(self, settings: SearchSettings) -> None:
        from recbole.data import create_dataset

        keys = {**trial_settings(settings, {}), "strict": False}
        self._config = training_config(ROWS_MODEL, settings.dataset, keys)
        with reading_data(self._config):
            self._splits = create_dataset(self._config).build()
        self.tasks: list[str] = self._splits[1].schema.task_names
        self._main = str(self._config["main_task"] or self.tasks[0])
        self.metric = settings.quality

    @cached_property
    def valid(self) -> PackedTable:
        """Return the rows of the validation split."""
        return PackedTable.for_run(self._splits[1], self._config)

    @cached_property
    def test(self) -> PackedTable:
        """Return the rows of the test split, which nothing before the final test may read."""
        return PackedTable.for_run(self._splits[2], self._config)

    def shared_test(self, tasks: Sequence[str]) -> SharedRows:
        """Return the test rows on which the ensemble and finished runs are compared, with the tasks in this order."""
        return SharedRows(self._splits[2], int(self._config["min_scenario_rows"] or 1), tasks)

    def layout(self, tasks: Sequence[str]) -> Layout:
        """Return the columns of predictions of some tasks."""
        split = self._splits[1]
        return Layout.of(tasks, split.schema.types, split.label_classes)

    def evaluate(
        self, scores: np.ndarray, tasks: Sequence[str], test: bool = False, all_metrics: bool = True
    ) -> Evaluation:
        """Evaluate predictions.

        Args:
            scores: (N, columns of `layout(tasks)`) for all rows of the split.
            tasks: the tasks that they are of.
            test: of the test split; by default of the validation split.
            all_metrics: compute all metrics; by default only the one that selects.
        """
        split = self._splits[2 if test else 1]
        inter = split.inter_feat
        by_segment = all_metrics or any(f"/{name}/" in self.metric for name in segment_names(self._config["segments"]))
        labels = np.stack([inter[label_field(task)].numpy() for task in tasks], axis=1)
        users = inter[split.uid_field].numpy() if split.uid_field in inter else None
        return evaluate_cells(
            scores,
            labels,
            split.row_scenario(inter).numpy(),
            users,
            split.scenario_names,
            list(tasks),
            self._main if self._main in tasks else tasks[0],
            min_rows=self._config["min_scenario_rows"] or 1,
            metrics=METRICS if all_metrics else [self.metric.split("/")[0].lower()],
            types=split.schema.types,
            classes=split.label_classes,
            weights=split.schema.metric_weights(tasks, lambda field: inter[field].numpy()),
            segments=(self.test if test else self.valid).segments if by_segment else None,
        )

    def value(self, evaluation: Evaluation) -> float | None:
        """Return the value of the metric that selects; None where it is undefined."""
        values = evaluation.flat()
        key = find_metric(self.metric, values)
        return None if key is None else values[key]

    def badness(self, scores: np.ndarray, tasks: Sequence[str]) -> float:
        """Return what is smaller for better predictions of the validation rows; infinity where undefined."""
        value = self.value(self.evaluate(scores, tasks, all_metrics=False))
        if value is None:
            return np.inf
        return value if smaller_is_better(self.metric) else -value


@dataclass(frozen=True)
class TrialModel:
    """A model of a trial's configuration: one run of all tasks, or one run a task.

    Attributes:
        trial: number of the trial.
        model: name of the model.
        folders: the runs' folders.
        tasks: the tasks that each predicts.
        seed: the fresh seed with which the confirmation trained it; None for the trial's own model.
    """

    trial: int
    model: str
    folders: Sequence[Path]
    tasks: Sequence[Sequence[str]]
    seed: int | None = None

    @property
    def key(self) -> ModelKey:
        """Return what tells it from the other models of the search."""
        return self.trial, self.seed

    @property
    def name(self) -> str:
        """Return it in words."""
        return f"trial {self.trial}" + ("" if self.seed is None else f", seed {self.seed}")

    def predict(self, table: PackedTable, layout: Layout) -> np.ndarray:
        """Predict the rows of a table: probabilities, also of classes, and numbers in the field's unit.

        Args:
            table: the rows, N of them.
            layout: the tasks and their columns, C.

        Returns:
            (N, C), float64.

        Raises:
            InputError: a checkpoint is damaged.
        """
        scores = np.full((len(table), layout.width), np.nan)
        for folder, own in zip(self.folders, self.tasks, strict=True):
            model = SavedRun(folder).model
            predicted = _predict(model, table)
            columns = (getattr(model, "predicted", None) or Layout.of(own, layout.types, layout.classes)).columns
            for task, into in layout.columns.items():
                if task in own:
                    scores[:, into] = predicted[:, columns[task]]
        return scores

    def valid_scores(self, rows: EnsembleRows, tasks: Sequence[str]) -> np.ndarray:
        """Predict the validation rows, or read what was predicted by an earlier command."""
        if self.seed is not None:  # what lies in the folder of a run is the run's
            return self.predict(rows.valid, rows.layout(tasks))
        cache = self.folders[0].parent / _CACHE
        identity = [_mark(folder / "best.ckpt") for folder in self.folders]
        scores = _read_cache(cache, identity, (len(rows.valid), rows.layout(tasks).width))
        if scores is None:
            scores = self.predict(rows.valid, rows.layout(tasks))
            kept = scores
            write_atomically(cache, lambda path: _write_cache(path, kept, np.array(identity)))
        return scores

    def cost(self, rows: EnsembleRows) -> dict[str, float]:
        """Return the number of parameters, and the milliseconds of a forward pass of 4096 rows."""
        models = [SavedRun(folder).model for folder in self.folders]
        batch = rows.valid.batch(slice(0, min(_BATCH_ROWS, len(rows.valid))))
        return {
            "parameters": sum(parameters(model) for model in models),
            "latency": sum(latency(model, batch, LATENCY_ROWS["latency"], repeats=10, warmup=2) for model in models),
        }


def trial_models(settings: SearchSettings, study: optuna.Study) -> tuple[list[TrialModel], list[str]]:
    """Return the models that may join, and the tasks that all of them predict.

    First come the best trials whose models are kept, the best first, and the best of each other model; then those that
    the confirmation trained with fresh seeds. Of a trial over several seeds it is the model of the first one. Trials
    that were pruned, or cut off by the end of the time, are among them with their best epoch.
    """
    index = settings.objectives.index(settings.quality)
    ranked = best_first(study.get_trials(deepcopy=False), index, study.directions[index])
    found = {trial.number: _trial_model(settings, trial) for trial in ranked}
    kept = best_of_each_model([trial for trial in ranked if found[trial.number] is not None], KEPT_TRIALS)
    fresh = (_fresh_model(settings, trial, seed) for trial in ranked for seed in fresh_seeds(settings))
    models = [model for model in (*(found[trial.number] for trial in kept), *fresh) if model is not None]
    most = max((sorted(task for own in model.tasks for task in own) for model in models), key=len, default=[])
    same = [model for model in models if sorted(task for own in model.tasks for task in own) == most]
    return same, most


def _trial_model(settings: SearchSettings, trial: FrozenTrial) -> TrialModel | None:
    """Return the model that a trial has left in `trials/NUMBER`; None where there is none."""
    folder = settings.folder / "trials" / str(trial.number)
    return _model_of(settings, trial, sorted(path.parent for path in folder.glob(f"*/{VALIDATED}")), None)


def _fresh_model(settings: SearchSettings, trial: FrozenTrial, seed: int) -> TrialModel | None:
    """Return the model of a trial's configuration with a fresh seed; None where it was not trained to its end."""
    if not is_over(settings, trial, seed, test=False):
        return None
    return _model_of(settings, trial, final_folders(settings, trial, seed).values(), seed)


def _model_of(
    settings: SearchSettings, trial: FrozenTrial, runs: Iterable[Path], seed: int | None
) -> TrialModel | None:
    folders: list[Path] = []
    tasks: list[list[str]] = []
    covered: set[str] = set()
    for folder in runs:
        if not (folder / "best.ckpt").is_file() or not (folder / "vocabulary").is_dir():
            continue
        result = folder / ("result.json" if is_finished(folder) else VALIDATED)
        try:
            own = _predicted_tasks(read_json(result))
        except (InputError, OSError) as error:
            logger.warning("a model of trial %d is left out of the ensemble: %s", trial.number, error)
            return None
        if own and not covered & set(own):
            folders.append(folder)
            tasks.append(own)
            covered |= set(own)
    model = str(trial.user_attrs.get("model", settings.model))
    return TrialModel(trial.number, model, folders, tasks, seed) if folders else None


def _predicted_tasks(result: dict[str, Any]) -> list[str]:
    """Return the tasks that a run predicts, by its results: those that were validated, no conditionals."""
    valid = result.get("valid")
    pooled = valid.get("pooled") if isinstance(valid, dict) else None
    return [str(task) for task in pooled if not is_conditional(task)] if isinstance(pooled, dict) else []


@torch.no_grad()
def _predict(model: Any, table: PackedTable) -> np.ndarray:
    """Predict all rows of a table; (N, columns of the model)."""
    predict = getattr(model, "predict_tasks", model.predict)
    device = next(model.parameters()).device
    parts = []
    for start in range(0, len(table), _BATCH_ROWS):
        batch = table.batch(slice(start, start + _BATCH_ROWS)).to(device)
        parts.append(predict(batch).reshape(len(batch), -1).double().cpu().numpy())
    return np.concatenate(parts)


def _mark(path: Path) -> tuple[int, int]:
    """Return what changes where a file is replaced."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _read_cache(path: Path, identity: Sequence[tuple[int, int]], shape: tuple[int, int]) -> np.ndarray | None:
    try:
        with np.load(path, allow_pickle=False) as content:
            same = np.array_equal(content["identity"], np.array(identity))
            scores: np.ndarray = content["scores"]
        usable = same and scores.shape == shape and scores.dtype == np.float64 and np.isfinite(scores).all()
        return scores if usable else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # none, or a damaged one: predicted again
        return None


def _write_cache(path: str, scores: np.ndarray, identity: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.savez(file, scores=scores, identity=identity)
