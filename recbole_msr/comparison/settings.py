"""What a comparison is: its entries, the jobs they need, and where each leaves its files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recbole_msr.errors import InputError
from recbole_msr.files.atomic import write_atomically
from recbole_msr.files.json import read_json
from recbole_msr.files.yaml import read_yaml
from recbole_msr.tuning.outcome import SUMMARY

_FILE = Path("workers", "comparison.json")
_SHAPE = {
    **dict.fromkeys(("dataset", "reference", "main_task", "output"), str),
    "entries": [{"label": str, "model": str, "settings": dict, "tasks": [str | None], "refused": str | None}],
    "config": {"seed": int, "threads": int},
    "scenarios": [str],
    "tasks": [str],
    **{"seeds?": int, "trials?": int, "workers?": int, "timeout?": float | None},
}
ALL_TASKS = "all"
"""Stands in paths for a model that learns all tasks together."""
JOINT = "joint"
"""Stands in paths for a training on the rows of all scenarios."""
_LONGEST = 150


@dataclass(frozen=True)
class Entry:
    """One line of the leaderboard.

    Attributes:
        label: its name there.
        model: the model's name.
        settings: configuration keys of this entry alone.
        tasks: the tasks it is trained for one by one, or [None] for all of them in one training.
        refused: why it cannot be compared at all; None if it can.
    """

    label: str
    model: str
    settings: dict[str, Any] = field(default_factory=dict, hash=False)
    tasks: list[str | None] = field(default_factory=lambda: [None], hash=False)
    refused: str | None = None

    @property
    def kind(self) -> str:
        return "multi-task" if self.tasks == [None] else "single-task"


@dataclass(frozen=True)
class Search:
    """The search of an entry's settings, for one task or for all."""

    entry: Entry
    task: str | None

    @property
    def path(self) -> Path:
        return Path("searches", _word(self.entry.label), _word(self.task or ALL_TASKS))


@dataclass(frozen=True)
class Training:
    """One run: an entry, for one task or for all, on all rows or one scenario's, with one seed."""

    entry: Entry
    task: str | None
    scenario: str | None
    seed: int

    def path(self, trial: int | None) -> Path:
        """The run's folder; `trial` is that of the search whose settings it has."""
        name = f"seed-{self.seed}" + ("" if trial is None else f"-trial-{trial}")
        where = f"alone-{_word(self.scenario)}" if self.scenario is not None else JOINT
        return Path("runs", _word(self.entry.label), _word(self.task or ALL_TASKS), where, name)

    def told(self) -> str:
        parts = [f"task {self.task}" if self.task else "", f"{self.scenario} alone" if self.scenario else ""]
        return ", ".join([*filter(None, parts), f"seed {self.seed}"])


def _word(name: str) -> str:
    """A name as a folder's; a comparison refuses names that come to the same."""
    return re.sub(r"[^\w=.+-]", lambda found: f"%{ord(found[0]):02x}" if found[0] != " " else "_", name).lstrip(".")


@dataclass(frozen=True)
class CompareSettings:
    """A comparison.

    Attributes:
        dataset: its name.
        entries: what is compared.
        reference: the label of the entry that the others are tested against.
        config: configuration keys of every run (with `seed`, `data_seed`, `threads`, the protocol's keys).
        scenarios, tasks, main_task: as the data have them.
        output: the folder.
        seeds: runs of each entry; the seeds follow `config["seed"]`, which is the searches' own where there are any.
        trials, timeout: the budget of each entry's search; 0 trials and None: the defaults are compared.
        single_scenario: also train every entry on each scenario's rows alone.
        workers: processes.
        alpha: level of significance.
        retries: how often a run is tried again whose process was killed.
        wandb, wandb_project: mode and project of Weights & Biases.
    """

    dataset: str
    entries: list[Entry]
    reference: str
    config: dict[str, Any]
    scenarios: list[str]
    tasks: list[str]
    main_task: str
    output: str
    seeds: int = 3
    trials: int = 0
    timeout: float | None = None
    single_scenario: bool = False
    workers: int = 1
    alpha: float = 0.05
    retries: int = 2
    wandb: str = "offline"
    wandb_project: str = "recbole-msr"

    def __post_init__(self) -> None:
        for label in [entry.label for entry in self.entries]:
            if not 0 < len(_word(label).encode()) <= _LONGEST:
                raise InputError(
                    f"models: the label '{label[:60]}' cannot name a folder: give a short one with letters"
                )
        for what, names in (("labels", [entry.label for entry in self.entries]), ("scenarios", self.scenarios)):
            words = [_word(name).casefold() for name in names]
            same = [name for name, word in zip(names, words, strict=True) if words.count(word) > 1]
            if same and (what == "labels" or self.single_scenario):
                raise InputError(
                    f"the {what} {' and '.join(map(repr, same))} would have one folder: name them otherwise"
                )

    @property
    def folder(self) -> Path:
        return Path(self.output)

    @property
    def seed_list(self) -> list[int]:
        first = int(self.config["seed"]) + self.searched  # by a search's own seed its trial has been chosen
        return list(range(first, first + self.seeds))

    @property
    def searched(self) -> bool:
        return self.trials > 0 or self.timeout is not None

    def searches(self) -> list[Search]:
        if not self.searched:
            return []
        return [Search(entry, task) for entry in self._able() for task in entry.tasks]

    def trainings(self) -> list[Training]:
        """Seed by seed, so that what is there early has all entries; trainings on single scenarios come last."""
        return [
            Training(entry, task, scenario, seed)
            for alone in ([False, True] if self.single_scenario else [False])
            for seed in self.seed_list
            for entry in self._able()
            for task in entry.tasks
            for scenario in (self.scenarios if alone else [None])
        ]

    def _able(self) -> Iterator[Entry]:
        return (entry for entry in self.entries if entry.refused is None)

    def tuned(self, entry: Entry, task: str | None) -> tuple[int | None, dict[str, Any]]:
        """The trial that an entry's search has chosen, and its settings; None and its own without a search.

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
        """The number of that trial; None without a search.

        Raises:
            FileNotFoundError: as `tuned`.
        """
        if not self.searched:
            return None
        path = self.folder / Search(entry, task).path / "summary.json"
        best = read_json(path, SUMMARY)["best"]
        if best is None:
            raise FileNotFoundError(path.with_name("best.yaml"))
        return int(best["number"])

    def write(self) -> None:
        """Leave it to the workers in the folder."""
        text = json.dumps(asdict(self))
        write_atomically(self.folder / _FILE, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))

    @classmethod
    def of_folder(cls, folder: Path) -> CompareSettings:
        """What `write` left.

        Raises:
            InputError: the file is damaged.
        """
        content = read_json(folder / _FILE, _SHAPE, finite=False)
        try:
            return cls(**content | {"entries": [Entry(**entry) for entry in content["entries"]]})
        except TypeError as error:
            raise InputError(f"{folder / _FILE} is damaged: {error}") from error
