"""Open the files of a finished run: every check of a run's folder stands here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple, TypeVar, overload

from typing_extensions import Self

from recbole_msr.config.build import build_config
from recbole_msr.config.merge import absolute
from recbole_msr.data.cache import DAMAGE as VOCABULARY_DAMAGE
from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.errors import InputError
from recbole_msr.evaluation.cells import Evaluation
from recbole_msr.files.outputs import check_paths
from recbole_msr.runs.folder import VALIDATED
from recbole_msr.runs.result_file import read_result
from recbole_msr.training.checkpoint import load_checkpoint


class Evaluations(NamedTuple):
    """The scenario x task cells of a run's best epoch.

    Attributes:
        valid, test: of each split; None for a run without tasks, which RecBole's trainer evaluates. A run or a
            trial that has not been tested has no `test`.
    """

    valid: Evaluation | None
    test: Evaluation | None


T = TypeVar("T")


class shared_property(cached_property[T]):
    """A property that is worked out once, by the first of several threads that ask for it."""

    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None) -> T: ...

    def __get__(self, instance: Any, owner: type[Any] | None = None) -> Any:
        if instance is None:
            return self
        with instance.lock:  # from Python 3.12 on `cached_property` has none
            return super().__get__(instance, owner)


class RunFiles:
    """The files of a finished run.

    Opening checks the folder and reads the checkpoint; everything else is read at its first use.

    Args:
        folder: the run's folder. `best.ckpt` and `vocabulary/` are enough to score new rows.
        knowledge_dir: where the run's knowledge is now, if it has moved.

    Attributes:
        folder: the run's folder.
        config: the run's settings as plain values, `model` and `dataset` among them.

    Raises:
        InputError: there is no such folder, it holds no finished run, or its files are damaged or of a version with
            another format.
    """

    def __init__(self, folder: str | Path, knowledge_dir: str | Path | None = None) -> None:
        check_paths({"knowledge_dir": knowledge_dir}, run=folder)
        self.folder = Path(folder)
        _check_folder(self.folder)
        self._checkpoint: dict[str, Any] | None = load_checkpoint(self.checkpoint_path)
        self.config: dict[str, Any] = dict(self._checkpoint["config"])
        # The vocabulary is the last but one to be written; a copy made for scoring may lack the result. Of a run
        # without tasks, which has none, the checkpoint alone may have been copied.
        written = any((self.folder / name).exists() for name in ("result.json", VALIDATED, "vocabulary"))
        if not written and (self.config.get("tasks") or (self.folder / "config.yaml").exists()):
            raise _unfinished(self.folder)
        self._moved: dict[str, Any] = {}
        self.lock = RLock()
        if knowledge_dir is not None:
            self._moved["knowledge_dir"] = absolute(knowledge_dir)

    @property
    def checkpoint_path(self) -> Path:
        """The file of the weights."""
        return self.folder / "best.ckpt"

    def take_checkpoint(self) -> dict[str, Any]:
        """Return the checkpoint's content and let go of it, so that its weights are not held beside the model's."""
        content, self._checkpoint = self._checkpoint, None
        return load_checkpoint(self.checkpoint_path) if content is None else content

    @shared_property
    def result(self) -> dict[str, Any]:
        """The content of result.json; of a run or a trial that has not been tested, that of validated.json.

        Raises:
            InputError: the file is missing or damaged.
        """
        path = self.folder / "result.json"
        try:
            if not path.exists() and (self.folder / VALIDATED).exists():  # not tested
                return read_result(self.folder / VALIDATED, splits=("valid",))
            return read_result(path)
        except FileNotFoundError as error:
            raise _unfinished(self.folder) from error
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from error

    @property
    def evaluation(self) -> Evaluations:
        """The scenario x task cells on the validation and the test split."""
        splits = (self.result.get(split, {}) for split in ("valid", "test"))
        return Evaluations(*(Evaluation.from_dict(split) if "cells" in split else None for split in splits))

    def build_config(self, changes: Mapping[str, Any] | None = None) -> Any:
        """Build RecBole's Config of the run, with some settings changed."""
        settings = self.config | {"strict": False} | self._moved | dict(changes or {})
        return build_config(settings.pop("model"), settings.pop("dataset"), settings)

    @shared_property
    def recbole_config(self) -> Any:
        """RecBole's Config of the run."""
        return self.build_config()

    @shared_property
    def dataset(self) -> ScenarioDataset:
        """The vocabularies and the user and item tables that the run kept, without interactions.

        Raises:
            InputError: the run has no tasks, or the vocabulary is missing or damaged.
        """
        self.require_tasks("only runs with tasks keep the vocabulary that scoring new rows takes")
        folder = self.folder / "vocabulary"
        if not folder.is_dir():
            raise InputError(
                f"the run in {self.folder} has no folder vocabulary, which turns raw values into the model's ids: put "
                "it back from a copy, or train again"
            )
        try:
            return ScenarioDataset.from_vocabulary(self.recbole_config, folder)
        except VOCABULARY_DAMAGE as error:
            raise InputError(f"the vocabulary in {self.folder} is damaged: {error}") from error

    def require_tasks(self, reason: str) -> None:
        """Refuse a run without scenarios and tasks.

        Args:
            reason: why they are needed.

        Raises:
            InputError: the run has none.
        """
        if not self.config.get("tasks"):
            raise InputError(
                f"the run in {self.folder} ({self.config['model']}) was made without scenarios and tasks: {reason}"
            )


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"there is no run folder {folder}")
    if not any((folder / name).is_file() for name in ("config.yaml", "best.ckpt")):
        if (folder / "ensemble.json").is_file():
            raise InputError(f"{folder} holds an ensemble, and this takes one run: one of its members is members/1")
        below = sorted(str(path.parent) for path in folder.glob("*/result.json"))[:5]
        hint = f"; there are runs in {', '.join(below)}" if below else ": it has no config.yaml and no checkpoint"
        raise InputError(f"{folder} is no run's folder{hint}")
    if not any((folder / name).exists() for name in ("best.ckpt", "result.json", "vocabulary")):
        raise _unfinished(folder)


def _unfinished(folder: Path) -> InputError:
    return InputError(
        f"the run in {folder} has not come to its end (run_recbole --resume --output_dir={folder} goes on with it)"
    )
