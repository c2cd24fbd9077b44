"""What a sampler is shown, and which points it is asked for: studies in memory, objectives that take no time."""

import optuna
import pytest
from optuna.trial import TrialState

from recbole_msr.tuning.samplers import SAMPLERS, Named, make_sampler
from recbole_msr.tuning.space.space import Space
from recbole_msr.tuning.study import quiet

NUMBERS = {"search": {name: {"type": "float", "low": 0.0, "high": 1.0} for name in ("a", "b")}}
TWO_MODELS = {
    "search": {
        "model": ["A", "B"],
        "A.x": {"key": "x", "type": "float", "low": 0.0, "high": 1.0, "when": {"model": "A"}},
        "B.x": {"key": "x", "type": "float", "low": 0.0, "high": 1.0, "when": {"model": "B"}},
    }
}


def study_of(space, sampler="tpe", seed=0, directions=("maximize",), choose_model=None):
    made = make_sampler(Named.read("sampler", sampler, SAMPLERS), space, seed, choose_model)
    return optuna.create_study(directions=list(directions), sampler=made)


def run(study, space, objective, trials):
    """Run trials; an objective that gives None fails."""
    with quiet():
        for _ in range(trials):
            trial = study.ask()
            values = objective(space.suggest(trial))
            study.tell(trial, values, TrialState.FAIL if values is None else TrialState.COMPLETE)
    return study.trials


def test_the_model_is_chosen_first_and_only_its_own_trials_are_learnt_from():
    space, seen = Space.load(TWO_MODELS), []

    def choose(trials, seed):
        seen.append((len(trials), seed))
        return "B" if len(trials) % 4 == 3 else "A"

    def objective(settings):  # B's best x is where A's is worst, and all of B's values are below all of A's
        x = settings["x"]
        return 10 - x if settings["model"] == "A" else -((x - 0.9) ** 2)

    trials = run(study_of(space, choose_model=choose), space, objective, 80)
    assert [trial.params["model"] for trial in trials] == ["B" if n % 4 == 3 else "A" for n in range(80)]
    assert [count for count, _ in seen] == list(range(80))
    assert len({seed for _, seed in seen}) == 80
    last = {model: [t.params[f"{model}.x"] for t in trials[56:] if t.params["model"] == model] for model in "AB"}
    assert sum(last["A"]) / len(last["A"]) < 0.2
    assert sum(last["B"]) / len(last["B"]) > 0.6


def test_without_a_chooser_the_model_is_a_parameter_like_others():
    space = Space.load(TWO_MODELS)
    trials = run(study_of(space), space, lambda settings: float(settings["model"] == "B"), 60)
    assert sum(trial.params["model"] == "B" for trial in trials[40:]) > 12


def test_a_model_that_was_given_is_not_chosen():
    space = Space.load(TWO_MODELS)
    study = study_of(space, choose_model=lambda trials, seed: "A")
    study.enqueue_trial({"model": "B"})
    first, second = run(study, space, lambda settings: 1.0, 2)
    assert set(first.params) == {"model", "B.x"}
    assert set(second.params) == {"model", "A.x"}


@pytest.mark.parametrize("sampler", ["local", "tpe", "gp", "cmaes", "nsga2", "qmc", "random"])
def test_the_same_seed_gives_the_same_trials_with_failures_among_them(sampler):
    space = Space.load(NUMBERS)

    def draw():
        fails_above = lambda found: None if found["a"] > 0.6 else found["a"] + found["b"]  # noqa: E731
        options = {"name": sampler, "n_startup_trials": 3} if sampler == "gp" else sampler
        trials = run(study_of(space, options), space, fails_above, 10 if sampler == "gp" else 26)
        return [(t.params, t.state) for t in trials]

    first = draw()
    assert first == draw()
    assert {state for _, state in first} == {TrialState.COMPLETE, TrialState.FAIL}
