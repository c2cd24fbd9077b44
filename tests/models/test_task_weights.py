"""Weights of a task's rows in the loss of a model, one row after the other."""

import math

import pytest

from recbole_msr.schema import MISSING_LABEL

TASKS = {
    "click": {"field": "rating", "at_least": 4, "weight": "timestamp"},
    "stars": {"field": "rating", "type": "number"},
    "five": {"field": "rating", "above": 4},
}


@pytest.fixture
def made_and_rows(make_model):
    made, rows = make_model(2, "SharedBottom", tasks=TASKS, loss_weights={"click": 0.5})
    made.eval()
    return made, rows


def test_the_loss_of_a_task_with_weights_is_the_weighted_sum_over_its_rows(made_and_rows):
    made, rows = made_and_rows
    rows["label_click"][5:20] = MISSING_LABEL
    z = made.logits(made.embed(rows), made.scenario_of(rows))[:, 0].tolist()
    loss, labelled = 0.0, 0
    for logit, label, weight in zip(z, rows["label_click"].tolist(), rows["weight_click"].tolist(), strict=True):
        if label != MISSING_LABEL:
            labelled += 1
            loss += 0.5 * weight * math.log(1 + math.exp(-logit if label else logit))
    assert made.task_losses(rows)[0].item() == pytest.approx(loss / labelled, rel=1e-5)


def test_weights_are_in_proportion_to_the_field_with_mean_one_over_training_rows(made_and_rows):
    _, rows = made_and_rows
    times, weights = rows["timestamp"].double(), rows["weight_click"].double()
    assert weights.mean().item() == pytest.approx(1, rel=1e-5)
    assert weights.tolist() == pytest.approx((times / times.mean()).tolist(), rel=1e-4)


def test_other_tasks_are_as_without_weights(make_model, made_and_rows):
    made, rows = made_and_rows
    bare = {"click": {"field": "rating", "at_least": 4}, **{name: TASKS[name] for name in ("stars", "five")}}
    without, same_rows = make_model(2, "SharedBottom", tasks=bare, loss_weights={"click": 0.5})
    without.eval()
    assert made.task_losses(rows)[1:].tolist() == without.task_losses(same_rows)[1:].tolist()


def test_labels_of_rows_of_weight_zero_do_not_matter(made_and_rows):
    made, rows = made_and_rows
    rows["weight_click"][:50] = 0.0
    gradients = []
    for _ in range(2):
        made.zero_grad()
        made.task_losses(rows)[0].backward()
        gradients.append([p.grad.clone() for p in made.parameters() if p.grad is not None])
        rows["label_click"][:50] = 1 - rows["label_click"][:50]
    assert all((one == two).all() for one, two in zip(*gradients, strict=True))


def test_a_weighted_task_after_another_weighs_the_loss_of_the_product(make_model):
    tasks = {
        "click": {"field": "rating", "at_least": 3},
        "buy": {"field": "rating", "at_least": 5, "after": "click", "weight": "timestamp"},
    }
    made, rows = make_model(2, "SharedBottom", tasks=tasks)
    made.eval()
    z = made.logits(made.embed(rows), made.scenario_of(rows)).tolist()
    loss = 0.0
    for logits, label, weight in zip(z, rows["label_buy"].tolist(), rows["weight_buy"].tolist(), strict=True):
        p = math.prod(1 / (1 + math.exp(-logit)) for logit in logits)
        loss -= weight * math.log(p if label else 1 - p)
    assert made.task_losses(rows)[1].item() == pytest.approx(loss / len(z), rel=1e-5)
