"""A worker of a comparison, as a process of its own; started by `search/processes.py`.

python -m recbole_msr.compare.worker FOLDER
"""

from __future__ import annotations

import sys
from dataclasses import replace

from recbole_msr.search.worker import Given, run_as_worker


def work(given: Given) -> None:
    from recbole_msr.compare.settings import CompareSettings
    from recbole_msr.compare.work import Jobs
    from recbole_msr.threads import tell, torch_threads

    settings = CompareSettings.of_folder(given.folder)
    if given.gpu is not None:
        settings = replace(settings, config={**settings.config, "gpu_id": given.gpu})
    with torch_threads(int(settings.config["threads"])):
        tell()
        Jobs(settings).work(given.orphaned)


if __name__ == "__main__":
    sys.exit(run_as_worker(__doc__, work))
