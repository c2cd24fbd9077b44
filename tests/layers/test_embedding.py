import copy

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_msr.errors import InputError
from recbole_msr.layers.embedding import FeatureEmbedding

NOT_FEATURES = {"scenario", "label_click", "label_like"}


@pytest.fixture
def embedding(make_dataset):
    """embedding(**settings) -> the layer and all training rows; four numbers an embedding."""

    def make(**settings):
        config, train = make_dataset(**{"embedding_size": 4, "numerical_features": ["price"], **settings})
        return FeatureEmbedding(config, train, NOT_FEATURES), train[torch.arange(len(train))]

    return make


def test_x_is_the_concatenation_of_every_fields_embedding(embedding):
    layer, rows = embedding()
    assert layer.token_fields == ["age", "gender", "item_id", "user_id"]
    assert (layer.token_seq_fields, layer.float_fields) == (["class"], ["price"])
    x, table, bag = layer(rows), layer.table.weight, layer.seq_tables[0].weight
    assert x.shape == (len(rows), layer.output_size) == (480, 4 * 4 + 4 + 1)
    for row in range(len(rows)):
        parts = [table[layer.offsets[f] + rows[field][row]] for f, field in enumerate(layer.token_fields)]
        classes = [bag[token] for token in rows["class"][row].tolist() if token != 0]
        parts.append(sum(classes) / len(classes) if classes else torch.zeros(4))
        parts.append(rows["price"][row, :1])
        torch.testing.assert_close(x[row], torch.cat(parts))
    assert any(not tokens.any() for tokens in rows["class"])  # an empty sequence was among them


def test_fields_do_not_share_rows_of_the_table(make_dataset):
    config, train = make_dataset(embedding_size=4)
    layer = FeatureEmbedding(config, train, NOT_FEATURES)
    ends = [*layer.offsets.tolist()[1:], len(layer.table.weight)]
    sizes = [end - start for start, end in zip(layer.offsets.tolist(), ends, strict=True)]
    assert sizes == [train.num(field) for field in layer.token_fields]


def test_an_unknown_value_is_zero_until_rows_with_it_train_it(embedding):
    layer, rows = embedding()
    assert not layer.table.weight[layer.offsets].any()
    assert not layer.seq_tables[0].weight[0].any()
    layer(rows).sum().backward()
    assert not layer.table.weight.grad[layer.offsets].any()
    layer.zero_grad()
    rows["gender"][:3] = 0
    layer(rows).sum().backward()
    gender = layer.offsets[layer.token_fields.index("gender")]
    torch.testing.assert_close(layer.table.weight.grad[gender], torch.full((4,), 3.0))


@pytest.mark.parametrize("exponent", [0, 0.2])
def test_a_share_of_training_rows_reads_the_unknown_vector(embedding, exponent):
    plain, rows = embedding(embedding_size_exponent=exponent)
    layer, _ = embedding(embedding_size_exponent=exponent, unknown_share={"item_id": 0.25, "user_id": 0.0})
    for parameter in (*plain.parameters(), *layer.parameters()):
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(3))  # the unknown vector, too
    layer.load_state_dict(plain.state_dict())
    expected, unknown = plain(rows), plain({**rows.interaction, "item_id": torch.zeros_like(rows["item_id"])})
    torch.testing.assert_close(layer.eval()(rows), plain.eval()(rows))
    drawn = [layer.train()(rows) for _ in range(2)]
    of_unknown = [(x == unknown).all(dim=1) for x in drawn]
    for x, takes in zip(drawn, of_unknown, strict=True):
        assert 80 < takes.sum() < 160  # of 480
        torch.testing.assert_close(x[~takes], expected[~takes])
    assert (of_unknown[0] != of_unknown[1]).any()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"unknown_share": {"itemid": 0.1}}, "unknown_share: 'itemid' is no token field that the model reads.*item_id"),
        ({"unknown_share": {"class": 0.1}}, "'class' is no token field"),
        ({"unknown_share": {"user_id": 0.1}, "hash_buckets": {"user_id": 9}}, "'user_id' has hash_buckets"),
    ],
)
def test_an_unknown_share_that_cannot_be_is_told(embedding, settings, said):
    with pytest.raises(InputError, match=said):
        embedding(**settings)


@pytest.mark.parametrize("bucket", [False, True])
def test_what_no_training_row_has_is_read_as_unknown_in_evaluation(make_dataset, bucket):
    settings = {"numerical_as": "embedding", "numerical_features": ["price"], "embedding_size": 4}
    if bucket:
        settings["discretization"] = {"price": {"method": "ED", "bucket": 4}}
    config, train = make_dataset(**settings)
    rows = train[torch.arange(len(train))]
    few = copy.copy(train)
    few.inter_feat = train.inter_feat[torch.arange(2)]
    seen = few[torch.arange(2)]
    torch.manual_seed(0)
    layer = FeatureEmbedding(config, few, NOT_FEATURES)
    torch.manual_seed(0)
    every = FeatureEmbedding(config, train, NOT_FEATURES)
    torch.testing.assert_close(layer(rows), every(rows), rtol=0, atol=0)  # in training ids are what they are

    expected = {name: column.clone() for name, column in rows.interaction.items()}
    for field in (*layer.token_fields, "class"):
        known = set(seen[field].flatten().tolist())
        for place in expected[field].view(-1).unsqueeze(1):
            place[:] = place if int(place) in known else 0
    known = set(seen["price"][:, 1].tolist())
    for value in expected["price"]:
        value[1] = value[1] if float(value[1]) in known else 0
    changed = {name for name in expected if not torch.equal(expected[name], rows[name])}
    assert changed >= {"user_id", "item_id", "age", "class"} | ({"price"} if bucket else set())
    as_unknown = every.eval()(Interaction(expected))
    torch.testing.assert_close(layer.eval()(rows), as_unknown, rtol=0, atol=0)
    torch.testing.assert_close(layer(seen), layer.train()(seen), rtol=0, atol=0)


def test_what_was_seen_comes_with_the_weights_and_older_weights_have_seen_all(make_dataset):
    config, train = make_dataset(embedding_size=4)
    few, without = copy.copy(train), copy.copy(train)
    few.inter_feat, without.inter_feat = train.inter_feat[torch.arange(6)], None
    layer, restored = (FeatureEmbedding(config, data, NOT_FEATURES).eval() for data in (few, without))
    state = layer.state_dict()
    restored.load_state_dict(state)
    rows = train[torch.arange(50)]
    torch.testing.assert_close(restored(rows), layer(rows), rtol=0, atol=0)
    restored.load_state_dict({name: value for name, value in state.items() if name != "seen"})
    torch.testing.assert_close(restored(rows), layer.train()(rows), rtol=0, atol=0)


def test_a_numerical_feature_can_be_its_value_times_a_learned_vector(embedding):
    layer, rows = embedding(numerical_as="embedding")
    assert layer.output_size == 6 * 4
    vector = layer.float_tables[0].weight[1]
    torch.testing.assert_close(layer(rows)[:, -4:], rows["price"][:, :1] * vector)


def test_buckets_of_a_numerical_feature_have_a_vector_each(embedding):
    buckets = {"price": {"method": "ED", "bucket": 3}}
    layer, rows = embedding(numerical_as="embedding", discretization=buckets)
    vectors = layer.float_tables[0].weight
    assert len(vectors) >= 4
    torch.testing.assert_close(layer(rows)[:, -4:], vectors[rows["price"][:, 1].long()])
    with pytest.raises(InputError, match="numerical feature 'price' is cut into buckets"):
        embedding(numerical_as="raw", discretization=buckets)


def test_a_float_field_is_a_feature_only_if_listed(embedding):
    layer, _ = embedding(numerical_features=[])
    assert layer.float_fields == []
    assert layer.output_size == 5 * 4


def test_the_order_of_columns_in_the_files_changes_nothing(make_dataset, tiny_data):
    config, train = make_dataset(embedding_size=4)
    torch.manual_seed(0)
    expected = FeatureEmbedding(config, train, NOT_FEATURES)(train[torch.arange(9)])
    path = tiny_data / "tiny" / "tiny.user"
    columns = [line.split("\t") for line in path.read_text().splitlines()]
    path.write_text("\n".join("\t".join([gender, user, age]) for user, age, gender in columns) + "\n")
    config, train = make_dataset(embedding_size=4)
    torch.manual_seed(0)
    torch.testing.assert_close(FeatureEmbedding(config, train, NOT_FEATURES)(train[torch.arange(9)]), expected)


def test_a_sequence_of_numbers_is_refused(make_dataset, tiny_data):
    path = tiny_data / "tiny" / "tiny.item"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header + "\tvector:float_seq", *(f"{row}\t0.5 1.5" for row in rows)]) + "\n")
    settings = {"load_col": None, "numerical_features": ["vector"]}
    config, train = make_dataset(**settings)
    with pytest.raises(InputError, match="'vector', a float_seq"):
        FeatureEmbedding(config, train, NOT_FEATURES)


def test_a_dataset_without_features_is_refused(make_dataset):
    config, train = make_dataset()
    with pytest.raises(InputError, match="no feature field"):
        FeatureEmbedding(config, train, train.field2type)
    with pytest.raises(InputError, match="'numerical_as' must be one of raw, embedding, got 'both'"):
        FeatureEmbedding({**config.final_config_dict, "numerical_as": "both"}, train)
