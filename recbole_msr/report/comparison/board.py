"""The leaderboard on the page of a comparison: it sorts, filters, and shows one metric or another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from recbole_msr.evaluation.metrics import METRICS, metric_heading, tested_and_not
from recbole_msr.report.figures import short

Entry = Mapping[str, Any]
"""One of `entries` in the summary of a comparison."""


def mean_of(spread: Mapping[str, Any] | None) -> float | None:
    """The mean of a spread of the summary, None where there is none."""
    value = None if spread is None else spread.get("mean")
    return float(value) if value is not None and math.isfinite(value) else None


def spread_words(spread: Mapping[str, Any] | None, digits: str = ".4f") -> str:
    """Mean and deviation: "0.7312 ± 0.0012"; only the mean of a single seed."""
    mean = mean_of(spread)
    if spread is None or mean is None:
        return "\N{EN DASH}"
    deviation = spread.get("deviation")
    return f"{mean:{digits}}" + ("" if deviation is None else f" ± {deviation:{digits}}")


def p_words(p: float | None) -> str:
    return "\N{EN DASH}" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def mark_of(difference: Mapping[str, Any] | None) -> str:
    """▲ or ▼ where a difference is significant, and in the good or the bad direction; else nothing."""
    if difference is None:
        return ""
    return "▲" if difference["better"] else "▼" if difference["worse"] else ""


def difference_words(difference: Mapping[str, Any], against: str) -> str:
    """A difference in one line: its size, its interval, its p, and what follows."""
    found = {"▲": "significantly better", "▼": "significantly worse", "": "not significant"}[mark_of(difference)]
    return (
        f"{difference['mean']:+.4f} against {against}, 95 % interval {difference['low']:+.4f} to "
        f"{difference['high']:+.4f}, p adjusted {p_words(difference['p_adjusted'])}: {found}"
    )


def mark(difference: Mapping[str, Any] | None, against: str) -> Markup:
    """The mark of a difference, with all there is to say in its title; an empty one where it is not significant."""
    if difference is None:
        return Markup("")
    sign, words = mark_of(difference), difference_words(difference, against)
    style = {"▲": "up", "▼": "down", "": "even"}[sign]
    label = Markup(' role="img" aria-label="{}"').format(words) if sign else ""
    return Markup('<span class="mark {}" title="{}"{}>{}</span>').format(style, words, label, sign)


class _Cell(NamedTuple):
    """What stands in a cell, and the number it is sorted by; None for one that is sorted by its words."""

    shown: str | Markup
    value: float | None = None


class _Column(NamedTuple):
    """A column: its title, what it is, and when it is shown ("quality auc", "cost", or always)."""

    title: str
    says: str
    of: str
    cells: list[_Cell]
    style: str = "number"


def leaderboard(summary: Mapping[str, Any]) -> Markup:
    """The leaderboard with its controls and its legend; the highest macro AUC first, failed entries last."""
    entries = sorted(summary["entries"], key=_rank)
    reference = str(summary["reference"])
    columns = [
        _Column("Model", "", "", [_label(entry, reference) for entry in entries], ""),
        *(column for metric in METRICS for column in _quality(summary, entries, metric)),
        *_transfer(summary, entries),
        *_costs(entries),
        _Column("Kind", "", "", [_Cell(str(entry["kind"])) for entry in entries], ""),
        _Column("Seeds", "with a result", "", [_Cell(str(len(e["seeds"])), float(len(e["seeds"]))) for e in entries]),
        _Column("Status", "", "", [_status(entry) for entry in entries], ""),
    ]
    used = [metric for metric in METRICS if any(f"{metric}/macro" in entry["test"] for entry in entries)] or ["auc"]
    sorted_by = next((n for n, column in enumerate(columns) if column.of == "quality auc"), None)
    rows = [
        (entry, [(column, column.cells[number]) for column in columns[1:]], columns[0].cells[number])
        for number, entry in enumerate(entries)
    ]
    return Markup(
        _template().render(
            columns=columns,
            rows=rows,
            sorted_by=sorted_by,
            metrics=[(metric, metric_heading(metric)) for metric in used],
            kinds=list(dict.fromkeys(str(entry["kind"]) for entry in summary["entries"])),
            statuses=list(dict.fromkeys(str(entry["status"]) for entry in summary["entries"])),
            reference=reference,
            alpha=summary["alpha"],
            several=len(summary["seeds"]) > 1,
            costs=any(column.of == "cost" for column in columns),
            tested=tested_and_not(),
            script=Markup(_SCRIPT),
        )
    )


def _rank(entry: Entry) -> float:
    value = mean_of(entry["test"].get("auc/macro"))
    return math.inf if value is None else -value


def _label(entry: Entry, reference: str) -> _Cell:
    label = Markup("{}").format(entry["label"])
    tags = ["reference"] if entry["label"] == reference else []
    tags += [str(entry["status"])] if entry["status"] != "complete" else []
    return _Cell(Markup(" ").join([label, *(Markup("<small>{}</small>").format(tag) for tag in tags)]))


def _status(entry: Entry) -> _Cell:
    reasons = [Markup("<br><small>{}</small>").format(reason) for reason in entry["reasons"]]
    return _Cell(Markup("{}{}").format(entry["status"], Markup("").join(reasons)))


def _quality(summary: Mapping[str, Any], entries: Sequence[Entry], metric: str) -> list[_Column]:
    """Columns of one metric: macro mean, worst cell, each task over all rows, each cell."""
    name, against = metric_heading(metric), str(summary["reference"])
    wanted = [
        ("macro", f"{metric}/macro", "mean over all scenarios and tasks"),
        ("worst", f"{metric}/worst", "worst of all scenarios and tasks"),
    ]
    wanted += [(task, f"{metric}/{task}", f"{task}, all rows together") for task in summary["tasks"]]
    wanted += [
        (f"{scenario} · {task}", f"{metric}/{scenario}/{task}", f"rows of scenario {scenario}, task {task}")
        for scenario in summary["scenarios"]
        for task in summary["tasks"]
    ]
    found = []
    for title, key, says in wanted:
        cells = []
        tested = any(key in (entry["differences"] or {}) for entry in entries)
        for entry in entries:
            spread, difference = entry["test"].get(key), (entry["differences"] or {}).get(key)
            # Where some have marks, the others keep the place of one.
            sign = mark(difference, against) if difference else Markup('<span class="mark"></span>' if tested else "")
            shown = Markup("{} {}").format(spread_words(spread), sign)
            if key == "auc/worst" and entry["worst_cell"] and mean_of(spread) is not None:
                place = f"{entry['worst_cell']['scenario']} · {entry['worst_cell']['task']}"
                shown += Markup("<br><small>{}</small>").format(place)
            cells.append(_Cell(shown, mean_of(spread)))
        if any(cell.value is not None for cell in cells) or key == "auc/macro":
            found.append(_Column(f"{name} {title}", f"{name}: {says}", f"quality {metric}", cells))
    return found


def _transfer(summary: Mapping[str, Any], entries: Sequence[Entry]) -> list[_Column]:
    cells = []
    for entry in entries:
        difference = (entry["transfer"] or {}).get("macro")
        if difference is None:
            cells.append(_Cell("\N{EN DASH}"))
        else:
            shown = Markup("{} {}").format(f"{difference['mean']:+.4f}", mark(difference, "each scenario alone"))
            cells.append(_Cell(shown, difference["mean"]))
    if all(cell.value is None for cell in cells):
        return []
    says = "macro AUC of all scenarios together less that of each scenario alone; below 0 is negative transfer"
    return [_Column("Transfer", says, "quality", cells)]


def _costs(entries: Sequence[Entry]) -> list[_Column]:
    def plain(key: str) -> list[_Cell]:
        values = [entry["cost"].get(key) for entry in entries]
        return [_Cell("\N{EN DASH}") if v is None else _Cell(short(v), float(v)) for v in values]

    def spread(key: str, digits: str) -> list[_Cell]:
        values = [entry["cost"].get(key) for entry in entries]
        return [_Cell(spread_words(v, digits), mean_of(v)) for v in values]

    found = [
        _Column("Parameters", "of a single-task model the sum over its tasks", "cost", plain("parameters")),
        _Column("FLOPs", "of the forward pass of one row", "cost", plain("flops")),
        _Column("ms, 1 row", "forward latency of one row", "cost", plain("latency_1")),
        _Column("ms, 4096 rows", "forward latency of 4096 rows", "cost", plain("latency")),
        _Column("Train s", "seconds of training", "cost", spread("train_seconds", ",.1f")),
        _Column("Rows/s", "training rows a second", "cost", spread("rows_per_second", ",.0f")),
        _Column("Epochs", "epochs trained", "cost", spread("epochs", ",.1f")),
        _Column("Search", "seconds, trials, epochs", "cost", [_search(entry["cost"]) for entry in entries]),
    ]  # fmt: skip
    return [column for column in found if any(cell.value is not None for cell in column.cells)]


def _search(cost: Mapping[str, Any]) -> _Cell:
    seconds = cost.get("search_seconds")
    if seconds is None:
        return _Cell("\N{EN DASH}")
    counts = [f"{cost[key]:,} {name}" for key, name in (("search_trials", "trials"), ("search_epochs", "epochs"))
              if cost.get(key) is not None]  # fmt: skip
    return _Cell(f"{seconds:,.0f} s" + (f" ({', '.join(counts)})" if counts else ""), float(seconds))


_TEMPLATE = """<div class="board">
<div class="controls">
<label>Model <input type="search" name="name" placeholder="part of a name" autocomplete="off"></label>
<label>Metric <select name="metric" autocomplete="off">{% for key, heading in metrics %}\
<option value="{{ key }}">{{ heading }}</option>{% endfor %}</select></label>
<label>Columns <select name="columns" autocomplete="off"><option value="all">all</option>\
<option value="quality">quality</option>{% if costs %}<option value="cost">cost</option>{% endif %}</select></label>
{% for what, values in (("kind", kinds), ("status", statuses)) %}\
{% if values|length > 1 %}<fieldset><legend>{{ what }}</legend>{% for value in values %}\
<label><input type="checkbox" name="{{ what }}" value="{{ value }}" autocomplete="off" checked> {{ value }}</label>
{% endfor %}</fieldset>
{% endif %}{% endfor %}<output aria-live="polite"></output>
</div>
<div class="scroll tall{{ '' if rows|length > 25 else ' whole' }}" tabindex="0" role="region" aria-label="Leaderboard">
<table class="plain sortable" aria-label="Leaderboard">
<thead><tr>{% for column in columns %}<th scope="col" class="{{ column.style }}" data-of="{{ column.of }}"\
{% if column.says %} title="{{ column.says }}"{% endif %}\
{% if loop.index0 == sorted_by %} aria-sort="descending"{% endif %}>\
<button type="button">{{ column.title }}</button></th>{% endfor %}</tr></thead>
<tbody>
{% for entry, cells, label in rows %}<tr data-name="{{ entry.label }}" data-kind="{{ entry.kind }}" \
data-status="{{ entry.status }}"><th scope="row">{{ label.shown }}</th>\
{% for column, cell in cells %}<td class="{{ column.style }}" data-of="{{ column.of }}"\
{% if cell.value is not none %} data-value="{{ cell.value }}"{% endif %}>{{ cell.shown }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table>
</div>
<p class="lead">A click on a column's name sorts by it. {% if several %}Mean ± standard deviation over the seeds. \
{% endif %}<span class="mark up">▲</span> significantly better and <span class="mark down">▼</span> significantly \
worse than {{ reference }} (p, adjusted for the number of models, below {{ alpha }}; the mark's title has the \
numbers); without a mark no difference was shown. {{ tested[0] }} are tested; of {{ tested[1] }} and of the worst cell \
only means are given. The order of the lines is no finding.</p>
<script>{{ script }}</script>
</div>"""

_SCRIPT = """
for (const board of document.querySelectorAll(".board")) {
  const table = board.querySelector("table"), said = board.querySelector("output");
  const value = name => board.querySelector(`[name=${name}]`).value;
  const update = () => {
    const [metric, columns] = [value("metric"), value("columns")];
    for (const cell of table.querySelectorAll("[data-of]")) {
      const [group, of] = cell.dataset.of.split(" ");
      cell.hidden = Boolean(group && columns !== "all" && group !== columns || of && of !== metric);
    }
    const words = value("name").toLowerCase().split(/\\s+/).filter(Boolean);
    const allowed = (row, name) => {
      const boxes = [...board.querySelectorAll(`input[name=${name}]`)];
      return !boxes.length || boxes.some(box => box.checked && box.value === row.dataset[name]);
    };
    const rows = [...table.tBodies[0].rows];
    for (const row of rows)
      row.hidden = !(words.every(word => row.dataset.name.toLowerCase().includes(word)) &&
        allowed(row, "kind") && allowed(row, "status"));
    said.textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length} models`;
  };
  for (const event of ["input", "change"]) board.addEventListener(event, update);
  update();
}
"""


@cache
def _template() -> Any:
    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return made.from_string(_TEMPLATE)
