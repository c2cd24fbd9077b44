import pytest
import torch

from tests.combinations import every
from tests.models.equations import TASKS, assert_logits_equal, bank, count, gate, mlp_size

SMALL = {
    "embedding_size": 4,
    "experts": 3,
    "expert_hidden_sizes": [8, 6],
    "tower_hidden_sizes": [5],
    "dropout": 0.0,
}
RELATIONS = ["scenario", "task", "scenario_task"]


def related(relations, i, t, n_scenarios, n_tasks):
    """The (scenario, task) pairs that task t in scenario i sums over."""
    return {
        "scenario": [(j, t) for j in range(n_scenarios)],
        "task": [(i, u) for u in range(n_tasks)],
        "scenario_task": [(j, u) for u in range(n_tasks) for j in range(n_scenarios)],
    }[relations]


@every(3, scenarios=[1, 2, 3], tasks=[1, 2], relations=RELATIONS, batch_norm=[False, True], stop_gradient=[True, False])
def test_logits_equal_the_equations(make_model, scenarios, tasks, relations, batch_norm, stop_gradient):
    settings = {"relations": relations, "stop_gradient": stop_gradient}
    settings |= {"tasks": TASKS[tasks], "batch_norm": batch_norm, "gate_batch_norm": batch_norm}
    model, rows = make_model(scenarios, "HMoE", **SMALL, **settings)

    def o(state, x, j, t):
        g = gate(state, "gates", t * scenarios + j, x)
        f = sum(g[e] * bank(state, "experts", e, x) for e in range(3))
        return bank(state, "towers", t * scenarios + j, f, n_linear=1)[0]

    def slow(state, x, i, t):
        pairs = related(relations, i, t, scenarios, tasks)
        if len(pairs) == 1:
            return o(state, x, i, t)
        a = gate(state, "relation_weights", t * scenarios + i, x)
        return sum(a_j * o(state, x, *pair) for a_j, pair in zip(a, pairs, strict=True))

    assert_logits_equal(model, rows, slow)


@pytest.mark.parametrize("relations", RELATIONS)
def test_a_row_trains_its_own_towers_and_gates_only(make_model, relations):
    """Task-constrained back-propagation: others' predictions are constants."""
    model, rows = make_model(3, "HMoE", **SMALL, activation="tanh", relations=relations)
    model.logits(model.embed(rows), torch.full((len(rows),), 1))[:, 0].sum().backward()  # task 0 in scenario 1
    for parameter in (*model.towers.parameters(), *model.gates.parameters(), *model.relation_weights.parameters()):
        touched = parameter.grad.flatten(1).abs().sum(-1) > 0
        assert touched.tolist() == [False, True, False, False, False, False]


def test_without_stop_gradient_a_row_trains_the_towers_it_sums_over(make_model):
    model, rows = make_model(3, "HMoE", **SMALL, activation="tanh", stop_gradient=False)
    model.logits(model.embed(rows), torch.full((len(rows),), 1))[:, 0].sum().backward()
    touched = model.towers.weights[0].grad.flatten(1).abs().sum(-1) > 0
    assert touched.tolist() == [True, True, True, False, False, False]


def test_the_own_gradient_is_the_same_with_and_without_stop_gradient(make_model):
    """Stopping the others' gradients leaves what flows into a task's own tower as it is."""
    gradients = []
    for stop in (True, False):
        model, rows = make_model(3, "HMoE", **SMALL, stop_gradient=stop)
        model.logits(model.embed(rows), torch.full((len(rows),), 1))[:, 0].sum().backward()
        gradients.append(model.towers.weights[0].grad[1])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("relations", "n_related"), [("scenario", 3), ("task", 2), ("scenario_task", 6)])
def test_the_number_of_parameters_is_that_of_the_equations(make_model, relations, n_related):
    model, _ = make_model(3, "HMoE", **SMALL, relations=relations)
    d = model.features.output_size
    by_group = mlp_size(d, 3) + mlp_size(6, 5, 1) + mlp_size(d, n_related)
    assert count(model) == 3 * mlp_size(d, 8, 6) + 6 * by_group
