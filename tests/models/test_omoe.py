from tests.combinations import every
from tests.models.equations import TASKS, assert_logits_equal, bank, count, gate, mlp_size, tower

SMALL = {
    "embedding_size": 4,
    "experts": 3,
    "expert_hidden_sizes": [8, 6],
    "tower_hidden_sizes": [5],
    "dropout": 0.0,
}


@every(3, scenarios=[1, 2, 3], tasks=[1, 2], per=["scenario", "task", "scenario_task"], batch_norm=[False, True])
def test_logits_equal_the_equations(make_model, scenarios, tasks, per, batch_norm):
    settings = {"tasks": TASKS[tasks], "towers_per": per, "batch_norm": batch_norm, "gate_batch_norm": batch_norm}
    model, rows = make_model(scenarios, "OMoE", **SMALL, **settings)

    def slow(state, x, i, t):
        g = gate(state, "gate", 0, x)
        f = sum(g[e] * bank(state, "experts", e, x) for e in range(3))
        return tower(state, "towers", per, i, t, scenarios, f)

    assert_logits_equal(model, rows, slow)


def test_one_expert_needs_no_gate(make_model):
    model, rows = make_model(3, "OMoE", **(SMALL | {"experts": 1}))
    assert not [name for name, _ in model.named_parameters() if name.startswith("gate")]
    assert_logits_equal(
        model,
        rows,
        lambda state, x, i, t: tower(state, "towers", "scenario_task", i, t, 3, bank(state, "experts", 0, x)),
    )


def test_the_number_of_parameters_is_that_of_the_equations(make_model):
    model, _ = make_model(3, "OMoE", **SMALL)
    d = model.features.output_size
    assert count(model) == 3 * mlp_size(d, 8, 6) + mlp_size(d, 3) + 6 * mlp_size(6, 5, 1)
