"""`min_count` and `hash_buckets`: rare values share the unknown vector, or all values vectors by their hash."""

import hashlib
import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

import recbole_msr
from recbole_msr.data.cache import fingerprint
from recbole_msr.data.table_rows import bucket_of
from recbole_msr.errors import InputError

SETTINGS = {
    "load_col": None,
    "tasks": {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5}},
    "scenario": {"field": "age", "bins": [30]},
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
    "threads": 1,
}
SMALL = {"embedding_size": 4, "bottom_hidden_sizes": [8], "tower_hidden_sizes": [4], "epochs": 1}
KEYS = {"min_count": {"item_id": 12, "tags": 200, "gender": 3}, "hash_buckets": {"user_id": 7}}


@pytest.fixture
def data(tiny_data):
    """The data_path of "tiny", with tags of items."""
    path, draw = tiny_data / "tiny" / "tiny.item", np.random.default_rng(3)
    items = pd.read_csv(path, sep="\t")
    items["tags:token_seq"] = [" ".join(draw.choice(list("vwxyz"), n)) for n in draw.integers(1, 4, len(items))]
    items.to_csv(path, sep="\t", index=False)
    return tiny_data


@pytest.fixture
def start(data):
    """start(model, **settings) -> a configuration, a dataset and its splits."""
    from recbole.config import Config
    from recbole.data import create_dataset

    def make(model="SharedBottom", **settings):
        given = SETTINGS | {"data_path": str(data), "cache_dir": str(data / "cache")} | settings
        config = Config(model=model, dataset="tiny", config_dict=given)
        dataset = create_dataset(config)
        return config, dataset, dataset.build()

    return make


def counted(train, field):
    """Count a field's tokens in training rows, row by row."""
    counts, rows = Counter(), train[torch.arange(len(train))]
    for ids in rows[field].reshape(len(train), -1).tolist():
        counts.update(train.field2id_token[field][i] for i in ids if i)
    return counts


@pytest.mark.parametrize("field", ["item_id", "tags", "gender"])
def test_values_below_the_count_of_training_rows_read_the_unknown_row(start, field):
    _, dataset, splits = start(**KEYS)
    counts, least = counted(splits[0], field), KEYS["min_count"][field]
    own = dataset.table_rows[field]
    tokens = dataset.field2id_token[field].tolist()
    kept = [token for token in tokens[1:] if counts[token] >= least]
    assert field == "gender" or 0 < len(kept) < len(tokens) - 1
    assert own.size == len(kept) + 1
    assert own.rows.tolist() == [1 + kept.index(token) if token in kept else 0 for token in tokens]
    report = dataset.row_report()["table_rows"][field]
    rare = [token for token in tokens[1:] if token not in kept]
    assert (report["rare_values"], report["values"]) == (len(rare), len(tokens) - 1)
    assert report["rare_training_rows"] == sum(counts[token] for token in rare)


def test_a_bucket_is_the_hash_of_the_token_in_every_process(start):
    _, dataset, _ = start(**KEYS)
    own, tokens = dataset.table_rows["user_id"], dataset.field2id_token["user_id"].tolist()
    assert own.size == 8
    for row, token in zip(own.rows[1:].tolist(), tokens[1:], strict=True):
        digest = hashlib.blake2b(token.encode(), digest_size=8).digest()
        assert row == 1 + sum(byte << (8 * place) for place, byte in enumerate(digest)) % 7
    program = "from recbole_msr.data.table_rows import bucket_of; print([bucket_of(t, 997) for t in ('u1', 'é', '')])"
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert json.loads(there) == [bucket_of(token, 997) for token in ("u1", "é", "")]


def test_the_cache_keeps_the_rows(start, data):
    _, dataset, _ = start(**KEYS)
    assert len(list((data / "cache").glob("tiny-*"))) == 1
    _, again, _ = start(**KEYS)
    assert len(list((data / "cache").glob("tiny-*"))) == 1
    for field, own in dataset.table_rows.items():
        assert torch.equal(again.table_rows[field].rows, own.rows)
        assert (again.table_rows[field].size, again.table_rows[field].is_hashed) == (own.size, own.is_hashed)
    assert again.row_report() == dataset.row_report()
    start(min_count={"item_id": 2})
    assert len(list((data / "cache").glob("tiny-*"))) == 2


def test_models_with_and_without_it_have_the_same_rows(start):
    """Otherwise `compare` would refuse DeepFM, which does not read them, beside SharedBottom."""
    keys = []
    for given in ({}, KEYS):
        config, dataset, _ = start(**given)
        keys.append(fingerprint(config, dataset.dataset_path, "tiny"))
    assert keys[0] == keys[1]


@pytest.mark.parametrize("exponent", [0, 0.3])
@pytest.mark.parametrize("training", [True, False])
def test_vectors_are_those_of_the_rows(start, exponent, training):
    from recbole_msr.registry import model_class

    config, dataset, splits = start(**KEYS, embedding_size_exponent=exponent)
    model = model_class("SharedBottom")(config, splits[0])
    for parameter in model.features.parameters():
        torch.nn.init.normal_(parameter)
    model.train(training)
    features, rows = model.features, splits[0][torch.arange(40)]
    x, start_of, begin = features(rows), {}, 0
    for part in features.columns:
        start_of[part.name], begin = slice(begin, begin + part.width), begin + part.width
    seen = set(splits[0][torch.arange(len(splits[0]))]["item_id"].tolist())
    for field in ("item_id", "user_id", "gender"):
        number, own = features.token_fields.index(field), dataset.table_rows[field]
        table = features.tables[number].weight if exponent else features.table.weight[int(features.offsets[number]) :]
        for row, value in zip(x, rows[field].tolist(), strict=True):
            assert field != "item_id" or value in seen
            torch.testing.assert_close(row[start_of[field]], table[own.rows[value]])
    bag, own = features.seq_tables[features.token_seq_fields.index("tags")].weight, dataset.table_rows["tags"]
    for row, tags in zip(x, rows["tags"], strict=True):
        read = [int(own.rows[tag]) for tag in tags if own.rows[tag]]
        mean = bag[read].mean(0) if read else torch.zeros(bag.shape[1])
        torch.testing.assert_close(row[start_of["tags"]], mean)
    if not exponent:
        assert len(features.table.weight) == sum(
            dataset.table_rows[f].size if f in dataset.table_rows else dataset.num(f) for f in features.token_fields
        )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """trained(data, name, **settings) -> the folder of a run."""

    def make(data, name="SharedBottom", **settings):
        folder = tmp_path_factory.mktemp("run") / "run"
        given = SETTINGS | SMALL | {"data_path": str(data), "output_dir": str(folder), "packed_cache": False}
        recbole_msr.run(name, "tiny", config=given | settings)
        return folder

    return make


def test_a_run_scores_new_values_as_it_scored_its_own(data, trained):
    folder = trained(data, **KEYS, history={"fields": ["item_id"]}, init_from=None)
    run = recbole_msr.load(folder)
    own = run.dataset.table_rows
    item = {bool(own["item_id"].rows[i]): t for i, t in enumerate(run.dataset.field2id_token["item_id"]) if i}
    rows = pd.DataFrame({"user_id": "u1", "item_id": [item[False], "new"], "class": "a", "price": 1.0, "tags": "v"})
    rows["age"], rows["gender"] = 20, "F"
    scored = run.scorer.score(rows)
    scores = scored.scores.to_numpy()
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)  # a rare item is read as one that nobody knows
    assert scored.unknown["item_id"] == 2
    # Two new users with the bucket of a known one that has no history read the same vector.
    new = next(f"n{i}" for i in range(1000) if bucket_of(f"n{i}", 7) == bucket_of("n0", 7) and i)
    other = next(f"n{i}" for i in range(1000) if bucket_of(f"n{i}", 7) != bucket_of("n0", 7))
    rows = pd.DataFrame({"user_id": ["n0", new, other], "item_id": item[True], "age": 20, "gender": "F"})
    scores = run.scorer.score(rows).scores.to_numpy()
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.allclose(scores[0], scores[2])
    assert len(run.recommend(["u1", "n0"], k=3)) == 6
    assert run.scorer.score(rows).unknown["user_id"] == 3


def test_a_run_begins_with_the_vectors_of_an_earlier_one(data, trained, tmp_path):
    first = trained(data, **KEYS)
    given = {"min_count": {"item_id": 8, "tags": 2}, "hash_buckets": {"user_id": 7}}
    second = recbole_msr.load(trained(data, **given, init_from=str(first), learning_rate=1e-12))
    old, new = recbole_msr.load(first), second
    for field in ("item_id", "user_id", "gender"):
        before, now = (run.model.eval().features for run in (old, new))
        tokens = new.dataset.field2id_token[field].tolist()
        ids = [torch.tensor([run.dataset.field2token_id[field][t] for t in tokens[1:]]) for run in (old, new)]
        has = new.dataset.table_rows[field].rows[ids[1]] > 0 if field in new.dataset.table_rows else ids[1] > 0
        expected, found = before.look_up(field, ids[0]), now.look_up(field, ids[1])
        torch.testing.assert_close(found[has], expected[has])
    with pytest.raises(InputError, match="'user_id' has 9 buckets here, and 7 buckets in the earlier run"):
        trained(data, **(KEYS | {"hash_buckets": {"user_id": 9}}), init_from=str(first))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"min_count": {"itemid": 5}}, "min_count: no field 'itemid' in dataset 'tiny'; did you mean 'item_id'"),
        ({"min_count": {"price": 5}}, "min_count: 'price' is a float, and only values of token"),
        ({"hash_buckets": {"rating": 5}}, "hash_buckets: 'rating' is a float"),
        (
            {"min_count": {"item_id": 5}, "hash_buckets": {"item_id": 9}},
            "min_count and hash_buckets both name 'item_id'",
        ),
        ({"scenario": "class", "min_count": {"class": 5}}, "min_count: 'class' is no feature"),
    ],
)
def test_an_impossible_field_is_named(start, given, message):
    with pytest.raises(InputError, match=message):
        start(**given)


@pytest.mark.parametrize("key", ["min_count", "hash_buckets"])
@pytest.mark.parametrize("number", [0, -1, 1.5, True, "many"])
def test_numbers_are_positive_and_whole(key, number, data):
    with pytest.raises(InputError, match=f"{key}.*item_id"):
        recbole_msr.run("SharedBottom", "tiny", config=SETTINGS | {"data_path": str(data), key: {"item_id": number}})


@pytest.mark.parametrize("key", ["min_count", "hash_buckets"])
def test_models_of_recbole_refuse_them(key, data):
    with pytest.raises(InputError, match=f"{key} is not for DeepFM, one of RecBole's models"):
        recbole_msr.run("DeepFM", "tiny", config=SETTINGS | {"data_path": str(data), key: {"item_id": 5}})


def test_users_that_are_hashed_have_no_knowledge_of_known_ones(data, trained):
    folder = trained(data, "LLM4MSR", backbone="SharedBottom", knowledge="random", knowledge_size=6, **KEYS)
    run = recbole_msr.load(folder)
    scores = run.predict(pd.DataFrame({"user_id": ["u1", "n0"], "item_id": "i1", "age": 20, "gender": "F"}))
    assert np.isfinite(scores[["click", "like"]].to_numpy()).all()
