"""Say in sentences what a comparison has shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from recbole_msr.evaluation.metrics import metric_heading
from recbole_msr.report.comparison.differences import p_clause
from recbole_msr.report.comparison.tables import failure, headline, mean, ranked, undefined, without

_MAX_NAMES = 8  # in a sentence


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """Return plain sentences: the reference against the others on macro AUC, cells, transfer, cost, what is missing.

    The first is about the reference and says so if it loses. "Better" and "worse" are said of significant differences
    alone. There is no test of two entries that are both not the reference, and so no sentence about them.

    Args:
        summary: the content of a comparison's summary.json; "verdict" is not read.
    """
    by_label = {entry["label"]: entry for entry in summary["entries"]}
    reference = by_label[summary["reference"]]
    others = [entry for entry in ranked(summary) if entry is not reference]
    sentences = _overall(summary, reference, others)
    if any(entry["differences"] for entry in others):
        sentences += _cells(summary, others)
    cells = undefined(summary)
    if cells:
        sentences.append(f"{without(summary)}, and in no mean: {_listed(cells)}.")
    sentences += [sentence for entry in ranked(summary) for sentence in _transfer(entry)]
    sentences += _smallest(summary, reference, others)
    if len(summary["seeds"]) == 1:
        sentences.append(
            f"There is one seed ({summary['seeds'][0]}): the tests are over the rows of the test split alone, and "
            "nothing is known about other seeds."
        )
    return sentences + [failure(entry) for entry in summary["entries"] if entry["status"] != "complete"]


def _overall(
    summary: Mapping[str, Any], reference: Mapping[str, Any], others: Sequence[Mapping[str, Any]]
) -> list[str]:
    name = f"{reference['label']} (reference)"
    key, metric = _key(summary), metric_heading(headline(summary))
    spread = reference["test"].get(key)
    if spread is None or spread["mean"] is None:
        why = "failed" if reference["status"] == "failed" else f"has no macro {metric}"
        sentences = [f"{name} {why}: no difference to it could be tested, and the order of the others may be chance."]
        values = [f"{e['label']} {_value(e['test'][key])}" for e in others if mean(e, key) is not None]
        return sentences + ([f"Macro {metric} on test, not tested: {', '.join(values)}."] if values else [])
    seeds = len(spread["values"])
    about = f", mean ± deviation over {seeds} seeds" if seeds > 1 else ""
    reaches = f"reaches a macro {metric} of {_value(spread)} on test{about}."
    groups: dict[str, list[tuple[str, Mapping[str, Any]]]] = {"better": [], "worse": [], "same": []}
    untested = []
    for entry in others:
        difference = (entry["differences"] or {}).get(key)
        if difference is not None:
            kind = "better" if difference["better"] else "worse" if difference["worse"] else "same"
            groups[kind].append((entry["label"], difference))
        elif entry["status"] != "failed":
            untested.append(entry["label"])
    if groups["better"]:
        losing = _listed([label for label, _ in groups["better"]])
        sentences = [f"{name} loses to {losing}: it {reaches}"]
    elif groups["worse"] and not groups["same"]:
        sentences = [f"{name} {reaches} It is significantly better than {_all(len(groups['worse']))}."]
    elif groups["worse"] or groups["same"]:
        sentences = [f"{name} {reaches} No other is significantly better."]
    else:
        sentences = [f"{name} {reaches} There is nothing to compare it with."]
    starts = {
        "better": f"Significantly better than {reference['label']}",
        "worse": f"Significantly worse than {reference['label']}",
        "same": f"No significant difference to {reference['label']}, which does not show that they are equal",
    }
    for kind, start in starts.items():
        if groups[kind]:
            described = [f"{label} ({_described(difference, summary)})" for label, difference in groups[kind]]
            sentences.append(f"{start}: {'; '.join(described)}.")
    if untested:
        sentences.append(f"Not compared, for want of a macro {metric} of the same seeds: {_listed(untested)}.")
    return sentences


def _cells(summary: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say in which cells the reference loses, and in which none differs from it."""
    label, metric = summary["reference"], headline(summary)
    behind, level, tested = [], [], 0
    for scenario in summary["scenarios"]:
        for task in summary["tasks"]:
            key = f"{metric}/{scenario}/{task}"
            pairs = [(entry["label"], (entry["differences"] or {}).get(key)) for entry in others]
            differences = [(other, difference) for other, difference in pairs if difference is not None]
            tested += bool(differences)
            ahead = [(other, difference) for other, difference in differences if difference["better"]]
            if ahead:
                best, difference = max(ahead, key=lambda pair: pair[1]["mean"])
                behind.append(f"{scenario}/{task} ({best} {difference['mean']:+.4f})")
            elif differences and not any(difference["significant"] for _, difference in differences):
                level.append(f"{scenario}/{task}")
    if tested < 2:  # a single cell is the macro mean
        return []
    sentences = []
    if behind:
        sentences.append(
            f"Cells where another is significantly better than {label}, with the best of them: {_listed(behind)}."
        )
    else:
        sentences.append(f"In no cell is another significantly better than {label}.")
    if len(level) == tested:
        sentences.append(f"In no cell does any other differ significantly from {label}.")
        return sentences[1:]
    return sentences + ([f"No other differs significantly from {label} in {_listed(level)}."] if level else [])


def _transfer(entry: Mapping[str, Any]) -> list[str]:
    if entry["transfer"] is None:
        return []
    differences = {
        f"{scenario}/{task}": cell["difference"]
        for scenario, row in entry["transfer"]["cells"].items()
        for task, cell in row.items()
        if cell is not None
    }
    if not differences:
        return []
    harmed = [f"{name} ({cell['mean']:+.4f})" for name, cell in differences.items() if cell["worse"]]
    helped = sum(bool(cell["better"]) for cell in differences.values())
    label, share = entry["label"], f"{helped or 'none'} of {len(differences)} cells"
    if harmed:
        return [
            f"Negative transfer: {label} trained on all scenarios is significantly worse than trained on one alone in "
            f"{_listed(harmed)}; significantly better in {share}."
        ]
    return [
        f"No significant negative transfer for {label}: trained on all scenarios it is significantly better than "
        f"alone in {share}, and worse in none."
    ]


def _smallest(
    summary: Mapping[str, Any], reference: Mapping[str, Any], others: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Name the smallest model that holds out; all tests are against the reference, so the others are measured by it."""
    key, name, parameters = _key(summary), reference["label"], reference["cost"]["parameters"]
    tested = [
        (entry["cost"]["parameters"], entry["label"], entry["differences"][key]["worse"])
        for entry in others
        if (entry["differences"] or {}).get(key) is not None and entry["cost"]["parameters"] is not None
    ]
    if parameters is None or not tested:
        return []
    smaller = sorted(size for size in tested if size[0] < parameters)
    holding = [size for size in smaller if not size[2]]
    if holding:
        return [
            f"The smallest model that is not significantly worse than {name} is {holding[0][1]}, with "
            f"{holding[0][0]:,} parameters to {parameters:,}."
        ]
    if smaller:
        return [f"Every model smaller than {name} ({parameters:,} parameters) is significantly worse."]
    return [f"{name} is the smallest of those compared ({parameters:,} parameters)."]


def _key(summary: Mapping[str, Any]) -> str:
    return f"{headline(summary)}/macro"


def _value(spread: Mapping[str, Any]) -> str:
    return f"{spread['mean']:.4f}" + (f" ± {spread['deviation']:.4f}" if spread["deviation"] is not None else "")


def _described(difference: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    low, high, seeds = difference["low"], difference["high"], difference["seeds"]
    interval = "" if low is None or high is None else f", 95 % interval {low:+.4f} to {high:+.4f}"
    some = f", {seeds} of {len(summary['seeds'])} seeds" if seeds != len(summary["seeds"]) else ""
    return f"{difference['mean']:+.4f}{interval}, corrected {p_clause(difference['p_adjusted'])}{some}"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    if len(names) > _MAX_NAMES:
        return f"{', '.join(names[:_MAX_NAMES])} and {len(names) - _MAX_NAMES} more"
    return " and ".join(([", ".join(names[:-1])] if len(names) > 1 else []) + names[-1:])


def _all(count: int) -> str:
    return "the other" if count == 1 else f"all {count} others"
