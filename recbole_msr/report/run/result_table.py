"""An evaluation as a table: every scenario x task, then all rows, segments, the macro mean and the worst cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recbole_msr.evaluation.cells import Cell, Evaluation
from recbole_msr.evaluation.metrics import METRICS, metric_heading, mixes_units, shown

_UNDEFINED, _SHORT = "undefined", "\N{EN DASH}"
_ABSENT = "n/a"
_NAMES = 4
"""Columns before the metrics."""


def result_table(evaluation: Evaluation, title: str | None = None) -> Table:
    """Return the table for a terminal.

    What repeats another row is left out: the pooled rows of a single scenario, the mean and the worst of a
    single cell. GAUC has a column only where some value of it is defined. A dash is an undefined value; n/a stands
    for a metric that the version that wrote the result did not compute.
    """
    return _table(evaluation, _metrics(evaluation), title, _notes(evaluation))


def print_result(
    evaluation: Evaluation, title: str | None = None, *, file: TextIO | None = None, width: int | None = None
) -> None:
    """Print the table to standard output or to `file`; with colours only where that is a terminal.

    In a terminal with no room for all metrics beside the names, it comes in parts of some metrics each.
    """
    console = Console(file=file, width=width)
    metrics = _metrics(evaluation)
    parts = -(-len(metrics) // max(3, (console.width - 40) // 8))  # names and counts take 40 columns, a metric 8
    ends = [-(-len(metrics) * part // parts) for part in range(parts + 1)]
    for first, last in pairwise(ends):
        notes = _notes(evaluation) if last == len(metrics) else []
        console.print(_table(evaluation, metrics[first:last], None if first else title, notes))


def _table(evaluation: Evaluation, metrics: Sequence[str], title: str | None, notes: Sequence[str]) -> Table:
    # Names are given as Text, since rich would take a scenario called "[18,25)" for a style.
    table = Table(
        title=None if title is None else Text(f"{title}\n"),
        caption=Text("\n".join(["", *notes])) if notes else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for number, name in enumerate(_header(evaluation, metrics)):
        if number < 2:
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    for section in _sections(evaluation, metrics, _SHORT):  # the word, in many columns, would leave names no room
        for row in section:
            if any(row[_NAMES:]):  # else of a task that has none of these metrics
                table.add_row(*map(Text, row))
        table.add_section()
    return table


def markdown(evaluation: Evaluation) -> str:
    """Return the same table in Markdown, with the word "undefined" for a dash and the notes as a list below."""
    metrics = _metrics(evaluation)
    header = _header(evaluation, metrics)
    rows = [row for section in _sections(evaluation, metrics, _UNDEFINED) for row in section]
    lines = [header, ["---", "---", *["---:"] * (len(header) - 2)], *rows]
    table = "\n".join(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |" for line in lines)
    notes = "\n".join(f"- {note}" for note in _notes(evaluation))
    return f"{table}\n\n{notes}\n" if notes else f"{table}\n"


def _metrics(evaluation: Evaluation) -> list[str]:
    """Return the metrics that have a column."""
    defined = {key.split("/")[0] for key in evaluation.flat()}
    return [name for name in evaluation.applicable if name in defined or not METRICS[name].hidden_if_undefined]


def _absent(evaluation: Evaluation) -> list[str]:
    """Return the metrics that the version that wrote the result did not know."""
    there = {metric for cell in evaluation.pooled.values() for metric in cell.values}
    return [metric for metric in evaluation.applicable if metric not in there]


def _header(evaluation: Evaluation, metrics: Iterable[str]) -> list[str]:
    counts = ["Lists", "Positives"] if evaluation.of_lists else ["Rows", "Positive"]
    return ["Scenario", "Task", *counts, *map(metric_heading, metrics)]


def _label_summary(cell: Cell) -> str:
    """Return what the labels are like: the share of positives, or the mean of numbers and ordered classes.

    Of ranked lists it is the number of positives a list.
    """
    if cell.type == "ranking":
        return f"{(cell.positives or 0) / cell.rows:.1f} a list" if cell.rows else ""
    if cell.positives is not None:
        return f"{cell.positives / cell.rows:.1%}" if cell.rows else ""
    return "" if cell.mean_label is None else f"mean {cell.mean_label:.4g}"


def _sections(evaluation: Evaluation, metrics: Sequence[str], undefined: str) -> list[list[list[str]]]:
    tasks, absent = evaluation.tasks, _absent(evaluation)
    tasks_with = {metric: evaluation.tasks_with(metric) for metric in metrics}

    def number(metric: str, value: float | None) -> str:
        return _ABSENT if metric in absent else undefined if value is None else shown(metric, value)

    def of_task(metric: str, task: str | None, value: float | None) -> str:
        applies = task is None or task in tasks_with[metric]
        return number(metric, value) if applies else ""

    def line(name: str, task: str, cell: Cell) -> list[str]:
        values = (of_task(metric, task, cell.value(metric)) for metric in metrics)
        return [name, task, str(cell.rows), _label_summary(cell), *values]

    def mean(name: str, task: str | None) -> list[str]:
        values = (
            "" if task is None and mixes_units(metric, (evaluation.types[of] for of in tasks_with[metric]))
            else of_task(metric, task, evaluation.macro(metric, task))
            for metric in metrics
        )  # fmt: skip
        return ["macro mean", name, "", "", *values]

    sections = [
        [line(scenario, task, cell) for scenario, row in evaluation.cells.items() for task, cell in row.items()]
    ]
    if not _pooled_repeats_cells(evaluation):
        sections.append([line("all rows", task, cell) for task, cell in evaluation.pooled.items()])
    if evaluation.segments:
        sections.append([line(name, of, cell) for name, row in evaluation.segments.items() for of, cell in row.items()])
    summary = [mean(task, task) for task in tasks] if len(evaluation.cells) > 1 else []
    if len(tasks) > 1:
        summary.append(mean("all", None))
    worst = evaluation.worst(evaluation.leading)
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
    for scenario, task, reason in [*evaluation.undefined, *evaluation.undefined_segments]:
        by_reason.setdefault(reason, []).append(f"{scenario}/{task}")
    absent = _absent(evaluation)
    for metric in _metrics(evaluation):
        tasks = evaluation.tasks_with(metric)
        for scenario, row in [*evaluation.cells.items(), *evaluation.segments.items()]:
            for task, cell in row.items():
                applies = task in tasks
                if applies and metric not in absent and cell.undefined is None and cell.value(metric) is None:
                    reason = f"{metric_heading(metric)}: {METRICS[metric].undefined_reason}"
                    by_reason.setdefault(reason, []).append(f"{scenario}/{task}")
    notes = _other_worst(evaluation)
    notes += [f"undefined, in no mean: {', '.join(names)} ({reason})" for reason, names in by_reason.items()]
    apart = {
        task: cell.rows - sum(row[task].rows for row in evaluation.cells.values())
        for task, cell in evaluation.pooled.items()
    }
    if any(apart.values()):
        counts = ", ".join(f"{rows} ({task})" for task, rows in apart.items() if rows)
        notes.append(f"rows of no declared scenario, counted in 'all rows' only: {counts}")
    headings = [metric_heading(metric) for metric in _metrics(evaluation) if metric in absent]
    if headings:
        notes.append(f"{_ABSENT}: the version that wrote this result did not compute {', '.join(headings)}")
    return notes


def _other_worst(evaluation: Evaluation) -> list[str]:
    """Return a note with the worst cells of metrics where these are not the one with the lowest AUC."""
    lowest = evaluation.worst(evaluation.leading)
    others = []
    for metric in _metrics(evaluation):
        worst = evaluation.worst(metric)
        if lowest is not None and worst is not None and worst[:2] != lowest[:2]:
            others.append(f"{metric_heading(metric)} {shown(metric, worst.value)} ({worst.scenario}/{worst.task})")
    return [f"worst of other metrics: {', '.join(others)}"] if others else []


def _number(value: float | None) -> str:
    return _UNDEFINED if value is None else f"{value:.4f}"


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
