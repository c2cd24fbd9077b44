"""The trials of a study as a table, and as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_msr.errors import InputError
from recbole_msr.files.atomic import write_atomically
from recbole_msr.files.spreadsheet import write_csv
from recbole_msr.jobs.failure import PARQUET_DAMAGE
from recbole_msr.jobs.storage import objective_names
from recbole_msr.tuning.trial_state import values_of

if TYPE_CHECKING:
    import optuna
    import pandas as pd
    from optuna.trial import FrozenTrial

_NUMBERS = ("seconds", "setup_seconds", "epochs", "best_epoch", "parameters", "flops", "latency", "latency_1")
_WORDS = ("worker", "origin", "reason")


def trials_frame(study: optuna.Study) -> pd.DataFrame:
    """Return a table with one row per trial, in the order of their numbers, whatever their state.

    Columns: `number`, `state` (complete, pruned, fail, running, waiting); a value for every objective, under its name;
    `params.NAME` for every parameter that some trial has, in the order in which they were first sampled; `seconds`,
    `setup_seconds`, `epochs`, `best_epoch`, `parameters`, `flops`, `latency`, `latency_1`; `worker`, `origin`,
    `reason`; `started`, `ended`. A pruned trial, and one that the end of
    `--timeout` has cut off, have those of their best epoch on all data; one that was pruned before it had any has the
    value that it last reported. An objective that is also a cost (`parameters`) has
    one column, with the objectives.

    Missing values are NaN for numbers, None for words, NaT for times. A column of parameters that are all numbers holds
    numbers; whole numbers stay whole where a trial lacks them (pandas' Int64).

    Args:
        study: a study of `recbole-msr search`.
    """
    import pandas as pd

    trials = study.get_trials(deepcopy=False)
    columns: dict[str, pd.Series] = {
        "number": pd.Series([trial.number for trial in trials], dtype="int64"),
        "state": pd.Series([trial.state.name.lower() for trial in trials], dtype=object),
    }
    columns |= _value_columns(study, trials)
    columns |= _parameter_columns(trials)
    for name in _NUMBERS:
        if name not in columns:
            columns[name] = _numbers([trial.user_attrs.get(name) for trial in trials])
    for name in _WORDS:
        columns[name] = pd.Series([_word(trial.user_attrs.get(name)) for trial in trials], dtype=object)
    columns["started"] = pd.Series([trial.datetime_start for trial in trials], dtype="datetime64[us]")
    columns["ended"] = pd.Series([trial.datetime_complete for trial in trials], dtype="datetime64[us]")
    return pd.DataFrame(columns)


def _value_columns(study: optuna.Study, trials: Sequence[FrozenTrial]) -> dict[str, pd.Series]:
    import pandas as pd

    values = [values_of(trial) for trial in trials]
    return {
        name: pd.Series([value[index] if value else None for value in values], dtype="float64")
        for index, name in enumerate(objective_names(study))
    }


def _parameter_columns(trials: Sequence[FrozenTrial]) -> dict[str, pd.Series]:
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    return {f"params.{name}": _typed([trial.params.get(name) for trial in trials]) for name in names}


def write_trials(study: optuna.Study, folder: str | Path) -> None:
    """Write trials.csv and trials.parquet, each completely or not at all.

    Args:
        study: a study of `recbole-msr search`.
        folder: an existing folder.
    """
    frame, folder = trials_frame(study), Path(folder)
    write_atomically(folder / "trials.csv", lambda temporary: write_csv(frame, temporary))
    write_atomically(
        folder / "trials.parquet", lambda path: frame.to_parquet(path, index=False, write_page_checksum=True)
    )


def read_trials(folder: str | Path) -> pd.DataFrame:
    """Read the trials.parquet that `write_trials` wrote.

    Raises:
        InputError: it is missing or damaged.
    """
    import pandas as pd

    path = Path(folder) / "trials.parquet"
    try:
        frame = pd.read_parquet(path, page_checksum_verification=True)
        for name in ("seconds", "epochs"):
            frame[name] = frame[name].astype("float64")
    except PARQUET_DAMAGE as error:
        raise InputError(
            f"{path} is missing or damaged ({type(error).__name__}: {str(error)[:200]}): remove it together with the "
            "search's .done file, and the same command writes it again"
        ) from error
    return frame


def _typed(values: Sequence[Any]) -> pd.Series:
    """Give a column one type, as Parquet needs it: numbers, or true and false, or else words."""
    import pandas as pd

    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pd.Series(values, dtype="boolean")
    if kinds <= {int, float}:
        return _numbers(values)
    return pd.Series([_word(value) for value in values], dtype=object)


def _numbers(values: Sequence[Any]) -> pd.Series:
    import pandas as pd

    numbers = [value for value in values if value is not None]
    are_integers = bool(numbers) and all(isinstance(value, int) for value in numbers)
    return pd.Series(values, dtype="Int64" if are_integers else "float64")


def _word(value: Any) -> str | None:
    return None if value is None else str(value)
