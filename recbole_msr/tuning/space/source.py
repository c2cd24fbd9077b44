"""A file of a search space: its content with the line of every key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from recbole_msr.errors import InputError, nearest


@dataclass(frozen=True)
class Source:
    """A file's content, with the line of every key.

    Attributes:
        content: the mapping.
        name: the file's name, for messages.
        folder: folder of the file; None if it is no file.
        lines: line of every key, by its path: ("search", "dropout", "low") -> 7.
    """

    content: Mapping[str, Any]
    name: str = "search space"
    folder: Path | None = None
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict)

    def place(self, *path: Any) -> str:
        """Return FILE:LINE of the key at a path, or of the nearest key around it."""
        steps = tuple(map(str, path))
        for end in range(len(steps), 0, -1):
            if steps[:end] in self.lines:
                return f"{self.name}:{self.lines[steps[:end]]}"
        return self.name

    def refuse(self, message: str, *path: Any) -> NoReturn:
        """Raise an `InputError` with FILE:LINE of the key at a path."""
        raise InputError(f"{self.place(*path)}: {message}")

    def only(self, allowed: Iterable[str], words: Iterable[Any], *path: Any, what: str = "key") -> None:
        """Refuse words that are not allowed, with the nearest ones that are."""
        allowed = list(allowed)
        for word in words:
            if word not in allowed:
                hint = nearest(str(word), allowed) or f"; there are {', '.join(allowed)}"
                self.refuse(f"unknown {what} '{word}'{hint}", *path, word)
