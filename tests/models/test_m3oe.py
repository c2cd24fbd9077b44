import numpy as np
import pytest
import torch

from tests.combinations import every
from tests.models.equations import TASKS, assert_logits_equal, bank, count, gate, mlp, mlp_size, tower

SMALL = {
    "embedding_size": 4,
    "star_size": 7,
    "representation_size": 6,
    "shared_experts": 3,
    "expert_hidden_sizes": [8, 6],
    "tower_hidden_sizes": [5],
    "dropout": 0.0,
}


def balanced(experts, own, beta):
    others = [e for number, e in enumerate(experts) if number != own]
    return beta * experts[own] + (1 - beta) * sum(others) / len(others) if others else experts[own]


def slow_logits(scenarios, tasks, shared):
    def slow(state, x, i, t):
        w = state["star.weight"] * state["star.own_weight"][i]
        star = w @ x + state["star.bias"] + state["star.own_bias"][i]
        r = mlp(state, "representation", star) + mlp(state, "skip", x)
        experts = [bank(state, "shared_experts", e, r) for e in range(shared)]
        g = gate(state, "gates", t * scenarios + i, r) if shared > 1 else [1.0]
        s = sum(a * e for a, e in zip(g, experts, strict=True))
        weight = {
            name: 1 / (1 + np.exp(-state[f"fusion.{name}"][0]))
            for name in ("alpha_d", "alpha_t", "beta_d", "beta_t")
            if f"fusion.{name}" in state
        }
        d = [bank(state, "scenario_experts", m, r) for m in range(scenarios)]
        q = [bank(state, "task_experts", u, r) for u in range(tasks)]
        d, q = balanced(d, i, weight.get("beta_d")), balanced(q, t, weight.get("beta_t"))
        z = s + weight["alpha_d"] * d + weight["alpha_t"] * q
        return tower(state, "towers", "scenario_task", i, t, scenarios, z)

    return slow


@every(2, scenarios=[1, 2, 3], tasks=[1, 2, 3], shared=[1, 3], batch_norm=[False, True])
def test_logits_equal_the_equations(make_model, scenarios, tasks, shared, batch_norm):
    settings = {"tasks": TASKS[tasks], "shared_experts": shared, "batch_norm": batch_norm}
    model, rows = make_model(scenarios, "M3oE", **(SMALL | settings))
    for name, parameter in model.named_parameters():  # off their start, where all scenarios and weights are alike
        if "own_" in name or "fusion" in name or name == "features.table.weight":
            torch.nn.init.normal_(parameter)
    assert_logits_equal(model, rows, slow_logits(scenarios, tasks, shared))


def test_what_explain_shows_are_the_weights(make_model):
    model, rows = make_model(3, "M3oE", **SMALL)
    gates, fusion = model.measures(model.embed(rows), model.scenario_of(rows))
    assert gates.columns[3] == "like, shared expert 1"
    torch.testing.assert_close(gates.values.view(-1, 2, 3).sum(dim=2), torch.ones(len(rows), 2))
    assert fusion.columns == ["alpha_d", "alpha_t", "beta_d", "beta_t"]
    torch.testing.assert_close(fusion.values, torch.full((len(rows), 4), 1 / (1 + np.exp(-1.0))))


@pytest.mark.parametrize(("scenarios", "tasks", "betas"), [(1, 1, 0), (3, 1, 1), (1, 2, 1), (3, 2, 2)])
def test_the_number_of_parameters_is_that_of_the_equations(make_model, scenarios, tasks, betas):
    model, _ = make_model(scenarios, "M3oE", **SMALL, tasks=TASKS[tasks])
    d, pairs = model.features.output_size, scenarios * tasks
    star = (1 + scenarios) * mlp_size(d, 7) + mlp_size(7, 6) + mlp_size(d, 6)
    experts = (3 + scenarios + tasks) * mlp_size(6, 8, 6)
    assert count(model) == star + experts + pairs * (mlp_size(6, 3) + mlp_size(6, 5, 1)) + 2 + betas
