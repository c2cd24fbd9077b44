"""Permutation importance: what a metric loses when a field is shuffled, with the error of that number.

Breiman, "Random forests", Machine Learning 2001, section 10; Fisher, Rudin and Dominici, "All models are wrong, but
many are useful", JMLR 2019. The model is not trained again: the loss is that of the model as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_msr.evaluation.metrics import METRICS, smaller_is_better
from recbole_msr.evaluation.significance import Difference, Measured, differences, with_further_error
from recbole_msr.schema import TaskType

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "recbole-msr-importance/1"
SHOWN: Mapping[TaskType, str] = {"binary": "auc", "number": "mae", "classes": "accuracy", "ordered": "accuracy"}
"""The metric whose loss is shown, by the type of a task; files have the others that `compare` tests, too."""
COLUMNS = ("field", "task", "scenario", "level", "metric", "value", "loss", "low", "high", "row_error", "shuffle_error")
"""Columns of `Importance.frame`."""


@dataclass(frozen=True)
class Loss(Difference):
    """How much worse a metric gets: positive where the field helps, whatever the metric's direction.

    Attributes:
        seed_error: standard error of `mean` that the shuffles cause; None with one.
        run_error: that the runs cause: what another training would change; None of one run.
        by_run: the mean loss of each run, if there are several.
    """

    run_error: float | None = None
    by_run: tuple[float, ...] = ()


def losses(bases: Sequence[Measured], shuffled: Sequence[Sequence[Measured]]) -> dict[str, Loss]:
    r"""Return how much worse each metric is after shuffles, the mean over the runs.

    The error is that of `differences`, a shuffle in the place of a seed: the influences of users on the mean
    difference, and the spread of the shuffles. Of several runs theirs is added, so that with R runs, K shuffles and
    D_rk the loss of run r in shuffle k, which is the same for all runs,

    .. math:: \mathrm{Var}(\bar D) = \sum_u \bar\phi_u^2 + \frac{\mathrm{var}_k(\bar D_{\cdot k})}{K}
        + \frac{\mathrm{var}_r(\bar D_{r \cdot})}{R}

    What a shuffle does to one run only is in both of the last terms, so that the interval errs on the wide side.

    Args:
        bases: the runs' models on the rows as they are, R of them.
        shuffled: of each run the same model on the same rows, one for each of K shuffles.

    Returns:
        As `differences`: `auc/SCENARIO/TASK`, `auc/TASK` (all rows), `auc/TASK/macro`, and those of other metrics.
    """
    base, means = mean_measured(bases), [mean_measured(of_run) for of_run in shuffled]
    over_shuffles = [mean_measured(of_shuffle) for of_shuffle in zip(*shuffled, strict=True)]
    found = {key: Loss(**one.to_dict()) for key, one in differences(over_shuffles, [base] * len(over_shuffles)).items()}
    if len(bases) > 1:
        of_runs = differences(means, bases)
        for key, loss in found.items():
            by_run = tuple(_value(after, key) - _value(before, key) for after, before in zip(means, bases, strict=True))
            found[key] = _over_runs(key, loss, of_runs[key].seed_error or 0.0, by_run)
    return {key: one if smaller_is_better(key) else _negated(one) for key, one in found.items()}


def mean_measured(several: Sequence[Measured]) -> Measured:
    """Return the mean of what was measured on the same rows: of the values, and of each user's influence on them."""
    first = several[0]
    keys = [key for key in first.values if all(key in one.values for one in several)]
    values = {key: float(np.mean([one.values[key] for one in several])) for key in keys}
    sums = {
        key: tuple(np.mean([one.sums[key][i] for one in several], axis=0) for i in range(len(first.sums[key])))
        for key in keys
    }
    return Measured(first.rows, values, sums)


def _value(measured: Measured, key: str) -> float:
    value = measured.value(key)
    assert value is not None  # it is one of the differences
    return value


def _over_runs(key: str, loss: Loss, run_error: float, by_run: tuple[float, ...]) -> Loss:
    """Return a loss with the error that the runs cause."""
    wider = with_further_error(loss, run_error, len(by_run) - 1)
    least, greatest = METRICS[key.split("/")[0]].bounds
    most = greatest - least
    return replace(
        loss, low=max(wider.low, -most), high=min(wider.high, most), degrees=wider.degrees, p=wider.p,
        run_error=run_error, by_run=by_run,
    )  # fmt: skip


def _negated(loss: Loss) -> Loss:
    # Adding 0.0 makes a negative zero a plain one.
    mean, low, high = (0.0 - value for value in (loss.mean, loss.high, loss.low))
    return replace(loss, mean=mean, low=low, high=high, by_run=tuple(0.0 - value for value in loss.by_run))


@dataclass(frozen=True)
class FieldImportance:
    """The importance of one field, or of several that are shuffled together.

    Attributes:
        name: as it is shown and asked for.
        fields: the columns that are shuffled together.
        is_read: whether the model reads any of them; if not, every loss is exactly 0.
        losses: metric key, as of `losses`, -> loss; what is undefined is absent.
    """

    name: str
    fields: tuple[str, ...]
    is_read: bool
    losses: Mapping[str, Loss]

    def loss(self, metric: str, task: str, scenario: str | None = None, macro: bool = False) -> Loss | None:
        """Return the loss of a cell; without a scenario that of all rows together, or the mean over scenarios."""
        return self.losses.get(_key(metric, task, scenario, macro))


@dataclass(frozen=True)
class Importance:
    """The permutation importance of the fields of a run, an ensemble, or several runs of one model.

    Attributes:
        split: "test" or "valid".
        rows, of_rows: rows that were predicted, and rows of the split.
        shuffles, seed: number of shuffles, and the seed that they follow from.
        types: the type of each task that is predicted, by name.
        scenarios: names of the scenarios.
        values: metric key -> value of the rows as they are.
        fields: the most important first, by the mean over tasks of each loss relative to the task's largest.
        undefined: scenario, task and reason of each cell that has no importance.
        notes: what else a reader must know.
        runs: the folders of the runs, if there are several; empty for one run or one ensemble.
    """

    split: str
    rows: int
    of_rows: int
    shuffles: int
    seed: int
    types: Mapping[str, TaskType]
    scenarios: tuple[str, ...]
    values: Mapping[str, float]
    fields: tuple[FieldImportance, ...]
    undefined: tuple[tuple[str, str, str], ...]
    notes: tuple[str, ...]
    runs: tuple[str, ...] = ()

    def frame(self) -> pd.DataFrame:
        """Return a line for each field, task, metric and scenario, as explain-importance.csv has it (`COLUMNS`).

        `level` is "cell"; "pooled" for all rows of the task and "macro" for the mean over scenarios, without a
        scenario. `value` is the metric of the rows as they are, `loss` how much worse it gets, `low` and `high` its
        95 % interval; `row_error` and `shuffle_error` (empty for one shuffle) are standard errors, and so is
        `run_error`, a last column where there are several runs.
        """
        import pandas as pd

        lines: list[tuple[Any, ...]] = []
        for one in self.fields:
            for task, metric, level, scenario in self._places():
                key = _key(metric, task, scenario, level == "macro")
                loss = one.losses.get(key)
                if loss is not None:
                    found: tuple[float | None, ...] = (loss.mean, loss.low, loss.high, loss.row_error, loss.seed_error)
                    found += (loss.run_error,) if self.runs else ()
                    lines.append((one.name, task, scenario, level, metric, self.values[key], *found))
        return pd.DataFrame(lines, columns=[*COLUMNS, *(["run_error"] if self.runs else [])])

    def _places(self) -> list[tuple[str, str, str, str | None]]:
        """Return task, metric, level and scenario of every number that there may be."""
        return [
            (task, name, level, scenario)
            for task, kind in self.types.items()
            for name, metric in METRICS.items()
            if metric.difference is not None and kind in metric.types
            for level, scenario in (*(("cell", s) for s in self.scenarios), ("pooled", None), ("macro", None))
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types, as explain-importance.json has it."""
        return {
            "format": FORMAT,
            **({"runs": list(self.runs)} if self.runs else {}),
            "split": self.split,
            "rows": self.rows,
            "of_rows": self.of_rows,
            "shuffles": self.shuffles,
            "seed": self.seed,
            "tasks": dict(self.types),
            "scenarios": list(self.scenarios),
            "values": dict(self.values),
            "fields": [
                {
                    "name": one.name,
                    "fields": list(one.fields),
                    "is_read": one.is_read,
                    "losses": {key: _plain(loss) for key, loss in one.losses.items()},
                }
                for one in self.fields
            ],
            "undefined": [list(cell) for cell in self.undefined],
            "notes": list(self.notes),
        }


def _key(metric: str, task: str, scenario: str | None, macro: bool) -> str:
    if scenario is not None:
        return f"{metric}/{scenario}/{task}"
    return f"{metric}/{task}/macro" if macro else f"{metric}/{task}"


def _plain(loss: Loss) -> dict[str, Any]:
    return {
        **{"loss": loss.mean, "low": loss.low, "high": loss.high},
        **{"row_error": loss.row_error, "shuffle_error": loss.seed_error, "p": loss.p},
        **({"run_error": loss.run_error, "by_run": list(loss.by_run)} if loss.by_run else {}),
    }
