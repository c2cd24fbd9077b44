"""One run from settings to results: what the command `run_recbole` does."""

from __future__ import annotations

import logging
import platform
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from recbole_msr.compat import tensorboard_below
from recbole_msr.config.build import check_version, plain_settings, reading_data
from recbole_msr.config.keys import unread_notes
from recbole_msr.config.merge import make_folders_absolute, merge_settings
from recbole_msr.data.cache import write_state
from recbole_msr.data.dataset import SPLITS, ScenarioDataset
from recbole_msr.data.rows_report import log_rows
from recbole_msr.errors import InputError, nearest, one_line
from recbole_msr.evaluation.cells import Evaluation
from recbole_msr.evaluation.metrics import metric_name
from recbole_msr.evaluation.prediction_file import write_predictions
from recbole_msr.evaluation.validation_metric import check_metric, check_validation
from recbole_msr.files.atomic import write_atomically
from recbole_msr.files.outputs import NO_ROOM, WriteError
from recbole_msr.files.yaml import read_yaml
from recbole_msr.memory import is_out_of_memory, trim_memory
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.prompts.command import embed
from recbole_msr.prompts.store import knowledge_folder
from recbole_msr.runs.explain import weights_at
from recbole_msr.runs.folder import RunFolder, is_finished
from recbole_msr.runs.initial_weights import Weights, write_start
from recbole_msr.threads import local_processes, log_threads, one_at_a_time, process_rank, torch_threads
from recbole_msr.tracking.run_tracking import log_result, tracked_run
from recbole_msr.tracking.wandb import TrackedRun
from recbole_msr.training.checkpoint import save_checkpoint
from recbole_msr.training.configure import training_config
from recbole_msr.training.epoch_loggers import EpochLogger, RecBoleEpochs
from recbole_msr.training.epochs import EpochKeeper
from recbole_msr.training.fast_paths import LIGHTNING_ONLY
from recbole_msr.training.trainer import LightningTrainer

logger = logging.getLogger(__name__)
_IMPOSSIBLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RuntimeError)


@dataclass
class RunResult:
    """What a run found.

    Attributes:
        summary: the content of result.json.
        folder: where the run's files are.
        valid, test: the scenario x task cells of the best epoch; None for models evaluated by RecBole's trainer.
        model: the trained model with the best epoch's weights.
        rank: number of this process among those that have trained together.
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
) -> RunResult:
    """Train a model, keep its best epoch by validation, and test that.

    Args:
        model: a registered model or one of RecBole's; may also stand in the settings.
        dataset: a dataset's name; likewise.
        config_files: YAML files; later ones win.
        config: further settings, which win over the files. `output_dir` and `resume` are among them.
        callbacks: Lightning callbacks, for runs under Lightning.

    Returns:
        The results; the same are in the files of the run's folder.

    Raises:
        InputError: something given cannot be used; nothing half-written is left behind.
    """
    started = time.perf_counter()
    settings = merge_settings(config_files, config)
    check_version(settings.pop("written_by", None))
    output_dir, resume = settings.pop("output_dir", None), settings.pop("resume", None) or False
    if not isinstance(resume, bool):
        raise InputError(f"resume must be True or False, got {resume!r}")
    if resume and output_dir is not None and model is None and "model" not in settings:
        settings = read_yaml(RunFolder.to_resume(output_dir)) | settings
    recbole_config = configured(model, dataset, settings)
    with (
        run_folder(recbole_config, output_dir, resume) as folder,
        log_to_folder(folder),
        log_level(recbole_config),
        run_threads(recbole_config),
    ):
        log_threads()
        for note in unread_notes(recbole_config) if process_rank(recbole_config["lightning"]) == 0 else ():
            logger.warning("%s", note)
        return Run(recbole_config, folder, resume, callbacks, started).go()


def configured(model: str | None, dataset: str | None, settings: Mapping[str, Any]) -> Any:
    """RecBole's configuration of a run; knowledge that it names by encoder and template is built.

    Args:
        model, dataset: names; where they are not given, they are among the settings.
        settings: configuration keys.
    """
    settings = dict(settings)
    in_settings = settings.pop("model", None), settings.pop("dataset", None)
    name, data_name = model or in_settings[0], dataset or in_settings[1]
    for what, value in (("model", name), ("dataset", data_name)):
        if not value:
            raise InputError(f"no {what} given: --{what}=NAME, or '{what}: NAME' in a configuration file")
    if "/" in str(settings.get("knowledge") or ""):
        settings["knowledge"] = built_knowledge(str(name), str(data_name), settings)
    return training_config(name, data_name, settings)


@contextmanager
def run_folder(config: Any, path: str | Path | None, resume: bool = False) -> Iterator[RunFolder]:
    """A run's folder while it runs. Where the run could not begin, nothing of it is left."""
    folder = RunFolder(path, f"{config['model']}-{config['dataset']}", resume, process_rank(config["lightning"]))
    try:
        if resume and folder.finished:
            raise InputError(f"the run in {folder.path} is finished: its results are in result.json")
        yield folder
    except BaseException as raised:
        error = _named(raised, folder.path)
        began = folder.file("metrics.csv").exists()
        if not resume and not began and (isinstance(error, InputError) or not folder.file("config.yaml").exists()):
            folder.discard()
        if error is raised:
            raise
        raise error from raised
    finally:
        folder.close()
        trim_memory()


def _named(error: BaseException, folder: Path) -> BaseException:
    """The error; one of a full disk names the file, or the folder, and says how to go on."""
    if not isinstance(error, OSError) or error.errno not in NO_ROOM:
        return error
    more = f"; make room, and run_recbole --resume --output_dir={folder} goes on" if can_resume(folder) else ""
    return WriteError.of(error.filename or folder, error, more)


def run_once(folder: Path, config: Mapping[str, Any]) -> None:
    """Train and test in a folder, once: nothing is done where that has been done, and a killed run goes on.

    Args:
        folder: the run's folder.
        config: all settings, `model` and `dataset` among them.
    """
    with run_lock(folder):
        if not is_finished(folder):
            resume = can_resume(folder)
            if not resume:
                shutil.rmtree(folder, ignore_errors=True)
            run(config={**config, "output_dir": str(folder), "resume": resume})


def run_lock(folder: Path) -> FileLock:
    """A lock for the process that trains in a folder; another one may be at it still, and is waited for."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{folder}.lock")


def can_resume(folder: Path) -> bool:
    """Whether a run was interrupted in a folder and can go on."""
    return (folder / "config.yaml").is_file() and (folder / "last.ckpt").is_file()


def built_knowledge(model: str, dataset: str, settings: Mapping[str, Any]) -> str:
    """Build the knowledge that ENCODER/TEMPLATE stands for, if it is not there yet. Returns its name.

    Of several processes that train together the first one builds it, by itself; the others wait until it is there.
    """

    encoder, _, template = str(settings["knowledge"]).rpartition("/")
    name = f"{dataset}-{encoder}-{template}"
    data = {key: value for key, value in settings.items() if key not in ("knowledge", "lightning")}
    if not template.isidentifier() or not encoder.isidentifier():
        raise InputError(
            f"knowledge '{settings['knowledge']}' is neither a store's name nor ENCODER/TEMPLATE such as minilm/full; "
            "other encoders and templates take recbole-msr embed --name=NAME, and then knowledge: NAME"
        )
    if process_rank(settings.get("lightning")) != 0:
        while not (knowledge_folder(settings.get("knowledge_dir")) / name).is_dir():
            time.sleep(0.5)
        return name
    for line in embed(dataset, [], {**data, "model": model, "encoder": encoder, "template": template, "name": name}):
        logger.info("%s", line)
    return name


def under_lightning(config: Any) -> bool:
    if config["trainer"] == "auto":
        return config["tasks"] is not None
    return bool(config["trainer"] == "lightning")


def run_threads(config: Any) -> AbstractContextManager[None]:
    """As many threads as `threads` says, or as are this process's share."""
    # RecBole's own trainer keeps PyTorch's choice: with more or fewer its sums have other last digits.
    if config["threads"] is None and not under_lightning(config):
        return nullcontext()
    return torch_threads(config["threads"], local_processes(config["lightning"]))


class Run:
    """The steps of one run; kept together because they share its configuration, its data and its folder.

    Args:
        config: RecBole's configuration.
        folder: where its files go.
        resume: whether it goes on from the folder's last.ckpt.
        callbacks: Lightning callbacks.
        started: `time.perf_counter()` of its beginning.

    Attributes:
        settings: the configuration as a user would write it.
        loaders: RecBole's loaders of the three splits, after `load`; with them `dataset`.
        model: after `build`.
        rank: number of this process among those that train together; the first one writes.
    """

    dataset: Any
    loaders: tuple[Any, Any, Any]
    model: torch.nn.Module

    def __init__(
        self, config: Any, folder: RunFolder, resume: bool = False, callbacks: Sequence[Any] = (), started: float = 0.0
    ) -> None:
        self.config, self.folder, self.resume, self.callbacks = config, folder, resume, callbacks
        self.started, self.data_seconds = started, 0.0
        self.rank = process_rank(config["lightning"]) if under_lightning(config) else 0
        self.start: list[Weights] = []
        self.settings = plain_settings(config)
        make_folders_absolute(self.settings, ("data_path", "knowledge_dir"))
        if resume:
            folder.check_same(self.settings)

    def go(self) -> RunResult:
        """Do all of them."""
        self.load()
        self.build()
        with self.tracked() as tracked:
            train = self._train_lightning if under_lightning(self.config) else self._train_recbole
            return self.finish(train(tracked), tracked)

    def load(self) -> None:
        """Read and split the data."""
        from recbole.data import create_dataset, data_preparation
        from recbole.utils import init_seed

        init_seed(self.config["seed"], self.config["reproducibility"])
        with reading_data(self.config):
            self.dataset = create_dataset(self.config)
            if self.config["tasks"] is not None and not isinstance(self.dataset, ScenarioDataset):
                raise InputError(f"{self.config['model']} makes its own kind of dataset, without scenarios and tasks")
            self.loaders = data_preparation(self.config, self.dataset)
        if self.rank == 0:
            log_rows(self.dataset)
        self.data_seconds = time.perf_counter() - self.started

    def build(self) -> None:
        """Build the model, and leave config.yaml: the run has begun."""
        from recbole.utils import get_model, init_seed

        init_seed(self.config["seed"] + self.config["local_rank"], self.config["reproducibility"])
        model_class = get_model(self.config["model"])
        try:
            model = model_class(self.config, self.loaders[0]._dataset)
        except InputError:
            raise
        except _IMPOSSIBLE as error:
            if not model_class.__module__.startswith("recbole.") or is_out_of_memory(error):
                raise
            # RecBole's models do not check their settings: sizes that do not fit each other end deep in PyTorch.
            told = one_line(error)
            name = self.config["model"]
            raise InputError(
                f"{name} cannot be built with these settings (recbole-msr models {name} lists them): {told}"
            ) from error
        self.model = model.to(self.config["device"])
        if isinstance(self.model, MultiScenarioRecommender) and self.rank == 0:
            # A run that goes on has been built from the same seed again: these are the weights it began with, too.
            self.start = weights_at(self.model, self.loaders[0]._dataset)
        if not self.resume and self.rank == 0:
            self.folder.write_yaml("config.yaml", self.settings)

    def tracked(self) -> AbstractContextManager[TrackedRun | None]:
        """The W&B run, if one is asked for; in the first process only."""
        asked = self.config["log_wandb"] or self.config["wandb"] is not None
        if not asked or self.rank != 0:
            return nullcontext()
        return tracked_run(self.config, self.settings, self.folder.path, self.resume)

    def finish(self, outcome: Outcome, tracked: TrackedRun | None, seconds: float | None = None) -> RunResult:
        """Write result.json, and what scores new rows.

        Args:
            outcome: what training and test came to.
            tracked: its W&B run.
            seconds: what the whole run took; by default the time since it began.
        """
        config, several = self.config, isinstance(self.dataset, ScenarioDataset)
        if several and self.rank == 0:
            self._keep_vocabulary(self.loaders[0]._dataset)
        summary = {
            "model": config["model"],
            "dataset": config["dataset"],
            "seed": config["seed"],
            "data_seed": config["data_seed"] if several else config["seed"],
            "trainer": "lightning" if under_lightning(config) else "recbole",
            "scenarios": getattr(self.dataset, "scenario_names", None),
            "tasks": self.dataset.schema.task_names if several else None,
            "main_task": config["main_task"],
            "valid_metric": metric_name(str(config["valid_metric"])),
            **outcome.summary,
            "rows": {name: len(loader._dataset) for name, loader in zip(SPLITS, self.loaders, strict=True)},
            "data": self.dataset.row_report() if several else None,
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
            self.folder.write_json("result.json", summary)
            self.folder.file("last.ckpt").unlink(missing_ok=True)
        if tracked is not None:
            log_result(tracked, summary)
        return RunResult(summary, self.folder.path, outcome.valid, outcome.test, self.model, self.rank)

    def _train_lightning(self, tracked: TrackedRun | None) -> Outcome:
        last = self.folder.file("last.ckpt")
        epoch_logger = EpochLogger(tracked) if tracked is not None else None
        trainer = self.trainer(
            [*self.callbacks, *([epoch_logger] if epoch_logger is not None else [])],
            last if self.resume and last.exists() else None,
        )
        trainer.fit(self.loaders[0], self.loaders[1], show_progress=bool(self.config["show_progress"]))
        assert trainer.epochs is not None
        if epoch_logger is not None:
            epoch_logger.send(trainer.epochs)  # a training resumed after its last epoch sends none by itself
        return self.test(trainer, trainer.epochs)

    def trainer(self, callbacks: Sequence[Any] = (), resume_from: Path | None = None) -> LightningTrainer:
        """What trains and tests the model in the folder, under Lightning."""
        made = LightningTrainer(self.config, self.model, callbacks, self.folder.path, self.settings, resume_from)
        several = hasattr(self.model, "predict_tasks")
        check_metric(self.config["valid_metric"], self.config, self.loaders[0]._dataset, several)
        if self.config["eval_step"] > 0:
            split = self.loaders[1]._dataset
            check_validation(
                self.config["valid_metric"], self.config, split, None if several else self.config["main_task"]
            )
        return made

    def test(self, trainer: LightningTrainer, epochs: EpochKeeper) -> Outcome:
        """Test the best epoch of a training that has ended."""
        metrics = trainer.evaluate(self.loaders[2], show_progress=False)
        assert trainer.evaluation is not None
        if self.config["save_predictions"] and self.rank == 0:
            assert trainer.test_scores is not None
            predictions = self.folder.file("predictions.parquet")
            write_predictions(predictions, trainer.test_scores, self.loaders[2]._dataset)
        valid = Evaluation.from_dict(epochs.best_evaluation) if epochs.best_evaluation else None
        names = [name.lower() for name in self.config["metrics"]]
        summary = {
            "best_epoch": epochs.best_epoch,
            "epochs": len(epochs.history),
            "best_valid_score": epochs.best_score,
            "valid": {
                "metrics": _finite({name: epochs.best_metrics[name] for name in names if name in epochs.best_metrics}),
                **(valid.to_dict() if valid else {}),
            },
            "test": {"metrics": _finite(metrics), **trainer.evaluation.to_dict()},
            "seconds": {"train": round(epochs.train_seconds, 3)},
            "rows_per_second": round(epochs.train_rows / epochs.train_seconds) if epochs.train_seconds else None,
        }
        return Outcome(summary, valid, trainer.evaluation, epochs.seconds_before)

    def _train_recbole(self, tracked: TrackedRun | None) -> Outcome:
        """RecBole's own trainer, unchanged, with its files in the run's folder."""
        from recbole.trainer import Trainer
        from recbole.utils import EvaluatorType, get_trainer

        if self.config["save_predictions"]:
            raise InputError("save_predictions is for runs under Lightning: declare tasks, or set trainer: lightning")
        if self.resume:
            raise InputError("RecBole's own trainer cannot resume a run; start it again (in another output_dir)")
        config, model, loaders = self.config, self.model, self.loaders
        for key, plain in LIGHTNING_ONLY.items():
            if config[key] != plain:
                raise InputError(f"{key} is for runs under Lightning: declare tasks, or set trainer: lightning")
        config["checkpoint_dir"] = str(self.folder.path)
        metrics = [name.lower() for name in config["metrics"]]
        if config["eval_type"] == EvaluatorType.RANKING:
            metrics = [f"{name}@{k}" for name in metrics for k in config["topk"]]
        if str(config["valid_metric"]).lower() not in metrics:
            raise InputError(
                f"RecBole's trainer computes no valid_metric '{config['valid_metric']}'"
                f"{nearest(str(config['valid_metric']), metrics) or '.'}"
                f" It computes {', '.join(metrics)} (metrics, topk)."
            )
        history: list[dict[str, Any]] = []
        with tensorboard_below(self.folder.path), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")  # its use of torch.cuda.amp
            trainer_class = get_trainer(config["MODEL_TYPE"], config["model"])
            if trainer_class is LightningTrainer:
                trainer_class = Trainer
            trainer = _without_own_wandb(trainer_class, config, model)
            epoch_logger = RecBoleEpochs(tracked) if tracked is not None else None
            if epoch_logger is not None:
                trainer.wandblogger = epoch_logger
            started = time.perf_counter()
            score, valid = trainer.fit(
                loaders[0],
                loaders[1],
                saved=True,
                show_progress=config["show_progress"],
                callback_fn=lambda epoch, value: history.append({"epoch": epoch + 1, "valid_score": float(value)}),
            )
            seconds = time.perf_counter() - started
            if epoch_logger is not None:
                epoch_logger.flush()
            test = trainer.evaluate(loaders[2], load_best_model=True, show_progress=config["show_progress"])
        Path(trainer.saved_model_file).unlink(missing_ok=True)  # a pickle; the weights go into best.ckpt
        best = 1 + max(
            (row["epoch"] - 1 for row in history if row["valid_score"] == score),
            default=len(trainer.train_loss_dict) - 1,
        )
        save_checkpoint(self.folder.file("best.ckpt"), model, self.settings, best)
        _write_history(self.folder, trainer.train_loss_dict, history)
        summary = {
            "best_epoch": best,
            "epochs": len(trainer.train_loss_dict),
            "best_valid_score": float(score),
            "valid": {"metrics": _finite(valid or {})},
            "test": {"metrics": _finite(test or {})},
            "seconds": {"train": round(seconds, 3)},
            "rows_per_second": None,
        }
        return Outcome(summary)

    def _keep_vocabulary(self, dataset: ScenarioDataset) -> None:
        """What turns a new row's values into ids: written beside the weights, for `recbole-msr predict`."""
        target = self.folder.file("vocabulary")
        target.mkdir(exist_ok=True)
        write_state(dataset, target, tables=("user", "item"))


@dataclass
class Outcome:
    """What training and test came to: their part of result.json, and the cells."""

    summary: dict[str, Any]
    valid: Evaluation | None = None
    test: Evaluation | None = None
    seconds_before: float = 0.0  # of training, before the run was resumed


def _without_own_wandb(trainer_class: Any, config: Any, model: torch.nn.Module) -> Any:
    """A RecBole trainer that starts no W&B run of its own: RecBole never finishes it."""
    asked = config["log_wandb"]
    config["log_wandb"] = False
    try:
        return trainer_class(config, model)
    finally:
        config["log_wandb"] = asked


def _write_history(folder: RunFolder, losses: Mapping[int, float], scores: Sequence[Mapping[str, Any]]) -> None:
    by_epoch = {row["epoch"]: row["valid_score"] for row in scores}
    lines = ["epoch,train_loss,valid_score"]
    lines += [f"{epoch + 1},{float(loss)},{by_epoch.get(epoch + 1, '')}" for epoch, loss in losses.items()]
    text = "\n".join(lines) + "\n"
    write_atomically(folder.file("metrics.csv"), lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: (float(value) if value == value else None) for name, value in metrics.items()}


def versions() -> dict[str, str]:
    names = ("recbole-msr", "recbole", "torch", "pytorch-lightning", "numpy", "pandas", "scipy")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


class _LogFile(logging.FileHandler):
    """A log file; one that cannot be written ends the run in one line, like any other file of it."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise WriteError.of(self.baseFilename, error) from error
        super().handleError(record)


@contextmanager
def log_to_folder(folder: RunFolder) -> Iterator[None]:
    """What is logged also goes to the run's folder, but for what is told of another run (a record's `folder`)."""
    path = folder.file("run.log")
    try:
        handler = _LogFile(path, encoding="utf-8", errors="backslashreplace", delay=True)
    except OSError as error:
        raise InputError(f"the log file {path} cannot be written: {error}") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(lambda record: getattr(record, "folder", None) in (None, folder.path))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        with suppress(OSError):  # of a full disk: it was told when the line was lost
            handler.close()


@contextmanager
def log_level(config: Any) -> Iterator[None]:
    """What `state` asks for is logged."""
    level = getattr(logging, str(config["state"] or "INFO").upper(), logging.INFO)
    root = logging.getLogger()
    before = root.level
    root.setLevel(min(level, before) if before else level)
    try:
        yield
    finally:
        root.setLevel(before)
