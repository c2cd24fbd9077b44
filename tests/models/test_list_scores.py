"""Scores of lists: what is computed once for all lists gives the predictions of rows, one for each list and item."""

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_msr.models.list_scores import ListScorer
from recbole_msr.registry import BUILT_IN_MODELS

HISTORY = {"fields": ["item_id", "class"], "length": 5}


def _row_by_row(model, lists, items, iid):
    """Return the predictions (n, I, P) of one row after the other."""
    scores = []
    for number in range(len(lists)):
        for item in range(len(items)):
            row = {name: column[number : number + 1].clone() for name, column in lists.interaction.items()}
            row |= {name: column[item : item + 1] for name, column in items.interaction.items() if name != "scenario"}
            row[iid] = torch.tensor([item])
            predict = getattr(model, "predict_tasks", None)
            rows = Interaction(row)
            scores.append(model.predict(rows).reshape(1, -1) if predict is None else predict(rows))
    return torch.cat(scores).view(len(lists), len(items), -1)


CASES = [
    *((model, {"knowledge": "random"} if model == "LLM4MSR" else {}) for model in BUILT_IN_MODELS),
    ("DeepFM", {}),
    ("SharedBottom", {"numerical_features": ["price"]}),
    ("SharedBottom", {"numerical_features": ["price"], "numerical_as": "embedding", "interaction": "fm"}),
    ("SharedBottom", {"interaction": "cross", "embedding_size_exponent": 0.5}),
    ("SharedBottom", {"knowledge": "random", "knowledge_features": ["user", "item"], "knowledge_size": 6}),
    ("SharedBottom", {"knowledge": "random", "knowledge_features": ["user", "item"], "knowledge_size": 6,
                      "knowledge_match": "dot"}),
    ("SharedBottom", {"history": HISTORY}),
    ("SharedBottom", {"history": HISTORY, "history_pooling": "target_attention"}),
    ("SharedBottom", {"tasks": {"click": {"field": "rating", "at_least": 4},
                                "like": {"field": "rating", "at_least": 5, "after": "click"}}}),
]  # fmt: skip


@pytest.mark.parametrize(("model", "settings"), CASES)
@torch.no_grad()
def test_scores_are_those_of_rows_one_by_one(make_dataset, make_model, model, settings):
    _, train = make_dataset(3, model, **settings)
    made, _ = make_model(3, model, **settings)
    made.eval()
    items, lists = train.get_item_feature(), _first_rows(train, 3)
    expected = _row_by_row(made, lists, items, train.iid_field)
    scorer = ListScorer(made, items, train.iid_field, rows=40)
    assert scorer.scores(lists).allclose(expected, atol=1e-6)
    some = torch.tensor([[1, 5], [0, 7], [7, 29]])
    taken = expected.gather(1, some.unsqueeze(2).expand(-1, -1, expected.shape[2]))
    assert scorer.scores(lists, some).allclose(taken, atol=1e-6)


def _first_rows(train, n):
    from recbole_msr.data.packed import PackedTable

    return PackedTable(train).batch(torch.arange(n) * 7)
