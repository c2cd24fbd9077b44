"""Errors that are told to the person at the keyboard."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """What the user gave cannot be used; the message names it and says what would be right.

    The command line prints the message alone and ends with exit code 2.
    """


class StorageError(InputError):
    """The storage does not answer or cannot be written; it may do so again later."""


def one_line(error: BaseException) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def nearest(word: str, known: Iterable[str], count: int = 3) -> str:
    """A ready half-sentence with the known words closest to `word`, or an empty string.

    >>> nearest("learning_rat", ["learning_rate", "epochs"])
    "; did you mean 'learning_rate'?"
    """
    known = list(known)
    by_lower = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(str(word).lower(), list(by_lower), n=count, cutoff=0.6)
    if not matches:
        return ""
    names = [f"'{by_lower[match]}'" for match in matches]
    return f"; did you mean {' or '.join([', '.join(names[:-1]), names[-1]] if len(names) > 1 else names)}?"
