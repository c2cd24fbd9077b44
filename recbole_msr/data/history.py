"""Histories: the strictly earlier training rows of a row's user, found by two numbers a row.

The training rows are kept once, sorted by user and time. The history of any row is a slice [start, end) of them: its
user's first row there, and the first one that is not strictly earlier. A batch gathers its histories by these two
numbers, so that N rows with histories of length L never take N x L numbers of memory.

A row's history holds training rows alone, and of these only earlier ones: no later row, validation row, test row or
label of one can change it. Rows at the same time do not see each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from recbole_msr.errors import InputError
from recbole_msr.validation import Settings, validate

HISTORY_FIELD = "history_rows"
"""The column (N, 2) of a split: start and end of each row's history among the sorted training rows."""

_EXAMPLE = "{fields: [item_id], length: 50}"


def _names(value: Any) -> Any:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


class HistorySettings(Settings):
    """The declaration `history`."""

    fields: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()
    """Fields of the earlier rows that are read: the item, its fields, token fields of interactions."""
    given: dict[str, str] = Field(default_factory=dict)
    """Token_seq columns of interactions that are histories themselves -> the field whose ids they hold."""
    length: Annotated[int, Field(ge=1)] = 50
    """Number of earlier rows at most, the latest ones; `seq_len` cuts given columns."""
    scenario: Literal["all", "own"] = "all"
    """Earlier rows of every scenario, or of the row's own."""
    of: str | None = None
    """A binary task: only rows with its label 1 are in a history. All rows if not set."""
    order: Literal["time", "position"] = "time"
    """What makes a row earlier: the time field, or its place in the file."""

    @model_validator(mode="after")
    def _consistent(self) -> HistorySettings:
        if not self.fields and not self.given:
            raise ValueError("needs fields, e.g. fields: [item_id]")
        if len(set(self.fields)) < len(self.fields):
            raise ValueError(f"fields must differ, got {', '.join(self.fields)}")
        return self

    @classmethod
    def from_config(cls, config: Any) -> HistorySettings | None:
        """Read a configuration's `history`; None where none is declared.

        Raises:
            InputError: a key is unknown or a value impossible; the message names it.
        """
        declared = config["history"]
        return None if declared is None else validate(cls, declared, "history", example=_EXAMPLE)


def data_key(config: Any) -> Any:
    """Return the part of `history` that decides what is prepared with the data: all but its length."""
    declared = config["history"]
    return {k: v for k, v in declared.items() if k != "length"} if isinstance(declared, Mapping) else declared


@dataclass(frozen=True)
class HistoryRows:
    """The training rows that histories are made of, sorted by user (and scenario) and time.

    Attributes:
        users, scenarios: of each row (P,), int32; scenarios are all 0 where histories are of every scenario.
        places: of each row, its number among the training rows (P,), int32.
        ranks: place of each row's time among `times` (P,), int32.
        times: the different times (R,), float64, ascending; places in the file where these are the order.
        values: by field, the ids of each row (P,) or (P, S), int32.
    """

    users: Tensor
    scenarios: Tensor
    places: Tensor
    ranks: Tensor
    times: Tensor
    values: dict[str, Tensor]

    @classmethod
    def from_rows(
        cls, users: Tensor, scenarios: Tensor, places: Tensor, times: np.ndarray, values: Mapping[str, Tensor]
    ) -> HistoryRows:
        """Sort rows; those of a user at one time stay in their order.

        Args:
            users: ids (P,).
            scenarios: ids (P,), or 0.
            places: numbers among the training rows (P,).
            times: (P,).
            values: ids by field, (P,) or (P, S).
        """
        distinct, ranks = np.unique(times, return_inverse=True)
        order = torch.from_numpy(np.lexsort((ranks, scenarios.numpy(), users.numpy())))
        return cls(
            users[order].int(),
            scenarios[order].int(),
            places[order].int(),
            torch.from_numpy(ranks)[order].int(),
            torch.from_numpy(distinct.astype(np.float64)),
            {field: ids[order].int().contiguous() for field, ids in values.items()},
        )

    def __len__(self) -> int:
        return len(self.users)

    def find(self, users: Tensor, scenarios: Tensor, times: np.ndarray) -> Tensor:
        """Return start and end of the strictly earlier rows of rows' users (N, 2), int64.

        Args:
            users: ids (N,).
            scenarios: ids (N,), or 0, as in the attribute.
            times: (N,), infinite for a row after all others.
        """
        first = self._groups(users, scenarios)
        starts = np.searchsorted(self._keys, first)
        ends = np.searchsorted(self._keys, first + np.searchsorted(self.times.numpy(), times))
        # A scenario that no kept row has must not be taken for the next user's first one.
        known = (scenarios < self._n_scenarios).numpy()
        return torch.from_numpy(np.stack([starts, np.where(known, ends, starts)], axis=1))

    @cached_property
    def _n_scenarios(self) -> int:
        return int(self.scenarios.max()) + 1 if len(self) else 1

    @cached_property
    def _keys(self) -> np.ndarray:
        """One ascending number a row (P,), by which user, scenario and time are found together."""
        keys: np.ndarray = self._groups(self.users, self.scenarios) + self.ranks.numpy()
        return keys

    def _groups(self, users: Tensor, scenarios: Tensor) -> np.ndarray:
        """Return the number (N,) with which the rows of a user and scenario begin."""
        groups: np.ndarray = (users.long() * self._n_scenarios + scenarios).numpy()
        return groups * (len(self.times) + 1)

    def select(self, keep: Tensor, ranges: Tensor) -> tuple[HistoryRows, Tensor]:
        """Leave some of the rows only.

        Args:
            keep: a mask (P,).
            ranges: starts and ends (N, 2) among all rows.

        Returns:
            These rows, and the starts and ends among them.
        """
        before = torch.cat([torch.zeros(1, dtype=torch.int64), keep.cumsum(0)])  # kept rows before each
        kept = replace(
            self,
            users=self.users[keep],
            scenarios=self.scenarios[keep],
            places=self.places[keep],
            ranks=self.ranks[keep],
            values={field: ids[keep] for field, ids in self.values.items()},
        )
        return kept, before[ranges.long()]

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, as `from_tensors` takes them."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        return {
            name: t.contiguous() for name, t in (plain | {f"values/{f}": v for f, v in self.values.items()}).items()
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> HistoryRows:
        """Return the rows that gave the tensors."""
        values = {name.removeprefix("values/"): t for name, t in tensors.items() if name.startswith("values/")}
        return cls(**{name: tensors[name] for name in _PLAIN}, values=values)


_PLAIN = ("users", "scenarios", "places", "ranks", "times")


def checked_times(times: np.ndarray | None, missing: int, field: str | None) -> np.ndarray:
    """Return the times of interactions (N,), which histories are ordered by.

    Args:
        times: as they were read; None where there are none.
        missing: the number of interactions without one.
        field: the time field.

    Raises:
        InputError: there are no times, or some are missing or infinite.
    """
    remedy = "or declare history: {..., order: position}, where a row's place in the file is its order"
    if times is None:
        raise InputError(
            f"history: needs the time of every interaction, and there is no number '{field}' (TIME_FIELD) among the "
            f"loaded fields: load it, {remedy}"
        )
    if missing or not np.isfinite(times).all():
        wrong = missing or int((~np.isfinite(times)).sum())
        raise InputError(
            f"history: '{field}' is {'empty' if missing else 'infinite'} in {wrong} of {len(times)} interactions: mend "
            f"them, {remedy}"
        )
    return times


def last_rows(ranges: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return the last rows of histories, padded to the longest of the batch.

    Args:
        ranges: starts and ends (B, 2).
        length: number of rows at most.

    Returns:
        Row numbers (B, L), the latest first, and which of them there are (B, L); the others are 0.
    """
    ends = ranges[:, 1:].long()
    counts = (ends - ranges[:, :1]).clamp(max=length)
    longest = int(counts.max()) if len(counts) else 0
    steps = torch.arange(longest, device=ranges.device)
    there = steps < counts
    return torch.where(there, ends - 1 - steps, 0), there


def check_given(
    settings: HistorySettings, kinds: Mapping[str, tuple[str, str]], vocabularies: Mapping[str, Any]
) -> None:
    """Refuse given columns that are no histories.

    Args:
        settings: the declaration.
        kinds: as of `check_fields`.
        vocabularies: by field; fields with one space of ids have the same object.

    Raises:
        InputError: names the column and what would be right.
    """
    for column, field in settings.given.items():
        if kinds.get(column) != ("token_seq", "inter"):
            raise InputError(
                f"history: given: '{column}' is no token_seq column of the interactions"
                + (f", but a {kinds[column][0]} of {kinds[column][1]}" if column in kinds else "")
            )
        if kinds.get(field, ("", ""))[0] != "token":
            raise InputError(f"history: given: '{column}' is to hold ids of '{field}', which is no token field")
        if vocabularies[column] is not vocabularies[field]:
            key = {"item_id": "alias_of_item_id", "user_id": "alias_of_user_id"}.get(kinds[field][1])
            remedy = f"{key}: [{column}] gives them one" if key else "only ids of items or users can be shared"
            raise InputError(f"history: given: '{column}' and '{field}' have no vocabulary in common: {remedy}")


def check_fields(settings: HistorySettings, kinds: Mapping[str, tuple[str, str]], tasks: Sequence[Any]) -> None:
    """Refuse fields that a history cannot have, and a task that it cannot be made of.

    Args:
        settings: the declaration.
        kinds: of every feature field its type and the table it is in: "token", "item".
        tasks: the declared tasks.

    Raises:
        InputError: names the field and what would be right.
    """
    usable = [
        field
        for field, (kind, source) in kinds.items()
        if kind in ("token", "token_seq") and source in ("inter", "item", "item_id")
    ]
    for field in settings.fields:
        if field in usable:
            continue
        listed = f"fields of histories are {', '.join(sorted(usable))}"
        if field not in kinds:
            raise InputError(f"history: there is no feature field '{field}'; {listed}")
        kind = kinds[field][0]
        if kind not in ("token", "token_seq"):
            raise InputError(f"history: '{field}' is a {kind}, and a history is of tokens; {listed}")
        raise InputError(f"history: '{field}' is the same in all rows of a user; {listed}")
    names = [task.name for task in tasks if task.type == "binary"]
    if settings.of is not None and settings.of not in names:
        raise InputError(f"history: of: '{settings.of}' is no binary task; there are {', '.join(names) or 'none'}")
