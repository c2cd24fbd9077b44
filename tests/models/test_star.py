import numpy as np
import pytest
import torch

from tests.combinations import every
from tests.models.equations import EPS, TASKS, count, group, mlp, mlp_size, relu, state_of

PER = ["scenario", "task", "scenario_task"]
SMALL = {
    "embedding_size": 4,
    "fcn_hidden_sizes": [8, 6],
    "scenario_embedding_size": 3,
    "auxiliary_hidden_sizes": [5],
    "dropout": 0.0,
}
RELEASE = {"batch_norm": True, "output_norm": "batch_norm_relu", "auxiliary_input": "features"}


def norm(state, name, p, x, training):
    """Partitioned normalisation of all rows (B, D) of group p."""
    if training:
        mean, variance = x.mean(axis=0), ((x - x.mean(axis=0)) ** 2).mean(axis=0)
    else:
        mean, variance = state[f"{name}.mean"][p], state[f"{name}.variance"][p]
    gamma = state.get(f"{name}.gamma", 1.0) * state[f"{name}.own_gamma"][p]
    beta = state.get(f"{name}.beta", 0.0) + state[f"{name}.own_beta"][p]
    return gamma * (x - mean) / np.sqrt(variance + EPS) + beta


def network(model, state, p, h, training):
    """s_m (rows, outputs) of all rows of group p."""
    if model.input_norm is not None:
        h = norm(state, "input_norm", p, h, training)
    for depth in range(len(model.fcn)):
        name = f"fcn.{depth}"
        weight = state[f"{name}.weight"] * state[f"{name}.own_weight"][p]
        h = h @ weight.T + state[f"{name}.bias"] + state[f"{name}.own_bias"][p]
        if depth < len(model.fcn) - 1:
            if f"norms.{depth}.mean" in state:
                h = norm(state, f"norms.{depth}", p, h, training)
            h = relu(h)
    if "output_norm.mean" in state:
        h = norm(state, "output_norm", p, h, training)
    return relu(h) if model.output_relu else h


def auxiliary(model, state, x, i):
    parts = [state["scenario_embedding"][i]] if "scenario_embedding" in state else []
    return mlp(state, "auxiliary", np.concatenate([*parts, *([x] if model.auxiliary_reads_x else [])]), n_linear=1)


def slow_logits(model, x, scenario, training):
    state, n_scenarios = state_of(model), model.n_scenarios
    result = np.zeros((len(x), model.n_tasks))
    for i in range(n_scenarios):
        for t in range(model.n_tasks):
            p = group(model.groups.per, i, t, n_scenarios)
            # A task's rows are all rows, a scenario's are its own.
            rows = np.arange(len(x)) if model.groups.per == "task" else np.flatnonzero(scenario == i)
            s_m = dict(zip(rows, network(model, state, p, x[rows], training), strict=True))
            for b in np.flatnonzero(scenario == i):
                result[b, t] = s_m[b][t if model.groups.per == "scenario" else 0]
    if not training or not model.auxiliary_has_norm:
        result += [auxiliary(model, state, x[b], scenario[b]) for b in range(len(x))]
    return result


@pytest.fixture
def star(make_model):
    def make(scenarios=3, tasks=2, **settings):
        model, rows = make_model(scenarios, "STAR", **(SMALL | {"tasks": TASKS[tasks]} | settings))
        model.auxiliary_has_norm = bool(settings.get("batch_norm"))
        for name, parameter in model.named_parameters():  # off their start, where all scenarios are alike
            if "own_" in name or "gamma" in name or "beta" in name:
                torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
        torch.nn.init.normal_(model.features.table.weight)
        return model, rows

    return make


@every(
    3,
    scenarios=[1, 2, 3],
    tasks=[1, 2],
    per=PER,
    settings=[{}, RELEASE, {"partitioned_norm": False, "auxiliary_input": "scenario", "output_norm": "batch_norm"}],
)
def test_logits_equal_the_equations(star, scenarios, tasks, per, settings):
    model, rows = star(scenarios, tasks, specific_per=per, **settings)
    model.calculate_loss(rows)  # moves the averages
    model.eval()
    x, scenario = model.embed(rows), model.scenario_of(rows)
    expected = slow_logits(model, x.detach().double().numpy(), scenario.numpy(), training=False)
    np.testing.assert_allclose(model.logits(x, scenario).detach(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scenarios", [1, 2, 3])
@pytest.mark.parametrize("per", PER)
def test_in_training_every_scenario_is_normalised_by_its_own_rows(star, scenarios, per):
    model, rows = star(scenarios, specific_per=per)
    x, scenario = model.embed(rows), model.scenario_of(rows)
    expected = slow_logits(model, x.detach().double().numpy(), scenario.numpy(), training=True)
    np.testing.assert_allclose(model.logits(x, scenario).detach(), expected, rtol=1e-3, atol=1e-4)


def test_moving_averages_are_each_scenarios_own(star):
    model, rows = star(tasks=1)
    x, scenario = model.embed(rows), model.scenario_of(rows)
    for _ in range(100):
        model.logits(x, scenario)
    for i in range(3):
        torch.testing.assert_close(model.input_norm.mean[i], x[scenario == i].mean(0), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(model.input_norm.variance[i], x[scenario == i].var(0), rtol=1e-3, atol=1e-3)


def test_a_scenario_absent_from_a_batch_keeps_its_averages(star):
    model, rows = star()
    before = model.input_norm.mean.clone()
    model.calculate_loss(rows[rows["scenario"] == 2])
    moved = (model.input_norm.mean != before).any(dim=1).view(2, 3)  # (T, M)
    assert moved.tolist() == [[False, True, False]] * 2


def test_at_the_start_all_scenarios_share_one_network(make_model):
    model, rows = make_model(3, "STAR", **SMALL, partitioned_norm=False)
    x = model.embed(rows)
    each = [model._network(x, p) for p in range(6)]
    assert each[0].std() > 0
    for other in each[1:]:
        torch.testing.assert_close(other, each[0])


def test_specific_weights_are_trained_by_their_own_scenario_only(star):
    model, rows = star(activation="tanh")
    model.calculate_loss(rows[rows["scenario"] == 2]).backward()
    own = model.fcn[0].own_weight.grad.flatten(1).abs().sum(1).view(2, 3) > 0
    assert own.tolist() == [[False, True, False]] * 2
    assert model.fcn[0].weight.grad.any()


@pytest.mark.parametrize(("per", "groups", "outputs"), [("scenario", 3, 2), ("task", 2, 1), ("scenario_task", 6, 1)])
def test_the_number_of_parameters_is_that_of_the_equations(make_model, per, groups, outputs):
    model, _ = make_model(3, "STAR", **SMALL, specific_per=per)
    d = model.features.output_size
    star = (1 + groups) * (2 * d + mlp_size(d, 8, 6, outputs))
    assert count(model) == star + 3 * 3 + mlp_size(d + 3, 5, 2)
