"""The datasets of the benchmarks: whole users, drawn negatives, labels and scenarios as their table says."""

from pathlib import Path

import pandas as pd
import pytest

from benchmarks import outside_data
from benchmarks.outside_data import AbsentDataError, missing, negatives, prepare, whole_users

SOURCE = Path(__file__).parent.parent.parent / "shared" / "data"


def _raw(folder, name, **tables):
    (folder / name).mkdir()
    for file, frame in tables.items():
        frame.to_csv(folder / name / f"{file}.csv.gz", index=False)


def _interactions(path, dataset):
    return pd.read_csv(path / dataset / f"{dataset}.inter", sep="\t", dtype=str, keep_default_na=False)


def test_whole_users_are_kept_up_to_the_limit_and_always_the_same_ones():
    rows = pd.DataFrame({"user_id:token": list("aaabbccccd"), "item_id:token": list("xyzxyxyzwx")})
    items = pd.DataFrame({"item_id:token": list("xyzw")})
    cut = whole_users({"inter": rows, "item": items}, 6)
    assert 1 <= len(cut["inter"]) <= 6
    for user, kept in cut["inter"].groupby("user_id:token"):
        assert len(kept) == (rows["user_id:token"] == user).sum()
    assert set(cut["item"]["item_id:token"]) == set(cut["inter"]["item_id:token"])
    pd.testing.assert_frame_equal(cut["inter"], whole_users({"inter": rows, "item": items}, 6)["inter"])


def test_negatives_are_other_items_of_the_same_domain():
    rows = pd.DataFrame(
        {
            "user": [f"u{i % 7}" for i in range(60)],
            "item": [f"{'ab'[i % 2]}{i % 13}" for i in range(60)],
            "domain": ["ab"[i % 2] for i in range(60)],
        }
    )
    drawn = negatives(rows, "user", "item", "domain")
    known = set(zip(rows["user"], rows["item"], strict=True))
    assert (drawn["user"] == rows["user"]).all()
    assert all(item[0] == domain for item, domain in zip(drawn["item"], drawn["domain"], strict=True))
    assert not known & set(zip(drawn["user"], drawn["item"], strict=True))
    pd.testing.assert_frame_equal(drawn, negatives(rows, "user", "item", "domain"))


def test_a_quarter_of_the_day_is_that_of_the_hour(tmp_path):
    log = pd.DataFrame(
        {
            "user_id": [1, 1, 2, 2],
            "video_id": [5, 6, 5, 7],
            "hourmin": [0, 600, 1700, 2300],
            "duration_ms": [0, 3000, 7000, 65000],
            "time_ms": [1649581149287, 1649581149288, 5, 6000],
            "play_time_ms": [0, 1500, 12, 7000],
            "is_click": [0, 1, 1, 0],
            "long_view": [0, 0, 1, 0],
        }
    )
    _raw(tmp_path, "kuairand", log=log)
    dataset, config = prepare("kuairand", tmp_path / "out", source=tmp_path)
    rows = _interactions(tmp_path / "out", dataset)
    assert rows["quarter:token"].tolist() == ["night", "morning", "afternoon", "evening"]
    assert rows["length:token"].tolist() == ["0", "2", "3", "6"]  # log2 of 1, 4, 8 and 66
    assert rows["timestamp:float"].tolist() == ["1649581149.287", "1649581149.288", "0.005", "6.0"]
    assert rows["play_seconds:float"].tolist() == ["0.0", "1.5", "0.012", "7.0"]
    assert rows["is_click:float"].tolist() == ["0", "1", "1", "0"]
    assert config["data_path"] == str(tmp_path / "out")


def test_the_five_largest_cities_are_the_scenarios_of_yelp(tmp_path):
    cities = [1.0] * 7 + [2.0] * 6 + [3.0] * 5 + [4.0] * 4 + [5.0] * 3 + [6.0] * 2 + [None] * 9
    reviews = pd.DataFrame({"user_id": 1, "business_id": range(36), "stars": 4, "city": cities})
    categories = pd.DataFrame({"business_id": [0, 0, 35], "category": [8, 9, 8]})
    _raw(tmp_path, "yelp", reviews=reviews, categories=categories)
    dataset, config = prepare("yelp", tmp_path / "out", source=tmp_path)
    rows = _interactions(tmp_path / "out", dataset)
    assert rows["city:token"].value_counts().to_dict() == {"1": 7, "2": 6, "3": 5, "4": 4, "5": 3}
    assert (tmp_path / "out" / "yelp" / "yelp.item").read_text() == "item_id:token\tcategory:token_seq\n0\t8 9\n"
    assert set(config["tasks"]) == {"good", "best"}


def test_files_are_written_once(tmp_path):
    dataset, _ = prepare("ml-100k", tmp_path, rows=500)
    file = tmp_path / dataset / f"{dataset}.inter"
    assert dataset == "ml-100k-500"
    assert len(file.read_text().splitlines()) <= 501
    before = file.stat().st_mtime_ns
    assert prepare("ml-100k", tmp_path, rows=500)[0] == dataset
    assert file.stat().st_mtime_ns == before


def test_absent_raw_data_are_named(tmp_path):
    assert missing("yelp", tmp_path) == f"yelp is left out: there is no {tmp_path / 'yelp' / 'reviews.csv.gz'}"
    with pytest.raises(AbsentDataError, match=r"yelp is left out"):
        prepare("yelp", tmp_path / "out", source=tmp_path)
    assert missing("ml-100k", tmp_path) is None


@pytest.mark.parametrize("name", ["kuairand", "frappe"])
def test_the_raw_data_beside_the_project_can_be_read(name, tmp_path):
    if (why := missing(name, SOURCE)) is not None:
        pytest.skip(why)
    dataset, config = prepare(name, tmp_path, rows=3000, source=SOURCE)
    rows = _interactions(tmp_path, dataset)
    assert 2000 < len(rows) <= 3000
    fields = {column.split(":")[0] for column in rows}
    assert {config["scenario"]["field"], *(task["field"] for task in config["tasks"].values())} <= fields


def test_every_dataset_has_its_files_named():
    assert set(outside_data.DATASETS) == set(outside_data._RAW)
