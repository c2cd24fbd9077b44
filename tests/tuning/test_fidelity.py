"""Rungs below full training: how they are read and chosen, who goes on, and a search that climbs them."""

import math
from pathlib import Path

import optuna
import pytest
from optuna.study import StudyDirection

import recbole_msr
from recbole_msr.errors import InputError
from recbole_msr.tuning import low_rungs
from recbole_msr.tuning.fidelity import (
    LEAST_STEPS,
    LEAST_TRIALS,
    FullDataPruner,
    Rung,
    choose_ladder,
    read_fidelity,
    standing,
)
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.study import epochs_of

from .conftest import SPACE

BATCH = 2048
MANY = 9 * LEAST_STEPS * BATCH
"""Training rows that are enough for all rungs."""


def settings(fidelity="auto", **given):
    names = {"model": "HiNet", "dataset": "tiny", "study": "s", "output": "out"}
    rest = {"config": {"seed": 1, "threads": 1}, "space": {}, "objectives": ["auc"], "timeout": 60.0}
    return SearchSettings(**{**names, **rest, "fidelity": fidelity, **given})


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (None, "auto"),
        ("AUTO", "auto"),
        (False, "off"),
        ("1/9", "1/9"),
        ("1/9:1, 1/3:2", "1/9,1/3:2"),
        (["1/9", 0.25], "1/9,1/4"),
        ("0.1:3", "1/10:3"),
    ],
)
def test_rungs_are_read(given, read):
    assert read_fidelity(given) == read
    assert read_fidelity(read) == read


@pytest.mark.parametrize(
    "given", ["some", "1", "0/9", "1/0", "1/00", "3/2", "1/9:0", "1/3,1/9", "", "1/9;1/3", "auto,1/9"]
)
def test_what_is_no_rung_is_refused(given):
    with pytest.raises(InputError, match="--fidelity"):
        read_fidelity(given)


def test_small_data_and_small_budgets_get_none():
    """A rung has enough steps, and the budget allows more trials than can be looked at in full."""
    assert str(choose_ladder(settings(), MANY, BATCH)) == "1/9,1/3"
    assert str(choose_ladder(settings(), MANY - 9, BATCH)) == "1/3"
    assert str(choose_ladder(settings(), MANY, 3 * BATCH)) == "1/3"
    assert str(choose_ladder(settings(), MANY // 3, BATCH)) == "1/3"
    assert not choose_ladder(settings(), MANY // 3 - 3, BATCH).rungs
    assert choose_ladder(settings(timeout=None, trials=LEAST_TRIALS), MANY, BATCH).rungs
    assert not choose_ladder(settings(timeout=None, trials=LEAST_TRIALS - 1), MANY, BATCH).rungs
    assert not choose_ladder(settings("off"), MANY, BATCH).rungs
    assert choose_ladder(settings("1/4:2", trials=2), 10, BATCH).rungs == (Rung(0.25, 2),)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"objectives": ["auc", "flops"], "pruner": {"name": "none"}}, "several objectives"),
        ({"trial_seeds": 2}, "trial-seeds"),
        ({"fused": 4}, "fused=4"),
        ({"pruner": {"name": "halving"}}, "halving"),
        ({"pruner": {"name": "hyperband"}}, "hyperband"),
    ],
)
def test_what_does_not_go_with_rungs_leaves_them_out_or_is_refused(given, told):
    left_out = choose_ladder(settings(**given), MANY, BATCH)
    assert not left_out.rungs
    assert told in left_out.reason
    with pytest.raises(InputError, match=told):
        choose_ladder(settings("1/9", **given), MANY, BATCH)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_best_third_so_far_goes_on(direction):
    """Against the places counted one by one."""
    study = optuna.create_study(direction=direction)
    values = [0.5, 0.6, 0.4, 0.6, 0.7, 0.3, 0.65, 0.1, 0.8, 0.66, 0.2]
    for number, value in enumerate(values):
        trial = study.ask()
        trial.report(value, 1)
        seen = sorted(values[: number + 1], reverse=direction == "maximize")
        expected = value in seen[: math.ceil((number + 1) / 3)]
        found = standing(study.get_trials(), number, 1, value, study.direction)
        assert found.passes == expected, number
        assert found.of == number + 1
        mild = standing(study.get_trials(), number, 1, value, study.direction, mild=True)
        assert mild.passes == (value in seen[: math.ceil((number + 1) * 2 / 3)])


def test_a_trial_that_was_lost_does_not_count_twice():
    study = optuna.create_study(direction="maximize")
    for value in (0.9, 0.5):
        trial = study.ask()
        trial.report(value, 1)
        if value == 0.9:
            trial.set_user_attr("uncounted", "lost")
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
    assert standing(study.get_trials(), 1, 1, 0.5, StudyDirection.MAXIMIZE).of == 1


@pytest.mark.parametrize("pruner", [optuna.pruners.MedianPruner(2, 2), optuna.pruners.PercentilePruner(25.0, 2, 2)])
def test_pruners_see_epochs_on_all_rows_alone(pruner):
    """A study with two low rungs, whose values are far off, is pruned like one without."""
    curves = [[0.5, 0.6, 0.7], [0.4, 0.65, 0.6], [0.6, 0.5, 0.4], [0.1, 0.2, 0.9], [0.55, 0.61, 0.65]]
    plain = optuna.create_study(direction="maximize", pruner=pruner)
    climbing = optuna.create_study(direction="maximize", pruner=FullDataPruner(pruner, 2))
    decisions = {}
    for name, study, low in (("plain", plain, 0), ("climbing", climbing, 2)):
        decisions[name] = []
        for curve in curves:
            trial = study.ask()
            for step in range(low):
                trial.report(0.99, step + 1)
                assert not trial.should_prune()
            for epoch, value in enumerate(curve, 1):
                trial.report(value, low + epoch)
                decisions[name].append(trial.should_prune())
            study.tell(trial, curve[-1])
    assert decisions["plain"] == decisions["climbing"]
    assert True in decisions["plain"]


def rungs_of(result):
    return [trial.user_attrs.get("rungs") for trial in result.study.trials]


def test_a_search_with_rungs_finds_the_same_best_with_the_same_value(search):
    """The same settings: those that go on end as they do without rungs, to the digit, and the best is among them."""
    rates = {"learning_rate": {"type": "float", "low": 1e-6, "high": 3e-3, "log": True}}
    same = {"trials": 9, "sampler": "random", "pruner": "none", "config": {"epochs": 2}}
    same["space"] = {"model": "SharedBottom", "search": rates}
    whole = search(**same, fidelity="off", output="whole")
    climbed = search(**same, fidelity="1/2,3/4:2", output="climbed")
    assert whole.summary["best"]["number"] == climbed.summary["best"]["number"]
    assert whole.summary["best"]["values"] == climbed.summary["best"]["values"]
    ended = 0
    for before, trial in zip(whole.study.trials, climbed.study.trials, strict=True):
        assert trial.params == before.params
        rungs = trial.user_attrs["rungs"]
        assert [trial.intermediate_values[rung["rung"]] for rung in rungs] == [rung["value"] for rung in rungs]
        if trial.state.name == "COMPLETE":
            assert trial.values == before.values
            assert {step - 2: v for step, v in trial.intermediate_values.items() if step > 2} == (
                before.intermediate_values
            )
            assert trial.user_attrs["epochs"] == before.user_attrs["epochs"]
        else:
            ended += 1
            assert not rungs[-1]["passed"]
            assert "ended at rung" in trial.user_attrs["reason"]
            assert set(trial.intermediate_values) == {rung["rung"] for rung in rungs}
    assert ended
    assert climbed.study.trials[0].state.name == "COMPLETE", "the defaults are trained in full"
    fidelity = climbed.summary["fidelity"]
    assert fidelity["rungs"][0]["trials"] == 9
    again = recbole_msr.run(config_files=["climbed/best.yaml"], config={"output_dir": "r", "show_progress": False})
    assert again.summary["best_valid_score"] == climbed.summary["best"]["values"][0]


def test_small_data_are_searched_as_without(search):
    auto, off = search(trials=3, output="auto"), search(trials=3, fidelity="off", output="off")
    for ours, theirs in zip(auto.study.trials, off.study.trials, strict=True):
        assert (ours.params, ours.values, ours.intermediate_values) == (
            (theirs.params, theirs.values, theirs.intermediate_values)
        )
    assert rungs_of(auto) == [None] * 3
    assert auto.summary["fidelity"]["rungs"] == []
    assert "training rows are too few" in auto.summary["fidelity"]["reason"]


def test_a_trial_killed_at_a_low_rung_begins_again_there_and_one_killed_later_does_not(search, monkeypatch):
    """Interrupted at the second rung of trial 0, then at the end of its first full epoch."""
    trained = []
    plain = low_rungs.make_training

    def counted(stop_at):
        def build(settings, data, sampled, part, folder=None, rung=None, precision=None):
            if rung is not None:  # without one, the look at which precision is quicker
                trained.append(rung.share)
                if len(trained) == stop_at:
                    raise KeyboardInterrupt
            return plain(settings, data, sampled, part, folder, rung, precision)

        return build

    options = {"trials": 1, "fidelity": "1/2,3/4", "pruner": "none"}
    monkeypatch.setattr(low_rungs, "make_training", counted(2))
    with pytest.raises(KeyboardInterrupt):
        search(**options)
    monkeypatch.setattr(low_rungs, "make_training", counted(0))
    with monkeypatch.context() as patch:
        patch.setattr("recbole_msr.tuning.objective.Attempt.report", _interrupt)  # of epochs on all rows
        with pytest.raises(KeyboardInterrupt):
            search(**options)
    assert trained == [0.5, 0.75, 0.5, 0.75]
    result = search(**options)
    assert len(trained) == 4, "it had passed both before"
    last = result.study.trials[-1]
    assert [rung["share"] for rung in last.user_attrs["rungs"]] == [0.5, 0.75]
    assert epochs_of(result.study) == sum(trained) - 0.75 + 3, "each once: the second rung was interrupted first"
    assert set(last.intermediate_values) == {1, 2, 3, 4, 5}
    off = search(trials=1, fidelity="off", output="off").summary["best"]
    assert result.summary["best"]["values"] == off["values"]


def _interrupt(*_, **__):
    raise KeyboardInterrupt


def test_low_rungs_alone_are_trained_in_bfloat16_where_it_is_quicker(search, monkeypatch):
    """Whether it is quicker is decided here by the bound: the processor's answer is not asserted."""
    monkeypatch.setattr(low_rungs, "has_bfloat16", lambda device: True)
    told = {}
    for name, bound in (("quick", math.inf), ("slow", 0.0)):
        monkeypatch.setattr(low_rungs, "QUICKER", bound)
        told[name] = search(trials=1, fidelity="1/2", output=name)
    assert told["quick"].summary["fidelity"]["precision"] == "bf16-mixed"
    assert told["slow"].summary["fidelity"]["precision"] is None
    assert told["quick"].summary["best"]["values"] == told["slow"].summary["best"]["values"]
    (quick,), (slow,) = rungs_of(told["quick"]), rungs_of(told["slow"])
    assert quick[0]["value"] == pytest.approx(slow[0]["value"], abs=0.05)
    given = search(trials=1, fidelity="1/2", output="given", config={"precision": 32})
    assert given.summary["fidelity"]["precision"] is None, "the search says its precision"


def test_rungs_stay_those_of_the_study(search):
    search(trials=1, fidelity="1/2")
    search(trials=2)
    with pytest.raises(InputError, match="another --fidelity"):
        search(trials=3, fidelity="off")
    assert Path("out/best.yaml").is_file()


def test_epochs_on_a_share_count_as_this_share(search):
    """Of 3 epochs in all, each trial takes a half on a half of the rows, and then all of the rows for 2 epochs."""
    space = {**SPACE, "search": {"learning_rate": SPACE["search"]["learning_rate"]}}
    result = search(trials=None, total_epochs=3, fidelity="1/2", pruner="none", space=space, config={"epochs": 2})
    assert len(result.trials) == 2
