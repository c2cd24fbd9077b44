"""The tables of real logs: components of text vectors, cells of a table, and a small table from data to Markdown."""

import numpy as np
import pytest

from benchmarks import real_logs
from benchmarks.real_logs import TABLES, Bench, Side, Table, spread_of
from benchmarks.text_vectors import principal_components


def test_principal_components_are_those_of_the_singular_vectors():
    vectors = np.random.default_rng(1).normal(size=(40, 6)) @ np.diag([5, 4, 3, 2, 1, 0.5]) + 7
    left = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)[0][:, :3]
    found = principal_components(vectors, 3)
    assert found.std(axis=0) == pytest.approx(1, abs=1e-3)
    assert np.abs(left.T @ found) / np.sqrt(40) == pytest.approx(np.eye(3), abs=1e-3)  # signs are free


def test_a_cell_has_mean_and_deviation_of_one_metric_before_or_after_calibration():
    entry = {
        "test": {"auc/click/macro": {"mean": 0.5, "deviation": 0.25}, "mae/play/macro": {"mean": 2, "deviation": None}},
        "calibrated": {"before": {"ece/macro": {"mean": 0.125, "deviation": 0}}},
    }
    keys = ("auc/click/macro", "mae/play/macro", "before:ece/macro", "after:ece/macro", "ndcg@10/macro")
    assert [spread_of(entry, key) for key in keys] == ["0.5000 ± 0.2500", "2.0000", "0.1250 ± 0.0000", "-", "-"]


def test_no_column_of_several_tasks_mixes_units():
    """A macro mean over all tasks is one of tasks of one kind."""
    for table in TABLES.values():
        for side in table.sides:
            tasks = {**table.config, **side.config}.get("tasks", {})
            if any(task.get("type") for task in tasks.values()):
                assert all(len(key.split("/")) == 3 for key in table.columns.values())


def test_a_table_has_a_row_for_each_model_and_side(tmp_path, monkeypatch):
    monkeypatch.setattr(real_logs, "SEEDS", 1)
    columns = {"AUC, click": "auc/click/macro", "AUC, like": "auc/like/macro"}
    sides = [Side("plain", {"epochs": 1}), Side("empty", models={"STAR": {}})]
    models = {"SharedBottom": {}, "Absent": {"model": "BPR"}, "HiNet": {}}
    table = Table("ml-100k", 1500, "side", columns, models, {}, sides)
    lines = list(Bench("small", table, tmp_path, tmp_path, ["SharedBottom", "Absent"]).lines())
    assert lines[0] == "| model | side | AUC, click | AUC, like | epochs |"
    cells = [cell.strip() for cell in lines[2].split("|")[1:-1]]
    assert cells[:2] == ["SharedBottom", "plain"]
    assert cells[4] == "1.0"
    assert all(0 < float(cell) < 1 for cell in cells[2:4])
    assert [cell.strip() for cell in lines[3].split("|")[1:-1]] == ["Absent", "plain", "-", "-", "-"]
    assert lines[4].startswith("\nAbsent: ")
