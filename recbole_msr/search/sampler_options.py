"""Options of samplers and pruners: which there are, and what each may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from recbole_msr.errors import InputError, nearest


class Option(NamedTuple):
    """What an option may be, in words and as a test."""

    right: str
    fits: Callable[[Any], bool]


def _whole(least: int, most: int = 1_000_000) -> Option:
    return Option(
        f"a whole number from {least} to {most}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most,
    )


def _number(least: float, most: float, above: bool = False) -> Option:
    bounds = f"{'above' if above else 'from'} {least:g}" + (f" to {most:g}" if most < math.inf else "")
    return Option(
        f"a number {bounds}",
        lambda value: (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and least <= value <= min(most, 1e300)
            and not (above and value == least)
        ),
    )


def _one_of(*choices: Any) -> Option:
    return Option(f"one of {', '.join(map(str, choices))}", lambda value: isinstance(value, str) and value in choices)


def _or(word: Any, option: Option) -> Option:
    told = "null" if word is None else word
    return Option(
        f"{option.right}, or {told}",
        lambda value: (value is None if word is None else value == word) or option.fits(value),
    )


_FLAG = Option("true or false", lambda value: isinstance(value, bool))
_STARTUP = {"n_startup_trials": _whole(0)}
_WARMUP = {**_STARTUP, "n_warmup_steps": _whole(0), "interval_steps": _whole(1), "n_min_trials": _whole(1)}
_HALVING = {"reduction_factor": _whole(2), "bootstrap_count": _whole(0)}

OPTIONS: dict[str, dict[str, dict[str, Option]]] = {
    "sampler": {
        "tpe": {
            **_STARTUP,
            **dict.fromkeys(("multivariate", "group", "constant_liar"), _FLAG),
            "n_ei_candidates": _whole(1, 100_000),
        },
        "gp": {**_STARTUP, "deterministic_objective": _FLAG},
        "cmaes": {
            **_STARTUP,
            **dict.fromkeys(("consider_pruned_trials", "use_separable_cma", "with_margin", "lr_adapt"), _FLAG),
            "sigma0": _or(None, _number(0, 1e6, above=True)),
            "popsize": _or(None, _whole(2, 10_000)),
        },
        "random": {},
        "qmc": {"qmc_type": _one_of("sobol", "halton"), "scramble": _FLAG},
        "grid": {},
        "nsga2": {
            "population_size": _whole(2, 100_000),
            "mutation_prob": _or(None, _number(0, 1)),
            "crossover_prob": _number(0, 1),
            "swapping_prob": _number(0, 1),
        },
    },
    "pruner": {
        "median": _WARMUP,
        "percentile": {"percentile": _number(0, 100), **_WARMUP},
        "halving": {
            "min_resource": _or("auto", _whole(1)),
            **_HALVING,
            "min_early_stopping_rate": _whole(0, 100),
        },
        "hyperband": {"min_resource": _whole(1), **_HALVING},
        "patient": {
            "patience": _whole(0),
            "min_delta": _number(0, math.inf),
            "wrapped": Option(
                "a pruner's name, or a mapping with options", lambda value: isinstance(value, (str, Mapping))
            ),
        },
        "wilcoxon": {"p_threshold": _number(0, 1), "n_startup_steps": _whole(0)},
        "none": {},
    },
}
"""Those of Optuna's options that are plain values; functions and objects cannot stand in a command or a file."""


def check_options(what: str, name: str, options: Mapping[str, Any]) -> None:
    """Check the options of a sampler or pruner.

    Args:
        what: "sampler" or "pruner".
        name: which one.
        options: as given.

    Raises:
        InputError: an option that there is not, or a value that it cannot have.
    """
    known = OPTIONS[what][name]
    for key, value in options.items():
        if key not in known:
            told = f"; it has {', '.join(known)}" if known else ", which has none"
            raise InputError(f"there is no option '{key}' of the {what} {name}{nearest(str(key), known)}{told}")
        if not known[key].fits(value):
            raise InputError(f"the {what} {name}: '{key}' must be {known[key].right}, got {value!r}")
