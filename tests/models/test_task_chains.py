"""Tasks behind tasks: the equations of ESMM (Ma et al., SIGIR 2018), one row after the other."""

import math

import numpy as np
import pytest
import torch

from recbole_msr.layers.task_chain import chain_losses
from recbole_msr.registry import BUILT_IN_MODELS
from recbole_msr.schema import MISSING_LABEL

TWO = {"click": {"field": "rating", "at_least": 3}, "buy": {"field": "rating", "at_least": 5, "after": "click"}}
THREE = {
    "buy": {"field": "rating", "at_least": 5, "after": "cart"},
    "click": {"field": "rating", "at_least": 3},
    "cart": {"field": "rating", "at_least": 4, "after": "click"},
}
MIXED = {
    "stars": {"field": "rating", "type": "number"},
    "rating": {"field": "rating", "type": "classes"},
    **TWO,
}


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def slow_probabilities(tasks, names, z):
    """p of every binary task, and of it given the one before it, of one row's logits by name."""
    given = {name: sigmoid(z[name]) for name in names}
    p = {}
    for name in names:
        p[name], task = given[name], name
        while (task := tasks[task].get("after")) is not None:
            p[name] *= given[task]
    return p, {f"{name}|{tasks[name]['after']}": given[name] for name in names if "after" in tasks[name]}


def logits_by_row(model, rows):
    z = model.logits(model.embed(rows), model.scenario_of(rows)).tolist()
    return [dict(zip(model.output_names, row, strict=True)) for row in z]


@pytest.mark.parametrize("tasks", [TWO, THREE, MIXED])
def test_predictions_are_the_products_and_then_the_conditionals(make_model, tasks):
    model, rows = make_model(2, "SharedBottom", tasks=tasks)
    model.eval()
    names = [name for name in tasks if tasks[name].get("type") is None]
    expected = []
    for z in logits_by_row(model, rows):
        p, given = slow_probabilities(tasks, names, z)
        expected.append([*(p[name] for name in names), *given.values()])
    columns = [model.predicted.names.index(name) for name in (*names, *given)]
    assert model.predicted.names[-len(given) :] == list(given)
    np.testing.assert_allclose(model.predict_tasks(rows)[:, columns].tolist(), expected, rtol=1e-5)


@pytest.mark.parametrize("tasks", [TWO, THREE])
@pytest.mark.parametrize("model", sorted(BUILT_IN_MODELS))
def test_every_model_learns_the_product_over_all_rows(make_model, model, tasks):
    knowledge = {"backbone": "AITM", "knowledge": "random", "knowledge_size": 6} if model == "LLM4MSR" else {}
    made, rows = make_model(2, model, tasks=tasks, **knowledge)
    made.eval()
    rows["label_buy"][:7] = MISSING_LABEL
    losses = {name: [] for name in tasks}
    for b, z in enumerate(logits_by_row(made, rows)):
        p, _ = slow_probabilities(tasks, list(tasks), z)
        for name in tasks:
            label = rows[f"label_{name}"][b].item()
            if label != MISSING_LABEL:
                losses[name].append(-math.log(p[name] if label else 1 - p[name]))
    expected = sum(sum(of_task) / len(of_task) for of_task in losses.values())
    assert made.calculate_loss(rows).item() == pytest.approx(expected, rel=1e-5)


def test_a_mixture_of_types_has_each_types_loss(make_model):
    model, rows = make_model(2, "SharedBottom", tasks=MIXED)
    model.eval()
    alone, _ = make_model(2, "SharedBottom", tasks=MIXED | {"buy": {"field": "rating", "at_least": 5}})
    alone.load_state_dict(model.state_dict())
    alone.eval()
    torch.testing.assert_close(model.task_losses(rows)[:3], alone.task_losses(rows)[:3])
    z = logits_by_row(model, rows)
    p = [sigmoid(row["click"]) * sigmoid(row["buy"]) for row in z]
    expected = [-math.log(q if label else 1 - q) for q, label in zip(p, rows["label_buy"].tolist(), strict=True)]
    assert model.task_losses(rows)[3].item() == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_the_loss_of_the_last_task_reaches_the_towers_of_all_before_it(make_model):
    model, rows = make_model(2, "SharedBottom", tasks=THREE, towers_per="task")
    model.task_losses(rows)[0].backward()
    by_tower = model.towers.bank.weights[-1].grad.abs().flatten(1).sum(dim=1)
    assert (by_tower > 0).tolist() == [True, True, True]


def test_the_loss_of_the_first_task_reaches_its_own_tower_alone(make_model):
    model, rows = make_model(2, "SharedBottom", tasks=THREE, towers_per="task")
    model.task_losses(rows)[1].backward()
    by_tower = model.towers.bank.weights[-1].grad.abs().flatten(1).sum(dim=1)
    assert (by_tower > 0).tolist() == [False, True, False]


@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("z", [[0.3, -1.2], [30.0, 40.0], [-60.0, 50.0], [80.0, -80.0], [2.0, -3.0, 70.0]])
def test_losses_are_exact_where_probabilities_are_near_0_and_1(z, label):
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(120):
        p = mpmath.mpf(1)
        for value in z:
            p /= 1 + mpmath.exp(-value)
        expected = float(-mpmath.log(p if label else 1 - p))
    logits = [torch.tensor([value], requires_grad=True) for value in z]
    losses = chain_losses(logits, torch.tensor([label]))
    assert losses.item() == pytest.approx(expected, rel=1e-5)
    losses.sum().backward()
    assert all(torch.isfinite(value.grad).all() for value in logits)


def test_an_unknown_scenario_has_the_quotient_of_means_as_its_conditional(make_model):
    model, rows = make_model(3, "HiNet", tasks=TWO)
    model.eval()
    rows["scenario"][:] = 0
    x = model.embed(rows)
    click, buy = 0.0, 0.0
    for m, share in enumerate(model.scenario_shares.tolist()):
        z = model.logits(x, torch.full((len(x),), m)).double().detach().numpy()
        of_click, given = 1 / (1 + np.exp(-z[:, 0])), 1 / (1 + np.exp(-z[:, 1]))
        click, buy = click + share * of_click, buy + share * of_click * given
    expected = np.stack([click, buy, buy / click], axis=1)
    np.testing.assert_allclose(model.predict_tasks(rows).tolist(), expected, rtol=1e-5)


def test_without_after_nothing_is_multiplied(make_model):
    tasks = {name: {key: value for key, value in task.items() if key != "after"} for name, task in TWO.items()}
    model, rows = make_model(2, "SharedBottom", tasks=tasks)
    model.eval()
    logits = model.logits(model.embed(rows), model.scenario_of(rows))
    assert torch.equal(model.predict_tasks(rows), logits.sigmoid())
