"""What stands in front of every model (interactions, widths, dropout), and the scenarios' weights in its loss."""

import pytest
import torch

from recbole_msr import registry
from recbole_msr.errors import InputError
from recbole_msr.models.base import balanced_weights

MODELS = sorted(registry.BUILT_IN_MODELS)
PRICE = {"numerical_features": ["price"]}
SMALL = {"embedding_size": 4, "dropout": 0.0, "knowledge": "random", "knowledge_size": 6, "meta_dropout": 0.0}
NARROW = {"embedding_size_exponent": 0.3}
SETTINGS = [
    {"interaction": "fm"},
    {"interaction": "fm", "numerical_as": "embedding"} | NARROW | PRICE,
    {"interaction": "cross", "cross_rank": 3, "cross_layers": 1} | PRICE,
    {"interaction": "cross"} | NARROW,
    {"embedding_size_exponent": -0.3},
]


def build(make_model, model, **settings):
    given = SMALL | settings
    if model != "LLM4MSR":
        given = {key: value for key, value in given.items() if "knowledge" not in key and "meta" not in key}
    return make_model(3, model, **given)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("model", MODELS)
def test_every_model_reads_it_and_trains_all_of_it(make_model, model, settings):
    made, rows = build(make_model, model, **settings)
    for _ in range(2):  # what begins as zero lets gradients through after a step
        optimizer = torch.optim.Adam(made.parameters(), lr=0.05)
        optimizer.zero_grad()
        made.calculate_loss(rows).backward()
        optimizer.step()
    in_front = {name: p for name, p in made.named_parameters() if "features." in name and "knowledge" not in name}
    assert any(".interaction." in name for name in in_front) == any(settings == given for given in SETTINGS[1:4])
    assert [name for name, p in in_front.items() if not p.grad.any()] == []
    features = made.features
    assert sum(part.width for part in features.columns) == features.output_size == features(rows).shape[1]


def test_they_are_computed_of_the_embeddings_and_numbers(make_model):
    made, rows = build(make_model, "SharedBottom", interaction="fm", **PRICE, **NARROW)
    features = made.features.eval()
    assert [part.name for part in features.columns] == [
        *("age", "gender", "item_id", "user_id", "class", "price", "interaction")
    ]
    x, row = features(rows), 5
    tables = zip(features.token_fields, features.tables, strict=True)
    values = {field: table.weight[rows[field][row]] for field, table in tables}
    classes = [features.seq_tables[0].weight[token] for token in rows["class"][row] if token]
    values["class"] = sum(classes) / len(classes)
    values["price"] = rows["price"][row, :1]
    torch.testing.assert_close(x[row, :-4], torch.cat(list(values.values())))
    whole = features.interaction(torch.cat(list(values.values()))[None])[0]
    torch.testing.assert_close(x[row, -4:], whole)
    assert len({part.width for part in features.columns if part.name in ("user_id", "item_id", "gender")}) > 1


def test_without_them_nothing_is_drawn_otherwise(make_model):
    plain, rows = build(make_model, "HiNet")
    named = {"interaction": "none", "embedding_dropout": 0.0, "embedding_size_exponent": 0.0, "scenario_balance": 0.0}
    same, _ = build(make_model, "HiNet", **named)
    for (name, one), (other_name, other) in zip(plain.state_dict().items(), same.state_dict().items(), strict=True):
        assert name == other_name
        assert torch.equal(one, other)
    assert torch.equal(plain.calculate_loss(rows), same.calculate_loss(rows))


def test_dropout_is_of_embeddings_in_training_alone(make_model):
    made, rows = build(make_model, "SharedBottom", embedding_dropout=0.5, **PRICE)
    with torch.no_grad():
        for table in (made.features.table, *made.features.seq_tables):
            table.weight.fill_(1.0)
    x, price = made.features.train()(rows), rows["price"][:, 0]
    assert set(x[:, :16].unique().tolist()) == {0.0, 2.0}
    assert 0.45 < (x[:, :16] == 0).float().mean() < 0.55
    torch.testing.assert_close(x[:, -1], price)
    assert (made.features.eval()(rows)[:, :16] == 1).all()


def test_values_that_no_training_row_has_are_read_as_unknown(make_model):
    made, rows = build(make_model, "SharedBottom", **NARROW)
    features, field = made.features.eval(), "item_id"
    features.seen[features._starts[field] + rows[field][0]] = False
    unknown = rows[torch.tensor([0])]
    x = features(unknown)
    unknown[field][:] = 0
    assert torch.equal(x, features(unknown))


def test_an_interaction_of_one_feature_is_refused(make_model):
    made, _ = build(make_model, "SharedBottom")
    made.features.columns = made.features.columns[:1]
    with pytest.raises(InputError, match="interaction: fm multiplies features with each other, and there is one"):
        made.features.add_interaction({"interaction": "fm", "embedding_size": 4})


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_scenarios_weigh_by_their_rows_at_a_mean_of_one(make_model, beta):
    made, rows = build(make_model, "SharedBottom", scenario_balance=beta, loss_weights={"click": 0.5})
    scenario = (rows["scenario"] - 1).tolist()
    counts = [scenario.count(m) for m in range(3)]
    weights = [count**-beta for count in counts]
    mean = sum(weights[m] for m in scenario) / len(scenario)
    slow = torch.tensor([[weight / mean * task for task in (0.5, 1.0)] for weight in weights])
    torch.testing.assert_close(made.loss_weights, slow)
    losses, _ = made.row_losses(rows)
    one = build(make_model, "SharedBottom")[0]
    one.load_state_dict(made.state_dict())
    torch.testing.assert_close(losses, one.row_losses(rows)[0] * slow[scenario])


def test_a_scenario_without_rows_changes_no_weight():
    weights = balanced_weights(torch.tensor([0.8, 0.0, 0.2]), 1.0)
    torch.testing.assert_close(weights[[0, 2]], torch.tensor([0.625, 2.5]))
    assert weights.isfinite().all()
