"""Plotly figures on a page, in its colours, light or dark; all are drawn by one copy of plotly.js inside it."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from recbole_msr.report.html.colours import COLOURS, FIGURE_SCALE
from recbole_msr.report.html.templates import read_asset, render

LEGEND_ON_TOP = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
MARGIN = {"l": 20, "r": 20, "t": 30, "b": 20}


def figure(
    drawn: Any, name: str, height: int = 420, width: int | None = None, scale: Any = None, buttons: bool = True
) -> Markup:
    """Return a place on the page where a figure will be drawn; `figure_scripts` must stand further down.

    Args:
        drawn: a `plotly.graph_objects.Figure`; its own colours of paper, axes and text give way to the page's.
        name: what it shows, for those who cannot see it.
        height: in pixels.
        width: the least width in pixels; a narrower window scrolls it. None for none.
        scale: the colour scale of its markers; `FIGURE_SCALE` if not given.
        buttons: whether it has buttons to zoom, move and save; a small one has no room for them.
    """
    drawn.update_layout(
        template="none",
        title=None,
        autosize=True,
        width=None,
        height=height,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        colorway=[COLOURS[key] for key in ("complete", "pruned", "defaults", "best", "failed")],
        font={"size": 13},
    )
    drawn.update_xaxes(automargin=True)
    drawn.update_yaxes(automargin=True)
    for trace in drawn.data:
        marker = getattr(trace, "marker", None)
        if marker is not None and "colorscale" in marker and marker.colorscale is not None:
            marker.colorscale = FIGURE_SCALE if scale is None else scale
    # Inside a script element only "<" could end it.
    content = Markup(drawn.to_json().replace("<", "\\u003c"))
    style = f"height:{height}px" + (f";min-width:{width}px" if width else "")
    return render("figure", name=name, style=style, buttons=buttons, content=content)


def figure_scripts() -> Markup:
    """Return plotly.js (about 4.6 MiB) and the script that draws all figures above it."""
    from plotly.offline import get_plotlyjs

    scripts = Markup(get_plotlyjs()), Markup(f"\n{read_asset('figures.js')}")
    return Markup("<script>{}</script>\n<script>{}</script>").format(*scripts)


def short(value: Any) -> str:
    """Return a number in four digits or a little more, anything else as it is.

    >>> short(0.731249), short(12345), short(0.00013), short("relu")
    ('0.7312', '12,345', '0.00013', 'relu')
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def hover(words: Any) -> str:
    """Return text for a figure's hover label, where plotly reads a few HTML tags."""
    return " ".join(str(words).split()).replace("&", "&amp;").replace("<", "&lt;")
