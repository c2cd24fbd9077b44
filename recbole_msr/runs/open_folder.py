"""Open a finished run, or an ensemble of runs, by its folder."""

from __future__ import annotations

from pathlib import Path

from recbole_msr.runs.ensemble import SavedEnsemble, is_ensemble
from recbole_msr.runs.saved_run import SavedRun


def load(folder: str | Path, knowledge_dir: str | Path | None = None) -> SavedRun | SavedEnsemble:
    """Open a finished run, or an ensemble of finished runs.

    Args:
        folder: the run's folder. A copy with `best.ckpt` and `vocabulary/` alone scores new rows. Or the folder of an
            ensemble, with `ensemble.json`: it predicts as a run does.
        knowledge_dir: where the run's knowledge is now, if it has moved.

    Raises:
        InputError: there is no such folder, it holds no finished run, or its files are damaged or of a version with
            another format; the message names the file.

    Example::

        import pandas
        import recbole_msr

        recbole_msr.run("HiNet", "ml-100k", config={"preset": "ml-100k", "epochs": 1, "output_dir": "runs/first"})
        run = recbole_msr.load("runs/first")
        run.predict(pandas.DataFrame({"user_id": ["1", "2"], "item_id": ["50", "181"]}))
        run.explain(users=["1"]).gates
    """
    if isinstance(folder, (str, Path)) and is_ensemble(folder):
        return SavedEnsemble(folder, knowledge_dir)
    return SavedRun(folder, knowledge_dir)
