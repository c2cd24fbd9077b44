"""From the folders of a comparison to its summary: the results of each entry, tested against the reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_msr.comparison.jobs import Jobs
from recbole_msr.comparison.settings import CompareSettings, Entry, Search, Training
from recbole_msr.errors import InputError
from recbole_msr.evaluation.cells import Evaluation
from recbole_msr.evaluation.significance import Difference, Measured, adjust, differences
from recbole_msr.files.json import read_json
from recbole_msr.files.yaml import read_yaml
from recbole_msr.jobs.shared_lists import SharedLists
from recbole_msr.jobs.shared_rows import AGAIN, SharedRows
from recbole_msr.jobs.spread import spread
from recbole_msr.runs.result_file import read_result
from recbole_msr.schema import is_conditional
from recbole_msr.tuning.outcome import SUMMARY
from recbole_msr.tuning.trial_parts import merge_tasks
from recbole_msr.tuning.trials_table import read_trials

_CALIBRATED = ("logloss", "ece")


class EntryResults:
    """The results of one entry, read from the folders of its runs."""

    def __init__(self, settings: CompareSettings, jobs: Jobs, entry: Entry) -> None:
        self.settings, self.entry, self._jobs = settings, entry, jobs
        self._trainings = [job for job in jobs.jobs if isinstance(job, Training) and job.entry == entry]
        self._searches = [job for job in jobs.jobs if isinstance(job, Search) and job.entry == entry]
        self.results = {job: self._result(job) for job in self._trainings}
        self._joint: dict[int, Measured] = {}

    def _result(self, job: Training) -> dict[str, Any] | None:
        if not self._jobs.finished(job):
            return None
        folder = self._jobs.folder(job)
        assert folder is not None
        settings = self.settings
        expected = {
            "model": job.entry.model,
            "dataset": settings.dataset,
            "seed": job.seed,
            "data_seed": settings.config["data_seed"],
            "main_task": job.task or settings.main_task,
            "scenarios": [job.scenario] if job.scenario is not None else settings.scenarios,
        }
        result = read_result(folder / "result.json", expected, AGAIN)
        expected_tasks = [job.task] if job.task is not None else settings.tasks
        tasks = [task for task in result["test"].get("pooled", {}) if not is_conditional(task)]
        if sorted(tasks) != sorted(expected_tasks):
            raise InputError(
                f"{folder / 'result.json'} is of another run: it has results for {', '.join(tasks) or 'no task'}, "
                f"expected {', '.join(expected_tasks)}; {AGAIN}"
            )
        return result

    def parts(self, seed: int, scenario: str | None = None) -> list[Training]:
        """Return the runs of one seed: one run, or one for each task."""
        return [job for job in self._trainings if (job.seed, job.scenario) == (seed, scenario)]

    def seeds(self, scenario: str | None = None) -> list[int]:
        """Return the seeds whose runs are all finished."""
        return [
            seed
            for seed in self.settings.seed_list
            if (parts := self.parts(seed, scenario)) and all(self.results[job] is not None for job in parts)
        ]

    def folder(self, job: Training) -> Path:
        """Return the folder of a run."""
        folder = self._jobs.folder(job)
        assert folder is not None
        return folder

    def evaluation(self, seed: int, split: str) -> Evaluation:
        """Return the cells of all tasks, from one run or from one run for each task."""
        return self._merge([self._finished(job)[split] for job in self.parts(seed)], self.settings.scenarios)

    def evaluation_alone(self, seed: int, scenario: str) -> Evaluation:
        """Return the test cells of the training on one scenario."""
        return self._merge([self._finished(job)["test"] for job in self.parts(seed, scenario)], [scenario])

    def calibrated(self) -> dict[str, Any] | None:
        """Return log loss and ECE of the test rows before and after calibration; None where it was not asked for.

        Both are macro means over the binary tasks: others are not calibrated, and the log loss of many classes is
        larger than that of two.

        Returns:
            `method`, `by`, `left_out` (what has no map of its own), and for each of `before` and `after` a spread over
            the seeds by metric key.
        """
        by_seed = [[self._finished(job).get("calibrated") for job in self.parts(seed)] for seed in self.seeds()]
        if not by_seed or any(part is None for parts in by_seed for part in parts):
            return None
        parts = [part for parts in by_seed for part in parts if part is not None]
        after = [self._merge([part["test"] for part in parts if part], self.settings.scenarios) for parts in by_seed]
        before = [self.evaluation(seed, "test") for seed in self.seeds()]
        return {
            "method": parts[0]["method"],
            "by": parts[0]["by"],
            "left_out": sorted({line for part in parts for line in part["left_out"]}),
            **{
                when: {
                    f"{metric}/macro": spread([_binary_macro(one, metric) for one in found]) for metric in _CALIBRATED
                }
                for when, found in (("before", before), ("after", after))
            },
        }

    def _merge(self, results: Sequence[Mapping[str, Any]], scenarios: Sequence[str]) -> Evaluation:
        merged = merge_tasks([Evaluation.from_dict(result) for result in results])
        # A model of one task at a time learns binary tasks alone: what it does not predict has no cells.
        tasks = [task for task in self.settings.tasks if task in merged.pooled]
        tasks += [task for task in merged.pooled if is_conditional(task)]
        main = self.settings.main_task
        return Evaluation(
            main if main in tasks else tasks[0],
            {task: merged.pooled[task] for task in tasks},
            {scenario: {task: merged.cells[scenario][task] for task in tasks} for scenario in scenarios},
            {segment: {task: row[task] for task in tasks} for segment, row in merged.segments.items()},
        )

    def _finished(self, job: Training) -> dict[str, Any]:
        result = self.results[job]
        assert result is not None
        return result

    def joint(self, seed: int, shared: SharedRows | SharedLists) -> Measured:
        """Measure the predictions of the joint training."""
        if seed not in self._joint:
            table = np.full(shared.rows.shape, np.nan)
            for job in self.parts(seed):
                shared.place(table, self.folder(job), job.task, None)
            self._joint[seed] = shared.rows.measure(table)
        return self._joint[seed]

    def alone(self, seed: int, shared: SharedRows | SharedLists) -> Measured:
        """Measure the predictions of the trainings on single scenarios, each for its own rows."""
        table = np.full(shared.rows.shape, np.nan)
        for scenario in self.settings.scenarios:
            parts = self.parts(seed, scenario)
            if all(self.results[job] is not None for job in parts):
                for job in parts:
                    shared.place(table, self.folder(job), job.task, scenario)
        return shared.rows.measure(table)

    def metrics(self, split: str) -> dict[str, Any]:
        """Return a spread over the seeds for every metric key that some seed has.

        A metric that an earlier version, which made some of the runs, did not know is left out: its mean would be over
        fewer seeds.
        """
        evaluations = [self.evaluation(seed, split) for seed in self.seeds()]
        there = [set(evaluation.metrics) for evaluation in evaluations]
        common = set.intersection(*there) if there else set()
        by_seed = [evaluation.flat() for evaluation in evaluations]
        keys = dict.fromkeys(key for values in by_seed for key in values if "/" in key and key.split("/")[0] in common)
        return {key: spread([values.get(key) for values in by_seed]) for key in keys}

    def worst_cell(self, metrics: Mapping[str, Any], metric: str) -> dict[str, str] | None:
        """Return the scenario and task with the lowest mean of the headline's metric; None where none has one."""
        cells = {
            (scenario, task): metrics[key]["mean"]
            for scenario in self.settings.scenarios
            for task in self.settings.tasks
            if (key := f"{metric}/{scenario}/{task}") in metrics
        }
        if not cells:
            return None
        scenario, task = min(cells, key=lambda cell: cells[cell])
        return {"scenario": scenario, "task": task}

    def cost(self, measured: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the entry's cost; of single-task models, the sum over the tasks.

        Args:
            measured: what `measure` found for it; None where it could not be measured.
        """
        unknown = dict.fromkeys(("parameters", "flops", "latency_1", "latency"))
        return {**unknown, **(measured or {}), **self._training_cost(), **self._search_cost()}

    def _training_cost(self) -> dict[str, Any]:
        by_seed = [[self._finished(job) for job in self.parts(seed)] for seed in self.seeds()]
        if not by_seed:
            return dict.fromkeys(("parameters", "train_seconds", "rows_per_second", "epochs"))
        return {
            "parameters": sum(run["parameters"] for run in by_seed[0]),
            "train_seconds": spread([sum(run["seconds"]["train"] for run in runs) for runs in by_seed]),
            "rows_per_second": spread([_joint_rate([run["rows_per_second"] for run in runs]) for runs in by_seed]),
            "epochs": spread([sum(run["epochs"] for run in runs) for runs in by_seed]),
        }

    def _search_cost(self) -> dict[str, Any]:
        summaries = [self._search_summary(job) for job in self._searches]
        ended = [summary for summary in summaries if summary is not None]
        if not ended or len(ended) < len(summaries):
            return dict.fromkeys(("search_seconds", "search_trials", "search_epochs"))
        return {
            "search_seconds": round(sum(summary["trial_seconds"] for summary in ended), 3),
            "search_trials": sum(sum(summary["trials"].values()) for summary in ended),
            "search_epochs": sum(self._search_epochs(job) for job in self._searches),
        }

    def _search_summary(self, job: Search) -> dict[str, Any] | None:
        path = self.settings.folder / job.path / "summary.json"
        if not path.is_file():
            return None
        summary: dict[str, Any] = read_json(path, SUMMARY)
        for key, value in (("model", job.entry.model), ("dataset", self.settings.dataset)):
            if summary[key] != value:
                raise InputError(f"{path} is of another search: {key} {summary[key]!r}, expected {value!r}")
        return summary

    def _search_epochs(self, job: Search) -> int:
        return int(read_trials(self.settings.folder / job.path)["epochs"].fillna(0).sum())

    def listing(self) -> dict[str, Any]:
        """Return the state of every run and every search, for the summary."""
        return {
            "runs": [self._run_state(job) for job in self._trainings],
            "searches": [self._search_state(job) for job in self._searches],
        }

    def _run_state(self, job: Training) -> dict[str, Any]:
        result, folder = self.results[job], self._jobs.folder(job)
        return {
            "task": job.task,
            "scenario": job.scenario,
            "seed": job.seed,
            "status": "complete" if result is not None else "failed",
            "reason": None if result is not None else self._jobs.failure(job) or "it was not run",
            "folder": None if folder is None else folder.relative_to(self.settings.folder).as_posix(),
            "best_epoch": result["best_epoch"] if result is not None else None,
            "epochs": result["epochs"] if result is not None else None,
        }

    def _search_state(self, job: Search) -> dict[str, Any]:
        summary = self._search_summary(job)
        best = summary["best"] if summary is not None else None
        return {
            "task": job.task,
            "status": "complete" if self._jobs.finished(job) else "failed",
            "reason": self._jobs.failure(job),
            "folder": job.path.as_posix(),
            "value": best["values"][0] if best is not None else None,
            "trials": sum(summary["trials"].values()) if summary is not None else 0,
        }

    def config(self) -> dict[str, Any] | None:
        """Return every configuration key of the first joint run."""
        for seed in self.seeds():
            config: dict[str, Any] = _finite(read_yaml(self.folder(self.parts(seed)[0]) / "config.yaml"))
            return config
        return None

    def reasons(self, listing: Mapping[str, Any]) -> list[str]:
        """Return why runs and searches failed; runs that failed for the same reason share a sentence."""
        if self.entry.refused is not None:
            return [self.entry.refused]
        places: dict[str, list[str]] = {}
        for search in listing["searches"]:
            if search["status"] == "failed":
                places.setdefault(search["reason"] or "it was not run", []).append(
                    _place("search", search["task"], None, None)
                )
        for run in listing["runs"]:
            if run["status"] == "failed" and not str(run["reason"]).startswith("its search failed"):
                places.setdefault(run["reason"], []).append(_place("", run["task"], run["scenario"], run["seed"]))
        return [f"{'; '.join(failed)}: {reason}" for reason, failed in places.items()]


def _finite(value: Any) -> Any:
    """Return a setting as JSON can have it: infinity and NaN as words."""
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _place(what: str, task: str | None, scenario: str | None, seed: int | None) -> str:
    parts = [
        what,
        f"task {task}" if task else "",
        f"{scenario} alone" if scenario else "",
        f"seed {seed}" if seed is not None else "",
    ]
    return ", ".join(part for part in parts if part)


def _binary_macro(evaluation: Evaluation, metric: str) -> float | None:
    """Return the mean of a metric over the defined cells of binary tasks."""
    binary = [task for task, kind in evaluation.types.items() if kind == "binary" and not is_conditional(task)]
    cells = [row[task] for row in evaluation.cells.values() for task in binary if row[task].undefined is None]
    values = [value for cell in cells if (value := cell.value(metric)) is not None]
    return float(np.mean(values)) if values else None


def _joint_rate(rates: Sequence[float | None]) -> float | None:
    """Return the rows per second of several trainings on the same rows, one after the other."""
    if not rates or any(not rate for rate in rates):
        return None
    return round(1 / sum(1 / rate for rate in rates if rate))


def collect(
    settings: CompareSettings, jobs: Jobs, shared: SharedRows | SharedLists, costs: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the entries of a summary.

    Args:
        settings: the comparison.
        jobs: its jobs.
        shared: the test rows.
        costs: what `measure` returned.
    """
    by_label = {entry.label: EntryResults(settings, jobs, entry) for entry in settings.entries}
    differences_by_label = _differences(settings, by_label, shared)
    transfers = _transfers(settings, by_label, shared) if settings.single_scenario else {}
    entries = []
    for entry in settings.entries:
        results = by_label[entry.label]
        listing, seeds, test = results.listing(), results.seeds(), results.metrics("test")
        status = "failed" if not seeds else "complete"
        if seeds and any(run["status"] == "failed" for run in listing["runs"]):
            status = "partial"
        entries.append(
            {
                "label": entry.label,
                "model": entry.model,
                "settings": _finite(entry.settings),
                "kind": entry.kind,
                "status": status,
                "reasons": results.reasons(listing),
                "seeds": seeds,
                "test": test,
                "valid": results.metrics("valid"),
                "worst_cell": results.worst_cell(test, shared.headline),
                "differences": differences_by_label.get(entry.label),
                "transfer": transfers.get(entry.label),
                "calibrated": results.calibrated(),
                "cost": results.cost(costs.get(entry.label)),
                **listing,
                "config": results.config(),
            }
        )
    return entries


def _differences(
    settings: CompareSettings, by_label: Mapping[str, EntryResults], shared: SharedRows | SharedLists
) -> dict[str, dict[str, dict[str, Any]]]:
    """Test the differences to the reference of all entries that have seeds in common with it."""
    reference = by_label[settings.reference]
    of_reference = {seed: reference.joint(seed, shared) for seed in reference.seeds()}
    untested: dict[str, dict[str, Difference]] = {}
    for label, results in by_label.items():
        seeds = [seed for seed in results.seeds() if seed in of_reference]
        if label != settings.reference and seeds:
            of_entry = [results.joint(seed, shared) for seed in seeds]
            untested[label] = differences(of_entry, [of_reference[seed] for seed in seeds])
    return adjust(untested, settings.alpha)


def _transfers(
    settings: CompareSettings, by_label: Mapping[str, EntryResults], shared: SharedRows | SharedLists
) -> dict[str, dict[str, Any]]:
    """Test joint training minus training alone, for every entry; all entries' cells are one family of tests."""
    untested: dict[str, dict[str, Difference]] = {}
    for label, results in by_label.items():
        seeds = _compared(settings, results)
        if not seeds:
            continue
        joint = [results.joint(seed, shared) for seed in seeds]
        alone = [results.alone(seed, shared) for seed in seeds]
        tested_keys = differences(joint, alone)
        untested[label] = {key: value for key, value in tested_keys.items() if key.startswith(f"{shared.headline}/")}
    return {
        label: {
            "macro": tested.get(f"{shared.headline}/macro"),
            "cells": {
                scenario: {
                    task: _transfer_cell(settings, by_label[label], tested, shared.headline, scenario, task)
                    for task in settings.tasks
                }
                for scenario in settings.scenarios
            },
        }
        for label, tested in adjust(untested, settings.alpha).items()
    }


def _transfer_cell(
    settings: CompareSettings,
    results: EntryResults,
    tested: Mapping[str, Any],
    metric: str,
    scenario: str,
    task: str,
) -> dict[str, Any] | None:
    """Return a metric on test of one cell after either training, means over the seeds, and their difference."""
    difference = tested.get(f"{metric}/{scenario}/{task}")
    if difference is None:
        return None
    seeds = _compared(settings, results)
    joint = [results.evaluation(seed, "test").cells[scenario][task].value(metric) for seed in seeds]
    alone = [results.evaluation_alone(seed, scenario).cells[scenario][task].value(metric) for seed in seeds]
    return {"joint": spread(joint)["mean"], "alone": spread(alone)["mean"], "difference": difference}


def _compared(settings: CompareSettings, results: EntryResults) -> list[int]:
    """Return the seeds with both the joint training and that on every scenario that could be trained alone."""
    trained_alone = [scenario for scenario in settings.scenarios if results.seeds(scenario)]
    if not trained_alone:
        return []
    return sorted(set.intersection(*(set(results.seeds(scenario)) for scenario in (None, *trained_alone))))
