"""Metrics of ranked lists: against RecBole's own evaluator on the same scores, and against a slow loop."""

import math

import numpy as np
import pytest
import torch

from recbole_msr.evaluation.cells import Evaluation, evaluate_lists
from recbole_msr.evaluation.metrics import METRICS, find_metric, metric_keys
from recbole_msr.evaluation.ranking import LIST_METRICS, list_metric_names, list_values

K = 7
CUTOFFS = [1, 3, 7]
NAMES = list_metric_names([metric.heading for metric in LIST_METRICS.values()], CUTOFFS)


def _lists(n=60, items=12, seed=3):
    """Return scores (n, items) without ties, and which items are positives, at least one a list."""
    draw = np.random.default_rng(seed)
    scores = draw.permuted(np.tile(np.linspace(-1, 1, items), (n, 1)), axis=1)
    positive = draw.random((n, items)) < draw.choice([0.1, 0.4, 0.9], (n, 1))
    positive[np.arange(n), draw.integers(items, size=n)] = True
    return scores, positive


def _hits(scores, positive):
    best = np.argsort(-scores, axis=1)[:, :K]
    return np.take_along_axis(positive, best, axis=1)


def _recbole(scores, positive):
    from recbole.config import Config
    from recbole.evaluator import Collector, Evaluator

    settings = {"metrics": [metric.heading for metric in LIST_METRICS.values()], "topk": CUTOFFS}
    settings |= {"metric_decimal_place": 12, "state": "ERROR", "use_gpu": False}
    config = Config(model="BPR", dataset="ml-100k", config_dict=settings)
    collector = Collector(config)
    users, items = map(torch.from_numpy, positive.nonzero())
    collector.eval_batch_collect(torch.from_numpy(scores), None, users, items)
    return Evaluator(config).evaluate(collector.get_data_struct())


def test_metrics_are_those_of_recboles_evaluator_on_the_same_scores():
    scores, positive = _lists()
    expected = _recbole(scores, positive)
    ours = list_values(_hits(scores, positive), positive.sum(axis=1), NAMES)
    assert set(expected) == set(ours)
    for name, values in ours.items():
        assert values.mean() == pytest.approx(expected[name], abs=1e-11), name


def _slow(hits, positives, metric, k):
    """Return a metric of one list, from its definition."""
    found = [place for place, hit in enumerate(hits[:k], start=1) if hit]
    if metric == "hit":
        return 1.0 if found else 0.0
    if metric == "mrr":
        return 1 / found[0] if found else 0.0
    if metric == "precision":
        return len(found) / k
    if metric == "recall":
        return len(found) / positives
    if metric == "map":
        return sum(sum(1 for other in found if other <= place) / place for place in found) / min(k, positives)
    gain = sum(1 / math.log2(place + 1) for place in found)
    return gain / sum(1 / math.log2(place + 1) for place in range(1, min(k, positives) + 1))


@pytest.mark.parametrize("metric", LIST_METRICS)
def test_each_metric_is_its_definition_list_by_list(metric):
    scores, positive = _lists(seed=8)
    hits, positives = _hits(scores, positive), positive.sum(axis=1)
    for k in CUTOFFS:
        expected = [_slow(of_list, n, metric, k) for of_list, n in zip(hits, positives, strict=True)]
        assert list_values(hits, positives, [f"{metric}@{k}"])[f"{metric}@{k}"] == pytest.approx(expected)


@pytest.fixture
def evaluation():
    """Two scenarios, two tasks; no list of the second scenario has a positive of the second task."""
    hits = np.zeros((4, 2, 3), dtype=bool)
    hits[0, 0, 0] = hits[1, 0, 1] = hits[2, 0, 2] = hits[0, 1, 0] = True
    positives = np.array([[1, 2], [1, 0], [1, 0], [2, 0]])
    metrics = ["mrr@3", "hit@1"]
    return evaluate_lists(hits, positives, np.array([1, 1, 2, 2]), ["a", "b"], ["click", "buy"], "click", metrics, 1)


def test_a_list_counts_for_the_tasks_of_which_it_has_a_positive(evaluation):
    assert evaluation.pooled["click"].rows == 4
    assert (evaluation.pooled["buy"].rows, evaluation.pooled["buy"].positives) == (1, 2)
    assert evaluation.cells["a"]["click"].value("mrr@3") == pytest.approx((1 + 1 / 2) / 2)
    assert evaluation.cells["b"]["click"].value("mrr@3") == pytest.approx((1 / 3 + 0) / 2)


def test_macro_and_worst_are_over_the_cells_that_have_lists(evaluation):
    cells = [(1 + 1 / 2) / 2, (1 / 3) / 2, 1.0]
    assert evaluation.macro("mrr@3") == pytest.approx(np.mean(cells))
    assert evaluation.worst("mrr@3") == ("b", "click", pytest.approx(1 / 6))
    assert evaluation.undefined == [("b", "buy", "no list has a positive")]


def test_values_have_the_keys_of_other_metrics(evaluation):
    flat = evaluation.flat()
    assert flat["mrr@3"] == flat["mrr@3/click"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 4)
    assert flat["hit@1/a/click"] == 0.5
    assert "hit@1/b/buy" not in flat
    assert evaluation.keys() == metric_keys(["a", "b"], evaluation.types, "click", ["mrr@3", "hit@1"])
    assert find_metric("MRR@3/Macro", evaluation.keys()) == "mrr@3/macro"


def test_cells_come_back_from_json(evaluation):
    assert Evaluation.from_dict(evaluation.to_dict()) == evaluation


def test_few_lists_are_in_no_mean():
    few = evaluate_lists(np.ones((1, 1, 1), dtype=bool), np.array([[1]]), np.array([1]), ["a"], ["t"], "t", ["hit@1"])
    assert few.cells["a"]["t"].undefined == "1 list, fewer than 2"
    assert few.cells["a"]["t"].value("hit@1") == 1.0
    assert few.macro("hit@1") is None


def test_a_cutoff_makes_a_metric_of_a_name():
    assert METRICS["ndcg@10"].heading == "NDCG@10"
    assert "recall@5" in METRICS
    for name in ("ndcg", "ndcg@", "ndcg@0", "auc@10", "ndcg@x"):
        assert name not in METRICS
