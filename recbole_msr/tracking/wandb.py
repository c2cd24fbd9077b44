"""One Weights & Biases run, written to disk in this process and never a reason for a training to wait or to fail."""

from __future__ import annotations

import configparser
import contextlib
import hashlib
import logging
import math
import netrc
import os
import re
import secrets
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from recbole_msr.errors import InputError, nearest
from recbole_msr.evaluation.cells import Cell, Evaluation
from recbole_msr.tracking.upload import finish_uploads, sync_command, uploader
from recbole_msr.tracking.worker import log_once, stop_dead_service, worker

if TYPE_CHECKING:
    import pandas as pd


__all__ = ["MODES", "TrackedRun", "finish_uploads", "resolve_mode", "sync_command"]

MODES = ("online", "offline", "disabled")

_WANDB_MODES = {"dryrun": "offline", "run": "online", "shared": "online"}  # what WANDB_MODE may say besides
_DEFAULT_SERVER = "https://api.wandb.ai"
_FINISH_SECONDS = 30.0
_LONGEST_NAME = 128
_STATES = ("complete", "pruned", "failed")


def resolve_mode(wanted: str | None) -> str:
    """Modes of keeping runs: online (written to disk and uploaded), offline (to disk), or disabled.

    Args:
        wanted: one of these; None for what `WANDB_MODE` says, else online where an account's API key is found
            (`WANDB_API_KEY`, netrc, wandb's settings file: nothing is asked over the network), else offline.

    Raises:
        InputError: there is no such mode.
    """
    if wanted is not None:
        return _mode(wanted, "wandb")
    if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes"):
        return "disabled"
    if os.environ.get("WANDB_MODE"):
        return _mode(os.environ["WANDB_MODE"], "WANDB_MODE")
    if _has_account():
        return "online"
    log_once(
        "offline",
        "W&B: no account is set up here (`wandb login`), so runs are kept on disk; "
        "`wandb sync FOLDER/wandb` uploads them later",
        logging.INFO,
    )
    return "offline"


def _mode(wanted: str, where: str) -> str:
    mode = _WANDB_MODES.get(str(wanted).lower(), str(wanted).lower()) if where == "WANDB_MODE" else wanted
    if mode not in MODES:
        raise InputError(f"{where} must be online, offline or disabled, got {wanted!r}{nearest(str(wanted), MODES)}")
    return mode


def _has_account() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser()
    settings = configparser.ConfigParser(interpolation=None)
    try:
        settings.read(folder / "settings", encoding="utf-8")
    except (configparser.Error, OSError, UnicodeDecodeError):
        settings.clear()
    if settings.get("default", "api_key", fallback=None):
        return True
    server = os.environ.get("WANDB_BASE_URL") or settings.get("default", "base_url", fallback=None) or _DEFAULT_SERVER
    names = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    path = next((path for path in (Path(name).expanduser() for name in names) if path.is_file()), None)
    try:
        login = netrc.netrc(path).authenticators(urlsplit(server).netloc) if path is not None else None
    except (netrc.NetrcParseError, OSError, UnicodeDecodeError):
        return False
    return bool(login and login[2])


class TrackedRun:
    """One W&B run. It never raises because of W&B, and never waits for a server.

    In both modes the run is written to disk by wandb itself, in its offline form; online adds that `wandb sync` uploads
    it from another process (`recbole_msr.tracking.upload`). If wandb fails, that is told once, and
    the rest of the run is not tracked.

    As a context manager, it finishes as complete, or as failed with what was raised.

    Args:
        mode: online, offline or disabled (`resolve_mode`); disabled does nothing.
        folder: where the run's folder, `offline-run-TIME-ID`, goes. wandb wants a folder of the name wandb: unless
            `folder` has it, one is made in it.
        project, name, group, job_type, tags: as in W&B.
        config: the parameters; anything that is not plain is kept as text.
        run_id: to go on under an earlier run's id; a new id if not given.

    Attributes:
        id: the run's id.
        path: the run's folder, once it is there.
    """

    def __init__(
        self,
        mode: str,
        folder: str | Path,
        project: str,
        name: str,
        group: str | None,
        job_type: str,
        config: Mapping[str, Any],
        tags: Sequence[str] = (),
        run_id: str | None = None,
    ) -> None:
        self.id = run_id or "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))
        self.mode = mode
        self.path: Path | None = None
        self._folder = Path(folder).absolute()
        if self._folder.name != "wandb":
            self._folder /= "wandb"
        self._run: Any = None
        self._step = -1
        self._finished = mode == "disabled"
        if mode == "disabled":
            return
        settings = {
            "mode": "offline",
            "root_dir": str(self._folder.parent),
            "use_dot_wandb": False,
            "reinit": "create_new",  # never joined with a run that is open in this process
            "run_id": self.id,
            "project": project,
            "run_name": name,
            "run_group": group,
            "run_job_type": job_type,
            "run_tags": tuple(tags),
            "init_timeout": 20.0,
            "console": "off",
            "silent": True,
            "show_errors": False,
            "disable_git": True,
            "disable_code": True,
            "save_code": False,
            "x_save_requirements": False,
        }
        plain = {str(key): _plain(value) for key, value in config.items()}
        _prepare(self._folder)
        worker().do(lambda: self._guarded(lambda: self._start(settings, plain)))

    def __enter__(self) -> TrackedRun:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is None:
            self.finish("complete")
        else:
            interrupted = isinstance(error, (KeyboardInterrupt, SystemExit))
            message = " ".join(str(error).split())
            self.finish("failed", "interrupted" if interrupted else f"{type(error).__name__}: {message}")

    def log_epoch(self, row: Mapping[str, Any]) -> None:
        """Log an epoch's values, as in `EpochKeeper.history`: `epoch` counted from 1, and anything else.

        The step is the epoch; it goes on counting where a run trains several times.
        """
        values = {key: _plain(value) for key, value in row.items() if value is not None}
        self._step = max(int(row["epoch"]), self._step + 1)
        step = self._step
        self._do(lambda run: run.log(values, step=step))

    def log_cells(self, split: str, evaluation: Mapping[str, Any]) -> None:
        """Log a split's results: a table SPLIT/cells with a row for each scenario x task, every value in the summary.

        Where segments are declared there is a table SPLIT/segments too.

        Args:
            split: valid or test.
            evaluation: `Evaluation.to_dict()`.
        """
        result = Evaluation.from_dict(evaluation)
        counts = ["positives"] + ["mean_label"] * any(
            kind not in ("binary", "ranking") for kind in result.types.values()
        )
        columns = ["scenario", "task", "rows", *counts, *result.applicable, "undefined"]
        named = [(scenario, task, cell) for scenario, row in result.cells.items() for task, cell in row.items()]
        named += [("(all rows)", task, cell) for task, cell in result.pooled.items()]
        of_segments = [(segment, task, cell) for segment, row in result.segments.items() for task, cell in row.items()]

        def rows(named: Sequence[tuple[str, str, Cell]]) -> list[list[Any]]:
            return [[name, task, *map(cell.to_dict().get, columns[2:])] for name, task, cell in named]

        self._table(f"{split}/cells", columns, rows(named))
        if of_segments:
            self._table(f"{split}/segments", ["segment", *columns[1:]], rows(of_segments))
        self.summary({f"{split}/{key}": value for key, value in result.flat().items()})

    def summary(self, values: Mapping[str, Any]) -> None:
        """Single values of the run."""
        plain = {str(key): _plain(value) for key, value in values.items() if value is not None}
        self._do(lambda run: run.summary.update(plain))

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """Return a table with the frame's columns; what is missing is empty."""
        rows = [[_plain(None if _missing(value) else value) for value in row] for row in frame.itertuples(index=False)]
        self._table(name, [str(column) for column in frame.columns], rows)

    def _table(self, name: str, columns: list[Any], rows: list[Any]) -> None:
        def log(run: Any) -> None:
            import wandb

            run.log({name: wandb.Table(columns=columns, data=rows, allow_mixed_types=True)})

        self._do(log)

    def curve(self, name: str, x: str, frame: pd.DataFrame) -> None:
        """Log a curve: a point a row, its values under NAME/COLUMN, drawn against NAME/x.

        Args:
            name: of the group of charts.
            x: the column of the horizontal axis.
            frame: the points, in order; what is missing is left out.
        """
        points = [
            {f"{name}/{key}": _plain(value) for key, value in row.items() if not _missing(value)}
            for row in frame.to_dict("records")
        ]

        def log(run: Any) -> None:
            run.define_metric(f"{name}/*", step_metric=f"{name}/{x}")
            for point in points:
                run.log(point)

        self._do(log)

    def artifact(self, name: str, type: str, files: Sequence[str | Path]) -> None:
        """Files, kept under a name (`artifact_name` of it) and as they are now."""
        paths = [Path(file).absolute() for file in files]

        def log(run: Any) -> None:
            import wandb

            made = wandb.Artifact(artifact_name(name), type)
            for path in paths:
                made.add_file(str(path))
            run.log_artifact(made)

        self._do(log)
        if not self._finished:
            worker().wait(_FINISH_SECONDS)  # the caller may change the files then

    def finish(self, state: str, reason: str | None = None) -> None:
        """Close the run: nothing is added to it any more. Calls after the first do nothing.

        Args:
            state: complete, pruned or failed: the summary's `state`, and the exit code (1 for failed).
            reason: why, if not complete: the summary's `reason`.
        """
        if state not in _STATES:
            raise ValueError(f"state must be one of {', '.join(_STATES)}, got {state!r}")
        if self._finished:
            return
        self.summary({"state": state, "reason": reason})
        self._do(lambda run: run.finish(exit_code=int(state == "failed")))
        self._finished = True
        if worker().wait(_FINISH_SECONDS) and self._run is not None and self.mode == "online":
            assert self.path is not None
            uploader().add(self.path)

    # From here on in the worker's thread.

    def _do(self, call: Callable[[Any], Any]) -> None:
        if not self._finished:
            worker().do(lambda: self._guarded(lambda: call(self._run)) if self._run is not None else None)

    def _guarded(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:
            self._run = None
            stop_dead_service()
            message = " ".join(str(error).split())
            log_once("failed", f"W&B: a run cannot be kept, going on without: {type(error).__name__}: {message[:300]}")

    def _start(self, settings: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)  # where wandb cannot write, it would write elsewhere
        import wandb

        supported = {key: value for key, value in settings.items() if key in wandb.Settings.model_fields}
        run = wandb.init(settings=wandb.Settings(**supported), config=dict(config))
        # Else a child process would write through this one's wandb, and lose its runs when this one ends.
        os.environ.pop("WANDB_SERVICE", None)
        self.path = Path(run.dir).parent
        self._run = run
        if self.mode == "online":
            uploader().begin(self.path)


_staging: str | None = None


def _prepare(folder: Path) -> None:
    """Do in the calling thread what another cannot: import wandb, and set what it reads from the environment alone.

    Two threads that import it at once can fail.
    """
    global _staging
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # no network in this process
    before, _staging = _staging, str(folder / "staging")
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):  # copies of artifacts' files, until they are uploaded; logs
        if os.environ.get(name) in (None, before):
            os.environ[name] = _staging
    with contextlib.suppress(Exception):  # told when the run is started
        import wandb  # noqa: F401


def artifact_name(name: str) -> str:
    """Return a name as Weights & Biases allows it for an artifact: of A-Z, a-z, 0-9, -, _ and ., at most 128 of them.

    A name that is allowed stays; another one gets a hash, so that different names stay different.
    """
    allowed = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    if allowed == name and 0 < len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{allowed[: _LONGEST_NAME - len(digest) - 1]}-{digest}"


def _missing(value: Any) -> bool:
    import pandas as pd

    return bool(pd.api.types.is_scalar(value) and pd.isna(value))  # None, NaN, NaT, and pandas' NA


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; what is not plain becomes text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # a number of NumPy or torch
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return str(value)
