"""The settings of a comparison: its entries, the jobs they need, and the folder of each job."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recbole_msr.comparison.options import CompareOptions
from recbole_msr.errors import InputError
from recbole_msr.files.atomic import write_atomically
from recbole_msr.files.json import read_json
from recbole_msr.files.yaml import read_yaml
from recbole_msr.tuning.outcome import SUMMARY

_FILE = Path("workers", "comparison.json")
_SHAPE = {
    **dict.fromkeys(("dataset", "reference", "main_task", "output"), str),
    "entries": [
        {"label": str, "model": str, "settings": dict, "tasks": [str | None], "refused": str | None, "left_out?": [str]}
    ],
    "config": {"seed": int, "threads": int},
    "scenarios": [str],
    "tasks": [str],
    **{"seeds?": int, "trials?": int, "workers?": int, "timeout?": float | None},
}
ALL_TASKS = "all"
"""Stands in paths for a model that learns all tasks jointly."""
JOINT = "joint"
"""Stands in paths for a training on the rows of all scenarios."""
_MAX_LABEL_BYTES = 150


@dataclass(frozen=True)
class Entry:
    """One row of the leaderboard.

    Attributes:
        label: its name there.
        model: model name.
        settings: configuration keys of this entry alone.
        tasks: the tasks it is trained for one by one, or [None] for all of them in one training.
        refused: the reason why it cannot be compared; None if it can.
        left_out: keys of the comparison that are not this entry's: its model does not have them, or does not read them.
    """

    label: str
    model: str
    settings: dict[str, Any] = field(default_factory=dict, hash=False)
    tasks: list[str | None] = field(default_factory=lambda: [None], hash=False)
    refused: str | None = None
    left_out: list[str] = field(default_factory=list, hash=False)

    def merge(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keys of its runs: those of the comparison that its model has, and its own."""
        return {**{key: value for key, value in config.items() if key not in self.left_out}, **self.settings}

    @property
    def kind(self) -> str:
        """Return "multi-task" or "single-task"."""
        return "multi-task" if self.tasks == [None] else "single-task"


@dataclass(frozen=True)
class Search:
    """The search of an entry's settings, for one task or for all."""

    entry: Entry
    task: str | None

    @property
    def path(self) -> Path:
        """Return its folder, below that of the comparison."""
        return Path("searches", _folder_name(self.entry.label), _folder_name(self.task or ALL_TASKS))

    def describe(self) -> str:
        """Return a description for messages: "HiNet, search for task click"."""
        return f"{self.entry.label}, search" + (f" for task {self.task}" if self.task else "")


@dataclass(frozen=True)
class Training:
    """One run: an entry, for one task or for all, on all rows or one scenario's, with one seed."""

    entry: Entry
    task: str | None
    scenario: str | None
    seed: int

    def path(self, trial: int | None) -> Path:
        """Return its folder, below that of the comparison.

        Args:
            trial: number of the search's trial whose settings it has; None without a search.
        """
        name = f"seed-{self.seed}" + ("" if trial is None else f"-trial-{trial}")
        where = f"alone-{_folder_name(self.scenario)}" if self.scenario is not None else JOINT
        return Path("runs", _folder_name(self.entry.label), _folder_name(self.task or ALL_TASKS), where, name)

    def describe(self) -> str:
        """Return a description for messages: "HiNet, task click, young alone, seed 1"."""
        parts = [f"task {self.task}" if self.task else "", f"{self.scenario} alone" if self.scenario else ""]
        return ", ".join([self.entry.label, *filter(None, parts), f"seed {self.seed}"])


def _folder_name(name: str) -> str:
    """Turn a name into that of a folder; a comparison refuses names for which this is the same."""

    def escaped(match: re.Match[str]) -> str:
        return "_" if match[0] == " " else f"%{ord(match[0]):02x}"

    return re.sub(r"[^\w=.+-]", escaped, name).lstrip(".")


@dataclass(frozen=True)
class CompareSettings:
    """A comparison, as its workers read it from the output folder.

    Attributes:
        dataset: dataset name.
        entries: the models that are compared.
        reference: label of the entry that the others are tested against.
        config: configuration keys of every run (with `seed`, `data_seed`, `threads`, the protocol's keys).
        scenarios: names of the scenarios, as in the data.
        tasks: names of the tasks.
        main_task: the task that RecBole's metrics are of.
        output: output folder.
        seeds: runs of each entry; the seeds follow `config["seed"]`, which is the searches' own where there are any.
        trials: trials of each entry's search; 0 for no search, unless there is a timeout.
        timeout: seconds of each entry's search; None for no limit.
        single_scenario: whether every entry is also trained on each scenario's rows alone.
        workers: number of processes.
        alpha: significance level.
        retries: how often a run is tried again whose process was killed.
        wandb: online, offline or disabled.
        wandb_project: project in Weights & Biases.
    """

    dataset: str
    entries: list[Entry]
    reference: str
    config: dict[str, Any]
    scenarios: list[str]
    tasks: list[str]
    main_task: str
    output: str
    seeds: int = CompareOptions.seeds
    trials: int = CompareOptions.trials
    timeout: float | None = CompareOptions.timeout
    single_scenario: bool = CompareOptions.single_scenario
    workers: int = CompareOptions.workers
    alpha: float = CompareOptions.alpha
    retries: int = 2
    wandb: str = "offline"
    wandb_project: str = "recbole-msr"

    def __post_init__(self) -> None:
        """Refuse names that cannot be folders, or that would share one."""
        labels = [entry.label for entry in self.entries]
        for label in labels:
            if not 0 < len(_folder_name(label).encode()) <= _MAX_LABEL_BYTES:
                raise InputError(
                    f"models: the label '{label[:60]}' cannot name a folder: give a short one with letters"
                )
        _refuse_shared_folders("labels", labels)
        if self.single_scenario:
            _refuse_shared_folders("scenarios", self.scenarios)

    @property
    def folder(self) -> Path:
        """Return the output folder."""
        return Path(self.output)

    @property
    def seed_list(self) -> list[int]:
        """Return the seeds of the runs: none by which a search has chosen its trial."""
        first = int(self.config["seed"]) + self.searched
        return list(range(first, first + self.seeds))

    @property
    def searched(self) -> bool:
        """Return whether each entry's settings are searched before it is trained."""
        return self.trials > 0 or self.timeout is not None

    def searches(self) -> list[Search]:
        """Return the searches of all entries that can be compared."""
        if not self.searched:
            return []
        return [Search(entry, task) for entry in self._comparable() for task in entry.tasks]

    def trainings(self) -> list[Training]:
        """Return the trainings, seed by seed, so that early results have all entries; single scenarios come last."""
        return [
            Training(entry, task, scenario, seed)
            for alone in ([False, True] if self.single_scenario else [False])
            for seed in self.seed_list
            for entry in self._comparable()
            for task in entry.tasks
            for scenario in (self.scenarios if alone else [None])
        ]

    def _comparable(self) -> Iterator[Entry]:
        return (entry for entry in self.entries if entry.refused is None)

    def tuned(self, entry: Entry, task: str | None) -> tuple[int | None, dict[str, Any]]:
        """Return the trial that an entry's search has chosen, and its settings; None and its own without a search.

        Raises:
            FileNotFoundError: the search has not ended yet, or without a complete trial.
        """
        trial = self.trial(entry, task)
        if trial is None:
            return None, dict(entry.settings)
        settings = read_yaml(self.folder / Search(entry, task).path / "best.yaml")
        for key in ("written_by", "model", "dataset"):
            settings.pop(key, None)
        return trial, settings

    def trial(self, entry: Entry, task: str | None) -> int | None:
        """Return the number of the trial that an entry's search has chosen; None without a search.

        Raises:
            FileNotFoundError: the search has not ended yet, or without a complete trial.
        """
        if not self.searched:
            return None
        path = self.folder / Search(entry, task).path / "summary.json"
        best = read_json(path, SUMMARY)["best"]
        if best is None:
            raise FileNotFoundError(path.with_name("best.yaml"))
        return int(best["number"])

    def write(self) -> None:
        """Write the settings into the output folder, where the workers read them."""
        text = json.dumps(asdict(self))
        write_atomically(self.folder / _FILE, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))

    @classmethod
    def of_folder(cls, folder: Path) -> CompareSettings:
        """Read what `write` wrote.

        Raises:
            InputError: the file is damaged.
        """
        content = read_json(folder / _FILE, _SHAPE, finite=False)
        try:
            return cls(**content | {"entries": [Entry(**entry) for entry in content["entries"]]})
        except TypeError as error:
            raise InputError(f"{folder / _FILE} is damaged: {error}") from error


def _refuse_shared_folders(what: str, names: Sequence[str]) -> None:
    folders = [_folder_name(name).casefold() for name in names]
    same = [name for name, folder in zip(names, folders, strict=True) if folders.count(folder) > 1]
    if same:
        raise InputError(f"the {what} {' and '.join(map(repr, same))} would have one folder: name them otherwise")
