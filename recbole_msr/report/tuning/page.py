"""The page of a search: its result, how sure that is, how it came about, and how to do it again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from recbole_msr.evaluation.cells import Cell, Evaluation
from recbole_msr.evaluation.metrics import METRICS, Direction, metric_heading, metrics_among
from recbole_msr.files.yaml import write_yaml_text
from recbole_msr.report.figures import figure_scripts, short
from recbole_msr.report.html.page import Number, Page, facts, heat_map, note, table, text
from recbole_msr.report.tuning.confirmation import confirmation_parts
from recbole_msr.report.tuning.ensemble import ensemble_fact, ensemble_section
from recbole_msr.report.tuning.figures import StudyFigures
from recbole_msr.report.tuning.progress import by_model, by_source, group_rows, looks, metric_is_bigger
from recbole_msr.report.tuning.progress_figures import quality_by_time, time_by_model

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial


def write_search_page(path: Path, study: optuna.Study, summary: Mapping[str, Any]) -> None:
    """Write the page of a study: one HTML file that loads nothing, plotly.js (about 4.6 MiB) inside.

    It can be written at any time: what is not there yet, or cannot be drawn, is a sentence that says why.

    Args:
        path: the file, replaced as a whole.
        study: the study.
        summary: the content of its summary.json.

    Raises:
        InputError: the file cannot be written.
    """
    _SearchPage(study, summary).write(path)


class _SearchPage:
    def __init__(self, study: optuna.Study, summary: Mapping[str, Any]) -> None:
        self._summary = summary
        self._names = [str(objective["name"]) for objective in summary["objectives"]]
        self._bigger = [str(objective["direction"]).startswith("max") for objective in summary["objectives"]]
        self._best: Any = summary.get("best")
        self._defaults: Any = summary.get("defaults")
        self._trials = study.get_trials(deepcopy=False)
        self._looks = looks(self._trials, str(summary["valid_metric"]), str(summary["model"]))
        self._figures = StudyFigures(study, self._names, self._best["number"] if self._best else None)

    def write(self, path: Path) -> None:
        summary = self._summary
        page = Page(
            f"Search: {summary['model']} on {summary['dataset']}",
            f"Study {summary['study']}: {', '.join(map(self._objective, range(len(self._names))))}",
            scripts=True,
        )
        page.section("Result", *self._result())
        page.section("Best against defaults", *self._cells())
        page.section("Confirmation", *confirmation_parts(summary))
        page.section("Final test", *self._final())
        if summary.get("ensemble"):
            page.section("Ensemble", *ensemble_section(summary["ensemble"]))
        page.section("Quality against time", *self._quality_by_time())
        page.section("Where the time went", *self._budget())
        page.section("Best configuration", *self._configuration())
        page.section(
            "History", "The objective of every finished trial, and the best up to it.", *self._figures.history()
        )
        if len(self._names) > 1:
            page.section("Pareto front", *self._pareto())
        page.section("Importance of parameters", *self._importance())
        page.section(
            "Parallel coordinates",
            f"A line a trial, coloured by {self._names[0]}: blue is better. The best trial is thick; where a line "
            "leaves below an axis, the trial had no such parameter.",
            self._figures.parallel(),
        )
        page.section(
            "Slices", f"{self._names[0]} by the values of each parameter; bluer points are later trials.",
            self._figures.slices(),
        )  # fmt: skip
        page.section(
            "Curves",
            "The validation value by epoch. Dotted lines were pruned; a cross marks where a trial ended early.",
            self._figures.curves(str(summary["valid_metric"])),
        )
        page.section("Timeline", "When each trial ran.", self._figures.timeline())
        page.section("Trials", *self._table())
        page.section("How to do it again", *self._again(), figure_scripts())
        page.write(path)

    def _objective(self, index: int) -> str:
        return f"{self._names[index]} ({'higher' if self._bigger[index] else 'lower'} is better)"

    def _result(self) -> list[str | Markup]:
        summary, counts = self._summary, self._summary["trials"]
        lines: dict[str, Any] = {}
        if self._best:
            lines["Best trial"] = f"trial {self._best['number']}: {self._values_text(self._best['values'])}"
        if self._defaults:
            lines["Defaults"] = f"trial {self._defaults['number']}: {self._values_text(self._defaults['values'])}"
        if self._best and self._defaults:
            lines["Gain over the defaults"] = self._gain()
        if summary.get("ensemble"):
            lines["Ensemble"] = ensemble_fact(summary["ensemble"])
        lines["Trials"] = ", ".join(f"{counts.get(key, 0)} {key}" for key in ("complete", "pruned", "failed"))
        lines["Epochs trained"] = sum(int(trial.user_attrs.get("epochs") or 0) for trial in self._trials)
        lines["Time"] = _duration(summary.get("seconds"))
        lines["Workers"] = _plain(summary.get("workers"))
        parts: list[str | Markup] = [facts(lines)]
        if not self._best:
            parts.insert(0, note("No trial has finished, so there is no best one."))
        elif self._best.get("cut_off"):
            parts.insert(
                0,
                note(
                    f"Trial {self._best['number']} has not ended ({self._best['cut_off']}); its value is that of its "
                    "best epoch so far. The same command goes on with it."
                ),
            )
        elif self._defaults and self._best["number"] == self._defaults["number"]:
            parts.append(note("No trial was better than the defaults."))
        elif not self._defaults:
            parts.append("There is no finished trial of the defaults to compare with.")
        if summary.get("failures"):
            rows = sorted(summary["failures"].items(), key=lambda pair: -pair[1])
            parts.append(table(["Why trials failed", "Trials"], rows))
        return parts

    def _values_text(self, values: Sequence[float]) -> str:
        return ", ".join(f"{name} {_shown(value)}" for name, value in zip(self._names, values, strict=True))

    def _gain(self) -> str:
        gains = []
        for name, bigger, best, before in zip(
            self._names, self._bigger, self._best["values"], self._defaults["values"], strict=True
        ):
            word = "the same" if best == before else "better" if (best > before) == bigger else "worse"
            gains.append(f"{name} {_shown(best - before, sign=True)} ({word})")
        return ", ".join(gains)

    def _cells(self) -> list[str | Markup]:
        best, defaults = (
            None if which is None else self._evaluation(which["number"]) for which in (self._best, self._defaults)
        )
        if best is None:
            return [note("The best trial's scenarios and tasks are not known: no trial has finished with them.")]
        if defaults is None:
            why = "The defaults have no result to compare with: their trial has not finished, or was none of the study."
            return [note(why), self._cell_table(best, None)]
        if self._best["number"] == self._defaults["number"]:
            return ["The best trial is that of the defaults.", self._cell_table(best, None)]
        explanation = (
            f"On the validation split, the best epoch of trial {self._best['number']} (best) and of trial "
            f"{self._defaults['number']} (defaults). What was best on these rows was chosen by them, so its gain here "
            "is on the high side; the final test is not."
        )
        maps = [
            _gain_map(metric, best, defaults)
            for metric in best.metrics
            if METRICS[metric].direction is Direction.LARGER and _has(metric, best) and _has(metric, defaults)
        ]
        return [explanation, *maps, self._cell_table(best, defaults)]

    def _evaluation(self, number: int) -> Evaluation | None:
        values = self._trials[number].user_attrs.get("valid") if number < len(self._trials) else None
        return None if values is None else Evaluation.from_dict(values)

    def _cell_table(self, best: Evaluation, defaults: Evaluation | None) -> Markup:
        metrics = [metric for metric in best.metrics if _has(metric, best)]
        header = ["Scenario", "Task", "Rows"]
        for metric in metrics:
            name = metric_heading(metric)
            change = "gain" if METRICS[metric].direction is Direction.LARGER else "change"
            header += [name] if defaults is None else [f"{name}, defaults", f"{name}, best", change]

        def line(
            scenario: str, task: str, rows: int | None, values: list[tuple[float | None, float | None]]
        ) -> list[Any]:
            cells: list[Any] = [scenario, task, rows]
            for after, before in values:
                cells += [after] if defaults is None else [before, after, _signed(_difference(after, before))]
            return cells

        lines = []
        for scenario, row in best.cells.items():
            for task, cell in row.items():
                other = None if defaults is None else defaults.cells.get(scenario, {}).get(task)
                values = [(cell.value(m), None if other is None else other.value(m)) for m in metrics]
                lines.append(line(scenario, task, cell.rows, values))
        for task, cell in best.pooled.items():
            pooled = None if defaults is None else defaults.pooled.get(task)
            values = [(cell.value(m), None if pooled is None else pooled.value(m)) for m in metrics]
            lines.append(line("all rows", task, cell.rows, values))
        means = [(best.macro(m), None if defaults is None else defaults.macro(m)) for m in metrics]
        lines.append(line("macro mean", "all", None, means))
        return table(header, lines, caption="Scenarios and tasks, validation split", sortable=True)

    def _final(self) -> list[str | Markup]:
        final = self._summary.get("final")
        if not final:
            return [
                note(
                    "There is no final test: it comes once, after the last trial, and was not asked for or not yet due."
                )
            ]
        seeds = [str(seed) for seed in final["seeds"]]
        parts: list[str | Markup] = [
            f"The best configuration, trained again with {len(seeds)} seed{'s' if len(seeds) != 1 else ''} "
            f"({', '.join(seeds)}) that no trial had, and tested once each. The test split played no part in the "
            "search."
        ]
        if len(seeds) > 1:
            parts.append("Mean, and standard deviation over the seeds.")
        defaults = self._summary.get("final_defaults")
        if defaults is not None and defaults["trial"] != final.get("trial"):
            parts.append(self._beside_defaults(final, defaults))
        splits = [split for split in ("test", "valid") if final.get(split)]
        for split in splits:
            name = {"test": "Test split", "valid": "Validation split"}[split]
            rows = [
                [metric, *_mean(spread), *(spread.get("values") or [None] * len(seeds))]
                for metric, spread in final[split]["metrics"].items()
            ]
            header = ["Metric", "mean", "deviation", *(f"seed {seed}" for seed in seeds)]
            parts.append(table(header, rows, caption=name))
        cells = final["test"].get("cells") or []
        if cells:
            there = metrics_among(name for cell in cells for name in cell)
            metrics = [m for m in there if any(_mean(cell.get(m))[0] is not None for cell in cells)]
            header = ["Scenario", "Task", *(part for m in metrics for part in (metric_heading(m), "deviation"))]
            lines = [
                [cell["scenario"], cell["task"], *(part for m in metrics for part in _mean(cell.get(m)))]
                for cell in cells
            ]
            parts.append(table(header, lines, caption="Scenarios and tasks, test split", sortable=True))
        return parts

    @staticmethod
    def _beside_defaults(best: Mapping[str, Any], defaults: Mapping[str, Any]) -> Markup:
        """Return the test of the best beside that of the defaults, trained with the same seeds."""
        rows = []
        for metric, spread in best["test"]["metrics"].items():
            before, after = _mean(defaults["test"]["metrics"].get(metric, {})), _mean(spread)
            rows.append([metric, *before, *after, _signed(_difference(after[0], before[0]))])
        header = ["Metric", "defaults", "deviation", "best", "deviation", "gain"]
        seeds = ", ".join(str(seed) for seed in defaults["seeds"])
        return table(header, rows, caption=f"Test split, best and defaults (trial {defaults['trial']}), seeds {seeds}")

    def _quality_by_time(self) -> list[str | Markup]:
        metric = str(self._summary["valid_metric"])
        if not self._looks:
            return [note("No trial has a validation value yet.")]
        explanation = (
            f"Every validation value ({metric}) that the search saw, by the time of the search; pauses between two "
            "commands are left out. The line is the best value of a model trained on all rows so far. Small faint "
            "marks are models trained on a share of the rows. Stars are defaults, diamonds first configurations, "
            "squares come from earlier studies, circles were sampled. A double click shows the values below, too."
        )
        return [explanation, quality_by_time(self._looks, metric, metric_is_bigger(self._summary))]

    def _budget(self) -> list[str | Markup]:
        bigger, summary = metric_is_bigger(self._summary), self._summary
        header = ["trials", "failed", "seconds", "share", "defaults", "best", "median", "times in the lead"]
        models = by_model(self._trials, self._looks, str(summary["model"]), bigger)
        parts: list[str | Markup] = []
        if len(models) > 1:
            parts += [time_by_model(models), table(["Model", *header], group_rows(models), caption="Time by model")]
        left_out = summary.get("left_out") or {}
        if left_out:
            parts.append(table(["Model left out", "Why"], sorted(left_out.items())))
        sources = by_source(self._trials, self._looks, bigger)
        if not sources:
            return [*parts, note("No trial has begun.")]
        names = {"defaults": "defaults", "first configuration": "first configurations", "warm start": "earlier studies"}
        rows = [[names.get(str(name), name), *rest] for name, *rest in group_rows(sources)]
        explanation = (
            "Best and median are of trials that were validated on all rows. In the lead was a trial whose value was "
            "better than all before it."
        )
        return [*parts, explanation, table(["Settings from", *header], rows, caption="Time by origin of the settings")]

    def _configuration(self) -> list[str | Markup]:
        if not self._best:
            return [note("No trial has finished, so there is no best configuration.")]
        settings = {"model": self._summary["model"], "dataset": self._summary["dataset"], **self._best["settings"]}
        parts: list[str | Markup] = [
            Markup(
                "<p>What the search chose (trial {}). In best.yaml it stands with the settings that were the same for "
                "all trials; <code>run_recbole --config_files best.yaml</code> trains and tests it.</p>"
            ).format(self._best["number"]),
            text(write_yaml_text(settings, width=100)),
        ]
        return parts

    def _pareto(self) -> list[str | Markup]:
        front = self._figures.front()
        if not front:
            return self._figures.pareto()  # type: ignore[return-value]
        explanation = (
            "On the front are the trials that no other trial beats in one objective without losing in another."
        )
        header = ["Trial", *self._names, "what it is"]
        rows = [[t.number, *(Number(value, _shown(value)) for value in t.values), self._role(t)] for t in front]
        return [explanation, *self._figures.pareto(), table(header, rows, caption="The Pareto front", sortable=True)]

    def _role(self, trial: FrozenTrial) -> str:
        is_best = self._best is not None and trial.number == self._best["number"]
        return ", ".join(filter(None, ["best" if is_best else "", str(trial.user_attrs.get("origin") or "")]))

    def _importance(self) -> list[str | Markup]:
        finished = sum(trial.state.name == "COMPLETE" for trial in self._trials)
        explanation = "How much of the differences between trials comes with each parameter; PED-ANOVA, of Optuna."
        few = finished < 20
        hint = f" From {finished} finished trials this is a hint, no measurement." if few and finished > 1 else ""
        return [explanation + hint, *self._figures.importances()]

    def _table(self) -> list[str | Markup]:
        if not self._trials:
            return [note("No trial has begun.")]
        params = list(dict.fromkeys(name for trial in self._trials for name in trial.params))
        costs = [
            name
            for name in ("parameters", "flops", "latency", "latency_1")
            if name not in self._names and any(name in trial.user_attrs for trial in self._trials)
        ]
        header = ["Trial", "State", *self._names, "best epoch", "epochs", "seconds", *costs, *params, "note"]
        rows = []
        for trial in self._trials:
            values, attributes = trial.values or [None] * len(self._names), trial.user_attrs
            notes = (self._role(trial), str(attributes.get("reason") or ""))
            rows.append(
                [
                    trial.number,
                    {"FAIL": "failed"}.get(trial.state.name, trial.state.name.lower()),
                    *(None if value is None else Number(value, _shown(value)) for value in values),
                    *(_number(attributes.get(name)) for name in ("best_epoch", "epochs", "seconds", *costs)),
                    *(_number(trial.params.get(name)) if name in trial.params else "" for name in params),
                    ": ".join(filter(None, notes)),
                ]
            )
        return ["A click on a column's name sorts by it.", table(header, rows, caption="All trials", sortable=True)]

    def _again(self) -> list[str | Markup]:
        summary = self._summary
        lines = {"Seed of training": summary.get("seed"), "Seed of the split": summary.get("data_seed")}
        versions = summary.get("versions") or {}
        return [
            text(str(summary.get("command") or "")),
            facts({name: _plain(value) for name, value in lines.items()}),
            facts({str(name): _plain(value) for name, value in versions.items()}),
            "The same trials come again with one worker and the same seeds, versions and machine; with several workers "
            "each trial is as good as before, but which parameters are tried depends on who is faster.",
        ]


def _gain_map(metric: str, best: Evaluation, defaults: Evaluation) -> Markup:
    tasks = best.tasks_with(metric)
    values = [
        [_difference(_value(best, scenario, task, metric), _value(defaults, scenario, task, metric)) for task in tasks]
        for scenario in best.cells
    ]
    return heat_map(
        list(best.cells), tasks, values, caption=f"Gain in {metric_heading(metric)}: best less defaults",
        corner="scenario \\ task", scale="diverging", show="{:+.4f}".format,
    )  # fmt: skip


def _value(evaluation: Evaluation, scenario: str, task: str, metric: str) -> float | None:
    cell: Cell | None = evaluation.cells.get(scenario, {}).get(task)
    return None if cell is None else cell.value(metric)


def _has(metric: str, evaluation: Evaluation) -> bool:
    cells = [cell for row in evaluation.cells.values() for cell in row.values()]
    return any(cell.value(metric) is not None for cell in [*cells, *evaluation.pooled.values()])


def _difference(after: float | None, before: float | None) -> Any:
    return None if after is None or before is None else after - before


def _signed(value: float | None) -> Any:
    return None if value is None else Number(value, f"{value:+.4f}")


def _mean(spread: Mapping[str, Any] | None) -> list[float | None]:
    return [None, None] if not spread else [spread.get("mean"), spread.get("deviation")]


def _number(value: Any) -> Any:
    """Return a value of any type as a table prints it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    return Number(value, short(value))


def _shown(value: float, sign: bool = False) -> str:
    """Return a number short enough to read: 0.7312, 12,345, 0.00013."""
    if not math.isfinite(value):
        return str(value)
    plus = "+" if sign else ""
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{value:{plus},.0f}"
    if abs(value) >= 1000:
        return f"{value:{plus},.1f}"
    return f"{value:{plus}.4f}" if abs(value) >= 0.01 else f"{value:{plus}.3g}"


def _plain(value: Any) -> str:
    return "" if value is None else str(value)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
