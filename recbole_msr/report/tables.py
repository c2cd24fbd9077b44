"""The one model of a table; a terminal, Markdown, LaTeX and HTML each draw it in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

MISSING = "–"  # noqa: RUF001


@dataclass(frozen=True)
class TableCell:
    """A value in a table.

    Attributes:
        text: the value as it is printed, or `MISSING`; `markupsafe.Markup` only where no other than HTML draws it.
        deviation: its standard deviation as it is printed; None for one seed, and where nothing varies.
        mark: "better" or "worse" where a test found a significant difference, else None.
        value: the number that an HTML table sorts by; None sorts by the text.
        test: the test behind the mark in one sentence; HTML shows it when the pointer rests on the mark.
        notes: lines in small print below the value; only HTML has room for them.
        numeric: whether the cell is aligned to the right.
    """

    text: str = MISSING
    deviation: str | None = None
    mark: str | None = None
    value: float | None = None
    test: str = ""
    notes: Sequence[str] = ()
    numeric: bool = True


@dataclass(frozen=True)
class TableColumn:
    """A column of a table.

    Attributes:
        group: stands above neighbours that share it, such as the tasks of a scenario; may be empty.
        name: the column's name within its group.
        description: what the numbers are; HTML shows it when the pointer rests on the heading.
        category: columns that the reader of an HTML leaderboard hides together: "cost", "quality", "quality auc".
    """

    group: str
    name: str
    description: str = ""
    category: str = ""

    @property
    def heading(self) -> str:
        """Group and name on one line: "Latency, ms: 1 row"."""
        return f"{self.group}: {self.name}" if self.group else self.name


@dataclass(frozen=True)
class TableRow:
    """A row: its label, and a cell for every column."""

    label: TableCell
    cells: Sequence[TableCell]


@dataclass(frozen=True)
class TableData:
    """A table whose rows have labels.

    Attributes:
        name: a short word for it, for references.
        title: what it shows.
        columns: the columns beside that of the labels.
        rows: the rows in their order.
        label_heading: the heading of the labels.
        marks: what the marks compare with; None where nothing in the table was tested.
        notes: sentences to read with it.
    """

    name: str
    title: str
    columns: Sequence[TableColumn]
    rows: Sequence[TableRow]
    label_heading: str = "Model"
    marks: str | None = None
    notes: Sequence[str] = field(default=())

    def select(self, columns: Sequence[int]) -> TableData:
        """Return the table with these columns only, by number."""
        rows = [TableRow(row.label, [row.cells[i] for i in columns]) for row in self.rows]
        return replace(self, columns=[self.columns[i] for i in columns], rows=rows)

    def split(self, parts: Sequence[Sequence[int]]) -> list[TableData]:
        """Return a table for each list of column numbers; two or more are numbered in their titles."""
        tables = [self.select(columns) for columns in parts]
        if len(tables) == 1:
            return tables
        return [replace(table, title=f"{table.title} ({i} of {len(tables)})") for i, table in enumerate(tables, 1)]
