"""The tables of a comparison for a paper: Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from recbole_msr.report.comparison.tables import TableCell, TableData, gaps, how_tested, seeds_note, tables_of
from recbole_msr.report.comparison.verdict import verdict

_PAGE = 470.0  # points, of A4 with margins of 2 cm, a little less
_LETTER, _SMALL_LETTER, _BETWEEN = 4.6, 3.6, 8.0  # points in LaTeX, about: of the text, of a deviation, of two columns


def markdown(summary: Mapping[str, Any]) -> str:
    """The verdict, then every table with its notes, then the command.

    Bold is significantly better than what the table's notes name, a dagger significantly worse; nothing else is marked.
    """
    lines = [f"# {_md(summary['dataset'])}: comparison", ""]
    lines += [f"- {_md(sentence)}" for sentence in summary.get("verdict") or verdict(summary)]
    for sheet in _paged(tables_of(summary)):
        lines += ["", f"## {_md(sheet.title)}", "", *_md_table(sheet), ""]
        lines += [f"- {_md(note)}" for note in _about(sheet, summary)]
    lines += ["", "## For all tables", "", f"- {_md(seeds_note(summary))}"]
    command = str(summary["command"])
    longest = max((len(run) for run in re.findall("`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([*lines, "", "Command:", "", f"{fence}sh", command, fence, ""])


def latex(summary: Mapping[str, Any]) -> str:
    r"""Every table as a `table*` environment, to `\input` in a paper that uses booktabs.

    Marks as in `markdown`; captions say what they mean, the seeds, the test and the command.
    """
    word = re.sub("[^a-z0-9]+", "-", str(summary["dataset"]).lower()).strip("-") or "comparison"
    pages = _paged(tables_of(summary))
    names = [sheet.name for sheet in pages]
    labels = [
        f"tab:{word}-{name}" + (f"-{names[: i + 1].count(name)}" if names.count(name) > 1 else "")
        for i, name in enumerate(names)
    ]
    head = (
        "% \\usepackage{booktabs}\n% Names beyond Latin letters need XeLaTeX or LuaLaTeX with a font that has them.\n"
    )
    tables = [_tex_table(sheet, summary, label, labels[0]) for sheet, label in zip(pages, labels, strict=True)]
    return "\n".join([head, *tables])


def _about(sheet: TableData, summary: Mapping[str, Any]) -> list[str]:
    """What the marks mean, first; and the rest of the notes."""
    if sheet.marks is not None:
        legend = (
            f"Bold: significantly better than {sheet.marks}; †: significantly worse; no mark: no significant "
            f"difference. {how_tested(summary)}"
        )
        return [legend, *sheet.notes]
    return [*([] if sheet.name == "cost" else ["Nothing in this table was tested."]), *sheet.notes]


def _paged(found: Sequence[TableData]) -> list[TableData]:
    """Tables that fit a page, cut into as few parts as it takes, of about the same number of columns."""
    pages = []
    for sheet in found:
        columns = range(len(sheet.columns))
        for count in range(1, len(columns) + 1):
            size = -(-len(columns) // count)
            parts = sheet.parts([columns[start : start + size] for start in columns[::size]])
            if all(_points(part) <= _PAGE for part in parts):
                break
        pages += parts
    return pages


def _points(sheet: TableData) -> float:
    """The width of a table on paper, about."""
    width = _LETTER * max((len(label) for label, _ in sheet.rows), default=0)
    for number, column in enumerate(sheet.columns):
        values = [values[number] for _, values in sheet.rows]
        sizes = [len(value.text) * _LETTER + len(f"±{value.deviation or ''}") * _SMALL_LETTER for value in values]
        width += _BETWEEN + max(len(column.name) * _LETTER, *sizes, 0.0)
    return width


def _md_table(sheet: TableData) -> list[str]:
    header = ["Model", *(_md(f"{c.group}: {c.name}" if c.group else c.name) for c in sheet.columns)]
    rows = [[_md(label), *map(_md_value, values)] for label, values in sheet.rows]
    return [f"| {' | '.join(line)} |" for line in [header, ["---", *["---:"] * len(sheet.columns)], *rows]]


def _md_value(value: TableCell) -> str:
    text = f"**{value.text}**" if value.mark == "better" else value.text
    text += f" ± {value.deviation}" if value.deviation is not None else ""
    return text + ("†" if value.mark == "worse" else "")


def _md(text: str) -> str:
    """Plain text as Markdown that shows it unchanged, on one line."""
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
    """Plain text as LaTeX that shows it unchanged; a double hyphen stays two."""
    text = " ".join(str(text).split())
    text = "".join(_TEX.get(character, character) for character in text.replace("--", "-\0-").replace("--", "-\0-"))
    text = "".join(character for character in text if character == "\0" or character.isprintable())
    return text.replace("\0", "{}")


def _tex_value(value: TableCell) -> str:
    text = rf"\textbf{{{_tex(value.text)}}}" if value.mark == "better" else _tex(value.text)
    text += rf"{{\scriptsize$\pm${_tex(value.deviation)}}}" if value.deviation is not None else ""
    return text + (r"$^{\dagger}$" if value.mark == "worse" else "")


def _tex_table(sheet: TableData, summary: Mapping[str, Any], label: str, first: str) -> str:
    caption = [f"{summary['dataset']}, test split: {sheet.title}.", *_about(sheet, summary), seeds_note(summary)]
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
        rf"\begin{{tabular}}{{l{'r' * len(sheet.columns)}}}",
        r"\toprule",
        *_tex_header(sheet),
        r"\midrule",
    ]
    lines += [" & ".join([_tex(name), *map(_tex_value, values)]) + r" \\" for name, values in sheet.rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table*}", ""])


def _tex_header(sheet: TableData) -> list[str]:
    top, rules, start = [""], [], 2
    for group, members in groupby(column.group for column in sheet.columns):
        width = len(list(members))
        top.append(rf"\multicolumn{{{width}}}{{c}}{{{_tex(group)}}}")
        rules += [rf"\cmidrule(lr){{{start}-{start + width - 1}}}"] if group else []
        start += width
    names = " & ".join(["Model", *(_tex(column.name) for column in sheet.columns)]) + r" \\"
    return [" & ".join(top) + r" \\", "".join(rules), names] if rules else [names]
