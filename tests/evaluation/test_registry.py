"""A metric is one entry of the registry: everything that shows, checks or tests metrics has it then."""

import csv
import json
import re

import numpy as np
import pytest

import recbole_msr
from recbole_msr.config.build import build_config
from recbole_msr.errors import InputError
from recbole_msr.evaluation.metrics import METRICS, Direction, MeanOfTerms, Metric
from recbole_msr.report import markdown
from recbole_msr.report.comparison.frames import cells_frame, differences_frame, leaderboard_frame
from recbole_msr.report.comparison.latex_markdown import latex
from recbole_msr.report.comparison.latex_markdown import markdown as comparison_markdown
from recbole_msr.report.comparison.page import write_compare_page
from recbole_msr.report.comparison.terminal import print_comparison
from recbole_msr.report.run.result_table import print_result
from recbole_msr.runs.result_file import read_result
from tests.comparison.summaries import evaluation, make_summary
from tests.conftest import SCENARIOS, SETTINGS
from tests.tracking.read_back import runs

SMALL = SETTINGS | {
    "scenario": SCENARIOS[2], "epochs": 2, "threads": 1, "train_batch_size": 256, "embedding_size": 4,
    "bottom_hidden_sizes": [8], "tower_hidden_sizes": [4],
}  # fmt: skip
SPACE = {"model": "SharedBottom", "search": {"learning_rate": {"type": "float", "low": 1e-3, "high": 1e-1}}}


def _errors(scores, labels):
    errors = (scores.astype(np.float64) - labels) ** 2
    return float(errors.mean()), (errors,)


@pytest.fixture
def brier(monkeypatch):
    """The Brier score (Brier, 1950), registered for one test: its entry is all that is added."""
    metric = Metric(
        name="brier",
        heading="Brier",
        direction=Direction.SMALLER,
        values=lambda groups: groups.mean((groups.scores.astype(np.float64) - groups.labels) ** 2),
        difference=MeanOfTerms(_errors, "rows"),
    )
    monkeypatch.setitem(METRICS, "brier", metric)
    return metric


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Weights & Biases on disk alone."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)


def test_a_run_computes_selects_by_shows_and_tracks_a_new_metric(brier, tiny_data, offline, capsys):
    settings = SMALL | {"data_path": str(tiny_data), "valid_metric": "Brier/Macro", "log_wandb": True}
    found = recbole_msr.run("SharedBottom", "tiny", config=settings | {"output_dir": "out", "save_predictions": True})
    with open("out/metrics.csv", newline="") as file:
        values = [float(row["valid/brier/macro"]) for row in csv.DictReader(file)]
    assert found.summary["best_valid_score"] == pytest.approx(min(values))  # smaller is better
    written = json.loads((found.folder / "result.json").read_text())["test"]
    assert written["macro"]["brier"] == found.test.flat()["brier/macro"] == found.test.macro("brier")
    import pandas as pd

    frame = pd.read_parquet("out/predictions.parquet")
    errors = (frame["score_click"] - frame["label_click"]) ** 2
    assert found.test.pooled["click"].value("brier") == pytest.approx(errors.mean(), abs=1e-6)
    print_result(found.test, width=100)
    assert re.search(r"ECE +PCOC +Brier", capsys.readouterr().out)
    assert "| ECE | PCOC | Brier |" in markdown(found.test)
    (tracked,) = runs("out/wandb")
    table = tracked.table("test/cells")
    assert table["columns"][-2:] == ["brier", "undefined"]
    assert tracked.summary["test/brier/macro"] == pytest.approx(found.test.macro("brier"))


def test_a_search_minimises_a_new_metric_and_its_page_shows_it(brier, tiny_data, offline):
    found = recbole_msr.search(
        "SharedBottom", "tiny", 2, space=SPACE, config=SMALL | {"data_path": str(tiny_data)}, output="out",
        objectives="brier/macro,ece/worst", final_seeds=1, wandb="disabled", progress=False,
    )  # fmt: skip
    summary = json.loads((found.folder / "summary.json").read_text())
    assert summary["objectives"] == [
        {"name": "brier/macro", "direction": "minimize"},
        {"name": "ece/worst", "direction": "minimize"},
    ]
    assert {"auc", "ece", "pcoc", "brier"} <= summary["final"]["test"]["pooled"]["click"].keys()
    page = (found.folder / "report.html").read_text(encoding="utf-8")
    headings = re.findall(r"<th[^>]*>(?:<button[^>]*>)?([^<]+)", page)
    assert {"ECE", "PCOC", "Brier"} <= {heading.split(",")[0] for heading in headings}


def test_a_comparison_tests_and_shows_a_new_metric(brier, tmp_path):
    summary = make_summary({"HiNet": 1.5, "PLE": 2.0}, {"PLE": 0.001})
    assert {"brier/macro", "brier/click"} <= summary["entries"][1]["differences"].keys()
    board = leaderboard_frame(summary)
    expected = np.mean([evaluation(2.0, seed).macro("brier") for seed in summary["seeds"]])
    assert board.set_index("label")["brier/macro"]["PLE"] == pytest.approx(expected)
    assert "brier" in set(cells_frame(summary)["metric"]) & set(differences_frame(summary)["metric"])
    assert "## Brier by scenario and task" in comparison_markdown(summary)
    assert "Brier by scenario and task" in latex(summary)
    out = tmp_path / "printed"
    with out.open("w", encoding="utf-8") as file:
        print_comparison(summary, file=file, width=400)
    assert "Brier" in out.read_text(encoding="utf-8")
    summary["verdict"] = ["One sentence."]
    write_compare_page(tmp_path / "report.html", summary, tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for metric in ("ECE", "PCOC", "Brier"):
        assert f"{metric}: macro" in page
        assert f"{metric}, mean over the seeds" in page
    assert "AUC, LogLoss and Brier are tested; of GAUC, ECE, PCOC and the worst cell only means are given" in re.sub(
        r"\s+", " ", page
    )


def test_a_misspelt_metric_is_told_the_new_one(brier, tiny_data):
    with pytest.raises(InputError, match="there is no valid_metric 'brierr'; did you mean 'brier'"):
        recbole_msr.run("SharedBottom", "tiny", config=SMALL | {"data_path": str(tiny_data), "valid_metric": "brierr"})


def test_without_its_entry_there_is_no_such_metric(tiny_data):
    with pytest.raises(InputError, match="there is no valid_metric 'brier'"):
        recbole_msr.run("SharedBottom", "tiny", config=SMALL | {"data_path": str(tiny_data), "valid_metric": "brier"})


@pytest.mark.parametrize("key", ["PCOC", "pcoc/macro", "pcoc/worst", "pcoc/like"])
def test_pcoc_cannot_choose_an_epoch_or_a_trial(key, tiny_data, offline):
    config = SMALL | {"data_path": str(tiny_data)}
    told = "PCOC is best at 1, so neither the largest nor the smallest value is the best one; choose by ece or logloss"
    with pytest.raises(InputError, match=told):
        recbole_msr.run("SharedBottom", "tiny", config=config | {"valid_metric": key})
    if key != "PCOC":
        with pytest.raises(InputError, match=told):
            recbole_msr.search(
                "SharedBottom", "tiny", 1, space=SPACE, config=config, output="out", wandb="disabled",
                objectives=f"auc/macro,{key}", progress=False,
            )  # fmt: skip


def test_ece_chooses_the_epoch_with_the_smallest(tiny_data, offline):
    settings = SMALL | {"data_path": str(tiny_data), "valid_metric": "ece", "epochs": 3, "output_dir": "out"}
    found = recbole_msr.run("SharedBottom", "tiny", config=settings)
    with open("out/metrics.csv", newline="") as file:
        values = [float(row["valid/ece"]) for row in csv.DictReader(file)]
    assert found.summary["best_valid_score"] == pytest.approx(min(values))


@pytest.fixture
def written(tiny_data, offline):
    """The result.json of a run, and its content."""
    found = recbole_msr.run("SharedBottom", "tiny", config=SMALL | {"data_path": str(tiny_data), "output_dir": "out"})
    path = found.folder / "result.json"
    return path, json.loads(path.read_text(encoding="utf-8"))


def _cells(result):
    for split in (result["valid"], result["test"]):
        for row in (split["pooled"], *split["cells"].values()):
            yield from row.values()


def test_a_result_without_the_newer_metrics_is_read(written):
    path, result = written
    for cell in _cells(result):
        del cell["ece"], cell["pcoc"]
    path.write_text(json.dumps(result), encoding="utf-8")
    assert read_result(path) == result


@pytest.mark.parametrize(
    ("metric", "value", "told"),
    [
        ("auc", None, "young, click has other metrics than task click of all scenarios"),
        ("ece", None, "young, click has other metrics than task click of all scenarios"),
        ("auc", 1.5, "young, click: auc is out of range"),
        ("pcoc", -0.1, "young, click: pcoc is out of range"),
        ("logloss", -0.1, "young, click: logloss is out of range"),
        ("ece", "0.1", "'test.cells.young.click.ece' must be a finite number or null, got '0.1'"),
        ("speed", 0.1, "'speed' is no metric"),
    ],
)
def test_a_cell_that_lacks_a_metric_of_the_others_or_has_one_out_of_range_is_damage(metric, value, told, tmp_path):
    names = ["young", "old"]
    rows = evaluation(1.0, 1, scenarios=names, tasks=["click"]).to_dict()
    if value is None:
        del rows["cells"]["young"]["click"][metric]
    else:
        rows["cells"]["young"]["click"][metric] = value
    result = {
        "model": "LR", "dataset": "tiny", "seed": 1, "best_epoch": 1, "epochs": 1, "parameters": 1,
        "main_task": "click", "scenarios": names, "tasks": ["click"], "valid": {"metrics": {}},
        "test": {"metrics": {}, **rows}, "seconds": {"train": 1.0}, "rows_per_second": None,
    }  # fmt: skip
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_result(path)
    assert str(caught.value).startswith(f"{path} is damaged: ")
    assert told in str(caught.value)


def test_a_comparison_of_before_the_newer_metrics_has_dashes(tmp_path):
    summary = make_summary({"HiNet": 1.5, "PLE": 2.0}, {"PLE": 0.001})
    for entry in summary["entries"]:
        for split in ("test", "valid"):
            kept = {key: value for key, value in entry[split].items() if not key.startswith(("ece", "pcoc"))}
            entry[split] = kept
    assert leaderboard_frame(summary)["ece/macro"].isna().all()
    text = comparison_markdown(summary)
    lines = text[text.index("ECE: macro") :].splitlines()
    assert [line.rsplit("|", 4)[1:-1] for line in lines[2:4]] == [[" – ", " – ", " – "]] * 2  # noqa: RUF001
    summary["verdict"] = ["One sentence."]
    write_compare_page(tmp_path / "report.html", summary, tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "AUC macro" in page
    assert "could not be made" not in page


@pytest.mark.parametrize("name", [*METRICS, "AUC"])
def test_no_task_is_called_like_a_metric(name):
    settings = {"tasks": {name: {"field": "rating", "at_least": 4}}, "main_task": name, "use_gpu": False}
    with pytest.raises(InputError, match=f"task name '{name}' is taken: {', '.join(METRICS)} are metrics"):
        build_config("SharedBottom", "ml-100k", settings)
