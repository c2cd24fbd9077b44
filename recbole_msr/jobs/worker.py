"""A worker process: its arguments, its errors and its exit code."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from recbole_msr.errors import REFUSED, InputError, StorageError, one_line
from recbole_msr.jobs.failure import reason_of


@dataclass(frozen=True)
class WorkerArguments:
    """The arguments of a worker.

    Attributes:
        folder: the output folder of the command that started it.
        parent: that command's process id.
        gpu: RecBole's gpu_id for this worker.
        deadline: `time.monotonic()` at which the command shall be over.
        final: the trials whose final runs it does, one after the other; none: it runs trials.
        seeds: the seeds of the runs of each of them.
        untested: whether those runs stop before their test.
    """

    folder: Path
    parent: int | None = None
    gpu: str | None = None
    deadline: float | None = None
    final: Sequence[int] = ()
    seeds: Sequence[Sequence[int]] = ()
    untested: bool = False

    def orphaned(self) -> bool:
        """Return whether the command is gone: then the worker ends after its current trial, so that none is lost."""
        return self.parent is not None and os.getppid() != self.parent


def run_as_worker(about: str | None, work: Callable[[WorkerArguments], None]) -> int:
    """Read a worker's arguments, do its work, and return its exit code; an error is the log's last line."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parent", type=int, help="the process that started this one")
    parser.add_argument("--gpu", help="RecBole's gpu_id for this worker")
    parser.add_argument("--deadline", type=float, help="time.time() at which the command shall be over")
    parser.add_argument("--final", type=int, metavar="TRIAL", action="append", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", action="append", default=[])
    parser.add_argument("--untested", action="store_true", help="stop before the test")
    arguments = vars(parser.parse_args())
    if arguments["deadline"] is not None:
        arguments["deadline"] += time.monotonic() - time.time()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)

    try:
        work(WorkerArguments(**arguments))
    except KeyboardInterrupt:
        return 1
    except Exception as error:
        traceback.print_exc()
        print(
            f"error: {one_line(error) if isinstance(error, InputError) else reason_of(error)}",
            file=sys.stderr,
        )
        return REFUSED if isinstance(error, InputError) and not isinstance(error, StorageError) else 3
    return 0
