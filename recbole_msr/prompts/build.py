"""Filling the templates: one prompt for every scenario, user or item, none longer than the encoder's window."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_msr.prompts.facts import Facts
from recbole_msr.prompts.template import Template
from recbole_msr.prompts.windows import BREAK, in_windows

if TYPE_CHECKING:
    from recbole_msr.prompts.encoders import Encoder


@dataclass(frozen=True)
class Prompts:
    """The prompts of one level.

    Attributes:
        level: "scenario", "user" or "item".
        tokens: scenario names, or external ids as in the atomic files (N).
        texts: the prompts (N).
        lengths: their lengths in the encoder's tokens (N,); zeros without an encoder.
        truncated: which were cut to fit the window (N,).
        within: how many of those had to be cut inside the text, as they were too long without any item too.
        windows: number of windows of all prompts together, where long ones are read in several; 0 where they are cut.
    """

    level: str
    tokens: list[str]
    texts: list[str]
    lengths: np.ndarray
    truncated: np.ndarray
    within: int = 0
    windows: int = 0

    def __len__(self) -> int:
        return len(self.tokens)

    def of(self, rows: Sequence[int]) -> Prompts:
        """Return the prompts of some rows."""
        tokens, texts = ([values[row] for row in rows] for values in (self.tokens, self.texts))
        return replace(self, tokens=tokens, texts=texts, lengths=self.lengths[rows], truncated=self.truncated[rows])

    def digest(self) -> str:
        """Return a hash of all prompts."""
        digest = hashlib.blake2b(self.level.encode(), digest_size=16)
        for token, text in zip(self.tokens, self.texts, strict=True):
            digest.update(f"\0{token}\0{text}".encode())
        return digest.hexdigest()


def build_prompts(
    facts: Facts,
    template: Template,
    level: str,
    encoder: Encoder | None = None,
    max_tokens: int | None = None,
    first: int | None = None,
    long_prompts: str = "cut",
    all_items: bool = False,
) -> Prompts:
    """Build a level's prompts: for every scenario, every user with training interactions, every item of the .item file.

    Args:
        facts: of the training interactions.
        template: what to say.
        level: "scenario", "user" or "item".
        encoder: whose window no prompt exceeds: one that is too long loses whole items from the end of its lists
            (a user's oldest, a scenario's least liked), then categories.
        max_tokens: a lower limit than the encoder's window.
        first: only so many prompts.
        long_prompts: what becomes of the prompts of users and scenarios that are too long: "cut", or "windows": all
            items stay, in several texts with `BREAK` between them, for a `WindowedEncoder`.
        all_items: list all that a user has liked, whatever the template's limit of items.

    Raises:
        InputError: the template has no such level, names a field that does not exist, or items have no text.
    """
    prompt = template.compiled(level)
    facts.require_texts()
    common = {"scenarios": facts.scenarios, "tasks": facts.tasks, "liked": facts.liked}
    limits: np.ndarray
    render: Callable[..., str]
    if level == "scenario":
        tokens = facts.scenarios[:first]
        listed = np.array([min(template.items, facts.liked_in_scenario(i)) for i in range(len(tokens))], dtype=np.int64)
        limits = listed + template.categories

        def render(row: int, limit: int, skip: int = 0) -> str:
            categories = min(limit, template.categories)
            return prompt.render(common | {"scenario": facts.scenario(row, limit - categories, categories, skip)})

    elif level == "user":
        tokens = [str(token) for token in facts.users[:first]]
        limits = facts.liked_by_user()[: len(tokens)]
        if not all_items:
            limits = np.minimum(limits, template.items)

        def render(row: int, limit: int, skip: int = 0) -> str:
            return prompt.render(common | {"user": facts.user(tokens[row]), "history": facts.history(row, limit, skip)})

    else:
        tokens = sorted(facts.item_table.row_of)[:first]
        categories = [len(facts.item(token).categories) for token in tokens]
        limits = np.minimum(np.array(categories, dtype=np.int64), template.categories)

        def render(row: int, limit: int, skip: int = 0) -> str:
            return prompt.render(common | {"item": facts.item(tokens[row]).with_categories(limit)})

    windows = [limit for limit in (getattr(encoder, "window", None), max_tokens) if limit is not None]
    if encoder is not None and long_prompts == "windows" and level != "item" and windows:
        base = template.categories if level == "scenario" else 0
        return _in_windows(level, list(tokens), limits - base, render, encoder, min(windows), base)
    texts = [render(row, int(limit)) for row, limit in enumerate(limits)]
    if encoder is None:
        return Prompts(
            level, list(tokens), texts, np.zeros(len(texts), dtype=np.int64), np.zeros(len(texts), dtype=bool)
        )
    return _fitted(level, list(tokens), texts, limits, render, encoder, min(windows, default=None))


def _in_windows(
    level: str, tokens: list[str], counts: np.ndarray, render: Callable[..., str], encoder: Encoder, window: int,
    base: int,
) -> Prompts:  # fmt: skip
    """Return prompts whose items are in as many windows as they need; one without items is cut if it is too long."""
    made = in_windows(level, tokens, counts, lambda row, first, n: render(row, n + base, first), encoder, window)
    lengths = np.array([int(np.sum(encoder.lengths(texts))) for texts in made], dtype=np.int64)
    truncated = (lengths > window) & (counts == 0)
    for row in np.flatnonzero(truncated):
        text, lengths[row] = _cut_words(made[row][0], window, encoder)
        made[row] = [text]
    return Prompts(
        level, tokens, [BREAK.join(texts) for texts in made], lengths, truncated, int(truncated.sum()),
        sum(len(texts) for texts in made),
    )  # fmt: skip


def _fitted(
    level: str, tokens: list[str], texts: list[str], limits: np.ndarray, render: Callable[[int, int], str],
    encoder: Any, window: int | None,
) -> Prompts:  # fmt: skip
    """Give every text that is too long as many whole items as fit, found by bisection over all of them at once."""
    lengths = np.asarray(encoder.lengths(texts), dtype=np.int64)
    if window is None:
        return Prompts(level, tokens, texts, lengths, np.zeros(len(texts), dtype=bool))
    truncated = lengths > window
    low, high = np.zeros_like(limits), np.maximum(limits - 1, 0)
    while len(open_rows := np.flatnonzero(truncated & (low < high))):
        middle = (low[open_rows] + high[open_rows] + 1) // 2
        tried = [render(int(row), int(limit)) for row, limit in zip(open_rows, middle, strict=True)]
        fits = np.asarray(encoder.lengths(tried)) <= window
        low[open_rows[fits]] = middle[fits]
        high[open_rows[~fits]] = middle[~fits] - 1
    cut = np.flatnonzero(truncated)
    for row in cut:
        texts[row] = render(int(row), int(low[row]))
    lengths[cut] = encoder.lengths([texts[row] for row in cut])
    too_long = np.flatnonzero(lengths > window)
    for row in too_long:
        texts[row], lengths[row] = _cut_words(texts[row], window, encoder)
    return Prompts(level, tokens, texts, lengths, truncated, len(too_long))


def _cut_words(text: str, window: int, encoder: Any) -> tuple[str, int]:
    """Return the longest beginning of a text, in whole words, that fits."""
    words = text.split(" ")
    low, high = 0, len(words) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if encoder.lengths([" ".join(words[:middle])])[0] <= window:
            low = middle
        else:
            high = middle - 1
    cut = " ".join(words[:low])
    return cut, int(encoder.lengths([cut])[0])
