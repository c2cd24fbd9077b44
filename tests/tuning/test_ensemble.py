"""`--ensemble`: greedy selection by validation, a folder that predicts, gain and cost beside the single model."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from recbole_msr.errors import InputError
from recbole_msr.tuning.greedy import select_greedily


def macro_auc(mean, labels, scenario):
    """The mean AUC over the cells that have both classes, by scikit-learn."""
    values = []
    for of, task in itertools.product(np.unique(scenario), range(labels.shape[1])):
        of_cell = labels[scenario == of, task]
        if len(set(of_cell)) == 2:
            values.append(roc_auc_score(of_cell, mean[scenario == of, task]))
    return sum(values) / len(values)


def slow_selection(scores, labels, scenario, picks):
    """As in the paper: try every model beside the bag, keep the best; then cut the bag where it was at its best."""
    bag, history = [], []
    for _ in range(picks):
        values = []
        for place in range(len(scores)):
            tried = [*bag, place]
            mean = [[sum(scores[p][n][t] for p in tried) / len(tried) for t in range(2)] for n in range(len(labels))]
            values.append(macro_auc(np.array(mean), labels, scenario))
        bag.append(values.index(max(values)))
        history.append(max(values))
    return bag[: history.index(max(history)) + 1]


@pytest.mark.parametrize("seed", range(4))
def test_the_selection_is_that_of_a_slow_one(seed):
    draw = np.random.default_rng(seed)
    labels, scenario = draw.integers(0, 2, (40, 2)), draw.integers(0, 2, 40)
    scores = [np.clip(0.3 * labels + draw.uniform(0, 0.7, (40, 2)), 0, 1) for _ in range(5)]
    picks = select_greedily(scores, lambda mean: -macro_auc(mean, labels, scenario), 6)
    assert picks == slow_selection(scores, labels, scenario, 6)
    best = max(macro_auc(one, labels, scenario) for one in scores)
    assert macro_auc(np.mean([scores[p] for p in picks], axis=0), labels, scenario) >= best


def test_the_best_alone_is_an_ensemble_if_no_mean_is_better():
    perfect, noise = np.array([[0.9], [0.1]]), np.array([[0.1], [0.9]])
    picks = select_greedily([noise, perfect], lambda mean: float(mean[1, 0] - mean[0, 0]), 4)
    assert picks == [1]
    assert select_greedily([noise, perfect], lambda mean: np.nan, 2) == [0], "without any value the first stands"


def test_no_pick_follows_once_it_is_told_to_stop():
    scores = [np.array([[0.4], [0.6]]), np.array([[0.6], [0.4]])]
    target = np.array([[0.5], [0.5]])
    distance = lambda mean: float(abs(mean - target).sum())  # noqa: E731
    assert select_greedily(scores, distance, 2) == [0, 1]
    assert select_greedily(scores, distance, 2, stop=lambda: True) == [0]


def test_a_metric_that_is_not_of_cells_cannot_choose(search):
    with pytest.raises(InputError, match="an ensemble is chosen by a metric of scenarios and tasks"):
        search(trials=1, ensemble=2, config={"valid_metric": "MAE", "metrics": ["MAE"]})
