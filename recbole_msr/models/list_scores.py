"""Scores of lists of items: what belongs to the items is computed once for all lists where a model allows it."""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_msr.layers.embedding import FeatureEmbedding
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.schema import SCENARIO_FIELD


class ListScorer:
    """Scores every item for lists, which have all fields but those of the item.

    A model of this package whose input is its fields side by side (`FeatureEmbedding`) embeds each item once, and the
    fields of a list once; their parts of x are then put together. Any other model, and one whose history is pooled for
    the item (target attention) or that reads the match of user and item (`knowledge_match`), reads a row for each list
    and item.

    Made anew whenever the weights have changed.

    Args:
        model: a model in evaluation mode.
        items: the fields of all I items, by id.
        item_field: the field of their ids.
        rows: at most so many rows are scored at once.
    """

    def __init__(self, model: Any, items: Any, item_field: str, rows: int) -> None:
        self._model, self._rows = model, max(1, rows)
        columns = {name: column for name, column in items.interaction.items() if name != SCENARIO_FIELD}
        columns[item_field] = torch.arange(len(items))
        self._columns, self._n_items = columns, len(items)
        self._of_item = _item_columns(model, columns)
        self._vectors: Tensor | None = None

    def scores(self, lists: Any, items: Tensor | None = None) -> Tensor:
        """Return the predictions (n, C, P) of n lists for items.

        Args:
            lists: n rows, of whose fields those of the item are not read.
            items: ids (n, C); None for all items, C = I.
        """
        n = len(lists)
        width = self._n_items if items is None else items.shape[1]
        step = max(1, self._rows // n)
        parts = []
        for start in range(0, width, step):
            end = min(start + step, width)
            ids = torch.arange(start, end) if items is None else items[:, start:end]
            parts.append(self._some(lists, ids).unflatten(0, (n, end - start)))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _some(self, lists: Any, ids: Tensor) -> Tensor:
        """Return the predictions (n * c, P) of lists for items (n, c), or (c,) the same for all."""
        if self._of_item is None:
            predict = getattr(self._model, "predict_tasks", None)
            rows = self._pairs(lists, ids)
            found: Tensor = self._model.predict(rows).reshape(-1, 1) if predict is None else predict(rows)
            return found
        model = self._model
        of_list = model.features.vectors(lists)
        if self._vectors is None or self._vectors.device != of_list.device:
            self._vectors = self._item_vectors(lists)
            self._of_item = self._of_item.to(of_list.device)
        x = torch.where(self._of_item, self._vectors[ids.to(of_list.device)], of_list.unsqueeze(1))
        scenario = model.scenario_of(lists).repeat_interleave(x.shape[1])
        predictions: Tensor = model.predictions(model.logits(model.features.interact(x.flatten(0, 1)), scenario))
        return predictions

    def _pairs(self, lists: Any, ids: Tensor) -> Interaction:
        """Return a row for each list and item."""
        n, count = len(lists), ids.shape[-1]
        flat = ids.expand(n, count).reshape(-1)
        rows = {
            name: column.repeat_interleave(count, dim=0)
            for name, column in lists.interaction.items()
            if name not in self._columns
        }
        device = next(iter(rows.values())).device
        return Interaction(rows | {name: column[flat].to(device) for name, column in self._columns.items()})

    def _item_vectors(self, lists: Any) -> Tensor:
        """Return the vectors of all items (I, D); the columns of other fields are those of the first list."""
        first = {name: column[:1] for name, column in lists.interaction.items()}
        parts = [
            self._model.features.vectors(self._pairs(Interaction(first), ids))
            for ids in torch.arange(self._n_items).split(self._rows)
        ]
        return torch.cat(parts)


def _item_columns(model: Any, fields: dict[str, Tensor]) -> Tensor | None:
    """Return which columns of a model's `features.vectors` are the item's; None where it is not made of these alone."""
    own = ("embed", "predict_tasks", "scenario_of", "predictions")
    if not isinstance(model, MultiScenarioRecommender) or any(
        getattr(type(model), name) is not getattr(MultiScenarioRecommender, name) for name in own
    ):
        return None
    features = getattr(model, "features", None)
    if not isinstance(features, FeatureEmbedding) or type(features).forward is not FeatureEmbedding.forward:
        return None
    return features.columns_of(fields)
