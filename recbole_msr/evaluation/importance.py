"""Permutation importance: what a metric loses when a field is shuffled, with the error of that number.

Breiman, "Random forests", Machine Learning 2001, section 10; Fisher, Rudin and Dominici, "All models are wrong, but
many are useful", JMLR 2019. The model is not trained again: the loss is that of the model as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from recbole_msr.evaluation.metrics import METRICS, smaller_is_better
from recbole_msr.evaluation.significance import Difference, Measured, differences
from recbole_msr.schema import TaskType

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "recbole-msr-importance/1"
SHOWN: Mapping[TaskType, str] = {"binary": "auc", "number": "mae", "classes": "accuracy", "ordered": "accuracy"}
"""The metric whose loss is shown, by the type of a task; files have the others that `compare` tests, too."""
COLUMNS = ("field", "task", "scenario", "level", "metric", "value", "loss", "low", "high", "row_error", "shuffle_error")
"""Columns of `Importance.frame`."""


def losses(base: Measured, shuffled: Sequence[Measured]) -> dict[str, Difference]:
    """Return how much worse each metric is after shuffles: positive where the field helps, whatever the direction.

    The error is that of `differences`, a shuffle in the place of a seed: the influences of users on the mean
    difference, and the spread of the shuffles.

    Args:
        base: the model on the rows as they are.
        shuffled: the same model on the same rows, one for each shuffle.

    Returns:
        As `differences`: `auc/SCENARIO/TASK`, `auc/TASK` (all rows), `auc/TASK/macro`, and those of other metrics.
    """
    found = differences(shuffled, [base] * len(shuffled))
    return {key: one if smaller_is_better(key) else _negated(one) for key, one in found.items()}


def _negated(difference: Difference) -> Difference:
    # Adding 0.0 makes a negative zero a plain one.
    mean, low, high = (0.0 - value for value in (difference.mean, difference.high, difference.low))
    return replace(difference, mean=mean, low=low, high=high)


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
    losses: Mapping[str, Difference]

    def loss(self, metric: str, task: str, scenario: str | None = None, macro: bool = False) -> Difference | None:
        """Return the loss of a cell; without a scenario that of all rows together, or the mean over scenarios."""
        return self.losses.get(_key(metric, task, scenario, macro))


@dataclass(frozen=True)
class Importance:
    """The permutation importance of a run's fields.

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

    def frame(self) -> pd.DataFrame:
        """Return a line for each field, task, metric and scenario, as explain-importance.csv has it (`COLUMNS`).

        `level` is "cell"; "pooled" for all rows of the task and "macro" for the mean over scenarios, without a
        scenario. `value` is the metric of the rows as they are, `loss` how much worse it gets, `low` and `high` its
        95 % interval; `row_error` and `shuffle_error` (empty for one shuffle) are standard errors.
        """
        import pandas as pd

        lines: list[tuple[Any, ...]] = []
        for one in self.fields:
            for task, metric, level, scenario in self._places():
                key = _key(metric, task, scenario, level == "macro")
                loss = one.losses.get(key)
                if loss is not None:
                    found = (loss.mean, loss.low, loss.high, loss.row_error, loss.seed_error)
                    lines.append((one.name, task, scenario, level, metric, self.values[key], *found))
        return pd.DataFrame(lines, columns=list(COLUMNS))

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


def _plain(loss: Difference) -> dict[str, float | None]:
    return {
        **{"loss": loss.mean, "low": loss.low, "high": loss.high},
        **{"row_error": loss.row_error, "shuffle_error": loss.seed_error, "p": loss.p},
    }
