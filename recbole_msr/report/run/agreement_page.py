"""Show several runs of one model: how far their attentions and gates agree, and the importance of fields over them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from recbole_msr.errors import InputError
from recbole_msr.evaluation.importance import Importance
from recbole_msr.report.html.page import Page, note, table
from recbole_msr.report.run.explain_page import MOVED, TITLE_OF_RUNS, check_page, print_table
from recbole_msr.report.run.importance_section import (
    check_importance_files,
    importance_parts,
    importance_table,
    sentences,
    write_importance,
)
from recbole_msr.runs.explain.explain import importance_over_runs
from recbole_msr.runs.explain.permutation import ImportanceOptions
from recbole_msr.runs.explain.views import Explanation
from recbole_msr.runs.initial_weights import Agreement, agreements, conclusion
from recbole_msr.runs.saved_run import SavedRun

_SAYS = (
    "The weights of every attention and gate: mean over the runs, and in brackets the greatest difference between two "
    "of them. Apart: which share of the weight two runs put elsewhere, at most. Experts that are drawn alike change "
    "places from seed to seed: of two kinds each kind's sum is compared, of one kind alone the weights by their size."
)


def write_agreement(
    run_dirs: Sequence[str | Path],
    out: str | Path | None = None,
    knowledge_dir: str | Path | None = None,
    *,
    importance: ImportanceOptions | None = None,
    file: TextIO | None = None,
) -> Path:
    """Compare several finished runs: print their agreement and the importance of fields, and write the page.

    With `importance` there are two files beside the page, and runs without attentions and gates have a page, too.

    Args:
        run_dirs: the runs' folders, two or more.
        out: the page; `explain-runs.html` in the first run's folder by default.
        knowledge_dir: where the runs' knowledge is, if it has moved.
        importance: how the importance of fields is measured; None leaves it out.
        file: where to print; standard output by default.

    Returns:
        The page's path.

    Raises:
        InputError: fewer than two runs, one of them twice, or runs of different models or data; or the
            page's file is another one.
    """
    folders = [Path(folder) for folder in run_dirs]
    if len({folder.resolve() for folder in folders}) < max(len(folders), 2):
        raise InputError(
            f"--runs takes two or more different folders, separated by commas, got {', '.join(map(str, run_dirs))}"
        )
    path = Path(out) if out is not None else folders[0] / "explain-runs.html"
    check_page(path)
    if importance is not None:
        check_importance_files(path)
    runs = [SavedRun(folder, knowledge_dir) for folder in folders]
    explanations = [run.explain(n=1) for run in runs]
    for folder, explanation in zip(folders[1:], explanations[1:], strict=True):
        _check_one_model(folders[0], explanations[0], folder, explanation)
    if explanations[0].weights or importance is None:
        _check_agreement(folders, explanations)
    notes = [f"{e.run}: {line}" for e in explanations for line in e.notes]
    measured = None if importance is None else _importance(runs, importance, notes)
    facts = explanations[0].facts
    page = Page(
        f"{facts['Model']} on {facts['Dataset']}: what {len(explanations)} {TITLE_OF_RUNS}",
        ", ".join(map(str, folders)),
    )
    printed: list[str] = []
    if explanations[0].weights or measured is None:
        _check_agreement(folders, explanations)
        agreed = agreements([e.weights for e in explanations], [e.moves for e in explanations])
        summary = conclusion(agreed, len(explanations))
        page.section("Do the runs agree?", summary, *map(note, notes))
        page.section("Attentions and gates", _SAYS, MOVED, table(*_table(agreed)))
        print_table("Attentions and gates over the runs", *_table(agreed), file=file)
        printed.append(summary)
    else:
        page.section("The runs", *map(note, notes))
    if measured is not None:
        page.section("Importance of fields", *importance_parts(measured))
        what = f"{measured.split} rows, {measured.shuffles} shuffles, {len(runs)} runs"
        print_table(f"Importance of fields ({what})", *importance_table(measured), file=file)
        notes += sentences(measured.notes)
    page.write(path)
    printed += [f"Note: {line}" for line in notes]
    if measured is not None:
        printed.append(f"Importance: {', '.join(map(str, write_importance(measured, path)))}")
    for line in (*printed, f"Page: {path}"):
        print(line, file=file)
    return path


def _importance(runs: Sequence[SavedRun], options: ImportanceOptions, notes: list[str]) -> Importance | None:
    """Measure the importance of fields over runs; where that cannot be, say why, or refuse what was asked for."""
    try:
        return importance_over_runs(
            runs, options.fields, options.shuffles,
            split=options.split, rows=options.rows, seed=options.seed, tell=options.tell,
        )  # fmt: skip
    except InputError as error:
        if options.fields is not None:
            raise
        notes.append(f"no importance of fields: {error}")
        return None


def _check_agreement(folders: Sequence[Path], explanations: Sequence[Explanation]) -> None:
    for folder, explanation in zip(folders[1:], explanations[1:], strict=True):
        _check_comparable(folders[0], explanations[0], folder, explanation)


def _check_one_model(first: Path, first_run: Explanation, other: Path, other_run: Explanation) -> None:
    """Refuse runs of different models or data.

    Raises:
        InputError: they are.
    """
    for fact in ("Model", "Dataset"):
        if first_run.facts[fact] != other_run.facts[fact]:
            raise InputError(
                f"--runs are to be of one model and dataset, but {first} is of {first_run.facts[fact]}, {other} of "
                f"{other_run.facts[fact]}"
            )


def _check_comparable(first: Path, first_run: Explanation, other: Path, other_run: Explanation) -> None:
    """Refuse runs that have other lines of weights.

    Raises:
        InputError: they differ in more than the seed, or there are no weights.
    """
    if not first_run.weights:
        reason = "; ".join(first_run.notes) or "its model"
        raise InputError(f"{first} has no attention and no gate to compare ({reason})")
    lines = [[(line.part, line.line, line.choices) for line in run.weights] for run in (first_run, other_run)]
    if lines[0] != lines[1]:
        raise InputError(f"{first} and {other} have other attentions or gates: compare runs that differ in seed alone")


def _table(agreed: Sequence[Agreement]) -> tuple[list[str], list[list[str | int | float | None]]]:
    lines: list[list[str | int | float | None]] = []
    for line in agreed:
        parts = zip(line.choices, line.mean, line.spread, strict=True)
        weights = "; ".join(f"{name} {mean:.3f} ({spread:.3f})" for name, mean, spread in parts)
        agrees = "yes" if line.agrees else "no"
        lines.append([line.part, line.line, weights, line.moved, line.apart, agrees])
    return ["Part", "Weights of", "Mean (spread)", "Moved", "Apart", "Agree"], lines
