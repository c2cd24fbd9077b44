"""A space's file: its content with the line of everything in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from recbole_msr.errors import InputError, nearest


@dataclass(frozen=True)
class Source:
    """A file's content, with the line of everything in it.

    Attributes:
        content: the mapping.
        name: the file's name, for messages.
        folder: where it lies; None if it is no file.
        lines: the line of every key, by its path: ("search", "dropout", "low") -> 7.
    """

    content: Mapping[str, Any]
    name: str = "search space"
    folder: Path | None = None
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict)

    def place(self, *path: Any) -> str:
        """FILE:LINE of the key at a path, or of the nearest one around it."""
        steps = tuple(map(str, path))
        for end in range(len(steps), 0, -1):
            if steps[:end] in self.lines:
                return f"{self.name}:{self.lines[steps[:end]]}"
        return self.name

    def refuse(self, message: str, *path: Any) -> NoReturn:
        raise InputError(f"{self.place(*path)}: {message}")

    def only(self, known: Iterable[str], given: Iterable[Any], *path: Any, what: str = "key") -> None:
        """Refuse words that are not known."""
        known = list(known)
        for word in given:
            if word not in known:
                hint = nearest(str(word), known) or f"; there are {', '.join(known)}"
                self.refuse(f"unknown {what} '{word}'{hint}", *path, word)
