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
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from recbole_msr.errors import InputError
from recbole_msr.files.atomic import write_atomically
from recbole_msr.report.html.colours import SCALES, STEPS, scale_rules
from recbole_msr.report.html.templates import read_asset, render
from recbole_msr.report.tables import MISSING, TableCell, TableColumn, TableData, TableRow
from recbole_msr.report.terminal_table import SIGNS


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
        self._sections.append((title, list(map(_as_markup, parts))))

    def render(self) -> str:
        """Return the page's HTML."""
        page = render(
            "page",
            title=self.title,
            lead=self.lead,
            sections=self._sections,
            scripts=self._scripts,
            css=Markup(f"\n{read_asset('page.css')}{scale_rules()}"),
            script=Markup(f"\n{read_asset('page.js')}"),
        )
        return str(page)

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
    r"""Return a table of R x C numbers, each printed on its colour.

    Args:
        rows: names of the R rows.
        columns: names of the C columns.
        values: R lists of C numbers; None or NaN for a cell without one.
        caption: what the numbers are.
        corner: what rows and columns are, for the empty corner: "scenario \ from".
        scale: `sequential` from `low` to `high`; `diverging` is symmetric about 0.
        low: the low end of the scale, by default the least value; what lies below has its colour.
        high: the high end of the scale, by default the greatest value; what lies above has its colour.
        show: a number as it is printed.
        reverse: whether the colours run the other way: where smaller is better.
        marks: R lists of C words that stand behind the numbers.

    Raises:
        ValueError: the shapes do not fit, or there is no such scale.
    """
    if len(values) != len(rows) or any(len(line) != len(columns) for line in values):
        raise ValueError(f"values must be {len(rows)} x {len(columns)}, got {[len(line) for line in values]}")
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}")
    numbers = [value for line in values for value in line if value is not None and math.isfinite(value)]
    low = min(numbers, default=0.0) if low is None else low
    high = max(numbers, default=0.0) if high is None else high
    if scale == "diverging":
        high = max(abs(low), abs(high))
        low = -high
    ends = (low, high)

    def cell(value: float | None, mark: str) -> tuple[str, str]:
        if value is None or not math.isfinite(value):
            return "none", MISSING
        step = _step(value, *ends)
        style = f"{scale[0]}{STEPS - 1 - step if reverse else step}"
        return style, f"{show(value)} {mark}" if mark else show(value)

    marks = marks or [[""] * len(columns)] * len(rows)
    lines = [
        (name, [cell(*pair) for pair in zip(line, line_marks, strict=True)])
        for name, line, line_marks in zip(rows, values, marks, strict=True)
    ]
    steps = range(STEPS - 1, -1, -1) if reverse else range(STEPS)
    legend = [f"{scale[0]}{step}" for step in steps] if numbers else []
    return render(
        "heat_map",
        caption=caption, corner=corner, columns=columns, lines=lines, legend=legend, low=show(low), high=show(high),
    )  # fmt: skip


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], *, caption: str = "", sortable: bool = False) -> Markup:
    """Return a table. Numbers stand to the right; None is a dash.

    A float has four digits behind the point, and one from 1,000 on.

    Args:
        header: names of the columns; the first is that of the rows' labels.
        rows: lines of values; a cell may be `Markup`, or a `Number`.
        caption: what the table shows.
        sortable: whether a click on a column's name sorts by it, again the other way round; the page must allow
            `scripts`. What a line does not have stays last.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    columns = [TableColumn("", name) for name in header[1:]]
    data = TableData("", caption, columns, [TableRow(label, values) for label, *values in cells], header[0])
    return render("table", caption=caption, grid=grid(data, caption or "table", sortable))


def grid(
    data: TableData,
    label: str,
    sortable: bool = False,
    *,
    whole: bool = False,
    sorted_by: int | None = None,
    row_attributes: Sequence[Mapping[str, str]] = (),
) -> Markup:
    """Return a table in a box that scrolls.

    Args:
        data: the table; its title and notes are not among what is drawn.
        label: the table's name for a reader who cannot see it.
        sortable: as in `table`.
        whole: whether a sortable table is as high as its rows, instead of scrolling inside the window.
        sorted_by: number of the column by which the rows are sorted, the greatest first.
        row_attributes: HTML attributes of each row.
    """
    tested = [any(row.cells[i].test for row in data.rows) for i in range(len(data.columns))]
    return render(
        "grid",
        data=data, label=label, sortable=sortable, whole=whole, sorted_by=sorted_by, row_attributes=row_attributes,
        tested=tested, signs=SIGNS,
    )  # fmt: skip


def facts(values: Mapping[str, Any]) -> Markup:
    """Return names and values, a line each."""
    return render("facts", values={name: _cell(value).text for name, value in values.items()})


def note(message: str) -> Markup:
    """Return a sentence that stands out: what is missing, and why."""
    return Markup('<p class="note">{}</p>').format(message)


def text(content: str, heading: str = "", opened: bool = True) -> Markup:
    """Return a text as it is, line breaks and all; with a heading it can be folded away."""
    if not heading:
        return Markup('<pre class="text">{}</pre>').format(content)
    return Markup('<details{}><summary>{}</summary><pre class="text">{}</pre></details>').format(
        Markup(" open") if opened else "", heading, content
    )


def choice(label: str, options: Mapping[str, str | Markup | Sequence[str | Markup]]) -> Markup:
    """Return contents of which the reader picks one to be shown; the first at first. The page must allow `scripts`.

    Args:
        label: what is chosen.
        options: contents by their names; as in `Page.section`, what is no `Markup` becomes a paragraph.
    """
    contents = [
        list(map(_as_markup, [content] if isinstance(content, str) else content)) for content in options.values()
    ]
    return render("choice", label=label, names=list(options), contents=contents)


def _as_markup(part: str | Markup) -> Markup:
    return part if isinstance(part, Markup) else Markup("<p>{}</p>").format(part)


def _cell(value: Any) -> TableCell:
    if isinstance(value, Number):
        return TableCell(value.shown, value=value.value if math.isfinite(value.value) else None)
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return TableCell()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return TableCell(value if isinstance(value, str) else str(value), numeric=False)
    return TableCell(_float(value) if isinstance(value, float) else f"{value:,}", value=value)


def _float(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.1f}"


def _step(value: float, low: float, high: float) -> int:
    if high <= low:
        return STEPS // 2
    share = (value - low) / (high - low)
    return round(min(max(share, 0.0), 1.0) * (STEPS - 1))
