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
from typing import Any

import torch

from recbole_msr.errors import InputError
from recbole_msr.search.settings import SearchSettings

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_RESTARTS = 3
"""So often in a row a worker is started again that ended before any trial did."""


def run_workers(settings: SearchSettings, update: Callable[[], int], deadline: float | None) -> None:
    """Start the workers, watch them, and start those again that were killed.

    Args:
        settings: the search.
        update: called again and again; returns how many trials have ended.
        deadline: `time.monotonic()` after which no trial begins.

    Raises:
        InputError: a worker was stopped by one, or was killed again and again.
    """
    stop_at = None if deadline is None else time.time() + deadline - time.monotonic()
    arguments = [] if stop_at is None else [f"--deadline={stop_at}"]
    workers = {index: _start(settings, f"worker-{index}", index, arguments) for index in range(settings.workers)}
    restarts, ended = dict.fromkeys(workers, 0), update()
    try:
        while workers:
            time.sleep(_POLL_SECONDS)
            before, ended = ended, update()
            if ended != before:
                restarts = dict.fromkeys(restarts, 0)
            for index, process in list(workers.items()):
                code = process.poll()
                if code is None:
                    continue
                del workers[index]
                if code == 0:
                    continue
                told = _last_line(settings, f"worker-{index}")
                if code == 2:
                    raise InputError(told)
                restarts[index] += 1
                if restarts[index] > _RESTARTS:
                    raise InputError(f"worker {index} ended {restarts[index]} times before a trial did: {told}")
                how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
                logger.warning("worker %d %s and is started again", index, how)
                workers[index] = _start(settings, f"worker-{index}", index, arguments)
    finally:
        _end(list(workers.values()))


def _start(settings: SearchSettings, name: str, index: int, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    threads = str(settings.config["threads"])
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    gpus = _gpus() if "gpu_id" not in settings.config else []
    own = [f"--gpu={gpus[index % len(gpus)]}"] if gpus else []
    with open(_log(settings, name), "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "recbole_msr.search.worker", str(settings.folder), *own, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
        )


def _gpus() -> list[str]:
    """The GPUs that this process may use, as RecBole's `gpu_id` names them."""
    if not torch.cuda.is_available():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(gpu) for gpu in range(torch.cuda.device_count())]


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End workers: first by asking, so that they give their trials back."""
    for process in processes:
        with contextlib.suppress(OSError):
            process.send_signal(signal.SIGINT)
    for process in processes:
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _log(settings: SearchSettings, name: str) -> Path:
    return settings.folder / "workers" / f"{name}.log"


def _last_line(settings: SearchSettings, name: str) -> str:
    lines = _log(settings, name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else f"it left no word in {_log(settings, name)}"


def run_finals(settings: SearchSettings, seeds: Sequence[int], bar: Any) -> None:
    """Run the final test with these seeds, as many at a time as there are workers."""
    waiting = list(seeds)
    running: dict[int, tuple[int, subprocess.Popen[bytes]]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < settings.workers:
                seed = waiting.pop(0)
                used = set(range(settings.workers)) - {index for index, _ in running.values()}
                running[seed] = (min(used), _start(settings, f"final-{seed}", min(used), [f"--final={seed}"]))
            time.sleep(_POLL_SECONDS)
            for seed, (_, process) in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[seed]
                if code != 0:
                    raise InputError(
                        f"the final run with seed {seed} failed: {_last_line(settings, f'final-{seed}')}; the trials "
                        "are kept, and the same command tries it again"
                    )
                bar.update()
    finally:
        _end([process for _, process in running.values()])
