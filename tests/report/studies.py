"""Studies for the tests of pages: quick objectives in place of trainings, with all that a trial keeps."""

import math

import numpy as np
import optuna
from optuna.trial import TrialState

from recbole_msr.evaluation.cells import evaluate_cells

SCENARIOS, TASKS = ["young", "mid & old", "[35,<50)"], ["click", "like"]


def evaluation(auc, seed=0):
    """Cells with about this AUC; the last has one class only."""
    draw = np.random.default_rng(seed)
    rows = 600
    labels = (draw.random((rows, 2)) < 0.4).astype(float)
    scenario = draw.integers(1, 4, rows)
    labels[scenario == 3, 1] = 0
    shift = (auc - 0.5) * 4
    predictions = 1 / (1 + np.exp(-(shift * (labels - 0.5) + draw.normal(size=labels.shape))))
    return evaluate_cells(predictions, labels, scenario, draw.integers(0, 40, rows), SCENARIOS, TASKS, "click")


def make_study(n_trials=24, n_objectives=1, seed=0, outcome=None):
    """A study whose trials have conditional layers, some pruned, some failed.

    `outcome(number)` may say "complete", "pruned" or "failed" of each.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = ["auc/macro", "parameters", "latency"][:n_objectives]
    directions = ["maximize", "minimize", "minimize"][:n_objectives]
    study = optuna.create_study(
        study_name="mine", directions=directions, sampler=optuna.samplers.RandomSampler(seed=seed)
    )
    study.set_user_attr("objectives", names)
    study.enqueue_trial(
        {"layers.depth": 2, "layers.1": 64, "layers.2": 32, "rate": 1e-3, "kind": "relu"},
        user_attrs={"origin": "defaults"},
    )

    def usual(number):
        return "pruned" if number % 5 == 3 else "failed" if number % 9 == 7 else "complete"

    for _ in range(n_trials):
        trial = study.ask()
        rate = trial.suggest_float("rate", 1e-4, 1e-1, log=True)
        widths = [trial.suggest_int(f"layers.{i + 1}", 8, 128) for i in range(trial.suggest_int("layers.depth", 1, 3))]
        kind = trial.suggest_categorical("kind", ["relu", "tanh", "[8, <b>]"])
        trial.suggest_float("dropout", 0.2, 0.2)
        size = 1000 * sum(widths)
        top = 0.78 - 0.02 * abs(math.log10(rate) + 2.4) - 0.004 * abs(len(widths) - 2) - 0.003 * (kind == "tanh")
        end = (outcome or usual)(trial.number)
        epochs = 2 if end == "pruned" else 1 if end == "failed" else 6
        history = []
        for epoch in range(1, epochs + 1):
            value = top - 0.08 * math.exp(-epoch / 1.7) - 0.004 * max(0, epoch - 4)
            history.append({"epoch": epoch, "train_loss": 1 / epoch, "seconds": 0.5, "valid/auc/macro": value})
            if n_objectives == 1:
                trial.report(value, epoch)
        values = [max(row["valid/auc/macro"] for row in history), float(size), size / 50000][:n_objectives]
        attributes = {
            "seconds": 0.5 * epochs + 0.25, "setup_seconds": 0.25, "epochs": epochs, "best_epoch": min(epochs, 4),
            "history": history, "parameters": size, "worker": f"host-{trial.number % 2}",
            "settings": {"layer_sizes": widths, "learning_rate": rate, "kind": kind},
        }  # fmt: skip
        if end == "complete":
            attributes["valid"] = evaluation(values[0], seed=1).to_dict()
        else:
            attributes["reason"] = {"pruned": "pruned after epoch 2", "failed": "out of memory: <script>alert(1)"}[end]
        for key, value in attributes.items():
            trial.set_user_attr(key, value)
        if end == "complete":
            study.tell(trial, values)
        else:
            study.tell(trial, state=TrialState.PRUNED if end == "pruned" else TrialState.FAIL)
    return study


def make_summary(study, final=True):
    """What a search writes into summary.json."""
    names = study.user_attrs["objectives"]
    trials = study.trials
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = max(done, key=lambda trial: trial.values[0], default=None)
    defaults = next((trial for trial in done if trial.user_attrs.get("origin") == "defaults"), None)

    def spread(mean, deviation=0.0012):
        return {"mean": mean, "deviation": deviation, "values": [mean - deviation, mean, mean + deviation]}

    cells = [
        {"scenario": s, "task": t, "auc": None if (s, t) == (SCENARIOS[2], "like") else spread(0.71 + i / 100)}
        for i, (s, t) in enumerate((s, t) for s in SCENARIOS for t in TASKS)
    ]
    tested = {"metrics": {"auc": spread(0.7712), "logloss": spread(0.5432)}, "cells": cells}
    reasons = [trial.user_attrs["reason"] for trial in trials if trial.state == TrialState.FAIL]
    return {
        "study": "mine",
        "model": "HiNet",
        "dataset": "ml-100k",
        "objectives": [
            {"name": name, "direction": direction.name.lower()}
            for name, direction in zip(names, study.directions, strict=True)
        ],
        "valid_metric": "auc/macro",
        "seed": 2020,
        "data_seed": 7,
        "trials": {
            "complete": len(done),
            "pruned": sum(trial.state == TrialState.PRUNED for trial in trials),
            "failed": len(reasons),
        },
        "best": best
        and {
            "number": best.number,
            "values": best.values,
            "params": best.params,
            "settings": best.user_attrs["settings"],
        },
        "defaults": defaults and {"number": defaults.number, "values": defaults.values},
        "final": {"seeds": [2020, 2021, 2022], "test": tested, "valid": tested} if final and best else None,
        "seconds": 3723.4,
        "workers": 2,
        "versions": {"recbole-msr": "0.1.0", "torch": "2.13.0"},
        "command": "recbole-msr search --model=HiNet --dataset=ml-100k --trials=24 & <echo>",
        "failures": {reason: reasons.count(reason) for reason in set(reasons)},
    }
