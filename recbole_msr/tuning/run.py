"""A search from settings to results: what the command `recbole-msr search` and `recbole_msr.search()` do."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState
from tqdm.auto import tqdm

from recbole_msr.errors import InputError
from recbole_msr.files.outputs import SEARCH
from recbole_msr.jobs.output_lock import lock_output
from recbole_msr.jobs.processes import run_workers
from recbole_msr.jobs.python_call import python_call
from recbole_msr.jobs.storage import hide_password
from recbole_msr.memory import trim_memory
from recbole_msr.prompts.command import embed
from recbole_msr.report.tuning.page import write_search_page
from recbole_msr.threads import cores, one_at_a_time, torch_threads
from recbole_msr.tracking.study_tracking import track_study
from recbole_msr.tuning.final import final_test
from recbole_msr.tuning.objective import StudyData
from recbole_msr.tuning.outcome import (
    FinalTest,
    best_settings,
    best_trial,
    defaults_trial,
    summarise,
    write_best,
    write_summary,
)
from recbole_msr.tuning.resolve import read_search
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.space.space import Space
from recbole_msr.tuning.study import check_study, counted_trials, is_cut_off, storage_errors, values_of
from recbole_msr.tuning.trials_table import trials_frame, write_trials
from recbole_msr.tuning.worker_loop import open_search, run_trials, wanted_trials

logger = logging.getLogger(__name__)


@dataclass
class SearchResult:
    """What a search found.

    Attributes:
        summary: the content of summary.json.
        folder: where best.yaml, trials.csv, report.html and the runs of the final test are.
        study: Optuna's own object.
        best_config: the configuration of the best trial, as `recbole_msr.run(config=...)` takes it; None without one.
    """

    summary: dict[str, Any]
    folder: Path
    study: optuna.Study = field(repr=False)
    best_config: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def trials(self) -> pd.DataFrame:
        """One row a trial: state, objectives, parameters, seconds, reason."""
        return trials_frame(self.study)

    @property
    def best_value(self) -> float | None:
        """The best trial's first objective, on the validation split."""
        return self.summary["best"]["values"][0] if self.summary["best"] else None


@one_at_a_time
def search(
    model: str | None = None,
    dataset: str | None = None,
    trials: int | None = None,
    *,
    config_files: Sequence[str | Path] = (),
    config: Mapping[str, Any] | None = None,
    space: str | Path | Mapping[str, Any] | None = None,
    study: str | None = None,
    output: str | Path | None = None,
    storage: str | None = None,
    workers: int = 1,
    timeout: float | None = None,
    total_epochs: int | None = None,
    sampler: Any = None,
    pruner: Any = None,
    objectives: str | Sequence[str] | None = None,
    tolerance: float = 0.01,
    trial_seeds: int = 1,
    final_seeds: int = 3,
    max_failures: int = 5,
    fused: str | int = "auto",
    wandb: str | None = None,
    wandb_project: str | None = None,
    progress: bool = True,
    command: str | None = None,
) -> SearchResult:
    """Search a model's architecture and training settings; the same call again goes on where the study is.

    Trials are judged on the validation split alone. The test split is read once, by the best configuration and the
    defaults.

    Args:
        model, dataset: names.
        trials: how many trials there are to be, over all workers and restarts.
        config_files, config: configuration keys for every trial, as for `recbole_msr.run`. A key that is also in the
            space is fixed by it.
        space: a file of parameters (search_spaces/README.md), or its content; by default the model's own.
        study: a name; by default MODEL-DATASET.
        output: the folder; by default searches/STUDY.
        storage: a database of Optuna, so that several machines can join; by default a journal in the folder.
        workers: processes on this machine.
        timeout: seconds after which no trial begins, and those under way end with their epoch.
        total_epochs: epochs of all trials after which no trial begins.
        sampler: tpe, gp, cmaes, random, qmc, grid, nsga2, or a mapping {name: tpe, n_startup_trials: 20}.
        pruner: median, percentile, halving, hyperband, patient, wilcoxon, none, or a mapping likewise.
        objectives: metrics of the validation split and costs (parameters, flops, latency, latency_1).
        tolerance: with several objectives: see `search.best.best_trial`.
        trial_seeds: trainings of each trial, with seeds that follow one another; the value is their mean.
        final_seeds: seeds of the final test, other ones than the trials'; 0 for no test.
        max_failures: failed trials in a row that end the search.
        fused: how many trials, or seeds of the final test, a worker trains at once, sharing the work: a number, off, or
            auto, where it is quicker.
        wandb: online, offline or disabled; wandb_project: the project there.
        progress: draw a progress bar.
        command: what to show as the command that made the results.

    Raises:
        InputError: something given cannot be used, or trial after trial failed. What has ended is kept.
    """
    given = {**locals(), "storage": None if storage is None else hide_password(storage)}
    started = time.monotonic()
    settings, parameters, recbole_config = read_search(
        model, dataset, config_files, config or {}, space, study, output,
        objectives=objectives, sampler=sampler, pruner=pruner, trials=trials, epochs=total_epochs, timeout=timeout,
        storage=storage, workers=workers, tolerance=tolerance, trial_seeds=trial_seeds, final_seeds=final_seeds,
        max_failures=max_failures, fused=fused, wandb=wandb, wandb_project=wandb_project,
    )  # fmt: skip
    deadline = None if timeout is None else started + timeout
    occupied = (
        f"a search is under way in {settings.folder}; to add workers give it more --workers, or join its --storage "
        "from another --output"
    )
    threads = int(settings.config["threads"])
    with lock_output(settings.folder, occupied, SEARCH) as hold, torch_threads(threads):
        check_study(settings.folder, settings.study, settings.storage)
        with torch_threads(min(threads * settings.workers, cores())):  # the workers are not there yet
            build_stores(settings.model, settings.dataset, settings.config, parameters)
            data = StudyData(settings)  # prepared once: workers find it in the cache
        found = open_search(settings, parameters, data.config)
        _enqueue_defaults(found, parameters, recbole_config, settings)
        settings.write()
        hold.begun = True
        failure = _run(settings, found, data, deadline, progress)
        best = best_trial(found, settings.tolerance)  # chosen once: other machines may go on
        finals: list[FinalTest] = []
        if best is not None:
            write_best(settings, found, best)
            if is_cut_off(best):
                logger.warning("trial %d is the best, by its epochs so far: %s", best.number, _reason(best))
            if failure is None and settings.final_seeds:
                tested = {one.number: one for one in (best, defaults_trial(found, pruned=True)) if one is not None}
                finals = [final_test(settings, one, data, progress) for one in tested.values()]
        seconds = time.monotonic() - started
        made_by = command or python_call(search, given)
        summary = {**summarise(settings, found, best, finals, seconds, made_by), "data": data.report}
        _write_results(settings, found, summary)
    if failure is not None:
        raise failure
    for test in finals:
        for seed, reason in test.failed.items():
            of = "" if test is finals[0] else " of the defaults"
            logger.warning("the final run%s with seed %d failed: %s; the same command tries it again", of, seed, reason)
    if best is None:
        _tell_failures(found, settings)
    return SearchResult(summary, settings.folder, found, best_settings(settings, best) if best is not None else None)


def _run(
    settings: SearchSettings, study: optuna.Study, data: StudyData, deadline: float | None, progress: bool
) -> InputError | None:
    """Run the trials. Returns what ended them too early: what there is by then is still written down."""
    wanted = wanted_trials(settings, study)
    bar = tqdm(total=wanted, desc=settings.study, unit="trial", disable=not progress)
    report = _Report(settings, study, bar)
    with contextlib.closing(bar):
        report.update()
        over = wanted is not None and report.ended >= wanted
        try:
            if settings.workers == 1 or over:  # no worker is started to find that nothing is left
                run_trials(settings, deadline, data=data, study=study, after=report.update)
            else:
                run_workers(settings, report.update, deadline)
        except InputError as error:
            return error
        finally:
            report.update()
            trim_memory()
    return None


def _write_results(settings: SearchSettings, study: optuna.Study, summary: Mapping[str, Any]) -> None:
    """Write the results."""

    write_trials(study, settings.folder)
    write_summary(settings.folder, summary)
    write_search_page(settings.folder / "report.html", study, summary)
    if settings.wandb != "disabled":
        track_study(
            study,
            trials_frame(study),
            summary,
            settings.folder,
            mode=settings.wandb,
            project=settings.wandb_project,
            config={"model": settings.model, "dataset": settings.dataset, **settings.config, "space": settings.space},
        )


def build_stores(model: str, dataset: str, config: Mapping[str, Any], parameters: Space) -> None:
    """Build the knowledge stores that the trials of a search may use, as far as they are not there."""

    for wanted in parameters.stores():
        if wanted.settings is not None:
            logger.info("knowledge '%s'", wanted.name)
            own = {"model": model, **config, **wanted.settings, "name": wanted.name, "threads": None}
            for line in embed(dataset, [], own, False):
                logger.debug("%s", line)


def _enqueue_defaults(study: optuna.Study, space: Space, config: Any, settings: SearchSettings) -> None:
    """Make the defaults trial 0, so that the search never ends below them. A grid has its points and no others."""
    if settings.sampler["name"] == "grid":
        return
    with FileLock(settings.folder / "workers" / "together.lock"):
        if study.get_trials(deepcopy=False):
            return
        params, outside = space.params_of(config)
        for line in outside:
            logger.warning("trial 0 is not quite the defaults: %s", line)
        if params:
            origin = "near the defaults" if outside else "defaults"
            study.enqueue_trial(params, user_attrs={"origin": origin, "first": True})


class _Report:
    """Keeps trials.csv, best.yaml and the progress bar up to date while trials end."""

    def __init__(self, settings: SearchSettings, study: optuna.Study, bar: Any) -> None:
        self._settings, self._study, self._bar = settings, study, bar
        self.ended = 0

    def update(self, _: Any = None) -> None:
        with storage_errors(self._settings):
            self._update()

    def _update(self) -> None:
        ended = len(counted_trials(self._study))
        if ended != self.ended:
            self.ended = ended
            write_trials(self._study, self._settings.folder)
            best = best_trial(self._study, self._settings.tolerance)
            if best is not None:
                write_best(self._settings, self._study, best)
                told = ", ".join(
                    f"{name} {value:.4g}"
                    for name, value in zip(self._settings.objectives, values_of(best) or [], strict=True)
                )
                self._bar.set_postfix_str(f"best {told} (trial {best.number})", refresh=False)
            self._bar.n = ended
            self._bar.refresh()


def _tell_failures(study: optuna.Study, settings: SearchSettings) -> None:
    trials = counted_trials(study)
    failed = [trial.user_attrs.get("reason", "?") for trial in trials if trial.state == TrialState.FAIL]
    if failed:
        raise InputError(
            f"no trial of the study '{settings.study}' ended well: {len(failed)} failed, the last one: {failed[-1]} "
            f"(all of them are in {settings.folder / 'trials.csv'})"
        )
    logger.warning("no trial was trained to its end within the budget, so there is no best one")


def _reason(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get("reason", ""))
