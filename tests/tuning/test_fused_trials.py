"""Trials of one worker that are trained at once: each as it would be alone, whatever becomes of the others."""

import json
import os
import signal
import warnings
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import torch
import yaml
from optuna.trial import TrialState

from recbole_msr.errors import InputError
from recbole_msr.training.fused.loop import SideBySide
from recbole_msr.tuning import fused_trials as together_module
from recbole_msr.tuning.fused_trials import FusedTrials
from recbole_msr.tuning.objective import Attempt, Objective, Outcome
from recbole_msr.tuning.run import _Report
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.space.space import Space
from recbole_msr.tuning.study_data import StudyData
from recbole_msr.tuning.trials import Trials
from tests.tracking.read_back import runs

from .test_trials import ended, open_, work
from .test_workers import check_whole, command, states, study_of, wait_for  # noqa: F401

# All trials have models of one architecture. Plain gradient descent, as Adam makes much of rounding.
LIGHT = {
    "search": {
        "learning_rate": {"type": "float", "low": 0.01, "high": 0.5, "log": True},
        "dropout": {"type": "float", "low": 0.0, "high": 0.4},
        "weight_decay": {"type": "float", "low": 1e-5, "high": 1e-2, "log": True},
    }
}
DESCENT = {"learner": "sgd"}
KEPT = ("history", "best_epoch", "valid", "epochs", "settings", "parameters")


def by_number(result):
    return {trial.number: trial for trial in result.study.trials}


def numbers(value):
    """All numbers of a structure that do not depend on the clock, one after the other."""
    if isinstance(value, dict):
        return [n for key, one in value.items() if "second" not in key and key != "at" for n in numbers(one)]
    if isinstance(value, list):
        return [n for one in value for n in numbers(one)]
    return [float(value)] if isinstance(value, (int, float)) else []


def assert_same_trial(one, other):
    assert one.state == other.state
    assert one.params == other.params
    assert one.values == pytest.approx(other.values, abs=1e-4)
    assert one.intermediate_values == pytest.approx(other.intermediate_values, abs=1e-4)
    for key in KEPT:
        assert json.dumps(one.user_attrs[key]).count(":") == json.dumps(other.user_attrs[key]).count(":")
        assert numbers(one.user_attrs[key]) == pytest.approx(numbers(other.user_attrs[key]), abs=1e-4)


@pytest.mark.slow
def test_trials_at_once_have_the_results_they_have_one_by_one(search):
    given = {"trials": 6, "space": LIGHT, "sampler": "random", "pruner": "none", "config": DESCENT}
    alone = by_number(search(output="alone", fused="off", **given))
    result = search(output="fused", fused=4, **given)
    fused = by_number(result)
    assert sorted(fused) == sorted(alone) == list(range(6))
    for number, trial in fused.items():
        assert_same_trial(trial, alone[number])
    assert [trial.user_attrs["fused"] for trial in fused.values()] == [4, 4, 4, 4, 2, 2]
    assert not any("fused" in trial.user_attrs for trial in alone.values())
    assert all(trial.user_attrs["seconds"] > 0 for trial in fused.values())
    assert result.trials["state"].eq("complete").all()


@pytest.mark.slow
def test_trials_of_several_architectures_are_trained_at_once_too(search):
    """Side by side: then the numbers are the same to the last bit."""
    given = {"trials": 4, "sampler": "random", "pruner": "none"}
    alone = by_number(search(output="alone", fused="off", **given))
    fused = by_number(search(output="fused", fused=3, **given))
    widths = {json.dumps(trial.user_attrs["settings"]["bottom_hidden_sizes"]) for trial in alone.values()}
    assert len(widths) > 1
    for number, trial in fused.items():
        assert trial.params == alone[number].params
        assert trial.values == alone[number].values
        assert trial.user_attrs["valid"] == alone[number].user_attrs["valid"]


@pytest.mark.slow
def test_the_worse_are_pruned_while_the_others_go_on(search):
    given = {"trials": 6, "space": LIGHT, "sampler": "random", "config": DESCENT | {"epochs": 4}}
    whole = by_number(search(output="whole", fused="off", pruner="none", **given))
    fused = by_number(search(output="fused", fused=6, pruner="halving", **given))
    pruned = [trial for trial in fused.values() if trial.state == TrialState.PRUNED]
    complete = [trial for trial in fused.values() if trial.state == TrialState.COMPLETE]
    assert pruned
    assert complete
    for trial in pruned:
        assert trial.user_attrs["reason"].startswith("pruned after epoch")
        assert trial.user_attrs["epochs"] == len(trial.user_attrs["history"]) < 4
    for trial in complete:
        assert_same_trial(trial, whole[trial.number])


@pytest.mark.slow
def test_a_trial_that_fails_leaves_the_others_as_they_are(search):
    """One diverges in training; the settings of another are impossible from the start."""
    space = {"search": {"learning_rate": [0.1, 1e30, 0.2], "clip_grad_norm": [None, {"max_norm": 1}], "dropout": [0.1]}}
    given = {"trials": 6, "space": space, "sampler": "grid", "pruner": "none", "max_failures": 9, "config": DESCENT}
    alone = by_number(search(output="alone", fused="off", **given))
    fused = by_number(search(output="fused", fused=6, **given))
    rates = {number: trial.params["learning_rate"] for number, trial in alone.items()}
    assert {number: trial.params["learning_rate"] for number, trial in fused.items()} == rates
    assert {trial.state for trial in fused.values()} == {TrialState.COMPLETE, TrialState.FAIL}
    for number, trial in fused.items():
        assert trial.state == alone[number].state
        if trial.state == TrialState.COMPLETE:
            assert_same_trial(trial, alone[number])
        else:
            assert trial.user_attrs["reason"] == alone[number].user_attrs["reason"]
            assert trial.user_attrs["reason"].startswith("diverged")

    space = {"search": {"learning_rate": [0.1, 0.2], "dropout": [0.1, 1.5]}}
    fused = by_number(search(output="bad", study="bad", fused=4, **{**given, "trials": 4, "space": space}))
    for trial in fused.values():
        refused = trial.params["dropout"] > 1
        assert trial.state == (TrialState.FAIL if refused else TrialState.COMPLETE)
        assert not refused or trial.user_attrs["reason"].startswith("refused")


@pytest.mark.slow
def test_a_finished_part_is_not_done_again(search):
    given = {"space": LIGHT, "fused": 4, "config": DESCENT}
    ends = list(search(trials=3, **given).trials["ended"])
    again = search(trials=7, **given)
    assert len(again.study.trials) == 7
    assert list(again.trials["ended"][:3]) == ends


@pytest.mark.slow
def test_seeds_of_a_trial_are_trained_at_once(search):
    given = {"trials": 2, "trial_seeds": 3, "pruner": "none", "sampler": "random", "config": DESCENT}
    alone = by_number(search(output="alone", fused="off", **given))
    fused = by_number(search(output="fused", fused=3, **given))
    for number, trial in fused.items():
        assert trial.user_attrs["fused"] == 3
        assert len(trial.intermediate_values) == 3
        assert trial.value == pytest.approx(sum(trial.intermediate_values.values()) / 3)
        assert trial.intermediate_values == pytest.approx(alone[number].intermediate_values, abs=1e-4)
        assert trial.user_attrs["epochs"] == alone[number].user_attrs["epochs"]


@pytest.mark.slow
def test_trials_that_do_not_fit_together_are_trained_one_by_one(search, monkeypatch, caplog):
    def no_room(members, train, valid):
        raise MemoryError("cannot allocate memory")

    given = {"trials": 3, "space": LIGHT, "sampler": "random", "pruner": "none", "config": DESCENT}
    alone = by_number(search(output="alone", fused="off", **given))
    monkeypatch.setattr(together_module, "train_members", no_room)
    fused = by_number(search(output="fused", fused=3, **given))
    for number, trial in fused.items():
        assert trial.values == alone[number].values
        assert "fused" not in trial.user_attrs
    assert "3 trials cannot be trained together, now one by one: out of memory" in caplog.text


def out_of_memory_in(epoch, monkeypatch, members=2):
    """Have a step of an epoch fail for want of memory as long as there are so many members or more."""
    step, there = SideBySide._step, []
    together = SideBySide.step

    def all_steps(self, now, batch_of, number):
        there[:] = now
        together(self, now, batch_of, number)

    def one_step(member, batch, number):
        if len(there) >= members and len(member.epochs.history) == epoch:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        step(member, batch, number)

    monkeypatch.setattr(SideBySide, "step", all_steps)
    monkeypatch.setattr(SideBySide, "_step", staticmethod(one_step))


@pytest.mark.slow
def test_a_trial_that_is_out_of_memory_among_others_is_trained_alone(search, monkeypatch, caplog):
    given = {"trials": 3, "space": LIGHT, "sampler": "random", "pruner": "none", "config": DESCENT}
    alone = by_number(search(output="alone", fused="off", **given))
    out_of_memory_in(1, monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # of values that are reported a second time
        fused = by_number(search(output="fused", fused=3, **given))
    for number, trial in fused.items():
        assert trial.state == TrialState.COMPLETE
        assert trial.values == alone[number].values
        assert trial.intermediate_values == alone[number].intermediate_values
        assert "fused" not in trial.user_attrs
    assert "ran out of memory among others" in caplog.text


def test_seeds_that_are_out_of_memory_together_are_trained_one_by_one(search, monkeypatch):
    given = {"trials": 1, "trial_seeds": 2, "pruner": "none", "sampler": "random", "config": DESCENT}
    alone = by_number(search(output="alone", fused="off", **given))
    out_of_memory_in(1, monkeypatch)
    (trial,) = by_number(search(output="fused", fused=2, **given)).values()
    assert trial.value == alone[0].value
    assert trial.intermediate_values == alone[0].intermediate_values
    assert trial.user_attrs["epochs"] == alone[0].user_attrs["epochs"]


@pytest.mark.slow
def test_a_trial_with_no_room_for_its_model_beside_others_is_trained_alone(search, monkeypatch):
    given = {"trials": 3, "space": LIGHT, "sampler": "random", "pruner": "none", "config": DESCENT}
    alone = by_number(search(output="alone", fused="off", **given))
    made = []
    begin = Objective.begin

    def no_room_for_the_second(self, attempt):
        made.append(attempt)
        begin(self, attempt)
        if len(made) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(Objective, "begin", no_room_for_the_second)
    fused = by_number(search(output="fused", fused=3, **given))
    assert [trial.values for trial in fused.values()] == [alone[number].values for number in fused]


def test_what_goes_wrong_when_a_trial_has_ended_is_raised_and_none_is_left_running(search, monkeypatch):
    def broken(self, trial=None):
        if trial is not None:
            raise ValueError("the table cannot be written")

    monkeypatch.setattr(_Report, "update", broken)
    with pytest.raises(ValueError, match="the table cannot be written"):
        search(trials=3, space=LIGHT, sampler="random", pruner="none", fused=3, config=DESCENT)
    found = study_of(Path("out")).trials
    assert found
    assert not [trial for trial in found if trial.state == TrialState.RUNNING]


def test_what_is_tried_again_after_its_worker_was_killed_is_trained_alone(tmp_path):
    """It may have been too much for the memory together; then it would be again."""
    settings = SearchSettings(
        model="LR", dataset="tiny", config={}, space={}, objectives=["auc"], study="s", output=str(tmp_path),
        trials=4, fused=4, wandb="disabled",
    )  # fmt: skip
    groups = []

    class Groups(FusedTrials):
        def _make_members(self, one, tell):
            one.members, self.tell = [one], tell

        def _train(self, members, opened):
            groups.append([one.attempt.trial.number for one in members])
            for one in list(members):
                self._close(one, self.tell)

        def _alone(self, one, tell):
            groups.append(one.attempt.trial.number)
            self._close(one, tell)

    whole = SimpleNamespace(index=0, task=None)

    class Nothing:
        has_low_rungs = False

        def begin(self, attempt):
            nothing = {"history": [], "seconds_before": 0.0, "best_at": None}
            attempt.runs.append(
                SimpleNamespace(config=defaultdict(lambda: None), attributes=dict, part=whole, **nothing)
            )

    together = Groups(Nothing(), settings, SimpleNamespace(parameters=[]), None, 4)
    study = optuna.create_study()
    for attributes in ({}, {"retry_of": 7}, {"retry_of": 8}, {}, {}):
        study.enqueue_trial({}, user_attrs=attributes)
    left, told = [study.ask() for _ in range(5)], []
    while left:
        together(left.pop(0), lambda: left.pop(0) if left else None, lambda trial, _: told.append(trial.number))
    assert groups == [[0], 1, 2, [3, 4]]
    assert sorted(told) == list(range(5))


@pytest.mark.slow
@pytest.mark.parametrize("no_room", [False, True])
def test_weights_and_biases_has_a_run_of_each_with_its_epochs(search, monkeypatch, no_room):
    monkeypatch.setenv("WANDB_API_KEY", "")
    if no_room:  # the second epoch then comes from a training that is begun anew
        out_of_memory_in(1, monkeypatch)
    result = search(trials=3, space=LIGHT, fused=3, config=DESCENT, wandb="offline", pruner="none")
    found = {run.about["display_name"]: run for run in runs(Path("out/wandb"))}
    for number, trial in by_number(result).items():
        run = found[f"SharedBottom-tiny-{number}"]
        assert run.summary["state"] == "complete"
        assert len(run.exit_codes) == 1, "it is finished"
        curve = [float(value) for value in run.curve("valid/auc").values()]
        assert curve == pytest.approx([row["valid/auc"] for row in trial.user_attrs["history"]])


def test_who_is_interrupted_gives_all_its_trials_back(tmp_path):
    study, settings, space = open_(tmp_path)
    taken = []

    def interrupted(first, more, tell):
        trials = [first, more(), more()]
        taken.extend(space.suggest(trial) for trial in trials)
        tell(trials[1], Outcome(TrialState.COMPLETE, [1.0]))
        raise KeyboardInterrupt

    with Trials(study, settings, 4) as trials, pytest.raises(KeyboardInterrupt):
        trials.run(None, together=interrupted)
    found = study.trials
    assert [trial.state for trial in found] == [TrialState.FAIL, TrialState.COMPLETE, TrialState.FAIL]
    assert all("interrupted" in found[k].user_attrs["reason"] for k in (0, 2))
    study = work(tmp_path)
    assert len(ended(study)) == 4
    assert [one.params for one in ended(study) if "replaces" in one.user_attrs] == [taken[0], taken[2]]


def test_no_more_trials_are_handed_out_than_are_wanted(tmp_path):
    study, settings, space = open_(tmp_path, trials=3)
    sizes = []

    def greedy(first, more, tell):
        trials = [first]
        while (trial := more()) is not None:
            trials.append(trial)
        sizes.append(len(trials))
        for trial in trials:
            found = space.suggest(trial)
            tell(trial, Outcome(TrialState.COMPLETE, [found["a"]]))

    with Trials(study, settings, 3) as trials:
        trials.run(None, together=greedy)
    assert sizes == [3]
    assert len(ended(study)) == 3


@pytest.mark.slow
def test_killed_while_several_train_it_goes_on_to_exactly_its_trials(command, start, tmp_path):  # noqa: F811
    (tmp_path / "space.yaml").write_text(yaml.safe_dump({"model": "SharedBottom", **LIGHT}))
    command = [*command, "--fused=3", "--workers=1", "--final-seeds=0"]
    folder = tmp_path / "searches" / "SharedBottom-tiny"
    process = start(command)
    wait_for(folder, None, lambda trials: states(trials)["RUNNING"] >= 3, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    running = states(study_of(folder).trials)["RUNNING"]
    assert running == 3
    process = start(command)
    _, told = process.communicate(timeout=900)
    assert process.returncode == 0, told
    lost = check_whole(study_of(folder), folder)
    assert len(lost) == running


@pytest.mark.parametrize(
    ("space", "options", "expected"),
    [
        (LIGHT, {"trials": 40}, 8),
        (LIGHT, {"trials": 12}, 3),
        (LIGHT, {"trials": 12, "workers": 6}, 2),
        (LIGHT, {"trials": 12, "sampler": {"name": "grid"}, "workers": 2}, 6),
        (LIGHT, {"trials": None, "timeout": 9.0}, 1),
        (LIGHT, {"trials": None, "epochs": 9}, 1),
        (LIGHT, {"trials": 40, "timeout": 9.0}, 1),
        (LIGHT, {"trials": 40, "epochs": 9}, 1),
        (LIGHT, {"trials": 40, "fused": "off"}, 1),
        (LIGHT, {"trials": 40, "fused": 5}, 5),
        (LIGHT, {"trials": 40, "trial_seeds": 3, "pruner": {"name": "wilcoxon"}}, 1),
        (LIGHT, {"trials": 40, "trial_seeds": 3, "pruner": {"name": "none"}, "fused": 3}, 3),
        (LIGHT, {"trials": 40, "trial_seeds": 3, "pruner": {"name": "none"}, "fused": 2}, 1),
        (LIGHT, {"trials": 40, "trial_seeds": 9, "pruner": {"name": "none"}}, 1),
        (LIGHT, {"timeout": 9.0, "trial_seeds": 3, "pruner": {"name": "none"}}, 8),
        (LIGHT, {"trials": 40, "config": {"bottom_hidden_sizes": [512, 512], "train_batch_size": 2048}}, 1),
        ({"search": {**LIGHT["search"], "bottom_hidden_sizes": [[4], [8]]}}, {"trials": 40}, 1),
    ],
)
def test_how_many_are_trained_at_once(config, tmp_path, space, options, expected):
    """On a CPU by itself only where a step is so small that it is mostly overhead, and models are of one shape."""
    parsed = Space.load({"model": "SharedBottom", **space})
    own = {**config, "seed": 1, "data_seed": 1, "bottom_hidden_sizes": [8], **options.pop("config", {})}
    if "bottom_hidden_sizes" in space["search"]:
        del own["bottom_hidden_sizes"]
    settings = SearchSettings(
        model="SharedBottom", dataset="tiny", config=own, space=parsed.to_dict(), objectives=["auc"], study="s",
        output=str(tmp_path), wandb="disabled", **options,
    )  # fmt: skip
    data = StudyData(settings)
    objective = Objective(settings, parsed, data)
    attempt = Attempt(optuna.create_study().ask())
    objective.begin(attempt)
    assert FusedTrials(objective, settings, parsed, data, settings.trials).limit(attempt) == expected


@pytest.mark.parametrize("given", ["on", "0", "-2", "1.5"])
def test_fused_is_a_number_or_a_word(search, given):
    with pytest.raises(InputError, match="--fused must be auto, off, or how many trials"):
        search(trials=1, fused=given)
