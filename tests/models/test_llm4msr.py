import copy
import json
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import recbole_msr
from recbole_msr import registry
from recbole_msr.config.build import build_config
from recbole_msr.errors import InputError
from recbole_msr.files.yaml import read_yaml
from recbole_msr.models import llm4msr
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.models.frozen_vectors import FrozenVectors, principal_components, standard_scale
from recbole_msr.models.knowledge import KnowledgeVectors
from recbole_msr.models.knowledge_controls import random_vectors
from recbole_msr.models.knowledge_source import KnowledgeSource
from recbole_msr.models.llm4msr import LLM4MSR
from recbole_msr.training.optimizers import build_optimizer, parameter_groups
from tests.combinations import every

SMALL = {
    "backbone": "SharedBottom",
    "embedding_size": 4,
    "knowledge": "random",
    "knowledge_size": 10,
    "knowledge_reduced_size": 5,
    "meta_rank": 3,
    "meta_hidden_sizes": [6],
    "meta_activation": "tanh",
    "dropout": 0.0,
}
BACKBONES = [
    name
    for name in registry.BUILT_IN_MODELS
    if issubclass(registry.model_class(name), MultiScenarioRecommender) and name != "LLM4MSR"
]


@pytest.fixture
def llm4msr_model(make_model):
    return lambda scenarios=3, **settings: make_model(scenarios, "LLM4MSR", **(SMALL | settings))


@pytest.fixture
def stored(make_dataset, make_model, write_knowledge, knowledge_dir):
    """stored(**settings) -> a model on knowledge "mine", all training rows, the vectors by level and users' names."""

    def make(scenarios=3, written=None, **settings):
        given = SMALL | {"knowledge": "mine", "knowledge_dir": knowledge_dir} | settings
        _, train = make_dataset(scenarios, "LLM4MSR", **given)
        vectors = write_knowledge(train, **(written or {}))
        vectors["names"] = [str(token) for token in train.field2id_token["user_id"]]
        vectors["item names"] = [str(token) for token in train.field2id_token["item_id"]]
        return (*make_model(scenarios, "LLM4MSR", **given), vectors)

    return make


def shake(model, std=0.3):
    """Let no weight be zero any more."""
    torch.manual_seed(8)
    for parameter in model.parameters():
        parameter.data += std * torch.randn_like(parameter)


def steps(model, rows, count=3, lr=0.05):
    optimiser = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(count):
        optimiser.zero_grad()
        model.calculate_loss(rows).backward()
        optimiser.step()


# The equations, row by row, with the weights of a state_dict and the vectors as they were written.


def scaled(vectors):
    matrix = np.stack(list(vectors.values()))
    return (matrix.mean(0), matrix.std(0)) if len(matrix) > 1 else (0 * matrix[0], np.sqrt((matrix**2).mean()))


def slow_h(state, name, vectors, token, reduction):
    if token not in vectors:
        return state[f"{name}.unknown"]
    mean, deviation = scaled(vectors)
    if reduction == "pca":
        matrix = np.stack(list(vectors.values())) - mean
        _, values, directions = np.linalg.svd(matrix, full_matrices=False)
        keep = values > 1e-4 * values[0]
        values, directions = values[keep][:5], directions[keep][:5]
        directions *= np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(1)])[:, None]
        h = directions @ (vectors[token] - mean) / np.sqrt((values**2).sum() / 5 / len(matrix))
        return np.concatenate([h, np.zeros(5 - len(h))])
    v = (vectors[token] - mean) / deviation
    return state[f"{name}.linear.weight"] @ v if reduction == "linear" else v


def slow_f(state, name, x, h, settings):
    depth, rank, d = settings.get("meta_layers", 1), 3, len(x)
    kind = settings.get("meta_weights", "core")
    z = np.tanh(state[f"{name}.network.0.weight"] @ h + state[f"{name}.network.0.bias"])
    theta = state[f"{name}.generator.weight"] @ z + state[f"{name}.generator.bias"]
    shapes = {"core": [(rank, rank)], "low_rank": [(d, rank), (rank, d)], "full": [(d, d)]}[kind]
    for layer in range(depth):
        w = state[f"{name}.before.{layer}"] if kind == "core" else np.eye(d)
        for rows, columns in shapes:
            part, theta = theta[: rows * columns], theta[rows * columns :]
            w = w @ part.reshape(rows, columns)
        if kind == "core":
            w = w @ state[f"{name}.after.{layer}"]
        b, theta = theta[:d], theta[d:]
        x = x @ w + b if layer == 0 else np.tanh(x) @ w + b
    return x


def slow_logits(model, rows, vectors, settings, n_rows):
    state = {name: value.double().numpy() for name, value in model.state_dict().items()}
    reduction = settings.get("knowledge_reduction", "pca")
    level, fusion = settings.get("knowledge_level", "both"), settings.get("fusion", "learned")
    users, names = vectors["names"], model.scenario_names
    x = model.backbone.embed(rows).double().detach().numpy()
    result = []
    for b in range(n_rows):
        i = int(rows["scenario"][b]) - 1
        moved = x[b]
        if level in ("both", "user", "all"):
            h = slow_h(state, "user_level.vectors", vectors["user"], users[int(rows["user_id"][b])], reduction)
            moved = moved + settings.get("meta_scale", 0.1) * slow_f(state, "user_level.layers", moved, h, settings)
        if level in ("item", "all"):
            token = vectors["item names"][int(rows["item_id"][b])]
            h = slow_h(state, "item_level.vectors", vectors["item"], token, reduction)
            moved = moved + settings.get("meta_scale", 0.1) * slow_f(state, "item_level.layers", moved, h, settings)
        o = model.backbone.logits(torch.from_numpy(moved).float().unsqueeze(0), torch.tensor([i]))[0]
        y = o.double().detach().numpy()
        if level in ("both", "scenario", "all"):
            h = slow_h(state, "scenario_level.vectors", vectors["scenario"], names[i], reduction)
            f = slow_f(state, "scenario_level.layers", moved, h, settings)
            r = state["scenario_level.head.weight"] @ f + state["scenario_level.head.bias"]
            if fusion == "gate":
                gate = state["scenario_level.gate_of_x.weight"] @ moved + state["scenario_level.gate_of_x.bias"]
                alpha = 1 / (1 + np.exp(-gate - state["scenario_level.gate_of_h.weight"] @ h))
            else:
                alpha = state["scenario_level.alpha"] if fusion == "learned" else settings["fusion_alpha"]
            y = y + alpha * r
        result.append(y)
    return np.array(result)


@pytest.mark.parametrize("scenarios", [1, 2, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"knowledge_reduction": "none", "meta_weights": "low_rank"},
        {"knowledge_reduction": "linear", "meta_weights": "full", "fusion": "gate"},
        {"meta_layers": 2, "fusion": "fixed", "fusion_alpha": 0.4, "meta_scale": 0.7},
        {"meta_layers": 3, "meta_weights": "low_rank"},
        {"meta_layers": 2, "meta_weights": "full"},
        {"knowledge_level": "user"},
        {"knowledge_level": "scenario"},
        {"knowledge_level": "item", "meta_scale": 0.7},
        {"knowledge_level": "all", "meta_scale": 0.7},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())) or "default",
)
def test_predictions_equal_the_equations(stored, scenarios, settings):
    model, rows, vectors = stored(scenarios, written={"size": 10, "without": ("u3", "u4", "i2", "i7")}, **settings)
    shake(model)
    model.eval()
    expected = slow_logits(model, rows, vectors, settings, 40)
    assert {"u3", "u4"} & {vectors["names"][u] for u in rows["user_id"][:40].tolist()}, "an unknown user is among them"
    assert {"i2", "i7"} & {vectors["item names"][i] for i in rows["item_id"][:40].tolist()}, "and an unknown item"

    def found(batch):
        return model.logits(model.embed(batch), model.scenario_of(batch)).detach()

    np.testing.assert_allclose(found(rows)[:40], expected, rtol=1e-3, atol=1e-4)
    with torch.no_grad():  # the way of serving, where what is generated is remembered
        np.testing.assert_allclose(found(rows)[:40], expected, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found(rows[torch.arange(2).repeat(20)]), expected[[0, 1] * 20], rtol=1e-3, atol=1e-4)


# Beginning as the backbone.


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(
    "settings",
    [{"knowledge_level": "all"}, {"meta_weights": "low_rank", "meta_layers": 2, "fusion": "gate"}],
    ids=["core", "low_rank"],
)
def test_at_step_0_it_is_its_backbone(make_model, backbone, settings):
    alone, rows = make_model(3, backbone)
    settings = {key: value for key, value in SMALL.items() if key.startswith(("knowledge", "meta"))} | settings
    model, _ = make_model(3, "LLM4MSR", backbone=backbone, **settings)
    assert type(model.backbone) is type(alone)
    for (name, theirs), ours in zip(alone.state_dict().items(), model.backbone.state_dict().values(), strict=True):
        assert torch.equal(theirs, ours), name
    alone.eval()
    model.eval()
    assert torch.equal(alone.predict_tasks(rows), model.predict_tasks(rows))
    assert torch.equal(alone.predict(rows), model.predict(rows))
    assert torch.equal(alone.calculate_loss(rows), model.calculate_loss(rows)), "and so is its loss, calibrated or not"
    with torch.no_grad():
        assert torch.equal(alone.predict_tasks(rows), model.predict_tasks(rows))
    rows["scenario"][:9] = 0
    assert torch.equal(alone.predict_tasks(rows), model.predict_tasks(rows))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_it_then_becomes_another_model(make_model, backbone):
    settings = {key: value for key, value in SMALL.items() if key.startswith(("knowledge", "meta"))}
    model, rows = make_model(3, "LLM4MSR", backbone=backbone, **settings)
    steps(model, rows)
    model.eval()
    assert (model.movement(rows) > 0).all()
    assert model.strengths(rows).abs().min(0).values.max() > 0
    assert not torch.allclose(model.predict_tasks(rows), model.backbone.predict_tasks(rows), rtol=1e-4, atol=0)


@pytest.mark.parametrize("settings", [{"knowledge": "none"}, {"knowledge_level": "none"}], ids=["knowledge", "level"])
def test_none_is_the_backbone_alone(make_model, llm4msr_model, settings):
    model, rows = llm4msr_model(**settings)
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"backbone"}
    alone, _ = make_model(3, "SharedBottom", embedding_size=4, dropout=0.0)
    for _ in range(2):
        assert torch.equal(alone.calculate_loss(rows), model.calculate_loss(rows))
        steps(alone, rows, 1)
        steps(model, rows, 1)
    assert not model.movement(rows).any()
    assert not model.strengths(rows).any()


@every(
    2, weights=["core", "low_rank", "full"], fusion=["learned", "fixed", "gate"], reduction=["pca", "linear", "none"]
)
def test_gradients_reach_every_parameter(llm4msr_model, weights, fusion, reduction):
    model, rows = llm4msr_model(
        meta_weights=weights, fusion=fusion, knowledge_reduction=reduction, meta_layers=2, activation="tanh",
        knowledge_unknown_share=0.3, knowledge_level="all",
    )  # fmt: skip
    torch.nn.init.normal_(model.features.table.weight)
    model.calculate_loss(rows).backward()
    first = [model.user_level.layers.generator.weight, model.scenario_level.head.weight]
    assert all(parameter.grad.any() for parameter in first), "the first step already moves what begins as zero"
    steps(model, rows, 3)
    for name, parameter in model.named_parameters():
        # A scenario is never unknown in these data.
        assert name == "scenario_level.vectors.unknown" or parameter.grad.any(), name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("knowledge_level", "user"),
        ("knowledge_level", "scenario"),
        ("knowledge_level", "item"),
        ("knowledge_level", "all"),
        ("knowledge_reduction", "linear"),
        ("knowledge_reduction", "none"),
        ("knowledge_reduced_size", 7),
        ("knowledge_scale", "none"),
        ("knowledge_seed", 5),
        ("knowledge_size", 12),
        ("meta_layers", 2),
        ("meta_weights", "low_rank"),
        ("meta_weights", "full"),
        ("meta_rank", 4),
        ("meta_hidden_sizes", [6, 6]),
        ("meta_hidden_sizes", []),
        ("meta_activation", "relu"),
        ("meta_dropout", 0.5),
        ("meta_scale", 0.5),
        ("fusion", "fixed"),
        ("fusion", "gate"),
        ("fusion_alpha", 0.5),
        ("knowledge_unknown_share", 0.9),
        ("backbone", "STAR"),
        ("tower_hidden_sizes", [3]),
    ],
)
def test_every_option_changes_what_is_learnt(llm4msr_model, key, value):
    base = {"knowledge_reduction": "linear"} if key == "knowledge_scale" else {}
    predictions = []
    for settings in ({}, {key: value}):
        model, rows = llm4msr_model(**base, **settings)
        shake(model, 0.05)
        torch.manual_seed(4)
        steps(model, rows, 3, lr=0.3)
        predictions.append(model.eval().predict_tasks(rows).detach())
    assert not torch.allclose(*predictions, rtol=1e-6, atol=0)


@pytest.mark.parametrize("level", ["user", "scenario", "item"])
def test_a_level_has_a_learning_rate_of_its_own(llm4msr_model, level):
    factor = {f"{level}_level_learning_rate_factor": 0.25}
    rate, moved = 0.01, {}
    for name, settings in {"alike": {}, "apart": factor}.items():
        model, rows = llm4msr_model(knowledge_level="all", **settings)
        shake(model)
        config = {"learning_rate": rate, "weight_decay": 0.0, "learner": "adam", "embedding_learning_rate_factor": 3.0}
        config |= dict.fromkeys(("embedding_weight_decay", "fused_optimizer", "embedding_gradients"))
        before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
        optimiser = build_optimizer(parameter_groups(model, config), config)
        model.calculate_loss(rows).backward()
        optimiser.step()
        # Adam's first step moves every number that has a gradient by its learning rate.
        moved[name] = {key: (parameter - before[key]).abs().max().item() for key, parameter in model.named_parameters()}
    for key, distance in moved["apart"].items():
        own = 0.25 if key.startswith(f"{level}_level.") else 1.0
        assert distance == pytest.approx(own * moved["alike"][key], rel=0.01), key
    assert max(moved["alike"].values()) == pytest.approx(3 * rate, rel=0.01)
    assert max(value for key, value in moved["alike"].items() if "_level" in key) == pytest.approx(rate, rel=0.01)


def test_a_few_steps_learn(llm4msr_model):
    model, rows = llm4msr_model()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = model.calculate_loss(rows)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


# The vectors.


def test_unknown_users_share_the_learned_vector(stored):
    """Index 0, absent from the store, or without a training row: never an error, never zeros."""
    model, rows, vectors = stored(written={"without": ("u5",)})
    shake(model)
    model.eval()
    level, names = model.user_level, vectors["names"]
    absent = names.index("u5")
    theta = level.generate(torch.tensor([0, absent, names.index("u6")]))
    torch.testing.assert_close(theta[0], theta[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(theta[0], theta[2])
    torch.testing.assert_close(theta[0], level.layers.generate(level.vectors.unknown), rtol=1e-4, atol=1e-5)
    assert level.vectors.unknown.any()
    one = rows[torch.tensor([0])]
    one["user_id"][:] = 0
    assert torch.isfinite(model.predict_tasks(one)).all()
    assert model.movement(one) > 0


def test_a_user_without_a_training_row_is_unknown_whatever_the_store_has(make_dataset, write_knowledge, knowledge_dir):
    config, train = make_dataset(3, "LLM4MSR", **(SMALL | {"knowledge": "mine", "knowledge_dir": knowledge_dir}))
    train = copy.copy(train)
    train.inter_feat = train.inter_feat[train.inter_feat["user_id"] != 7]
    write_knowledge(train)
    model = LLM4MSR(config, train)
    known = model.user_level.vectors.known
    assert not known[0]
    assert not known[7]
    assert known.sum() == 39


def test_the_unknown_vector_is_learnt_though_every_training_user_is_known(llm4msr_model):
    model, rows = llm4msr_model(knowledge_unknown_share=0.25)
    assert model.user_level.vectors.known[rows["user_id"]].all()
    h = model.user_level.vectors(torch.ones(4000, dtype=torch.long))
    share = (h == model.user_level.vectors.unknown).all(1).float().mean()
    assert 0.2 < share < 0.3
    before = model.user_level.vectors.unknown.detach().clone()
    steps(model, rows)
    assert not torch.equal(model.user_level.vectors.unknown, before)
    model.eval()
    h = model.user_level.vectors(torch.ones(4000, dtype=torch.long))
    assert (h == h[0]).all(), "in evaluation a known user is itself"


def test_random_vectors_are_made_of_token_level_and_seed_alone():
    first = random_vectors(["a", "b", "c"], 300, 1, "user")
    assert first.dtype == np.float16
    np.testing.assert_array_equal(random_vectors(["c", "x", "a"], 300, 1, "user")[[2, 0]], first[[0, 2]])
    everything = [
        first[0],
        first[1],
        *(random_vectors(["a"], 300, seed, level)[0] for seed, level in [(2, "user"), (1, "item")]),
    ]
    correlation = np.corrcoef(np.array(everything, dtype=np.float64)) - np.eye(4)
    assert np.abs(correlation).max() < 0.25
    many = random_vectors([str(i) for i in range(500)], 64, 3, "user").astype(np.float64)
    assert abs(many.mean()) < 0.02
    assert many.std() == pytest.approx(1, abs=0.02)
    assert (many**4).mean() == pytest.approx(3, abs=0.15)
    np.testing.assert_array_equal(random_vectors(["a"], 3, 1, "user"), [first[0, :3]])


def test_random_vectors_leave_the_global_generators_alone(llm4msr_model, make_model):
    model, _ = llm4msr_model(knowledge_level="scenario")
    after = torch.rand(1)
    other, _ = llm4msr_model(knowledge_level="scenario", knowledge_seed=9)
    assert torch.equal(torch.rand(1), after)
    assert not torch.equal(model.scenario_level.vectors.components, other.scenario_level.vectors.components)


@pytest.mark.parametrize(("n", "width"), [(30, 6), (4, 9), (1, 5), (2, 3), (1100, 1060)])
def test_pca_is_that_of_the_singular_value_decomposition(n, width):
    matrix = np.random.default_rng(0).normal(3, [1 + i for i in range(width)], size=(n, width)).astype(np.float32)
    mean, components = principal_components(FrozenVectors(matrix), 5)
    again, same = principal_components(FrozenVectors(matrix), 5)
    np.testing.assert_array_equal(components, same)
    np.testing.assert_array_equal(mean, again)
    centred = matrix.astype(np.float64) - (matrix.astype(np.float64).mean(0) if n > 1 else 0)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    rank = min(5, n - 1 if n > 1 else 1, width)
    scores = (matrix - mean) @ components.T
    assert components.shape == (5, width)
    assert not scores[:, rank:].any()
    assert (scores**2).mean() == pytest.approx(1)
    expected = centred @ directions[:rank].T
    np.testing.assert_allclose(
        np.abs(scores[:, :rank] / expected), np.sqrt(n * 5 / (values[:rank] ** 2).sum()), rtol=1e-4
    )


@pytest.mark.parametrize("n", [1, 2, 3, 10, 50, 200])
def test_h_is_as_large_as_what_reads_it_expects_however_few_vectors_there_are(n):
    """The meta network reads 64 numbers and is drawn for a mean square of 1 over them (M scenarios have rank M - 1)."""
    matrix = np.random.default_rng(n).normal(2, 3, size=(n, 300)) + np.random.default_rng(0).normal(0, 9, size=300)
    mean, components = principal_components(FrozenVectors(matrix.astype(np.float32)), 64)
    h = (matrix.astype(np.float32).astype(np.float64) - mean) @ components.T
    assert (h**2).mean() == pytest.approx(1)
    # The same from another decomposition: coordinates of the centred vectors along their first principal axes.
    centred = matrix - (matrix.mean(0) if n > 1 else 0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    rank = min(64, max(n - 1, 1))
    axes = u[:, :rank] * s[:rank]
    expected = axes / np.sqrt((axes**2).sum() / (n * 64))
    np.testing.assert_allclose(np.abs(h[:, :rank]), np.abs(expected), rtol=1e-3, atol=1e-4)
    mean, components = principal_components(FrozenVectors(matrix.astype(np.float32)), 64, whiten=True)
    white = (matrix.astype(np.float32).astype(np.float64) - mean) @ components.T
    np.testing.assert_allclose(
        np.abs(white[:, :rank]), np.abs(u[:, :rank]) * np.sqrt(n * 64 / rank), rtol=2e-3, atol=2e-3
    )
    assert not white[:, rank:].any()
    standard, deviation = standard_scale(FrozenVectors(matrix.astype(np.float32)))
    assert (((matrix - standard) / deviation) ** 2).mean() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("reduction", ["pca", "whitening", "linear", "none"])
@pytest.mark.parametrize("level", ["user", "item", "scenario"])
def test_every_level_begins_with_vectors_of_the_same_size(make_dataset, level, reduction):
    settings = SMALL | {"knowledge_size": 300, "knowledge_reduced_size": 64}
    config, train = make_dataset(3, "LLM4MSR", **settings)
    torch.manual_seed(0)
    vectors = KnowledgeVectors(KnowledgeSource(config, train), level, reduction, 64)
    h = vectors.eval()(vectors.known.nonzero().squeeze(1))
    assert h.square().mean().item() == pytest.approx(1, abs=0.15 if reduction == "linear" else 0.05)


def test_a_gate_of_the_scenario_level_begins_at_one_half(llm4msr_model):
    model, rows = llm4msr_model(fusion="gate", knowledge_reduced_size=64)
    level = model.scenario_level
    h = level.vectors(level.scenarios)
    assert torch.equal((level.gate_of_x(model.embed(rows)) + level.gate_of_h(h)[rows["scenario"] - 1]).sigmoid(),
                       torch.full((len(rows), 2), 0.5))  # fmt: skip
    steps(model, rows, 3)
    gate = (level.gate_of_x(model.embed(rows)) + level.gate_of_h(h)[rows["scenario"] - 1]).sigmoid()
    assert (gate - 0.5).abs().max() > 1e-4


def test_the_scale_is_that_of_the_store_and_a_constant_number_stays():
    matrix = np.random.default_rng(0).normal(5, 2, size=(20, 4))
    matrix[:, 2] = 7
    mean, deviation = standard_scale(FrozenVectors(matrix.astype(np.float16)))
    stored = matrix.astype(np.float16).astype(np.float64)
    np.testing.assert_allclose(mean, stored.mean(0))
    np.testing.assert_allclose(deviation, [*stored.std(0)[:2], 1, stored.std(0)[3]])


def test_no_table_is_in_the_state_or_copied_with_the_model(stored):
    model, _, _ = stored(knowledge_reduction="none", written={"dtype": "float16", "size": 50})
    frozen = model.user_level.vectors._frozen
    assert isinstance(frozen.matrix, np.memmap)
    assert all(value.numel() < 40 * 50 for name, value in model.state_dict().items() if "vectors" in name)
    twin = copy.deepcopy(model)
    assert twin.user_level.vectors._frozen is frozen
    assert not any(isinstance(value, torch.Tensor) and value.shape == (40, 50) for value in model.buffers())


@pytest.mark.parametrize("reduction", ["none", "linear", "pca"])
def test_where_the_vectors_are_and_how_precise_changes_no_result(stored, reduction):
    model, rows, _ = stored(knowledge_reduction=reduction, knowledge_device="cpu")
    shake(model)
    expected = model.eval().predict_tasks(rows)
    other, _, _ = stored(knowledge_reduction=reduction, knowledge_device="model")
    other.load_state_dict(model.state_dict())
    other.eval()
    torch.testing.assert_close(other.predict_tasks(rows), expected, rtol=0, atol=0)
    half, _, _ = stored(knowledge_reduction=reduction, written={"dtype": "float16"})
    half.load_state_dict(model.state_dict())
    torch.testing.assert_close(half.eval().predict_tasks(rows), expected, rtol=0.02, atol=0.01)


def test_pca_before_and_by_batch_give_the_same(stored, monkeypatch):
    model, rows, _ = stored()
    shake(model)
    model.eval()
    at_once = model.predict_tasks(rows)
    other, _, _ = stored()
    other.load_state_dict(model.state_dict())
    monkeypatch.setattr(type(other.user_level.vectors), "_reduces_at_once", lambda self: False)
    torch.testing.assert_close(other.eval().predict_tasks(rows), at_once)


# Serving.


def test_what_is_remembered_follows_every_change_of_a_weight(llm4msr_model, monkeypatch):
    model, rows = llm4msr_model()
    shake(model)
    model.eval()
    with torch.no_grad():
        first = model.predict_tasks(rows)
        calls, generate = [], type(model.user_level).generate
        counted = lambda level, users, *rows: calls.append(len(users)) or generate(level, users, *rows)  # noqa: E731
        monkeypatch.setattr(type(model.user_level), "generate", counted)
        torch.testing.assert_close(model.predict_tasks(rows), first, rtol=0, atol=0)
        assert not calls, "known by now"
        model.user_level.layers.generator.bias.add_(0.1)
        second = model.predict_tasks(rows)
        assert calls == [40]
        model.user_level.vectors.unknown.zero_()
        model.predict_tasks(rows)
        model.load_state_dict(model.state_dict())
        model.predict_tasks(rows)
        assert calls == [40, 40, 40], "also with the same weights loaded again"
    assert not torch.allclose(first, second)
    torch.testing.assert_close(model.predict_tasks(rows), second)
    with torch.inference_mode():
        torch.testing.assert_close(model.predict_tasks(rows[torch.arange(5)]), second[:5])
    with torch.no_grad():
        torch.testing.assert_close(model.predict_tasks(rows), second)
    twin = pickle.loads(pickle.dumps(model))
    torch.testing.assert_close(twin.predict_tasks(rows), second)


def test_what_is_remembered_follows_fused_optimisers_too(llm4msr_model):
    """They write to weights without counting it, and Lightning changes modes without `train()`."""
    model, rows = llm4msr_model()
    shake(model)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    for _ in range(3):
        model.train()
        model.calculate_loss(rows).backward()
        optimiser.step()
        for module in model.modules():
            module.training = False
        with torch.no_grad():
            found = model.predict_tasks(rows)
        model.eval()
        torch.testing.assert_close(found, model.predict_tasks(rows))
        with torch.no_grad():
            before = model.predict_tasks(rows)
            model.user_level.layers.generator.weight.data.mul_(1.5)
            assert not torch.allclose(model.predict_tasks(rows), before)


def test_threads_that_score_at_once_come_to_the_same_numbers(llm4msr_model, monkeypatch):
    """One thread makes the table anew (a weight has changed) while the other looks its rows up."""
    model, rows = llm4msr_model()
    shake(model)
    model.eval()
    few, others = rows[rows["user_id"] <= 20], rows[rows["user_id"] > 20]
    level, began, both_in = type(model.user_level), threading.Event(), threading.Event()
    generate = level.generate

    def slowly(self, users):
        found = generate(self, users)
        if threading.current_thread().name == "first":
            began.set()
            both_in.wait(0.3)  # the second comes this far too, if nothing keeps it
        else:
            both_in.set()
        return found

    with torch.no_grad():
        expected = [model.predict_tasks(part) for part in (few, others)]
        for order in (lambda: None, lambda: began.wait(5)):
            with monkeypatch.context() as patch:
                patch.setattr(level, "generate", slowly)
                model.user_level.forget()
                began.clear()
                both_in.clear()
                found = {}

                def score(name, part, wait, found=found):
                    wait()
                    with torch.no_grad():
                        found[name] = model.predict_tasks(part)

                given = [("first", few, lambda: None), ("second", others, order)]
                threads = [threading.Thread(target=score, args=each, name=each[0]) for each in given]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(20)
            torch.testing.assert_close([found["first"], found["second"]], expected, rtol=1e-5, atol=1e-6)
            again = [model.predict_tasks(part) for part in (few, others)]
            torch.testing.assert_close(again, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weights", ["core", "low_rank", "full"])
def test_too_many_users_to_remember_are_generated_batch_by_batch(llm4msr_model, monkeypatch, weights):
    model, rows = llm4msr_model(meta_weights=weights)
    shake(model)
    with torch.no_grad():
        expected = model.eval().predict_tasks(rows)
        monkeypatch.setattr(llm4msr, "_REMEMBERED_BYTES", 100)
        other, _ = llm4msr_model(meta_weights=weights)
        other.load_state_dict(model.state_dict())
        assert other.user_level._remembered is None
        torch.testing.assert_close(other.eval().predict_tasks(rows), expected)


def test_half_precision_trains_and_predicts(llm4msr_model):
    model, rows = llm4msr_model(meta_weights="low_rank", meta_layers=2)
    steps(model, rows)
    model.eval()
    with torch.no_grad():
        exact = model.predict_tasks(rows)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model.predict_tasks(rows)
        torch.testing.assert_close(model.predict_tasks(rows), exact, rtol=0, atol=0)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        model.train().calculate_loss(rows).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_a_single_row_trains_and_is_predicted(llm4msr_model):
    model, rows = llm4msr_model()
    shake(model)
    one = rows[torch.tensor([4])]
    assert torch.isfinite(model.calculate_loss(one))
    model.eval()
    torch.testing.assert_close(model.predict(one), model.predict(rows)[4:5])


def test_recbole_can_count_its_operations(llm4msr_model, make_dataset):
    from logging import getLogger

    from recbole.utils import get_flops

    model, _ = llm4msr_model()
    _, train = make_dataset()
    assert get_flops(model, train, model.device, getLogger(), lambda _, rows: rows) > 0


# Whole runs.

RUN = {
    "load_col": {
        "inter": ["user_id", "item_id", "rating", "timestamp"],
        "user": ["user_id", "age", "gender"],
        "item": ["item_id", "class", "price"],
    },
    "scenario": {"field": "age", "bins": [25, 35], "names": ["young", "mid", "old"]},
    "tasks": {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5}},
    "packed_cache": False,
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
    "threads": 1,
}


@pytest.fixture
def settings_of(tiny_data, make_dataset, write_knowledge, knowledge_dir):
    """settings_of(**more) -> settings of a run with knowledge "mine", which is written."""

    def make(**more):
        given = SMALL | RUN | {"data_path": str(tiny_data)}
        given |= {"epochs": 3, "train_batch_size": 64, "metric_decimal_place": 12, "learning_rate": 0.01}
        given |= {"knowledge": "mine", "knowledge_dir": knowledge_dir} | more
        _, train = make_dataset(3, "LLM4MSR", **(SMALL | {"knowledge_dir": knowledge_dir}))
        write_knowledge(train, without=("u5",))
        return given

    return make


def raw(dataset, rows):
    return pd.DataFrame({field: dataset.field2id_token[field][rows[field].numpy()] for field in ("user_id", "item_id")})


@pytest.mark.parametrize("reduction", ["pca", "linear", "none"])
def test_a_run_is_scored_again_from_its_folder_and_the_store(settings_of, tmp_path, knowledge_dir, reduction):
    from recbole_msr.training.checkpoint import load_data_and_model

    given = settings_of(knowledge_reduction=reduction)
    result = recbole_msr.run("LLM4MSR", "tiny", config=given | {"output_dir": str(tmp_path / "out")})
    _, model, dataset, _, _, test = load_data_and_model(tmp_path / "out" / "best.ckpt")
    rows = test._dataset[torch.arange(len(test._dataset))]
    with torch.no_grad():
        expected = model.eval().predict_tasks(rows)
    frame = raw(dataset, rows)
    scores = recbole_msr.load(result.folder).predict(frame)
    np.testing.assert_allclose(scores.to_numpy(), expected, rtol=1e-5)

    frame.loc[0, "user_id"] = "nobody"
    assert np.isfinite(recbole_msr.load(result.folder).predict(frame).to_numpy()).all()

    meta = Path(knowledge_dir, "mine", "knowledge.json")
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"key": "another"}))
    with pytest.raises(InputError, match="trained with other vectors than knowledge 'mine' has now"):
        recbole_msr.load(result.folder).predict(frame)
    shutil.rmtree(Path(knowledge_dir, "mine"))
    with pytest.raises(InputError, match="there is no knowledge 'mine'"):
        recbole_msr.load(result.folder).predict(frame)


@pytest.mark.parametrize("reduction", ["pca", "whitening", "linear"])
@pytest.mark.parametrize("knowledge", ["mine", "random"])
def test_baked_vectors_need_no_store(settings_of, tmp_path, knowledge_dir, reduction, knowledge, monkeypatch):
    plain = settings_of(knowledge_reduction=reduction, knowledge=knowledge)
    result = recbole_msr.run("LLM4MSR", "tiny", config=plain | {"output_dir": str(tmp_path / "plain")})
    baked = recbole_msr.run(
        "LLM4MSR", "tiny", config=plain | {"knowledge_bake": True, "output_dir": str(tmp_path / "baked")}
    )
    assert baked.summary["test"] == result.summary["test"]
    frame = pd.DataFrame({"user_id": [f"u{u}" for u in range(40)], "item_id": [f"i{i % 30}" for i in range(40)]})
    expected = recbole_msr.load(result.folder).predict(frame)
    shutil.rmtree(knowledge_dir)
    scores = recbole_msr.load(baked.folder).predict(frame)
    np.testing.assert_allclose(scores.to_numpy(), expected.to_numpy(), rtol=1e-5)


def test_a_stopped_run_resumes_to_the_identical_result(settings_of, tmp_path):
    import pytorch_lightning as pl

    class Stop(pl.Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 2:
                raise RuntimeError("stopped")

    given = settings_of(epochs=5, knowledge_unknown_share=0.2, meta_dropout=0.2, knowledge_bake=True, stopping_step=9)
    whole = recbole_msr.run("LLM4MSR", "tiny", config=given | {"output_dir": str(tmp_path / "whole")})
    cut = given | {"output_dir": str(tmp_path / "cut")}
    with pytest.raises(RuntimeError, match="stopped"):
        recbole_msr.run("LLM4MSR", "tiny", config=cut, callbacks=[Stop()])
    resumed = recbole_msr.run("LLM4MSR", "tiny", config=cut | {"resume": True})
    assert resumed.summary["test"] == whole.summary["test"]
    assert resumed.summary["best_valid_score"] == whole.summary["best_valid_score"]


def test_knowledge_none_is_a_run_of_the_backbone(settings_of, tmp_path):
    given = settings_of(knowledge="none")
    own = ("backbone", "meta_rank", "meta_hidden_sizes", "meta_activation")
    alone = {key: value for key, value in given.items() if key not in own and not key.startswith("knowledge")}
    ours = recbole_msr.run("LLM4MSR", "tiny", config=given | {"output_dir": str(tmp_path / "a")})
    theirs = recbole_msr.run("SharedBottom", "tiny", config=alone | {"output_dir": str(tmp_path / "b")})
    assert ours.summary["test"] == theirs.summary["test"]
    assert ours.summary["parameters"] == theirs.summary["parameters"]


@pytest.mark.slow
def test_no_language_model_is_loaded(settings_of, tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(settings_of(epochs=1) | {"output_dir": str(tmp_path / "out")}))
    code = f"""
import json, sys

class Refuse:
    asked = []
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("transformers", "sentence_transformers", "tokenizers"):
            self.asked.append(name)

sys.meta_path.insert(0, Refuse())
import recbole_msr  # first, as Lightning imports torchmetrics and that imports transformers, where it is installed
import pandas
settings = json.load(open({str(file)!r}))
recbole_msr.run("LLM4MSR", "tiny", config=settings)
recbole_msr.load(settings["output_dir"]).predict(pandas.DataFrame({{"user_id": ["u1"], "item_id": ["i1"]}}))
print(Refuse.asked)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


# Configuration.


def test_the_backbones_settings_are_its_own(tiny_data, settings_of):
    given = settings_of()
    del given["learning_rate"], given["embedding_size"]
    for backbone in BACKBONES:
        config = build_config("LLM4MSR", "tiny", given | {"backbone": backbone})
        for key, value in read_yaml(registry.properties("model", f"{backbone}.yaml")).items():
            assert config.internal_config_dict[key] == value, key
            if key in ("learning_rate", "embedding_size", "activation"):
                assert config[key] == value, key
        assert config["backbone"] == backbone
        assert config["fusion"] == "learned"


@pytest.mark.parametrize("backbone", BACKBONES)
def test_no_key_of_its_own_is_one_of_a_backbones(backbone):
    ours = read_yaml(registry.properties("model", "LLM4MSR.yaml"))
    assert not set(ours) & set(read_yaml(registry.properties("model", f"{backbone}.yaml")))
    assert not set(ours) & set(read_yaml(registry.properties("overall.yaml")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "STARR"}, "'backbone': there is no model 'STARR'; did you mean 'STAR'"),
        ({"backbone": "DeepFM"}, "there is no model 'DeepFM'"),
        ({"backbone": "HiNet", "sub_expert": 2}, "unknown configuration key 'sub_expert'; did you mean 'sub_experts'"),
        ({"backbone": "STAR", "sub_experts": 2}, "unknown configuration key 'sub_experts'"),
        ({"meta_rnak": 2}, "'meta_rnak'; did you mean 'meta_rank'"),
        ({"knowlege": "x"}, "'knowlege'; did you mean 'knowledge'"),
    ],
)
def test_misspelt_settings_are_refused_before_anything_is_loaded(settings_of, settings, message):
    with pytest.raises(InputError) as error:
        build_config("LLM4MSR", "tiny", settings_of(**settings))
    assert message in str(error.value)


def test_an_outside_models_keys_are_known_inside_llm4msr(settings_of, register):
    class Brought(MultiScenarioRecommender):
        def __init__(self, config, dataset):
            super().__init__(config, dataset)
            self.head = torch.nn.Linear(self.features.output_size * config["brought_width"], self.n_tasks)

        def logits(self, x, scenario):
            return self.head(x.repeat(1, 3))

    register(Brought, {"learning_rate": 0.02, "numerical_as": "raw"})
    given = settings_of(backbone="Brought", brought_width=3)
    del given["dropout"], given["learning_rate"]
    assert build_config("LLM4MSR", "tiny", given)["learning_rate"] == 0.02
    with pytest.raises(InputError, match="'brought_widht'; did you mean 'brought_width'"):
        build_config("LLM4MSR", "tiny", given | {"brought_widht": 3})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "LLM4MSR"}, "'backbone': 'LLM4MSR' is no model that LLM4MSR can be built around"),
        ({"knowledge": None}, "'knowledge' is not set: give the name of a store (recbole-msr embed"),
        ({"knowledge": "mien"}, "Build it: recbole-msr embed"),
        ({"knowledge_level": "usr"}, "did you mean 'user'"),
        (
            {"knowledge_reduction": "svd"},
            "'knowledge_reduction' must be one of none, linear, pca, whitening, got 'svd'",
        ),
        ({"knowledge_scale": 3}, "'knowledge_scale' must be one of standard, none, got 3"),
        ({"knowledge_device": "gpu"}, "'knowledge_device' must be one of auto, cpu, model"),
        ({"knowledge_unknown_share": 1}, "'knowledge_unknown_share' must be a number >= 0 and < 1"),
        (
            {"knowledge_bake": True, "knowledge_reduction": "none"},
            "choose a knowledge_reduction (pca, whitening or linear)",
        ),
        ({"knowledge_size": 0}, "'knowledge_size' must be an integer >= 1"),
        ({"meta_weights": "lowrank"}, "did you mean 'low_rank'"),
        ({"meta_rank": 0}, "'meta_rank' must be an integer >= 1"),
        ({"meta_layers": 0}, "'meta_layers' must be an integer >= 1"),
        ({"meta_scale": 0}, "'meta_scale' must not be 0"),
        ({"user_level_learning_rate_factor": 0}, "'user_level_learning_rate_factor' must not be 0"),
        ({"fusion": "sum"}, "'fusion' must be one of learned, fixed, gate"),
        ({"fusion_alpha": 0}, "'fusion_alpha' must not be 0"),
    ],
)
def test_an_impossible_setting_is_refused_by_name(llm4msr_model, settings, message):
    with pytest.raises(InputError) as error:
        llm4msr_model(**settings)
    assert message in str(error.value)


def refusal(make):
    with pytest.raises(InputError) as error:
        make()
    return str(error.value)


def test_a_store_that_does_not_exist_is_answered_with_how_to_build_it(llm4msr_model, knowledge_dir):
    told = refusal(lambda: llm4msr_model(knowledge="mine", knowledge_dir=knowledge_dir))
    assert "there is no knowledge 'mine'" in told
    assert "recbole-msr embed" in told


def test_a_store_of_another_split_is_refused_in_training_with_what_differs(stored, llm4msr_model, knowledge_dir):
    stored()
    told = refusal(lambda: llm4msr_model(knowledge="mine", knowledge_dir=knowledge_dir, data_seed=7))
    assert "data_seed: 2020 -> 7" in told


def test_a_store_without_the_level_is_refused(stored):
    told = refusal(lambda: stored(written={"user": None}))
    assert "knowledge 'mine' has no vectors of users, only of" in told
    stored(written={"user": None}, knowledge_level="scenario")


def test_vectors_that_are_not_numbers_are_refused(stored):
    matrix = np.ones((40, 6))
    matrix[11, 2] = np.nan
    assert "has user vectors that are not numbers (NaN or infinite)" in refusal(
        lambda: stored(written={"user": matrix})
    )
    matrix[11, 2] = np.inf
    assert "NaN or infinite" in refusal(lambda: stored(written={"user": matrix}))


def test_vectors_of_the_wrong_size_are_refused(stored):
    assert "(39, 6)" in refusal(lambda: stored(written={"user": np.ones((39, 6))}))
    assert "(40, 5)" in refusal(lambda: stored(written={"user": np.ones((40, 5))}))
