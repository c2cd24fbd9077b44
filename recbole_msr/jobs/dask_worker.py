"""What a Dask worker runs of a search: a process of its own, as on the machine of the command, watched from a thread.

A process, because PyTorch's threads, signals and generators of random numbers belong to a whole process, and a worker
that runs out of memory must not take the Dask worker with it. This module is imported by Dask workers: it imports
nothing large.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_msr.errors import REFUSED
from recbole_msr.version import __version__

_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 10.0
"""For a process to give its trial back after an interrupt."""


@dataclass(frozen=True)
class Order:
    """What the command of a search asks of a Dask worker.

    Attributes:
        module: the module that the process runs.
        folder: the output folder of the command, as an absolute path.
        settings_file: the file of the settings below it.
        settings: the content of that file, JSON with the key `output`.
        seconds: how long trials may begin; None for no limit.
        threads: threads that the process computes with.
        host: name of the command's machine.
        only_there: whether only its workers may take part, as the study is in a file.
        chooses_gpu: whether the process is told the GPU of its Dask worker, as no setting names one.
        version: version of this package.
    """

    module: str
    folder: str
    settings_file: str
    settings: str
    seconds: float | None
    threads: int
    host: str
    only_there: bool
    chooses_gpu: bool
    version: str = __version__


def run_order(order: Order) -> tuple[int, str]:
    """Run a worker process to its end, or until the command takes its order back or is gone.

    The process works in the command's output folder if that is seen here too, else in a temporary one.

    Returns:
        The exit code, and the last error of its log.
    """
    refusal = _refusal(order)
    if refusal is not None:
        return REFUSED, refusal
    folder, is_shared = _folder(order)
    log = folder / "workers" / f"dask-{socket.gethostname()}-{os.getpid()}.log"
    try:
        return _run(order, folder, log, _is_cancelled())
    finally:
        if not is_shared:
            shutil.rmtree(folder, ignore_errors=True)


def _refusal(order: Order) -> str | None:
    here = socket.gethostname()
    if order.version != __version__:
        return f"the Dask worker on {here} has recbole-msr {__version__}, the command {order.version}: install the same"
    if order.only_there and here != order.host:
        return (
            f"the Dask worker on {here} cannot reach the study, which is in a file on {order.host}: give a database, "
            "--storage=postgresql://USER:PASSWORD@HOST/NAME"
        )
    return None


def _folder(order: Order) -> tuple[Path, bool]:
    """Return the output folder, and whether it is the command's."""
    shared = Path(order.folder, order.settings_file)
    with contextlib.suppress(OSError):
        if shared.read_text(encoding="utf-8") == order.settings and os.access(shared.parent, os.W_OK):
            return Path(order.folder), True
    own = Path(tempfile.mkdtemp(prefix="recbole-msr-"))  # its owner's alone: the settings may hold a password
    path = own / order.settings_file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**json.loads(order.settings), "output": str(own)}), encoding="utf-8")
    return own, False


def _run(order: Order, folder: Path, log: Path, is_cancelled: Callable[[], bool]) -> tuple[int, str]:
    arguments = [sys.executable, "-m", order.module, str(folder), f"--parent={os.getpid()}"]
    if order.seconds is not None:
        arguments.append(f"--deadline={time.time() + order.seconds}")
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if order.chooses_gpu and gpus:
        arguments.append(f"--gpu={gpus.split(',')[0]}")
    threads = str(order.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    with open(log, "ab") as file:
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment)
    try:
        while process.poll() is None and not is_cancelled():
            time.sleep(_POLL_SECONDS)
    finally:
        _end(process)
    return process.returncode, _last_error(log)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that still runs: first by an interrupt, so that it returns its trial to the study."""
    if process.poll() is not None:
        return
    with contextlib.suppress(OSError):
        process.send_signal(signal.SIGINT)
    try:
        process.wait(_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_error(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")] or lines
    return errors[-1].removeprefix("error: ") if errors else f"it left no word in {log}"


def _is_cancelled() -> Callable[[], bool]:
    """Return what says whether the command has taken its order back, or is gone: then Dask has cancelled the task."""
    from distributed import get_worker

    worker: Any = get_worker()
    key = worker.get_current_task()

    def is_cancelled() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled"

    return is_cancelled
