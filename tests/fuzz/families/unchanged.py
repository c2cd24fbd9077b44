"""The commands as they stand: what the other families change must be right without a change."""

from __future__ import annotations

from tests.fuzz.case import (
    COMPARE,
    EMBED,
    ENTERED,
    EXPLAIN,
    KNOWING,
    PREDICT,
    PROMPTS,
    RESUME,
    RUN,
    SAME,
    SEARCH,
    SPACED,
    TEMPLATED,
    Case,
    Family,
)  # fmt: skip

COMMANDS = {
    "run": (RUN, ()),
    "knowing": (KNOWING, ("knowledge",)),
    "resume": (RESUME, ("interrupted",)),
    "predict": (PREDICT, ("run", "new.csv")),
    "explain": (EXPLAIN, ("run",)),
    "search": (SEARCH, ("search",)),
    "space": (SPACED, ("space.yaml",)),
    "compare": (COMPARE, ("comparison",)),
    "entries": (ENTERED, ("entries.yaml",)),
    "prompts": (PROMPTS, ()),
    "template": (TEMPLATED, ("template.yaml",)),
    "embed": (EMBED, ("knowledge",)),
}


def listed() -> list[Case]:
    """Each command once, and those that write a folder into one that is not there yet."""
    found = [Case(name, command, SAME, take, like=name) for name, (command, take) in COMMANDS.items()]
    return found + [Case(f"{name}, anew", COMMANDS[name][0], SAME, (), like=name) for name in ("search", "compare")]


FAMILY = Family("unchanged", listed, all_listed=True)
