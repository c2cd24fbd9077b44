"""Every key has a type and a range, and is read, refused, or told to have no effect."""

import csv
import logging
import os
import re
from pathlib import Path

import pytest
import recbole
import torch
from recbole.utils import argument_list

import recbole_msr
from recbole_msr import registry
from recbole_msr.config.build import build_config
from recbole_msr.config.key_table import KEYS, LEARNERS, read_values
from recbole_msr.config.keys import refused_keys, unread_notes
from recbole_msr.errors import InputError
from recbole_msr.files.yaml import read_yaml
from recbole_msr.training.optimizers import _OPTIMIZERS

RECBOLE = Path(recbole.__path__[0])
TASKS = {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5}}
GIVEN = {"state": "ERROR", "use_gpu": False}


def built(model="HiNet", dataset="ml-100k", **settings):
    return build_config(model, dataset, GIVEN | settings)


# The table

# Read by name in RecBole's source, but keys of trees (which this package does not train), of the search of
# RecBole's own, or set by its transformations of sequences for themselves.
NOT_KEYS = re.compile(
    r"(lgb|xgb)_\w+|convert_token_to_onehot|token_num_threshold|choice|q?uniform|loguniform|\w+_ITEMS?(_\w+)?|MASK_INDEX"
)


def test_all_keys_of_recbole_and_of_this_package_are_in_the_table():
    found = set()
    files = [RECBOLE / "properties" / "overall.yaml", RECBOLE / "properties" / "dataset" / "sample.yaml"]
    files += (RECBOLE / "properties" / "quick_start_config").glob("*.yaml")
    for path in [*files, registry.properties("overall.yaml")]:
        found |= set(read_yaml(path))
    for name in ("general", "training", "evaluation", "dataset"):
        found |= set(getattr(argument_list, f"{name}_arguments"))
    of_models = set()
    for path in (RECBOLE / "properties" / "model").glob("*.yaml"):
        of_models |= set(read_yaml(path))
    for path in RECBOLE.rglob("*.py"):
        if "model" not in path.relative_to(RECBOLE).parts:
            found |= set(re.findall(r"""config\w*(?:\[|\.get\()["'](\w+)["']""", path.read_text(encoding="utf-8")))
    missing = {key for key in found - set(KEYS) - of_models if not NOT_KEYS.fullmatch(key)}
    # A model's own: of the bases of all context-aware and pair-wise models.
    assert missing == {"double_tower", "embedding_size", "loss_type"} - of_models


def test_all_defaults_are_of_their_kind():
    files = [*(RECBOLE / "properties").rglob("*.yaml"), *registry.properties().rglob("*.yaml")]
    for path in files:
        if "url" not in path.name:
            content = read_yaml(path)
            assert read_values(content) == content, path


def test_learners_are_those_there_are():
    assert set(LEARNERS) == set(_OPTIMIZERS)


# Types and ranges

COUNT = [0, -1, True, 1.5, "many", [], {}, None, float("nan"), float("inf"), "1e999"]
FROM_0 = [-1, True, 0.5, "many", [], None]
ABOVE_0 = [0, -0.1, True, "much", [], float("nan"), float("inf"), None]
FLAG = [1, 0, "perhaps", [], None]
TEXT = [5, True, "", "  ", "a\0b", "\ud800", [], {}]
MAP = [[], 5, True, "word"]
FIELDS = [5, {}, True, [5], [""]]
WRONG = {
    **dict.fromkeys(("epochs", "train_batch_size", "eval_batch_size", "min_scenario_rows"), COUNT),
    **dict.fromkeys(("MAX_ITEM_LIST_LENGTH", "knowledge_feature_size", "knowledge_size"), COUNT),
    **dict.fromkeys(("stopping_step", "seed", "data_seed", "metric_decimal_place", "worker", "eval_step"), FROM_0),
    **dict.fromkeys(("learning_rate", "gradnorm_learning_rate", "dwa_temperature"), ABOVE_0),
    "gradnorm_alpha": [-1, True, "x", float("inf")],
    "weight_decay": [-1e-9, True, "x", float("nan")],
    "knowledge_unknown_share": [1, -0.1, "x", True],
    **dict.fromkeys(("use_gpu", "shuffle", "packed_cache", "compile", "strict", "save_predictions"), FLAG),
    **dict.fromkeys(("enable_amp", "knowledge_bake", "filter_inter_by_user_or_item", "log_wandb"), FLAG),
    "knowledge_leave_one_out": FLAG,
    **dict.fromkeys(("wandb_project", "preset", "knowledge", "data_path", "cache_dir", "knowledge_dir"), TEXT),
    **dict.fromkeys(("USER_ID_FIELD", "TIME_FIELD", "LABEL_FIELD", "valid_metric", "data_device"), TEXT),
    **dict.fromkeys(("lightning", "lr_scheduler", "clip_grad_norm", "seq_len", "load_col", "val_interval"), MAP),
    **dict.fromkeys(("threshold", "discretization", "preload_weight"), MAP),
    **dict.fromkeys(("numerical_features", "normalize_field", "alias_of_user_id"), FIELDS),
    "threads": [0, -1, True, "abc", 1.5],
    "seed ": [2**32],
    "state": ["LOUD", 5],
    "learner": ["adamm", None, 5],
    "trainer": ["lightening", True],
    "precision": ["bf16", 16, True],
    "embedding_gradients": ["spars"],
    "loss_weighting": ["gradnrom"],
    "rm_dup_inter": ["middle", True],
    "encoding": ["utf-99", 5],
    "gpu_id": [True, 0.5, {}],
    "segments": [*MAP, {}, {"user": [1]}, {"user_rows": 5}, {"item_rows": [2, 2]}, {"item_rows": [0, 5]}],
    "topk": [0, [0], [], "ten", True],
    "metrics": [[], 5, [None], [""]],
    "main_task": [True, ""],
    "only_scenario": [False, "", []],
    "user_inter_num_interval": ["5", "[5", "[5;6]", "[9,1]", "[a,b]", 5],
    "benchmark_filename": [["train", "test"], "train"],
    "knowledge_features": [["users"], 5],
    "knowledge_control": ["shuffled", 5],
    "knowledge_match": ["cosine", 5],
    "knowledge_parts": [5, [""], {}],
    "clip_grad_norm ": [{"max_norm": 0}, {"max_nrom": 5}, {"max_norm": "x"}, {"norm_type": 2}],
    "seq_len ": [{"class": 0}, {"class": 1.5}, {"class": None}],
    "val_interval ": [{"timestamp": "10"}, {"timestamp": 5}],
    "discretization ": [{"price": {"method": "XX"}}, {"price": 5}, {"price": {"method": "ED", "bucket": 0}}],
    "train_neg_sample_args": [5, {"distribution": "even"}, {"sample_num": 0}, {"sampled": 1}, {"same_scenario": 2}],
    "eval_args": [
        *MAP[1:],
        *({"split": split} for split in ([8, 1, 1], {"RS": [8, -1, 1]}, {"RS": [8, 1]}, {"RS": "8;1;1"})),
        *({"split": split} for split in ({"RS": [0, 0, 0]}, {"RS": [True, 1, 1]}, {"XX": [8, 1, 1]})),
        *({"split": split} for split in ({"LS": "both"}, {})),
        {"split": {"RS": [8, 1, 1], "LS": "valid_only"}},
        *({"order": order} for order in ("up", 5, True)),
        *({"group_by": by} for by in ("age", 5, ["user"])),
        *({"mode": mode} for mode in ("unix", "uni0", "labelled", 5, {"valid": "x"}, {"dev": "full"})),
        {"splitt": {"RS": [8, 1, 1]}},
    ],
}  # fmt: skip


@pytest.mark.parametrize("key", WRONG)
def test_a_value_of_another_kind_or_out_of_range_is_refused_with_what_would_be_right(key):
    name = key.strip()
    for value in WRONG[key]:
        with pytest.raises(InputError) as error:
            read_values({name: value})
        told = str(error.value)
        assert told.startswith(name), value
        assert " must be " in told, value
        assert ", got " in told, value
        assert len(told.splitlines()) == 1
        assert len(told) < 600


def test_what_is_wrong_inside_is_named_by_its_place():
    for value, told in (
        (
            {"eval_args": {"split": {"RS": [8, -1, 1]}}},
            "eval_args: split: RS must be three shares (train, valid, test)",
        ),
        ({"eval_args": {"mode": {"valid": "unix"}}}, "eval_args: mode: valid must be labeled, full, uniN or popN"),
        ({"seq_len": {"class": 0}}, "seq_len: class must be a whole number of at least 1, got 0"),
        ({"learner": "adamm"}, "got 'adamm'; did you mean 'adam'"),
        ({"wandb_project": 5}, "wandb_project must be text, or not set, got 5; quote it if it is meant as text"),
        ({"only_scenario": False}, "got False; quote it if it is a word: 'False'"),
        ({"epochs": "x" * 10**6}, "xxx..."),
    ):
        with pytest.raises(InputError, match=re.escape(told)):
            read_values(value)


@pytest.mark.parametrize(
    ("key", "given", "taken"),
    [
        ("train_batch_size", 100.0, 100),
        ("train_batch_size", "1e2", 100),
        ("epochs", "5", 5),
        ("learning_rate", "1e-3", 0.001),
        ("learning_rate", 1, 1),
        ("use_gpu", "False", False),
        ("use_gpu", "true", True),
        ("metrics", "['AUC', 'LogLoss']", ["AUC", "LogLoss"]),
        ("metrics", "AUC", "AUC"),
        ("topk", "[5, 10]", [5, 10]),
        ("topk", 5, 5),
        ("gpu_id", (0, 1), "0,1"),
        ("gpu_id", 0, 0),
        ("clip_grad_norm", "{'max_norm': 5}", {"max_norm": 5}),
        ("train_neg_sample_args", "None", None),
        ("user_inter_num_interval", [5, 10], "[5, 10]"),
        ("val_interval", {"class": ["drama", 5]}, {"class": ["drama", 5]}),
        ("data_path", Path("data"), "data"),
        ("only_scenario", "None", "None"),
        ("only_scenario", 5, 5),
        ("wandb_project", "exit(0)", "exit(0)"),
        ("wandb_project", "1e3", "1e3"),
    ],
)  # fmt: skip
def test_a_value_is_passed_on_as_its_kind(key, given, taken):
    found = read_values({key: given})[key]
    assert found == taken
    assert type(found) is type(taken)


def test_a_whole_number_written_as_a_real_one_is_passed_on_as_an_int_to_whoever_reads_it():
    config = built(train_batch_size=1e2, sub_experts=3.0, expert_hidden_sizes=[16.0, 8])
    for key, value in (("train_batch_size", 100), ("sub_experts", 3), ("expert_hidden_sizes", [16, 8])):
        for where in (config.final_config_dict, config.external_config_dict):  # the second goes into config.yaml
            assert where[key] == value
        assert "." not in str(config[key])
    assert built("DCNV2", embedding_size=4.0, reg_weight=0.5)["reg_weight"] == 0.5, "RecBole's default is 2"


@pytest.mark.parametrize(
    ("model", "settings", "told"),
    [
        ("HiNet", {"sub_experts": 2.5}, "sub_experts must be a whole number (its default is 5), got 2.5"),
        ("HiNet", {"batch_norm": 1}, "batch_norm must be True or False (its default is False), got 1"),
        ("HiNet", {"dropout": True}, "dropout must be a number (its default is 0.2), got True"),
        ("DeepFM", {"mlp_hidden_size": 8}, "mlp_hidden_size must be a list of whole numbers"),
        ("DeepFM", {"mlp_hidden_size": ["8"]}, None),
        ("DeepFM", {"mlp_hidden_size": [8, "wide"]}, "mlp_hidden_size: 2 must be a whole number"),
    ],
)
def test_a_models_own_key_is_of_the_kind_of_its_default(model, settings, told):
    if told is None:
        assert built(model, **settings)["mlp_hidden_size"] == [8]
    else:
        with pytest.raises(InputError, match=re.escape(told)):
            built(model, **settings)


# Read or refused

REFUSED = {
    **dict.fromkeys(("dataset_save_path", "dataloaders_save_path"), "there"),
    "preload_weight": {"item_id": "vector"},
    "additional_feat_suffix": ["itememb"],
    "LABEL_FIELD": "nothing",
    "threshold": {"rating": 3},
    "neg_sampling": {"uniform": 1},
    "training_neg_sample_num": 1,
    "eval_step": 0,
    "NEG_PREFIX": "not_",
    "RATING_FIELD": "stars",
    "repeatable": True,
    "require_pow": True,
    "topk": [5],
    "tail_ratio": 0.2,
    "valid_metric_bigger": False,
    "transform": "mask_itemseq",
    **dict.fromkeys(("eta", "beta", "mask_ratio", "ft_ratio"), 0.3),
    "MAX_ITEM_LIST_LENGTH": 5,
    "LIST_SUFFIX": "_seq",
    **dict.fromkeys(("ITEM_LIST_LENGTH_FIELD", "POSITION_FIELD", "HEAD_ENTITY_ID_FIELD", "TAIL_ENTITY_ID_FIELD"), "x"),
    **dict.fromkeys(("RELATION_ID_FIELD", "ENTITY_ID_FIELD"), "x"),
    "alias_of_entity_id": ["x"],
    "alias_of_relation_id": ["x"],
    **dict.fromkeys(("entity_kg_num_interval", "relation_kg_num_interval"), "[2,inf)"),
    "kg_reverse_r": True,
    **dict.fromkeys(("device", "MODEL_INPUT_TYPE", "eval_type", "single_spec"), "cpu"),
    "valid_neg_sample_args": {"distribution": "uniform"},
    "test_neg_sample_args": {"distribution": "uniform"},
    **dict.fromkeys(("nproc", "world_size"), 2),
    **dict.fromkeys(("offset", "group_offset"), 1),
    "config_files": ["a.yaml"],
    "config_file": "a.yaml",
    "knowledge": "random",
    "knowledge_scale": "none",
    "knowledge_leave_one_out": False,
    "knowledge_control": "permuted",
    "knowledge_match": "dot",
    "knowledge_parts": ["liked"],
    "knowledge_unknown_share": 0.5,
    "knowledge_device": "cpu",
    "knowledge_bake": True,
    "knowledge_size": 8,
    "knowledge_seed": 8,
    "knowledge_feature_size": 8,
}  # fmt: skip
"""Given to a model of this package: what it does not read."""

BREAKS = {"MODEL_TYPE": "x", "local_rank": 0}
"""RecBole's own marks, which it trips over: refused before it does."""

TOLD = {
    "worker": 2,
    "checkpoint_dir": "there",
    "save_dataset": True,
    "save_dataloaders": True,
    "loss_decimal_place": 2,
    "enable_scaler": True,
    "verbose": False,
    "knowledge_dir": "there",
    "ip": "localhost",
    "port": 5678,
    "gradnorm_alpha": 1.0,
    "gradnorm_learning_rate": 0.1,
    "dwa_temperature": 1.0,
    "schedule_epochs": 3,
    "cross_layers": 3,
    "cross_rank": 3,
    "history_pooling": "sum",
    "history_hidden_sizes": [3],
}
"""Deliberately without effect: the reason is told, and stands in the table."""

NO_NUMBER = {
    "model": "the name",
    "dataset": "the name",
    "gpu_id": "where it is computed; there may be no GPU",
    "use_gpu": "where it is computed",
    **dict.fromkeys(
        ("init_from", "init_scenarios", "only_new", "rows_after", "save_optimizer", "init_optimizer"),
        "tests/runs/test_init_from.py",
    ),
    **dict.fromkeys(("data", "users", "items", "columns", "types"), "tests/data/test_tables.py"),
    "state": "what is logged",
    "reproducibility": "kernels; on a CPU they are the same",
    "show_progress": "what is shown",
    "log_wandb": "tests/tracking",
    "wandb_project": "tests/tracking",
    "wandb": "tests/tracking",
    "eval_batch_size": "speed",
    "packed_cache": "tests/data/test_cache.py",
    "cache_dir": "tests/data/test_cache.py",
    "check_memory": "tests/runs/test_model_size.py",
    "data_device": "where the tables are",
    "knowledge_dir": "where the stores are",
    "knowledge_device": "where the vectors are",
    "knowledge_parts": "which columns of a store are read: tests/prompts/test_profiles.py",
    "knowledge_leave_one_out": "profiles in training: tests/prompts/test_leave_one_out.py",
    "knowledge_control": "what stands in place of a store's vectors: tests/models/test_knowledge_controls.py",
    "knowledge_bake": "what is kept with the weights: tests/models",
    "fast_dropout": "models of this package always have it; RecBole's: tests/training/test_fast_paths.py",
    "compile": "speed: tests/training/test_fast_paths.py",
    "threads": "speed",
    "output_dir": "where the files are",
    "resume": "tests/training/test_checkpoint.py",
    "strict": "what is checked",
}
"""Changes no number: the reason, or the tests of what it does change."""

KNOWN = {"knowledge": "random", "knowledge_features": ["user"], "knowledge_size": 6}
HISTORY = {"history": {"fields": ["item_id"]}}
PRICE = {"numerical_features": ["price"]}
CHANGES = {
    "data_path": ("nowhere", {}),
    "seed": (7, {}),
    "shuffle": (False, {}),
    "train_neg_sample_args": ({"distribution": "uniform", "sample_num": 1}, {}),
    "epochs": (2, {}),
    "train_batch_size": (50, {}),
    "learner": ("sgd", {}),
    "learning_rate": (0.05, {}),
    "eval_step": (2, {"epochs": 3, "learning_rate": 0.05}),
    "stopping_step": (0, {"learning_rate": 3.0, "epochs": 8}),
    "clip_grad_norm": ({"max_norm": 1e-4}, {"learner": "sgd"}),
    "weight_decay": (0.1, {}),
    "enable_amp": (True, {}),
    "eval_args": ({"split": {"RS": [6, 2, 2]}}, {}),
    "metrics": (["LogLoss"], {"valid_metric": "logloss"}),
    "valid_metric": ("auc/like", {"epochs": 2}),
    "metric_decimal_place": (2, {}),
    "field_separator": (",", {}),
    "seq_separator": ("|", {}),
    "encoding": ("utf-16", {}),
    "USER_ID_FIELD": ("person", {}),
    "ITEM_ID_FIELD": ("thing", {}),
    "TIME_FIELD": ("when", {"eval_args": {"order": "TO"}}),
    "seq_len": ({"class": 1}, {}),
    "numerical_features": (["price"], {}),
    "load_col": ({"inter": ["user_id", "item_id"], "user": ["user_id", "age"], "item": ["item_id"]}, {}),
    "unload_col": ({"user": ["gender"]}, {}),
    "unused_col": ({"inter": ["friend"]}, {}),
    "rm_dup_inter": ("first", {}),
    "val_interval": ({"timestamp": "[1100,2000]"}, {}),
    "filter_inter_by_user_or_item": (False, {}),
    "user_inter_num_interval": ("[15,inf)", {}),
    "item_inter_num_interval": ("[15,inf)", {}),
    "alias_of_user_id": (["friend"], {}),
    "alias_of_item_id": (["last_item"], {}),
    "normalize_field": (["price"], {**PRICE, "normalize_all": False}),
    "normalize_all": (True, PRICE),
    "discretization": ({"price": {"method": "ED", "bucket": 3}}, {**PRICE, "numerical_as": "embedding"}),
    "benchmark_filename": (["a", "b", "c"], {}),
    "scenario": (None, {}),
    "tasks": ({"click": TASKS["click"]}, {}),
    "main_task": ("like", {}),
    "preset": ("ml-1m", {}),
    "only_scenario": ("age>=30", {}),
    "min_scenario_rows": (40, {}),
    "segments": ({"user_rows": [5]}, {}),
    "history": ({"fields": ["item_id"]}, {}),
    "min_count": ({"item_id": 18}, {}),
    "unknown_share": ({"item_id": 0.3}, {}),
    "hash_buckets": ({"user_id": 5}, {}),
    "history_pooling": ("sum", HISTORY),
    "history_hidden_sizes": ([3], HISTORY | {"history_pooling": "target_attention"}),
    "data_seed": (5, {}),
    "knowledge": ("none", KNOWN),
    "knowledge_features": (["item"], KNOWN),
    "knowledge_feature_size": (3, KNOWN),
    "knowledge_scale": ("none", KNOWN),
    "knowledge_match": ("dot", KNOWN | {"knowledge_features": ["user", "item"]}),
    "knowledge_unknown_share": (0.5, KNOWN),
    "knowledge_size": (7, KNOWN),
    "knowledge_seed": (7, KNOWN),
    "trainer": ("recbole", {}),
    "fused_optimizer": (False, {"epochs": 3}),
    "embedding_gradients": ("sparse", {}),
    "precision": ("bf16-mixed", {}),
    "loss_weighting": ("equal", {"loss_weighting": "uncertainty"}),
    "gradnorm_alpha": (0.0, {"loss_weighting": "gradnorm", "epochs": 5, "train_batch_size": 20, "learning_rate": 0.05}),
    "gradnorm_learning_rate": (0.5, {"loss_weighting": "gradnorm"}),
    "dwa_temperature": (0.1, {"loss_weighting": "dwa", "epochs": 4}),
    "lr_scheduler": ({"name": "ExponentialLR", "gamma": 0.1}, {"epochs": 2}),
    "lightning": ({"accumulate_grad_batches": 2}, {}),
    "embedding_dropout": (0.3, {}),
    "embedding_size_exponent": (0.3, {}),
    "interaction": ("fm", {}),
    "cross_layers": (1, {"interaction": "cross"}),
    "cross_rank": (2, {"interaction": "cross"}),
    "scenario_balance": (1.0, {}),
    "embedding_learning_rate_factor": (3.0, {}),
    "embedding_weight_decay": (0.1, {}),
    "learning_rate_schedule": ("cosine", {}),
    "schedule_epochs": (1, {"learning_rate_schedule": "linear", "epochs": 3}),
    "warmup_epochs": (0.5, {}),
    "save_predictions": (True, {}),
    "calibrate": ("isotonic", {}),
    "calibrate_by": ("cell", {"calibrate": "isotonic"}),
}  # fmt: skip
"""Changes the run: another result, or an error of what it names. (value, what it is tried with)"""


def test_every_key_changes_the_run_or_is_refused_or_stands_in_a_list_with_the_reason():
    assert set(KEYS) == {*REFUSED, *BREAKS, *TOLD, *NO_NUMBER, *CHANGES}
    assert not {*REFUSED, *BREAKS, *TOLD} & set(NO_NUMBER) - {key for key in KEYS if key.startswith("knowledge_")}
    assert not set(TOLD) & set(REFUSED)


@pytest.mark.parametrize("key", [*REFUSED, *BREAKS])
def test_a_key_that_the_model_does_not_read_is_refused(key):
    with pytest.raises(InputError) as error:
        built(**{key: (REFUSED | BREAKS)[key]})
    told = str(error.value)
    assert told.startswith(f"{key} ")
    assert len(told.splitlines()) == 1
    always = ("dataset_save_path", "dataloaders_save_path")  # they would run code
    if key in REFUSED and key not in (
        *("MODEL_INPUT_TYPE", "eval_type", "valid_neg_sample_args", "test_neg_sample_args"),
        *always,
    ):
        assert built(strict=False, **{key: REFUSED[key]}) is not None


@pytest.mark.parametrize("key", TOLD)
def test_a_key_without_an_effect_is_told(key):
    (note,) = unread_notes(built(**{key: TOLD[key]}))
    assert note.startswith(f"{key} has no effect: it ")


def test_a_default_is_no_setting_without_effect():
    everything = read_yaml(RECBOLE / "properties" / "overall.yaml")
    everything |= {key: everything[key] for key in everything if key not in ("metrics", "valid_metric", "eval_args")}
    config = built()
    again = {key: value for key, value in config.internal_config_dict.items() if key != "MODEL_TYPE"}
    assert unread_notes(built(**again)) == []
    assert refused_keys(again, config) == {}
    assert built(LABEL_FIELD="label_click")["LABEL_FIELD"] == "label_click"


def test_the_run_tells_what_has_no_effect(data, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.WARNING):
        tiny(data, tmp_path / "out", worker=2, state="WARNING")
    assert "worker has no effect: it is read by RecBole's own trainer only" in caplog.text
    assert "worker has no effect" in (tmp_path / "out" / "run.log").read_text()


@pytest.mark.parametrize("model", ["BPR", "DeepFM"])
def test_runs_of_recbole_alone_keep_its_own_keys_and_are_told(model):
    given = {"preload_weight": {"item_id": "vector"}, "MAX_ITEM_LIST_LENGTH": 5, "kg_reverse_r": True}
    notes = unread_notes(built(model, **given))
    assert [note.split()[0] for note in notes] == list(given)
    for key, value in (
        ("data_seed", 5),
        ("min_scenario_rows", 3),
        ("lightning", {"devices": 1}),
        ("knowledge", "random"),
    ):
        with pytest.raises(InputError, match=f"^{key} is "):
            built(model, **{key: value})
    with pytest.raises(InputError, match=r"^train_neg_sample_args has same_scenario, which is read where tasks"):
        built(model, train_neg_sample_args={"distribution": "uniform", "sample_num": 1, "same_scenario": True})
    assert unread_notes(built("SASRec", MAX_ITEM_LIST_LENGTH=5, train_neg_sample_args=None)) == []
    assert unread_notes(built("LightGCN", require_pow=True)) == []
    assert unread_notes(built("BPR", topk=[5], repeatable=True, worker=2)) == []
    assert unread_notes(built("KGCN", kg_reverse_r=True)) == []


@pytest.mark.parametrize("model", ["HiNet", "DeepFM"])
def test_preloaded_weights_are_refused_with_what_to_use_instead(model):
    given = {"tasks": TASKS, "additional_feat_suffix": ["itememb"], "preload_weight": {"iid": "item_emb"}}
    with pytest.raises(InputError, match=r"preload_weight is not read by .*numerical_features.*knowledge_features"):
        built(model, **given)


def test_a_model_that_reads_preloaded_weights_has_them(register):
    from recbole_msr.models.base import MultiScenarioRecommender

    class Preloaded(MultiScenarioRecommender):
        def __init__(self, config, dataset):
            super().__init__(config, dataset)
            self.vectors = dataset.get_preload_weight("item_id")

    register(Preloaded, {"embedding_size": 4})
    given = {
        "train_neg_sample_args": None,
        "additional_feat_suffix": ["itememb"],
        "preload_weight": {"iid": "item_emb"},
    }
    assert built("Preloaded", tasks=TASKS, **given)["preload_weight"] == {"iid": "item_emb"}


def test_which_models_read_knowledge():
    assert built("LLM4MSR", knowledge="random", knowledge_size=8)["knowledge"] == "random"
    assert built("HiNet", knowledge="random", knowledge_features=["user"], knowledge_feature_size=8) is not None
    assert unread_notes(built("LLM4MSR", knowledge="random", knowledge_size=8)) == []
    assert "knowledge_size has no effect" in unread_notes(built("LLM4MSR", knowledge="mine", knowledge_size=8))[0]
    for model in ("HiNet", "DeepFM"):
        assert built(model, tasks=TASKS, knowledge="none") is not None
    with pytest.raises(InputError, match="knowledge_control is about a store's vectors, and knowledge names"):
        built("LLM4MSR", knowledge="random", knowledge_control="permuted")
    assert unread_notes(built("LLM4MSR", knowledge="mine", knowledge_control="permuted", knowledge_seed=8)) == []
    with pytest.raises(InputError, match="knowledge_features is not for DeepFM"):
        built("DeepFM", tasks=TASKS, knowledge_features=["user"])


def test_a_key_of_another_model_is_unknown_though_recboles_trainers_read_it():
    for key in ("pretrain_epochs", "kge_interval", "n_enc_epochs", "save_step"):
        with pytest.raises(InputError, match=f"unknown configuration key '{key}'"):
            built(**{key: 5})
    assert built("RecVAE", n_enc_epochs=2)["n_enc_epochs"] == 2


@pytest.mark.parametrize("given", [{}, {"order": "TO"}, {"split": {"RS": [7, 2, 1]}, "order": "RO", "group_by": None}])
def test_eval_args_need_no_mode_where_tasks_are_learnt(given):
    for model in ("HiNet", "DeepFM"):
        config = built(model, preset="ml-100k", eval_args=given)
        assert config["eval_args"]["mode"] == {"valid": "labeled", "test": "labeled"}
        assert {key: config["eval_args"][key] for key in given} == given
    with pytest.raises(InputError, match=r"Full sort.*add mode: labeled"):
        built("DeepFM", eval_args=given)


def test_without_tasks_users_are_not_held_out():
    given = {"split": {"RS": [8, 1, 1]}, "order": "RO", "group_by": "cold_user", "mode": "labeled"}
    with pytest.raises(InputError, match="cold_user or cold_item where tasks are declared, and none are"):
        built("DeepFM", eval_args=given)


def test_ml_100k_of_ones_own_is_not_passed_over_in_silence(tmp_path):
    package = RECBOLE / "dataset_example" / "ml-100k"
    own = tmp_path / "mine" / "ml-100k"
    own.mkdir(parents=True)
    lines = (package / "ml-100k.inter").read_text().splitlines(keepends=True)
    (own / "ml-100k.inter").write_text("".join(lines[:-1]))
    for path in (tmp_path / "mine", own):
        with pytest.raises(InputError, match=r"data_path is not where ml-100k is read from.*another name"):
            built(data_path=str(path))
        assert any("data_path has no effect" in note for note in unread_notes(built("BPR", data_path=str(path))))
    (own / "ml-100k.inter").write_text("".join(lines))
    assert unread_notes(built(data_path=str(package.parent))) == []
    assert "RecBole's package brings it" in unread_notes(built(data_path=str(tmp_path)))[0]


def test_a_gpu_is_left_alone_if_it_is_not_to_be_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert built(use_gpu=False)["device"] == torch.device("cpu")
    assert build_config("HiNet", "ml-100k", {"state": "ERROR"})["device"] == torch.device("cuda")
    assert built("BPR", use_gpu=False)["device"] == torch.device("cuda"), "RecBole's own runs are as they were"


# Each key that is read, in runs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data_path with "small": 20 users, of whom two are in no .user file, 15 items, 320 rows with some twice."""
    draw = torch.Generator().manual_seed(3)
    folder = tmp_path_factory.mktemp("data") / "small"
    folder.mkdir()

    def number(high, low=0):
        return int(torch.randint(low, high, (1,), generator=draw))

    def write(suffix, header, rows):
        lines = [header, *("\t".join(map(str, row)) for row in rows)]
        (folder / f"small.{suffix}").write_text("\n".join(lines) + "\n")

    users = [(f"u{u}", 20 + u, "FM"[u % 2]) for u in range(18)]
    classes = ("drama|war comedy", "war noir", "noir comedy drama", "drama")
    items = [(f"i{i}", classes[i % 4], i / 2) for i in range(15)]
    rows = [
        (f"u{number(20)}", f"i{number(15)}", number(6, 1), 1000 + n, f"u{number(25)}", f"i{number(20)}")
        for n in range(320)
    ]
    write("user", "user_id:token\tage:token\tgender:token", users)
    write("item", "item_id:token\tclass:token_seq\tprice:float", items)
    write("inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float\tfriend:token\tlast_item:token", rows)
    return folder.parent


def tiny(data, folder, **settings):
    base = {
        "data_path": str(data),
        "tasks": TASKS,
        "scenario": {"field": "age", "bins": [30]},
        "epochs": 1,
        "packed_cache": False,
        "embedding_size": 4,
        "bottom_hidden_sizes": [8],
        "tower_hidden_sizes": [4],
        "train_batch_size": 100,
        "show_progress": False,
        "threads": 1,
        "output_dir": str(folder),
    }
    return recbole_msr.run("SharedBottom", "small", config=GIVEN | base | settings)


def outcome(data, folder, **settings):
    """What a run comes to: its results and weights, or the error."""
    try:
        result = tiny(data, folder, **settings)
    except InputError as error:
        return str(error)
    timed = ("seconds", "rows_per_second", "versions", "device")
    kept = {key: value for key, value in result.summary.items() if key not in timed}
    weights = {name: value.tolist() for name, value in result.model.state_dict().items()}
    with Path(folder, "metrics.csv").open(newline="") as file:
        lines = [{key: row[key] for key in row if key not in timed} for row in csv.DictReader(file)]
    return kept, weights, lines, sorted(os.listdir(folder))


@pytest.fixture(scope="module")
def before(data, tmp_path_factory):
    """before(**settings) -> the outcome of the run that a key is compared with; each once."""
    known = {}

    def get(settings):
        name = repr(settings)
        if name not in known:
            known[name] = outcome(data, tmp_path_factory.mktemp("before") / "out", **settings)
        return known[name]

    return get


@pytest.mark.parametrize("key", CHANGES)
def test_a_key_that_is_read_changes_the_run(key, data, before, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    value, extra = CHANGES[key]
    found, without = outcome(data, tmp_path / "out", **{**extra, key: value}), before(extra)
    assert not isinstance(without, str), without
    if isinstance(found, str):
        assert "unknown" not in found
        assert not re.match(rf"{key} (is|must)", found), found
    assert found != without
