"""One trial of a search: sample settings, build the model, train it under Lightning, return its validation value."""

from __future__ import annotations

import gc
import logging
import math
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import optuna
import pytorch_lightning as pl
import torch
from optuna.trial import Trial, TrialState

from recbole_msr.config.build import reading_data
from recbole_msr.data.packed import PackedTable
from recbole_msr.data.rows_report import log_rows
from recbole_msr.errors import InputError
from recbole_msr.evaluation.cells import Evaluation
from recbole_msr.evaluation.metrics import find_metric
from recbole_msr.evaluation.validation_metric import check_metric, check_validation
from recbole_msr.jobs.failure import ends_search, reason_of
from recbole_msr.jobs.model_cost import LATENCY_ROWS, flops, latency, parameters
from recbole_msr.tracking.wandb import TrackedRun
from recbole_msr.training.configure import training_config
from recbole_msr.training.epoch_loggers import EpochLogger
from recbole_msr.training.epochs import EpochKeeper
from recbole_msr.training.fused.member import Member
from recbole_msr.training.trainer import LightningTrainer
from recbole_msr.tuning.settings import COSTS, SearchSettings
from recbole_msr.tuning.space.space import Space
from recbole_msr.tuning.study import SO_FAR

logger = logging.getLogger(__name__)


class StudyData:
    """The data of all trials: read, split and packed once a process. The test split is not packed, and never read.

    Args:
        settings: the search.

    Attributes:
        report: counts of used and unused rows (`ScenarioDataset.row_report`); None for data without tasks.

    Raises:
        InputError: the data cannot be used, or an objective is no metric.
    """

    def __init__(self, settings: SearchSettings) -> None:
        from recbole.data import create_dataset
        from recbole.utils import get_model

        self.config = trial_config(settings, {})
        with reading_data(self.config):
            dataset = create_dataset(self.config)
            splits = dataset.build()
        log_rows(dataset)
        self.report = dataset.row_report() if hasattr(dataset, "row_report") else None
        self.train_split, self._valid_split = splits[0], splits[1]
        is_multi_task = hasattr(get_model(settings.model), "predict_tasks")
        for name in settings.objectives:
            if name not in COSTS:
                check_metric(name, self.config, self.train_split, is_multi_task)
                task = None if is_multi_task else self.config["main_task"]
                check_validation(name, self.config, self._valid_split, task)

    # Packed when the first trial asks: the process that only starts workers needs no tables.

    @cached_property
    def train(self) -> PackedTable:
        """Return the rows of the training split."""
        return PackedTable.for_run(self.train_split, self.config)

    @cached_property
    def valid(self) -> PackedTable:
        """Return the rows of the validation split."""
        return PackedTable.for_run(self._valid_split, self.config)


def trial_config(settings: SearchSettings, sampled: dict[str, Any]) -> Any:
    """Return RecBole's configuration of a trial."""
    return training_config(settings.model, settings.dataset, trial_settings(settings, sampled))


def trial_settings(settings: SearchSettings, sampled: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration keys of a trial: those of the search, then the sampled ones."""
    fixed = {
        "valid_metric": settings.quality,
        "trainer": "lightning",
        "show_progress": False,
        "metric_decimal_place": 6,
    }
    return {**fixed, **settings.config, **sampled}


@dataclass
class Outcome:
    """The outcome of a trial.

    Attributes:
        state: COMPLETE, PRUNED or FAIL.
        values: values of the objectives, if complete.
        reason: why it was pruned or failed.
        attributes: attributes that are kept with the trial.
        settings: its sampled configuration keys.
        cut_off: whether the search's time was up before it ended: the next command tries it again.
        values_so_far: if so, the values of the objectives in the best validated epoch.
    """

    state: TrialState
    values: list[float] | None = None
    reason: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    cut_off: bool = False
    values_so_far: list[float] | None = None


class _TimeUpError(Exception):
    """The search's time is up."""


class Objective:
    """Runs trials, one after the other, in one process.

    Args:
        settings: the search.
        space: its space.
        data: its data.
        deadline: `time.monotonic()` after which a trial stops at the end of its epoch; None for none.
    """

    def __init__(self, settings: SearchSettings, space: Space, data: StudyData, deadline: float | None = None) -> None:
        self._settings, self._space, self._data, self._deadline = settings, space, data, deadline

    def __call__(self, trial: Trial) -> Outcome:
        """Run a trial to its end. Its errors become its outcome; only those that end the search are raised."""
        attempt = Attempt(trial)
        try:
            with attempt.judged():
                self.begin(attempt)
                self.train(attempt)
        finally:
            attempt.close()
        return attempt.outcome

    def begin(self, attempt: Attempt) -> None:
        """Sample a trial's settings, and build the model of its first training."""
        outcome, trial = attempt.outcome, attempt.trial
        outcome.settings = self._space.suggest(trial)
        trial.set_user_attr("settings", outcome.settings)
        attempt.tracked = self._track(trial, outcome.settings)
        self.begin_seed(attempt, 0)

    def begin_seed(self, attempt: Attempt, index: int) -> None:
        """Build the model of a trial's next training."""
        attempt.runs.append(_Training(self._settings, self._data, attempt.outcome.settings, index))

    def train(self, attempt: Attempt) -> None:
        """Train a trial that has begun, seed after seed."""
        for index in range(self._settings.trial_seeds):
            if index:
                self.begin_seed(attempt, index)
            run = attempt.runs[-1]
            run.run([attempt.epoch_logger(index)], self.after_epoch(attempt, run.epochs), attempt.started)
            if self._settings.trial_seeds > 1:
                self._after_seed(attempt, index)
        attempt.complete()

    def _track(self, trial: Trial, sampled: dict[str, Any]) -> TrackedRun:
        settings = self._settings
        return TrackedRun(
            mode=settings.wandb,
            folder=settings.folder / "wandb",
            project=settings.wandb_project,
            name=f"{settings.study}-{trial.number}",
            group=settings.study,
            job_type="trial",
            config={
                "study": settings.study,
                "trial": trial.number,
                "model": settings.model,
                "dataset": settings.dataset,
            }
            | trial_settings(settings, sampled),
        )

    def after_epoch(self, attempt: Attempt, epochs: int) -> Callable[[int, float], None]:
        """Return the callback that reports epochs to the study and stops the trial if it is pruned.

        Trials over several seeds report seed by seed instead.
        """

        def report(epoch: int, score: float) -> None:
            reports = self._settings.trial_seeds == 1 and len(self._settings.objectives) == 1
            if reports and attempt.report(score, epoch + 1) and attempt.trial.should_prune():
                raise optuna.TrialPruned(f"pruned after epoch {epoch + 1} with {self._settings.quality} {score:.4f}")
            if self._deadline is not None and time.monotonic() > self._deadline and epoch + 1 < epochs:
                raise _TimeUpError(f"the time was up after epoch {epoch + 1} of {epochs}")

        return report

    def report_seeds(self, attempt: Attempt) -> None:
        """Report every seed's value of a trial whose seeds were trained together."""
        if self._settings.trial_seeds > 1 and len(self._settings.objectives) == 1:
            for index, run in enumerate(attempt.runs):
                attempt.report(run.values()[0], index)

    def _after_seed(self, attempt: Attempt, index: int) -> None:
        if len(self._settings.objectives) > 1:
            return
        attempt.report(attempt.runs[index].values()[0], index)
        if index + 1 < self._settings.trial_seeds and attempt.trial.should_prune():
            raise optuna.TrialPruned(f"pruned after {index + 1} of {self._settings.trial_seeds} seeds")


class Attempt:
    """A trial under way in this process.

    Args:
        trial: the trial.

    Attributes:
        runs: its trainings, one a seed.
        outcome: its outcome, as far as it is known.
        started: `time.perf_counter()` of its beginning.
        seconds: its share of the time, where other trials were trained at the same time.
        fused: number of trainings that ran together with it, if any.
    """

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.runs: list[_Training] = []
        self.outcome = Outcome(TrialState.FAIL)
        self.tracked: TrackedRun | None = None
        self.started = time.perf_counter()
        self.seconds: float | None = None
        self.fused: int | None = None
        self.closed = False
        self._reported: set[int] = set()
        self._loggers: dict[int, EpochLogger] = {}

    def report(self, value: float, step: int) -> bool:
        """Report a step's value to the study, unless the step was reported before the training was begun anew.

        Returns:
            Whether it was reported.
        """
        if step in self._reported:
            return False
        self.trial.report(value, step)
        self._reported.add(step)
        return True

    def epoch_logger(self, index: int) -> EpochLogger:
        """Return the callback that sends a seed's epochs to W&B, each once, even if training begins anew."""
        assert self.tracked is not None
        return self._loggers.setdefault(index, EpochLogger(self.tracked))

    def complete(self) -> None:
        """Set the values of a trial whose trainings have all ended."""
        values = [run.values() for run in self.runs]
        self.outcome.values = [sum(by_seed) / len(values) for by_seed in zip(*values, strict=True)]
        self.outcome.state = TrialState.COMPLETE

    def _keep_so_far(self) -> None:
        """Keep the values of its validated epochs: training it to its end can only improve its best."""
        with suppress(InputError):  # an objective without a value
            values = [run.values() for run in self.runs if run.is_validated]
            if values:
                self.outcome.values_so_far = [sum(by_seed) / len(values) for by_seed in zip(*values, strict=True)]

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Turn an error into the outcome, unless it ends the search."""
        outcome = self.outcome
        try:
            yield
        except optuna.TrialPruned as stop:
            outcome.state, outcome.reason = TrialState.PRUNED, str(stop)
        except _TimeUpError as stop:
            outcome.cut_off, outcome.reason = True, str(stop)
            self._keep_so_far()
        except Exception as error:
            if ends_search(error):
                raise
            outcome.reason = reason_of(error)
            if outcome.reason.startswith("error"):
                logger.error("trial %d: %s", self.trial.number, traceback.format_exc())
            traceback.clear_frames(error.__traceback__)  # they hold the model
        except BaseException:
            outcome.reason = "interrupted"
            raise

    def close(self) -> None:
        """Store the attributes, end its W&B run, and release its models."""
        if self.closed:
            return
        self.closed = True
        outcome, runs = self.outcome, self.runs
        seconds = time.perf_counter() - self.started if self.seconds is None else self.seconds
        outcome.attributes = {"seconds": round(seconds, 3), "threads": torch.get_num_threads()}
        if outcome.values_so_far is not None:
            outcome.attributes[SO_FAR] = outcome.values_so_far
        if self.fused is not None:
            outcome.attributes["fused"] = self.fused
        if runs:
            outcome.attributes |= runs[0].attributes()
            outcome.attributes["epochs"] = sum(len(run.history) for run in runs)
        if outcome.reason:
            outcome.attributes["reason"] = outcome.reason
        if self.tracked is not None:
            _finish(self.tracked, outcome)
        runs.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class _Training:
    """One training of a trial."""

    def __init__(self, settings: SearchSettings, data: StudyData, sampled: dict[str, Any], index: int) -> None:
        from recbole.utils import get_model, init_seed

        self._settings, self._data = settings, data
        config = trial_config(settings, {**sampled, "seed": settings.config["seed"] + index})
        init_seed(config["seed"], config["reproducibility"])
        model = get_model(settings.model)(config, data.train_split).to(config["device"])
        self._config = config
        self._model: torch.nn.Module = model
        self.epochs = int(config["epochs"])
        self._kept: EpochKeeper | None = None
        self._setup_seconds: float | None = None
        self.costs = self._measure()

    def run(self, callbacks: list[pl.Callback], after_epoch: Callable[[int, float], None], started: float) -> None:
        trainer = LightningTrainer(self._config, self._model, [*callbacks, _FirstBatch(self, started)])
        try:
            trainer.fit(self._data.train, self._data.valid, verbose=False, saved=False, callback_fn=after_epoch)
        finally:
            self._kept = trainer.epochs
        self.check_validated()

    def member(self, after_epoch: Callable[[int, float], None], on_end: Callable[[], None]) -> Member:
        """Make it a member of a fused training; call this before anything else draws random numbers."""
        made = Member(self._config, self._model, callback_fn=after_epoch, on_end=on_end)
        self._kept = made.epochs
        return made

    @property
    def config(self) -> Any:
        return self._config

    @property
    def model(self) -> torch.nn.Module:
        model: torch.nn.Module = self._model
        return model

    def check_validated(self) -> None:
        if self._kept is None or self._kept.best_score is None:
            raise InputError(
                "no epoch was validated: eval_step must be at least 1 and not larger than epochs "
                f"(they are {self._config['eval_step']} and {self._config['epochs']})"
            )

    @property
    def is_validated(self) -> bool:
        return self._kept is not None and self._kept.best_score is not None

    def first_batch(self, started: float) -> None:
        if self._setup_seconds is None:
            self._setup_seconds = time.perf_counter() - started

    @property
    def history(self) -> list[dict[str, Any]]:
        return self._kept.history if self._kept is not None else []

    def values(self) -> list[float]:
        """Return the objectives' values in the best epoch."""
        assert self._kept is not None
        cells = Evaluation.from_dict(self._kept.best_evaluation).keys() if self._kept.best_evaluation else []
        values = self._kept.best_metrics | self.costs
        keys = {name: find_metric(name, [*values, *cells]) for name in self._settings.objectives}
        objectives = {name: values[key] for name, key in keys.items() if key in values}
        objectives[self._settings.quality] = float(self._kept.best_score)  # type: ignore[arg-type]
        missing = [name for name in self._settings.objectives if not math.isfinite(objectives.get(name, math.nan))]
        if missing:
            raise InputError(f"{', '.join(missing)} has no value on the validation split")
        return [float(objectives[name]) for name in self._settings.objectives]

    def attributes(self) -> dict[str, Any]:
        attributes: dict[str, Any] = dict(self.costs)
        if self._setup_seconds is not None:
            attributes["setup_seconds"] = round(self._setup_seconds, 3)
        if self._kept is not None:
            attributes |= {"history": self._kept.history, "best_epoch": self._kept.best_epoch}
            if self._kept.best_evaluation is not None:
                attributes["valid"] = self._kept.best_evaluation
        return attributes

    def _measure(self) -> dict[str, float]:
        """Count the parameters, and measure the other costs only where they are objectives, because that takes time."""
        objectives = self._settings.objectives
        costs: dict[str, float] = {"parameters": parameters(self._model)}
        rows = self._data.valid
        if "flops" in objectives:
            costs["flops"] = flops(self._model, self._batch(min(256, len(rows))))
        for name, count in LATENCY_ROWS.items():
            if name in objectives:
                costs[name] = latency(self._model, self._batch(min(count, len(rows))), count)
        return costs

    def _batch(self, rows: int) -> Any:
        return self._data.valid.batch(slice(0, rows)).to(self._config["device"])


class _FirstBatch(pl.Callback):
    def __init__(self, training: _Training, started: float) -> None:
        self._training, self._started = training, started

    def on_train_batch_start(self, *_: Any) -> None:
        self._training.first_batch(self._started)


def _finish(tracked: TrackedRun, outcome: Outcome) -> None:
    if "valid" in outcome.attributes:
        tracked.log_cells("valid", outcome.attributes["valid"])
    left_out = ("history", "valid", "reason", SO_FAR)
    values = {key: value for key, value in outcome.attributes.items() if key not in left_out}
    if outcome.values is not None:
        values["value"] = outcome.values[0] if len(outcome.values) == 1 else outcome.values
    tracked.summary(values)
    state = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}.get(outcome.state, "failed")
    tracked.finish(state, outcome.reason)
