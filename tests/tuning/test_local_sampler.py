"""Trials close to the best ones: studies in memory, objectives that take no time."""

import itertools

import optuna
from optuna.trial import TrialState, create_trial

from recbole_msr.tuning.samplers import SAMPLERS, Named, make_sampler
from recbole_msr.tuning.space.space import Space
from recbole_msr.tuning.study import quiet

WIDE = {"search": {f"x{i}": {"type": "float", "low": 0.0, "high": 1.0} for i in range(20)}}
KINDS = {
    "search": {
        "rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
        "share": {"type": "float", "low": 0.0, "high": 0.5, "step": 0.1},
        "count": {"type": "int", "low": 1, "high": 9, "step": 2},
        "size": [8, 16, 32],
        "kind": ["a", "b", "c"],
        "of_a": {"type": "int", "low": 1, "high": 3, "when": {"kind": "a"}},
        "widths": {"type": "layers", "depth": [1, 3], "width": [16, 32, 64]},
    }
}


def study_of(space, directions=("maximize",), name="local", seed=7, **options):
    made = make_sampler(Named.read("sampler", {"name": name, **options}, SAMPLERS), space, seed)
    return optuna.create_study(directions=list(directions), sampler=made)


def run(study, space, objective, trials):
    with quiet():
        for _ in range(trials):
            trial = study.ask()
            study.tell(trial, objective(space.suggest(trial)))
    return study.trials


def changed(trial, others):
    """The number of parameters in which a trial differs from the one that is nearest to it."""
    return min(sum(trial.params.get(name) != value for name, value in one.params.items()) for one in others)


def test_a_trial_differs_from_one_of_the_best_in_a_few_parameters():
    space = Space.load(WIDE)
    study = study_of(space, tpe_share=0, best=2)
    trials = run(study, space, lambda found: -sum((value - 0.3) ** 2 for value in found.values()), 60)
    counts = []
    for number, trial in enumerate(trials[1:], start=1):
        best = sorted(trials[:number], key=lambda one: -one.value)[:2]
        counts.append(changed(trial, best))
    assert max(counts) < 10
    assert 1 < sum(counts) / len(counts) < 3, "two are expected"


def test_from_a_good_start_it_gains_more_than_tpe_in_as_many_trials():
    space = Space.load(
        {
            "search": {
                **{f"x{i}": {"type": "float", "low": 0.0, "high": 1.0} for i in range(10)},
                **{f"c{i}": ["a", "b", "c"] for i in range(10)},
            }
        }
    )

    def gain(name, seed):
        def value(found):
            numbers = sum((found[f"x{i}"] - 0.3) ** 2 for i in range(10))
            return -numbers - 0.1 * sum(found[f"c{i}"] != ("a" if i < 8 else "b") for i in range(10))

        study = study_of(space, name=name, seed=seed)
        study.enqueue_trial({f"x{i}": 0.5 for i in range(10)} | {f"c{i}": "a" for i in range(10)})
        trials = run(study, space, value, 50)
        return max(trial.value for trial in trials) - trials[0].value

    gains = {name: sum(gain(name, seed) for seed in range(3)) for name in ("local", "tpe")}
    assert gains["local"] > 1.3 * gains["tpe"] > 0


def test_every_value_is_one_of_the_space_and_all_kinds_change():
    space = Space.load(KINDS)
    study, values = study_of(space, tpe_share=0), itertools.count()
    trials = run(study, space, lambda _: float(next(values)), 120)  # the latest is the best: it wanders
    seen = {name: {trial.params[name] for trial in trials if name in trial.params} for name in trials[-1].params}
    for trial in trials:
        for name, value in trial.params.items():
            assert trial.distributions[name]._contains(trial.distributions[name].to_internal_repr(value))
    assert seen["size"] == {8, 16, 32}
    assert seen["kind"] == {"a", "b", "c"}
    assert seen["count"] == {1, 3, 5, 7, 9}
    assert all(round(10 * value, 6).is_integer() for value in seen["share"])
    assert {trial.params["of_a"] for trial in trials if "of_a" in trial.params} == {1, 2, 3}
    assert all(("of_a" in trial.params) == (trial.params["kind"] == "a") for trial in trials)


def test_a_pruned_trial_counts_with_its_best_epoch_on_all_rows_and_one_of_few_rows_does_not():
    space = Space.load(WIDE)
    study = study_of(space, tpe_share=0, best=1, changes=1)
    with quiet():
        model = study.ask()
        space.suggest(model)
    kinds = study.trials[0].distributions
    for value, params, attributes in ((0.9, 0.2, {"values_so_far": [0.9]}), (0.95, 0.8, {})):
        point = {f"x{i}": params for i in range(20)}
        study.add_trial(
            create_trial(state=TrialState.PRUNED, value=value, params=point, distributions=kinds, user_attrs=attributes)
        )
    with quiet():
        trial = study.ask()
        settings = space.suggest(trial)
    assert sum(value == 0.2 for value in settings.values()) >= 18


def test_with_several_objectives_tpe_draws_every_trial():
    space = Space.load(WIDE)
    both = [
        run(study_of(space, ("maximize", "minimize"), name), space, lambda found: [found["x0"], found["x1"]], 15)
        for name in ("local", "tpe")
    ]
    assert [trial.params for trial in both[0]] == [trial.params for trial in both[1]]
