"""An evaluation as a table: every scenario x task, then all rows, the macro mean and the worst cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recbole_msr.evaluation.cells import Cell, Evaluation
from recbole_msr.evaluation.metrics import METRICS

_HEADINGS = {"auc": "AUC", "gauc": "GAUC", "logloss": "LogLoss"}


def result_table(evaluation: Evaluation, title: str | None = None) -> Table:
    """The table for a terminal.

    What repeats another row is left out: the pooled rows of a single scenario, the mean and the worst of a
    single cell. GAUC has a column only where some value of it is defined.
    """
    # Names are given as Text, since rich would take a scenario called "[18,25)" for a style.
    table = Table(
        title=None if title is None else Text(title),
        caption=Text("\n".join(_notes(evaluation))),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for number, heading in enumerate(_header(evaluation)):
        if number < 2:
            table.add_column(heading, overflow="fold")
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    for section in _sections(evaluation):
        for row in section:
            table.add_row(*map(Text, row))
        table.add_section()
    return table


def print_result(
    evaluation: Evaluation, title: str | None = None, *, file: TextIO | None = None, width: int | None = None
) -> None:
    """Print the table to standard output or to `file`; with colours only where that is a terminal."""
    Console(file=file, width=width).print(result_table(evaluation, title))


def markdown(evaluation: Evaluation) -> str:
    """The same table in Markdown, its notes as a list below."""
    header = _header(evaluation)
    rows = [row for section in _sections(evaluation) for row in section]
    lines = [header, ["---", "---", *["---:"] * (len(header) - 2)], *rows]
    table = "\n".join(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |" for line in lines)
    notes = "\n".join(f"- {note}" for note in _notes(evaluation))
    return f"{table}\n\n{notes}\n" if notes else f"{table}\n"


def _metrics(evaluation: Evaluation) -> list[str]:
    some_gauc = any(key.startswith("gauc") for key in evaluation.flat())
    return [metric for metric in METRICS if metric != "gauc" or some_gauc]


def _header(evaluation: Evaluation) -> list[str]:
    return ["Scenario", "Task", "Rows", "Positive", *(_HEADINGS[metric] for metric in _metrics(evaluation))]


def _sections(evaluation: Evaluation) -> list[list[list[str]]]:
    metrics, tasks = _metrics(evaluation), evaluation.tasks

    def line(name: str, task: str, cell: Cell) -> list[str]:
        share = f"{cell.positives / cell.rows:.1%}" if cell.rows else ""
        return [name, task, str(cell.rows), share, *(_number(cell.value(metric)) for metric in metrics)]

    def mean(name: str, task: str | None) -> list[str]:
        return ["macro mean", name, "", "", *(_number(evaluation.macro(metric, task)) for metric in metrics)]

    sections = [
        [line(scenario, task, cell) for scenario, row in evaluation.cells.items() for task, cell in row.items()]
    ]
    if not _pooled_repeats_cells(evaluation):
        sections.append([line("all rows", task, cell) for task, cell in evaluation.pooled.items()])
    summary = [mean(task, task) for task in tasks] if len(evaluation.cells) > 1 else []
    if len(tasks) > 1:
        summary.append(mean("all", None))
    worst = evaluation.worst()
    if summary and worst is not None:
        cell = evaluation.cells[worst.scenario][worst.task]
        summary.append(line(f"worst: {worst.scenario}", worst.task, cell))
    return [*sections, summary]


def _pooled_repeats_cells(evaluation: Evaluation) -> bool:
    if len(evaluation.cells) != 1:
        return False
    (only,) = evaluation.cells.values()
    return all(
        (only[task].rows, only[task].undefined) == (cell.rows, cell.undefined)
        for task, cell in evaluation.pooled.items()
    )


def _notes(evaluation: Evaluation) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for scenario, task, reason in evaluation.undefined:
        by_reason.setdefault(reason, []).append(f"{scenario}/{task}")
    if "gauc" in _metrics(evaluation):
        for scenario, row in evaluation.cells.items():
            for task, cell in row.items():
                if cell.undefined is None and cell.gauc is None:
                    by_reason.setdefault("GAUC: no user has both classes", []).append(f"{scenario}/{task}")
    notes = [f"undefined, in no mean: {', '.join(names)} ({reason})" for reason, names in by_reason.items()]
    apart = {
        task: cell.rows - sum(row[task].rows for row in evaluation.cells.values())
        for task, cell in evaluation.pooled.items()
    }
    if any(apart.values()):
        counts = ", ".join(f"{rows} ({task})" for task, rows in apart.items() if rows)
        notes.append(f"rows of no declared scenario, counted in 'all rows' only: {counts}")
    return notes


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def print_metrics(summary: Mapping[str, Any], *, file: TextIO | None = None) -> None:
    """Print the metrics that RecBole computed, on validation and test, and what the run took.

    Args:
        summary: the content of a run's result.json.
        file: where to; standard output by default.
    """
    valid, test = summary["valid"]["metrics"], summary["test"]["metrics"]
    width = max(map(len, test), default=0)
    lines = [f"{summary['main_task'] or 'test'}: RecBole's metrics, validation and test"]
    lines += [f"  {name:<{width}}  {_number(valid.get(name))}  {_number(value)}" for name, value in test.items()]
    seconds = summary["seconds"]
    speed = f", {summary['rows_per_second']:,} rows/s" if summary["rows_per_second"] else ""
    lines.append(
        f"{summary['epochs']} epochs in {seconds['train']:.1f} s{speed}; {seconds['total']:.1f} s in all; "
        f"{summary['parameters']:,} parameters"
    )
    print("\n".join(lines), file=file)
