"""A worker of a search, as a process of its own; started by `jobs/processes.py`.

python -m recbole_msr.tuning.worker FOLDER                              # trials until the budget is spent
python -m recbole_msr.tuning.worker FOLDER --final TRIAL --seeds S1 S2  # its runs with fresh seeds, together
"""

from __future__ import annotations

import signal
import sys
from dataclasses import replace

from recbole_msr.memory import importing

if __name__ == "__main__":
    # An interrupt counts from the first moment, also where a shell started all in the background and ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

with importing():
    from recbole_msr.jobs.worker import WorkerArguments, run_as_worker
    from recbole_msr.threads import log_threads, torch_threads
    from recbole_msr.tuning.final import run_finals_in_worker
    from recbole_msr.tuning.final_workers import Group
    from recbole_msr.tuning.settings import SearchSettings
    from recbole_msr.tuning.worker_loop import run_trials


def _work(arguments: WorkerArguments) -> None:
    settings = SearchSettings.of_folder(arguments.folder)
    if arguments.gpu is not None:
        settings = replace(settings, config={**settings.config, "gpu_id": arguments.gpu})
    with torch_threads(int(settings.config["threads"]), trains=True):
        log_threads()
        if arguments.final:
            pairs = zip(arguments.final, arguments.seeds, strict=True)
            groups = [Group(trial, tuple(seeds), not arguments.untested) for trial, seeds in pairs]
            run_finals_in_worker(settings, groups, arguments.deadline)
        else:
            run_trials(settings, arguments.deadline, arguments.orphaned)


if __name__ == "__main__":
    sys.exit(run_as_worker(__doc__, _work))
