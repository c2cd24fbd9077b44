"""Make a dataset of tables: `data`, `users` and `items` in the settings become a folder of a dataset.

The folder lies beside the prepared data (`cache_dir`), below the hash of the tables' content and of the types of their
columns: it is written once, and whoever has the same tables and settings finds it. Users, items and splits that are
given become atomic files there. For the interactions a note says which table they are (`data.tables.placed`): tasks
read it straight into packed tables (`data.streaming`), and its atomic file is written where something needs that.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from recbole.utils import FeatureType

from recbole_msr.data.cache import build_lock, cache_root, remembered_digest
from recbole_msr.data.tables.columns import check_columns, column_types, time_text_of, whole_with_gaps
from recbole_msr.data.tables.placed import PlacedTable, write_atomic_file
from recbole_msr.data.tables.source import TableSource
from recbole_msr.errors import InputError, nearest
from recbole_msr.files.digest import file_digest
from recbole_msr.files.outputs import check_name

logger = logging.getLogger(__name__)

KEYS = ("data", "users", "items", "columns", "types")
"""The settings that this module reads, and that no other sees."""
ROLES = {"user": "USER_ID_FIELD", "item": "ITEM_ID_FIELD", "time": "TIME_FIELD"}
"""What a column may be for, and RecBole's key of it."""
_NAMES = {"user": "user_id", "item": "item_id", "time": "timestamp"}
_SPLITS = ("train", "valid", "test")
_SHARED = "ml-100k"
"""The dataset that RecBole brings, whose name no other may have."""


@dataclass(frozen=True)
class _File:
    """An atomic file to write.

    Attributes:
        suffix: its ending.
        source: what it is made of.
        types: of its columns.
        left_out: why other columns are left out.
        with_gaps: columns that may be ids, and are numbers.
    """

    suffix: str
    source: TableSource
    types: Mapping[str, FeatureType]
    left_out: Mapping[str, str]
    with_gaps: Sequence[str] = ()

    def describe(self) -> str:
        columns = ", ".join(f"{name} {kind.value}" for name, kind in self.types.items())
        left_out = "".join(f"; left out: {name} ({why})" for name, why in self.left_out.items())
        gaps = "".join(
            f"; {name} holds whole numbers and gaps: it is a number, which is a feature with numerical_features alone; "
            f"types: {{{name}: token}} makes it a token"
            for name in self.with_gaps
        )
        return f"{self.source.name}: {columns}{left_out}{gaps}"


@dataclass(frozen=True)
class _Tables:
    """The dataset that tables are made into: its name, its files, RecBole's keys that follow, and what joins lists."""

    name: str
    files: list[_File]
    keys: Mapping[str, Any]
    separator: str


def place_tables(settings: Mapping[str, Any], dataset: str | None = None) -> dict[str, Any]:
    """Return settings in which a dataset of atomic files stands for the tables that they name.

    Args:
        settings: settings as a user gives them. `data` is a table (see `TableSource`), or {train, valid, test} of
            three; `users` and `items` are tables of their own; `columns` says which columns are {user, item, time};
            `types` gives a column another type than its values suggest.
        dataset: the dataset's name; by default `dataset` of the settings, else the name of the file.

    Returns:
        The settings without these keys, with `dataset`, `data_path`, RecBole's names of the columns, and
        `benchmark_filename` of splits that are given; the settings as they are, where there is no `data`.

    Raises:
        InputError: a table or column that there is not, a value that an atomic file cannot hold, a full disk.
    """
    settings = dict(settings)
    tables = _take(settings, dataset)
    if tables is None:
        return settings
    if settings.get("data_path") is not None:
        raise InputError("data is a table, and data_path a folder of atomic files: give one of them")
    settings |= tables.keys
    return {"load_col": None, **settings, "dataset": tables.name, "data_path": str(_write_once(tables, settings))}


def write_dataset(settings: Mapping[str, Any], out: str | Path) -> Path:
    """Write the tables that settings name as a folder of atomic files, for RecBole alone or for other programs.

    Args:
        settings: as `place_tables` takes them.
        out: the folder to write below; `data_path` later.

    Returns:
        The dataset's folder.

    Raises:
        InputError: as `place_tables` does; or the folder is there already.
    """
    settings = dict(settings)
    tables = _take(settings, None)
    if tables is None:
        raise InputError("there is no table to convert: give data, the path of one")
    folder = Path(out, tables.name)
    if os.path.lexists(folder):
        raise InputError(f"{folder} exists: give another folder, or another name")
    try:
        _write(tables, folder)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror or error}") from error
    return folder


def _take(settings: dict[str, Any], dataset: str | None) -> _Tables | None:
    """Take the keys of tables out of settings, in place; None where there are no tables."""
    given = {key: value for key in KEYS if (value := settings.pop(key, None)) is not None}
    if "data" not in given:
        if given:
            raise InputError(f"{next(iter(given))} belongs to a table of interactions: give data, too, the path of one")
        return None
    name = str(dataset or settings.get("dataset") or _name_of(given["data"]))
    check_name("dataset", name)
    if name == _SHARED:
        raise InputError(f"dataset '{_SHARED}' is the one that RecBole brings: give this table another name")
    keys: dict[str, Any] = _role_keys(given.get("columns"), settings)
    files = _files(given, {**settings, **keys})
    if isinstance(given["data"], Mapping):
        keys["benchmark_filename"] = list(_SPLITS)
    for file in files:
        logger.warning("%s", file.describe())
    return _Tables(name, files, keys, str(settings.get("seq_separator") or " "))


def _name_of(data: Any) -> str:
    if isinstance(data, Mapping):
        data = next(iter(data.values()), None)
    if isinstance(data, (list, tuple)) and data:
        data = data[0]
    stem = Path(data).stem if isinstance(data, (str, Path)) else ""
    stem = "".join(letter for letter in stem if letter.isalnum() or letter in "-_.").strip(".-")
    return stem or "table"


def _role_keys(columns: Any, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return RecBole's keys of the columns that `columns` names."""
    if columns is None:
        return {}
    if not isinstance(columns, Mapping) or not columns:
        raise InputError(f"columns says which columns are what: {{user: uid, item: sku, time: ts}}; got {columns!r}")
    found = {}
    for role, name in columns.items():
        if role not in ROLES:
            raise InputError(
                f"columns: there is no '{role}'{nearest(str(role), ROLES) or ';'} it has {', '.join(ROLES)}"
            )
        if settings.get(ROLES[role], name) != name:
            raise InputError(f"columns: {role} is '{name}', and {ROLES[role]} is '{settings[ROLES[role]]}'")
        found[ROLES[role]] = str(name)
    return found


def _files(given: Mapping[str, Any], settings: Mapping[str, Any]) -> list[_File]:
    """Return the atomic files to write."""
    user, item, time = (str(settings.get(key) or _NAMES[role]) for role, key in ROLES.items())
    data, types = given["data"], given.get("types") or {}
    if not isinstance(types, Mapping):
        raise InputError(f"types gives columns their types: {{price: float, brand: token}}; got {types!r}")
    if isinstance(data, Mapping) and tuple(data) != _SPLITS:
        raise InputError(
            f"data: splits are given as {{train: ..., valid: ..., test: ...}}, got {', '.join(map(str, data))}"
        )
    parts = {f"{split}.inter": data[split] for split in _SPLITS} if isinstance(data, Mapping) else {"inter": data}
    sources = {suffix: TableSource(f"data ({suffix.split('.')[0]})" if len(parts) > 1 else "data", table)
               for suffix, table in parts.items()}  # fmt: skip
    for key, suffix in (("users", "user"), ("items", "item")):
        if key in given:
            sources[suffix] = TableSource(key, given[key])
    for suffix, source in sources.items():
        roles = {user: "user: columns: {user: NAME}"} if not suffix.startswith("item") else {}
        roles |= {item: "item: columns: {item: NAME}"} if suffix != "user" else {}
        check_columns(source, roles)
    if "time" in (given.get("columns") or {}):
        check_columns(next(iter(sources.values())), {time: "columns: time"})
    every = [name for source in sources.values() for name in source.schema.names]
    for field in types:
        if field not in every:
            raise InputError(f"types: no table has a column '{field}'{nearest(str(field), every) or ''}")
    tokens, numbers, classes = _roles(settings)
    numbers |= {time} if "time" in (given.get("columns") or {}) else set()
    needed = {user, item, *tokens, *numbers, *classes}
    made: list[_File] = []
    for suffix, source in sources.items():
        own = {field: kind for field, kind in types.items() if field in source.schema.names}
        if made and suffix.endswith(".inter"):  # the splits have the types of the first
            check_columns(source, dict.fromkeys(made[0].types, "as the training table has it"))
            more = [name for name in source.schema.names if name not in {**made[0].types, **made[0].left_out}]
            made.append(_File(suffix, source, made[0].types, dict.fromkeys(more, "the training table has no such")))
            continue
        kinds, left_out = column_types(source, {user, item, *tokens}, numbers, {time, *classes}, own)
        if unusable := next((name for name in left_out if name in needed), None):
            raise InputError(f"{source.name}: column '{unusable}' is needed, and {left_out[unusable]}")
        unread = _unread(suffix, settings, kinds)
        kinds = {name: kind for name, kind in kinds.items() if name not in unread}
        left_out |= dict.fromkeys(unread, "load_col or unload_col")
        free = {name: kind for name, kind in kinds.items() if name not in {*needed, *own, time}}
        made.append(_File(suffix, source, kinds, left_out, whole_with_gaps(source, free)))
    return made


def _unread(suffix: str, settings: Mapping[str, Any], names: Mapping[str, Any]) -> list[str]:
    """Return the columns that the settings do not load."""
    table = suffix.split(".")[-1]
    load, unload = ((settings.get(key) or {}).get(table) for key in ("load_col", "unload_col"))
    is_loaded = set(load) if isinstance(load, (list, tuple)) else set(names)
    is_unloaded = set(unload) if isinstance(unload, (list, tuple)) else set()
    return [name for name in names if name not in is_loaded or name in is_unloaded]


def _roles(settings: Mapping[str, Any]) -> tuple[set[str], set[str], set[str]]:
    """Return the columns that are tokens, numbers, and either, by what the settings use them for.

    Classes of a task may be text, or whole numbers.
    """
    tasks, scenario = settings.get("tasks"), settings.get("scenario")
    tasks = tasks if isinstance(tasks, Mapping) else {}
    numbers, classes = set(settings.get("numerical_features") or []), set[str]()
    for task in tasks.values():
        if isinstance(task, Mapping):
            of_field = classes if task.get("type") == "classes" else numbers
            of_field |= {str(task["field"])} if task.get("field") is not None else set()
            numbers |= {str(task["weight"])} if task.get("weight") is not None else set()
    tokens: set[str] = set()
    if isinstance(scenario, Mapping) and scenario.get("field") is not None:
        (numbers if scenario.get("bins") is not None else tokens).add(str(scenario["field"]))
    return tokens - numbers - classes, numbers, classes


def _write_once(tables: _Tables, settings: Mapping[str, Any]) -> Path:
    """Write the files below the cache, unless they are there; return what is `data_path`."""
    root = Path(cache_root(settings.get("cache_dir"))).expanduser()
    digest = blake2b(tables.separator.encode(), digest_size=12)
    for file in tables.files:
        columns = [(field, kind.value) for field, kind in file.types.items()]
        digest.update(f"{file.suffix} {file.source.digest(root / '.digests')} {columns}\n".encode())
        if time_text := time_text_of(file.source, file.types):
            digest.update(f"time_text {time_text}\n".encode())
    folder = root / "tables" / f"{tables.name}-{digest.hexdigest()}"
    inside = folder / tables.name
    if _is_there(tables, inside, root):
        return folder
    lock = build_lock(folder)  # another process may be writing the same
    try:
        if not inside.is_dir():
            _write(tables, inside, root)
    except OSError as error:
        raise InputError(
            f"cannot write the dataset below {root}: {error.strerror or error}; cache_dir names another folder"
        ) from error
    finally:
        if lock is not None:
            lock.release()
    return folder


def _is_there(tables: _Tables, folder: Path, root: Path) -> bool:
    """Return whether the dataset is there; the note of a table that was moved names its new place then."""
    if not folder.is_dir():
        return False
    placed = PlacedTable.of_dataset(folder, tables.name)
    source = next(file.source for file in tables.files if file.suffix.endswith("inter"))
    if placed is not None and source.files and placed.files != list(map(str, source.files)):
        replace(placed, files=list(map(str, source.files)), name=source.name).write()
    return True


def _write(tables: _Tables, folder: Path, notes: Path | None = None) -> None:
    """Write all files into a new folder, or none.

    Args:
        tables: the dataset.
        folder: the folder.
        notes: of the cache, in which a note stands for the table of interactions; None for atomic files of all.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        made = Path(temporary, "new")
        made.mkdir()
        for file in tables.files:
            path = made / f"{tables.name}.{file.suffix}"
            if file.suffix == "inter" and notes is not None:
                _note(tables, file, path, folder, notes)
            else:
                write_atomic_file(path, file.source, file.types, tables.separator)
        with suppress(FileExistsError):  # another process was quicker, and wrote the same
            os.rename(made, folder)


def _note(tables: _Tables, file: _File, path: Path, folder: Path, root: Path) -> None:
    """Write the note of the table of interactions; a table in memory becomes an Arrow file beside it."""
    files = list(map(str, file.source.files))
    digests = [remembered_digest(part, root / ".digests") for part in file.source.files]
    if not files:
        arrow = Path(f"{path}.arrow")
        file.source.write_arrow(arrow)
        files, digests = [str(folder / arrow.name)], [file_digest(arrow, blake2b)]
    PlacedTable(
        Path(f"{path}.json"), file.source.name, files, digests, file.types, tables.separator,
        time_text_of(file.source, file.types), file.source.partitions,
    ).write()  # fmt: skip
