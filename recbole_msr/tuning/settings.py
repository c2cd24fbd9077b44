"""The settings of a search: everything that its workers need to know, resolved from its options."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recbole_msr.errors import InputError
from recbole_msr.evaluation.metrics import metric_name, metrics_of
from recbole_msr.files.atomic import write_atomically
from recbole_msr.files.json import read_json
from recbole_msr.jobs.options import MOST_PROCESSES
from recbole_msr.schema import Schema, is_conditional
from recbole_msr.tuning.options import SearchOptions
from recbole_msr.tuning.samplers import PRUNERS, SAMPLERS, Named

COSTS = ("parameters", "flops", "latency", "latency_1")
"""Objectives that are measured on the built model (`jobs/model_cost.py`); smaller is better."""
AUTO_PICKS = 10
"""Picks of an ensemble that nobody asked for."""
SETTINGS_FILE = "workers/search.json"
"""Where the settings are, below the output folder."""
_SHAPE = {
    **dict.fromkeys(("model", "dataset", "study", "output"), str),
    "config": {"seed": int, "threads": int},
    "space": dict,
    "models?": [str],
    "unread?": {str: [str]},
    "left_out?": {str: str},
    "tasks?": [str],
    "objectives": [str],
    "sampler?": {"name": str},
    "pruner?": {"name": str},
    "storage?": str | None,
    **dict.fromkeys(("workers?", "trial_seeds?", "final_seeds?", "confirm?", "max_failures?", "ensemble?"), int),
    **dict.fromkeys(("trials?", "epochs?"), int | None),
    **{"timeout?": float | None, "tolerance?": float, "fused?": str | int, "fidelity?": str},
    "first?": {str: [dict]},
    "warm_start?": [{"settings": dict, "model": str | None, "of": str}],
}


@dataclass(frozen=True)
class SearchSettings:
    """A search, as its workers read it from the output folder.

    Attributes:
        model: model name; of a search over several models, the one whose configuration the data are read with.
        dataset: dataset name.
        config: configuration keys of every trial, with `seed`, `data_seed` and `threads`.
        space: `Space.to_dict()`.
        models: the models of a search over several, in their order; empty for a search of one.
        unread: keys of `config` that a model of these does not read, by model: its trials keep their defaults.
        tasks: in a search over several models all tasks, the main task first.
        left_out: why other models take no part, by model.
        objectives: metrics of the validation split and costs; the first metric is the trials' valid_metric.
        study: name of the study in its storage.
        output: output folder.
        storage: address of the database; None for a journal in the output folder.
        trials: maximum number of trials, over all workers and restarts; None for no limit.
        epochs: maximum number of epochs of all trials together; None for no limit.
        timeout: seconds of one command; None for no limit.
        workers: processes that this command starts.
        sampler: {name: ..., option: ...}.
        pruner: {name: ..., option: ...}.
        trial_seeds: trainings of each trial, with seeds that follow `config["seed"]`; its value is their mean.
        final_seeds: seeds of confirmation and final test; 0 for none.
        confirm: number of best trials that are trained again with these seeds.
        tolerance: with several objectives, the best trial is the one with the smallest second objective among those
            whose first is worse than the best by at most this much.
        max_failures: number of consecutive failed trials that ends a search without a success; ten times as many end
            one with a success.
        first: first configurations by model (`tuning/first_configurations.py`).
        warm_start: the best settings of earlier studies (`tuning/warm_start.py`).
        retries: how often a trial is tried again whose worker was killed.
        fused: trainings that a worker runs at once: a number, "off" for one, or "auto"
            (`tuning/fused_trials.py`, `tuning/final.py`).
        fidelity: rungs below full training: auto, off, or such as 1/9,1/3:2 (`tuning/fidelity.py`).
        ensemble: number of picks for an ensemble of the best models; 0 for none.
        wandb: online, offline or disabled.
        wandb_project: project in Weights & Biases.
    """

    model: str
    dataset: str
    config: dict[str, Any]
    space: dict[str, Any]
    objectives: list[str]
    study: str
    output: str
    models: list[str] = field(default_factory=list)
    unread: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    tasks: list[str] = field(default_factory=list)
    storage: str | None = SearchOptions.storage
    trials: int | None = SearchOptions.trials
    epochs: int | None = SearchOptions.total_epochs
    timeout: float | None = SearchOptions.timeout
    workers: int = SearchOptions.workers
    sampler: dict[str, Any] = field(default_factory=lambda: {"name": "local"})
    pruner: dict[str, Any] = field(default_factory=lambda: {"name": "median"})
    trial_seeds: int = SearchOptions.trial_seeds
    final_seeds: int = SearchOptions.final_seeds
    confirm: int = SearchOptions.confirm
    tolerance: float = SearchOptions.tolerance
    max_failures: int = SearchOptions.max_failures
    first: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    warm_start: list[dict[str, Any]] = field(default_factory=list)
    retries: int = 2
    fused: str | int = "auto"
    fidelity: str = "auto"
    ensemble: int = 0
    wandb: str = "offline"
    wandb_project: str = "recbole-msr"

    def __post_init__(self) -> None:
        """Refuse options that do not go together."""
        if self.trials is None and self.epochs is None and self.timeout is None and self.sampler["name"] != "grid":
            raise InputError("a search needs a budget: --trials=N, --timeout=TIME or --total-epochs=N")
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise InputError(f"--objectives must be different names, got {', '.join(self.objectives) or 'none'}")
        if self.ensemble and (reason := self.without_ensemble()) is not None:
            raise InputError(reason)
        if len(self.objectives) > 1:
            self._check_several_objectives()
        if self.models and self.sampler["name"] == "grid":
            raise InputError("a grid is of one model's space: name one model (--model=NAME), or take another --sampler")
        if self.models and self.fused not in ("auto", "off"):
            raise InputError("trials of several models are not trained at once: leave --fused out, or name one model")
        if "wilcoxon" in _names(self.pruner) and self.trial_seeds < 2:
            raise InputError(
                "the Wilcoxon pruner compares trials seed by seed: give --trial-seeds=K with K of 2 or more"
            )

    def without_ensemble(self) -> str | None:
        """Return why no ensemble can be chosen; None if one can."""
        schema = Schema.from_config(self.config) if self.config.get("tasks") else None
        types = {} if schema is None else schema.types
        weighted = {} if schema is None else schema.weighted_types
        metrics = metrics_of(types.values() or ["binary"], weighted.values())
        if is_conditional(self.quality.split("/")[-1]):
            return (
                f"an ensemble averages the tasks' probabilities and is not chosen by {self.quality}, a metric of a "
                "conditional: give another valid_metric, or leave --ensemble out"
            )
        if self.quality.split("/")[0].lower() not in metrics:
            return (
                f"an ensemble is chosen by a metric of scenarios and tasks ({', '.join(metrics)}), not by "
                f"{self.quality}: give another valid_metric, or leave --ensemble out"
            )
        return None

    def _check_several_objectives(self) -> None:
        if self.pruner["name"] != "none":
            raise InputError("trials with several objectives cannot be pruned (Optuna): give --pruner=none")
        if self.sampler["name"] == "cmaes":
            raise InputError("CMA-ES has one objective: give --sampler=nsga2, or tpe")

    @property
    def folder(self) -> Path:
        """Return the output folder."""
        return Path(self.output)

    @property
    def quality(self) -> str:
        """Return the first objective that is a metric: it chooses each trial's best epoch."""
        return next(name for name in self.objectives if name not in COSTS)

    def write(self) -> None:
        """Write the settings into the output folder, where the workers read them."""
        path = self.folder / SETTINGS_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(self))
        # Private: the storage's address may hold a password.
        write_atomically(path, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"), private=True)

    @classmethod
    def of_folder(cls, folder: Path) -> SearchSettings:
        """Read what `write` wrote.

        Raises:
            InputError: the file is damaged.
        """
        content = read_json(folder / SETTINGS_FILE, _SHAPE, finite=False)
        try:
            return cls(**content)
        except (TypeError, KeyError) as error:
            raise InputError(f"{folder / SETTINGS_FILE} is damaged: {error}") from error


def read_objectives(objectives: str | Sequence[str] | None, valid_metric: str) -> list[str]:
    """Read `--objectives`, a list or comma-separated; by default the validation metric alone.

    Raises:
        InputError: there is no metric among them.
    """
    if not objectives:
        objectives = [valid_metric]
    elif isinstance(objectives, str):
        objectives = objectives.split(",")
    names = [metric_name(str(name)) for name in objectives]
    if all(name in COSTS for name in names):
        raise InputError(
            f"--objectives {', '.join(names)}: one of them must be a metric of the validation split, such as auc/macro"
        )
    return names


def read_sampler(sampler: Any) -> dict[str, Any]:
    """Read `--sampler`: a name, or a mapping with options.

    Raises:
        InputError: no such sampler or option.
    """
    return Named.read("sampler", "local" if sampler is None else sampler, SAMPLERS).to_dict()


def read_pruner(pruner: Any, objectives: Sequence[str]) -> dict[str, Any]:
    """Read `--pruner`: a name, or a mapping with options; by default the median rule, and none for several objectives.

    Raises:
        InputError: no such pruner or option.
    """
    default = "median" if len(objectives) == 1 else "none"
    return Named.read("pruner", default if pruner is None else pruner, PRUNERS).to_dict()


def read_fused(fused: Any) -> str | int:
    """Read `--fused`: auto, off, or a number.

    Raises:
        InputError: it is none of these.
    """
    word = "auto" if fused is None else str(fused).strip().lower()
    if word in ("auto", "off"):
        return word
    if not word.isdigit() or int(word) < 1:
        raise InputError(f"--fused must be auto, off, or how many trials are trained at once, got {fused!r}")
    return int(word)


def read_ensemble(ensemble: Any) -> int | None:
    """Read `--ensemble`: the number of picks, 0 for off, None for auto.

    Raises:
        InputError: it is none of these.
    """
    word = "auto" if ensemble is None else str(ensemble).strip().lower()
    if word in ("auto", "off"):
        return None if word == "auto" else 0
    if not word.isdigit() or int(word) > MOST_PROCESSES:
        raise InputError(
            f"--ensemble must be auto, off, or how many models are averaged at most, up to {MOST_PROCESSES:,}; "
            f"got {ensemble!r}"
        )
    return int(word)


def _names(pruner: Any) -> list[str]:
    """Return a pruner's name, and those of the pruners that it wraps."""
    if not isinstance(pruner, Mapping):
        return [str(pruner).lower()]
    return [str(pruner.get("name", "")).lower(), *(_names(pruner["wrapped"]) if "wrapped" in pruner else [])]
