"""MovieLens in GroupLens' own formats (https://grouplens.org/datasets/movielens/).

Ages of MovieLens-1M are GroupLens' codes (1, 18, 25, 35, 45, 50, 56), kept as numbers. Of a film's genres, `class` has
all and `first_genre` the first; its title is split from its year.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from recbole_msr.data.public.columns import (
    chained,
    first_of,
    key,
    label,
    labels,
    matched,
    plain_text,
    split,
    token,
    tokens,
    words,
)
from recbole_msr.data.public.spec import Column, PublicSet, Published, Raw, Table
from recbole_msr.files.text_rows import Batch, TextForm

_README = "GroupLens' README"
_RATED = ("user_id", "item_id", "rating", "timestamp")
_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)  # fmt: skip


def _columns(user: str, item: str) -> dict[str, Column]:
    return {"user_id": key(user), "item_id": key(item), **labels("rating timestamp")}


def _title(cells: pa.Array) -> pa.Array:
    return pc.coalesce(matched(r"^(?P<kept>.*?)\s*\(\d{4}\)\s*$")(cells), cells)


def _films(item: str) -> dict[str, Column]:
    return {
        "item_id": key(item),
        "movie_title": words("title", convert=chained(_title, plain_text)),
        "release_year": token("title", convert=matched(r"\((?P<kept>\d{4})\)\s*$")),
        "class": words("genres", convert=split("|")),
        "first_genre": token("genres", convert=chained(split("|"), first_of(" "))),
    }


def _with_genres(batch: Batch) -> Batch:
    """Write the genres that are marked with a 1 in one column, as later versions do."""
    flags = [pc.equal(batch.columns.column(genre), "1") for genre in _GENRES]
    names = [pc.if_else(flag, genre, None) for flag, genre in zip(flags, _GENRES, strict=True)]
    genres = pc.binary_join_element_wise(*names, "|", null_handling="skip")
    return Batch(batch.columns.append_column("genres", genres), batch.place)


def _dat(names: tuple[str, ...], encoding: str = "utf-8") -> TextForm:
    return TextForm(("::",), names, quoted=False, encoding=encoding)


_USERS = ("user_id", "gender", "age", "occupation", "zip_code")
_FILMS = ("item_id", "title", "genres")
_100K = PublicSet(
    "ml-100k-grouplens",
    Table((Raw("u.data", TextForm(("\t",), _RATED)),), _columns("user_id", "item_id")),
    user=Table(
        (Raw("u.user", TextForm(("|",), ("user_id", "age", "gender", "occupation", "zip_code"), quoted=False)),),
        {"user_id": key("user_id"), "age": label("age"), **tokens("gender occupation zip_code")},
        is_complete=True,
    ),
    item=Table(
        (
            Raw(
                "u.item",
                TextForm(
                    ("|",),
                    ("item_id", "title", "date", "video_date", "url", *_GENRES),
                    quoted=False,
                    encoding="latin-1",
                ),
                step=lambda folder, path: _with_genres,
            ),
        ),
        _films("item_id") | {"release_year": token("date", convert=matched(r"(?P<kept>\d{4})$"))},
        is_complete=True,
    ),
    preset="ml-100k",
    published={"": Published(100_000, 943, 1_682)},
    source=_README,
)
_1M = PublicSet(
    "ml-1m",
    Table((Raw("ratings.dat", _dat(_RATED)),), _columns("user_id", "item_id")),
    user=Table(
        (Raw("users.dat", _dat(_USERS)),),
        {"user_id": key("user_id"), "age": label("age"), **tokens("gender occupation zip_code")},
        is_complete=True,
    ),
    item=Table((Raw("movies.dat", _dat(_FILMS, "latin-1")),), _films("item_id"), is_complete=True),
    preset="ml-1m",
    published={"": Published(1_000_209, 6_040)},
    source=_README,
)
_10M = PublicSet(
    "ml-10m",
    Table((Raw("ratings.dat", _dat(_RATED)),), _columns("user_id", "item_id")),
    item=Table((Raw("movies.dat", _dat(_FILMS)),), _films("item_id"), is_complete=True),
    preset="movielens",
    published={"": Published(10_000_054, 69_878)},
    source="RecBole's RecSysDatasets; the README counts 71,567 ids of users",
)


def _of_csv(name: str, rows: int, users: int) -> PublicSet:
    return PublicSet(
        name,
        Table((Raw("ratings.csv"),), _columns("userId", "movieId")),
        item=Table((Raw("movies.csv"),), _films("movieId"), is_complete=True),
        preset="movielens",
        published={"": Published(rows, users)},
        source=_README,
    )


SETS = (
    *(_100K, _1M, _10M),
    _of_csv("ml-20m", 20_000_263, 138_493),
    _of_csv("ml-25m", 25_000_095, 162_541),
    _of_csv("ml-32m", 32_000_204, 200_948),
)
