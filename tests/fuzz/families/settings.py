# ruff: noqa: E501  a case is a line
"""Every documented key, with values that it cannot have, and with odd ones that it can."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

from recbole_msr.config.loss_weightings import LOSS_WEIGHTINGS
from tests.fuzz.case import EITHER, REFUSED, RUN, RUNS, Case, Family, append, as_yaml

Kind = Callable[[Any], "bool | None"]
"""Whether a value is one that a key can have; None where the campaign does not say."""


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _finite(value: Any) -> bool:
    return isinstance(value, int) or math.isfinite(value)


def real(low: float = -math.inf, high: float = math.inf, open_low: bool = False, open_high: bool = False) -> Kind:
    """A finite number between two others."""

    def fits(value: Any) -> bool | None:
        if not _number(value) or not _finite(value) or abs(value) > 1.8e308 or not low <= value <= high:
            return False
        if (open_low and value == low) or (open_high and value == high):
            return False
        return True if abs(value) <= 1000 else None  # it may diverge, and say so

    return fits


def whole(low: int, high: int = 64) -> Kind:
    """A whole number of at least `low`; of large ones, and of 1.0, the campaign says nothing."""

    def fits(value: Any) -> bool | None:
        if not _number(value) or not _finite(value) or value < low or value != int(value):
            return False
        return True if isinstance(value, int) and value <= high else None

    return fits


def flag(value: Any) -> bool:
    """True or False."""
    return isinstance(value, bool)


def one_of(*words: Any) -> Kind:
    """One of some words."""
    return lambda value: isinstance(value, str) and value in words


def sizes(empty: bool) -> Kind:
    """A list of whole numbers of at least 1."""

    def fits(value: Any) -> bool | None:
        if not isinstance(value, list) or not (value or empty):
            return False
        each = [whole(1)(size) for size in value]
        return False if False in each else None if None in each else True

    return fits


def text(value: Any) -> bool | None:
    """Any text, but odd ones may be refused."""
    return None if isinstance(value, str) and value.strip() else False


def mapping(value: Any) -> bool | None:
    """A mapping; what may be in it is for other families."""
    return None if isinstance(value, dict) else False


def listing(value: Any) -> bool | None:
    """A list; what may be in it is not said here."""
    return None if isinstance(value, list) else False


def unsaid(value: Any) -> None:
    """Anything that does not end badly."""
    return None


def or_null(kind: Kind) -> Kind:
    """The same, or nothing."""
    return lambda value: True if value is None else kind(value)


KEYS: dict[str, Kind] = {
    "epochs": whole(1, 8),
    "stopping_step": whole(0),
    "eval_step": whole(1, 1),
    "train_batch_size": whole(1),
    "eval_batch_size": whole(1),
    "learning_rate": real(0, open_low=True),
    "weight_decay": real(0),
    "learner": one_of("adam", "adamw", "sgd", "adagrad", "rmsprop"),
    "seed": whole(0),
    "data_seed": whole(0),
    "reproducibility": flag,
    "metric_decimal_place": whole(0, 12),
    "min_scenario_rows": whole(1),
    "segments": or_null(mapping),
    "packed_cache": flag,
    "trainer": one_of("auto", "lightning"),
    "fused_optimizer": flag,
    "fast_dropout": flag,
    "embedding_gradients": one_of("dense", "sparse"),
    "precision": or_null(unsaid),
    "compile": lambda value: None if isinstance(value, bool) else False,
    "loss_weighting": one_of(*LOSS_WEIGHTINGS),
    "gradnorm_alpha": real(0),
    "gradnorm_learning_rate": real(0, open_low=True),
    "dwa_temperature": real(0, open_low=True),
    "lr_scheduler": or_null(mapping),
    "threads": or_null(whole(1, 2)),
    "lightning": mapping,
    "save_predictions": flag,
    "wandb": or_null(one_of("disabled")),
    "log_wandb": lambda value: None if isinstance(value, bool) else False,
    "wandb_project": text,
    "strict": flag,
    "show_progress": flag,
    "use_gpu": flag,
    "gpu_id": unsaid,
    "state": one_of("INFO", "WARNING", "ERROR", "CRITICAL", "DEBUG"),
    "embedding_size": whole(1),
    "numerical_as": one_of("raw", "embedding"),
    "bottom_hidden_sizes": sizes(empty=False),
    "tower_hidden_sizes": sizes(empty=True),
    "towers_per": one_of("scenario", "task", "scenario_task"),
    "activation": one_of("relu", "leakyrelu", "gelu", "silu", "tanh", "sigmoid"),
    "dropout": real(0, 1, open_high=True),
    "batch_norm": flag,
    "embedding_std": real(0, open_low=True),
    "weight_init": one_of("he", "xavier"),
    "loss_weights": or_null(mapping),
    "metrics": listing,
    "valid_metric": text,
    "topk": unsaid,
    "eval_args": mapping,
    "train_neg_sample_args": or_null(mapping),
    "clip_grad_norm": or_null(mapping),
    "enable_amp": lambda value: None if isinstance(value, bool) else False,
    "shuffle": flag,
    "data_path": text,
    "load_col": or_null(mapping),
    "unload_col": or_null(mapping),
    "unused_col": or_null(mapping),
    "numerical_features": listing,
    "normalize_field": or_null(listing),
    "normalize_all": or_null(flag),
    "discretization": or_null(mapping),
    "seq_len": or_null(mapping),
    "user_inter_num_interval": unsaid,
    "item_inter_num_interval": unsaid,
    "val_interval": or_null(mapping),
    "filter_inter_by_user_or_item": flag,
    "rm_dup_inter": or_null(one_of("first", "last")),
    "field_separator": lambda value: value == "\t" or (None if isinstance(value, str) and value else False),
    "seq_separator": lambda value: value == " " or (None if isinstance(value, str) and value else False),
    "USER_ID_FIELD": text,
    "ITEM_ID_FIELD": text,
    "TIME_FIELD": text,
    "RATING_FIELD": text,
    "LABEL_FIELD": unsaid,
    "threshold": unsaid,
    "NEG_PREFIX": text,
    "benchmark_filename": or_null(listing),
    "additional_feat_suffix": or_null(unsaid),
    "alias_of_user_id": or_null(unsaid),
    "preload_weight": or_null(mapping),
    "scenario": or_null(mapping),
    "tasks": or_null(mapping),
    "main_task": or_null(one_of("click", "buy")),
    "only_scenario": or_null(one_of("FR", "DE")),
    "preset": or_null(unsaid),
    "cache_dir": or_null(text),
    "data_device": or_null(one_of("cpu")),
    "knowledge": or_null(one_of("none", "random")),
    "knowledge_dir": or_null(text),
    "knowledge_features": or_null(listing),
    "knowledge_feature_size": whole(1),
    "knowledge_scale": one_of("standard", "none"),
    "knowledge_unknown_share": real(0, 1),
    "knowledge_device": one_of("cpu", "model", "auto"),
    "knowledge_leave_one_out": flag,
    "knowledge_bake": flag,
    "knowledge_size": whole(1),
    "knowledge_seed": whole(0),
    "output_dir": or_null(text),
    "resume": lambda value: None if isinstance(value, bool) else False,
    "checkpoint_dir": text,
    "dataset_save_path": or_null(unsaid),
    "dataloaders_save_path": or_null(unsaid),
    "save_dataset": flag,
    "save_dataloaders": flag,
    "worker": unsaid,
    "nproc": unsaid,
    "model": one_of("SharedBottom"),
    "dataset": one_of("tiny"),
}
ALONE = {"model", "dataset", "output_dir", "resume"}
"""Given on the command line too, where the command line wins: the campaign cannot say what a value of the file does."""
READ_TOGETHER = ("knowledge",)
"""Keys by this prefix may be refused for a model that reads no knowledge."""
VALUES: dict[str, Any] = {
    "negative": -1,
    "zero": 0,
    "one": 1,
    "two": 2,
    "a fraction": 0.5,
    "a negative fraction": -0.5,
    "more than one": 1.5,
    "1.0": 1.0,
    "huge": 10**15,
    "beyond 64 bits": 2**64,
    "beyond floats": 10**400,
    "1e308": 1e308,
    "tiny": 1e-308,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "a word": "nonsense",
    "an empty text": "",
    "a blank": " ",
    "a number as text": "3",
    "a path upwards": "../../x",
    "a line break": "a\nb",
    "NUL": "a\0b",
    "an emoji": "\U0001f600",
    "a surrogate": "\ud800",
    "a text of 10,000": "x" * 10_000,
    "an empty list": [],
    "a list of a number": [1],
    "a list of a negative number": [-1],
    "a list of words": ["nonsense"],
    "a list of null": [None],
    "a list of lists": [[1]],
    "a list of true": [True],
    "an empty mapping": {},
    "a mapping": {"a": 1},
    "a mapping of null": {"inter": None},
    "a mapping of mappings": {"a": {"b": {}}},
    "a mapping by number": {1: 2},
    "true": True,
    "false": False,
    "null": None,
}
GOOD: dict[str, Any] = {
    "learner": "adamw",
    "loss_weighting": "dwa",
    "embedding_gradients": "sparse",
    "activation": "tanh",
    "numerical_as": "embedding",
    "towers_per": "task",
    "main_task": "buy",
    "only_scenario": "FR",
    "rm_dup_inter": "first",
    "lr_scheduler": {"name": "CosineAnnealingLR", "T_max": 2},
    "clip_grad_norm": {"max_norm": 5},
    "lightning": {"gradient_clip_val": 1.0},
    "tower_hidden_sizes": [],
    "val_interval": {"timestamp": "[0,1e12)"},
    "loss_weights": {"click": 2, "buy": 0.5},
    "unload_col": {"inter": ["timestamp"]},
    "normalize_all": True,
}
NESTED: dict[str, list[Any]] = {
    "lightning": [
        *({"callbacks": value} for value in (5, "x", [1])),
        *({"max_epochs": value} for value in (-1, 0, "x", 1.5)),
        *({"devices": value} for value in (0, -2, "x", [], 1000, 2.5)),
        *({"accelerator": value} for value in ("gpu", "nothing", 5, None, [])),
        *({"strategy": value} for value in ("nothing", 5, {})),
        *({"precision": value} for value in ("nothing", 5, -16)),
        *({"logger": value} for value in ("x", 5, [1])),
        *({"profiler": value} for value in ("nothing", 5)),
        *({"plugins": value} for value in ("nothing", 5, [1])),
        *({"gradient_clip_val": value} for value in (-1, "x", math.nan, [])),
        *({"limit_train_batches": value} for value in (-1, "x", 0, 2.5)),
        *({"limit_val_batches": value} for value in (-1, "x", 2.5)),
        *({"accumulate_grad_batches": value} for value in (0, -1, "x", 1.5)),
        *({"max_steps": value} for value in (0, "x", -5)),
        *({"max_time": value} for value in ("x", -1, {"days": "x"})),
        *({"val_check_interval": value} for value in (0, -1, "x", 1000)),
        *({"check_val_every_n_epoch": value} for value in (0, -1, "x")),
        *({"num_nodes": value} for value in (0, -1, "x")),
        *({"default_root_dir": value} for value in (5, "\0", [])),
        *({"detect_anomaly": value} for value in ("x", 5)),
        *({"nonsense": value} for value in (1, None)),
        {1: 2},
        {"": 1},
        {"trainer": 1},
        {"model": 1},
    ],
    "lr_scheduler": [
        {"name": "nothing"}, {"name": 5}, {"name": None}, {"name": ""}, {"T_max": 3}, {"name": "CosineAnnealingLR", "T_max": 0},
        {"name": "CosineAnnealingLR", "T_max": "x"}, {"name": "CosineAnnealingLR"}, {"name": "StepLR", "step_size": 0},
        {"name": "StepLR", "step_size": -1}, {"name": "StepLR", "step_size": 1, "gamma": "x"}, {"name": "StepLR"},
        {"name": "StepLR", "step_size": 1, "gamma": math.nan}, {"name": "LambdaLR", "lr_lambda": "x"},
        {"name": "ReduceLROnPlateau"}, {"name": "ReduceLROnPlateau", "mode": "x"}, {"name": "MultiStepLR", "milestones": 5},
        {"name": "MultiStepLR", "milestones": ["x"]}, {"name": "OneCycleLR", "max_lr": 1}, {"name": "LRScheduler"},
        {"name": "Optimizer"}, {"name": "CosineAnnealingLR", "T_max": 3, "nonsense": 1}, {"name": "__class__"},
        {"name": "CosineAnnealingWarmRestarts", "T_0": 0}, {"name": "ExponentialLR", "gamma": None}, {"name": "CyclicLR"},
        {"name": "SequentialLR"}, {"name": "ChainedScheduler"}, {"name": "PolynomialLR", "power": "x"}, {"name": "os.system"},
        {"name": "LinearLR", "start_factor": 0}, {"name": "ConstantLR", "total_iters": "x"}, {"name": "StepLR", "optimizer": 1},
    ],
    "clip_grad_norm": [
        {"max_norm": -1}, {"max_norm": "x"}, {"max_norm": None}, {"nonsense": 1}, {"max_norm": math.nan}, {"norm_type": 2},
        {"max_norm": 1, "norm_type": "x"}, {"max_norm": 1, "parameters": 1},
    ],
    "eval_args": [
        {"split": {"RS": [0.8, 0.1, 0.1]}}, {"split": None}, {"split": {}}, {"split": {"XX": 1}}, {"split": {"RS": []}},
        {"split": {"RS": [1, 0, 0]}, "mode": "labeled"}, {"split": {"RS": [0, 0, 0]}, "mode": "labeled"},
        {"split": {"RS": [-1, 1, 1]}, "mode": "labeled"}, {"split": {"RS": ["x", 1, 1]}, "mode": "labeled"},
        {"split": {"RS": [math.nan, 1, 1]}, "mode": "labeled"}, {"split": {"RS": 5}, "mode": "labeled"},
        {"split": {"LS": "nothing"}, "mode": "labeled"}, {"split": {"LS": 5}, "mode": "labeled"},
        {"split": {"RS": [0.8, 0.1, 0.1], "LS": "valid_and_test"}, "mode": "labeled"}, {"mode": "labeled"},
        {"split": {"RS": [0.8, 0.1, 0.1]}, "mode": "nothing"}, {"split": {"RS": [0.8, 0.1, 0.1]}, "mode": 5},
        {"split": {"RS": [0.8, 0.1, 0.1]}, "mode": "full"}, {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "XX"},
        {"split": {"RS": [0.8, 0.1, 0.1]}, "order": 5}, {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "nothing"},
        {"split": {"RS": [0.8, 0.1, 0.1]}, "nonsense": 1}, {"split": {"RS": [0.8, 0.2]}, "mode": "labeled"},
        {"split": {"RS": [0.8, 0.1, 0.1]}, "mode": "uni100"},
    ],
    "loss_weights": [
        {"click": -1}, {"click": math.nan}, {"click": "x"}, {"nothing": 1}, {"click": None}, {"click": {"XX": 1}},
        {"click": {"FR": -1}}, {"click": {}}, {"click": [1]}, {"click": True}, {"click": 0, "buy": 0}, {"click": math.inf},
    ],
    "metrics": [["nothing"], ["AUC", "AUC"], [1], [None], ["Recall"], [["AUC"]], ["auc "]],
    "load_col": [
        {"inter": []}, {"inter": ["user_id"]}, {"inter": ["nothing"]}, {"inter": 5}, {"nothing": ["a"]}, {"inter": [1]},
        {"inter": ["user_id", "item_id"]}, {"user": ["user_id", "age"]}, {"inter": "user_id"}, {1: ["a"]},
    ],
    "unload_col": [{"inter": ["clicked"]}, {"inter": ["user_id"]}, {"inter": ["nothing"]}, {"inter": 5}, {"inter": ["country"]}],
    "seq_len": [
        {"class": 0}, {"class": -1}, {"class": "x"}, {"nothing": 3}, {"class": None}, {"user_id": 3}, {"class": 1.5},
        {"class": 10**12}, {"class": True},
    ],
    "numerical_features": [["nothing"], ["user_id"], [1], ["clicked"], [None], ["price", "price"], ["class"]],
    "normalize_field": [["nothing"], ["user_id"], [1], ["clicked"], [None]],
    "val_interval": [
        {"nothing": "[0,1]"}, {"timestamp": "x"}, {"timestamp": "[1"}, {"timestamp": "[2,1]"}, {"timestamp": 5},
        {"timestamp": "[0,1]"}, {"timestamp": "[a,b]"}, {"timestamp": None}, {"user_id": "[0,1]"},
    ],
    "user_inter_num_interval": ["[0", "x", "[5,1]", "[100000,inf)", "[-1,inf)", "[a,b]", 5, "[1,2];[x]"],
    "discretization": [
        {"price": {"method": "ED", "bucket": 0}}, {"price": {"method": "XX", "bucket": 3}}, {"price": {"bucket": 3}},
        {"nothing": {"method": "ED", "bucket": 3}}, {"price": 5}, {"price": {"method": "ED"}}, {"price": {"method": "ED", "bucket": "x"}},
    ],
    "benchmark_filename": [["a", "b", "c"], ["a"], [1, 2, 3], ["../x", "y", "z"], ["", "", ""]],
    "valid_metric": ["nothing", "auc/", "auc/nothing", "auc/FR/nothing", "/", "auc/FR", "logloss/buy/FR", "AUC@10", "Recall@10"],
    "knowledge_features": [["nothing"], ["user", "user"], [1], ["scenario"], ["user"]],
    "additional_feat_suffix": [["nothing"], "nothing", [1], 5],
    "alias_of_user_id": [["nothing"], "nothing", [1], ["item_id"]],
    "preload_weight": [{"nothing": "x"}, {"user_id": "nothing"}, {"user_id": 5}, {1: 2}],
    "train_neg_sample_args": [{"distribution": "uniform", "sample_num": 1}, {"distribution": "none"}, {"a": 1}],
}  # fmt: skip
ACCEPTABLE = {
    ("eval_args", 0), ("clip_grad_norm", 6), ("lightning", 0), ("train_neg_sample_args", 0),
}  # fmt: skip


def _case(key: str, what: str, value: Any) -> Case:
    good = KEYS[key](value)
    right = (
        EITHER
        if good is None or key in ALONE or (key.startswith(READ_TOGETHER) and good)
        else RUNS
        if good
        else REFUSED
    )
    line = f"{key}: {as_yaml(value)}\n"
    return Case(f"{key}: {what}", RUN, right, (), _instead(key, line), names=(key,) if right is REFUSED else ())


def _instead(key: str, line: str) -> Any:
    def change(folder: Any, marker: Any) -> None:
        file = folder / "tiny.yaml"
        kept = [old for old in file.read_text().splitlines(keepends=True) if not old.startswith(f"{key}:")]
        file.write_text("".join(kept))
        append("tiny.yaml", line)(folder, marker)

    return change


def listed() -> list[Case]:
    """Every key with every value, those that are right for it, and settings within settings."""
    found = [_case(key, what, value) for key in KEYS for what, value in VALUES.items()]
    for key, value in GOOD.items():
        found.append(Case(f"{key}: {value}", RUN, RUNS, (), _instead(key, f"{key}: {as_yaml(value)}\n")))
    for key, values in NESTED.items():
        for value in values:
            shown = f"{key}: {as_yaml(value)}"
            found.append(Case(shown, RUN, EITHER, (), _instead(key, shown + "\n")))
    found.append(
        Case("an unknown key", RUN, REFUSED, (), append("tiny.yaml", "learning_rat: 1\n"), names=("learning_rat",))
    )
    found.append(
        Case(
            "a key of another model", RUN, REFUSED, (), append("tiny.yaml", "sub_experts: 3\n"), names=("sub_experts",)
        )
    )
    return found


def draw(draw: random.Random) -> Case:
    """Two or three keys at once, with values for which any clean end is right."""
    keys = draw.sample(sorted(KEYS), draw.choice((2, 3)))
    lines = []
    for key in keys:
        pool = [*VALUES.values(), *NESTED.get(key, []), *([GOOD[key]] * 10 if key in GOOD else [])]
        lines.append(f"{key}: {as_yaml(draw.choice(pool))}\n")

    def change(folder: Any, marker: Any) -> None:
        for key, line in zip(keys, lines, strict=True):
            _instead(key, line)(folder, marker)

    return Case(" ".join(line.strip()[:60] for line in lines), RUN, EITHER, (), change)


FAMILY = Family("settings", listed, draw)
