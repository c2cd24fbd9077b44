"""Sections of a comparison's page that are read from the folders of its runs and searches, as far as they exist."""

from __future__ import annotations

import csv
import logging
import math
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from markupsafe import Markup

from recbole_msr.errors import InputError
from recbole_msr.evaluation.metrics import smaller_is_better
from recbole_msr.files.yaml import write_yaml_text
from recbole_msr.jobs.storage import JOURNAL, objective_names, open_storage
from recbole_msr.report.comparison.figures import Line, curves
from recbole_msr.report.comparison.tables import Entry
from recbole_msr.report.figures import short
from recbole_msr.report.html.page import Number, choice, heat_map, note, table, text
from recbole_msr.report.tuning.figures import StudyFigures, quiet_optuna
from recbole_msr.runs.explain.views import Explanation
from recbole_msr.runs.saved_run import SavedRun

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

_SMALL = ("parameters", "flops", "latency", "latency_1", "seconds")
"""Objectives of a search that are better small, beside the metrics of which that is so."""


class RunSections:
    """Sections made from folders.

    Args:
        summary: the content of a comparison's summary.json.
        folder: what its paths are relative to.
        page: the folder of the page, for links from it.
    """

    def __init__(self, summary: Mapping[str, Any], folder: Path, page: Path) -> None:
        self._summary, self._folder, self._page = summary, folder, page
        self._entries: list[Entry] = list(summary["entries"])

    # Training curves.

    def curves(self) -> list[str | Markup]:
        """Return the validation metric by epoch of all runs on all scenarios."""
        metric = str(self._summary["valid_metric"]).lower()
        missing: list[str] = []
        options: dict[str, Markup] = {}
        lines = list(self._lines("multi-task", None, [metric], missing))
        if lines:
            options["all tasks"] = curves(lines, "epoch", f"validation {metric}")
        for task in self._summary["tasks"]:
            # What a run of one task is chosen by is, for a run of several, among its other metrics.
            of_task = metric.removesuffix("/macro") + f"/{task}/macro" if metric.endswith("/macro") else metric
            alone = list(self._lines("single-task", task, [of_task, metric], missing))
            both = [*self._lines("multi-task", None, [of_task], []), *alone] if of_task != metric else alone
            if alone or (both and len(self._summary["tasks"]) > 1):
                options[str(task)] = curves(both, "epoch", f"validation {of_task}")
        parts: list[str | Markup] = []
        if options:
            parts.append("A line a run: one for each seed of a model, as far as it was trained.")
            parts.append(choice("Task", options))
        else:
            parts.append(note("No run has left validation values by epoch (metrics.csv)."))
        if options and missing:
            parts.append(note(f"Without a curve: {_listed(missing)}."))
        return parts

    def _lines(self, kind: str, task: str | None, metrics: list[str], missing: list[str]) -> Iterator[Line]:
        """Yield the curves of all models of a kind, by the first metric that a run has; note runs without one."""
        for number, entry in enumerate(self._entries):
            if entry["kind"] != kind:
                continue
            for run in entry["runs"]:
                if run["scenario"] is not None or run["task"] != task:
                    continue
                points = _history(self._folder / run["folder"] / "metrics.csv", metrics) if run["folder"] else None
                if points is not None:
                    yield Line(str(entry["label"]), number, f"seed {run['seed']}", *points)
                else:
                    missing.append(f"{entry['label']}, {f'{task}, ' if task else ''}seed {run['seed']}")

    # Searches.

    def searches(self) -> list[str | Markup]:
        """Return the best value so far of every search, and the importance of its parameters."""
        histories: dict[str, list[Line]] = {}
        options: dict[str, list[str | Markup]] = {}
        rows: list[list[Any]] = []
        for number, entry in enumerate(self._entries):
            for search in entry["searches"]:
                folder = self._folder / search["folder"]
                task = str(search["task"]) if search["task"] is not None else ""
                rows.append(self._search_row(entry, search, folder))
                progress = _best_so_far(folder / "trials.csv")
                if progress is not None:
                    name, trials, best = progress
                    histories.setdefault(name, []).append(Line(str(entry["label"]), number, task, trials, best))
                options[", ".join(filter(None, [str(entry["label"]), task]))] = _importances(folder)
        header = ["Model", "Task", "Trials", "Best value", "Status", "Page"]
        parts: list[str | Markup] = [table(header, rows, caption="Searches")]
        if histories:
            pictures = {f"best {name} so far": curves(of, "trial", name, steps=True) for name, of in histories.items()}
            parts.append(choice("History", pictures))
        else:
            parts.append(note("No search has left a table of finished trials (trials.csv)."))
        explanation = (
            "How much of the differences between a search's trials comes with each parameter; PED-ANOVA, of Optuna."
        )
        if any(search["trials"] < 20 for entry in self._entries for search in entry["searches"]):
            explanation += " From fewer than 20 trials this is a hint, no measurement."
        return [*parts, explanation, choice("Importance of parameters", options)]

    def _search_row(self, entry: Entry, search: Mapping[str, Any], folder: Path) -> list[Any]:
        page: Any = "not there"
        if (folder / "report.html").is_file():
            page = self._link(folder / "report.html", "open")
        value = search["value"]
        status = ": ".join(filter(None, [str(search["status"]), str(search["reason"] or "")]))
        shown = None if value is None else Number(float(value), short(float(value)))
        return [entry["label"], search["task"] or "all", search["trials"], shown, status, page]

    def _link(self, path: Path, words: str) -> Markup:
        try:
            relative = os.path.relpath(path, self._page)
        except ValueError:  # on Windows another drive
            return Markup("{}").format(str(path))
        return Markup('<a href="{}">{}</a>').format(quote(Path(relative).as_posix()), words)

    # What the models have learnt.

    def learnt(self) -> list[str | Markup]:
        """Return attention, use of experts and dead experts of each model's first run on all scenarios."""
        options: dict[str, list[str | Markup]] = {}
        dead: list[list[Any]] = []
        for entry in self._entries:
            run = _first_joint(entry)
            if entry["kind"] != "multi-task" or entry["status"] == "failed":
                continue
            label = str(entry["label"])
            if run is None:
                options[label] = [note(f"{label} has no run that came to its end.")]
                continue
            explanation = _explanation(self._folder / run["folder"])
            if isinstance(explanation, str):
                options[label] = [note(f"{label} cannot be looked into: {explanation}")]
                continue
            options[label] = _explained(explanation, run)
            dead += [
                [label, use.title, f"{len(use.dead)}: {'; '.join(use.dead)}"] for use in explanation.gates if use.dead
            ]
        if not options:
            return [note("There is no multi-task model with a result to look into.")]
        return [
            "Of each multi-task model, the run of its first seed, over training rows.",
            table(["Model", "Part", "Dead experts"], dead, caption="Dead experts")
            if dead
            else "No dead expert was found in the models that could be looked into.",
            choice("Model", options),
        ]

    # Configurations.

    def configurations(self) -> list[str | Markup]:
        """Return what every model was trained with, and the commands that train it again."""
        keys = _differing([dict(entry["config"]) for entry in self._entries if entry["config"]])
        parts: list[str | Markup] = [
            Markup(
                "<p>Every run has its whole configuration in its folder; a command below, given in the folder of the "
                "comparison, trains and tests it again. The keys that are not the same for all models stand first.</p>"
            )
        ]
        for entry in self._entries:
            inside: list[Markup] = []
            if entry["settings"]:
                inside.append(text(_yaml(entry["settings"]), "Given for this model alone"))
            if entry["config"]:
                config = dict(entry["config"])
                different = {key: config[key] for key in keys if key in config}
                same = {key: value for key, value in config.items() if key not in different}
                if different:
                    inside.append(text(_yaml(different), "What differs between the models", opened=True))
                inside.append(text(_yaml(same), "The same for all", opened=not different))
            else:
                inside.append(note("There is no configuration: no run began."))
            inside.append(self._run_table(entry))
            parts.append(
                Markup('<details class="entry"><summary>{} <small>{}</small></summary>{}</details>').format(
                    entry["label"], f"{entry['kind']}, {entry['status']}", Markup("\n").join(inside)
                )
            )
        return parts

    def _run_table(self, entry: Entry) -> Markup:
        rows = []
        for run in entry["runs"]:
            again: Any = "there is no config.yaml"
            if run["folder"] and (self._folder / run["folder"] / "config.yaml").is_file():
                config = f"{run['folder']}/config.yaml"
                link = self._link(self._folder / config, "look")
                again = Markup("<code>run_recbole --config_files {}</code> ({})").format(shlex.quote(config), link)
            status = ": ".join(filter(None, [str(run["status"]), str(run["reason"] or "")]))
            epochs = [run["best_epoch"], run["epochs"]]
            names = [run["task"] or "all", run["scenario"] or "all", Number(run["seed"], str(run["seed"]))]
            rows.append([*names, *epochs, status, again])
        header = ["Task", "Scenario", "Seed", "best epoch", "epochs", "Status", "Again"]
        return table(header, rows, caption=f"Runs of {entry['label']}")


def _history(path: Path, metrics: list[str]) -> tuple[list[float], list[float]] | None:
    """Read epochs and values of the first of the metrics in a run's metrics.csv; None where there are none."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        for metric in metrics:
            columns = [key for key in (rows[0] if rows else {}) if str(key).lower() == f"valid/{metric}".lower()]
            if columns:
                pairs = [(float(row["epoch"]), float(row[columns[0]])) for row in rows if row[columns[0]]]
                pairs = [pair for pair in pairs if math.isfinite(pair[1])]
                return ([x for x, _ in pairs], [y for _, y in pairs]) if pairs else None
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        logger.debug("%s cannot be read", path, exc_info=True)
    return None


def _best_so_far(path: Path) -> tuple[str, list[float], list[float]] | None:
    """Read the first objective of a search, the numbers of its finished trials, and the best value up to each."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        name = list(rows[0])[2] if rows else ""  # after number and state
        numbers: list[float] = []
        best: list[float] = []
        pick = min if smaller_is_better(name) or name in _SMALL else max
        for row in rows:
            if row["state"] == "complete" and row[name] and math.isfinite(float(row[name])):
                numbers.append(float(row["number"]))
                best.append(pick([*best[-1:], float(row[name])]))
    except (OSError, ValueError, KeyError, IndexError, TypeError, csv.Error):
        logger.debug("%s cannot be read", path, exc_info=True)
        return None
    return (name, numbers, best) if numbers else None


def _importances(folder: Path) -> list[str | Markup]:
    try:
        study = _study(folder)
    except Exception as error:  # a journal of another program, half of one, ...
        logger.debug("the study in %s cannot be read", folder, exc_info=True)
        return [note(f"The study in {folder.name} cannot be read: {error}")]
    if study is None:
        return [note("The study's journal (study.journal) is not there: a database, or moved away.")]
    return list(StudyFigures(study, objective_names(study), None).importances())


def _study(folder: Path) -> optuna.Study | None:
    """Load the study of a search that kept it in its folder; None where it did not."""
    import optuna

    if not (folder / JOURNAL).is_file():
        return None
    with quiet_optuna():
        storage = open_storage(None, folder)
        (name, *_) = optuna.get_all_study_names(storage)
        return optuna.load_study(study_name=name, storage=storage)


def _first_joint(entry: Entry) -> Mapping[str, Any] | None:
    joint = [run for run in entry["runs"] if run["scenario"] is None and run["folder"]]
    runs = [run for run in joint if run["status"] == "complete"]
    return runs[0] if runs else None


def _explanation(folder: Path) -> Explanation | str:
    """Return what a run has learnt, or why that cannot be seen."""
    try:
        return SavedRun(folder).explain(n=1)
    except InputError as error:
        return str(error)
    except Exception as error:  # a damaged folder must not cost the page
        logger.debug("%s cannot be explained", folder, exc_info=True)
        return f"{type(error).__name__}: {error}"


def _explained(explanation: Explanation, run: Mapping[str, Any]) -> list[str | Markup]:
    parts: list[str | Markup] = [f"Seed {run['seed']}, {explanation.facts['Model']}."]
    parts += [note(f"{line[:1].upper()}{line[1:]}.") for line in explanation.notes]
    last_note = ""
    for matrix in explanation.between:
        if matrix.says != last_note:
            parts.append(matrix.says)
        last_note = matrix.says
        parts.append(
            heat_map(
                matrix.rows, matrix.columns, matrix.values, caption=matrix.title, corner=matrix.corner,
                scale="diverging" if matrix.signed else "sequential", low=None if matrix.signed else 0.0,
                show=("{:+.3f}" if matrix.signed else "{:.3f}").format,
            )
        )  # fmt: skip
    for use in explanation.gates:
        if len(use.experts) > 1:
            caption = f"{use.title}: mean weight that a gate gives to each of its experts"
            parts.append(
                heat_map(use.gates, use.experts, use.weights, caption=caption, corner="gate \\ expert", low=0.0)
            )
        if use.dead:
            parts.append(note(f"{use.title}: {len(use.dead)} dead: {'; '.join(use.dead)}."))
        else:
            parts.append(f"{use.title}: no dead expert.")
    if any(view.movement is not None or view.strength for view in explanation.scenarios):
        tasks = next((list(view.strength) for view in explanation.scenarios if view.strength), [])
        rows = [[v.name, v.rows, v.movement, *(v.strength.get(task) for task in tasks)] for v in explanation.scenarios]
        header = ["Scenario", "Training rows", "Movement", *(f"Strength, {task}" for task in tasks)]
        parts.append(table(header, rows, caption="How far the language model's knowledge moves input and logits"))
    return parts


def _differing(configs: list[dict[str, Any]]) -> list[str]:
    """Return the keys that some lack, or have with another value."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if any(key not in c or c[key] != configs[0].get(key) for c in configs)]


def _listed(words: list[str], maximum: int = 8) -> str:
    more = f" and {len(words) - maximum} more" if len(words) > maximum else ""
    return "; ".join(words[:maximum]) + more


def _yaml(settings: Mapping[str, Any]) -> str:
    return write_yaml_text(dict(settings), width=100)
