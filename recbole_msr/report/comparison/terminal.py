"""Print a comparison in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recbole_msr.report.comparison.differences import p_clause
from recbole_msr.report.comparison.tables import headline, how_tested, ranked, seeds_note, tables_of
from recbole_msr.report.comparison.verdict import verdict
from recbole_msr.report.tables import MISSING, TableCell, TableColumn, TableData, TableRow
from recbole_msr.report.terminal_table import split_to_width, table_width, terminal_table


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
    by_name = {table.name: table for table in tables_of(summary)}
    quality, cost = _with_differences(by_name["quality"], summary), by_name["cost"]
    both = _side_by_side(quality, cost)
    fits = table_width(both, console.width) <= console.width
    tables = [both] if fits else [quality]
    shown = (headline(summary), "conditionals", "segments-user", "segments-item", "transfer", "calibration")
    tables += [by_name[name] for name in shown if name in by_name]
    tables += [] if fits else [cost]
    for table in tables:
        for part in split_to_width(table, console.width):
            console.print(terminal_table(part, console.width))
        for note in _notes(table, summary):
            console.print(Text(note))
        console.print()


def _with_differences(quality: TableData, summary: Mapping[str, Any]) -> TableData:
    """Return the quality table with the tested difference after the macro AUC, and the name of the worst cell."""
    columns = [
        quality.columns[0],
        TableColumn("To reference", "difference"),
        TableColumn("To reference", "95 % interval"),
        TableColumn("To reference", "corrected p"),
        quality.columns[1],
        TableColumn(quality.columns[1].group, "worst is"),
        *quality.columns[2:],
    ]
    rows = []
    for entry, row in zip(ranked(summary), quality.rows, strict=True):
        macro, worst, *others = row.cells
        difference = (entry["differences"] or {}).get(f"{headline(summary)}/macro")
        cells = [TableCell()] * 3
        if difference is not None:
            low, high = difference["low"], difference["high"]
            interval = MISSING if low is None else f"{low:+.4f} to {high:+.4f}"
            p = p_clause(difference["p_adjusted"]).removeprefix("p ").removeprefix("= ")
            cells = [TableCell(f"{difference['mean']:+.4f}"), TableCell(interval), TableCell(p)]
        place = entry["worst_cell"]
        where = TableCell(MISSING if place is None else f"{place['scenario']}/{place['task']}")
        rows.append(TableRow(row.label, [macro, *cells, worst, where, *others]))
    return replace(quality, title="Leaderboard", columns=columns, rows=rows)


def _side_by_side(quality: TableData, cost: TableData) -> TableData:
    rows = [
        TableRow(left.label, [*left.cells, *right.cells]) for left, right in zip(quality.rows, cost.rows, strict=True)
    ]
    return replace(quality, columns=[*quality.columns, *cost.columns], rows=rows, notes=[*quality.notes, *cost.notes])


def _notes(table: TableData, summary: Mapping[str, Any]) -> Sequence[str]:
    notes = list(table.notes)
    if table.name == "quality":
        notes.insert(0, seeds_note(summary))
    if table.marks is None:
        return notes
    legend = f"▲ significantly better, ▼ significantly worse than {table.marks}; no mark: no significant difference."
    return [legend, *([how_tested(summary)] if table.name == "quality" else []), *notes]
