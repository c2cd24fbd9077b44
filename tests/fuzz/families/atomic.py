# ruff: noqa: E501  a case is a line
"""Atomic files: header, cells, separators, encodings, ends."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.case import (
    EITHER,
    REFUSED,
    REFUSED_OR_SAME,
    RUN,
    SAME,
    Case,
    Family,
    append,
    as_folder,
    damaged,
    edit,
    remove,
    write,
)

INTER, USER, ITEM = (f"data/tiny/tiny.{kind}" for kind in ("inter", "user", "item"))
Change = Callable[[Path, Path], None]


def _text(path: str, how: Callable[[str], str]) -> Change:
    return edit(path, lambda raw: how(raw.decode()).encode("utf-8", "surrogatepass"))


def _header(path: str, old: str, new: str) -> Change:
    return _text(path, lambda text: text.replace(old, new, 1))


def _cell(path: str, row: int, column: int, value: str) -> Change:
    def how(text: str) -> str:
        lines = [line.split("\t") for line in text.split("\n")]
        lines[row][column] = value
        return "\n".join("\t".join(line) for line in lines)

    return _text(path, how)


def _column(path: str, column: int, value: str) -> Change:
    def how(text: str) -> str:
        head, *lines = [line.split("\t") for line in text.strip("\n").split("\n")]
        for line in lines:
            line[column] = value
        return "\n".join("\t".join(line) for line in [head, *lines]) + "\n"

    return _text(path, how)


def listed() -> list[Case]:
    """Faults of whole files, of headers, and of cells."""
    found: list[Case] = []

    def add(what: str, change: Change | None, right: frozenset[str], *settings: str) -> None:
        found.append(Case(what, (*RUN, *settings), right, (), change))

    for path in (INTER, USER, ITEM):
        kind = path.rpartition(".")[2]
        add(f"{kind}: empty", write(path, ""), REFUSED)
        add(f"{kind}: a line break", write(path, "\n"), REFUSED)
        add(
            f"{kind}: a header alone",
            _text(path, lambda text: text.split("\n")[0] + "\n"),
            REFUSED if kind == "inter" else EITHER,
        )
        add(f"{kind}: a folder", as_folder(path), REFUSED)
        add(f"{kind}: bytes", write(path, bytes(range(256)) * 10), REFUSED)
        add(f"{kind}: NULs", write(path, bytes(5000)), REFUSED)
        add(f"{kind}: UTF-16", _encoded(path, "utf-16"), REFUSED)
        add(f"{kind}: latin-1", _latin(path), REFUSED)
        add(f"{kind}: a byte order mark", edit(path, lambda raw: b"\xef\xbb\xbf" + raw), SAME)
        add(f"{kind}: lines of Windows", edit(path, lambda raw: raw.replace(b"\n", b"\r\n")), SAME)
        add(f"{kind}: lines of an old Mac", edit(path, lambda raw: raw.replace(b"\n", b"\r")), REFUSED_OR_SAME)
        add(f"{kind}: no last line break", edit(path, lambda raw: raw[:-1]), SAME)
        add(f"{kind}: empty lines at the end", append(path, "\n\n\n"), REFUSED_OR_SAME)
        add(f"{kind}: commas", edit(path, lambda raw: raw.replace(b"\t", b",")), REFUSED)
        add(f"{kind}: blanks for tabulators", edit(path, lambda raw: raw.replace(b"\t", b" ")), REFUSED)
        add(
            f"{kind}: no types",
            _text(path, lambda text: text.replace(":token_seq", "").replace(":token", "").replace(":float", "")),
            REFUSED,
        )
        add(f"{kind}: a wrong type", _header(path, ":token", ":text"), REFUSED)
        add(f"{kind}: an empty type", _header(path, ":token", ":"), REFUSED)
        add(f"{kind}: an empty name", _header(path, "user_id" if kind != "item" else "item_id", ""), REFUSED)
        add(f"{kind}: two colons", _header(path, ":token", "::token"), REFUSED)
        add(f"{kind}: no header", _text(path, lambda text: text.partition("\n")[2]), REFUSED)
        add(f"{kind}: a column twice", _text(path, _twice), REFUSED)
        add(f"{kind}: a field too many in a row", _text(path, lambda text: text.rstrip("\n") + "\textra\n"), REFUSED)
        add(
            f"{kind}: a field too few in a row",
            _text(path, lambda text: text.rstrip("\n").rpartition("\t")[0] + "\n"),
            EITHER,  # the run tells how many rows lack a cell, and takes it for empty
        )
        add(
            f"{kind}: a tabulator at the end of each row", _text(path, lambda text: text.replace("\n", "\t\n")), REFUSED
        )
        add(f"{kind}: an open quote", _text(path, lambda text: text.replace("1\t", '"1\t', 1)), EITHER)
        add(f"{kind}: cut within a row", edit(path, lambda raw: raw[: len(raw) // 2]), EITHER)
        add(f"{kind}: a row of a million letters", append(path, "x" * 1_000_000 + "\n"), REFUSED)
        add(f"{kind}: rights taken", _link_to(path), EITHER if os.geteuid() == 0 else REFUSED)
    add("no interactions", remove(INTER), REFUSED)
    add("no folder", remove("data/tiny"), REFUSED)
    for what, value in (
        ("text", "abc"), ("a dash", "-"), ("a comma", "1,5"), ("inf", "inf"), ("-inf", "-inf"), ("nan", "nan"), ("beyond float32", "1e39"),
        ("beyond floats", "1e999"), ("NUL", "\0"), ("an underscore", "1_000"), ("hexadecimal", "0x10"), ("true", "True"),
    ):  # fmt: skip
        add(f"a label of {what}", _cell(INTER, 5, 3, value), REFUSED)
        add(f"a time of {what}", _cell(INTER, 5, 5, value), EITHER)
        add(f"a price of {what}", _cell(ITEM, 5, 3, value), EITHER, "--numerical_features=[price]")
        add(f"all prices of {what}", _column(ITEM, 3, value), EITHER, "--numerical_features=[price]")
        add(
            f"all times of {what}",
            _column(INTER, 5, value),
            EITHER,
            "--eval_args={split: {RS: [0.8, 0.1, 0.1]}, order: TO, group_by: ~, mode: labeled}",
        )
    add("no label", _cell(INTER, 5, 3, ""), REFUSED)
    add("no labels", _column(INTER, 3, ""), REFUSED)
    add("a label of 2", _cell(INTER, 5, 3, "2"), REFUSED)
    add("labels of one class", _column(INTER, 3, "1"), EITHER)
    add("no user", _cell(INTER, 5, 0, ""), EITHER)
    add("no item", _cell(INTER, 5, 1, ""), EITHER)
    add("no country", _cell(INTER, 5, 2, ""), EITHER)
    add("no users", _column(INTER, 0, ""), REFUSED)
    add("no countries", _column(INTER, 2, ""), REFUSED)
    add("one user", _column(INTER, 0, "u1"), EITHER)
    add("a user called [PAD]", _cell(INTER, 5, 0, "[PAD]"), EITHER)
    add("users whom the file does not have", _column(USER, 0, "other"), EITHER)
    add("no ages", _column(USER, 1, ""), EITHER)
    add("a sequence that is empty everywhere", _column(ITEM, 2, ""), EITHER)
    add("a sequence of 10,000", _cell(ITEM, 5, 2, "x " * 10_000), EITHER)
    add("a token of 100,000 letters", _cell(INTER, 5, 0, "x" * 100_000), EITHER)
    add("a token with a NUL", _cell(INTER, 5, 0, "a\0b"), EITHER)
    add("a token with a line of Unicode", _cell(INTER, 5, 0, "a\u2028b\x85c"), EITHER)
    add("a surrogate", _cell(INTER, 5, 0, "\ud800"), REFUSED)
    add("quotes", _cell(INTER, 5, 0, 'a"b"'), EITHER)
    add("a scenario with a slash", _column(INTER, 2, "a/b"), EITHER)
    add("a scenario called all", _cell(INTER, 5, 2, "all"), EITHER)
    add("scenarios, one a row", _text(INTER, _one_a_row), EITHER)
    for name in ("scenario", "label_click", "interaction", "label", "neg_item_id", "item_id_list", "user_id "):
        add(f"a column called {name}", _header(INTER, "timestamp", name), EITHER)
    for kind in ("token_seq", "float_seq", "float"):
        add(f"users as {kind}", _header(INTER, "user_id:token", f"user_id:{kind}"), REFUSED)
        add(f"countries as {kind}", _header(INTER, "country:token", f"country:{kind}"), EITHER)
        add(
            f"labels as {kind}",
            _header(INTER, "clicked:float", f"clicked:{kind}"),
            SAME if kind == "float" else REFUSED,
        )
    add("labels as token", _header(INTER, "clicked:float", "clicked:token"), EITHER)
    add("prices as float_seq", _header(ITEM, "price:float", "price:float_seq"), EITHER, "--numerical_features=[price]")
    return found


def _twice(text: str) -> str:
    return "".join(f"{line}\t{line.split(chr(9))[-1]}\n" for line in text.strip("\n").split("\n"))


def _one_a_row(text: str) -> str:
    head, *rows = [line.split("\t") for line in text.strip("\n").split("\n")]
    for number, row in enumerate(rows):
        row[2] = f"s{number}"
    return "\n".join("\t".join(row) for row in [head, *rows]) + "\n"


def _encoded(path: str, encoding: str) -> Change:
    return edit(path, lambda raw: raw.decode().encode(encoding))


def _latin(path: str) -> Change:
    return edit(path, lambda raw: raw.replace(b"1\t", b"\xe9\t", 1))


def _link_to(path: str) -> Change:
    def change(folder: Path, marker: Path) -> None:
        (folder / path).unlink()
        (folder / path).symlink_to("nothing")

    return change


def draw(draw: random.Random) -> Case:
    """Damaged bytes, or a cell that holds something odd."""
    path = draw.choice((INTER, INTER, USER, ITEM))
    if draw.random() < 0.5:
        return Case(f"damaged: {path}", RUN, EITHER, (), edit(path, lambda raw: damaged(raw, draw)))
    columns = {INTER: 6, USER: 2, ITEM: 4}[path]
    row, column = draw.randrange(16), draw.randrange(columns)
    value = draw.choice(
        (
            "",
            " ",
            "x",
            "-1",
            "nan",
            "inf",
            "1e40",
            "é",
            "\0",
            '"',
            "'",
            "a:b",
            "[PAD]",
            "True",
            "9" * 400,
            "\t",
            "\r",
            "\u2028",
        )
    )
    return Case(
        f"{path}, row {row}, column {column}: {value!r}"[:120], RUN, EITHER, (), _cell(path, row, column, value)
    )


FAMILY = Family("atomic", listed, draw)
