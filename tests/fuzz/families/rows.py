"""Files that `recbole-msr predict` scores."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fuzz.case import (
    EITHER,
    PREDICT,
    REFUSED,
    SAME,
    Case,
    Family,
    append,
    as_folder,
    damaged,
    edit,
    write,
)

PARQUET = (*PREDICT[:3], "--data=new.parquet", PREDICT[4])
Change = Callable[[Path, Path], None]
HEAD = "user_id,item_id,country,age,title,class,price\n"


def _table(how: Callable[[Any], Any]) -> Change:
    """Change the Parquet file by its data frame."""

    def change(folder: Path, marker: Path) -> None:
        import pandas as pd

        how(pd.read_parquet(folder / "new.parquet")).to_parquet(folder / "new.parquet")

    return change


def listed() -> list[Case]:
    """Faults of the file, of columns, of rows, of cells."""
    found: list[Case] = []

    def add(what: str, change: Change, right: frozenset[str], command: tuple[str, ...] = PREDICT) -> None:
        found.append(Case(what, command, right, ("run", "new.csv", "new.parquet"), change, like="predict"))

    rows = "u1,i2,FR,18,Film 2,war,3\n"
    for what, text, right in (
        ("empty", "", REFUSED),
        ("a line break", "\n", REFUSED),
        ("a header alone", HEAD, EITHER),
        ("no header", rows * 3, REFUSED),
        ("a column twice", HEAD.replace("price", "user_id") + rows, REFUSED),
        ("an unnamed column", HEAD.replace("price", "") + rows, EITHER),
        ("without users", "item_id,country\ni2,FR\n", REFUSED),
        ("without items", "user_id,country\nu1,FR\n", REFUSED),
        ("without a scenario", "user_id,item_id\nu1,i2\n", REFUSED),
        ("typed names", HEAD.replace(",", ":token,") + rows, REFUSED),
        ("a field too many", HEAD + rows + rows.strip() + ",x\n" + rows, REFUSED),
        ("a field too many in the first row", HEAD + rows.strip() + ",x\n" + rows, REFUSED),
        ("a field too many in every row", HEAD + (rows.strip() + ",x\n") * 3, REFUSED),
        ("a field too few", HEAD + rows + "u1,i2\n" + rows, REFUSED),
        ("an empty row", HEAD + rows + "\n" + rows, EITHER),
        ("a row of commas", HEAD + rows + ",,,,,,\n" + rows, EITHER),
        ("an open quote", HEAD + rows + 'u1,"i2,FR,18,Film 2,war,3\n' + rows, REFUSED),
        ("a quoted comma", HEAD + 'u1,i2,FR,18,"Film, 2",war,3\n', EITHER),
        ("a quoted line break", HEAD + 'u1,i2,FR,18,"Film\n2",war,3\n', EITHER),
        ("tabulators", HEAD.replace(",", "\t") + rows.replace(",", "\t"), REFUSED),
        ("semicolons", HEAD.replace(",", ";") + rows.replace(",", ";"), REFUSED),
        ("a price of text", HEAD + rows.replace(",3\n", ",abc\n"), EITHER),
        ("a price with a comma", HEAD + rows.replace(",3\n", ',"12,5"\n'), EITHER),
        ("a price of inf", HEAD + rows.replace(",3\n", ",inf\n"), EITHER),
        ("a user called [PAD]", HEAD + rows.replace("u1", "[PAD]"), EITHER),
        ("unknown everything", HEAD + "?,?,?,?,?,?,1\n", EITHER),
        ("missing words", HEAD + "NA,null,nan,None,N/A,nan,1\n", EITHER),
        ("an output column", HEAD.replace("price", "click") + rows, EITHER),
        ("a NUL", HEAD + rows.replace("u1", "u\0"), EITHER),
        ("NULs", "\0" * 1000, REFUSED),
        ("a token of a million letters", HEAD + rows.replace("u1", "u" * 1_000_000), EITHER),
        ("a sequence of 100,000", HEAD + rows.replace("war", "war " * 100_000), EITHER),
    ):
        add(f"CSV: {what}", write("new.csv", text), right)
    add("CSV: a byte order mark", edit("new.csv", lambda raw: b"\xef\xbb\xbf" + raw), SAME)
    add("CSV: lines of Windows", edit("new.csv", lambda raw: raw.replace(b"\n", b"\r\n")), SAME)
    add("CSV: no last line break", edit("new.csv", lambda raw: raw[:-1]), SAME)
    add("CSV: latin-1", edit("new.csv", lambda raw: raw.replace(b"Film 2", b"Film \xe9")), REFUSED)
    add("CSV: UTF-16", edit("new.csv", lambda raw: raw.decode().encode("utf-16")), REFUSED)
    add("CSV: bytes", write("new.csv", bytes(range(256))), REFUSED)
    add("CSV: a folder", as_folder("new.csv"), REFUSED)
    add("CSV: Parquet by that name", _renamed("new.parquet", "new.csv"), REFUSED)
    add("CSV: spaces behind names", edit("new.csv", lambda raw: raw.replace(b"user_id,", b"user_id ,")), REFUSED)
    add("Parquet: CSV by that name", _renamed("new.csv", "new.parquet"), REFUSED, PARQUET)
    add("Parquet: empty", write("new.parquet", ""), REFUSED, PARQUET)
    add("Parquet: a folder", as_folder("new.parquet"), REFUSED, PARQUET)
    add("Parquet: cut", edit("new.parquet", lambda raw: raw[: len(raw) // 2]), REFUSED, PARQUET)
    add("Parquet: bytes behind", append("new.parquet", b"\0" * 100), REFUSED, PARQUET)
    for what, how in TABLES.items():
        right = (
            REFUSED
            if what in ("without columns", "users of lists", "users of mappings", "names of numbers")
            else EITHER
        )
        add(f"Parquet: {what}", _table(how), right, PARQUET)
    return found


TABLES: dict[str, Callable[[Any], Any]] = {
    "as it is": lambda table: table,
    "no rows": lambda table: table[:0],
    "without columns": lambda table: table[[]],
    "names of numbers": lambda table: table.set_axis([str(n) for n in range(table.shape[1])], axis=1),
    "users of numbers": lambda table: table.assign(user_id=range(len(table))),
    "users of floats": lambda table: table.assign(user_id=[1.5, None, float("inf")]),
    "users of true": lambda table: table.assign(user_id=True),
    "users of bytes": lambda table: table.assign(user_id=b"\xff\xfe"),
    "users of times": lambda table: table.assign(user_id=__import__("pandas").Timestamp("2020-01-01")),
    "users of lists": lambda table: table.assign(user_id=[["u1"]] * len(table)),
    "users of mappings": lambda table: table.assign(user_id=[{"a": 1}] * len(table)),
    "users of null": lambda table: table.assign(user_id=None),
    "users as categories": lambda table: table.astype({"user_id": "category"}),
    "classes of lists": lambda table: table.assign(**{"class": [["war", "noir"], [], None]}),
    "countries of numbers": lambda table: table.assign(country=1),
    "an index": lambda table: table.set_index("user_id"),
    "an index beside": lambda table: table.set_index(__import__("pandas").Index([5, 5, 5], name="odd")),
    "decimals": lambda table: table.assign(age=[__import__("decimal").Decimal("18.0")] * 3),
    "ages of floats": lambda table: table.assign(age=[18.0, 20.0, None]),
    "an output column": lambda table: table.assign(click=1),
}


def _renamed(source: str, target: str) -> Change:
    def change(folder: Path, marker: Path) -> None:
        (folder / target).write_bytes((folder / source).read_bytes())

    return change


def draw(draw: random.Random) -> Case:
    """Damaged bytes, or odd cells."""
    take = ("run", "new.csv", "new.parquet")
    if draw.random() < 0.4:
        path = draw.choice(("new.csv", "new.parquet"))
        command, right = (PREDICT, EITHER) if path == "new.csv" else (PARQUET, EITHER)
        return Case(f"{path} damaged", command, right, take, edit(path, lambda raw: damaged(raw, draw)), like="predict")
    odd = (
        "",
        " ",
        "x",
        "-1",
        "nan",
        "inf",
        "1e400",
        "é",
        '"',
        "'",
        "[PAD]",
        "True",
        "=1+1",
        "u1",
        "FR",
        "18",
        "18.0",
        "\u2028",
        "\r",
    )
    text = HEAD + "".join(
        ",".join(draw.choice(odd) for _ in range(draw.choice((7, 7, 7, 7, 6, 8)))) + "\n" for _ in range(3)
    )
    return Case("CSV of odd cells", PREDICT, EITHER, take, write("new.csv", text), like="predict")


FAMILY = Family("predict", listed, draw)
