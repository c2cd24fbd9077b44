# ruff: noqa: E501  a case is a line
"""Damaged files, and files that hold other things than they should: of runs, searches, comparisons and knowledge stores."""

from __future__ import annotations

import io
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fuzz.case import (
    COMPARE,
    EITHER,
    EXPLAIN,
    KNOWING,
    PREDICT,
    REFUSED,
    REFUSED_OR_SAME,
    RESUME,
    RUN,
    SEARCH,
    Case,
    Family,
    as_folder,
    damaged,
    edit,
    edit_json,
    remove,
    write,
)  # fmt: skip

SEED = "comparison/runs/SharedBottom/all/joint/seed-2020"
Reader = tuple[tuple[str, ...], tuple[str, ...], str]
AS_PREDICT: Reader = (PREDICT, ("run", "new.csv"), "predict")
AS_EXPLAIN: Reader = (EXPLAIN, ("run",), "explain")
AS_RESUME: Reader = (RESUME, ("interrupted",), "resume")
AS_SEARCH: Reader = (SEARCH, ("search",), "search")
AS_MORE: Reader = ((*SEARCH[:5], "--trials=3", *SEARCH[6:]), ("search",), "search")
AS_COMPARE: Reader = (COMPARE, ("comparison",), "compare")
AS_KNOWING: Reader = (KNOWING, ("knowledge",), "knowing")

FILES: dict[str, list[tuple[str, list[Reader]]]] = {
    "checkpoints": [
        ("run/best.ckpt", [AS_PREDICT, AS_EXPLAIN]),
        ("interrupted/last.ckpt", [AS_RESUME]),
        ("interrupted/best.ckpt", [AS_RESUME]),
    ],
    "results": [
        ("run/vocabulary/dataset.json", [AS_PREDICT, AS_EXPLAIN]),
        ("run/vocabulary/tables.safetensors", [AS_PREDICT, AS_EXPLAIN]),
        ("run/result.json", [AS_PREDICT, AS_EXPLAIN]),
        ("run/config.yaml", [AS_PREDICT, AS_EXPLAIN]),
        ("interrupted/metrics.csv", [AS_RESUME]),
        ("interrupted/config.yaml", [AS_RESUME]),
        (f"{SEED}/result.json", [AS_COMPARE]),
        (f"{SEED}/predictions.parquet", [AS_COMPARE]),
        (f"{SEED}/config.yaml", [AS_COMPARE]),
        (f"{SEED}/best.ckpt", [AS_COMPARE]),
        ("comparison/workers/comparison.json", [AS_COMPARE]),
        ("comparison/workers/made_by.json", [AS_COMPARE]),
        ("comparison/summary.json", [AS_COMPARE]),
    ],
    "stores": [
        ("knowledge/known/knowledge.json", [AS_KNOWING]),
        ("knowledge/known/user.npy", [AS_KNOWING]),
        ("knowledge/known/user.parquet", [AS_KNOWING]),
        ("knowledge/known/item.npy", [AS_KNOWING]),
    ],
    "journals": [
        ("search/study.journal", [AS_SEARCH, AS_MORE]),
        ("search/workers/search.json", [AS_SEARCH]),
        ("search/summary.json", [AS_SEARCH]),
        ("search/best.yaml", [AS_SEARCH]),
    ],
}
REBUILT = (f"{SEED}/", "comparison/summary", "search/summary", "search/best", "run/result", "run/config")
"""Files that a command may do without, or make again."""
WRONG_JSON: list[Any] = [
    None, True, 0, -1, 1.5, math.nan, math.inf, 10**30, "", "x", "../x", [], [1], [None], {}, {"a": 1}, "\ud800", [[1]], {"": None},
]  # fmt: skip


def _whole(path: str, readers: list[Reader], suffix: str) -> list[Case]:
    found = []
    kept = frozenset({*REFUSED, "same"}) if not path.startswith(REBUILT) else REFUSED_OR_SAME
    for command, take, like in readers:
        make = {
            "empty": write(path, b""),
            "NULs": write(path, bytes(1000)),
            "text": write(path, "nonsense\n"),
            "a list": write(path, "[]"),
            "a mapping": write(path, "{}"),
            "null": write(path, "null"),
            "half of it": edit(path, lambda raw: raw[: len(raw) // 2]),
            "without its last byte": edit(path, lambda raw: raw[:-1]),
            "with bytes behind": edit(path, lambda raw: raw + b"\0\1\2"),
            "twice": edit(path, lambda raw: raw + raw),
            "a folder": as_folder(path),
            "gone": remove(path),
            "brackets": write(path, "[" * 100_000),
            "latin-1": edit(path, lambda raw: raw.replace(b"e", b"\xe9", 1)),
            "a byte order mark": edit(path, lambda raw: b"\xef\xbb\xbf" + raw),
        }
        for what, change in make.items():
            right = kept if command is not AS_MORE[0] else EITHER
            # Without its weights a run's cost is not measured anew, and its results are as they were.
            right = EITHER if (path, what) == (f"{SEED}/best.ckpt", "gone") else right
            found.append(Case(f"{like}: {path} is {what}", command, right, take, change, like=like))
    return found


def _places(content: Any, at: tuple[Any, ...] = (), depth: int = 0) -> list[tuple[Any, ...]]:
    """Where something stands in JSON, down to the fourth level."""
    found = [at] if at else []
    if depth < 4:
        steps = (
            content.items()
            if isinstance(content, dict)
            else enumerate(content[:2])
            if isinstance(content, list)
            else ()
        )
        for step, part in steps:
            found += _places(part, (*at, step), depth + 1)
    return found


def _json_case(path: str, reader: Reader, draw: random.Random) -> Case:
    command, take, like = reader
    value, kind = draw.choice(WRONG_JSON), draw.choice(("set", "set", "set", "drop", "add"))
    pick = draw.random()

    def how(content: Any) -> Any:
        places = _places(content)
        at = places[int(pick * len(places))]
        part = content
        for step in at[:-1]:
            part = part[step]
        if kind == "drop":
            del part[at[-1]]
        elif kind == "add" and isinstance(part, dict):
            part["nonsense"] = value
        else:
            part[at[-1]] = value
        return content

    what = f"{like}: {path}, {kind} {value!r} at {pick:.3f}"[:120]
    return Case(what, command, EITHER, take, edit_json(path, how), like=like)


def _checkpoint(path: str, how: Callable[[dict[str, Any]], Any]) -> Callable[[Path, Path], None]:
    def change(folder: Path, marker: Path) -> None:
        import torch

        content = torch.load(folder / path, weights_only=True)
        changed = how(content)
        torch.save(content if changed is None else changed, folder / path)

    return change


def _checkpoints() -> list[Case]:
    import torch

    found = []

    def first(content: dict[str, Any], make: Callable[[Any], Any]) -> None:
        name = next(name for name, value in content["state_dict"].items() if value.is_floating_point())
        content["state_dict"][name] = make(content["state_dict"][name])

    changes: dict[str, Callable[[dict[str, Any]], Any]] = {
        "a list": lambda content: [1],
        "a tensor": lambda content: torch.zeros(3),
        "empty": lambda content: {},
        "no weights": lambda content: content | {"state_dict": {}},
        "weights of a list": lambda content: content | {"state_dict": []},
        "weights of null": lambda content: content | {"state_dict": None},
        "a weight of another shape": lambda content: first(content, lambda value: torch.zeros(3, 3, 3)),
        "a weight that is a number": lambda content: first(content, lambda value: 3),
        "a weight of text": lambda content: first(content, lambda value: "x"),
        "a weight of nan": lambda content: first(content, lambda value: torch.full_like(value, math.nan)),
        "a weight of whole numbers": lambda content: first(content, lambda value: value.long()),
        "a sparse weight": lambda content: first(content, lambda value: value.to_sparse()),
        "a weight without memory": lambda content: first(content, lambda value: value.to("meta")),
        "one weight more": lambda content: content["state_dict"].update(more=torch.zeros(1)),
        "one weight less": lambda content: content["state_dict"].pop(next(iter(content["state_dict"]))) is None or None,
    }
    for key in (
        "format",
        "config",
        "epoch",
        "state_dict",
        "other_parameter",
        "left_out",
        "loops",
        "optimizer_states",
        "callbacks",
    ):
        changes[f"no {key}"] = lambda content, key=key: {name: part for name, part in content.items() if name != key}
        for value in (None, 5, "x", [], {}, [None], {"a": None}):
            changes[f"{key} is {value!r}"] = lambda content, key=key, value=value: content | {key: value}
    for key in (
        "model",
        "dataset",
        "tasks",
        "scenario",
        "data_path",
        "embedding_size",
        "tower_hidden_sizes",
        "seed",
        "load_col",
    ):
        for value in (None, "nothing", 5, [], {}, -1):

            def setting(content: dict[str, Any], key: str = key, value: Any = value) -> None:
                content.get("config", content)[key] = value

            changes[f"setting {key} is {value!r}"] = setting
    for path, readers in FILES["checkpoints"]:
        for command, take, like in readers:
            for what, how in changes.items():
                last = path.endswith("last.ckpt")
                if last and (
                    what.startswith("setting")
                    or what.split(" ")[0] in ("format", "config", "other_parameter", "left_out")
                ):
                    continue
                if not last and ("loops" in what or "optimizer_states" in what or "callbacks" in what):
                    continue
                found.append(
                    Case(
                        f"{like}: {path}, {what}",
                        command,
                        EITHER,
                        take,
                        _checkpoint(path, lambda content, how=how: _done(how, content)),
                        like=like,
                    )
                )
    return found


def _done(how: Callable[[dict[str, Any]], Any], content: dict[str, Any]) -> Any:
    changed = how(content)
    return changed if isinstance(changed, (dict, list)) or hasattr(changed, "shape") else content


def _array(path: str, how: Callable[[Any], Any]) -> Callable[[Path, Path], None]:
    def change(folder: Path, marker: Path) -> None:
        import numpy as np

        made = io.BytesIO()
        np.save(made, how(np.load(folder / path)))
        (folder / path).write_bytes(made.getvalue())

    return change


def _table(path: str, how: Callable[[Any], Any]) -> Callable[[Path, Path], None]:
    def change(folder: Path, marker: Path) -> None:
        import pandas as pd

        how(pd.read_parquet(folder / path)).to_parquet(folder / path)

    return change


def _stores() -> list[Case]:
    arrays: dict[str, Callable[[Any], Any]] = {
        "of nan": lambda array: array * math.nan,
        "of inf": lambda array: array + math.inf,
        "of zeros": lambda array: array * 0,
        "of another type": lambda array: array.astype("float64"),
        "of whole numbers": lambda array: array.astype("int32"),
        "a row short": lambda array: array[1:],
        "a column short": lambda array: array[:, 1:],
        "flat": lambda array: array.reshape(-1),
        "turned": lambda array: array.T,
        "empty": lambda array: array[:0],
        "in other order": lambda array: array[::-1],
    }
    tables: dict[str, Callable[[Any], Any]] = {
        "a row short": lambda table: table[1:],
        "without tokens": lambda table: table.drop(columns="token"),
        "tokens of null": lambda table: table.assign(token=None),
        "tokens of numbers": lambda table: table.assign(token=range(len(table))),
        "one token for all": lambda table: table.assign(token="u1"),
        "without rows": lambda table: table[:0],
    }
    command, take, like = AS_KNOWING
    found = [
        Case(f"user.npy {what}", command, REFUSED, take, _array("knowledge/known/user.npy", how), like=like)
        for what, how in arrays.items()
    ]
    found += [
        Case(f"user.parquet {what}", command, REFUSED, take, _table("knowledge/known/user.parquet", how), like=like)
        for what, how in tables.items()
    ]
    return found


def _journals() -> list[Case]:
    lines: dict[str, Callable[[list[bytes]], list[bytes]]] = {
        "a garbage line": lambda lines: [*lines[:3], b"garbage", *lines[3:]],
        "a garbage line at the end": lambda lines: [*lines, b"garbage"],
        "a list for a line": lambda lines: [*lines[:3], b"[]", *lines[3:]],
        "an empty line": lambda lines: [*lines[:3], b"", *lines[3:]],
        "NULs in a line": lambda lines: [*lines[:3], bytes(20), *lines[3:]],
        "without its first line": lambda lines: lines[1:],
        "without a middle line": lambda lines: [*lines[: len(lines) // 2], *lines[len(lines) // 2 + 1 :]],
        "half of its lines": lambda lines: lines[: len(lines) // 2],
        "a line twice": lambda lines: [*lines[:5], *lines[4:]],
        "lines in other order": lambda lines: [*lines[:4], *reversed(lines[4:])],
        "an unknown operation": lambda lines: [*lines, b'{"op_code": 99, "worker_id": "x"}'],
        "an unknown trial": lambda lines: [
            *lines,
            b'{"op_code": 6, "worker_id": "x", "trial_id": 99, "state": 1, "values": [1]}',
        ],
        "a study more": lambda lines: [
            *lines,
            b'{"op_code": 0, "worker_id": "x", "study_name": "y", "directions": [2]}',
        ],
    }
    found = []
    for command, take, like in (AS_SEARCH, AS_MORE):
        for what, how in lines.items():
            change = edit(
                "search/study.journal", lambda raw, how=how: b"\n".join(how(raw.rstrip(b"\n").split(b"\n"))) + b"\n"
            )
            found.append(
                Case(
                    f"{command[5]}: journal, {what}",
                    command,
                    EITHER if command is AS_MORE[0] else REFUSED_OR_SAME,
                    take,
                    change,
                    like=like,
                )
            )
    return found


def _family(name: str, more: Callable[[], list[Case]]) -> Family:
    def listed() -> list[Case]:
        found = [case for path, readers in FILES[name] for case in _whole(path, readers, name)]
        return found + more()

    def draw(draw: random.Random) -> Case:
        path, readers = draw.choice(FILES[name])
        reader = draw.choice(readers)
        if path.endswith(".json") and draw.random() < 0.7:
            return _json_case(path, reader, draw)
        command, take, like = reader
        right = EITHER if command is AS_MORE[0] else REFUSED_OR_SAME
        return Case(
            f"{like}: {path} damaged", command, right, take, edit(path, lambda raw: damaged(raw, draw)), like=like
        )

    return Family(name, listed, draw)


CHECKPOINTS = _family("checkpoints", _checkpoints)
RESULTS = _family("results", lambda: [])
STORES = _family("stores", _stores)
JOURNALS = _family("journals", _journals)


def _folders() -> list[Case]:
    """Commands that are given a folder or file of another kind, and would write over it."""
    found = []
    kinds = {"run": "run", "search": "search", "comparison": "comparison", "knowledge": "knowledge", "data": "data"}
    writers = {
        "run": (RUN, "--output_dir=out", "--output_dir={}", ()),
        "search": (SEARCH, "--output=search", "--output={}", ()),
        "compare": (COMPARE, "--output=comparison", "--output={}", ()),
        "resume": (RESUME, "--output_dir=interrupted", "--output_dir={}", ()),
        "predict": (PREDICT, "--run=run", "--run={}", ("new.csv",)),
        "explain": (EXPLAIN, "--run=run", "--run={}", ()),
    }
    own = {("run", "run"), ("search", "search"), ("compare", "comparison"), ("predict", "run"), ("explain", "run")}
    for writer, (command, old, new, take) in writers.items():
        for kind, name in kinds.items():
            if (writer, kind) not in own:
                words = tuple(new.format(name) if word == old else word for word in command)
                right = EITHER if writer == "run" or kind in ("data", "knowledge") else REFUSED
                found.append(
                    Case(
                        f"{writer} in a {kind}'s folder",
                        words,
                        right,
                        tuple(dict.fromkeys((*take, kind))) if kind != "data" else take,
                        like="none",
                    )
                )
    run = ("run", "new.csv")
    for target in (
        "run/best.ckpt",
        "run/config.yaml",
        "run/result.json",
        "run/metrics.csv",
        "new.csv",
        "run",
        "tiny.yaml",
    ):
        found.append(Case(f"predict --out={target}", (*PREDICT[:-1], f"--out={target}"), REFUSED, run))
        found.append(Case(f"explain --out={target}", (*EXPLAIN, f"--out={target}"), REFUSED, run))
    found.append(
        Case("predict --out by another name of --data", (*PREDICT[:-1], "--out=./run/../new.csv"), REFUSED, run)
    )
    found.append(Case("predict --out by a link to --data", (*PREDICT[:-1], "--out=link.csv"), REFUSED, run, _linked))
    for name in ("../x", "/x", "a/../../x", "..", "."):
        found.append(Case(f"study {name}", (*SEARCH[:-1], f"--study={name}"), REFUSED, ()))
        found.append(
            Case(
                f"dataset {name}",
                tuple(f"--dataset={name}" if word == "--dataset=tiny" else word for word in RUN),
                REFUSED,
                (),
            )
        )
        found.append(Case(f"dataset of a comparison {name}",
            tuple(f"--dataset={name}" if word == "--dataset=tiny" else word for word in COMPARE if "output" not in word), REFUSED, ()))  # fmt: skip
    found.append(
        Case("another search in a search's folder", (*SEARCH, "--study=other"), EITHER, ("search",), like="search")
    )
    found.append(Case("a search of other settings", (*SEARCH, "--epochs=2"), REFUSED, ("search",), like="search"))
    found.append(
        Case(
            "a search of another model", (*SEARCH[:2], "--model=MMoE", *SEARCH[3:]), REFUSED, ("search",), like="search"
        )
    )
    found.append(
        Case("a comparison of other settings", (*COMPARE, "--epochs=2"), EITHER, ("comparison",), like="compare")
    )
    found.append(
        Case(
            "a run of other settings resumed", (*RESUME, "--embedding_size=8"), REFUSED, ("interrupted",), like="resume"
        )
    )
    found.append(Case("a finished run resumed", ("run_recbole", "--resume", "--output_dir=run"), REFUSED, ("run",)))
    found.append(Case("a run of other data", PREDICT, REFUSED, run, _mixed, like="predict"))
    return found


def _linked(folder: Path, marker: Path) -> None:
    (folder / "link.csv").symlink_to("new.csv")


def _mixed(folder: Path, marker: Path) -> None:
    """The vocabulary of another run."""
    state = folder / "run" / "vocabulary" / "dataset.json"
    content = json.loads(state.read_text())
    content["scenario_names"] = content["scenario_names"][:1]
    state.write_text(json.dumps(content))


FOLDERS = Family("folders", _folders)
