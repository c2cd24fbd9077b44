"""Show an explanation: tables in the terminal, and a page with the same numbers, heat maps and whole texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from markupsafe import Markup
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recbole_msr.errors import InputError
from recbole_msr.evaluation.cells import Evaluation
from recbole_msr.evaluation.metrics import headlines, metric_heading
from recbole_msr.files.outputs import check_paths
from recbole_msr.report.html.page import Page, facts, heat_map, note, table
from recbole_msr.report.run.id_sections import Line, id_parts, id_table, prompt_length, prompt_parts
from recbole_msr.report.run.importance_section import (
    check_importance_files,
    importance_parts,
    importance_table,
    sentences,
    write_importance,
)
from recbole_msr.report.run.knowledge_section import knowledge_parts, knowledge_tables
from recbole_msr.report.run.result_table import print_result
from recbole_msr.runs.explain.permutation import ImportanceOptions
from recbole_msr.runs.explain.views import Explanation, Matrix, Prompt
from recbole_msr.runs.gate_use import NEVER
from recbole_msr.runs.saved_run import SavedRun

MOVED = (
    "How far the weights of attentions and gates are from those before the first step: the share of the weight that "
    "lies on other choices now, 0 to 1. What has hardly moved is as it was drawn, and was not learnt."
)
_PRINTED = 200
"""Number of characters of a text that are printed in the terminal; the page has all of it."""
TITLE, TITLE_OF_RUNS = "what it has learnt", "runs have learnt"
"""Words in the title of every such page: of one run or ensemble, and of several runs."""


def write_explanation(
    run_dir: str | Path,
    out: str | Path | None = None,
    users: Sequence[str] | None = None,
    n: int | None = None,
    knowledge_dir: str | Path | None = None,
    *,
    importance: ImportanceOptions | None = None,
    file: TextIO | None = None,
) -> Path:
    """Explain a finished run: print it and write the page, and with `importance` two files beside it.

    Args:
        run_dir: the run's folder.
        out: the page; `explain.html` in the run's folder by default.
        users: raw ids of users; by default `n` users spread over the scenarios.
        n: number of those users, 5 by default.
        knowledge_dir: where the run's knowledge is, if it has moved.
        importance: how the importance of fields is measured; None leaves it out.
        file: where to print; standard output by default.

    Returns:
        The page's path.

    Raises:
        InputError: as `SavedRun.explain`; or a file cannot be written.
    """
    if users is not None and n is not None:
        raise InputError("give --users=ID,ID or --n=NUMBER, not both")
    check_paths({"knowledge_dir": knowledge_dir}, run=run_dir, out=out)
    path = Path(out) if out is not None else Path(run_dir, "explain.html")
    check_page(path)
    if importance is not None:
        check_importance_files(path)
    explanation = SavedRun(run_dir, knowledge_dir).explain(users, n, importance)
    page(explanation).write(path)
    print_explanation(explanation, file=file)
    if explanation.importance is not None:
        print(f"Importance: {', '.join(map(str, write_importance(explanation.importance, path)))}", file=file)
    print(f"Page: {path}", file=file)
    return path


def check_page(path: Path) -> None:
    """Refuse to put the page in the place of anything but such a page.

    Raises:
        InputError: there is something else.
    """
    if path.is_dir():
        raise InputError(f"--out must be a file, but {path} is a folder")
    if not path.exists():
        return
    with open(path, "rb") as file:
        beginning = file.read(1 << 12)
    head = beginning.split(b"</title>")[0]
    if not any(words.encode() in head for words in (TITLE, TITLE_OF_RUNS)):
        raise InputError(
            f"{path} exists and is no page of recbole-msr explain: give another --out, or remove it if it is not needed"
        )


# The page.


def page(explanation: Explanation) -> Page:
    """Draw the page of an explanation."""
    drawn = Page(f"{explanation.facts['Model']} on {explanation.facts['Dataset']}: {TITLE}", str(explanation.run))
    drawn.section("The run", facts(explanation.facts), *map(note, _notes(explanation)))
    if explanation.evaluation is not None:
        drawn.section("Results by scenario", *_results(explanation))
    if explanation.importance is not None:
        drawn.section("Importance of fields", *importance_parts(explanation.importance))
    drawn.section("Scenarios", *_scenarios(explanation))
    if explanation.between:
        drawn.section("Between scenarios", *_between(explanation))
    if explanation.gates:
        drawn.section("Experts", *_gates(explanation))
    if explanation.moves:
        drawn.section("Moved from the start", MOVED, table(*_moves_table(explanation)))
    if explanation.knowledge is not None:
        titles = {view.token: view.title for view in explanation.items if view.title}
        drawn.section("Knowledge", *knowledge_parts(explanation.knowledge, titles))
    drawn.section("Users", *id_parts(explanation.users, "user"))
    if explanation.items:
        drawn.section("Items", *id_parts(explanation.items, "item"))
    return drawn


_LABELLED_ROWS = "Test rows that carry the task's label"


def _results(explanation: Explanation) -> list[str | Markup]:
    assert explanation.evaluation is not None
    cells, types = explanation.evaluation.cells, explanation.evaluation.types
    parts: list[str | Markup] = []
    for metric, tasks in headlines(types, explanation.evaluation.of_lists).items():
        values = [[row[task].value(metric) for task in tasks] for row in cells.values()]
        caption = f"{metric_heading(metric)} on the test rows"
        parts.append(
            heat_map(list(cells), tasks, values, caption=caption, corner="scenario \\ task", show="{:.4f}".format)
        )
    undefined = [f"{scenario}, {task}: {reason}" for scenario, task, reason in explanation.evaluation.undefined]
    rows = [(name, *(row[task].rows for task in types)) for name, row in cells.items()]
    counted = "Lists with a positive of the task" if explanation.evaluation.of_lists else _LABELLED_ROWS
    return [
        *parts,
        *([f"Undefined: {'; '.join(undefined)}."] if undefined else []),
        table(["Scenario", *types], rows, caption=counted),
        *_segments(explanation.evaluation, counted),
    ]


def _segments(evaluation: Evaluation, counted: str) -> list[str | Markup]:
    """Return the metrics of segments, and their rows."""
    segments, types = evaluation.segments, evaluation.types
    if not segments:
        return []
    parts: list[str | Markup] = [
        "Segments: test rows by the number of training rows of their user (user_rows) and of their item (item_rows)."
    ]
    for metric, tasks in headlines(types, evaluation.of_lists).items():
        values = [[cells[task].value(metric) for task in tasks] for cells in segments.values()]
        caption = f"{metric_heading(metric)} on the test rows of segments"
        parts.append(
            heat_map(list(segments), tasks, values, caption=caption, corner="segment \\ task", show="{:.4f}".format)
        )
    lines = [(name, *(cells[task].rows for task in types)) for name, cells in segments.items()]
    return [*parts, table(["Segment", *types], lines, caption=f"{counted}, of segments")]


def _scenarios(explanation: Explanation) -> list[str | Markup]:
    parts: list[str | Markup] = []
    if any(view.movement or view.strength for view in explanation.scenarios):
        parts.append(
            "Movement: how far the user level, or the item level, moves the input vector x of a row, |x' - x| / |x|. "
            "Strength: what the scenario level adds to a task's logit, |alpha r|. All are means over training rows."
        )
    parts.append(table(*_scenario_table(explanation)))
    for view in explanation.scenarios:
        parts += prompt_parts(view.prompt, f"Scenario {view.name}", opened=view is explanation.scenarios[0])
    return parts


def _between(explanation: Explanation) -> list[str | Markup]:
    parts: list[str | Markup] = []
    said = ""
    for matrix in explanation.between:
        if matrix.says != said:  # once for the matrices of all tasks
            parts.append(matrix.says)
        said = matrix.says
        parts.append(_matrix(matrix))
    return parts


def _matrix(matrix: Matrix) -> Markup:
    if matrix.signed:
        scale, show, low = "diverging", "{:+.3f}".format, None
    else:
        scale, show, low = "sequential", "{:.3f}".format, 0.0
    return heat_map(
        matrix.rows, matrix.columns, matrix.values, caption=matrix.title, corner=matrix.corner, scale=scale, low=low,
        show=show,
    )  # fmt: skip


def _gates(explanation: Explanation) -> list[str | Markup]:
    parts: list[str | Markup] = [
        "The mean weight that a gate gives to each of its experts, over training rows of a scenario. A line sums to 1. "
        f"An expert is dead if no row gives it a weight of {NEVER:.0%}, or if its output is 0 on every row."
    ]
    for use in explanation.gates:
        if len(use.experts) > 1:
            parts.append(
                heat_map(use.gates, use.experts, use.weights, caption=use.title, corner="gate \\ expert", low=0.0)
            )
        if use.dead:
            parts.append(note(f"{use.title}: {len(use.dead)} dead: {'; '.join(use.dead)}."))
        else:
            parts.append(f"{use.title}: no dead expert.")
    return parts


# Tables, for both.


def _notes(explanation: Explanation) -> list[str]:
    return sentences(explanation.notes)


def _scenario_table(explanation: Explanation) -> tuple[list[str], list[Line]]:
    tasks = next((list(view.strength) for view in explanation.scenarios if view.strength), [])
    moved_by = next((list(view.movement) for view in explanation.scenarios if view.movement), [])
    movements = {of: "Movement" if of == "user" else f"Movement, {of} level" for of in moved_by}
    header = ["Scenario", "Training rows", *movements.values(), *(f"Strength, {task}" for task in tasks)]
    lines: list[Line] = []
    for view in explanation.scenarios:
        of_levels = [view.movement.get(of) for of in moved_by]
        lines.append([view.name, view.rows, *of_levels, *(view.strength.get(task) for task in tasks)])
    return header, lines


def _moves_table(explanation: Explanation) -> tuple[list[str], list[Line]]:
    lines: list[Line] = []
    for move in explanation.moves:
        most = max(range(len(move.now.values)), key=lambda n: abs(move.now.values[n] - move.start.values[n]))
        then, now = move.start.values[most], move.now.values[most]
        lines.append([move.now.part, move.now.line, move.moved, f"{move.now.choices[most]}: {then:.3f} to {now:.3f}"])
    return ["Part", "Weights of", "Moved", "Most changed"], lines


# The terminal.


def print_explanation(explanation: Explanation, *, file: TextIO | None = None, width: int | None = None) -> None:
    """Print the tables, the beginnings of the texts, and what cannot be shown."""
    console = Console(file=file, width=width, highlight=False)
    console.print(Text("; ".join(f"{name}: {value}" for name, value in explanation.facts.items())))
    if explanation.evaluation is not None:
        print_result(explanation.evaluation, "Test", file=file, width=width)
    if explanation.importance is not None:
        what = f"{explanation.importance.split} rows, {explanation.importance.shuffles} shuffles"
        _print(console, f"Importance of fields ({what})", *importance_table(explanation.importance))
    _print(console, "Scenarios", *_scenario_table(explanation))
    for view in explanation.scenarios:
        _print_prompt(console, f"Scenario {view.name}", view.prompt)
    for matrix in explanation.between:
        _print(console, matrix.title, [matrix.corner, *matrix.columns], _named(matrix.rows, matrix.values))
    for use in explanation.gates:
        if len(use.experts) > 1:
            _print(console, f"{use.title}: mean weights", ["Gate", *use.experts], _named(use.gates, use.weights))
        dead = "; ".join(use.dead) or "none"
        console.print(Text(f"{use.title}, dead experts: {dead}"))
    if explanation.moves:
        _print(console, "Moved from the start", *_moves_table(explanation))
    if explanation.knowledge is not None:
        for title, header, lines in knowledge_tables(explanation.knowledge):
            _print(console, title, header, lines)
    for level, views in (("user", explanation.users), ("item", explanation.items)):
        if views:
            _print(console, f"{level.title()}s", *id_table(views, level))
        for one in views:
            _print_prompt(console, f"{level.title()} {one.token}", one.prompt)
    more = [] if explanation.importance is None else sentences(explanation.importance.notes)
    for line in [*_notes(explanation), *more]:
        console.print(Text(f"Note: {line}"))


def print_table(title: str, header: Sequence[str], lines: Sequence[Line], file: TextIO | None = None) -> None:
    """Print one table."""
    _print(Console(file=file, highlight=False), title, header, lines)


def _named(names: Sequence[str], values: Sequence[Sequence[float | None]]) -> list[Line]:
    return [[name, *line] for name, line in zip(names, values, strict=True)]


def _print(console: Console, title: str, header: Sequence[str], lines: Sequence[Line]) -> None:
    printed = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, name in enumerate(header):
        printed.add_column(Text(name), overflow="fold", justify="right" if number else "left")
    for line in lines:
        printed.add_row(*(Text(_shown(value)) for value in line))
    console.print(printed)


def _shown(value: str | int | float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else value


def _print_prompt(console: Console, whose: str, prompt: Prompt | None) -> None:
    if prompt is None:
        return
    for what, content in ((f"prompt ({prompt_length(prompt)})", prompt.text), ("wrote", prompt.answer)):
        if content is not None:
            flat = " ".join(content.split())
            beginning = flat if len(flat) <= _PRINTED else f"{flat[:_PRINTED]} ..."
            console.print(Text(f"{whose}, {what}: {beginning}"))
