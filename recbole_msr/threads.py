"""Threads that a process computes with: its share of the cores that it may use.

PyTorch takes as many threads as it sees cores. Where a process may use fewer (a container's CPU quota), or where
several processes do the same, each thread waits for all others at the end of every operation: many times slower.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import torch

logger = logging.getLogger(__name__)

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_CPUS = Path("/sys/devices/system/cpu")


def cores(groups: Path = _GROUPS, own: Path = _OWN_GROUPS, cpus: Path = _CPUS) -> int:
    """Return the number of cores that this process may use, at least 1.

    They are those it may run on (affinity), hyperthreads of one core counted once, as PyTorch does; but no more than
    the CPU quota of its control groups, by which containers are limited. Part of a core counts as none.

    Args:
        groups: where the control groups are (version 1 or 2).
        own: the list of those that this process belongs to.
        cpus: where the kernel tells which CPUs are hyperthreads of one core.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = len({_siblings(cpus, number) for number in os.sched_getaffinity(0)})
    return max(1, int(min(allowed, quota(groups, own))))


def quota(groups: Path = _GROUPS, own: Path = _OWN_GROUPS) -> float:
    """Return the CPU seconds a second that the control groups of this process allow; infinite without a limit."""
    least = math.inf
    for line in (_read(own) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        inside = [part for part in path.split("/") if part]
        if ".." in inside:  # outside of what this process can see
            inside = []
        # In a container the path may be the host's, and what is mounted the container's own group: hence the parents.
        for root in {groups, groups / "unified"} if not controllers else {groups / controllers, groups / "cpu"}:
            for depth in range(len(inside) + 1):
                least = min(least, _limit(root.joinpath(*inside[:depth])))
    return least


def _limit(group: Path) -> float:
    text = _read(group / "cpu.max")  # version 2: "max 100000" or "150000 100000"
    if text is None:
        text = f"{_read(group / 'cpu.cfs_quota_us')} {_read(group / 'cpu.cfs_period_us')}"  # -1 without a limit
    try:
        allowed, period = map(float, text.split())
    except ValueError:
        return math.inf
    return allowed / period if allowed > 0 and period > 0 else math.inf


@cache
def _siblings(cpus: Path, number: int) -> str:
    """Return all hyperthreads of a CPU's core, as the kernel lists them."""
    return _read(cpus / f"cpu{number}" / "topology" / "thread_siblings_list") or str(number)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None


def share(processes: int = 1) -> int:
    """Return the threads for each of these processes: an even share of the cores, at most OMP_NUM_THREADS."""
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    even = max(1, cores() // processes)
    return min(even, int(allowed)) if allowed.isdigit() and int(allowed) > 0 else even


def local_processes(lightning: Mapping[str, Any] | None) -> int:
    """Return the number of processes of this machine that train together: torchrun's, or the option `devices`.

    Args:
        lightning: options of pytorch_lightning.Trainer.
    """
    size = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(size)) if size.isdigit() else _devices(lightning or {})


def trains_in_several_processes(lightning: Mapping[str, Any] | None) -> bool:
    """Return whether the options of pytorch_lightning.Trainer ask for several processes, on this machine or others."""
    options = lightning if isinstance(lightning, Mapping) else {}
    nodes = options.get("num_nodes", 1)
    return _devices(options) > 1 or (isinstance(nodes, int) and nodes > 1)


def process_rank(lightning: Mapping[str, Any] | None) -> int:
    """Return the number of this process among those of a run, before a process group exists.

    The variables of torchrun, SLURM or Lightning count for a run of several processes only: tasks of one SLURM job, for
    instance, may each be a run of its own.

    Args:
        lightning: the run's options of `pytorch_lightning.Trainer`.
    """
    if not trains_in_several_processes(lightning):
        return 0
    ranks = (os.environ.get(name, "") for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return next((int(rank) for rank in ranks if rank.isdigit()), 0)


def _devices(options: Mapping[str, Any]) -> int:
    devices = options.get("devices", 1)
    if isinstance(devices, str) and devices.removeprefix("-").isdigit():
        devices = int(devices)
    if isinstance(devices, str) and devices != "auto":
        devices = [part for part in devices.split(",") if part]
    if isinstance(devices, list | tuple):
        return max(1, len(devices))
    if devices in ("auto", -1):  # on CPUs that is one; without a word GPUs are taken, if there are any
        gpus = options.get("accelerator", "auto") in ("auto", "gpu", "cuda")
        return max(1, torch.cuda.device_count()) if gpus else 1
    return max(1, devices) if isinstance(devices, int) else 1


_training = threading.RLock()
_F = TypeVar("_F", bound=Callable[..., Any])


def one_at_a_time(function: _F) -> _F:
    """Let one thread of the process at a time train; others wait until it has ended.

    Initial weights, dropout and samplers draw from generators of the whole process: two trainings at once would give
    each other's numbers. A function may call others that are marked so.

    >>> @one_at_a_time
    ... def train(): ...
    """

    @wraps(function)
    def alone(*arguments: Any, **options: Any) -> Any:
        if not _training.acquire(blocking=False):
            logger.info("another thread of this process is training: waiting for it")
            _training.acquire()
        try:
            return function(*arguments, **options)
        finally:
            _training.release()

    return alone  # type: ignore[return-value]


@contextmanager
def torch_threads(count: int | None = None, processes: int = 1, trains: bool = False) -> Iterator[None]:
    """Set the threads of PyTorch and pyarrow; afterwards restore them.

    Args:
        count: threads; by default this process's share of the cores, unless PyTorch has fewer already.
        processes: processes of this machine that train together. Lightning starts them with as many threads.
        trains: whether what is computed is a training under Lightning; PyTorch's threads then flush denormal numbers.
    """
    count = count or min(torch.get_num_threads(), share(processes))
    arrow = sys.modules.get("pyarrow")  # imported later, it takes no more than OMP_NUM_THREADS
    before = torch.get_num_threads(), arrow.cpu_count() if arrow else 0, os.environ.get("OMP_NUM_THREADS")
    _set(count, arrow, count)
    if processes > 1:
        os.environ["OMP_NUM_THREADS"] = str(count)
    if trains and count > 1:
        with flushing_denormals():  # a thread has the mode of the one that starts it, so they are started now
            torch.ones(_PARALLEL).add_(1)
    try:
        yield
    finally:
        _set(before[0], arrow, before[1])
        if processes > 1:
            if before[2] is None:
                os.environ.pop("OMP_NUM_THREADS", None)
            else:
                os.environ["OMP_NUM_THREADS"] = before[2]


_PARALLEL = 1 << 20
"""Elements from which PyTorch surely takes all its threads."""
_flushing = 0
"""How many `flushing_denormals` this process is in."""


@contextmanager
def flushing_denormals() -> Iterator[None]:
    """Take numbers closer to 0 than 1.2e-38 (float32) for 0, where the processor can.

    Processors compute with such numbers a hundred times more slowly, and a long training is full of them: weight decay
    shrinks the weights of a unit that is never active again and again. Beside any other number they are 0 already.
    """
    global _flushing
    if not _flushing:
        torch.set_flush_denormal(True)
    _flushing += 1
    try:
        yield
    finally:
        _flushing -= 1
        if not _flushing:
            torch.set_flush_denormal(False)


def _set(count: int, arrow: Any, arrow_count: int) -> None:
    if count != torch.get_num_threads():  # to set what is there already would change how MKL shares its work
        torch.set_num_threads(count)
    if arrow is not None and arrow_count != arrow.cpu_count():
        arrow.set_cpu_count(arrow_count)


def log_threads() -> None:
    """Log the number of PyTorch's threads; warn where it exceeds the cores."""
    count, available = torch.get_num_threads(), cores()
    if count <= available:
        logger.info("threads: %d of %s", count, _counted(available, "core"))
    else:
        logger.warning(
            "threads: %d on %s: that can be many times slower than %d", count, _counted(available, "core"), available
        )


def log_worker_threads(workers: int, threads: int) -> None:
    """Log how processes share the cores; warn where they, or their threads, are too many."""
    available = cores()
    shares = f"{_counted(workers, 'worker')} share {_counted(available, 'core')}, {_counted(threads, 'thread')} each"
    if workers > available:
        logger.warning("%s: they take turns, and are not faster than --workers=%d", shares, available)
    elif workers * threads > available:
        logger.warning("%s: that can be many times slower than --threads=%d", shares, share(workers))
    else:
        logger.info("%s", shares if workers > 1 else f"threads: {threads} of {_counted(available, 'core')}")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"
