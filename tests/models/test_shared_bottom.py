import pytest

from tests.combinations import every
from tests.models.equations import TASKS, assert_logits_equal, count, mlp, mlp_size, tower

SMALL = {
    "embedding_size": 4,
    "bottom_hidden_sizes": [8, 6],
    "tower_hidden_sizes": [5],
    "dropout": 0.0,
}


@every(3, scenarios=[1, 2, 3], tasks=[1, 2], per=["scenario", "task", "scenario_task"], batch_norm=[False, True])
def test_logits_equal_the_equations(make_model, scenarios, tasks, per, batch_norm):
    settings = SMALL | {"tasks": TASKS[tasks], "towers_per": per, "batch_norm": batch_norm}
    model, rows = make_model(scenarios, "SharedBottom", **settings)

    def slow(state, x, i, t):
        return tower(state, "towers", per, i, t, scenarios, mlp(state, "bottom", x))

    assert_logits_equal(model, rows, slow)


@pytest.mark.parametrize(("per", "towers", "outputs"), [("scenario", 3, 2), ("task", 2, 1), ("scenario_task", 6, 1)])
def test_the_number_of_parameters_is_that_of_the_equations(make_model, per, towers, outputs):
    model, _ = make_model(3, "SharedBottom", **SMALL, towers_per=per)
    assert count(model) == mlp_size(model.features.output_size, 8, 6) + towers * mlp_size(6, 5, outputs)
