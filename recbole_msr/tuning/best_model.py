"""The best model of a search so far: `best/` and best.yaml, kept in step with its trials from their first epoch on."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState

from recbole_msr.errors import InputError
from recbole_msr.files.atomic import write_atomically
from recbole_msr.files.json import read_json
from recbole_msr.runs.ensemble import FILE as ENSEMBLE_FILE
from recbole_msr.runs.ensemble import Member, write_ensemble
from recbole_msr.runs.folder import VALIDATED
from recbole_msr.runs.outcome import write_validated
from recbole_msr.tuning.outcome import best_trial, contenders, ranking, write_best
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.trial_folder import BEST, TrialFolder, link, link_folder, predecessors, trial_folders
from recbole_msr.tuning.trial_parts import parts_of, tasks_of
from recbole_msr.tuning.trial_state import best_first, best_of_each_model, counts, values_of

logger = logging.getLogger(__name__)

KEPT_TRIALS = 20
"""Number of trials whose models are kept: the best ones by validation; beside them the best of every other model."""


class BestModel:
    """The best model of a search so far.

    All workers of a folder keep it, one at a time. Each of its files is replaced as a whole, and best.ckpt holds the
    model with its settings, so that whoever opens the folder at any moment has one model.

    Args:
        settings: the search.
    """

    def __init__(self, settings: SearchSettings) -> None:
        self._settings = settings
        self._folder = settings.folder / "best"
        self._mark = settings.folder / "workers" / "best.json"
        self._lock = FileLock(settings.folder / "workers" / "best.lock")

    def settle(self, study: optuna.Study) -> FrozenTrial | None:
        """Make `best/` and best.yaml those of the trial that is the best now, be it under way.

        Returns:
            The trial; None as long as there is none.
        """
        self._mark.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            best = best_trial(study, self._settings.tolerance, running=True)
            if best is not None:
                self._install(study, best)
        return best

    def keep(self, study: optuna.Study, best: FrozenTrial, confirmed: str | None = None) -> None:
        """Make `best/` and best.yaml those of a trial that has been chosen.

        Args:
            study: the search's study.
            best: the trial.
            confirmed: as `write_best` takes it.
        """
        with self._lock:
            self._install(study, best, confirmed)

    def _install(self, study: optuna.Study, best: FrozenTrial, confirmed: str | None = None) -> None:
        mark = {"trial": best.number, "state": best.state.name, "values": values_of(best), "confirmed": confirmed}
        with contextlib.suppress(OSError, InputError):
            if read_json(self._mark, dict, finite=False) == mark and (self._settings.folder / "best.yaml").is_file():
                return
        sources = self._models_of(study, best)
        if not sources and self._folder.exists():
            logger.warning(
                "the model of trial %d is not kept here: %s is that of the best trial before; %s trains it again",
                *(best.number, self._folder, self._settings.folder / "best.yaml"),
            )
        # The trial may just have been taken up under another number; and a damaged file is no reason to end a search.
        with contextlib.suppress(FileNotFoundError, InputError):
            if len(sources) == 1:
                self._install_run(sources[0], best)
            elif sources:
                tasks = tasks_of(self._settings, best.user_attrs["settings"])
                write_ensemble(
                    self._folder,
                    [Member(source, 1.0, [str(task)]) for source, task in zip(sources, tasks, strict=True)],
                )
        write_best(self._settings, study, best, confirmed)
        text = json.dumps(mark)
        write_atomically(self._mark, lambda path: Path(path).write_text(text, encoding="utf-8"))

    def _install_run(self, source: Path, best: FrozenTrial) -> None:
        told = {**read_json(source / VALIDATED), "trial": best.number}
        if not (self._folder / ENSEMBLE_FILE).exists():
            _take_run(source, self._folder, told)
            return
        # The best so far had one model a task: another folder takes its place.
        with tempfile.TemporaryDirectory(prefix=".best-", dir=self._folder.parent) as temporary:
            _take_run(source, Path(temporary, "new"), told)
            self._folder.rename(Path(temporary, "old"))
            Path(temporary, "new").rename(self._folder)

    def _models_of(self, study: optuna.Study, best: FrozenTrial) -> list[Path]:
        """Return the folders of a trial's models, one for each task of a model of one; none if trained elsewhere."""
        sampled = best.user_attrs["settings"]
        parts = parts_of(self._settings, sampled)[: len(tasks_of(self._settings, sampled))]
        trials = study.get_trials(deepcopy=False)
        same = [  # those that went on from it took its folder
            one
            for one in trials[best.number + 1 :]
            if values_of(one) == values_of(best) and best.number in [lost.number for lost in predecessors(one, trials)]
        ]
        for one in (best, *same):
            folders = [TrialFolder(self._settings.folder, one.number).training(part.folder) for part in parts]
            if all((folder / VALIDATED).is_file() for folder in folders):
                return folders
        return []

    def trim(self, study: optuna.Study) -> None:
        """Remove the models of trials that have ended, but those of the best ones and of those to be confirmed."""
        with self._lock:
            folders = list(trial_folders(self._settings.folder))  # before the trials: a folder's trial is among them
            trials = study.get_trials(deepcopy=False)
            over = {one.user_attrs.get("retry_of") for one in trials if one.state.is_finished() and counts(one)}
            ended = []
            for number, folder in folders:
                trial = trials[number] if number < len(trials) else None
                if trial is None or trial.state == TrialState.WAITING:
                    folder.remove()  # of another study, which was removed
                elif not trial.state.is_finished():
                    continue
                elif counts(trial):
                    ended.append((trial, folder))
                elif trial.user_attrs.get("retry_of", number) in over or trial.user_attrs["uncounted"] != "lost":
                    folder.remove()
            index = self._settings.objectives.index(self._settings.quality)
            valued = (trial for trial, _ in ended if trial.state != TrialState.FAIL)
            confirms = bool(self._settings.final_seeds)  # the best is the first of the contenders
            chosen = contenders(study, self._settings) if confirms else ranking(study, self._settings.tolerance, 1)
            ranked = best_first(valued, index, study.directions[index])
            kept = {trial.number for trial in best_of_each_model(ranked, KEPT_TRIALS)}
            kept |= {trial.number for trial in chosen}
            for trial, folder in ended:
                folder.end(trial.number in kept)


def _take_run(source: Path, folder: Path, told: Mapping[str, Any]) -> None:
    """Put a trial's model into a folder, file by file; what it says of itself comes last."""
    folder.mkdir(exist_ok=True)
    link_folder(source / "vocabulary", folder / "vocabulary")
    link(source / BEST, folder / BEST)
    link(source / "config.yaml", folder / "config.yaml")
    write_validated(folder, told)
