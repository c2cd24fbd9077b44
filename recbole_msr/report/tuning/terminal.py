"""Print the result of a search in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recbole_msr.evaluation.metrics import METRICS, metric_heading, metrics_among
from recbole_msr.report.tuning.ensemble import ensemble_members, ensemble_rows


def print_search(summary: Mapping[str, Any], *, file: TextIO | None = None) -> None:
    """Print the best trial beside the defaults, on validation, the confirmation, and the final test.

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
    _print_models(console, summary)
    _print_confirmation(console, summary)
    best_test, defaults_test = summary["final"], summary.get("final_defaults")
    for name, final in (("best", best_test), ("defaults", None if defaults_test == best_test else defaults_test)):
        if final is None:
            continue
        cells = [("all rows", task, cell) for task, cell in final["test"]["pooled"].items()]
        cells += [(cell["scenario"], cell["task"], cell) for cell in final["test"]["cells"]]
        metrics = metrics_among(name for _, _, cell in cells for name in cell)
        seeds = ", ".join(map(str, final["seeds"]))
        title = f"Test of the {name} (trial {final['trial']}), seeds {seeds}: mean ± deviation"
        for part in _parts(metrics, console.width):
            rows = [
                (scenario, task, *(_metric_text(metric, cell) for metric in part))
                for scenario, task, cell in cells
                if any(metric in cell for metric in part)  # else it is of a task without these metrics
            ]
            console.print(_table(title, ["scenario", "task", *map(metric_heading, part)], rows, 2))


def _print_models(console: Console, summary: Mapping[str, Any]) -> None:
    """Print what each model of a search over several got of the budget, and what it gave, the best first."""
    models = summary.get("models")
    if not models:
        return
    directions = {objective["name"]: objective["direction"] for objective in summary["objectives"]}
    smaller = directions[summary["valid_metric"]] == "minimize"

    def place(model: str) -> float:
        best = models[model]["best"]
        return float("inf") if best is None else best if smaller else -best

    rows = [
        (
            model,
            *(_value_text(models[model][key]) for key in ("best", "defaults")),
            f"{models[model]['trials']}",
            f"{100 * (models[model]['share'] or 0):.0f} %",
        )
        for model in sorted(models, key=place)
    ]
    header = ["model", f"best {summary['valid_metric']}", "its defaults", "trials", "share of time"]
    console.print(_table("Models", header, rows, 1))


def _value_text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _print_confirmation(console: Console, summary: Mapping[str, Any]) -> None:
    """Print what fresh seeds made of the best trials, and whether the gain on the test rows is significant."""
    confirmation = summary.get("confirmation")
    if confirmation is None:
        return
    confirmed = [one for one in confirmation["candidates"] if one["confirmed"] is not None]
    if confirmed:
        seeds = ", ".join(map(str, confirmation["seeds"]))
        rows = [
            (
                "winner" if one["trial"] == confirmation["winner"] else "",
                f"{one['trial']}",
                one["model"],
                f"{one['told']:.4f}",
                _spread_text(one["confirmed"]),
                f"{one['optimism']:+.4f}",
            )
            for one in confirmed
        ]
        title = f"Confirmation, {confirmation['metric']} on validation with the fresh seeds {seeds}"
        header = ["", "trial", "model", "told by the trial", "confirmed", "optimism"]
        console.print(_table(title, header, rows, 3))
    for sentence in confirmation_sentences(confirmation):
        console.print(Text(sentence))
    console.print()


def confirmation_sentences(confirmation: Mapping[str, Any]) -> list[str]:
    """Return what a confirmation says of the gain, of what was left out, and of an earlier look at the test rows.

    Args:
        confirmation: `confirmation` in a search's summary.json.
    """
    sentences = []
    gain = confirmation["gain"]
    others = [("its defaults", gain["defaults"]), ("the reference", gain["reference"])]
    if None not in gain.values() and gain["defaults"]["trial"] == gain["reference"]["trial"]:
        others.pop()
    for what, of in others:
        if of is None:
            continue
        name = f"{what} ({of['model']}, trial {of['trial']})"
        if of["trial"] == confirmation["winner"]:
            sentences.append(f"The winner is {name}: there is no gain.")
            continue
        sentences.append(_tested_sentence(f"the winner less {name}", of))
    if confirmation["left_out"] is not None:
        sentences.append(f"{confirmation['left_out'][:1].upper()}{confirmation['left_out'][1:]}.")
    if confirmation["tested_before"]:
        trials = ", ".join(map(str, confirmation["tested_before"]))
        sentences.append(f"Earlier commands have tested trial {trials}: the test rows are not quite fresh any more.")
    return sentences


def _tested_sentence(what: str, of: Mapping[str, Any]) -> str:
    """Return the test of a difference in words."""
    if of["metric"] is None:
        return f"Test, {what}: {of['reason'] or 'no metric is tested'}."
    one = of["differences"][of["metric"]]
    verdict = "better" if one["better"] else "worse" if one["worse"] else "no significant difference"
    significant = "significantly " if one["significant"] else ""
    return (
        f"Test, {what}: {of['metric']} {one['mean']:+.4f}, 95 % from {one['low']:+.4f} to {one['high']:+.4f}, "
        f"p {one['p_adjusted']:.2g}: {significant}{verdict}."
    )


def ensemble_sentences(ensemble: Mapping[str, Any]) -> list[str]:
    """Return what the test says of an ensemble beside the winner and the best defaults, with their fresh seeds.

    Args:
        ensemble: `ensemble` in a search's summary.json.
    """
    gain = ensemble.get("gain") or {}
    names = {"winner": "the winner", "reference": "the best defaults"}
    trials = [of["trial"] for of in gain.values() if of is not None]
    return [
        _tested_sentence(f"the ensemble less {names[key]} ({of['model']}, trial {of['trial']})", of)
        for key, of in gain.items()
        if of is not None and (key == "winner" or trials.count(of["trial"]) == 1)
    ]


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


def _metric_text(metric: str, cell: Mapping[str, Any]) -> str:
    return _spread_text(cell[metric], METRICS[metric].digits) if metric in cell else ""


def _spread_text(spread: Mapping[str, Any], digits: str = ".4f") -> str:
    if spread["mean"] is None:
        return "undefined"
    deviation = f" ± {spread['deviation']:{digits}}" if spread["deviation"] is not None else ""
    return f"{spread['mean']:{digits}}{deviation}"


def print_ensemble(summary: Mapping[str, Any], folder: str | Path, *, file: TextIO | None = None) -> None:
    """Print the ensemble of a search beside its best model alone, if there is one.

    Args:
        summary: the content of a search's summary.json.
        folder: the search's.
        file: where to; standard output by default.
    """
    ensemble = summary.get("ensemble")
    if ensemble:
        console = Console(file=file)
        header = ["", "ensemble", f"trial {ensemble['single']}", "gain, ratio"]
        console.print(_table("Ensemble", header, ensemble_rows(ensemble), 1))
        for sentence in ensemble_sentences(ensemble):
            console.print(Text(sentence))
        console.print(Text(f"It is {ensemble_members(ensemble)}.\n"))
        console.print(Text(f"For predict, recommend and serve: --run {Path(folder, ensemble['folder'])}"))
        console.print(Text(f"One model alone, trial {ensemble['single']}: --run {Path(folder, 'best')}\n"))
