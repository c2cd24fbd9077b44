"""A worker of a search, as a process of its own.

python -m recbole_msr.search.worker FOLDER             # trials until the budget is spent
python -m recbole_msr.search.worker FOLDER --final SEED  # one seed of the final test
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from recbole_msr.errors import InputError
from recbole_msr.search.settings import SearchSettings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gpu", help="RecBole's gpu_id for this worker")
    parser.add_argument("--deadline", type=float, help="time.time() after which no trial begins")
    parser.add_argument("--final", type=int, metavar="SEED")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("recbole_msr").setLevel(logging.INFO)
    from recbole_msr.search.final import run_final
    from recbole_msr.search.work import run_trials

    settings = SearchSettings.of_folder(given.folder)
    if given.gpu is not None:
        settings = replace(settings, config={**settings.config, "gpu_id": given.gpu})
    try:
        if given.final is not None:
            run_final(settings, given.final)
        else:
            deadline = None if given.deadline is None else time.monotonic() + given.deadline - time.time()
            run_trials(settings, deadline, orphaned=_orphaned(os.getppid()))
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 1
    return 0


def _orphaned(parent: int) -> Callable[[], bool]:
    """Whether the process that started this one is gone: then it ends after its trial, so that none is lost."""
    return lambda: os.getppid() != parent


if __name__ == "__main__":
    sys.exit(main())
