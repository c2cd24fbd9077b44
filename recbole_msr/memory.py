"""Memory that a process takes from the system: in large pages, and kept for the next batch.

Every step makes tensors of some megabytes and frees them. The C library would give that memory back each time, and the
system would hand it out again in zeroed pages of 4 KiB: that can take as long as the arithmetic on it. Rows of a large
embedding table lie in as many pages as there are rows, so that each lookup also has to look up its page.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where a container's limit stands, in control groups of version 2 and 1."""
_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_* of glibc's malloc.h
_LARGE = 1 << 26, 1 << 25
"""Blocks below are kept; the second where a C library does not take the first."""


def use_huge_pages() -> None:
    """Have PyTorch ask for pages of 2 MiB for tensors at least as large, if it has made none yet.

    It reads the variable once. A value that is there already stays. Nothing is done where the system has no such pages,
    which PyTorch would warn of.
    """
    with suppress(OSError):  # elsewhere than on Linux there is no such file
        if "[never]" not in _PAGES.read_text(encoding="ascii"):
            os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


@cache
def retain_freed_memory() -> bool:
    """Keep memory that this process frees from now on, except for blocks of 64 MiB and more.

    It does not need more at its peak; it only does not shrink after it, until `trim_memory`.

    Returns:
        True if it does so: not where the environment has malloc settings (MALLOC_..., or GLIBC_TUNABLES), and not
        without glibc.
    """
    theirs = [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]
    mallopt = None if theirs else _glibc("mallopt")
    if mallopt is None:
        return False
    return any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGE) and bool(mallopt(_TRIM_THRESHOLD, -1))


def trim_memory() -> None:
    """Return to the system what this process has kept and does not use, if `retain_freed_memory` has been called."""
    if retain_freed_memory.cache_info().currsize and (trim := _glibc("malloc_trim")) is not None:
        trim(0)


@contextmanager
def no_collections() -> Iterator[None]:
    """Turn the garbage collector off for what is imported inside: modules stay, so that it searches in vain.

    It would take a quarter of the time that the whole package takes to import.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def importing() -> Iterator[None]:
    """Keep the garbage collector away from what is imported inside, now and later: for a command's own process.

    Modules stay until the process ends. Otherwise every full collection, such as the one after a trial, looks through
    their million objects again.
    """
    modules = len(sys.modules)
    with no_collections():
        try:
            yield
        finally:
            if len(sys.modules) > modules:  # else garbage of a caller's would be kept for nothing
                gc.freeze()


def _glibc(name: str) -> Callable[..., int] | None:
    """Return a function of glibc, or None on systems with another C library."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return getattr(library, name, None) if hasattr(library, "gnu_get_libc_version") else None


def total_memory(device: Any) -> int:
    """Return the bytes of memory of a GPU, or of the machine as far as this process may use it.

    Args:
        device: a `torch.device`, or its name.
    """
    import psutil
    import torch  # not before `use_huge_pages`

    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    total = int(psutil.virtual_memory().total)
    for path in _MEMORY_LIMITS:
        with suppress(OSError, ValueError):
            total = min(total, int(path.read_text(encoding="ascii")))  # "max" where there is no limit
    return total


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that there is too little memory, of the machine or of a GPU."""
    import torch  # not before `use_huge_pages`

    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or "allocate memory" in str(error)
