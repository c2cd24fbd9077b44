"""The ensemble of a search, for its page and the terminal: members, values beside the single model's, gain and cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from recbole_msr.report.html.page import note, table
from recbole_msr.report.tuning.confirmation import gain_parts

_SPLITS = {"valid": "validation", "test": "test"}
_OTHERS = {"winner": "the winner", "reference": "the best defaults of all models"}
_COSTS = {"parameters": "parameters", "latency": "ms for 4096 rows"}


def ensemble_rows(ensemble: Mapping[str, Any]) -> list[list[str]]:
    """Return a line for each value and cost: what, the ensemble's, the single model's, and gain or ratio.

    Args:
        ensemble: the part `ensemble` of a search's summary.json.
    """
    rows = []
    for split, name in _SPLITS.items():
        values = ensemble.get(split)
        if values:
            cells = [_number(values["value"]), _number(values["single"]), _number(values["gain"], "+.4f")]
            rows.append([f"{ensemble['metric']}, {name}", *cells])
    for cost, name in _COSTS.items():
        own, single = ensemble["cost"][cost]["ensemble"], ensemble["cost"][cost]["single"]
        shown = [f"{value:,.0f}" if cost == "parameters" else f"{value:.1f}" for value in (own, single)]
        rows.append([name, *shown, f"x {own / single:.1f}" if single else ""])
    return rows


def ensemble_members(ensemble: Mapping[str, Any]) -> str:
    """Return the members with their weights in a line: "trial 7 (HiNet) x 2, trial 3 (PLE)"."""
    return ", ".join(
        f"trial {member['trial']} ({member['model']}{_seed(member)})"
        + (f" x {member['weight']}" if member["weight"] > 1 else "")
        for member in ensemble["members"]
    )


def ensemble_fact(ensemble: Mapping[str, Any]) -> str:
    """Return the ensemble's values in a line, beside the single model's.

    Args:
        ensemble: the part `ensemble` of a search's summary.json.
    """
    values = [
        f"{_number(ensemble[split]['value'])} on the {name} split ({_number(ensemble[split]['gain'], '+.4f')} over "
        f"trial {ensemble['single']} alone)"
        for split, name in _SPLITS.items()
        if ensemble.get(split)
    ]
    members = len(ensemble["members"])
    return f"{members} model{'s' if members > 1 else ''}: {ensemble['metric']} {', '.join(values)}"


def ensemble_section(ensemble: Mapping[str, Any]) -> list[str | Markup]:
    """Return the content of the page's section.

    Args:
        ensemble: the part `ensemble` of a search's summary.json.
    """
    single, metric = ensemble["single"], ensemble["metric"]
    parts: list[str | Markup] = [
        f"The predictions of {len(ensemble['members'])} of {len(ensemble['candidates'])} models are averaged, "
        "weighted by how often the greedy selection picked them on the validation split: the best trials', the best of "
        "every other model, and those that were trained again with fresh seeds. Beside them the "
        f"model of trial {single} alone. What was chosen by the validation rows is on the high side there; the test "
        "split played no part in it."
    ]
    if len(ensemble["members"]) == 1:
        parts.append(note("One model is the whole ensemble: no mean with another was better on the validation split."))
    parts.append(table(["", "ensemble", f"trial {single}", "gain, ratio"], ensemble_rows(ensemble)))
    rows = [
        [one["trial"], one.get("seed"), one["model"], one["weight"], _number(one["value"])]
        for one in ensemble["members"]
    ]
    header = ["Trial", "Fresh seed", "Model", "Weight", f"{metric}, validation"]
    parts.append(table(header, rows, caption="Members"))
    return [*parts, *gain_parts("ensemble", ensemble.get("gain") or {}, _OTHERS)]


def _seed(member: Mapping[str, Any]) -> str:
    return f", seed {member['seed']}" if member.get("seed") is not None else ""


def _number(value: float | None, form: str = ".4f") -> str:
    return "undefined" if value is None else format(value, form)
