"""The positives of a task, as RecBole's general and sequential models learn from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_msr.data.ranked_lists import RankedLists
from recbole_msr.errors import InputError
from recbole_msr.evaluation.ranking_mode import ranks


def ranks_items(config: Any) -> bool:
    """Return whether a model is one of RecBole's that learns from users and items alone, and lists are asked for."""
    return ranks(config) and (config["MODEL_TYPE"].name in ("GENERAL", "TRADITIONAL") or is_sequential(config))


def positives_of(train: Any, config: Any, among: torch.Tensor | None = None) -> Any:
    """Return the positives of the main task in a training split, as a RecBole dataset of users and items.

    For a sequential model a row is a positive with the positives of its user before it, as RecBole makes them.

    Args:
        train: the training split of a `ScenarioDataset`.
        config: RecBole's configuration of the model.
        among: numbers of the rows that are looked at; None for all.

    Raises:
        InputError: there are none, or a sequential model has no times to order them by.
    """
    positive = train.inter_feat[config["LABEL_FIELD"]] == 1
    if among is not None:
        positive &= torch.zeros_like(positive).index_fill_(0, among, True)
    users, items = (train.inter_feat[key][positive].clone() for key in (train.uid_field, train.iid_field))
    if not len(users):
        raise InputError(f"the training split has no positive of the task '{config['main_task']}' to learn from")
    rows = {train.uid_field: users, train.iid_field: items}
    if is_sequential(config):
        rows = _sequences(rows, _times(train, train)[positive.numpy()], config)
    view = train.copy(Interaction(rows))
    # RecBole's loaders note the fields of what they draw here.
    view.field2type, view.field2source, view.field2seqlen = (
        dict(table) for table in (train.field2type, train.field2source, train.field2seqlen)
    )
    return view


def list_inputs(split: Any, lists: RankedLists, config: Any) -> Interaction:
    """Return what such a model reads of each list (L rows): the user, or the user's positives before it.

    A sequence has the positives of the main task in earlier splits that are earlier than the list, the last
    `MAX_ITEM_LIST_LENGTH` of them.

    Args:
        split: the split of the lists.
        lists: its ranked lists.
        config: RecBole's configuration of the model.
    """
    users = torch.from_numpy(lists.users)
    if not is_sequential(config):
        return Interaction({split.uid_field: users})
    whole = split.every_label
    earlier = whole.earlier
    positive = (earlier[config["LABEL_FIELD"]] == 1).numpy()
    owner, items = (earlier[key].numpy()[positive] for key in (split.uid_field, split.iid_field))
    times = _times(split, whole.copy(earlier))[positive]
    order = np.lexsort((times, owner))
    owner, items, times = owner[order], items[order], times[order]
    starts, ends = np.searchsorted(owner, lists.users), np.searchsorted(owner, lists.users, side="right")
    now = _times(split, whole)[lists.rows.numpy()]
    most = int(config["MAX_ITEM_LIST_LENGTH"])
    sequences, lengths = np.zeros((len(lists), most), dtype=np.int64), np.zeros(len(lists), dtype=np.int64)
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        before = items[start : start + int(np.searchsorted(times[start:end], now[place]))][-most:]
        sequences[place, : len(before)], lengths[place] = before, len(before)
    return _sequence_columns(config, users, torch.from_numpy(sequences), torch.from_numpy(lengths).clamp(min=1))


def is_sequential(config: Any) -> bool:
    """Return whether a model reads sequences of items."""
    return bool(config["MODEL_TYPE"].name == "SEQUENTIAL")


def _sequences(rows: dict[str, torch.Tensor], times: np.ndarray, config: Any) -> dict[str, torch.Tensor]:
    users, items = (rows[config[key]].numpy() for key in ("USER_ID_FIELD", "ITEM_ID_FIELD"))
    order = np.lexsort((times, users))
    users, items = users[order], items[order]
    first = np.searchsorted(users, users)
    before = np.arange(len(users)) - first  # positives of the user before each
    most = int(config["MAX_ITEM_LIST_LENGTH"])
    targets = np.flatnonzero(before > 0)
    lengths = np.minimum(before[targets], most)
    within = np.arange(most)
    places = (targets - lengths)[:, None] + within
    sequences = np.where(within < lengths[:, None], items[np.minimum(places, len(items) - 1)], 0)
    if not len(targets):
        raise InputError("no user has two positives of the task in the training split: there is no sequence to learn")
    made = _sequence_columns(
        config, torch.from_numpy(users[targets]), torch.from_numpy(sequences), torch.from_numpy(lengths)
    )
    return {**made.interaction, config["ITEM_ID_FIELD"]: torch.from_numpy(items[targets])}


def _sequence_columns(config: Any, users: torch.Tensor, sequences: torch.Tensor, lengths: torch.Tensor) -> Interaction:
    return Interaction(
        {
            config["USER_ID_FIELD"]: users,
            config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"]: sequences,
            config["ITEM_LIST_LENGTH_FIELD"]: lengths,
        }
    )


def _times(split: Any, of: Any) -> np.ndarray:
    times: np.ndarray | None = of.row_times()
    if times is None:
        raise InputError(
            f"a sequential model needs the time of every interaction ('{split.time_field}', TIME_FIELD), and there is "
            "none: load it, or leave the model out"
        )
    return times
