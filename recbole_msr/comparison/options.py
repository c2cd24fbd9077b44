"""The options of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated, Any

from pydantic import SkipValidation

from recbole_msr.jobs.options import (
    Argument,
    CountOrZero,
    Flag,
    JobOptions,
    Processes,
    Seconds,
    options,
    real,
)
from recbole_msr.value_kinds import checked

Variants = Annotated[
    Mapping[str, Any],
    checked("a mapping such as {loss_weighting: [fixed, dwa]}", lambda value: isinstance(value, Mapping)),
]
"""Keys with lists of values."""
Models = str | Sequence[str] | Mapping[str, Any]
"""Names, or entries by label."""
Level = Annotated[float, real("a number between 0 and 1", lambda value: 0 < value < 1)]
"""Between 0 and 1, neither included."""


@options
class CompareOptions(JobOptions):
    """Options of `recbole_msr.compare` and `recbole-msr compare`; checked one by one when the object is made.

    Only `models` and `dataset` are needed.

    Raises:
        InputError: an unknown option, or a value outside its range.
    """

    models: Annotated[SkipValidation[Models | None], Argument("A,B", short="-m")] = None
    """Models to compare: names, or a YAML file of entries.

    A mapping of labels to settings, too: `{"wide": {"model": "HiNet", "embedding_size": 32}}`."""
    dataset: Annotated[SkipValidation[str | None], Argument("NAME", short="-d")] = None
    """Dataset name: a folder below data_path."""
    trials: Annotated[CountOrZero, Argument("N", int)] = 0
    """Trials of each model's search, or of each task's for single-task models; 0 to compare the defaults."""
    seeds: Annotated[Processes, Argument("N", int)] = 3
    """Runs of each model, with consecutive seeds that its search did not use."""
    _: KW_ONLY
    timeout: Annotated[Seconds | None, Argument("TIME")] = None
    """Time limit of each search (seconds, or 90s, 30m, 1h), beside or instead of a number of trials."""
    output: Annotated[SkipValidation[str | Path | None], Argument("DIR")] = None
    """Output folder; by default comparisons/DATASET."""
    reference: Annotated[SkipValidation[str | None], Argument("NAME")] = None
    """Entry that the others are tested against; by default the first."""
    vary: Annotated[Variants | None, Argument("KEYS", "yaml")] = None
    """Keys with lists of values, such as {loss_weighting: [fixed, dwa]}: each model of this package is entered once for
    every combination."""
    knowledge_ablation: Annotated[Flag, Argument()] = False
    """Enter each model that reads a language model's vectors without them, with them, and with controls."""
    single_scenario: Annotated[Flag, Argument()] = False
    """Also train each entry on every scenario alone, to measure negative transfer."""
    alpha: Annotated[Level, Argument("LEVEL", float)] = 0.05
    """Significance level, after Holm's correction."""
