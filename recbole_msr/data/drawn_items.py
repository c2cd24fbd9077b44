"""Items that are drawn for each list, beside its positives: `eval_args: mode` uniN and popN."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recbole_msr.data.item_pools import ItemPool, draw_others
from recbole_msr.data.item_sets import ItemSets, within_groups
from recbole_msr.errors import InputError
from recbole_msr.evaluation.ranking_mode import Mode


@dataclass(frozen=True)
class DrawnItems:
    """The items of L lists, one list after the other: its positives, then N for each of them in turn.

    Attributes:
        items: all items; 0 for one that was drawn for the list before.
        turn: the number of the positive that an item was drawn for, from 0; -1 of a positive.
        counts: how many each list has (L,).
    """

    items: np.ndarray
    turn: np.ndarray
    counts: np.ndarray

    def padded(self, lists: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
        """Return items and turns of some lists (n, C), of 0 and -1 behind them; C is `least` or more."""
        counts = self.counts[lists]
        starts = (np.cumsum(self.counts) - self.counts)[lists]
        width = max(int(counts.max(initial=0)), least)
        place = np.repeat(np.arange(len(lists)), counts)
        within = within_groups(counts)
        items = np.zeros((len(lists), width), dtype=np.int64)
        turn = np.full((len(lists), width), -1, dtype=np.int64)
        of_all = starts[place] + within
        items[place, within], turn[place, within] = self.items[of_all], self.turn[of_all]
        return items, turn


def draw_items(
    mode: Mode,
    positives: ItemSets,
    n_draws: np.ndarray,
    met: ItemSets,
    choices: np.ndarray,
    kind: np.ndarray,
    weights: np.ndarray,
    seed: int,
) -> DrawnItems:
    """Draw items that a list's user has not met, with replacement as RecBole does: N for each positive.

    Of a task with fewer positives than another the first draws count. The same seed gives the same draws, whatever the
    model and the epoch.

    Args:
        mode: how they are drawn.
        positives: the items of each list that are positives of any task.
        n_draws: the greatest number of positives of a task of each list (L,): so many times N are drawn.
        met: the items that are not drawn for each list.
        choices: of each of G kinds of lists which items it ranks (G, I).
        kind: the kind of each list (L,), 0..G-1.
        weights: how likely an item is to be drawn with `popN`, its number of rows (I,).
        seed: of the draws.

    Raises:
        InputError: a list has fewer than N items left to draw.
    """
    n_lists = len(n_draws)
    rng = np.random.default_rng(seed)
    each = n_draws * mode.number
    owner = np.repeat(np.arange(n_lists), each)
    turn = within_groups(each) // mode.number
    pools = [_pool(mode, possible, weights) for possible in choices]
    for number, pool in enumerate(pools):
        _check_left(mode, np.flatnonzero(kind == number), met, pool)
    drawn = draw_others(pools, kind[owner], owner, met, rng)
    drawn[_repeated(owner, drawn)] = 0
    own, items = positives.pairs(np.arange(n_lists))
    order = np.argsort(np.concatenate([own, owner]), kind="stable")
    return DrawnItems(
        np.concatenate([items, drawn])[order],
        np.concatenate([np.full(len(own), -1), turn])[order],
        positives.counts + each,
    )


def _pool(mode: Mode, possible: np.ndarray, weights: np.ndarray) -> ItemPool:
    items = np.flatnonzero(possible & (weights > 0) if mode.draw == "pop" else possible)
    return ItemPool(items, weights[items] if mode.draw == "pop" else None)


def _check_left(mode: Mode, lists: np.ndarray, met: ItemSets, pool: ItemPool) -> None:
    left = pool.left(lists, met)
    few = left < mode.number
    if few.any():
        raise InputError(
            f"eval_args: mode: {mode.draw}{mode.number} draws {mode.number} items that a user has not met, and "
            f"{int(few.sum())} of {len(lists)} lists have fewer left (the least {int(left.min())} of {len(pool)} "
            f"items): draw at most {int(left.min())}, or rank all items with mode: full"
        )


def _repeated(owner: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Return which draws (n,) are of an item that was drawn for the same list before."""
    order = np.lexsort((items, owner))
    again = np.zeros(len(items), dtype=bool)
    again[1:] = (owner[order][1:] == owner[order][:-1]) & (items[order][1:] == items[order][:-1])
    repeated = np.zeros(len(items), dtype=bool)
    repeated[order] = again  # lexsort is stable: the first draw of an item stays
    return repeated
