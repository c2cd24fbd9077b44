"""An ensemble: finished runs whose predictions are averaged, in one folder that can be moved.

The folder holds `ensemble.json` and, below `members/`, what predicting takes of every run:

    {"format": "recbole-msr-ensemble/1", "members": [{"folder": "members/1", "weight": 2, "tasks": ["click", "like"]}]}

A task's probability is the weighted mean of the probabilities (not of the logits) of the members that predict it; a
number is the mean in the field's unit, and each class has the mean of its probabilities. Members of single-task models
predict one task each.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import RLock
from typing import TYPE_CHECKING, Any, NoReturn

import pandas as pd

from recbole_msr import registry
from recbole_msr.errors import InputError
from recbole_msr.files.atomic import write_atomically
from recbole_msr.files.json import read_json
from recbole_msr.files.outputs import ENSEMBLE, RUN, check_paths, holds, writing
from recbole_msr.runs.calibrated import CALIBRATION
from recbole_msr.runs.ensemble_scorer import EnsembleScorer
from recbole_msr.runs.folder import VALIDATED
from recbole_msr.runs.run_files import shared_property
from recbole_msr.runs.saved_run import SavedRun
from recbole_msr.runs.scoring import Scored

if TYPE_CHECKING:
    from recbole_msr.evaluation.importance import Importance

FILE = "ensemble.json"
_FORMAT_NAME = "recbole-msr-ensemble/"
FORMAT = f"{_FORMAT_NAME}1"
_SHAPE = {"format": str, "members": [{"folder": str, "weight": float, "tasks": [str]}]}
_NEEDED = ("best.ckpt", "vocabulary")
"""What a member's folder must have; the rest of a run is copied where it is there."""
_ALSO = ("config.yaml", VALIDATED, "result.json", CALIBRATION)
_SAME = ("tasks", "scenario", "only_scenario")


@dataclass(frozen=True)
class Member:
    """A finished run that is to become a member of an ensemble.

    Attributes:
        folder: the run's folder, with `best.ckpt` and `vocabulary/` at least.
        weight: its weight in the mean, finite and above 0; only ratios count.
        tasks: the tasks that are taken from it; None for all that it predicts.
    """

    folder: Path
    weight: float = 1.0
    tasks: Sequence[str] | None = None


def write_ensemble(folder: str | Path, members: Sequence[Member]) -> Path:
    """Write the folder of an ensemble, which `recbole_msr.load` and `recbole-msr predict` take as they take a run's.

    The members' files are linked (hard links) or copied, so the folder stands alone. One that holds a run or an
    ensemble already is replaced, as a whole.

    Args:
        folder: the folder.
        members: the runs.

    Returns:
        The folder.

    Raises:
        InputError: a member is no finished run, has no weight above 0, or other tasks or scenarios than the first; or
            the folder holds something else, or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and holds(folder) not in (RUN, ENSEMBLE) and (folder.is_file() or any(folder.iterdir())):
        raise InputError(f"{folder} holds something else than a run or an ensemble: an ensemble does not go into it")
    content = [
        {"folder": f"members/{number}", "weight": member.weight, "tasks": _all_tasks(member)}
        for number, member in enumerate(members, start=1)
    ]
    _check_content(content, folder)
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            for described, member in zip(content, members, strict=True):
                _take_run(Path(member.folder), fresh / str(described["folder"]))
            text = json.dumps({"format": FORMAT, "members": content}, indent=2, ensure_ascii=False) + "\n"
            write_atomically(fresh / FILE, lambda path: Path(path).write_text(text, encoding="utf-8"))
            fresh.chmod((fresh / "members").stat().st_mode)  # mkdtemp's folder is its owner's alone
            SavedEnsemble(fresh)
            _replace(folder, fresh)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _all_tasks(member: Member) -> list[str]:
    return list(_predicted(SavedRun(member.folder)) if member.tasks is None else member.tasks)


def _take_run(source: Path, target: Path) -> None:
    """Link or copy what predicting takes of a run."""
    target.mkdir(parents=True)
    for name in (*_NEEDED, *_ALSO):
        path = source / name
        if path.is_dir():
            shutil.copytree(path, target / name, copy_function=_link_or_copy)
        elif path.is_file():
            _link_or_copy(path, target / name)
        elif name in _NEEDED:
            raise InputError(f"{source} cannot be a member of an ensemble: it has no {name}")


def _link_or_copy(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)


def _replace(folder: Path, fresh: Path) -> None:
    """Put a new folder in the place of an old one."""
    old = Path(f"{fresh}.old")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(old)
    try:
        fresh.rename(folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


class SavedEnsemble:
    """An ensemble of finished runs; `recbole_msr.load` opens it.

    It predicts as a run does: a task's probability is the weighted mean of the probabilities of the members that
    predict the task, and so are a number, in the field's unit, the probability of each class, and the expected value of
    ordered classes. A conditional such as "buy|click" is the quotient of such means, p(buy) / p(click). Threads may
    share it.

    Args:
        folder: the folder, with `ensemble.json`.
        knowledge_dir: where the runs' knowledge is now, if it has moved.

    Attributes:
        folder: the folder.
        members: the runs, each a `SavedRun`.
        weights: their weights.
        member_tasks: the tasks that are taken from each.
        tasks: the tasks that are predicted, in the order of their declaration.

    Raises:
        InputError: `ensemble.json` or a member is missing, damaged or of another version; a weight is not above 0; the
            members have other tasks or scenarios.
    """

    def __init__(self, folder: str | Path, knowledge_dir: str | Path | None = None) -> None:
        check_paths({"knowledge_dir": knowledge_dir}, run=folder)
        self.folder = Path(folder)
        content = _read(self.folder)
        self.members = [_open(self.folder, member["folder"], knowledge_dir) for member in content]
        self.weights: list[float] = [float(member["weight"]) for member in content]
        self.member_tasks: list[list[str]] = [member["tasks"] for member in content]
        self.lock = RLock()
        for run, tasks in zip(self.members, self.member_tasks, strict=True):
            _check_member(run, tasks, self.members[0])
        taken = {task for tasks in self.member_tasks for task in tasks}
        self.tasks = [task for task in self.members[0].config["tasks"] if task in taken]

    @property
    def config(self) -> dict[str, Any]:
        """The settings that all members have in common, as plain values."""
        first, *others = (run.config for run in self.members)
        return {k: v for k, v in first.items() if all(k in other and other[k] == v for other in others)}

    @shared_property
    def scorer(self) -> EnsembleScorer:
        """The models with what encodes raw rows; for `predict`, `score` and files of rows."""
        scorers = [run.scorer for run in self.members]
        for run, taken in zip(self.members, self.member_tasks, strict=True):
            self._check_classes(run, taken)
        return EnsembleScorer(scorers, self.weights, self.member_tasks, self.tasks)

    def _check_classes(self, run: SavedRun, tasks: Sequence[str]) -> None:
        """Refuse a member whose data had other classes: there is no mean of what one of them does not know."""
        for task in tasks:
            first = next(m for m, taken in zip(self.members, self.member_tasks, strict=True) if task in taken)
            before, now = (of.scorer.columns[task] for of in (first, run))
            if before != now:
                raise InputError(
                    f"{run.folder} and {first.folder} cannot be averaged: the classes of task '{task}' differ "
                    f"({', '.join(before)} and {', '.join(now)})"
                )

    def predict(
        self, frame: pd.DataFrame, batch_size: int = 8192, histories: pd.DataFrame | str | Path | None = None
    ) -> pd.DataFrame:
        """Predict the probability of every task for new rows, as `SavedRun.predict` does."""
        return self.score(frame, batch_size, histories).scores

    def score(
        self, frame: pd.DataFrame, batch_size: int = 8192, histories: pd.DataFrame | str | Path | None = None
    ) -> Scored:
        """Predict as `predict` does, and count the rows with unknown or missing values.

        Returns:
            `scores` (N, T), and the counts `unknown` and `missing` by field: of the member that has most of them, as
            each counts the fields that its model reads. Members that read no profiles score without histories.
        """
        scorer = self.scorer if histories is None else self.scorer.with_histories(histories)
        return scorer.score(frame, batch_size)

    def recommend(self, users: pd.DataFrame | Sequence[Any], **options: Any) -> pd.DataFrame:
        """Return the items with the best scores for every user, as `SavedRun.recommend` does."""
        from recbole_msr.runs.recommend import recommend

        return recommend(self, users, **options)

    def importance(self, fields: Sequence[str] | None = None, shuffles: int = 5, **options: Any) -> Importance:
        """Measure what each task's metric loses when a field is shuffled, as `SavedRun.importance` does.

        A field is shuffled for all members that read it at once, and the mean of their predictions is what loses. Where
        a member has not been tested, as the models of a search's trials, the validation rows are the default.
        """
        from recbole_msr.runs.explain.explain import ensemble_importance
        from recbole_msr.runs.explain.permutation import ImportanceOptions

        return ensemble_importance(self, ImportanceOptions(fields, shuffles, **options))

    def explain(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: attentions and gates are those of one model.

        Raises:
            InputError: always; it names a member, which can be explained.
        """
        raise InputError(
            f"{self.folder} holds an ensemble, and attentions and gates are those of one model: explain the run of a "
            f"member where it was trained, or {self.members[0].folder}; importance() is that of the ensemble's fields"
        )

    def __repr__(self) -> str:
        models = sorted({run.config["model"] for run in self.members})
        return f"SavedEnsemble({len(self.members)} of {', '.join(models)}, {str(self.folder)!r})"


def is_ensemble(folder: str | Path) -> bool:
    """Return whether a folder holds an ensemble."""
    return os.path.isfile(os.path.join(folder, FILE))  # False, too, for what no file system takes as a path


def _read(folder: Path) -> list[dict[str, Any]]:
    """Read and check the members in ensemble.json."""
    path = folder / FILE
    try:
        content = read_json(path, _SHAPE, "write it again, or take another folder")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if content["format"] != FORMAT:
        known = content["format"].startswith(_FORMAT_NAME)
        advice = "open it with the version of recbole-msr that wrote it" if known else "it is another kind of file"
        raise InputError(f"{path} is not of the format {FORMAT}, but {content['format'][:40]}: {advice}")
    _check_content(content["members"], path)
    return list(content["members"])


def _check_content(members: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Refuse members without a weight, without tasks, or outside of the folder."""
    if not members:
        raise InputError(f"{path}: an ensemble has one member or more, but there is none")
    seen = set()
    for member in members:
        place = PurePosixPath(member["folder"])
        if not place.parts or place.is_absolute() or ".." in place.parts or "\0" in member["folder"]:
            raise InputError(f"{path}: a member's folder lies below it, such as members/1, got {member['folder']!r}")
        if place in seen:
            raise InputError(f"{path}: the member {place} is there twice; give it once, with the sum of the weights")
        seen.add(place)
        if not math.isfinite(member["weight"]) or member["weight"] <= 0:
            raise InputError(f"{path}: the weight of {place} must be finite and above 0, got {member['weight']}")
        tasks = member["tasks"]
        if not tasks or len(set(tasks)) < len(tasks):
            raise InputError(f"{path}: the tasks of {place} must be one or more different ones, got {tasks}")


def _open(folder: Path, place: str, knowledge_dir: str | Path | None) -> SavedRun:
    if not (folder / place).is_dir():
        raise InputError(f"the ensemble in {folder} has no folder {place}, one of its members: put it back from a copy")
    return SavedRun(folder / place, knowledge_dir)


def _predicted(run: SavedRun) -> list[str]:
    """Return the tasks that a run predicts, without building its model."""
    run.require_tasks("an ensemble averages the probabilities of tasks")
    every = hasattr(registry.model_class(run.config["model"]), "predict_tasks")
    main = run.config.get("main_task") or next(iter(run.config["tasks"]))
    return list(run.config["tasks"]) if every else [main]


def _check_member(run: SavedRun, tasks: Sequence[str], first: SavedRun) -> None:
    """Refuse a member that lacks a task, or is about other tasks or scenarios than the first."""
    own = _predicted(run)
    absent = [task for task in tasks if task not in own]
    if absent:
        raise InputError(f"{run.folder} does not predict the task '{absent[0]}', only {', '.join(own)}")
    for key in _SAME:
        before, now = first.config.get(key), run.config.get(key)
        if json.dumps(before) != json.dumps(now):  # the order counts: it numbers tasks and scenarios
            raise InputError(
                f"{run.folder} and {first.folder} cannot be averaged: their settings {key} differ ({before} and {now})"
            )
