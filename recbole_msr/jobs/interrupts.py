"""Ctrl-C and SIGTERM: a command is interrupted, and leaves what it has so far."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class TerminatedError(KeyboardInterrupt):
    """A command was interrupted by SIGTERM.

    Attributes:
        exit_code: what a shell tells of a process that SIGTERM has ended.
    """

    exit_code = 128 + signal.SIGTERM


class Interrupts:
    """The interruptions of a command, which is to write what it has before it ends.

    Attributes:
        interrupted: whether there was one.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._signal: int | None = None
        self._handled: dict[int, Any] = {}

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let an interruption end the `with` block alone; `interrupted` says whether there was one, now or before."""
        try:
            yield
        except KeyboardInterrupt:
            self.interrupted = True
            for number in self._handled:  # Lightning ignores Ctrl-C once it has met one
                signal.signal(number, self._handle)

    def raise_again(self) -> None:
        """Raise the interruption that was held, if there was one.

        Raises:
            KeyboardInterrupt: as it came.
        """
        if self.interrupted:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:  # the second one: at once
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._signal = number
        raise KeyboardInterrupt

    @contextmanager
    def installed(self) -> Iterator[Interrupts]:
        """Handle the signals in a `with` block, where Python's own handlers do; else, and in other threads, nothing.

        Raises:
            TerminatedError: in place of the KeyboardInterrupt that SIGTERM became.
        """
        own: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
        if threading.current_thread() is threading.main_thread():
            self._handled = {number: handler for number, handler in own.items() if signal.getsignal(number) is handler}
        for number in self._handled:
            signal.signal(number, self._handle)
        try:
            yield self
        except KeyboardInterrupt as error:
            if self._signal == signal.SIGTERM:
                raise TerminatedError from error
            raise
        finally:
            for number in self._handled:
                signal.signal(number, own[number])
