"""Make and write the folder of a run: config.yaml, metrics.csv, best.ckpt, result.json, vocabulary/."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recbole_msr.errors import InputError
from recbole_msr.files.atomic import write_atomically
from recbole_msr.files.outputs import NO_ROOM, RUN, FolderChanges, WriteError, check_folder, check_path, holds
from recbole_msr.files.yaml import read_yaml, write_yaml_text
from recbole_msr.memory import trim_memory
from recbole_msr.threads import process_rank

# Settings that a resumed run may change: no number that has been computed depends on them.
FREE = {
    *("epochs", "show_progress", "threads", "packed_cache", "cache_dir", "data_device", "state", "strict"),
    *("gpu_id", "use_gpu", "wandb", "log_wandb", "wandb_project"),
}
VALIDATED = "validated.json"
"""The results of a run that has been trained and not tested: result.json without `test`."""
_RUN_DIR = "RECBOLE_MSR_RUN_DIR"


class RunFolder:
    """One run's folder.

    A folder that holds a run already, or that one has just started in, is never written over: a new run goes below it,
    into run-2, run-3, and so on. A folder of a search, a comparison, knowledge or a dataset is refused. A folder that
    was made for a run which could not start is removed again.

    Args:
        path: the folder; None for a new one below runs/ named after model, dataset and time.
        name: "MODEL-DATASET" for that.
        rank: number of this process among those that train together.
        resume: go on with the run in `path`.

    Attributes:
        path: the folder.

    Raises:
        InputError: the folder cannot be made or written, it is of another kind, or there is nothing to resume in it.
    """

    def __init__(self, path: str | Path | None, name: str, resume: bool = False, rank: int = 0) -> None:
        check_path("output_dir", path)
        self._made: FolderChanges | None = None
        if rank != 0:  # the first process has the folder and writes into it
            lent = os.environ.get(_RUN_DIR) or path
            if lent is None:
                raise InputError("several processes train together: give all of them the same output_dir")
            self.path = Path(lent)
            return
        if resume:
            if path is None:
                raise InputError("--resume goes on with the run in --output_dir=DIR: give that folder")
            self.path = self.to_resume(path).parent
            self._make()
        else:
            wanted = Path(path) if path is not None else Path("runs", f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
            check_folder(wanted, RUN, "output_dir")
            self.path, number = wanted, 2
            while _is_taken(self.path) or not self._make(claim=True):
                self.path, number = wanted / f"run-{number}", number + 1
        os.environ[_RUN_DIR] = str(self.path.resolve())

    @staticmethod
    def to_resume(path: str | Path) -> Path:
        """Return the config.yaml of a run that can be resumed.

        Raises:
            InputError: there is none.
        """
        config = Path(path, "config.yaml")
        if not os.path.isfile(config):
            raise InputError(f"there is no run to resume in {path}: it has no config.yaml")
        return config

    def _make(self, claim: bool = False) -> bool:
        """Make the folder and see that it can be written; False if another run claims it first, by its log file."""
        self._made = FolderChanges(self.path, RUN)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
            if claim:
                self.file("run.log").touch(exist_ok=False)
        except FileExistsError as error:
            if not os.path.isdir(self.path):
                raise InputError(
                    f"the output folder {self.path} cannot be written: there is a file of this name"
                ) from error
            return False
        except OSError as error:
            self.discard()
            raise InputError(f"the output folder {self.path} cannot be written: {error.strerror or error}") from error
        return True

    def discard(self) -> None:
        """Remove the files of this run, and the folders made for it as far as they are empty then."""
        if self._made is not None:
            self._made.undo()

    def close(self) -> None:
        """Let processes that are started later have folders of their own."""
        os.environ.pop(_RUN_DIR, None)

    def file(self, name: str) -> Path:
        """Return the path of a file in the folder."""
        return self.path / name

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return is_finished(self.path)

    def write_yaml(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a YAML file, whole or not at all."""
        text = write_yaml_text(dict(content))
        write_atomically(self.file(name), lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file, whole or not at all."""
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(self.file(name), lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))

    def check_same(self, settings: Mapping[str, Any]) -> None:
        """Refuse to resume with other settings than the run was started with.

        Raises:
            InputError: a setting differs that may not; all such are named.
        """
        before = read_yaml(self.file("config.yaml"))
        changed = [
            key for key in sorted({*before, *settings} - FREE) if _differ(key, before.get(key), settings.get(key))
        ]
        if changed:
            changes = ", ".join(f"{key}: {before.get(key)!r} -> {settings.get(key)!r}" for key in changed)
            raise InputError(f"the run in {self.path} was started with other settings ({changes}); resume it unchanged")


def _differ(key: str, before: Any, now: Any) -> bool:
    """Return whether a setting has changed; the order of tasks and scenarios counts, as it numbers them."""
    return bool(before != now) or (key in ("tasks", "scenario") and json.dumps(before) != json.dumps(now))


def is_finished(folder: Path) -> bool:
    """Return whether a folder holds a run that came to its end: its results are written last."""
    return (folder / "result.json").is_file()


def is_validated(folder: Path) -> bool:
    """Return whether a folder holds a run that was trained to its end, tested or not."""
    return is_finished(folder) or (folder / VALIDATED).is_file()


def can_resume(folder: Path) -> bool:
    """Return whether a run was interrupted in a folder and can go on."""
    return (folder / "config.yaml").is_file() and (folder / "last.ckpt").is_file()


@contextmanager
def run_folder(config: Any, path: str | Path | None, resume: bool = False) -> Iterator[RunFolder]:
    """Hold a run's folder while it runs; of a run that cannot begin nothing is left."""
    folder = RunFolder(path, f"{config['model']}-{config['dataset']}", resume, process_rank(config["lightning"]))
    try:
        if resume and folder.finished:
            raise InputError(f"the run in {folder.path} is finished: its results are in result.json")
        yield folder
    except BaseException as raised:
        error = _with_advice(raised, folder.path)
        began = folder.file("metrics.csv").exists()
        if not resume and not began and (isinstance(error, InputError) or not folder.file("config.yaml").exists()):
            folder.discard()
        if error is raised:
            raise
        raise error from raised
    finally:
        folder.close()
        trim_memory()


def _with_advice(error: BaseException, folder: Path) -> BaseException:
    """Return an error; that of a full disk names the file, or the folder, and says how to go on."""
    if not isinstance(error, OSError) or error.errno not in NO_ROOM:
        return error
    advice = f"; make room, and run_recbole --resume --output_dir={folder} goes on" if can_resume(folder) else ""
    return WriteError.of(error.filename or folder, error, advice)


def _is_taken(path: Path) -> bool:
    """Return whether a run would write over something: of another run, or of the user's."""
    return holds(path) is not None or any(os.path.lexists(path / name) for name in RUN.names)
