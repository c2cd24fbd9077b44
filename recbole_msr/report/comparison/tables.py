"""The tables of a comparison, as data: a terminal, Markdown, LaTeX and the page draw the same ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from recbole_msr.evaluation.metrics import METRICS, CellType, metric_heading, metrics_of
from recbole_msr.evaluation.metrics import headline as headline_of
from recbole_msr.report.comparison.differences import describe_difference, mark_of
from recbole_msr.report.tables import TableCell, TableColumn, TableData, TableRow
from recbole_msr.schema import is_conditional

Entry = Mapping[str, Any]
"""One of `entries` in the summary of a comparison."""


class _Filled(NamedTuple):
    """A column with its cells, in the order of `ranked`."""

    column: TableColumn
    cells: Sequence[TableCell]


def known_keys(summary: Mapping[str, Any]) -> dict[str, tuple[str, str | None, str | None]]:
    """Return every metric key that the scenarios and tasks can have: (metric, scenario, task), in the tables' order.

    A segment stands in the place of a scenario.
    """
    keys: dict[str, tuple[str, str | None, str | None]] = {}
    for metric in metrics_in(summary):
        tasks = [*tasks_with(summary, metric), *_conditionals_with(summary, metric)]
        keys[f"{metric}/macro"] = keys[f"{metric}/worst"] = (metric, None, None)
        for task in tasks:
            keys[f"{metric}/{task}"] = keys[f"{metric}/{task}/macro"] = (metric, None, task)
        for name in [*summary["scenarios"], *summary.get("test_segments", ())]:
            keys |= {f"{metric}/{name}/{task}": (metric, name, task) for task in tasks}
    return keys


def task_types(summary: Mapping[str, Any]) -> dict[str, CellType]:
    """Return the type of each task, "ranking" where lists are compared; a summary of binary tasks need not say."""
    types = summary.get("task_types") or {}
    return {task: types.get(task, "binary") for task in summary["tasks"]}


def metrics_in(summary: Mapping[str, Any]) -> list[str]:
    """Return the metrics that the tasks can have, in the order of tables; weighted ones where there are any."""
    types = task_types(summary)
    weighted = [kind for task, kind in types.items() if _is_weighted(summary, task)]
    return [*metrics_of(types.values(), weighted), *summary.get("of_lists", ())]


def tasks_with(summary: Mapping[str, Any], metric: str) -> list[str]:
    """Return the tasks that can have a metric."""
    by_weight = METRICS[metric].weighted
    types = task_types(summary)
    return [
        t for t, kind in types.items() if kind in METRICS[metric].types and (not by_weight or _is_weighted(summary, t))
    ]


def _conditionals_with(summary: Mapping[str, Any], metric: str) -> list[str]:
    """Return those that can have a metric of the probabilities given another label, such as "buy|click"."""
    if "binary" not in METRICS[metric].types:
        return []
    names = dict.fromkeys(
        key.removeprefix("auc/").removesuffix("/macro")
        for entry in summary["entries"]
        for key in entry["test"]
        if key.startswith("auc/") and key.endswith("/macro")
    )
    return list(filter(is_conditional, names))


def _is_weighted(summary: Mapping[str, Any], task: str) -> bool:
    """Say whether entries are compared by the weights of a task's rows, too."""
    metrics = metrics_of([], [task_types(summary)[task]])
    return any(f"{metric}/{task}" in entry["test"] for metric in metrics for entry in summary["entries"])


def headline(summary: Mapping[str, Any]) -> str:
    """Return the metric that entries are ranked and judged by."""
    return headline_of(task_types(summary).values(), summary.get("of_lists") or ())


def ranked(summary: Mapping[str, Any]) -> list[Entry]:
    """Return the entries: the best mean of the headline's macro on test first, then those without, last the failed."""
    key = f"{headline(summary)}/macro"

    def place(entry: Entry) -> tuple[bool, bool, float]:
        value = mean(entry, key)
        return entry["status"] == "failed", value is None, -(value or 0.0)

    return sorted(summary["entries"], key=place)


def mean_of(spread: Mapping[str, Any] | None) -> float | None:
    """Return the mean of a spread of the summary, None where there is none."""
    value = None if spread is None else spread.get("mean")
    return float(value) if value is not None and math.isfinite(value) else None


def mean(entry: Entry, key: str) -> float | None:
    """Return the mean over the seeds of a metric on test, None where it is undefined."""
    return mean_of(entry["test"].get(key))


def tables_of(summary: Mapping[str, Any]) -> list[TableData]:
    """Return the tables in their order: values over all scenarios, each metric by cell, transfer, cost.

    Marks are of the test against the reference, in the transfer table of the test against training alone. A number has
    one only where the corrected test is significant. Tables by cell are left out where there is one cell or nothing
    is defined, the transfer table where no scenario was trained alone.
    """
    scenarios, tasks, name = summary["scenarios"], summary["tasks"], metric_heading(headline(summary))
    metrics = sorted(metrics_in(summary), key=lambda metric: metric != headline(summary))
    overall = [column for metric in metrics for column in _overall_columns(summary, metric)]
    tables = [_metric_table(summary, "quality", "Quality over all scenarios", overall)]
    for metric in metrics_in(summary) if len(scenarios) * len(tasks) > 1 else ():
        of_metric = tasks_with(summary, metric)
        cells = [(scenario, task, f"{metric}/{scenario}/{task}") for scenario in scenarios for task in of_metric]
        if any(mean(entry, key) is not None for entry in summary["entries"] for _, _, key in cells):
            tables.append(_metric_table(summary, metric, f"{metric_heading(metric)} by scenario and task", cells))
    if conditionals := _conditionals_with(summary, "auc"):
        columns = [
            (f"{metric_heading(metric)}, macro", name, f"{metric}/{name}/macro")
            for name in conditionals
            for metric in ("auc", "logloss")
        ]
        tables.append(_metric_table(summary, "conditionals", "Given the task before, on its positive rows", columns))
    tables += _segment_tables(summary)
    if any(entry["transfer"] is not None for entry in summary["entries"]):
        tables.append(
            _table(
                summary, "transfer",
                f"Transfer between scenarios: {name} when trained on all scenarios minus {name} when trained on that "
                "one alone",
                _transfer_columns(summary), "the same model trained on the scenario alone",
                ["Below zero the transfer is negative: training together harms the scenario."],
            )
        )  # fmt: skip
    if any(entry.get("calibrated") for entry in summary["entries"]):
        tables.append(_calibration_table(summary))
    return [*tables, _table(summary, "cost", "Cost", _cost_columns(summary), None, _cost_notes(summary))]


def _segment_tables(summary: Mapping[str, Any]) -> list[TableData]:
    """Return a table for each axis of segments: each task's headline metric, with the rows that it is of in a note."""
    counts: Mapping[str, Any] = summary.get("test_segments", {})
    of_lists = summary.get("of_lists") or ()
    metrics = {task: headline_of([kind], of_lists) for task, kind in task_types(summary).items()}
    tables = []
    for axis, owner in (("user_rows", "user"), ("item_rows", "item")):
        spans = [name.partition(":")[2] for name in counts if name.startswith(f"{axis}:")]
        columns = [
            (f"{metric_heading(metric)}, {task}", span, f"{metric}/{axis}:{span}/{task}")
            for task, metric in metrics.items()
            for span in spans
        ]
        if any(mean(entry, key) is not None for entry in summary["entries"] for _, _, key in columns):
            title = f"By the number of training rows of the {owner}"
            notes = [
                f"Test {'lists' if of_lists else 'rows'} of {task}: "
                + ", ".join(f"{span}: {_counted(counts[f'{axis}:{span}'][task])}" for span in spans)
                + "."
                for task in metrics
            ]
            table = _metric_table(summary, f"segments-{owner}", title, columns)
            tables.append(replace(table, notes=[*table.notes, *notes]))
    return tables


def _counted(cell: Mapping[str, Any]) -> str:
    positives = f" ({cell['positives']:,} positive)" if "positives" in cell else ""
    return f"{cell['rows']:,}{positives}"


def _overall_columns(summary: Mapping[str, Any], metric: str) -> list[tuple[str, str, str]]:
    """Return a metric's columns of the first table (`Metric.compared`): group, name, metric key."""
    if METRICS[metric].hidden_if_undefined and all(
        mean(entry, f"{metric}/macro") is None for entry in summary["entries"]
    ):
        return []
    name, tasks = metric_heading(metric), tasks_with(summary, metric)
    columns = {
        "macro": [(name, "macro", f"{metric}/macro")],
        "worst": [(name, "worst cell", f"{metric}/worst")],
        "tasks": [(f"{name}, macro", task, f"{metric}/{task}/macro") for task in tasks if len(tasks) > 1],
        "all rows": [(f"{name}, all rows", task, f"{metric}/{task}") for task in tasks],
    }
    leads = metric == headline(summary) and metric in summary.get("of_lists", ())
    kinds = ("macro", "worst", "tasks") if leads else METRICS[metric].compared
    return [column for kind in kinds for column in columns[kind]]


def leaderboard(summary: Mapping[str, Any]) -> TableData:
    """Return every column of the comparison in one table, for a reader who can hide and sort them.

    The columns have the categories "quality METRIC", "quality" (transfer) and "cost"; those without a value are left
    out, but for the macro AUC.
    """
    scenarios = summary["scenarios"]
    columns: list[_Filled] = []
    for metric in metrics_in(summary):
        tasks = tasks_with(summary, metric)
        keys = [
            ("macro", f"{metric}/macro", "mean over all scenarios and tasks"),
            ("worst", f"{metric}/worst", "worst of all scenarios and tasks"),
            *((task, f"{metric}/{task}", f"{task}, all rows together") for task in tasks),
            *(
                (name, f"{metric}/{name}/macro", f"{name}, mean over the scenarios")
                for name in _conditionals_with(summary, metric)
            ),
            *(
                (f"{scenario} · {task}", f"{metric}/{scenario}/{task}", f"rows of scenario {scenario}, task {task}")
                for scenario in scenarios
                for task in tasks
            ),
            *(
                (f"{segment} · {task}", f"{metric}/{segment}/{task}", f"rows of segment {segment}, task {task}")
                for segment in summary.get("test_segments", ())
                for task in tasks
            ),
        ]
        for name, key, description in keys:
            column = TableColumn(
                metric_heading(metric), name, f"{metric_heading(metric)}: {description}", category=f"quality {metric}"
            )
            columns.append(_metric_column(summary, key, column))
    transfer = _transfer_columns(summary)[0]
    columns.append(_Filled(replace(transfer.column, name="Transfer"), transfer.cells))
    columns += _cost_columns(summary, [*_COSTS, _SEARCH_EPOCHS])
    columns = [
        filled
        for filled in columns
        if any(cell.value is not None for cell in filled.cells) or filled is columns[0]
    ]  # fmt: skip
    entries = ranked(summary)
    seeds = [len(entry["seeds"]) for entry in entries]
    kinds = [TableCell(str(entry["kind"]), numeric=False) for entry in entries]
    statuses = [TableCell(str(entry["status"]), notes=entry["reasons"], numeric=False) for entry in entries]
    columns.append(_Filled(TableColumn("", "Kind"), kinds))
    columns.append(
        _Filled(TableColumn("", "Seeds", "with a result"), [TableCell(str(count), value=count) for count in seeds])
    )
    columns.append(_Filled(TableColumn("", "Status"), statuses))
    return _table(summary, "leaderboard", "Leaderboard", columns)


def seeds_note(summary: Mapping[str, Any]) -> str:
    """Return a sentence on what a number and its deviation are."""
    seeds = summary["seeds"]
    if len(seeds) > 1:
        return f"Mean ± sample deviation over {len(seeds)} seeds ({', '.join(map(str, seeds))})."
    return f"One seed ({seeds[0]}): no deviation, and nothing is known about other seeds."


def gaps(summary: Mapping[str, Any]) -> list[str]:
    """Return sentences on what is not in the tables, and why: entries that failed, cells that are undefined."""
    sentences = [failure(entry) for entry in summary["entries"] if entry["status"] != "complete"]
    cells = undefined(summary)
    return sentences + ([f"{without(summary)}, and in no mean: {', '.join(cells)}."] if cells else [])


def how_tested(summary: Mapping[str, Any]) -> str:
    """Return a sentence on how the differences to the reference were tested."""
    many = len(summary["seeds"]) > 1
    rows = "of the test rows (a user's together)"
    error = f"{rows} and of the seeds" if many else f"{rows} alone, as there is one seed"
    return (
        f"Paired t test with the error {error}; Holm's correction over the models within a column; "
        f"alpha = {summary['alpha']:g}."
    )


def failure(entry: Entry) -> str:
    """Return one sentence about an entry that is not complete."""
    what = "failed" if entry["status"] == "failed" else "is there only in part"
    reasons = "; ".join(" ".join(reason.split()).rstrip(".") for reason in entry["reasons"])
    return f"{entry['label']} {what}: {reasons or 'no reason is known'}."


def without(summary: Mapping[str, Any]) -> str:
    """Return how a sentence begins on the cells that `undefined` lists."""
    of_lists = summary.get("of_lists") or ()
    metrics = dict.fromkeys(metric_heading(headline_of([kind], of_lists)) for kind in task_types(summary).values())
    return f"Without an {' or '.join(metrics)}"


def undefined(summary: Mapping[str, Any]) -> list[str]:
    """Return SCENARIO/TASK of the cells without AUC (or XAUC) in any entry, with their rows and positives if known."""
    names = []
    tested = [entry for entry in summary["entries"] if entry["test"]]
    for scenario in summary["scenarios"]:
        for task in summary["tasks"]:
            of_lists = summary.get("of_lists") or ()
            key = f"{headline_of([task_types(summary)[task]], of_lists)}/{scenario}/{task}"
            if tested and all(mean(entry, key) is None for entry in tested):
                cell = summary["test_cells"].get(scenario, {}).get(task)
                positives = "" if cell is None or "positives" not in cell else f", {cell['positives']} positive"
                count = "" if cell is None else f" ({cell['rows']} rows{positives})"
                names.append(f"{scenario}/{task}{count}")
    return names


def _table(
    summary: Mapping[str, Any],
    name: str,
    title: str,
    columns: Sequence[_Filled],
    marks: str | None = None,
    notes: Sequence[str] = (),
) -> TableData:
    rows = [
        TableRow(TableCell(_row_label(entry, summary), numeric=False), [filled.cells[i] for filled in columns])
        for i, entry in enumerate(ranked(summary))
    ]
    return TableData(name, title, [filled.column for filled in columns], rows, marks=marks, notes=notes)


def _row_label(entry: Entry, summary: Mapping[str, Any]) -> str:
    """Return the entry's label with what sets it apart: "HiNet (reference)", "FM (1 of 3 seeds)", "SASRec: failed"."""
    label = str(entry["label"])
    if label == summary["reference"]:
        label += " (reference)"
    if entry["status"] == "failed":
        return f"{label}: failed"
    if len(entry["seeds"]) != len(summary["seeds"]):
        label += f" ({len(entry['seeds'])} of {len(summary['seeds'])} seeds)"
    return label


# Cells.


def _spread_cell(spread: Mapping[str, Any] | None, form: str, notes: Sequence[str] = ()) -> TableCell:
    value = mean_of(spread)
    if spread is None or value is None:
        return TableCell()
    deviation = spread.get("deviation")
    deviation = None if deviation is None else format(deviation, form)
    return TableCell(format(value, form), deviation, value=value, notes=notes)


def _difference_cell(difference: Mapping[str, Any] | None, against: str) -> TableCell:
    if difference is None or difference["mean"] is None:
        return TableCell()
    value = difference["mean"]
    return TableCell(
        f"{value:+.4f}", mark=mark_of(difference), value=value, test=describe_difference(difference, against)
    )


def _number_cell(value: float | None, form: str) -> TableCell:
    if value is None:
        return TableCell()
    if form.endswith("g"):
        return TableCell(f"{value:.3g}" if value < 1000 else f"{value:,.0f}", value=value)
    return TableCell(format(int(value) if form.endswith("d") else value, form), value=value)


# Columns.


def _metric_column(summary: Mapping[str, Any], key: str, column: TableColumn) -> _Filled:
    """Fill a column with the means and deviations of one metric key, each marked by its test against the reference."""
    cells = []
    for entry in ranked(summary):
        place = entry["worst_cell"] if key == f"{headline(summary)}/worst" else None
        notes = [f"{place['scenario']} · {place['task']}"] if place else []
        cell = _spread_cell(entry["test"].get(key), METRICS[key.split("/")[0]].digits, notes)
        difference = (entry["differences"] or {}).get(key)
        if difference is not None and cell.value is not None:
            test = describe_difference(difference, str(summary["reference"]))
            cell = replace(cell, mark=mark_of(difference), test=test)
        cells.append(cell)
    return _Filled(column, cells)


def _metric_table(
    summary: Mapping[str, Any], name: str, title: str, columns: Iterable[tuple[str, str, str]]
) -> TableData:
    """Return a table of metrics; `columns` are their group, name and metric key."""
    columns = list(columns)
    tested = {key for entry in summary["entries"] for key in entry["differences"] or {}}
    defined = {key for entry in summary["entries"] for key in entry["test"] if mean(entry, key) is not None}
    untested = [f"{group} {column}" for group, column, key in columns if key in defined - tested]
    marks, notes = None, []
    if any(key in tested for _, _, key in columns):
        marks = f"the reference {summary['reference']}"
        notes = [f"Not tested: {', '.join(untested)}."] if untested else []
    filled = [_metric_column(summary, key, TableColumn(group, column)) for group, column, key in columns]
    return _table(summary, name, title, filled, marks, notes)


def _transfer_columns(summary: Mapping[str, Any]) -> list[_Filled]:
    """Fill the columns of joint training minus training alone: the macro mean, then every cell."""
    entries = ranked(summary)
    against = "each scenario alone"
    transfers = [entry["transfer"] or {} for entry in entries]
    name = metric_heading(headline(summary))
    description = (
        f"macro {name} of all scenarios together less that of each scenario alone; below 0 is negative transfer"
    )
    macro = [_difference_cell(transfer.get("macro"), against) for transfer in transfers]
    columns = [_Filled(TableColumn("", "macro", description, "quality"), macro)]
    for scenario in summary["scenarios"]:
        for task in summary["tasks"]:
            cells = [transfer.get("cells", {}).get(scenario, {}).get(task) or {} for transfer in transfers]
            filled = [_difference_cell(cell.get("difference"), against) for cell in cells]
            columns.append(_Filled(TableColumn(scenario, task), filled))
    return columns


def _calibration_table(summary: Mapping[str, Any]) -> TableData:
    """Return log loss and ECE of the test rows before and after calibration."""
    calibrated = [entry.get("calibrated") or {} for entry in ranked(summary)]
    found = next(entry for entry in calibrated if entry)
    columns = [
        _Filled(
            TableColumn(f"{metric_heading(metric)}, macro", when),
            [_spread_cell(one.get(when, {}).get(f"{metric}/macro"), METRICS[metric].digits) for one in calibrated],
        )
        for metric in ("logloss", "ece")
        for when in ("before", "after")
    ]
    lines = list(dict.fromkeys(line for one in calibrated for line in one.get("left_out", ())))
    notes = [f"Without a map of its own: {'; '.join(lines)}."] if lines else []
    title = f"Calibration on the validation rows ({found['method']}, by {found['by']})"
    return _table(summary, "calibration", title, columns, None, notes)


_COSTS = (
    # group, name, key, format, description
    ("", "Parameters", "parameters", ",d", "of a single-task model the sum over its tasks"),
    ("", "FLOPs a row", "flops", ",d", "of the forward pass of one row"),
    ("Latency, ms", "1 row", "latency_1", ".3g", "forward latency of one row"),
    ("Latency, ms", "4096 rows", "latency", ".3g", "forward latency of 4096 rows"),
    ("Training", "seconds", "train_seconds", ",.1f", "seconds of training"),
    ("Training", "rows/s", "rows_per_second", ",.0f", "training rows a second"),
    ("Training", "epochs", "epochs", ".1f", "epochs trained"),
    ("Search", "trials", "search_trials", ",d", "trials of all searches of the model"),
    ("Search", "seconds", "search_seconds", ",.1f", "seconds of all searches of the model"),
)
_SEARCH_EPOCHS = ("Search", "epochs", "search_epochs", ",d", "epochs of all searches of the model")


def _cost_columns(summary: Mapping[str, Any], costs: Sequence[tuple[str, ...]] = _COSTS) -> list[_Filled]:
    searched = any(entry["cost"]["search_trials"] for entry in summary["entries"])
    columns = []
    for group, name, key, form, description in costs:
        if group == "Search" and not searched:
            continue
        values = [entry["cost"].get(key) for entry in ranked(summary)]
        cells = [
            _spread_cell(value, form) if isinstance(value, Mapping) else _number_cell(value, form) for value in values
        ]
        columns.append(_Filled(TableColumn(group, name, description, "cost"), cells))
    return columns


def _cost_notes(summary: Mapping[str, Any]) -> list[str]:
    threads = "1 thread" if summary["threads"] == 1 else f"{summary['threads']} threads"
    where = f"Measured on {summary['device']}, {summary['workers']} at a time, {threads} each."
    if any(entry["kind"] == "single-task" for entry in summary["entries"]):
        which = "all" if set(task_types(summary).values()) == {"binary"} else "the binary"
        return [f"For models of one task, the sum over the models of {which} tasks.", where]
    return [where]
