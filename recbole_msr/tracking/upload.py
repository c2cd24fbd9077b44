"""Uploads runs with `wandb sync`, in a process of its own: no server, dead or slow, is ever waited for."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from recbole_msr.tracking.worker import log_once

logger = logging.getLogger(__name__)

_LIVE_AFTER_SECONDS = 45.0  # a run that takes longer is uploaded while it goes on
_RETRY_SECONDS = 60.0  # after a failed upload
_LIMIT_SECONDS = 180.0  # of one upload of finished runs
_ORPHAN_SECONDS = 60.0  # of an upload whose process was killed
_GUARD = str(Path(__file__).with_name("orphan_guard.py"))
# A setting of one run would be taken for all that are uploaded.
_LEFT_OUT = ("WANDB_SERVICE", "WANDB_MODE", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_DISABLED", "WANDB_SILENT")


class Uploader:
    """Uploads run folders one batch after another.

    All runs that have finished while a `wandb sync` was under way are uploaded by the next one. What fails is tried
    again, after a while. At most one `wandb sync` runs at a time, at low priority, its output in `sync.log` beside the
    runs' folders. A run that takes long has an upload of its own while it goes on.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pending: list[Path] = []
        self._ending = False
        self._child: subprocess.Popen[bytes] | None = None
        self._retry_at = 0.0
        self._timers: dict[Path, threading.Timer] = {}
        self._live: dict[Path, subprocess.Popen[bytes]] = {}
        threading.Thread(target=self._loop, name="recbole-msr-wandb-sync", daemon=True).start()

    def begin(self, run_folder: Path) -> None:
        """Note that a run has begun; if it is still running some time later, its upload begins too."""
        timer = threading.Timer(_LIVE_AFTER_SECONDS, self._start_live, [run_folder])
        timer.daemon = True
        self._timers[run_folder] = timer
        timer.start()

    def add(self, run_folder: Path) -> None:
        """Upload a finished run when its turn comes."""
        timer = self._timers.pop(run_folder, None)
        if timer is not None:
            timer.cancel()
        with self._changed:
            self._pending.append(run_folder)
            self._changed.notify_all()

    def finish(self, seconds: float) -> list[Path]:
        """Wait so long at most for what is not uploaded yet; then give up.

        Returns:
            The run folders that are not uploaded.
        """
        with self._changed:
            self._ending = True
            self._retry_at = 0.0
            self._changed.notify_all()
            if self._pending:
                logger.info(f"W&B: uploading {_runs(len(self._pending))}, waiting {seconds:g} s at most")
            self._changed.wait_for(lambda: not self._pending, seconds)
            left, self._pending = self._pending, []
            children, self._ending = [self._child, *self._live.values()], False
        for child in children:
            if child is not None:
                _stop(child)
        return left

    def _loop(self) -> None:
        while True:
            with self._changed:
                if not self._due():
                    self._changed.wait(max(0.01, self._retry_at - time.monotonic()) if self._pending else None)
                    continue
                batch = list(self._pending)
            self._sync(batch)
            done = {folder for folder in batch if uploaded(folder)}
            with self._changed:
                self._pending = [folder for folder in self._pending if folder not in done]
                if not set(batch).isdisjoint(self._pending):
                    # At the end of the command there is no later: try again at once, as long as somebody waits.
                    self._retry_at = time.monotonic() + (1.0 if self._ending else _RETRY_SECONDS)
                self._changed.notify_all()

    def _due(self) -> bool:
        return bool(self._pending) and time.monotonic() >= self._retry_at

    def _sync(self, batch: Sequence[Path]) -> None:
        until = time.monotonic() + _LIMIT_SECONDS
        for folder in batch:
            if folder in self._live:
                self._wait(self._live.pop(folder), until)
        left = [folder for folder in batch if not uploaded(folder)]
        child = _wandb("sync", left) if left else None
        if child is not None:
            self._wait(child, until)

    def _wait(self, child: subprocess.Popen[bytes], until: float) -> None:
        with self._changed:
            self._child = child
            given_up = not self._pending
        if not given_up:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, until - time.monotonic()))
        _stop(child)
        with self._changed:
            self._child = None

    def _start_live(self, run_folder: Path) -> None:
        if _live_known():
            child = _wandb("beta sync --live", [run_folder])
            if child is not None:
                self._live[run_folder] = child


def _wandb(command: str, run_folders: Sequence[Path]) -> subprocess.Popen[bytes] | None:
    """Start a command of wandb's for these runs."""
    folder = run_folders[0].parent
    words = [sys.executable, "-m", "wandb", *command.split(), *(str(path) for path in run_folders)]
    try:
        with open(folder / "sync.log", "ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-I", _GUARD, str(_ORPHAN_SECONDS), *words],
                stdin=subprocess.PIPE,  # closes when this process ends: see orphan_guard.py
                stdout=log,
                stderr=log,
                env={key: value for key, value in os.environ.items() if key not in _LEFT_OUT},
                cwd=folder,
                start_new_session=True,  # Ctrl-C is for the training
            )
    except (OSError, RuntimeError) as error:  # RuntimeError: the interpreter is shutting down
        log_once("sync", f"W&B: `wandb sync` cannot be started: {error}")
        return None
    with contextlib.suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, child.pid, 19)  # its children inherit it
    return child


def _live_known() -> bool:
    """Return whether the installed wandb can upload a run that is still being written."""
    return find_spec("wandb.cli.beta_sync") is not None


def uploaded(run_folder: Path) -> bool:
    """Return whether `wandb sync` has marked a run as uploaded."""
    return any(run_folder.glob("*.wandb.synced"))


def sync_command(run_folders: Iterable[Path]) -> str:
    """Return the command that uploads these runs by hand; one pattern where they are all runs of one folder."""
    folders = sorted(run_folders)
    if len(folders) > 3 and len({folder.parent for folder in folders}) == 1:
        return f"wandb sync {folders[0].parent}"
    return f"wandb sync {' '.join(str(folder) for folder in folders)}"


_uploader: tuple[int, Uploader] | None = None


def uploader() -> Uploader:
    """Return the uploader of this process; at the end of the process `finish_uploads` waits for it."""
    global _uploader
    if _uploader is None or _uploader[0] != os.getpid():
        _uploader = (os.getpid(), Uploader())
        atexit.register(finish_uploads)
    return _uploader[1]


def finish_uploads(seconds: float = 10.0) -> list[Path]:
    """Wait for the uploads of this process, at most so long, and tell how to upload the rest by hand.

    Called at the exit of the process; a process that `multiprocessing` has started must call it itself.

    Returns:
        The folders of the runs that are not uploaded.
    """
    if _uploader is None or _uploader[0] != os.getpid():
        return []
    left = _uploader[1].finish(seconds)
    if left:
        logger.warning(f"W&B: {_runs(len(left))} not uploaded; nothing is lost: {sync_command(left)}")
    return left


def _runs(count: int) -> str:
    return f"{count} run{'' if count == 1 else 's'}"


def _stop(child: subprocess.Popen[bytes]) -> None:
    """End a `wandb sync` and the processes it has started."""
    import psutil

    if child.stdin is not None:
        child.stdin.close()

    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(child.pid)
        for process in (*parent.children(recursive=True), parent):
            with contextlib.suppress(psutil.Error):
                process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(5)
