"""Write the tables of a comparison as Markdown and as LaTeX, for a paper."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from recbole_msr.report.comparison.tables import gaps, how_tested, seeds_note, tables_of
from recbole_msr.report.comparison.verdict import verdict
from recbole_msr.report.tables import TableCell, TableData

_PAGE_WIDTH = 470.0  # points, of A4 with margins of 2 cm, a little less
_LETTER, _SMALL_LETTER, _BETWEEN = 4.6, 3.6, 8.0  # points in LaTeX, about: of the text, of a deviation, of two columns


def markdown(summary: Mapping[str, Any]) -> str:
    """Return the verdict, then every table with its notes, then the command, in Markdown.

    Bold is significantly better than what the table's notes name, a dagger significantly worse; nothing else is marked.
    """
    lines = [f"# {_md(summary['dataset'])}: comparison", ""]
    lines += [f"- {_md(sentence)}" for sentence in summary.get("verdict") or verdict(summary)]
    for table in _paged(tables_of(summary)):
        lines += ["", f"## {_md(table.title)}", "", *_md_table(table), ""]
        lines += [f"- {_md(note)}" for note in _notes(table, summary)]
    lines += ["", "## For all tables", "", f"- {_md(seeds_note(summary))}"]
    command = str(summary["command"])
    longest = max((len(run) for run in re.findall("`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([*lines, "", "Command:", "", f"{fence}sh", command, fence, ""])


def latex(summary: Mapping[str, Any]) -> str:
    r"""Return every table as a `table*` environment, to `\input` in a paper that uses booktabs.

    Marks as in `markdown`; captions say what they mean, the seeds, the test and the command.
    """
    word = re.sub("[^a-z0-9]+", "-", str(summary["dataset"]).lower()).strip("-") or "comparison"
    pages = _paged(tables_of(summary))
    names = [table.name for table in pages]
    labels = [
        f"tab:{word}-{name}" + (f"-{names[: i + 1].count(name)}" if names.count(name) > 1 else "")
        for i, name in enumerate(names)
    ]
    head = (
        "% \\usepackage{booktabs}\n% Names beyond Latin letters need XeLaTeX or LuaLaTeX with a font that has them.\n"
    )
    tables = [_tex_table(table, summary, label, labels[0]) for table, label in zip(pages, labels, strict=True)]
    return "\n".join([head, *tables])


def _notes(table: TableData, summary: Mapping[str, Any]) -> list[str]:
    """Return what the marks mean, then the rest of the notes."""
    if table.marks is not None:
        legend = (
            f"Bold: significantly better than {table.marks}; †: significantly worse; no mark: no significant "
            f"difference. {how_tested(summary)}"
        )
        return [legend, *table.notes]
    return [*([] if table.name == "cost" else ["Nothing in this table was tested."]), *table.notes]


def _paged(tables: Sequence[TableData]) -> list[TableData]:
    """Cut tables that do not fit a page into as few parts as it takes, of about the same number of columns."""
    pages = []
    for table in tables:
        columns = range(len(table.columns))
        for count in range(1, len(columns) + 1):
            size = -(-len(columns) // count)
            parts = table.split([columns[start : start + size] for start in columns[::size]])
            if all(_points(part) <= _PAGE_WIDTH for part in parts):
                break
        pages += parts
    return pages


def _points(table: TableData) -> float:
    """Return the width of a table on paper in points, about."""
    width = _LETTER * max((len(row.label.text) for row in table.rows), default=0)
    for number, column in enumerate(table.columns):
        cells = [row.cells[number] for row in table.rows]
        sizes = [len(cell.text) * _LETTER + len(f"±{cell.deviation or ''}") * _SMALL_LETTER for cell in cells]
        width += _BETWEEN + max(len(column.name) * _LETTER, *sizes, 0.0)
    return width


def _md_table(table: TableData) -> list[str]:
    header = [_md(table.label_heading), *(_md(column.heading) for column in table.columns)]
    rows = [[_md(row.label.text), *map(_md_cell, row.cells)] for row in table.rows]
    return [f"| {' | '.join(line)} |" for line in [header, ["---", *["---:"] * len(table.columns)], *rows]]


def _md_cell(cell: TableCell) -> str:
    text = f"**{cell.text}**" if cell.mark == "better" else cell.text
    text += f" ± {cell.deviation}" if cell.deviation is not None else ""
    return text + ("†" if cell.mark == "worse" else "")


def _md(text: str) -> str:
    """Return plain text as Markdown that shows it unchanged, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&])", r"\\\1", " ".join(str(text).split()))


_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': r"\symbol{34}",
    "[": "{[}",  # no optional argument of the \\\\ before it
    "]": "{]}",
    "*": "{*}",
    "±": r"$\pm$",
    "†": r"$\dagger$",
    "–": "--",  # noqa: RUF001
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def _tex(text: str) -> str:
    """Return plain text as LaTeX that shows it unchanged; a double hyphen stays two."""
    text = " ".join(str(text).split())
    text = "".join(_TEX.get(character, character) for character in text.replace("--", "-\0-").replace("--", "-\0-"))
    text = "".join(character for character in text if character == "\0" or character.isprintable())
    return text.replace("\0", "{}")


def _tex_cell(cell: TableCell) -> str:
    text = rf"\textbf{{{_tex(cell.text)}}}" if cell.mark == "better" else _tex(cell.text)
    text += rf"{{\scriptsize$\pm${_tex(cell.deviation)}}}" if cell.deviation is not None else ""
    return text + (r"$^{\dagger}$" if cell.mark == "worse" else "")


def _tex_table(table: TableData, summary: Mapping[str, Any], label: str, first: str) -> str:
    caption = [f"{summary['dataset']}, test split: {table.title}.", *_notes(table, summary), seeds_note(summary)]
    if label == first:
        command = _tex(summary["command"]).replace("'", r"\textquotesingle{}")
        end = rf"{' '.join(map(_tex, gaps(summary)))} Command: \texttt{{{command}}}."
    else:
        end = rf"The command and what failed: Table~\ref{{{first}}}."
    lines = [
        r"\begin{table*}",
        r"\centering",
        r"\small",
        r"\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{' '.join(map(_tex, caption))} {end.strip()}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        *_tex_header(table),
        r"\midrule",
    ]
    lines += [" & ".join([_tex(row.label.text), *map(_tex_cell, row.cells)]) + r" \\" for row in table.rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table*}", ""])


def _tex_header(table: TableData) -> list[str]:
    """Return the lines of the header: groups over their columns with a rule each, where there are any; then names."""
    top, rules, start = [""], [], 2
    for group, members in groupby(column.group for column in table.columns):
        width = len(list(members))
        top.append(rf"\multicolumn{{{width}}}{{c}}{{{_tex(group)}}}")
        rules += [rf"\cmidrule(lr){{{start}-{start + width - 1}}}"] if group else []
        start += width
    names = " & ".join([_tex(table.label_heading), *(_tex(column.name) for column in table.columns)]) + r" \\"
    return [" & ".join(top) + r" \\", "".join(rules), names] if rules else [names]
