"""Turns of threads: what one thread at a time does, in the order in which they ask."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any


class Turns:
    """A lock that goes to the thread that has waited longest.

    Python's lock mostly goes back to who has just released it and asks again: a thread that takes it for each part of
    its work would leave none to the others.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()  # held for moments
        self._waiting: deque[threading.Event] = deque()
        self._is_taken = False

    @property
    def waiting(self) -> int:
        """How many threads wait."""
        return len(self._waiting)

    def __enter__(self) -> None:
        with self._guard:
            if not self._is_taken:
                self._is_taken = True
                return
            own = threading.Event()
            self._waiting.append(own)
        own.wait()

    def __exit__(self, *error: Any) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().set()  # still taken, by that thread
            else:
                self._is_taken = False
