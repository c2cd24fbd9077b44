import pytest
import torch

from tests.combinations import every
from tests.models.equations import (
    TASKS,
    assert_logits_equal,
    bank,
    count,
    gate,
    group,
    mlp_size,
    normalised,
    softmax,
    tower,
)

PER = ["scenario", "task", "scenario_task"]
SMALL = {
    "embedding_size": 4,
    "own_experts": 2,
    "shared_experts": 2,
    "expert_hidden_sizes": [7, 6],
    "tower_hidden_sizes": [5],
    "dropout": 0.0,
}


def shared_gate(state, name, x):
    if f"{name}.weight" in state:
        return softmax(state[f"{name}.weight"] @ x + state[f"{name}.bias"])
    return softmax(normalised(state[f"{name}.0.weight"] @ x + state[f"{name}.0.bias"], state, f"{name}.1"))


def slow_logits(experts_per, towers_per, n_scenarios, n_groups, levels, n_own=2, n_shared=2):
    def slow(state, x, i, t):
        own, shared = [x] * n_groups, x  # g_k and g_s
        for level in range(levels):
            name = f"levels.{level}"
            by_group = [
                [bank(state, f"{name}.experts", k * n_own + n, own[k]) for n in range(n_own)] for k in range(n_groups)
            ]
            common = [bank(state, f"{name}.experts", n_groups * n_own + n, shared) for n in range(n_shared)]
            weights = [gate(state, f"{name}.gates", k, own[k]) for k in range(n_groups)]
            own = [sum(w * e for w, e in zip(weights[k], by_group[k] + common, strict=True)) for k in range(n_groups)]
            if level < levels - 1:
                everything = [e for experts in by_group for e in experts] + common
                w_s = shared_gate(state, f"{name}.shared_gate", shared)
                shared = sum(w * e for w, e in zip(w_s, everything, strict=True))
        return tower(state, "towers", towers_per, i, t, n_scenarios, own[group(experts_per, i, t, n_scenarios)])

    return slow


def n_groups(per, scenarios, tasks):
    return {"scenario": scenarios, "task": tasks, "scenario_task": scenarios * tasks}[per]


@every(3, scenarios=[1, 2, 3], tasks=[1, 2], per=PER, levels=[1, 2])
def test_logits_equal_the_equations(make_model, scenarios, tasks, per, levels):
    settings = SMALL | {"tasks": TASKS[tasks], "experts_per": per, "towers_per": per, "levels": levels}
    model, rows = make_model(scenarios, "PLE", **settings)
    slow = slow_logits(per, per, scenarios, n_groups(per, scenarios, tasks), levels)
    assert_logits_equal(model, rows, slow, n_rows=20)


@pytest.mark.parametrize("experts_per", PER)
@pytest.mark.parametrize("towers_per", PER)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_logits_of_mixed_groups_equal_the_equations(make_model, experts_per, towers_per, batch_norm):
    settings = {"experts_per": experts_per, "towers_per": towers_per, "levels": 2}
    settings |= {"batch_norm": batch_norm, "gate_batch_norm": batch_norm}
    model, rows = make_model(3, "PLE", **SMALL, **settings)
    slow = slow_logits(experts_per, towers_per, 3, n_groups(experts_per, 3, 2), 2)
    assert_logits_equal(model, rows, slow, n_rows=20)


def test_an_own_expert_is_trained_by_its_own_scenario_only(make_model):
    model, rows = make_model(3, "PLE", **SMALL, activation="tanh")
    model.calculate_loss(rows[rows["scenario"] == 2]).backward()
    by_expert = model.levels[0].experts.weights[0].grad.flatten(1).abs().sum(-1) > 0
    own, shared = by_expert[:12].view(2, 3, 2), by_expert[12:]  # (T, M, 2), (2,)
    assert own[:, 1].all()
    assert shared.all()
    assert not own[:, [0, 2]].any()


@pytest.mark.parametrize(("per", "groups", "outputs"), [("scenario", 3, 2), ("task", 2, 1), ("scenario_task", 6, 1)])
def test_the_number_of_parameters_is_that_of_the_equations(make_model, per, groups, outputs):
    model, _ = make_model(3, "PLE", **SMALL, experts_per=per, towers_per=per, levels=2)
    d, n_experts = model.features.output_size, 2 * groups + 2
    first = n_experts * mlp_size(d, 7, 6) + groups * mlp_size(d, 4) + mlp_size(d, n_experts)
    last = n_experts * mlp_size(6, 7, 6) + groups * mlp_size(6, 4)
    assert count(model) == first + last + groups * mlp_size(6, 5, outputs)


def test_the_last_level_passes_nothing_shared_on(make_model):
    model, _ = make_model(3, "PLE", **SMALL, levels=2)
    assert [level.shared_gate is not None for level in model.levels] == [True, False]
    assert model.levels[0](torch.zeros(4, model.features.output_size)).shape == (7, 4, 6)
