"""Measurements in processes of their own, so that memory, imports and patches are those of one side alone."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_MAIN = "import sys; from recbole_msr.cli import main; sys.exit(main())"


class FailedError(RuntimeError):
    """A measurement ended with an error; its last lines are the message."""


def measured(
    what: str,
    arguments: Mapping[str, Any],
    folder: Path,
    *,
    recbole: bool = False,
    threads: int = 1,
    cache: Path,
    variables: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What a function of `benchmarks` returns when it is called in a new process.

    Args:
        what: the name of a function of `benchmarks.measure`, or `module.function`.
        arguments: plain values.
        folder: where the process works.
        recbole: without this package's speed-ups of RecBole.
        threads: of PyTorch and of all numerical libraries.
        cache: folder of prepared datasets.
        variables: of its environment.

    Raises:
        FailedError: the process ended with an error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "RECBOLE_MSR_CACHE": str(cache), "RECBOLE_MSR_KNOWLEDGE": str(cache / "knowledge")}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment[name] = str(threads)
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    for name in ("RECBOLE_MSR_NO_SPEEDUPS", "THP_MEM_ALLOC_ENABLE"):  # the second is set by `import recbole_msr` here
        environment.pop(name, None)
    if recbole:
        environment["RECBOLE_MSR_NO_SPEEDUPS"] = "1"
    environment |= variables or {}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.measure", json.dumps({"what": what, "threads": threads, **arguments})],
        env=environment, cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise FailedError("\n".join(done.stderr.splitlines()[-12:]) or f"exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def run_command(arguments: Sequence[str], log: Path, folder: Path, *, cache: Path, root: Path = ROOT) -> None:
    """Run `recbole-msr` with arguments in a process of its own.

    Args:
        arguments: its command and options.
        log: what it prints is added to this file.
        folder: where the process works.
        cache: folder of prepared datasets.
        root: the checkout whose package it is.

    Raises:
        FailedError: the process ended with an error.
    """
    environment = os.environ | {"PYTHONPATH": str(root), "RECBOLE_MSR_CACHE": str(cache)}
    environment |= {"RECBOLE_MSR_KNOWLEDGE": str(cache / "knowledge")}
    with open(log, "ab") as output:
        code = subprocess.run(
            [sys.executable, "-c", _MAIN, *arguments], env=environment, cwd=folder, stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, check=False,
        ).returncode  # fmt: skip
    if code:
        tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise FailedError(f"{' '.join(arguments)} ended with {code}:\n{tail}")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu, flags = platform.processor() or platform.machine(), set()
    if os.path.isfile("/proc/cpuinfo"):
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first)}
        cpu, flags = found.get("model name", cpu), set(found.get("flags", "").split())
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "bf16": "AMX" if "amx_bf16" in flags else "AVX512" if "avx512_bf16" in flags else "none",
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
    }
