"""The part of a search's page on its confirmation: what fresh seeds made of the best trials, and what was gained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from recbole_msr.report.figures import LEGEND_ON_TOP, MARGIN, figure, hover
from recbole_msr.report.html.colours import COLOURS
from recbole_msr.report.html.page import Number, note, table

_DIGITS = 4
_OTHERS = {"defaults": "its model's defaults", "reference": "the best defaults of all models"}


def confirmation_parts(summary: Mapping[str, Any]) -> list[str | Markup]:
    """Return the section's parts.

    Args:
        summary: the content of summary.json.
    """
    confirmation = summary.get("confirmation")
    if not confirmation:
        return [note("No trial was trained again with fresh seeds.")]
    parts: list[str | Markup] = []
    if confirmation.get("left_out"):
        parts.append(note(_sentence(confirmation["left_out"])))
    if confirmation.get("tested_before"):
        numbers = ", ".join(map(str, confirmation["tested_before"]))
        parts.append(note(f"The test rows have been read before, by trial {numbers}."))
    candidates = [one for one in confirmation.get("candidates") or [] if one.get("confirmed")]
    if candidates:
        parts += _candidates(confirmation, candidates)
    parts += _gains(confirmation)
    return parts


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _candidates(confirmation: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]]) -> list[str | Markup]:
    metric, seeds = str(confirmation["metric"]), ", ".join(map(str, confirmation["seeds"]))
    header = ["Trial", "model", "told", "confirmed", "deviation", "told too good by", ""]
    rows = [
        [
            *(one["trial"], one["model"], one["told"], one["confirmed"]["mean"], one["confirmed"]["deviation"]),
            *(_signed(one["optimism"]), "winner" if one["trial"] == confirmation["winner"] else ""),
        ]
        for one in candidates
    ]
    explanation = (
        f"The best trials by their own {metric} on the validation split and the best defaults, trained again with "
        f"fresh seeds ({seeds}): what a trial told of itself is the best of many, so too good. The best with fresh "
        "seeds wins; only then the test split was read."
    )
    return [explanation, _told_and_confirmed(metric, candidates), table(header, rows, caption="Told and confirmed")]


def _told_and_confirmed(metric: str, candidates: Sequence[Mapping[str, Any]]) -> Markup:
    from plotly import graph_objects as go

    names = [f"trial {one['trial']}, {hover(one['model'])}" for one in candidates]
    drawn = go.Figure()
    drawn.add_scatter(
        **{"x": [one["told"] for one in candidates], "y": names, "mode": "markers", "name": "told"},
        marker={"color": COLOURS["running"], "symbol": "x", "size": 10},
    )
    pairs = [(value, name) for one, name in zip(candidates, names, strict=True) for value in one["confirmed"]["values"]]
    drawn.add_scatter(
        **{"x": [value for value, _ in pairs], "y": [name for _, name in pairs], "mode": "markers"},
        **{"name": "a fresh seed", "marker": {"color": COLOURS["complete"], "size": 8, "opacity": 0.7}},
    )
    drawn.add_scatter(
        **{"x": [one["confirmed"]["mean"] for one in candidates], "y": names, "mode": "markers", "name": "their mean"},
        marker={"color": COLOURS["best"], "symbol": "diamond", "size": 12},
    )
    drawn.update_layout(legend=LEGEND_ON_TOP, margin=MARGIN, showlegend=True)
    drawn.update_xaxes(title=f"{metric} on the validation split")
    drawn.update_yaxes(autorange="reversed")
    return figure(drawn, "told and confirmed values", 120 + 40 * len(candidates))


def _gains(confirmation: Mapping[str, Any]) -> list[str | Markup]:
    """Return the tests of the winner against its model's defaults and against the best defaults of all models."""
    return gain_parts("winner", confirmation.get("gain") or {}, _OTHERS)


def gain_parts(of: str, gains: Mapping[str, Any], others: Mapping[str, str]) -> list[str | Markup]:
    """Return sentences and a table of tested gains.

    Args:
        of: what has them: "winner" or "ensemble".
        gains: what `tuning.gain.gains` or `ensemble_gains` returned.
        others: what each key of these stands for; of the same trial the first one is shown.
    """
    rows: list[list[Any]] = []
    sentences: list[str | Markup] = []
    shown: list[int] = []
    for name, what in others.items():
        gain = gains.get(name)
        if gain is None or gain["trial"] in shown:
            continue
        shown.append(gain["trial"])
        if gain.get("reason"):
            sentences.append(f"The {of} less {what} (trial {gain['trial']}, {gain['model']}): {gain['reason']}.")
            continue
        rows += [
            [f"{what} ({gain['model']})", key, *_tested(difference)]
            for key, difference in gain["differences"].items()
            if key.count("/") == 1  # cells would make the table as long as the page
        ]
    if not rows:
        return sentences
    header = [f"The {of} less", "metric", "difference", "95 % interval", "p, adjusted", "verdict"]
    explanation = (
        "The gain on the test split, tested over its rows and the fresh seeds together, as a comparison tests its "
        f"entries; p is corrected by Holm for as many as the {of} is compared with. Single cells are in summary.json."
    )
    return [*sentences, explanation, table(header, rows, caption="Gain on the test split", sortable=True)]


def _tested(difference: Mapping[str, Any]) -> list[Any]:
    """Return a difference, its interval, its p and the verdict, as a table prints them."""
    low, high, p = difference["low"], difference["high"], difference["p_adjusted"]
    return [
        _signed(difference["mean"]),
        None if low is None or high is None else f"{low:+.{_DIGITS}f} to {high:+.{_DIGITS}f}",
        None if p is None else Number(p, "< 0.0001" if p < 1e-4 else f"{p:.4f}"),
        "better" if difference["better"] else "worse" if difference["worse"] else "no difference shown",
    ]


def _signed(value: float | None) -> Number | None:
    return None if value is None else Number(value, f"{value:+.{_DIGITS}f}")
