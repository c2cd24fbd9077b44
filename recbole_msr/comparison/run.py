"""A comparison from its options to its results: `recbole_msr.compare` and the command `recbole-msr compare`."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from recbole_msr.comparison.costs import measure
from recbole_msr.comparison.jobs import Jobs
from recbole_msr.comparison.options import CompareOptions
from recbole_msr.comparison.resolve import read_compare, space_of
from recbole_msr.comparison.results import collect
from recbole_msr.comparison.settings import CompareSettings, Entry, Search
from recbole_msr.config.build import plain_settings, reading_data
from recbole_msr.data.cache import fingerprint
from recbole_msr.data.ranked_lists import ranked_lists
from recbole_msr.data.rows_report import log_rows
from recbole_msr.errors import InputError
from recbole_msr.evaluation.ranking_mode import list_metrics
from recbole_msr.evaluation.segments import Segments
from recbole_msr.evaluation.validation_metric import check_metric, check_validation
from recbole_msr.files.atomic import write_atomically
from recbole_msr.files.json import read_json
from recbole_msr.files.outputs import COMPARISON
from recbole_msr.files.yaml import read_yaml
from recbole_msr.jobs.configuration import FREE_KEYS
from recbole_msr.jobs.failure import reason_of
from recbole_msr.jobs.options import takes
from recbole_msr.jobs.output_lock import lock_output
from recbole_msr.jobs.processes import run_workers
from recbole_msr.jobs.python_call import python_call
from recbole_msr.jobs.shared_lists import SharedLists
from recbole_msr.jobs.shared_rows import SharedRows
from recbole_msr.report.comparison.frames import leaderboard_frame, write_tables
from recbole_msr.report.comparison.page import write_compare_page
from recbole_msr.report.comparison.verdict import verdict
from recbole_msr.runs.folder import is_finished
from recbole_msr.runs.knowledge import built_knowledge
from recbole_msr.runs.versions import versions
from recbole_msr.threads import cores, one_at_a_time, torch_threads
from recbole_msr.training.configure import training_config
from recbole_msr.tuning.run import build_stores

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

_OTHERWISE = "a leaderboard has runs of the same settings only: give another --output, or the entry another label"
_MADE_BY = Path("workers", "made_by.json")


@dataclass
class CompareResult:
    """The result of a comparison.

    Attributes:
        summary: content of summary.json.
        folder: output folder, with leaderboard.csv, report.html and the runs.
    """

    summary: dict[str, Any]
    folder: Path

    @property
    def leaderboard(self) -> pd.DataFrame:
        """Return a table with one row per entry, the best `auc/macro` first."""
        return leaderboard_frame(self.summary)

    @property
    def verdict(self) -> list[str]:
        """Return the conclusions, in sentences."""
        return list(self.summary["verdict"])


@takes(CompareOptions)
@one_at_a_time
def compare(options: CompareOptions) -> CompareResult:
    """Compare models on equal terms; the same call resumes an interrupted comparison, and reuses finished runs.

    All see the same rows, split and features, and have the same limit of epochs, early stopping, validation metric
    and budget of their searches. Epochs and trials are chosen on the validation split; each run's best epoch is
    tested once. The options are given one by one, or as a `CompareOptions`, with changes by name::

        compare(["HiNet", "DeepFM"], "ml-100k", seeds=3)

        options = CompareOptions({"HiNet": {}, "wide": {"model": "HiNet", "embedding_size": 32}}, "ml-100k")
        compare(options, workers=2)

    Returns:
        The result; the same is in the files of its folder.

    Raises:
        InputError: an option cannot be used. What concerns one entry alone is reported in its row instead.
    """
    started = time.monotonic()
    settings, rows_config = read_compare(options)
    occupied = f"a comparison is under way in {settings.folder}; wait for it, or give another --output"
    threads = int(settings.config["threads"])
    with lock_output(settings.folder, occupied, COMPARISON) as lock, torch_threads(threads):
        settings, data = _prepare(settings, rows_config)
        origin = _check_same_data(settings, fingerprint(rows_config, rows_config["data_path"], settings.dataset))
        jobs = Jobs(settings)
        outdated = _check_done(jobs)
        _write_json(settings.folder / _MADE_BY, origin)
        settings.write()
        lock.begun = True
        jobs.forget_failures()
        _remove(outdated)
        _run_jobs(settings, jobs, options.progress)
        costs = measure(settings, jobs, data.splits[0], data.splits[1])
        summary = _summarise(settings, collect(settings, jobs, data.shared, costs), data)
        summary["seconds"] = round(time.monotonic() - started, 3)
        summary["command"] = options.command or python_call("compare", options)
        summary["verdict"] = verdict(summary)
        _write_results(settings, summary)
    return CompareResult(summary, settings.folder)


@dataclass(frozen=True)
class _Data:
    """The rows that all entries share.

    Attributes:
        splits: the training, validation and test split.
        shared: the test rows.
        report: what became of every row of the data files.
    """

    splits: Sequence[Any]
    shared: SharedRows | SharedLists
    report: dict[str, Any]


def _prepare(settings: CompareSettings, rows_config: Any) -> tuple[CompareSettings, _Data]:
    """Read the data and build the knowledge, before any worker is started.

    Returns:
        The settings, with the data's scenarios and with the entries refused that cannot be trained; and the data.

    Raises:
        InputError: the data, or the validation metric of the reference on them, cannot be used.
    """
    with torch_threads(min(int(settings.config["threads"]) * settings.workers, cores())):
        with reading_data(rows_config):
            from recbole.data import create_dataset

            dataset = create_dataset(rows_config)
            splits = dataset.build()
        log_rows(dataset)
        check_metric(settings.config["valid_metric"], rows_config, splits[0], True)
        shared = _shared(settings, rows_config, splits[2])
        settings = _with_knowledge(replace(settings, scenarios=shared.scenarios))
    settings = _without_undefined_metric(settings, rows_config, splits[1])
    return settings, _Data(splits, shared, dataset.row_report())


def _shared(settings: CompareSettings, config: Any, split: Any) -> SharedRows | SharedLists:
    """Return the test rows that all entries share, or their ranked lists where these are compared."""
    lists, least = ranked_lists(split, config), int(config["min_scenario_rows"] or 1)
    if lists is None:
        return SharedRows(split, least, segments=Segments.of_split(split, config))
    first = str(settings.config["valid_metric"]).split("/")[0]
    return SharedLists(lists, split.scenario_names, list_metrics(config), least, first)


def _with_knowledge(settings: CompareSettings) -> CompareSettings:
    """Build all knowledge that entries need, once; an entry's ENCODER/TEMPLATE becomes the name of its store."""

    def built(entry: Entry) -> Entry:
        keys = {**entry.merge(settings.config), "threads": None}
        try:
            if "/" in str(keys.get("knowledge") or ""):
                name = built_knowledge(entry.model, settings.dataset, keys)
                return replace(entry, settings={**entry.settings, "knowledge": name})
            if settings.searched:
                build_stores(entry.model, settings.dataset, keys, space_of(entry.model, settings.dataset, keys))
        except (InputError, ImportError, MemoryError) as error:
            return replace(entry, refused=reason_of(error).removeprefix("refused: "))
        return entry

    return replace(settings, entries=[built(entry) if entry.refused is None else entry for entry in settings.entries])


def _without_undefined_metric(settings: CompareSettings, config: Any, split: Any) -> CompareSettings:
    """Refuse entries whose validation metric is undefined on the rows, before anything is trained.

    Raises:
        InputError: the reference is one of them.
    """

    def checked(entry: Entry) -> Entry:
        try:
            for task in entry.tasks:
                check_validation(settings.config["valid_metric"], config, split, task, ranked_lists(split, config))
        except InputError as error:
            if entry.label == settings.reference:
                raise
            return replace(entry, refused=str(error))
        return entry

    return replace(settings, entries=[checked(entry) if entry.refused is None else entry for entry in settings.entries])


def _check_same_data(settings: CompareSettings, data: str) -> dict[str, Any]:
    """Refuse a folder whose runs are of other data, fields or another split.

    Returns:
        Dataset, fingerprint of the data and seed of the split.

    Raises:
        InputError: the folder was begun with others.
    """
    path = settings.folder / _MADE_BY
    now = {"dataset": settings.dataset, "data": data, "data_seed": settings.config["data_seed"]}
    before = read_json(path, {"dataset": str, "data": str, "data_seed": int}) if path.is_file() else now
    changed = [f"{key}: {before.get(key)} -> {now[key]}" for key in now if before.get(key) != now[key]]
    if changed:
        raise InputError(
            f"the comparison in {settings.folder} was begun with other data, fields, labels or another split "
            f"({', '.join(changed)}); its runs cannot be compared with new ones: give another --output"
        )
    return now


def _check_done(jobs: Jobs) -> list[Path]:
    """Refuse finished searches and runs that had other settings than this command's.

    Returns:
        Folders of runs that were interrupted with other settings. They are begun anew: none of them has a result.

    Raises:
        InputError: a search that has ended, or a finished run, had other settings; it names them.
    """
    outdated = []
    for job in jobs.jobs:
        folder = jobs.folder(job)
        if isinstance(job, Search):
            _check_search(jobs, job)
        elif folder is not None and (folder / "config.yaml").is_file():
            changed = _changed(folder, jobs.run_settings(job))
            if changed and is_finished(folder):
                raise InputError(f"{folder} was trained with other settings ({', '.join(changed)}); {_OTHERWISE}")
            if changed:
                outdated.append(folder)
    return outdated


def _check_search(jobs: Jobs, job: Search) -> None:
    before, now = jobs.searched(job), jobs.asked(job)
    if before is None:
        return
    folder = jobs.settings.folder / job.path
    if before["model"] != now["model"] or before["config"] != now["config"]:
        keys = sorted({*before["config"], *now["config"]})
        changed = [key for key in keys if before["config"].get(key) != now["config"].get(key)]
        raise InputError(f"{folder} was searched with other settings ({', '.join(changed) or 'model'}); {_OTHERWISE}")
    for budget in ("trials", "timeout"):
        if (before[budget] or 0) > (now[budget] or 0) > 0:
            raise InputError(
                f"{folder} was searched with --{budget}={before[budget]}: with --{budget}={now[budget]} the budgets "
                "would not be equal"
            )


def _changed(folder: Path, wanted: dict[str, Any]) -> list[str]:
    """Return the settings, without paths and devices, that differ between a run in a folder and the wanted one."""
    config = training_config(wanted.pop("model"), wanted.pop("dataset"), wanted)
    now, before = plain_settings(config), read_yaml(folder / "config.yaml")
    keys = sorted(({*before, *now} - FREE_KEYS) | {"epochs"})
    return [f"{key}: {before.get(key)!r} -> {now.get(key)!r}" for key in keys if before.get(key) != now.get(key)][:5]


def _remove(folders: Sequence[Path]) -> None:
    """Remove the folders of runs, but for one that a process which outlived its command still trains in."""
    for folder in folders:
        with contextlib.suppress(Timeout), FileLock(f"{folder}.claim", timeout=0):
            shutil.rmtree(folder)


def _run_jobs(settings: CompareSettings, jobs: Jobs, progress: bool) -> None:
    bar = tqdm(total=len(jobs.jobs), desc="compare", unit="run", disable=not progress)

    def update() -> None:
        over = jobs.count_over()
        if over != bar.n:
            bar.update(over - bar.n)

    with contextlib.closing(bar):
        update()
        if all(jobs.over(job) for job in jobs.jobs):
            return
        if settings.workers == 1:
            jobs.work(after=update)
        else:
            run_workers(settings, "recbole_msr.comparison.worker", update, count_ended=jobs.count_over)
        update()


def _summarise(settings: CompareSettings, entries: list[dict[str, Any]], data: _Data) -> dict[str, Any]:
    return {
        "dataset": settings.dataset,
        "valid_metric": settings.config["valid_metric"],
        "reference": settings.reference,
        "seeds": settings.seed_list,
        "data_seed": settings.config["data_seed"],
        "trials": settings.trials,
        "timeout": settings.timeout,
        "epochs": settings.config["epochs"],
        "single_scenario": settings.single_scenario,
        "scenarios": data.shared.scenarios,
        "tasks": data.shared.tasks,
        "task_types": data.shared.types,
        "of_lists": data.shared.of_lists,
        "main_task": settings.main_task,
        "rows": {name: len(split) for name, split in zip(("train", "valid", "test"), data.splits, strict=True)},
        "test_cells": data.shared.cells(),
        "test_segments": data.shared.segments(),
        "alpha": settings.alpha,
        "workers": settings.workers,
        "threads": settings.config["threads"],
        "device": "cuda" if torch.cuda.is_available() and settings.config.get("use_gpu", True) else "cpu",
        "versions": versions(),
        "entries": entries,
        "data": data.report,
    }


def _write_results(settings: CompareSettings, summary: Mapping[str, Any]) -> None:
    """Write the summary, the tables and the page."""
    _write_json(settings.folder / "summary.json", summary, indent=2)
    write_tables(summary, settings.folder)
    write_compare_page(settings.folder / "report.html", summary, settings.folder)


def _write_json(path: Path, content: Mapping[str, Any], indent: int | None = None) -> None:
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))
