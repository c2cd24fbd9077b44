"""A small comparison for the tests of its page: really trained and searched, its statistics filled in."""

import json
import random
import statistics

import recbole_msr
from recbole_msr import search
from recbole_msr.evaluation.cells import Evaluation
from recbole_msr.evaluation.metrics import METRICS, smaller_is_better
from recbole_msr.files.yaml import read_yaml

SCENARIOS, TASKS, SEEDS = ["young", "mid & old", "[35,<50)"], ["click", "like"], [2020, 2021]
SETTINGS = {
    "load_col": {
        "inter": ["user_id", "item_id", "rating", "timestamp"],
        "user": ["user_id", "age", "gender"],
        "item": ["item_id", "price"],
    },
    "scenario": {"field": "age", "bins": [28, 40], "names": SCENARIOS},
    "tasks": {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5}},
    "numerical_features": ["price"],
    "valid_metric": "auc/macro",
    "embedding_size": 4,
    "train_batch_size": 64,
    "epochs": 2,
    "data_seed": 2020,
    "use_gpu": False,
    "show_progress": False,
    "threads": 1,
    "state": "ERROR",
}
SMALL = {
    "HiNet": {
        "sub_experts": 3, "expert_hidden_sizes": [8], "task_expert_hidden_sizes": [8], "tower_hidden_sizes": [4],
        "scenario_embedding_size": 5,
    },
    "SharedBottom": {"bottom_hidden_sizes": [8], "tower_hidden_sizes": [4]},
    "LR": {},
}  # fmt: skip
SPACE = {
    "model": "SharedBottom",
    "search": {
        "learning_rate": {"type": "float", "low": 1e-3, "high": 1e-1, "log": True},
        "dropout": {"type": "float", "low": 0.0, "high": 0.4},
    },
}


def write_data(folder):
    """The dataset "tiny" in `folder`: 60 users, 30 items, 900 ratings."""
    draw, where = random.Random(5), folder / "tiny"
    where.mkdir(parents=True)
    users = [f"u{u}\t{draw.randint(16, 60)}\t{draw.choice('FM')}" for u in range(60)]
    items = [f"i{i}\t{draw.randint(1, 9) / 2}" for i in range(30)]
    pairs = draw.sample([(u, i) for u in range(60) for i in range(30)], 900)
    rows = [f"u{u}\ti{i}\t{draw.randint(2, 5)}\t{n}" for n, (u, i) in enumerate(pairs)]
    header = {
        "user": "user_id:token\tage:token\tgender:token",
        "item": "item_id:token\tprice:float",
        "inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float",
    }
    for name, lines in (("user", users), ("item", items), ("inter", rows)):
        text = "\n".join([header[name], *lines]) + "\n"
        (where / f"tiny.{name}").write_text(text, encoding="utf-8")


def compare(data, folder):
    """Train HiNet (the reference), SharedBottom with a search, and LR a task; the summary of all in `folder`."""
    entries = []
    for model in SMALL:
        tasks = TASKS if model == "LR" else [None]
        runs, searches = [], []
        for task in tasks:
            for seed in SEEDS:
                where = f"runs/{model}/{task or 'all'}/joint/seed-{seed}"
                given = SETTINGS | SMALL[model] | {"seed": seed, "data_path": str(data)}
                if task is not None:
                    given |= {"main_task": task, "tasks": {task: SETTINGS["tasks"][task]}}
                found = recbole_msr.run(model, "tiny", config=given | {"output_dir": str(folder / where)})
                runs.append(
                    {"task": task, "scenario": None, "seed": seed, "status": "complete", "reason": None,
                     "folder": where, "best_epoch": found.summary["best_epoch"], "epochs": 2}
                )  # fmt: skip
        if model == "SharedBottom":
            searches.append(_search(data, folder, "searches/SharedBottom/all"))
        entries.append(_entry(folder, model, runs, searches))
    for entry in entries[1:]:
        entry["differences"] = _differences(entry, entries[0])
    return make_summary(entries)


def make_summary(entries):
    """A summary of these entries; the first is the reference."""
    return {
        "dataset": "tiny", "command": "recbole-msr compare --models=HiNet,SharedBottom,LR --dataset=tiny",
        "valid_metric": "auc/macro", "reference": entries[0]["label"], "seeds": SEEDS, "data_seed": 2020, "trials": 3,
        "timeout": None, "epochs": 2, "single_scenario": False, "scenarios": SCENARIOS, "tasks": TASKS,
        "main_task": "click", "rows": {"train": 720, "valid": 90, "test": 90},
        "test_cells": {s: {t: {"rows": 30, "positives": 11} for t in TASKS} for s in SCENARIOS},
        "alpha": 0.05, "workers": 1, "threads": 1, "device": "cpu", "seconds": 12.5, "versions": {"python": "3"},
        "verdict": ["SharedBottom is better than HiNet.", "LR cannot be told from it."], "entries": entries,
    }  # fmt: skip


def failed(label, reason):
    """An entry of which no run came to its end."""
    run = {"task": None, "scenario": None, "seed": 2020, "status": "failed", "reason": reason,
           "folder": None, "best_epoch": None, "epochs": None}  # fmt: skip
    costs = ("parameters", "flops", "latency_1", "latency", "train_seconds", "rows_per_second", "epochs",
             "search_seconds", "search_trials", "search_epochs")  # fmt: skip
    return {
        "label": label, "model": "SASRec", "settings": {}, "kind": "single-task", "status": "failed",
        "reasons": [reason], "seeds": [], "test": {}, "valid": {}, "worst_cell": None, "differences": None,
        "transfer": None, "cost": dict.fromkeys(costs), "runs": [run], "searches": [], "config": None,
    }  # fmt: skip


def difference(mean, half=0.01, p=None, smaller=False):
    """A difference that is significant if its interval leaves out 0 (or as p says)."""
    p = (0.001 if abs(mean) > half else 0.4) if p is None else p
    good = (mean < 0) == smaller
    return {
        "mean": mean, "low": mean - half, "high": mean + half, "row_error": half / 3, "seed_error": half / 4,
        "degrees": 12.0, "p_rows": p / 2, "p_seeds": p / 2, "p": p / 2, "p_adjusted": p, "significant": p < 0.05,
        "better": p < 0.05 and good, "worse": p < 0.05 and not good, "seeds": 2,
    }  # fmt: skip


def transfer(entry, harm):
    """An entry's negative transfer, if each scenario alone were better by `harm[scenario]`."""
    cells = {
        s: {
            t: {"joint": j, "alone": j + harm[s], "difference": difference(-harm[s])}
            for t in TASKS
            if (j := (entry["test"].get(f"auc/{s}/{t}") or {}).get("mean")) is not None
        }
        for s in SCENARIOS
    }
    return {"cells": cells, "macro": difference(-sum(harm.values()) / len(harm))}


def _search(data, folder, where):
    out = folder / where
    found = search(
        "SharedBottom", "tiny", 3, space=SPACE, config=SETTINGS | {"epochs": 1, "data_path": str(data)},
        output=str(out), final_seeds=0, wandb="disabled", progress=False,
    )  # fmt: skip
    assert found is not None
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    value = summary["best"]["values"][0]
    return {"task": None, "status": "complete", "reason": None, "folder": where, "value": value, "trials": 3}


def _entry(folder, model, runs, searches):
    tests, results = [], [json.loads((folder / run["folder"] / "result.json").read_text()) for run in runs]
    for seed in SEEDS:
        own = [Evaluation.from_dict(r["test"]) for r, run in zip(results, runs, strict=True) if run["seed"] == seed]
        cells = {s: {t: c for e in own for t, c in e.cells[s].items()} for s in SCENARIOS}
        tests.append(Evaluation("click", {t: c for e in own for t, c in e.pooled.items()}, cells))
    keys = [key for key in tests[0].flat() if "/" in key]
    spreads = {key: _spread([test.flat().get(key) for test in tests]) for key in keys}
    means = {(s, t): spreads[f"auc/{s}/{t}"]["mean"] for s in SCENARIOS for t in TASKS if f"auc/{s}/{t}" in spreads}
    scenario, task = min(means, key=means.get)
    n = len(TASKS) if model == "LR" else 1
    return {
        "label": model, "model": model, "settings": {}, "kind": "single-task" if model == "LR" else "multi-task",
        "status": "complete", "reasons": [], "seeds": SEEDS, "test": spreads, "valid": {},
        "worst_cell": {"scenario": scenario, "task": task}, "differences": None, "transfer": None,
        "cost": {
            "parameters": sum(r["parameters"] for r in results[:: len(SEEDS)]), "flops": 1000 * n, "latency_1": 0.2 * n,
            "latency": 3.0 * n, "train_seconds": _spread([1.5 * n, 1.7 * n]), "rows_per_second": _spread([9e3, 8e3]),
            "epochs": _spread([2.0 * n, 2.0 * n]), "search_seconds": 6.0 if searches else None,
            "search_trials": 3 if searches else None, "search_epochs": 3 if searches else None,
        },
        "runs": runs, "searches": searches, "config": read_yaml(folder / runs[0]["folder"] / "config.yaml"),
    }  # fmt: skip


def _spread(values):
    known = [value for value in values if value is not None]
    return {
        "mean": statistics.mean(known) if known else None,
        "deviation": statistics.stdev(known) if len(known) > 1 else None,
        "values": values,
    }


def _differences(entry, reference):
    """The real differences of the means, with made up errors."""
    found = {}
    for key, spread in entry["test"].items():
        if METRICS[key.split("/")[0]].difference is None or key.endswith("/worst") or key not in reference["test"]:
            continue
        mean = spread["mean"] - reference["test"][key]["mean"]
        found[key] = difference(mean, smaller=smaller_is_better(key))
    return found
