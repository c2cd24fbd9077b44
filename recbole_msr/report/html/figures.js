const dark = matchMedia("(prefers-color-scheme: dark)");
const themed = layout => {
  const of = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const ink = of("--ink"), line = of("--line"), box = of("--box");
  const changes = {"font.color": ink, "hoverlabel.bgcolor": box, "hoverlabel.font.color": ink,
    "hoverlabel.bordercolor": line, "modebar.color": of("--faint"), "modebar.activecolor": ink,
    "modebar.bgcolor": "rgba(0,0,0,0)"};
  for (const key of Object.keys(layout).filter(key => /^[xy]axis\d*$/.test(key)))
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
