"""Optuna's samplers and pruners by name, with their options."""

from __future__ import annotations

import hashlib
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
from recbole_msr.tuning.sampler_options import read_options
from recbole_msr.tuning.space.space import Space

_T = TypeVar("_T")

SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    # Optuna's defaults, but for the options given here. A space with conditions falls into groups of parameters that
    # exist together; without `group`, TPE would model each of them alone.
    "tpe": ("TPESampler", {"multivariate": True, "group": True, "constant_liar": True, "n_startup_trials": 10}),
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


def make_sampler(named: Named, space: Space, seed: int) -> BaseSampler:
    """Make the sampler of a study; each trial draws from a generator seeded with `seed` and the trial's number.

    Args:
        named: its name and options.
        space: the search space.
        seed: the study's seed.

    Raises:
        InputError: the sampler cannot be made with these options, or not for this space.
    """
    class_name, defaults = SAMPLERS[named.name]
    options = {**defaults, **named.options}
    build: Callable[..., BaseSampler] = getattr(optuna.samplers, class_name)
    if named.name == "grid":
        grid = space.grid()
        return _make("sampler", named, lambda: GridOnce(grid, seed=seed, **options))
    if named.name == "qmc":  # points of one sequence, counted in the study: its seed stays the same
        options["warn_asynchronous_seeding"] = False
        # Parameters under a condition are not in the sequence.
        options["independent_sampler"] = SeededByTrial(
            lambda trial_seed: optuna.samplers.RandomSampler(seed=trial_seed), seed
        )
        return _make("sampler", named, lambda: build(seed=seed, **options))
    if named.name in ("cmaes", "gp"):
        options["warn_independent_sampling"] = False  # parameters under a condition are drawn at random: documented
    if named.name == "cmaes":
        try:
            import cmaes  # noqa: F401
        except ImportError as error:
            raise InputError("the CMA-ES sampler needs the package cmaes: pip install 'recbole-msr[search]'") from error
        build = JsonCmaEsSampler
    return SeededByTrial(lambda n: _make("sampler", named, lambda: build(seed=n, **options)), seed)


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


class SeededByTrial(BaseSampler):
    """A sampler made anew for every trial, from the study's seed and the trial's place in the sequence of trials.

    So a resumed study does not draw its first trials again, workers do not draw the same, and one worker with the same
    seed gives the same trials: a trial that replaces one whose worker was killed has its place, and later trials have
    the places that they would have had.

    Args:
        build: makes a sampler from a seed.
        seed: the study's seed.
    """

    def __init__(self, build: Callable[[int], BaseSampler], seed: int) -> None:
        self._build, self._seed = build, seed
        self._sampler, self._number = build(seed), -1

    def _of(self, study: Study, trial: FrozenTrial) -> BaseSampler:
        if trial.number != self._number:
            digest = hashlib.blake2b(f"{self._seed}/{_place(study, trial)}".encode(), digest_size=4).digest()
            self._sampler, self._number = self._build(int.from_bytes(digest, "big")), trial.number
        return self._sampler

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Pass on to the trial's sampler."""
        self._of(study, trial).before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Any:
        """Pass on to the trial's sampler."""
        return self._of(study, trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        """Pass on to the trial's sampler."""
        return self._of(study, trial).sample_relative(study, trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        """Pass on to the trial's sampler."""
        return self._of(study, trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Pass on to the trial's sampler."""
        self._of(study, trial).after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Do nothing: the next trial has a seed of its own."""


def _place(study: Study, trial: FrozenTrial) -> int:
    """Return a trial's place in the sequence of trials: its number, if no worker was ever killed.

    A trial that replaces another has the other's place, and so has the next one after a trial that was given up before
    it had parameters.
    """
    before = study.get_trials(deepcopy=False)[: trial.number]
    first = trial.user_attrs.get("retry_of")
    if first is not None:
        before = before[: int(first)]
    return sum("replaces" not in earlier.user_attrs and not _never_began(earlier) for earlier in before)


def _never_began(trial: FrozenTrial) -> bool:
    return "uncounted" in trial.user_attrs and not trial.params and "fixed_params" not in trial.system_attrs


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
