"""One HTML file for people to read: nothing is loaded from elsewhere, and all text that goes in is escaped.

>>> page = Page("Two scenarios")
>>> page.section("Attention", "Who takes from whom.", heat_map(["a", "b"], ["a", "b"], [[None, 1.0], [1.0, None]]))
>>> page.write("page.html")  # doctest: +SKIP

The parts (`heat_map`, `table`, `facts`, `note`, `text`, `choice`) return `Markup`; a plain string among them is a
paragraph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from recbole_msr.errors import InputError
from recbole_msr.files.atomic import write_atomically

_STEPS = 11
"""Colours in a scale; odd, so that a scale about zero has a middle."""

_NOTHING = "\N{EN DASH}"

_SCALES = {
    # name: the stops in light and in dark, each from the lowest value to the highest.
    "sequential": (("#f3f7fc", "#7fb1dc", "#0b3c78"), ("#18222d", "#2f6ca8", "#a9d3ff")),
    "diverging": (("#a63603", "#f7f6f5", "#0b4f8a"), ("#ffb380", "#232527", "#8cc4ff")),
}


class Number(NamedTuple):
    """A number in a table that is printed in a way of its own, and sorted by its value."""

    value: float
    shown: str


class Page:
    """A page of sections, with a list of them at the top.

    Args:
        title: the page's title and first heading.
        lead: a line below it.
        scripts: whether scripts inside the page may run, for parts that bring some; they too can load nothing.
    """

    def __init__(self, title: str, lead: str = "", scripts: bool = False) -> None:
        self.title, self.lead, self._scripts = title, lead, scripts
        self._sections: list[tuple[str, list[Markup]]] = []

    def section(self, title: str, *parts: str | Markup) -> None:
        """Add a section; a part that is no `Markup` is text, and becomes a paragraph."""
        self._sections.append((title, [part if isinstance(part, Markup) else _paragraph(part) for part in parts]))

    def render(self) -> str:
        html: str = _template("page").render(
            title=self.title,
            lead=self.lead,
            sections=self._sections,
            scripts=self._scripts,
            css=Markup(_css()),
            script=Markup(_SORT + _CHOOSE),
        )
        return html

    def write(self, path: str | Path) -> None:
        """Write the page as a whole or not at all.

        Raises:
            InputError: the file cannot be written.
        """

        # A lone surrogate in someone's data is no UTF-8, and no reason to have no page.
        content = self.render().encode("utf-8", "backslashreplace")
        try:
            write_atomically(path, lambda temporary: Path(temporary).write_bytes(content))
        except OSError as error:
            raise InputError(f"the page {path} cannot be written: {error.strerror or error}") from error


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    *,
    caption: str = "",
    corner: str = "",
    scale: str = "sequential",
    low: float | None = None,
    high: float | None = None,
    show: Callable[[float], str] = "{:.3f}".format,
    reverse: bool = False,
    marks: Sequence[Sequence[str]] | None = None,
) -> Markup:
    """A table of R x C numbers, each printed on its colour.

    Args:
        rows, columns: their names, R and C.
        values: R lists of C numbers; None or NaN for a cell without one.
        caption: what the numbers are.
        corner: what rows and columns are, for the empty corner: "scenario \\ from".
        scale: `sequential` from `low` to `high`; `diverging` is symmetric about 0.
        low, high: the ends of the scale; the least and greatest value if not given. What lies beyond has the end's
            colour.
        show: a number as it is printed.
        reverse: whether the colours run the other way: where smaller is better.
        marks: R lists of C words that stand behind the numbers.

    Raises:
        ValueError: the shapes do not fit, or there is no such scale.
    """
    if len(values) != len(rows) or any(len(line) != len(columns) for line in values):
        raise ValueError(f"values must be {len(rows)} x {len(columns)}, got {[len(line) for line in values]}")
    if scale not in _SCALES:
        raise ValueError(f"scale must be one of {', '.join(_SCALES)}, got {scale!r}")
    known = [value for line in values for value in line if value is not None and math.isfinite(value)]
    low = min(known, default=0.0) if low is None else low
    high = max(known, default=0.0) if high is None else high
    if scale == "diverging":
        high = max(abs(low), abs(high))
        low = -high
    ends = (low, high)

    def cell(value: float | None, mark: str) -> tuple[str, str]:
        if value is None or not math.isfinite(value):
            return "none", _NOTHING
        step = _step(value, *ends)
        style = f"{scale[0]}{_STEPS - 1 - step if reverse else step}"
        return style, f"{show(value)} {mark}" if mark else show(value)

    behind = marks or [[""] * len(columns)] * len(rows)
    lines = [
        (name, [cell(*pair) for pair in zip(line, words, strict=True)])
        for name, line, words in zip(rows, values, behind, strict=True)
    ]
    steps = range(_STEPS - 1, -1, -1) if reverse else range(_STEPS)
    legend = [f"{scale[0]}{step}" for step in steps] if known else []
    return Markup(
        _template("heat_map").render(
            caption=caption, corner=corner, columns=columns, lines=lines, legend=legend, low=show(low), high=show(high)
        )
    )


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], *, caption: str = "", sortable: bool = False) -> Markup:
    """A table. Numbers stand to the right; a float has four digits behind the point, None is a dash.

    Args:
        header: names of the columns.
        rows: lines of values; a cell may be `Markup`, or a `Number`.
        caption: what the table shows.
        sortable: whether a click on a column's name sorts by it, again the other way round; the page must allow
            `scripts`. What a line does not have stays last.
    """
    lines = [[(*_cell(value), _sorted_by(value) if sortable else None) for value in row] for row in rows]
    return Markup(_template("table").render(caption=caption, header=header, lines=lines, sortable=sortable))


def facts(values: Mapping[str, Any]) -> Markup:
    """Names and values, a line each."""
    return Markup(_template("facts").render(values={name: _cell(value)[1] for name, value in values.items()}))


def note(message: str) -> Markup:
    """A sentence that stands out: what is missing, and why."""
    return Markup('<p class="note">{}</p>').format(message)


def text(content: str, heading: str = "", opened: bool = True) -> Markup:
    """A text as it is, line breaks and all; with a heading it can be folded away."""
    if not heading:
        return Markup('<pre class="text">{}</pre>').format(content)
    return Markup('<details{}><summary>{}</summary><pre class="text">{}</pre></details>').format(
        Markup(" open") if opened else "", heading, content
    )


def choice(label: str, options: Mapping[str, str | Markup | Sequence[str | Markup]]) -> Markup:
    """Several contents of which the reader picks one to be shown; the first at first. The page must allow `scripts`.

    Args:
        label: what is chosen.
        options: contents by their names; as in `Page.section`, what is no `Markup` becomes a paragraph.
    """
    shown = []
    for content in options.values():
        parts = [content] if isinstance(content, str) else content
        shown.append([part if isinstance(part, Markup) else _paragraph(part) for part in parts])
    return Markup(_template("choice").render(label=label, names=list(options), contents=shown))


def _paragraph(content: str) -> Markup:
    return Markup("<p>{}</p>").format(content)


def _cell(value: Any) -> tuple[str, Any]:
    if isinstance(value, Number):
        return "number", value.shown
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "number", _NOTHING
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "", value
    return "number", f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def _sorted_by(value: Any) -> float | None:
    if isinstance(value, Number):
        value = value.value
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None


def _step(value: float, low: float, high: float) -> int:
    if high <= low:
        return _STEPS // 2
    share = (value - low) / (high - low)
    return round(min(max(share, 0.0), 1.0) * (_STEPS - 1))


# Colours.


def contrast(first: str, second: str) -> float:
    """The contrast of two colours "#rrggbb", 1 to 21, as WCAG 2 defines it; text is readable from 4.5."""
    lighter, darker = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    channels = [value / 255 for value in _channels(colour)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _channels(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def colours(scale: str, dark: bool) -> list[tuple[str, str]]:
    """Background and text of every step of a scale, from the lowest value to the highest."""
    stops = _SCALES[scale][dark]
    found = []
    for step in range(_STEPS):
        place = step / (_STEPS - 1) * (len(stops) - 1)
        left = min(int(place), len(stops) - 2)
        ends = zip(_channels(stops[left]), _channels(stops[left + 1]), strict=True)
        background = "#" + "".join(f"{round(a + (b - a) * (place - left)):02x}" for a, b in ends)
        # One of the two is always readable: their contrasts with any colour multiply to 21.
        found.append((background, max("#000000", "#ffffff", key=lambda ink: contrast(background, ink))))
    return found


def _css() -> str:
    def steps(dark: bool) -> str:
        return "".join(
            f".{scale[0]}{step}{{background:{background};color:{ink}}}"
            for scale in _SCALES
            for step, (background, ink) in enumerate(colours(scale, dark))
        )

    return f"{_STYLE}{steps(False)}@media(prefers-color-scheme:dark){{{_DARK}{steps(True)}}}"


_STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1c2024;--faint:#5b636b;--line:#d9dee3;--box:#f5f7f9;--warn:#fff6df;
--link:#0b57a8;--up:#0b4f8a;--down:#a63603}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem 1.25rem 4rem;max-width:68rem;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;overflow-wrap:break-word}
h1{font-size:1.6rem;line-height:1.25;margin:1rem 0 .25rem}
h2{font-size:1.2rem;margin:2.5rem 0 .5rem;padding-top:1rem;border-top:1px solid var(--line)}
a{color:var(--link)}
.lead,figcaption,.legend,dt{color:var(--faint)}
.lead{margin:0 0 1rem}
nav{display:flex;flex-wrap:wrap;gap:.25rem 1rem;font-size:.95rem}
.note{background:var(--warn);border-left:4px solid #d99a00;padding:.5rem .75rem}
figure{margin:1.25rem 0}
figcaption{font-size:.92rem;padding-bottom:.3rem}
.scroll{overflow-x:auto;max-width:100%}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(17rem,1fr));gap:0 1rem}
.grid .scroll{margin:.5rem 0}
.scroll:focus-visible{outline:2px solid var(--link)}
table{width:max-content;border-collapse:separate;border-spacing:0;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .6rem;text-align:left;vertical-align:top}
th{font-weight:600;max-width:9rem}
td{max-width:24rem}
.plain th,.plain td{border-bottom:1px solid var(--line)}
.plain .number,.heat td{text-align:right}
.heat thead th{text-align:right;vertical-align:bottom;min-width:4rem}
.heat td{border:1px solid var(--paper);border-radius:3px}
th:first-child{position:sticky;left:0;background:var(--paper);max-width:min(40vw,20rem);overflow-wrap:anywhere}
.heat thead th:first-child{text-align:left;font-weight:400;color:var(--faint)}
.none{background:var(--box);color:var(--faint)}
.legend{display:flex;align-items:center;gap:.5rem;font-size:.85rem;margin-top:.5rem;position:sticky;left:0;width:max-content}
.legend i{display:inline-block;width:1rem;height:.7rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;margin:1rem 0}
dd{margin:0;min-width:0;overflow-wrap:anywhere}
.text{background:var(--box);border:1px solid var(--line);border-radius:4px;padding:.75rem;margin:.5rem 0 1rem;
white-space:pre-wrap;overflow-wrap:anywhere;font:.88rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
summary{cursor:pointer}
select,input{font:inherit;color:inherit;background:var(--paper);border:1px solid var(--faint);border-radius:4px;
padding:.2rem .4rem;max-width:100%}
select:focus-visible,input:focus-visible,summary:focus-visible{outline:2px solid var(--link)}
.choice{margin:1rem 0}
.verdict{margin:.25rem 0}
.verdict:first-of-type{font-size:1.15rem;font-weight:600}
.entry{border-top:1px solid var(--line);padding:.4rem 0}
.entry>:not(summary){margin-left:1rem}
.controls{display:flex;flex-wrap:wrap;align-items:center;gap:.5rem 1rem;margin:1rem 0 .5rem}
fieldset{display:flex;flex-wrap:wrap;gap:0 .75rem;border:1px solid var(--line);border-radius:4px;margin:0;
padding:0 .5rem .2rem}
legend{color:var(--faint);font-size:.85rem;padding:0 .25rem}
.mark{font-size:.8em;display:inline-block;min-width:1em}
.up{color:var(--up)}
.down{color:var(--down)}
small{font-weight:400;color:var(--faint)}
[hidden]{display:none!important}
.tall{max-height:85vh;overflow:auto}
.tall.whole{max-height:none}
.tall thead th{position:sticky;top:0;background:var(--paper);z-index:1;white-space:nowrap}
.tall thead th:first-child{z-index:2}
th button{all:unset;cursor:pointer;font:inherit}
th button:focus-visible{outline:2px solid var(--link)}
th button::after{content:" \\2195";color:var(--faint)}
th[aria-sort=ascending] button::after{content:" \\2191"}
th[aria-sort=descending] button::after{content:" \\2193"}
@media(max-width:34rem){body{padding:.5rem .75rem 3rem}dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.5rem}
th,td{padding:.3rem .4rem}.heat thead th{min-width:3.2rem}}
@media print{.scroll{overflow:visible;max-height:none}}
"""
_DARK = (
    ":root{--paper:#14171a;--ink:#e6e9ec;--faint:#a0a9b2;--line:#343b42;--box:#1d2226;--warn:#332a14;--link:#7db8f5;"
    "--up:#8cc4ff;--down:#ffb380}"
)

_SORT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const head = [...table.tHead.rows[0].cells];
  head.forEach((th, column) => th.querySelector("button").addEventListener("click", () => {
    const up = th.getAttribute("aria-sort") !== "ascending";
    head.forEach(other => other.removeAttribute("aria-sort"));
    th.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => {
      const cell = row.cells[column], words = cell.textContent.trim();
      return "value" in cell.dataset ? Number(cell.dataset.value) : words === "\u2013" ? "" : words;
    };
    const compare = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === "");  // nothing is last, whichever way
      if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
      const order = typeof a === "number" ? a - b : a.localeCompare(b);
      return up ? order : -order;
    };
    const rows = [...table.tBodies[0].rows].map(row => [key(row), row]);
    rows.sort((a, b) => compare(a[0], b[0]));
    table.tBodies[0].append(...rows.map(pair => pair[1]));
  }));
}
"""

_CHOOSE = """
for (const box of document.querySelectorAll(".choice")) {
  const select = box.querySelector("select");  // the first: there may be a choice inside an option
  const show = () => [...box.children].filter(child => child.classList.contains("option"))
    .forEach((option, number) => { option.hidden = number !== select.selectedIndex; });
  select.addEventListener("change", show);
  show();
}
"""

_TEMPLATES = {
    "page": """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; form-action 'none'; \
style-src 'unsafe-inline'; img-src data: blob:\
{% if scripts %}; script-src 'unsafe-inline'{% endif %}">
<link rel="icon" href="data:,">
<title>{{ title }}</title>
<style>{{ css }}</style>
</head>
<body>
<h1>{{ title }}</h1>
{% if lead %}<p class="lead">{{ lead }}</p>
{% endif %}
{% if sections|length > 1 %}<nav aria-label="Sections">
{% for name, parts in sections %}<a href="#s{{ loop.index }}">{{ name }}</a>
{% endfor %}</nav>
{% endif %}
{% for name, parts in sections %}<section id="s{{ loop.index }}">
<h2>{{ name }}</h2>
{% for part in parts %}{{ part }}
{% endfor %}</section>
{% endfor %}{% if scripts %}<script>{{ script }}</script>
{% endif %}</body>
</html>
""",
    "heat_map": """<figure>
{% if caption %}<figcaption>{{ caption }}</figcaption>
{% endif %}
<div class="scroll" tabindex="0" role="region" aria-label="{{ caption or corner or 'numbers' }}">
<table class="heat" aria-label="{{ caption or corner or 'numbers' }}">
<thead><tr><th>{{ corner }}</th>{% for name in columns %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for name, cells in lines %}<tr><th scope="row">{{ name }}</th>\
{% for style, shown in cells %}<td class="{{ style }}">{{ shown }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table>
{% if legend %}<div class="legend" aria-hidden="true"><span>{{ low }}</span><span>\
{% for style in legend %}<i class="{{ style }}"></i>{% endfor %}</span><span>{{ high }}</span></div>
{% endif %}</div>
</figure>""",
    "table": """<figure>
{% if caption %}<figcaption>{{ caption }}</figcaption>
{% endif %}
<div class="scroll{{ ' tall' if sortable else '' }}" tabindex="0" role="region" aria-label="{{ caption or 'table' }}">
<table class="plain{{ ' sortable' if sortable else '' }}" aria-label="{{ caption or 'table' }}">
<thead><tr>{% for name in header %}<th scope="col" class="{{ lines[0][loop.index0][0] if lines else '' }}">\
{% if sortable %}<button type="button">{{ name }}</button>{% else %}{{ name }}{% endif %}</th>{% endfor %}</tr></thead>
<tbody>
{% for cells in lines %}<tr>{% for style, shown, value in cells %}\
{% set key %}{% if value is not none %} data-value="{{ value }}"{% endif %}{% endset %}\
{% if loop.first %}<th scope="row"{{ key }}>{{ shown }}</th>{% else %}<td class="{{ style }}"{{ key }}>{{ shown }}</td>\
{% endif %}\
{% endfor %}</tr>
{% endfor %}</tbody>
</table>
</div>
</figure>""",
    "choice": """<div class="choice"><label>{{ label }}: <select autocomplete="off">
{% for name in names %}<option>{{ name }}</option>
{% endfor %}</select></label>
{% for parts in contents %}<div class="option"{{ '' if loop.first else ' hidden' }}>
{% for part in parts %}{{ part }}
{% endfor %}</div>
{% endfor %}</div>""",
    "facts": """<dl>
{% for name, value in values.items() %}<dt>{{ name }}</dt><dd>{{ value }}</dd>
{% endfor %}</dl>""",
}


@cache
def _template(name: str) -> Any:
    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return made.from_string(_TEMPLATES[name])
