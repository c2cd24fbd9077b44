"""Run one training from settings to results: what the command `run_recbole` does."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from recbole_msr.config.build import check_version, plain_settings, reading_data
from recbole_msr.config.keys import unread_notes
from recbole_msr.config.merge import make_folders_absolute, merge_settings
from recbole_msr.data.cache import write_state
from recbole_msr.data.dataset import SPLITS, ScenarioDataset
from recbole_msr.data.loaders import split_loaders
from recbole_msr.data.positives import positives_of, ranks_items
from recbole_msr.data.ranked_lists import ranked_lists
from recbole_msr.data.rows_report import log_rows
from recbole_msr.data.tables.dataset import place_tables
from recbole_msr.errors import InputError, one_line
from recbole_msr.evaluation.calibration import Calibration
from recbole_msr.evaluation.cells import Evaluation
from recbole_msr.evaluation.prediction_file import write_predictions
from recbole_msr.evaluation.validation_metric import check_metric, check_validation
from recbole_msr.files.yaml import read_yaml
from recbole_msr.memory import is_out_of_memory
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.runs.calibrated import CALIBRATION, calibrated_test, fit_calibration
from recbole_msr.runs.explain.weights import weights_at
from recbole_msr.runs.folder import VALIDATED, RunFolder, run_folder
from recbole_msr.runs.init_from import init_from
from recbole_msr.runs.initial_weights import Weights, write_start
from recbole_msr.runs.item_rankers import ItemRanker
from recbole_msr.runs.list_file import LISTS_FILE, write_lists
from recbole_msr.runs.model_size import check_size
from recbole_msr.runs.outcome import Outcome, about, finite_metrics, speed, validated
from recbole_msr.runs.recbole_training import check_recbole_settings, train_by_recbole
from recbole_msr.runs.run_log import log_level, log_to_folder
from recbole_msr.runs.run_settings import configure_run, run_threads, under_lightning
from recbole_msr.runs.versions import versions
from recbole_msr.threads import log_threads, one_at_a_time, process_rank
from recbole_msr.tracking.run_tracking import log_result, tracked_run
from recbole_msr.tracking.wandb import TrackedRun
from recbole_msr.training.epoch_loggers import EpochLogger
from recbole_msr.training.epochs import EpochKeeper
from recbole_msr.training.optimizer_state import OptimizerState
from recbole_msr.training.trainer import LightningTrainer

logger = logging.getLogger(__name__)
AfterEpoch = Callable[[int, float], Any]
"""Called after a validation with (epoch from 0, score)."""
_UNBUILDABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RuntimeError)
"""What a model of RecBole's may raise when its settings do not fit each other."""


@dataclass
class RunResult:
    """The results of a run.

    Attributes:
        summary: the content of result.json.
        folder: where the run's files are.
        valid, test: the scenario x task cells of the best epoch; None for models evaluated by RecBole's trainer.
        model: the trained model with the best epoch's weights.
        rank: number of this process among those that trained together.
    """

    summary: dict[str, Any]
    folder: Path
    valid: Evaluation | None = None
    test: Evaluation | None = None
    model: torch.nn.Module | None = field(default=None, repr=False)
    rank: int = 0

    @property
    def test_metrics(self) -> dict[str, float]:
        """RecBole's metrics on the test split."""
        return dict(self.summary["test"]["metrics"])


@one_at_a_time
def run(
    model: str | None = None,
    dataset: str | None = None,
    config_files: Sequence[str | Path] = (),
    config: Mapping[str, Any] | None = None,
    callbacks: Sequence[Any] = (),
    test: bool = True,
    after_epoch: AfterEpoch | None = None,
) -> RunResult:
    """Train a model, keep its best epoch by validation, and test that.

    Args:
        model: a registered model or one of RecBole's; may also stand in the settings.
        dataset: a dataset's name; likewise.
        config_files: YAML files; later ones win.
        config: further settings, which win over the files. `output_dir` and `resume` are among them.
        callbacks: Lightning callbacks, for runs under Lightning.
        test: False stops before the test: the folder has `validated.json` in the place of `result.json`, and
            `runs/tested_later.py` finishes it. Only under Lightning, and without a W&B run.
        after_epoch: called after every validation with (epoch from 0, score), once the epoch's state is on disk; what
            it raises interrupts the run. Only under Lightning.

    Returns:
        The results; the same are in the files of the run's folder.

    Raises:
        InputError: a setting or the data cannot be used; nothing half-written is left behind.
    """
    started = time.perf_counter()
    settings = place_tables(merge_settings(config_files, config), dataset)
    check_version(settings.pop("written_by", None))
    output_dir, resume = settings.pop("output_dir", None), settings.pop("resume", None) or False
    if not isinstance(resume, bool):
        raise InputError(f"resume must be True or False, got {resume!r}")
    if resume and output_dir is not None and model is None and "model" not in settings:
        settings = read_yaml(RunFolder.to_resume(output_dir)) | settings
    recbole_config = configure_run(model, dataset, settings)
    with (
        run_folder(recbole_config, output_dir, resume) as folder,
        log_to_folder(folder),
        log_level(recbole_config),
        run_threads(recbole_config),
    ):
        log_threads()
        for note in unread_notes(recbole_config) if process_rank(recbole_config["lightning"]) == 0 else ():
            logger.warning("%s", note)
        return Run(recbole_config, folder, resume, callbacks, started, after_epoch).execute(test)


class Run:
    """The steps of one run, which share its configuration, its data and its folder.

    Args:
        config: RecBole's configuration.
        folder: where its files go.
        resume: whether it goes on from the folder's last.ckpt.
        callbacks: Lightning callbacks.
        started: `time.perf_counter()` of its beginning.
        after_epoch: as `run` takes it.

    Attributes:
        settings: the configuration as a user would write it.
        dataset: the dataset, after `load`.
        loaders: RecBole's loaders of the three splits, after `load`.
        model: the model, after `build`.
        optimizer_state: that of `init_from`, with `init_optimizer`.
        positives: what a model of RecBole's that learns from users and items is built and trained from.
        rank: number of this process among those that train together; the first one writes.
    """

    dataset: Any
    loaders: tuple[Any, Any, Any]
    model: torch.nn.Module
    positives: Any = None
    optimizer_state: OptimizerState | None = None

    def __init__(
        self,
        config: Any,
        folder: RunFolder,
        resume: bool = False,
        callbacks: Sequence[Any] = (),
        started: float = 0.0,
        after_epoch: AfterEpoch | None = None,
    ) -> None:
        self.config, self.folder, self.resume, self.callbacks = config, folder, resume, callbacks
        self.after_epoch = after_epoch
        self.started, self.data_seconds = started, 0.0
        self.rank = process_rank(config["lightning"]) if under_lightning(config) else 0
        self.start: list[Weights] = []
        self.settings = plain_settings(config)
        make_folders_absolute(self.settings, ("data_path", "knowledge_dir", "init_from"))
        if resume:
            folder.check_same(self.settings)

    def execute(self, test: bool = True) -> RunResult:
        """Take all steps, from reading the data to result.json; without the test, to validated.json."""
        if not test:
            self._check_late_test()
        self.load()
        self.build()
        with self.tracked() as tracked:
            if ranks_items(self.config):
                if self.resume:
                    raise InputError(
                        "RecBole's own trainer cannot resume a run; start it again (in another output_dir)"
                    )
                outcome = self.ranker().outcome(self.folder, test)
            elif under_lightning(self.config):
                outcome = self._train_by_lightning(tracked, test)
            else:
                check_recbole_settings(self.config, self.resume)
                outcome = train_by_recbole(self.config, self.model, self.loaders, self.folder, self.settings, tracked)
            return self.finish(outcome, tracked)

    def _check_late_test(self) -> None:
        """Refuse to leave the test for later where it cannot be done alone."""
        if not under_lightning(self.config):
            raise InputError("RecBole's trainer trains and tests in one step: its test cannot come later")
        if self.config["log_wandb"] or self.config["wandb"] is not None:
            raise InputError("a W&B run ends with the test, so it cannot come later: leave wandb and log_wandb out")

    def ranker(self) -> ItemRanker:
        """Return the training and test of a model of RecBole's that learns from users and items."""
        return ItemRanker(
            self.config,
            self.model,
            self.positives,
            [loader._dataset for loader in self.loaders],
            self.settings,
            self.folder.path,
            self.folder.file("best.ckpt"),
            self.after_epoch,
        )

    def load(self) -> None:
        """Read and split the data."""
        from recbole.data import create_dataset
        from recbole.utils import init_seed

        init_seed(self.config["seed"], self.config["reproducibility"])
        with reading_data(self.config):
            self.dataset = ScenarioDataset(self.config) if ranks_items(self.config) else create_dataset(self.config)
            if self.config["tasks"] is not None and not isinstance(self.dataset, ScenarioDataset):
                raise InputError(f"{self.config['model']} makes its own kind of dataset, without scenarios and tasks")
            self.loaders = split_loaders(self.config, self.dataset)
        if self.rank == 0:
            log_rows(self.dataset)
        self.data_seconds = time.perf_counter() - self.started

    def build(self) -> None:
        """Build the model, and leave config.yaml: the run has begun."""
        from recbole.utils import get_model, init_seed

        init_seed(self.config["seed"] + self.config["local_rank"], self.config["reproducibility"])
        model_class = get_model(self.config["model"])
        train = self.loaders[0]._dataset
        if ranks_items(self.config):
            train = self.positives = positives_of(train, self.config)
        check_size(self.config, train, model_class, tell=self.rank == 0)
        try:
            model = model_class(self.config, train)
        except InputError:
            raise
        except _UNBUILDABLE as error:
            if not model_class.__module__.startswith("recbole.") or is_out_of_memory(error):
                raise
            # RecBole's models do not check their settings: sizes that do not fit each other end deep in PyTorch.
            name = self.config["model"]
            raise InputError(
                f"{name} cannot be built with these settings (recbole-msr models {name} lists them): {one_line(error)}"
            ) from error
        self.model = model.to(self.config["device"])
        earlier = self.config["init_from"]
        if earlier is not None and not (self.resume and not Path(earlier).is_dir()):  # what goes on has its weights
            self.optimizer_state = init_from(
                self.model, self.loaders[0]._dataset, earlier, self.config["init_scenarios"],
                self.config["learner"] if self.config["init_optimizer"] else None,
            )  # fmt: skip
        if isinstance(self.model, MultiScenarioRecommender) and self.rank == 0:
            # A run that goes on has been built from the same seed again: these are the weights it began with, too.
            self.start = weights_at(self.model, self.loaders[0]._dataset)
        if not self.resume and self.rank == 0:
            self.folder.write_yaml("config.yaml", self.settings)

    def tracked(self) -> AbstractContextManager[TrackedRun | None]:
        """Start the W&B run, if the settings ask for one; in the first process only."""
        wanted = self.config["log_wandb"] or self.config["wandb"] is not None
        if not wanted or self.rank != 0:
            return nullcontext()
        return tracked_run(self.config, self.settings, self.folder.path, self.resume)

    def finish(self, outcome: Outcome, tracked: TrackedRun | None, seconds: float | None = None) -> RunResult:
        """Write result.json, and the vocabulary with which new rows are scored.

        Without results of a test, they are written as validated.json.

        Args:
            outcome: the results of training and test.
            tracked: the W&B run.
            seconds: the time of the whole run; by default the time since it began.
        """
        config, has_tasks = self.config, isinstance(self.dataset, ScenarioDataset)
        if has_tasks and self.rank == 0:
            self._keep_vocabulary(self.loaders[0]._dataset)
        summary = {
            **about(config, self.dataset),
            "trainer": "lightning" if under_lightning(config) and not ranks_items(config) else "recbole",
            **outcome.summary,
            "rows": {name: len(loader._dataset) for name, loader in zip(SPLITS, self.loaders, strict=True)},
            "data": self.dataset.row_report() if has_tasks else None,
            **(self._trained_times() if has_tasks else {"trained_until": None}),
            "parameters": sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            "device": str(config["device"]),
            "versions": versions(),
        }
        if seconds is None:
            seconds = time.perf_counter() - self.started + outcome.seconds_before
        summary["seconds"] = {"data": round(self.data_seconds, 3), **summary["seconds"], "total": round(seconds, 3)}
        if self.rank == 0:
            if self.start:
                write_start(self.folder, self.start)
            self.folder.write_json("result.json" if "test" in summary else VALIDATED, summary)
            self.folder.file("last.ckpt").unlink(missing_ok=True)
        if tracked is not None:
            log_result(tracked, summary)
        return RunResult(summary, self.folder.path, outcome.valid, outcome.test, self.model, self.rank)

    def _train_by_lightning(self, tracked: TrackedRun | None, test: bool) -> Outcome:
        last = self.folder.file("last.ckpt")
        epoch_logger = EpochLogger(tracked) if tracked is not None else None
        trainer = self.trainer(
            [*self.callbacks, *([epoch_logger] if epoch_logger is not None else [])],
            last if self.resume and last.exists() else None,
        )
        trainer.fit(
            self.loaders[0],
            self.loaders[1],
            show_progress=bool(self.config["show_progress"]),
            callback_fn=self.after_epoch,
        )
        assert trainer.epochs is not None
        if epoch_logger is not None:
            epoch_logger.send(trainer.epochs)  # a training resumed after its last epoch sends none by itself
        return self.outcome(trainer, trainer.epochs, test)

    def trainer(self, callbacks: Sequence[Any] = (), resume_from: Path | None = None) -> LightningTrainer:
        """Make the trainer of the model under Lightning, and check that `valid_metric` can be computed."""
        trainer = LightningTrainer(
            self.config, self.model, callbacks, self.folder.path, self.settings, resume_from,
            optimizer_state=self.optimizer_state,
        )  # fmt: skip
        metric, all_tasks = self.config["valid_metric"], hasattr(self.model, "predict_tasks")
        check_metric(metric, self.config, self.loaders[0]._dataset, all_tasks)
        if self.config["eval_step"] > 0:
            only_task = None if all_tasks else self.config["main_task"]
            split = self.loaders[1]._dataset
            check_validation(metric, self.config, split, only_task, ranked_lists(split, self.config))
        return trainer

    def outcome(self, trainer: LightningTrainer, epochs: EpochKeeper, test: bool = True) -> Outcome:
        """Return the results of a training that has ended, and test its best epoch.

        Args:
            trainer: the trainer.
            epochs: what is known of its epochs.
            test: False leaves the test out.
        """
        tested = self.test(trainer) if test else {}
        valid = Evaluation.from_dict(epochs.best_evaluation) if epochs.best_evaluation else None
        summary = {
            **validated(self.config, epochs),
            **tested,
            **speed(epochs),
        }
        return Outcome(summary, valid, trainer.evaluation, epochs.seconds_before)

    def test(self, trainer: LightningTrainer) -> dict[str, Any]:
        """Test the best epoch's weights, which are in best.ckpt; return the test's part of result.json.

        With `calibrate`, the probabilities of the validation rows are fitted before.
        """
        calibration = self._calibrate(trainer) if self.config["calibrate"] != "none" else None
        metrics = trainer.evaluate(self.loaders[2], show_progress=False)
        assert trainer.evaluation is not None
        found: dict[str, Any] = {"test": {"metrics": finite_metrics(metrics), **trainer.evaluation.to_dict()}}
        if calibration is not None:
            assert trainer.test_scores is not None
            split = self.loaders[2]._dataset
            found["calibrated"] = calibrated_test(self.config, calibration, trainer.test_scores, split)
        if self.config["save_predictions"] and self.rank == 0 and trainer.test_lists is not None:
            write_lists(self.folder.file(LISTS_FILE), trainer.test_lists.lists, *trainer.test_lists.values())
        elif self.config["save_predictions"] and self.rank == 0:
            assert trainer.test_scores is not None
            predictions = self.folder.file("predictions.parquet")
            write_predictions(predictions, trainer.test_scores, self.loaders[2]._dataset)
        return found

    def _calibrate(self, trainer: LightningTrainer) -> Calibration:
        """Fit the calibration on the validation rows, and keep it with the run."""
        split = self.loaders[1]._dataset
        if len(split) == 0:
            raise InputError("calibrate is fitted on validation rows, and there are none: set calibrate: none")
        trainer.evaluate(self.loaders[1], show_progress=False)
        assert trainer.test_scores is not None
        calibration = fit_calibration(self.config, trainer.test_scores, split)
        if self.rank == 0:
            self.folder.write_json(CALIBRATION, calibration.to_dict())
            for line in calibration.left_out:
                logger.warning("calibrate: %s", line)
        return calibration

    def _trained_times(self) -> dict[str, Any]:
        """Return the time of the last training row (None where there is none), from which a later run goes on.

        Beside it, how many validation and test rows are not later: that run leaves them out, too.
        """
        times, *others = (loader._dataset.row_times() for loader in self.loaders)
        last = math.nan if times is None or not len(times) else float(times.max())
        if not math.isfinite(last):
            return {"trained_until": None}
        return {"trained_until": last, "untrained_until": sum(int((own <= last).sum()) for own in others)}

    def _keep_vocabulary(self, dataset: ScenarioDataset) -> None:
        """Write the vocabularies and tables by which `recbole-msr predict` turns a new row's values into ids."""
        target = self.folder.file("vocabulary")
        target.mkdir(exist_ok=True)
        write_state(dataset, target, tables=("user", "item"))
