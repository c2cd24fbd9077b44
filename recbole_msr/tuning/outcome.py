"""The outcome of a search: the best trial, best.yaml, the final test over seeds, summary.json."""

from __future__ import annotations

import json
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
from recbole_msr.evaluation.metrics import metrics_among
from recbole_msr.files.atomic import write_atomically
from recbole_msr.files.yaml import write_yaml_text
from recbole_msr.jobs.spread import spread
from recbole_msr.runs.versions import versions
from recbole_msr.tuning.drawing import settings_key
from recbole_msr.tuning.fidelity import Ladder
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.study import candidates, counted_trials
from recbole_msr.tuning.trial_parts import tasks_of
from recbole_msr.tuning.trial_settings import trial_config, trial_settings
from recbole_msr.tuning.trial_state import SO_FAR, is_cut_off, is_under_way, is_unfinished, values_of
from recbole_msr.version import __version__

_ROUNDING = 1e-12
"""Two differences up to this are the same number."""
_DOCUMENT_END = "\n..."  # YAML writes it after a single word or number


def best_trial(study: optuna.Study, tolerance: float, running: bool = False) -> FrozenTrial | None:
    """Choose the best trial; None where none is complete, and none was cut off after a validated epoch.

    With one objective it is the best one, the first of equals. With several, of the Pareto front those whose first
    objective is at most `tolerance` worse than the best, and of them the one that is best in the second objective,
    then in the third and so on, then in the first.

    Args:
        study: the study.
        tolerance: in units of the first objective.
        running: also look at trials that run, by their best epochs so far.
    """
    return next(iter(ranking(study, tolerance, 1, running)), None)


_RANKED = 50
"""Trials that are looked at for the best of other models."""


def ranking(study: optuna.Study, tolerance: float, most: int, running: bool = False) -> list[FrozenTrial]:
    """Return the best trials of different settings, the best first: each is the best without those before it.

    Args:
        study: the study.
        tolerance: as `best_trial` takes it.
        most: number of trials.
        running: also those that run, by their best epochs so far.
    """
    trials = {trial.number: trial for trial in candidates(study, running)}
    values = {number: values_of(trial) or [] for number, trial in trials.items()}
    ranked: dict[str, FrozenTrial] = {}  # by their settings
    if len(study.directions) == 1:  # asked for after every epoch: the key of few trials is looked at
        for number in sorted(values, key=lambda number: (*_losses(study.directions, values[number]), number)):
            if len(ranked) == most:
                break
            ranked.setdefault(_settings_key(trials[number]), trials[number])
        return list(ranked.values())
    keys = {number: _settings_key(trials[number]) for number in values}
    while values and len(ranked) < most:
        best = choose(study.directions, values, tolerance)
        ranked[keys[best]] = trials[best]
        values = {number: found for number, found in values.items() if keys[number] != keys[best]}
    return list(ranked.values())


def choose(directions: Sequence[StudyDirection], values: Mapping[int, Sequence[float]], tolerance: float) -> int:
    """Return the number of the best trial, by the rule of `best_trial`.

    Args:
        directions: of the objectives.
        values: the objectives' values by trial; not empty.
        tolerance: in units of the first objective.
    """
    losses = {number: _losses(directions, of) for number, of in values.items()}
    if len(directions) == 1:
        return min(losses, key=lambda number: (losses[number], number))
    limit = min(of[0] for of in losses.values()) + tolerance + _ROUNDING
    front = [
        number
        for number, of in losses.items()
        if of[0] <= limit and not any(_dominates(other, of) for other in losses.values())
    ]
    return min(front, key=lambda number: (*losses[number][1:], losses[number][0], number))


def _losses(directions: Sequence[StudyDirection], values: Sequence[float]) -> list[float]:
    """Return a trial's values, of which smaller ones are better."""
    pairs = zip(directions, values, strict=True)
    return [value if direction == StudyDirection.MINIMIZE else -value for direction, value in pairs]


def _settings_key(trial: FrozenTrial) -> str:
    sampled = trial.user_attrs.get("settings")
    return f"trial {trial.number}" if sampled is None else settings_key(sampled)


def _dominates(losses: Sequence[float], others: Sequence[float]) -> bool:
    pairs = list(zip(losses, others, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def defaults_trial(study: optuna.Study, pruned: bool = False, model: str | None = None) -> FrozenTrial | None:
    """Return the complete trial of the defaults, if there is one.

    Args:
        study: the study.
        pruned: also accept a pruned trial: its settings can be tested as well.
        model: of which model, in a search over several; None for any.
    """
    states = (TrialState.COMPLETE, TrialState.PRUNED) if pruned else (TrialState.COMPLETE,)
    return next(
        (
            trial
            for trial in counted_trials(study)
            if trial.user_attrs.get("origin") == "defaults"
            and trial.state in states
            and model in (None, trial.user_attrs.get("model", model))
        ),
        None,
    )


def reference_trial(study: optuna.Study, settings: SearchSettings) -> FrozenTrial | None:
    """Return the defaults of the model whose defaults were best on validation; of one model, its defaults.

    Defaults that ended at a rung below all rows are not compared with those that saw them all.

    Args:
        study: the study.
        settings: the search.
    """
    values = {
        trial.number: found
        for trial in counted_trials(study)
        if trial.user_attrs.get("origin") == "defaults"
        and (found := values_of(trial)) is not None
        and (trial.state == TrialState.COMPLETE or trial.user_attrs.get(SO_FAR) is not None)
    }
    if not values:
        return defaults_trial(study, pruned=True)
    first = {number: found[:1] for number, found in values.items()}
    return study.get_trials(deepcopy=False)[choose(study.directions[:1], first, settings.tolerance)]


def contenders(study: optuna.Study, settings: SearchSettings) -> list[FrozenTrial]:
    """Return the trials of which fresh seeds choose the winner, `settings.confirm` of them at most.

    The best one comes first, then the reference: a lucky trial must not win over defaults that are as good. The others
    are the best of other models, as the next best of the same one are mostly its neighbours, and then of all.

    Args:
        study: the study.
        settings: the search.
    """
    ranked = ranking(study, settings.tolerance, max(settings.confirm, _RANKED))
    reference = reference_trial(study, settings)
    chosen = ranked[:1]
    if reference is not None and chosen and _settings_key(reference) != _settings_key(chosen[0]):
        chosen.append(reference)
    left = [trial for trial in ranked if all(_settings_key(trial) != _settings_key(one) for one in chosen)]
    seen = {trial.user_attrs.get("model") for trial in chosen[:1]}
    others = {trial.user_attrs.get("model"): trial for trial in reversed(left)}
    first = sorted((trial for model, trial in others.items() if model not in seen), key=left.index)
    return [*chosen, *first, *(trial for trial in left if trial not in first)][: settings.confirm]


def beside_trials(study: optuna.Study, settings: SearchSettings, winner: FrozenTrial) -> list[FrozenTrial]:
    """Return the trials whose configurations are tested beside the winner's: its model's defaults, and the reference.

    Args:
        study: the study.
        settings: the search.
        winner: the winner.
    """
    own = defaults_trial(study, True, winner.user_attrs.get("model", settings.model))
    found = {trial.number: trial for trial in (own, reference_trial(study, settings)) if trial is not None}
    return [trial for number, trial in found.items() if number != winner.number]


@dataclass(frozen=True)
class FinalTest:
    """The final test of one trial's configuration.

    Attributes:
        trial: number of the trial.
        results: result.json of each seed that ended well.
        failed: the reason of each seed that failed.
    """

    trial: int
    results: Sequence[Mapping[str, Any]] = ()
    failed: Mapping[int, str] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        """Return the seeds that ended well."""
        return [int(result["seed"]) for result in self.results]


def best_settings(settings: SearchSettings, trial: FrozenTrial) -> dict[str, Any]:
    """Return all configuration keys of a trial, as `run` takes them, its searched keys first."""
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
"""Content of a search's summary.json that is read back."""


def write_best(settings: SearchSettings, study: optuna.Study, trial: FrozenTrial, confirmed: str | None = None) -> Path:
    """Write best.yaml, which `run_recbole --config_files` runs to the trial's validation value.

    Args:
        settings: the search.
        study: its study.
        trial: the best trial.
        confirmed: a sentence on how fresh seeds confirmed it; None before that.

    Returns:
        The path of the file.
    """
    pairs = zip(settings.objectives, values_of(trial) or [], strict=True)
    values = ", ".join(f"{name} {value:.6g}" for name, value in pairs)
    sampled = trial.user_attrs["settings"]
    rest = best_settings(settings, trial)
    first = {key: rest.pop(key) for key in ["model", "dataset", *sampled] if key in rest}
    if is_unfinished(trial):
        reason = trial.user_attrs.get("reason", "it is under way")
        promise = f"# trains it to its end, to this value or a better one, and tests it: {reason}."
    else:
        same = "the same value" if settings.trial_seeds == 1 else "the value of its first seed"
        promise = f"# trains it again, to {same} on the same machine and versions, and tests it."
    tasks = tasks_of(settings, sampled)
    each = [
        f"# {first['model']} learns one task at a time: this file is of '{tasks[0]}'. For the others:",
        *(f"#   run_recbole --config_files best.yaml --main_task={task}" for task in tasks[1:]),
        "# The value is of all of them together.",
    ]
    lines = [
        f"# Trial {trial.number} of the study '{settings.study}': {values} on the validation split.",
        *([f"# {confirmed}"] if confirmed is not None else []),
        "#   run_recbole --config_files best.yaml",
        promise,
        *(each if len(tasks) > 1 else []),
        *_yaml({"written_by": f"recbole-msr {__version__}", **first}),
        "",
        "# All other settings, as they were.",
        *_yaml(rest),
        "",
    ]
    path = settings.folder / "best.yaml"
    write_atomically(path, lambda temporary: Path(temporary).write_text("\n".join(lines), encoding="utf-8"))
    return path


def _yaml(content: Mapping[str, Any]) -> list[str]:
    """Return one line for each key."""

    def line(value: Any) -> str:
        text = write_yaml_text(value, flow=True, width=10**6)
        return text.split(_DOCUMENT_END)[0].strip()

    return [f"{key}: {line(value)}" for key, value in content.items()]


def summarise(
    settings: SearchSettings,
    study: optuna.Study,
    best: FrozenTrial | None,
    confirmed: Mapping[str, Any],
    seconds: float,
    command: str,
) -> dict[str, Any]:
    """Return the content of summary.json.

    Args:
        settings: the search.
        study: its study.
        best: the trial that was chosen; None without one.
        confirmed: what `Confirmation.summary` returns: confirmation and final test; nothing without them.
        seconds: wall time of this command.
        command: the command that made the results.
    """
    trials = counted_trials(study)
    states = Counter(trial.state for trial in trials)
    defaults = defaults_trial(study, model=best.user_attrs.get("model") if best is not None else None)
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
        "fidelity": _fidelity(study),
        "best": _describe_best(best, settings) if best is not None else None,
        "defaults": {"number": defaults.number, "values": defaults.values} if defaults is not None else None,
        **{**NOT_CONFIRMED, **confirmed},
        "failures": _failures(trials),
        "seconds": round(seconds, 3),
        "trial_seconds": round(sum(trial.user_attrs.get("seconds", 0.0) for trial in trials), 3),
        "workers": settings.workers,
        "threads": settings.config["threads"],
        "versions": versions(),
        "command": command,
    }


NOT_CONFIRMED: Mapping[str, Any] = {
    **dict.fromkeys(("confirmation", "final", "final_defaults", "final_reference")),
    "final_failures": {},
}
"""What summary.json says of a search without a final test."""


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write summary.json into a search's folder."""
    text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(folder / "summary.json", lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))


def _describe_best(trial: FrozenTrial, settings: SearchSettings) -> dict[str, Any]:
    return {
        "number": trial.number,
        "values": values_of(trial),
        "cut_off": trial.user_attrs.get("reason", "it was under way")
        if is_cut_off(trial) or is_under_way(trial)
        else None,
        "params": trial.params,
        "settings": trial_settings(settings, trial.user_attrs["settings"]),
    }


def _fidelity(study: optuna.Study) -> dict[str, Any]:
    """Return the rungs below full training, why these, and how many trials came to each and went on."""
    ladder = Ladder.of_study(study)
    came = [entry for trial in counted_trials(study) for entry in trial.user_attrs.get("rungs", ())]
    counts = [[entry["passed"] for entry in came if entry["rung"] == step] for step in range(1, len(ladder) + 1)]
    return {
        "rungs": [
            {"share": rung.share, "epochs": rung.epochs, "trials": len(passed), "passed": sum(passed)}
            for rung, passed in zip(ladder.rungs, counts, strict=True)
        ],
        "precision": ladder.precision,
        "reason": ladder.reason,
    }


def _failures(trials: Sequence[FrozenTrial]) -> dict[str, int]:
    """Count the failed trials by reason."""
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    return dict(Counter(trial.user_attrs.get("reason", "no reason is known") for trial in failed))


def final_spreads(test: FinalTest) -> dict[str, Any] | None:
    """Return means and deviations over the seeds that ended well; None without any.

    Args:
        test: the final test of one trial.
    """
    if not test.results:
        return None
    splits = {split: _split_spreads([result[split] for result in test.results]) for split in ("valid", "test")}
    return {"trial": test.trial, "seeds": [result["seed"] for result in test.results], **splits}


def _split_spreads(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the spreads of one split's metrics over the seeds."""
    first = parts[0]
    return {
        "metrics": {name: spread([part["metrics"].get(name) for part in parts]) for name in first["metrics"]},
        "pooled": {task: _cell_spreads([part["pooled"][task] for part in parts]) for task in first["pooled"]},
        "cells": [
            {
                "scenario": scenario,
                "task": task,
                **_cell_spreads([part["cells"][scenario][task] for part in parts]),
            }
            for scenario, tasks in first["cells"].items()
            for task in tasks
        ],
    }


def _cell_spreads(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        metric: spread([cell.get(metric) for cell in cells])
        for metric in metrics_among(cells[0])
        if all(metric in cell for cell in cells)
    }
