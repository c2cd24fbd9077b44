"""Log loss and ECE before and after calibration in a comparison."""

import json
from io import StringIO
from pathlib import Path

import pytest

import recbole_msr
from recbole_msr.evaluation.cells import Evaluation
from recbole_msr.report.comparison.tables import tables_of
from recbole_msr.report.comparison.terminal import print_comparison
from tests.runs.tiny import write_tiny
from tests.tuning.conftest import CONFIG

STARS = {"stars": {"field": "rating", "type": "classes"}}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    split = {"split": {"RS": [0.5, 0.3, 0.2]}, "order": "RO", "group_by": None, "mode": "labeled"}
    config = {**CONFIG, "data_path": str(write_tiny(folder)), "epochs": 1, "calibrate": "temperature"}
    return recbole_msr.compare(
        "SharedBottom,LR",
        "tiny",
        seeds=1,
        config={**config, "eval_args": split, "tasks": {**CONFIG["tasks"], **STARS}},
        output=folder / "out",
        wandb="disabled",
        progress=False,
    )


def macro(evaluations, metric):
    """The mean over the cells of binary tasks that count; a task of classes is not calibrated."""
    cells = [cell for one in evaluations for row in one.cells.values() for cell in row.values()]
    values = [cell.value(metric) for cell in cells if cell.undefined is None and cell.type == "binary"]
    return sum(values) / len(values)


def test_an_entry_has_the_means_of_its_runs_before_and_after(compared):
    for entry in compared.summary["entries"]:
        results = [
            json.loads((Path(compared.folder) / run["folder"] / "result.json").read_text()) for run in entry["runs"]
        ]
        found = entry["calibrated"]
        assert (found["method"], found["by"]) == ("temperature", "task")
        for when, parts in (
            ("before", [one["test"] for one in results]),
            ("after", [one["calibrated"]["test"] for one in results]),
        ):
            evaluations = [Evaluation.from_dict(part) for part in parts]
            for metric in ("logloss", "ece"):
                assert found[when][f"{metric}/macro"]["mean"] == pytest.approx(macro(evaluations, metric))


def test_it_is_a_table_of_its_own(compared):
    (table,) = [table for table in tables_of(compared.summary) if table.name == "calibration"]
    assert [column.name for column in table.columns] == ["before", "after"] * 2
    told = StringIO()
    print_comparison(compared.summary, file=told, width=200)
    assert "Calibration on the validation rows (temperature, by task)" in told.getvalue()
