import numpy as np
import pytest
import torch

from recbole_msr.errors import InputError
from tests.combinations import every
from tests.models.equations import TASKS, assert_logits_equal, bank, count, group, mlp_size, relu, tower

SMALL = {
    "embedding_size": 4,
    "scenario_embedding_size": 3,
    "tower_hidden_sizes": [8, 6],
    "gate_hidden_size": 5,
    "dropout": 0.0,
}


def gate(state, name, index, z):
    """gamma sigmoid(W' relu(W z + b) + b')"""
    w1, w2 = (state[f"{name}.bank.weights.{n}"][index] for n in (0, 1))
    b1, b2 = (state[f"{name}.bank.biases.{n}"][index] for n in (0, 1))
    return 2 / (1 + np.exp(-(w2 @ relu(w1 @ z + b1) + b2)))


def slow_logits(networks, per, scenarios, prior):
    def slow(state, x, i, t):
        e, o = state["scenario_embedding"][i], x
        if networks != "ppnet":
            o = gate(state, "epnet", 0, np.concatenate([e, x])) * x
        if networks == "epnet":
            return tower(state, "towers", per, i, t, scenarios, o)
        p = group(per, i, t, scenarios)
        z = np.concatenate([x[prior], o] if networks == "both" else [e, x[prior], o])
        h = o
        for layer in range(2):
            h = gate(state, f"towers.gates.{layer}", p, z) * bank(state, f"towers.layers.{layer}", p, h)
        return tower(state, "towers.outputs", per, i, t, scenarios, h)

    return slow


def columns_of(model, *names):
    """Columns of x that stand for some fields, in the order asked for."""
    places, start = {}, 0
    for part in model.features.columns:
        places[part.name] = list(range(start, start + part.width))
        start += part.width
    return [column for name in names for column in places[name]]


@every(
    2,
    scenarios=[1, 2, 3],
    tasks=[1, 3],
    networks=["both", "epnet", "ppnet"],
    per=["scenario", "task", "scenario_task"],
    batch_norm=[False, True],
)
def test_logits_equal_the_equations(make_model, scenarios, tasks, networks, per, batch_norm):
    settings = {"tasks": TASKS[tasks], "networks": networks, "towers_per": per, "batch_norm": batch_norm}
    model, rows = make_model(scenarios, "PEPNet", **SMALL, **settings)
    for parameter in (model.scenario_embedding, model.features.table.weight):
        torch.nn.init.normal_(parameter)
    prior = columns_of(model, "user_id", "item_id")
    assert_logits_equal(model, rows, slow_logits(networks, per, scenarios, prior))


def test_the_prior_is_what_its_fields_say(make_model):
    model, rows = make_model(3, "PEPNet", **SMALL, prior_fields=["gender", "user_id"])
    assert_logits_equal(model, rows, slow_logits("both", "task", 3, columns_of(model, "gender", "user_id")))
    with pytest.raises(InputError, match="'prior_fields' is read by PPNet's gates"):
        make_model(3, "PEPNet", **SMALL, prior_fields=["gender"], networks="epnet")


def test_a_gate_of_0_is_refused(make_model):
    with pytest.raises(InputError, match="'gate_scale' must be a number > 0, got 0"):
        make_model(3, "PEPNet", **SMALL, gate_scale=0)


@pytest.mark.parametrize("networks", ["both", "epnet", "ppnet"])
@pytest.mark.parametrize("scenarios", [1, 3])
def test_either_network_alone_trains_all_that_it_has(make_model, networks, scenarios):
    model, rows = make_model(scenarios, "PEPNet", **SMALL, networks=networks)
    model.calculate_loss(rows).backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []


def test_no_gradient_goes_back_through_what_gates_read(make_model):
    """The gradient of x is that of a model whose gates are constants, plus the prior's."""
    model, rows = make_model(3, "PEPNet", **SMALL, networks="epnet")
    x, scenario = model.embed(rows).detach().requires_grad_(), model.scenario_of(rows)
    model.logits(x, scenario).sum().backward()
    delta = model._delta_domain(x, scenario).detach()
    constant = x.detach().clone().requires_grad_()
    model.towers(delta * constant, scenario).sum().backward()
    torch.testing.assert_close(x.grad, constant.grad)


def test_gates_begin_near_one(make_model):
    model, rows = make_model(3, "PEPNet")
    epnet, ppnet = model.measures(model.embed(rows), model.scenario_of(rows))
    assert epnet.columns == [part.name for part in model.features.columns]
    assert (epnet.values - 1).abs().max() < 0.1
    assert ppnet.columns[:3] == ["click, layer 1", "like, layer 1", "click, layer 2"]
    assert ppnet.values.max() < 0.1


def test_what_explain_shows_are_the_gates(make_model):
    model, rows = make_model(3, "PEPNet", **SMALL, towers_per="scenario_task")
    x, scenario = model.embed(rows), model.scenario_of(rows)
    torch.nn.init.normal_(model.epnet.bank.biases[1])
    epnet, ppnet = model.measures(x, scenario)
    delta = model._delta_domain(x, scenario)
    gender = epnet.columns.index("gender")
    torch.testing.assert_close(epnet.values[:, gender], delta[:, columns_of(model, "gender")].mean(dim=1))
    z = model._gate_input(x, delta * x, scenario)
    own = model.towers.gates[1](z)[3 + scenario[7], 7]  # the second task's towers stand behind the first's
    torch.testing.assert_close(ppnet.values[7, 3], own.std(correction=0))


@pytest.mark.parametrize("networks", ["both", "epnet", "ppnet"])
def test_the_number_of_parameters_is_that_of_the_equations(make_model, networks):
    model, _ = make_model(3, "PEPNet", **SMALL, networks=networks)
    d = model.features.output_size
    z = d + 2 * 4 + (3 if networks == "ppnet" else 0)
    towers = 2 * mlp_size(d, 8, 6, 1)
    epnet, ppnet = mlp_size(3 + d, 5, d), 2 * (mlp_size(z, 5, 8) + mlp_size(z, 5, 6))
    own = {"both": epnet + ppnet, "epnet": epnet, "ppnet": ppnet}
    assert count(model) == 3 * 3 + towers + own[networks]
