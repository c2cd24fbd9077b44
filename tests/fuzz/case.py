"""What a case is, and what families are made of."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUN = ("run_recbole", "--model=SharedBottom", "--dataset=tiny", "--config_files=tiny.yaml", "--output_dir=out")
PREDICT = ("recbole-msr", "predict", "--run=run", "--data=new.csv", "--out=scores.csv")
EXPLAIN = ("recbole-msr", "explain", "--run=run")
RESUME = ("run_recbole", "--resume", "--output_dir=interrupted")
SEARCH = (
    *("recbole-msr", "search", "--model=SharedBottom", "--dataset=tiny", "--config_files=tiny.yaml"),
    *("--trials=2", "--final-seeds=1", "--wandb=disabled", "--output=search"),
)
COMPARE = (
    *("recbole-msr", "compare", "--models=SharedBottom,MMoE", "--dataset=tiny", "--config_files=tiny.yaml"),
    *("--seeds=1", "--wandb=disabled", "--output=comparison"),
)
PROMPTS = ("recbole-msr", "prompts", "--dataset=tiny", "--config_files=data.yaml", "--template=brief")
EMBED = (
    *("recbole-msr", "embed", "--dataset=tiny", "--config_files=data.yaml", "--template=brief", "--encoder=random"),
    *("--name=made", "--knowledge_dir=knowledge"),
)
SPACED = (*SEARCH[:-1], "--output=spaced", "--space=space.yaml")
ENTERED = (*COMPARE[:2], "--models=entries.yaml", *COMPARE[3:-1], "--output=entered")
TEMPLATED = (*PROMPTS[:-1], "--template=./template.yaml")
KNOWING = (*RUN, "--knowledge=known", "--knowledge_dir=knowledge", "--knowledge_features=[user]")
"""Commands that end well as they stand, where the files of the kit that they read (`take`) have been copied."""


@dataclass(frozen=True)
class Case:
    """One command and what is wrong with its input.

    Attributes:
        what: the case in words.
        command: program and arguments; run in a folder with `data/`, `tiny.yaml`, and what `take` names.
        right: the outcomes that are right, of "refused", "runs" (exit code 0, finite numbers) and "same" (exit code 0
            and the result of the unchanged command `like`).
        take: files and folders of the kit that are copied into the folder.
        change: makes the input wrong; called with the folder and with the path of a marker, for code to leave.
        like: name of the unchanged command whose result "same" means.
        names: one of these words must be in the message of a refusal; no words, no check.
    """

    what: str
    command: Sequence[str]
    right: frozenset[str]
    take: Sequence[str] = ()
    change: Callable[[Path, Path], None] | None = None
    like: str = "run"
    names: Sequence[str] = ()


REFUSED = frozenset({"refused"})
SAME = frozenset({"same"})
RUNS = frozenset({"runs"})
EITHER = frozenset({"refused", "runs"})
REFUSED_OR_SAME = frozenset({"refused", "same"})

Maker = Callable[[random.Random], Case]


@dataclass(frozen=True)
class Family:
    """Cases of one kind.

    Attributes:
        name: as in `--family`.
        listed: cases that stand in a list, each tried once before any is drawn.
        draw: makes a case at random; None for a family of listed cases alone.
        all_listed: every campaign has all listed cases.
    """

    name: str
    listed: Callable[[], list[Case]]
    draw: Maker | None = None
    all_listed: bool = False

    def cases(self, seed: int) -> Iterator[tuple[int, Case]]:
        """Cases by number: those of the list in an order that the seed gives, then drawn ones."""
        listed = self.listed()
        random.Random(f"{self.name}/{seed}").shuffle(listed)
        yield from enumerate(listed)
        number = len(listed)
        while self.draw is not None:
            yield number, self.draw(random.Random(f"{self.name}/{seed}/{number}"))
            number += 1


def write(path: str, content: str | bytes) -> Callable[[Path, Path], None]:
    """A change that writes one file; MARKER in it stands for the marker's path."""

    def change(folder: Path, marker: Path) -> None:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_encoded(content).replace(b"MARKER", str(marker).encode()))

    return change


def append(path: str, content: str | bytes) -> Callable[[Path, Path], None]:
    """A change that adds to the end of a file; MARKER stands for the marker's path."""

    def change(folder: Path, marker: Path) -> None:
        write(path, (folder / path).read_bytes() + _encoded(content))(folder, marker)

    return change


def _encoded(content: str | bytes) -> bytes:
    return content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")


def edit(path: str, how: Callable[[bytes], bytes]) -> Callable[[Path, Path], None]:
    """A change of one file's bytes."""

    def change(folder: Path, marker: Path) -> None:
        file = folder / path
        file.write_bytes(how(file.read_bytes()))

    return change


def edit_json(path: str, how: Callable[[Any], Any]) -> Callable[[Path, Path], None]:
    """A change of what a JSON file holds; `how` returns the new content, or None if it changed the old one."""

    def apply(raw: bytes) -> bytes:
        content = json.loads(raw)
        changed = how(content)
        return json.dumps(content if changed is None else changed).encode()

    return edit(path, apply)


def several(*changes: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
    """Several changes as one."""

    def change(folder: Path, marker: Path) -> None:
        for one in changes:
            one(folder, marker)

    return change


def remove(path: str) -> Callable[[Path, Path], None]:
    """A change that removes a file or folder."""

    def change(folder: Path, marker: Path) -> None:
        target = folder / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return change


def as_folder(path: str) -> Callable[[Path, Path], None]:
    """A change that puts a folder where a file should be."""

    def change(folder: Path, marker: Path) -> None:
        (folder / path).unlink(missing_ok=True)
        (folder / path).mkdir(parents=True)

    return change


def damaged(raw: bytes, draw: random.Random) -> bytes:
    """Bytes as a bad disk or a broken copy leaves them."""
    kind = draw.choice(("flip", "flip", "cut", "zeros", "insert", "delete", "double"))
    at = draw.randrange(max(1, len(raw)))
    span = draw.choice((1, 4, 64))
    if kind == "flip":
        return raw[:at] + bytes([raw[at] ^ (1 << draw.randrange(8))]) + raw[at + 1 :] if raw else b"\0"
    return {
        "cut": raw[:at],
        "zeros": raw[:at] + bytes(min(span, len(raw) - at)) + raw[at + span :],
        "insert": raw[:at] + draw.randbytes(span) + raw[at:],
        "delete": raw[:at] + raw[at + span :],
        "double": raw[: at + span] + raw[at:],
    }[kind]


def mistyped(text: str, draw: random.Random) -> str:
    """Text as a slip of the hand leaves it."""
    for _ in range(draw.randint(1, 3)):
        lines = text.split("\n")
        line, at = draw.randrange(len(lines)), draw.randrange(len(text) + 1)
        kind = draw.randrange(7)
        if kind == 0:
            text = text[:at] + draw.choice(":,{}[]\"'#&*!|>%@`-?\t\n \\~\0\x85\ufeff\ud800é9") + text[at:]
        elif kind == 1:
            text = text[:at] + text[at + draw.choice((1, 1, 5)) :]
        elif kind == 2:
            text = "\n".join([*lines[:line], *lines[line + 1 :]])
        elif kind == 3:
            text = "\n".join([*lines[: line + 1], *lines[line:]])
        elif kind == 4:
            lines[line] = "  " + lines[line]
            text = "\n".join(lines)
        elif kind == 5:
            text = text[:at]
        else:
            words = ("null", "-1", "0", ".nan", ".inf", "true", "[]", "{}", "''", "99999999999999999999", "*x", "!x y")
            head, colon, _ = lines[line].partition(":")
            lines[line] = f"{head}{colon or ':'} {draw.choice(words)}"
            text = "\n".join(lines)
    return text


def as_yaml(value: Any) -> str:
    """A value as YAML in one line, numbers that JSON has not among them."""
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    if isinstance(value, list):
        return f"[{', '.join(map(as_yaml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{as_yaml(key)}: {as_yaml(part)}' for key, part in value.items())}}}"
    if isinstance(value, float):  # 1e+308 is text in YAML 1.1
        return f"{value:.17e}" if "e" in repr(value) else repr(value)
    return json.dumps(value)
