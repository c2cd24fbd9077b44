import numpy as np
import pytest
import torch

from tests.combinations import every
from tests.models.equations import EPS, TASKS, assert_logits_equal, bank, count, mlp, mlp_size, state_of, tower

SMALL = {
    "embedding_size": 4,
    "hidden_sizes": [8, 6],
    "rank": 3,
    "bottleneck_size": 4,
    "hyper_hidden_sizes": [5],
    "dropout": 0.0,
}


def adapter(state, name, h, instance, i):
    weights = [state[f"{name}.{part}.weight"] for part in ("down_out", "down_in", "up_out", "up_in")]
    down = weights[0] @ instance @ weights[1] @ h + state[f"{name}.down_out.bias"]
    up = weights[2] @ instance @ weights[3] @ (1 / (1 + np.exp(-down))) + state[f"{name}.up_out.bias"]
    norm = (up - state[f"{name}.norm.mean"][i]) / np.sqrt(state[f"{name}.norm.variance"][i] + EPS)
    return state[f"{name}.norm.own_gamma"][i] * norm + state[f"{name}.norm.own_beta"][i]


def slow_logits(adapters, per, scenarios):
    def slow(state, x, i, t):
        f = mlp(state, "hyper_network", x)
        instance = (state["generator.weight"] @ f + state["generator.bias"]).reshape(3, 3)
        h = x
        for layer in (0, 1):
            h = bank(state, f"layers.{layer}", i, h)
            if layer >= 2 - adapters:
                h = h + adapter(state, f"adapters.{layer - 2 + adapters}", h, instance, i)
        return tower(state, "towers", per, i, t, scenarios, h)

    return slow


@every(
    2,
    scenarios=[1, 2, 3],
    tasks=[1, 3],
    adapters=[1, 2],
    per=["scenario", "task", "scenario_task"],
    batch_norm=[False, True],
)
def test_logits_equal_the_equations(make_model, scenarios, tasks, adapters, per, batch_norm):
    settings = {"tasks": TASKS[tasks], "adapters": adapters, "towers_per": per, "batch_norm": batch_norm}
    model, rows = make_model(scenarios, "HAMUR", **SMALL, **settings)
    for name, parameter in model.named_parameters():  # off their start, where all scenarios are alike
        if "own_" in name or name == "features.table.weight":
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    assert_logits_equal(model, rows, slow_logits(adapters, per, scenarios))


def test_the_domain_norm_is_of_a_scenarios_own_rows(make_model):
    model, rows = make_model(3, "HAMUR", **SMALL)
    x, scenario = model.embed(rows), model.scenario_of(rows)
    torch.nn.init.ones_(model.adapters[0].norm.own_gamma)
    h, instance = torch.randn(len(x), 6), torch.randn(len(x), 3, 3)
    added = model.adapters[0](h, instance, scenario)
    for i in range(3):
        own = added[scenario == i]
        torch.testing.assert_close(own.mean(dim=0), torch.zeros(6), rtol=0, atol=1e-4)
        torch.testing.assert_close(own.var(dim=0, correction=0), torch.ones(6), rtol=0, atol=1e-2)


def test_what_explain_shows_is_the_size_of_what_adapters_add(make_model):
    model, rows = make_model(3, "HAMUR", **SMALL, adapters=2)
    model.calculate_loss(rows)
    x, scenario = model.eval().embed(rows), model.scenario_of(rows)
    (shown,) = model.measures(x, scenario)
    assert shown.columns == ["adapter 1", "adapter 2"]
    state, b = state_of(model), 5
    row = x[b].detach().double().numpy()
    i = int(scenario[b])
    instance = state["generator.weight"] @ mlp(state, "hyper_network", row) + state["generator.bias"]
    h = bank(state, "layers.0", i, row)
    added = adapter(state, "adapters.0", h, instance.reshape(3, 3), i)
    sizes = np.linalg.norm(added), np.linalg.norm(h)
    assert shown.values[b, 0].item() == pytest.approx(sizes[0] / sum(sizes), rel=1e-3)


@pytest.mark.parametrize("adapters", [1, 2])
def test_the_number_of_parameters_is_that_of_the_equations(make_model, adapters):
    model, _ = make_model(3, "HAMUR", **SMALL, adapters=adapters)
    d = model.features.output_size
    cells = [h * 3 + mlp_size(3, 4) + 4 * 3 + mlp_size(3, h) + 3 * 2 * h for h in (8, 6)][-adapters:]
    assert count(model) == 3 * mlp_size(d, 8, 6) + mlp_size(d, 5, 9) + sum(cells) + 6 * mlp_size(6, 1)
