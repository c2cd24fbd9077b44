"""Evaluation of a model by ranked lists: what it scores batch by batch, and the metrics of the lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from recbole_msr.data.ranked_lists import RankedLists
from recbole_msr.evaluation.cells import Evaluation, evaluate_lists
from recbole_msr.evaluation.ranking import list_values
from recbole_msr.evaluation.ranking_mode import list_metrics
from recbole_msr.models.list_scores import ListScorer
from recbole_msr.schema import Schema


class Scores(Protocol):
    """What scores the items of lists."""

    def scores(self, lists: Any, items: Tensor | None = None) -> Tensor:
        """Return scores (n, C, P) of n lists for items (n, C), or for all."""


class ListEvaluation:
    """Ranks the items of every list by a model's predictions of each binary task, and finds the positives among them.

    As RecBole does, what is left out of a list has the score minus infinity, and `torch.topk` ranks.

    Args:
        model: a model in evaluation mode: its `predict_tasks` is used where it has one, else its `predict`, of the main
            task.
        config: reads `metrics`, `topk`, `eval_batch_size`, `min_scenario_rows`, `metric_decimal_place`.
        lists: the lists of a split.
        scorer: what scores the items of lists; None for a `ListScorer`.

    Attributes:
        lists: the lists.
        tasks: the tasks that the model ranks for, T.
        hits: whether a positive of the task stands at each of the first K places (L, T, K), after `set_hits`.
    """

    def __init__(self, model: Any, config: Any, lists: RankedLists, scorer: Scores | None = None) -> None:
        schema = Schema.from_config(config)
        assert schema is not None
        self.lists, self._config = lists, config
        predicts_all = hasattr(model, "predict_tasks")
        self.tasks = schema.task_names if predicts_all else [schema.main_task]
        self._main_task = schema.main_task
        self._columns = [lists.tasks.index(task) for task in self.tasks]
        rows = int(config["eval_batch_size"])
        self._scorer = ListScorer(model, lists.items, config["ITEM_ID_FIELD"], rows) if scorer is None else scorer
        self._found: list[Tensor] = []
        self.hits = np.zeros((0, len(self.tasks), lists.most), dtype=bool)

    def step(self, batch: Any, numbers: Tensor) -> Tensor:
        """Rank a batch of lists; return the scores (n, C, P), which must be numbers.

        Args:
            batch: the fields of n lists.
            numbers: which lists they are (n,).
        """
        ranked = self.lists.ranked(numbers.numpy())
        scores = self._scorer.scores(batch, ranked.items)
        found = []
        for place, column in enumerate(self._columns):
            of_task = scores[:, :, place].float()
            left_out = ranked.left_out[column].to(of_task.device)
            positive = ranked.positive[column].to(of_task.device)
            best = torch.topk(of_task.masked_fill(left_out, -torch.inf), self.lists.most, dim=-1).indices
            found.append(positive.gather(1, best))
        self._found.append(torch.cat(found, dim=1).float().cpu())
        return scores

    def own_hits(self) -> Tensor:
        """Return the hits (n, T * K) of all lists of this process, in the order of its steps."""
        width = len(self.tasks) * self.lists.most
        return torch.cat(self._found) if self._found else torch.empty(0, width)

    def set_hits(self, hits: Tensor) -> None:
        """Take the hits (L, T * K) of the lists of all processes."""
        self.hits = hits.numpy().reshape(len(self.lists), len(self.tasks), self.lists.most) > 0
        self._found = []

    def evaluate(self, scenario_names: Sequence[str]) -> Evaluation:
        """Return the metrics by scenario and task."""
        return evaluate_lists(
            self.hits,
            self.lists.n_positives[:, self._columns],
            self.lists.scenarios,
            scenario_names,
            self.tasks,
            self._main_task,
            list_metrics(self._config),
            self._config["min_scenario_rows"] or 1,
            self.lists.segments,
        )

    def values(self) -> tuple[list[str], list[dict[str, np.ndarray]]]:
        """Return the tasks, and of each by metric the value of every list (L,), NaN without a positive of the task."""
        found = []
        for place, column in enumerate(self._columns):
            positives = self.lists.n_positives[:, column]
            counts = positives > 0
            of_task = list_values(self.hits[counts, place], positives[counts], list_metrics(self._config))
            found.append({name: _filled(counts, values) for name, values in of_task.items()})
        return self.tasks, found

    def recbole_metrics(self, evaluation: Evaluation) -> dict[str, float]:
        """Return the metrics of the main task over all lists as RecBole reports them: rounded."""
        cell, decimals = evaluation.pooled[evaluation.main_task], self._config["metric_decimal_place"]
        values = {name: cell.value(name) for name in list_metrics(self._config)}
        return {name: float(round(np.float64(np.nan if v is None else v), decimals)) for name, v in values.items()}


def _filled(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    column = np.full(len(counts), np.nan)
    column[counts] = values
    return column
