"""The most frequent scenarios of the training rows, and one for all others (`scenario: {field: city, top: 20}`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_msr.errors import InputError
from recbole_msr.schema import UNKNOWN_SCENARIO


@dataclass(frozen=True)
class TopScenarios:
    """Which of a field's values stay scenarios.

    Attributes:
        values: those that stay, in the order of all values.
        names: of the scenarios: the values, and the name of the rest where a row has another value.
        new_ids: by the id of each value, from 1, the id of its scenario; 0 stays 0. Values that do not stay are 0 where
            no row has one.
        report: how many values and rows went into the rest, for the summary of a run.
    """

    values: list[str]
    names: list[str]
    new_ids: np.ndarray
    report: dict[str, Any]

    @property
    def has_rest(self) -> bool:
        """Whether a row has another value than those that stay."""
        return len(self.names) > len(self.values)


def top_scenarios(names: list[str], ids: np.ndarray, n_train: int, top: int, other: str) -> TopScenarios:
    """Choose the most frequent values of the training rows; of equally frequent ones, those that come first.

    Args:
        names: all values, in their order; value v has the id v + 1.
        ids: of all rows (N,), the training rows first.
        n_train: the number of training rows.
        top: how many values stay.
        other: the name of the rest.

    Raises:
        InputError: one of the values that stay has the name of the rest.
    """
    counts = np.bincount(ids[:n_train], minlength=len(names) + 1)[1:]
    stays = np.zeros(len(names), dtype=bool)
    stays[np.argsort(-counts, kind="stable")[:top]] = True
    stays &= counts > 0  # what no training row has cannot be learnt as a scenario
    values = [name for name, kept in zip(names, stays, strict=True) if kept]
    if other in values:
        raise InputError(
            f"scenario: other: '{other}' is one of the {top} most frequent values: give the rest another name"
        )
    new_ids = np.zeros(len(names) + 1, dtype=np.int64)
    new_ids[1:][stays] = np.arange(1, len(values) + 1)
    new_ids[1:][~stays] = len(values) + 1
    in_rest = new_ids[ids] > len(values)
    if not in_rest.any():  # what only users or items without a row have is no scenario
        new_ids[1:][~stays] = UNKNOWN_SCENARIO
    report = {
        "values": len(values),
        "other": other,
        "other_values": int((~stays).sum()),
        "other_rows": int(in_rest.sum()),
        "other_training_rows": int(in_rest[:n_train].sum()),
    }
    return TopScenarios(values, [*values, *([other] if in_rest.any() else [])], new_ids, report)
