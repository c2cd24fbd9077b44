"""The folder of a trial: what it goes on from when its worker was lost, and its model."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, Trial

from recbole_msr.data.cache import write_state
from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.errors import InputError
from recbole_msr.files.atomic import write_atomically
from recbole_msr.training.checkpoint import load_resumable
from recbole_msr.tuning.trial_state import KEPT_EPOCHS, RESUMED

logger = logging.getLogger(__name__)

KILLED = "its worker was killed"
"""Reason of a trial that was lost in this way, while the command that had started the worker went on."""
KILLED_WITH_COMMAND = "its worker was killed, with the whole command"
"""The same where the command ended, too: hardly the trial's fault, so that it is tried more often."""
_AS_ONE = 5
"""So many kills of whole commands count as one of a worker."""
BEST, LAST = "best.ckpt", "last.ckpt"


class TrialFolder:
    """`OUTPUT/trials/NUMBER`, with a folder for each training of the trial (`Part`).

    In each of those are config.yaml, best.ckpt, validated.json and vocabulary, as a run without a test has them, and
    until the trial has ended last.ckpt, from which its training goes on.

    Args:
        search: the search's output folder.
        number: the trial's number.
    """

    def __init__(self, search: Path, number: int) -> None:
        self.path = search / "trials" / str(number)

    @classmethod
    def begin(cls, search: Path, trial: Trial) -> TrialFolder:
        """Return the folder of a trial that begins: an empty one, or that of the lost trial which it takes up."""
        own = cls(search, trial.number)
        shutil.rmtree(own.path, ignore_errors=True)  # of another study of this name, which was removed
        lost = predecessors(trial, trial.study.get_trials(deepcopy=False)) if "replaces" in trial.user_attrs else []
        folders = [folder for folder in (cls(search, one.number) for one in lost) if folder.path.is_dir()]
        if folders:
            source = folders[0]
            trial.set_user_attr(RESUMED, int(source.path.name))
            source.path.rename(own.path)  # the last one has gone on from those before it
            for folder in folders[1:]:
                folder.remove()
        elif any(one.user_attrs.get(KEPT_EPOCHS) for one in lost):
            logger.info(
                "trial %d trains from its start, as the checkpoint of trial %d is not in %s",
                *(trial.number, lost[0].number, own.path.parent),
            )
        return own

    def training(self, name: str) -> Path:
        """Return the folder of a training by its name (`Part.folder`)."""
        return self.path / name

    def end(self, keep: bool) -> None:
        """Keep the models of a trial that has ended, or nothing of it."""
        if not keep:
            self.remove()
            return
        for path in self.path.glob(f"*/{LAST}"):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)


def predecessors(trial: Any, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the lost trials in whose place a trial is tried, the last one first."""
    found: list[FrozenTrial] = []
    number = trial.user_attrs.get("replaces")
    while number is not None:
        found.append(trials[number])
        number = trials[number].user_attrs.get("replaces")
    return found


def fruitless_kills(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> int:
    """Return how often the worker of a lost trial, or of those before it, was killed since it last kept a new epoch.

    Five kills of a whole command count as one.
    """
    most, kills, whole = 0, 0, 0
    for one in [*reversed(predecessors(trial, trials)), trial]:
        kept = int(one.user_attrs.get(KEPT_EPOCHS, 0))
        if kept > most:
            most, kills, whole = kept, 0, 0
        else:
            kills += one.user_attrs.get("reason") == KILLED
            whole += one.user_attrs.get("reason") == KILLED_WITH_COMMAND
    return kills + whole // _AS_ONE


def trial_folders(search: Path) -> Iterator[tuple[int, TrialFolder]]:
    """Return the trials that have a folder, with their numbers."""
    with suppress(FileNotFoundError):
        for path in sorted((search / "trials").iterdir()):
            if path.name.isdigit():
                yield int(path.name), TrialFolder(search, int(path.name))


def resumable(folder: Path) -> dict[str, Any] | None:
    """Return what a training was interrupted with: the content of its last.ckpt; None where it begins anew.

    A damaged file is told in one line, and removed.
    """
    path = folder / LAST
    if not path.is_file():
        return None
    try:
        content = load_resumable(path)
        if "EpochKeeper" not in content["callbacks"] or not {"random", "scheduler"} <= set(content):
            raise InputError(f"the checkpoint {path} is damaged: it lacks a part")
    except InputError as error:
        logger.warning("%s; the trial is trained anew", error)
        path.unlink(missing_ok=True)
        return None
    return content


def keep_vocabulary(folder: Path, dataset: Any, name: str) -> None:
    """Put into the folder of a training the vocabulary that scoring new rows takes: once for all trials of a search.

    Args:
        folder: the training's folder, `OUTPUT/trials/NUMBER/NAME`.
        dataset: a split of the data; without tasks there is no vocabulary.
        name: a name for the content of the vocabulary: that of the data.
    """
    target = folder / "vocabulary"
    if not isinstance(dataset, ScenarioDataset) or target.is_dir():
        return
    shared = folder.parent.parent / f"vocabulary-{name}"
    if not shared.is_dir():
        with tempfile.TemporaryDirectory(prefix=".vocabulary-", dir=shared.parent) as temporary:
            made = Path(temporary, "made")
            made.mkdir()
            write_state(dataset, made, tables=("user", "item"))
            with suppress(OSError):  # another worker was quicker
                made.rename(shared)
    link_folder(shared, target)


def link_folder(source: Path, target: Path) -> None:
    """Make a folder hold the files of another one, without taking room for them where the file system can."""
    if source.is_dir():
        target.mkdir(exist_ok=True)
        for path in source.iterdir():
            link(path, target / path.name)


def link(source: Path, target: Path) -> None:
    """Make a file another name of a file, at once; a copy where the file system has one name a file."""
    if target.is_file() and target.samefile(source):
        return

    def make(temporary: str) -> None:
        try:
            Path(temporary).unlink()
            os.link(source, temporary)
        except FileNotFoundError:
            raise
        except OSError:
            shutil.copyfile(source, temporary)

    write_atomically(target, make)
