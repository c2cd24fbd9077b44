"""Worker processes of one machine: started, watched, started again when they were killed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from recbole_msr import registry
from recbole_msr.errors import REFUSED, InputError, StorageError

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
"""Between two looks at the processes; so is the delay after the last of them has ended."""
PATIENCE_SECONDS = 60.0
"""How long a storage may not answer; a worker that ends sooner after its start has ended early."""
_RESTARTS = 3
"""Times in a row that a worker is started again after it has ended soon after its start."""


class Crew(Protocol):
    """Work that is done by workers: a search or a comparison."""

    @property
    def folder(self) -> Path:
        """The output folder, with the settings that a worker reads."""

    @property
    def workers(self) -> int:
        """The number of worker processes."""

    @property
    def config(self) -> dict[str, Any]:
        """The configuration keys of every run, `threads` among them."""


class WorkerProcesses:
    """Processes that work for a search or a comparison; each writes a log in the folder.

    Args:
        crew: the search or the comparison, which has written its settings into its folder.
        module: the module that a process runs.

    Attributes:
        running: the processes by name.
    """

    def __init__(self, crew: Crew, module: str) -> None:
        self._crew, self._module = crew, module
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, index: int, arguments: Sequence[str] = ()) -> None:
        """Start a process.

        Args:
            name: the name of its log; no running process has it.
            index: its number among the workers, which chooses its GPU.
            arguments: command-line arguments behind the folder.
        """
        threads = str(self._crew.config["threads"])
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        gpus = _gpus() if "gpu_id" not in self._crew.config else []
        gpu = [f"--gpu={gpus[index % len(gpus)]}"] if gpus else []
        command = [sys.executable, "-m", self._module, str(self._crew.folder), f"--parent={os.getpid()}"]
        with open(self._log(name), "ab") as log:
            self.running[name] = subprocess.Popen(
                [*command, *gpu, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )

    def wait(self) -> dict[str, int]:
        """Wait a moment; return the exit codes of the processes that have ended by then, which run no more."""
        time.sleep(_POLL_SECONDS)
        codes = {name: process.poll() for name, process in self.running.items()}
        ended = {name: code for name, code in codes.items() if code is not None}
        for name in ended:
            del self.running[name]
        return ended

    def last_error(self, name: str) -> str:
        """Return the last error in a process' log."""
        lines = self._log(name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("error: ")] or lines
        return errors[-1].removeprefix("error: ") if errors else f"it left no word in {self._log(name)}"

    def interrupt(self, name: str) -> None:
        """Ask a process to end, as Ctrl-C does; `wait` says when it has.

        Args:
            name: the process.
        """
        with contextlib.suppress(OSError, ValueError):  # ValueError: Windows has no such signal
            self.running[name].send_signal(signal.SIGINT)

    def stop(self) -> None:
        """End those that run: first by an interrupt, so that they return their trials to the study."""
        for process in self.running.values():
            with contextlib.suppress(OSError, ValueError):  # ValueError: Windows has no such signal
                process.send_signal(signal.SIGINT)
        for process in self.running.values():
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _log(self, name: str) -> Path:
        return self._crew.folder / "workers" / f"{name}.log"


def run_workers(
    crew: Crew,
    module: str,
    update: Callable[[], None],
    deadline: float | None = None,
    count_ended: Callable[[], int] = lambda: 0,
) -> None:
    """Start the workers, watch them, and start those again that were killed.

    Args:
        crew: the search or the comparison, which has written its settings into its folder.
        module: the module that a worker runs.
        update: called again and again, to show the progress.
        deadline: `time.monotonic()` after which no trial begins.
        count_ended: returns the number of trials or jobs that have ended; a worker that ends early has failed again
            only if the number has not grown meanwhile.

    Raises:
        InputError: a worker was stopped by one, or was killed again and again.
    """
    stop_at = None if deadline is None else time.time() + deadline - time.monotonic()
    arguments = [] if stop_at is None else [f"--deadline={stop_at}"]
    workers, restarts = WorkerProcesses(crew, module), Restarts(count_ended)
    indices = {f"worker-{index}": index for index in range(crew.workers)}
    show = PatientUpdate(update)
    try:
        for name, index in indices.items():
            workers.start(name, index, arguments)
            restarts.note_start(name)
        while workers.running:
            ended = workers.wait()
            show()
            for name, code in ended.items():
                if code != 0:
                    restarts.wait_before(name, indices[name], code, workers.last_error(name))
                    workers.start(name, indices[name], arguments)
                    restarts.note_start(name)
    finally:
        workers.stop()


class PatientUpdate:
    """Shows the progress again and again; a storage that is gone for a moment is none of its errors.

    Args:
        update: shows the progress.
    """

    def __init__(self, update: Callable[[], None]) -> None:
        self._update, self._last = update, time.monotonic()

    def __call__(self) -> None:
        """Show the progress.

        Raises:
            StorageError: the storage has not answered for `PATIENCE_SECONDS`.
        """
        try:
            self._update()
            self._last = time.monotonic()
        except StorageError:  # the workers have their own patience
            if time.monotonic() - self._last > PATIENCE_SECONDS:
                raise


class Restarts:
    """Count how often each worker has ended soon after its start while no trial or job was finished.

    Args:
        count_ended: returns the number of trials or jobs that have ended.
    """

    def __init__(self, count_ended: Callable[[], int]) -> None:
        self._count_ended = count_ended
        self._started: dict[str, float] = {}
        self._ended_then: dict[str, int] = {}
        self._failures: dict[str, int] = {}

    def note_start(self, name: str) -> None:
        """Note that a worker starts now."""
        self._started[name] = time.monotonic()
        self._ended_then.setdefault(name, self._count_ended())

    def wait_before(self, name: str, index: int, code: int, error: str) -> None:
        """Say that a worker is started again, and wait longer each time.

        Raises:
            InputError: it has ended too often, or its search cannot go on (`error` says why).
        """
        if code == REFUSED:
            raise InputError(error)
        ended = self._count_ended()
        early = time.monotonic() - self._started[name] < PATIENCE_SECONDS and ended == self._ended_then[name]
        self._failures[name] = self._failures.get(name, 0) + 1 if early else 1
        self._ended_then[name] = ended
        if self._failures[name] > _RESTARTS:
            raise InputError(f"worker {index} ended {self._failures[name]} times, soon after its start: {error}")
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code} ({error})"
        logger.warning("worker %d %s and is started again", index, how)
        time.sleep(self._failures[name] - 1)


def _gpus() -> list[str]:
    """Return the GPUs that this process was started with, as RecBole's `gpu_id` names them.

    Every RecBole configuration sets CUDA_VISIBLE_DEVICES to its own `gpu_id`, so its present value says nothing.
    """
    if not torch.cuda.is_available():
        return []
    if registry.VISIBLE_GPUS:
        return registry.VISIBLE_GPUS.split(",")
    now = os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    try:
        return [str(gpu) for gpu in range(torch.cuda.device_count())]
    finally:
        if now is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = now
