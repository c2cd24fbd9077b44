"""Every row of the files is used, or is told to be left out; and what the data cannot be used for is told."""

import json
import logging

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_msr.data.rows_report import revealing_features
from recbole_msr.errors import InputError

SETTINGS = {
    "scenario": {"field": "country"},
    "tasks": {"click": {"field": "clicked"}, "buy": {"field": "bought"}},
    "use_gpu": False,
    "state": "INFO",
    "packed_cache": False,
}
QUICK = {
    "epochs": 1, "show_progress": False, "threads": 1, "sub_experts": 2, "expert_hidden_sizes": [8],
    "task_expert_hidden_sizes": [8], "tower_hidden_sizes": [4],
}  # fmt: skip


def _rows(n=600, seed=2):
    """Interactions of 40 users (u1 ...) and 30 items in three countries, with two labels."""
    draw = np.random.default_rng(seed)
    user, item = draw.integers(1, 41, n), draw.integers(1, 31, n)
    click = ((user * 7 + item * 3) % 5 < 2) ^ (draw.random(n) < 0.2)
    return pd.DataFrame(
        {
            "user_id:token": [f"u{k}" for k in user],
            "item_id:token": [f"i{k}" for k in item],
            "country:token": np.array(["FR", "DE", "US"])[draw.integers(0, 3, n)],
            "clicked:float": click.astype(int),
            "bought:float": (click & (draw.random(n) < 0.5)).astype(int),
            "timestamp:float": 1700000000 + draw.permutation(n),
        }
    )


def _write(path, frame):
    lines = ["\t".join(frame.columns), *("\t".join(map(str, row)) for row in frame.itertuples(index=False))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def files(tmp_path):
    """files(inter, user=..., item=...): write a dataset "shop"."""

    def write(inter, **others):
        (tmp_path / "shop").mkdir(exist_ok=True)
        for suffix, frame in {"inter": inter, **others}.items():
            _write(tmp_path / "shop" / f"shop.{suffix}", frame)

    return write


@pytest.fixture
def start(tmp_path):
    """start(...) -> a dataset that was built, and its splits."""
    from recbole.config import Config
    from recbole.data import create_dataset

    def go(model="HiNet", **settings):
        given = SETTINGS | {"data_path": str(tmp_path)} | settings
        dataset = create_dataset(Config(model=model, dataset="shop", config_dict=given))
        return dataset, dataset.build()

    return go


def _dropped(dataset, suffix="inter"):
    entries = dataset.row_report()["files"][suffix]["dropped"]
    return {(entry["rule"], entry["key"]): entry["rows"] for entry in entries}


def _tokens(splits, field):
    return {str(t) for s in splits for t in s.field2id_token[field][s[torch.arange(len(s))][field].numpy()]}


def _is_complete(report):
    for counts in report["files"].values():
        assert counts["read"] == counts["used"] + sum(entry["rows"] for entry in counts["dropped"])
    for split in report["splits"].values():
        assert split["rows"] == split["used"] + sum(entry["rows"] for entry in split["dropped"])
    assert sum(split["rows"] for split in report["splits"].values()) == report["files"]["inter"]["used"]


def test_quotes_swallow_no_rows(files, start):
    inter = _rows()
    inter.insert(2, "query:token", "plain")
    inter.loc[100, "query:token"], inter.loc[300, "query:token"] = '"quoted start', '12" tv'
    user = pd.DataFrame({"user_id:token": [f"u{k}" for k in range(1, 41)], "name:token": "x"})
    user.loc[3, "name:token"], user.loc[30, "name:token"] = '"a', 'b"'
    item = user.set_axis(["item_id:token", "title:token_seq"], axis=1)
    item["item_id:token"] = [f"i{k}" for k in range(1, 41)]
    files(inter, user=user, item=item)
    dataset, splits = start()
    assert [len(split) for split in splits] == [480, 60, 60]
    assert _tokens(splits, "query") == {"plain", '"quoted start', '12" tv'}
    assert _tokens(splits, "name") == {"x", '"a', 'b"'}
    assert {'"a', 'b"'} < set(dataset.field2id_token["title"])
    _is_complete(dataset.row_report())


WORDS = ["null", "nan", "None", "NA", "N/A"]


@pytest.mark.parametrize("field", ["user_id", "country", "tags"])
def test_only_an_empty_cell_is_missing(field, files, start):
    inter = _rows()
    inter["tags:token_seq"] = [f"a {word}" if n % 2 else word for n, word in enumerate(WORDS * 120)]
    if field != "tags":
        column = f"{field}:token"
        inter[column] = [WORDS[n % 5] if n < 300 else value for n, value in enumerate(inter[column])]
    files(inter)
    dataset, splits = start()
    assert [len(split) for split in splits] == [480, 60, 60]
    if field == "country":
        assert set(dataset.scenario_names) == {"FR", "DE", "US", *WORDS}
    else:
        assert set(dataset.field2id_token[field]) >= set(WORDS)
    assert dataset.row_report()["warnings"] == []


def test_users_without_a_row_of_their_own_are_told(files, start, caplog):
    inter = _rows()
    files(inter, user=pd.DataFrame({"user_id:token": [f"u{k}" for k in range(1, 31)], "age:token": 20}))
    gone = int((~inter["user_id:token"].isin([f"u{k}" for k in range(1, 31)])).sum())
    dataset, splits = start()
    assert sum(map(len, splits)) == 600 - gone
    assert _dropped(dataset) == {("user_id is not in shop.user", "filter_inter_by_user_or_item"): gone}
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert any(line.startswith(f"{gone} of 600 rows of shop.inter are left out") for line in told)
    caplog.clear()
    dataset, splits = start(filter_inter_by_user_or_item=True)  # who asks for it knows
    assert (_dropped(dataset) != {}, dataset.row_report()["warnings"]) == (True, [])
    dataset, splits = start(filter_inter_by_user_or_item=False)
    assert (sum(map(len, splits)), _dropped(dataset)) == (600, {})


def test_ids_that_never_match_are_shown(files, start):
    files(_rows(), user=pd.DataFrame({"user_id:token": range(1, 41), "age:token": 20}))
    with pytest.raises(InputError, match=r"no user_id of shop.inter is in .*shop.user: .*'u\d+'.*has '1', '2', '3'"):
        start()


def test_rows_without_user_or_item_are_told_and_no_others_are_lost(files, start):
    inter = _rows()
    inter.loc[[4, 8], "user_id:token"] = ""
    inter.loc[[8, 500, 501], "item_id:token"] = ""
    files(inter, user=pd.DataFrame({"user_id:token": ["", *inter["user_id:token"].unique()], "age:token": 3}))
    dataset, splits = start()
    assert _dropped(dataset) == {("user_id is empty", None): 2, ("item_id is empty", None): 2}
    kept = inter[(inter["user_id:token"] != "") & (inter["item_id:token"] != "")]
    assert sum(map(len, splits)) == len(kept) == 596
    times = np.concatenate([split.row_times() for split in splits])
    assert sorted(times) == sorted(kept["timestamp:float"])
    assert any("2 of 600 rows" in line and "(for instance line 6)" in line for line in dataset.row_report()["warnings"])
    _is_complete(dataset.row_report())


RULES = {
    "duplicates": ({"rm_dup_inter": "first"}, "rm_dup_inter"),
    "values": ({"val_interval": {"clicked": "[1,1]"}}, "val_interval"),
    "counts": ({"user_inter_num_interval": "[15,inf)"}, "user_inter_num_interval, item_inter_num_interval"),
}


@pytest.mark.parametrize(("given", "key"), RULES.values(), ids=RULES)
def test_every_filter_of_recbole_is_counted(given, key, files, start):
    inter = _rows()
    files(inter, item=pd.DataFrame({"item_id:token": [f"i{k}" for k in range(1, 31)], "price:float": 1}))
    dataset, _ = start(**given, tasks={"buy": {"field": "bought"}})
    counts = inter["user_id:token"].value_counts()
    expected = {
        "rm_dup_inter": int(inter.duplicated(["user_id:token", "item_id:token"]).sum()),
        "val_interval": int((inter["clicked:float"] != 1).sum()),
    }.get(key, int(counts[counts < 15].sum()))
    assert {k: rows for (_, k), rows in _dropped(dataset).items()} == {key: expected}
    assert expected > 0
    assert dataset.row_report()["warnings"] == []
    _is_complete(dataset.row_report())


def test_no_row_left_names_the_rule(files, start):
    files(_rows())
    with pytest.raises(InputError, match=r"no row of shop.inter is left: 600 were read.*600 where.*\(val_interval\)"):
        start(val_interval={"timestamp": "[0,1]"})


def test_rows_without_the_main_label_and_of_other_scenarios_are_counted_by_split(files, start):
    inter = _rows()
    inter["bought:float"] = inter["bought:float"].astype(object)
    inter.loc[::3, "bought:float"] = ""
    files(inter)
    given = {"tasks": {"buy": {"field": "bought", "missing": "ignore"}}}
    for own in ({"model": "DeepFM"}, {"only_scenario": "FR"}, {"model": "DeepFM", "only_scenario": "FR"}):
        dataset, splits = start(**given, **own)
        report = dataset.row_report()
        assert [part["used"] for part in report["splits"].values()] == [len(split) for split in splits]
        assert [part["rows"] for part in report["splits"].values()] == [480, 60, 60]
        _is_complete(report)


@pytest.mark.parametrize("cached", [False, True])
def test_a_run_tells_all_of_it_once(cached, files, tmp_path, monkeypatch, caplog):
    import recbole_msr

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("recbole_msr.data.rows_report._shown", set())
    files(_rows(), user=pd.DataFrame({"user_id:token": [f"u{k}" for k in range(1, 31)], "age:token": 20}))
    given = SETTINGS | QUICK | {"data_path": str(tmp_path), "packed_cache": cached, "cache_dir": str(tmp_path / "c")}
    reports = []
    for output in ("one", "two"):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            recbole_msr.run("HiNet", "shop", config=given | {"output_dir": output})
        lines = [r for r in caplog.records if r.getMessage().startswith("data: ")]
        assert [r.getMessage()[:17] for r in lines] == ["data: shop.inter:", "data: shop.user: "]
        assert [r.shown for r in lines] == [output == "two", True], "the terminal has one line, once"
        (told,) = (r for r in caplog.records if "are left out" in r.getMessage())
        assert told.shown == (output == "two"), "and a warning that it has had already is not repeated"
        log = (tmp_path / output / "run.log").read_text()
        assert all(r.getMessage() in log for r in lines)
        result = json.loads((tmp_path / output / "result.json").read_text())
        assert {name: part["used"] for name, part in result["data"]["splits"].items()} == result["rows"]
        _is_complete(result["data"])
        reports.append(result["data"])
    assert reports[0] == reports[1]


@pytest.mark.parametrize(("rank", "told"), [("0", 1), ("1", 0)])
def test_of_several_processes_the_first_one_warns(rank, told, files, start, monkeypatch, caplog):
    for name in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOCAL_RANK", rank)
    files(_rows(), user=pd.DataFrame({"user_id:token": [f"u{k}" for k in range(1, 31)], "age:token": 20}))
    dataset, _ = start(lightning={"devices": 2, "strategy": "ddp"})
    assert len(dataset.row_report()["warnings"]) == 1
    assert sum("are left out" in record.getMessage() for record in caplog.records) == told


# Numbers


@pytest.mark.parametrize("suffix", ["inter", "item"])
@pytest.mark.parametrize("value", ["inf", "-inf", "1e39"])
def test_a_number_that_is_none_is_named_with_its_line(value, suffix, files, start):
    inter, item = _rows(), pd.DataFrame({"item_id:token": [f"i{k}" for k in range(1, 31)]})
    of = {"inter": inter, "item": item}[suffix]
    of["price:float"] = np.arange(len(of)).astype(object)
    of.loc[7, "price:float"] = value
    files(inter, item=item)
    start()  # as no input it does no harm
    with pytest.raises(InputError, match=rf"shop\.{suffix}, line 9: .*'price' is {float(value):g}".replace("+", r"\+")):
        start(numerical_features=["price"])
    assert start(numerical_features=["price"], val_interval={"price": "[0,1000]"})


def test_a_number_that_is_never_there_is_named(files, start):
    files(_rows().assign(**{"price:float": ""}))
    with pytest.raises(InputError, match=r"shop.inter: the numerical feature 'price' is empty in every row"):
        start(numerical_features=["price"])


def test_large_numbers_are_told_unless_they_are_normalised(files, start):
    files(_rows().assign(**{"price:float": 20_000_000 + np.arange(600), "small:float": np.arange(600) / 30}))
    given = {"numerical_features": ["price", "small"]}
    (told,) = start(**given)[0].row_report()["warnings"]
    assert "'price' goes up to 2.00006e+07" in told
    assert "normalize_field: [price]" in told
    assert start(**given, normalize_field=["price"])[0].row_report()["warnings"] == []
    assert start(**given, normalize_all=True)[0].row_report()["warnings"] == []
    bins = {"price": {"method": "ED", "bucket": 5}}
    assert start(**given, discretization=bins)[0].row_report()["warnings"] == []


# Names


def test_a_listed_value_that_no_row_has_is_told(files, start):
    files(_rows())
    groups = {"west": ["US", "UK"], "europe": ["FR", "DE"]}
    dataset, _ = start(scenario={"field": "country", "groups": groups})
    (told,) = dataset.row_report()["warnings"]
    assert "group 'west' lists 'UK'" in told


@pytest.mark.parametrize("field", ["user_id:token", "country:token", "tags:token_seq"])
def test_the_name_of_padding_is_refused(field, files, start):
    inter = _rows().assign(**{"tags:token_seq": "a b"})
    inter.loc[11, field] = "a [PAD]" if field.startswith("tags") else "[PAD]"
    files(inter)
    with pytest.raises(InputError, match=r"shop.inter, line 13: .*\[PAD\]"):
        start()


def test_a_field_of_two_files_is_refused(files, start):
    item = pd.DataFrame({"item_id:token": [f"i{k}" for k in range(1, 31)], "country:token": "FR"})
    files(_rows(), item=item)
    with pytest.raises(InputError, match=r"shop.item: field 'country' is in the inter file too"):
        start()


@pytest.mark.parametrize("key", ["load_col", "unload_col"])
def test_a_listed_column_that_is_not_there_is_told(key, files, start):
    files(_rows())
    given = {"load_col": {"inter": ["user_id", "item_id", "cuntry"]}, "unload_col": {"inter": ["cuntry"]}}
    (told,) = start(**{key: given[key]})[0].row_report()["warnings"]
    assert told.startswith(f"{key}: shop.inter has no field 'cuntry'; did you mean 'country'? it has user_id, ")


# Memory


def test_one_long_token_takes_its_own_length(files, start):
    inter = _rows(5000)
    inter["note:token"] = [f"note {n}" for n in range(4999)] + ["x" * 8000]
    files(inter)
    tokens = start()[0].field2id_token["note"]
    assert (len(tokens), max(map(len, tokens))) == (5001, 8000)
    assert tokens.nbytes == 8 * 5001, "a fixed width would take 160 MB"


def test_one_long_sequence_is_told_with_what_cuts_it(files, start):
    item = pd.DataFrame({"item_id:token": [f"i{k}" for k in range(1, 4001)], "tags:token_seq": "a b"})
    item.loc[17, "tags:token_seq"] = " ".join(f"t{n}" for n in range(3000))
    files(_rows(), item=item)
    (told,) = start()[0].row_report()["warnings"]
    assert told.startswith("shop.item, line 19: 'tags' holds a sequence of 3000 values")
    assert "92 MiB: seq_len: {tags: 2}" in told
    dataset, _ = start(seq_len={"tags": 2})
    assert dataset.row_report()["warnings"] == []
    assert dataset.item_feat["tags"].shape == (4001, 2)


# Features that give the label away

KINDS = {
    "a token": ("paid:token", lambda bought, draw: np.where(bought == 1, "yes", "no")),
    "a token with exceptions": (
        "paid:token",
        lambda bought, draw: np.where((bought == 1) | (draw < 0.01), "yes", "no"),
    ),
    "an id of its own": ("receipt:token", lambda bought, draw: np.where(bought == 1, [f"r{x}" for x in draw], "none")),
    "a number": ("paid:float", lambda bought, draw: bought * 10 + draw),
    "a sequence": ("steps:token_seq", lambda bought, draw: np.where(bought == 1, "cart paid", "cart")),
    "a sequence that is there or not": ("steps:token_seq", lambda bought, draw: np.where(bought == 1, "", "cart left")),
    "a sequence beside much else": (
        "steps:token_seq",
        lambda bought, draw: [
            f"a{int(x * 7)} b{int(x * 31)}" + " paid" * int(y) for x, y in zip(draw, bought, strict=True)
        ],
    ),
    "a number that is there or not": ("paid:float", lambda bought, draw: np.where(bought == 1, draw.round(3), "")),
}


@pytest.mark.parametrize(("column", "make"), KINDS.values(), ids=KINDS)
def test_a_feature_that_gives_a_label_away_is_told(column, make, files, start, tmp_path):
    inter = _rows(3000)
    inter[column] = make(inter["bought:float"].to_numpy(), np.random.default_rng(3).random(3000))
    files(inter)
    field, _, kind = column.partition(":")
    given = {"numerical_features": [field] if kind == "float" else [], "normalize_all": False}
    for _ in range(2):  # the second start reads what the first has kept
        dataset, _ = start(**given, packed_cache=True, cache_dir=str(tmp_path / "cache"))
        (told,) = dataset.row_report()["warnings"]
        assert told.startswith(f"'{field}' alone ranks the task 'buy' almost perfectly (AUC ")
        assert f"unload_col: {{inter: [{field}]}}" in told
    assert start(unload_col={"inter": [field]}, numerical_features=[])[0].row_report()["warnings"] == []


@pytest.mark.parametrize("column", ["quality:float", "tags:token_seq"])
def test_a_fact_of_an_item_that_gives_a_label_away_is_told(column, files, start):
    inter = _rows(3000)
    bought = inter["item_id:token"].str[1:].astype(int) % 3 == 0
    item = pd.DataFrame({"item_id:token": [f"i{k}" for k in range(1, 31)]})
    kept = np.arange(1, 31) % 3 == 0
    item[column] = kept * 5.0 + 1 if column.endswith("float") else np.where(kept, "new kept", "new")
    files(inter.assign(**{"bought:float": bought.astype(int)}), item=item)
    field = column.partition(":")[0]
    given = {"numerical_features": [field] if column.endswith("float") else []}
    (told,) = start(**given)[0].row_report()["warnings"]
    assert told.startswith(f"'{field}' alone ranks the task 'buy' almost perfectly (AUC 1.000")
    assert f"unload_col: {{item: [{field}]}}" in told


def test_features_that_only_tell_something_are_not_told(files, start):
    """Also an id of every row, which a training row could be looked up by, and a field of 19 in 20 the label."""
    inter = _rows(3000)
    inter["row:token"] = range(3000)
    inter["hint:token"] = np.where(np.random.default_rng(1).random(3000) < 0.95, inter["bought:float"], 1)
    inter["words:token_seq"] = "x" + inter["hint:token"].astype(str) + " n" + inter["row:token"].astype(str)
    files(inter)
    assert start()[0].row_report()["warnings"] == []


def test_ml_100k_has_no_such_feature():
    from recbole.config import Config
    from recbole.data import create_dataset

    given = {"use_gpu": False, "state": "ERROR", "packed_cache": False}
    dataset = create_dataset(Config(model="HiNet", dataset="ml-100k", config_dict=given))
    dataset.build()
    assert revealing_features(dataset) == []
    assert dataset.row_report()["warnings"] == []


# Encodings


@pytest.mark.parametrize("model", ["HiNet", "DeepFM"])
def test_files_are_utf8_whatever_the_locale_is(model, files, start, monkeypatch):
    """Also the header, which RecBole opens in the locale's encoding; with tasks and without."""
    import builtins

    opened = builtins.open
    monkeypatch.setattr(  # as in a locale without UTF-8
        builtins, "open",
        lambda file, mode="r", buffering=-1, encoding=None, *a, **k: opened(
            file, mode, buffering, encoding or (None if "b" in mode else "ascii"), *a, **k
        ),
    )  # fmt: skip
    files(_rows().assign(**{"größe:token": "ñ"}))
    given = {} if model == "HiNet" else {"tasks": None, "scenario": None, "LABEL_FIELD": "clicked", "load_col": None}
    given |= {"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": None, "mode": "labeled"}}
    dataset, _ = start(model, **given)
    assert dataset.field2id_token["größe"].tolist() == ["[PAD]", "ñ"]


def test_ids_that_load_col_leaves_out_are_told_as_such(tmp_path, make_dataset):
    with pytest.raises(
        InputError, match=r"load_col: inter must list 'item_id', the items' ids \(.*tiny\.inter has it\)"
    ):
        make_dataset(load_col={"inter": ["user_id", "rating", "timestamp"]}, scenario=None)


def test_a_line_that_was_cut_off_is_named_beside_what_it_lacks(tiny_data, make_dataset):
    path = tiny_data / "tiny" / "tiny.inter"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[7] = "\t".join(lines[7].split("\t")[:2])
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(
        InputError, match=r"'rating' has no number .* \(tiny\.inter: 1 line has fewer cells .* line 8\)"
    ):
        make_dataset()
