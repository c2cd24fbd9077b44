"""The share that each training row has in the profile of its user or scenario."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_msr.prompts.facts import newest_first
from recbole_msr.prompts.profiles import IDENTITY, recency
from recbole_msr.prompts.store import Knowledge

ALL = -1.0
"""In place of a share, where no other row is in the part."""
_SLOTS = 3
"""A row is in so many parts at most: liked or not, recent, and those of its scenario."""


@dataclass(frozen=True)
class OwnRows:
    """What N training rows have in the profiles of their owners, the users or the scenarios.

    Attributes:
        n_parts: P, the parts of a profile, each as wide as an item's vector.
        items: the row of the item among the item vectors (N,), int32; 0 where it has none.
        parts: numbers of the parts that the row is in (N, 3), int16.
        shares: w / (W - w) in each of them (N, 3), float32: w is the row's weight, W that of all rows of the owner. 0
            where the row is in fewer parts, `ALL` where it is the only one of a part.
        is_only: whether the owner has no other row with an item vector (N,).
    """

    n_parts: int
    items: np.ndarray
    parts: np.ndarray
    shares: np.ndarray
    is_only: np.ndarray


def knows_rows(knowledge: Knowledge) -> bool:
    """Return whether profiles were made as this version makes them, so that a row's share in them is known."""
    made, options = knowledge.meta.get("profile"), knowledge.meta.get("options")
    same = isinstance(made, Mapping) and all(made.get(key) == value for key, value in IDENTITY.items())
    return same and isinstance(options, Mapping) and "liked" in options and "item" in knowledge.levels


def own_rows(train: Any, knowledge: Knowledge, level: str, read: Collection[str] = ()) -> OwnRows:
    """Return the shares of training rows in the profiles that were made of them.

    Args:
        train: the training split of a `ScenarioDataset`, which `knowledge` was made of. With `only_scenario` profiles
            are of the rows of all scenarios, and the shares those of the rows of the one.
        knowledge: profiles that `knows_rows` of.
        level: "user" or "scenario".
        read: the parts that are read; all if empty.
    """
    whole = train.all_scenarios or train
    inter, names = whole.inter_feat, list(whole.scenario_names)
    label_field = dict(zip(whole.schema.task_names, whole.schema.label_fields, strict=True))[
        knowledge.meta["options"]["liked"]
    ]
    row_of_item = knowledge.rows("item", whole.field2id_token[whole.iid_field])
    items, label = row_of_item[inter[whole.iid_field].numpy()], inter[label_field].numpy()
    users, scenario = inter[whole.uid_field].numpy(), whole.row_scenario(inter).numpy() - 1
    owner = users if level == "user" else scenario
    has = items >= 0
    sizes = {part: size for part, size in knowledge.parts(level).items() if not read or part in read}
    width = knowledge.level_size("item")
    ends = np.cumsum(list(sizes.values())) // width
    first = {part: int(end - size // width) for (part, size), end in zip(sizes.items(), ends, strict=True)}

    parts = np.zeros((len(items), _SLOTS), dtype=np.int16)
    shares = np.zeros((len(items), _SLOTS), dtype=np.float32)

    def put(slot: int, rows: np.ndarray, part: Any, group: np.ndarray, weights: np.ndarray | None = None) -> None:
        counts = np.bincount(group)[group]
        weights = np.ones(len(rows)) if weights is None else weights
        left = np.bincount(group, weights)[group] - weights
        parts[rows, slot] = part
        shares[rows, slot] = np.where(counts == 1, ALL, weights / np.where(counts == 1, 1.0, left))

    liked = np.flatnonzero(has & (label == 1))
    for part, rows in (("liked", liked), ("not_liked", np.flatnonzero(has & (label == 0)))):
        if part in first:
            put(0, rows, first[part], owner[rows])
    if "recent" in first:
        rows = liked[newest_first(owner[liked], whole.row_times()[liked])]
        begins = np.flatnonzero(np.r_[True, owner[rows][1:] != owner[rows][:-1]]) if len(rows) else rows
        age = np.arange(len(rows)) - np.repeat(begins, np.diff(np.r_[begins, len(rows)]))
        put(1, rows, first["recent"], owner[rows], recency(age))
    if "scenarios" in first:
        _, group = np.unique(owner[liked].astype(np.int64) * len(names) + scenario[liked], return_inverse=True)
        put(2, liked, first["scenarios"] + scenario[liked], group)
    is_only = has & (np.bincount(owner[has], minlength=int(owner.max(initial=0)) + 1)[owner] == 1)
    kept: Any = slice(None)
    if whole is not train:
        kept = scenario == names.index(train.scenario_names[0])
    return OwnRows(int(ends[-1]), items.clip(0).astype(np.int32)[kept], parts[kept], shares[kept], is_only[kept])
