"""What a comparison found, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from recbole_msr.report.comparison.tables import failure, mean, ranked, undefined

_KEY = "auc/macro"
_MOST = 8  # names in a sentence


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """Plain sentences: the reference against the others on macro AUC, then cells, transfer, cost, and what is missing.

    The first is about the reference and says so if it loses. "Better" and "worse" are said of significant differences
    alone. There is no test of two entries that are both not the reference, and so no sentence about them.

    Args:
        summary: the content of a comparison's summary.json; "verdict" is not read.
    """
    by_label = {entry["label"]: entry for entry in summary["entries"]}
    reference = by_label[summary["reference"]]
    others = [entry for entry in ranked(summary) if entry is not reference]
    said = _overall(summary, reference, others)
    if any(entry["differences"] for entry in others):
        said += _cells(summary, others)
    empty = undefined(summary)
    if empty:
        said.append(f"Without an AUC, and in no mean: {_listed(empty)}.")
    said += [sentence for entry in ranked(summary) for sentence in _transfer(entry)]
    said += _smallest(summary, reference, others)
    if len(summary["seeds"]) == 1:
        said.append(
            f"There is one seed ({summary['seeds'][0]}): the tests are over the rows of the test split alone, and "
            "nothing is known about other seeds."
        )
    return said + [failure(entry) for entry in summary["entries"] if entry["status"] != "complete"]


def _overall(
    summary: Mapping[str, Any], reference: Mapping[str, Any], others: Sequence[Mapping[str, Any]]
) -> list[str]:
    name = f"{reference['label']} (reference)"
    spread = reference["test"].get(_KEY)
    if spread is None or spread["mean"] is None:
        why = "failed" if reference["status"] == "failed" else "has no macro AUC"
        said = [f"{name} {why}: no difference to it could be tested, and the order of the others may be chance."]
        values = [f"{e['label']} {_value(e['test'][_KEY])}" for e in others if mean(e, _KEY) is not None]
        return said + ([f"Macro AUC on test, not tested: {', '.join(values)}."] if values else [])
    seeds = len(spread["values"])
    about = f", mean ± deviation over {seeds} seeds" if seeds > 1 else ""
    reaches = f"reaches a macro AUC of {_value(spread)} on test{about}."
    groups: dict[str, list[tuple[str, Mapping[str, Any]]]] = {"better": [], "worse": [], "same": []}
    untested = []
    for entry in others:
        difference = (entry["differences"] or {}).get(_KEY)
        if difference is not None:
            kind = "better" if difference["better"] else "worse" if difference["worse"] else "same"
            groups[kind].append((entry["label"], difference))
        elif entry["status"] != "failed":
            untested.append(entry["label"])
    if groups["better"]:
        losing = _listed([label for label, _ in groups["better"]])
        said = [f"{name} loses to {losing}: it {reaches}"]
    elif groups["worse"] and not groups["same"]:
        said = [f"{name} {reaches} It is significantly better than {_all(len(groups['worse']))}."]
    elif groups["worse"] or groups["same"]:
        said = [f"{name} {reaches} No other is significantly better."]
    else:
        said = [f"{name} {reaches} There is nothing to compare it with."]
    starts = {
        "better": f"Significantly better than {reference['label']}",
        "worse": f"Significantly worse than {reference['label']}",
        "same": f"No significant difference to {reference['label']}, which does not show that they are equal",
    }
    for kind, start in starts.items():
        if groups[kind]:
            said.append(f"{start}: {'; '.join(f'{label} ({_told(one, summary)})' for label, one in groups[kind])}.")
    if untested:
        said.append(f"Not compared, for want of a macro AUC of the same seeds: {_listed(untested)}.")
    return said


def _cells(summary: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where the reference loses, and where nobody differs from it."""
    label = summary["reference"]
    behind, level, tested = [], [], 0
    for scenario in summary["scenarios"]:
        for task in summary["tasks"]:
            key = f"auc/{scenario}/{task}"
            found = [(entry["label"], (entry["differences"] or {}).get(key)) for entry in others]
            there = [(other, one) for other, one in found if one is not None]
            tested += bool(there)
            ahead = [(other, one) for other, one in there if one["better"]]
            if ahead:
                best, one = max(ahead, key=lambda pair: pair[1]["mean"])
                behind.append(f"{scenario}/{task} ({best} {one['mean']:+.4f})")
            elif there and not any(one["significant"] for _, one in there):
                level.append(f"{scenario}/{task}")
    if tested < 2:  # a single cell is the macro mean
        return []
    said = []
    if behind:
        said.append(
            f"Cells where another is significantly better than {label}, with the best of them: {_listed(behind)}."
        )
    else:
        said.append(f"In no cell is another significantly better than {label}.")
    if len(level) == tested:
        said.append(f"In no cell does any other differ significantly from {label}.")
        return said[1:]
    return said + ([f"No other differs significantly from {label} in {_listed(level)}."] if level else [])


def _transfer(entry: Mapping[str, Any]) -> list[str]:
    if entry["transfer"] is None:
        return []
    found = {
        f"{scenario}/{task}": cell["difference"]
        for scenario, row in entry["transfer"]["cells"].items()
        for task, cell in row.items()
        if cell is not None
    }
    if not found:
        return []
    harmed = [f"{name} ({one['mean']:+.4f})" for name, one in found.items() if one["worse"]]
    helped = sum(bool(one["better"]) for one in found.values())
    label, share = entry["label"], f"{helped or 'none'} of {len(found)} cells"
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
    """The tests are against the reference, so it is what the smaller ones are measured by."""
    name, own = reference["label"], reference["cost"]["parameters"]
    tested = [
        (entry["cost"]["parameters"], entry["label"], entry["differences"][_KEY]["worse"])
        for entry in others
        if (entry["differences"] or {}).get(_KEY) is not None and entry["cost"]["parameters"] is not None
    ]
    if own is None or not tested:
        return []
    smaller = sorted(one for one in tested if one[0] < own)
    holding = [one for one in smaller if not one[2]]
    if holding:
        return [
            f"The smallest model that is not significantly worse than {name} is {holding[0][1]}, with "
            f"{holding[0][0]:,} parameters to {own:,}."
        ]
    if smaller:
        return [f"Every model smaller than {name} ({own:,} parameters) is significantly worse."]
    return [f"{name} is the smallest of those compared ({own:,} parameters)."]


def _value(spread: Mapping[str, Any]) -> str:
    return f"{spread['mean']:.4f}" + (f" ± {spread['deviation']:.4f}" if spread["deviation"] is not None else "")


def _told(difference: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    low, high, seeds = difference["low"], difference["high"], difference["seeds"]
    interval = "" if low is None or high is None else f", 95 % interval {low:+.4f} to {high:+.4f}"
    some = f", {seeds} of {len(summary['seeds'])} seeds" if seeds != len(summary["seeds"]) else ""
    return f"{difference['mean']:+.4f}{interval}, corrected {p_value(difference['p_adjusted'])}{some}"


def p_value(p: float | None) -> str:
    """
    >>> p_value(0.04961), p_value(0.00001)
    ('p = 0.0496', 'p < 0.0001')
    """
    return "p unknown" if p is None else "p < 0.0001" if p < 0.0001 else f"p = {p:.3g}"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    if len(names) > _MOST:
        return f"{', '.join(names[:_MOST])} and {len(names) - _MOST} more"
    return " and ".join(([", ".join(names[:-1])] if len(names) > 1 else []) + names[-1:])


def _all(count: int) -> str:
    return "the other" if count == 1 else f"all {count} others"
