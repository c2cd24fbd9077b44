"""Reasons of failed trials, runs and jobs, and the errors that end the whole command."""

from __future__ import annotations

import optuna

from recbole_msr.errors import InputError, one_line
from recbole_msr.files.outputs import NO_ROOM
from recbole_msr.memory import is_out_of_memory
from recbole_msr.training.module import DivergedError

PARQUET_DAMAGE = (OSError, ValueError, KeyError, TypeError, MemoryError, NotImplementedError)
"""Errors that reading a damaged Parquet file may raise (pyarrow's are among these)."""


def ends_search(error: BaseException) -> bool:
    """Return whether an error is not the trial's fault, so that the search cannot continue."""
    if isinstance(error, optuna.exceptions.StorageInternalError):
        return True
    return isinstance(error, OSError) and error.errno in NO_ROOM


def reason_of(error: BaseException) -> str:
    """Return why a trial, a run or a job failed, in one line that begins with the kind of failure."""
    text = one_line(error)
    if is_out_of_memory(error):
        return f"out of memory: {text[:300]}"
    if isinstance(error, DivergedError):
        return f"diverged: {text}"
    if isinstance(error, InputError):
        return f"refused: {text}"
    return f"error: {type(error).__name__}: {text}"
