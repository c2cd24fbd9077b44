# ruff: noqa: E501  a case is a line
"""YAML wherever it is read: syntax, tags, duplicate keys, anchors, nesting, encodings."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.case import (
    EITHER,
    ENTERED,
    REFUSED,
    REFUSED_OR_SAME,
    RESUME,
    RUN,
    SPACED,
    TEMPLATED,
    Case,
    Family,
    append,
    as_folder,
    edit,
    mistyped,
    write,
)  # fmt: skip

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
ADDED: dict[str, str | bytes] = {
    "a key twice": "epochs: 1\nepochs: 1\n",
    "a key twice, another value": "seed: 1\nseed: 2\n",
    "a nested key twice": "eval_args: {split: {RS: [0.8, 0.1, 0.1]}, order: RO, order: TO, group_by: ~, mode: labeled}\n",
    "a key twice by quotes": "seed: 1\n'seed': 2\n",
    "python/object/apply": "seed: !!python/object/apply:os.mkdir ['MARKER']\n",
    "python/object/new": "seed: !!python/object/new:os.mkdir ['MARKER']\n",
    "python/object": "seed: !!python/object:os.stat_result {}\n",
    "python/name": "seed: !!python/name:os.system\n",
    "python/module": "seed: !!python/module:os\n",
    "python/tuple": "metrics: !!python/tuple [AUC]\n",
    "python/long": "seed: !!python/long 3\n",
    "python/bytes": "wandb_project: !!python/bytes YQ==\n",
    "an unknown tag": "seed: !mine 3\n",
    "a tag as key": "!!python/name:os.system : 3\n",
    "a timestamp": "seed: 2020-01-01\n",
    "a set": "metrics: !!set {AUC}\n",
    "an ordered map": "metrics: !!omap [AUC: 1]\n",
    "binary": "wandb_project: !!binary '4pyTIGEK'\n",
    "broken binary": "wandb_project: !!binary 'x'\n",
    "an int that is none": "seed: !!int abc\n",
    "a float that is none": "learning_rate: !!float abc\n",
    "a bomb of anchors": BOMB,
    "an anchor in itself": "metrics: &a [*a]\n",
    "an unknown anchor": "metrics: *nothing\n",
    "a merge of text": "<<: text\n",
    "a merge of a number": "eval_args: {<<: 3}\n",
    "a merge in itself": "eval_args: &a {<<: *a}\n",
    "5,000 brackets": "metrics: " + "[" * 5000 + "]" * 5000 + "\n",
    "5,000 open brackets": "metrics: " + "[" * 5000,
    "5,000 braces": "eval_args: " + "{a: " * 5000 + "1" + "}" * 5000 + "\n",
    "2,000 dashes": "metrics: " + "\n" + "- " * 2000 + "a\n",
    "2,000 levels": "eval_args:\n" + "".join(" " * (n + 1) + "a:\n" for n in range(2000)),
    "a key of 100,000 letters": "k" * 100_000 + ": 1\n",
    "NUL": b"wandb_project: a\0b\n",
    "NUL by escape": 'wandb_project: "a\\0b"\n',
    "NUL in a path": 'data_path: "data\\0"\n',
    "a surrogate": 'data_path: "data\\ud800"\n',
    "a surrogate's bytes": b"wandb_project: \xed\xa0\x80\n",
    "control characters": b"wandb_project: \x01\x02\x7f\n",
    "latin-1": "wandb_project: caf\xe9\n".encode("latin-1"),
    "UTF-16": "seed: 3\n".encode("utf-16"),
    "half a character": b"wandb_project: \xe2\x82\n",
    "a huge whole number": "seed: " + "9" * 5000 + "\n",
    "a large whole number": "seed: 99999999999999999999\n",
    "a huge float": "learning_rate: 1.0e+999\n",
    "a text for a number": "learning_rate: 1e-3x\n",
    "a list as key": "[a, b]: 1\n",
    "a mapping as key": "{a: 1}: 1\n",
    "a number as key": "1: 1\n",
    "null as key": "~: 1\n",
    "true as key": "true: 1\n",
    "an empty key": "'': 1\n",
    "a date as key": "2020-01-01: 1\n",
    "nan as key": ".nan: 1\n",
    "two documents": "---\nseed: 3\n",
    "an unknown directive": "...\n%YAML 9.9\n---\nseed: 3\n",
    "an open quote": "wandb_project: 'abc\n",
    "an open bracket": "metrics: [AUC\n",
    "a tabulator": "eval_args:\n\tmode: labeled\n",
    "a tabulator in a value": "metrics:\n\t- AUC\n",
    "a word alone": "epochs\n",
    "a dash among keys": "- epochs\n",
    "a colon alone": ": \n",
    "a reserved character": "seed: @3\n",
    "percent": "seed: %3\n",
    "a backtick": "seed: `3`\n",
    "a wrong escape": 'wandb_project: "\\q"\n',
}  # fmt: skip
WHOLE: dict[str, str | bytes] = {
    "a number": "3\n",
    "a text": "epochs\n",
    "a list": "- epochs: 1\n",
    "a list of lists": "[[]]\n",
    "a tag": "!!python/object/apply:os.mkdir ['MARKER']\n",
    "a set": "!!set {a}\n",
    "bytes": bytes(range(256)),
    "NULs": bytes(1000),
    "a zip": b"PK\x03\x04" + bytes(100),
    "JSON, twice": '{"epochs": 1}{"epochs": 1}',
    "brackets": "[" * 100_000,
}


def listed() -> list[Case]:
    """Every text in every kind of file."""
    found = []
    for kind, (command, take, path, like) in READERS.items():
        for what, text in ADDED.items():
            if what in ("a large whole number", "a timestamp") and kind != "settings":
                continue
            found.append(Case(f"{kind}: {what}", command, REFUSED, take, append(path, text)))
        for what, text in WHOLE.items():
            found.append(Case(f"{kind}: {what} alone", command, REFUSED, take, write(path, text)))
        found.append(Case(f"{kind}: a folder", command, REFUSED, take, as_folder(path)))
        found.append(
            Case(f"{kind}: no file", command, REFUSED, take, lambda folder, _, path=path: (folder / path).unlink())
        )
        found.append(Case(f"{kind}: a link to itself", command, REFUSED, take, _link(path)))
        marked = edit(path, lambda raw: b"\xef\xbb\xbf" + raw)
        found.append(Case(f"{kind}: a byte order mark", command, REFUSED_OR_SAME, take, marked, like=like))
        windows = edit(path, lambda raw: raw.replace(b"\n", b"\r\n"))
        found.append(Case(f"{kind}: lines of Windows", command, REFUSED_OR_SAME, take, windows, like=like))
    for what, text in ADDED.items():
        if (
            isinstance(text, str)
            and "\0" not in text
            and "\n" not in text.strip()
            and ":" in text
            and len(text) < 20_000
        ):
            key, _, value = text.strip().partition(":")
            if key.isidentifier():
                found.append(Case(f"command line: {what}", (*RUN, f"--{key}={value.strip()}"), EITHER))
    return found


READERS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str, str]] = {
    "settings": (RUN, (), "tiny.yaml", "run"),
    "space": (SPACED, ("space.yaml",), "space.yaml", "space"),
    "entries": (ENTERED, ("entries.yaml",), "entries.yaml", "entries"),
    "template": (TEMPLATED, ("template.yaml",), "template.yaml", "template"),
    "resumed": (RESUME, ("interrupted",), "interrupted/config.yaml", "resume"),
}
"""Kind of file: a command that reads it, what it takes, the file, and the command's name among the results."""


def _link(path: str) -> Callable[[Path, Path], None]:
    def change(folder: Path, marker: Path) -> None:
        (folder / path).unlink()
        (folder / path).symlink_to((folder / path).name)

    return change


def draw(draw: random.Random) -> Case:
    """A valid file with slips of the hand."""
    kind = draw.choice(("settings", "settings", "template", "resumed", "space", "entries"))
    command, take, path, like = READERS[kind]

    def change(folder: Path, marker: Path) -> None:
        text = (folder / path).read_text(encoding="utf-8")
        (folder / path).write_bytes(mistyped(text, draw).encode("utf-8", "surrogatepass"))

    return Case(f"{kind}: slips of the hand", command, EITHER, take, change, like=like)


FAMILY = Family("yaml", listed, draw)
