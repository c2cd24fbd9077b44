import copy
import math
import pickle

import pytest
import torch

from recbole_msr.errors import InputError
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.schema import MISSING_LABEL


class Linear(MultiScenarioRecommender):
    """The smallest model: one linear layer a scenario."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.heads = torch.nn.ModuleList(
            torch.nn.Linear(self.features.output_size, self.n_tasks) for _ in self.scenario_names
        )

    def logits(self, x, scenario):
        every = torch.stack([head(x) for head in self.heads])
        return every[scenario, torch.arange(len(x))]


@pytest.fixture
def linear(make_model):
    return lambda scenarios=3, **settings: make_model(scenarios, Linear, **settings)


def bce(probability, label):
    return -math.log(probability if label else 1 - probability)


def slow_loss(model, rows, weight_of):
    """L, one row and one task after the other."""
    probabilities = model.predict_tasks(rows).tolist()
    total = 0.0
    for t, task in enumerate(model.task_names):
        labels = rows[f"label_{task}"].tolist()
        labelled = [b for b, label in enumerate(labels) if label != MISSING_LABEL]
        for b in labelled:
            scenario = model.scenario_names[rows["scenario"][b] - 1]
            total += weight_of(task, scenario) * bce(probabilities[b][t], labels[b]) / len(labelled)
    return total


def test_what_a_model_knows_of_its_data(linear):
    model, rows = linear()
    assert model.task_names == ["click", "like"]
    assert model.scenario_names == ["young", "mid", "old"]
    assert (model.n_tasks, model.n_scenarios, model.LABEL) == (2, 3, "label_click")
    counts = torch.bincount(rows["scenario"], minlength=4)[1:]
    torch.testing.assert_close(model.scenario_shares, counts / counts.sum())
    assert model.scenario_of(rows).tolist() == (rows["scenario"] - 1).tolist()
    fields = model.features.token_fields + model.features.token_seq_fields + model.features.float_fields
    assert sorted(fields) == ["age", "class", "gender", "item_id", "user_id"]


def test_predict_is_the_main_task(linear):
    model, rows = linear(main_task="like")
    tasks = model.predict_tasks(rows)
    torch.testing.assert_close(tasks, model.logits(model.embed(rows), rows["scenario"] - 1).sigmoid())
    torch.testing.assert_close(model.predict(rows), tasks[:, 1])


def test_a_single_row_is_predicted(linear):
    model, rows = linear()
    torch.testing.assert_close(model.predict(rows[torch.tensor([3])]), model.predict(rows)[3:4])


def test_the_loss_is_the_mean_over_labelled_rows_of_each_task_summed_over_tasks(linear):
    model, rows = linear()
    rows["label_like"][:100] = MISSING_LABEL
    assert model.calculate_loss(rows).item() == pytest.approx(slow_loss(model, rows, lambda *_: 1.0), rel=1e-5)


def test_loss_weights_go_by_scenario_and_task(linear):
    model, rows = linear(loss_weights={"click": 0.5, "like": {"young": 2, "old": 0}})
    rows["label_click"][::3] = MISSING_LABEL
    weights = {("like", "young"): 2.0, ("like", "mid"): 1.0, ("like", "old"): 0.0}
    expected = slow_loss(model, rows, lambda task, scenario: weights.get((task, scenario), 0.5))
    assert model.calculate_loss(rows).item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(model.task_losses(rows).sum(), model.calculate_loss(rows))


def test_a_row_without_a_label_trains_nothing_of_that_task(linear):
    """Bug 5: a missing label is not a 0."""
    model, rows = linear()
    rows["label_like"][:] = MISSING_LABEL
    rows["label_like"][:4] = 1
    expected = model.task_losses(rows[torch.arange(4)])[1]
    torch.testing.assert_close(model.task_losses(rows)[1], expected)
    changed = copy.deepcopy(rows)
    changed["item_id"][4:] = rows["item_id"][4:].flip(0)
    torch.testing.assert_close(model.task_losses(changed)[1], expected)
    model.task_losses(rows)[1].backward()
    of_users = model.features.table.weight.grad[model.features.offsets[-1] :]
    trained = of_users.abs().sum(1).nonzero().flatten()
    assert set(trained.tolist()) == set(rows["user_id"][:4].tolist())


def test_a_task_that_no_row_carries_costs_nothing_and_keeps_the_graph(linear):
    model, rows = linear()
    rows["label_like"][:] = MISSING_LABEL
    losses = model.task_losses(rows)
    assert losses[1].item() == 0
    losses[1].backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.heads.parameters())
    rows["label_click"][:] = MISSING_LABEL
    assert model.calculate_loss(rows).item() == 0


def test_row_losses_are_zero_where_they_do_not_count(linear):
    model, rows = linear()
    rows["label_click"][:2] = MISSING_LABEL
    rows["scenario"][5] = 0
    losses, counts = model.row_losses(rows)
    assert losses.shape == counts.shape == (480, 2)
    assert counts[:6].tolist() == [[False, True]] * 2 + [[True, True]] * 3 + [[False, False]]
    assert ((losses != 0) == counts).all()


def test_an_unknown_scenario_is_the_mean_of_all_by_their_shares(linear):
    model, rows = linear()
    known = model.predict_tasks(rows)
    rows["scenario"][torch.tensor([2, 7])] = 0
    predicted = model.predict_tasks(rows)
    x = model.embed(rows)
    for row in (2, 7):
        each = [model.heads[m](x[row]).sigmoid() * model.scenario_shares[m] for m in range(3)]
        torch.testing.assert_close(predicted[row], sum(each))
    others = torch.ones(480, dtype=torch.bool)
    others[[2, 7]] = False
    torch.testing.assert_close(predicted[others], known[others], rtol=0, atol=0)


def test_known_scenarios_are_computed_once(linear, monkeypatch):
    model, rows = linear()
    calls, logits = [], model.logits
    monkeypatch.setattr(model, "logits", lambda *args: calls.append(1) or logits(*args))
    model.predict(rows)
    assert len(calls) == 1


def test_shares_are_equal_where_the_dataset_gives_none(make_dataset):
    config, train = make_dataset()
    train = copy.copy(train)
    train.scenario_shares = None
    torch.testing.assert_close(Linear(config, train).scenario_shares, torch.full((3,), 1 / 3))


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (
            {"klick": 1},
            "there is no task 'klick'; did you mean 'click' or 'like'? The tasks are: click, like.",
        ),
        ({"like": {"yung": 1}}, "'loss_weights: like': there is no scenario 'yung'; did you mean 'young'?"),
        ({"like": {"xxx": 1}}, "there is no scenario 'xxx'. The scenarios are: young, mid, old."),
        ({"like": -1}, "'loss_weights: like' must be a number >= 0, got -1"),
        ({"like": {"old": "high"}}, "'loss_weights: like: old' must be a number >= 0, got 'high'"),
        ({"click": 0, "like": 0}, "all 0"),
        ([1, 2], "must map tasks to numbers, e.g. {click: 0.5} or {click: {young: 0.5}}, got [1, 2]"),
    ],
)
def test_impossible_loss_weights_are_refused(linear, declared, message):
    with pytest.raises(InputError) as error:
        linear(loss_weights=declared)
    assert message in str(error.value)


def test_a_dataset_without_tasks_is_refused(make_dataset):
    config, train = make_dataset()
    train = copy.copy(train)
    train.schema = None
    with pytest.raises(InputError, match=r"Linear needs tasks.*tasks: \{click:"):
        Linear(config, train)


def test_a_model_is_copied_and_pickled_whole(linear):
    model, rows = linear()
    model.calculate_loss(rows).backward()  # leaves no tensor with a history behind
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(twin.predict_tasks(rows), model.predict_tasks(rows), rtol=0, atol=0)


def test_no_parameter_is_dead(linear):
    """RecBole's ContextRecommender makes tables and first-order weights of its own; none of them is here."""
    model, _ = linear()
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"features", "heads"}
