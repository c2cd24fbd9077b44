"""A search from its options to its results: `recbole_msr.search` and the command `recbole-msr search`."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState
from tqdm.auto import tqdm

from recbole_msr.errors import InputError
from recbole_msr.files.outputs import SEARCH
from recbole_msr.jobs.dask_cluster import dask_client, run_on_cluster
from recbole_msr.jobs.failure import ends_search, reason_of
from recbole_msr.jobs.interrupts import Interrupts
from recbole_msr.jobs.options import takes
from recbole_msr.jobs.output_lock import lock_output
from recbole_msr.jobs.processes import run_workers
from recbole_msr.jobs.python_call import python_call
from recbole_msr.jobs.shared_rows import SharedRows
from recbole_msr.jobs.storage import hide_password
from recbole_msr.memory import trim_memory
from recbole_msr.report.tuning.page import write_search_page
from recbole_msr.report.tuning.progress import study_progress
from recbole_msr.runs.knowledge_commands import embed
from recbole_msr.threads import cores, one_at_a_time, torch_threads
from recbole_msr.tracking.study_tracking import track_study
from recbole_msr.tuning.best_model import BestModel
from recbole_msr.tuning.budget import Budget
from recbole_msr.tuning.confirmation import Confirmation, confirm
from recbole_msr.tuning.ensemble import choose_ensemble, describe_ensemble
from recbole_msr.tuning.final_folders import set_finals_aside
from recbole_msr.tuning.first_trials import enqueue_first_trials
from recbole_msr.tuning.gain import ensemble_gains
from recbole_msr.tuning.low_rungs import set_ladder
from recbole_msr.tuning.model_costs import keep_costs
from recbole_msr.tuning.model_summary import summarise_models
from recbole_msr.tuning.options import SearchOptions
from recbole_msr.tuning.outcome import best_settings, best_trial, summarise, write_summary
from recbole_msr.tuning.resolve import read_search
from recbole_msr.tuning.settings import SETTINGS_FILE, SearchSettings
from recbole_msr.tuning.space.space import Space
from recbole_msr.tuning.space.store_parameter import Stores
from recbole_msr.tuning.study import check_study, counted_trials, is_exhausted, storage_errors
from recbole_msr.tuning.study_data import StudyData
from recbole_msr.tuning.trial_state import is_cut_off, values_of
from recbole_msr.tuning.trials import COMMAND
from recbole_msr.tuning.trials_table import trials_frame, write_trials
from recbole_msr.tuning.worker_loop import open_search, run_trials, wanted_trials

logger = logging.getLogger(__name__)


@dataclass
class SearchResult:
    """The result of a search.

    Attributes:
        summary: content of summary.json.
        folder: output folder, with best.yaml, trials.csv, report.html and the runs of the final test.
        study: Optuna's study.
        best_config: configuration of the best trial, as `recbole_msr.run(config=...)` takes it; None without one.
    """

    summary: dict[str, Any]
    folder: Path
    study: optuna.Study = field(repr=False)
    best_config: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def trials(self) -> pd.DataFrame:
        """Return a table with one row per trial: state, objectives, parameters, seconds, reason."""
        return trials_frame(self.study)

    @property
    def best_value(self) -> float | None:
        """Return the best trial's first objective, on the validation split."""
        return self.summary["best"]["values"][0] if self.summary["best"] else None


@takes(SearchOptions)
@one_at_a_time
def search(options: SearchOptions) -> SearchResult:
    """Search a model's architecture and training settings; the same call resumes an interrupted search.

    Trials are judged on the validation split alone. The best ones are trained again with fresh seeds; the test split is
    read once, by the winner among them, its model's defaults and the reference. The options are given one by one, or
    as a `SearchOptions`, with changes by name::

        search("HiNet", "ml-100k", trials=20)

        options = SearchOptions("HiNet", "ml-100k", trials=20, config={"epochs": 5})
        search(options, workers=2)

    Returns:
        The result; the same is in the files of its folder.

    Raises:
        InputError: an option cannot be used, or trial after trial failed. Trials that have ended are kept.
    """
    started = time.monotonic()
    settings, space, recbole_config = read_search(options)
    occupied = (
        f"a search is under way in {settings.folder}; to add workers give it more --workers, or join its --storage "
        "from another --output"
    )
    threads = int(settings.config["threads"])
    with (
        Interrupts().installed() as interrupts,
        dask_client(options.dask) as cluster,
        lock_output(settings.folder, occupied, SEARCH) as lock,
        torch_threads(threads, trains=True),
    ):
        study, data = _open_study(settings, space, recbole_config)
        settings.write()
        lock.begun = True
        os.environ[COMMAND] = uuid.uuid4().hex
        deadline = None if settings.timeout is None else started + settings.timeout
        on_cluster = None if cluster is None else _on_cluster(settings, cluster, options.workers, deadline)
        failure, averaged, confirmation = None, {}, None
        with interrupts.held():
            failure = _run_trials(settings, study, data, deadline, options.progress, on_cluster)
        # Chosen once: other machines may still add trials.
        best = best_trial(study, settings.tolerance, running=interrupts.interrupted)
        if best is not None:
            _keep_best(settings, study, best)
        budget = Budget(settings, study, deadline)
        if failure is None and not interrupts.interrupted:
            with interrupts.held():
                confirmation = confirm(settings, study, data, budget, options.progress)
        if confirmation is not None:
            best = confirmation.winner
            BestModel(settings).keep(study, best, confirmation.sentence(settings))
        if best is not None and failure is None and not interrupts.interrupted:
            with interrupts.held(), _ensemble_errors_told():
                averaged = _find_ensemble(settings, study, data, best, confirmation, budget)
        seconds = time.monotonic() - started
        command = options.command or python_call("search", _without_password(options))
        confirmed = confirmation.summary(settings, study) if confirmation is not None else {}
        summary = {
            **summarise(settings, study, best, confirmed, seconds, command),
            **summarise_models(settings, study, best),
            **averaged,
            "data": data.report,
        }
        _write_results(settings, study, summary)
        _tell_interruption(settings, best, interrupts)
        interrupts.raise_again()
    if failure is not None:
        raise failure
    if confirmation is not None:
        _warn_of_failed_finals(confirmation)
    if best is None:
        _refuse_without_best(study, settings)
    return SearchResult(summary, settings.folder, study, best_settings(settings, best) if best is not None else None)


def _open_study(settings: SearchSettings, space: Space, recbole_config: Any) -> tuple[optuna.Study, StudyData]:
    """Prepare the knowledge stores, the data and the study, before any worker is started.

    Raises:
        InputError: the folder or the study is another search's, or the data cannot be used.
    """
    check_study(settings.folder, settings.study, settings.storage)
    with torch_threads(min(int(settings.config["threads"]) * settings.workers, cores())):  # no worker runs yet
        _build_stores(settings, space)
        data = StudyData(settings)  # prepared once: workers read it from the cache
    study = open_search(settings, space, data.config)
    if not study.get_trials(deepcopy=False):
        set_finals_aside(settings.folder)
    set_ladder(study, settings, data, space.fixed)
    if settings.models:
        keep_costs(study, settings, space, data)
    else:
        enqueue_first_trials(study, space, recbole_config, settings)
    return study, data


def _build_stores(settings: SearchSettings, space: Space) -> None:
    """Build the knowledge stores; in a search over several models, for the one that has them in its space."""
    names = [parameter.name for parameter in space.parameters if settings.models and isinstance(parameter, Stores)]
    model = names[0].split(".")[0] if names else settings.model
    unread = settings.unread.get(model, ())
    build_stores(model, settings.dataset, {k: v for k, v in settings.config.items() if k not in unread}, space)


def _keep_best(settings: SearchSettings, study: optuna.Study, best: FrozenTrial) -> None:
    BestModel(settings).keep(study, best)
    if is_cut_off(best):
        logger.warning("trial %d is the best, by its epochs so far: %s", best.number, _reason(best))


def _tell_interruption(settings: SearchSettings, best: FrozenTrial | None, interrupts: Interrupts) -> None:
    if interrupts.interrupted:
        what = f"trial {best.number} is the best so far" if best is not None else "no epoch was validated yet"
        logger.warning("interrupted: %s; all results so far are in %s", what, settings.folder)


def _without_password(options: SearchOptions) -> SearchOptions:
    return options if options.storage is None else replace(options, storage=hide_password(options.storage))


def _warn_of_failed_finals(confirmation: Confirmation) -> None:
    for name, reason in confirmation.describe_failures().items():
        seed, _, trial = name.partition(", ")
        of = f" of {'the ' if not trial.startswith('trial') else ''}{trial}" if trial else ""
        logger.warning("the final run%s with seed %s failed: %s; the same command tries it again", of, seed, reason)


def _run_trials(
    settings: SearchSettings,
    study: optuna.Study,
    data: StudyData,
    deadline: float | None,
    progress: bool,
    elsewhere: Callable[..., None] | None = None,
) -> InputError | None:
    """Run the trials; `elsewhere` runs them on other machines, with the `update` and `count_ended` of `run_workers`.

    Returns:
        The error that ended them early, for the caller to raise once the results so far are written.
    """
    most = wanted_trials(settings, study)
    bar = tqdm(total=most, desc=settings.study, unit="trial", disable=not progress)
    report = _Report(settings, study, bar)
    with contextlib.closing(bar):
        report.update()
        over = most is not None and report.ended >= most
        try:
            if elsewhere is not None and not over:
                elsewhere(report.update, count_ended=lambda: report.ended)
            elif settings.workers == 1 or over:  # no worker is started only to see that nothing is left
                run_trials(settings, deadline, data=data, study=study, after=report.update)
            else:
                run_workers(settings, "recbole_msr.tuning.worker", report.update, deadline, lambda: report.ended)
        except InputError as error:
            return error
        finally:
            report.update()
            trim_memory()
    if is_exhausted(study):
        logger.warning("every point of the space has been tried, so no further trial is made")
    return None


@contextlib.contextmanager
def _ensemble_errors_told() -> Iterator[None]:
    """Tell why there is no ensemble; only an error that ends every search is raised."""
    try:
        yield
    except Exception as error:
        if ends_search(error):
            raise
        logger.warning("there is no ensemble: %s", error if isinstance(error, InputError) else reason_of(error))


def _find_ensemble(
    settings: SearchSettings,
    study: optuna.Study,
    data: StudyData,
    best: FrozenTrial,
    confirmation: Confirmation | None,
    budget: Budget,
) -> dict[str, Any]:
    """Choose the ensemble, and return its part of the summary; it is tested if the winner is, and time is left."""
    if not settings.ensemble:
        return {}
    ensemble = choose_ensemble(settings, study, budget.left)
    if ensemble is None:
        return {}
    tests_it = bool(settings.final_seeds)
    if tests_it and budget.over():
        logger.warning("the ensemble is not tested: no time was left for it; the same command with more time tests it")
        tests_it = False
    others = {"winner": best, "reference": confirmation.reference if confirmation is not None else None}
    tests = confirmation.tests if confirmation is not None else {}
    seeds = {number: test.seeds for number, test in tests.items()}

    def gains(shared: SharedRows, scores: np.ndarray) -> dict[str, Any]:
        return ensemble_gains(settings, data.config, shared, scores, others, seeds)

    return {"ensemble": describe_ensemble(ensemble, best.number, gains if tests_it else None)}


def _on_cluster(settings: SearchSettings, cluster: Any, workers: int, deadline: float | None) -> Callable[..., None]:
    """Return what runs the trials on a Dask cluster, on at most `workers` Dask workers if that is more than 1."""
    return partial(
        run_on_cluster,
        settings,
        cluster,
        "recbole_msr.tuning.worker",
        SETTINGS_FILE,
        most=workers if workers > 1 else None,
        storage=settings.storage,
        deadline=deadline,
    )


def _write_results(settings: SearchSettings, study: optuna.Study, summary: Mapping[str, Any]) -> None:
    """Write the tables, the summary and the page, and send the study to W&B."""
    write_trials(study, settings.folder)
    write_summary(settings.folder, summary)
    write_search_page(settings.folder / "report.html", study, summary)
    if settings.wandb != "disabled":
        track_study(
            study,
            trials_frame(study),
            study_progress(study, summary),
            summary,
            settings.folder,
            mode=settings.wandb,
            project=settings.wandb_project,
            config={"model": summary["model"], "dataset": settings.dataset, **settings.config, "space": settings.space},
        )


def build_stores(model: str, dataset: str, config: Mapping[str, Any], space: Space) -> None:
    """Build the knowledge stores that the trials of a search may use and that do not exist yet.

    Args:
        model: model name.
        dataset: dataset name.
        config: configuration keys of the trials.
        space: the search space.
    """
    for store in space.stores():
        if store.settings is not None:
            logger.info("knowledge '%s'", store.name)
            keys = {"model": model, **config, **store.settings, "name": store.name, "threads": None}
            for line in embed(dataset, [], keys, False):
                logger.debug("%s", line)


class _Report:
    """Keeps trials.csv, best.yaml and the progress bar up to date while trials end."""

    def __init__(self, settings: SearchSettings, study: optuna.Study, bar: Any) -> None:
        self._settings, self._study, self._bar = settings, study, bar
        self._best = BestModel(settings)
        self.ended = 0

    def update(self, _: Any = None) -> None:
        with storage_errors(self._settings):
            ended = len(counted_trials(self._study))
            if ended != self.ended:
                self.ended = ended
                self._write()
        self._bar.n = ended
        self._bar.refresh()

    def _write(self) -> None:
        write_trials(self._study, self._settings.folder)
        best = self._best.settle(self._study)
        if best is not None:
            values = zip(self._settings.objectives, values_of(best) or [], strict=True)
            text = ", ".join(f"{name} {value:.4g}" for name, value in values)
            self._bar.set_postfix_str(f"best {text} (trial {best.number})", refresh=False)


def _refuse_without_best(study: optuna.Study, settings: SearchSettings) -> None:
    """Refuse a search without a best trial.

    Raises:
        InputError: trials failed, with the last one's reason; or the time was up before an epoch was validated.
    """
    failed = [_reason(trial) or "?" for trial in counted_trials(study) if trial.state == TrialState.FAIL]
    if failed:
        raise InputError(
            f"no trial of the study '{settings.study}' ended well: {len(failed)} failed, the last one: {failed[-1]} "
            f"(all of them are in {settings.folder / 'trials.csv'})"
        )
    if settings.timeout is not None:
        raise InputError(
            f"--timeout: {settings.timeout:g} seconds were too few to read the data, train one epoch and validate it, "
            "so there is no best model; the same command with more time goes on"
        )
    logger.warning("no trial was trained to its end within the budget, so there is no best one")


def _reason(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get("reason", ""))
