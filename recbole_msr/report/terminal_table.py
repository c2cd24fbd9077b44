"""Draw tables in a terminal."""

from __future__ import annotations

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from recbole_msr.report.tables import TableCell, TableData

SIGNS = {"better": "▲", "worse": "▼"}
"""How a terminal and a page mark a significant difference."""
_HEADING_WIDTH, _CELL_WIDTH = 18, 28  # what is wider is folded


def split_to_width(data: TableData, width: int) -> list[TableData]:
    """Return tables with as many columns as fit into `width`, at least one each."""
    parts: list[list[int]] = []
    for number in range(len(data.columns)):
        if parts and table_width(data.select([*parts[-1], number]), width) <= width:
            parts[-1].append(number)
        else:
            parts.append([number])
    return data.split(parts)


def table_width(data: TableData, terminal: int) -> int:
    """Return the characters a line of the table takes: two blanks follow every column, one is before the first."""
    return 1 + _label_width(data, terminal) + 2 + sum(width + 2 for width in _column_widths(data))


def terminal_table(data: TableData, width: int) -> Table:
    """Return the table for `rich` to print; a name above columns that share it stands once.

    Args:
        data: the table; its notes are not among what is drawn.
        width: characters of the terminal.
    """
    # Names are given as Text, since rich would take a model called "[red]" for a style.
    table = Table(title=Text(data.title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(Text(f"\n{data.label_heading}"), overflow="fold", width=_label_width(data, width))
    previous = None
    for column, column_width in zip(data.columns, _column_widths(data), strict=True):
        group = column.group if column.group != previous else ""
        previous = column.group
        table.add_column(Text(f"{group}\n{column.name}"), justify="right", overflow="fold", width=column_width)
    for row in data.rows:
        table.add_row(Text(row.label.text), *(Text(_cell_text(cell)) for cell in row.cells))
    return table


def _cell_text(cell: TableCell) -> str:
    deviation = f" ± {cell.deviation}" if cell.deviation is not None else ""
    return f"{cell.text}{deviation}" + (f" {SIGNS[cell.mark]}" if cell.mark else "")


def _label_width(data: TableData, terminal: int) -> int:
    return min(max((cell_len(row.label.text) for row in data.rows), default=5), max(18, terminal // 4))


def _column_widths(data: TableData) -> list[int]:
    widths = []
    for number, column in enumerate(data.columns):
        heading = max(cell_len(column.group), cell_len(column.name))
        content = max((cell_len(_cell_text(row.cells[number])) for row in data.rows), default=1)
        widths.append(min(max(content, min(heading, _HEADING_WIDTH)), _CELL_WIDTH))
    return widths
