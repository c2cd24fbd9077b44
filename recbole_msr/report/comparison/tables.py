"""What the tables of a comparison say, for whatever shows them: a paper, a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from recbole_msr.evaluation.metrics import METRICS, metric_heading

MISSING = "–"  # noqa: RUF001


@dataclass(frozen=True)
class TableCell:
    """A number in a table.

    Attributes:
        text: the number, or `MISSING`.
        deviation: over the seeds; None for one seed, and where nothing varies.
        mark: "better" or "worse" where a test found so, else None.
    """

    text: str = MISSING
    deviation: str | None = None
    mark: str | None = None


@dataclass(frozen=True)
class Column:
    """A column of numbers: `group` stands above neighbours that share it, such as the tasks of a scenario."""

    group: str
    name: str


@dataclass(frozen=True)
class TableData:
    """A table: rows are entries, each with a value a column.

    Attributes:
        name: a short word for it.
        title: what it shows.
        marks: what the marks compare with; None where nothing in the table was tested.
        notes: sentences to read with it.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[tuple[str, Sequence[TableCell]]]
    marks: str | None = None
    notes: Sequence[str] = field(default=())

    def part(self, numbers: Sequence[int]) -> TableData:
        """The same with these columns only."""
        rows = [(label, [values[i] for i in numbers]) for label, values in self.rows]
        return replace(self, columns=[self.columns[i] for i in numbers], rows=rows)

    def parts(self, cuts: Sequence[Sequence[int]]) -> list[TableData]:
        """One for each list of columns, numbered in their titles where there are several."""
        found = [self.part(numbers) for numbers in cuts]
        if len(found) == 1:
            return found
        return [replace(one, title=f"{one.title} ({i} of {len(found)})") for i, one in enumerate(found, 1)]


def known_keys(summary: Mapping[str, Any]) -> dict[str, tuple[str, str | None, str | None]]:
    """Every metric key that the scenarios and tasks can have, in the order of tables: (metric, scenario, task)."""
    keys: dict[str, tuple[str, str | None, str | None]] = {}
    for metric in METRICS:
        keys[f"{metric}/macro"] = keys[f"{metric}/worst"] = (metric, None, None)
        for task in summary["tasks"]:
            keys[f"{metric}/{task}"] = keys[f"{metric}/{task}/macro"] = (metric, None, task)
        for scenario in summary["scenarios"]:
            keys |= {f"{metric}/{scenario}/{task}": (metric, scenario, task) for task in summary["tasks"]}
    return keys


def ranked(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The entries: the best mean of auc/macro on test first, then those without one, the failed ones last."""

    def place(entry: Mapping[str, Any]) -> tuple[bool, bool, float]:
        value = mean(entry, "auc/macro")
        return entry["status"] == "failed", value is None, -(value or 0.0)

    return sorted(summary["entries"], key=place)


def mean(entry: Mapping[str, Any], key: str) -> float | None:
    """The mean over seeds of a metric on test."""
    spread = entry["test"].get(key)
    return None if spread is None else spread["mean"]


def tables_of(summary: Mapping[str, Any]) -> list[TableData]:
    """The tables in their order: values over all scenarios, each metric by cell, transfer, cost.

    Marks are of the test against the reference, in the transfer table of the test against training alone. A number has
    one only where the corrected test is significant. Tables by cell are left out where there is one cell or nothing
    is defined, the transfer table where no scenario was trained alone.
    """
    scenarios, tasks = summary["scenarios"], summary["tasks"]
    against = f"the reference {summary['reference']}" if _any_difference(summary) else None
    overall = [column for metric in METRICS for column in _overall(summary, metric)]
    made = [_metrics(summary, "quality", "Quality over all scenarios", overall, against)]
    for metric in METRICS if len(scenarios) * len(tasks) > 1 else ():
        cells = [(scenario, task, f"{metric}/{scenario}/{task}") for scenario in scenarios for task in tasks]
        if any(mean(entry, key) is not None for entry in summary["entries"] for _, _, key in cells):
            made.append(_metrics(summary, metric, f"{metric_heading(metric)} by scenario and task", cells, against))
    if any(entry["transfer"] is not None for entry in summary["entries"]):
        made.append(_transfer(summary))
    return [*made, _cost(summary)]


def seeds_note(summary: Mapping[str, Any]) -> str:
    """What a number and its deviation are."""
    seeds = summary["seeds"]
    if len(seeds) > 1:
        return f"Mean ± sample deviation over {len(seeds)} seeds ({', '.join(map(str, seeds))})."
    return f"One seed ({seeds[0]}): no deviation, and nothing is known about other seeds."


def gaps(summary: Mapping[str, Any]) -> list[str]:
    """What is not in the tables, and why: entries that failed, cells that are undefined."""
    said = [failure(entry) for entry in summary["entries"] if entry["status"] != "complete"]
    empty = undefined(summary)
    return said + ([f"Without an AUC, and in no mean: {', '.join(empty)}."] if empty else [])


def how_tested(summary: Mapping[str, Any]) -> str:
    """How the differences to the reference were tested."""
    many = len(summary["seeds"]) > 1
    rows = "of the test rows (a user's together)"
    error = f"{rows} and of the seeds" if many else f"{rows} alone, as there is one seed"
    return (
        f"Paired t test with the error {error}; Holm's correction over the models within a column; "
        f"alpha = {summary['alpha']:g}."
    )


def failure(entry: Mapping[str, Any]) -> str:
    """One sentence about an entry that is not complete."""
    what = "failed" if entry["status"] == "failed" else "is there only in part"
    reasons = "; ".join(" ".join(reason.split()).rstrip(".") for reason in entry["reasons"])
    return f"{entry['label']} {what}: {reasons or 'no reason is known'}."


def undefined(summary: Mapping[str, Any]) -> list[str]:
    """SCENARIO/TASK of the cells that have no AUC in any entry, with their rows and positives where known."""
    named = []
    tested = [entry for entry in summary["entries"] if entry["test"]]
    for scenario in summary["scenarios"]:
        for task in summary["tasks"]:
            if tested and all(mean(entry, f"auc/{scenario}/{task}") is None for entry in tested):
                cell = summary["test_cells"].get(scenario, {}).get(task)
                count = "" if cell is None else f" ({cell['rows']} rows, {cell['positives']} positive)"
                named.append(f"{scenario}/{task}{count}")
    return named


def shown(label: str, summary: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """The label as tables show it: with what sets the entry apart."""
    if label == summary["reference"]:
        label += " (reference)"
    if entry["status"] == "failed":
        return f"{label}: failed"
    if len(entry["seeds"]) != len(summary["seeds"]):
        label += f" ({len(entry['seeds'])} of {len(summary['seeds'])} seeds)"
    return label


def _any_difference(summary: Mapping[str, Any]) -> bool:
    return any(entry["differences"] for entry in summary["entries"])


def _mark(difference: Mapping[str, Any] | None) -> str | None:
    if difference is None or not difference["significant"]:
        return None
    return "better" if difference["better"] else "worse" if difference["worse"] else None


def _spread(spread: Mapping[str, Any] | None, form: str, mark: str | None = None) -> TableCell:
    if spread is None or spread["mean"] is None:
        return TableCell()
    deviation = spread["deviation"]
    return TableCell(format(spread["mean"], form), None if deviation is None else format(deviation, form), mark)


def _metrics(
    summary: Mapping[str, Any], name: str, title: str, wanted: Iterable[tuple[str, str, str]], against: str | None
) -> TableData:
    """Columns of (group, name, metric key)."""
    wanted = list(wanted)
    entries = ranked(summary)
    rows = []
    for entry in entries:
        found = entry["differences"] or {}
        values = [_spread(entry["test"].get(key), ".4f", _mark(found.get(key))) for _, _, key in wanted]
        rows.append((shown(entry["label"], summary, entry), values))
    tested = {key for entry in entries for key in entry["differences"] or {}}
    there = {key for entry in entries for key in entry["test"] if mean(entry, key) is not None}
    left = [f"{group} {column}" for group, column, key in wanted if key in there - tested]
    some = against is not None and any(key in tested for _, _, key in wanted)
    about = [f"Not tested: {', '.join(left)}."] if some and left else []
    columns = [Column(group, column) for group, column, _ in wanted]
    return TableData(name, title, columns, rows, against if some else None, about)


def _transfer(summary: Mapping[str, Any]) -> TableData:
    columns = [Column("", "macro"), *(Column(s, t) for s in summary["scenarios"] for t in summary["tasks"])]
    rows = []
    for entry in ranked(summary):
        transfer = entry["transfer"]
        if transfer is None:
            found = [None] * len(columns)
        else:
            cells = [transfer["cells"].get(s, {}).get(t) for s in summary["scenarios"] for t in summary["tasks"]]
            found = [transfer["macro"], *(None if cell is None else cell["difference"] for cell in cells)]
        values = [
            TableCell() if one is None or one["mean"] is None else TableCell(f"{one['mean']:+.4f}", None, _mark(one))
            for one in found
        ]
        rows.append((shown(entry["label"], summary, entry), values))
    return TableData(
        "transfer",
        "Transfer between scenarios: AUC when trained on all scenarios minus AUC when trained on that one alone",
        columns,
        rows,
        "the same model trained on the scenario alone",
        ["Below zero the transfer is negative: training together harms the scenario."],
    )


def _overall(summary: Mapping[str, Any], metric: str) -> list[tuple[str, str, str]]:
    """Return a metric's columns of the first table (`Metric.compared`): group, name, metric key."""
    if METRICS[metric].hidden_if_undefined and all(
        mean(entry, f"{metric}/macro") is None for entry in summary["entries"]
    ):
        return []
    name, tasks = metric_heading(metric), summary["tasks"]
    columns = {
        "macro": [(name, "macro", f"{metric}/macro")],
        "worst": [(name, "worst cell", f"{metric}/worst")],
        "tasks": [(f"{name}, macro", task, f"{metric}/{task}/macro") for task in tasks if len(tasks) > 1],
        "all rows": [(f"{name}, all rows", task, f"{metric}/{task}") for task in tasks],
    }
    return [column for kind in METRICS[metric].compared for column in columns[kind]]


def _cost(summary: Mapping[str, Any]) -> TableData:
    columns = [
        Column("", "Parameters"),
        Column("", "FLOPs a row"),
        Column("Latency, ms", "1 row"),
        Column("Latency, ms", "4096 rows"),
        Column("Training", "seconds"),
        Column("Training", "rows/s"),
        Column("Training", "epochs"),
    ]
    searched = any(entry["cost"]["search_trials"] for entry in summary["entries"])
    columns += [Column("Search", "trials"), Column("Search", "seconds")] if searched else []
    rows = []
    for entry in ranked(summary):
        cost = entry["cost"]
        values = [
            _number(cost["parameters"], ",d"),
            _number(cost["flops"], ",d"),
            _number(cost["latency_1"], ".3g"),
            _number(cost["latency"], ".3g"),
            _spread(cost["train_seconds"], ",.1f"),
            _spread(cost["rows_per_second"], ",.0f"),
            _spread(cost["epochs"], ".1f"),
        ]
        values += [_number(cost["search_trials"], ",d"), _number(cost["search_seconds"], ",.1f")] if searched else []
        rows.append((shown(entry["label"], summary, entry), values))
    about = ["For models of one task, the sum over the models of all tasks."]
    threads = "1 thread" if summary["threads"] == 1 else f"{summary['threads']} threads"
    where = f"Measured on {summary['device']}, {summary['workers']} at a time, {threads} each."
    return TableData("cost", "Cost", columns, rows, None, [*(about if _single(summary) else []), where])


def _single(summary: Mapping[str, Any]) -> bool:
    return any(entry["kind"] == "single-task" for entry in summary["entries"])


def _number(value: float | None, form: str) -> TableCell:
    if value is None:
        return TableCell()
    if form.endswith("g"):
        return TableCell(f"{value:.3g}" if value < 1000 else f"{value:,.0f}")
    return TableCell(format(int(value) if form.endswith("d") else value, form))
