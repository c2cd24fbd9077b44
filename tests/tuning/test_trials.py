"""How trials are handed out, lost and tried again, with objectives that take no time.

Workers are killed here in forked processes that share the tests' imports; whole commands are killed in test_workers.py.
"""

import os
import signal
from collections import Counter

import optuna
import pytest
from optuna.trial import TrialState

from recbole_msr.errors import InputError
from recbole_msr.jobs.storage import open_storage
from recbole_msr.tuning.objective import Outcome
from recbole_msr.tuning.outcome import best_trial, defaults_trial
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.space.space import Space
from recbole_msr.tuning.study import counted_trials, open_study
from recbole_msr.tuning.trials import Trials

SPACE = {"search": {"a": {"type": "float", "low": 0.0, "high": 1.0}, "b": {"type": "int", "low": 1, "high": 9}}}
GRID = {"search": {"a": [1, 2], "b": [3, 4]}}


def open_(folder, space=SPACE, trials=4, **options):
    parsed = Space.load(space)
    given = {"sampler": {"name": "random"}, "pruner": {"name": "none"}, "objectives": ["auc"], "trials": trials}
    settings = SearchSettings(
        model="M",
        dataset="d",
        config={"seed": 1},
        space=parsed.to_dict(),
        study="s",
        output=str(folder),
        wandb="disabled",
        **{**given, **options},
    )
    names = settings.objectives
    study = open_study(settings, parsed, "data", {name: name == "parameters" for name in names}, 1)
    return study, settings, parsed


def work(folder, wanted=4, **options):
    study, settings, space = open_(folder, **options)

    def objective(trial):
        found = space.suggest(trial)
        return Outcome(TrialState.COMPLETE, [found["a"] + found["b"]], settings=found)

    with Trials(study, settings, wanted) as trials:
        trials.run(objective)
    return study


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def killed(act):
    """Do something in a process that kills itself in the midst of it."""
    child = os.fork()
    if child == 0:
        try:
            act()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def kill(folder, suggest=(), sampler="random", space=SPACE, **options):
    """Kill a worker while it trains, when it has asked for these parameters; gives the trial."""
    sampler = sampler if isinstance(sampler, dict) else {"name": sampler}

    def act():
        study, settings, parsed = open_(folder, space=space, sampler=sampler, **options)

        def objective(trial):
            for parameter in parsed.parameters:
                if parameter.name in suggest:
                    parameter.suggest(trial)
            die()

        with Trials(study, settings, None) as trials:
            trials.run(objective)

    killed(act)
    return open_(folder, space=space, sampler=sampler, **options)[0].trials[-1]


def ended(study):
    return [trial for trial in study.trials if trial.state == TrialState.COMPLETE]


@pytest.mark.parametrize("suggest", [("a",), ("a", "b")])
def test_a_lost_trial_is_tried_again_with_its_parameters_and_counts_once(tmp_path, suggest):
    work(tmp_path, wanted=2)
    lost = kill(tmp_path, suggest)
    study = work(tmp_path)
    assert len(ended(study)) == 4
    retry = next(trial for trial in study.trials if trial.user_attrs.get("replaces") == lost.number)
    assert {name: retry.params[name] for name in suggest} == lost.params
    assert study.trials[lost.number].user_attrs["reason"] == "its worker was killed"


def test_a_trial_killed_before_it_began_costs_nothing(tmp_path):
    kill(tmp_path)
    study = work(tmp_path)
    assert len(ended(study)) == 4
    assert not any("replaces" in trial.user_attrs for trial in study.trials)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
@pytest.mark.parametrize("suggest", [(), ("a", "b")])
def test_one_worker_draws_the_same_trials_after_kills_as_without_any(tmp_path, suggest, sampler):
    options = {"wanted": 14, "sampler": {"name": sampler}}  # more than TPE draws at random
    whole = work(tmp_path / "whole", **options)
    work(tmp_path / "parts", **(options | {"wanted": 3}))
    for _ in range(2):  # the second time it is the trial that took the place of the first
        kill(tmp_path / "parts", suggest, sampler)
    parts = work(tmp_path / "parts", **(options | {"wanted": 6}))
    kill(tmp_path / "parts", suggest, sampler)
    parts = work(tmp_path / "parts", **options)
    assert len(parts.trials) == 17
    assert [trial.params for trial in ended(parts)] == [trial.params for trial in ended(whole)]


def test_a_lost_trial_is_tried_again_before_first_configurations_that_wait(tmp_path):
    """Killed defaults that came last would be missing from a search whose time ends before."""
    study = open_(tmp_path)[0]
    for number, params in enumerate(({"a": 0.25, "b": 1}, {"a": 0.5, "b": 2}, {"a": 0.75, "b": 3})):
        study.enqueue_trial(params, user_attrs={"origin": "given", "first": f"trial {number}"})
    kill(tmp_path, suggest=("a", "b"))
    # All of them count towards `--trials` once they begin; the retry must not be one too many because others wait.
    assert [trial.params["a"] for trial in ended(work(tmp_path, wanted=2))] == [0.5, 0.25]
    found = ended(work(tmp_path, wanted=3))
    found.sort(key=lambda trial: trial.datetime_start)
    assert [trial.params["a"] for trial in found] == [0.25, 0.5, 0.75]
    assert [trial.user_attrs["first"] for trial in found] == ["trial 0", "trial 1", "trial 2"]


def test_the_retry_is_made_although_whoever_failed_the_trial_was_killed_then(tmp_path):
    """Between the two steps: the trial has failed, its parameters are not yet enqueued."""
    lost = kill(tmp_path, suggest=("a", "b"))

    def reap():
        study, settings, _ = open_(tmp_path)
        study.enqueue_trial = lambda *_, **__: die()
        Trials(study, settings, 4).reap()

    killed(reap)
    assert [trial.state for trial in open_(tmp_path)[0].trials] == [TrialState.FAIL]
    study = work(tmp_path)
    assert len(ended(study)) == 4
    assert [trial.params for trial in study.trials if "replaces" in trial.user_attrs] == [lost.params]


def test_a_result_counts_although_the_trial_had_been_given_up(tmp_path):
    study, settings, space = open_(tmp_path)

    def objective(trial):
        settings_of_trial = space.suggest(trial)
        if trial.number == 0:  # another worker takes this one for dead, begins to fail the trial, and is killed
            trial.set_user_attr("uncounted", "lost")
            return Outcome(TrialState.COMPLETE, [99.0], settings=settings_of_trial)
        return Outcome(TrialState.COMPLETE, [0.0], settings=settings_of_trial)

    with Trials(study, settings, 4) as trials:
        trials.run(objective)
    assert len(study.trials) == len(ended(study)) == 4
    assert best_trial(study, 0.0).number == 0


@pytest.mark.parametrize("suggest", [(), ("a",), ("a", "b")])
def test_no_point_of_a_grid_is_lost_or_tried_twice(tmp_path, suggest):
    kill(tmp_path, suggest, sampler="grid", space=GRID)
    study = work(tmp_path, space=GRID, sampler={"name": "grid"})
    points = sorted((trial.params["a"], trial.params["b"]) for trial in ended(study))
    assert points == [(1, 3), (1, 4), (2, 3), (2, 4)]


def test_a_trial_whose_workers_are_killed_again_and_again_fails_in_the_end(tmp_path):
    for _ in range(3):
        kill(tmp_path, suggest=("a", "b"))
    study = work(tmp_path)
    counted = counted_trials(study)
    assert len(counted) == 4
    (failed,) = [trial for trial in counted if trial.state == TrialState.FAIL]
    assert failed.user_attrs["reason"] == "its worker was killed 3 times"


def test_interrupting_does_not_use_up_the_retries(tmp_path):
    study, settings, space = open_(tmp_path)

    def interrupted(trial):
        space.suggest(trial)
        raise KeyboardInterrupt

    for _ in range(5):
        with Trials(study, settings, 4) as trials, pytest.raises(KeyboardInterrupt):
            trials.run(interrupted)
    assert len(ended(work(tmp_path))) == 4


def test_the_defaults_are_tried_once_although_two_machines_enqueue_them(tmp_path):
    study, _, _ = open_(tmp_path)
    for _ in range(2):
        study.enqueue_trial({"a": 0.5, "b": 5}, user_attrs={"origin": "defaults", "first": True})
    study = work(tmp_path)
    assert len(ended(study)) == 4
    assert sum(trial.params == {"a": 0.5, "b": 5} for trial in ended(study)) == 1


# Two machines: folders of their own, so that no lock keeps them from taking a trial at the same moment.


def outcomes(study):
    """How many trials ended in which state, and why those that do not count do not."""
    return Counter((trial.state.name, trial.user_attrs.get("uncounted")) for trial in study.trials)


def test_two_machines_that_take_the_last_trial_at_the_same_moment_train_it_once(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study, settings, _ = open_(tmp_path / "here", storage=url)
    ask, trained = study.ask, []

    def ask_late():
        work(tmp_path / "there", storage=url)  # after this machine has counted the trials
        return ask()

    study.ask = ask_late
    with Trials(study, settings, 4) as trials:
        trials.run(lambda trial: trained.append(trial))
    assert trained == []
    assert outcomes(study) == {("COMPLETE", None): 4, ("FAIL", "surplus"): 1}
    assert study.trials[4].user_attrs["reason"] == "one too many: another worker has taken it at the same moment"


def twice_retried(tmp_path, url):
    """Kill a worker; two machines notice it at the same moment, and each enqueues its trial. Gives the lost trial."""
    lost = kill(tmp_path / "here", suggest=("a", "b"), storage=url)
    here, settings, _ = open_(tmp_path / "here", storage=url)
    there = open_(tmp_path / "there", storage=url)
    enqueue = here.enqueue_trial

    def enqueue_late(*arguments, **options):
        Trials(there[0], there[1], 4).reap()
        enqueue(*arguments, **options)

    here.enqueue_trial = enqueue_late
    Trials(here, settings, 4).reap()
    assert [trial.user_attrs.get("replaces") for trial in here.trials] == [None, lost.number, lost.number]
    return lost


def test_two_machines_that_retry_a_lost_trial_at_the_same_moment_train_it_once(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    lost = twice_retried(tmp_path, url)
    study = work(tmp_path / "here", storage=url)
    assert outcomes(study) == {("COMPLETE", None): 4, ("FAIL", "lost"): 1, ("FAIL", "surplus"): 1}
    assert [trial.params for trial in ended(study)].count(lost.params) == 1


def test_a_worker_killed_while_it_gives_up_one_too_many_does_not_have_it_retried(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    lost = twice_retried(tmp_path, url)

    def give_up():
        study, settings, space = open_(tmp_path / "here", storage=url)
        tell = study.tell

        def tell_or_die(trial, *arguments, **options):
            if options.get("state") == TrialState.FAIL:
                die()
            tell(trial, *arguments, **options)

        study.tell = tell_or_die
        with Trials(study, settings, 4) as trials:
            trials.run(lambda trial: Outcome(TrialState.COMPLETE, [1.0], settings=space.suggest(trial)))

    killed(give_up)
    study = work(tmp_path / "here", storage=url)
    assert outcomes(study) == {("COMPLETE", None): 4, ("FAIL", "lost"): 1, ("FAIL", "surplus"): 1}
    assert [trial.params for trial in ended(study)].count(lost.params) == 1


def test_a_study_killed_while_it_was_made_is_made_to_its_end(tmp_path):
    storage = open_storage(None, tmp_path)
    optuna.create_study(study_name="s", storage=storage, directions=["maximize"])
    assert len(ended(work(tmp_path))) == 4
    assert len(ended(work(tmp_path))) == 4, "and is found again"
    with pytest.raises(InputError, match="other settings"):
        open_(tmp_path, space={"search": {"a": [1, 2]}})


def test_a_foreign_study_is_refused(tmp_path):
    optuna.create_study(study_name="s", storage=open_storage(None, tmp_path)).optimize(lambda trial: 1.0, n_trials=1)
    with pytest.raises(InputError, match="not made by recbole-msr search"):
        open_(tmp_path)


@pytest.mark.parametrize("change", [{"workers": 3}, {"trials": 9}, {"timeout": 5.0}, {"final_seeds": 1}])
def test_what_changes_no_number_may_change(tmp_path, change):
    open_(tmp_path)
    study, _, _ = open_(tmp_path, **change)
    assert study.user_attrs["objectives"] == ["auc"]


def front(tmp_path, values):
    study, _, _ = open_(tmp_path, objectives=["auc", "parameters"])
    for index, pair in enumerate(values):
        study.add_trial(optuna.trial.create_trial(values=list(pair), user_attrs={"settings": {"n": index}}))
    return study


def test_the_smallest_within_the_tolerance_is_chosen(tmp_path):
    study = front(tmp_path, [(0.80, 1000), (0.795, 500), (0.79, 100), (0.7999, 2000)])
    assert best_trial(study, 0.0).number == 0
    assert best_trial(study, 0.005).number == 1
    assert best_trial(study, 0.01).number == 2


def test_a_trial_that_another_beats_in_everything_is_not_chosen(tmp_path):
    study = front(tmp_path, [(0.80, 1000), (0.795, 500), (0.799, 500)])
    assert best_trial(study, 0.01).number == 2


def test_defaults_that_were_pruned_can_be_tested_but_have_no_value(tmp_path):
    study, settings, space = open_(tmp_path)
    study.enqueue_trial({"a": 0.5}, user_attrs={"origin": "defaults"})
    with Trials(study, settings, 1) as trials:
        trials.run(lambda trial: Outcome(TrialState.PRUNED, settings=space.suggest(trial)))
    assert defaults_trial(study) is None
    assert defaults_trial(study, pruned=True).params["a"] == 0.5


def test_without_a_complete_trial_there_is_no_best(tmp_path):
    study, _, _ = open_(tmp_path)
    assert best_trial(study, 0.0) is None
