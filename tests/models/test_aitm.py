import numpy as np
import pytest
import torch

from tests.combinations import every
from tests.models.equations import TASKS, THREE_TASKS, assert_logits_equal, bank, count, mlp_size, softmax

SMALL = {"embedding_size": 4, "tower_hidden_sizes": [8, 6], "dropout": 0.0}


def slow_logits(n_each, n_tasks):
    def slow(state, x, i, t):
        i = i if n_each > 1 else 0
        z = bank(state, "tower", i, x)
        for s in range(1, t + 1):
            p, q = bank(state, f"hand_over.{s - 1}", i, z), bank(state, "tower", s * n_each + i, x)
            h1, h2, h3 = (state[f"transfer.h{n}.weight"] for n in (1, 2, 3))
            w = softmax(np.array([(h2 @ u) @ (h3 @ u) / np.sqrt(len(u)) for u in (p, q)]))
            z = w[0] * (h1 @ p) + w[1] * (h1 @ q)
        return bank(state, f"outputs.{t}", i, z, n_linear=1)[0]

    return slow


@every(
    3,
    scenarios=[1, 2, 3],
    tasks=[TASKS[1], TASKS[2], THREE_TASKS],
    per=["task", "scenario_task"],
    batch_norm=[False, True],
)
def test_logits_equal_the_equations(make_model, scenarios, tasks, per, batch_norm):
    settings = SMALL | {"tasks": tasks, "towers_per": per, "batch_norm": batch_norm}
    model, rows = make_model(scenarios, "AITM", **settings)
    assert_logits_equal(model, rows, slow_logits(scenarios if per == "scenario_task" else 1, len(tasks)))


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_the_loss_has_the_calibrators_share(make_model, alpha):
    model, rows = make_model(3, "AITM", **SMALL, tasks=THREE_TASKS, calibrator_weight=alpha)
    y = model.predict_tasks(rows).double().detach().numpy()
    labels = model.labels_of(rows).double().numpy()
    entropy = -(labels * np.log(y) + (1 - labels) * np.log(1 - y)).mean(axis=0).sum()
    calibrator = sum(max(y[b, t] - y[b, t - 1], 0) for b in range(len(y)) for t in (1, 2)) / len(y)
    assert calibrator > 0
    np.testing.assert_allclose(model.calculate_loss(rows).item(), entropy + alpha * calibrator, rtol=1e-5)


def test_a_missing_label_counts_in_neither_term(make_model):
    model, rows = make_model(3, "AITM", **SMALL)
    full, _ = model.row_losses(rows)
    rows["label_like"][:5] = -1
    losses, counts = model.row_losses(rows)
    assert not counts[:5, 1].any()
    assert not losses[:5, 1].any()
    torch.testing.assert_close(losses[5:], full[5:])
    torch.testing.assert_close(losses[:, 0], full[:, 0])


def test_the_order_is_that_of_the_declared_tasks(make_model):
    """The first task's logit does not depend on the second's tower; the second's does on the first's."""
    model, rows = make_model(3, "AITM", **SMALL)
    x, scenario = model.embed(rows).detach(), model.scenario_of(rows)
    for t, expected in ((0, [True, False]), (1, [True, True])):
        model.zero_grad()
        model.logits(x, scenario)[:, t].sum().backward()
        touched = model.tower.weights[0].grad.view(2, -1).abs().sum(1) > 0
        assert touched.tolist() == expected


def test_what_is_handed_over_and_the_own_tower_share_the_weight(make_model):
    model, _ = make_model(3, "AITM", **SMALL)
    u = torch.randn(2, 7, 6)
    w = model.transfer.weights(u)
    torch.testing.assert_close(w.sum(dim=0), torch.ones(7))
    assert (w.std(dim=0) > 0).all()


@pytest.mark.parametrize(("per", "n_each"), [("task", 1), ("scenario_task", 3)])
def test_the_number_of_parameters_is_that_of_the_equations(make_model, per, n_each):
    model, _ = make_model(3, "AITM", **SMALL, towers_per=per)
    towers = 2 * mlp_size(model.features.output_size, 8, 6)
    assert count(model) == n_each * (towers + mlp_size(6, 6) + 2 * mlp_size(6, 1)) + 3 * 6 * 6


AFTER = {
    "buy": {"field": "rating", "at_least": 5, "after": "cart"},
    "share": {"field": "rating", "at_least": 2},
    "click": {"field": "rating", "at_least": 3},
    "cart": {"field": "rating", "at_least": 4, "after": "click"},
}
HANDED_OVER = {"cart": ("click", 0), "buy": ("cart", 1)}
"""By task the one before it, and the number of its layer that hands over."""


def test_after_says_which_task_hands_over_to_which(make_model):
    model, rows = make_model(2, "AITM", **SMALL, tasks=AFTER, towers_per="task")
    names = list(AFTER)

    def z_of(state, task, x):
        q = bank(state, "tower", names.index(task), x)
        if task not in HANDED_OVER:
            return q
        before, number = HANDED_OVER[task]
        p = bank(state, f"hand_over.{number}", 0, z_of(state, before, x))
        h1, h2, h3 = (state[f"transfer.h{n}.weight"] for n in (1, 2, 3))
        w = softmax(np.array([(h2 @ u) @ (h3 @ u) / np.sqrt(len(u)) for u in (p, q)]))
        return w[0] * (h1 @ p) + w[1] * (h1 @ q)

    def slow(state, x, i, t):
        return bank(state, f"outputs.{t}", 0, z_of(state, names[t], x), n_linear=1)[0]

    assert_logits_equal(model, rows, slow)


def test_tasks_with_after_need_no_calibrator(make_model):
    model, rows = make_model(2, "AITM", **SMALL, tasks=AFTER, calibrator_weight=0.6)
    x, scenario = model.embed(rows), model.scenario_of(rows)
    assert not model.calibration(model.logits(x, scenario)).any()
    y = model.predict_tasks(rows)
    assert (y[:, 0] <= y[:, 3]).all()
    assert (y[:, 3] <= y[:, 2]).all()
