"""Which columns of a batch are shuffled together, and which of them a model reads."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Sequence
from typing import Any

from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource

from recbole_msr.data.history import HISTORY_FIELD, HistorySettings
from recbole_msr.errors import InputError, nearest
from recbole_msr.schema import SCENARIO_FIELD

HISTORY = "history"
"""The name of the whole history of a row."""
WHOLES = {
    "user": (FeatureSource.USER, FeatureSource.USER_ID),
    "item": (FeatureSource.ITEM, FeatureSource.ITEM_ID),
}
"""Words for all fields of a table that the model reads."""


class FieldGroups:
    """The fields of a run's rows, as they are asked for and shuffled.

    Args:
        config: RecBole's configuration of the run.
        split: a split of its data.
        columns: the columns of its batches.
        read: those that the model reads.

    Attributes:
        fields: by name, the columns that are shuffled together: one for a field, several for the history.
        read: names of those that the model reads, in the order of the columns.
    """

    def __init__(self, config: Any, split: Any, columns: Sequence[str], read: set[str]) -> None:
        history, schema = HistorySettings.from_config(config), split.schema
        given = [] if history is None else [name for name in history.given if name in columns]
        self._of_history = [*([HISTORY_FIELD] if HISTORY_FIELD in columns else []), *given]
        self._labels = {task.label_field: task.name for task in schema.tasks}
        internal = {SCENARIO_FIELD, *self._labels, *schema.weight_fields.values(), *self._of_history}
        self.fields: dict[str, tuple[str, ...]] = {name: (name,) for name in columns if name not in internal}
        if self._of_history:
            self.fields[HISTORY if HISTORY not in self.fields else HISTORY_FIELD] = tuple(self._of_history)
        self._sources = {name: split.field2source.get(name) for name in self.fields}
        self._label = config["LABEL_FIELD"]
        self.read = [name for name, own in self.fields.items() if read.intersection(own) and name != self._label]

    @property
    def unread(self) -> list[str]:
        """Fields that the data have and the model does not read, but for the label that RecBole knows."""
        return [name for name in self.fields if name not in self.read and name != self._label]

    def find(self, wanted: str) -> tuple[str, ...]:
        """Return the columns of a name: a field, "history", "user", "item", or several of these joined by "+".

        Raises:
            InputError: there is no such field, or it is nothing that is shuffled.
        """
        if wanted in self.fields:  # a field may be called "a+b", or "user"
            return self.fields[wanted]
        parts = [part.strip() for part in wanted.split("+")] if "+" in wanted else [wanted]
        return tuple(dict.fromkeys(column for part in parts for column in self._find_one(part)))

    def _find_one(self, name: str) -> tuple[str, ...]:
        if name in self.fields:
            return self.fields[name]
        if name in WHOLES:
            own = [field for field in self.read if self._sources[field] in WHOLES[name]]
            if not own:
                raise InputError(f"--fields: the model reads no field of {name}s; it reads {', '.join(self.read)}")
            return tuple(own)
        if name in self._of_history:
            raise InputError(
                f"--fields: '{name}' is part of each row's history, which is shuffled whole: ask for {HISTORY}"
            )
        if name == SCENARIO_FIELD or name in self._labels:
            what = "the scenario, within which rows are shuffled" if name == SCENARIO_FIELD else "a label"
            raise InputError(f"--fields: '{name}' is {what}, and no field that can be shuffled")
        known = [*self.read, *(word for word in WHOLES if word not in self.fields)]
        raise InputError(
            f"--fields: there is no field '{name}'{nearest(name, known)}; the model reads {', '.join(self.read)}"
        )


class _Watched(UserDict[str, Any]):
    """The columns of a batch, which note what is read of them."""

    def __init__(self, columns: dict[str, Any]) -> None:
        super().__init__(columns)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)


def columns_read(predict: Any, batch: Interaction) -> set[str]:
    """Return the columns of a batch that a model reads when it predicts."""
    watched = _Watched(batch.interaction)
    copy = Interaction({})
    copy.interaction, copy.length = watched, len(batch)
    predict(copy)
    return watched.read
