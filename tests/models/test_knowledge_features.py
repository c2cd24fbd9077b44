"""`knowledge_features`: the vectors as further inputs of any model."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import recbole_msr
from recbole_msr import registry
from recbole_msr.errors import InputError
from recbole_msr.layers.embedding import FeatureEmbedding
from recbole_msr.models.base import MultiScenarioRecommender

MODELS = [name for name in registry.BUILT_IN_MODELS if issubclass(registry.model_class(name), MultiScenarioRecommender)]
GIVEN = {
    "knowledge": "random",
    "knowledge_size": 10,
    "knowledge_feature_size": 3,
    "knowledge_features": ["user", "item"],
}


@pytest.fixture
def stored(make_dataset, make_model, write_knowledge, knowledge_dir):
    """stored(model="SharedBottom", **settings) -> a model on knowledge "mine", its rows, vectors, and ids' names."""

    def make(model="SharedBottom", written=None, **settings):
        given = {"knowledge": "mine", "knowledge_dir": knowledge_dir, "dropout": 0.0} | settings
        given = {"knowledge_features": ["user", "item"], "knowledge_feature_size": 3} | given
        _, train = make_dataset(3, model, **given)
        vectors = write_knowledge(train, **(written or {}))
        names = {level: [str(t) for t in train.field2id_token[f"{level}_id"]] for level in ("user", "item")}
        return (*make_model(3, model, **given), vectors, names)

    return make


def test_x_ends_with_the_projected_vectors(stored):
    model, rows, vectors, names = stored(written={"without": ("u3", "i7")})
    model.eval()
    for parameter in model.features.parameters():
        torch.nn.init.normal_(parameter)
    x = model.embed(rows).detach().numpy()
    fields = FeatureEmbedding.vectors(model.features, rows)
    assert x.shape[1] == model.features.output_size == fields.shape[1] + 2 * 3
    np.testing.assert_array_equal(x[:, :-6], fields.detach())
    state = {name: value.double().numpy() for name, value in model.features.knowledge.state_dict().items()}
    seen = set()
    for b in range(len(x)):
        for level, columns in (("user", slice(-6, -3)), ("item", slice(-3, None))):
            token = names[level][int(rows[f"{level}_id"][b])]
            if token in vectors[level]:
                matrix = np.stack(list(vectors[level].values()))
                v = (vectors[level][token] - matrix.mean(0)) / matrix.std(0)
                expected = state[f"{level}.linear.weight"] @ v
            else:
                seen.add(token)
                expected = state[f"{level}.unknown"]
            np.testing.assert_allclose(x[b, columns], expected, rtol=1e-3, atol=1e-5)
    assert seen == {"u3", "i7"}


@pytest.mark.parametrize("how", ["dot", "product"])
@pytest.mark.parametrize("parts", [1, 3])
def test_the_match_of_user_and_item_stands_behind_them(stored, caplog, how, parts):
    profiles = np.random.default_rng(4).normal(1, 2, size=(40, 6 * parts))
    meta = {"user": profiles, "level_sizes": {"user": 6 * parts}}
    model, rows, vectors, names = stored(knowledge_match=how, written=meta)
    assert "own label" not in caplog.text  # no profiles
    model.eval()
    for parameter in model.features.parameters():
        torch.nn.init.normal_(parameter)
    x, width = model.embed(rows).detach().numpy(), parts if how == "dot" else 3
    assert (
        x.shape[1] == model.features.output_size == FeatureEmbedding.vectors(model.features, rows).shape[1] + 6 + width
    )
    scaled = {}
    for level in ("user", "item"):
        matrix = np.stack(list(vectors[level].values()))
        scaled[level] = {t: (v - matrix.mean(0)) / matrix.std(0) for t, v in vectors[level].items()}
    for b in range(len(x)):
        u, v = (scaled[level][names[level][int(rows[f"{level}_id"][b])]] for level in ("user", "item"))
        products = u.reshape(parts, 6) * v
        if how == "dot":
            expected = products.mean(axis=1)
        else:
            expected = model.features.match.product.weight.detach().double().numpy() @ products.flatten()
        np.testing.assert_allclose(x[b, -width:], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"knowledge_features": ["user"]}, "set knowledge_features: \\[user, item\\]"),
        ({"knowledge_bake": True}, "turn knowledge_bake off"),
        ({"knowledge_match": "cosine"}, "must be one of none, dot, product"),
    ],
)
def test_a_match_that_cannot_be_is_refused(stored, settings, told):
    with pytest.raises(InputError, match=told):
        stored(**({"knowledge_match": "dot"} | settings))


@pytest.mark.parametrize("name", MODELS)
def test_any_model_takes_them(make_model, name):
    own = {"backbone": "HiNet"} if name == "LLM4MSR" else {}
    with_them, rows = make_model(3, name, **GIVEN, **own)
    without, _ = make_model(3, name, **({**GIVEN, "knowledge_features": None} | own))
    assert with_them.features.output_size == without.features.output_size + 6
    with_them.calculate_loss(rows).backward()
    before = with_them.predict_tasks(rows).detach()
    assert before.shape == (len(rows), 2)
    projections = [with_them.features.knowledge[level].linear.weight for level in ("user", "item")]
    assert all(weight.grad.any() for weight in projections)
    assert all(torch.isfinite(p.grad).all() for p in with_them.parameters() if p.grad is not None)


def test_the_unknown_vectors_are_learnt_too(make_model):
    model, rows = make_model(3, "SharedBottom", **GIVEN, knowledge_unknown_share=0.3)
    model.calculate_loss(rows).backward()
    for level in ("user", "item"):
        assert model.features.knowledge[level].unknown.grad.any()


@pytest.mark.parametrize("settings", [{"knowledge": None, "knowledge_features": None}, {"knowledge": "none"}])
def test_without_them_a_model_is_as_it_was(make_model, settings):
    plain, rows = make_model(3, "HiNet")
    model, _ = make_model(3, "HiNet", **(GIVEN | settings))
    assert type(model.features) is FeatureEmbedding
    assert plain.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), model.state_dict().values(), strict=True))
    plain.eval()
    assert torch.equal(plain.predict_tasks(rows), model.eval().predict_tasks(rows))


def test_one_level_alone(make_model):
    model, _ = make_model(3, "SharedBottom", **(GIVEN | {"knowledge_features": ["item"]}))
    assert list(model.features.knowledge) == ["item"]
    model, _ = make_model(3, "SharedBottom", **(GIVEN | {"knowledge_features": "user"}))
    assert list(model.features.knowledge) == ["user"]


def test_layers_and_features_can_be_had_together(stored):
    model, rows, _, _ = stored("LLM4MSR", backbone="STAR")
    assert model.user_level is not None
    assert model.backbone.features.knowledge.keys() == {"user", "item"}
    model.calculate_loss(rows).backward()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"knowledge_features": ["users"]}, "not of 'users'; did you mean 'user'"),
        (
            {"knowledge_features": ["scenario"]},
            "'knowledge_features': there are vectors of user and item, not of 'scenario'",
        ),
        ({"knowledge_features": ["user", "user"]}, "must be a list of different words such as [user, item]"),
        ({"knowledge_features": 3}, "must be a list of different words such as [user, item], got 3"),
        ({"knowledge_features": True}, "must be a list of different words such as [user, item], got True"),
        ({"knowledge_feature_size": 0}, "'knowledge_feature_size' must be an integer >= 1"),
        ({"knowledge": None}, "'knowledge' is not set"),
    ],
)
def test_impossible_settings_are_refused(make_model, settings, message):
    with pytest.raises(InputError) as error:
        make_model(3, "SharedBottom", **(GIVEN | settings))
    assert message in str(error.value)


def test_a_store_without_items_is_refused(stored):
    with pytest.raises(InputError, match="knowledge 'mine' has no vectors of items"):
        stored(written={"item": None})


@pytest.mark.parametrize("bake", [False, True])
def test_a_run_with_them_is_scored_again(stored, make_dataset, tiny_data, tmp_path, knowledge_dir, bake):
    stored()
    config, _ = make_dataset(3, "SharedBottom")
    keys = ("load_col", "tasks", "scenario", "packed_cache", "use_gpu", "show_progress", "state", "data_path")
    given = {key: config[key] for key in keys} | {
        "threads": 1,
        "epochs": 2,
        "train_batch_size": 64,
        "knowledge_bake": bake,
    }
    given |= {"knowledge": "mine", "knowledge_dir": knowledge_dir, "knowledge_features": ["user", "item"]}
    result = recbole_msr.run("SharedBottom", "tiny", config=given | {"output_dir": str(tmp_path / "out")})
    frame = pd.DataFrame({"user_id": ["u1", "nobody", "u7"], "item_id": ["i1", "i2", "nothing"], "age": [20, 30, 40]})
    frame["gender"] = "F"
    scores = recbole_msr.load(result.folder).predict(frame).to_numpy()
    assert np.isfinite(scores).all()
    shutil.rmtree(knowledge_dir)
    if bake:
        np.testing.assert_allclose(recbole_msr.load(result.folder).predict(frame).to_numpy(), scores, rtol=1e-6)
    else:
        with pytest.raises(InputError, match="there is no knowledge 'mine'"):
            recbole_msr.load(result.folder).predict(frame)
