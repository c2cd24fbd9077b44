"""Which configurations read tables straight into packed tables; the others go by way of atomic files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole.utils import FeatureType

from recbole_msr.data.dataset import SPLITS
from recbole_msr.data.negatives import NegativeSettings
from recbole_msr.data.split_rows import HELD_OUT, LEFT_OUT
from recbole_msr.schema import Schema

_ROWS_FILTERED = ("rm_dup_inter", "val_interval")
_BESIDE = (
    "benchmark_filename",
    "preload_weight",
    "additional_feat_suffix",
    "discretization",
    "history",
    "min_count",
    "hash_buckets",
)
_ALIASES = ("alias_of_user_id", "alias_of_item_id")


def reason_against(config: Any, kinds: Mapping[str, FeatureType]) -> str | None:
    """Say what of a configuration takes atomic files; None if nothing does.

    Args:
        config: the configuration, with tasks.
        kinds: the columns of the table of interactions.
    """
    if config["packed_cache"] is False:
        return "packed_cache: False"
    for key in (*_ROWS_FILTERED, *_BESIDE, *_ALIASES):
        if config[key]:
            return key
    if NegativeSettings.from_config(config) is not None:
        return "train_neg_sample_args"
    for key in ("user_inter_num_interval", "item_inter_num_interval"):
        if ";" in str(config[key]):
            return key
    sequences = [field for field, kind in kinds.items() if kind.value.endswith("seq")]
    if sequences:
        return f"'{sequences[0]}', a sequence"
    return _of_tasks(config, kinds) or _of_split(config)


def _of_tasks(config: Any, kinds: Mapping[str, FeatureType]) -> str | None:
    schema = Schema.from_config(config)
    assert schema is not None
    for task in schema.tasks:
        if task.type == "classes":
            return f"task '{task.name}', of classes"
        if task.weight is not None:
            return f"task '{task.name}', which is weighted"
    if schema.parents:
        return "tasks after others"
    scenario = schema.scenario
    if scenario.top is not None:
        return "scenario: top"
    if scenario.bins is None and kinds.get(str(scenario.field)) == FeatureType.FLOAT:
        return f"scenario, whose field '{scenario.field}' is a number"
    return None


def _of_split(config: Any) -> str | None:
    split, order = config["eval_args"]["split"] or {}, config["eval_args"]["order"]
    is_known = (
        len(split["RS"]) == len(SPLITS) if list(split) == ["RS"] else list(split) == ["LS"] and split["LS"] in LEFT_OUT
    )
    if not is_known or order not in ("RO", "TO"):
        return f"eval_args: split: {split}, order: {order}"
    group = config["eval_args"]["group_by"]
    if str(group).lower() not in ("none", "user", *(("scenario", *HELD_OUT) if "RS" in split else ())):
        return f"eval_args: group_by: {group}"
    normalised = config["normalize_all"] or config["TIME_FIELD"] in (config["normalize_field"] or [])
    if order == "TO" and normalised:
        return "a time that is normalised"
    return None
