import numpy as np
import pytest
import torch

from tests.combinations import every
from tests.models.equations import TASKS, assert_logits_equal, bank, count, mlp, mlp_size, relu, softmax, tower

SMALL = {
    "embedding_size": 4,
    "experts": 3,
    "expert_hidden_sizes": [8, 6],
    "scenario_embedding_size": 3,
    "view_size": 4,
    "tower_hidden_sizes": [5],
    "activation": "relu",
    "dropout": 0.0,
}


def meta(state, name, n_layers, h, view, closes):
    """Meta(h): all generated numbers in one vector, the layers' W (columns by rows) and b behind one another."""
    theta = state[f"{name}.layers.generator.weight"] @ view + state[f"{name}.layers.generator.bias"]
    size, start = len(h), 0
    for layer in range(n_layers):
        w = theta[start : start + size * size].reshape(size, size)
        b = theta[start + size * size : start + size * size + size]
        start += size * size + size
        h = w.T @ h + b
        if closes or layer < n_layers - 1:
            h = relu(h)
    return h


def slow_logits(scenarios, experts, unit_layers, meta_tower_layers):
    def slow(state, x, i, t):
        outputs = [bank(state, "experts", e, x) for e in range(experts)]
        view = mlp(state, "scenario_view", state["scenario_embedding"][i])
        r = outputs[0]
        if experts > 1:
            task = mlp(state, "task_view", state["task_embedding"][t])
            scores = []
            for output in outputs:
                h = np.concatenate([output, task])
                h = meta(state, f"attention.{t}.unit", unit_layers, h, view, closes=True)
                scores.append(state[f"attention.{t}.v.weight"][0] @ h)
            alpha = softmax(np.array(scores))
            r = sum(a * output for a, output in zip(alpha, outputs, strict=True))
        for level in range(meta_tower_layers):
            r = relu(meta(state, f"meta_towers.{t}.{level}", unit_layers, r, view, closes=False) + r)
        return tower(state, "towers", "task", i, t, scenarios, r)

    return slow


@every(
    2,
    scenarios=[1, 2, 3],
    tasks=[1, 3],
    experts=[1, 3],
    unit_layers=[1, 2],
    meta_tower_layers=[1, 2],
    batch_norm=[False, True],
)
def test_logits_equal_the_equations(make_model, scenarios, tasks, experts, unit_layers, meta_tower_layers, batch_norm):
    settings = {"experts": experts, "unit_layers": unit_layers, "meta_tower_layers": meta_tower_layers}
    settings |= {"tasks": TASKS[tasks], "batch_norm": batch_norm}
    model, rows = make_model(scenarios, "M2M", **(SMALL | settings))
    for parameter in (model.scenario_embedding, model.features.table.weight, model.task_embedding):
        if parameter is not None:
            torch.nn.init.normal_(parameter)
    assert_logits_equal(model, rows, slow_logits(scenarios, experts, unit_layers, meta_tower_layers))


def test_what_explain_shows_is_the_attention(make_model):
    model, rows = make_model(3, "M2M", **SMALL)
    (shown,) = model.measures(model.embed(rows), model.scenario_of(rows))
    assert shown.columns == [f"{task}, expert {e}" for task in ("click", "like") for e in (1, 2, 3)]
    torch.testing.assert_close(shown.values.view(-1, 2, 3).sum(dim=2), torch.ones(len(rows), 2))


@pytest.mark.parametrize("experts", [1, 3])
def test_the_number_of_parameters_is_that_of_the_equations(make_model, experts):
    model, _ = make_model(3, "M2M", **(SMALL | {"experts": experts}))
    unit, wide = mlp_size(4, 6 * 6 + 6), mlp_size(4, 12 * 12 + 12)
    attention = 2 * 3 + mlp_size(3, 6) + 2 * (wide + 12) if experts > 1 else 0
    own = experts * mlp_size(model.features.output_size, 8, 6)
    assert count(model) == own + 3 * 3 + mlp_size(3, 4) + attention + 2 * unit + 2 * mlp_size(6, 5, 1)
