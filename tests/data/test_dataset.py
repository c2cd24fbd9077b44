"""Scenarios, labels and splits of a dataset, against pandas on the raw files and against RecBole's own Dataset."""

import logging
import random
from collections import Counter
from itertools import chain, pairwise

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_msr.errors import InputError
from recbole_msr.schema import MISSING_LABEL

TASKS = {"click": {"field": "click"}, "good": {"field": "stars", "at_least": 4, "missing": "ignore"}}
SETTINGS = {
    "load_col": None,
    "scenario": {"field": "age", "bins": [30]},
    "tasks": TASKS,
    "packed_cache": False,
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
    "epochs": 1,
}
GROUPS = {"north": ["se", "no"], "south": ["it"]}
SCENARIOS = {
    "bins of a user's number": {"field": "age", "bins": [25, 35]},
    "groups of a user's token": {"field": "country", "groups": GROUPS, "other": "rest"},
    "an item's token": {"field": "shelf"},
    "bins of an item's number": {"field": "price", "bins": [2.5], "keep_field": False},
    "an interaction's token": {"field": "tab"},
    "groups of an interaction's token": {"field": "tab", "groups": {"home": [1], "others": [2, 10]}},
}


def _tables(seed=5, users=50, items=25, rows=500):
    """Raw tables with typed columns: what is written to the files."""
    draw = random.Random(seed)
    user = pd.DataFrame(
        {
            "user_id:token": [f"u{u}" for u in range(users)],
            "age:float": [draw.randint(16, 60) for _ in range(users)],
            "country:token": [draw.choice(["se", "no", "it", "fr"]) for _ in range(users)],
        }
    )
    item = pd.DataFrame(
        {
            "item_id:token": [f"i{i}" for i in range(items)],
            "price:float": [draw.randint(1, 9) / 2 for _ in range(items)],
            "shelf:token": [draw.choice(["b", "a", "c"]) for _ in range(items)],
            "class:token_seq": [
                " ".join(draw.sample(["x", "y", "z"], 1 + i % 3)) if i % 7 else "" for i in range(items)
            ],
        }
    )
    pairs = draw.sample([(u, i) for u in range(users - 2) for i in range(items - 1)], rows)  # not everybody, nor all
    stars = [draw.choice([1, 2, 3, 4, 5, None]) for _ in pairs]
    inter = pd.DataFrame(
        {
            "user_id:token": [f"u{u}" for u, _ in pairs],
            "item_id:token": [f"i{i}" for _, i in pairs],
            "click:float": [draw.randint(0, 1) for _ in pairs],
            "stars:float": stars,
            "tab:token": [draw.choice([10, 1, 2]) for _ in pairs],
            "timestamp:float": draw.sample(range(1000, 9000), rows),
        }
    )
    return {"inter": inter, "user": user, "item": item}


def _write(folder, tables):
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, table in tables.items():
        table.to_csv(folder / f"{folder.name}.{suffix}", sep="\t", index=False)


def _config(tmp_path, tables, model="HiNet", **settings):
    from recbole.config import Config

    _write(tmp_path / "shop", tables)
    return Config(model=model, dataset="shop", config_dict=SETTINGS | {"data_path": str(tmp_path)} | settings)


def _dataset(tmp_path, tables=None, model="HiNet", **settings):
    from recbole.data import create_dataset

    return create_dataset(_config(tmp_path, _tables() if tables is None else tables, model, **settings))


def _recboles_own(tmp_path, tables=None, **settings):
    """RecBole's Dataset on the same files, with no task declared."""
    dataset = _dataset(tmp_path, tables, "DeepFM", **{"tasks": None, "scenario": None, "threshold": None} | settings)
    assert type(dataset).__module__ == "recbole.data.dataset.dataset"
    return dataset


def _rows(dataset, split):
    """Every row of a split as tokens, labels and scenario name, joined with its user and item."""
    batch = split[torch.arange(len(split))]
    frame = pd.DataFrame(
        {
            "user_id": dataset.id2token("user_id", batch["user_id"].numpy()),
            "item_id": dataset.id2token("item_id", batch["item_id"].numpy()),
        }
    )
    for field in batch.columns:
        if field.startswith("label_") or field == "timestamp":
            frame[field] = batch[field].numpy()
        if field == "scenario":
            frame[field] = dataset.id2token("scenario", batch["scenario"].numpy())
    return frame


def _pairs(dataset, split):
    inter = split.inter_feat
    users, items = (dataset.id2token(f, inter[f].numpy()) for f in ("user_id", "item_id"))
    return list(zip(users.tolist(), items.tolist(), strict=True))


def _raw(tables):
    """The joined raw tables, with plain column names."""
    plain = {k: t.rename(columns=lambda c: c.split(":")[0]) for k, t in tables.items()}
    return plain["inter"].merge(plain["user"], on="user_id").merge(plain["item"], on="item_id")


def _expected_scenario(raw, declared):
    field = raw[declared["field"]]
    if "bins" in declared:
        edges = declared["bins"]
        names = [f"{declared['field']}<{edges[0]:g}"]
        names += [f"{a:g}<={declared['field']}<{b:g}" for a, b in pairwise(edges)]
        names.append(f"{declared['field']}>={edges[-1]:g}")
        return [names[sum(value >= edge for edge in edges)] for value in field]
    if "groups" in declared:
        of = {str(v): name for name, values in declared["groups"].items() for v in values}
        return [of.get(str(value), declared.get("other")) for value in field]
    return [str(value) for value in field]


@pytest.mark.parametrize("declared", SCENARIOS.values(), ids=SCENARIOS)
def test_labels_and_scenario_are_those_of_the_raw_files(declared, tmp_path):
    tables = _tables()
    dataset = _dataset(tmp_path, tables, scenario=declared)
    splits = dataset.build()
    found = pd.concat([_rows(dataset, split) for split in splits])
    raw = _raw(tables)
    raw["scenario"] = _expected_scenario(raw, declared)
    raw["label_click"] = raw["click"].astype(float)
    raw["label_good"] = np.where(raw["stars"].isna(), MISSING_LABEL, raw["stars"] >= 4)
    assert len(found) == len(raw) == 500
    both = raw.merge(found, on=["user_id", "item_id"], suffixes=("", "_found"))
    assert len(both) == 500
    for column in ("scenario", "label_click", "label_good", "timestamp"):
        assert (both[column] == both[f"{column}_found"]).all(), column
    assert set(dataset.scenario_names) == set(raw["scenario"])

    train = found["scenario"][: len(splits[0])]
    shares = [float((train == name).mean()) for name in dataset.scenario_names]
    assert splits[0].scenario_shares == pytest.approx(shares)


@pytest.mark.parametrize("name", ["rows", "labels"])
def test_a_task_may_have_any_name(name, tmp_path):
    dataset = _dataset(tmp_path, tasks={name: {"field": "click"}})
    named = _dataset(tmp_path, tasks={"click": {"field": "click"}})
    for one in (dataset, named):
        one.build()
    assert dataset.cells["rows"] == named.cells["rows"]
    assert dataset.cells["labels"][name] == named.cells["labels"]["click"]


def test_scenarios_stand_in_their_declared_or_natural_order(tmp_path):
    def names(**declared):
        return _dataset(tmp_path, scenario=declared).scenario_names

    assert names(field="tab") == ["1", "2", "10"]
    assert names(field="shelf") == ["a", "b", "c"]
    assert names(field="tab", groups={"y": [2], "x": [1, 10]}) == ["y", "x"]
    assert names(field="age", bins=[30], names=["young", "old"]) == ["young", "old"]


def test_the_declared_fields_need_not_be_listed_in_load_col(tmp_path):
    load = {"inter": ["user_id", "item_id"], "user": ["user_id", "country"], "item": ["item_id", "shelf"]}
    tables = _tables()
    tables["item"]["age:float"] = 99.0  # another file's field of the same name, which nobody asked for
    tables["item"]["click:float"] = 1.0
    load["user"].append("age")
    dataset = _dataset(tmp_path, tables, load_col=load)
    assert _scenario_counts(dataset, tables) == Counter(_expected_scenario(_raw_users(tables), SETTINGS["scenario"]))


def _raw_users(tables):
    raw = tables["inter"].merge(tables["user"], on="user_id:token")
    return raw.rename(columns=lambda c: c.split(":")[0])


def _scenario_counts(dataset, tables):
    return Counter(name for split in dataset.build() for name in _rows(dataset, split)["scenario"])


@pytest.mark.parametrize("model", ["HiNet", "DeepFM"])
def test_a_model_never_sees_what_labels_are_made_of(model, tmp_path):
    from recbole.utils import get_model

    tables = _tables()
    tables["inter"] = tables["inter"].rename(columns={"click:float": "click:token"})  # else RecBole ignores it anyway
    config = _config(tmp_path, tables, model, numerical_features=["age"])
    from recbole.data import create_dataset

    train = create_dataset(config).build()[0]
    batch = train[torch.arange(5)]
    assert not {"click", "stars"} & set(batch.columns)
    assert not {"click", "stars"} & set(train.field2type)
    built = get_model(model)(config, train)
    if model == "HiNet":
        fields = {*built.features.token_fields, *built.features.token_seq_fields, *built.features.float_fields}
        assert fields == {"user_id", "item_id", "country", "shelf", "class", "tab", "age"}
    else:
        fields = {*built.token_field_names, *built.token_seq_field_names, *built.float_field_names}
        assert fields == {"user_id", "item_id", "country", "shelf", "class", "tab", "age", "scenario"}


# RecBole's own Dataset on the same files

FILTERS = {
    "none": {},
    "k-core": {"user_inter_num_interval": "[7,inf)", "item_inter_num_interval": "[12,inf)"},
    "values": {"val_interval": {"timestamp": "[2000,8000]", "price": "(1,4]"}, "filter_inter_by_user_or_item": True},
    "duplicates": {"rm_dup_inter": "last"},
    "normalised": {"numerical_features": ["age", "price"], "normalize_field": ["price"]},
}


@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS)
def test_filters_id_maps_and_splits_are_recboles(filters, tmp_path):
    tables = _tables()
    tables["inter"].loc[3, "user_id:token"] = tables["inter"].loc[4, "user_id:token"]
    tables["inter"].loc[3, "item_id:token"] = tables["inter"].loc[4, "item_id:token"]
    tables["user"].loc[7, "age:float"] = None
    ours = _dataset(tmp_path, tables, scenario={"field": "tab", "keep_field": True}, data_seed=11, **filters)
    theirs = _recboles_own(tmp_path, tables, **filters)
    for field in theirs.field2id_token:
        assert ours.field2id_token[field].tolist() == theirs.field2id_token[field].tolist()
    our_splits = ours.build()
    torch.manual_seed(11)
    for ours_split, theirs_split in zip(our_splits, theirs.build(), strict=True):
        all_rows = torch.arange(len(theirs_split))
        our_batch, their_batch = ours_split[all_rows], theirs_split[all_rows]
        assert set(their_batch.columns) - set(our_batch.columns) == {"click", "stars"}
        for field in set(their_batch.columns) - {"click", "stars"}:
            assert torch.equal(our_batch[field], their_batch[field]), field


SPLITS = {
    "random": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": None},
    "random by user": {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "RO", "group_by": "user"},
    "in time": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": None},
    "in time by user": {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "TO", "group_by": "user"},
    "last of every user": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"},
    "by times": {"split": {"TS": [0.7, 0.1, 0.2]}, "order": "TO", "group_by": "user"},
}


@pytest.mark.parametrize("how", SPLITS.values(), ids=SPLITS)
def test_splits_are_recboles_and_depend_on_data_seed_alone(how, tmp_path):
    given = {"eval_args": how | {"mode": "labeled"}, "scenario": None}
    splits = {}
    for seeds in ((1, 7), (2, 7), (1, 8)):
        seed, data_seed = seeds
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        dataset = _dataset(tmp_path, seed=seed, data_seed=data_seed, **given)
        splits[seeds] = [_pairs(dataset, split) for split in dataset.build()]
        assert torch.equal(before, torch.get_rng_state())
    assert splits[1, 7] == splits[2, 7]
    assert (splits[1, 7] == splits[1, 8]) == (how["order"] == "TO")
    assert sorted(chain(*splits[1, 7])) == sorted(chain(*splits[1, 8]))
    theirs = _recboles_own(tmp_path, **given)
    torch.manual_seed(7)
    assert splits[1, 7] == [_pairs(theirs, split) for split in theirs.build()]


def test_a_split_in_time_trains_on_the_past(tmp_path):
    dataset = _dataset(tmp_path, eval_args=SPLITS["in time"] | {"mode": "labeled"})
    times = [split.inter_feat["timestamp"] for split in dataset.build()]
    assert [len(part) for part in times] == [400, 50, 50]
    assert times[0].max() <= times[1].min()
    assert times[1].max() <= times[2].min()


@pytest.mark.parametrize("order", ["RO", "TO"])
@pytest.mark.parametrize("declared", [SCENARIOS["bins of a user's number"], {"field": "tab"}], ids=["user", "inter"])
def test_a_split_by_scenario_gives_every_scenario_the_same_shares(declared, order, tmp_path):
    how = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": order, "group_by": "scenario", "mode": "labeled"}
    tables = _tables()
    dataset = _dataset(tmp_path, tables, eval_args=how, scenario=declared)
    splits = dataset.build()
    rows = [_rows(dataset, split) for split in splits]
    raw = _raw(tables)
    total = Counter(_expected_scenario(raw, declared))
    for name, count in total.items():
        counts = [int((part["scenario"] == name).sum()) for part in rows]
        assert sum(counts) == count
        assert counts[1:] == [int(0.1 * count)] * 2
        if order == "TO":
            times = [part["timestamp"][part["scenario"] == name] for part in rows]
            assert times[0].max() <= times[1].min()
            assert times[1].max() <= times[2].min()
    assert len({pair for split in splits for pair in _pairs(dataset, split)}) == 500
    again = _dataset(tmp_path, tables, eval_args=how, scenario=declared, seed=99)
    assert [_pairs(again, split) for split in again.build()] == [_pairs(dataset, split) for split in splits]


@pytest.mark.parametrize("order", ["RO", "TO"])
@pytest.mark.parametrize("side", ["user", "item"])
def test_a_held_out_user_or_item_has_all_its_rows_in_one_split(side, order, tmp_path):
    how = {"split": {"RS": [6, 2, 2]}, "order": order, "group_by": f"cold_{side}", "mode": "labeled"}
    tables = _tables()
    dataset = _dataset(tmp_path, tables, eval_args=how, data_seed=7, seed=1)
    splits = dataset.build()
    # By hand: RecBole's order of the rows, and then who is where. Ids are given in the order of the first rows.
    raw = _raw(tables).sort_values("timestamp", kind="stable") if order == "TO" else _raw(tables)
    names = pd.unique(_raw(tables)[f"{side}_id"])
    torch.manual_seed(7)
    if order == "RO":
        raw = raw.iloc[torch.randperm(len(raw)).numpy()]
    drawn = names[torch.randperm(len(names)).numpy()]
    fifth = len(names) // 5
    parts = [drawn[: -2 * fifth], drawn[-2 * fifth : -fifth], drawn[-fifth:]]
    for split, owners in zip(splits, parts, strict=True):
        rows = raw[raw[f"{side}_id"].isin(owners)]
        assert _pairs(dataset, split) == list(zip(rows["user_id"], rows["item_id"], strict=True))
    again = _dataset(tmp_path, tables, eval_args=how, data_seed=7, seed=2)
    other = _dataset(tmp_path, tables, eval_args=how, data_seed=8, seed=1)
    assert [_pairs(again, split) for split in again.build()] == [_pairs(dataset, split) for split in splits]
    assert set(_pairs(other, other.build()[2])) != set(_pairs(dataset, splits[2]))


@pytest.mark.parametrize("side", ["user", "item"])
def test_what_is_learned_of_training_rows_knows_nothing_of_held_out_ones(side, tmp_path):
    """Labels, numbers and partners of all rows of held-out users or items are replaced."""
    how = {"split": {"RS": [6, 2, 2]}, "order": "RO", "group_by": f"cold_{side}", "mode": "labeled"}
    given = {"eval_args": how, "data_seed": 7, "min_count": {"user_id": 3, "item_id": 8, "tab": 130}}
    given["scenario"] = {"field": "country", "top": 2, "other": "rest"}
    given["tasks"] = {**TASKS, "minutes": {"field": "minutes", "type": "number", "transform": "quantile"}}

    def learned(folder, tables):
        dataset = _dataset(folder, tables, **given)
        train = dataset.build()[0]
        kept = {
            field: set(np.asarray(dataset.field2id_token[field])[np.flatnonzero(rows)])
            for field, rows in ((field, train.table_rows[field].rows) for field in given["min_count"])
        }
        return (
            train, kept, train.scenario_names, train.scenario_shares, train.label_scale,
            _rows(dataset, train).to_dict("list"),
        )  # fmt: skip

    tables = _tables()
    tables["inter"]["minutes:float"] = np.random.default_rng(0).exponential(size=500)
    before = learned(tmp_path / "honest", tables)
    column, partner = f"{side}_id:token", "item_id:token" if side == "user" else "user_id:token"
    held_out = ~tables["inter"][column].isin(before[-1][f"{side}_id"])
    assert 150 < held_out.sum() < 250
    poisoned = {**tables, "inter": tables["inter"].copy()}
    rows = poisoned["inter"].loc[held_out]
    changes = {"click:float": 1 - rows["click:float"], "stars:float": 5.0, "minutes:float": 1e6, "tab:token": 1}
    changes[partner] = rows[partner].to_numpy()[np.random.default_rng(1).permutation(len(rows))]
    for name, values in changes.items():
        poisoned["inter"].loc[held_out, name] = values
    assert learned(tmp_path / "poisoned", poisoned)[1:] == before[1:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": {"LS": "valid_and_test"}}, r"group_by: cold_item splits by ratio \(RS\), such as .*not {'LS'"),
        ({"split": {"TS": [8, 1, 1]}, "order": "TO"}, r"group_by: cold_item splits by ratio \(RS\)"),
        ({"split": {"RS": [1, 0, 0]}}, "the valid split is empty"),
    ],
)
def test_what_cannot_be_held_out_is_refused(changes, message, tmp_path):
    how = {"split": {"RS": [6, 2, 2]}, "order": "RO", "group_by": "cold_item", "mode": "labeled", **changes}
    _fails(tmp_path, message, eval_args=how)


def test_building_twice_gives_the_same_splits(tmp_path):
    dataset = _dataset(tmp_path)
    first, second = ([_pairs(dataset, split) for split in dataset.build()] for _ in range(2))
    assert first == second


def test_ready_made_splits_are_taken_as_they_are(tmp_path):
    tables = _tables()
    _write(tmp_path / "shop", tables)
    parts = {"train": tables["inter"][:400], "valid": tables["inter"][400:450], "test": tables["inter"][450:]}
    for name, part in parts.items():
        part.to_csv(tmp_path / "shop" / f"shop.{name}.inter", sep="\t", index=False)
    dataset = _dataset(tmp_path, tables, benchmark_filename=["train", "valid", "test"])
    for split, part in zip(dataset.build(), parts.values(), strict=True):
        found = _rows(dataset, split)
        assert found["user_id"].tolist() == part["user_id:token"].tolist()
        assert found["label_click"].tolist() == part["click:float"].tolist()


# RecBole's single-task models


@pytest.mark.parametrize("main_task", ["click", "good"])
def test_single_task_models_get_the_same_rows_with_the_main_tasks_label(main_task, tmp_path):
    from recbole.data import create_dataset, data_preparation

    tables = _tables()
    ours = _dataset(tmp_path, tables, main_task=main_task)
    config = _config(tmp_path, tables, "DeepFM", main_task=main_task)
    dataset = create_dataset(config)
    assert config["LABEL_FIELD"] == f"label_{main_task}"
    loaders = data_preparation(config, dataset)
    for full, loader in zip(ours.build(), loaders, strict=True):
        expected = _rows(ours, full)
        expected = expected[expected[f"label_{main_task}"] != MISSING_LABEL].reset_index(drop=True)
        pd.testing.assert_frame_equal(_rows(dataset, loader._dataset), expected)
    if main_task == "click":
        assert [len(loader._dataset) for loader in loaders] == [400, 50, 50]


@pytest.mark.parametrize("trainer", ["lightning", "recbole"])
def test_deepfm_runs_on_the_tasks_rows(trainer, tmp_path, monkeypatch):
    import recbole_msr

    monkeypatch.chdir(tmp_path)
    tables = _tables()
    _write(tmp_path / "shop", tables)
    given = SETTINGS | {"data_path": str(tmp_path), "main_task": "good", "trainer": trainer, "mlp_hidden_size": [8]}
    given |= {"metrics": ["AUC", "LogLoss"], "valid_metric": "AUC", "threads": 1}
    result = recbole_msr.run("DeepFM", "shop", config=given | {"output_dir": "out"})
    assert sum(result.summary["rows"].values()) == int(tables["inter"]["stars:float"].notna().sum())
    assert result.summary["main_task"] == "good"
    assert 0 <= result.test_metrics["auc"] <= 1


def test_recbole_without_tasks_is_left_alone(tmp_path):
    from recbole.data import create_dataset
    from recbole.data.dataset import Dataset, SequentialDataset
    from recbole.trainer import Trainer
    from recbole.utils import get_trainer

    for model, kind in (("DeepFM", Dataset), ("BPR", Dataset), ("SASRec", SequentialDataset)):
        own = {"train_neg_sample_args": None} if model == "SASRec" else {}
        config = _config(tmp_path, _tables(), model, tasks=None, scenario=None, threshold={"stars": 4}, **own)
        dataset = create_dataset(config)
        assert type(dataset) is kind
        assert get_trainer(config["MODEL_TYPE"], model) is Trainer
        assert config["LABEL_FIELD"] == "label"
        assert "stars" not in dataset.field2type
        assert set(dataset.inter_feat["label"]) == {0, 1}


# Guards


def _fails(tmp_path, told, tables=None, **settings):
    with pytest.raises(InputError, match=told):
        _dataset(tmp_path, tables, **settings).build()


def test_fields_that_are_missing_are_named_with_those_that_exist(tmp_path):
    _fails(tmp_path, r"scenario: no field 'agee'.*did you mean 'age'.*\.user: user_id, age", scenario={"field": "agee"})
    _fails(tmp_path, r"task 'click': no field 'clik'.*did you mean 'click'", tasks={"click": "clik"})
    load = {"inter": ["user_id", "item_id", "timestamp"]}
    _fails(tmp_path, r"'age' is in shop\.user but not loaded: add it to load_col: user", load_col=load)


def test_a_missing_dataset_is_named_with_where_it_was_looked_for(tmp_path):
    from recbole.config import Config
    from recbole.data import create_dataset

    config = Config(model="HiNet", dataset="nowhere", config_dict=SETTINGS | {"data_path": str(tmp_path)})
    with pytest.raises(InputError, match=r"no dataset folder .*nowhere.*data_path"):
        create_dataset(config)


def test_labels_must_be_numbers_of_the_interactions(tmp_path):
    tables = _tables()
    tables["inter"].loc[8, "click:float"] = 3
    _fails(tmp_path, r"task 'click': field 'click' must hold 0 and 1, but holds 3 in 1 rows", tables)
    tables["inter"].loc[8, "click:float"] = None
    _fails(tmp_path, r"task 'click'.*no number in 1 of 500 rows \(the first is \S+/shop.inter, line 10\)", tables)
    _fails(tmp_path, r"task 'old': field 'age' is in the user file", tasks={"old": {"field": "age", "above": 3}})
    _fails(tmp_path, r"task 'click'.*'click'.*numerical_features.*leak", numerical_features=["click"])


def test_numerical_features_must_be_numbers_that_are_there(tmp_path):
    _fails(tmp_path, r"numerical_features: no field 'prize'.*did you mean 'price'", numerical_features=["prize"])
    _fails(tmp_path, r"numerical_features: 'tab' is a token in the files.*tab:float", numerical_features=["tab"])


@pytest.mark.parametrize("name", ["scenario", "label_click"])
def test_names_that_are_needed_may_not_be_in_the_data(name, tmp_path):
    tables = _tables()
    tables["inter"][f"{name}:token"] = "x"
    _fails(tmp_path, rf"the data have a field '{name}'.*rename", tables)


def test_a_field_called_scenario_may_be_the_scenario(tmp_path):
    tables = _tables()
    tables["inter"]["scenario:token"] = tables["inter"]["tab:token"]
    dataset = _dataset(tmp_path, tables, scenario={"field": "scenario"})
    assert dataset.scenario_names == ["1", "2", "10"]
    expected = Counter(tables["inter"]["tab:token"].map(str))
    assert Counter(pd.concat([_rows(dataset, split) for split in dataset.build()])["scenario"]) == expected


def test_fields_that_cannot_be_a_scenario(tmp_path):
    _fails(tmp_path, r"'user_id' identifies a user", scenario={"field": "user_id"})
    _fails(tmp_path, r"'class' holds a sequence", scenario={"field": "class"})
    _fails(tmp_path, r"belong to no scenario.*'country' has the value 'fr'.*other: NAME",
           scenario={"field": "country", "groups": GROUPS})  # fmt: skip


def test_a_missing_scenario_is_an_error_only_where_it_is_needed(tmp_path):
    tables = _tables()
    tables["user"].loc[49, "age:float"] = None  # this user has no interaction
    assert _dataset(tmp_path, tables).build()
    tables["user"].loc[3, "age:float"] = None
    _fails(tmp_path, r"1 of 50 rows of the user file belong to no scenario: field 'age' has no value", tables)
    without = _tables()
    without["user"] = without["user"].drop(index=3)
    rows = int((without["inter"]["user_id:token"] == "u3").sum())
    assert sum(len(split) for split in _dataset(tmp_path, without).build()) == 500 - rows  # RecBole's default
    told = rf"{rows} interactions have a user or item without a value of 'age'"
    _fails(tmp_path, told, without, filter_inter_by_user_or_item=False)
    tabs = _tables()
    tabs["inter"]["tab:token"] = tabs["inter"]["tab:token"].map(str)
    tabs["inter"].loc[5, "tab:token"] = None
    _fails(tmp_path, r"1 of 500 rows of the inter file.*'tab' has no value", tabs, scenario={"field": "tab"})


def test_an_empty_split_is_an_error(tmp_path):
    empty = {"split": {"RS": [0.9, 0.1, 0.0]}, "order": "RO", "group_by": None, "mode": "labeled"}
    _fails(tmp_path, r"the test split is empty: 500 interactions", eval_args=empty)
    _fails(tmp_path, r"three shares.*\[0.9, 0.1\]", eval_args=empty | {"split": {"RS": [0.9, 0.1]}})
    _fails(tmp_path, r"the test split is empty", eval_args=empty | {"split": {"LS": "valid_only"}})


def test_a_split_without_the_main_label_is_an_error_for_a_single_task_model(tmp_path):
    tables = _tables()
    late = tables["inter"]["timestamp:float"] >= tables["inter"]["timestamp:float"].nlargest(50).min()
    tables["inter"].loc[late, "stars:float"] = None
    given = {"eval_args": SPLITS["in time"] | {"mode": "labeled"}, "main_task": "good"}
    assert _dataset(tmp_path, tables, **given).build()
    _fails(tmp_path, r"no row of the test split has a label of the main task 'good'", tables, model="DeepFM", **given)


def test_times_that_order_nothing_are_an_error(tmp_path):
    in_time = SPLITS["in time"] | {"mode": "labeled"}
    tables = _tables()
    tables["inter"]["timestamp:float"] = 5
    _fails(tmp_path, r"every 'timestamp' is 5", tables, eval_args=in_time)
    tables["inter"] = tables["inter"].drop(columns="timestamp:float")
    _fails(tmp_path, r"needs the time field 'timestamp'", tables, eval_args=in_time)


def _late_scenario():
    """Tab 10 is there among the last 20 interactions only."""
    tables = _tables()
    tables["inter"]["tab:token"] = 1 + tables["inter"].index % 2
    late = tables["inter"]["timestamp:float"].nlargest(20).index
    tables["inter"].loc[late, "tab:token"] = 10
    return tables


def test_a_scenario_seen_only_in_test_is_an_error(tmp_path):
    given = {"eval_args": SPLITS["in time"] | {"mode": "labeled"}, "scenario": {"field": "tab"}}
    _fails(
        tmp_path, r"scenario '10' has no training row, only 20 in test.*group_by: scenario", _late_scenario(), **given
    )
    given["eval_args"] = given["eval_args"] | {"group_by": "scenario"}
    splits = _dataset(tmp_path, _late_scenario(), **given).build()
    assert [int((split.inter_feat["scenario"] == 3).sum()) for split in splits] == [16, 2, 2]


def test_given_splits_cannot_hold_out_users(tmp_path):
    how = {"split": {"RS": [6, 2, 2]}, "order": "RO", "group_by": "cold_user", "mode": "labeled"}
    tables = _tables()
    _write(tmp_path / "shop", tables)
    tables["inter"].to_csv(tmp_path / "shop" / "shop.train.inter", sep="\t", index=False)
    files = {"benchmark_filename": ["train", "train", "train"]}
    _fails(tmp_path, "cold_user draws the splits, and benchmark_filename gives them", eval_args=how, **files)


def test_a_split_by_scenario_needs_ratios(tmp_path):
    how = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "scenario", "mode": "labeled"}
    _fails(tmp_path, r"group_by: scenario splits by ratio \(RS\)", eval_args=how)


@pytest.mark.parametrize("cached", [False, True])
def test_one_class_is_warned_of_and_undefined_in_the_result(cached, tmp_path, monkeypatch, caplog):
    import json

    import recbole_msr

    monkeypatch.chdir(tmp_path)
    tables = _tables()
    tables["inter"].loc[tables["inter"]["tab:token"] == 2, "click:float"] = 0
    _write(tmp_path / "shop", tables)
    given = SETTINGS | {"data_path": str(tmp_path), "scenario": {"field": "tab"}, "threads": 1, "state": "WARNING"}
    given |= {"sub_experts": 2, "expert_hidden_sizes": [8], "task_expert_hidden_sizes": [8], "tower_hidden_sizes": [4]}
    given |= {"packed_cache": cached, "cache_dir": str(tmp_path / "cache")}
    for output in ("one", "two"):  # the second start reads the cache, and warns just as well
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            recbole_msr.run("HiNet", "shop", config=given | {"output_dir": output})
        warned = [r.getMessage() for r in caplog.records if "is undefined there" in r.getMessage()]
        assert [w for w in warned if "'click'" in w] == [
            f"scenario '2' has only the label 0 of task 'click' in the {split} split: its AUC is undefined there"
            for split in ("train", "valid", "test")
        ]
        test = json.loads((tmp_path / output / "result.json").read_text())["test"]
        assert ("2", "click") in {(entry["scenario"], entry["task"]) for entry in test["undefined"]}
