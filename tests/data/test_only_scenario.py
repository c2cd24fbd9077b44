"""A run of one scenario alone: the rows that scenario has in the split of all, and nothing else of the others."""

import json
import logging

import numpy as np
import pandas as pd
import pytest
import torch

import recbole_msr
from recbole_msr import registry
from recbole_msr.errors import InputError

TASKS = {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5, "missing": "ignore"}}
AGES = {"field": "age", "bins": [25, 35], "names": ["young", "mid", "old"]}
SETTINGS = {
    "load_col": None,
    "scenario": AGES,
    "tasks": TASKS,
    "numerical_features": ["price"],
    "normalize_field": ["price"],
    "packed_cache": False,
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
    "threads": 1,
}
SMALL = {
    "embedding_size": 4,
    "sub_experts": 2,
    "expert_hidden_sizes": [8],
    "task_expert_hidden_sizes": [8],
    "tower_hidden_sizes": [4],
    "epochs": 1,
    "train_batch_size": 128,
}
IN_SCENARIO_SHARES = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "scenario", "mode": "labeled"}
# Where the scenario is kept, and how it is declared: (declaration, the one that is left).
PLACES = {
    "bins of users": (AGES, "mid"),
    "groups of users": ({"field": "gender", "groups": {"women": ["F"]}, "other": "others"}, "others"),
    "values of items": ({"field": "shelf"}, "b"),
    "values of interactions": ({"field": "tab"}, 10),
    "groups of interactions": ({"field": "tab", "groups": {"home": [1], "rest": [2, 10]}}, "rest"),
}


@pytest.fixture
def data(tiny_data):
    """The data_path of "tiny" with an item's shelf and an interaction's tab, and some ratings missing."""
    folder, draw = tiny_data / "tiny", np.random.default_rng(7)
    items = pd.read_csv(folder / "tiny.item", sep="\t")
    items["shelf:token"] = draw.choice(["a", "b", "c"], len(items))
    items.to_csv(folder / "tiny.item", sep="\t", index=False)
    inter = pd.read_csv(folder / "tiny.inter", sep="\t")
    inter["tab:token"] = draw.choice([1, 2, 10], len(inter), p=[0.2, 0.3, 0.5])
    inter.to_csv(folder / "tiny.inter", sep="\t", index=False)
    return tiny_data


@pytest.fixture
def start(data):
    """start(model, **settings) -> a dataset and its splits."""
    from recbole.config import Config
    from recbole.data import create_dataset

    def make(model="HiNet", **settings):
        given = SETTINGS | {"data_path": str(data), "cache_dir": str(data / "cache")} | settings
        dataset = create_dataset(Config(model=model, dataset="tiny", config_dict=given))
        return dataset, dataset.build()

    return make


@pytest.fixture
def train(data, tmp_path):
    """train(model, folder, **settings) -> the result of a run of one epoch, below tmp_path."""

    def make(model="HiNet", folder="run", **settings):
        own = {"data_path": str(data), "output_dir": str(tmp_path / folder), "epochs": 1, "embedding_size": 4}
        return recbole_msr.run(model, "tiny", config=SETTINGS | (SMALL if model == "HiNet" else {}) | own | settings)

    return make


def _batch(split):
    return split[torch.arange(len(split))]


def _same_rows(alone, full, id_in_full):
    """Every field of the splits alone is that of the full splits' rows with this scenario, in their order."""
    for mine, all_rows in zip(alone, full, strict=True):
        mine, all_rows = _batch(mine), _batch(all_rows)
        inside = torch.nonzero(all_rows["scenario"] == id_in_full).flatten()
        assert 0 < len(inside) < len(all_rows["scenario"])
        assert set(mine.columns) == set(all_rows.columns)
        for field in mine.columns:
            expected = torch.ones_like(inside) if field == "scenario" else all_rows[field][inside]
            assert torch.equal(mine[field], expected), field


@pytest.mark.parametrize("group_by", [None, "scenario"])
@pytest.mark.parametrize(("declared", "name"), PLACES.values(), ids=PLACES)
def test_the_rows_are_those_of_the_scenario_in_the_full_split(declared, name, group_by, start):
    given = {"scenario": declared, "eval_args": IN_SCENARIO_SHARES | {"group_by": group_by}}
    full, all_splits = start(**given)
    dataset, splits = start(**given, only_scenario=name)
    _same_rows(splits, all_splits, full.scenario_names.index(str(name)) + 1)
    for one in (dataset, *splits):
        assert one.scenario_names == [str(name)]
        assert one.scenario_shares == [1.0]
        assert one.split_sizes == [len(split) for split in splits]
        assert one.field2id_token["scenario"].tolist() == ["[PAD]", str(name)]
        assert (one.token2id("scenario", str(name)), one.num("scenario")) == (1, 2)
        assert one.number_scale == full.number_scale
        for field in set(full.field2id_token) - {"scenario"}:
            assert one.field2id_token[field].tolist() == full.field2id_token[field].tolist()
    again = dataset.build()
    _same_rows(again, all_splits, full.scenario_names.index(str(name)) + 1)


@pytest.mark.parametrize(("declared", "name"), PLACES.values(), ids=PLACES)
def test_users_and_items_of_other_scenarios_are_of_an_unknown_one(declared, name, start):
    full, _ = start(scenario=declared)
    _, splits = start(scenario=declared, only_scenario=name)
    index = full.scenario_names.index(str(name)) + 1
    for table in ("user_feat", "item_feat"):
        whole, alone = getattr(full, table), getattr(splits[0], table)
        for field in whole.columns:
            expected = whole[field] if field != "scenario" else (whole[field] == index).long()
            assert torch.equal(alone[field], expected), field


def test_what_holds_all_scenarios_is_left_as_it_is(start):
    full, all_splits = start()
    _, splits = start(only_scenario="mid")
    for split, of_all in zip(splits, all_splits, strict=True):
        kept = split.all_scenarios
        assert kept.scenario_names == ["young", "mid", "old"]
        assert kept.scenario_shares == full.scenario_shares
        a, b = _batch(kept), _batch(of_all)
        assert all(torch.equal(a[field], b[field]) for field in b.columns)
    assert all(split.all_scenarios is None for split in all_splits)


# The cache


@pytest.mark.parametrize("first", [None, "old"])
def test_all_scenarios_share_one_entry_of_the_cache(first, start, data, monkeypatch):
    from recbole.data.dataset import Dataset

    full, all_splits = start()
    original, read = Dataset._load_data, []
    monkeypatch.setattr(Dataset, "_load_data", lambda self, *args: (read.append(1), original(self, *args))[1])
    start(packed_cache=True, only_scenario=first)
    (entry,) = (data / "cache").glob("tiny-*")
    content = {path.name: path.read_bytes() for path in entry.iterdir()}
    for name in ("mid", "young", "old"):
        dataset, splits = start(packed_cache=True, only_scenario=name)
        assert dataset.scenario_names == [name]
        _same_rows(splits, all_splits, full.scenario_names.index(name) + 1)
    whole, from_cache = start(packed_cache=True)
    assert whole.scenario_names == full.scenario_names
    assert whole.scenario_shares == full.scenario_shares
    for mine, expected in zip(from_cache, all_splits, strict=True):
        mine, expected = _batch(mine), _batch(expected)
        assert all(torch.equal(mine[field], expected[field]) for field in expected.columns)
    assert len(read) == 1
    assert [path.name for path in (data / "cache").glob("tiny-*")] == [entry.name]
    assert {path.name: path.read_bytes() for path in entry.iterdir()} == content


def test_only_the_named_scenario_is_warned_of(start, data, caplog):
    inter = pd.read_csv(data / "tiny" / "tiny.inter", sep="\t")
    inter.loc[inter["tab:token"] != 10, "rating:float"] = 1  # tabs 1 and 2 have one class
    inter.to_csv(data / "tiny" / "tiny.inter", sep="\t", index=False)
    for cached in (False, True, True):
        warned = {}
        for name in (None, 2, 10):
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                start(scenario={"field": "tab"}, only_scenario=name, packed_cache=cached)
            warned[name] = [r.getMessage() for r in caplog.records if "undefined" in r.getMessage()]
        assert len(warned[None]) == 12, "two tabs, two tasks, three splits"
        assert warned[2] == [message for message in warned[None] if "scenario '2'" in message]
        assert warned[10] == []


# Models


def _models():
    from recbole_msr.models.base import MultiScenarioRecommender

    return [n for n in registry.BUILT_IN_MODELS if issubclass(registry.model_class(n), MultiScenarioRecommender)]


@pytest.mark.parametrize("model", [*_models(), "DeepFM"])
def test_every_model_trains_on_one_scenario(model, train, start):
    own = {"knowledge": "random", "knowledge_size": 8} if model == "LLM4MSR" else {}
    result = train(model, only_scenario="mid", **own)
    splits = start(model, only_scenario="mid")[1]
    assert result.summary["scenarios"] == ["mid"]
    assert result.summary["rows"] == dict(zip(("train", "valid", "test"), map(len, splits), strict=True))
    cells = result.summary["test"]["cells"]
    assert list(cells) == ["mid"]
    assert list(cells["mid"]) == (["click"] if model == "DeepFM" else ["click", "like"])
    labels = splits[2].inter_feat["label_click"]
    assert cells["mid"]["click"]["rows"] == len(labels)
    assert cells["mid"]["click"]["positives"] == int(labels.sum())


def test_embedding_tables_are_as_large_as_with_all_scenarios(start):
    from recbole.utils import get_model

    shapes = []
    for name in (None, "mid"):
        _, splits = start("HiNet", only_scenario=name, **SMALL)
        model = get_model("HiNet")(splits[0].config, splits[0])
        shapes.append({key: tuple(value.shape) for key, value in model.features.state_dict().items()})
        assert model.n_scenarios == (3 if name is None else 1)
    assert shapes[0] == shapes[1]


# The finished run


@pytest.mark.parametrize(("declared", "name"), PLACES.values(), ids=PLACES)
def test_a_run_alone_scores_its_own_rows_as_in_the_test_and_others_as_unknown(declared, name, data, train):
    from recbole.quick_start import load_data_and_model

    result = train("HiNet", scenario=declared, only_scenario=name)
    _, model, dataset, trained, _, test = load_data_and_model(str(result.folder / "best.ckpt"))
    model.eval()
    with torch.no_grad():
        expected = model.predict_tasks(_batch(test._dataset))
    split = trained._dataset
    seen = {f: {*dataset.id2token(f, split.inter_feat[f].numpy())} for f in ("user_id", "item_id")}

    def unknown(frame, outside=0):
        """Rows whose user or item has no training row of this scenario, and rows of another one."""
        counts = {f: int((~frame[f].astype(str).isin(seen[f])).sum()) for f in seen} | {"scenario": outside}
        return {field: count for field, count in counts.items() if count}

    def counted(scored):
        return {field: count for field, count in scored.unknown.items() if field in (*seen, "scenario")}

    inter = test._dataset.inter_feat
    keys = pd.DataFrame({f: dataset.id2token(f, inter[f].numpy()) for f in ("user_id", "item_id")})
    tables = {
        suffix: pd.read_csv(data / "tiny" / f"tiny.{suffix}", sep="\t").rename(columns=lambda c: c.split(":")[0])
        for suffix in ("inter", "user", "item")
    }
    joined = tables["inter"].merge(tables["user"], on="user_id").merge(tables["item"], on="item_id")
    rows = keys.merge(joined, on=["user_id", "item_id"], how="left")
    saved = recbole_msr.load(result.folder)
    scored = saved.score(rows)
    np.testing.assert_allclose(scored.scores.to_numpy(), expected.numpy(), atol=1e-6)
    assert counted(scored) == unknown(rows)

    # All rows, with the scenario's field in the rows, or in the run's tables alone.
    values = joined[declared["field"]]
    if "bins" in declared:
        inside = (values >= 25) & (values < 35)
    elif "groups" in declared:
        inside = values != {"others": "F", "rest": 1}[name]
    else:
        inside = values.astype(str) == str(name)
    for columns in (joined, joined[list(tables["inter"])]):
        scored = saved.score(columns)
        assert counted(scored) == unknown(columns, int((~inside).sum()))
        assert bool(((scored.scores > 0) & (scored.scores < 1)).all().all())


def test_a_run_alone_is_explained_with_its_training_rows(train, start):
    _, splits = start("PLE", only_scenario="mid")
    result = train("PLE", only_scenario="mid")
    found = recbole_msr.load(result.folder).explain()
    assert [(view.name, view.rows) for view in found.scenarios] == [("mid", len(splits[0]))]
    assert found.gates
    assert not [note for note in found.notes if "changed" in note]
    tokens = splits[0].id2token("user_id", splits[0].inter_feat["user_id"].numpy())
    for user in found.users:
        assert user.rows == {"mid": int((tokens == user.token).sum())}


def test_a_run_alone_goes_on_where_it_was_stopped(train):
    whole = train("HiNet", "whole", only_scenario="mid", epochs=3)

    class Stop(Exception):
        pass

    import pytorch_lightning as pl

    class AfterTheFirst(pl.Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 1:
                raise Stop

    settings = json.loads(json.dumps({"only_scenario": "mid", "epochs": 3}))
    folder = whole.folder.parent / "stopped"
    data_path = str(whole.folder.parent)
    given = SETTINGS | SMALL | settings | {"data_path": data_path, "output_dir": str(folder)}
    with pytest.raises(Stop):
        recbole_msr.run("HiNet", "tiny", config=given, callbacks=[AfterTheFirst()])
    with pytest.raises(InputError, match=r"only_scenario: 'mid' -> 'old'"):
        recbole_msr.run("HiNet", "tiny", config=given | {"resume": True, "only_scenario": "old"})
    resumed = recbole_msr.run("HiNet", "tiny", config=given | {"resume": True})
    assert resumed.summary["test"] == whole.summary["test"]


# Guards


def test_an_unknown_scenario_is_told_with_the_nearest_and_all(start):
    with pytest.raises(InputError, match=r"no scenario 'yong'; did you mean 'young'\? .* are: young, mid, old\.$"):
        start(only_scenario="yong")


def test_a_name_that_looks_like_arithmetic_is_a_name(start, train):
    ages = {"field": "age", "bins": [28, 38], "names": ["18-28", "28-38", "1/0"]}  # the first two are -10
    _, all_splits = start(scenario=ages)
    for index, name in enumerate(ages["names"], start=1):
        _same_rows(start(scenario=ages, only_scenario=name)[1], all_splits, index)
    result = train("HiNet", scenario=ages, only_scenario="28-38")
    assert result.summary["scenarios"] == ["28-38"]
    assert [view.name for view in recbole_msr.load(result.folder).explain().scenarios] == ["28-38"]


def test_one_of_no_scenarios_is_an_error(start):
    with pytest.raises(InputError, match=r"only_scenario: 'all' is to be one of several scenarios, but none are"):
        start(scenario=None, only_scenario="all")


def test_a_scenario_without_tasks_is_an_error(train):
    with pytest.raises(InputError, match=r"only_scenario: 'mid'.* neither tasks nor a scenario are declared"):
        train("DeepFM", tasks=None, scenario=None, only_scenario="mid")


def test_a_scenario_without_rows_in_a_split_is_an_error_that_names_the_split(start, data):
    inter = pd.read_csv(data / "tiny" / "tiny.inter", sep="\t")
    early, middle = inter["timestamp:float"] < 1100, inter["timestamp:float"].between(1480, 1530)
    for rows, split in ((early, "valid"), (early | middle, "test")):
        inter["tab:token"] = np.where(rows, 2, 1)
        inter.to_csv(data / "tiny" / "tiny.inter", sep="\t", index=False)
        given = {"scenario": {"field": "tab"}, "eval_args": IN_SCENARIO_SHARES | {"order": "TO", "group_by": None}}
        assert len(start(**given)[1]) == 3, "with all scenarios it runs"
        from_cache = {"packed_cache": True, "only_scenario": 2}
        for again in ({}, from_cache, from_cache):
            with pytest.raises(InputError, match=rf"no row of the {split} split is of the scenario '2'.*group_by"):
                start(**given, **({"only_scenario": 2} | again))


def test_a_scenario_that_was_declared_and_has_no_row_is_an_error(start):
    with pytest.raises(InputError, match=r"no row of the train split is of the scenario 'ancient', which has 0 rows"):
        start(scenario=AGES | {"bins": [25, 99], "names": ["young", "old", "ancient"]}, only_scenario="ancient")
