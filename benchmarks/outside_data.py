"""Six datasets as atomic files with their scenarios and tasks: ml-100k, and those of a folder of raw data.

| name | rows | scenario | tasks |
|---|---|---|---|
| ml-100k | 100,000 | three ages | click (rating >= 4), like (rating >= 5); as its preset |
| ml-1m | 1,000,209 | three ages | the same; as its preset, the rows of Scenario-Wise-Rec |
| yelp | 174,512 | the five cities with most reviews | good (stars >= 4), best (stars == 5) |
| kuairand | 41,828 | the quarter of the day of the row's hour | is_click, long_view |
| frappe | 96,203 | four times of the day | used (8 times or more), loyal (36 times or more) |
| amazon | 1,324,872 | domain: Beauty, Sports, Toys | click: the rows, and one drawn item of the domain for each |

Splits are RecBole's default, 8:1:1 of all rows at random. The raw files stay where they are; nothing of them belongs to
this project. By default they are looked for in `shared/data`, a folder beside the project's.

    from benchmarks.outside_data import prepare

    dataset, config = prepare("yelp", "data", rows=60_000)
    recbole_msr.run("HiNet", dataset, config=config)
"""

from __future__ import annotations

import csv
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_msr.data.public import convert
from recbole_msr.files.yaml import read_yaml
from recbole_msr.registry import properties

SOURCE = Path(__file__).resolve().parents[2] / "shared" / "data"
"""Where the raw files are looked for."""
MOST_ROWS = 60_000
"""Rows that are enough to compare settings with."""
SEED = 2022
"""Of the users that are kept, and of the negatives."""

Tables = dict[str, pd.DataFrame]
"""Atomic tables by suffix (inter, user, item), columns named `field:type`."""


class AbsentDataError(Exception):
    """The raw files of a dataset are not there."""


def prepare(
    name: str, folder: str | Path, rows: int | None = None, source: str | Path = SOURCE
) -> tuple[str, dict[str, Any]]:
    """Write a dataset's atomic files, unless they are there.

    Args:
        name: one of `DATASETS`.
        folder: what is to be `data_path`.
        rows: at most so many rows, of whole users that are drawn at random (the same ones every time); None for all.
        source: the folder with the raw files, in a folder for each dataset.

    Returns:
        The dataset's name, with the number of rows if they were limited, and the keys of its configuration.

    Raises:
        AbsentDataError: the raw files are not there; it says which.
    """
    read, settings = DATASETS[name]
    dataset = name if rows is None else f"{name}-{rows}"
    config = settings() | {"data_path": str(folder)}
    target = Path(folder, dataset)
    spec = json.dumps({"name": name, "rows": rows, "code": _fingerprint()})
    done = target / "spec.json"
    if done.is_file() and done.read_text() == spec:
        return dataset, config
    tables = read(Path(source))
    if rows is not None:
        tables = whole_users(tables, rows)
    target.mkdir(parents=True, exist_ok=True)
    done.unlink(missing_ok=True)
    for suffix, frame in tables.items():
        frame.to_csv(target / f"{dataset}.{suffix}", sep="\t", index=False, quoting=csv.QUOTE_NONE)
    done.write_text(spec)
    return dataset, config


def missing(name: str, source: str | Path = SOURCE) -> str | None:
    """Why a dataset cannot be prepared; None if it can."""
    absent = [path for path in _files(name, Path(source)) if not path.is_file()]
    return f"{name} is left out: there is no {absent[0]}" if absent else None


def present(names: Iterable[str], source: str | Path = SOURCE) -> Iterator[str]:
    """Yield the datasets that can be prepared, and print of each other why it is left out."""
    for name in names:
        if (why := missing(name, source)) is None:
            yield name
        else:
            print(why)


def whole_users(tables: Tables, rows: int) -> Tables:
    """At most so many interactions: all of some users, drawn at random; and what belongs to them."""
    inter = tables["inter"]
    counts = inter["user_id:token"].value_counts(sort=False).sort_index()
    drawn = counts.iloc[np.random.default_rng(SEED).permutation(len(counts))]
    users = drawn.index[drawn.cumsum() <= rows]
    kept = inter[inter["user_id:token"].isin(users)]
    cut = {"inter": kept}
    for suffix, key in (("user", "user_id:token"), ("item", "item_id:token")):
        if suffix in tables:
            cut[suffix] = tables[suffix][tables[suffix][key].isin(kept[key])]
    return cut


def _files(name: str, source: Path) -> list[Path]:
    return [source / name / file for file in _RAW[name]]


def _read(source: Path, name: str, number: int = 0) -> pd.DataFrame:
    path = _present(source, name)[number]
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def _present(source: Path, name: str) -> list[Path]:
    if (why := missing(name, source)) is not None:
        raise AbsentDataError(why)
    return _files(name, source)


def _fingerprint() -> str:
    return hashlib.blake2b(Path(__file__).read_bytes(), digest_size=8).hexdigest()


# The datasets: their tables, and what a configuration says of them.

_RAW = {
    "ml-100k": (),
    "ml-1m": ("ratings.dat.gz", "users.dat.gz", "movies.dat.gz"),
    "yelp": ("reviews.csv.gz", "categories.csv.gz"),
    "kuairand": ("log.csv.gz",),
    "frappe": ("interactions.csv.gz",),
    "amazon": ("interactions.csv.gz", "items.csv.gz"),
}
_LABELLED = {
    "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": None, "mode": "labeled"},
    "train_neg_sample_args": None,
    "metrics": ["AUC", "LogLoss"],
}


def _ml_100k(source: Path) -> Tables:
    import recbole

    (package,) = recbole.__path__
    return _atomic(Path(package, "dataset_example", "ml-100k"))


def _ml_1m(source: Path) -> Tables:
    with tempfile.TemporaryDirectory() as folder:
        return _atomic(convert("ml-1m", _present(source, "ml-1m")[0].parent, folder))


def _atomic(folder: Path) -> Tables:
    return {
        suffix: pd.read_csv(
            folder / f"{folder.name}.{suffix}", sep="\t", dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE
        )
        for suffix in ("inter", "user", "item")
    }


def _preset(name: str) -> dict[str, Any]:
    """What a preset says of data and tasks; not how to train."""
    declared = read_yaml(properties("dataset", f"{name}.yaml"))
    kept = ("scenario", "tasks", "main_task", "load_col", "numerical_features", "normalize_field")
    return {key: declared[key] for key in kept if key in declared} | _LABELLED


def _yelp(source: Path) -> Tables:
    reviews = _read(source, "yelp").loc[lambda frame: frame["city"] != ""]
    largest = reviews["city"].value_counts().index[:5]
    reviews = reviews[reviews["city"].isin(largest)]
    cities = reviews["city"].astype(float).astype(int).astype(str)
    categories = _read(source, "yelp", 1)
    categories = categories[categories["business_id"].isin(reviews["business_id"])]
    by_business = categories.groupby("business_id", sort=True)["category"].agg(" ".join)
    return {
        "inter": pd.DataFrame(
            {
                "user_id:token": reviews["user_id"],
                "item_id:token": reviews["business_id"],
                "city:token": cities,
                "stars:float": reviews["stars"],
            }
        ),
        "item": pd.DataFrame({"item_id:token": by_business.index, "category:token_seq": by_business.to_numpy()}),
    }


def _yelp_settings() -> dict[str, Any]:
    return _LABELLED | {
        "scenario": {"field": "city"},
        "tasks": {"good": {"field": "stars", "at_least": 4}, "best": {"field": "stars", "at_least": 5}},
        "main_task": "good",
        "load_col": {"inter": ["user_id", "item_id"], "item": ["item_id", "category"]},
    }


def _kuairand(source: Path) -> Tables:
    log = _read(source, "kuairand")
    hour = log["hourmin"].astype(int) // 100
    seconds = log["duration_ms"].astype(float) / 1000
    return {
        "inter": pd.DataFrame(
            {
                "user_id:token": log["user_id"],
                "item_id:token": log["video_id"],
                "hour:token": hour,
                "quarter:token": np.array(["night", "morning", "afternoon", "evening"])[hour // 6],
                "length:token": np.log2(1 + seconds).round().astype(int),  # of the video: twice as long, one more
                "timestamp:float": log["time_ms"].astype(np.int64) / 1000,
                "play_seconds:float": log["play_time_ms"].astype(float) / 1000,
                "is_click:float": log["is_click"],
                "long_view:float": log["long_view"],
            }
        )
    }


def _kuairand_settings() -> dict[str, Any]:
    return _LABELLED | {
        "scenario": {"field": "quarter"},
        "tasks": {"is_click": {"field": "is_click"}, "long_view": {"field": "long_view"}},
        "main_task": "is_click",
        "load_col": {"inter": ["user_id", "item_id", "hour", "length"]},
    }


_CONTEXT = ("weekday", "isweekend", "homework", "cost", "weather", "country", "city")


def _frappe(source: Path) -> Tables:
    use = _read(source, "frappe")
    context = {f"{name}:token": use[name].str.replace(" ", "_") for name in ("daytime", *_CONTEXT)}
    return {
        "inter": pd.DataFrame(
            {"user_id:token": use["user"], "item_id:token": use["item"], **context, "cnt:float": use["cnt"]}
        )
    }


def _frappe_settings() -> dict[str, Any]:
    times = {
        "morning": ["sunrise", "morning"],
        "day": ["noon", "afternoon"],
        "evening": ["sunset", "evening"],
        "night": "night",
    }
    return _LABELLED | {
        "scenario": {"field": "daytime", "groups": times},
        "tasks": {"used": {"field": "cnt", "at_least": 8}, "loyal": {"field": "cnt", "at_least": 36}},
        "main_task": "used",
        "load_col": {"inter": ["user_id", "item_id", "daytime", *_CONTEXT]},
    }


def _amazon(source: Path) -> Tables:
    bought = _read(source, "amazon")
    columns = {"user_id": "user_id:token", "item_id": "item_id:token", "domain": "domain:token"}
    columns["position"] = "timestamp:float"  # the order of a user's rows of a domain; there are no times
    positives = bought[list(columns)].rename(columns=columns)
    drawn = negatives(positives, "user_id:token", "item_id:token", "domain:token")
    pairs = pd.concat([positives.assign(**{"click:float": 1}), drawn.assign(**{"click:float": 0})])
    items = _read(source, "amazon", 1)
    return {
        "inter": pairs.sort_index(kind="stable").reset_index(drop=True),  # each beside its positive
        "item": pd.DataFrame({"item_id:token": items["item_id"], "words:token_seq": items["text"]}),
    }


def negatives(positives: pd.DataFrame, user: str, item: str, domain: str) -> pd.DataFrame:
    """For each row another item of the same domain that the user has no row with, drawn evenly with a fixed seed."""
    rng = np.random.default_rng(SEED)
    users, items = pd.factorize(positives[user])[0], pd.factorize(positives[item])
    known = np.unique(users.astype(np.int64) * len(items[1]) + items[0])
    drawn = np.empty(len(positives), dtype=np.int64)
    for rows in positives.groupby(domain, sort=True).indices.values():
        choices = np.unique(items[0][rows])
        wanted = rows
        while len(wanted):
            drawn[wanted] = rng.choice(choices, len(wanted))
            pairs = users[wanted].astype(np.int64) * len(items[1]) + drawn[wanted]
            wanted = wanted[np.isin(pairs, known)]
    return positives.assign(**{item: np.asarray(items[1])[drawn]})


def _amazon_settings() -> dict[str, Any]:
    return _LABELLED | {
        "scenario": {"field": "domain"},
        "tasks": {"click": {"field": "click"}},
        "main_task": "click",
        "load_col": {"inter": ["user_id", "item_id"], "item": ["item_id", "words"]},
    }


DATASETS: dict[str, tuple[Callable[[Path], Tables], Callable[[], dict[str, Any]]]] = {
    "ml-100k": (_ml_100k, lambda: _preset("ml-100k")),
    "ml-1m": (_ml_1m, lambda: _preset("ml-1m")),
    "yelp": (_yelp, _yelp_settings),
    "kuairand": (_kuairand, _kuairand_settings),
    "frappe": (_frappe, _frappe_settings),
    "amazon": (_amazon, _amazon_settings),
}
"""By name: what reads the raw files, and what a configuration says of them."""
