"""Segments: rows by how many training rows their user or their item has (`segments` of a configuration)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from recbole_msr.errors import InputError


def class_names(borders: Sequence[int]) -> list[str]:
    """Return the names of the classes of numbers that borders make: the first counts of all classes but the first.

    >>> class_names([1, 6, 21])
    ['0', '1-5', '6-20', '21+']
    """
    starts = [0, *borders]
    closed = [str(start) if end == start + 1 else f"{start}-{end - 1}" for start, end in pairwise(starts)]
    return [*closed, f"{starts[-1]}+"]


def segment_names(declared: Mapping[str, Sequence[int]] | None) -> list[str]:
    """Return the names of the segments that are declared, in their order.

    >>> segment_names({"item_rows": [1, 6]})
    ['item_rows:0', 'item_rows:1-5', 'item_rows:6+']
    """
    return [f"{axis}:{name}" for axis, borders in (declared or {}).items() for name in class_names(borders)]


@dataclass(frozen=True)
class Segments:
    """The segments of some rows. A row is in one of each axis.

    Attributes:
        declared: the borders of the classes, by axis.
        classes: by axis the number of each row's class, from 0 (N,).
    """

    declared: Mapping[str, Sequence[int]]
    classes: Mapping[str, np.ndarray]

    @classmethod
    def of_split(cls, split: Any, config: Any) -> Segments | None:
        """Return the segments of the rows of a split; None where the configuration declares none.

        Rows with any label count, as all models of a comparison see the same users and items. Drawn negatives do not.

        Args:
            split: a split of a `ScenarioDataset`.
            config: reads `segments`.

        Raises:
            InputError: a scenario is called as a segment is.
        """
        declared = config["segments"]
        if not declared:
            return None
        taken = set(split.scenario_names).intersection(segment_names(declared))
        if taken:
            raise InputError(
                f"segments: the scenario '{min(taken)}' is called as a segment is: give it another name (scenario: "
                "groups, names), or other borders"
            )
        classes = {}
        for axis, borders in declared.items():
            field = split.uid_field if axis == "user_rows" else split.iid_field
            of_id = np.searchsorted(np.asarray(borders), split.training_counts(field), side="right")
            classes[axis] = of_id.astype(np.int16)[split.inter_feat[field].numpy()]
        return cls(declared, classes)

    def at(self, rows: np.ndarray) -> Segments:
        """Return the segments of some of the rows: their numbers (n,), or a mask (N,)."""
        return Segments(self.declared, {axis: classes[rows] for axis, classes in self.classes.items()})

    def members(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the name of each segment of all axes, and which rows are in it (N,)."""
        for names, classes in self.groups():
            for number, name in enumerate(names):
                yield name, classes == number

    def groups(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield for each axis the names of its segments, and the number of each row's one among them (N,)."""
        for axis, borders in self.declared.items():
            yield segment_names({axis: borders}), self.classes[axis]
