"""Plotly figures on a page, in its colours, light or dark; all are drawn by one copy of plotly.js inside it."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

BETTER, WORSE = "#3b82d6", "#c2571a"
"""The ends of the one colour scale; like all colours of lines and points, readable on white and on near black."""
SCALE: list[list[Any]] = [[0.0, WORSE], [0.5, "#8a8f98"], [1.0, BETTER]]
COLOURS = {
    "complete": BETTER,
    "pruned": WORSE,
    "failed": "#d64545",
    "running": "#8a8f98",
    "best": "#9b5de5",
    "defaults": "#1a9a6c",
}
_LINES = ("#3b82d6", "#c2571a", "#1a9a6c", "#9b5de5", "#d64545", "#8a8f98", "#a8790a", "#0e93a8", "#cf4a97", "#6f8f1f")


def line_style(number: int) -> dict[str, str]:
    """Colour and dashes of the line with this number (0, 1, ...): ten colours, then the same with other dashes."""
    dashes = ("solid", "dash", "dot", "dashdot")
    return {"color": _LINES[number % len(_LINES)], "dash": dashes[number // len(_LINES) % len(dashes)]}


def figure(
    drawn: Any, name: str, height: int = 420, width: int | None = None, scale: Any = None, buttons: bool = True
) -> Markup:
    """A place on the page where a figure will be drawn; `figure_scripts` must stand further down.

    Args:
        drawn: a `plotly.graph_objects.Figure`; its own colours of paper, axes and text give way to the page's.
        name: what it shows, for those who cannot see it.
        height: in pixels.
        width: the least width in pixels; a narrower window scrolls it. None for none.
        scale: the colour scale of its markers; `SCALE` if not given.
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
            marker.colorscale = SCALE if scale is None else scale
    # Inside a script element only "<" could end it.
    content = drawn.to_json().replace("<", "\\u003c")
    style = f"height:{height}px" + (f";min-width:{width}px" if width else "")
    return Markup(
        '<div class="scroll"><div class="figure" role="img" aria-label="{}" style="{}" data-buttons="{}">'
        '<script type="application/json">{}</script></div></div>'
    ).format(name, style, "yes" if buttons else "no", Markup(content))


def figure_scripts() -> Markup:
    """plotly.js (about 4.6 MiB) and what draws all figures above it."""
    from plotly.offline import get_plotlyjs

    return Markup("<script>{}</script>\n<script>{}</script>").format(Markup(get_plotlyjs()), Markup(_DRAW))


def short(value: Any) -> str:
    """A number in four digits or a little more: 0.7312, 12,345, 0.00013; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def hover(words: Any) -> str:
    """Text for a figure's hover label, where plotly reads a few HTML tags."""
    return " ".join(str(words).split()).replace("&", "&amp;").replace("<", "&lt;")


_DRAW = """
const dark = matchMedia("(prefers-color-scheme: dark)");
const themed = layout => {
  const of = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const ink = of("--ink"), line = of("--line"), box = of("--box");
  const changes = {"font.color": ink, "hoverlabel.bgcolor": box, "hoverlabel.font.color": ink,
    "hoverlabel.bordercolor": line, "modebar.color": of("--faint"), "modebar.activecolor": ink,
    "modebar.bgcolor": "rgba(0,0,0,0)"};
  for (const key of Object.keys(layout).filter(key => /^[xy]axis\\d*$/.test(key)))
    Object.assign(changes, {[key + ".gridcolor"]: line, [key + ".zerolinecolor"]: line, [key + ".linecolor"]: line});
  return changes;
};
const draw = place => {
  const {data, layout} = JSON.parse(place.querySelector("script").textContent);
  for (const key of ["xaxis", "yaxis"]) layout[key] ??= {};
  // The buttons are named one by one: among plotly's own is one that sends the figure to a server.
  const config = {displaylogo: false,
    modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]]};
  if (place.dataset.buttons === "no" || matchMedia("(max-width: 34rem)").matches) config.displayModeBar = false;
  Plotly.newPlot(place, data, layout, config)
    .then(() => Plotly.relayout(place, themed(layout)))
    .then(() => {
      place.dataset.drawn = "yes";
      dark.addEventListener("change", () => Plotly.relayout(place, themed(layout)));
    });
};
// A figure that is not shown has no size: it is drawn when it first gets one, and again when that has changed.
const sizes = new ResizeObserver(entries => {
  for (const {target, contentRect} of entries) {
    if (!contentRect.width) continue;
    if (!target.dataset.width) draw(target);
    else if (target.dataset.width !== String(contentRect.width)) Plotly.Plots.resize(target).catch(() => {});
    target.dataset.width = contentRect.width;
  }
});
for (const place of document.querySelectorAll(".figure")) sizes.observe(place);
"""
