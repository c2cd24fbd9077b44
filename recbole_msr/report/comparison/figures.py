"""The figures of a comparison: differences to the reference, quality against cost, curves, best so far of searches."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from recbole_msr.report.figures import LEGEND_ON_TOP, MARGIN, figure, hover, short
from recbole_msr.report.html.colours import COLOURS, line_style

BETTER, WORSE, EQUAL = "significantly better", "significantly worse", "not significant"
_OUTCOMES = {BETTER: COLOURS["complete"], WORSE: COLOURS["pruned"], EQUAL: COLOURS["running"]}
_NAME_WIDTH = 24
"""Letters of a model's name that stand on one line."""
_SHAPES = ("circle", "square", "diamond")


@dataclass(frozen=True)
class Line:
    """One line of a figure.

    Attributes:
        label: whose it is; lines of one label have one colour and one place in the legend.
        number: the number of its colour.
        run: the run that it shows, for the hover label: "seed 2020".
        x, y: its points.
    """

    label: str
    number: int
    run: str
    x: Sequence[float]
    y: Sequence[float]


def forest(differences: Mapping[str, Mapping[str, Any]], heading: str, reference: str, smaller: bool) -> Markup:
    """Return differences to the reference with their intervals, the greatest at the top.

    Args:
        differences: by label, as in the summary; at least one.
        heading: what differs.
        reference: what it is compared with: the line at 0.
        smaller: whether smaller is better.
    """
    from plotly import graph_objects as go

    order = sorted(differences, key=lambda label: differences[label]["mean"], reverse=smaller)
    drawn = go.Figure()
    for outcome, colour in _OUTCOMES.items():
        labels = [label for label in order if _outcome(differences[label]) == outcome]
        if not labels:
            continue
        of_outcome = [differences[label] for label in labels]
        drawn.add_scatter(
            x=[difference["mean"] for difference in of_outcome],
            y=[order.index(label) for label in labels],
            **{"mode": "markers", "name": outcome, "showlegend": True, "hoverinfo": "text"},
            text=[
                f"{hover(label)}: {d['mean']:+.4f}<br>95 %: {d['low']:+.4f} to {d['high']:+.4f}<br>{outcome}"
                for label, d in zip(labels, of_outcome, strict=True)
            ],
            marker={"color": colour, "size": 10, "symbol": "circle-open" if outcome == EQUAL else "circle"},
            error_x={
                **{"type": "data", "symmetric": False, "color": colour, "thickness": 2, "width": 5},
                "array": [d["high"] - d["mean"] for d in of_outcome],
                "arrayminus": [d["mean"] - d["low"] for d in of_outcome],
            },
        )
    drawn.add_vline(x=0, line={"color": COLOURS["running"], "width": 1.5, "dash": "dash"})
    drawn.update_layout(legend=LEGEND_ON_TOP, margin=MARGIN, hovermode="closest")
    better = "left" if smaller else "right"
    drawn.update_xaxes(title=f"difference in {hover(heading)}<br>(better to the {better})", zeroline=False, nticks=6)
    ticks = [_tick(label) for label in order]
    drawn.update_yaxes(
        **{"tickmode": "array", "tickvals": list(range(len(order))), "ticktext": ticks},
        **{"range": [-0.6, len(order) - 0.4], "zeroline": False},
    )
    line = max(34, 18 * max(1 + tick.count("<br>") for tick in ticks))
    return figure(drawn, f"differences in {heading} to {reference}", 150 + line * len(order))


def _outcome(difference: Mapping[str, Any]) -> str:
    return BETTER if difference["better"] else WORSE if difference["worse"] else EQUAL


def _tick(label: str) -> str:
    """Break a long name into lines, so that a narrow window has room for the figure."""
    lines = [""]
    for part in re.findall(r"[^ =/]*[ =/]?", label):
        if lines[-1] and len(lines[-1] + part) > _NAME_WIDTH:
            lines.append("")
        lines[-1] += part
    return "<br>".join(hover(part) for line in lines for part in textwrap.wrap(line, _NAME_WIDTH)) or " "


@dataclass(frozen=True)
class Point:
    """A model of `cost_figure`.

    Attributes:
        label: its name.
        number: the number of its colour.
        kind: "multi-task" or "single-task".
        cost: its cost, smaller is better.
        quality: its quality, higher is better.
        deviation: the standard deviation of the quality, None for one seed.
    """

    label: str
    number: int
    kind: str
    cost: float
    quality: float
    deviation: float | None


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in quality or cost without losing in the other; the cheapest first."""

    def beaten(point: Point) -> bool:
        return any(
            other.cost <= point.cost
            and other.quality >= point.quality
            and (other.cost, other.quality) != (point.cost, point.quality)
            for other in points
        )

    return sorted((point for point in points if not beaten(point)), key=lambda point: point.cost)


def cost_figure(points: Sequence[Point], cost: str, quality: str) -> Markup:
    """Return quality by cost, with the front.

    Args:
        points: at least one.
        cost: title of the horizontal axis.
        quality: title of the vertical axis.
    """
    from plotly import graph_objects as go

    front = pareto_front(points)
    costs = [p.cost for p in points]
    log = min(costs) > 0 and max(costs) / min(costs) > 8
    middle = math.sqrt(min(costs) * max(costs)) if log else (min(costs) + max(costs)) / 2
    drawn = go.Figure()
    drawn.add_scatter(
        **{"x": [p.cost for p in front], "y": [p.quality for p in front], "mode": "lines", "hoverinfo": "skip"},
        **{"name": "Pareto front", "line": {"color": COLOURS["best"], "width": 1.5, "dash": "dash", "shape": "hv"}},
    )
    for point in points:
        is_front = point in front
        colour, shape = line_style(point.number)["color"], _SHAPES[point.number // 10 % len(_SHAPES)]
        drawn.add_scatter(
            # Only the front is named in the picture: many models cost almost the same, and their names would overlap.
            **{"x": [point.cost], "y": [point.quality], "mode": "markers+text" if is_front else "markers"},
            **{"name": hover(point.label), "showlegend": True, "hoverinfo": "text", "cliponaxis": False},
            **{"text": [_tick(point.label)], "textfont": {"size": 12}},
            textposition=f"middle {'left' if point.cost > middle else 'right'}",  # where there is room
            hovertext=[
                f"{hover(point.label)} ({point.kind}){', on the front' if is_front else ''}<br>"
                f"{hover(quality)}: {point.quality:.4f}<br>{hover(cost)}: {short(point.cost)}"
            ],
            marker={
                **{"color": colour, "size": 11, "symbol": shape if is_front else f"{shape}-open"},
                "line": {"width": 2, "color": colour},
            },
            error_y={"type": "data", "array": [point.deviation or 0.0], "color": colour, "thickness": 1.2},
        )
    drawn.update_layout(legend=LEGEND_ON_TOP, margin=MARGIN, hovermode="closest")
    # On a logarithmic axis only powers of ten are named, and a few between them.
    drawn.update_xaxes(title=hover(cost), type="log" if log else "linear", dtick=1 if log else None, nticks=6)
    drawn.update_xaxes(zeroline=False)
    drawn.update_yaxes(title=hover(quality), zeroline=False)
    return figure(drawn, f"{quality} against {cost}", _height(len(points)))


def curves(lines: Sequence[Line], x: str, y: str, steps: bool = False) -> Markup:
    """Return lines by epoch or by trial; the lines of a label are one trace.

    Args:
        lines: at least one.
        x: title of the horizontal axis.
        y: title of the vertical axis.
        steps: whether a value holds until the next.
    """
    from plotly import graph_objects as go

    drawn = go.Figure()
    for label in dict.fromkeys(line.label for line in lines):
        of_label = [line for line in lines if line.label == label]
        drawn.add_scatter(
            x=[place for line in of_label for place in (*line.x, None)],
            y=[value for line in of_label for value in (*line.y, None)],
            text=[words for line in of_label for words in _hover_labels(line, x)],
            **{"mode": "lines+markers", "hoverinfo": "text", "connectgaps": False, "name": hover(label)},
            **{"showlegend": True, "marker": {"size": 4}},
            line={**line_style(of_label[0].number), "width": 1.6, "shape": "hv" if steps else "linear"},
        )
    drawn.update_layout(legend=LEGEND_ON_TOP, margin=MARGIN, hovermode="closest")
    places = [place for line in lines for place in line.x]
    drawn.update_xaxes(title=x, dtick=1 if max(places) - min(places) <= 15 else None, zeroline=False)
    values = [value for line in lines for value in line.y]
    low, high = min(values), max(values)
    # Left alone, an axis of one value would reach from one below it to one above.
    drawn.update_yaxes(title=hover(y), range=[low - 0.05, high + 0.05] if low == high else None)
    return figure(drawn, f"{y} by {x}", _height(len(drawn.data)))


def _height(names: int) -> int:
    """Return the height of a figure with this many names in its legend: in a narrow window each has a line."""
    return 380 + 16 * names


def _hover_labels(line: Line, x: str) -> list[str]:
    run = f", {hover(line.run)}" if line.run else ""
    labels = [f"{hover(line.label)}{run}, {x} {at:g}: {value:.4f}" for at, value in zip(line.x, line.y, strict=True)]
    return [*labels, ""]
