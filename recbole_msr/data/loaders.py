"""The splits of a dataset as a run takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.evaluation.ranking_mode import ranks


@dataclass(frozen=True)
class SplitRows:
    """A split in the place of a RecBole loader: what packs the rows asks for no more than `_dataset`."""

    _dataset: Any


def split_loaders(config: Any, dataset: Any) -> tuple[Any, Any, Any]:
    """Return loaders of the training, validation and test split.

    They are RecBole's; where declared tasks are evaluated by ranked lists they hold the splits alone, since RecBole's
    would take every row for a positive, and make lists of their own.
    """
    from recbole.data import data_preparation

    if ranks(config) and isinstance(dataset, ScenarioDataset):
        train, valid, test = map(SplitRows, dataset.build())
        return train, valid, test
    loaders: tuple[Any, Any, Any] = data_preparation(config, dataset)
    return loaders
