"""The columns of a table of predictions: one a task, and one for each class of a task of classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from recbole_msr.schema import Schema, TaskType

CLASS_TYPES: tuple[TaskType, ...] = ("classes", "ordered")
"""Types of tasks that are predicted by a probability for each class."""


@dataclass(frozen=True)
class Layout:
    """Which columns are which task's, in the order of the tasks.

    >>> layout = Layout({"click": "binary", "rating": "classes"}, {"rating": ["1", "2", "3"]})
    >>> layout.width, layout.names
    (4, ['click', 'rating=1', 'rating=2', 'rating=3'])

    Attributes:
        types: the type of each task, by name.
        classes: of each task of classes, the names of its classes, in the order of the columns.
    """

    types: Mapping[str, TaskType]
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, tasks: Iterable[str], types: Mapping[str, TaskType] | None, classes: Mapping[str, Sequence[str]] | None
    ) -> Layout:
        """Return the layout of some tasks, which are binary where no type is given."""
        return cls({task: (types or {}).get(task, "binary") for task in tasks}, classes or {})

    @classmethod
    def predicted(cls, schema: Schema, classes: Mapping[str, Sequence[str]], width: int) -> Layout:
        """Return the layout of `width` predictions: of all tasks and conditionals, of all tasks, or of the main one.

        Args:
            schema: the declared tasks.
            classes: of each task of classes, the names of its classes; none from a model that predicts the main task
                alone.
            width: the number of columns.
        """
        for types in (schema.predicted_types, schema.types):
            layout = cls(types, classes)
            known = all(task in classes for task, kind in types.items() if kind in CLASS_TYPES)
            if known and layout.width == width:
                return layout
        return cls({schema.main_task: schema.types[schema.main_task]}, classes)

    @property
    def columns(self) -> dict[str, slice]:
        """The columns of each task."""
        start, columns = 0, {}
        for task, kind in self.types.items():
            width = len(self.classes[task]) if kind in CLASS_TYPES else 1
            columns[task] = slice(start, start + width)
            start += width
        return columns

    @property
    def width(self) -> int:
        """The number of columns."""
        return sum(part.stop - part.start for part in self.columns.values())

    @property
    def names(self) -> list[str]:
        """The name of each column: the task's, or TASK=CLASS."""
        names: list[str] = []
        for task, kind in self.types.items():
            names += [f"{task}={name}" for name in self.classes[task]] if kind in CLASS_TYPES else [task]
        return names

    def class_values(self, task: str) -> np.ndarray | None:
        """Return the numbers that the classes of a task of ordered classes stand for (K,); None for another task."""
        return np.array([float(name) for name in self.classes[task]]) if self.types[task] == "ordered" else None
