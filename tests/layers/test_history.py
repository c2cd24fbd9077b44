"""Vectors of histories, against a loop over rows and their earlier training rows."""

import pytest
import torch

from recbole_msr.data.history import HISTORY_FIELD
from recbole_msr.layers.embedding import FeatureEmbedding
from recbole_msr.layers.history import TargetAttention
from recbole_msr.layers.sequences import Sequences

NOT_FEATURES = {"scenario", "label_click", "label_like"}


@pytest.fixture
def embedding(make_dataset):
    """embedding(**settings) -> the layer in evaluation mode, and all training rows."""

    def make(**settings):
        torch.manual_seed(0)
        given = {"history": {"fields": ["item_id", "class"], "length": 4}, "embedding_size": 4} | settings
        config, train = make_dataset(**given)
        layer = FeatureEmbedding(config, train, NOT_FEATURES).eval()
        return layer, train, train[torch.arange(len(train))]

    return make


def _vector(layer, item, classes):
    """Return the embeddings of an item and of its classes, one after the other."""
    if layer.tables is None:
        of_item = layer.table.weight[layer.offsets[layer.token_fields.index("item_id")] + item]
    else:
        of_item = layer.tables[layer.token_fields.index("item_id")].weight[item]
    bag = layer.seq_tables[0].weight
    named = [bag[token] for token in classes.tolist() if token]
    return torch.cat([of_item, sum(named) / len(named) if named else torch.zeros(bag.shape[1])])


def _slow(layer, train, rows, row, pooling, length):
    start, end = rows[HISTORY_FIELD][row].tolist()
    items = train.history.values["item_id"][max(start, end - length) : end].tolist()
    classes = train.item_feat["class"]
    vectors = [_vector(layer, item, classes[item]) for item in items]
    width = sum(part.width for part in layer.columns if part.name == "history")
    if not vectors:
        return torch.zeros(width)
    if pooling != "target_attention":
        return sum(vectors) / (len(vectors) if pooling == "mean" else 1)
    (unit,) = layer.history.attention
    target = _vector(layer, rows["item_id"][row].item(), classes[rows["item_id"][row]])
    hidden = torch.nn.PReLU()
    total = torch.zeros(width)
    for e in vectors:
        joined = torch.cat([e, target, e * target])
        weight = torch.cat([unit.of_history.weight, unit.of_target.weight, unit.of_product.weight], dim=1)
        total = total + unit.rest[1](hidden(weight @ joined + unit.of_history.bias)) * e
    return total


@pytest.mark.parametrize("pooling", ["mean", "sum", "target_attention"])
@pytest.mark.parametrize("exponent", [0.0, 0.3])
def test_a_history_is_the_pooled_vectors_of_its_rows(embedding, pooling, exponent):
    layer, train, rows = embedding(history_pooling=pooling, embedding_size_exponent=exponent)
    x = layer(rows)
    ends = torch.tensor([part.width for part in layer.columns]).cumsum(0).tolist()
    place = [part.name for part in layer.columns].index("history")
    found = x[:, ends[place - 1] : ends[place]]
    counts = (rows[HISTORY_FIELD][:, 1] - rows[HISTORY_FIELD][:, 0]).tolist()
    assert min(counts) == 0
    assert max(counts) > 4
    for row in range(0, len(rows), 7):
        torch.testing.assert_close(found[row], _slow(layer, train, rows, row, pooling, 4), atol=1e-6, rtol=1e-4)


def test_history_and_item_share_one_table(embedding):
    layer, _, rows = embedding()
    layer.train()
    some = rows[HISTORY_FIELD][:, 1] > rows[HISTORY_FIELD][:, 0]
    layer.history(rows[some], layer.look_up, lambda field, ids: ids).sum().backward()
    assert layer.table.weight.grad.any()
    assert "history" not in dict(layer.named_parameters())


def test_rows_without_any_history_are_zero(embedding):
    layer, _, rows = embedding(history_pooling="target_attention")
    none = rows[rows[HISTORY_FIELD][:, 1] == rows[HISTORY_FIELD][:, 0]]
    assert len(none) > 0
    assert not layer.history(none, layer.look_up, lambda field, ids: ids).any()


def test_the_unit_with_the_difference_of_the_authors_code_is_the_same_function():
    """W' [e, e - t, e * t, t] with any W' is W [e, t, e * t] for another W."""
    torch.manual_seed(1)
    unit, e, t = TargetAttention(3, [5]), torch.randn(2, 4, 3), torch.randn(2, 3)
    w1, w2, w3, w4 = torch.randn(4, 5, 3)
    with torch.no_grad():
        unit.of_history.weight.copy_(w1 + w2)
        unit.of_target.weight.copy_(w4 - w2)
        unit.of_product.weight.copy_(w3)
    linear, expected = torch.nn.Linear(12, 5), torch.zeros(2, 3)
    with torch.no_grad():
        linear.weight.copy_(torch.cat([w1, w2, w3, w4], dim=1))
        linear.bias.copy_(unit.of_history.bias)
    for b in range(2):
        for position in range(4):
            one = e[b, position]
            hidden = torch.nn.PReLU()(linear(torch.cat([one, one - t[b], one * t[b], t[b]])))
            expected[b] += unit.rest[1](hidden) * one
    history = Sequences(e.flatten(0, 1), torch.arange(8).view(2, 4), torch.ones(2, 4, dtype=torch.bool))
    torch.testing.assert_close(unit(history, t), expected)
