"""Test a run that was trained and validated before, from its best.ckpt."""

from __future__ import annotations

import time
from pathlib import Path

from recbole_msr.data.positives import ranks_items
from recbole_msr.evaluation.cells import Evaluation
from recbole_msr.files.yaml import read_yaml
from recbole_msr.runs.folder import VALIDATED, RunFolder, run_folder
from recbole_msr.runs.list_file import LISTS_FILE
from recbole_msr.runs.result_file import read_result
from recbole_msr.runs.run import Run, RunResult
from recbole_msr.runs.run_log import log_level, log_to_folder
from recbole_msr.runs.run_settings import configure_run, run_threads
from recbole_msr.threads import one_at_a_time


@one_at_a_time
def finish_with_test(folder: str | Path) -> RunResult:
    """Test a run that `run(..., test=False)` has left, and write the result.json that it would have had at once.

    Args:
        folder: the run's folder.

    Raises:
        InputError: there is no such run, or its files are damaged.
    """
    started = time.perf_counter()
    config = configure_run(None, None, read_yaml(RunFolder.to_resume(folder)))
    with (
        run_folder(config, folder, resume=True) as files,
        log_to_folder(files),
        log_level(config),
        run_threads(config),
    ):
        path = files.file(VALIDATED)
        summary = read_result(path, advice="delete the folder, and train again", splits=("valid",))
        run = Run(config, files, resume=True, started=started)
        run.load()
        run.build()
        evaluation: Evaluation | None
        if ranks_items(config):
            path_of_lists = files.file(LISTS_FILE) if config["save_predictions"] else None
            tested, evaluation = run.ranker().test(path_of_lists)
        else:
            trainer = run.trainer()
            tested, evaluation = run.test(trainer), trainer.evaluation
        place = list(summary).index("seconds")  # where a run that is tested at once has it
        head, tail = list(summary.items())[:place], list(summary.items())[place:]
        summary = {**dict(head), **tested, **dict(tail)}
        before = float(summary["seconds"].get("total", 0.0))
        summary["seconds"] = {**summary["seconds"], "total": round(before + time.perf_counter() - started, 3)}
        files.write_json("result.json", summary)
        path.unlink(missing_ok=True)
        valid = Evaluation.from_dict(summary["valid"]) if "cells" in summary["valid"] else None
        return RunResult(summary, files.path, valid, evaluation, run.model)
