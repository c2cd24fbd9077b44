"""What is not trained twice, when a small space ends, and when failures end a search: objectives that take no time."""

import itertools
import statistics

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from benchmarks import border
from recbole_msr.errors import InputError
from recbole_msr.tuning.drawing import points
from recbole_msr.tuning.objective import Outcome
from recbole_msr.tuning.outcome import best_trial
from recbole_msr.tuning.space.space import Space
from recbole_msr.tuning.study import counted_trials, is_exhausted, open_study
from recbole_msr.tuning.trial_state import SO_FAR, values_of
from recbole_msr.tuning.trials import Trials

from .test_trials import open_

FLOATS = {"search": {name: {"type": "float", "low": 0.0, "high": 1.0} for name in ("a", "b")}}
SMALL = {
    "search": {
        "kind": ["plain", "deep"],
        "units": {"type": "int", "low": 1, "high": 3},
        "layers": {"type": "layers", "depth": [1, 2], "width": [8, 16], "when": {"kind": "deep"}},
    }
}
NUMBERS = {
    "search": {"n": {"type": "int", "low": 1, "high": 4}, "x": {"type": "float", "low": 0, "high": 1, "step": 0.5}}
}


def work(opened, value=lambda found: 1.0, trials=50):
    """Run trials; a value of None is a failure. Gives what was trained."""
    study, settings, space = opened
    trained = []

    def objective(trial):
        found = space.suggest(trial)
        trained.append(found)
        got = value(found)
        if got is None:
            return Outcome(TrialState.FAIL, attributes={"reason": "diverged: it did"})
        return Outcome(TrialState.COMPLETE, [got] if isinstance(got, float) else got)

    with Trials(study, settings, trials) as handed_out:
        handed_out.run(objective)
    return trained


def by_hand():
    """All settings of SMALL."""
    layers = [[w] for w in (8, 16)] + [list(pair) for pair in itertools.product((8, 16), repeat=2)]
    plain = [{"kind": "plain", "units": units} for units in (1, 2, 3)]
    deep = [{"kind": "deep", "units": u, "layers": some} for u, some in itertools.product((1, 2, 3), layers)]
    return plain + deep


def sorted_(settings):
    return sorted(settings, key=repr)


def test_the_points_of_a_space_with_conditions_are_all_its_settings():
    space = Space.load(SMALL)
    found = [space.settings(params) for params in points(space, {}).values()]
    assert sorted_(map(str, found)) == sorted_(map(str, by_hand()))
    assert points(Space.load(FLOATS), {}) is None
    assert len(points(space, {"kind": "plain"})) == 3
    assert points(Space.load(NUMBERS), {}, most=11) is None
    assert len(points(Space.load(NUMBERS), {}, most=12)) == 12


@pytest.mark.parametrize(
    ("sampler", "space", "count"),
    [("tpe", SMALL, 21), ("random", SMALL, 21), ("nsga2", SMALL, 21), ("qmc", NUMBERS, 12), ("cmaes", NUMBERS, 12)],
)
def test_every_point_of_a_small_space_is_trained_once_and_then_the_search_ends(tmp_path, sampler, space, count):
    opened = open_(tmp_path, space, sampler={"name": sampler})
    trained = work(opened, lambda found: None if found.get("units", found.get("n")) == 2 else float(len(found)))
    assert len(trained) == len({str(settings) for settings in trained}) == count
    study = opened[0]
    assert len(study.trials) == len(counted_trials(study)) == count
    assert is_exhausted(study)
    assert work(open_(tmp_path, space, sampler={"name": sampler})) == [], "and the next command has nothing to do"


def test_first_configurations_that_are_equal_are_trained_once_and_said_to_be_known(tmp_path):
    opened = open_(tmp_path, FLOATS)
    study = opened[0]
    for _ in range(3):
        study.enqueue_trial({"a": 0.5, "b": 0.25})
    trained = work(opened, lambda found: found["a"] + found["b"], trials=3)
    assert trained.count({"a": 0.5, "b": 0.25}) == 1
    assert len(trained) == len(counted_trials(study)) == 3
    repeats = [trial for trial in study.trials if "repeat_of" in trial.user_attrs]
    assert [trial.user_attrs["repeat_of"] for trial in repeats] == [0, 0]
    assert {trial.state for trial in repeats} == {TrialState.FAIL}
    assert repeats[0].user_attrs["reason"] == ("not trained: these are the settings of trial 0, which has auc 0.75")


def test_settings_that_failed_are_not_tried_again(tmp_path):
    opened = open_(tmp_path, FLOATS)
    for _ in range(2):
        opened[0].enqueue_trial({"a": 0.5, "b": 0.25})
    trained = work(opened, lambda found: None if found["a"] == 0.5 else 1.0, trials=2)
    assert trained.count({"a": 0.5, "b": 0.25}) == 1
    reason = opened[0].trials[1].user_attrs["reason"]
    assert reason.endswith("the settings of trial 0, which ended as fail: diverged: it did")


def test_a_point_that_runs_is_not_drawn_again(tmp_path):
    study, settings, space = open_(tmp_path, NUMBERS, sampler={"name": "random"})
    taken = []

    def together(first, more, tell):
        taken.append(first)
        while (trial := more()) is not None:  # none of them has asked for its parameters
            taken.append(trial)
        for trial in taken:
            space.suggest(trial)
            tell(trial, Outcome(TrialState.COMPLETE, [1.0]))

    with Trials(study, settings, None) as trials:
        trials.run(lambda _: None, together=together)
    assert len(taken) == len({str(trial.params) for trial in study.trials}) == 12


def test_a_model_without_points_left_makes_way_for_another(tmp_path):
    space = {
        "search": {"model": ["A", "B"], "B.n": {"key": "n", "type": "int", "low": 1, "high": 3, "when": {"model": "B"}}}
    }
    parsed = Space.load(space)
    settings = open_(tmp_path, space)[1]
    study = open_study(settings, parsed, "data", {"auc": False}, 1, choose_model=lambda trials, seed: "A")
    study.enqueue_trial({"model": "A"})
    study.enqueue_trial({"model": "A"})
    trained = work((study, settings, parsed))
    assert trained[0] == {"model": "A"}
    assert study.trials[1].user_attrs["repeat_of"] == 0
    assert is_exhausted(study, {"model": "A"})
    assert sorted(settings["n"] for settings in trained[1:]) == [1, 2, 3]


def test_failures_end_a_search_where_nothing_has_succeeded(tmp_path):
    opened = open_(tmp_path, FLOATS, max_failures=3)
    with pytest.raises(InputError, match="the last 3 trials failed, so the search stops; the last one: diverged"):
        work(opened, lambda found: None)
    assert len(opened[0].trials) == 3


def test_failures_do_not_end_a_search_while_others_succeed(tmp_path):
    opened = open_(tmp_path, FLOATS, max_failures=2)
    count = itertools.count()
    trained = work(opened, lambda found: 1.0 if next(count) in (0, 12) else None, trials=25)
    assert len(trained) == 25


def test_ten_times_as_many_failures_in_a_row_end_it_after_all(tmp_path):
    opened = open_(tmp_path, FLOATS, max_failures=2)
    count = itertools.count()
    with pytest.raises(InputError, match="the last 20 trials failed"):
        work(opened, lambda found: 1.0 if next(count) == 0 else None)
    assert len(opened[0].trials) == 21


@pytest.mark.parametrize("objectives", [["auc"], ["auc", "parameters"]])
def test_a_search_that_goes_on_draws_the_same_with_failures_among_its_trials(tmp_path, objectives):
    def value(found):
        if found["a"] + found["b"] > 0.8:
            return None
        return [found["a"] + found["b"], found["b"]][: len(objectives)]

    options = {"sampler": {"name": "tpe"}, "objectives": objectives, "max_failures": 20}
    whole = work(open_(tmp_path / "whole", FLOATS, **options), value, trials=18)
    parts = [settings for n in (7, 15, 18) for settings in work(open_(tmp_path / "parts", FLOATS, **options), value, n)]
    assert parts == whole
    study = open_(tmp_path / "whole", FLOATS, **options)[0]
    failed = [trial for trial in study.trials if trial.params["a"] + trial.params["b"] > 0.8]
    assert failed
    assert {(t.state, t.user_attrs["reason"], t.values) for t in failed} == {
        (TrialState.FAIL, "diverged: it did", None)
    }


@pytest.mark.slow
def test_few_of_the_last_trials_fail_where_the_best_lie_at_the_border_of_failure(tmp_path):
    found = [border.after("tpe", 2, seed, 80, tmp_path / str(seed)) for seed in range(3)]
    assert statistics.median(border.wasted(trials) for trials in found) <= 12
    assert statistics.median(border.best(trials) for trials in found) > 0.97 * border.BORDER
    assert border.wasted(border.before("tpe", 2, 0, 80, tmp_path)) >= 30, "Optuna's sampler by itself"


def pruned(number, values, so_far=None):
    attributes = {"settings": {"n": number}} | ({} if so_far is None else {SO_FAR: so_far})
    return create_trial(state=TrialState.PRUNED, values=values, user_attrs=attributes)


def test_a_trial_pruned_after_its_best_epoch_can_be_the_best(tmp_path):
    study = open_(tmp_path, FLOATS)[0]
    study.add_trial(create_trial(values=[0.7], user_attrs={"settings": {"n": 0}}))
    study.add_trial(pruned(1, [0.99]))  # reported on a share of the rows alone
    assert best_trial(study, 0.0).number == 0
    study.add_trial(pruned(2, [0.5], so_far=[0.8]))
    assert best_trial(study, 0.0).number == 2
    assert values_of(study.trials[2]) == [0.8]


def test_a_search_tells_that_a_pruned_trial_is_the_best(search, monkeypatch):
    monkeypatch.setattr(
        optuna.trial.Trial, "should_prune", lambda trial: max(trial._get_latest_trial().intermediate_values) == 2
    )
    result = search(trials=1, config={"epochs": 3})
    (trial,) = result.study.trials
    assert trial.state == TrialState.PRUNED
    epochs = list(trial.intermediate_values.values())
    assert result.best_value == pytest.approx(max(epochs))
    text = (result.folder / "best.yaml").read_text()
    assert "# trains it to its end, to this value or a better one, and tests it: pruned after epoch 2" in text
