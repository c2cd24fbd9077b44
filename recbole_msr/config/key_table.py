"""Every configuration key that is not a model's own: the kind of its value, and which runs read it.

RecBole has no list of its keys, and ignores one that it does not know or has no use for. This is that list, of
RecBole's keys (properties/overall.yaml, dataset/sample.yaml, quick_start_config, and those that only its source shows)
and of this package's (properties/overall.yaml).
"""

from __future__ import annotations

import codecs
import filecmp
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from recbole_msr.config.loss_weightings import LOSS_WEIGHTINGS
from recbole_msr.errors import InputError
from recbole_msr.value_kinds import (
    Kind,
    WrongValueError,
    anything,
    checked,
    choice,
    either,
    flag,
    interval,
    listing,
    mapping,
    maybe,
    name,
    narrowed,
    number,
    path,
    record,
    take,
    text,
    whole,
)

LEARNERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam")
HISTORY_POOLINGS = ("mean", "sum", "target_attention")
INTERACTIONS = ("none", "fm", "cross")
SHAPES = ("constant", "linear", "cosine")
"""Ways of the learning rate from step to step."""
PRECISIONS: tuple[Any, ...] = (32, "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class Run:
    """A configuration, as far as it decides which keys are read.

    Args:
        config: a RecBole Config.
        reads: the keys that the model's source reads.
    """

    config: Any
    reads: frozenset[str]

    @property
    def model(self) -> str:
        """The name of the model."""
        return str(self.config["model"])

    @property
    def kind(self) -> str:
        """RecBole's type of the model, in lower case: context, general, sequential, knowledge, ..."""
        return str(self.config["MODEL_TYPE"].name).lower()

    @property
    def has_tasks(self) -> bool:
        """Return whether tasks are declared."""
        return self.config["tasks"] is not None

    @property
    def lightning(self) -> bool:
        """Return whether Lightning trains."""
        return self.config["trainer"] == "lightning" or (self.config["trainer"] == "auto" and self.has_tasks)

    @property
    def ranks(self) -> bool:
        """Return whether the metrics are of ranked lists, not of labels."""
        return bool(self.config["eval_type"].name == "RANKING")

    @property
    def samples(self) -> bool:
        """Return whether items that a user has not met are drawn, in training or evaluation."""
        modes = self.config["eval_args"]["mode"].values()
        return self.config["train_neg_sample_args"]["distribution"] != "none" or set(modes) != {"labeled"}

    @cached_property
    def reads_knowledge(self) -> bool:
        """Return whether the model reads a language model's vectors."""
        inside = any(
            key.startswith("knowledge_") for key in (*self.reads, *self.config.internal_config_dict) if key not in KEYS
        )
        return inside or bool(self.config["knowledge_features"] and hasattr(self.config.model_class, "predict_tasks"))


@dataclass(frozen=True)
class Need:
    """A condition for a key to be read.

    Attributes:
        met: returns whether it holds for a run and the key's value.
        otherwise: why the key does nothing where it does not hold, and what to use instead; `{model}` is the model.
        refused: the runs in which that is an error: "always", "tasks" (those with tasks: runs of RecBole alone go on as
            they would without this package) or "never". Elsewhere it is a warning.
    """

    met: Callable[[Run, Any], bool]
    otherwise: str
    refused: str = "tasks"


@dataclass(frozen=True)
class Key:
    """A configuration key: the kind of its value, and the conditions for it to be read."""

    kind: Kind
    needs: tuple[Need, ...] = ()


def _never(otherwise: str, refused: str = "always") -> Need:
    return Need(lambda run, value: False, otherwise, refused)


def _field() -> Kind:
    return text("the name of a field")


def _fields() -> Kind:
    return listing(_field(), of_what="fields' names")


_EXAMPLE = "{split: {RS: [0.8, 0.1, 0.1]}, order: RO, group_by: ~, mode: labeled}"


def _ratios() -> Kind:
    return narrowed(
        listing(number(0), of_what="numbers, the shares of train, valid and test", exactly=3),
        "three shares (train, valid, test), numbers of at least 0 such as [0.8, 0.1, 0.1]",
        lambda shares: sum(shares) > 0,
        one_message=True,
    )


def _split() -> Kind:
    modes = record(
        "{RS: [0.8, 0.1, 0.1]}",
        RS=_ratios(),
        TS=_ratios(),
        LS=choice("valid_and_test", "valid_only", "test_only"),
    )
    right = "one way to split, such as {RS: [0.8, 0.1, 0.1]} or {LS: valid_and_test}"
    return narrowed(modes, right, lambda split: len(split) == 1)


def _borders() -> Kind:
    return narrowed(
        listing(whole(1), of_what="whole numbers", at_least=1),
        "increasing whole numbers of at least 1, the first of each class after that of 0, such as [1, 6, 21]",
        lambda borders: all(before < after for before, after in pairwise(borders)),
        one_message=True,
    )


def _segments() -> Kind:
    borders = record("{user_rows: [1, 6, 21], item_rows: [1, 6, 21]}", user_rows=_borders(), item_rows=_borders())
    return narrowed(borders, borders.right, bool)


_MODE = re.compile(r"labeled|full|(uni|pop)[1-9]\d*")


def _mode() -> Kind:
    right = "labeled, full, uniN or popN with a number N"
    mode = checked(right, lambda value: isinstance(value, str) and _MODE.fullmatch(value) is not None)
    return either(mode, record("{valid: labeled, test: labeled}", valid=mode, test=mode))


def _gpu_ids() -> Kind:
    right = "GPU numbers as text, such as '0' or '0,1'"

    def take(value: Any) -> Any:
        if isinstance(value, (list, tuple)) and all(isinstance(gpu, int) for gpu in value):
            return ",".join(map(str, value))
        if isinstance(value, (bool, float)) or not isinstance(value, (int, str)):
            raise WrongValueError(right, value)
        return value

    return Kind(right, take)


def _encoding() -> Kind:
    def exists(value: Any) -> bool:
        try:
            return isinstance(value, str) and bool(codecs.lookup(value))
        except (LookupError, ValueError):
            return False

    return checked("a text encoding such as utf-8 or latin-1", exists)


def _allowed_values() -> Kind:
    """Accept the rows of a field that stay: an interval of numbers, or values of a token."""
    values, ranges = listing(name("a value"), of_what="values"), interval()
    return Kind(ranges.right, lambda value: (ranges if isinstance(value, str) else values).take(value))


def _columns() -> Kind:
    columns = either(choice("*"), _fields())
    return maybe(mapping(text("a file's suffix"), columns, "{inter: [user_id, item_id], user: [user_id, age]}"))


_SEQUENTIAL = Need(
    lambda run, _: run.kind == "sequential", "is read by RecBole's sequential models only, and {model} is none"
)


def _read_by_model(key: str, otherwise: str = "is not read by {model}") -> Need:
    return Need(lambda run, _: key in run.reads, otherwise)


_GRAPH = Need(
    lambda run, _: run.kind == "knowledge", "is read by RecBole's models of knowledge graphs only, and {model} is none"
)
_RANKING = Need(
    lambda run, _: run.ranks,
    "is for metrics of ranked lists, and the metrics here are of labels ({metrics})",
)
_SAMPLING = Need(
    lambda run, _: run.samples, "is for sampled items, and the rows here are those of the data with their labels"
)
_TASKS = Need(lambda run, _: run.has_tasks, "is read where tasks are declared, and none are", refused="always")
_TASKS_MENTIONED = Need(_TASKS.met, _TASKS.otherwise, refused="never")
_LIGHTNING = Need(
    lambda run, _: run.lightning,
    "is for runs under Lightning: declare tasks, or set trainer: lightning",
    refused="always",
)
_RECBOLE_TRAINER = "is read by RecBole's own trainer only: "
_KNOWLEDGE = Need(
    lambda run, value: run.reads_knowledge,
    "is not read by {model}: with a model of this package set knowledge_features: [user, item], "
    "or take --model=LLM4MSR",
    refused="always",
)
_OWN_MODELS = Need(
    lambda run, _: hasattr(run.config.model_class, "predict_tasks"),
    "is not for {model}, one of RecBole's models; every model of this package takes it",
    refused="always",
)
_CROSS = Need(lambda run, _: run.config["interaction"] == "cross", "is read with interaction: cross", refused="never")
_HISTORY = Need(
    lambda run, _: run.config["history"] is not None, "is read where a history is declared", refused="never"
)
_ATTENTION = Need(
    lambda run, _: run.config["history_pooling"] == "target_attention",
    "is read with history_pooling: target_attention",
    refused="never",
)
_WAY_DOWN = Need(
    lambda run, _: run.config["learning_rate_schedule"] != "constant",
    "is read with learning_rate_schedule: linear or cosine",
    refused="never",
)
_CALIBRATED = Need(
    lambda run, _: run.config["calibrate"] != "none", "is read with calibrate: temperature or isotonic", refused="never"
)
_SCENARIOS = Need(
    lambda run, _: run.config["scenario"] is not None, "weighs scenarios, and none are declared", refused="never"
)
_RANDOM = Need(
    lambda run, _: run.config["knowledge"] == "random", "is about knowledge: random, the control", refused="never"
)
_DRAWN = Need(
    lambda run, _: run.config["knowledge"] == "random" or run.config["knowledge_control"] != "none",
    "is about knowledge: random and knowledge_control: random or permuted, the controls",
    refused="never",
)
_STORED = Need(
    lambda run, value: value in (None, "none") or run.config["knowledge"] not in ("random", "none"),
    "is about a store's vectors, and knowledge names none",
    refused="always",
)
_FEATURES = Need(
    lambda run, _: bool(run.config["knowledge_features"]),
    "is read with knowledge_features: [user, item]",
    refused="never",
)
_PRELOAD = _read_by_model(
    "preload_weight",
    "is not read by {model}: numbers of a user or an item become features as float columns of the .user or "
    ".item file, named in numerical_features; vectors of a language model by knowledge_features",
)
_DERIVED = (
    "follows from the tasks, which say what a label is: leave it out, and declare e.g. "
    "tasks: {{click: {{field: rating, at_least: 4}}}}"
)
_INTERNAL = _never("is set by RecBole itself: leave it out")
_PROCESSES = "is not read here: several processes or GPUs are lightning: {{devices: N}}, with gpu_id: '0,1'"


def _neutral(*values: Any) -> Need:
    return Need(lambda run, value: value in values, _PROCESSES, refused="always")


_PICKLES = Need(
    lambda run, value: not run.has_tasks or value is False,
    "is for RecBole's pickles: prepared data of runs with tasks are kept by packed_cache",
    refused="never",
)


def _of_transform(key: str) -> Need:
    return Need(lambda run, value: run.kind == "sequential" or key in run.reads, _SEQUENTIAL.otherwise)


def _holds_ml_100k(folder: Path, package: Path) -> bool:
    """Return whether a folder holds other ml-100k files than RecBole's package."""
    for place in (folder, folder / "ml-100k"):
        if (place / "ml-100k.inter").is_file():
            files = [f"ml-100k.{suffix}" for suffix in ("inter", "user", "item")]
            return any(
                (place / file).is_file() and not filecmp.cmp(place / file, package / file, shallow=False)
                for file in files
            )
    return False


_ML_100K = Need(
    lambda run, value: (
        run.config["dataset"] != "ml-100k"
        or not _holds_ml_100k(Path(value).expanduser(), Path(run.config["data_path"]))
    ),
    "is not where ml-100k is read from: RecBole takes it from its own package, and this folder holds another. Give "
    "folder and files another name, and that name as the dataset (with --preset=ml-100k)",
)
_OWN_ML_100K = Need(
    # The first is RecBole's default, which config.yaml has too.
    lambda run, value: run.config["dataset"] != "ml-100k" or Path(value).name in ("dataset", "dataset_example"),
    "is not where ml-100k is read from: RecBole's package brings it",
    refused="never",
)


def _weighting(word: str) -> Need:
    return Need(
        lambda run, _: run.config["loss_weighting"] == word,
        f"is read with loss_weighting: {word}, which is {{loss_weighting}} here",
        refused="never",
    )


def _key(kind: Kind, *needs: Need) -> Key:
    return Key(kind, needs)


KEYS: Mapping[str, Key] = {
    # The run
    "model": _key(anything()),
    "dataset": _key(anything()),
    "config_files": _key(anything(), _never("is an option of the command line, and of recbole_msr.run")),
    "config_file": _key(anything(), _never("is an option of the command line: config_files")),
    "gpu_id": _key(_gpu_ids()),
    "use_gpu": _key(flag()),
    "worker": _key(
        whole(0),
        Need(
            lambda run, _: not run.lightning,
            _RECBOLE_TRAINER + "under Lightning batches are gathered from tables, and wait for no process",
            refused="never",
        ),
    ),
    "seed": _key(whole(0, 2**32 - 1)),
    "state": _key(maybe(choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", any_case=True))),
    "reproducibility": _key(flag()),
    "data_path": _key(path("the path of a folder"), _ML_100K, _OWN_ML_100K),
    # Tables, which `data.tables.dataset.place_tables` has made into a dataset before a configuration is read.
    **dict.fromkeys(("data", "users", "items", "columns", "types"), _key(anything())),
    "checkpoint_dir": _key(
        path("the path of a folder"),
        _never("is not used: a run keeps its files in output_dir", refused="never"),
    ),
    "show_progress": _key(flag()),
    "save_dataset": _key(flag(), _PICKLES),
    # The two paths are refused with tasks by `compat.refuse_pickles`, which RecBole's own functions come by as well.
    "dataset_save_path": _key(maybe(path("the path of a file"))),
    "save_dataloaders": _key(flag(), _PICKLES),
    "dataloaders_save_path": _key(maybe(path("the path of a file"))),
    "log_wandb": _key(flag()),
    "wandb_project": _key(maybe(text())),
    "shuffle": _key(either(flag(), choice("blocks"))),
    # RecBole's own processes
    "nproc": _key(whole(1), _neutral(1)),
    "world_size": _key(whole(), _neutral(-1, 1)),
    "ip": _key(text(), _never(_PROCESSES, refused="never")),
    "port": _key(either(whole(0, 65535), text()), _never(_PROCESSES, refused="never")),
    "offset": _key(whole(0), _neutral(0)),
    "group_offset": _key(whole(0), _neutral(0)),
    # RecBole would begin to wait for the others while it reads the configuration.
    "local_rank": _key(checked("left out: several processes are lightning: {devices: N}", lambda value: False)),
    "verbose": _key(flag(), _never("is not read: state says how much is logged", refused="never")),
    "single_spec": _key(anything(), _INTERNAL),
    "device": _key(anything(), _never("is set by RecBole itself: use_gpu and gpu_id choose the device")),
    "MODEL_TYPE": _key(anything(), _INTERNAL),
    "MODEL_INPUT_TYPE": _key(anything(), _INTERNAL),
    "eval_type": _key(anything(), _INTERNAL),
    "valid_neg_sample_args": _key(anything(), _never("is set by RecBole itself from eval_args: mode")),
    "test_neg_sample_args": _key(anything(), _never("is set by RecBole itself from eval_args: mode")),
    # Training
    "epochs": _key(whole(1)),
    "train_batch_size": _key(whole(1)),
    "learner": _key(choice(*LEARNERS, any_case=True)),
    "learning_rate": _key(number(above=0)),
    "train_neg_sample_args": _key(
        maybe(
            record(
                "{distribution: uniform, sample_num: 1}",
                distribution=choice("uniform", "popularity", "none"),
                sample_num=either(whole(1), choice("none")),
                alpha=either(number(), choice("none")),
                dynamic=either(flag(), choice("none")),
                candidate_num=either(whole(0), choice("none")),
                same_scenario=flag(),
            )
        ),
        Need(
            lambda run, value: run.has_tasks or value is None or not value.get("same_scenario"),
            "has same_scenario, which is read where tasks are declared, and none are",
            refused="always",
        ),
        Need(
            lambda run, value: value is None or run.kind != "sequential" or run.config["loss_type"] != "CE",
            "draws no negatives for {model}: its loss_type, CE, learns each positive against all items",
            refused="never",
        ),
    ),
    "neg_sampling": _key(anything(), _never("has been replaced in RecBole by train_neg_sample_args")),
    "training_neg_sample_num": _key(anything(), _never("has been replaced in RecBole by train_neg_sample_args")),
    "eval_step": _key(
        whole(0),
        Need(
            lambda run, value: not run.lightning or value >= 1,
            "must be at least 1: the best epoch is found by validation",
        ),
    ),
    "stopping_step": _key(whole(0)),
    "clip_grad_norm": _key(
        maybe(
            record(
                "{max_norm: 5}",
                needed=("max_norm",),
                max_norm=number(above=0),
                norm_type=number(above=0, finite=False),
                error_if_nonfinite=flag(),
            )
        )
    ),
    "weight_decay": _key(maybe(number(0))),
    "loss_decimal_place": _key(
        whole(0),
        Need(
            lambda run, _: not run.lightning,
            _RECBOLE_TRAINER + "metrics.csv has all digits of the loss",
            refused="never",
        ),
    ),
    "require_pow": _key(flag(), _read_by_model("require_pow")),
    "enable_amp": _key(flag()),
    "enable_scaler": _key(
        flag(),
        Need(
            lambda run, _: not run.lightning,
            _RECBOLE_TRAINER + "Lightning scales gradients with precision: 16-mixed by itself",
            refused="never",
        ),
    ),
    "transform": _key(
        maybe(choice("mask_itemseq", "inverse_itemseq", "crop_itemseq", "reorder_itemseq", "user_defined")),
        Need(lambda run, _: not run.lightning, _SEQUENTIAL.otherwise),
    ),
    **{key: _key(number(), _of_transform(key)) for key in ("eta", "beta", "mask_ratio", "ft_ratio")},
    # Evaluation
    "eval_args": _key(
        record(
            _EXAMPLE,
            split=maybe(_split()),
            order=maybe(choice("RO", "TO")),
            group_by=maybe(choice("user", "scenario", "cold_user", "cold_item", "none")),
            mode=_mode(),
        ),
        Need(
            lambda run, value: run.has_tasks or value.get("group_by") in (None, "user", "none"),
            "has group_by: scenario, cold_user or cold_item where tasks are declared, and none are: set group_by to "
            "user or ~",
            refused="always",
        ),
    ),
    "repeatable": _key(flag(), _SAMPLING),
    "metrics": _key(listing(text("the name of a metric"), of_what="metrics' names", at_least=1, alone=True)),
    "topk": _key(listing(whole(1), of_what="whole numbers of at least 1", at_least=1, alone=True), _RANKING),
    "tail_ratio": _key(number(above=0), _RANKING),
    "valid_metric": _key(text("the name of a metric")),
    "valid_metric_bigger": _key(
        flag(),
        Need(
            lambda run, value: value == run.config["valid_metric_bigger"],
            "is known of every metric: leave it out",
        ),
    ),
    "eval_batch_size": _key(whole(1)),
    "metric_decimal_place": _key(whole(0)),
    # Files
    "field_separator": _key(text("the text between two columns")),
    "seq_separator": _key(text("the text between two values of a sequence")),
    "encoding": _key(_encoding()),
    "USER_ID_FIELD": _key(_field()),
    "ITEM_ID_FIELD": _key(_field()),
    "RATING_FIELD": _key(maybe(_field()), _read_by_model("RATING_FIELD")),
    "TIME_FIELD": _key(maybe(_field())),
    "seq_len": _key(maybe(mapping(_field(), whole(1), "{genre: 5}"))),
    "LABEL_FIELD": _key(
        maybe(_field()),
        Need(lambda run, value: not run.has_tasks or value == run.config["LABEL_FIELD"], _DERIVED),
    ),
    "threshold": _key(
        maybe(mapping(_field(), number(), "{rating: 4}")),
        Need(lambda run, value: not run.has_tasks or not value, _DERIVED),
    ),
    "NEG_PREFIX": _key(text("the beginning of a field's name"), _SAMPLING),
    "numerical_features": _key(maybe(_fields())),
    "load_col": _key(_columns()),
    "unload_col": _key(_columns()),
    "unused_col": _key(_columns()),
    "additional_feat_suffix": _key(
        maybe(listing(text("a file's suffix"), of_what="files' suffixes", alone=True)),
        Need(
            lambda run, value: not run.has_tasks or not value or _PRELOAD.met(run, value),
            "is not read by {model}: what belongs to a user or an item stands in the .user or the .item file",
        ),
    ),
    "rm_dup_inter": _key(maybe(choice("first", "last"))),
    "val_interval": _key(maybe(mapping(_field(), _allowed_values(), '{timestamp: "[1000,2000]"}'))),
    "filter_inter_by_user_or_item": _key(flag()),
    "user_inter_num_interval": _key(maybe(interval())),
    "item_inter_num_interval": _key(maybe(interval())),
    "alias_of_user_id": _key(maybe(_fields())),
    "alias_of_item_id": _key(maybe(_fields())),
    "alias_of_entity_id": _key(maybe(_fields()), _GRAPH),
    "alias_of_relation_id": _key(maybe(_fields()), _GRAPH),
    "preload_weight": _key(maybe(mapping(_field(), _field(), "{item_id: vector}")), _PRELOAD),
    "normalize_field": _key(maybe(_fields())),
    "normalize_all": _key(maybe(flag())),
    "discretization": _key(
        maybe(
            mapping(
                _field(),
                record("{method: ED, bucket: 10}", method=choice("ED", "LD"), bucket=whole(1)),
                "{price: {method: ED, bucket: 10}}",
            )
        )
    ),
    "benchmark_filename": _key(
        maybe(listing(text("a file's suffix"), of_what="names (train, valid, test)", exactly=3)),
    ),
    # Sequential models and knowledge graphs
    "ITEM_LIST_LENGTH_FIELD": _key(_field(), _SEQUENTIAL),
    "LIST_SUFFIX": _key(text("the end of a field's name"), _SEQUENTIAL),
    "MAX_ITEM_LIST_LENGTH": _key(whole(1), _SEQUENTIAL),
    "POSITION_FIELD": _key(_field(), _read_by_model("POSITION_FIELD")),
    "HEAD_ENTITY_ID_FIELD": _key(_field(), _GRAPH),
    "TAIL_ENTITY_ID_FIELD": _key(_field(), _GRAPH),
    "RELATION_ID_FIELD": _key(_field(), _GRAPH),
    "ENTITY_ID_FIELD": _key(_field(), _GRAPH),
    "kg_reverse_r": _key(flag(), _GRAPH),
    "entity_kg_num_interval": _key(maybe(interval()), _GRAPH),
    "relation_kg_num_interval": _key(maybe(interval()), _GRAPH),
    # This package: scenarios, tasks and data. What they declare is checked by `Schema`.
    "scenario": _key(anything()),
    "tasks": _key(anything()),
    "main_task": _key(maybe(name("the name of a task"), word=False), _TASKS),
    "preset": _key(maybe(text("the name of a preset"))),
    "init_from": _key(maybe(path("the path of a run's folder"))),
    "init_scenarios": _key(
        maybe(
            mapping(name("the name of a scenario"), name("the name of an earlier scenario, or mean"), "{lyon: paris}")
        ),
        Need(lambda run, _: run.config["init_from"] is not None, "is read with init_from: DIR", refused="always"),
    ),
    "only_new": _key(
        flag(),
        Need(
            lambda run, value: not value or run.config["init_from"] is not None,
            "is read with init_from: DIR, the run whose last time it is about; rows_after: TIME names a time",
            refused="always",
        ),
    ),
    "rows_after": _key(maybe(number()), _TASKS),
    "save_optimizer": _key(flag(), _OWN_MODELS, _LIGHTNING),
    "init_optimizer": _key(
        flag(),
        Need(
            lambda run, value: not value or run.config["init_from"] is not None,
            "is read with init_from: DIR",
            refused="always",
        ),
    ),
    "only_scenario": _key(maybe(name("the name of a scenario"), word=False)),
    "history": _key(anything(), _OWN_MODELS),
    "min_count": _key(maybe(mapping(_field(), whole(1), "{item_id: 5}")), _OWN_MODELS),
    "unknown_share": _key(maybe(mapping(_field(), number(at_least=0, below=1), "{item_id: 0.1}")), _OWN_MODELS),
    "hash_buckets": _key(maybe(mapping(_field(), whole(1), "{user_id: 1000000}")), _OWN_MODELS),
    "history_pooling": _key(choice(*HISTORY_POOLINGS), _OWN_MODELS, _HISTORY),
    "history_hidden_sizes": _key(
        listing(whole(1), of_what="whole numbers of at least 1", at_least=1), _OWN_MODELS, _HISTORY, _ATTENTION
    ),
    "min_scenario_rows": _key(whole(1), _TASKS),
    "segments": _key(
        maybe(_segments()),
        Need(lambda run, value: run.has_tasks or not value, _TASKS.otherwise, refused="always"),
        Need(
            lambda run, value: run.lightning or not value,
            "is for runs under Lightning, as RecBole's own trainer has no metrics by rows: leave trainer: recbole out",
            refused="always",
        ),
        Need(
            lambda run, value: not (run.ranks and value and "item_rows" in value),
            "has item_rows, and a ranked list has positives of several items: leave item_rows out, or set eval_args: "
            "mode: labeled",
            refused="always",
        ),
    ),
    "check_memory": _key(flag(), _TASKS_MENTIONED),
    "data_seed": _key(
        whole(0, 2**63 - 1),
        Need(
            _TASKS.met, "is read where tasks are declared: without, RecBole splits the data by seed", refused="always"
        ),
    ),
    "packed_cache": _key(flag(), _TASKS_MENTIONED),
    "cache_dir": _key(maybe(path("the path of a folder")), _TASKS_MENTIONED),
    "data_device": _key(maybe(text("cpu or cuda")), _LIGHTNING),
    # Knowledge
    "knowledge": _key(
        maybe(text("the name of a store, random or none")),
        replace(_KNOWLEDGE, met=lambda run, value: run.reads_knowledge or value == "none"),
    ),
    "knowledge_dir": _key(maybe(path("the path of a folder")), replace(_KNOWLEDGE, refused="never")),
    "knowledge_features": _key(
        maybe(listing(choice("user", "item"), of_what="user and item", alone=True)),
        Need(
            lambda run, value: not value or hasattr(run.config.model_class, "predict_tasks"),
            "is not for {model}, one of RecBole's models; every model of this package takes it",
            refused="always",
        ),
    ),
    "knowledge_feature_size": _key(whole(1), _KNOWLEDGE, _FEATURES),
    "knowledge_match": _key(choice("none", "dot", "product"), _KNOWLEDGE, _FEATURES),
    "knowledge_scale": _key(choice("standard", "none"), _KNOWLEDGE),
    "knowledge_unknown_share": _key(number(0, below=1), _KNOWLEDGE),
    "knowledge_parts": _key(
        maybe(listing(text("the name of a part"), of_what="parts of profiles", alone=True)), _KNOWLEDGE, _STORED
    ),
    "knowledge_leave_one_out": _key(flag(), _KNOWLEDGE),
    "knowledge_control": _key(choice("none", "random", "permuted"), _KNOWLEDGE, _STORED),
    "knowledge_device": _key(choice("auto", "cpu", "model"), _KNOWLEDGE),
    "knowledge_bake": _key(flag(), _KNOWLEDGE),
    "knowledge_size": _key(whole(1), _KNOWLEDGE, _RANDOM),
    "knowledge_seed": _key(whole(0), _KNOWLEDGE, _DRAWN),
    # The input of this package's models, and their loss
    "embedding_dropout": _key(number(0, below=1), _OWN_MODELS),
    "embedding_size_exponent": _key(number(-1, at_most=1), _OWN_MODELS),
    "interaction": _key(choice(*INTERACTIONS), _OWN_MODELS),
    "cross_layers": _key(whole(1), _OWN_MODELS, _CROSS),
    "cross_rank": _key(maybe(whole(1)), _OWN_MODELS, _CROSS),
    "scenario_balance": _key(number(0, at_most=1), _OWN_MODELS, _SCENARIOS),
    # Training under Lightning
    "trainer": _key(choice("auto", "lightning", "recbole")),
    "fused_optimizer": _key(flag()),
    "fast_dropout": _key(flag(), _LIGHTNING),
    "embedding_gradients": _key(choice("dense", "sparse"), _LIGHTNING),
    "precision": _key(maybe(choice(*PRECISIONS)), _LIGHTNING),
    "compile": _key(flag(), _LIGHTNING),
    "loss_weighting": _key(
        choice(*LOSS_WEIGHTINGS),
        Need(
            lambda run, value: LOSS_WEIGHTINGS[value].is_constant or hasattr(run.config.model_class, "predict_tasks"),
            "{loss_weighting} needs a model with a loss for each task, and {model} has one",
            refused="always",
        ),
    ),
    **{
        key: _key(kind, _weighting(word))
        for word, weighting in LOSS_WEIGHTINGS.items()
        for key, kind in weighting.options.items()
    },
    "lr_scheduler": _key(maybe(mapping(text(), anything(), "{name: CosineAnnealingLR, T_max: 10}")), _LIGHTNING),
    "learning_rate_schedule": _key(choice(*SHAPES), _LIGHTNING),
    "schedule_epochs": _key(maybe(whole(1)), _LIGHTNING, _WAY_DOWN),
    "warmup_epochs": _key(number(0), _LIGHTNING),
    "embedding_learning_rate_factor": _key(number(above=0), _LIGHTNING),
    "embedding_weight_decay": _key(maybe(number(0)), _LIGHTNING),
    "threads": _key(maybe(whole(1))),
    "lightning": _key(maybe(mapping(text(), anything(), "{accelerator: gpu, devices: 2}")), _LIGHTNING),
    # The run's files
    "output_dir": _key(maybe(path("the path of a folder"))),
    "save_predictions": _key(flag(), _LIGHTNING),
    "calibrate": _key(choice("none", "temperature", "isotonic"), _TASKS, _LIGHTNING),
    "calibrate_by": _key(choice("task", "cell"), _TASKS, _LIGHTNING, _CALIBRATED),
    "resume": _key(flag()),
    "wandb": _key(maybe(text("online, offline or disabled"))),
    "strict": _key(flag()),
}


def read_values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the values of the table's keys as they are passed on: 100.0 as 100 for a whole number.

    Raises:
        InputError: a value is of another kind, or out of its range; the message names the key and what would be right.
    """
    return {key: take(key, KEYS[key].kind, value) if key in KEYS else value for key, value in settings.items()}


def read_model_values(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Read the values of a model's own keys, those outside the table: each is of the kind of its default.

    Args:
        settings: the keys that the user set, with their values.
        defaults: all default settings of the model.

    Returns:
        The keys whose value is passed on in another form, such as 5.0 as 5.

    Raises:
        InputError: a value is of another kind.
    """
    changed = {}
    for key, value in settings.items():
        default = defaults.get(key)
        kind = _kind_of(key, default) if key not in KEYS else None
        if kind is None:
            continue
        try:
            parsed = kind.take(value)
        except WrongValueError as error:
            where = ": ".join([key, *error.where])
            raise InputError(f"{where} must be {error.right} (its default is {default}), got {error.value!r}") from None
        if parsed is not value:
            changed[key] = parsed
    return changed


def _kind_of(key: str, default: Any) -> Kind | None:
    if isinstance(default, bool):
        return flag()
    if isinstance(default, int):
        # RecBole writes some real numbers as whole ones: reg_weight: 2.
        return number() if "weight" in key or "dropout" in key else whole()
    if isinstance(default, float):
        return number()
    if isinstance(default, list) and default and all(_is_number(element) for element in default):
        counts = all(isinstance(element, int) for element in default) and "weight" not in key
        return listing(whole() if counts else number(), of_what="whole numbers" if counts else "numbers")
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def unread_keys(settings: Mapping[str, Any], config: Any, reads: frozenset[str]) -> Iterator[tuple[str, str, bool]]:
    """Yield the keys that the user set and this run does not read: (key, reason, whether that is an error).

    A value that is the default does no harm: config.yaml holds every key.

    Args:
        settings: the keys that the user set, with their values.
        config: RecBole's Config made of it.
        reads: the keys that the model's source reads.
    """
    run = Run(config, reads)
    defaults = config.internal_config_dict
    for key, value in settings.items():
        if key not in KEYS or (key in defaults and defaults[key] == value):
            continue
        for need in KEYS[key].needs:
            if not need.met(run, value):
                yield key, _reason(need, run), need.refused == "always" or (need.refused == "tasks" and run.has_tasks)
                break


def _reason(need: Need, run: Run) -> str:
    config = run.config
    return need.otherwise.format(
        model=run.model, metrics=", ".join(config["metrics"]), loss_weighting=config["loss_weighting"]
    )
