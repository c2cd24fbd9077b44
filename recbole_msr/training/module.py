"""A LightningModule around any RecBole pointwise model, and the data it trains on."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from recbole.data.interaction import Interaction
from recbole.evaluator import Evaluator
from recbole.evaluator.collector import DataStruct
from recbole.utils import init_seed

from recbole_msr.data.packed import EpochOrder, PackedLoader, PackedTable, batch_rows, row_numbers
from recbole_msr.errors import InputError
from recbole_msr.evaluation.cells import Evaluation, evaluate_cells, recbole_metrics
from recbole_msr.evaluation.layout import Layout
from recbole_msr.evaluation.segments import Segments
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.options import Options
from recbole_msr.schema import SCENARIO_FIELD, Schema
from recbole_msr.training.fast_paths import check_sparse, compiled, prepare_model
from recbole_msr.training.list_evaluation import ListEvaluation
from recbole_msr.training.optimizer_state import OptimizerState, apply_optimizer_state
from recbole_msr.training.optimizers import build_optimizer, build_scheduler, clip_sparse, parameter_groups
from recbole_msr.training.rate_schedule import RateSchedule
from recbole_msr.training.weighting.loss_weighting import (
    GradientWeighting,
    averaged,
    build_weighting,
    gradient_weightings,
    summed,
)

_CHECK_EVERY = 50
"""Steps from one look at the sum of the losses to the next: a look waits for the device."""
_SEED_STEP = 1_000_003
"""From the seed of one process to that of the next: seeds that users take lie closer together."""


class DivergedError(ArithmeticError):
    """The training loss is no longer a number."""


class RecModule(pl.LightningModule):
    """Trains and evaluates a RecBole model, ours or theirs, that learns row by row (`InputType.POINTWISE`).

    Loss, optimiser and metrics are RecBole's. Predictions are gathered over all processes before a metric is computed.

    Args:
        model: the RecBole model; its `predict_tasks(interaction) -> (B, T)` is used where it has one, else
            `predict(interaction) -> (B,)`.
        config: its RecBole configuration.

    Attributes:
        schedule: the learning rate from step to step (`learning_rate_schedule`, `warmup_epochs`); None where it stays.
        weighting: what weighs the losses of the tasks, where the model's own loss does not (`loss_weighting`).
        train_loss: sum of the batch losses of the last epoch, as RecBole reports it.
        evaluation: the scenario x task cells of the last validation or test.
        test_scores: (N, T) what the test has predicted, with `save_predictions` or `calibrate`.
        test_lists: the ranked lists of the test, with `save_predictions`; None where rows are evaluated.
        metrics: the values of the last validation or test: all of `evaluation.flat()`, and the metrics that the
            configuration names with RecBole's own values (rounded to `metric_decimal_place`).
        first_state: the state that the optimiser begins with; None for a new one.
    """

    def __init__(self, model: Any, config: Any) -> None:
        super().__init__()
        self.model = model
        prepare_model(model, config)
        self.weighting = build_weighting(model, config)
        self._config = config
        self._counted = self.weighting is not None
        self._loss = self._loss_function()
        self._schema = Schema.from_config(config)
        self._evaluator = Evaluator(config)
        self._loss_sum: torch.Tensor | None = None
        self.train_loss = float("nan")
        self.evaluation: Evaluation | None = None
        self.test_scores: torch.Tensor | None = None
        self.test_lists: ListEvaluation | None = None
        self._ranking: ListEvaluation | None = None
        self.metrics: dict[str, float] = {}
        self.schedule = RateSchedule.from_config(config)
        self._rates: list[float] = []
        self.first_state: OptimizerState | None = None
        self._optimizer: Any = None
        self._scheduler: Any = None
        self._scheduler_state: Any = None
        self._random: Any = None
        self._step: Any = None
        predicts_all_tasks = self._schema is not None and hasattr(model, "predict_tasks")
        self._layout = getattr(model, "layout", None)
        self._columns = len(self._schema.tasks) if predicts_all_tasks and self._schema is not None else 1
        if hasattr(model, "predicted"):
            self._columns = model.predicted.width

    def _loss_function(self) -> Callable[[Any], Any]:
        loss: Callable[[Any], Any] = self.model.counted_losses if self._counted else self.model.calculate_loss
        if not Options(self._config).flag("compile"):
            return loss
        if isinstance(self.weighting, GradientWeighting):
            raise InputError(
                f"compile: loss_weighting: {gradient_weightings()} go back through a loss several times, which "
                "compiled code cannot: set compile: False"
            )
        return compiled(loss, self._config["device"])

    def training_step(self, batch: Interaction, batch_idx: int) -> torch.Tensor:
        """Return the loss of a batch, a scalar."""
        weight = self._weight(batch_idx)
        if self._counted:
            losses, counts = self._loss(batch)
            if self._several_processes():
                losses, counts = _of_whole_batch(losses, counts if weight else torch.zeros_like(counts))
            loss = self._total(batch, losses, counts)
        else:
            loss = whole_loss(self._loss(batch))
            if weight != 1.0:
                loss = loss * weight
        detached = loss.detach()
        self._loss_sum = detached if self._loss_sum is None else self._loss_sum + detached
        if (batch_idx + 1) % _CHECK_EVERY == 0:
            self._check(averaged(self._loss_sum))  # once no number, it stays none
        return loss

    def _total(self, batch: Interaction, losses: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        if self.weighting is None:
            return self.model.summed_losses(losses, counts)  # type: ignore[no-any-return]
        if isinstance(self.weighting, GradientWeighting):
            self._step = batch, losses, counts  # for `backward`
        total: torch.Tensor = self.weighting(losses, counts)
        return total

    def _several_processes(self) -> bool:
        return self._trainer is not None and self.trainer.world_size > 1

    def _weight(self, batch_idx: int) -> float:
        """Return the weight of this process's mean over a batch (`PackedLoader.weight`)."""
        loader = self.trainer.train_dataloader if self._several_processes() else None
        return loader.weight(batch_idx) if isinstance(loader, PackedLoader) else 1.0

    def backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute the gradients, as the loss weighting has them."""
        if isinstance(self.weighting, GradientWeighting):
            (batch, losses, counts), self._step = self._step, None
            self.weighting.backward(self.model, batch, losses, counts, loss)
        else:
            super().backward(loss, *args, **kwargs)

    @property
    def task_weights(self) -> dict[str, float]:
        """Each task's present weight in the loss, beside `loss_weights`; empty where weights do not change."""
        log_variances = getattr(self.model, "log_variances", None)
        weights = None if log_variances is None else (-log_variances.detach()).exp()
        if self.weighting is not None:
            weights = self.weighting.task_weights()
        return {} if weights is None else dict(zip(self.model.task_names, weights.tolist(), strict=True))

    def on_fit_start(self) -> None:
        """Check that the loss weighting and sparse gradients fit the strategy."""
        if self._several_processes() and not self._counted and isinstance(self.model, MultiScenarioRecommender):
            # A task's labels are not spread evenly over the processes: their losses are put together task by task.
            self._counted = True
            self._loss = self._loss_function()
        if isinstance(self.weighting, GradientWeighting):
            self.weighting.check_strategy(self.trainer.strategy)
        if self._config["embedding_gradients"] == "sparse":
            check_sparse(self.weighting, self.trainer.strategy)

    def on_train_epoch_start(self) -> None:
        """Begin the sum of the epoch's losses, and tell the model."""
        self._loss_sum = None
        if isinstance(self.model, MultiScenarioRecommender) and self.model.start_epoch(self.current_epoch):
            self._optimizer.state.clear()
        if self.weighting is not None:
            self.weighting.start_epoch()

    def on_train_epoch_end(self) -> None:
        """Set `train_loss`, and refuse a loss that is not finite."""
        if self.weighting is not None:
            self.weighting.end_epoch()
        if self._loss_sum is None:
            raise InputError("there is no batch to train on")
        whole = averaged(self._loss_sum)
        self._check(whole)
        self.train_loss = float(whole)

    def _check(self, values: torch.Tensor, what: str = "the training loss") -> None:
        if not torch.isfinite(values).all():
            raise DivergedError(
                f"{what} became infinite or not a number in epoch {self.current_epoch + 1}: lower learning_rate "
                f"(now {self._config['learning_rate']}), or set clip_grad_norm: {{max_norm: 5}}"
            )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build the optimiser and the scheduler that the configuration names."""
        self._optimizer = optimizer = build_optimizer(parameter_groups(self.model, self._config), self._config)
        if self.first_state is not None:
            apply_optimizer_state(optimizer, self.model, self.first_state)
        self._rates = [group["lr"] for group in optimizer.param_groups]
        self._scheduler = build_scheduler(optimizer, self._config["lr_scheduler"])
        return optimizer

    def on_train_batch_start(self, batch: Interaction, batch_idx: int) -> None:
        """Set the learning rates of a step, where a schedule has them.

        They follow from the place of the batch alone, so that an interrupted training goes on with the same.
        """
        if self.schedule is None:
            return
        n_batches = int(self.trainer.num_training_batches)
        factor = self.schedule.factor(self.current_epoch + batch_idx / n_batches, 1 / n_batches)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = factor * rate

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients, dense or sparse."""
        if self._config["embedding_gradients"] != "sparse":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            by_value = str(gradient_clip_algorithm) == "value"
            clip = torch.nn.utils.clip_grad_value_ if by_value else torch.nn.utils.clip_grad_norm_
            clip_sparse(optimizer, lambda parameters: clip(parameters, gradient_clip_val))

    def step_scheduler(self, valid_score: float | None) -> None:
        """Step the scheduler at the end of an epoch.

        Lightning does not step it: its checkpoints lag behind its schedulers.
        """
        if isinstance(self._scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            if valid_score is not None:
                self._scheduler.step(valid_score)
        elif self._scheduler is not None:
            self._scheduler.step()

    # An interrupted run goes on with the same random numbers as if it had never stopped.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the random state of every process and the scheduler's state."""
        # One state a process: they need not draw the same number of random numbers.
        states: list[Any] = [_random_state()]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            states = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(states, _random_state())
        checkpoint["random"] = states
        if isinstance(self.model, MultiScenarioRecommender) and (state := self.model.training_state()):
            checkpoint["training_state"] = state
        checkpoint["scheduler"] = None if self._scheduler is None else self._scheduler.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep these states until the training starts."""
        self._random = checkpoint["random"]
        if "training_state" in checkpoint:
            self.model.load_training_state(checkpoint["training_state"])
        self._scheduler_state = checkpoint["scheduler"]

    def on_train_start(self) -> None:
        """Restore these states; in a fresh training, seed each process by itself."""
        if self._random is not None:
            if self._scheduler is not None:
                self._scheduler.load_state_dict(self._scheduler_state)
            _set_random_state(self._random[self.global_rank % len(self._random)])
            self._random = None
        elif self.global_rank > 0:  # each process draws its own dropout; the first one as if it were alone
            init_seed(int(self._config["seed"]) + _SEED_STEP * self.global_rank, bool(self._config["reproducibility"]))

    # Evaluation: rows of this process are kept, then put in their place in the table.

    def on_validation_epoch_start(self) -> None:
        """Refuse to validate a training that has diverged."""
        if self._loss_sum is not None:  # a training that has diverged has nothing to validate
            self._check(averaged(self._loss_sum))
        self._predictions: list[torch.Tensor] = []
        lists = self._eval_loader().table.lists
        self._ranking = None if lists is None else ListEvaluation(self.model, self._config, lists)

    def validation_step(self, batch: Interaction, batch_idx: int) -> None:
        """Keep the predictions of a batch of rows, or the hits of a batch of lists."""
        if self._ranking is not None:
            self._check(self._ranking.step(batch, batch_rows(self._eval_loader(), batch_idx)), "predictions")
            return
        predicts_all_tasks = hasattr(self.model, "predict_tasks")
        scores = self.model.predict_tasks(batch) if predicts_all_tasks else self.model.predict(batch).reshape(-1, 1)
        self._predictions.append(scores.detach().float().cpu())

    def on_validation_epoch_end(self) -> None:
        """Gather the predictions, or what was found of lists, and evaluate them."""
        loader = self._eval_loader()
        if self._ranking is not None:
            ranking = self._ranking
            ranking.set_hits(gather_rows(ranking.own_hits(), row_numbers(loader), len(loader.table)))
            names = self.trainer.datamodule.scenario_names  # type: ignore[attr-defined]
            self.evaluation = ranking.evaluate(names)
            self.metrics = self.evaluation.flat() | ranking.recbole_metrics(self.evaluation)
            if self.trainer.testing and self._config["save_predictions"]:
                self.test_lists = ranking
            return
        # Of fewer rows than processes, some processes have none.
        own = torch.cat(self._predictions) if self._predictions else torch.empty(0, self._columns)
        scores = gather_rows(own, row_numbers(loader), len(loader.table))
        del self._predictions
        self._check(scores, "predictions")
        schema = self._schema
        labels = [] if schema is None else [*schema.label_fields, *schema.metric_weight_fields]
        needed = (self._config["USER_ID_FIELD"], self._config["LABEL_FIELD"], SCENARIO_FIELD, *labels)
        rows = loader.table.whole(needed)
        if self.trainer.testing and (self._config["save_predictions"] or self._config["calibrate"] != "none"):
            self.test_scores = scores
        self.evaluation = self._evaluate(scores, rows, loader.table.segments)
        self.metrics = self.evaluation.flat() | self._recbole_metrics(scores, rows)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def _eval_loader(self) -> PackedLoader:
        loader = self.trainer.test_dataloaders if self.trainer.testing else self.trainer.val_dataloaders
        assert isinstance(loader, PackedLoader)
        return loader

    def _evaluate(self, scores: torch.Tensor, rows: Interaction, segments: Segments | None) -> Evaluation:
        users = rows[self._config["USER_ID_FIELD"]].cpu().numpy() if self._config["USER_ID_FIELD"] in rows else None
        classes = {} if self._layout is None else self._layout.classes
        weights: dict[str, np.ndarray] = {}
        if self._schema is None:
            names, tasks, main = ["all"], [self._config["LABEL_FIELD"]], self._config["LABEL_FIELD"]
            labels, scenario = rows[main].cpu().numpy()[:, None], np.ones(len(rows), dtype=np.int64)
        else:
            names = self.trainer.datamodule.scenario_names  # type: ignore[attr-defined]
            main = self._schema.main_task
            tasks = list(Layout.predicted(self._schema, classes, scores.shape[1]).types)
            labels = self._schema.labels(tasks, lambda field: rows[field].cpu().numpy())
            weights = self._schema.metric_weights(tasks, lambda field: rows[field].cpu().numpy())
            scenario = rows[SCENARIO_FIELD].cpu().numpy()
        least = self._config["min_scenario_rows"] or 1
        types = {} if self._schema is None else self._schema.predicted_types
        return evaluate_cells(
            scores.numpy(),
            labels,
            scenario,
            users,
            names,
            tasks,
            main,
            least,
            types=types,
            classes=classes,
            weights=weights,
            segments=segments,
        )

    def _recbole_metrics(self, scores: torch.Tensor, rows: Interaction) -> OrderedDict[str, float]:
        """Return the configured metrics of the main task, those that are not known yet computed by RecBole."""
        assert self.evaluation is not None
        cell = self.evaluation.pooled[self.evaluation.main_task]
        wanted = [name.lower() for name in self._config["metrics"]]
        metrics_of_cell = recbole_metrics(cell, wanted, self._config["metric_decimal_place"])
        self._evaluator.metrics = [name for name in wanted if name not in metrics_of_cell]
        if not self._evaluator.metrics:
            return OrderedDict(metrics_of_cell)
        main = 0 if self._layout is None else self._layout.columns[self.evaluation.main_task].start
        label = rows[self._config["LABEL_FIELD"]].cpu()
        present = label.isfinite() if cell.type == "number" else label >= 0
        struct = DataStruct()
        struct.set("rec.score", scores[present, main])
        struct.set("data.label", label[present])
        others = self._evaluator.evaluate(struct)
        return OrderedDict(
            (name, metrics_of_cell[name] if name in metrics_of_cell else others[name]) for name in wanted
        )


class PackedData(pl.LightningDataModule):
    """Packed tables of the splits, and their loaders for the process that asks.

    Args:
        config: RecBole's configuration (`train_batch_size`, `eval_batch_size`, `shuffle`, `seed`, `data_device`).
        splits: built RecBole datasets, or tables packed before, by "train", "valid", "test"; those that are needed.
    """

    def __init__(self, config: Any, splits: Mapping[str, Any]) -> None:
        super().__init__()
        self._config = config
        self._tables = {
            name: split if isinstance(split, PackedTable) else PackedTable.for_run(split, config)
            for name, split in splits.items()
            if split is not None
        }
        self.scenario_names = next((table.scenario_names for table in self._tables.values()), None)

    def _loader(self, split: str) -> PackedLoader:
        table = self._tables[split]
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        device = self.trainer.strategy.root_device if self.trainer else self._config["device"]
        ahead = device if device.type == "cuda" and table.device.type == "cpu" else None
        if split != "train" and table.listed is not None and table.listed.lists is not None:
            size = table.listed.lists.lists_a_batch(self._config["eval_batch_size"])
            return PackedLoader(table.listed, size, None, rank, world_size, ahead)
        if split != "train":
            return PackedLoader(table, self._config["eval_batch_size"], None, rank, world_size, ahead)
        order = EpochOrder.of_setting(len(table), self._config["seed"], self._config["shuffle"])
        return PackedLoader(table, self._config["train_batch_size"], order, rank, world_size, ahead)

    def train_dataloader(self) -> PackedLoader:
        """Return the loader of the training split."""
        return self._loader("train")

    def val_dataloader(self) -> PackedLoader:
        """Return the loader of the validation split."""
        return self._loader("valid")

    def test_dataloader(self) -> PackedLoader:
        """Return the loader of the test split."""
        return self._loader("test")


def whole_loss(loss: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return a model's loss as one number: some of RecBole's models return its parts."""
    return torch.stack(loss).sum() if isinstance(loss, tuple) else loss


def _of_whole_batch(losses: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """L_t (T,) and N_t (T,) over the rows of all processes, from those of this process's rows.

    Each process keeps its part of L_t, times W: gradients are averaged over the W processes, and the mean of the parts
    is L_t of the whole batch.
    """
    whole = summed(counts.clone())
    return losses * (counts * torch.distributed.get_world_size() / whole.clamp(min=1)), whole


def gather_rows(values: torch.Tensor, rows: torch.Tensor, length: int) -> torch.Tensor:
    """Put the values (n, T) of every process at their row numbers (n,) of one table (length, T), on every process."""
    parts = [(values, rows)]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gathered: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(gathered, (values.numpy(), rows.numpy()))
        parts = [(torch.from_numpy(v), torch.from_numpy(r)) for v, r in gathered]
    table = torch.full((length, values.shape[1]), float("nan"))
    for part, places in parts:
        table[places] = part
    return table


def _random_state() -> dict[str, Any]:
    """Return the state of every global generator, in types that load with `weights_only=True`."""
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": (version, list(numbers), gauss),
        "numpy": (
            str(kind),
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ),
    }


def _set_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([state_of_device.cpu() for state_of_device in state["cuda"]])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))
