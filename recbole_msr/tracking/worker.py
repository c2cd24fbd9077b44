"""One thread of a process makes all calls into wandb, so that no training ever waits for them or fails by them."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

_logged: set[str] = set()


def log_once(key: str, message: str, level: int = logging.WARNING) -> None:
    """Log a message unless this process has logged one of the same key."""
    if key not in _logged:
        _logged.add(key)
        logger.log(level, message)


class Worker:
    """Runs calls in the order they come, in a thread of its own.

    A call that raises ends the run that it was made for. A call that does not come back within the time somebody waits
    for it ends tracking in this process: wandb's own process hangs, and is stopped, so that the exit does not wait for
    it either.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], Any]] = queue.SimpleQueue()
        self.given_up = False
        threading.Thread(target=self._loop, name="recbole-msr-wandb", daemon=True).start()

    def do(self, call: Callable[[], Any]) -> None:
        """Queue a call."""
        if not self.given_up:
            self._calls.put(call)

    def wait(self, seconds: float) -> bool:
        """Return whether all calls so far have come back; waits so long at most."""
        if self.given_up:
            return False
        done = threading.Event()
        self._calls.put(done.set)
        if done.wait(seconds):
            return True
        self.given_up = True
        log_once("failed", f"W&B: wandb's process has not answered for {seconds:g} s; going on without W&B")
        _stop_service()
        done.wait(5.0)  # now that it is gone, the calls come back, and fail
        return False

    def _loop(self) -> None:
        while True:
            self._calls.get()()


_worker: tuple[int, Worker] | None = None


def worker() -> Worker:
    """Return the worker of this process; a forked process gets its own."""
    global _worker
    if _worker is None or _worker[0] != os.getpid():
        _worker = (os.getpid(), Worker())
    return _worker[1]


def stop_dead_service() -> None:
    """If the wandb-core process of this process is dead, make wandb forget it: the next run starts another."""
    import psutil
    import wandb

    services = _services()
    if services and all(service.status() == psutil.STATUS_ZOMBIE for service in services):
        with contextlib.suppress(Exception):
            wandb.teardown()


def _stop_service() -> None:
    """End the wandb-core processes that this process has started: they hang, and wandb would wait for them at exit."""
    import psutil

    for service in _services():
        with contextlib.suppress(psutil.Error):
            service.kill()


def _services() -> list[Any]:
    import psutil

    try:
        return [child for child in psutil.Process().children() if child.name().startswith("wandb-core")]
    except psutil.Error:
        return []
