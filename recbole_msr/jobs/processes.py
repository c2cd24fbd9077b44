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
from recbole_msr.errors import InputError, StorageError

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 60.0
_RESTARTS = 3
"""Times in a row that a worker is started again after it has ended soon after its start."""
_SEARCH = "recbole_msr.tuning.worker"
REFUSED = 2
"""Exit code of a worker whose search cannot go on; after any other it is started again."""


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


def run_workers(
    settings: Crew,
    update: Callable[[], None],
    deadline: float | None,
    module: str = _SEARCH,
    ended: Callable[[], int] = lambda: 0,
) -> None:
    """Start the workers, watch them, and start those again that were killed.

    Args:
        settings: the search or the comparison, which it has written into its folder.
        update: called again and again, to show the progress of the trials.
        deadline: `time.monotonic()` after which no trial begins.
        module: the module that a worker runs.
        ended: returns the number of trials or jobs that have ended; a worker that ends early has failed again only if
            it has not grown meanwhile.

    Raises:
        InputError: a worker was stopped by one, or was killed again and again.
    """
    stop_at = None if deadline is None else time.time() + deadline - time.monotonic()
    arguments = [] if stop_at is None else [f"--deadline={stop_at}"]
    workers = {
        index: _start(settings, f"worker-{index}", index, arguments, module) for index in range(settings.workers)
    }
    begun, failures = dict.fromkeys(workers, time.monotonic()), dict.fromkeys(workers, 0)
    heard, so_far = time.monotonic(), dict.fromkeys(workers, ended())
    try:
        while workers:
            time.sleep(_POLL_SECONDS)
            try:
                update()
                heard = time.monotonic()
            except StorageError:  # the workers have their own patience
                if time.monotonic() - heard > _PATIENCE_SECONDS:
                    raise
            for index, process in list(workers.items()):
                code = process.poll()
                if code is None:
                    continue
                del workers[index]
                if code == 0:
                    continue
                error = _error(settings, f"worker-{index}")
                if code == REFUSED:
                    raise InputError(error)
                early = time.monotonic() - begun[index] < _PATIENCE_SECONDS and ended() == so_far[index]
                failures[index], so_far[index] = failures[index] + 1 if early else 1, ended()
                if failures[index] > _RESTARTS:
                    raise InputError(f"worker {index} ended {failures[index]} times, soon after its start: {error}")
                how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code} ({error})"
                logger.warning("worker %d %s and is started again", index, how)
                time.sleep(failures[index] - 1)
                begun[index] = time.monotonic()
                workers[index] = _start(settings, f"worker-{index}", index, arguments, module)
    finally:
        _end(list(workers.values()))


def _start(
    settings: Crew, name: str, index: int, arguments: Sequence[str], module: str = _SEARCH
) -> subprocess.Popen[bytes]:
    threads = str(settings.config["threads"])
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    gpus = _gpus() if "gpu_id" not in settings.config else []
    gpu = [f"--gpu={gpus[index % len(gpus)]}"] if gpus else []
    with open(_log(settings, name), "ab") as log:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                module,
                str(settings.folder),
                f"--parent={os.getpid()}",
                *gpu,
                *arguments,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
        )


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


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End workers: first by an interrupt, so that they return their trials to the study."""
    for process in processes:
        with contextlib.suppress(OSError, ValueError):  # ValueError: Windows has no such signal
            process.send_signal(signal.SIGINT)
    for process in processes:
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _log(settings: Crew, name: str) -> Path:
    return settings.folder / "workers" / f"{name}.log"


def _error(settings: Crew, name: str) -> str:
    """Return the last error in a worker's log."""
    lines = _log(settings, name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")] or lines
    return errors[-1].removeprefix("error: ") if errors else f"it left no word in {_log(settings, name)}"
