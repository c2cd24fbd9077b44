"""Histories of users that come with the rows to score: their profiles are made as `embed` makes those of the store."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from recbole.utils import FeatureType
from torch import Tensor

from recbole_msr.data.atomic import line_number, read_header, read_table
from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.errors import InputError
from recbole_msr.files.outputs import check_paths
from recbole_msr.files.row_files import SUFFIXES, open_rows, row_place
from recbole_msr.models.knowledge import KnowledgeVectors
from recbole_msr.models.knowledge_source import KnowledgeSource, knowledge_name
from recbole_msr.prompts.facts import newest_first
from recbole_msr.prompts.own_rows import knows_rows
from recbole_msr.prompts.profiles import centred, mean_item, profile_parts, profile_vectors
from recbole_msr.runs.row_columns import arrow_column, distinct_values, to_numbers
from recbole_msr.runs.row_counts import RowCounts
from recbole_msr.runs.row_encoder import RawRows, RowEncoder
from recbole_msr.runs.row_ids import Vocabulary
from recbole_msr.schema import Task, as_token

_ROWS = 1 << 17
_ATOMIC = ".inter"


class HistoryCounts(NamedTuple):
    """What became of the rows of histories.

    Attributes:
        rows, users: their number.
        without_vector: rows whose item has no vector in the store: profiles are made without them.
        without_scenario: rows of a scenario that the run does not know, which are in no part of `scenarios`.
        without_profile: users all of whose rows are without a vector: they are scored as without a history.
    """

    rows: int
    users: int
    without_vector: int
    without_scenario: int
    without_profile: int

    def lines(self, with_history: int, what: str = "row") -> list[str]:
        """Return what a user of a command should know.

        Args:
            with_history: how many scored rows have a profile of the histories.
            what: what such a row is called.
        """
        of_rows = _counted(self.rows - self.without_vector, "row")
        lines = [
            f"{_counted(self.users - self.without_profile, 'user')} with a profile of {of_rows}, in "
            f"{_counted(with_history, what)} that {'is' if with_history == 1 else 'are'} scored"
        ]
        if self.without_vector:
            lines.append(f"{_counted(self.without_vector, 'row')} of items without a vector (left out of the profiles)")
        if self.without_scenario:
            lines.append(f"{_counted(self.without_scenario, 'row')} of a scenario never seen (in no part `scenarios`)")
        if self.without_profile:
            lines.append(
                f"{_counted(self.without_profile, 'user')} without any row of an item with a vector (scored as without "
                "a history)"
            )
        return [f"histories: {line}" for line in lines]


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


class Histories:
    """The profiles of U users.

    Args:
        users: their ids as text (U,).
        vectors: their profiles (U, P H), as the store keeps them.
        items: ids of all items in each user's history (U).
        counts: what became of the rows.
    """

    def __init__(
        self, users: Sequence[str], vectors: np.ndarray, items: Sequence[frozenset[str]], counts: HistoryCounts
    ) -> None:
        self.vectors, self.items, self.counts = vectors, items, counts
        self._users = Vocabulary({user: number for number, user in enumerate(users, start=1)})

    def numbers(self, field: str, rows: RawRows) -> Tensor:
        """Return the number of each row's profile (N,), -1 where its user has none; they are counted.

        Args:
            field: the users' field.
            rows: the rows.
        """
        ids, _ = self._users.ids_of(field, rows.columns[field])
        rows.counts.with_history += int((ids > 0).sum())
        return torch.from_numpy(ids - 1)


def open_histories(source: str | Path | pd.DataFrame, separator: str = "\t", encoding: str | None = None) -> RawRows:
    """Read histories: a table, or a .csv, .parquet or atomic (.inter) file.

    Args:
        source: the table, or the file's path.
        separator: of an atomic file, between two columns.
        encoding: of an atomic file; None for UTF-8.

    Raises:
        InputError: the file cannot be read.
    """
    if isinstance(source, pd.DataFrame):
        names = [str(name) for name in source.columns]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise InputError(f"the histories have two columns called '{repeated[0]}'")
        columns = {str(name): arrow_column(source[name]) for name in source.columns}
        return RawRows(columns, names, len(source), "the histories", _named("the histories", row_place(0)), RowCounts())
    if not isinstance(source, (str, Path)):
        raise InputError(f"histories are a pandas DataFrame or the path of a file, got {type(source).__name__}")
    check_paths({}, histories=source)
    if Path(source).suffix == _ATOMIC:
        return _atomic(Path(source), separator, encoding)
    if Path(source).suffix not in SUFFIXES:
        raise InputError(f"{source} must be a .csv, .parquet or atomic (.inter) file of histories")
    parts, starts, places = [], [], []
    with open_rows(source, _ROWS) as (schema, batches):
        size = 0
        for batch in batches:
            parts.append(batch.columns)
            starts.append(size)
            places.append(batch.place)
            size += batch.columns.num_rows
    table = pa.Table.from_batches(parts, parts[0].schema)

    def place(row: int) -> str:
        part = bisect_right(starts, row) - 1
        return places[part](row - starts[part])

    columns = {name: _whole(table.column(name)) for name in schema.names}
    return RawRows(columns, schema.names, size, str(source), _named(str(source), place), RowCounts())


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole if isinstance(whole, pa.Array) else pa.concat_arrays(whole.chunks)


def _named(source: str, place: Callable[[int], str]) -> Callable[[int], str]:
    return lambda row: f"{source}, {place(row)}"


def _atomic(path: Path, separator: str, encoding: str | None) -> RawRows:
    header = read_header(path, separator, encoding)
    single = {field: kind for field, kind in header.items() if kind in (FeatureType.TOKEN, FeatureType.FLOAT)}
    frame = read_table(path, separator, encoding, header, single).frame
    columns = {str(name): arrow_column(frame[name]) for name in frame.columns}
    return RawRows(
        columns, [*columns], len(frame), str(path), lambda row: f"{path}, line {line_number(path, row, encoding)}",
        RowCounts(),
    )  # fmt: skip


class HistoryReader:
    """Makes profiles of the histories that a run's users are given.

    A history is all that its user has done. Its profile stands in place of the unknown vector for a user that the store
    does not know, and in place of the store's for one that it knows.

    Args:
        config: RecBole's Config of the run.
        dataset: the run's vocabularies and tables.
        encoder: of the run's rows.
        model: the trained model.

    Attributes:
        user_field, item_field: the fields of their ids.

    Raises:
        InputError: the run reads no profiles of users; it says what it does read, and what would be right.
    """

    def __init__(self, config: Any, dataset: ScenarioDataset, encoder: RowEncoder, model: torch.nn.Module) -> None:
        self._dataset, self._encoder = dataset, encoder
        self.user_field, self.item_field = str(dataset.uid_field), str(dataset.iid_field)
        self._time_field = str(config["TIME_FIELD"])
        source = _profile_source(config, dataset, model)
        assert source.store is not None
        self._store = source.store
        self._parts = source.parts("user")
        self._task = _liked_task(dataset, self._store.meta["options"]["liked"])
        n_scenarios = self._parts.get("scenarios", 0) // self._store.level_size("item")
        if n_scenarios and n_scenarios != len(dataset.scenario_names):
            raise InputError(
                f"the run's profiles have {n_scenarios} scenarios and the run one alone (only_scenario), which does "
                "not tell those of a history: train it with knowledge_parts without scenarios"
            )

    @property
    def columns(self) -> list[str]:
        """The columns that are read; that of the scenario may be left out where a table of the run tells it."""
        columns = self._required
        if "scenarios" in self._parts and self._dataset.schema.scenario.field is not None:
            columns.append(self._dataset.schema.scenario.field)
        return list(dict.fromkeys(columns))

    @property
    def _required(self) -> list[str]:
        columns = [self.user_field, self.item_field, self._task.field]
        return [*columns, self._time_field] if "recent" in self._parts else columns

    @cached_property
    def _items(self) -> Vocabulary:
        return Vocabulary({str(token): row for row, token in enumerate(self._store.tokens("item"), start=1)})

    @cached_property
    def _mean(self) -> np.ndarray:
        return mean_item(np.asarray(self._store.vectors("item")))

    def read(self, rows: RawRows) -> Histories:
        """Return the profiles of the users of some rows, by the same function that made the store's.

        Raises:
            InputError: a column is missing, or a value is not what it must be.
        """
        for name in self._required:
            if name not in rows.columns:
                raise InputError(
                    f"no column '{name}' in {rows.source}, which profiles are made of: histories need "
                    f"{', '.join(self.columns)}, and there are {', '.join(rows.names)}"
                )
        users, user = self._users_of(rows)
        item, frame = self._frame(rows, user)
        n_users, without_scenario = len(users), int((frame["scenario"] < 0).sum())
        frame = frame[frame["item"] >= 0]
        kept, owner = np.unique(frame["user"].to_numpy(), return_inverse=True)
        used, of_used = np.unique(frame["item"].to_numpy(), return_inverse=True)
        frame = frame.assign(owner=owner, item=of_used)
        parts = profile_parts(frame, (len(kept), len(used)), self._parts, len(self._dataset.scenario_names))
        vectors = np.empty((len(kept), sum(self._parts.values())), dtype=self._store.meta["dtype"])
        items = centred(np.asarray(self._store.vectors("item")[used]), self._mean)
        for places, made in profile_vectors(parts, items) if len(kept) else ():
            vectors[places] = made
        counts = HistoryCounts(rows.size, n_users, int((item < 0).sum()), without_scenario, n_users - len(kept))
        return Histories([users[number] for number in kept], vectors, self._items_of(kept, user, rows), counts)

    def _items_of(self, kept: np.ndarray, user: np.ndarray, rows: RawRows) -> list[frozenset[str]]:
        """Return the items in the history of each of some users, as text."""
        places, values = distinct_values(self.item_field, rows.columns[self.item_field])
        stored = self._store.tokens("item")
        texts = [
            str(stored[row - 1] if row else as_token(value))
            for row, value in zip(self._items.ids(values).tolist(), values, strict=True)
        ]
        order = np.argsort(user, kind="stable")
        starts, ends = (np.searchsorted(user[order], kept, side=side) for side in ("left", "right"))
        return [frozenset(texts[place] for place in places[order[a:b]]) for a, b in zip(starts, ends, strict=True)]

    def _users_of(self, rows: RawRows) -> tuple[list[str], np.ndarray]:
        """Return the users as text (U,), and the number of each row's user (N,)."""
        places, values = distinct_values(self.user_field, rows.columns[self.user_field])
        _refuse_empty(self.user_field, places, rows)
        texts = np.array([str(as_token(value)) for value in values], dtype=object)
        users, number = np.unique(texts.astype(str), return_inverse=True)
        return [str(user) for user in users], number[places] if len(values) else places

    def _frame(self, rows: RawRows, user: np.ndarray) -> tuple[np.ndarray, pd.DataFrame]:
        """Return each row's item (N,), its number or -1 without a vector; and all by user, each one's newest first."""
        ids, empty = self._items.ids_of(self.item_field, rows.columns[self.item_field])
        _refuse_empty(self.item_field, np.where(empty, -1, 0), rows)
        labels = to_numbers(self._task.field, rows.columns[self._task.field], rows.place)
        columns = {"user": user, "item": ids - 1, "label": self._task.labels(labels, rows.place)}  # type: ignore[arg-type]
        times, scenario = np.zeros(rows.size), np.zeros(rows.size, dtype=np.int64)
        if "recent" in self._parts:
            times = to_numbers(self._time_field, rows.columns[self._time_field], rows.place)
            _refuse_empty(self._time_field, np.where(np.isnan(times), -1, 0), rows)
        if "scenarios" in self._parts:
            scenario = self._encoder.scenarios(rows).numpy() - 1
        order = newest_first(user, times)
        columns["scenario"] = scenario
        return ids - 1, pd.DataFrame({name: column[order] for name, column in columns.items()})


def _refuse_empty(field: str, places: np.ndarray, rows: RawRows) -> None:
    if (places < 0).any():
        raise InputError(f"{rows.place(int((places < 0).argmax()))} has no '{field}': a row of a history needs one")


def _liked_task(dataset: ScenarioDataset, name: str) -> Task:
    return next(task for task in dataset.schema.tasks if task.name == name)


def _profile_source(config: Any, dataset: ScenarioDataset, model: torch.nn.Module) -> KnowledgeSource:
    """Return what the model reads its users' profiles from.

    Raises:
        InputError: it reads none.
    """
    right = (
        "a history becomes a profile, for a run that was trained with one (recbole-msr embed --template=profile, then "
        "--knowledge=NAME)"
    )
    reads = [module.level for module in model.modules() if isinstance(module, KnowledgeVectors)]
    if "user" not in reads:
        has = f"vectors of {' and '.join(f'{level}s' for level in dict.fromkeys(reads))} alone" if reads else "none"
        raise InputError(f"the run reads no knowledge of users ({has}): {right}")
    name = knowledge_name(config)
    if config["knowledge_bake"]:
        raise InputError(
            f"the run keeps the reduced vectors of the ids that it knows (knowledge_bake), and not what they were made "
            f"by: train with knowledge_bake: False, and let it find knowledge '{name}' where it scores"
        )
    if name == "random":
        raise InputError(f"the run's vectors of users are random (knowledge: random), and of no history: {right}")
    source = KnowledgeSource(config, dataset)
    store = source.store
    if source.control != "none":
        raise InputError(
            f"the run is a control (knowledge_control: {source.control}): its users' vectors are not those of their "
            "histories; a history takes a run with knowledge_control: none"
        )
    if store is None or not source.is_profile("user"):
        raise InputError(
            f"the users' vectors of knowledge '{name}' are made of prompts by an encoder, which is not at hand here: "
            f"{right}"
        )
    if not knows_rows(store):
        raise InputError(
            f"knowledge '{name}' was made by another version of this package, which may have made other profiles: make "
            "it anew with recbole-msr embed --replace, and train again"
        )
    return source
