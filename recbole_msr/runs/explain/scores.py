"""Predictions of chosen rows of a split, with columns shuffled: by a run, or by an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_msr.data.packed import PackedTable
from recbole_msr.errors import InputError
from recbole_msr.evaluation.layout import Layout
from recbole_msr.evaluation.prediction_file import labels_of_split, layout_of_split
from recbole_msr.runs.explain.shuffled_fields import FieldGroups, columns_read
from recbole_msr.runs.member_mean import MemberMean

if TYPE_CHECKING:
    from recbole_msr.data.dataset import ScenarioDataset
    from recbole_msr.runs.saved_run import SavedRun


class ChosenRows:
    """The rows of a split that are predicted, n of them.

    Args:
        split: the split.
        most: rows of each scenario at most, spread evenly; None for all.
        least: `min_scenario_rows`.

    Attributes:
        places: of the rows in the split (n,).
        scenario: their scenarios (n,).
        users: their users (n,); None without users.
        scenarios: names of the scenarios.
        of_rows: number of rows of the split.
    """

    def __init__(self, split: ScenarioDataset, most: int | None, least: int) -> None:
        scenario = split.row_scenario(split.inter_feat).numpy()
        self._split, self.least, self.of_rows = split, least, len(split)
        self.places = _chosen_rows(scenario, most)
        self.scenario, self.scenarios = scenario[self.places], tuple(split.scenario_names)
        self.users = (
            split.inter_feat[split.uid_field].numpy()[self.places] if split.uid_field in split.inter_feat else None
        )

    def labels(self, layout: Layout) -> np.ndarray:
        """Return the labels (n, T) of the tasks and conditionals of a layout."""
        labels: np.ndarray = labels_of_split(self._split, layout)[self.places]
        return labels


class Scores(Protocol):
    """What predicts chosen rows, as they are or with a field of other rows."""

    rows: ChosenRows
    layout: Layout

    @property
    def read(self) -> list[str]:
        """Names of the fields that are read."""

    @property
    def unread(self) -> list[str]:
        """Names of the fields that the data have and nothing reads."""

    def find(self, name: str) -> tuple[str, ...]:
        """Return the columns that a name stands for, or refuse it."""

    def reads(self, name: str) -> bool:
        """Return whether anything that a name stands for is read."""

    def scores(self, name: str | None, donors: np.ndarray | None) -> np.ndarray:
        """Return predictions (n, C) with the donors' (n,) values of a field; None: of the rows as they are."""

    def check_same_rows(self, other: Scores) -> None:
        """Refuse predictions of other rows or tasks."""


class RunScores:
    """Predictions by a run.

    Args:
        run: the run.
        split: the split.
        most: rows of each scenario at most; None for all.
        is_calibrated: whether the run's calibration maps what its model predicts, where it has one.
    """

    def __init__(self, run: SavedRun, split: ScenarioDataset, most: int | None, is_calibrated: bool = False) -> None:
        self._config, self.folder = run.recbole_config, run.folder
        self._calibration = run.calibration if is_calibrated else None
        self.rows = ChosenRows(split, most, self._config["min_scenario_rows"] or 1)
        self._table = PackedTable(split).part(torch.from_numpy(self.rows.places))
        model = run.model
        self._predict: Any = getattr(model, "predict_tasks", model.predict)
        self._batch_size = int(self._config["eval_batch_size"])
        first = self._batch(slice(0, self._batch_size))
        self._read = columns_read(self._predict, first)
        self._groups = FieldGroups(self._config, split, list(first.interaction), self._read)
        width = self._predict(self._batch(slice(0, 1))).reshape(1, -1).shape[1]
        self.layout = layout_of_split(split, width)

    @property
    def read(self) -> list[str]:
        """Names of the fields that the model reads."""
        return self._groups.read

    @property
    def unread(self) -> list[str]:
        """Names of the fields that the data have and the model does not read."""
        return self._groups.unread

    def find(self, name: str) -> tuple[str, ...]:
        """Return the columns that a name stands for.

        Raises:
            InputError: there is no such field, or it is nothing that is shuffled.
        """
        return self._groups.find(name)

    def reads(self, name: str) -> bool:
        """Return whether the model reads any of a name's columns."""
        return not self._read.isdisjoint(self.find(name))

    def scores(self, name: str | None, donors: np.ndarray | None) -> np.ndarray:
        """Return the predictions (n, C), with the donors' values (n,) of a field."""
        columns = () if name is None else self.find(name)
        parts = []
        for start in range(0, len(self.rows.scenario), self._batch_size):
            rows = slice(start, start + self._batch_size)
            batch = self._batch(rows)
            if donors is not None:
                given = self._batch(torch.from_numpy(donors[rows]))
                batch = Interaction({**batch.interaction, **{column: given[column] for column in columns}})
            scores = self._predict(batch)
            parts.append(scores.reshape(len(batch), -1).float().cpu().numpy())
        whole = np.concatenate(parts)
        return whole if self._calibration is None else self._calibration(whole, self.rows.scenario)

    def check_same_rows(self, other: Scores) -> None:
        """Refuse predictions of other rows or tasks.

        Raises:
            InputError: they are.
        """
        _check_same_rows(self, other)

    def _batch(self, rows: slice | torch.Tensor) -> Interaction:
        return self._table.batch(rows).to(self._config["device"])


class EnsembleScores:
    """Predictions by an ensemble: a shuffled field is one of every member that reads it.

    Args:
        members: the members'.
        weights: their weights.
        member_tasks: the tasks that are taken from each.
        tasks: the tasks that are predicted.

    Raises:
        InputError: the members are of other rows.
    """

    def __init__(
        self,
        members: Sequence[RunScores],
        weights: Sequence[float],
        member_tasks: Sequence[Sequence[str]],
        tasks: Sequence[str],
    ) -> None:
        self._members, self.rows = list(members), members[0].rows
        self._as_they_are: list[np.ndarray] = []
        columns = [{t: one.layout.names[part] for t, part in one.layout.columns.items()} for one in members]
        self._mean = MemberMean(columns, weights, member_tasks, tasks)
        types = {task: kind for one in members for task, kind in one.layout.types.items()}
        classes = {task: names for one in members for task, names in one.layout.classes.items()}
        self.layout = Layout({task: types[task] for task in self._mean.columns}, classes)
        for other in members[1:]:
            _check_same_rows(members[0], other, self.layout)

    @property
    def read(self) -> list[str]:
        """Names of the fields that any member reads."""
        return list(dict.fromkeys(name for member in self._members for name in member.read))

    @property
    def unread(self) -> list[str]:
        """Names of the fields that the data have and no member reads."""
        return [name for name in self._members[0].unread if name not in self.read]

    def find(self, name: str) -> tuple[str, ...]:
        """Return the columns that a name stands for, of the first member that knows it.

        Raises:
            InputError: no member knows it.
        """
        for member in self._members[:-1]:
            try:
                return member.find(name)
            except InputError:
                continue
        return self._members[-1].find(name)

    def reads(self, name: str) -> bool:
        """Return whether a member reads any of a name's columns."""
        return any(_reads(member, name) for member in self._members)

    def scores(self, name: str | None, donors: np.ndarray | None) -> np.ndarray:
        """Return the weighted mean (n, C) of the members' predictions, with the donors' values (n,) of a field."""
        if not self._as_they_are:
            self._as_they_are = [member.scores(None, None) for member in self._members]
        return self._mean(
            [
                before if name is None or not _reads(member, name) else member.scores(name, donors)
                for member, before in zip(self._members, self._as_they_are, strict=True)
            ]
        )

    def check_same_rows(self, other: Scores) -> None:
        """Refuse predictions of other rows or tasks.

        Raises:
            InputError: they are.
        """
        _check_same_rows(self._members[0], other)


def _reads(member: RunScores, name: str) -> bool:
    """Return whether a member reads a field, which its data may not have."""
    try:
        return member.reads(name)
    except InputError:
        return False


def _check_same_rows(first: RunScores, other: Any, layout: Layout | None = None) -> None:
    """Refuse predictions of other rows; without a layout of other tasks or classes, too."""
    a, b = first.rows, other.rows
    if layout is None and (first.layout.names, first.layout.types) != (other.layout.names, other.layout.types):
        raise InputError(
            f"{other.folder} predicts {', '.join(other.layout.names)}, and {first.folder} "
            f"{', '.join(first.layout.names)}"
        )
    same = a.scenarios == b.scenarios and a.of_rows == b.of_rows and np.array_equal(a.scenario, b.scenario)
    if same:
        of = layout or first.layout
        same = np.array_equal(a.labels(of), b.labels(of))
    if not same:
        raise InputError(
            f"{first.folder} and {other.folder} have different rows in this split (eval_args, data_seed, filters): "
            "importance is of the same rows for all of them"
        )


def rows_by_scenario(scenario: np.ndarray) -> list[np.ndarray]:
    """Return the places of each scenario's rows, in their order."""
    order = np.argsort(scenario, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(scenario[order])) + 1)


def _chosen_rows(scenario: np.ndarray, most: int | None) -> np.ndarray:
    """Return the places of at most so many rows of each scenario, in their order."""
    parts = rows_by_scenario(scenario)
    if most is not None:
        parts = [p if len(p) <= most else p[np.linspace(0, len(p) - 1, most).astype(np.int64)] for p in parts]
    return np.sort(np.concatenate(parts))
