"""The leaderboard on the page of a comparison: it sorts, filters, and shows one metric or another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from recbole_msr.evaluation.metrics import METRICS, metric_heading
from recbole_msr.report.comparison.tables import leaderboard, ranked
from recbole_msr.report.html.page import grid
from recbole_msr.report.html.templates import read_asset, render

_WINDOW = 25
"""Rows from which on the table scrolls inside the window, its headings staying in sight."""


def leaderboard_part(summary: Mapping[str, Any]) -> Markup:
    """Return the leaderboard with its controls and its legend; the page must allow `scripts`."""
    data, entries = leaderboard(summary), ranked(summary)
    known = [*METRICS, *summary.get("of_lists", ())]
    metrics = [
        metric for metric in known if any(key.split("/")[0] == metric for entry in entries for key in entry["test"])
    ]
    tested = {key.split("/")[0] for entry in entries for key in entry["differences"] or {}}
    untested = [*(metric_heading(metric) for metric in metrics if metric not in tested), "the worst cell"]
    return render(
        "leaderboard",
        grid=grid(
            data,
            data.title,
            sortable=True,
            whole=len(entries) <= _WINDOW,
            sorted_by=0,
            row_attributes=[
                {"data-name": entry["label"], "data-kind": entry["kind"], "data-status": entry["status"]}
                for entry in entries
            ],
        ),
        metrics=[(metric, metric_heading(metric)) for metric in metrics or list(METRICS)[:1]],
        kinds=list(dict.fromkeys(str(entry["kind"]) for entry in summary["entries"])),
        statuses=list(dict.fromkeys(str(entry["status"]) for entry in summary["entries"])),
        has_costs=any(column.category == "cost" for column in data.columns),
        many_seeds=len(summary["seeds"]) > 1,
        reference=summary["reference"],
        alpha=summary["alpha"],
        tested=_listed([metric_heading(metric) for metric in known if metric in tested]),
        untested=_listed(untested),
        script=Markup(f"\n{read_asset('leaderboard.js')}"),
    )  # fmt: skip


def _listed(words: list[str]) -> str:
    """Return words as a sentence has them: "A, B and C"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
