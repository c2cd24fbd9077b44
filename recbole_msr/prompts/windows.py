"""Prompts that are longer than an encoder's window, in several windows instead of cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from recbole_msr.errors import InputError
from recbole_msr.prompts.encoders import Encoder

BREAK = "\n\n"
"""Between the windows of a prompt; no prompt of a template has an empty line."""


class WindowedEncoder(Encoder):
    """Encodes texts of several windows: the mean of the windows' vectors, weighted by their lengths in tokens.

    A text of one window is encoded as it would be without this.

    Args:
        encoder: what encodes the windows.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder, self.writes = encoder, encoder.writes
        self.identity = f"{encoder.identity} windows=mean"

    @property
    def device(self) -> str | None:
        """Where the windows are encoded."""
        return self._encoder.device

    @device.setter
    def device(self, device: str | None) -> None:
        self._encoder.device = device

    @property
    def window(self) -> int | None:
        """Maximum length of a single window in tokens; None for no limit."""
        return self._encoder.window

    def lengths(self, texts: Sequence[str]) -> np.ndarray:
        """Return the lengths of texts in tokens (N,), of all their windows together."""
        windows, owner = _split(texts)
        return np.bincount(owner, weights=self._encoder.lengths(windows), minlength=len(texts)).astype(np.int64)

    def encode_with_answers(self, texts: Sequence[str]) -> tuple[np.ndarray, list[str] | None]:
        """Return vectors (N, H), float32, and the answers, those of a text's windows one below the other, or None."""
        windows, owner = _split(texts)
        lengths = np.asarray(self._encoder.lengths(windows), dtype=np.float64)
        order = np.argsort(-lengths, kind="stable")  # windows of like length share a batch
        vectors: np.ndarray | None = None
        answers: list[list[str]] = [[] for _ in texts]
        said = [""] * len(windows)
        for start in range(0, len(order), len(texts)):  # no more at once than without windows
            batch = order[start : start + len(texts)]
            encoded, written = self._encoder.encode_with_answers([windows[i] for i in batch])
            if vectors is None:
                vectors = np.zeros((len(windows), encoded.shape[1]), dtype=np.float64)
            vectors[batch] = encoded
            for place, i in enumerate(batch):
                said[i] = "" if written is None else written[place]
        assert vectors is not None
        totals = np.bincount(owner, weights=lengths, minlength=len(texts))
        pooled = np.zeros((len(texts), vectors.shape[1]))
        np.add.at(pooled, owner, vectors * (lengths / totals[owner])[:, None])
        for i, text in zip(owner, said, strict=True):
            answers[i].append(text)
        return pooled.astype(np.float32), [BREAK.join(of) for of in answers] if self.writes else None


def _split(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return the windows of all texts, and which text each is of."""
    parts = [text.split(BREAK) for text in texts]
    owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return [window for part in parts for window in part], owner


def in_windows(
    level: str, tokens: Sequence[str], counts: np.ndarray, render: Callable[[int, int, int], str], encoder: Encoder,
    window: int,
) -> list[list[str]]:  # fmt: skip
    """Put the items of each prompt into as few windows as they fit in, in their order: no item is cut, and none lost.

    Args:
        level: "user" or "scenario".
        tokens: whose the prompts are (N).
        counts: how many items each has to list (N,).
        render: gives the text of a row with a number of items from a first one on: render(row, first, number).
        encoder: what measures lengths.
        window: the longest text, in tokens.

    Returns:
        Texts, a list for each row. The text of a row without items may be longer than the window.

    Raises:
        InputError: a window has no room for a single item.
    """
    texts: list[list[str]] = [[] for _ in tokens]
    first = np.zeros(len(tokens), dtype=np.int64)
    rows = np.arange(len(tokens))
    while len(rows):
        left = counts[rows] - first[rows]
        low, high = np.minimum(left, 1), np.minimum(left, window)  # an item is a token at least
        number = high.copy()
        while len(places := np.flatnonzero(low < high)):
            tried = [render(int(rows[p]), int(first[rows[p]]), int(number[p])) for p in places]
            fits = np.asarray(encoder.lengths(tried)) <= window
            low[places[fits]] = number[places[fits]]
            high[places[~fits]] = number[places[~fits]] - 1
            number = (low + high + 1) // 2
        made = [render(int(row), int(first[row]), int(n)) for row, n in zip(rows, low, strict=True)]
        too_long = np.flatnonzero((np.asarray(encoder.lengths(made)) > window) & (low > 0))
        if len(too_long):
            raise InputError(
                f"long_prompts: windows: {window} tokens have no room for a single item in the prompt of {level} "
                f"'{tokens[rows[too_long[0]]]}': take an encoder with a larger window, a shorter template, or "
                "long_prompts: cut"
            )
        for row, text in zip(rows, made, strict=True):
            texts[row].append(text)
        first[rows] += low
        rows = rows[first[rows] < counts[rows]]
    return texts
