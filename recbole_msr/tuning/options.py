"""The options of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated, Any

from pydantic import SkipValidation

from recbole_msr.jobs.options import (
    Argument,
    Count,
    JobOptions,
    Processes,
    ProcessesOrNone,
    Seconds,
    options,
    real,
)

Share = Annotated[float, real("a share from 0 to below 1", lambda value: 0 <= value < 1)]
"""From 0 to below 1."""


@options
class SearchOptions(JobOptions):
    """Options of `recbole_msr.search` and `recbole-msr search`; checked one by one when the object is made.

    Only `model` (or `space`), `dataset` and a budget (`trials`, `timeout` or `total_epochs`) are needed.

    Raises:
        InputError: an unknown option, or a value outside its range.
    """

    model: Annotated[SkipValidation[str | None], Argument("NAME", short="-m")] = None
    """Model name; by default that in the configuration, or the model of the space."""
    dataset: Annotated[SkipValidation[str | None], Argument("NAME", short="-d")] = None
    """Dataset name: a folder below data_path."""
    trials: Annotated[Count | None, Argument("N", int)] = None
    """Maximum number of trials, over all workers and restarts."""
    _: KW_ONLY
    timeout: Annotated[Seconds | None, Argument("SECONDS", float)] = None
    """Time limit in seconds: then no trial begins, and those under way stop at the end of their epoch."""
    total_epochs: Annotated[Count | None, Argument("N", int)] = None
    """Maximum number of epochs of all trials together: then no trial begins."""
    output: Annotated[SkipValidation[str | Path | None], Argument("DIR")] = None
    """Output folder; by default searches/STUDY."""
    space: Annotated[SkipValidation[str | Path | Mapping[str, Any] | None], Argument("FILE")] = None
    """Search space; by default the model's own.

    A file, or a mapping like its content (`search_spaces/README.md`)."""
    study: Annotated[SkipValidation[str | None], Argument("NAME")] = None
    """Study name; by default MODEL-DATASET."""
    storage: Annotated[SkipValidation[str | None], Argument("URL")] = None
    """Database that several machines share; by default a journal file in the output folder."""
    sampler: Annotated[SkipValidation[str | Mapping[str, Any] | None], Argument("SAMPLER", "yaml")] = None
    """Sampler: tpe, gp, cmaes, random, qmc, grid or nsga2; by default tpe.

    A mapping has options, too: `{name: tpe, n_startup_trials: 20}`."""
    pruner: Annotated[SkipValidation[str | Mapping[str, Any] | None], Argument("PRUNER", "yaml")] = None
    """Pruner: median, percentile, halving, hyperband, patient, wilcoxon or none; by default median, and none for
    several objectives.

    A mapping has options, too."""
    objectives: Annotated[SkipValidation[str | Sequence[str] | None], Argument("NAMES")] = None
    """Metrics of the validation split and costs, such as auc/macro,parameters,flops,latency; by default the
    configuration's valid_metric."""
    tolerance: Annotated[Share, Argument("SHARE", float)] = 0.01
    """With several objectives, the share of the best quality that a cheaper model may lose."""
    trial_seeds: Annotated[Processes, Argument("N", int)] = 1
    """Trainings of each trial, with consecutive seeds; its value is their mean."""
    final_seeds: Annotated[ProcessesOrNone, Argument("N", int)] = 3
    """Seeds of the final test, none of them a trial's; 0 for no test."""
    max_failures: Annotated[Count, Argument("N", int)] = 5
    """Number of consecutive failed trials that ends the search."""
    fused: Annotated[SkipValidation[str | int | None], Argument("N")] = "auto"
    """Trainings that a worker runs at once, sharing their work: a number, off, or auto for as many as are faster."""
