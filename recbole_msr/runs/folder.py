"""The folder a run leaves: config.yaml, metrics.csv, best.ckpt, result.json, and what scores new rows."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_msr.errors import InputError
from recbole_msr.files.atomic import write_atomically
from recbole_msr.files.outputs import RUN, Made, check_folder, check_path, holds
from recbole_msr.files.yaml import read_yaml, write_yaml_text

# Settings that a resumed run may change: none of them touches what has been computed.
FREE = {
    *("epochs", "show_progress", "threads", "packed_cache", "cache_dir", "data_device", "state", "strict"),
    *("gpu_id", "use_gpu", "wandb", "log_wandb", "wandb_project"),
}
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

    Raises:
        InputError: the folder cannot be made or written, it is of another kind, or there is nothing to resume in it.
    """

    def __init__(self, path: str | Path | None, name: str, resume: bool = False, rank: int = 0) -> None:
        check_path("output_dir", path)
        self._made: Made | None = None
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
        """The config.yaml of a run that can be resumed.

        Raises:
            InputError: there is none.
        """
        config = Path(path, "config.yaml")
        if not os.path.isfile(config):
            raise InputError(f"there is no run to resume in {path}: it has no config.yaml")
        return config

    def _make(self, claim: bool = False) -> bool:
        """Make the folder and see that it can be written; False if another run claims it first, by its log file."""
        self._made = Made(self.path, RUN)
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
        os.environ.pop(_RUN_DIR, None)

    def file(self, name: str) -> Path:
        return self.path / name

    @property
    def finished(self) -> bool:
        return is_finished(self.path)

    def write_yaml(self, name: str, content: Mapping[str, Any]) -> None:
        text = write_yaml_text(dict(content))
        write_atomically(self.file(name), lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))

    def write_json(self, name: str, content: Any) -> None:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(self.file(name), lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))

    def check_same(self, settings: Mapping[str, Any]) -> None:
        """Refuse to resume with other settings than the run was started with."""
        before = read_yaml(self.file("config.yaml"))
        changed = [
            key for key in sorted({*before, *settings} - FREE) if _differ(key, before.get(key), settings.get(key))
        ]
        if changed:
            told = ", ".join(f"{key}: {before.get(key)!r} -> {settings.get(key)!r}" for key in changed)
            raise InputError(f"the run in {self.path} was started with other settings ({told}); resume it unchanged")


def _differ(key: str, before: Any, now: Any) -> bool:
    """Whether a setting has changed; the order of tasks and scenarios is part of it, as it names and numbers them."""
    return bool(before != now) or (key in ("tasks", "scenario") and json.dumps(before) != json.dumps(now))


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a run that came to its end: its results are written last."""
    return (folder / "result.json").is_file()


def _is_taken(path: Path) -> bool:
    """Whether there is something that a run would write over: of another run, or of somebody's own."""
    return holds(path) is not None or any(os.path.lexists(path / name) for name in RUN.names)
