"""Options of samplers and pruners have types and ranges, and a warm-up protects the epochs that it names."""

import optuna
import pytest

from recbole_msr.errors import InputError
from recbole_msr.tuning.sampler_options import OPTIONS
from recbole_msr.tuning.samplers import PRUNERS, SAMPLERS, Named, make_pruner, make_sampler
from recbole_msr.tuning.space.space import Space
from recbole_msr.value_kinds import WrongValueError

SPACE = Space.load({"search": {"a": {"type": "float", "low": 0.1, "high": 1.0, "step": 0.1}, "b": [1, 2]}})
KNOWN = {"sampler": SAMPLERS, "pruner": PRUNERS}
EVERY = [(what, name, key) for what, names in OPTIONS.items() for name, options in names.items() for key in options]


def _fits(kind, value):
    try:
        kind.take(value)
    except WrongValueError:
        return False
    return True


@pytest.mark.parametrize(("what", "name", "key"), EVERY)
@pytest.mark.parametrize("value", [-1, -0.5, float("nan"), float("inf"), 10**400, "x", [1], {"a": 1}, None])
def test_what_an_option_cannot_be_is_refused_by_name(what, name, key, value):
    if _fits(OPTIONS[what][name][key], value):
        assert value is None or key == "wrapped"
        return
    with pytest.raises(InputError, match=f"the {what} {name}: '{key}' must be "):
        Named.read(what, {"name": name, key: value}, KNOWN[what])


@pytest.mark.parametrize(
    ("name", "options"), [("hyperband", {"min_resource": 0}), ("halving", {"reduction_factor": 1})]
)
def test_halving_needs_a_resource_and_a_factor(name, options):
    with pytest.raises(InputError, match="must be"):
        Named.read("pruner", {"name": name, **options}, PRUNERS)


def test_what_a_pruner_wraps_is_checked_too():
    with pytest.raises(InputError, match="'patience' must be"):
        Named.read("pruner", {"name": "patient", "wrapped": {"name": "patient", "patience": -1}}, PRUNERS)
    with pytest.raises(InputError, match="no pruner 'nope'"):
        Named.read("pruner", {"name": "patient", "wrapped": "nope"}, PRUNERS)


def test_options_are_those_of_optunas_classes():
    """With the least that each may be, Optuna builds all of them."""
    least = {"sigma0": 0.5, "popsize": 2, "qmc_type": "halton", "wrapped": "median", "min_resource": 1}
    for what, known in KNOWN.items():
        for name in known:
            for key, option in OPTIONS[what][name].items():
                value = next(v for v in (least.get(key), 0, 1, 2, False) if v is not None and _fits(option, v))
                if name in ("local", "tpe") and key == "multivariate":
                    continue  # group, which is the default, needs it
                named = Named.read(what, {"name": name, key: value}, known)
                made = make_sampler(named, SPACE, 1) if what == "sampler" else make_pruner(named, 9)
                assert made is not None


@pytest.mark.parametrize("name", ["median", "percentile"])
@pytest.mark.parametrize(("first_step", "warm_up"), [(1, 0), (1, 1), (1, 3), (0, 1)])
def test_a_warm_up_of_n_lets_n_values_pass(name, first_step, warm_up):
    """Each trial reports values from `first_step`; the last one is the worst from its beginning."""
    given = {"name": name, "n_startup_trials": 1, "n_warmup_steps": warm_up}
    study = optuna.create_study(
        direction="maximize", pruner=make_pruner(Named.read("pruner", given, PRUNERS), 9, first_step)
    )
    for _ in range(3):
        trial = study.ask()
        for step in range(first_step, first_step + 6):
            trial.report(0.9, step)
        study.tell(trial, 0.9)
    bad = study.ask()
    pruned = []
    for step in range(first_step, first_step + 6):
        bad.report(0.1, step)
        pruned.append(bad.should_prune())
    assert pruned == [False] * warm_up + [True] * (6 - warm_up)
