"""The lists in which items are ranked: one for each user and scenario that has a positive in a split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_msr.data.drawn_items import DrawnItems, draw_items
from recbole_msr.data.item_sets import ItemSets
from recbole_msr.errors import InputError
from recbole_msr.evaluation.ranking_mode import mode_of, ranks
from recbole_msr.evaluation.segments import Segments
from recbole_msr.schema import UNKNOWN_SCENARIO, label_field

_DENSE = 1 << 24
"""Most numbers of a table of lists and items that is made at once."""


class Ranked(NamedTuple):
    """What a batch of n lists ranks.

    Attributes:
        items: the items of the lists (n, C), 0 for none; None for all items, so that C is their number.
        positive: by task which of them are positives (n, C).
        left_out: by task which of them are not ranked (n, C).
    """

    items: torch.Tensor | None
    positive: list[torch.Tensor]
    left_out: list[torch.Tensor]


@dataclass(frozen=True)
class RankedLists:
    """The lists of a split, in the order of users and then scenarios.

    A positive of a task is a row of the split with label 1 of it; an item that a user has several such rows with counts
    once. The other fields of a list, such as its context and history, are those of its first positive row: by time
    where the rows have times, else by their order in the split.

    All items are ranked, without those that the user has met in earlier splits, as in RecBole: training for the
    validation split, training and validation for the test split, whatever the scenario and label; with `repeatable`
    none are left out. What is a positive of the list is ranked always. Where every item has the rows of one scenario
    alone, a list has the items of its scenario, and those without rows.

    Attributes:
        tasks: the tasks, T.
        rows: the row of the split that gives each list its fields (L,).
        users, scenarios: of each list (L,).
        positives: by task the positive items of each list.
        n_positives: their numbers (L, T).
        seen: the items that each user has met before.
        items: the fields of all items, by id; id 0 is none.
        item_scenario: the scenario of each item, 0 for any; None where items belong to no scenario.
        drawn: the items that were drawn for each list; None where all are ranked.
        most: K, the greatest cutoff.
        segments: of the lists, by the training rows of their users; None where none are declared.
    """

    tasks: list[str]
    rows: torch.Tensor
    users: np.ndarray
    scenarios: np.ndarray
    positives: list[ItemSets]
    n_positives: np.ndarray
    seen: ItemSets
    items: Interaction
    item_scenario: np.ndarray | None
    drawn: DrawnItems | None
    most: int
    segments: Segments | None = None

    @classmethod
    def of_split(cls, split: Any, config: Any) -> RankedLists:
        """Make the lists of a validation or test split.

        Args:
            split: a split of a `ScenarioDataset`, with the rows of every label.
            config: reads `eval_args`, `topk`, `repeatable`, `data_seed`.

        Raises:
            InputError: a cutoff is beyond the number of items, no row is a positive, or too few items can be drawn.
        """
        n_items, most = int(split.item_num), max(config["topk"])
        if most > n_items - 1:
            raise InputError(f"topk: {most} is beyond the number of items of '{config['dataset']}', {n_items - 1}")
        tasks = split.schema.task_names
        users, items = (split.inter_feat[field].numpy() for field in (split.uid_field, split.iid_field))
        scenario = split.row_scenario(split.inter_feat).numpy()
        known = scenario != UNKNOWN_SCENARIO
        labels = np.stack([split.inter_feat[label_field(task)].numpy() == 1 for task in tasks], axis=1) & known[:, None]
        place, rows = _lists(split, users, scenario, labels.any(axis=1))
        if not len(rows):
            raise InputError(
                f"the {split.split_name} split of '{config['dataset']}' has no positive (a row with label 1 of "
                f"{' or '.join(tasks)}): there is no list to rank; give it more rows (eval_args: split)"
            )
        positives = [ItemSets(place[of], items[of], len(rows), n_items) for of in labels.T]
        segments = Segments.of_split(split, config)
        seen = _seen(split, bool(config["repeatable"]), n_items)
        lists = cls(
            tasks,
            torch.from_numpy(rows),
            users[rows],
            scenario[rows],
            positives,
            np.stack([of_task.counts for of_task in positives], axis=1),
            seen,
            split.get_item_feature(),
            _scenario_of_items(split, n_items),
            None,
            most,
            None if segments is None else segments.at(rows),
        )
        mode = mode_of(config, split.split_name)
        if mode.draw == "full":
            return lists
        positive = labels.any(axis=1)
        any_task = ItemSets(place[positive], items[positive], len(lists), n_items)
        met = any_task if config["repeatable"] else _met(split, lists.users, n_items)
        most_positives = lists.n_positives.max(axis=1)
        seed = int(config["data_seed"])
        rows_of_items = np.bincount(_rows_until(split)[1], minlength=n_items)
        drawn = draw_items(mode, any_task, most_positives, met, *lists._choices(), rows_of_items, seed)
        return replace(lists, drawn=drawn)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def n_items(self) -> int:
        """The number of ids of items, that of none among them."""
        return len(self.items)

    def lists_a_batch(self, eval_batch_size: int) -> int:
        """Return how many lists make a batch of about so many rows to score."""
        width = self.n_items if self.drawn is None else max(1, len(self.drawn.items) // len(self))
        return max(1, min(eval_batch_size // width, _DENSE // self.n_items))

    def ranked(self, lists: np.ndarray) -> Ranked:
        """Return what some lists (n,) rank."""
        return self._all_items(lists) if self.drawn is None else self._drawn_items(self.drawn, lists)

    def _all_items(self, lists: np.ndarray) -> Ranked:
        shape = (len(lists), self.n_items)
        out = torch.zeros(shape, dtype=torch.bool)
        out[:, 0] = True
        place, items = self.seen.pairs(self.users[lists])
        out[torch.from_numpy(place), torch.from_numpy(items)] = True
        if self.item_scenario is not None:
            out |= torch.from_numpy(~self._of_scenario(self.scenarios[lists]))
        positive, left_out = [], []
        for of_task in self.positives:
            place, items = of_task.pairs(lists)
            positive.append(torch.zeros(shape, dtype=torch.bool))
            positive[-1][torch.from_numpy(place), torch.from_numpy(items)] = True
            left_out.append(out & ~positive[-1])
        return Ranked(None, positive, left_out)

    def _of_scenario(self, scenarios: np.ndarray) -> np.ndarray:
        """Return which items are ranked in scenarios (n,): (n, I)."""
        assert self.item_scenario is not None
        mine: np.ndarray = (self.item_scenario == scenarios[:, None]) | (self.item_scenario == UNKNOWN_SCENARIO)
        mine[:, 0] = False
        return mine

    def _choices(self) -> tuple[np.ndarray, np.ndarray]:
        """Return which items each of G kinds of lists ranks (G, I), and the kind of each list (L,)."""
        if self.item_scenario is None:
            return (np.arange(self.n_items) > 0)[None], np.zeros(len(self), dtype=np.int64)
        scenarios, kind = np.unique(self.scenarios, return_inverse=True)
        return self._of_scenario(scenarios), kind

    def _drawn_items(self, drawn: DrawnItems, lists: np.ndarray) -> Ranked:
        items, turn = drawn.padded(lists, self.most)
        positive, left_out = [], []
        for column, of_task in enumerate(self.positives):
            own, of_lists = of_task.pairs(lists), np.zeros((len(lists), self.n_items), dtype=bool)
            of_lists[own] = True
            is_positive = np.take_along_axis(of_lists, items, axis=1)
            # Of a task with fewer positives than another, fewer items were drawn.
            few = turn >= self.n_positives[lists, column][:, None]
            positive.append(torch.from_numpy(is_positive))
            left_out.append(torch.from_numpy(~is_positive & (few | (turn < 0) | (items == 0))))
        return Ranked(torch.from_numpy(items), positive, left_out)


def _lists(split: Any, users: np.ndarray, scenario: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the list of every row (N,), -1 for none, and of every list the row that gives it its fields (L,)."""
    key = users.astype(np.int64) * (int(scenario.max(initial=0)) + 1) + scenario
    times = split.row_times()
    order = np.arange(len(key)) if times is None else np.argsort(times, kind="stable")
    order = order[positive[order]]
    keys, first = np.unique(key[order], return_index=True)
    place = np.searchsorted(keys, key)
    there = (place < len(keys)) & (np.append(keys, -1)[place] == key)
    return np.where(there, place, -1), order[first]


def _seen(split: Any, repeatable: bool, n_items: int) -> ItemSets:
    """Return the items that each user has met in the splits before one."""
    inter = (split.all_scenarios or split).earlier
    users, items = inter[split.uid_field].numpy(), inter[split.iid_field].numpy()
    if repeatable:
        users, items = users[:0], items[:0]
    return ItemSets(users, items, int(split.user_num), n_items)


def _scenario_of_items(split: Any, n_items: int) -> np.ndarray | None:
    """Return the scenario of each item (I,), 0 for one without rows; None where an item has rows of several."""
    whole = split.all_scenarios or split
    found = np.zeros(n_items, dtype=np.int64)
    items = _rows_until(split)[1]
    scenarios = np.concatenate([whole.row_scenario(part).numpy() for part in (whole.earlier, whole.inter_feat)])
    items, scenarios = items[scenarios != UNKNOWN_SCENARIO], scenarios[scenarios != UNKNOWN_SCENARIO]
    found[items] = scenarios
    if (found[items] != scenarios).any() or len(np.unique(scenarios)) < 2:
        return None
    if split.all_scenarios is not None:  # the one scenario that is left has the id 1
        own = whole.scenario_names.index(split.scenario_names[0]) + 1
        found = np.where(found == own, 1, np.where(found == 0, 0, -1))
    return found


def _met(split: Any, users: np.ndarray, n_items: int) -> ItemSets:
    """Return the items that are not drawn for lists of users (L,): all that these have met by its end."""
    users_of_rows, items_of_rows = _rows_until(split)
    by_user = ItemSets(users_of_rows, items_of_rows, int(split.user_num), n_items)
    owner, met = by_user.pairs(users)
    return ItemSets(owner, met, len(users), n_items)


def _rows_until(split: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the users and items of all rows by the end of a split, of every scenario."""
    whole = split.all_scenarios or split
    parts = (whole.earlier, whole.inter_feat)
    users, items = (np.concatenate([part[key].numpy() for part in parts]) for key in (split.uid_field, split.iid_field))
    return users, items


def ranked_lists(split: Any, config: Any) -> RankedLists | None:
    """Return the lists of a validation or test split, made once for each way to make them; None if not asked for.

    Args:
        split: a split of a `ScenarioDataset`.
        config: as `RankedLists.of_split` reads it.
    """
    if not ranks(config):
        return None
    whole = split.every_label
    made: dict[Any, RankedLists] = vars(whole).setdefault("_ranked_lists", {})
    key = (
        config["eval_args"]["mode"][whole.split_name],
        max(config["topk"]),
        config["repeatable"],
        config["data_seed"],
    )
    if key not in made:
        made[key] = RankedLists.of_split(whole, config)
    return made[key]
