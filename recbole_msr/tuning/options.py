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

MOST_TOLERATED = 0.05
"""Larger tolerances are taken for what the option once meant: a share of the best value."""
Tolerance = Annotated[
    float,
    real(
        f"from 0 to below {MOST_TOLERATED}, a difference in the first objective's own units (0.001: an AUC of 0.799 "
        "passes for one of 0.8), no longer a share of the best value",
        lambda value: 0 <= value < MOST_TOLERATED,
    ),
]
"""From 0 to below 0.05, in units of the first objective."""


def read_tolerance(text: str) -> float | str:
    """Return the number that a text has; the text itself where it has none, for the check to refuse in its words."""
    try:
        return float(text)
    except ValueError:
        return text


@options
class SearchOptions(JobOptions):
    """Options of `recbole_msr.search` and `recbole-msr search`; checked one by one when the object is made.

    Only `model` (or `models`, or `space`), `dataset` and a budget (`trials`, `timeout` or `total_epochs`) are needed.

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
    models: Annotated[SkipValidation[str | Sequence[str] | None], Argument("NAMES")] = None
    """In place of one model: auto, or names such as HiNet,PLE,DeepFM; one study in which the model is searched, too.

    A list of names, too."""
    timeout: Annotated[Seconds | None, Argument("TIME")] = None
    """Time limit of the whole command, with confirmation, final test and page: seconds, or 90s, 30m, 1h."""
    total_epochs: Annotated[Count | None, Argument("N", int)] = None
    """Maximum number of epochs of all trials together: then no trial begins."""
    output: Annotated[SkipValidation[str | Path | None], Argument("DIR")] = None
    """Output folder; by default searches/STUDY."""
    space: Annotated[SkipValidation[str | Path | Mapping[str, Any] | None], Argument("FILE")] = None
    """Search space; by default the model's own.

    A file, or a mapping like its content (`search_spaces/README.md`)."""
    study: Annotated[SkipValidation[str | None], Argument("NAME")] = None
    """Study name; by default MODEL-DATASET, or auto-DATASET."""
    storage: Annotated[SkipValidation[str | None], Argument("URL")] = None
    """Database that several machines share; by default a journal file in the output folder."""
    sampler: Annotated[SkipValidation[str | Mapping[str, Any] | None], Argument("SAMPLER", "yaml")] = None
    """Sampler: local, tpe, gp, cmaes, random, qmc, grid or nsga2; by default local.

    A mapping has options, too: `{name: tpe, n_startup_trials: 20}`."""
    pruner: Annotated[SkipValidation[str | Mapping[str, Any] | None], Argument("PRUNER", "yaml")] = None
    """Pruner: median, percentile, halving, hyperband, patient, wilcoxon or none; by default median, and none for
    several objectives.

    A mapping has options, too."""
    objectives: Annotated[SkipValidation[str | Sequence[str] | None], Argument("NAMES")] = None
    """Metrics of the validation split and costs, such as auc/macro,parameters,flops,latency; by default the
    configuration's valid_metric."""
    first: Annotated[SkipValidation[str | Path | None], Argument("on|off|PATH")] = None
    """First configurations, tried after the defaults: on, off, a file of your own or a folder of them; by default on.

    They come with the package, for every model that was measured (`search_spaces/README.md`)."""
    warm_start: Annotated[SkipValidation[str | Path | Sequence[str | Path] | None], Argument("STUDIES")] = None
    """Earlier searches, of other data too, whose best settings are tried after the defaults: folders, or STORAGE#STUDY.

    Several are separated by commas."""
    tolerance: Annotated[Tolerance, Argument("DIFFERENCE", read_tolerance)] = 0.001
    """With several objectives, how much worse than the best the first of a cheaper model may be (0.001: of AUC)."""
    trial_seeds: Annotated[Processes, Argument("N", int)] = 1
    """Trainings of each trial, with consecutive seeds; its value is their mean."""
    confirm: Annotated[Processes, Argument("N", int)] = 3
    """Number of best trials that are trained again with the final seeds; the best of them by validation is tested."""
    final_seeds: Annotated[ProcessesOrNone, Argument("N", int)] = 3
    """Seeds of confirmation and final test, none of them a trial's; 0 for neither."""
    max_failures: Annotated[Count, Argument("N", int)] = 5
    """Number of consecutive failed trials that ends a search without a success; with one, ten times as many."""
    fused: Annotated[SkipValidation[str | int | None], Argument("N")] = "auto"
    """Trainings that a worker runs at once, sharing their work: a number, off, or auto for as many as are faster."""
    fidelity: Annotated[SkipValidation[str | Sequence[str] | None], Argument("RUNGS")] = "auto"
    """Shares of the training rows on which trials are compared before they train on all: such as 1/9,1/3, off, or auto
    for those that suit the data and the budget.

    Epochs follow a colon: 1/9:2."""
    ensemble: Annotated[SkipValidation[str | int | None], Argument("K")] = "auto"
    """Models of the best trials, at most K, that are averaged as an ensemble: a number, off, or auto for 10 where there
    is one objective that can choose them.

    They are picked by the validation split, the same one several times, too."""
    dask: Annotated[SkipValidation[str | None], Argument("ADDRESS")] = None
    """Scheduler of a Dask cluster, on whose workers the trials run: tcp://HOST:PORT, or a scheduler file (.json).

    It takes the extra `dask`, and `storage` unless all of the cluster is on this machine. `workers` of 2 or more then
    limits how many of the Dask workers take part; otherwise all do."""
