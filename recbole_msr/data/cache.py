"""Prepared datasets on disk: packed tables in safetensors, the rest in JSON, keyed by everything that made them.

An entry holds what `ScenarioDataset` knows after its split: the packed rows (train, valid, test one after the other),
user and item tables, vocabularies, scenario names. Opening one maps the tables into memory instead of reading them, so
that all processes on a machine share one copy; vocabularies are decoded when somebody asks for them. Whether the file
is as it was written is checked at every start (a CRC-32 of its bytes). An entry is written to a temporary folder and
renamed: there is never half an entry; of several processes that want the same, one makes it and the others wait.

The key takes the content of the atomic files. Their digests are remembered, so that unchanged files are not read again:
a file counts as unchanged while path, size, inode, and the times of its last change of content (mtime) and of any
change (ctime, which cannot be set by hand) are the same to the nanosecond. That assumes a file system that keeps these
times; a change within two seconds before the digest was taken is never relied on.

The folder is `cache_dir` of the configuration, else the environment variable RECBOLE_MSR_CACHE, else
`~/.cache/recbole-msr`. It may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType
from recbole.utils.argument_list import dataset_arguments
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from recbole_msr.data import table_rows
from recbole_msr.data.history import HistoryRows, data_key
from recbole_msr.data.negatives import NegativeSettings
from recbole_msr.data.rows import Packed, PackedRows
from recbole_msr.data.vocabulary import TokenIds, Vocabularies, encode
from recbole_msr.files.digest import file_digest
from recbole_msr.files.json import mismatch, read_json

FORMAT = 5
"""Raised whenever the meaning of an entry changes; entries of other formats are not found."""

_TABLES = ("inter", "user", "item")
# Settings with which RecBole keeps more beside the tables than an entry holds.
_UNCACHED = ("preload_weight", "additional_feat_suffix", "benchmark_filename")
_KEYS = (
    *(key for key in dataset_arguments if key not in ("LABEL_FIELD", "threshold")),
    *("numerical_features", "discretization", "encoding", "eval_args", "data_seed", "scenario", "tasks"),
)
_KEPT = ("scenario_names", "number_scale", "scenario_shares", "cells")
_STATE_FILE, TENSOR_FILE = "dataset.json", "tables.safetensors"
_STATE: dict[str, Any] = {
    **{"size": int, "checksum": int, "own_checksum": int},
    **{key: {str: str} for key in ("field2type", "field2source", "shared")},
    **{key: {str: int} for key in ("field2seqlen", "field2bucketnum")},
    "alias": {str: [str]},
    **{key: [str] for key in ("tokens", "tables", "scenario_names")},
    "split_sizes": [int],
    "number_scale": {str: dict},
}

_RACY_SECONDS = 2.0  # a file changed so shortly before it was read may change again without another time
_WAIT_SECONDS = 300.0  # who has the right to make an entry may also never use it
DAMAGE = (ValueError, TypeError, AttributeError, LookupError, RuntimeError, SafetensorError, OSError)
"""What reading a state that is not as it was written may raise, or one that cannot be read at all."""
_DAMAGE = (ValueError, TypeError, LookupError, SafetensorError, FileNotFoundError, NotADirectoryError)

logger = logging.getLogger(__name__)
_turns: weakref.WeakValueDictionary[Path, filelock.BaseFileLock] = weakref.WeakValueDictionary()  # of this process


def entry(config: Any, dataset_path: str, dataset_name: str) -> Path | None:
    """Return the folder of the entry for this configuration and these files; None where nothing is to be cached."""
    if config["packed_cache"] is False or any(config[key] for key in _UNCACHED):
        return None
    name = f"{dataset_name}-{fingerprint(config, dataset_path, dataset_name)}"
    vectors = {key: fields for key, fields in table_rows.declared_rows(config).items() if fields}
    if vectors:  # the rows are the same: models with and without it can be compared
        name += "-" + hashlib.blake2b(json.dumps(vectors, sort_keys=True).encode(), digest_size=6).hexdigest()
    return Path(cache_root(config["cache_dir"]), name)


def cache_root(configured: str | None) -> str:
    """Return the folder of all that is prepared once and can be prepared again.

    Args:
        configured: `cache_dir` of the configuration.
    """
    return configured or os.environ.get("RECBOLE_MSR_CACHE") or os.path.expanduser("~/.cache/recbole-msr")


def fingerprint(config: Any, dataset_path: str, dataset_name: str, histories: bool = True) -> str:
    """Return a hash of the files' content and of all settings that decide what the dataset and its splits are.

    Args:
        config: the configuration.
        dataset_path: folder of the dataset's files.
        dataset_name: name of the dataset.
        histories: whether `history` counts, which adds to rows and changes no row, id, label or split.
    """
    made_by: dict[str, Any] = {key: config[key] for key in sorted(set(_KEYS))}
    made_by["format"] = FORMAT
    if histories:
        made_by["history"] = data_key(config)
    if config["rows_after"] is not None:
        made_by["rows_after"] = config["rows_after"]
    if NegativeSettings.from_config(config) is not None:  # a log without labels is one of positives then
        made_by["positives"] = True
    notes = Path(cache_root(config["cache_dir"]), ".digests")
    made_by["files"] = data_digests(dataset_path, dataset_name, lambda path: remembered_digest(path, notes))
    # Not sorted: the order of groups is that of the scenarios.
    return hashlib.blake2b(json.dumps(made_by, default=str).encode(), digest_size=12).hexdigest()


def data_digests(folder: str | Path, dataset: str, digest: Callable[[Path], str]) -> dict[str, str]:
    """Return the digest of the content of each of a dataset's files: "inter", "user" and "item", as far as they are.

    Of interactions that are a table (see `data.tables.placed`), it is that of the table and of its columns' types.

    Args:
        folder: of the dataset.
        dataset: its name.
        digest: gives that of a file.
    """
    found = {}
    for suffix in _TABLES:
        path = Path(folder, f"{dataset}.{suffix}")
        if (note := Path(f"{path}.json")).is_file():
            keys = ("digests", "types", "separator", "time_text", "partitions")
            content = {key: value for key, value in read_json(note).items() if key in keys}
            found[suffix] = hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
        elif path.is_file():
            found[suffix] = digest(path)
    return found


def remembered_digest(path: Path, folder: Path) -> str:
    """Return the digest of a file's content, from memory where the file is the one that was read before."""
    path = path.resolve()
    stat = path.stat()
    seen = [str(path), stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]
    note = folder / f"{hashlib.blake2b(os.fsencode(path), digest_size=12).hexdigest()}.json"
    with contextlib.suppress(OSError, ValueError):
        remembered = read_json(note, [str | int])
        if remembered[:-1] == seen and isinstance(remembered[-1], str):
            return remembered[-1]
    started = time.time()
    digest = file_digest(path, hashlib.blake2b)
    if started - max(stat.st_mtime, stat.st_ctime) > _RACY_SECONDS:
        temporary = folder / f"{note.stem}-{os.getpid()}-{threading.get_ident()}"
        with contextlib.suppress(OSError):  # it is then computed every time
            folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps([*seen, digest]), encoding="utf-8")
            os.replace(temporary, note)
        with contextlib.suppress(OSError):
            temporary.unlink()
    return digest


def _checksum(path: Path) -> int:
    total, buffer = 0, bytearray(1 << 20)
    view = memoryview(buffer)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            total = zlib.crc32(view[:count], total)
    return total


def build_lock(folder: Path) -> filelock.BaseFileLock | None:
    """Wait for the right to make an entry, which one process has at a time; release it when the entry is there.

    None where this process has it already, or where no lock can be had (the file system has none, or another process
    keeps it for too long): the work is then done without.
    """
    folder = folder.resolve()
    mine = _turns.get(folder)
    if mine is not None and mine.is_locked:
        return None
    try:
        lock = filelock.FileLock(folder.parent / ".locks" / f"{folder.name}.lock", thread_local=False)
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            if isinstance(lock, filelock.SoftFileLock):  # it became one: a file, which one that was killed leaves there
                return None
            logger.warning(
                "another process is preparing the same dataset; waiting for it, for at most %g minutes "
                "(packed_cache: False goes on without waiting; the lock is %s)",
                _WAIT_SECONDS / 60, lock.lock_file,
            )  # fmt: skip
            lock.acquire(timeout=_WAIT_SECONDS)
    except (OSError, NotImplementedError, filelock.Timeout):
        return None
    _turns[folder] = lock
    return lock


@contextlib.contextmanager
def new_entry(folder: Path) -> Iterator[Path]:
    """Give a folder for the files of an entry, which becomes the entry at the end.

    Raises:
        OSError: the folder cannot be made or moved; there may be another entry by then.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(folder.parent.stat().st_mode & 0o777)  # mkdtemp's 0700 would shut out who shares the cache
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def store(dataset: Any, folder: Path) -> bool:
    """Write an entry. A folder that cannot be written, or a full disk, is a warning: the run goes on without.

    Returns:
        Whether the entry that is there now is the one written here; False also where another was there already.
    """
    try:
        with new_entry(folder) as temporary:
            write_state(dataset, temporary)
    except (OSError, SafetensorError) as error:
        if not os.path.isdir(folder):  # else another process was faster, or it is damaged and could not be removed
            logger.warning("the prepared dataset could not be kept in %s: %s", folder.parent, error)
        return False
    return True


def restore(dataset: Any, folder: Path) -> bool:
    """Fill a dataset from its entry; False where there is none. A damaged entry is removed and made again.

    One that cannot be read now (too many open files, no memory) is left, and the dataset's own files are read instead.
    """
    if not os.path.isdir(folder):
        return False
    try:
        read_state(dataset, folder)
    except _DAMAGE as error:
        logger.warning("the prepared dataset in %s is damaged (%s) and is made again", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        return False
    except Exception as error:
        logger.warning("the prepared dataset in %s cannot be read (%s); the files are read instead", folder, error)
        return False
    return True


def write_state(dataset: Any, folder: Path, tables: tuple[str, ...] = _TABLES) -> None:
    """Write a dataset's vocabularies, field properties and the named tables into a folder."""
    tensors, shared = tensors_of(dataset, tables)
    state = state_of(dataset, tables, shared)
    if "inter" in state["tables"]:
        packed: Packed = dataset.inter_feat.packed
        tensors |= {"tokens": packed.tokens.contiguous(), "floats": packed.floats.contiguous()}
        tensors |= {f"others/{field}": column.contiguous() for field, column in packed.others.items()}
        if packed.times is not None:
            tensors["times"] = packed.times.contiguous()
        state["places"], state["own"] = packed.places, dataset.inter_feat.own
    save_file(tensors, folder / TENSOR_FILE)
    finish_state(state, folder)


def tensors_of(dataset: Any, tables: tuple[str, ...] = _TABLES) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return a dataset's vocabularies, histories and named tables as tensors, but for the interactions.

    Returns:
        The tensors, and the fields that share the vocabulary of another: field -> the other.
    """
    tensors: dict[str, torch.Tensor] = {}
    same: dict[int, str] = {}  # fields in one space of ids share their vocabulary
    shared = {}
    for field in dataset.field2id_token:
        tokens = dataset.field2id_token[field]
        first = same.setdefault(id(tokens), field)
        if first != field:
            shared[field] = first
        else:
            tensors[f"text/{field}"], tensors[f"ends/{field}"] = encode(tokens)
    if dataset.history is not None:
        tensors |= {f"history/{name}": tensor for name, tensor in dataset.history.tensors().items()}
    tensors |= {f"rows/{field}": rows for field, rows in table_rows.as_tensors(dataset.table_rows)[0].items()}
    for name in _present(dataset, tables):
        if name != "inter":
            columns = getattr(dataset, f"{name}_feat").interaction
            tensors |= {f"{name}/{field}": column.contiguous() for field, column in columns.items()}
    return tensors, shared


def state_of(dataset: Any, tables: tuple[str, ...], shared: Mapping[str, str]) -> dict[str, Any]:
    """Return what a dataset knows as JSON; of its interactions `places` and `own` are to be added."""
    return {
        "field2type": {field: kind.value for field, kind in dataset.field2type.items()},
        "field2source": {field: _value(source) for field, source in dataset.field2source.items()},
        "field2seqlen": {field: int(length) for field, length in dataset.field2seqlen.items()},
        "field2bucketnum": {field: int(number) for field, number in dataset.field2bucketnum.items()},
        "alias": {name: [str(field) for field in fields] for name, fields in dataset.alias.items()},
        "tokens": list(dataset.field2id_token),
        **{key: getattr(dataset, key) for key in _KEPT},
        "label_scale": dataset.label_scale,
        "label_classes": dataset.label_classes,
        "top_scenarios": dataset.top_scenarios,
        "table_rows": table_rows.as_tensors(dataset.table_rows)[1],
        "split_sizes": [int(size) for size in dataset.split_sizes],
        "data_report": dataset.data_report,
        "tables": _present(dataset, tables),
        "shared": dict(shared),
    }


def _present(dataset: Any, tables: tuple[str, ...]) -> list[str]:
    return [name for name in tables if getattr(dataset, f"{name}_feat") is not None]


def finish_state(state: dict[str, Any], folder: Path) -> None:
    """Write the JSON beside the tensors, which are there."""
    state["size"] = (folder / TENSOR_FILE).stat().st_size
    state["checksum"] = _checksum(folder / TENSOR_FILE)
    state["own_checksum"] = _state_checksum(state)
    (folder / _STATE_FILE).write_text(json.dumps(state), encoding="utf-8")
    # safetensors makes a file that only its owner may read.
    (folder / TENSOR_FILE).chmod((folder / _STATE_FILE).stat().st_mode & 0o777)


def _state_checksum(state: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps({key: state[key] for key in sorted(state) if key != "own_checksum"}).encode())


def read_state(dataset: Any, folder: Path) -> None:
    """Fill a dataset with what `write_state` wrote; a table that was not written is None.

    Raises:
        ValueError: the files are damaged.
        OSError: they cannot be read.
    """
    state: Mapping[str, Any] = read_json(folder / _STATE_FILE, finite=False)
    if "digest" in state:
        raise ValueError("it was written by an earlier version of recbole-msr, in a form that is no longer read")
    fault = mismatch(state, _STATE)
    if fault is not None:
        raise ValueError(f"{_STATE_FILE}: {fault}")
    if _state_checksum(state) != state["own_checksum"]:
        raise ValueError(f"{_STATE_FILE} is not as it was written")
    file = folder / TENSOR_FILE
    if file.stat().st_size != state["size"] or _checksum(file) != state["checksum"]:
        raise ValueError(f"{TENSOR_FILE} is not as it was written")
    tensors = load_file(file)
    dataset.field2type = {field: FeatureType(kind) for field, kind in state["field2type"].items()}
    dataset.field2source = {field: FeatureSource(source) for field, source in state["field2source"].items()}
    dataset.field2seqlen = dict(state["field2seqlen"])
    dataset.field2bucketnum = dict(state["field2bucketnum"])
    dataset.alias = {name: np.array(fields) for name, fields in state["alias"].items()}
    kept_as = {field: state["shared"].get(field, field) for field in state["tokens"]}
    dataset.field2id_token = Vocabularies(
        {field: (tensors[f"text/{kept}"], tensors[f"ends/{kept}"]) for field, kept in kept_as.items()}
    )
    dataset.field2token_id = TokenIds(dataset.field2id_token)
    for key in (*_KEPT, "split_sizes"):
        setattr(dataset, key, state[key])
    for key in ("label_scale", "label_classes"):  # what earlier versions wrote has none: tasks were binary
        setattr(dataset, key, state.get(key, {}))
    dataset.top_scenarios = state.get("top_scenarios")
    rows = {key.removeprefix("rows/"): tensor for key, tensor in tensors.items() if key.startswith("rows/")}
    dataset.table_rows = table_rows.from_tensors(rows, state.get("table_rows", {}))
    # Runs of earlier versions have none beside their vocabularies.
    dataset.data_report = state.get("data_report", {"files": {}, "warnings": []})
    for name in ("user", "item"):
        columns = {key.split("/", 1)[1]: t for key, t in tensors.items() if key.startswith(f"{name}/")}
        setattr(dataset, f"{name}_feat", Interaction(columns) if name in state["tables"] else None)
    of_history = {key.removeprefix("history/"): t for key, t in tensors.items() if key.startswith("history/")}
    dataset.history = HistoryRows.from_tensors(of_history) if of_history else None
    dataset.inter_feat = _rows(dataset, state, tensors) if "inter" in state["tables"] else None
    dataset.feat_name_list = [f"{name}_feat" for name in state["tables"]]


def map_rows(dataset: Any, folder: Path) -> None:
    """Let a dataset use the rows of the entry just written from it, which other processes use too."""
    with contextlib.suppress(OSError, ValueError, SafetensorError):
        dataset.inter_feat = rows_of(dataset, folder)


def rows_of(dataset: Any, folder: Path) -> PackedRows:
    """Return the rows of an entry written from a dataset, mapped into memory."""
    return _rows(dataset, read_json(folder / _STATE_FILE, finite=False), load_file(folder / TENSOR_FILE))


def _rows(dataset: Any, state: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> PackedRows:
    places = {name: (table, start, tuple(shape)) for name, (table, start, shape) in state["places"].items()}
    others = {key.split("/", 1)[1]: t for key, t in tensors.items() if key.startswith("others/")}
    packed = Packed(tensors["tokens"], tensors["floats"], places, others, tensors.get("times"))
    return PackedRows(packed, list(state["own"]), (dataset.user_feat, dataset.item_feat))


def _value(source: Any) -> str:
    return source.value if isinstance(source, FeatureSource) else str(source)
