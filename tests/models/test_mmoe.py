import pytest
import torch

from tests.combinations import every
from tests.models.equations import TASKS, assert_logits_equal, bank, count, gate, group, mlp_size, tower

PER = ["scenario", "task", "scenario_task"]
SMALL = {
    "embedding_size": 4,
    "experts": 3,
    "expert_hidden_sizes": [8, 6],
    "tower_hidden_sizes": [5],
    "dropout": 0.0,
}


def slow_logits(gates_per, towers_per, n_scenarios):
    def slow(state, x, i, t):
        g = gate(state, "gates", group(gates_per, i, t, n_scenarios), x)
        f = sum(g[e] * bank(state, "experts", e, x) for e in range(3))
        return tower(state, "towers", towers_per, i, t, n_scenarios, f)

    return slow


@every(3, scenarios=[1, 2, 3], tasks=[1, 2], gates_per=PER, towers_per=PER)
def test_logits_equal_the_equations(make_model, scenarios, tasks, gates_per, towers_per):
    settings = SMALL | {"tasks": TASKS[tasks], "gates_per": gates_per, "towers_per": towers_per}
    model, rows = make_model(scenarios, "MMoE", **settings)
    assert_logits_equal(model, rows, slow_logits(gates_per, towers_per, scenarios))


@pytest.mark.parametrize("gates_per", PER)
@pytest.mark.parametrize("towers_per", PER)
def test_logits_with_batch_norm_equal_the_equations(make_model, gates_per, towers_per):
    settings = {"gates_per": gates_per, "towers_per": towers_per, "batch_norm": True, "gate_batch_norm": True}
    model, rows = make_model(3, "MMoE", **SMALL, **settings)
    assert_logits_equal(model, rows, slow_logits(gates_per, towers_per, 3))


def test_every_gate_weighs_its_experts(make_model):
    """A softmax over an axis of size 1 would give every expert the weight 1, whatever the gate says."""
    model, rows = make_model(3, "MMoE", **SMALL)
    x = model.embed(rows)
    w = model.gates(x).softmax(dim=-1)
    assert w.shape == (6, len(x), 3)
    torch.testing.assert_close(w.sum(dim=-1), torch.ones(6, len(x)))
    assert (w.std(dim=-1) > 0).any()


def test_a_gate_is_trained_by_its_own_scenario_only(make_model):
    model, rows = make_model(3, "MMoE", **SMALL, activation="tanh")
    model.calculate_loss(rows[rows["scenario"] == 2]).backward()
    by_gate = model.gates.weights[0].grad.unflatten(0, (2, 3)).flatten(2).abs().sum(-1)  # (T, M)
    assert (by_gate[:, 1] > 0).all()
    assert not by_gate[:, [0, 2]].any()
    assert (model.experts.weights[0].grad.flatten(1).abs().sum(1) > 0).all()


@pytest.mark.parametrize(("per", "groups", "outputs"), [("scenario", 3, 2), ("task", 2, 1), ("scenario_task", 6, 1)])
def test_the_number_of_parameters_is_that_of_the_equations(make_model, per, groups, outputs):
    model, _ = make_model(3, "MMoE", **SMALL, gates_per=per, towers_per=per)
    d = model.features.output_size
    expected = 3 * mlp_size(d, 8, 6) + groups * (mlp_size(d, 3) + mlp_size(6, 5, outputs))
    assert count(model) == expected
