"""RecBole's general and sequential models (BPR, LightGCN, SASRec, Pop) on the ranked lists of a task.

They learn from the training positives of the main task under RecBole's own trainer, which draws the negatives. After
every epoch the lists of the validation split are ranked as for any other model, and `valid_metric` chooses the epoch.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from recbole.utils import InputType
from torch import Tensor

from recbole_msr.compat import tensorboard_below
from recbole_msr.data.positives import is_sequential, list_inputs
from recbole_msr.data.ranked_lists import RankedLists, ranked_lists
from recbole_msr.errors import InputError
from recbole_msr.evaluation.cells import Evaluation
from recbole_msr.evaluation.metrics import find_metric
from recbole_msr.evaluation.ranking_mode import metric_names, ranks
from recbole_msr.evaluation.validation_metric import check_metric, check_validation
from recbole_msr.models.list_scores import ListScorer
from recbole_msr.runs.folder import RunFolder
from recbole_msr.runs.list_file import LISTS_FILE, write_lists
from recbole_msr.runs.outcome import Outcome, finite_metrics
from recbole_msr.runs.recbole_training import make_trainer, write_history
from recbole_msr.training.checkpoint import load_weights, save_checkpoint
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
        splits: the training, validation and test split.
        folder: where best.ckpt, metrics.csv and lists.parquet go.
        settings: the configuration as a user would write it, for the checkpoint.
    """

    def __init__(
        self,
        config: Any,
        model: Any,
        positives: Any,
        splits: tuple[Any, Any, Any],
        folder: RunFolder,
        settings: Mapping[str, Any],
    ) -> None:
        self._config, self._model, self._positives = config, model, positives
        self._splits, self._folder, self._settings = splits, folder, settings
        self._best: Evaluation | None = None
        self._best_score: float | None = None
        self._best_epoch = 0
        self._scores: list[float] = []

    def train(self) -> Outcome:
        """Train under RecBole's trainer, keep the best epoch by `valid_metric`, and test it.

        Raises:
            InputError: `valid_metric` cannot be computed, or the model cannot be trained on users and items.
        """
        config, metric = self._config, str(self._config["valid_metric"])
        valid, test = self._splits[1:]
        check_metric(metric, config, valid, several_tasks=False)
        check_validation(metric, config, valid, config["main_task"], ranked_lists(valid, config))
        config["checkpoint_dir"] = str(self._folder.path)
        with tensorboard_below(self._folder.path), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")
            trainer = make_trainer(config, self._model)
            trainer._valid_epoch = self._validate
            began = time.perf_counter()
            trainer.fit(self._loader(), [valid], saved=False, verbose=False, show_progress=config["show_progress"])
            seconds = time.perf_counter() - began
        if self._best is None:
            raise InputError("no epoch was validated: eval_step must be at least 1 and not larger than epochs")
        load_weights(self._model, self._folder.file("best.ckpt"), config["device"])
        ranking, tested = self._evaluate(test)
        if config["save_predictions"]:
            write_lists(self._folder.file(LISTS_FILE), ranking.lists, *ranking.values())
        step = int(config["eval_step"])
        history = [{"epoch": step * number, "valid_score": score} for number, score in enumerate(self._scores, start=1)]
        write_history(self._folder, trainer.train_loss_dict, history)
        summary = {
            "best_epoch": self._best_epoch,
            "epochs": len(trainer.train_loss_dict),
            "best_valid_score": self._best_score,
            "valid": self._results(self._best),
            "test": self._results(tested),
            "seconds": {"train": round(seconds, 3)},
            "rows_per_second": None,
        }
        return Outcome(summary, self._best, tested)

    def _loader(self) -> Any:
        """Return RecBole's loader of the training positives, with negatives where the model learns from them."""
        from recbole.data.dataloader import TrainDataLoader
        from recbole.sampler import Sampler

        config = self._config
        drawn = config["train_neg_sample_args"]["distribution"] != "none"
        needed = config["MODEL_INPUT_TYPE"] == InputType.PAIRWISE or config["MODEL_TYPE"].name == "GENERAL"
        if needed and not drawn:
            config["train_neg_sample_args"] = dict(_NEGATIVES)
        elif config["MODEL_TYPE"].name == "TRADITIONAL":  # Pop would count what is drawn
            config["train_neg_sample_args"] = _NEGATIVES | {"distribution": "none", "sample_num": "none"}
        arguments = config["train_neg_sample_args"]
        sampler = None
        if arguments["distribution"] != "none":
            sampler = Sampler(["train"], [self._positives], arguments["distribution"], arguments["alpha"])
            sampler = sampler.set_phase("train")
        return TrainDataLoader(config, self._positives, sampler, shuffle=config["shuffle"])

    def _validate(self, valid_data: Any, show_progress: bool = False) -> tuple[float, dict[str, float]]:
        """Rank the lists of the validation split, in the place of RecBole's own evaluation."""
        ranking, evaluation = self._evaluate(self._splits[1])
        values = evaluation.flat() | ranking.recbole_metrics(evaluation)
        key = find_metric(str(self._config["valid_metric"]), values)
        if key is None:
            raise InputError(f"valid_metric '{self._config['valid_metric']}' has no value on the validation split")
        score = float(values[key])
        self._scores.append(score)
        if self._best_score is None or score >= self._best_score:  # ties count as better, as in RecBole
            self._best, self._best_score = evaluation, score
            self._best_epoch = len(self._scores) * int(self._config["eval_step"])
            save_checkpoint(self._folder.file("best.ckpt"), self._model, self._settings, self._best_epoch)
        return score, {name: values[name] for name in metric_names(self._config)}

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

    def _results(self, evaluation: Evaluation) -> dict[str, Any]:
        cell, decimals = evaluation.pooled[evaluation.main_task], self._config["metric_decimal_place"]
        values = {name: cell.value(name) for name in metric_names(self._config)}
        rounded = {name: round(float("nan") if value is None else value, decimals) for name, value in values.items()}
        return {"metrics": finite_metrics(rounded), **evaluation.to_dict()}


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


def ranks_items(config: Any) -> bool:
    """Return whether a model is one of RecBole's that learns from users and items alone, and lists are asked for."""
    return ranks(config) and (config["MODEL_TYPE"].name in ("GENERAL", "TRADITIONAL") or is_sequential(config))
