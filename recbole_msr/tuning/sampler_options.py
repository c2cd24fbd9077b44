"""The options of samplers and pruners, each with the kind of its value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_msr.errors import InputError, nearest
from recbole_msr.value_kinds import Kind, WrongValueError, checked, choice, either, flag, maybe, number, shown, whole

_MOST = 1_000_000
_STARTUP = {"n_startup_trials": whole(0, _MOST)}
_WARMUP = {
    **_STARTUP,
    "n_warmup_steps": whole(0, _MOST),
    "interval_steps": whole(1, _MOST),
    "n_min_trials": whole(1, _MOST),
}
_HALVING = {"reduction_factor": whole(2, _MOST), "bootstrap_count": whole(0, _MOST)}

_TPE = {
    **_STARTUP,
    **dict.fromkeys(("multivariate", "group", "constant_liar"), flag()),
    "n_ei_candidates": whole(1, 100_000),
}

OPTIONS: dict[str, dict[str, dict[str, Kind]]] = {
    "sampler": {
        "local": {
            **_TPE,
            "tpe_share": number(0, at_most=1),
            "best": whole(1, 1000),
            "changes": number(1, at_most=1000),
        },
        "tpe": _TPE,
        "gp": {**_STARTUP, "deterministic_objective": flag()},
        "cmaes": {
            **_STARTUP,
            **dict.fromkeys(("consider_pruned_trials", "use_separable_cma", "with_margin", "lr_adapt"), flag()),
            "sigma0": maybe(number(above=0, at_most=1e6)),
            "popsize": maybe(whole(2, 10_000)),
        },
        "random": {},
        "qmc": {"qmc_type": choice("sobol", "halton"), "scramble": flag()},
        "grid": {},
        "nsga2": {
            "population_size": whole(2, 100_000),
            "mutation_prob": maybe(number(0, at_most=1)),
            "crossover_prob": number(0, at_most=1),
            "swapping_prob": number(0, at_most=1),
        },
    },
    "pruner": {
        "median": _WARMUP,
        "percentile": {"percentile": number(0, at_most=100), **_WARMUP},
        "halving": {
            "min_resource": either(whole(1, _MOST), choice("auto")),
            **_HALVING,
            "min_early_stopping_rate": whole(0, 100),
        },
        "hyperband": {"min_resource": whole(1, _MOST), **_HALVING},
        "patient": {
            "patience": whole(0, _MOST),
            "min_delta": number(0),
            "wrapped": checked(
                "a pruner's name, or a mapping with options", lambda value: isinstance(value, (str, Mapping))
            ),
        },
        "wilcoxon": {"p_threshold": number(0, at_most=1), "n_startup_steps": whole(0, _MOST)},
        "none": {},
    },
}
"""Optuna's options that are plain values; functions and objects cannot stand in a command or a file."""


def read_options(what: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Check the options of a sampler or pruner, and convert them: 20.0 to 20 where trials are counted.

    Args:
        what: "sampler" or "pruner".
        name: its name.
        options: its options, as the user wrote them.

    Raises:
        InputError: no such option, or a value that it cannot have.
    """
    kinds, taken = OPTIONS[what][name], {}
    for key, value in options.items():
        if key not in kinds:
            has = f"; it has {', '.join(kinds)}" if kinds else ", which has none"
            raise InputError(f"there is no option '{key}' of the {what} {name}{nearest(str(key), kinds)}{has}")
        try:
            taken[key] = kinds[key].take(value)
        except WrongValueError as error:
            raise InputError(f"the {what} {name}: '{key}' must be {error.right}, got {shown(value)}") from None
    return taken
