"""MovieLens-1M in GroupLens' own format (https://grouplens.org/datasets/movielens/1m/)."""

from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd

from recbole_msr.errors import InputError

_COLUMNS = {
    "ratings": ["user_id", "item_id", "rating", "timestamp"],
    "users": ["user_id", "gender", "age", "occupation", "zip_code"],
    "movies": ["item_id", "title", "genres"],
}


def convert_ml_1m(raw: Path, sample: int | None, seed: int) -> dict[str, pd.DataFrame]:
    """Return the atomic tables of MovieLens-1M.

    Ages are GroupLens' codes (1, 18, 25, 35, 45, 50, 56), kept as numbers. Of a film's genres, `class` has all and
    `first_genre` the first; its title is split from its year.

    Args:
        raw: folder with ratings.dat, users.dat and movies.dat, plain or gzipped.
        sample: keep this many random ratings, and the users and films in them.
        seed: seed of the sample.

    Returns:
        Tables by the suffix of their atomic file, columns named "field:type".
    """
    ratings, users, movies = (_read(raw, name) for name in ("ratings", "users", "movies"))
    if sample is not None:
        if sample > len(ratings):
            raise InputError(f"--sample {sample} is more than the {len(ratings)} ratings there are")
        ratings = ratings.sample(sample, random_state=seed).sort_index()
        users = users[users["user_id"].isin(ratings["user_id"])]
        movies = movies[movies["item_id"].isin(ratings["item_id"])]
    for name, frame, key in (("users", users, "user_id"), ("movies", movies, "item_id")):
        absent = ~ratings[key].isin(frame[key])
        if absent.any():
            raise InputError(f"{name}.dat lacks {key} {ratings.loc[absent, key].iloc[0]}, which ratings.dat names")
    title = movies["title"].str.extract(r"^(?P<name>.*?)\s*\((?P<year>\d{4})\)\s*$")
    items = pd.DataFrame(
        {
            "item_id:token": movies["item_id"],
            "movie_title:token_seq": title["name"].fillna(movies["title"]),
            "release_year:token": title["year"],
            "class:token_seq": movies["genres"].str.replace("|", " ", regex=False),
            "first_genre:token": movies["genres"].str.split("|").str[0],
        }
    )
    return {
        "inter": ratings.set_axis(["user_id:token", "item_id:token", "rating:float", "timestamp:float"], axis=1),
        "user": users[["user_id", "age", "gender", "occupation", "zip_code"]].set_axis(
            ["user_id:token", "age:float", "gender:token", "occupation:token", "zip_code:token"], axis=1
        ),
        "item": items,
    }


def _read(raw: Path, name: str) -> pd.DataFrame:
    path = next((p for p in (raw / f"{name}.dat", raw / f"{name}.dat.gz") if p.is_file()), None)
    if path is None:
        raise InputError(f"{raw} has neither {name}.dat nor {name}.dat.gz")
    columns = _COLUMNS[name]
    try:
        # "::" between values; a single-character separator keeps pandas on its fast parser, and the empty columns
        # that it then sees between the colons are left out. Titles hold single colons, so they are split by hand.
        if name == "movies":
            with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="latin-1") as file:
                rows = [line.rstrip("\r\n").split("::") for line in file if line.strip()]
            if any(len(row) != len(columns) for row in rows):
                raise ValueError(f"a line of {path.name} has not {len(columns)} values between '::'")
            return pd.DataFrame(rows, columns=columns)
        places = range(0, 2 * len(columns), 2)
        frame = pd.read_csv(path, sep=":", header=None, usecols=list(places), dtype=str, encoding="latin-1")
        frame.columns = pd.Index(columns)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read as GroupLens' {name}.dat: {error}") from error
    broken = frame.isna().any(axis=1)
    for column in ("rating", "timestamp", "age"):
        if column in frame:
            broken |= pd.to_numeric(frame[column], errors="coerce").isna()
    if broken.any():
        raise InputError(
            f"{path} is cut short or damaged: line {int(broken.argmax()) + 1} lacks a value, or a number is none"
        )
    return frame
