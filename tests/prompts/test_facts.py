"""What the prompts say, against a calculation with pandas; and that nothing but training rows is said."""

import numpy as np
import pandas as pd
import pytest

from recbole_msr.errors import InputError
from recbole_msr.prompts.build import build_prompts
from recbole_msr.prompts.encoders.random import RandomEncoder
from recbole_msr.prompts.facts import Facts
from recbole_msr.prompts.template import Template, available
from tests.prompts.small_data import poison, turn_label, write_items


def _frame(train):
    """The training rows with external ids and raw labels."""
    inter = train.inter_feat
    return pd.DataFrame(
        {
            "user": train.field2id_token["user_id"][inter["user_id"].numpy()],
            "item": train.field2id_token["item_id"][inter["item_id"].numpy()],
            "scenario": np.array(["", *train.scenario_names])[train.row_scenario(inter).numpy()],
            "click": inter["label_click"].numpy(),
            "like": inter["label_like"].numpy(),
            "time": inter["timestamp"].numpy(),
        }
    )


def test_scenario_statistics(make_train, titled):
    train = make_train()
    facts, frame = Facts(train), _frame(train)
    kinds = (
        pd.read_csv(titled / "tiny" / "tiny.item", sep="\t").set_index("item_id:token")["class:token_seq"].str.split()
    )
    for index, name in enumerate(train.scenario_names):
        rows, found = frame[frame.scenario == name], facts.scenario(index, items=5, categories=3)
        assert (found.name, found.interactions) == (name, len(rows))
        assert (found.users, found.items) == (rows.user.nunique(), rows.item.nunique())
        assert found.rates == pytest.approx({"click": rows.click.mean(), "like": rows.like.mean()})
        liked = rows[rows.click == 1]
        shares = (liked.item.map(kinds).explode().value_counts() / len(liked)).head(3)
        assert sorted(c.share for c in found.categories) == pytest.approx(sorted(shares))
        counts = liked.item.value_counts()
        assert [counts[item.id] for item in found.liked] == counts.head(5).tolist()
        for other in found.overlaps:
            there = frame[frame.scenario == other.name]
            shared = len(set(rows.item) & set(there.item))
            assert (other.items, other.item_share) == (shared, pytest.approx(shared / rows.item.nunique()))
            assert other.users == len(set(rows.user) & set(there.user))


def test_overlap_of_users_between_scenarios_of_items(make_train):
    train = make_train(scenario={"field": "year", "bins": [1985]}, load_col=None)
    facts, frame = Facts(train), _frame(train)
    old, new = (set(frame[frame.scenario == name].user) for name in train.scenario_names)
    (overlap,) = facts.scenario(0, 0, 0).overlaps
    assert overlap.users == len(old & new) > 0
    assert overlap.user_share == pytest.approx(len(old & new) / len(old))
    assert max(len(facts.history(i, 50)) for i in range(40)) == 2


def test_a_history_is_the_users_likings_newest_first(make_train):
    train = make_train(scenarios=2)
    facts, frame = Facts(train), _frame(train)
    for index, token in enumerate(facts.users):
        rows = frame[frame.user == token]
        liked = rows[rows.click == 1].sort_values("time", ascending=False).head(4)
        (part,) = facts.history(index, items=4)
        assert (part.name, part.interactions, part.likings) == (rows.scenario.iloc[0], len(rows), int(rows.click.sum()))
        assert [item.id for item in part.liked] == liked.item.tolist()


def test_without_times_a_history_is_still_the_users_likings(make_train):
    load = {"inter": ["user_id", "item_id", "rating"], "user": ["user_id", "age"], "item": ["item_id"]}
    train = make_train(load_col=load)
    inter = train.inter_feat
    frame = pd.DataFrame(
        {"u": train.field2id_token["user_id"][inter["user_id"].numpy()], "l": inter["label_click"].numpy()}
    )
    facts = Facts(train)
    assert sum(len(part.liked) for part in facts.history(0, 99)) == frame[frame.u == facts.users[0]].l.sum()


def test_titles_are_read_from_the_file_though_not_loaded(facts):
    assert (facts.title_field, facts.category_field) == ("movie_title", "class")
    item = facts.item("i1")
    assert (item.title, item.categories, item["year"]) == ("Birch Island Saga", ["Comedy", "War"], "1971")
    assert facts.item("nobody").title == ""


@pytest.mark.parametrize(
    ("header", "title", "categories"),
    [
        (("item_id:token", "name:token", "genre:token_seq"), "name", "genre"),
        (("item_id:token", "long_title:token", "item_category:token"), "long_title", "item_category"),
        (("item_id:token", "price:token", "TITLE:token"), "TITLE", None),
    ],
)
def test_the_usual_names_are_found(make_train, titled, header, title, categories):
    write_items(titled / "tiny", header)
    facts = Facts(make_train(load_col={"inter": ["user_id", "item_id", "rating"], "user": ["user_id", "age"]}))
    assert (facts.title_field, facts.category_field) == (title, categories)


def test_fields_may_be_named(make_train):
    train = make_train()
    facts = Facts(train, title_field="year", category_field="none")
    assert facts.item("i3").title == "1973"
    assert facts.item("i3").categories == []
    with pytest.raises(
        InputError, match=r"no field 'movie_titel'; did you mean 'movie_title'.*item_id, movie_title, class"
    ):
        Facts(train, title_field="movie_titel")
    with pytest.raises(InputError, match="no task 'clik'; did you mean 'click'"):
        Facts(train, liked="clik")


def test_items_without_any_text_are_refused(make_train, titled):
    write_items(titled / "tiny", ("item_id:token", "price:token", "x:token"))
    load = {"inter": ["user_id", "item_id", "rating"], "user": ["user_id", "age"]}
    with pytest.raises(InputError, match=r"no title and no categories.*item_id, price, x"):
        build_prompts(Facts(make_train(load_col=load)), Template.load("full"), "user")


@pytest.mark.parametrize("group_by", [None, "user", "scenario", "cold_user", "cold_item"])
def test_changing_validation_and_test_rows_changes_no_prompt(make_dataset, titled, group_by):
    """Labels, times, items and users of all rows outside the training split are replaced, also by unseen items."""
    from recbole.data import create_dataset

    given = {"eval_args": {"split": {"RS": [0.7, 0.15, 0.15]}, "order": "RO", "group_by": group_by, "mode": "labeled"}}

    def prompts():
        config, train = make_dataset(3, **given)
        facts = Facts(train)
        texts = {
            (name, level): build_prompts(facts, Template.load(name), level)
            for name in available()
            for level in Template.load(name).texts
        }
        encoder = RandomEncoder(size=4)
        windows = {"max_tokens": 60, "long_prompts": "windows", "all_items": True}
        texts["windows"] = build_prompts(facts, Template.load("brief"), "user", encoder, **windows)
        return config, train, {k: (p.tokens, p.texts) for k, p in texts.items()}

    config, train, before = prompts()
    path = titled / "tiny" / "tiny.inter"
    kept = poison(path, create_dataset(config).build()[1:], group_by)
    assert len(kept) == len(train) < 600
    _, train_again, after = prompts()
    pd.testing.assert_frame_equal(_frame(train_again), _frame(train))
    assert after == before

    # And the other way round: the test would see it if a training row changed.
    turn_label(path, kept[0])
    assert prompts()[2] != before
