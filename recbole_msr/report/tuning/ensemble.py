"""The ensemble of a search, for its page and the terminal: members, values beside the single model's, gain and cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from recbole_msr.report.html.page import note, table

_SPLITS = {"valid": "validation", "test": "test"}
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
        f"trial {member['trial']} ({member['model']})" + (f" x {member['weight']}" if member["weight"] > 1 else "")
        for member in ensemble["members"]
    )


def ensemble_section(ensemble: Mapping[str, Any]) -> list[str | Markup]:
    """Return the content of the page's section.

    Args:
        ensemble: the part `ensemble` of a search's summary.json.
    """
    single, metric = ensemble["single"], ensemble["metric"]
    parts: list[str | Markup] = [
        f"The probabilities of {len(ensemble['members'])} of the {len(ensemble['candidates'])} best trials' models are "
        "averaged, weighted by how often the greedy selection picked them on the validation split. Beside them the "
        f"model of trial {single} alone. What was chosen by the validation rows is on the high side there; the test "
        "split played no part in it."
    ]
    if len(ensemble["members"]) == 1:
        parts.append(note("One model is the whole ensemble: no mean with another was better on the validation split."))
    parts.append(table(["", "ensemble", f"trial {single}", "gain, ratio"], ensemble_rows(ensemble)))
    rows = [[one["trial"], one["model"], one["weight"], _number(one["value"])] for one in ensemble["members"]]
    parts.append(table(["Trial", "Model", "Weight", f"{metric}, validation"], rows, caption="Members"))
    return parts


def _number(value: float | None, form: str = ".4f") -> str:
    return "undefined" if value is None else format(value, form)
