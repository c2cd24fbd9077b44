"""Scores raw rows by the members of an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from torch import Tensor

from recbole_msr.errors import InputError
from recbole_msr.files.row_files import Batch
from recbole_msr.runs.member_mean import MemberMean
from recbole_msr.runs.row_counts import RowCounts, take_most
from recbole_msr.runs.row_encoder import Part, RawRows
from recbole_msr.runs.scoring import Scored, Scorer

if TYPE_CHECKING:
    from recbole_msr.runs.given_histories import Histories, HistoryReader


class EnsembleScorer:
    """Scores raw rows by several models. Threads may share it.

    Args:
        scorers: the members'.
        weights: their weights.
        member_tasks: the tasks that are taken from each.
        tasks: the tasks T that are predicted, in their order.

    Attributes:
        member_mean: what averages the members' scores.
    """

    def __init__(
        self,
        scorers: Sequence[Scorer],
        weights: Sequence[float],
        member_tasks: Sequence[Sequence[str]],
        tasks: Sequence[str],
    ) -> None:
        self._scorers, self.tasks = list(scorers), list(tasks)
        self.member_mean = MemberMean([scorer.columns for scorer in scorers], weights, member_tasks, tasks)
        self.columns = self.member_mean.columns

    @property
    def histories(self) -> Histories | None:
        """The profiles that the first member which reads any has by `with_histories`; None without."""
        return next((scorer.histories for scorer in self._scorers if scorer.histories is not None), None)

    @property
    def history_reader(self) -> HistoryReader:
        """That of the first member which reads profiles of users.

        Raises:
            InputError: none does.
        """
        return next(reader for reader in self._readers() if reader is not None)

    def _readers(self) -> list[HistoryReader | None]:
        """Return every member's, None of one that reads no profiles of users; the first one's error where none does."""
        readers: list[HistoryReader | None] = []
        errors = []
        for scorer in self._scorers:
            try:
                readers.append(scorer.history_reader)
            except InputError as error:
                readers.append(None)
                errors.append(error)
        if len(errors) == len(readers):
            raise errors[0]
        return readers

    def with_histories(self, histories: RawRows | pd.DataFrame | str | Path) -> EnsembleScorer:
        """Return a scorer as `Scorer.with_histories` does: members that read no profiles of users score without.

        Raises:
            InputError: no member reads any, or as there.
        """
        readers = self._readers()
        scorer = copy(self)
        scorer._scorers = [
            one if reader is None else one.with_histories(histories)
            for one, reader in zip(self._scorers, readers, strict=True)
        ]
        return scorer

    @property
    def names(self) -> list[str]:
        """The names of all columns of the scores."""
        return [name for names in self.columns.values() for name in names]

    def score(self, rows: pd.DataFrame, batch_size: int = 8192) -> Scored:
        """Score the rows of a table as `Scorer.score` does."""
        scored = [scorer.score(rows, batch_size) for scorer in self._scorers]
        means = self._mean([one.scores.to_numpy() for one in scored])
        unknown: dict[str, int] = {}
        missing: dict[str, int] = {}
        for one in scored:
            take_most(unknown, one.unknown)
            take_most(missing, one.missing)
        with_history = max(one.with_history for one in scored)
        told = None if self.histories is None else self.histories.counts
        frame = pd.DataFrame(means, columns=self.names, index=rows.index)
        return Scored(frame, unknown, missing, with_history, told)

    def score_batch(self, batch: Batch, path: Any, batch_size: int, counts: RowCounts) -> np.ndarray:
        """Score some rows of a file as `Scorer.score_batch` does; (n, C), float32."""
        by_member = [counts.fresh() for _ in self._scorers]
        scores = [s.score_batch(batch, path, batch_size, own) for s, own in zip(self._scorers, by_member, strict=True)]
        counts.add_most(by_member)
        return self._mean(scores)

    def encode(self, rows: RawRows, part: Part) -> list[dict[str, Tensor]]:
        """Return what every member's `Scorer.encode` does."""
        counts = [rows.counts.fresh() for _ in self._scorers]
        own = [replace(rows, counts=of_member) for of_member in counts]
        found = [scorer.encode(one, part) for scorer, one in zip(self._scorers, own, strict=True)]
        rows.counts.add_most(counts)
        return found

    def cross(
        self, contexts: Sequence[dict[str, Tensor]], items: Sequence[dict[str, Tensor]], batch_size: int
    ) -> np.ndarray:
        """Score every item for every context as `Scorer.cross` does; (n, I, C), float32."""
        of_members = zip(self._scorers, contexts, items, strict=True)
        return self._mean([scorer.cross(context, item, batch_size) for scorer, context, item in of_members])

    def is_sequence(self, field: str) -> bool:
        """Return whether a field holds several tokens a row."""
        return self._scorers[0].is_sequence(field)

    def _mean(self, scores: Sequence[np.ndarray]) -> np.ndarray:
        return self.member_mean(scores).astype(np.float32)
