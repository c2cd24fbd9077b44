"""Public datasets by name: files in the original's form, with invented values, become what the preset loads."""

import gzip
import logging
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import recbole_msr
from recbole_msr.cli import main
from recbole_msr.data.public import convert
from recbole_msr.data.public.catalog import SETS
from recbole_msr.data.public.json_lines import read_json_lines
from recbole_msr.data.public.spec import JsonForm
from recbole_msr.errors import InputError
from recbole_msr.files.yaml import read_yaml
from tests.public_samples import SAMPLES, N, aliexpress, amazon_2018, kuairand, movielens


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Return the dataset's folder of a name; each is converted once."""
    made = {}

    def convert_once(name):
        if name not in made:
            raw = tmp_path_factory.mktemp(f"raw-{name}")
            SAMPLES[name][0](raw)
            made[name] = convert(name, raw, tmp_path_factory.mktemp(f"out-{name}"))
        return made[name]

    return convert_once


def _read(folder, suffix):
    return pd.read_csv(folder / f"{folder.name}.{suffix}", sep="\t", dtype=str, keep_default_na=False, quoting=3)


def _settings(folder, tmp_path):
    preset = read_yaml(folder / f"{folder.name}.yaml")
    return {**preset, "data_path": str(folder.parent), "use_gpu": False, "state": "ERROR", "cache_dir": str(tmp_path)}


@pytest.mark.parametrize("name", SAMPLES)
def test_every_row_arrives_and_the_preset_loads(name, converted, tmp_path):
    from recbole.data import create_dataset

    from recbole_msr.config.build import build_config

    folder = converted(name)
    rows = sum(len(_read(folder, path.name.removeprefix(f"{name}."))) for path in folder.glob("*.inter"))
    assert rows == SAMPLES[name][1]
    config = build_config("SharedBottom", name, _settings(folder, tmp_path))
    dataset = create_dataset(config)
    splits = dataset.build()
    assert len(dataset.scenario_names) == SAMPLES[name][2]
    assert all(len(split.inter_feat) for split in splits)
    assert {task.name for task in dataset.schema.tasks} == set(config["tasks"])


@pytest.mark.parametrize("name", ["kuairand-pure", "ali-ccp", "frappe"])
def test_a_preset_trains(name, converted, tmp_path):
    folder = converted(name)
    config = _settings(folder, tmp_path) | {"epochs": 1, "output_dir": str(tmp_path / "run"), "train_batch_size": 128}
    result = recbole_msr.run("SharedBottom", name, config=config | {"show_progress": False})
    assert result.summary["best_epoch"] == 1


def test_values_of_movielens(converted):
    assert _read(converted("ml-32m"), "item").iloc[3].tolist() == [
        "3",
        "Film, The 3",
        "1983",
        "Adventure Comedy",
        "Adventure",
    ]
    assert _read(converted("ml-32m"), "item").iloc[4]["class:token_seq"] == "(no_genres_listed)"
    assert _read(converted("ml-10m"), "item").iloc[0].tolist() == ["0", "Amélie: 0", "2001", "Action", "Action"]
    film = _read(converted("ml-100k-grouplens"), "item").iloc[2]
    assert film.tolist() == ["3", "Misérables, Les", "1995", "Animation Comedy", "Animation"]


def test_values_of_kuairand(converted):
    folder = converted("kuairand-pure")
    assert (_read(folder, "inter")["timestamp:float"] == "1649581149.287").all()
    assert (_read(folder, "item")["tag:token_seq"] == "12 65").all()
    assert len(_read(folder, "user")) == 12


def test_values_of_kuaisar(converted):
    rows = _read(converted("kuaisar"), "inter")
    of_search = rows["service:token"] == "search"
    assert rows["timestamp:float"][0] == "1684742000.123"
    assert rows["timestamp:float"][N] == "1684763932.919"
    assert (rows["like:float"] == "")[of_search].all()
    assert set(rows["click:float"][of_search]) == {"0", "1", "2"}
    assert (rows["keyword:token_seq"][of_search] == "20 34 3").all()
    assert "39" not in set(_read(converted("kuaisar"), "item")["item_id:token"])


def test_values_of_amazon(converted):
    items = _read(converted("amazon-2018"), "item").set_index("item_id:token")
    assert items.loc["B3"].tolist() == ["Soap, 3", "", "Bath_Soaps Beauty"]
    assert items.index.is_unique
    assert "B16" in items.index  # of the second domain
    rows = _read(converted("amazon-2023"), "inter")
    assert set(rows["domain:token"]) == {"All_Beauty", "Video_Games"}
    assert (rows["timestamp:float"] == "1634275259.292").all()


def test_values_of_mind(converted):
    rows = _read(converted("mind-small"), "inter")
    assert rows.iloc[0].tolist() == ["U0", "N0", "1573463158", "1", "0"]
    assert rows.iloc[1].tolist() == ["U0", "N7", "1573463158", "0", "0"]
    assert _read(converted("mind-small"), "item").iloc[3].tolist() == [
        *("N3", "finance", "finance-x", '"Quoted" title 3', "About")
    ]


def test_values_of_tenrec(converted):
    rows = _read(converted("tenrec"), "inter")
    articles = rows[rows["scenario:token"] == "QB-article"]
    assert articles["item_id:token"].str.fullmatch(r"article-\d+").all()
    assert (articles["like:float"] == "").all()
    assert set(rows["category:token"]) == {"0", "1", ""}


def test_values_of_aliexpress_are_those_of_a_join(tmp_path):
    aliexpress(tmp_path / "raw")
    folder = convert("aliexpress", tmp_path / "raw", tmp_path / "out")
    raw = tmp_path / "raw" / "aliexpress_NL_datasets"
    user, item = (pd.read_csv(raw / f"nl_{name}_train.csv", header=None) for name in ("user", "item"))
    rows = pd.read_csv(folder / "aliexpress.train.inter", sep="\t")[:N]
    joined = user.set_index(0).loc[item[0]].reset_index(drop=True)
    np.testing.assert_array_equal(rows["search_id:token"], item[0])
    np.testing.assert_array_equal(rows["categorical_1:token"], joined[1])  # user_2
    np.testing.assert_array_equal(rows["categorical_10:token"], item[18])  # item_19
    np.testing.assert_array_equal(rows["numerical_1:float"], joined[8])  # user_9
    np.testing.assert_array_equal(rows["numerical_24:float"], item[1])  # item_2
    np.testing.assert_array_equal(rows["click:float"], (item[48] >= 1).astype(int))
    np.testing.assert_array_equal(rows["conversion:float"], (item[48] == 2).astype(int))


def test_joined_numbers_of_aliexpress_stay_exact(tmp_path):
    """Single precision has no 16,777,217; what no precision has is refused with file, line and column."""
    aliexpress(tmp_path / "raw")
    path = tmp_path / "raw" / "aliexpress_NL_datasets" / "nl_user_train.csv"
    user = pd.read_csv(path, header=None, dtype=str)
    user.loc[3, [8, 9]] = ["16777217", "123456.789012"]
    user.to_csv(path, header=False, index=False)
    folder = convert("aliexpress", tmp_path / "raw", tmp_path / "out")
    rows = pd.read_csv(folder / "aliexpress.train.inter", sep="\t")[:N]
    joined = user.set_index(0).loc[rows["search_id:token"].astype(str)].reset_index(drop=True)
    for column, name in ((8, "numerical_1:float"), (9, "numerical_2:float"), (10, "numerical_3:float")):
        np.testing.assert_array_equal(rows[name], joined[column].astype(float))
    user.loc[3, 8] = "9007199254740993"
    user.to_csv(path, header=False, index=False)
    with pytest.raises(InputError, match=r"nl_user_train\.csv, line 4: 'user_9' is 9007199254740993, beyond the whole"):
        convert("aliexpress", tmp_path / "raw", tmp_path / "again")


def test_values_of_ali_ccp(converted):
    rows = _read(converted("ali-ccp"), "train.inter")
    row = rows.iloc[13].to_dict()
    assert (row["user_id:token"], row["f121:token"], row["item_id:token"]) == ("7005", "126", "2")
    assert (row["f301:token"], row["f853:token"], row["click:float"], row["purchase:float"]) == ("9352", "0", "1", "1")
    halves = [len(_read(converted("ali-ccp"), f"{part}.inter")) for part in ("valid", "test")]
    assert sum(halves) == N
    assert min(halves) > N / 3


def test_values_of_douban_and_yelp(converted):
    row = _read(converted("douban"), "inter").iloc[0]
    assert row.tolist() == ["0", "book-0", "book", "1", "1335830400", "2012-05-01"]
    assert _read(converted("douban"), "user").iloc[3].tolist() == ["3", "北京", "2007-07"]
    shop = _read(converted("yelp"), "item").iloc[1]
    assert shop.tolist() == ["b1", "A B", "Old City", "FL", "Doctors Health_&_Medical"]
    assert _read(converted("yelp"), "inter")["timestamp:float"][61] == "1531000861"


def test_a_file_that_belongs_to_another_is_missed(tmp_path):
    aliexpress(tmp_path / "raw")
    (tmp_path / "raw" / "aliexpress_US_datasets" / "us_user_test.csv").unlink()
    with pytest.raises(InputError, match=r"neither us_user_test\.csv nor .*, the searches of us_item"):
        convert("aliexpress", tmp_path / "raw", tmp_path / "out")
    (tmp_path / "raw" / "aliexpress_US_datasets" / "us_item_test.csv").unlink()
    with pytest.raises(InputError, match=r"has us_item_train\.csv, but neither us_item_test\.csv"):
        convert("aliexpress", tmp_path / "raw", tmp_path / "out")
    path = tmp_path / "raw" / "aliexpress_NL_datasets" / "nl_user_train.csv"
    path.write_text(path.read_text().split("\n", 1)[1])
    (tmp_path / "raw" / "aliexpress_US_datasets" / "us_item_train.csv").unlink()
    with pytest.raises(InputError, match=r"nl_user_train\.csv lacks item_1 100, which line \d+ of its rows names"):
        convert("aliexpress", tmp_path / "raw", tmp_path / "out")


def test_counts_are_compared_with_the_published_ones(tmp_path, caplog):
    from recbole_msr.data.public.counts import Counts
    from recbole_msr.data.public.spec import Published

    movielens(tmp_path / "raw")
    with caplog.at_level(logging.INFO):
        convert("ml-32m", tmp_path / "raw", tmp_path / "out")
    assert f"{N} rows, published 32,000,204; 20 users, published 200,948" in caplog.text
    counts = Counts(rows=17_749_999)
    assert counts.differences(Published("17.7M")) == []
    assert counts.differences(Published("17.8M")) == ["17,749,999 rows, published 17.8M"]


def test_ids_are_counted_once_however_they_come():
    import pyarrow as pa

    from recbole_msr.data.public.counts import IdSet

    ids, seen, rng = IdSet(), set(), np.random.default_rng(3)
    for _ in range(40):
        batch = [str(one) for one in rng.integers(0, 3000, 200)]
        expected = []
        for one in batch:
            expected.append(one not in seen)
            seen.add(one)
        assert ids.add(pa.array(batch)).tolist() == expected
    assert len(ids) == len(seen)
    asked = [str(one) for one in range(3200)]
    assert ids.contains(pa.array(asked)).tolist() == [one in seen for one in asked]


def test_a_sample_is_of_all_files_and_keeps_its_users_and_items(tmp_path):
    kuairand(tmp_path / "raw")
    folder = convert("kuairand-pure", tmp_path / "raw", tmp_path / "out", sample=25, seed=3)
    rows = _read(folder, "inter")
    assert len(rows) == 25
    assert set(_read(folder, "user")["user_id:token"]) == set(rows["user_id:token"])
    assert set(_read(folder, "item")["item_id:token"]) == set(rows["item_id:token"])


def _replace(path, old, new):
    path.write_text(path.read_text().replace(old, new, 1))


USERS = "data/user_features_pure.csv"
LOG = "data/log_standard_4_22_to_5_08_pure.csv"


def _without_user(path):
    header, first, rest = path.read_text().split("\n", 2)
    path.write_text("\n".join([header, "," + first.partition(",")[2], rest]))


BROKEN = {
    "no log": (lambda raw: (raw / LOG).unlink(), r"has neither log_standard_4_22_to_5_08_pure\.csv nor .*\.gz"),
    "a column": (
        lambda raw: _replace(raw / LOG, "is_like", "is_liked"),
        r"no column 'is_like'; did you mean 'is_liked'",
    ),
    "a line cut": (lambda raw: _replace(raw / LOG, "\n", "\n1,2,3\n"), r"_pure\.csv: line 2 has 3 fields"),
    "a word": (
        lambda raw: _replace(raw / LOG, "1649581149287", "noon"),
        r"csv, line 2 is damaged: 'time_ms' is 'noon'",
    ),
    "no user": (lambda raw: _without_user(raw / LOG), r"csv, line 2 is cut short or damaged: it has no 'user_id'"),
    "not a user": (lambda raw: _replace(raw / USERS, "\n1,", "\n99,"), r"lacks user_id 1, which .*line \d+ names"),
}


@pytest.mark.parametrize(("breaks", "told"), BROKEN.values(), ids=BROKEN)
def test_broken_files_are_named_and_nothing_is_written(breaks, told, tmp_path):
    kuairand(tmp_path / "raw")
    breaks(tmp_path / "raw")
    with pytest.raises(InputError, match=told):
        convert("kuairand-pure", tmp_path / "raw", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "told"),
    [(b'{"asin": "B1", "reviewerID": "A1", "over', r"line 2 is no JSON"), (b"[1]", r"line 2 is no JSON object"),
     (b'{"asin": "B1", "overall": 5.0}', r"line 2 has no 'reviewerID'"),
     (b'{"asin": "B1", "reviewerID": "A1", "overall": "five"}', r"line 2 has values of other types")],
)  # fmt: skip
def test_a_damaged_line_of_json_is_named(line, told, tmp_path):
    amazon_2018(tmp_path / "raw")
    path = tmp_path / "raw" / "All_Beauty_5.json.gz"
    first, rest = gzip.decompress(path.read_bytes()).split(b"\n", 1)
    path.write_bytes(gzip.compress(first + b"\n" + line + b"\n" + rest))
    with pytest.raises(InputError, match=told):
        convert("amazon-2018", tmp_path / "raw", tmp_path / "out")


def test_a_list_of_json_keeps_what_is_no_text(tmp_path):
    path, form = tmp_path / "items.json", JsonForm({"of": pa.list_(pa.string())}, ())
    path.write_text('{"of": "Books"}\n{"of": ["a", 3, null]}\n{"of": ""}\n{"of": null}\n{"of": ["b"]}\n')
    _, batch = read_json_lines(path, 10, form)
    assert batch.columns.column("of").to_pylist() == [["Books"], ["a", "3"], None, None, ["b"]]


def test_names_that_there_are_not_get_the_closest(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    for name, told in (("kuairand-1m", "did you mean 'kuairand-1k'"), ("ml-100k", "RecBole brings ml-100k converted")):
        assert main(["data", name, str(tmp_path / "raw"), str(tmp_path / "out")]) == 2
        assert told in capsys.readouterr().err


SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def test_the_real_log_of_frappe_has_the_published_counts(tmp_path, caplog):
    if not (SHARED / "frappe").is_dir():
        pytest.skip("frappe's log and apps are not in shared/data/frappe beside the checkout")
    (tmp_path / "raw").mkdir()
    for there, name in (("interactions", "frappe"), ("apps", "meta")):
        shutil.copy(SHARED / "frappe" / f"{there}.csv.gz", tmp_path / "raw" / f"{name}.csv.gz")
    with caplog.at_level(logging.INFO):
        folder = convert("frappe", tmp_path / "raw", tmp_path / "out")
    assert "96,203 rows, 957 users, 4,082 items, as published" in caplog.text
    assert len(_read(folder, "item")) == 4082


def test_columns_are_called_as_in_preprocessed_samples():
    """MTReclib's file of AliExpress has the columns that a conversion makes of the original files."""
    sample = SHARED / "formats" / "aliexpress_train_sample.csv"
    if not sample.is_file():
        pytest.skip("a sample of AliExpress is not in shared/data/formats beside the checkout")
    theirs = set(pd.read_csv(sample, nrows=0))
    assert set(SETS["aliexpress"].inter.columns) == theirs | {"country"}


def test_every_set_has_a_sample_in_these_tests():
    same_form = {"ml-1m", "ml-20m", "ml-25m", "kuairand-1k", "kuaisar-small", "mind-large"}
    assert set(SETS) == {*SAMPLES, *same_form}
