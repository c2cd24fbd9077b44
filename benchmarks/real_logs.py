"""Tables of real logs: tasks behind tasks, numbers, histories, calibration and ranked lists, by `recbole-msr compare`.

    python -m benchmarks.real_logs --work=DIR [--source=DATA] [--only kuairand histories ...] [--models HiNet ...]

| table | data (`benchmarks/outside_data.py`) | what is compared |
|---|---|---|
| kuairand | kuairand | click, long view, play time as a number; `long_view` with `after: is_click` and without |
| histories | ml-100k | without histories, and with 50 earlier rows by mean and by target attention |
| calibration | ml-100k | probabilities as they are, by temperature, by isotonic maps |
| frappe, amazon | of these names | lists; with text vectors of the items, too; beside BPR, LightGCN, SASRec, Pop |
| full | ml-100k | lists of all items, beside BPR, LightGCN, SASRec and Pop |

Each side of a table is a comparison of three seeds on one thread, with the models' defaults. Rows are cut to whole
users (`Table.rows`) so that a table takes minutes. A cell is mean ± deviation over the seeds, on the test split, of one
metric of one task: the macro mean over scenarios. Finished comparisons are kept in `--work`; the same command resumes.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.outside_data import SOURCE, AbsentDataError, prepare
from benchmarks.process import machine, run_command
from benchmarks.text_vectors import COLUMNS, add_text_vectors

SEEDS = 3
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Side:
    """One comparison of a table.

    Attributes:
        label: what it is called in the first column.
        config: its configuration keys beside the table's.
        models: those that are compared; the table's if not set.
        text: whether items have text vectors as features.
    """

    label: str
    config: Settings = field(default_factory=dict)
    models: Settings | None = None
    text: bool = False


@dataclass(frozen=True)
class Table:
    """A table of docs/: comparisons on one dataset.

    Attributes:
        dataset: one of `outside_data.DATASETS`.
        rows: at most so many, of whole users; None for all.
        head: heading of the sides' column.
        columns: heading -> key of the metric in a comparison's summary; `before:` or `after:` a calibration first.
        models: labels of entries -> their settings.
        config: configuration keys of all sides.
        sides: the comparisons.
    """

    dataset: str
    rows: int | None
    head: str
    columns: Mapping[str, str]
    models: Settings
    config: Settings
    sides: Sequence[Side]


def _named(*names: str) -> dict[str, Any]:
    return {name: {} for name in names}


_CLICK: Settings = {"is_click": {"field": "is_click"}}
_PLAY: Settings = {"play": {"field": "play_seconds", "type": "number", "transform": "log1p"}}
_HISTORY: Settings = {"history": {"fields": ["item_id", "class"], "length": 50}}
_DRAWN: Settings = {
    "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1},
    "metrics": ["NDCG", "Recall"],
    "topk": [10],
    "valid_metric": "NDCG@10/macro",
    "epochs": 100,
    "stopping_step": 5,
}
_SPLIT: Settings = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": None}
_OF_LISTS: Settings = {"NDCG@10": "ndcg@10/macro", "Recall@10": "recall@10/macro", "worst scenario": "ndcg@10/worst"}
_FRAPPE_FIELDS = ["user_id", "item_id", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country"]
_AMAZON: Settings = {"inter": ["user_id", "item_id", "timestamp", "click"]}

TABLES: Mapping[str, Table] = {
    "kuairand": Table(
        "kuairand",
        None,
        "`after`",
        {
            "AUC, is_click": "auc/is_click/macro",
            "AUC, long_view": "auc/long_view/macro",
            "LogLoss, long_view": "logloss/long_view/macro",
            "AUC, long_view given is_click": "auc/long_view|is_click/macro",
            "MAE, play (s)": "mae/play/macro",
            "XAUC, play": "xauc/play/macro",
        },
        _named("SharedBottom", "PLE", "HiNet"),
        {"valid_metric": "auc/macro", "epochs": 10, "stopping_step": 2},
        [
            Side("no", {"tasks": {**_CLICK, "long_view": {"field": "long_view"}, **_PLAY}}),
            Side("yes", {"tasks": {**_CLICK, "long_view": {"field": "long_view", "after": "is_click"}, **_PLAY}}),
        ],
    ),
    "histories": Table(
        "ml-100k",
        None,
        "`history`",
        {
            "AUC, click": "auc/click/macro",
            "AUC, like": "auc/like/macro",
            "LogLoss, click": "logloss/click/macro",
            "LogLoss, like": "logloss/like/macro",
        },
        _named("SharedBottom", "HiNet"),
        {"valid_metric": "auc/macro", "epochs": 20, "stopping_step": 3},
        [
            Side("none"),
            Side("`mean`", {**_HISTORY, "history_pooling": "mean"}),
            Side("`target_attention`", {**_HISTORY, "history_pooling": "target_attention"}),
        ],
    ),
    "calibration": Table(
        "ml-100k",
        None,
        "`calibrate`",
        {
            "LogLoss before": "before:logloss/macro",
            "LogLoss after": "after:logloss/macro",
            "ECE before": "before:ece/macro",
            "ECE after": "after:ece/macro",
        },
        _named("SharedBottom", "HiNet"),
        {"valid_metric": "auc/macro", "epochs": 20, "stopping_step": 3},
        [Side(f"`{method}`", {"calibrate": method}) for method in ("temperature", "isotonic")],
    ),
    "frappe": Table(
        "frappe",
        20_000,
        "fields of apps",
        _OF_LISTS,
        _named("SharedBottom", "STAR", "HiNet", "BPR", "LightGCN", "Pop"),
        {
            **_DRAWN,
            # values rise slowly, and it is validating that takes the time
            **{"epochs": 60, "eval_step": 5, "stopping_step": 2},
            "eval_args": {**_SPLIT, "mode": "uni100"},
            "tasks": {"use": {"field": "label"}},
            "main_task": "use",
            "load_col": {"inter": _FRAPPE_FIELDS},
        },
        [
            Side("id"),
            Side(
                "id, text vectors",
                {
                    "load_col": {"inter": _FRAPPE_FIELDS, "item": ["item_id", *COLUMNS]},
                    "numerical_features": COLUMNS,
                },
                _named("SharedBottom", "STAR", "HiNet"),
                text=True,
            ),
        ],
    ),
    "amazon": Table(
        "amazon",
        20_000,
        "fields of items",
        _OF_LISTS,
        _named("SharedBottom", "STAR", "HiNet", "BPR", "LightGCN", "SASRec", "Pop"),
        {
            **_DRAWN,
            "eval_args": {**_SPLIT, "mode": "uni100"},
            "tasks": {"buy": {"field": "click"}},
            "main_task": "buy",
            "val_interval": {"click": "[1,1]"},
        },
        [
            Side("id, words of the title", {"load_col": {**_AMAZON, "item": ["item_id", "words"]}}),
            Side(
                "id, words, text vectors",
                {
                    "load_col": {**_AMAZON, "item": ["item_id", "words", *COLUMNS]},
                    "numerical_features": COLUMNS,
                },
                _named("SharedBottom", "STAR", "HiNet"),
                text=True,
            ),
        ],
    ),
    "full": Table(
        "ml-100k",
        30_000,
        "lists",
        _OF_LISTS,
        _named("SharedBottom", "HiNet", "BPR", "LightGCN", "SASRec", "Pop"),
        {
            **_DRAWN,
            "eval_args": {**_SPLIT, "mode": "full"},
            "tasks": {"click": {"field": "rating", "at_least": 4}},
            "main_task": "click",
        },
        [Side("all items")],
    ),
}


class Bench:
    """One table, computed side by side.

    Args:
        name: of the table.
        table: what it is.
        work: folder of everything that is kept.
        source: folder of the raw data.
        models: labels of entries that are compared, and sides without any left out; all if not set.
    """

    def __init__(self, name: str, table: Table, work: Path, source: Path, models: Sequence[str] | None = None) -> None:
        self.table, self.work, self.source, self.folder = table, work, source, work / name
        self.models = models
        self.folder.mkdir(parents=True, exist_ok=True)

    def lines(self) -> Iterator[str]:
        """Yield the table as Markdown, after its comparisons."""
        sides = [(number, side, self._entries(side)) for number, side in enumerate(self.table.sides)]
        summaries = [(side, self._summary(side, number, entries)) for number, side, entries in sides if entries]
        columns = list(self.table.columns)
        yield f"| model | {self.table.head} | {' | '.join(columns)} | epochs |"
        yield f"|---|---|{'---:|' * (len(columns) + 1)}"
        for side, summary in summaries:
            for entry in summary["entries"]:
                values = [spread_of(entry, key) for key in self.table.columns.values()]
                epochs = (entry["cost"]["epochs"] or {}).get("mean")
                trained = "-" if epochs is None else f"{epochs:.1f}"
                yield f"| {entry['label']} | {side.label} | {' | '.join(values)} | {trained} |"
        for _, summary in summaries:
            for entry in summary["entries"]:
                for reason in entry["reasons"]:
                    yield f"\n{entry['label']}: {reason}"

    def _entries(self, side: Side) -> Settings:
        entries = self.table.models if side.models is None else side.models
        return {label: own for label, own in entries.items() if self.models is None or label in self.models}

    def _summary(self, side: Side, number: int, entries: Settings) -> dict[str, Any]:
        """Return a side's summary, from its file or by comparing."""
        table, output = self.table, self.folder / f"side-{number}"
        dataset, config = prepare(table.dataset, self.work / "data", table.rows, self.source)
        if side.text:
            dataset = add_text_vectors(table.dataset, dataset, self.work / "data", self.source)
        config |= {**table.config, **side.config, "data_path": str((self.work / "data").resolve())}
        settings, models = output.with_suffix(".yaml"), self.folder / f"models-{number}.yaml"
        settings.write_text(yaml.safe_dump(plain(config), sort_keys=False), encoding="utf-8")
        models.write_text(yaml.safe_dump(plain(entries), sort_keys=False), encoding="utf-8")
        arguments = [
            "compare", f"--models={models}", f"--dataset={dataset}", f"--config_files={settings}", f"--seeds={SEEDS}",
            "--workers=1", "--threads=1", f"--output={output}", "--wandb=disabled",
        ]  # fmt: skip
        run_command(arguments, output.with_suffix(".log"), self.folder, cache=self.work / "cache")
        summary: dict[str, Any] = json.loads((output / "summary.json").read_text(encoding="utf-8"))
        return summary


def plain(value: Any) -> Any:
    """Return mappings and sequences as the dicts and lists that YAML knows."""
    if isinstance(value, Mapping):
        return {key: plain(of_key) for key, of_key in value.items()}
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def spread_of(entry: Mapping[str, Any], key: str) -> str:
    """Return mean ± deviation over an entry's seeds; a dash where the entry has no such value."""
    when, _, metric = key.rpartition(":")
    values = (entry.get("calibrated") or {}).get(when, {}) if when else entry.get("test") or {}
    spread = values.get(metric)
    if spread is None or spread["mean"] is None:
        return "-"
    deviation = spread["deviation"]
    return f"{spread['mean']:.4f}" + ("" if deviation is None or math.isnan(deviation) else f" ± {deviation:.4f}")


def main() -> None:
    """Compute the tables, and print each when it is complete."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("real_logs"), help="where everything is kept")
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder of the raw data")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES), help="tables")
    parser.add_argument("--models", nargs="+", help="only these; HiNet takes most of the time")
    given = parser.parse_args()
    there = {label for table in TABLES.values() for label in table.models}
    if absent := set(given.models or ()) - there:
        parser.error(f"--models: no table has {', '.join(sorted(absent))}; there are {', '.join(sorted(there))}")
    print(json.dumps(machine()), flush=True)
    for name in given.only:
        print(f"\n## {name}\n", flush=True)
        try:
            bench = Bench(name, TABLES[name], given.work.resolve(), given.source, given.models)
            for line in bench.lines():
                print(line, flush=True)
        except AbsentDataError as error:
            print(error, flush=True)


if __name__ == "__main__":
    main()
