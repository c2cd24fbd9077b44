"""The facts that prompts state: of the training interactions, and the texts of the items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recbole.utils import FeatureType

from recbole_msr.data.atomic import read_header, read_table
from recbole_msr.errors import InputError, nearest
from recbole_msr.schema import MISSING_LABEL

# Where a title or the categories are looked for, the first that exists; then any field whose name ends so.
_TITLES = ("title", "movie_title", "item_title", "product_title", "book_title", "name", "item_name", "product_name")
_TITLE_ENDS = ("title", "name")
_CATEGORIES = ("categories", "category", "genres", "genre", "class", "classes", "tags", "topics")
NONE = "none"


class FieldTable:
    """A .user or .item file as text: every field of every id, loaded into RecBole or not.

    RecBole cuts token sequences at their separator and loads the fields of `load_col` alone; a prompt needs the text
    as it was written.

    Args:
        dataset: a RecBole dataset.
        suffix: "user" or "item".
    """

    def __init__(self, dataset: Any, suffix: str) -> None:
        config = dataset.config
        self.file = f"{dataset.dataset_name}.{suffix}"
        self._separator = config["seq_separator"]
        self._kinds: dict[str, str] = {}
        self._columns: dict[str, np.ndarray] = {}
        self.row_of: dict[str, int] = {}
        path = Path(dataset.dataset_path, self.file)
        if not path.is_file():
            return
        separator, encoding = config["field_separator"], config["encoding"]
        self._kinds = {field: kind.value for field, kind in read_header(path, separator, encoding).items()}
        as_text = dict.fromkeys(self._kinds, FeatureType.TOKEN_SEQ)  # which is kept as it is written
        frame = read_table(path, separator, encoding, as_text, as_text).frame
        self._columns = {field: frame[field].to_numpy() for field in as_text}
        key = dataset.uid_field if suffix == "user" else dataset.iid_field
        if key in self._columns:
            for row, token in enumerate(self._columns[key]):
                self.row_of.setdefault(token, row)

    @property
    def fields(self) -> list[str]:
        """The names of the fields."""
        return list(self._columns)

    def value(self, field: str, token: str) -> str:
        """Return the text of a field for an id; empty for an id without one.

        Raises:
            InputError: there is no such field.
        """
        self.require(field)
        row = self.row_of.get(token)
        return "" if row is None else " ".join(self._columns[field][row].split())

    def values(self, field: str, token: str) -> list[str]:
        """Return the single values of a field that holds a sequence; of any other field its text."""
        text = self.value(field, token)
        if not self._kinds[field].endswith("seq"):
            return [text] if text else []
        return [part for part in text.split(self._separator) if part]

    def require(self, field: str) -> str:
        """Return the name of a field, or refuse one that does not exist."""
        if field not in self._columns:
            has = f"{self.file} has {', '.join(self.fields)}" if self._columns else f"there is no file {self.file}"
            raise InputError(f"there is no field '{field}'{nearest(field, self.fields) or ';'} {has}")
        return field

    def find(self, given: str | None, names: Sequence[str], ends: Sequence[str]) -> str | None:
        """Find a field by its name, or the likely one among the usual names; None where there is none."""
        if given is not None:
            return None if given == NONE else self.require(given)
        lower = {field.lower(): field for field in self._columns}
        for name in names:
            if name in lower:
                return lower[name]
        return next((field for field in self._columns if field.lower().endswith(tuple(ends))), None)


def item_titles(dataset: Any) -> dict[str, str]:
    """Return the titles of all items that have one in the .item file, by id.

    Raises:
        InputError: the file is damaged.
    """
    table = FieldTable(dataset, "item")
    field = table.find(None, _TITLES, _TITLE_ENDS)
    titles = {} if field is None else {token: table.value(field, token) for token in table.row_of}
    return {token: title for token, title in titles.items() if title}


class Record:
    """One user's or item's fields, for templates: `item.release_year`."""

    def __init__(self, table: FieldTable, token: str) -> None:
        self._table, self._token = table, token

    def __getitem__(self, field: str) -> str:
        return self._table.value(field, self._token)


class Item(Record):
    """An item in a template: `title`, `categories`, and any field of the .item file."""

    def __init__(self, table: FieldTable, token: str, title: str, categories: list[str]) -> None:
        super().__init__(table, token)
        self.id, self.title, self.categories = token, title, categories

    def with_categories(self, count: int) -> Item:
        """Return the item with its first `count` categories."""
        return Item(self._table, self._token, self.title, self.categories[:count])


@dataclass(frozen=True)
class Category:
    """A category of the items liked, and its share of the likings."""

    name: str
    share: float


@dataclass(frozen=True)
class Overlap:
    """Users and items that a scenario shares with another: their number, and their share of its own."""

    name: str
    users: int
    user_share: float
    items: int
    item_share: float


@dataclass(frozen=True)
class ScenarioFacts:
    """One scenario in the training interactions."""

    name: str
    interactions: int
    users: int
    items: int
    rates: Mapping[str, float]
    categories: list[Category]
    typical_categories: list[Category]
    liked: list[Item]
    overlaps: list[Overlap]


@dataclass(frozen=True)
class HistoryPart:
    """One user's interactions in one scenario."""

    name: str
    interactions: int
    likings: int
    liked: list[Item]


class Facts:
    """Facts of the training interactions; nothing here has seen a validation or test row.

    Everything is ordered by what the data say (counts, times) and then by external id, never by RecBole's internal
    ids: those follow from the order in which all rows, test rows too, name the users and items.

    Args:
        train: the training split of a `ScenarioDataset`, `dataset.build()[0]`.
        title_field, category_field: fields of the .item file; the usual names are tried where they are not given,
            "none" is for none.
        liked: the task whose label 1 counts as a liking; the main task if not given.

    Raises:
        InputError: a field or the task does not exist.
    """

    def __init__(
        self, train: Any, title_field: str | None = None, category_field: str | None = None, liked: str | None = None
    ) -> None:
        self.scenarios: list[str] = list(train.scenario_names)
        self.tasks: list[str] = train.schema.task_names
        self.liked = liked or train.schema.main_task
        if self.liked not in self.tasks:
            raise InputError(
                f"there is no task '{self.liked}'{nearest(self.liked, self.tasks) or '.'}"
                f" Tasks: {', '.join(self.tasks)}."
            )
        self.item_table, self.user_table = FieldTable(train, "item"), FieldTable(train, "user")
        self.title_field = self.item_table.find(title_field, _TITLES, _TITLE_ENDS)
        self.category_field = self.item_table.find(
            category_field, _CATEGORIES, ("categories", "category", "genre", "genres")
        )
        self._items: dict[str, Item] = {}

        inter = train.inter_feat
        self._scenario = train.row_scenario(inter).numpy() - 1
        binary = (task for task in train.schema.tasks if task.type == "binary")
        self._labels = {task.name: inter[task.label_field].numpy() for task in binary}
        if self.liked not in self._labels:
            raise InputError(
                f"prompts tell what is liked, which task '{self.liked}', one of numbers, does not say: give liked, a "
                f"binary task ({', '.join(self._labels) or 'there is none'})"
            )
        self._user, self.users = _by_token(inter[train.uid_field].numpy(), train.field2id_token[train.uid_field])
        self._item, self.items = _by_token(inter[train.iid_field].numpy(), train.field2id_token[train.iid_field])
        times = train.row_times()
        self.has_times = times is not None and len(times) > 0 and bool(np.ptp(times) > 0)
        self._time = times if times is not None and len(times) else np.zeros(len(inter))

    def require_texts(self) -> None:
        """Refuse data that say nothing of an item but its id."""
        if self.title_field is None and self.category_field is None:
            fields = self.item_table.fields
            has = (
                f"{self.item_table.file} has {', '.join(fields)}"
                if fields
                else f"there is no file {self.item_table.file}"
            )
            raise InputError(
                f"prompts need a text for items, but no title and no categories were found: {has}; "
                "name a field with --title_field=FIELD or --category_field=FIELD"
            )

    def item(self, token: str) -> Item:
        """Return an item by its id."""
        if token not in self._items:
            table = self.item_table
            title = table.value(self.title_field, token) if self.title_field else ""
            categories = table.values(self.category_field, token) if self.category_field else []
            self._items[token] = Item(table, token, title, categories)
        return self._items[token]

    def user(self, token: str) -> Record:
        """Return a user by its id."""
        return Record(self.user_table, token)

    # Scenarios.

    @cached_property
    def _scenario_items(self) -> list[np.ndarray]:
        """For every scenario the items that are liked in it, most liked first."""
        ordered = []
        for index in range(len(self.scenarios)):
            rows = (self._scenario == index) & self._is_liked
            counts = np.bincount(self._item[rows], minlength=len(self.items))
            order = np.lexsort((np.arange(len(self.items)), -counts))
            ordered.append(order[counts[order] > 0])
        return ordered

    @cached_property
    def _members(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The users and the items of every scenario."""
        inside = [self._scenario == m for m in range(len(self.scenarios))]
        return [(np.unique(self._user[rows]), np.unique(self._item[rows])) for rows in inside]

    @cached_property
    def _is_liked(self) -> np.ndarray:
        is_liked: np.ndarray = self._labels[self.liked] == 1
        return is_liked

    @cached_property
    def _shares(self) -> tuple[list[str], np.ndarray]:
        """Category names, sorted, and the share of likings (M, C) that goes to an item of each."""
        of_item = [list(dict.fromkeys(self.item(str(token)).categories)) for token in self.items]
        names = sorted({name for categories in of_item for name in categories})
        index = {name: i for i, name in enumerate(names)}
        rows = np.repeat(np.arange(len(of_item)), [len(categories) for categories in of_item])
        columns = np.array([index[name] for categories in of_item for name in categories], dtype=np.int64)
        shares = np.zeros((len(self.scenarios), len(names)))
        for m in range(len(self.scenarios)):
            counts = np.bincount(self._item[(self._scenario == m) & self._is_liked], minlength=len(self.items))
            shares[m] = np.bincount(columns, weights=counts[rows], minlength=len(names)) / max(1, counts.sum())
        return names, shares

    def scenario(self, index: int, items: int, categories: int, skip: int = 0) -> ScenarioFacts:
        """Return the facts of scenario `index` (from 0), with at most `items` items and `categories` categories.

        Args:
            index: number of the scenario.
            items: maximum number of items.
            categories: maximum number of categories.
            skip: number of more liked items that are left out.
        """
        rows = self._scenario == index
        rates = {}
        for task, labels in self._labels.items():
            labelled = labels[rows]
            labelled = labelled[labelled != MISSING_LABEL]
            if len(labelled):
                rates[task] = float(labelled.mean())
        names, shares = self._shares
        own = shares[index]
        others = np.delete(shares, index, axis=0)
        lead = own - others.mean(axis=0) if len(others) else np.zeros_like(own)
        most = [i for i in np.lexsort((np.arange(len(names)), -own)) if own[i] > 0][:categories]
        typical = [i for i in np.lexsort((np.arange(len(names)), -lead)) if lead[i] >= 0.01][:categories]
        users, seen = self._members[index]
        overlaps = []
        for m, name in enumerate(self.scenarios):
            if m != index:
                both, shared = (
                    len(np.intersect1d(mine, other, assume_unique=True))
                    for mine, other in zip(self._members[index], self._members[m], strict=True)
                )
                overlaps.append(Overlap(name, both, both / max(1, len(users)), shared, shared / max(1, len(seen))))
        return ScenarioFacts(
            self.scenarios[index], int(rows.sum()), len(users), len(seen), rates,
            [Category(names[i], float(own[i])) for i in most],
            [Category(names[i], float(own[i])) for i in typical],
            [self.item(str(self.items[i])) for i in self._scenario_items[index][skip : skip + items]],
            overlaps,
        )  # fmt: skip

    def liked_in_scenario(self, index: int) -> int:
        """Count the different items that are liked in a scenario."""
        return len(self._scenario_items[index])

    # Users.

    @cached_property
    def _by_user(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows sorted by user and, within a user, newest first; and where every user's rows begin (U + 1)."""
        order = newest_first(self._user, self._time)
        return order, np.searchsorted(self._user[order], np.arange(len(self.users) + 1))

    def rows(self) -> pd.DataFrame:
        """Return the training interactions by user, and each user's newest first.

        Returns:
            Columns user and item (numbers in `users` and `items`), scenario (from 0), and label: of the task whose
            label 1 counts as a liking, `MISSING_LABEL` where there is none.
        """
        order, _ = self._by_user
        columns = {
            "user": self._user,
            "item": self._item,
            "scenario": self._scenario,
            "label": self._labels[self.liked],
        }
        return pd.DataFrame({name: column[order] for name, column in columns.items()})

    def liked_by_user(self) -> np.ndarray:
        """Count the likings of every user (U,)."""
        return np.bincount(self._user[self._is_liked], minlength=len(self.users))

    def history(self, index: int, items: int, skip: int = 0) -> list[HistoryPart]:
        """User number `index` in every scenario where the user has interactions; of all likings the `items` newest.

        Args:
            index: number of the user.
            items: number of likings.
            skip: number of newer likings that are left out.
        """
        order, begin = self._by_user
        rows = order[begin[index] : begin[index + 1]]
        scenario, liked = self._scenario[rows], self._is_liked[rows]
        shown = rows[liked][skip : skip + items]
        parts = []
        for m in np.unique(scenario):
            here = scenario == m
            listed = [self.item(str(self.items[i])) for i in self._item[shown[self._scenario[shown] == m]]]
            parts.append(HistoryPart(self.scenarios[m], int(here.sum()), int((here & liked).sum()), listed))
        return parts


def newest_first(owners: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the order (N,) of rows by owner and, of each, newest first; rows of one time stay as they stand."""
    return np.lexsort((np.arange(len(owners)), -times, owners))


def _by_token(ids: np.ndarray, tokens: Any) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers (N,) into the external ids that occur, which are returned too, sorted as text."""
    present, rows = np.unique(ids, return_inverse=True)
    names = np.asarray(tokens)[present]
    order = np.argsort(names, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[rows], names[order]
