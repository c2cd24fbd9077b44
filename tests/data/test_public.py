"""Public datasets by name: files in the original's form, with invented values, become what the preset loads."""

import gzip
import json
import logging

import numpy as np
import pandas as pd
import pytest

import recbole_msr
from recbole_msr.cli import main
from recbole_msr.data.public import convert
from recbole_msr.data.public.catalog import SETS
from recbole_msr.errors import InputError
from recbole_msr.files.yaml import read_yaml

N = 240
RNG = np.random.default_rng(7)


def _bits(share=0.5):
    return (RNG.random(N) < share).astype(int)


def _of(values):
    return RNG.choice(values, N)


def _csv(path, frame, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False, **options)


def _lines(path, lines, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + "\n" for line in lines).encode(encoding))


def _json(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def _movielens(raw):
    rows = [f"{u},{i},{r / 2},{t}" for u, i, r, t in zip(_of(20), _of(12), _of(range(1, 11)), _of(10**6), strict=True)]
    _lines(raw / "ml-32m" / "ratings.csv", ["userId,movieId,rating,timestamp", *rows])
    genres = ["Action|Sci-Fi", "Comedy", "Drama", "Adventure|Comedy", "(no genres listed)", "Horror"]
    films = [f'{i},"Film, The {i} (19{80 + i})",{genres[i % 6]}' for i in range(12)]
    _lines(raw / "ml-32m" / "movies.csv", ["movieId,title,genres", *films])


def _movielens_10m(raw):
    _lines(raw / "ratings.dat", [f"{i % 20}::{i % 12}::{i % 5 + 1}::{838985046 + i}" for i in range(N)])
    genres = ["Action", "Comedy", "Drama", "Adventure", "Horror"]
    _lines(raw / "movies.dat", [f"{i}::Amélie: {i} (2001)::{genres[i % 5]}" for i in range(12)])


def _movielens_100k(raw):
    _lines(raw / "u.data", [f"{i % 20 + 1}\t{i % 12 + 1}\t{i % 5 + 1}\t{881250949 + i}" for i in range(N)])
    _lines(raw / "u.user", [f"{i}|{15 + i}|{'MF'[i % 2]}|writer|9810{i}" for i in range(1, 21)])
    flags = ["|".join("1" if g in (5, i % 19) else "0" for g in range(19)) for i in range(1, 13)]
    films = [f"{i}|Misérables, Les (1995)|01-Jan-1995||http://x?{i}|{flags[i - 1]}" for i in range(1, 13)]
    _lines(raw / "u.item", films, "latin-1")


def _kuairand(raw, end="pure", parts=("",)):
    users, videos = range(12), range(30)
    for days in ("4_08_to_4_21", "4_22_to_5_08"):
        for part in parts:
            log = {
                "user_id": _of(users),
                "video_id": _of(videos),
                "date": 20220408,
                "hourmin": 1700,
                "time_ms": 1649581149287,
            }
            log |= {
                name: _bits(0.4) for name in ("is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate")
            }
            log |= {"long_view": _bits(0.3), "play_time_ms": _of(range(10**5)), "duration_ms": _of(range(1, 10**5))}
            log |= {
                "profile_stay_time": 0,
                "comment_stay_time": 0,
                "is_profile_enter": 0,
                "is_rand": 0,
                "tab": _of([0, 1, 2, 4, 6, 9]),
            }
            _csv(raw / "data" / f"log_standard_{days}_{end}{part}.csv", pd.DataFrame(log))
    user = {"user_id": users, "user_active_degree": "full_active", "is_lowactive_period": 0, "is_live_streamer": -124}
    user |= {"is_video_author": 1}
    for name in ("follow_user_num", "fans_user_num", "friend_user_num", "register_days"):
        user |= {name: range(3, 15), f"{name}_range": "(10,50]"}
    user |= {"register_days_range": "730+"} | {f"onehot_feat{i}": 1.0 for i in range(18)}
    _csv(raw / "data" / f"user_features_{end}.csv", pd.DataFrame(user))
    video = {
        "video_id": videos,
        "author_id": 5,
        "video_type": "NORMAL",
        "upload_dt": "2020-07-08",
        "upload_type": "Kmovie",
    }
    video |= {
        "visible_status": 1.0,
        "video_duration": 17200.0,
        "server_width": range(700, 730),
        "server_height": range(1280, 1310),
    }
    video |= {"music_id": 98, "music_type": 4.0, "tag": "12,65"}
    _csv(raw / "data" / f"video_features_basic_{end}.csv", pd.DataFrame(video))
    _csv(raw / "data" / f"log_random_4_22_to_5_08_{end}.csv", pd.DataFrame(log))


def _kuaisar(raw):
    ids = {"user_id": _of(9), "item_id": _of(40)}
    flags = {name: _bits() for name in ("click", "forward", "like", "follow", "search", "search_item_related")}
    rec = {**ids, "time": "2023-05-22 15:53:20", "timestamp": 1684742000123.0 + np.arange(N), **flags}
    _csv(raw / "rec_inter.csv", pd.DataFrame(rec | {"playing_time": 60792.0, "duration_ms": 45400.0}))
    search = {**ids, "search_session_id": range(N), "search_session_time": "2023-05-22 21:58:52"}
    search |= {"search_session_timestamp": 1684763932919 + np.arange(N), "keyword": "[20, 34, 3]"}
    search |= {"search_source": "USER_INPUT", "click_cnt": _of([0, 1, 2]), "item_type": "VIDEO"}
    _csv(raw / "src_inter.csv", pd.DataFrame(search))
    user = {"user_id": range(9), "search_active_level": 1, "rec_active_level": 2, "onehot_feat1": 0, "onehot_feat2": 7}
    _csv(raw / "user_features.csv", pd.DataFrame(user))
    item = {
        "item_id": range(39),
        "caption": "[1, 213]",
        "author_id": 10,
        "item_type": "NORMAL",
        "upload_time": "2023-04-22",
    }
    item |= {"upload_type": "LongImport"}
    for level in ("first", "second", "third", "fourth"):
        item |= {
            f"{level}_level_category_id": 9,
            f"{level}_level_category_name": "搞笑",
            f"{level}_level_category_name_en": "Funny joke",
        }
    _csv(raw / "item_features.csv", pd.DataFrame(item))


def _amazon_2018(raw):
    for domain, first in (("All_Beauty", 0), ("Gift_Cards", 5)):
        rows = zip(_of(20), _of(range(first, first + 15)), _of(range(1, 6)), strict=True)
        other = {"verified": True, "reviewText": "good\nthing", "unixReviewTime": 1424304000, "style": {"Size:": " L"}}
        reviews = [{"overall": float(r), "reviewerID": f"A{u}", "asin": f"B{i}", **other} for u, i, r in rows]
        _json(raw / f"{domain}_5.json.gz", reviews)
        other = {"brand": "", "category": ["Bath Soaps", "Beauty"]}
        products = [{"asin": f"B{i}", "title": f"Soap,\n\t{i}", **other} for i in range(first, first + 17)]
        _json(raw / f"meta_{domain}.json.gz", [*products, products[0] | {"brand": ["odd"]}])


def _amazon_2023(raw):
    for domain in ("All_Beauty", "Video_Games"):
        ids = zip(_of(20), _of(15), _of(range(1, 6)), strict=True)
        other = {"title": "Meh", "images": [], "timestamp": 1634275259292, "verified_purchase": True}
        names = ("user_id", "parent_asin", "rating")
        rows = [dict(zip(names, (f"U{u}", f"{domain[0]}{i}", float(r)), strict=True)) | other for u, i, r in ids]
        _json(raw / f"{domain}.jsonl.gz", rows)
        other = {"main_category": "All Beauty", "price": None, "store": "Lurrose", "categories": []}
        products = [{"title": f"Nails {i}", "parent_asin": f"{domain[0]}{i}", **other} for i in range(15)]
        _json(raw / f"meta_{domain}.jsonl.gz", products)


SAMPLES = {
    "ml-100k-grouplens": (_movielens_100k, N, 3),
    "ml-10m": (_movielens_10m, N, 5),
    "ml-32m": (_movielens, N, 5),
    "kuairand-pure": (_kuairand, 2 * N, 5),
    "kuairand-27k": (lambda raw: _kuairand(raw, "27k", ("_part1", "_part2")), 4 * N, 5),
    "kuaisar": (_kuaisar, 2 * N, 2),
    "amazon-2018": (_amazon_2018, 2 * N, 2),
    "amazon-2023": (_amazon_2023, 2 * N, 2),
}
"""By name: what writes the raw files, their rows, and the scenarios that the preset makes of them."""


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


@pytest.mark.parametrize("name", ["kuairand-pure", "amazon-2018"])
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


def test_counts_are_compared_with_the_published_ones(tmp_path, caplog):
    from recbole_msr.data.public.counts import Counts
    from recbole_msr.data.public.spec import Published

    _movielens(tmp_path / "raw")
    with caplog.at_level(logging.INFO):
        convert("ml-32m", tmp_path / "raw", tmp_path / "out")
    assert f"{N} rows, published 32,000,204; 20 users, published 200,948" in caplog.text
    counts = Counts(rows=17_749_999)
    assert counts.differences(Published("17.7M")) == []
    assert counts.differences(Published("17.8M")) == ["17,749,999 rows, published 17.8M"]


def test_ids_are_counted_once_however_they_come():
    import pyarrow as pa

    from recbole_msr.data.public.counts import IdSet

    ids, seen = IdSet(), set()
    for _ in range(40):
        batch = [str(one) for one in RNG.integers(0, 3000, 200)]
        expected = []
        for one in batch:
            expected.append(one not in seen)
            seen.add(one)
        assert ids.add(pa.array(batch)).tolist() == expected
    assert len(ids) == len(seen)
    asked = [str(one) for one in range(3200)]
    assert ids.contains(pa.array(asked)).tolist() == [one in seen for one in asked]


def test_a_sample_is_of_all_files_and_keeps_its_users_and_items(tmp_path):
    _kuairand(tmp_path / "raw")
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
    _kuairand(tmp_path / "raw")
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
    _amazon_2018(tmp_path / "raw")
    path = tmp_path / "raw" / "All_Beauty_5.json.gz"
    first, rest = gzip.decompress(path.read_bytes()).split(b"\n", 1)
    path.write_bytes(gzip.compress(first + b"\n" + line + b"\n" + rest))
    with pytest.raises(InputError, match=told):
        convert("amazon-2018", tmp_path / "raw", tmp_path / "out")


def test_names_that_there_are_not_get_the_closest(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    for name, told in (("kuairand-1m", "did you mean 'kuairand-1k'"), ("ml-100k", "RecBole brings ml-100k converted")):
        assert main(["data", name, str(tmp_path / "raw"), str(tmp_path / "out")]) == 2
        assert told in capsys.readouterr().err


def test_every_set_has_a_sample_in_these_tests():
    same_form = {"ml-1m", "ml-20m", "ml-25m", "kuairand-1k", "kuaisar-small"}
    assert set(SETS) == {*SAMPLES, *same_form}
