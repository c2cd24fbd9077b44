"""The folders of a comparison become its summary: one line an entry, tested against the reference."""

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
from recbole_msr.evaluation.significance import Difference, Measured, Rows, adjust, differences
from recbole_msr.files.json import read_json
from recbole_msr.files.yaml import read_yaml
from recbole_msr.runs.result_file import read_result
from recbole_msr.schema import MISSING_LABEL, SCENARIO_FIELD
from recbole_msr.tuning.outcome import SUMMARY, spread
from recbole_msr.tuning.trials_table import PARQUET_DAMAGE, read_trials

AGAIN = "delete its folder, and the same command trains it again"
"""What to do about a run of a comparison that is damaged."""


class SharedRows:
    """The test rows as all entries see them, with the labels of all tasks.

    Args:
        split: the test split of a model of several tasks, which keeps rows that lack the main task's label.
        least: `min_scenario_rows`.
    """

    def __init__(self, split: Any, least: int) -> None:
        inter, schema = split.inter_feat, split.schema
        self.labels = np.stack([inter[field].numpy() for field in schema.label_fields], axis=1)
        self.scenario = split.row_scenario(inter).numpy()
        self.users = inter[split.uid_field].numpy() if split.uid_field in inter else None
        self.scenarios, self.tasks = list(split.scenario_names), schema.task_names
        self.rows = Rows(self.labels, self.scenario, self.users, self.scenarios, self.tasks, least)

    def cells(self) -> dict[str, dict[str, dict[str, int]]]:
        """Rows and positives of every scenario and task."""
        found: dict[str, dict[str, dict[str, int]]] = {}
        for number, scenario in enumerate(self.scenarios, start=1):
            labels = self.labels[self.scenario == number]
            found[scenario] = {
                task: {"rows": int((column != MISSING_LABEL).sum()), "positives": int((column == 1).sum())}
                for task, column in zip(self.tasks, labels.T, strict=True)
            }
        return found

    def place(self, into: np.ndarray, folder: Path, task: str | None, scenario: str | None) -> None:
        """Put the predictions of a run at its rows of a table (N, T).

        Raises:
            InputError: they are of other rows.
        """
        import pandas as pd

        try:
            frame = pd.read_parquet(folder / "predictions.parquet", page_checksum_verification=True)
            self._place(into, frame, folder, task, scenario)
        except InputError:
            raise
        except PARQUET_DAMAGE as error:
            raise InputError(
                f"{folder / 'predictions.parquet'} is missing or damaged: {AGAIN} ({type(error).__name__}: "
                f"{str(error)[:200]})"
            ) from error

    def _place(self, into: np.ndarray, frame: Any, folder: Path, task: str | None, scenario: str | None) -> None:
        here = np.ones(len(self.labels), dtype=bool)
        if scenario is not None:
            here &= self.scenario == self.scenarios.index(scenario) + 1
        if task is not None:  # a model of one task sees the rows that have its label
            here &= self.labels[:, self.tasks.index(task)] != MISSING_LABEL
        for column, name in enumerate(self.tasks):
            if task not in (None, name):
                continue
            same = len(frame) == here.sum() and np.array_equal(frame[f"label_{name}"], self.labels[here, column])
            if scenario is None and same:
                same = np.array_equal(frame[SCENARIO_FIELD], self.scenario[here])
            if not same:
                raise InputError(f"{folder / 'predictions.parquet'} holds other rows than this comparison's test split")
            scores = frame[f"score_{name}"].to_numpy(dtype=np.float64)
            if not ((scores >= 0) & (scores <= 1)).all():
                raise InputError(
                    f"{folder / 'predictions.parquet'} is damaged: score_{name} holds what is no probability: {AGAIN}"
                )
            into[here, column] = scores


class Collected:
    """What the folders of a comparison hold of one entry."""

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
        wanted = [job.task] if job.task is not None else settings.tasks
        found = list(result["test"].get("pooled", {}))
        if sorted(found) != sorted(wanted):
            raise InputError(
                f"{folder / 'result.json'} is of another run: it has results for {', '.join(found) or 'no task'}, "
                f"expected {', '.join(wanted)}; {AGAIN}"
            )
        return result

    def parts(self, seed: int, scenario: str | None = None) -> list[Training]:
        """The runs that together are the entry with one seed: one, or one a task."""
        return [job for job in self._trainings if (job.seed, job.scenario) == (seed, scenario)]

    def seeds(self, scenario: str | None = None) -> list[int]:
        """The seeds whose runs are all there."""
        return [
            seed
            for seed in self.settings.seed_list
            if (parts := self.parts(seed, scenario)) and all(self.results[job] is not None for job in parts)
        ]

    def folder(self, job: Training) -> Path:
        folder = self._jobs.folder(job)
        assert folder is not None
        return folder

    def evaluation(self, seed: int, split: str) -> Evaluation:
        """The cells of all tasks, of one run or of one run a task."""
        return self._put_together(self.parts(seed), split, self.settings.scenarios)

    def evaluation_alone(self, seed: int, scenario: str) -> Evaluation:
        """The test cells of the training on one scenario."""
        return self._put_together(self.parts(seed, scenario), "test", [scenario])

    def _put_together(self, jobs: Sequence[Training], split: str, scenarios: Sequence[str]) -> Evaluation:
        parts = [Evaluation.from_dict(self._whole(job)[split]) for job in jobs]
        tasks = self.settings.tasks
        pooled = {task: cell for part in parts for task, cell in part.pooled.items()}
        cells = {
            scenario: {task: part.cells[scenario][task] for part in parts for task in part.cells[scenario]}
            for scenario in scenarios
        }
        return Evaluation(
            self.settings.main_task,
            {task: pooled[task] for task in tasks},
            {scenario: {task: row[task] for task in tasks} for scenario, row in cells.items()},
        )

    def _whole(self, job: Training) -> dict[str, Any]:
        result = self.results[job]
        assert result is not None
        return result

    def joint(self, seed: int, shared: SharedRows) -> Measured:
        """What the joint training predicts, measured."""
        if seed not in self._joint:
            table = np.full(shared.labels.shape, np.nan)
            for job in self.parts(seed):
                shared.place(table, self.folder(job), job.task, None)
            self._joint[seed] = shared.rows.measure(table)
        return self._joint[seed]

    def alone(self, seed: int, shared: SharedRows) -> Measured:
        """What the trainings on single scenarios predict, each in its own, measured."""
        table = np.full(shared.labels.shape, np.nan)
        for scenario in self.settings.scenarios:
            parts = self.parts(seed, scenario)
            if all(self.results[job] is not None for job in parts):
                for job in parts:
                    shared.place(table, self.folder(job), job.task, scenario)
        return shared.rows.measure(table)

    def metrics(self, split: str) -> dict[str, Any]:
        """A spread over the seeds for every metric key that some seed has."""
        seeds = self.seeds()
        found = [self.evaluation(seed, split).flat() for seed in seeds]
        keys = dict.fromkeys(key for values in found for key in values if "/" in key)
        return {key: spread([values.get(key) for values in found]) for key in keys}

    def worst_cell(self, metrics: Mapping[str, Any]) -> dict[str, str] | None:
        cells = {
            (scenario, task): metrics[key]["mean"]
            for scenario in self.settings.scenarios
            for task in self.settings.tasks
            if (key := f"auc/{scenario}/{task}") in metrics
        }
        if not cells:
            return None
        scenario, task = min(cells, key=lambda cell: cells[cell])
        return {"scenario": scenario, "task": task}

    def cost(self, measured: Mapping[str, Any] | None) -> dict[str, Any]:
        """What the entry costs; of models of one task, the sum over the tasks."""
        found: dict[str, Any] = dict.fromkeys(("parameters", "flops", "latency_1", "latency"))
        found |= measured or {}
        runs = [[self._whole(job) for job in self.parts(seed)] for seed in self.seeds()]
        found["parameters"] = sum(run["parameters"] for run in runs[0]) if runs else None
        found["train_seconds"] = spread([sum(run["seconds"]["train"] for run in parts) for parts in runs])
        found["rows_per_second"] = spread([_together([run["rows_per_second"] for run in parts]) for parts in runs])
        found["epochs"] = spread([sum(run["epochs"] for run in parts) for parts in runs])
        if not runs:
            found |= dict.fromkeys(("train_seconds", "rows_per_second", "epochs"))
        searches = [self._search_summary(job) for job in self._searches]
        known = [one for one in searches if one is not None]
        whole = bool(known) and len(known) == len(searches)
        found["search_seconds"] = round(sum(one["trial_seconds"] for one in known), 3) if whole else None
        found["search_trials"] = sum(sum(one["trials"].values()) for one in known) if whole else None
        found["search_epochs"] = sum(self._search_epochs(job) for job in self._searches) if whole else None
        return found

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
        """The runs and searches, each with what became of it."""
        runs, searches = [], []
        for job in self._trainings:
            result, folder = self.results[job], self._jobs.folder(job)
            runs.append(
                {
                    "task": job.task,
                    "scenario": job.scenario,
                    "seed": job.seed,
                    "status": "complete" if result is not None else "failed",
                    "reason": None if result is not None else self._jobs.failure(job) or "it was not run",
                    "folder": None if folder is None else folder.relative_to(self.settings.folder).as_posix(),
                    "best_epoch": result["best_epoch"] if result is not None else None,
                    "epochs": result["epochs"] if result is not None else None,
                }
            )
        for search in self._searches:
            summary, best = self._search_summary(search), None
            if summary is not None and summary["best"] is not None:
                best = summary["best"]["values"][0]
            failure = self._jobs.failure(search)
            searches.append(
                {
                    "task": search.task,
                    "status": "complete" if self._jobs.finished(search) else "failed",
                    "reason": failure,
                    "folder": search.path.as_posix(),
                    "value": best,
                    "trials": sum(summary["trials"].values()) if summary is not None else 0,
                }
            )
        return {"runs": runs, "searches": searches}

    def config(self) -> dict[str, Any] | None:
        """Every key of the first joint run."""
        for seed in self.seeds():
            config: dict[str, Any] = _finite(read_yaml(self.folder(self.parts(seed)[0]) / "config.yaml"))
            return config
        return None

    def reasons(self, listing: Mapping[str, Any]) -> list[str]:
        """Why something failed; the same reason of several runs is told once."""
        if self.entry.refused is not None:
            return [self.entry.refused]
        found: dict[str, list[str]] = {}
        for one in listing["searches"]:
            if one["status"] == "failed":
                found.setdefault(one["reason"] or "it was not run", []).append(
                    _named(one["task"], None, None, "search")
                )
        for one in listing["runs"]:
            if one["status"] == "failed" and not str(one["reason"]).startswith("its search failed"):
                found.setdefault(one["reason"], []).append(_named(one["task"], one["scenario"], one["seed"], ""))
        return [f"{'; '.join(places)}: {reason}" for reason, places in found.items()]


def _finite(value: Any) -> Any:
    """A setting as JSON can have it: infinity and NaN as words."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _named(task: str | None, scenario: str | None, seed: int | None, what: str) -> str:
    parts = [
        what,
        f"task {task}" if task else "",
        f"{scenario} alone" if scenario else "",
        f"seed {seed}" if seed is not None else "",
    ]
    return ", ".join(part for part in parts if part)


def _together(rates: Sequence[float | None]) -> float | None:
    """Rows per second of several trainings of the same rows, one after the other."""
    if not rates or any(not rate for rate in rates):
        return None
    return round(1 / sum(1 / rate for rate in rates if rate))


def collect(
    settings: CompareSettings, jobs: Jobs, shared: SharedRows, costs: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The entries of a summary.

    Args:
        settings: the comparison.
        jobs: its jobs.
        shared: the test rows.
        costs: what was measured on the built models, by label.
    """
    found = {entry.label: Collected(settings, jobs, entry) for entry in settings.entries}
    tested = _tested(settings, found, shared)
    transfers = _transfers(settings, found, shared) if settings.single_scenario else {}
    entries = []
    for entry in settings.entries:
        of = found[entry.label]
        listing, seeds, test = of.listing(), of.seeds(), of.metrics("test")
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
                "reasons": of.reasons(listing),
                "seeds": seeds,
                "test": test,
                "valid": of.metrics("valid"),
                "worst_cell": of.worst_cell(test),
                "differences": tested.get(entry.label),
                "transfer": transfers.get(entry.label),
                "cost": of.cost(costs.get(entry.label)),
                **listing,
                "config": of.config(),
            }
        )
    return entries


def _tested(
    settings: CompareSettings, found: Mapping[str, Collected], shared: SharedRows
) -> dict[str, dict[str, dict[str, Any]]]:
    """The differences to the reference of all entries that have seeds in common with it."""
    reference = found[settings.reference]
    of_reference = {seed: reference.joint(seed, shared) for seed in reference.seeds()}
    each: dict[str, dict[str, Difference]] = {}
    for label, of in found.items():
        seeds = [seed for seed in of.seeds() if seed in of_reference]
        if label != settings.reference and seeds:
            own = [of.joint(seed, shared) for seed in seeds]
            each[label] = differences(own, [of_reference[seed] for seed in seeds])
    return adjust(each, settings.alpha)


def _transfers(
    settings: CompareSettings, found: Mapping[str, Collected], shared: SharedRows
) -> dict[str, dict[str, Any]]:
    """Joint minus alone, for every entry; tested over the entries, scenarios and tasks as one family a cell."""
    each: dict[str, dict[str, Difference]] = {}
    for label, of in found.items():
        seeds = _compared(settings, of)
        if not seeds:
            continue
        joint = [of.joint(seed, shared) for seed in seeds]
        alone = [of.alone(seed, shared) for seed in seeds]
        each[label] = {key: one for key, one in differences(joint, alone).items() if key.startswith("auc/")}
    tested = adjust(each, settings.alpha)
    return {
        label: {
            "macro": of.get("auc/macro"),
            "cells": {
                scenario: {
                    task: None
                    if (key := f"auc/{scenario}/{task}") not in of
                    else {**_joint_and_alone(settings, found[label], scenario, task), "difference": of[key]}
                    for task in settings.tasks
                }
                for scenario in settings.scenarios
            },
        }
        for label, of in tested.items()
    }


def _compared(settings: CompareSettings, of: Collected) -> list[int]:
    """The seeds for which the joint training and those alone are there; of scenarios that could be trained alone."""
    able = [scenario for scenario in settings.scenarios if of.seeds(scenario)]
    if not able:
        return []
    return sorted(set.intersection(*(set(of.seeds(scenario)) for scenario in (None, *able))))


def _joint_and_alone(settings: CompareSettings, of: Collected, scenario: str, task: str) -> dict[str, float | None]:
    """Test AUC of one cell after either training, means over the seeds."""
    seeds = _compared(settings, of)
    joint = [of.evaluation(seed, "test").cells[scenario][task].auc for seed in seeds]
    alone = [of.evaluation_alone(seed, scenario).cells[scenario][task].auc for seed in seeds]
    return {"joint": spread(joint)["mean"], "alone": spread(alone)["mean"]}
