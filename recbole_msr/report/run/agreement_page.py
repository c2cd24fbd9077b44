"""Whether several runs, of other seeds, have learnt the same attentions and gates: a table and a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from recbole_msr.errors import InputError
from recbole_msr.report.html.page import Page, note, table
from recbole_msr.report.run.explain_page import MOVED, print_table
from recbole_msr.runs.explain import Explanation, explain
from recbole_msr.runs.initial_weights import Agreement, agreements, conclusion

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
    file: TextIO | None = None,
) -> Path:
    """Compare the attentions and gates of several finished runs: print the table and write the page.

    Args:
        run_dirs: the runs' folders, two or more.
        out: the page; `explain-runs.html` in the first run's folder by default.
        knowledge_dir: where the runs' knowledge is, if it has moved.
        file: where to print; standard output by default.

    Raises:
        InputError: fewer than two runs, one of them given twice, or runs of different models or data.
    """
    folders = [Path(folder) for folder in run_dirs]
    if len({folder.resolve() for folder in folders}) < max(len(folders), 2):
        raise InputError(
            f"--runs takes two or more different folders, separated by commas, got {', '.join(map(str, run_dirs))}"
        )
    path = Path(out) if out is not None else folders[0] / "explain-runs.html"
    if path.is_dir():
        raise InputError(f"--out must be a file, but {path} is a folder")
    each = [explain(folder, n=1, knowledge_dir=knowledge_dir) for folder in folders]
    for folder, one in zip(folders[1:], each[1:], strict=True):
        _require_alike(folders[0], each[0], folder, one)
    found = agreements([one.weights for one in each], [one.moves for one in each])
    said = conclusion(found, len(each))
    notes = [f"{one.run}: {line}" for one in each for line in one.notes]
    first = each[0].facts
    made = Page(f"{first['Model']} on {first['Dataset']}: {len(each)} runs", ", ".join(map(str, folders)))
    made.section("Do the runs agree?", said, *map(note, notes))
    made.section("Attentions and gates", _SAYS, MOVED, table(*_table(found)))
    made.write(path)
    print_table("Attentions and gates over the runs", *_table(found), file=file)
    for line in (said, *(f"Note: {line}" for line in notes), f"Page: {path}"):
        print(line, file=file)
    return path


def _require_alike(first: Path, one: Explanation, folder: Path, other: Explanation) -> None:
    for fact in ("Model", "Dataset"):
        if one.facts[fact] != other.facts[fact]:
            raise InputError(
                f"--runs are to be of one model and dataset, but {first} is of {one.facts[fact]}, {folder} of "
                f"{other.facts[fact]}"
            )
    if not one.weights:
        raise InputError(f"{first} has no attention and no gate to compare ({'; '.join(one.notes) or 'its model'})")
    lines = [[(line.part, line.line, line.choices) for line in found.weights] for found in (one, other)]
    if lines[0] != lines[1]:
        raise InputError(f"{first} and {folder} have other attentions or gates: compare runs that differ in seed alone")


def _table(found: Sequence[Agreement]) -> tuple[list[str], list[list[str | int | float | None]]]:
    lines: list[list[str | int | float | None]] = []
    for line in found:
        parts = zip(line.choices, line.mean, line.spread, strict=True)
        weights = "; ".join(f"{name} {mean:.3f} ({spread:.3f})" for name, mean, spread in parts)
        agrees = "yes" if line.agrees else "no"
        lines.append([line.part, line.line, weights, line.moved, line.apart, agrees])
    return ["Part", "Weights of", "Mean (spread)", "Moved", "Apart", "Agree"], lines
