"""RecBole's general and sequential models (BPR, LightGCN, SASRec, Pop) on the ranked lists of a task.

They learn from the training positives of the main task under RecBole's own trainer, which draws the negatives. After
every epoch the lists of the validation split are ranked as for any other model, and `valid_metric` chooses the epoch.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.utils import InputType
from torch import Tensor

from recbole_msr.compat import tensorboard_below
from recbole_msr.data.positives import list_inputs
from recbole_msr.data.ranked_lists import RankedLists, ranked_lists
from recbole_msr.errors import InputError
from recbole_msr.evaluation.cells import Evaluation
from recbole_msr.evaluation.metrics import find_metric
from recbole_msr.evaluation.ranking_mode import metric_names
from recbole_msr.evaluation.validation_metric import check_metric, check_validation
from recbole_msr.models.list_scores import ListScorer
from recbole_msr.runs.folder import RunFolder
from recbole_msr.runs.list_file import LISTS_FILE, write_lists
from recbole_msr.runs.outcome import Outcome, finite_metrics, speed, validated
from recbole_msr.runs.recbole_training import make_trainer, write_history
from recbole_msr.training.checkpoint import load_weights, save_checkpoint
from recbole_msr.training.epochs import EpochKeeper
from recbole_msr.training.list_evaluation import ListEvaluation
from recbole_msr.training.module import DivergedError

_LISTS = 256
"""Lists that are ranked at once."""
_NEGATIVES = {"distribution": "uniform", "sample_num": 1, "alpha": 1.0, "dynamic": False, "candidate_num": 0}
"""RecBole's own default of `train_neg_sample_args`, where the configuration says none."""


class ItemRanker:
    """The training and the test of one such model.

    Args:
        config: RecBole's configuration.
        model: the model, built from `data.positives.positives_of` the training split.
        positives: that dataset.
        splits: the training and validation split, and the test split if it is to be tested.
        settings: the configuration as a user would write it, for the checkpoint.
        folder: where RecBole's trainer may write.
        best_path: where the weights of the best epoch go; None to keep none.
        after_epoch: called after every validation with (epoch from 0, score); it may raise to end the training.
        before_batch: called before every batch; likewise.

    Attributes:
        epochs: the epochs so far, with the best one's results.
    """

    def __init__(
        self,
        config: Any,
        model: Any,
        positives: Any,
        splits: Sequence[Any],
        settings: Mapping[str, Any],
        folder: Path,
        best_path: Path | None,
        after_epoch: Callable[[int, float], Any] | None = None,
        before_batch: Callable[[], None] | None = None,
    ) -> None:
        self._config, self._model, self._positives, self._splits = config, model, positives, splits
        self._settings, self._folder, self._best_path = settings, folder, best_path
        self._after_epoch, self._before_batch = after_epoch, before_batch
        self.epochs = EpochKeeper(config, settings)

    def train(self) -> None:
        """Train under RecBole's trainer, and keep the best epoch by `valid_metric`.

        Raises:
            InputError: `valid_metric` cannot be computed, or the model cannot be trained on users and items.
        """
        config, metric = self._config, str(self._config["valid_metric"])
        valid = self._splits[1]
        check_metric(metric, config, valid, several_tasks=False)
        check_validation(metric, config, valid, config["main_task"], ranked_lists(valid, config))
        config["checkpoint_dir"] = str(self._folder)
        with tensorboard_below(self._folder), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")
            self._trainer = make_trainer(config, self._model)
            # Pop's trainer makes its epochs 1 after RecBole has compared them with eval_step.
            self._trainer.eval_step = min(self._trainer.eval_step, self._trainer.epochs)
            self._trainer._valid_epoch = self._validate
            self._began = time.perf_counter()
            try:
                with self._watched():
                    loader, shows = positives_loader(config, self._positives), config["show_progress"]
                    self._trainer.fit(loader, [valid], saved=False, verbose=False, show_progress=shows)
            finally:
                self._trainer.tensorboard.close()  # its thread writes into the folder
            self._note_epochs()
        if self.epochs.best_score is None:
            raise InputError("no epoch was validated: eval_step must be at least 1 and not larger than epochs")

    def test(self, lists_path: Path | None) -> tuple[dict[str, Any], Evaluation]:
        """Test the best epoch's weights; return the test's part of result.json, and its cells.

        Args:
            lists_path: where the values of every list go; None for nowhere.
        """
        assert self._best_path is not None
        load_weights(self._model, self._best_path, self._config["device"])
        ranking, tested = self._evaluate(self._splits[2])
        if lists_path is not None:
            write_lists(lists_path, ranking.lists, *ranking.values())
        metrics = finite_metrics(ranking.recbole_metrics(tested))
        return {"test": {"metrics": metrics, **tested.to_dict()}}, tested

    def outcome(self, folder: RunFolder, test: bool) -> Outcome:
        """Train, write metrics.csv, and test unless that is left for later."""
        self.train()
        keeper = self.epochs
        key = f"valid/{keeper.metric}"
        scores = [{"epoch": row["epoch"], "valid_score": row[key]} for row in keeper.history if key in row]
        write_history(folder, self._trainer.train_loss_dict, scores)
        path = folder.file(LISTS_FILE) if self._config["save_predictions"] else None
        part, tested = self.test(path) if test else ({}, None)
        assert keeper.best_evaluation is not None
        summary = {**validated(self._config, keeper), **part, **speed(keeper)}
        return Outcome(summary, Evaluation.from_dict(keeper.best_evaluation), tested)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Call `before_batch` where RecBole's trainer, which has no hook, asks for the loss of a batch."""
        if self._before_batch is None:
            yield
            return
        calculate, before = self._model.calculate_loss, self._before_batch

        def loss(interaction: Any) -> Any:
            before()
            return calculate(interaction)

        self._model.calculate_loss = loss
        try:
            yield
        finally:
            del self._model.calculate_loss

    def _validate(self, valid_data: Any, show_progress: bool = False) -> tuple[float, dict[str, float]]:
        """Rank the lists of the validation split, in the place of RecBole's own evaluation."""
        keeper = self.epochs
        self._note_epochs()
        began = time.perf_counter()
        ranking, evaluation = self._evaluate(self._splits[1])
        values = evaluation.flat() | ranking.recbole_metrics(evaluation)
        key = find_metric(str(self._config["valid_metric"]), values)
        if key is None:
            raise InputError(f"valid_metric '{self._config['valid_metric']}' has no value on the validation split")
        score = float(values[key])
        keeper.metric = key
        keeper.history[-1] |= {f"valid/{name}": value for name, value in values.items()}
        seconds = time.perf_counter() - began
        keeper.wall_seconds += seconds
        keeper.times[-1] = round(time.time(), 3)
        if keeper.best_score is None or score >= keeper.best_score:  # ties count as better, as in RecBole
            keeper.best_score, keeper.best_epoch = score, len(keeper.history)
            keeper.best_metrics, keeper.best_evaluation = values, evaluation.to_dict()
            if self._best_path is not None:
                save_checkpoint(self._best_path, self._model, self._settings, keeper.best_epoch)
        if self._after_epoch is not None:
            self._after_epoch(len(keeper.history) - 1, score)
        self._began = time.perf_counter()
        return score, {name: values[name] for name in metric_names(self._config)}

    def _note_epochs(self) -> None:
        """Note the epochs that have ended since the last one that was noted."""
        keeper = self.epochs
        losses = list(self._trainer.train_loss_dict.values())[len(keeper.history) :]
        seconds = time.perf_counter() - self._began
        for loss in losses:
            own, rows = seconds / len(losses), len(self._positives)
            keeper.history.append(
                {"epoch": len(keeper.history) + 1, "train_loss": float(loss), "seconds": round(own, 3)}
            )
            keeper.times.append(round(time.time(), 3))
            keeper.train_seconds, keeper.train_rows = keeper.train_seconds + own, keeper.train_rows + rows
            keeper.wall_seconds += own

    @torch.no_grad()
    def _evaluate(self, split: Any) -> tuple[ListEvaluation, Evaluation]:
        """Rank the lists of a split with the present weights."""
        self._model.eval()
        lists = ranked_lists(split, self._config)
        assert lists is not None
        inputs = list_inputs(split, lists, self._config).to(self._config["device"])
        ranking = ListEvaluation(self._model, self._config, lists, _Scores(self._model, self._config, lists))
        for numbers in torch.arange(len(lists)).split(_LISTS):
            if not torch.isfinite(ranking.step(inputs[numbers], numbers)).all():
                raise DivergedError("scores became infinite or not a number: lower learning_rate")
        ranking.set_hits(ranking.own_hits())
        return ranking, ranking.evaluate(split.scenario_names)


def positives_loader(config: Any, positives: Any) -> Any:
    """Return RecBole's loader of the training positives, with negatives where the model learns from them.

    Args:
        config: RecBole's configuration; its `train_neg_sample_args` become those that the model needs.
        positives: `data.positives.positives_of` a training split.
    """
    from recbole.data.dataloader import TrainDataLoader
    from recbole.sampler import Sampler

    drawn = config["train_neg_sample_args"]["distribution"] != "none"
    needed = config["MODEL_INPUT_TYPE"] == InputType.PAIRWISE or config["MODEL_TYPE"].name == "GENERAL"
    if needed and not drawn:
        config["train_neg_sample_args"] = dict(_NEGATIVES)
    elif config["MODEL_TYPE"].name == "TRADITIONAL" or config["loss_type"] == "CE":
        # Pop would count what is drawn, and cross-entropy is over all items.
        config["train_neg_sample_args"] = _NEGATIVES | {"distribution": "none", "sample_num": "none"}
    arguments = config["train_neg_sample_args"]
    sampler = None
    if arguments["distribution"] != "none":
        sampler = Sampler(["train"], [positives], arguments["distribution"], arguments["alpha"])
        sampler = sampler.set_phase("train")
        if config["eval_args"]["group_by"] == "cold_item" and arguments["distribution"] == "uniform":
            _leave_held_out(sampler, np.unique(positives.every_label.inter_feat[positives.iid_field].numpy()))
    return TrainDataLoader(config, positives, sampler, shuffle=config["shuffle"])


def _leave_held_out(sampler: Any, items: np.ndarray) -> None:
    """Let a sampler draw items of training rows alone: else held-out ones would be learnt, as what nobody likes.

    Args:
        sampler: RecBole's, which draws from all items.
        items: the items of the training rows.

    Raises:
        InputError: a user has all of them as positives.
    """
    if max(len(had) for had in sampler.used_ids) >= len(items):
        raise InputError(
            "eval_args: group_by: cold_item: a user has every item of the training rows as a positive, and "
            "negatives are drawn of the others: hold out fewer items (split), or leave such users out "
            "(user_inter_num_interval)"
        )
    sampler._uni_sampling = lambda number: np.random.choice(items, number)


class _Scores:
    """The scores of all items that a model gives to users or sequences, where lists ask for them."""

    def __init__(self, model: Any, config: Any, lists: RankedLists) -> None:
        self._model, self._n_items = model, lists.n_items
        self._pair_by_pair = ListScorer(model, lists.items, config["ITEM_ID_FIELD"], int(config["eval_batch_size"]))

    def scores(self, lists: Any, items: Tensor | None = None) -> Tensor:
        """Return scores (n, C, 1) of n lists for items (n, C), or for all."""
        try:
            found: Tensor = self._model.full_sort_predict(lists).reshape(len(lists), self._n_items)
        except NotImplementedError:  # as NeuMF, which scores pairs
            return self._pair_by_pair.scores(lists, items)
        return (found if items is None else found.gather(1, items.to(found.device))).unsqueeze(2)
