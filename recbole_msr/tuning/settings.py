"""What a search is: everything its workers need to know, checked once."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recbole_msr.errors import InputError
from recbole_msr.evaluation.metrics import metric_name
from recbole_msr.files.atomic import write_atomically
from recbole_msr.files.json import read_json
from recbole_msr.tuning.samplers import PRUNERS, SAMPLERS, Named

COSTS = ("parameters", "flops", "latency", "latency_1")
"""Objectives that are measured on the built model (`search/cost.py`); smaller is better."""
_FILE = Path("workers", "search.json")
_SHAPE = {
    **dict.fromkeys(("model", "dataset", "study", "output"), str),
    "config": {"seed": int, "threads": int},
    "space": dict,
    "objectives": [str],
    "sampler?": {"name": str},
    "pruner?": {"name": str},
    "storage?": str | None,
}


@dataclass(frozen=True)
class SearchSettings:
    """A search.

    Attributes:
        model, dataset: names.
        config: configuration keys of every trial (with `seed`, `data_seed` and `threads`).
        space: `Space.to_dict()`.
        objectives: metrics of the validation split and costs; the first metric is the trials' valid_metric.
        study: the study's name in its storage.
        output: the folder.
        storage: its address; None for a journal in the folder.
        trials, epochs, timeout: budgets: trials over all workers and restarts, epochs likewise, seconds of one
            command; None for no limit.
        workers: processes that this command starts.
        sampler, pruner: {name: ..., option: ...}.
        trial_seeds: how often a trial is trained, with seeds that follow `config["seed"]`; its value is the mean.
        final_seeds: seeds of the final test; 0 for none.
        tolerance: with several objectives, the best trial is the one with the smallest second objective among those
            whose first is at most so much worse than the best, as a share of it.
        max_failures: so many failed trials in a row end the search.
        retries: how often a trial is tried again whose worker was killed.
        fused: how many trainings a worker has at once: a number, "off" for one, or "auto"
            (`search/together.py`, `search/final.py`).
        wandb: online, offline or disabled.
        wandb_project: the project there.
    """

    model: str
    dataset: str
    config: dict[str, Any]
    space: dict[str, Any]
    objectives: list[str]
    study: str
    output: str
    storage: str | None = None
    trials: int | None = None
    epochs: int | None = None
    timeout: float | None = None
    workers: int = 1
    sampler: dict[str, Any] = field(default_factory=lambda: {"name": "tpe"})
    pruner: dict[str, Any] = field(default_factory=lambda: {"name": "median"})
    trial_seeds: int = 1
    final_seeds: int = 3
    tolerance: float = 0.01
    max_failures: int = 5
    retries: int = 2
    fused: str | int = "auto"
    wandb: str = "offline"
    wandb_project: str = "recbole-msr"

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("trial_seeds", 1), ("final_seeds", 0)):
            check_count(name, getattr(self, name), least, MOST)
        check_count("max_failures", self.max_failures, 1)
        for name in ("trials", "epochs"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), 1)
        if self.timeout is not None and not (_is_number(self.timeout) and self.timeout > 0):
            raise InputError(f"--timeout must be a number of seconds above 0, got {self.timeout!r}")
        if not (_is_number(self.tolerance) and 0 <= self.tolerance < 1):
            raise InputError(f"--tolerance must be a share from 0 to below 1, got {self.tolerance!r}")
        if self.trials is None and self.epochs is None and self.timeout is None and self.sampler["name"] != "grid":
            raise InputError("a search needs a budget: --trials=N, --timeout=SECONDS or --total-epochs=N")
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise InputError(f"--objectives must be different names, got {', '.join(self.objectives) or 'none'}")
        if self.pruner["name"] != "none" and len(self.objectives) > 1:
            raise InputError("trials with several objectives cannot be pruned (Optuna): give --pruner=none")
        if self.sampler["name"] == "cmaes" and len(self.objectives) > 1:
            raise InputError("CMA-ES has one objective: give --sampler=nsga2, or tpe")
        if "wilcoxon" in _names(self.pruner) and self.trial_seeds < 2:
            raise InputError(
                "the Wilcoxon pruner compares trials seed by seed: give --trial-seeds=K with K of 2 or more"
            )

    @property
    def folder(self) -> Path:
        return Path(self.output)

    @property
    def quality(self) -> str:
        """The first objective that is a metric: what an epoch is judged by."""
        return next(name for name in self.objectives if name not in COSTS)

    def write(self) -> None:
        """Leave it to the workers in the folder."""
        path = self.folder / _FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(self))
        # Private: the storage's address may hold a password.
        write_atomically(path, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"), private=True)

    @classmethod
    def of_folder(cls, folder: Path) -> SearchSettings:
        """What `write` left.

        Raises:
            InputError: the file is damaged.
        """
        content = read_json(folder / _FILE, _SHAPE, finite=False)
        try:
            return cls(**content)
        except (TypeError, KeyError) as error:
            raise InputError(f"{folder / _FILE} is damaged: {error}") from error


def read_objectives(given: str | Sequence[str] | None, valid_metric: str) -> list[str]:
    """`--objectives`, a list or comma-separated; by default the validation metric alone.

    Raises:
        InputError: there is no metric among them.
    """
    names = [valid_metric] if not given else given.split(",") if isinstance(given, str) else list(given)
    names = [metric_name(str(name)) for name in names]
    if all(name in COSTS for name in names):
        raise InputError(
            f"--objectives {', '.join(names)}: one of them must be a metric of the validation split, such as auc/macro"
        )
    return names


def read_sampler(given: Any) -> dict[str, Any]:
    """`--sampler`: a name, or a mapping with options.

    Raises:
        InputError: no such sampler or option.
    """
    return Named.read("sampler", "tpe" if given is None else given, SAMPLERS).to_dict()


def read_pruner(given: Any, objectives: Sequence[str]) -> dict[str, Any]:
    """`--pruner`: a name, or a mapping with options; by default the median rule, and none for several objectives.

    Raises:
        InputError: no such pruner or option.
    """
    default = "median" if len(objectives) == 1 else "none"
    return Named.read("pruner", default if given is None else given, PRUNERS).to_dict()


def read_fused(given: Any) -> str | int:
    """`--fused`: auto, off, or a number.

    Raises:
        InputError: it is none of these.
    """
    word = "auto" if given is None else str(given).strip().lower()
    if word in ("auto", "off"):
        return word
    if not word.isdigit() or int(word) < 1:
        raise InputError(f"--fused must be auto, off, or how many trials are trained at once, got {given!r}")
    return int(word)


MOST = 10_000
"""Workers and seeds that may be asked for: each is a process or a whole training."""


def check_count(name: str, value: Any, least: int, most: float = math.inf) -> None:
    """Check an option that counts something.

    Raises:
        InputError: it is no whole number, below `least` or above `most`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        bounds = f"of at least {least}" + (f" and at most {most}" if most < math.inf else "")
        raise InputError(f"--{name.replace('_', '-')} must be a whole number {bounds}, got {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _names(pruner: Any) -> list[str]:
    """A pruner's name, and those of the pruners that it wraps."""
    if not isinstance(pruner, Mapping):
        return [str(pruner).lower()]
    return [str(pruner.get("name", "")).lower(), *(_names(pruner["wrapped"]) if "wrapped" in pruner else [])]
