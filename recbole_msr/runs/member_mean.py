"""The weighted mean of what the members of an ensemble predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from recbole_msr.schema import is_conditional


class MemberMean:
    """Averages tables of predictions.

    Args:
        columns: of each member, the names of its columns by task and conditional, in the order of its tables.
        weights: the members' weights.
        member_tasks: the tasks that are taken from each.
        tasks: the tasks T that are predicted, in their order.

    Attributes:
        columns: the names of the columns of the mean, by task, then by conditional. There is a conditional where the
            same members predict both of its tasks, and it: else a quotient of means would not be one of probabilities.
        conditionals: by the name of each conditional, the task before it.
        of_members: of each member, the names of its columns.
        shares: of each member, the share of each of its columns in each column of the mean (its columns, C).
    """

    def __init__(
        self,
        columns: Sequence[Mapping[str, Sequence[str]]],
        weights: Sequence[float],
        member_tasks: Sequence[Sequence[str]],
        tasks: Sequence[str],
    ) -> None:
        every = {task: list(names) for own in columns for task, names in own.items()}
        given = [name for name in every if is_conditional(name) and _have(name, columns, member_tasks)]
        self.columns = {task: every[task] for task in (*tasks, *given)}
        self.conditionals = {name: name.split("|")[1] for name in given}
        self.of_members = [[name for names in own.values() for name in names] for own in columns]
        # Column c of a member's matrix (its columns, C) is its share of column c: their sums over all members are 1.
        self.shares = [np.zeros((len(own), len(self.names))) for own in self.of_members]
        members = zip(columns, weights, member_tasks, self.of_members, self.shares, strict=True)
        for own_columns, weight, taken, own, shares in members:
            conditionals = [name for name in given if name.split("|")[0] in taken]
            for name in (name for task in (*taken, *conditionals) for name in own_columns[task]):
                shares[own.index(name), self.names.index(name)] = weight
        total = sum(shares.sum(axis=0) for shares in self.shares)
        for shares in self.shares:
            shares /= total

    @property
    def names(self) -> list[str]:
        """The names of all columns of the mean."""
        return [name for names in self.columns.values() for name in names]

    def __call__(self, scores: Sequence[np.ndarray]) -> np.ndarray:
        """Return the weighted means (..., C), float64, of the members' predictions, each (..., its columns).

        With weights w_j of the members j, p(task) = sum_j w_j p_j(task), and so

            p(task|parent) = sum_j w_j p_j(parent) p_j(task|parent) / sum_j w_j p_j(parent).
        """
        means: np.ndarray = sum(one @ shares for one, shares in zip(scores, self.shares, strict=True))  # type: ignore[assignment]
        for name, parent in self.conditionals.items():
            column, before = self.names.index(name), self.names.index(parent)
            weight, weighted = np.zeros(means.shape[:-1]), np.zeros(means.shape[:-1])
            for one, own, shares in zip(scores, self.of_members, self.shares, strict=True):
                if not shares[:, column].any():
                    continue
                place = own.index(parent)
                of_member = shares[place, before] * one[..., place].astype(np.float64)
                weight += of_member
                weighted += of_member * one[..., own.index(name)]
            np.divide(weighted, weight, out=means[..., column], where=weight > 0)
        return means


def _have(conditional: str, columns: Sequence[Mapping[str, object]], member_tasks: Sequence[Sequence[str]]) -> bool:
    """Return whether the same members predict both tasks of a conditional, and it."""
    task, parent = conditional.split("|")
    return all(
        (task in taken) == (parent in taken) and (task not in taken or conditional in own)
        for own, taken in zip(columns, member_tasks, strict=True)
    )
