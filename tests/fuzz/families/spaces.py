# ruff: noqa: E501  a case is a line
"""Search spaces, in this package's YAML and in RecBole's lines; samplers and pruners with their options."""

from __future__ import annotations

import math
import random
from typing import Any

from tests.fuzz.case import EITHER, REFUSED, RUNS, SEARCH, SPACED, Case, Family, as_yaml, write

BAD: list[Any] = [
    5, "x", None, True, [], {}, [[]], {"type": "float"}, {"type": "nothing"}, {"type": None}, {"type": []}, {"low": 1, "high": 2},
    *({"type": "float", "low": low, "high": high} for low, high in (
        (2, 1), ("x", 1), (None, 1), (0, math.inf), (-math.inf, 1), (math.nan, 1), (0, [1]), (True, 2), (0, "1"), ({}, 1),
    )),
    {"type": "float", "low": 0, "high": 1, "log": True}, {"type": "float", "low": -1, "high": 1, "log": True},
    {"type": "float", "low": 0.1, "high": 1, "log": "x"}, {"type": "float", "low": 0.1, "high": 1, "log": True, "step": 0.1},
    {"type": "float", "low": 0, "high": 1, "step": 0}, {"type": "float", "low": 0, "high": 1, "step": -1},
    {"type": "float", "low": 0, "high": 1, "step": "x"}, {"type": "float", "low": 0, "high": 1, "step": math.nan},
    {"type": "float", "low": 0, "high": 1e308, "step": 1e-308}, {"type": "float", "low": 0, "high": 1, "nonsense": 1},
    {"type": "float", "low": 0, "high": 1, "when": {"nothing": 1}}, {"type": "float", "low": 0, "high": 1, "when": 5},
    {"type": "float", "low": 0, "high": 1, "when": {}}, {"type": "float", "low": 0, "high": 1, "when": {"odd": 1}},
    {"type": "float", "low": 0, "high": 1, "when": {"embedding_size": 99}}, {"type": "float", "low": 0, "high": 1, "when": {"embedding_size": []}},
    {"type": "float", "low": 0, "high": 1, "key": "nothing"}, {"type": "float", "low": 0, "high": 1, "key": 5},
    {"type": "int", "low": 1, "high": 1e23}, {"type": "int", "low": 1, "high": 10**30}, {"type": "int", "low": 1.5, "high": 3},
    {"type": "int", "low": 0, "high": 3, "log": True}, {"type": "int", "low": 1, "high": 3, "step": 0},
    {"type": "int", "low": 1, "high": 3, "step": 1.5}, {"type": "int", "low": -(10**400), "high": 3},
    {"type": "categorical"}, {"type": "categorical", "choices": []}, {"type": "categorical", "choices": 5},
    {"type": "categorical", "choices": "abc"}, {"type": "categorical", "choices": {"a": 1}}, {"type": "categorical", "choices": [1, 1]},
    {"type": "categorical", "choices": [math.nan]}, {"type": "categorical", "choices": [None]},
    {"type": "layers"}, {"type": "layers", "depth": 0, "width": [4]}, {"type": "layers", "depth": [2, 1], "width": [4]},
    {"type": "layers", "depth": -1, "width": [4]}, {"type": "layers", "depth": "x", "width": [4]}, {"type": "layers", "depth": [1, 2, 3], "width": [4]},
    {"type": "layers", "depth": [1, 10**9], "width": [4]}, {"type": "layers", "depth": 1, "width": []},
    {"type": "layers", "depth": 1, "width": ["x"]}, {"type": "layers", "depth": 1, "width": [0]}, {"type": "layers", "depth": 1, "width": [-4]},
    {"type": "layers", "depth": 1, "width": 5}, {"type": "layers", "depth": 1, "width": {"low": 8, "high": 4}},
    {"type": "layers", "depth": 1, "width": {"low": 0, "high": 4, "log": True}}, {"type": "layers", "depth": 1.5, "width": [4]},
    {"type": "layers", "depth": [1], "width": [4]}, {"type": "layers", "depth": None, "width": [4]},
    {"type": "model", "choices": ["STAR"]}, {"type": "model"}, {"type": "stores"}, {"type": "stores", "names": ["nothing"]},
    {"type": "stores", "build": {"encoder": "nothing", "template": "full"}}, {"type": "stores", "build": 5}, {"type": "stores", "names": 5},
]  # fmt: skip
KEYS = ("epochs", "seed", "data_seed", "tasks", "scenario", "eval_args", "output_dir", "valid_metric", "lightning", "threads",
        "nothing", "", " ", 5, None, True, "model", "dataset", "preset", "sub_experts", "embedding_size.1")  # fmt: skip
TOPS: list[Any] = [
    {"model": "nothing"}, {"model": 5}, {"model": []}, {"model": "MMoE"}, {"include": "nothing"}, {"include": 5}, {"include": []},
    {"include": "../x"}, {"include": "space.yaml"}, {"include": ["SharedBottom", "nothing"]}, {"include": {"a": 1}}, {"fixed": 5},
    {"fixed": []}, {"fixed": {"nothing": 1}}, {"fixed": {"epochs": "x"}}, {"fixed": {"epochs": -1}}, {"fixed": {5: 1}},
    {"search": 5}, {"search": []}, {"search": {}}, {"search": None}, {"nonsense": 1}, {5: 1}, {"search": {"dropout": [5, 6]}},
    {"search": {"embedding_size": [0, -1]}}, {"search": {"learning_rate": [0, -1]}}, {"search": {"dropout": ["x", "y"]}},
    {"fixed": {"dropout": 0.1}, "search": {"dropout": [0.1, 0.2]}}, {"search": {"a": {"key": "dropout", "type": "float", "low": 0, "high": 0.5}, "dropout": [0.1, 0.2]}},
    {"search": {"dropout": {"type": "float", "low": 0, "high": 0.5, "when": {"batch_norm": True}}, "batch_norm": {"type": "categorical", "choices": [True, False], "when": {"dropout": 0.1}}}},
]  # fmt: skip
LINES = (
    "learning_rate loguniform 0,1000", "learning_rate loguniform -8", "learning_rate loguniform -1,-8", "learning_rate loguniform a,b",
    "learning_rate loguniform nan,0", "learning_rate loguniform -1e9,1e9", "learning_rate uniform 1,0", "learning_rate uniform", "learning_rate",
    "learning_rate nothing 0,1", "dropout quniform 0,1", "dropout quniform 0,1,0", "dropout quniform 0,1,-1", "dropout quniform 0,1e308,1e-308",
    "dropout uniform 0,inf", "embedding_size choice", "embedding_size choice []", "embedding_size choice [", "embedding_size choice 8",
    "embedding_size choice [8, 8]", "embedding_size choice {8}", "embedding_size choice [x]", "embedding_size choice [[8]]",
    "embedding_size choice ['a']", "embedding_size choice [8, 1/0]", "embedding_size choice [8,16] # comment", "nothing choice [1, 2]",
    "embedding_size choice [9**9**9]", "embedding_size choice " + "[" * 3000, "seed choice [1, 2]", "\0", "é uniform 0,1",
    "learning_rate choice [1e-3]\nlearning_rate choice [1e-2]",
)  # fmt: skip
SAMPLERS = ("tpe", "gp", "cmaes", "random", "qmc", "grid", "nsga2")
PRUNERS = ("median", "percentile", "halving", "hyperband", "patient", "wilcoxon", "none")
OPTIONS: dict[str, tuple[str, ...]] = {
    "tpe": ("n_startup_trials", "n_ei_candidates", "gamma", "weights", "multivariate", "prior_weight", "seed"),
    "gp": ("n_startup_trials", "deterministic_objective"),
    "cmaes": (
        "n_startup_trials",
        "sigma0",
        "popsize",
        "restart_strategy",
        "x0",
        "with_margin",
        "use_separable_cma",
        "source_trials",
    ),
    "random": ("seed", "nothing"),
    "qmc": ("qmc_type", "scramble"),
    "grid": ("seed", "search_space"),
    "nsga2": ("population_size", "mutation_prob", "crossover", "crossover_prob", "swapping_prob"),
    "median": ("n_startup_trials", "n_warmup_steps", "interval_steps", "n_min_trials"),
    "percentile": ("percentile", "n_startup_trials", "n_warmup_steps"),
    "halving": ("min_resource", "reduction_factor", "min_early_stopping_rate", "bootstrap_count"),
    "hyperband": ("min_resource", "max_resource", "reduction_factor", "bootstrap_count"),
    "patient": ("patience", "min_delta", "wrapped"),
    "wilcoxon": ("p_threshold", "n_startup_steps"),
    "none": ("nothing",),
}
NONSENSE: tuple[Any, ...] = (-1, 0, 0.5, "x", "", None, [], {}, True, math.nan, math.inf, 10**30, 1)
NAMES: tuple[Any, ...] = (
    "nothing",
    "",
    5,
    [],
    {},
    {"name": None},
    {"name": 5},
    {"name": []},
    True,
    {"n_startup_trials": 1},
    ["tpe"],
    {1: 2},
)
NEW = (*SEARCH[:-1], "--output=spaced")


def _space(content: Any, what: str, right: frozenset[str]) -> Case:
    text = as_yaml(content) + "\n"
    return Case(what[:120], SPACED, right, ("space.yaml",), write("space.yaml", text), like="space")


def _with(key: Any, value: Any) -> dict[Any, Any]:
    return {"model": "SharedBottom", "search": {"embedding_size": [4, 8], key: value}}


def listed() -> list[Case]:
    """Declarations, keys, files, lines, samplers and pruners."""
    found = [_space(_with("dropout", value), f"dropout: {as_yaml(value)}", REFUSED) for value in BAD]
    found += [_space(_with(key, [1, 2]), f"a parameter {key!r}", REFUSED) for key in KEYS]
    for top in TOPS:
        found.append(
            _space(
                {"model": "SharedBottom", "search": {"embedding_size": [4, 8]}} | top,
                f"{as_yaml(top)}",
                REFUSED,
            )
        )
    hyper = tuple(word.replace("space.yaml", "hyper.test") for word in SPACED)
    good = ("embedding_size choice [8,16] # comment",)
    for line in LINES:
        right = EITHER if line in good else REFUSED
        found.append(
            Case(f"line: {line[:60]!r}", hyper, right, ("hyper.test",), write("hyper.test", line + "\n"), like="space")
        )
    for what, names in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
        found += [
            Case(f"{what} {as_yaml(name)}", (*NEW, f"--{what}={as_yaml(name)}"), REFUSED, like="space")
            for name in NAMES
        ]
        for name in names:
            command = (*SPACED, f"--{what}={name}")
            right = EITHER if name in ("grid", "wilcoxon") else RUNS
            found.append(Case(f"{what} {name}", command, right, ("space.yaml",), like="space"))
            for option in OPTIONS[name]:
                for value in NONSENSE:
                    found.append(_option(what, name, option, value))
    return found


def _option(what: str, name: str, option: str, value: Any) -> Case:
    shown = f"--{what}={as_yaml({'name': name, option: value})}"
    return Case(shown, (*SPACED, shown), EITHER, ("space.yaml",), like="space")


def draw(draw: random.Random) -> Case:
    """Two declarations at once, or two options."""
    if draw.random() < 0.3:
        what, names = draw.choice((("sampler", SAMPLERS), ("pruner", PRUNERS)))
        name = draw.choice(names)
        options = {option: draw.choice(NONSENSE) for option in draw.sample(OPTIONS[name], min(2, len(OPTIONS[name])))}
        shown = f"--{what}={as_yaml({'name': name, **options})}"
        return Case(shown[:120], (*SPACED, shown), EITHER, ("space.yaml",), like="space")
    value = draw.choice([one for one in BAD if isinstance(one, dict)])
    changed = {key: draw.choice(NONSENSE) if draw.random() < 0.3 else part for key, part in value.items()}
    return _space(
        _with(draw.choice(("dropout", "learning_rate", "bottom_hidden_sizes")), changed), f"{as_yaml(changed)}", EITHER
    )


FAMILY = Family("spaces", listed, draw)
