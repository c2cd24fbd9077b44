"""A worker of a search, as a process of its own; started by `search/processes.py`.

python -m recbole_msr.search.worker FOLDER                          # trials until the budget is spent
python -m recbole_msr.search.worker FOLDER --final TRIAL --seed SEED  # one run of the final test
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

from recbole_msr.errors import InputError
from recbole_msr.search.processes import REFUSED
from recbole_msr.search.settings import SearchSettings
from recbole_msr.search.storage import StorageError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parent", type=int, help="the process that started this one")
    parser.add_argument("--gpu", help="RecBole's gpu_id for this worker")
    parser.add_argument("--deadline", type=float, help="time.time() after which no trial begins")
    parser.add_argument("--final", type=int, metavar="TRIAL")
    parser.add_argument("--seed", type=int)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    from recbole_msr.search.final import run_final
    from recbole_msr.search.objective import reason_of
    from recbole_msr.search.work import run_trials

    def orphaned() -> bool:
        """Whether the process that started this one is gone: then it ends after its trial, so that none is lost."""
        return given.parent is not None and os.getppid() != given.parent

    settings = SearchSettings.of_folder(given.folder)
    if given.gpu is not None:
        settings = replace(settings, config={**settings.config, "gpu_id": given.gpu})
    try:
        if given.final is not None:
            run_final(settings, given.final, given.seed)
        else:
            deadline = None if given.deadline is None else time.monotonic() + given.deadline - time.time()
            run_trials(settings, deadline, orphaned)
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


if __name__ == "__main__":
    sys.exit(main())
