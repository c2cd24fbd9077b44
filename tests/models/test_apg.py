import numpy as np
import pytest
import torch

from recbole_msr.errors import InputError
from tests.combinations import every
from tests.models.equations import (
    TASKS,
    assert_logits_equal,
    count,
    mlp,
    mlp_size,
    normalised,
    relu,
    tower,
)
from tests.models.test_pepnet import columns_of

SMALL = {
    "embedding_size": 4,
    "scenario_embedding_size": 3,
    "hidden_sizes": [8, 6],
    "rank": 3,
    "dropout": 0.0,
}


def product(state, name):
    """The one matrix that the linear layers of a sequence are."""
    names = sorted(key for key in state if key.startswith(f"{name}."))
    matrix = state[names[0]]
    for key in names[1:]:
        matrix = state[key] @ matrix
    return matrix


def slow_logits(condition, per, scenarios, prior):
    def slow(state, x, i, t):
        e, h = state["scenario_embedding"][i], x
        for layer in range(2):
            z = {"scenario": e, "mix": np.concatenate([e, x[prior]]), "self": np.concatenate([e, h])}[condition]
            name = f"layers.{layer}"
            f = mlp(state, f"{name}.network", z) if f"{name}.network.0.weight" in state else z
            s = (state[f"{name}.generator.weight"] @ f + state[f"{name}.generator.bias"]).reshape(3, 3)
            h = product(state, f"{name}.out") @ s @ product(state, f"{name}.into") @ h + state[f"{name}.bias"]
            if f"norms.{layer}.weight" in state:
                h = normalised(h, state, f"norms.{layer}")
            h = relu(h)
        return tower(state, "towers", per, i, t, scenarios, h)

    return slow


@every(
    2,
    scenarios=[1, 2, 3],
    tasks=[1, 3],
    condition=["scenario", "mix", "self"],
    per=["scenario", "task", "scenario_task"],
    over=[None, 5],
    hidden=[[], [4]],
    batch_norm=[False, True],
)
def test_logits_equal_the_equations(make_model, scenarios, tasks, condition, per, over, hidden, batch_norm):
    settings = {"tasks": TASKS[tasks], "condition": condition, "towers_per": per, "over_size": over}
    settings |= {"generator_hidden_sizes": hidden, "batch_norm": batch_norm}
    model, rows = make_model(scenarios, "APG", **SMALL, **settings)
    for parameter in (model.scenario_embedding, model.features.table.weight):
        torch.nn.init.normal_(parameter)
    prior = columns_of(model, "user_id", "item_id")
    assert_logits_equal(model, rows, slow_logits(condition, per, scenarios, prior))


def test_the_prior_is_for_mix_alone_and_the_larger_width_is_larger(make_model):
    model, rows = make_model(3, "APG", **SMALL, condition="mix", prior_fields=["gender"])
    assert_logits_equal(model, rows, slow_logits("mix", "task", 3, columns_of(model, "gender")))
    with pytest.raises(InputError, match="'prior_fields' is read with condition: mix, not with self"):
        make_model(3, "APG", **SMALL, condition="self", prior_fields=["gender"])
    with pytest.raises(InputError, match="'over_size' must be an integer >= 3, got 2"):
        make_model(3, "APG", **SMALL, over_size=2)


@pytest.mark.parametrize("condition", ["scenario", "mix", "self"])
@pytest.mark.parametrize("scenarios", [1, 3])
def test_every_condition_trains_all_parameters(make_model, condition, scenarios):
    settings = {"condition": condition, "over_size": 5, "generator_hidden_sizes": [4], "activation": "tanh"}
    model, rows = make_model(scenarios, "APG", **SMALL, **settings)
    model.calculate_loss(rows).backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []


def test_what_explain_shows_is_what_the_condition_makes_of_the_matrix(make_model):
    model, rows = make_model(3, "APG", **SMALL)
    (shown,) = model.measures(model.embed(rows), model.scenario_of(rows))
    layer, e = model.layers[1], model.scenario_embedding[model.scenario_of(rows)[5]]
    of_e, fixed = (layer.generator.weight @ e).norm(), layer.generator.bias.norm()
    assert shown.columns == ["layer 1", "layer 2"]
    torch.testing.assert_close(shown.values[5, 1], of_e / (of_e + fixed))


@pytest.mark.parametrize("over", [None, 5])
def test_the_number_of_parameters_is_that_of_the_equations(make_model, over):
    model, _ = make_model(3, "APG", **SMALL, over_size=over)
    d = model.features.output_size
    factors = sum((a * 5 + 5 * 3) if over else a * 3 for a in (d, 8, 8, 6))  # V and U of both layers
    assert count(model) == 3 * 3 + factors + 2 * mlp_size(3, 9) + 8 + 6 + 2 * mlp_size(6, 1)
