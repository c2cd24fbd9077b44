"""The ranked lists of a split: their positives, what is left out of them, their context, the items that are drawn."""

import numpy as np
import pandas as pd
import pytest

from recbole_msr.data.drawn_items import draw_items
from recbole_msr.data.item_sets import ItemSets
from recbole_msr.data.ranked_lists import ranked_lists
from recbole_msr.errors import InputError
from recbole_msr.evaluation.ranking_mode import Mode

EVAL = {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "RO", "group_by": None}


@pytest.fixture
def splits(make_dataset):
    """splits(mode, model, **settings) -> the config and the three splits of "tiny"."""
    from recbole.data import create_dataset

    def make(mode="full", model="SharedBottom", **settings):
        config, _ = make_dataset(2, model, eval_args={**EVAL, "mode": mode}, **settings)
        return config, create_dataset(config).build()

    return make


def _frame(split):
    inter = split.inter_feat
    columns = {name: inter[name].numpy() for name in ("user_id", "item_id", "label_click", "label_like", "timestamp")}
    return pd.DataFrame(columns | {"scenario": split.row_scenario(inter).numpy()})


@pytest.mark.parametrize("number", [1, 2])
def test_lists_are_those_of_a_loop_over_rows(splits, number):
    config, parts = splits()
    lists, rows = ranked_lists(parts[number], config), _frame(parts[number])
    seen = pd.concat([_frame(part) for part in parts[:number]]).groupby("user_id")["item_id"].agg(set).to_dict()
    expected = []
    for (user, scenario), of_list in rows.groupby(["user_id", "scenario"]):
        clicks = set(of_list["item_id"][of_list["label_click"] == 1])
        likes = set(of_list["item_id"][of_list["label_like"] == 1])
        if clicks | likes:
            expected.append((user, scenario, clicks, likes))
    assert [(u, s) for u, s, *_ in expected] == list(zip(lists.users, lists.scenarios, strict=True))
    ranked = lists.ranked(np.arange(len(lists)))
    assert ranked.items is None
    for place, (user, _, *positives) in enumerate(expected):
        for task, of_task in enumerate(positives):
            assert set(np.flatnonzero(ranked.positive[task][place])) == of_task
            left_out = ({0} | seen.get(user, set())) - of_task
            assert set(np.flatnonzero(ranked.left_out[task][place])) == left_out
            assert lists.n_positives[place, task] == len(of_task)


def test_a_lists_fields_are_those_of_its_first_positive_row(splits):
    config, parts = splits()
    lists, rows = ranked_lists(parts[2], config), _frame(parts[2])
    positive = rows[(rows["label_click"] == 1) | (rows["label_like"] == 1)]
    for row, user, scenario in zip(lists.rows.tolist(), lists.users, lists.scenarios, strict=True):
        mine = positive[(positive["user_id"] == user) & (positive["scenario"] == scenario)]
        assert row == mine["timestamp"].idxmin()


def test_nothing_is_left_out_where_items_may_repeat(splits):
    config, parts = splits(repeatable=True)
    left_out = ranked_lists(parts[2], config).ranked(np.arange(5)).left_out[0]
    assert left_out[:, 0].all()
    assert not left_out[:, 1:].any()


def test_a_single_task_model_has_the_same_lists(splits):
    ours, theirs = (ranked_lists(parts[1], config) for config, parts in (splits(), splits(model="DeepFM")))
    assert np.array_equal(ours.users, theirs.users)
    assert np.array_equal(ours.rows, theirs.rows)


def test_one_scenario_alone_has_its_lists_of_all_and_leaves_the_same_items_out(splits):
    config, parts = splits()
    alone_config, alone = splits(only_scenario="age<30")
    lists, own = ranked_lists(parts[2], config), ranked_lists(alone[2], alone_config)
    mine = np.flatnonzero(lists.scenarios == 1)
    assert np.array_equal(lists.users[mine], own.users)
    both = (lists.ranked(mine), own.ranked(np.arange(len(own))))
    for theirs, ours in zip(both[0].left_out, both[1].left_out, strict=True):
        assert theirs.equal(ours)


@pytest.mark.parametrize("mode", ["uni3", "pop3"])
def test_items_are_drawn_of_those_that_the_user_has_not_met(splits, mode):
    config, parts = splits(mode)
    lists = ranked_lists(parts[2], config)
    met = pd.concat([_frame(part) for part in parts]).groupby("user_id")["item_id"].agg(set)
    ranked = lists.ranked(np.arange(len(lists)))
    for place, user in enumerate(lists.users):
        for task in (0, 1):
            items = ranked.items[place][~ranked.left_out[task][place]].tolist()
            positive = ranked.items[place][ranked.positive[task][place]].tolist()
            drawn = set(items) - set(positive)
            assert len(items) == len(set(items))
            assert not drawn & met[user]
            n = int(lists.n_positives[place, task])
            assert len(positive) == n
            assert (1 if n else 0) <= len(drawn) <= 3 * n
            assert 0 not in items


def test_draws_follow_the_seed_of_the_split_alone(splits):
    items = [
        ranked_lists(parts[2], config).ranked(np.arange(9)).items
        for config, parts in (splits("uni3"), splits("uni3", seed=5), splits("uni3", data_seed=5))
    ]
    assert items[0].equal(items[1])
    assert items[0].shape != items[2].shape or not items[0].equal(items[2])


@pytest.mark.parametrize(("draw", "shares"), [("uni", [1, 1, 1, 1]), ("pop", [1, 2, 3, 4])])
def test_items_are_drawn_evenly_or_by_their_rows(draw, shares):
    n = 20_000
    owner = np.arange(n)
    positives = ItemSets(owner, np.full(n, 5), n, 6)
    every = (np.arange(6) > 0)[None]
    weights = np.array([0, 1, 2, 3, 4, 50])
    drawn = draw_items(Mode(draw, 1), positives, np.ones(n, dtype=int), positives, every, owner * 0, weights, 7)
    counts = np.bincount(drawn.items[drawn.turn == 0], minlength=6)[1:5]
    assert counts / n == pytest.approx(np.array(shares) / sum(shares), abs=0.015)  # four standard errors


def test_lists_have_the_items_of_their_scenario_where_items_belong_to_one(make_dataset):
    from recbole.data import create_dataset

    config, _ = make_dataset(
        1, "SharedBottom", eval_args={**EVAL, "mode": "full"}, scenario={"field": "price", "bins": [2.5]}
    )
    parts = create_dataset(config).build()
    lists = ranked_lists(parts[2], config)
    of_item = parts[2].item_feat["scenario"].numpy()
    ranked = lists.ranked(np.arange(len(lists)))
    for place, scenario in enumerate(lists.scenarios):
        other = np.flatnonzero((of_item != scenario) & (np.arange(len(of_item)) > 0))
        assert ranked.left_out[0][place][other].all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"topk": [10, 31]}, "topk: 31 is beyond the number of items of 'tiny', 30"),
        ({"mode": "uni25"}, r"eval_args: mode: uni25 draws 25 items that a user has not met, and (..) of \1 lists"),
        ({"tasks": {"click": {"field": "rating", "above": 9}}}, "the valid split of 'tiny' has no positive"),
    ],
)
def test_lists_that_cannot_be_are_refused_in_one_line(splits, settings, message):
    config, parts = splits(**settings)
    with pytest.raises(InputError, match=message) as refused:
        ranked_lists(parts[1], config)
    assert "\n" not in str(refused.value)
