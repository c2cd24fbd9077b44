"""`scenario: {field: city, top: 20, other: rest}`: the most frequent values of the training rows, and a rest."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

import recbole_msr
from recbole_msr.errors import InputError

TASKS = {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5}}
SETTINGS = {
    "load_col": None,
    "tasks": TASKS,
    "scenario": {"field": "tab", "top": 2, "other": "rest"},
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
    "threads": 1,
}
SMALL = {"embedding_size": 4, "bottom_hidden_sizes": [8], "tower_hidden_sizes": [4], "epochs": 1}
BY_SCENARIO = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "scenario", "mode": "labeled"}


@pytest.fixture
def data(tiny_data):
    """The data_path of "tiny", with a tab of every interaction and a town of every user."""
    folder, draw = tiny_data / "tiny", np.random.default_rng(7)
    inter = pd.read_csv(folder / "tiny.inter", sep="\t")
    inter["tab:token"] = draw.choice(list("abcdef"), len(inter), p=[0.1, 0.3, 0.15, 0.3, 0.1, 0.05])
    inter.to_csv(folder / "tiny.inter", sep="\t", index=False)
    users = pd.read_csv(folder / "tiny.user", sep="\t")
    users["town:token"] = [f"t{i % 5}" for i in range(len(users))]
    users.to_csv(folder / "tiny.user", sep="\t", index=False)
    return tiny_data


@pytest.fixture
def start(data):
    """start(**settings) -> a dataset and its splits."""
    from recbole.config import Config
    from recbole.data import create_dataset

    def make(**settings):
        given = SETTINGS | {"data_path": str(data), "cache_dir": str(data / "cache")} | settings
        dataset = create_dataset(Config(model="SharedBottom", dataset="tiny", config_dict=given))
        return dataset, dataset.build()

    return make


def rows_of(split, field):
    """The field's tokens and the scenarios' names of a split's rows."""
    rows = split[torch.arange(len(split))]
    tokens = split.field2id_token[field][rows[field].numpy()]
    return tokens.tolist(), [split.scenario_names[i - 1] for i in rows["scenario"].tolist()]


@pytest.mark.parametrize("field", ["tab", "town"])
@pytest.mark.parametrize("group_by", [None, "scenario"])
def test_the_most_frequent_values_of_training_rows_are_scenarios(start, field, group_by):
    declared = {"field": field, "top": 2, "other": "rest"}
    dataset, splits = start(scenario=declared, eval_args=BY_SCENARIO | {"group_by": group_by})
    counts = Counter(rows_of(splits[0], field)[0])
    top = sorted(sorted(counts), key=lambda token: -counts[token])[:2]
    assert dataset.scenario_names == [*sorted(top), "rest"]
    for split in splits:
        for token, scenario in zip(*rows_of(split, field), strict=True):
            assert scenario == (token if token in top else "rest")
    report = dataset.row_report()["top_scenarios"]
    assert report["other_values"] == len(counts) - 2
    assert report["other_training_rows"] == sum(n for token, n in counts.items() if token not in top)
    again, splits_again = start(scenario=declared, eval_args=BY_SCENARIO | {"group_by": group_by})
    assert again._restored
    assert again.scenario_names == dataset.scenario_names
    assert again.row_report() == dataset.row_report()
    assert rows_of(splits_again[1], field) == rows_of(splits[1], field)


def test_only_training_rows_are_counted_in_a_split_that_is_given(data, start):
    inter = pd.read_csv(data / "tiny" / "tiny.inter", sep="\t")
    first = inter["tab:token"].isin(["e", "f"]) | (inter.index % 4 == 0)
    for name, part in (("one", inter[first]), ("two", inter[~first][::2]), ("three", inter[~first][1::2])):
        part.to_csv(data / "tiny" / f"tiny.{name}.inter", sep="\t", index=False)
    dataset, splits = start(benchmark_filename=["one", "two", "three"])
    counts = Counter(inter[first]["tab:token"])
    assert dataset.scenario_names == [*sorted(dict(counts.most_common(2))), "rest"]
    assert set(rows_of(splits[1], "tab")[1]) <= set(dataset.scenario_names)


def test_values_are_all_scenarios_where_there_are_no_more(start):
    dataset, _ = start(scenario={"field": "tab", "top": 50, "other": "rest"})
    assert dataset.scenario_names == list("abcdef")


def test_a_value_that_only_users_without_rows_have_is_no_scenario(data, start):
    users = pd.read_csv(data / "tiny" / "tiny.user", sep="\t")
    ghost = users.iloc[:1].assign(**{"user_id:token": "ghost", "town:token": "nowhere"})
    pd.concat([users, ghost]).to_csv(data / "tiny" / "tiny.user", sep="\t", index=False)
    dataset, _ = start(scenario={"field": "town", "top": 5, "other": "rest"})
    assert dataset.scenario_names == [f"t{i}" for i in range(5)]
    scenario = torch.as_tensor(dataset.user_feat["scenario"])
    assert scenario[dataset.field2token_id["user_id"]["ghost"]] == 0
    assert scenario.max() == 5


def test_a_run_keeps_the_mapping_for_new_rows(data, tmp_path):
    given = SETTINGS | SMALL | {"data_path": str(data), "output_dir": str(tmp_path / "run"), "packed_cache": False}
    result = recbole_msr.run("SharedBottom", "tiny", config=given)
    assert result.summary["scenarios"] == ["b", "d", "rest"]
    assert result.summary["data"]["top_scenarios"]["other_values"] == 4
    run = recbole_msr.load(tmp_path / "run")
    frame = pd.DataFrame({"user_id": "u1", "item_id": "i1", "rating": 4, "tab": ["b", "a", "new", None]})
    scores = run.predict(frame)[["click", "like"]].to_numpy()
    assert run.dataset.schema.scenario.assign(["b", "d", "a", "new", None], run.dataset.scenario_names).tolist() == [
        *(1, 2, 3, 3, 0)
    ]
    assert not np.allclose(scores[0], scores[1])
    alone = SETTINGS | SMALL | {"data_path": str(data), "output_dir": str(tmp_path / "rest"), "only_scenario": "rest"}
    recbole_msr.run("SharedBottom", "tiny", config=alone | {"packed_cache": False})
    rest = recbole_msr.load(tmp_path / "rest").dataset
    assert rest.schema.scenario.assign(["b", "d", "a", "new"], rest.scenario_names).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"top": 0, "other": "rest"}, "scenario: top must be a whole number of at least 1, got 0"),
        ({"top": 1.5, "other": "rest"}, "top must be a whole number of at least 1, got 1.5"),
        ({"top": True, "other": "rest"}, "top must be a whole number of at least 1, got True"),
        ({"top": 2}, "top needs the name of the scenario of all other values: other: rest"),
        ({"top": 2, "other": "rest", "bins": [1]}, "give bins or top, not both"),
        ({"top": 2, "other": "rest", "names": ["x"]}, "names are for bins"),
        ({"top": 2, "other": "b"}, "'b' is one of the 2 most frequent values"),
        ({"field": "tub", "top": 2, "other": "rest"}, "no field 'tub'"),
    ],
)
def test_an_impossible_declaration_is_named(start, declared, message):
    with pytest.raises(InputError, match=message):
        start(scenario={"field": "tab"} | declared)


def test_one_scenario_alone_must_be_one_that_stays(start):
    with pytest.raises(InputError, match=r"there is no scenario 'a'.*The scenarios are: b, d, rest"):
        start(only_scenario="a")
