"""CMA-ES draws what Optuna's own draws, and reads nothing but numbers from a study."""

import pickle

import numpy as np
import optuna
import pytest

from recbole_msr.errors import InputError
from recbole_msr.tuning.cmaes import JsonCmaEsSampler, decode, encode

cmaes = pytest.importorskip("cmaes")


def _objective(trial):
    x, y = trial.suggest_float("x", -3, 3), trial.suggest_float("y", 1e-3, 1, log=True)
    return (x - 1) ** 2 + y + 0.1 * trial.suggest_int("n", 1, 9)


@pytest.mark.parametrize("options", [{"with_margin": True}, {}, {"use_separable_cma": True}])
def test_the_draws_are_optunas_own_also_after_the_state_was_read_back(options):
    found = []
    for build in (optuna.samplers.CmaEsSampler, JsonCmaEsSampler):
        study = optuna.create_study()
        for number in range(40):
            study.sampler = build(seed=number, warn_independent_sampling=False, **options)  # one a trial
            study.optimize(_objective, n_trials=1)
        found.append([trial.params for trial in study.trials])
    assert found[0] == found[1]


class _Plants:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_pickle_in_a_study_is_never_read(tmp_path):
    marker = tmp_path / "marker"
    study = optuna.create_study(sampler=JsonCmaEsSampler(seed=1))
    study.optimize(_objective, n_trials=12)
    last = study.trials[-1]
    attribute = next(name for t in study.trials for name in t.system_attrs if "optimizer" in name)
    sent = {attribute: pickle.dumps(_Plants(str(marker))).hex()}
    made = optuna.trial.create_trial(
        params=last.params, distributions=last.distributions, value=0.0, system_attrs=last.system_attrs | sent
    )
    study.add_trial(made)
    with pytest.raises(InputError, match=r"the state of CMA-ES in trial 12 .* begin a new study"):
        study.optimize(_objective, n_trials=1)
    assert not marker.exists()


@pytest.mark.parametrize(
    "state",
    [
        {"class": "Popen", "state": {}},
        {"class": "CMA", "state": {"_c_1d": {"class": "os", "state": {}}}},
        {"array": ["x"], "shape": [1], "dtype": "object"},
        {"number": "x", "dtype": "str"},
        "text",
        [1],
    ],
)
def test_only_numbers_and_optimisers_are_made(state):
    with pytest.raises((KeyError, TypeError, ValueError)):
        decode(state)


def test_a_state_keeps_all_its_bits():
    optimizer = cmaes.CMA(mean=np.array([0.1, 1 / 3]), sigma=0.7, seed=3)
    optimizer.tell([(optimizer.ask(), float(k)) for k in range(optimizer.population_size)])
    again = decode(encode(optimizer))
    for one in (optimizer, again):
        one._rng.seed(5)
    np.testing.assert_array_equal(optimizer.ask(), again.ask())
