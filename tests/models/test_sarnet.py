import numpy as np
import pytest
import torch

from tests.combinations import every
from tests.models.equations import EPS, TASKS, assert_logits_equal, bank, count, gate, mlp_size, tower

SMALL = {
    "embedding_size": 4,
    "shared_experts": 2,
    "own_experts": 3,
    "expert_hidden_sizes": [8],
    "expert_output_size": 6,
    "tower_hidden_sizes": [5],
    "dropout": 0.0,
}


def expert(state, name, number, v):
    if f"{name}.gamma" in state:
        norm = (v - state[f"{name}.norm.running_mean"]) / np.sqrt(state[f"{name}.norm.running_var"] + EPS)
        v = state[f"{name}.gamma"][number, 0] * norm + state[f"{name}.beta"][number, 0]
    return bank(state, f"{name}.bank", number, v, n_linear=1)


def slow_logits(per, scenarios):
    def slow(state, x, i, t):
        v = state["weight"][i] * x + state["bias"][i]
        experts = [expert(state, "shared_experts", e, v) for e in range(2)]
        experts += [expert(state, "own_experts", e * scenarios + i, v) for e in range(3)]
        g = gate(state, "gate", 0, v)
        return tower(state, "towers", per, i, t, scenarios, sum(w * q for w, q in zip(g, experts, strict=True)))

    return slow


@every(
    2,
    scenarios=[1, 2, 3],
    tasks=[1, 3],
    per=["scenario", "task", "scenario_task"],
    hidden=[[], [8]],
    input_norm=[False, True],
    batch_norm=[False, True],
)
def test_logits_equal_the_equations(make_model, scenarios, tasks, per, hidden, input_norm, batch_norm):
    settings = {"tasks": TASKS[tasks], "towers_per": per, "expert_hidden_sizes": hidden}
    settings |= {"expert_input_norm": input_norm, "batch_norm": batch_norm}
    model, rows = make_model(scenarios, "SARNet", **(SMALL | settings))
    for name, parameter in model.named_parameters():  # off their start, where all scenarios are alike
        if name in ("weight", "bias") or "gamma" in name or "beta" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    assert_logits_equal(model, rows, slow_logits(per, scenarios))


def test_own_experts_learn_from_their_own_scenario_only(make_model):
    model, rows = make_model(3, "SARNet", **SMALL, activation="tanh")
    model.calculate_loss(rows[rows["scenario"] == 2]).backward()
    own = model.own_experts.bank.weights[0].grad.flatten(1).abs().sum(1).view(3, 3) > 0
    assert own.tolist() == [[False, True, False]] * 3
    assert model.weight.grad.any(dim=1).tolist() == [False, True, False]


def test_what_explain_shows_are_the_gates_weights(make_model):
    model, rows = make_model(3, "SARNet", **SMALL)
    (shown,) = model.measures(model.embed(rows), model.scenario_of(rows))
    assert shown.columns == [*(f"shared expert {n}" for n in (1, 2)), *(f"own expert {n}" for n in (1, 2, 3))]
    torch.testing.assert_close(shown.values.sum(dim=1), torch.ones(len(rows)))


@pytest.mark.parametrize("input_norm", [False, True])
def test_the_number_of_parameters_is_that_of_the_equations(make_model, input_norm):
    model, _ = make_model(3, "SARNet", **SMALL, expert_input_norm=input_norm)
    d = model.features.output_size
    experts = (2 + 3 * 3) * (mlp_size(d, 8, 6) + (2 * d if input_norm else 0))
    assert count(model) == 3 * 2 * d + experts + mlp_size(d, 2 + 3) + 2 * mlp_size(6, 5, 1)
