"""The fingerprint of a dataset's training rows, so that knowledge from other rows is recognised."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from recbole_msr.data.cache import data_digests
from recbole_msr.files.digest import file_digest

_SETTINGS = (
    *("scenario", "tasks", "data_seed", "eval_args"),
    *("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD", "field_separator", "seq_separator", "encoding"),
    *("rm_dup_inter", "filter_inter_by_user_or_item", "user_inter_num_interval", "item_inter_num_interval"),
    *("val_interval", "benchmark_filename"),
)


def fingerprint(dataset: Any) -> dict[str, Any]:
    """Files, settings and training rows of a training split, as plain values.

    Of a dataset without interactions (one that serves a finished run) only the settings.
    """
    config = dataset.config
    # RecBole's default files say "no limit" in several ways.
    settings = {key: None if config[key] in ("[0,inf)", {}, []) else config[key] for key in _SETTINGS}
    # The mode says which items are ranked at evaluation, not which rows are where.
    settings["eval_args"] = {key: value for key, value in (config["eval_args"] or {}).items() if key != "mode"}
    settings["tasks"] = settings["tasks"] and {name: _unweighted(task) for name, task in config["tasks"].items()}
    content: dict[str, Any] = {
        "dataset": dataset.dataset_name,
        "settings": json.loads(json.dumps(settings, default=str)),
    }
    if getattr(dataset, "inter_feat", None) is not None:
        digest = partial(hashlib.blake2b, digest_size=16)
        content["files"] = data_digests(
            dataset.dataset_path, dataset.dataset_name, lambda path: file_digest(path, digest)
        )
        # With only_scenario these are the rows of all scenarios: knowledge is made of them.
        of_all = getattr(dataset, "all_scenarios", None)
        content["training_rows"] = _rows(dataset if of_all is None else of_all)
    return content


def _unweighted(task: Any) -> Any:
    """Return a declared task without its weight, which no prompt is made of."""
    return {key: value for key, value in task.items() if key != "weight"} if isinstance(task, Mapping) else task


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """List the differences of two fingerprints, as "what: there -> here"; what one of them lacks is not compared."""
    changes = []
    if there.get("dataset") != here.get("dataset"):
        changes.append(f"dataset: {there.get('dataset')} -> {here.get('dataset')}")
    settings, now = there.get("settings", {}), here.get("settings", {})
    for key in sorted({*settings, *now}):
        # Compared as text: the order of groups is that of the scenarios.
        if json.dumps(settings.get(key)) != json.dumps(now.get(key)):
            changes.append(f"{key}: {json.dumps(settings.get(key))} -> {json.dumps(now.get(key))}")
    if "files" in there and "files" in here:
        for suffix in sorted({*there["files"], *here["files"]}):
            if there["files"].get(suffix) != here["files"].get(suffix):
                changes.append(f"the content of the .{suffix} file")
    rows, rows_now = there.get("training_rows"), here.get("training_rows")
    if not changes and rows and rows_now and rows != rows_now:
        changes.append(f"the training rows: {rows['count']} -> {rows_now['count']} rows, not the same ones")
    return changes


def _rows(train: Any) -> dict[str, Any]:
    """Count and digest the training rows that carry the main task's label: ids, scenario, labels, in order."""
    inter, schema = train.inter_feat, train.schema
    main = schema.tasks[schema.main_index]
    kept = inter[main.label_field].numpy() != main.missing_label
    digest = hashlib.blake2b(json.dumps(schema.task_names).encode(), digest_size=16)
    for field in (train.uid_field, train.iid_field):
        # External ids: RecBole's own depend on which further fields were loaded.
        tokens = pd.util.hash_array(np.asarray(train.field2id_token[field]).astype(object), categorize=False)
        digest.update(tokens[inter[field].numpy()[kept]].tobytes())
    names = pd.util.hash_array(np.array(["", *train.scenario_names], dtype=object), categorize=False)
    digest.update(names[train.row_scenario(inter).numpy()[kept]].tobytes())
    for task in schema.tasks:
        kind = np.int8 if task.type == "binary" else np.float32
        digest.update(inter[task.label_field].numpy()[kept].astype(kind).tobytes())
    return {"count": int(kept.sum()), "digest": digest.hexdigest()}
