"""Maps of probabilities against slow calculations, and what has too few rows for one."""

import math

import numpy as np
import pytest

from recbole_msr.evaluation.calibration import FEWEST_OF_A_CLASS, FEWEST_ROWS, Calibration, Isotonic, Temperature
from recbole_msr.evaluation.layout import Layout

LAYOUT = Layout({"click": "binary", "buy": "binary"})
RNG = np.random.default_rng(1)
TRUE = RNG.uniform(0.05, 0.95, 600)
LABELS = (RNG.uniform(size=600) < TRUE).astype(float)
TOO_SURE = 1 / (1 + np.exp(-2.5 * np.log(TRUE / (1 - TRUE))))
"""The true probabilities with their logits stretched by 2.5."""


def log_loss(p, y):
    return -sum(math.log(a) if b == 1 else math.log(1 - a) for a, b in zip(p, y, strict=True)) / len(p)


def pool_adjacent_violators(values):
    """Isotonic regression of values in the order of their probabilities: merge neighbours while they fall."""
    blocks = []
    for value in values:
        blocks.append([value, 1])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (a, n), (b, m) = blocks[-2:]
            blocks[-2:] = [[(a * n + b * m) / (n + m), n + m]]
    return [mean for mean, count in blocks for _ in range(count)]


def test_the_temperature_has_the_least_log_loss_of_a_fine_grid():
    found = Temperature.fit(TOO_SURE, LABELS)
    grid = [math.exp(step / 100) for step in range(-30, 200)]
    losses = [log_loss(Temperature(t)(TOO_SURE), LABELS) for t in grid]
    assert log_loss(found(TOO_SURE), LABELS) <= min(losses) + 1e-9
    assert found.t == pytest.approx(2.5, rel=0.2)


def test_isotonic_is_pool_adjacent_violators_kept_off_0_and_1():
    found = Isotonic.fit(TOO_SURE, LABELS)
    order = np.argsort(TOO_SURE)
    least = 1 / 602
    expected = np.clip(pool_adjacent_violators(LABELS[order]), least, 1 - least)
    assert found(TOO_SURE[order]) == pytest.approx(expected, abs=1e-9)
    assert found(np.array([0.0, 1.0])) == pytest.approx([expected[0], expected[-1]])


def fitted(by, method="temperature"):
    """Two tasks in two scenarios: the second scenario's first task is 4 times too likely in the odds."""
    scenario = np.repeat([1, 2], 300)
    odds = TRUE / (1 - TRUE) * np.where(scenario == 2, 4, 1)
    scores = np.stack([odds / (1 + odds), TRUE], axis=1)
    labels = np.stack([LABELS, LABELS], axis=1)
    labels[:250, 1] = -1
    return Calibration.fit(method, by, scores, labels, scenario, LAYOUT, ["a", "b"]), scores, scenario


def test_by_cell_every_scenario_has_a_map_of_its_own_rows_and_few_rows_fall_back_to_the_task():
    calibration, scores, scenario = fitted("cell", "isotonic")
    own = Isotonic.fit(scores[300:, 0], LABELS[300:])
    whole = Isotonic.fit(scores[250:, 1], LABELS[250:])
    found = calibration(scores, scenario)
    assert found[300:, 0] == pytest.approx(own(scores[300:, 0]))
    assert found[:300, 1] == pytest.approx(whole(scores[:300, 1])), "50 rows have no map of their own"
    assert calibration.left_out == (f"a, buy: 50 validation rows, and {FEWEST_ROWS} are needed",)


def test_by_task_all_scenarios_share_a_map_and_a_row_of_an_unknown_one_has_it_too():
    calibration, scores, scenario = fitted("task")
    one = Temperature.fit(scores[:, 0], LABELS)
    for ids in (scenario, np.zeros_like(scenario)):
        assert calibration(scores, ids)[:, 0] == pytest.approx(one(scores[:, 0]))


def test_what_cannot_be_fitted_stays_as_it_is_and_is_told():
    labels = np.zeros((200, 2))
    labels[:5, 0] = 1
    scores = RNG.uniform(size=(200, 2))
    calibration = Calibration.fit(
        "isotonic", "task", scores, labels, np.ones(200, int), Layout({"click": "binary", "watch": "number"}), ["a"]
    )
    assert (calibration(scores, np.ones(200, int)) == scores).all()
    assert calibration.left_out == (
        f"click: 5 validation rows of a class, and {FEWEST_OF_A_CLASS} are needed",
        "watch: only tasks of 0 and 1 are calibrated",
    )


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_it_reads_back_what_it_wrote(method):
    calibration, scores, scenario = fitted("cell", method)
    again = Calibration.from_dict(calibration.to_dict())
    assert again == calibration
    assert (again(scores, scenario) == calibration(scores, scenario)).all()


@pytest.mark.parametrize(
    "change", [{"method": "platt"}, {"by": "user"}, {"maps": {"click": {"": {"t": -1}}}}, {"maps": {"click": {"": {}}}}]
)
def test_damage_is_refused(change):
    with pytest.raises((ValueError, KeyError)):
        Calibration.from_dict(fitted("task")[0].to_dict() | change)
