"""Figures of how a search went by time: quality against time, and the time by model."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from recbole_msr.report.figures import LEGEND_ON_TOP, MARGIN, figure, hover
from recbole_msr.report.html.colours import COLOURS, line_style
from recbole_msr.report.tuning.progress import FIRST, Group, Look, best_so_far

_SYMBOLS = dict(zip(FIRST, ("star", "diamond", "square", "circle"), strict=True))


def quality_by_time(found: Sequence[Look], metric: str, bigger: bool) -> Markup:
    """Draw every validation value against the time of the search, and the best on all rows so far.

    A colour a model; small and faint marks are of low rungs, trained on a share of the rows. The figure opens on the
    better three quarters of the values on all rows.

    Args:
        found: the looks, in the order of time; at least one.
        metric: name of the value.
        bigger: whether larger is better.
    """
    from plotly import graph_objects as go

    unit, name = _unit(found[-1].seconds)
    drawn = go.Figure()
    models = list(dict.fromkeys(look.model for look in found))
    for number, model in enumerate(models):
        for low in (True, False):
            marks = [look for look in found if look.model == model and (look.share < 1.0) == low]
            if not marks:
                continue
            drawn.add_scatter(
                **{"x": [look.seconds / unit for look in marks], "y": [look.value for look in marks]},
                **{"mode": "markers", "hoverinfo": "text", "text": [_words(look, metric) for look in marks]},
                name=f"{hover(model)}, share of the rows" if low else hover(model),
                legendgroup=model,
                marker={
                    "color": line_style(number)["color"],
                    "symbol": [_SYMBOLS[look.source] for look in marks],
                    "size": [4 + 4 * look.share for look in marks] if low else 8,
                    "opacity": 0.45 if low else 0.85,
                },
            )
    steps = best_so_far(found, bigger)
    if steps:
        ends = [*steps, (found[-1].seconds, steps[-1][1])]
        drawn.add_scatter(
            **{"x": [seconds / unit for seconds, _ in ends], "y": [value for _, value in ends], "mode": "lines"},
            **{"name": "best so far, all rows", "hoverinfo": "skip"},
            line={"color": COLOURS["best"], "shape": "hv", "width": 2.5},
        )
    drawn.update_layout(legend=LEGEND_ON_TOP, margin=MARGIN, hovermode="closest", showlegend=True)
    drawn.update_xaxes(title=f"{name} of search", rangemode="tozero", zeroline=False)
    drawn.update_yaxes(title=f"{metric} on the validation split", range=_shown_range(found, bigger))
    return figure(drawn, f"{metric} by time", 440)


def _shown_range(found: Sequence[Look], bigger: bool) -> list[float] | None:
    """Return the range of values that the figure opens with: the better three quarters of those on all rows.

    First epochs and low rungs would press all that matters into one line; a double click shows them.
    """
    values = sorted(look.value for look in found if look.share == 1.0)
    if len(values) < 4 or values[0] == values[-1]:
        return None
    quarter = len(values) // 4
    low, high = (values[quarter], values[-1]) if bigger else (values[0], values[-1 - quarter])
    margin = 0.06 * (high - low) or 0.001
    return [low - margin, high + margin]


def time_by_model(groups: Sequence[Group]) -> Markup:
    """Draw the time that each model got."""
    from plotly import graph_objects as go

    unit, name = _unit(max(group.seconds for group in groups))
    ordered = sorted(groups, key=lambda group: group.seconds)
    drawn = go.Figure()
    drawn.add_bar(
        **{"x": [group.seconds / unit for group in ordered], "y": [hover(group.name) for group in ordered]},
        **{"orientation": "h", "hoverinfo": "x+y", "marker": {"color": COLOURS["complete"]}},
        text=["" if group.best is None else f"best {group.best:.4f}" for group in ordered],
    )
    drawn.update_layout(margin=MARGIN, showlegend=False)
    drawn.update_xaxes(title=f"{name} of trials")
    return figure(drawn, "time by model", 90 + 26 * len(groups))


def _words(look: Look, metric: str) -> str:
    rows = "all rows" if look.share == 1.0 else f"{look.share:.0%} of the rows"
    return (
        f"trial {look.trial}, {hover(look.model)}<br>{hover(metric)}: {look.value:.4f}"
        f"<br>epoch {look.epoch} on {rows}<br>{look.source}"
    )


def _unit(seconds: float) -> tuple[float, str]:
    """Return the seconds and the name of a unit in which a time is easy to read."""
    return next(
        (size, name) for size, name in ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
        if seconds >= 2 * size or size == 1.0
    )  # fmt: skip
