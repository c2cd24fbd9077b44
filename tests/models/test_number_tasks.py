"""Tasks of numbers in a model: targets, losses and predictions, one row after the other."""

import math

import numpy as np
import pytest
import torch

from recbole_msr.data.label_scale import label_scales
from recbole_msr.errors import InputError
from recbole_msr.layers.number_target import NumberTarget
from recbole_msr.schema import MISSING_LABEL, MISSING_LABELS, Schema

NONE = MISSING_LABELS["number"]


def _tasks(**number):
    return {"click": {"field": "rating", "at_least": 4}, "stars": {"field": "rating", "type": "number", **number}}


def _scale(numbers, **task):
    schema = Schema.from_config({"tasks": {"time": {"field": "time", "type": "number", **task}}})
    return label_scales(schema, {"time": np.asarray(numbers, dtype=np.float32)})["time"]


def _level_by_hand(y, training):
    """The share of training rows below y, half of those equal, as few different numbers have it."""
    below = sum(number < y for number in training)
    equal = sum(number == y for number in training)
    return (below + (equal - 1) / 2) / (len(training) - 1)


def _transformed_by_hand(y, training, transform):
    if transform == "quantile":
        return _level_by_hand(y, training)
    return math.log(1 + y) if transform == "log1p" else y


def _loss_by_hand(z, target, loss):
    error = abs(z - target)
    if loss == "huber":
        return error**2 / 2 if error <= 1 else error - 0.5
    return error**2 if loss == "mse" else error


@pytest.mark.parametrize("loss", ["mse", "huber", "mae"])
@pytest.mark.parametrize("transform", ["none", "log1p", "quantile"])
def test_losses_are_on_the_scale_of_the_training_rows(transform, loss):
    training = [0.0, 0, 0, 1, 2, 2, 5, 9, 40, 300]
    scale = _scale(training, transform=transform, loss=loss)
    values = [_transformed_by_hand(y, training, transform) for y in training]
    mean = sum(values) / len(values)
    deviation = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
    outputs = [-2.0, -0.4, 0, 0.1, 0.3, 0.9, 1, 1.5, 2.5, 3]
    expected = [_loss_by_hand(z, (value - mean) / deviation, loss) for z, value in zip(outputs, values, strict=True)]
    target = NumberTarget(transform, loss, scale)
    assert target.losses(torch.tensor(outputs), torch.tensor(training)).tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("transform", ["none", "log1p", "quantile"])
def test_what_is_predicted_of_the_target_is_the_number(transform):
    training = [0.0, 0, 3, 3, 4, 90, 1000]
    scale = _scale(training, transform=transform)
    z = [(_transformed_by_hand(y, training, transform) - scale["mean"]) / scale["scale"] for y in training]
    target = NumberTarget(transform, "mse", scale)
    assert target.predictions(torch.tensor(z)).tolist() == pytest.approx(training, rel=1e-4, abs=1e-3)


def test_quantiles_keep_predictions_in_the_range_of_the_training_rows():
    target = NumberTarget("quantile", "mse", _scale([2.0, 3, 7, 7, 50], transform="quantile"))
    assert target.predictions(torch.tensor([-9.0, 9.0])).tolist() == [2, 50]


def test_log1p_predicts_no_negative_and_no_infinite_number():
    target = NumberTarget("log1p", "mse", _scale([0.0, 1, 10], transform="log1p"))
    low, high = target.predictions(torch.tensor([-100.0, 1e6])).tolist()
    assert low == 0
    assert math.isfinite(high)


def test_many_numbers_have_the_quantiles_of_numpy():
    training = np.random.default_rng(0).lognormal(size=20_000).astype(np.float32)
    scale = _scale(training, transform="quantile")
    assert len(scale["values"]) == 1001
    assert scale["values"] == pytest.approx(np.quantile(training, np.linspace(0, 1, 1001)).tolist(), rel=1e-5)
    assert (scale["mean"], scale["scale"]) == (pytest.approx(0.5, abs=1e-3), pytest.approx(12**-0.5, abs=1e-3))


def test_missing_numbers_are_left_out_of_the_scale():
    assert _scale([1.0, NONE, 3, NONE]) == {"typical": 2.0, "mean": 2.0, "scale": 1.0}


@pytest.mark.parametrize(("numbers", "told"), [([NONE], "is in no training row"), ([3.0, NONE, 3.0], "is 3 in every")])
def test_a_task_without_different_numbers_is_refused(numbers, told):
    with pytest.raises(InputError, match=f"task 'time': field 'time' {told}"):
        _scale(numbers)


@pytest.mark.parametrize("loss", ["mse", "huber", "mae"])
@pytest.mark.parametrize("model", ["SharedBottom", "AITM", "HiNet"])
def test_the_loss_is_the_sum_over_tasks_of_the_means_over_labelled_rows(make_model, model, loss):
    made, rows = make_model(2, model, tasks=_tasks(loss=loss), loss_weights={"stars": 0.3})
    made.eval()
    rows["label_click"][:60], rows["label_stars"][30:90] = MISSING_LABEL, NONE
    z = made.logits(made.embed(rows), made.scenario_of(rows)).tolist()
    training = rows["label_stars"].tolist()
    scale = made.number_targets["1"]
    click, stars = [], []
    for (click_logit, stars_z), label, number in zip(z, rows["label_click"].tolist(), training, strict=True):
        if label != MISSING_LABEL:
            click.append(math.log(1 + math.exp(-click_logit if label else click_logit)))
        if number != NONE:
            stars.append(_loss_by_hand(stars_z, (number - float(scale.mean)) / float(scale.scale), loss))
    expected = sum(click) / len(click) + 0.3 * sum(stars) / len(stars)
    assert made.calculate_loss(rows).item() == pytest.approx(expected, rel=1e-4)


def test_the_scale_is_that_of_the_training_rows(make_model):
    made, rows = make_model(2, "SharedBottom", tasks=_tasks())
    numbers = rows["label_stars"].numpy().astype(np.float64)
    target = made.number_targets["1"]
    assert (float(target.mean), float(target.scale)) == pytest.approx((numbers.mean(), numbers.std()), rel=1e-5)


def test_predictions_are_probabilities_beside_numbers_in_the_fields_unit(make_model):
    made, rows = make_model(2, "SharedBottom", tasks=_tasks(transform="log1p"))
    made.eval()
    z = made.logits(made.embed(rows), made.scenario_of(rows))
    target = made.number_targets["1"]
    expected = (z[:, 1] * target.scale + target.mean).exp() - 1
    predicted = made.predict_tasks(rows)
    torch.testing.assert_close(predicted[:, 0], z[:, 0].sigmoid())
    torch.testing.assert_close(predicted[:, 1], expected)


@pytest.mark.parametrize("transform", ["none", "log1p", "quantile"])
def test_a_missing_number_gives_no_gradient_and_no_nan(make_model, transform):
    made, rows = make_model(2, "SharedBottom", tasks=_tasks(transform=transform))
    rows["label_click"][:], rows["label_stars"][:] = MISSING_LABEL, NONE
    made.calculate_loss(rows).backward()
    assert all(p.grad is None or float(p.grad.abs().sum()) == 0 for p in made.parameters())


def test_uncertainty_has_the_regressions_half_for_squared_errors(make_model):
    made, rows = make_model(2, "SharedBottom", tasks=_tasks(), loss_weighting="uncertainty")
    made.eval()
    with torch.no_grad():
        made.log_variances.copy_(torch.tensor([0.2, -0.4]))
    click, stars = made.task_losses(rows).tolist()
    expected = math.exp(-0.2) * click + 0.1 + math.exp(0.4) * stars / 2 - 0.2
    assert made.calculate_loss(rows).item() == pytest.approx(expected, rel=1e-5)


def test_aitms_calibrator_is_between_binary_tasks_alone(make_model):
    tasks = _tasks() | {"like": {"field": "rating", "at_least": 5}, "love": {"field": "rating", "above": 4}}
    made, _ = make_model(2, "AITM", tasks=tasks, calibrator_weight=1.0)
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0]])
    expected = [0.0, 0.0, 0.0, 1 / (1 + math.exp(-2)) - 1 / (1 + math.exp(-1))]
    assert made.calibration(logits)[0].tolist() == pytest.approx(expected, rel=1e-5)
