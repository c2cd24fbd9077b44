"""How much of the command's time is kept for what follows the trials, and what is done in the time that is left."""

import math

import optuna
import pytest
from optuna.trial import TrialState

from recbole_msr.tuning.budget import FIRST_RESERVED, MOST_RESERVED, Budget, Plan, makespan
from recbole_msr.tuning.objective import Outcome
from recbole_msr.tuning.outcome import beside_trials, ranking
from recbole_msr.tuning.trials import Trials

from .test_trials import open_


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def add(study, value, seconds, origin=None, **attributes):
    given = {"settings": {"n": len(study.trials)}, "seconds": seconds, "model": "M", **attributes}
    if origin:
        given["origin"] = origin
    study.add_trial(optuna.trial.create_trial(value=value, user_attrs=given))


def opened(tmp_path, clock, timeout=1000.0, **options):
    study, settings, _ = open_(tmp_path, timeout=timeout, **options)
    return study, settings, Budget(settings, study, timeout, clock)


def plan(study, settings, budget):
    found = ranking(study, settings.tolerance, settings.confirm)
    return budget.plan(found, lambda winner: beside_trials(study, settings, winner))


def test_without_a_timeout_all_is_done(tmp_path, clock):
    study, settings, _ = open_(tmp_path)
    budget = Budget(settings, study, None, clock)
    add(study, 0.8, 1e9)
    assert not budget.trials_over()
    assert budget.left() == budget.trials_left() == math.inf
    assert plan(study, settings, budget) == Plan(1, 3, True)


def test_a_small_share_is_kept_until_a_trial_has_ended(tmp_path, clock):
    _, _, budget = opened(tmp_path, clock)
    assert budget.reserve() == FIRST_RESERVED * 1000
    clock.now = 949.0
    assert not budget.trials_over()
    clock.now = 951.0
    assert budget.trials_over()


def test_what_is_kept_grows_with_what_the_best_trials_cost(tmp_path, clock):
    study, _, budget = opened(tmp_path, clock)
    add(study, 0.7, 10.0, "defaults")
    one = budget.reserve()
    assert 3 * 10 < one < 3 * 10 * 2
    for value in (0.8, 0.79, 0.78):
        add(study, value, 10.0)
    four = budget.reserve()
    assert 4 * 3 * 10 < four < 4 * 3 * 10 * 2, "three candidates and the defaults, with three seeds each"
    add(study, 0.6, 500.0)
    assert budget.reserve() == four, "a bad trial is not trained again"
    add(study, 0.9, 500.0)
    assert budget.reserve() == MOST_RESERVED * 1000
    clock.now = 1000 * (1 - MOST_RESERVED) + 1
    assert budget.trials_over()


def test_what_is_kept_is_enough_although_trials_under_way_end_their_epoch_first(tmp_path, clock):
    """Until now the plan that was reckoned with lost a candidate each time: a few seconds were gone by then."""
    study, settings, budget = opened(tmp_path, clock)
    for value in (0.7, 0.8, 0.79):
        add(study, value, 20.0, "defaults" if value == 0.7 else None, history=[{"seconds": 4.0}, {"seconds": 6.0}])
    before = budget.reserve()
    study.ask()
    kept = budget.reserve()
    assert before + 6 < kept < before + 10, "an epoch of the trial that runs, and the end of its worker"
    clock.now = 1000 - kept + 6
    assert plan(study, settings, budget) == Plan(3, 3, True)


def test_low_fidelities_and_seeds_of_a_trial_are_no_part_of_a_training(tmp_path, clock):
    study, _, budget = opened(tmp_path, clock)
    add(study, 0.8, 20.0)
    add(study, 0.8, 50.0, rungs=[{"seconds": 10.0}, {"seconds": 20.0}])
    assert budget.run_seconds(study.trials[0], 2, False) == budget.run_seconds(study.trials[1], 2, False)
    study, _, budget = opened(tmp_path / "seeds", clock, trial_seeds=2)
    add(study, 0.8, 40.0)
    assert budget.run_seconds(study.trials[0], 3, False) == budget.run_seconds(study.trials[0], 4, False)
    assert budget.run_seconds(study.trials[0], 3, False) < 40.0


def test_two_workers_need_half_the_time(tmp_path, clock):
    assert makespan([4, 3, 3, 2], 2) == 6
    assert makespan([], 2) == 0
    study, _, budget = opened(tmp_path, clock, timeout=100_000.0, final_seeds=2)
    study2, _, budget2 = opened(tmp_path / "2", clock, timeout=100_000.0, workers=2, final_seeds=2)
    for one in (study, study2):
        for value in (0.7, 0.8, 0.79, 0.78):
            add(one, value, 1000.0, "defaults" if value == 0.7 else None)
    assert budget2.reserve() == pytest.approx(budget.reserve() / 2, rel=0.1)


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (200, Plan(3, 3, True)),
        (140, Plan(2, 3, True)),
        (90, Plan(1, 3, True)),
        (60, Plan(1, 2, True)),
        (35, Plan(1, 1, True)),
        (18, Plan(1, 1, False)),
        (9, Plan(0, 0, False)),
    ],
)
def test_fewer_candidates_first_then_fewer_seeds(tmp_path, clock, left, expected):
    study, settings, budget = opened(tmp_path, clock)
    for value in (0.7, 0.8, 0.79, 0.78):
        add(study, value, 10.0, "defaults" if value == 0.7 else None)
    clock.now = 1000 - budget.page_seconds - left
    assert plan(study, settings, budget) == expected


def test_no_trial_begins_in_the_time_that_is_kept(tmp_path, clock):
    study, settings, space = open_(tmp_path, trials=None, timeout=1000.0)
    budget = Budget(settings, study, 1000.0, clock)
    began = []

    def objective(trial):
        began.append(clock.now)
        clock.now += 30.0
        found = space.suggest(trial)
        return Outcome(TrialState.COMPLETE, [found["a"]], settings=found, attributes={"seconds": 30.0})

    with Trials(study, settings, None, budget) as trials:
        trials.run(objective)
    kept = budget.seconds(Plan(3, 3, True), ranking(study, 0.0, 3), [])
    assert 3 * 3 * 30 < kept < 1000 * MOST_RESERVED, "three candidates with three seeds each"
    assert began[-1] <= 1000 - kept < began[-1] + 60
