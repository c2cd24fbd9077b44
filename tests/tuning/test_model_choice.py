"""Where the budget of a search over models goes, on models that are numbers and seconds."""

import math
import random
import statistics

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from recbole_msr.tuning.model_choice import ModelChoice, Record, expected_improvement, improvements, model_of, records


def near(centre, spread):
    """Values of a model: four of five are around its centre, the others far below."""
    return lambda draw: draw.gauss(centre, spread) if draw.random() > 0.2 else centre - 0.1 * draw.random()


def spend(models, budget, seed=0):
    """Return each model's share of the budget when one worker spends it."""
    draw, left = random.Random(seed), budget
    known = {model: Record() for model in models}
    choose = ModelChoice({model: seconds for model, (_, seconds) in models.items()})
    spent = dict.fromkeys(models, 0.0)
    order = []
    while left > 0:
        model = choose(known, left)
        value_of, seconds = models[model]
        value, record = value_of(draw), known[model]
        record.ended, record.stale = record.ended + 1, record.stale + 1
        if not record.values or value > max(record.values):
            record.stale = 0
        record.values.append(value)
        record.seconds.append(seconds)
        left -= seconds
        spent[model] += seconds
        order.append(model)
    return {model: seconds / budget for model, seconds in spent.items()}, order


def mean_shares(models, budget, seeds=12):
    found = [spend(models, budget, seed)[0] for seed in range(seeds)]
    return {model: statistics.mean(shares[model] for shares in found) for model in models}


def test_every_model_is_looked_at_first_the_cheapest_before_the_others():
    models = {"dear": (near(0.8, 0.004), 9.0), "cheap": (near(0.7, 0.004), 1.0), "middle": (near(0.75, 0.004), 3.0)}
    _, order = spend(models, 300)
    assert order[:6] == ["cheap", "middle", "dear", "cheap", "middle", "dear"]


def test_a_good_dear_model_gets_the_budget_beside_a_cheap_weak_one():
    shares = mean_shares({"good": (near(0.80, 0.004), 8.0), "weak": (near(0.75, 0.004), 1.0)}, 300)
    assert shares["good"] > 0.85


def test_of_equal_models_the_cheap_one_gets_more():
    shares = mean_shares({"dear": (near(0.80, 0.004), 8.0), "cheap": (near(0.80, 0.004), 1.0)}, 300)
    assert shares["cheap"] > 0.6


def test_the_weak_of_three_gets_least_and_the_equal_two_share():
    models = {"good": (near(0.8, 0.004), 4.0), "equal": (near(0.8, 0.004), 4.0), "weak": (near(0.76, 0.004), 4.0)}
    shares = mean_shares(models, 300)
    assert shares["weak"] < 0.15
    assert min(shares["good"], shares["equal"]) > 0.2


def test_a_model_that_does_not_fit_into_what_is_left_gets_no_trial():
    known = {"good": Record([0.8, 0.82], [50.0, 50.0], ended=2), "weak": Record([0.7, 0.71], [5.0, 5.0], ended=2)}
    choose = ModelChoice({"good": 50.0, "weak": 5.0})
    assert choose(known, 60) == "good"
    assert choose(known, 40) == "weak"
    assert choose(known, 1) == "weak", "an epoch of it may still be the best"


def test_a_first_look_that_would_take_most_of_the_time_is_left_out():
    known = {"cheap": Record([0.7], [10.0], ended=1), "huge": Record()}
    choose = ModelChoice({"cheap": 1.0, "huge": 30.0})
    assert choose.seconds(known) == {"cheap": 10.0, "huge": 300.0}, "ten seconds for a cost of 1"
    assert choose(known, 2000) == "huge"
    assert choose(known, 500) == "cheap"
    assert choose({"cheap": Record(), "huge": Record()}, 2) == "cheap", "something is tried in any case"


def test_workers_that_run_together_do_not_all_take_the_same():
    known = {name: Record([0.7, 0.71, 0.72], [5.0] * 3, ended=3, stale=1) for name in ("a", "b")}
    choose = ModelChoice({"a": 5.0, "b": 5.0})
    first = choose(known)
    known[first].running = 1
    assert choose(known) != first


def test_the_same_trials_give_the_same_model():
    known = {name: Record([0.7, 0.7 + i / 100], [2.0, 3.0], ended=2) for i, name in enumerate("abc")}
    choose = ModelChoice(dict.fromkeys("abc", 1.0))
    assert {choose(known) for _ in range(5)} == {choose(known)}


@pytest.mark.parametrize(("mean", "scale", "freedom", "best"), [(0.0, 1.0, 3.0, 0.5), (0.7, 0.01, 6.5, 0.72)])
def test_the_expected_improvement_is_the_integral(mean, scale, freedom, best):
    def density(z):
        peak = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2) / math.sqrt(freedom * math.pi)
        return peak * (1 + z * z / freedom) ** (-(freedom + 1) / 2)

    start, step = (best - mean) / scale, 0.001
    total = sum((mean + scale * (start + i * step) - best) * density(start + i * step) * step for i in range(400_000))
    assert expected_improvement(mean, scale, freedom, best) == pytest.approx(total, rel=1e-2)


def test_values_far_below_do_not_make_a_model_promising():
    usual = {"steady": Record([0.80, 0.801, 0.802]), "other": Record([0.80, 0.801, 0.802])}
    failing = {**usual, "other": Record([0.80, 0.801, 0.802, 0.5, 0.4])}
    assert improvements(failing)["other"] <= improvements(usual)["other"]


def trial(model, state=TrialState.COMPLETE, value=0.7, **attributes):
    distribution = {"model": optuna.distributions.CategoricalDistribution(["a", "b"])}
    return create_trial(
        state=state,
        params={"model": model},
        distributions=distribution,
        values=[value] if state == TrialState.COMPLETE else None,
        user_attrs={"seconds": 4.0, **attributes},
    )


def test_records_of_trials():
    trials = [
        trial("a", value=0.7),
        trial("a", value=0.8),
        trial("a", value=0.75),
        trial("a", TrialState.FAIL, reason="diverged"),
        trial("a", TrialState.FAIL, uncounted="lost"),
        trial("b", TrialState.PRUNED, values_so_far=[0.72]),
        trial("b", TrialState.PRUNED),
        trial("b", TrialState.RUNNING),
    ]
    known = records(trials, ["a", "b"])
    assert known["a"] == Record([0.7, 0.8, 0.75], [4.0] * 3, ended=4, stale=2)
    assert known["b"] == Record([0.72], [4.0] * 2, ended=2, running=1, stale=1)
    assert records(trials, ["a", "b"], smaller=True)["a"].values == [-0.7, -0.8, -0.75]
    assert model_of(trials[0]) == "a"
    waiting = create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": {"model": "b"}})
    assert model_of(waiting) == "b"
    assert records([waiting], ["a", "b"])["b"].begun == 0


def test_where_no_first_look_is_quick_the_next_model_is_tried_before_one_again_and_again():
    """Each trial takes a third of the time or more: a cheap model alone would get it all."""
    choose = ModelChoice({"cheap": 60.0, "next": 100.0, "dear": 1000.0})
    running = {"cheap": Record(running=1), "next": Record(), "dear": Record()}
    assert choose(running, 240) == "next"
    ended = {"cheap": Record([0.77], [60.0], ended=1), "next": Record(), "dear": Record()}
    assert choose(ended, 240) == "next"
