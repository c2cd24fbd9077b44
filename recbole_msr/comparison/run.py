"""A comparison from settings to results: what `recbole-msr compare` and `recbole_msr.compare()` do."""

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
from recbole_msr.comparison.resolve import read_compare, space_of
from recbole_msr.comparison.results import SharedRows, collect
from recbole_msr.comparison.settings import CompareSettings, Entry, Search
from recbole_msr.config.build import plain_settings, reading_data
from recbole_msr.data.cache import fingerprint
from recbole_msr.data.rows_report import log_rows
from recbole_msr.errors import InputError
from recbole_msr.evaluation.validation_metric import check_metric, check_validation
from recbole_msr.files.atomic import write_atomically
from recbole_msr.files.json import read_json
from recbole_msr.files.outputs import COMPARISON
from recbole_msr.files.yaml import read_yaml
from recbole_msr.jobs.failure import reason_of
from recbole_msr.jobs.output_lock import lock_output
from recbole_msr.jobs.processes import run_workers
from recbole_msr.jobs.python_call import python_call
from recbole_msr.report.comparison.leaderboard import leaderboard_frame, verdict, write_tables
from recbole_msr.report.comparison.page import write_compare_page
from recbole_msr.runs.folder import is_finished
from recbole_msr.runs.knowledge import built_knowledge
from recbole_msr.runs.versions import versions
from recbole_msr.threads import cores, one_at_a_time, torch_threads
from recbole_msr.training.configure import training_config
from recbole_msr.tuning.run import build_stores
from recbole_msr.tuning.study import FREE_KEYS

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

_OTHERWISE = "a leaderboard has runs of the same settings only: give another --output, or the entry another label"
_MADE_BY = Path("workers", "made_by.json")


@dataclass
class CompareResult:
    """What a comparison found.

    Attributes:
        summary: the content of summary.json.
        folder: where leaderboard.csv, report.html and the runs are.
    """

    summary: dict[str, Any]
    folder: Path

    @property
    def leaderboard(self) -> pd.DataFrame:
        """A line an entry, the best `auc/macro` first."""
        return leaderboard_frame(self.summary)

    @property
    def verdict(self) -> list[str]:
        """What the numbers say, in sentences."""
        return list(self.summary["verdict"])


@one_at_a_time
def compare(
    models: str | Sequence[str] | Mapping[str, Any] | None = None,
    dataset: str | None = None,
    trials: int = 0,
    seeds: int = 3,
    *,
    config_files: Sequence[str | Path] = (),
    config: Mapping[str, Any] | None = None,
    vary: Mapping[str, Any] | None = None,
    reference: str | None = None,
    single_scenario: bool = False,
    output: str | Path | None = None,
    workers: int = 1,
    timeout: float | None = None,
    alpha: float = 0.05,
    wandb: str | None = None,
    wandb_project: str | None = None,
    progress: bool = True,
    command: str | None = None,
) -> CompareResult:
    """Compare models on equal terms; the same call again goes on where it was, and reuses what is done.

    All see the same rows, split and features, and have the same limit of epochs, early stopping, validation metric
    and budget of their searches. Epochs and trials are chosen on the validation split; each run's best epoch is
    tested once.

    Args:
        models: names; or a mapping of labels to settings ({"wide": {"model": "HiNet", "embedding_size": 32}}), or a
            YAML file of one.
        dataset: its name.
        trials: trials of each model's search (of each task's model, for those of one task); 0 compares defaults.
        seeds: runs of each entry; their seeds are none of its search's.
        config_files, config: configuration keys of every run, as for `recbole_msr.run`.
        vary: keys with lists of values: every model of this package is entered once for each combination.
        reference: the label of the entry that the others are tested against; by default the first.
        single_scenario: also train every entry on each scenario's rows alone, to see what training together costs.
        output: the folder; by default comparisons/DATASET.
        workers: processes on this machine.
        timeout: seconds of each search, beside or instead of `trials`.
        alpha: level of significance, after Holm's correction.
        wandb: online, offline or disabled; wandb_project: the project there.
        progress: draw a progress bar.
        command: what to show as the command that made the results.

    Raises:
        InputError: something given cannot be used. What concerns one entry alone is told in its line instead.
    """
    command = command or python_call(compare, locals())
    started = time.monotonic()
    settings, rows_config = read_compare(
        models, dataset, config_files, config or {}, vary, reference, output, trials=trials, seeds=seeds,
        single_scenario=single_scenario, workers=workers, timeout=timeout, alpha=alpha, wandb=wandb,
        wandb_project=wandb_project,
    )  # fmt: skip
    occupied = f"a comparison is under way in {settings.folder}; wait for it, or give another --output"
    threads = int(settings.config["threads"])
    alone = min(threads * settings.workers, cores())  # while the workers are not there yet
    with lock_output(settings.folder, occupied, COMPARISON) as hold, torch_threads(threads):
        with reading_data(rows_config), torch_threads(alone):
            from recbole.data import create_dataset

            data = create_dataset(rows_config)
            splits = data.build()
        log_rows(data)
        check_metric(settings.config["valid_metric"], rows_config, splits[0], True)
        shared = SharedRows(splits[2], int(rows_config["min_scenario_rows"] or 1))
        settings = replace(settings, scenarios=shared.scenarios)
        with torch_threads(alone):
            settings = _with_knowledge(settings)
        settings = _validated(settings, rows_config, splits[1])
        made_by = _check_same_data(settings, fingerprint(rows_config, rows_config["data_path"], settings.dataset))
        jobs = Jobs(settings)
        outdated = _check_done(jobs)
        text = json.dumps(made_by)
        write_atomically(
            settings.folder / _MADE_BY, lambda temporary: Path(temporary).write_text(text, encoding="utf-8")
        )
        settings.write()
        hold.begun = True
        jobs.forget_failures()
        for folder in outdated:
            with contextlib.suppress(Timeout), FileLock(f"{folder}.claim", timeout=0):
                shutil.rmtree(folder)
        _do(settings, jobs, progress)
        costs = measure(settings, jobs, splits[0], splits[1])
        entries = collect(settings, jobs, shared, costs)
        summary = _summarise(settings, entries, shared, [len(split) for split in splits])
        summary |= {"data": data.row_report(), "seconds": round(time.monotonic() - started, 3), "command": command}
        summary["verdict"] = verdict(summary)
        _write_results(settings, summary)
    return CompareResult(summary, settings.folder)


def _with_knowledge(settings: CompareSettings) -> CompareSettings:
    """All knowledge that entries need is built now, once; what is named ENCODER/TEMPLATE is then known by its name."""

    def built(entry: Entry) -> Entry:
        own = {**settings.config, **entry.settings, "threads": None}
        try:
            if "/" in str(own.get("knowledge") or ""):
                name = built_knowledge(entry.model, settings.dataset, own)
                return replace(entry, settings={**entry.settings, "knowledge": name})
            if settings.searched:
                build_stores(entry.model, settings.dataset, own, space_of(entry.model, settings.dataset, own))
        except (InputError, ImportError, MemoryError) as error:
            return replace(entry, refused=reason_of(error).removeprefix("refused: "))
        return entry

    return replace(settings, entries=[built(one) if one.refused is None else one for one in settings.entries])


def _validated(settings: CompareSettings, config: Any, split: Any) -> CompareSettings:
    """Entries whose validation metric the rows leave undefined are refused before anything is trained.

    Raises:
        InputError: the reference is one of them.
    """

    def checked(entry: Entry) -> Entry:
        try:
            for task in entry.tasks:
                check_validation(settings.config["valid_metric"], config, split, task)
        except InputError as error:
            if entry.label == settings.reference:
                raise
            return replace(entry, refused=str(error))
        return entry

    return replace(settings, entries=[checked(one) if one.refused is None else one for one in settings.entries])


def _check_same_data(settings: CompareSettings, data: str) -> dict[str, Any]:
    """Runs of one folder are of the same data, fields and split.

    Returns:
        What identifies them.

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
    """Refuse to put on one leaderboard what was made with other settings than this command's.

    Returns:
        Folders of runs that were interrupted with other settings. They are begun anew: no result of them is lost.

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
    """The settings, places apart, that a run in a folder had otherwise than wanted."""
    config = training_config(wanted.pop("model"), wanted.pop("dataset"), wanted)
    now, before = plain_settings(config), read_yaml(folder / "config.yaml")
    keys = sorted(({*before, *now} - FREE_KEYS) | {"epochs"})
    return [f"{key}: {before.get(key)!r} -> {now.get(key)!r}" for key in keys if before.get(key) != now.get(key)][:5]


def _do(settings: CompareSettings, jobs: Jobs, progress: bool) -> None:
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
            run_workers(settings, update, None, "recbole_msr.comparison.worker", jobs.count_over)
        update()


def _summarise(
    settings: CompareSettings, entries: list[dict[str, Any]], shared: SharedRows, rows: Sequence[int]
) -> dict[str, Any]:
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
        "scenarios": shared.scenarios,
        "tasks": shared.tasks,
        "main_task": settings.main_task,
        "rows": dict(zip(("train", "valid", "test"), rows, strict=True)),
        "test_cells": shared.cells(),
        "alpha": settings.alpha,
        "workers": settings.workers,
        "threads": settings.config["threads"],
        "device": "cuda" if torch.cuda.is_available() and settings.config.get("use_gpu", True) else "cpu",
        "versions": versions(),
        "entries": entries,
    }


def _write_results(settings: CompareSettings, summary: Mapping[str, Any]) -> None:
    """Write the results."""

    text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(
        settings.folder / "summary.json", lambda temporary: Path(temporary).write_text(text, encoding="utf-8")
    )
    write_tables(summary, settings.folder)
    write_compare_page(settings.folder / "report.html", summary, settings.folder)
