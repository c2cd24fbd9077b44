"""What a comparison found, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recbole_msr.report.comparison.tables import (
    MISSING,
    Column,
    TableCell,
    TableData,
    how_tested,
    ranked,
    seeds_note,
    tables_of,
)
from recbole_msr.report.comparison.verdict import p_value, verdict

_MARKS = {"better": "▲", "worse": "▼"}
_HEADING, _WORDS = 18, 28  # columns wider than this are folded: headings, cells


def print_comparison(summary: Mapping[str, Any], *, file: TextIO | None = None, width: int | None = None) -> None:
    """Print the verdict, then the leaderboard; quality and cost side by side where the terminal is wide enough.

    ▲ and ▼ stand only where a test against the reference (for transfer: against training alone) is significant.
    Of the metrics by cell AUC is shown; the others are in the files only.

    Args:
        summary: the content of a comparison's summary.json.
        file: where to; standard output by default.
        width: columns of the terminal; found out by default.
    """
    console = Console(file=file, width=width)
    rows = summary["rows"]
    console.print(
        Text(
            f"Comparison on {summary['dataset']}: {rows['train']:,} rows of training, {rows['valid']:,} of validation, "
            f"{rows['test']:,} of test\n"
        )
    )
    sentences = Table.grid(padding=(0, 1, 0, 0))
    for sentence in summary.get("verdict") or verdict(summary):
        sentences.add_row(Text("-"), Text(sentence, overflow="fold"))
    console.print(sentences)
    console.print()
    by_name = {sheet.name: sheet for sheet in tables_of(summary)}
    board, cost = _board(summary, by_name["quality"]), by_name["cost"]
    both = _beside(board, cost)
    fits = _needs(both, console.width) <= console.width
    shown = [both] if fits else [board]
    shown += [by_name[name] for name in ("auc", "transfer") if name in by_name]
    shown += [] if fits else [cost]
    for sheet in shown:
        for part in _split(sheet, console.width):
            console.print(_table(part, console.width))
        for note in _about(sheet, summary):
            console.print(Text(note))
        console.print()


def _board(summary: Mapping[str, Any], quality: TableData) -> TableData:
    """The quality table with the tested difference after the macro AUC, and the name of the worst cell."""
    added = [
        Column("To reference", "difference"),
        Column("To reference", "95 % interval"),
        Column("To reference", "corrected p"),
    ]
    (macro, worst, *columns) = quality.columns
    rows = []
    for entry, (label, (first, second, *values)) in zip(ranked(summary), quality.rows, strict=True):
        one = (entry["differences"] or {}).get("auc/macro")
        told = [TableCell()] * 3
        if one is not None:
            told[0] = TableCell(f"{one['mean']:+.4f}")
            told[1] = TableCell() if one["low"] is None else TableCell(f"{one['low']:+.4f} to {one['high']:+.4f}")
            told[2] = TableCell(p_value(one["p_adjusted"]).removeprefix("p ").removeprefix("= "))
        cell = entry["worst_cell"]
        where = TableCell(MISSING if cell is None else f"{cell['scenario']}/{cell['task']}")
        rows.append((label, [first, *told, second, where, *values]))
    columns = [macro, *added, worst, Column("AUC", "worst is"), *columns]
    return TableData("quality", "Leaderboard", columns, rows, quality.marks, quality.notes)


def _beside(board: TableData, cost: TableData) -> TableData:
    rows = [(label, [*left, *right]) for (label, left), (_, right) in zip(board.rows, cost.rows, strict=True)]
    columns, notes = [*board.columns, *cost.columns], [*board.notes, *cost.notes]
    return TableData("quality", "Leaderboard", columns, rows, board.marks, notes)


def _text(value: TableCell) -> str:
    deviation = f" ± {value.deviation}" if value.deviation is not None else ""
    return f"{value.text}{deviation}" + (f" {_MARKS[value.mark]}" if value.mark else "")


def _label_width(sheet: TableData, terminal: int) -> int:
    return min(max((cell_len(label) for label, _ in sheet.rows), default=5), max(18, terminal // 4))


def _widths(sheet: TableData) -> list[int]:
    widths = []
    for number, column in enumerate(sheet.columns):
        heading = max(cell_len(column.group), cell_len(column.name))
        content = max((cell_len(_text(values[number])) for _, values in sheet.rows), default=1)
        widths.append(min(max(content, min(heading, _HEADING)), _WORDS))
    return widths


def _needs(sheet: TableData, terminal: int) -> int:
    """Its width in a terminal: two blanks follow every column, one is before the first."""
    return 1 + _label_width(sheet, terminal) + 2 + sum(width + 2 for width in _widths(sheet))


def _split(sheet: TableData, terminal: int) -> list[TableData]:
    """Parts with as many columns as fit, at least one."""
    parts: list[list[int]] = []
    for number in range(len(sheet.columns)):
        if parts and _needs(sheet.part([*parts[-1], number]), terminal) <= terminal:
            parts[-1].append(number)
        else:
            parts.append([number])
    return sheet.parts(parts)


def _table(sheet: TableData, terminal: int) -> Table:
    table = Table(title=Text(sheet.title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(Text("\nModel"), overflow="fold", width=_label_width(sheet, terminal))
    previous = None
    for column, width in zip(sheet.columns, _widths(sheet), strict=True):
        group = column.group if column.group != previous else ""
        previous = column.group
        table.add_column(Text(f"{group}\n{column.name}"), justify="right", overflow="fold", width=width)
    for label, values in sheet.rows:
        table.add_row(Text(label), *(Text(_text(value)) for value in values))
    return table


def _about(sheet: TableData, summary: Mapping[str, Any]) -> Sequence[str]:
    notes = list(sheet.notes)
    if sheet.name == "quality":
        notes.insert(0, seeds_note(summary))
    if sheet.marks is None:
        return notes
    legend = f"▲ significantly better, ▼ significantly worse than {sheet.marks}; no mark: no significant difference."
    return [legend, *([how_tested(summary)] if sheet.name == "quality" else []), *notes]
