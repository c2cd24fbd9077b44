import numpy as np
import pytest
import torch

from tests.combinations import every
from tests.models.equations import EPS, TASKS, assert_logits_equal, count, mlp_size, relu, softmax, state_of

SMALL = {"embedding_size": 4, "scenario_embedding_size": 3, "fcn_hidden_sizes": [8, 6], "dropout": 0.0}


def slow_logits(state, x, i, t):
    v = np.concatenate([x, state["scenario_embedding"][i]])
    k = int(np.argmax([c @ v for c in state["centres"]]))
    for depth in range(3):
        name = f"fcn.{depth}"
        v = (state[f"{name}.weight"] * state[f"{name}.own_weight"][k]) @ v
        v = v + state[f"{name}.bias"] + state[f"{name}.own_bias"][k]
        if depth < 2:
            norm = f"norms.{depth}"
            if f"{norm}.mean" in state:
                v = (v - state[f"{norm}.mean"][k]) / np.sqrt(state[f"{norm}.variance"][k] + EPS)
                v = state[f"{norm}.own_gamma"][k] * v + state[f"{norm}.own_beta"][k]
            v = relu(v)
    return v[t]


@pytest.fixture
def adaptdhm(make_model):
    """A model whose clusters differ."""

    def make(scenarios=3, **settings):
        model, rows = make_model(scenarios, "AdaptDHM", **(SMALL | settings))
        for name, parameter in model.named_parameters():
            if "own_" in name or name in ("features.table.weight", "scenario_embedding"):
                torch.nn.init.normal_(parameter)
        return model, rows

    return make


@every(2, scenarios=[1, 2, 3], tasks=[1, 3], clusters=[1, 3], batch_norm=[False, True])
def test_logits_equal_the_equations(adaptdhm, scenarios, tasks, clusters, batch_norm):
    model, rows = adaptdhm(scenarios, tasks=TASKS[tasks], clusters=clusters, batch_norm=batch_norm)
    assert_logits_equal(model, rows, slow_logits)
    assert model.measures(model.embed(rows), model.scenario_of(rows))[0].values.any(dim=0).all(), (
        "every cluster has rows"
    )


@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_centres_follow_the_rows(adaptdhm, iterations):
    model, rows = adaptdhm(routing_iterations=iterations, centre_momentum=0.5)
    state = state_of(model)
    x, scenario = model.embed(rows).detach().double().numpy(), model.scenario_of(rows).tolist()
    v = [np.concatenate([x[b], state["scenario_embedding"][scenario[b]]]) for b in range(len(x))]
    v = [row / np.linalg.norm(row) for row in v]
    centres = state["centres"].copy()
    for _ in range(iterations):
        r = [softmax(np.array([c @ row for c in centres])) for row in v]
        for k in range(3):
            mean = sum(r[b][k] * v[b] for b in range(len(v))) / sum(r[b][k] for b in range(len(v)))
            centres[k] = 0.5 * centres[k] + 0.5 * mean
            centres[k] /= np.linalg.norm(centres[k])
    model.calculate_loss(rows)
    np.testing.assert_allclose(model.centres, centres, rtol=1e-4, atol=1e-6)
    model.eval()
    model.predict_tasks(rows)
    np.testing.assert_allclose(model.centres, centres, rtol=1e-4, atol=1e-6)


def test_what_explain_shows_are_the_clusters(adaptdhm):
    model, rows = adaptdhm()
    (shown,) = model.eval().measures(model.embed(rows), model.scenario_of(rows))
    assert shown.columns == ["cluster 1", "cluster 2", "cluster 3"]
    assert set(shown.values.sum(dim=1).tolist()) == {1.0}


@pytest.mark.parametrize("clusters", [1, 4])
def test_the_number_of_parameters_is_that_of_the_equations(make_model, clusters):
    model, _ = make_model(3, "AdaptDHM", **SMALL, clusters=clusters)
    assert count(model) == 3 * 3 + (1 + clusters) * mlp_size(model.features.output_size + 3, 8, 6, 2)
