"""How a search went by time: what each look at a model told, and where the time went."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna
    import pandas as pd
    from optuna.trial import FrozenTrial

FIRST = ("defaults", "first configuration", "warm start", "sampled")
"""Where trials come from, in the order in which a search begins with them."""


@dataclass(frozen=True)
class Look:
    """A validation value that the search saw.

    Attributes:
        seconds: time of the search until then, without the time between two commands.
        value: the first objective on the validation split.
        trial: number of the trial.
        model: the trial's model.
        source: a word of `FIRST`.
        share: share of the training rows that the model was trained on; 1.0 for all.
        epoch: epochs on these rows until then.
    """

    seconds: float
    value: float
    trial: int
    model: str
    source: str
    share: float
    epoch: int


def source_of(trial: FrozenTrial) -> str:
    """Return where a trial's settings come from, a word of `FIRST`; a retry's are those of what it retries."""
    origin = str(trial.user_attrs.get("origin") or "")
    return next((word for word in FIRST if origin.startswith(word)), "sampled")


def looks(trials: Sequence[FrozenTrial], metric: str, model: str) -> list[Look]:
    """Return every validation value of a search in the order of time: low rungs and epochs on all rows.

    A retried trial counts where it was trained: its repeated history is shown once, with the trial that has it first.

    Args:
        trials: the trials of the study.
        metric: the metric that chooses epochs (`valid_metric`).
        model: the model of trials that name none.
    """
    busy = _BusyTime(trials)
    found: list[Look] = []
    seen: set[tuple[int, float, int]] = set()
    for trial in trials:
        first = int(trial.user_attrs.get("retry_of", trial.number))
        for at, value, share, epoch in _values(trial, metric):
            if (first, share, epoch) in seen or not math.isfinite(value):
                continue
            seen.add((first, share, epoch))
            name = str(trial.user_attrs.get("model") or model)
            found.append(Look(busy.until(at), value, trial.number, name, source_of(trial), share, epoch))
    return sorted(found, key=lambda look: (look.seconds, look.trial, look.epoch))


def best_so_far(found: Iterable[Look], bigger: bool) -> list[tuple[float, float]]:
    """Return the best value on all training rows by time: (seconds, value), a step for each improvement."""
    return [(look.seconds, look.value) for look in _leads(found, bigger)]


def _leads(found: Iterable[Look], bigger: bool) -> list[Look]:
    """Return the looks on all rows that were better than all before them."""
    leads: list[Look] = []
    for look in found:
        if look.share < 1.0:
            continue
        if not leads or (look.value > leads[-1].value if bigger else look.value < leads[-1].value):
            leads.append(look)
    return leads


def study_progress(study: optuna.Study, summary: Mapping[str, Any]) -> pd.DataFrame:
    """Return `looks_frame` of a study.

    Args:
        study: the study.
        summary: the content of its summary.json.
    """
    metric = str(summary["valid_metric"])
    found = looks(study.get_trials(deepcopy=False), metric, str(summary["model"]))
    return looks_frame(found, metric_is_bigger(summary))


def metric_is_bigger(summary: Mapping[str, Any]) -> bool:
    """Return whether larger values of a search's `valid_metric` are better."""
    directions = {str(objective["name"]): str(objective["direction"]) for objective in summary["objectives"]}
    return directions.get(str(summary["valid_metric"]), "maximize").startswith("max")


def looks_frame(found: Sequence[Look], bigger: bool) -> pd.DataFrame:
    """Return a table of all looks, with the column `best`: the best value on all rows until then (NaN before one)."""
    import pandas as pd

    pick = max if bigger else min
    full = [look.value if look.share == 1.0 else math.nan for look in found]

    def better(best: float, value: float) -> float:
        return value if math.isnan(best) else best if math.isnan(value) else pick(best, value)

    frame = pd.DataFrame([vars(look) for look in found], columns=list(Look.__annotations__))
    frame["best"] = list(accumulate(full, better))
    return frame


@dataclass(frozen=True)
class Group:
    """The trials of one model, or from one source.

    Attributes:
        name: of the model or source.
        trials: number of trials that have ended.
        failed: how many of them failed.
        seconds: their time, retries and cut-off parts included.
        defaults: value of the defaults, if they have one.
        best: the best value; None without one.
        median: median of the values of those that were trained on all rows.
        leads: how often one of them was the best so far.
    """

    name: str
    trials: int
    failed: int
    seconds: float
    defaults: float | None
    best: float | None
    median: float | None
    leads: int


def by_model(trials: Sequence[FrozenTrial], found: Sequence[Look], model: str, bigger: bool) -> list[Group]:
    """Return the groups of all models that had a trial, the best first."""

    def name(trial: FrozenTrial) -> str:
        return str(trial.user_attrs.get("model") or model)

    names = dict.fromkeys(name(trial) for trial in trials)
    groups = [_group(each, [t for t in trials if name(t) == each], found, bigger) for each in names]
    sign = -1 if bigger else 1
    return sorted(groups, key=lambda group: math.inf if group.best is None else sign * group.best)


def by_source(trials: Sequence[FrozenTrial], found: Sequence[Look], bigger: bool) -> list[Group]:
    """Return the groups of defaults, first configurations, warm starts and sampled trials, as far as there are any."""
    groups = [_group(word, [t for t in trials if source_of(t) == word], found, bigger) for word in FIRST]
    return [group for group in groups if group.trials or group.seconds]


def _group(name: str, trials: Sequence[FrozenTrial], found: Sequence[Look], bigger: bool) -> Group:
    numbers = {trial.number for trial in trials}
    pick = max if bigger else min
    by_trial: dict[int, float] = {}
    for look in found:
        if look.trial in numbers and look.share == 1.0:
            by_trial[look.trial] = pick(by_trial.get(look.trial, look.value), look.value)
    defaults = [by_trial[t.number] for t in trials if source_of(t) == "defaults" and t.number in by_trial]
    counted = [t for t in trials if t.state.is_finished() and "uncounted" not in t.user_attrs]
    return Group(
        name=name,
        trials=len(counted),
        failed=sum(t.state.name == "FAIL" for t in counted),
        seconds=sum(float(t.user_attrs.get("seconds") or 0.0) for t in trials),
        defaults=defaults[0] if defaults else None,
        best=pick(by_trial.values()) if by_trial else None,
        median=median(by_trial.values()) if by_trial else None,
        leads=len({look.trial for look in _leads(found, bigger)} & numbers),
    )


def _values(trial: FrozenTrial, metric: str) -> list[tuple[float, float, float, int]]:
    """Return (unix time, value, share of rows, epochs) of a trial's low rungs and of its epochs on all rows."""
    if trial.datetime_start is None:
        return []
    start, values = trial.datetime_start.timestamp(), []
    at = start
    for rung in trial.user_attrs.get("rungs") or []:
        at += float(rung["seconds"])
        values.append((at, float(rung["value"]), float(rung["share"]), int(rung["epochs"])))
    end = trial.datetime_complete.timestamp() if trial.datetime_complete is not None else None
    column = f"valid/{metric}".lower()
    history = trial.user_attrs.get("history") or []
    if any(row.get("task") is not None for row in history):
        return [*values, *_of_all_tasks(trial, metric, history)]
    for row in history:
        value = next((value for key, value in row.items() if key.lower() == column), None)
        if value is None:
            continue
        if "at" in row:
            when = float(row["at"])
        else:  # of trials that kept no times: evenly over the trial
            share = int(row["epoch"]) / len(history)
            when = at + share * ((end if end is not None else at) - at)
        values.append((when, float(value), 1.0, int(row["epoch"])))
    return values


def _of_all_tasks(
    trial: FrozenTrial, metric: str, history: Sequence[Mapping[str, Any]]
) -> list[tuple[float, float, float, int]]:
    """Return the one value of a trial whose tasks have a training each: an epoch's own value is of its task alone."""
    name, _, over = metric.lower().partition("/")
    value = trial.user_attrs.get("valid", {}).get(over, {}).get(name)
    if trial.user_attrs.get("values_so_far") is None or value is None or "at" not in history[-1]:
        return []
    return [(float(history[-1]["at"]), float(value), 1.0, len(history))]


class _BusyTime:
    """Seconds in which a trial ran, up to a moment: pauses between commands are left out."""

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        spans = sorted(
            (trial.datetime_start.timestamp(), trial.datetime_complete.timestamp())
            for trial in trials
            if trial.datetime_start is not None and trial.datetime_complete is not None
        )
        self._spans: list[list[float]] = []
        for begin, end in spans:
            if self._spans and begin <= self._spans[-1][1] + _PAUSE:
                self._spans[-1][1] = max(self._spans[-1][1], end)
            else:
                self._spans.append([begin, end])

    def until(self, moment: float) -> float:
        seconds = 0.0
        for number, (begin, end) in enumerate(self._spans):
            last = number == len(self._spans) - 1
            seconds += max(0.0, (moment if last else min(moment, end)) - begin)
        return seconds


_PAUSE = 30.0
"""Seconds without a trial that still belong to the search: the start of workers, the preparation of the next trial."""


def group_rows(groups: Sequence[Group]) -> list[list[Any]]:
    """Return a table's rows of groups: name, trials, failed, seconds, share of all, defaults, best, median, leads."""
    total = sum(group.seconds for group in groups) or 1.0
    return [
        [
            *(group.name, group.trials, group.failed, round(group.seconds, 1), f"{group.seconds / total:.0%}"),
            *(group.defaults, group.best, group.median, group.leads),
        ]
        for group in groups
    ]
