"""A worker of a search, as a process of its own; started by `search/processes.py`.

python -m recbole_msr.search.worker FOLDER                              # trials until the budget is spent
python -m recbole_msr.search.worker FOLDER --final TRIAL --seeds S1 S2  # runs of the final test, together
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from recbole_msr.errors import InputError
from recbole_msr.search.processes import REFUSED
from recbole_msr.search.settings import SearchSettings
from recbole_msr.search.storage import StorageError


@dataclass(frozen=True)
class Given:
    """What a worker was started with.

    Attributes:
        folder: the output folder of the command that started it.
        parent: that command's process.
        gpu: RecBole's gpu_id for this worker.
        deadline: `time.monotonic()` after which no trial begins.
        final, seeds: the runs of the final test that it is to do.
    """

    folder: Path
    parent: int | None = None
    gpu: str | None = None
    deadline: float | None = None
    final: int | None = None
    seeds: Sequence[int] = ()

    def orphaned(self) -> bool:
        """Whether the process that started this one is gone: then it ends after what it is at, so that none is lost."""
        return self.parent is not None and os.getppid() != self.parent


def run_as_worker(about: str | None, work: Callable[[Given], None]) -> int:
    """Read a worker's arguments, do its work, and turn what goes wrong into its last line and its exit code."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parent", type=int, help="the process that started this one")
    parser.add_argument("--gpu", help="RecBole's gpu_id for this worker")
    parser.add_argument("--deadline", type=float, help="time.time() after which no trial begins")
    parser.add_argument("--final", type=int, metavar="TRIAL")
    parser.add_argument("--seeds", type=int, nargs="+", default=())
    given = vars(parser.parse_args())
    if given["deadline"] is not None:
        given["deadline"] += time.monotonic() - time.time()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell started all in the background
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    from recbole_msr.search.objective import reason_of

    try:
        work(Given(**given))
    except KeyboardInterrupt:
        return 1
    except Exception as error:
        traceback.print_exc()
        print(
            f"error: {' '.join(str(error).split()) if isinstance(error, InputError) else reason_of(error)}",
            file=sys.stderr,
        )
        return REFUSED if isinstance(error, InputError) and not isinstance(error, StorageError) else 3
    return 0


def _work(given: Given) -> None:
    from recbole_msr.search.final import run_final_in_worker
    from recbole_msr.search.work import run_trials
    from recbole_msr.threads import tell, torch_threads

    settings = SearchSettings.of_folder(given.folder)
    if given.gpu is not None:
        settings = replace(settings, config={**settings.config, "gpu_id": given.gpu})
    with torch_threads(int(settings.config["threads"])):
        tell()
        if given.final is not None:
            run_final_in_worker(settings, given.final, given.seeds)
        else:
            run_trials(settings, given.deadline, given.orphaned)


if __name__ == "__main__":
    sys.exit(run_as_worker(__doc__, _work))
