"""What a search leaves: the best trial, best.yaml, the final test over seeds, summary.json."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from recbole_msr.config.build import plain_settings
from recbole_msr.config.merge import make_folders_absolute
from recbole_msr.files.atomic import write_atomically
from recbole_msr.files.yaml import write_yaml_text
from recbole_msr.runs.versions import versions
from recbole_msr.tuning.objective import trial_config, trial_settings
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.study import candidates, counted_trials, is_cut_off, values_of
from recbole_msr.version import __version__

_END = "\n..."  # what YAML writes behind a single word or number


def best_trial(study: optuna.Study, tolerance: float) -> FrozenTrial | None:
    """The trial to take; None where none is complete, and none was cut off after an epoch that was validated.

    With one objective it is the best one, the first of equals. With several, of the Pareto front those whose first
    objective is at most `tolerance` (a share of the best value) worse than the best, and of them the one that is best
    in the second objective, then in the third and so on, then in the first.
    """
    complete = candidates(study)
    if not complete:
        return None
    signs = [1.0 if direction == StudyDirection.MINIMIZE else -1.0 for direction in study.directions]

    def losses(trial: FrozenTrial) -> list[float]:
        return [sign * value for sign, value in zip(signs, values_of(trial) or [], strict=True)]

    if len(signs) == 1:
        return min(complete, key=lambda trial: (losses(trial)[0], trial.number))
    best = min(losses(trial)[0] for trial in complete)
    near = [trial for trial in complete if losses(trial)[0] <= best + tolerance * abs(best)]
    front = [trial for trial in near if not any(_dominates(losses(one), losses(trial)) for one in complete)]
    return min(front, key=lambda trial: (*losses(trial)[1:], losses(trial)[0], trial.number))


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(a < b for a, b in zip(one, other, strict=True))


def defaults_trial(study: optuna.Study, pruned: bool = False) -> FrozenTrial | None:
    """The complete trial of the defaults, if there is one; or a pruned one, whose settings are as good for a test."""
    states = (TrialState.COMPLETE, TrialState.PRUNED) if pruned else (TrialState.COMPLETE,)
    return next(
        (
            trial
            for trial in counted_trials(study)
            if trial.user_attrs.get("origin") == "defaults" and trial.state in states
        ),
        None,
    )


@dataclass(frozen=True)
class FinalTest:
    """The final test of one trial's configuration.

    Attributes:
        trial: the trial's number.
        results: result.json of each seed that ended well.
        failed: for each of the others, why.
    """

    trial: int
    results: Sequence[Mapping[str, Any]] = ()
    failed: Mapping[int, str] = field(default_factory=dict)


def best_settings(settings: SearchSettings, trial: FrozenTrial) -> dict[str, Any]:
    """All configuration keys of a trial, as `run` takes them, its searched keys first."""
    sampled = trial.user_attrs["settings"]
    plain = plain_settings(trial_config(settings, sampled))
    plain["threads"] = trial.user_attrs.get("threads", settings.config["threads"])
    if "show_progress" not in settings.config:
        plain.pop("show_progress", None)
    make_folders_absolute(plain, ("data_path", "knowledge_dir"))
    names = {"model": plain.pop("model"), "dataset": plain.pop("dataset")}
    return {**names, **{key: plain[key] for key in sampled if key in plain}, **plain}


SUMMARY = {
    **{"study": str, "model": str, "dataset": str, "trial_seconds": float},
    "trials": {str: int},
    "best": ({"number": int, "values": [float]}, None),
}
"""What a search's summary.json must hold to be read back."""


def write_best(settings: SearchSettings, study: optuna.Study, trial: FrozenTrial) -> Path:
    """Write best.yaml, which `run_recbole --config_files` runs to the trial's validation value."""

    values = ", ".join(
        f"{name} {value:.6g}" for name, value in zip(settings.objectives, values_of(trial) or [], strict=True)
    )
    sampled = trial.user_attrs["settings"]
    everything = best_settings(settings, trial)
    first = {key: everything.pop(key) for key in ["model", "dataset", *sampled] if key in everything}
    same = "the same value" if settings.trial_seeds == 1 else "the value of its first seed"
    told = [f"# trains it again, to {same} on the same machine and versions, and tests it."]
    if is_cut_off(trial):
        told = [
            f"# trains it to its end, to this value or a better one, and tests it: {trial.user_attrs.get('reason')}.",
        ]
    lines = [
        f"# Trial {trial.number} of the study '{settings.study}': {values} on the validation split.",
        "#   run_recbole --config_files best.yaml",
        *told,
        *_yaml({"written_by": f"recbole-msr {__version__}", **first}),
        "",
        "# All other settings, as they were.",
        *_yaml(everything),
        "",
    ]
    path = settings.folder / "best.yaml"
    write_atomically(path, lambda temporary: Path(temporary).write_text("\n".join(lines), encoding="utf-8"))
    return path


def _yaml(content: Mapping[str, Any]) -> list[str]:
    """A line a key."""

    def line(value: Any) -> str:
        text = write_yaml_text(value, flow=True, width=10**6)
        return text.split(_END)[0].strip()

    return [f"{key}: {line(value)}" for key, value in content.items()]


def summarise(
    settings: SearchSettings,
    study: optuna.Study,
    best: FrozenTrial | None,
    finals: Sequence[FinalTest],
    seconds: float,
    command: str,
) -> dict[str, Any]:
    """The content of summary.json.

    Args:
        settings, study: the search.
        best: the trial that was chosen.
        finals: the final test of that trial, and of the defaults where these are another one.
        seconds: wall time of this command.
        command: how it was started.
    """

    trials = counted_trials(study)
    states = Counter(trial.state for trial in trials)
    defaults = defaults_trial(study)
    directions = ["minimize" if d == StudyDirection.MINIMIZE else "maximize" for d in study.directions]
    return {
        "study": settings.study,
        "model": settings.model,
        "dataset": settings.dataset,
        "objectives": [
            {"name": name, "direction": direction}
            for name, direction in zip(settings.objectives, directions, strict=True)
        ],
        "valid_metric": settings.quality,
        "seed": settings.config["seed"],
        "data_seed": settings.config["data_seed"],
        "trials": {
            "complete": states[TrialState.COMPLETE],
            "pruned": states[TrialState.PRUNED],
            "failed": states[TrialState.FAIL],
        },
        "best": _told(best, settings) if best is not None else None,
        "defaults": {"number": defaults.number, "values": defaults.values} if defaults is not None else None,
        "final": _final(finals[0]) if finals else None,
        "final_defaults": _final(finals[-1]) if finals and defaults_trial(study, pruned=True) is not None else None,
        "final_failures": {
            f"{seed}" if one is finals[0] else f"{seed}, defaults": reason
            for one in finals
            for seed, reason in one.failed.items()
        },
        "failures": dict(
            Counter(
                trial.user_attrs.get("reason", "no reason is known")
                for trial in trials
                if trial.state == TrialState.FAIL
            )
        ),
        "seconds": round(seconds, 3),
        "trial_seconds": round(sum(trial.user_attrs.get("seconds", 0.0) for trial in trials), 3),
        "workers": settings.workers,
        "threads": settings.config["threads"],
        "versions": versions(),
        "command": command,
    }


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(folder / "summary.json", lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))


def _told(trial: FrozenTrial, settings: SearchSettings) -> dict[str, Any]:
    return {
        "number": trial.number,
        "values": values_of(trial),
        "cut_off": trial.user_attrs.get("reason") if is_cut_off(trial) else None,
        "params": trial.params,
        "settings": trial_settings(settings, trial.user_attrs["settings"]),
    }


def _final(test: FinalTest) -> dict[str, Any] | None:
    """Means and deviations over the seeds that ended well; None without any."""
    finals = test.results
    if not finals:
        return None
    found: dict[str, Any] = {"trial": test.trial, "seeds": [result["seed"] for result in finals]}
    for split in ("valid", "test"):
        parts = [result[split] for result in finals]
        found[split] = {
            "metrics": {name: spread([part["metrics"].get(name) for part in parts]) for name in parts[0]["metrics"]},
            "pooled": {
                task: {
                    metric: spread([part["pooled"][task][metric] for part in parts])
                    for metric in ("auc", "gauc", "logloss")
                }
                for task in parts[0]["pooled"]
            },
            "cells": [
                {
                    "scenario": scenario,
                    "task": task,
                    **{
                        metric: spread([part["cells"][scenario][task][metric] for part in parts])
                        for metric in ("auc", "gauc", "logloss")
                    },
                }
                for scenario, tasks in parts[0]["cells"].items()
                for task in tasks
            ],
        }
    return found


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean and sample standard deviation of the values that exist, and the values."""
    known = [value for value in values if value is not None]
    return {
        "mean": statistics.mean(known) if known else None,
        "deviation": statistics.stdev(known) if len(known) > 1 else None,
        "values": list(values),
    }
