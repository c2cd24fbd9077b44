"""Print the result of a search in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recbole_msr.evaluation.metrics import METRICS, metric_heading


def print_search(summary: Mapping[str, Any], *, file: TextIO | None = None) -> None:
    """Print the best trial beside the defaults, on validation, and the final test.

    Args:
        summary: the content of a search's summary.json.
        file: where to; standard output by default.
    """
    console = Console(file=file)
    counts = ", ".join(f"{number} {state}" for state, number in summary["trials"].items() if number)
    console.print(Text(f"Study '{summary['study']}': {counts or 'no trial has ended'}"))
    best = summary["best"]
    if best is not None:
        objectives = [f"{objective['name']} ({objective['direction']})" for objective in summary["objectives"]]
        rows = [
            (name, str(trial["number"]), *(f"{value:,.6g}" for value in trial["values"]))
            for name, trial in (("best", best), ("defaults", summary["defaults"]))
            if trial is not None
        ]
        console.print(_table("Validation", ["", "trial", *objectives], rows, 1))
        settings = ", ".join(f"{name}={value}" for name, value in best["params"].items())
        console.print(Text(f"Best: {settings}\n"))
        if best.get("cut_off"):
            console.print(
                Text(f"Trial {best['number']} has not ended ({best['cut_off']}): more time goes on with it.\n")
            )
    best_test, defaults_test = summary["final"], summary.get("final_defaults")
    for name, final in (("best", best_test), ("defaults", None if defaults_test == best_test else defaults_test)):
        if final is None:
            continue
        cells = [("all rows", task, cell) for task, cell in final["test"]["pooled"].items()]
        cells += [(cell["scenario"], cell["task"], cell) for cell in final["test"]["cells"]]
        metrics = [metric for metric in METRICS if all(metric in cell for _, _, cell in cells)]
        seeds = ", ".join(map(str, final["seeds"]))
        title = f"Test of the {name} (trial {final['trial']}), seeds {seeds}: mean ± deviation"
        for part in _parts(metrics, console.width):
            rows = [
                (scenario, task, *(_spread_text(cell[metric]) for metric in part)) for scenario, task, cell in cells
            ]
            console.print(_table(title, ["scenario", "task", *map(metric_heading, part)], rows, 2))


def _parts(metrics: Sequence[str], width: int) -> list[Sequence[str]]:
    """Cut metrics into as few parts as fit a terminal beside the names: these take 26 columns, a metric 17."""
    count = -(-len(metrics) // max(3, (width - 26) // 17))
    ends = [-(-len(metrics) * part // count) for part in range(count + 1)]
    return [metrics[first:last] for first, last in pairwise(ends)]


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], n_labels: int) -> Table:
    """Return a table whose first `n_labels` columns are labels, aligned to the left."""
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, heading in enumerate(header):
        is_label = number < n_labels
        table.add_column(Text(heading), justify="left" if is_label else "right", no_wrap=not is_label)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _spread_text(spread: Mapping[str, Any]) -> str:
    if spread["mean"] is None:
        return "undefined"
    deviation = f" ± {spread['deviation']:.4f}" if spread["deviation"] is not None else ""
    return f"{spread['mean']:.4f}{deviation}"
