"""The metrics by name."""

from __future__ import annotations

from collections.abc import Iterable

METRICS = ("auc", "gauc", "logloss")


_SMALLER = ("logloss", "rmse", "mae", "averagepopularity", "giniindex")  # what RecBole's metrics declare


def smaller_is_better(key: str) -> bool:
    """Whether a smaller value is better, for a key of `Evaluation.flat` or the name of a RecBole metric.

    >>> smaller_is_better("logloss/macro"), smaller_is_better("auc/mae/click"), smaller_is_better("NDCG@10")
    (True, False, False)
    """
    return key.split("/")[0].split("@")[0].lower() in _SMALLER


def metric_name(key: str) -> str:
    """A metric's key as `Evaluation.flat` has it: case matters in the names of scenarios and tasks alone.

    >>> metric_name("AUC/Macro"), metric_name("AUC/A/Click")
    ('auc/macro', 'auc/A/Click')
    """
    metric, *names = key.strip().split("/")
    if names and names[-1].lower() in ("macro", "worst"):  # no task is called so
        names[-1] = names[-1].lower()
    return "/".join([metric.lower(), *names])


def find_metric(wanted: str, known: Iterable[str]) -> str | None:
    """The key that is meant: the one that is written so, else the only one that differs in case alone."""
    known = list(known)
    exact = metric_name(wanted)
    if exact in known:
        return exact
    alike = {key for key in known if key.casefold() == exact.casefold()}
    return alike.pop() if len(alike) == 1 else None


def metric_keys(scenarios: Iterable[str], tasks: Iterable[str]) -> list[str]:
    """The names of all values that `Evaluation.flat` may have."""
    tasks = list(tasks)
    names = [*tasks, "macro", "worst", *(f"{task}/macro" for task in tasks)]
    names += [f"{scenario}/{task}" for scenario in scenarios for task in tasks]
    return [key for metric in METRICS for key in (metric, *(f"{metric}/{name}" for name in names))]
