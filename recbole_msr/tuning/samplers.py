"""Optuna's samplers and pruners by name, with their options."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from recbole_msr.errors import InputError, nearest
from recbole_msr.tuning.cmaes import JsonCmaEsSampler
from recbole_msr.tuning.local_sampler import LocalSampler
from recbole_msr.tuning.sampler_options import read_options
from recbole_msr.tuning.space.space import Space
from recbole_msr.tuning.trial_sampler import ModelChooser, SeededByTrial

_T = TypeVar("_T")

_TPE = {"multivariate": True, "group": True, "constant_liar": True, "n_startup_trials": 10}
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    # Optuna's defaults, but for the options given here. A space with conditions falls into groups of parameters that
    # exist together; without `group`, TPE would model each of them alone.
    "local": ("LocalSampler", {**_TPE}),
    "tpe": ("TPESampler", _TPE),
    "gp": ("GPSampler", {"n_startup_trials": 10}),
    "cmaes": ("CmaEsSampler", {"with_margin": True}),
    "random": ("RandomSampler", {}),
    "qmc": ("QMCSampler", {"scramble": True}),
    "grid": ("GridSampler", {}),
    "nsga2": ("NSGAIISampler", {"population_size": 20}),
}
"""Name of a sampler -> Optuna's class, and the options in which our default differs from its."""

PRUNERS: dict[str, tuple[str, dict[str, Any]]] = {
    "median": ("MedianPruner", {"n_startup_trials": 5, "n_warmup_steps": 1}),
    "percentile": ("PercentilePruner", {"percentile": 25.0, "n_startup_trials": 5, "n_warmup_steps": 1}),
    "halving": ("SuccessiveHalvingPruner", {"min_resource": 1, "reduction_factor": 3}),
    "hyperband": ("HyperbandPruner", {"min_resource": 1, "reduction_factor": 3}),
    "patient": ("PatientPruner", {"patience": 2}),
    "wilcoxon": ("WilcoxonPruner", {"p_threshold": 0.1}),
    "none": ("NopPruner", {}),
}
_ALIASES = {
    **{"cma-es": "cmaes", "cma_es": "cmaes", "nsga-ii": "nsga2", "nsgaii": "nsga2", "sobol": "qmc"},
    **{"successive_halving": "halving", "successive-halving": "halving", "nop": "none"},
}


@dataclass(frozen=True)
class Named:
    """A sampler or pruner with its options: `tpe`, or `{name: tpe, n_startup_trials: 20}`."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, what: str, value: Any, known: Mapping[str, tuple[str, dict[str, Any]]]) -> Named:
        """Check a name and its options.

        Args:
            what: "sampler" or "pruner".
            value: a name, or a mapping with `name` and options.
            known: `SAMPLERS` or `PRUNERS`.

        Raises:
            InputError: no such name, or no such option of Optuna's class.
        """
        options = dict(value) if isinstance(value, Mapping) else {"name": value}
        name = str(options.pop("name", "")).lower()
        name = _ALIASES.get(name, name)
        if name not in known:
            raise InputError(f"there is no {what} '{name}'{nearest(name, known) or '.'} Known: {', '.join(known)}")
        options = read_options(what, name, options)
        if "wrapped" in options:
            cls.read(what, options["wrapped"], known)
        return cls(name, options)

    def to_dict(self) -> dict[str, Any]:
        """Return name and options in one mapping."""
        return {"name": self.name, **self.options}

    @classmethod
    def read_back(cls, plain: Mapping[str, Any]) -> Named:
        """Make it from what `to_dict` returned."""
        return cls(plain["name"], {key: value for key, value in plain.items() if key != "name"})


def sampler_class(name: str) -> Callable[..., BaseSampler]:
    """Return the class of a sampler: Optuna's, or our own."""
    found: Callable[..., BaseSampler] = LocalSampler if name == "local" else getattr(optuna.samplers, SAMPLERS[name][0])
    return found


def make_sampler(
    named: Named, space: Space, seed: int, choose_model: ModelChooser | None = None
) -> SeededByTrial | GridOnce:
    """Make the sampler of a study; each trial draws from a generator seeded with `seed` and the trial's number.

    Args:
        named: its name and options.
        space: the search space.
        seed: the study's seed.
        choose_model: in a search over several models, chooses the model of a trial before the rest is drawn.

    Raises:
        InputError: the sampler cannot be made with these options, or not for this space.
    """
    defaults = SAMPLERS[named.name][1]
    options = {**defaults, **named.options}
    build = sampler_class(named.name)
    if named.name == "grid":
        grid = space.grid()
        return _make("sampler", named, lambda: GridOnce(grid, seed=seed, **options))
    if named.name == "qmc":
        # Points of one sequence, counted in the study: its seed stays the same. Parameters under a condition are not
        # in the sequence.
        options["warn_asynchronous_seeding"] = False

        def build_one(trial_seed: int) -> BaseSampler:
            return build(seed=seed, independent_sampler=optuna.samplers.RandomSampler(seed=trial_seed), **options)
    else:

        def build_one(trial_seed: int) -> BaseSampler:
            return build(seed=trial_seed, **options)

    if named.name in ("cmaes", "gp"):
        options["warn_independent_sampling"] = False  # parameters under a condition are drawn at random: documented
    if named.name == "cmaes":
        try:
            import cmaes  # noqa: F401
        except ImportError as error:
            raise InputError("the CMA-ES sampler needs the package cmaes: pip install 'recbole-msr[search]'") from error
        build = JsonCmaEsSampler
    return SeededByTrial(
        lambda trial_seed: _make("sampler", named, lambda: build_one(trial_seed)),
        seed,
        space,
        choose_model,
        redraws=2 if named.name == "gp" else 10,  # each draw of gp fits a model
        shuns_failures=named.name not in ("random", "qmc"),
    )


def make_pruner(named: Named, epochs: int, first_step: int = 1) -> BasePruner:
    """Make the pruner of a study.

    Args:
        named: its name and options.
        epochs: maximum number of epochs of a trial.
        first_step: the step of the first value that a trial reports: 1 for its first epoch, 0 for its first seed.

    Raises:
        InputError: it cannot be made with these options.
    """
    class_name, defaults = PRUNERS[named.name]
    options = {**defaults, **named.options}
    if "n_warmup_steps" in options:  # Optuna takes steps to begin at 0
        options["n_warmup_steps"] += first_step
    if named.name == "hyperband":
        options["max_resource"] = max(epochs, int(options["min_resource"]))
    if named.name == "patient":
        wrapped = Named.read("pruner", options.pop("wrapped", "median"), PRUNERS)
        options["wrapped_pruner"] = None if wrapped.name == "none" else make_pruner(wrapped, epochs, first_step)
    build: Callable[..., BasePruner] = getattr(optuna.pruners, class_name)
    return _make("pruner", named, lambda: build(**options))


def _make(what: str, named: Named, build: Callable[[], _T]) -> _T:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            return build()
        except (ValueError, TypeError, AssertionError) as error:
            raise InputError(f"{what} {named.name}: {error}") from error


class GridOnce(optuna.samplers.GridSampler):
    """A grid that leaves its end to the study: Optuna's calls `Study.stop`, which works only in `Study.optimize`."""

    @property
    def points(self) -> list[Any]:
        """Return all points."""
        return self._all_grids

    def point(self, number: int) -> dict[str, Any]:
        """Return the parameters of a point, as they are enqueued."""
        return dict(zip(self._param_names, self._all_grids[number], strict=True))

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Do nothing."""
