"""Tasks of classes in every model: losses and predictions, one row after the other."""

import math

import pytest
import torch

from recbole_msr.errors import InputError
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.registry import BUILT_IN_MODELS
from recbole_msr.schema import MISSING_LABEL
from recbole_msr.training.weighting.task_dependence import task_parameter_mask

TASKS = {
    "click": {"field": "rating", "at_least": 4},
    "stars": {"field": "rating", "type": "classes", "ordered": True},
    "time": {"field": "rating", "type": "number"},
}
MODELS = [name for name in BUILT_IN_MODELS if name != "LLM4MSR"]


def _softmax(row):
    largest = max(row)
    exponentials = [math.exp(z - largest) for z in row]
    return [one / sum(exponentials) for one in exponentials]


@pytest.mark.parametrize("model", MODELS)
def test_the_loss_is_the_sum_over_tasks_of_the_means_over_labelled_rows(make_model, model):
    more = {"calibrator_weight": 0.0} if model == "AITM" else {}
    made, rows = make_model(2, model, tasks=TASKS, **more)
    made.eval()
    rows["label_stars"][10:50] = MISSING_LABEL
    z = made.logits(made.embed(rows), made.scenario_of(rows)).tolist()
    target, n = made.number_targets["2"], len(z)
    click = stars = time = labelled = 0.0
    for row, clicked, star, number in zip(z, *(rows[f"label_{task}"].tolist() for task in TASKS), strict=True):
        click += math.log(1 + math.exp(-row[0] if clicked else row[0])) / n
        time += (row[-1] - (number - float(target.mean)) / float(target.scale)) ** 2 / n
        if star != MISSING_LABEL:
            labelled += 1
            stars -= math.log(_softmax(row[1:-1])[int(star)])
    assert made.calculate_loss(rows).item() == pytest.approx(click + stars / labelled + time, rel=1e-4)


def test_predictions_are_a_softmax_over_the_classes(make_model):
    made, rows = make_model(2, "SharedBottom", tasks=TASKS)
    made.eval()
    z = made.logits(made.embed(rows), made.scenario_of(rows))
    predicted = made.predict_tasks(rows)
    names = ["1", "2", "3", "4", "5"]
    assert made.output_names == ["click", *(f"stars={name}" for name in names), "time"]
    for row, of_row in zip(z[:20].tolist(), predicted[:20].tolist(), strict=True):
        assert of_row[1:-1] == pytest.approx(_softmax(row[1:-1]), rel=1e-5)
        assert of_row[0] == pytest.approx(1 / (1 + math.exp(-row[0])), rel=1e-5)


def test_a_main_task_of_classes_predicts_its_likeliest_class(make_model):
    made, rows = make_model(2, "SharedBottom", tasks=TASKS, main_task="stars")
    made.eval()
    likeliest = [max(range(5), key=lambda k: row[1 + k]) for row in made.predict_tasks(rows).tolist()]
    assert made.predict(rows).tolist() == likeliest


def test_a_task_depends_on_the_towers_of_its_classes(make_model):
    made, rows = make_model(2, "SharedBottom", tasks=TASKS, towers_per="task", loss_weighting="fixed")
    parameters = [p for name, p in made.named_parameters() if name.startswith("towers") and p.shape[0] == 7]
    mask = task_parameter_mask(made, rows, parameters)
    ends = torch.tensor([p.numel() for p in parameters]).cumsum(0).tolist()
    assert parameters
    for end, parameter in zip(ends, parameters, strict=True):
        by_tower = mask[:, end - parameter.numel() : end].reshape(3, 7, -1).all(dim=2).tolist()
        assert by_tower == [[t == 0 for t in range(7)], [1 <= t <= 5 for t in range(7)], [t == 6 for t in range(7)]]


class OneLogitATask(MultiScenarioRecommender):
    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.head = torch.nn.Linear(self.features.output_size, self.n_tasks)

    def logits(self, x, scenario):
        return self.head(x)


def test_a_model_with_too_few_logits_is_told_what_they_are(make_model):
    made, rows = make_model(2, OneLogitATask, tasks=TASKS)
    with pytest.raises(InputError, match="has 3 logits a row, and its tasks and classes need 7"):
        made.predict_tasks(rows)
