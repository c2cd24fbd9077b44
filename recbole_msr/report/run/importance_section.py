"""Show the importance of fields: a section of the page of a run, tables in the terminal, and two files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from markupsafe import Markup

from recbole_msr.errors import InputError
from recbole_msr.evaluation.importance import COLUMNS, FORMAT, SHOWN, FieldImportance, Importance, Loss
from recbole_msr.evaluation.metrics import metric_heading, shown
from recbole_msr.files.atomic import write_atomically
from recbole_msr.files.spreadsheet import write_csv
from recbole_msr.report.html.interval_chart import Interval, interval_chart
from recbole_msr.report.html.page import heat_map, note

_MOST_SCENARIOS = 30
"""Scenarios in the page; the files have all."""


def importance_parts(importance: Importance) -> list[str | Markup]:
    """Return the section of the page: for each task a chart of the fields, and their losses by scenario."""
    parts: list[str | Markup] = [_says(importance), *map(note, sentences(importance.notes))]
    for task, kind in importance.types.items():
        metric = SHOWN[kind]
        of_task = [(one, _overall(one, metric, task)) for one in importance.fields]
        if not any(loss for _, loss in of_task):
            continue
        heading = f"Loss of {metric_heading(metric)}"
        parts.append(
            interval_chart(
                [
                    (one.name, None if loss is None else Interval(loss.mean, loss.low, loss.high))
                    for one, loss in of_task
                ],
                heading=heading,
                header="Field",
                caption=f"{task}: {heading}, {_over(importance, metric, task)}",
                show=partial(shown, metric),
            )
        )
        if importance.runs:
            parts.append(
                _by_run(importance, task, metric, f"{task}: {heading} by run, {_over(importance, metric, task)}")
            )
        if len(importance.scenarios) > 1:
            parts.append(_by_scenario(importance, task, metric, f"{task}: {heading} by scenario, with 95 % intervals"))
    if len(importance.scenarios) > _MOST_SCENARIOS:
        parts.append(
            f"The first {_MOST_SCENARIOS} of {len(importance.scenarios)} scenarios are shown; the files have all."
        )
    if importance.undefined:
        cells = (f"{scenario}, {task}: {reason}" for scenario, task, reason in importance.undefined)
        parts.append(f"Without importance: {'; '.join(cells)}.")
    return parts


def _says(importance: Importance) -> str:
    metrics = ", ".join(dict.fromkeys(metric_heading(SHOWN[kind]) for kind in importance.types.values()))
    runs = len(importance.runs)
    over = f" and of {runs} runs" if runs else ""
    others = "other users, other shuffles and other trainings" if runs else "other users and other shuffles"
    return (
        f"How much worse the trained model's {metrics} gets when each row has a field's value of another row of its "
        f"scenario: the mean of {importance.shuffles} shuffle{'s' if importance.shuffles > 1 else ''} (seed "
        f"{importance.seed}){over}, over {importance.rows:,} {importance.split} rows. The 95 % intervals count what "
        f"{others} would change; a pale bar's reaches over zero. Fields that say the same stand in for "
        "each other, and each may seem unimportant: --fields=a+b shuffles them together."
    )


def sentences(notes: Sequence[str]) -> list[str]:
    """Return notes as sentences."""
    return [f"{line[:1].upper()}{line[1:]}." for line in notes]


def _overall(one: FieldImportance, metric: str, task: str) -> Loss | None:
    """Return the mean loss over the scenarios; that of all rows where no scenario has one."""
    return one.loss(metric, task, macro=True) or one.loss(metric, task)


def _over(importance: Importance, metric: str, task: str) -> str:
    has_macro = any(one.loss(metric, task, macro=True) for one in importance.fields)
    return "mean over the scenarios" if has_macro else "all rows"


def _by_run(importance: Importance, task: str, metric: str, caption: str) -> Markup:
    found = [_overall(one, metric, task) for one in importance.fields]
    return heat_map(
        [one.name for one in importance.fields],
        importance.runs,
        [[None] * len(importance.runs) if loss is None else list(loss.by_run) for loss in found],
        caption=caption,
        corner="field \\ run",
        low=0.0,
        show=partial(shown, metric),
    )


def _by_scenario(importance: Importance, task: str, metric: str, caption: str) -> Markup:
    scenarios = importance.scenarios[:_MOST_SCENARIOS]
    found = [[one.loss(metric, task, scenario) for scenario in scenarios] for one in importance.fields]
    return heat_map(
        [one.name for one in importance.fields],
        scenarios,
        [[None if loss is None else loss.mean for loss in line] for line in found],
        caption=caption,
        corner="field \\ scenario",
        low=0.0,
        show=partial(shown, metric),
        marks=[["" if loss is None else f"({_range(loss, metric)})" for loss in line] for line in found],
    )


def _range(loss: Loss, metric: str) -> str:
    return f"{shown(metric, loss.low)} to {shown(metric, loss.high)}"


def importance_table(importance: Importance) -> tuple[list[str], list[list[str | int | float | None]]]:
    """Return the header and the lines of the table in the terminal: a line a field, two columns a task."""
    header, tasks = ["Field"], list(importance.types.items())
    for task, kind in tasks:
        header += [f"{task}: {metric_heading(SHOWN[kind])} loss", "95 % interval"]
    lines: list[list[str | int | float | None]] = []
    for one in importance.fields:
        line: list[str | int | float | None] = [one.name]
        for task, kind in tasks:
            loss = _overall(one, SHOWN[kind], task)
            line += [None, None] if loss is None else [shown(SHOWN[kind], loss.mean), _range(loss, SHOWN[kind])]
        lines.append(line)
    return header, lines


# The files.


def importance_paths(page: Path) -> tuple[Path, Path]:
    """Return the paths of the CSV and the JSON file beside a page: explain-importance.csv beside explain.html."""
    stem = f"{page.stem}-importance"
    return page.with_name(f"{stem}.csv"), page.with_name(f"{stem}.json")


def check_importance_files(page: Path) -> None:
    """Refuse to put the files in the place of anything but such files.

    Raises:
        InputError: there is something else.
    """
    for path, mark in zip(importance_paths(page), (",".join(COLUMNS), FORMAT), strict=True):
        if not path.exists():
            continue
        beginning = b""
        if path.is_file():
            with open(path, "rb") as file:
                beginning = file.read(1 << 12)
        if mark.encode() not in beginning:
            raise InputError(f"{path} exists and holds no importance of fields: give another --out, or move it away")


def write_importance(importance: Importance, page: Path) -> tuple[Path, Path]:
    """Write the files beside a page, and return their paths.

    Raises:
        InputError: a file cannot be written.
    """
    table, whole = importance_paths(page)
    content = json.dumps(importance.to_dict(), indent=1, allow_nan=False) + "\n"
    write_atomically(table, lambda temporary: write_csv(importance.frame(), temporary))
    write_atomically(whole, lambda temporary: Path(temporary).write_text(content, encoding="utf-8"))
    return table, whole
