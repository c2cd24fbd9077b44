"""Errors that are shown to the user."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

REFUSED = 2
"""Exit code of a command, and of a worker, that bad input has ended; a worker is started again after any other."""


class InputError(ValueError):
    """Bad input: the message names what cannot be used and says what would be right.

    The command line prints the message alone and ends with exit code 2.
    """


class StorageError(InputError):
    """Failure of a storage that does not answer or cannot be written, which may be over later."""


def one_line(error: BaseException) -> str:
    """Return the message of an error in one line; the name of its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def nearest(word: str, names: Iterable[str], count: int = 3) -> str:
    """Return a half-sentence with the names closest to `word`, or an empty string.

    >>> nearest("learning_rat", ["learning_rate", "epochs"])
    "; did you mean 'learning_rate'?"
    """
    by_lower = {name.lower(): name for name in names}
    matches = difflib.get_close_matches(str(word).lower(), list(by_lower), n=count, cutoff=0.6)
    if not matches:
        return ""
    *others, last = [f"'{by_lower[match]}'" for match in matches]
    return f"; did you mean {', '.join(others)} or {last}?" if others else f"; did you mean {last}?"
