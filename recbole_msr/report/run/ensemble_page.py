"""Show the importance of an ensemble's fields: a table, a page, and two files."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

from recbole_msr.errors import InputError
from recbole_msr.files.outputs import check_paths
from recbole_msr.report.html.page import Page, facts, table
from recbole_msr.report.run.explain_page import TITLE, check_page, print_table
from recbole_msr.report.run.importance_section import (
    check_importance_files,
    importance_parts,
    importance_table,
    sentences,
    write_importance,
)
from recbole_msr.runs.ensemble import SavedEnsemble
from recbole_msr.runs.explain.explain import ensemble_importance
from recbole_msr.runs.explain.permutation import ImportanceOptions


def write_ensemble_importance(
    folder: str | Path,
    out: str | Path | None,
    knowledge_dir: str | Path | None,
    importance: ImportanceOptions | None,
    *,
    file: TextIO | None = None,
) -> Path:
    """Measure the importance of an ensemble's fields: print it, write the page and two files beside it.

    Args:
        folder: the ensemble's folder.
        out: the page; `explain.html` in the folder by default.
        knowledge_dir: where the members' knowledge is, if it has moved.
        importance: how it is measured; None is refused, as there is nothing else to show.
        file: where to print; standard output by default.

    Returns:
        The page's path.

    Raises:
        InputError: importance is left out, or cannot be measured; or a file cannot be written.
    """
    check_paths({"knowledge_dir": knowledge_dir}, run=folder, out=out)
    path = Path(out) if out is not None else Path(folder, "explain.html")
    check_page(path)
    check_importance_files(path)
    ensemble = SavedEnsemble(folder, knowledge_dir)
    if importance is None:
        raise InputError(
            f"{folder} holds an ensemble: the importance of its fields is shown, which --shuffles=0 leaves out; "
            f"attentions and gates are those of one model, such as {ensemble.members[0].folder}"
        )
    found = ensemble_importance(ensemble, importance)
    models = ", ".join(sorted({run.config["model"] for run in ensemble.members}))
    dataset = ensemble.members[0].config["dataset"]
    told = {"Ensemble": str(folder), "Dataset": str(dataset), "Members": str(len(ensemble.members)), "Models": models}
    page = Page(f"Ensemble of {models} on {dataset}: {TITLE}", str(folder))
    page.section("The ensemble", facts(told | {"Tasks": ", ".join(ensemble.tasks)}), table(*_members(ensemble)))
    page.section("Importance of fields", *importance_parts(found))
    page.write(path)
    what = f"{found.split} rows, {found.shuffles} shuffles, {len(ensemble.members)} members"
    print_table(f"Importance of fields ({what})", *importance_table(found), file=file)
    written = ", ".join(map(str, write_importance(found, path)))
    lines = [*(f"Note: {line}" for line in sentences(found.notes)), f"Importance: {written}", f"Page: {path}"]
    for line in lines:
        print(line, file=file)
    return path


def _members(ensemble: SavedEnsemble) -> tuple[list[str], list[list[str | int | float | None]]]:
    members = zip(ensemble.members, ensemble.weights, ensemble.member_tasks, strict=True)
    lines: list[list[str | int | float | None]] = [
        [run.folder.name, run.config["model"], f"{weight:g}", ", ".join(tasks)] for run, weight, tasks in members
    ]
    return ["Member", "Model", "Weight", "Tasks"], lines
