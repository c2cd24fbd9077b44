"""The inputs of an exported model: what each column of a row becomes, and what stands for a value that is not given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recbole.utils import FeatureSource, FeatureType
from torch import Tensor

from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.data.history import HistorySettings
from recbole_msr.errors import InputError
from recbole_msr.layers.history import HistoryFeatures
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.runs.saved_run import SavedRun
from recbole_msr.schema import SCENARIO_FIELD

MISSING_ID = -1
"""In the place of an id: the row has no value."""


@dataclass(frozen=True)
class Field:
    """One field that the model reads.

    Attributes:
        name: its name, that of the graph's input.
        kind: token (an id), token_seq (ids, padded with 0), number, scenario (its number from 1), or history (ids of
            any number of positions).
        column: the column of a row that it is made of.
        key: the field of users' or items' ids whose table has its value for rows without one; None for a field of
            interactions.
        table: the values by that id (ids, ...), as the model reads them.
        length: of a token_seq, the number of its ids; of a history, how many positions the model was trained with.
        scale: of a number, `mean`, `low` and `width`: the model reads (value - low) / width.
        vocabulary: the field whose ids it has.
        padding: of a token_seq or a history, what stands where there is no id.
        rows: of a history of earlier rows, their declaration; None for a given column.
        buckets: of a hashed token or token_seq, the number of buckets; None for no hash.
        is_given: whether it is an input; a number in buckets comes from its table alone.
    """

    name: str
    kind: str
    column: str
    key: str | None = None
    table: Tensor | None = None
    length: int = 1
    scale: dict[str, float] | None = None
    vocabulary: str = ""
    padding: int = 0
    rows: HistorySettings | None = None
    buckets: int | None = None
    is_given: bool = True


def exportable_model(run: SavedRun) -> MultiScenarioRecommender:
    """Return a run's model.

    Raises:
        InputError: it is none of this package.
    """
    model = run.model
    if not isinstance(model, MultiScenarioRecommender):
        raise InputError(
            f"{run.config['model']} is one of RecBole's models, which read RecBole's own kind of rows: only models of "
            "recbole-msr are exported (recbole-msr models lists them)"
        )
    return model


def model_fields(config: Any, dataset: ScenarioDataset, model: MultiScenarioRecommender) -> list[Field]:
    """List the fields that a model reads: the user's and the item's ids first, the scenario last.

    Args:
        config: RecBole's Config of the run.
        dataset: the run's vocabularies and tables.
        model: the trained model.

    Raises:
        InputError: a field cannot be an input, with the reason.
    """
    features, keys = model.features, [dataset.uid_field, dataset.iid_field]
    names = [*features.token_fields, *features.token_seq_fields, *features.float_fields]
    others = [name for name in dict.fromkeys(names) if name not in keys]
    fields = [Field(key, "token", key, vocabulary=key, buckets=_buckets(dataset, key)) for key in keys] + [
        _field(config, dataset, name) for name in others
    ]
    if features.history is not None:
        fields += _history_fields(dataset, features.history)
    source = dataset.schema.scenario.field
    if source is not None:
        key, table = _table(dataset, SCENARIO_FIELD)
        fields.append(Field(SCENARIO_FIELD, "scenario", source, key, table))
    return fields


def _history_fields(dataset: ScenarioDataset, history: HistoryFeatures) -> list[Field]:
    """List the inputs of a model's histories: the ids of the earlier rows by field, and the given columns."""
    fields = []
    for name, column in history.inputs.items():
        if dataset.field2type[name] != FeatureType.TOKEN:
            raise InputError(
                f"history: '{name}' of the earlier rows is a sequence itself, and a graph reads one id a position: "
                "train without it, or score with recbole-msr predict"
            )
        fields.append(
            Field(column, "history", column, length=history.length, vocabulary=name, padding=MISSING_ID,
                  rows=dataset.history_settings, buckets=_buckets(dataset, name))
        )  # fmt: skip
    for column, name in history.given.items():
        length = int(dataset.field2seqlen[column])
        fields.append(Field(column, "history", column, length=length, vocabulary=name, buckets=_buckets(dataset, name)))
    return fields


def _field(config: Any, dataset: ScenarioDataset, name: str) -> Field:
    key, table = _table(dataset, name)
    kind = dataset.field2type[name]
    if kind == FeatureType.TOKEN:
        return Field(name, "token", name, key, table, vocabulary=name, buckets=_buckets(dataset, name))
    if kind == FeatureType.TOKEN_SEQ:
        length = int(dataset.field2seqlen[name])
        buckets = _buckets(dataset, name)
        return Field(name, "token_seq", name, key, table, length, vocabulary=name, buckets=buckets)
    is_cut = name in (config["discretization"] or {})
    if is_cut and table is None:
        raise InputError(
            f"'{name}' was put into buckets made from the training data, which a new value cannot be: no row can be "
            "scored by an exported model; use the number as it is (numerical_as: raw)"
        )
    return Field(name, "number", name, key, table, scale=dataset.number_scale[name], is_given=not is_cut)


def _buckets(dataset: ScenarioDataset, name: str) -> int | None:
    own = dataset.table_rows.get(name)
    return own.size - 1 if own is not None and own.is_hashed else None


def _table(dataset: ScenarioDataset, name: str) -> tuple[str | None, Tensor | None]:
    """Return the key of a field of users or items and its values by id; None of both for one of interactions."""
    of_source = {
        FeatureSource.USER: (dataset.uid_field, dataset.user_feat),
        FeatureSource.ITEM: (dataset.iid_field, dataset.item_feat),
    }
    key, table = of_source.get(dataset.field2source[name], (None, None))
    return (key, None) if table is None else (key, table[name])
