"""Summaries of comparisons for the tests of tables: real evaluations of random predictions, p values as given."""

import statistics

import numpy as np

from recbole_msr.evaluation.cells import evaluate_cells
from recbole_msr.evaluation.metrics import METRICS, smaller_is_better

SCENARIOS, TASKS = ["age<25", "mid_&_old", "[35,|50)"], ["click", "like"]
ROWS = 900
ALPHA = 0.05


def evaluation(skill, seed, scenarios=SCENARIOS, tasks=TASKS, split="test"):
    """The evaluation of predictions that know the labels the better the greater `skill` is.

    Labels and scenarios are those of the split, the noise is the seed's. With two tasks or more the last cell has one
    class only.
    """
    rows = np.random.default_rng(7 if split == "test" else 8)
    scenario = rows.integers(1, len(scenarios) + 1, ROWS)
    labels = (rows.random((ROWS, len(tasks))) < 0.4).astype(float)
    if len(tasks) > 1:
        labels[scenario == len(scenarios), -1] = 0
    noise = np.random.default_rng([seed, round(1000 * skill)]).normal(size=labels.shape)
    predictions = 1 / (1 + np.exp(-(skill * (labels - 0.5) + noise)))
    return evaluate_cells(predictions, labels, scenario, rows.integers(0, 40, ROWS), scenarios, tasks, tasks[0])


def spread(values):
    values = list(values)
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "deviation": deviation, "values": values}


def spreads(evaluations):
    flats = [one.flat() for one in evaluations]
    return {key: spread(flat[key] for flat in flats) for key in flats[0] if "/" in key}


def difference(key, values, against, p, adjusted):
    """Model minus reference with a given p; its error is the one that such a p has for a normal distribution."""
    mean = statistics.fmean(values) - statistics.fmean(against)
    error = abs(mean) / max(statistics.NormalDist().inv_cdf(1 - p / 2), 1e-3)
    significant = adjusted < ALPHA
    good = mean < 0 if smaller_is_better(key) else mean > 0
    many = len(values) > 1
    return {
        "mean": mean, "low": mean - 1.96 * error, "high": mean + 1.96 * error,
        "row_error": error, "seed_error": error / 2 if many else None, "degrees": 11.5 if many else None,
        "p_rows": p, "p_seeds": p if many else None, "p": p, "p_adjusted": adjusted,
        "significant": significant, "better": significant and good, "worse": significant and not good,
        "seeds": len(values),
    }  # fmt: skip


def holm(p):
    """Label: p, to label: p corrected."""
    found, highest = {}, 0.0
    for place, label in enumerate(sorted(p, key=p.get)):
        highest = found[label] = max(highest, min(1.0, (len(p) - place) * p[label]))
    return found


def entry(label, seeds, status="complete", **changes):
    """One without results."""
    costs = "parameters flops latency_1 latency train_seconds rows_per_second epochs"
    nothing = dict.fromkeys(f"{costs} search_seconds search_trials search_epochs".split())
    return {
        "label": label, "model": label.split()[0], "settings": {}, "kind": "multi-task", "status": status,
        "reasons": [], "seeds": list(seeds), "test": {}, "valid": {}, "worst_cell": None, "differences": None,
        "transfer": None, "cost": nothing, "runs": [], "searches": [], "config": None,
    } | changes  # fmt: skip


def failed(label, *reasons):
    return entry(label, [], "failed", reasons=list(reasons))


def make_summary(
    skills, p=None, seeds=(2020, 2021, 2022), scenarios=SCENARIOS, tasks=TASKS, single_scenario=False, others=()
):
    """A summary with an entry for each of `skills` (label: skill), the first the reference, then `others` as given.

    Args:
        p: label: the p of all its tests, before Holm's correction; 0.5 where not given. For the reference that of its
            transfer.
    """
    p = p or {}
    labels = list(skills)
    reference = labels[0]
    tests = {label: [evaluation(skills[label], seed, scenarios, tasks) for seed in seeds] for label in labels}
    adjusted = holm({label: p.get(label, 0.5) for label in labels[1:]})
    entries = []
    for place, label in enumerate(labels):
        test = spreads(tests[label])
        worst = min((key for key in test if key in {f"auc/{s}/{t}" for s in scenarios for t in tasks}),
                    key=lambda key: test[key]["mean"])  # fmt: skip
        scenario, task = worst.removeprefix("auc/").rsplit("/", 1)
        made = entry(label, seeds, test=test, worst_cell={"scenario": scenario, "task": task})
        made["valid"] = spreads([evaluation(skills[label], seed, scenarios, tasks, "valid") for seed in seeds])
        if label != reference:
            base = spreads(tests[reference])
            made["differences"] = {
                key: difference(key, test[key]["values"], base[key]["values"], p.get(label, 0.5), adjusted[label])
                for key in test
                if METRICS[key.split("/")[0]].difference is not None and not key.endswith("/worst")
            }
        if single_scenario:
            made["transfer"] = _transfer(label, skills[label], test, seeds, scenarios, tasks, p.get(label, 0.5))
        made["cost"] |= {
            "parameters": 1000 * 2 ** (len(labels) - place), "flops": 123456 + place, "latency_1": 0.5 + place,
            "latency": 12.25, "train_seconds": spread(10.0 + place + i for i in range(len(seeds))),
            "rows_per_second": spread(20000.0 - i for i in range(len(seeds))),
            "epochs": spread(float(3 + i) for i in range(len(seeds))),
            "search_seconds": 61.5, "search_trials": 4, "search_epochs": 9,
        }  # fmt: skip
        entries.append(made)
    first = tests[reference][0]
    return {
        "dataset": "ml_1m", "command": "recbole-msr compare --models=HiNet --scenario={age: [25]}",
        "valid_metric": "auc/macro", "reference": reference, "seeds": list(seeds), "data_seed": 2020, "trials": 4,
        "timeout": None, "epochs": 5, "single_scenario": single_scenario, "scenarios": list(scenarios),
        "tasks": list(tasks), "main_task": tasks[0], "rows": {"train": 7200, "valid": ROWS, "test": ROWS},
        "test_cells": {
            s: {t: {"rows": cell.rows, "positives": cell.positives} for t, cell in row.items()}
            for s, row in first.cells.items()
        },
        "alpha": ALPHA, "workers": 1, "threads": 1, "device": "cpu", "seconds": 99.5, "versions": {"torch": "2.13.0"},
        "entries": [*entries, *others],
    }  # fmt: skip


def _transfer(label, skill, test, seeds, scenarios, tasks, p):
    """Alone, each entry has half its skill in the first scenario and one and a half of it in the others."""
    cells, joint_macro, alone_macro = {}, [], []
    for number, scenario in enumerate(scenarios):
        alone = [evaluation(skill * (0.5 if number == 0 else 1.5), seed, scenarios, tasks).flat() for seed in seeds]
        cells[scenario] = {}
        for task in tasks:
            key = f"auc/{scenario}/{task}"
            if key not in test:
                cells[scenario][task] = None
                continue
            joint, by_itself = test[key]["values"], [flat[key] for flat in alone]
            joint_macro.append(joint)
            alone_macro.append(by_itself)
            cells[scenario][task] = {
                "joint": statistics.fmean(joint),
                "alone": statistics.fmean(by_itself),
                "difference": difference(key, joint, by_itself, p, p),
            }
    means = [[statistics.fmean(column) for column in zip(*rows, strict=True)] for rows in (joint_macro, alone_macro)]
    return {"cells": cells, "macro": difference("auc/macro", *means, p, p)}
