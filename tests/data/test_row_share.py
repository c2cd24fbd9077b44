"""A share of the training rows: whole users, every cell with its share, the smaller inside the larger."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_msr.data.packed import PackedTable
from recbole_msr.data.row_share import LEAST_USERS, share_rows

SHARES = (1 / 27, 1 / 9, 1 / 3)
LABELS = ["label_click", "label_buy"]


class Rows:
    """As much of a packed table as a share is drawn from."""

    def __init__(self, **columns):
        self.columns = {name: torch.as_tensor(column) for name, column in columns.items()}

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def whole(self, names):
        return Interaction({name: self.columns[name] for name in set(names) if name in self.columns})


def log(rows=20_000, users=900, seed=0):
    """Users of very different activity, mostly in one scenario, with tastes; the third scenario and buys are rare."""
    rng = np.random.default_rng(seed)
    activity = rng.exponential(1, users) + 0.1
    user = rng.choice(users, rows, p=activity / activity.sum())
    home = rng.choice(3, users, p=[0.6, 0.35, 0.05])
    scenario = np.where(rng.random(rows) < 0.8, home[user], rng.integers(0, 3, rows)) + 1
    click = (rng.random(rows) < rng.beta(2, 2, users)[user]).astype(np.float32)
    buy = np.where(click == 1, rng.random(rows) < 0.05, 0).astype(np.float32)
    buy[rng.random(rows) < 0.3] = -1.0  # no label
    return Rows(user_id=user + 1, scenario=scenario, label_click=click, label_buy=buy)


def cells(table, rows=None):
    """Count the rows of every scenario, label and class, one by one."""
    counted = Counter()
    for n in range(len(table)) if rows is None else rows:
        for label in LABELS:
            value = float(table.columns[label][n])
            if value >= 0:
                counted[int(table.columns["scenario"][n]), label, value] += 1
    return counted


def draw(table, share, seed=1, user="user_id"):
    return share_rows(table, share, seed, user, "scenario", LABELS).tolist()


def test_a_share_is_of_whole_users_and_every_cell_keeps_its_share():
    table = log()
    every, user = cells(table), table.columns["user_id"].tolist()
    for share in SHARES:
        rows = draw(table, share)
        assert rows == sorted(set(rows))
        drawn = {user[n] for n in rows}
        assert rows == [n for n in range(len(table)) if user[n] in drawn]
        assert len(rows) == pytest.approx(share * len(table), rel=0.15)
        for cell, count in cells(table, rows).items():
            error = 4 * (count / share / every[cell]) ** 0.5 * (1 / share / every[cell]) ** 0.5
            assert count / every[cell] / share == pytest.approx(1, abs=0.15 + error), cell


def test_the_smaller_share_is_inside_the_larger_and_all_is_all():
    table = log(seed=3)
    shares = [set(draw(table, share)) for share in (0.02, *SHARES, 0.7)]
    for smaller, larger in pairwise(shares):
        assert smaller < larger
    assert draw(table, 1.0) == list(range(len(table)))


def test_the_seed_decides():
    table = log()
    assert draw(table, 1 / 9) == draw(table, 1 / 9)
    assert draw(table, 1 / 9) != draw(table, 1 / 9, seed=2)


@pytest.mark.parametrize("seed", range(8))
def test_a_cell_with_both_classes_keeps_both(seed):
    """Even where the share is of fewer users than there are cells."""
    table = log(rows=1500, users=300, seed=seed)
    every, kept = cells(table), cells(table, draw(table, 0.004, seed))
    both = [(s, label) for s, label, value in every if value == 1 and every[s, label, 0.0]]
    assert both
    for scenario, label in both:
        assert min(kept[scenario, label, 0.0], kept[scenario, label, 1.0]) > 0, (scenario, label)


@pytest.mark.parametrize("user", [None, "nobody", "few"])
def test_without_users_or_with_a_few_rows_are_drawn(user):
    table = log()
    table.columns["few"] = torch.arange(len(table)) % (LEAST_USERS - 1)
    rows = draw(table, 1 / 9, user=user)
    assert len(rows) == pytest.approx(len(table) / 9, rel=0.05)
    assert set(rows) < set(draw(table, 1 / 3, user=user))
    every = cells(table)
    for cell, count in cells(table, rows).items():
        assert count / every[cell] == pytest.approx(1 / 9, abs=0.02 + 2 * every[cell] ** -0.5), cell


def test_a_part_of_a_packed_table_has_its_rows(make_dataset):
    _, train = make_dataset(3)
    table = PackedTable(train)
    rows = torch.arange(0, len(table), 3)
    part = table.part(rows)
    assert len(part) == len(rows)
    ours, theirs = part.batch(torch.tensor([0, 5, 2])), table.batch(rows[[0, 5, 2]])
    assert set(ours.columns) == set(theirs.columns)
    for field in theirs.columns:
        assert torch.equal(ours[field], theirs[field]), field
