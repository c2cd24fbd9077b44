"""What a configuration says of ranked lists: `eval_args: mode`, `metrics` and `topk`, as RecBole spells them."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from recbole_msr.evaluation.ranking import list_metric_names

SAMPLED = re.compile(r"(uni|pop)([1-9]\d*)")


class Mode(NamedTuple):
    """How the items of a list are chosen.

    Attributes:
        draw: "full" for all items, else "uni" or "pop".
        number: items drawn for each positive; 0 for all items.
    """

    draw: str
    number: int


def ranks(config: Any) -> bool:
    """Return whether the declared tasks are evaluated by ranked lists, not by the labels of rows.

    Under `trainer: recbole` RecBole evaluates, as it does without this package.
    """
    return config["tasks"] is not None and config["trainer"] != "recbole" and config["eval_type"].name == "RANKING"


def mode_of(config: Any, split: str) -> Mode:
    """Return how the lists of a split ("valid" or "test") are made."""
    word = config["eval_args"]["mode"][split]
    sampled = SAMPLED.fullmatch(word)
    return Mode(word, 0) if sampled is None else Mode(sampled[1], int(sampled[2]))


def list_metrics(config: Any) -> list[str]:
    """Return the metrics of ranked lists that a configuration names, such as `ndcg@10`."""
    return list_metric_names(config["metrics"], config["topk"])


def metric_names(config: Any) -> list[str]:
    """Return the names of the metrics that a configuration asks for, in lower case and with their cutoffs."""
    return list_metrics(config) if ranks(config) else [name.lower() for name in config["metrics"]]
