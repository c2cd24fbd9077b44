"""The page of a comparison: who is better than the reference, how sure that is, where, and at what cost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from recbole_msr.evaluation.metrics import METRICS, Direction, metric_heading, smaller_is_better
from recbole_msr.report.comparison.differences import describe_difference, mark_of, p_number, sign_of
from recbole_msr.report.comparison.figures import Point, cost_figure, forest
from recbole_msr.report.comparison.leaderboard import leaderboard_part
from recbole_msr.report.comparison.run_sections import RunSections
from recbole_msr.report.comparison.tables import (
    Entry,
    headline,
    mean,
    mean_of,
    metrics_in,
    tables_of,
    task_types,
    tasks_with,
)
from recbole_msr.report.figures import figure_scripts
from recbole_msr.report.html.page import Number, Page, choice, facts, grid, heat_map, note, table, text

logger = logging.getLogger(__name__)

_MAX_KEYS = 80
"""Maximum number of metrics that the reader can pick to see differences in; cells.csv has the others."""
_SIGNED = "{:+.4f}".format
_COSTS = {
    "parameters": "parameters",
    "flops": "FLOPs of one row",
    "latency_1": "latency of one row in ms",
    "latency": "latency of 4096 rows in ms",
    "train_seconds": "seconds of training",
}


def write_compare_page(path: Path, summary: Mapping[str, Any], folder: Path) -> None:
    """Write the page of a comparison: one HTML file that loads nothing, plotly.js (about 4.6 MiB) inside.

    Args:
        path: the file, replaced as a whole.
        summary: the content of summary.json.
        folder: where the folders of runs and searches are that the summary names. What is not there any more, or
            cannot be read, is a sentence that says why.

    Raises:
        InputError: the file cannot be written.
    """
    _ComparePage(summary, RunSections(summary, Path(folder), Path(path).parent)).write(Path(path))


class _ComparePage:
    def __init__(self, summary: Mapping[str, Any], runs: RunSections) -> None:
        self._summary, self._runs = summary, runs
        self._entries: list[Entry] = list(summary["entries"])
        self._tested = [entry for entry in self._entries if entry["test"]]
        self._reference = str(summary["reference"])

    def write(self, path: Path) -> None:
        summary, runs = self._summary, self._runs
        page = Page(
            f"Comparison on {summary['dataset']}",
            f"{len(self._entries)} model{'' if len(self._entries) == 1 else 's'}, compared with {self._reference}",
            scripts=True,
        )
        sections: dict[str, Callable[[], list[str | Markup]]] = {
            "Verdict": self._verdict,
            "Leaderboard": self._leaderboard,
            "Differences": self._differences,
            "Quality and cost": self._costs,
            "Scenarios and tasks": self._cells,
        }
        if self._summary.get("test_segments"):
            sections["Training rows of users and items"] = self._segments
        if any(entry["transfer"] for entry in self._entries):
            sections["Negative transfer"] = self._transfer
        if any(entry.get("calibrated") for entry in self._entries):
            sections["Calibration"] = self._calibration
        sections["Training curves"] = runs.curves
        if any(entry["searches"] for entry in self._entries):
            sections["Searches"] = runs.searches
        sections |= {"What the models have learnt": runs.learnt, "Configurations": runs.configurations}
        for title, parts in sections.items():
            page.section(title, *_built(title, parts))
        page.section("How to do it again", *self._again(), figure_scripts())
        page.write(path)

    # The numbers of the summary.

    def _verdict(self) -> list[str | Markup]:
        summary = self._summary
        parts: list[str | Markup] = [Markup('<p class="verdict">{}</p>').format(s) for s in summary["verdict"]]
        rows = summary["rows"]
        seeds = ", ".join(map(str, summary["seeds"]))
        parts.append(
            facts(
                {
                    "Dataset": summary["dataset"],
                    "Rows": f"{rows['train']:,} train, {rows['valid']:,} validation, {rows['test']:,} test",
                    "Scenarios": ", ".join(summary["scenarios"]),
                    "Tasks": ", ".join(summary["tasks"]),
                    "Reference": self._reference,
                    "Seeds": f"{seeds}; the split is the same for all (data_seed {summary['data_seed']})",
                    "Budget": self._budget(),
                    "Best epoch by": f"{summary['valid_metric']} on the validation split",
                    "Command": Markup("<code>{}</code>").format(summary["command"]),
                }
            )
        )
        second = {"binary": ["positive"], "number": ["mean"]}
        header = ["Scenario"]
        for task, kind in task_types(summary).items():
            header += [f"{task}: {'lists' if kind == 'ranking' else 'rows'}", *second.get(kind, [])]
        counts = [
            [scenario, *(number for task in summary["tasks"] for number in self._count(scenario, task))]
            for scenario in summary["scenarios"]
        ]
        ranked = "ranking" in task_types(summary).values()
        caption = "Test lists with a positive of the task" if ranked else "Test rows that carry a task's label"
        return [*parts, table(header, counts, caption=caption)]

    def _budget(self) -> str:
        summary = self._summary
        epochs = f"at most {summary['epochs']} epochs a run"
        if not summary["trials"]:
            return f"every model with its defaults, {epochs}"
        limit = f" or {summary['timeout']:g} seconds" if summary["timeout"] else ""
        return f"a search of {summary['trials']} trials{limit} for every model, {epochs}"

    def _count(self, scenario: str, task: str) -> list[float | None]:
        cell = self._summary["test_cells"].get(scenario, {}).get(task) or {}
        counts = {"binary": ["positives"], "number": ["mean_label"]}.get(task_types(self._summary)[task], [])
        return [cell.get(name) for name in ("rows", *counts)]

    def _leaderboard(self) -> list[str | Markup]:
        return ["On the test split, on which nothing was selected.", leaderboard_part(self._summary)]

    def _differences(self) -> list[str | Markup]:
        compared = [entry for entry in self._entries if entry["differences"]]
        if not compared:
            why = (
                "There is nothing but the reference."
                if len(self._entries) == 1
                else f"Nothing could be tested against {self._reference}: it or all others have failed."
            )
            return [note(why)]
        keys = list(dict.fromkeys(key for entry in compared for key in entry["differences"]))
        parts: list[str | Markup] = [
            f"Each model less {self._reference}, with its 95 % interval. The interval and p account for the variation "
            "over test rows and over seeds; p adjusted is Holm's for the number of models. Only what is "
            f"significant after that (p adjusted below {self._summary['alpha']:g}) has a colour."
        ]
        if len(self._summary["seeds"]) == 1:
            parts.append(note("There is one seed: how much the result depends on the seed is not known."))
        if len(keys) > _MAX_KEYS:
            parts.append(f"Of {len(keys)} metrics the first {_MAX_KEYS} are here; cells.csv has all.")
        options: dict[str, list[str | Markup]] = {}
        for key in keys[:_MAX_KEYS]:
            differences = {e["label"]: e["differences"][key] for e in compared if e["differences"].get(key)}
            if differences:
                heading, smaller = _heading(key), smaller_is_better(key)
                options[heading] = [
                    forest(differences, heading, self._reference, smaller),
                    self._difference_table(differences, heading, smaller),
                ]
        return [*parts, choice("Metric", options)]

    def _difference_table(self, differences: Mapping[str, Mapping[str, Any]], heading: str, smaller: bool) -> Markup:
        header = ["Model", "Difference", "from", "to", "± rows", "± seeds", "p", "p adjusted", "Finding"]
        rows = [
            [
                label,
                *(Number(d[key], _SIGNED(d[key])) for key in ("mean", "low", "high")),
                d["row_error"],
                d["seed_error"],
                *(None if d[key] is None else Number(d[key], p_number(d[key])) for key in ("p", "p_adjusted")),
                f"{sign_of(d)} {mark_of(d) or 'not significant'}".strip(),
            ]
            for label, d in sorted(differences.items(), key=lambda pair: pair[1]["mean"], reverse=not smaller)
        ]
        return table(
            header,
            rows,
            caption=f"{heading}: difference to {self._reference}, 95 % interval, standard errors",
            sortable=True,
        )

    def _costs(self) -> list[str | Markup]:
        options: dict[str, Markup] = {}
        for key, title in _COSTS.items():
            points = []
            for number, entry in enumerate(self._entries):
                macro = f"{headline(self._summary)}/macro"
                cost, quality = entry["cost"].get(key), mean(entry, macro)
                cost = mean_of(cost) if isinstance(cost, Mapping) else cost
                if cost is not None and quality is not None:
                    deviation = entry["test"][macro].get("deviation")
                    points.append(Point(entry["label"], number, entry["kind"], float(cost), quality, deviation))
            if points:
                options[title] = cost_figure(points, title, f"macro {metric_heading(headline(self._summary))}")
        if not options:
            return [note("No cost is known of a model that has a result.")]
        return [
            "Above and to the left is better. On the front (filled, and named in the picture) are the models that no "
            "other beats in one without losing in the other, by the means; whether a difference in "
            f"{metric_heading(headline(self._summary))} is more than chance is in the leaderboard. A single-task model "
            "is paid for once a task, and its costs are added up.",
            choice("Cost", options),
        ]

    def _cells(self) -> list[str | Markup]:
        if not self._tested:
            return [note("No model has a result.")]
        labels = [str(entry["label"]) for entry in self._tested]
        options: dict[str, Markup] = {}
        for metric in metrics_in(self._summary):
            tasks = tasks_with(self._summary, metric)
            places = [(scenario, task) for scenario in self._summary["scenarios"] for task in tasks]
            columns = [f"{scenario} · {task}" for scenario, task in places]
            keys = [f"{metric}/{scenario}/{task}" for scenario, task in places]
            values = [[mean(entry, key) for key in keys] for entry in self._tested]
            if all(value is None for line in values for value in line):
                continue
            name, smaller = metric_heading(metric), smaller_is_better(metric)
            ratio = METRICS[metric].direction is Direction.NEAREST_TO_ONE
            options[name] = heat_map(
                labels,
                columns,
                [[None if v is None else v - 1 for v in line] for line in values] if ratio else values,
                caption=f"{name}, mean over the seeds" + ("; best at 1, the palest" if ratio else ""),
                corner="model \\ scenario · task",
                scale="diverging" if ratio else "sequential",
                show=_around_one if ratio else f"{{:{METRICS[metric].digits}}}".format,
                reverse=smaller,
            )
            others = [entry for entry in self._tested if entry["differences"]]
            differences = [[entry["differences"].get(key) for key in keys] for entry in others]
            if any(difference for line in differences for difference in line):
                options[f"{name}, difference to {self._reference}"] = heat_map(
                    [str(entry["label"]) for entry in others],
                    columns,
                    [[None if d is None else d["mean"] for d in line] for line in differences],
                    caption=f"{name} less that of {self._reference}: blue is better; only ▲ and ▼ are significant",
                    corner="model \\ scenario · task",
                    scale="diverging",
                    show=_SIGNED,
                    reverse=smaller,
                    marks=[[sign_of(d) for d in line] for line in differences],
                )
        return [choice("Numbers", options)]

    def _segments(self) -> list[str | Markup]:
        tables = [data for data in tables_of(self._summary) if data.name.startswith("segments-")]
        if not tables:
            return [note("No segment has a value.")]
        parts: list[str | Markup] = [
            "On the test split. A user or item with 0 training rows is new to the models. The other metrics by segment "
            "are in the leaderboard and in cells.csv."
        ]
        for data in tables:
            parts += [Markup("<h3>{}</h3>").format(data.title), grid(data, data.title), *data.notes]
        return parts

    def _calibration(self) -> list[str | Markup]:
        (data,) = [data for data in tables_of(self._summary) if data.name == "calibration"]
        return ["On the test split; fitted on the validation split.", grid(data, data.title), *data.notes]

    def _transfer(self) -> list[str | Markup]:
        having = [entry for entry in self._entries if entry["transfer"]]
        places = [(scenario, task) for scenario in self._summary["scenarios"] for task in self._summary["tasks"]]
        cells = [[entry["transfer"]["cells"].get(s, {}).get(t) for s, t in places] for entry in having]
        rows = []
        for entry, line in zip(having, cells, strict=True):
            for (scenario, task), cell in zip(places, line, strict=True):
                if cell is not None:
                    d = cell["difference"]
                    finding = {"better": "▲ gains", "worse": "▼ negative transfer"}.get(
                        mark_of(d) or "", "not significant"
                    )
                    numbers = (Number(d[key], _SIGNED(d[key])) for key in ("mean", "low", "high"))
                    adjusted = Number(d["p_adjusted"], p_number(d["p_adjusted"]))
                    rows.append(
                        [entry["label"], scenario, task, cell["joint"], cell["alone"], *numbers, adjusted, finding]
                    )
        header = ["Model", "Scenario", "Task", "Joint", "Alone", "Difference", "from", "to", "p adjusted", "Finding"]
        macros = [
            f"{entry['label']}: {describe_difference(entry['transfer']['macro'], 'each scenario alone')}."
            for entry in having
            if entry["transfer"].get("macro")
        ]
        return [
            "AUC of one model trained on all scenarios (joint) less that of the same model trained on the scenario's "
            "rows alone. Below 0 the other scenarios have harmed it: negative transfer.",
            *([Markup("<ul>{}</ul>").format(Markup("").join(Markup("<li>{}</li>").format(m) for m in macros))]
              if macros else []),
            heat_map(
                [str(entry["label"]) for entry in having],
                [f"{scenario} · {task}" for scenario, task in places],
                [[None if cell is None else cell["difference"]["mean"] for cell in line] for line in cells],
                caption="AUC, joint less alone: only ▲ and ▼ are significant",
                corner="model \\ scenario · task",
                scale="diverging",
                show=_SIGNED,
                marks=[["" if cell is None else sign_of(cell["difference"]) for cell in line] for line in cells],
            ),
            table(header, rows, caption="Joint and alone: AUC, difference, 95 % interval", sortable=True),
        ]  # fmt: skip

    def _again(self) -> list[str | Markup]:
        summary = self._summary
        where = {"Workers": summary["workers"], "Threads": summary["threads"], "Device": summary["device"]}
        return [
            text(str(summary["command"])),
            facts({**where, "Seconds": f"{summary['seconds']:,.0f}"}),
            facts({str(name): str(value) for name, value in summary["versions"].items()}),
        ]


def _around_one(distance: float) -> str:
    return f"{1 + distance:.4f}"


def _heading(key: str) -> str:
    """Return a metric key in words: "AUC macro", "AUC young · click"."""
    metric, *rest = key.split("/")
    return f"{metric_heading(metric)} {' · '.join(rest)}"


def _built(title: str, parts: Callable[[], list[str | Markup]]) -> list[str | Markup]:
    """Return a section's parts, or why there are none. One that fails must not cost the others."""
    try:
        return parts()
    except Exception as error:
        logger.debug("the section '%s' could not be made", title, exc_info=True)
        return [note(f"This part could not be made: {type(error).__name__}: {error}")]
