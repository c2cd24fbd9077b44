"""Prepared datasets on disk: tensors in safetensors, the rest in JSON, keyed by everything that made them.

An entry holds what `ScenarioDataset` knows after its split: the interactions (train, valid, test one after the other),
user and item tables, vocabularies, scenario names. Opening one maps the tensors into memory instead of reading them,
so that processes share them. An entry is written to a temporary folder and renamed: there is never half an entry.

The folder is `cache_dir` of the configuration, else the environment variable RECBOLE_MSR_CACHE, else
`~/.cache/recbole-msr`. It may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType
from recbole.utils.argument_list import dataset_arguments
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

FORMAT = 2
"""Raised whenever the meaning of an entry changes; entries of other formats are not found."""

_TABLES = ("inter", "user", "item")
# Settings with which RecBole keeps more beside the tables than an entry holds.
_UNCACHED = ("preload_weight", "additional_feat_suffix", "benchmark_filename")
_KEYS = (
    *(key for key in dataset_arguments if key not in ("LABEL_FIELD", "threshold")),
    *("numerical_features", "discretization", "encoding", "eval_args", "data_seed", "scenario", "tasks"),
)
_STATE_FILE, _TENSOR_FILE = "dataset.json", "tables.safetensors"

logger = logging.getLogger(__name__)


def entry(config: Any, dataset_path: str, dataset_name: str) -> Path | None:
    """The folder of the entry for this configuration and these files; None where nothing is to be cached."""
    if config["packed_cache"] is False or any(config[key] for key in _UNCACHED):
        return None
    root = config["cache_dir"] or os.environ.get("RECBOLE_MSR_CACHE") or os.path.expanduser("~/.cache/recbole-msr")
    return Path(root, f"{dataset_name}-{fingerprint(config, dataset_path, dataset_name)}")


def fingerprint(config: Any, dataset_path: str, dataset_name: str) -> str:
    """A hash of the files' content and of all settings that decide what the dataset and its splits are."""
    made_by: dict[str, Any] = {key: config[key] for key in sorted(set(_KEYS))}
    made_by["format"] = FORMAT
    made_by["files"] = {
        suffix: _digest(path)
        for suffix in _TABLES
        if (path := Path(dataset_path, f"{dataset_name}.{suffix}")).is_file()
    }
    # Not sorted: the order of groups is that of the scenarios.
    return hashlib.blake2b(json.dumps(made_by, default=str).encode(), digest_size=12).hexdigest()


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest() if hasattr(hashlib, "file_digest") else _read(file)


def _read(file: Any) -> str:  # Python 3.10 has no hashlib.file_digest
    digest = hashlib.blake2b()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def store(dataset: Any, folder: Path) -> None:
    """Write an entry. A folder that cannot be written, or a full disk, is a warning: the run goes on without."""
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        write_state(dataset, temporary)
        temporary.chmod(folder.parent.stat().st_mode & 0o777)  # mkdtemp's 0700 would shut out who shares the cache
        os.replace(temporary, folder)
    except (OSError, SafetensorError) as error:
        if not os.path.isdir(folder):  # else another process was faster with the same entry
            logger.warning("the prepared dataset could not be kept in %s: %s", folder.parent, error)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def restore(dataset: Any, folder: Path) -> bool:
    """Fill a dataset from its entry; False where there is none. A damaged entry is removed and made again."""
    if not os.path.isdir(folder):
        return False
    try:
        read_state(dataset, folder)
    except Exception as error:  # whatever is wrong with it, the entry can be made again
        logger.warning("the prepared dataset in %s is damaged (%s) and is made again", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        return False
    return True


def write_state(dataset: Any, folder: Path, tables: tuple[str, ...] = _TABLES) -> None:
    """Write a dataset's vocabularies, field properties and the named tables into a folder."""
    state = {
        "field2type": {field: kind.value for field, kind in dataset.field2type.items()},
        "field2source": {field: _value(source) for field, source in dataset.field2source.items()},
        "field2seqlen": {field: int(length) for field, length in dataset.field2seqlen.items()},
        "field2bucketnum": {field: int(number) for field, number in dataset.field2bucketnum.items()},
        "alias": {name: [str(field) for field in fields] for name, fields in dataset.alias.items()},
        "tokens": {field: [str(token) for token in tokens] for field, tokens in dataset.field2id_token.items()},
        "scenario_names": dataset.scenario_names,
        "number_scale": dataset.number_scale,
        "scenario_shares": dataset.scenario_shares,
        "split_sizes": [int(size) for size in dataset.split_sizes],
        "tables": [name for name in tables if getattr(dataset, f"{name}_feat") is not None],
    }
    tensors = {
        f"{name}/{field}": column.contiguous()
        for name in state["tables"]
        for field, column in getattr(dataset, f"{name}_feat").interaction.items()
    }
    save_file(tensors, folder / _TENSOR_FILE)
    state["digest"] = _digest(folder / _TENSOR_FILE)
    (folder / _STATE_FILE).write_text(json.dumps(state), encoding="utf-8")
    # safetensors makes a file that only its owner may read.
    (folder / _TENSOR_FILE).chmod((folder / _STATE_FILE).stat().st_mode & 0o777)


def read_state(dataset: Any, folder: Path) -> None:
    """Fill a dataset with what `write_state` wrote; a table that was not written is None.

    Raises:
        ValueError: the files are damaged.
        OSError: they cannot be read.
    """
    state: Mapping[str, Any] = json.loads((folder / _STATE_FILE).read_text(encoding="utf-8"))
    if _digest(folder / _TENSOR_FILE) != state.get("digest"):
        raise ValueError(f"{_TENSOR_FILE} is not as it was written")
    tensors = load_file(folder / _TENSOR_FILE)
    dataset.field2type = {field: FeatureType(kind) for field, kind in state["field2type"].items()}
    dataset.field2source = {field: FeatureSource(source) for field, source in state["field2source"].items()}
    dataset.field2seqlen = dict(state["field2seqlen"])
    dataset.field2bucketnum = dict(state["field2bucketnum"])
    dataset.alias = {name: np.array(fields) for name, fields in state["alias"].items()}
    dataset.field2id_token = {field: np.array(tokens) for field, tokens in state["tokens"].items()}
    dataset.field2token_id = {
        field: {token: i for i, token in enumerate(tokens)} for field, tokens in state["tokens"].items()
    }
    for key in ("scenario_names", "scenario_shares", "split_sizes", "number_scale"):
        setattr(dataset, key, state[key])
    for name in _TABLES:
        columns = {key.split("/", 1)[1]: t for key, t in tensors.items() if key.startswith(f"{name}/")}
        setattr(dataset, f"{name}_feat", Interaction(columns) if name in state["tables"] else None)
    dataset.feat_name_list = [f"{name}_feat" for name in state["tables"]]


def _value(source: Any) -> str:
    return source.value if isinstance(source, FeatureSource) else str(source)
