"""A worker of a comparison, as a process of its own; started by `jobs/processes.py`.

python -m recbole_msr.comparison.worker FOLDER
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
    from recbole_msr.comparison.jobs import Jobs
    from recbole_msr.comparison.settings import CompareSettings
    from recbole_msr.jobs.worker import WorkerArguments, run_as_worker
    from recbole_msr.threads import log_threads, torch_threads


def _work(arguments: WorkerArguments) -> None:
    settings = CompareSettings.of_folder(arguments.folder)
    if arguments.gpu is not None:
        settings = replace(settings, config={**settings.config, "gpu_id": arguments.gpu})
    with torch_threads(int(settings.config["threads"])):
        log_threads()
        Jobs(settings).work(arguments.orphaned)


if __name__ == "__main__":
    sys.exit(run_as_worker(__doc__, _work))
