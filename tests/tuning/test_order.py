"""What is written down keeps the order of tasks, groups and scenarios: it decides the main task and AITM's chain."""

import json
from pathlib import Path

import pytest
import yaml

import recbole_msr
from recbole_msr import compare, search

BACKWARDS = {
    "load_col": {
        "inter": ["user_id", "item_id", "rating", "timestamp"],
        "user": ["user_id", "age", "gender"],
        "item": ["item_id", "price"],
    },
    "tasks": {"like": {"field": "rating", "at_least": 5}, "click": {"field": "rating", "at_least": 4}},
    "scenario": {"field": "gender", "groups": {"women": ["F"], "men": ["M"]}},
    "loss_weights": {"like": {"women": 2.0, "men": 1.0}, "click": 0.5},
    "use_gpu": False,
    "epochs": 2,
    "train_batch_size": 64,
    "threads": 1,
}
SPACE = {"search": {"learning_rate": [0.05, 0.02], "tower_hidden_sizes": [[8], [4, 4]]}}


@pytest.fixture
def backwards(tiny_data, tmp_path, monkeypatch):
    """Settings whose mappings are all in another order than the alphabet's."""
    monkeypatch.chdir(tmp_path)
    return {**BACKWARDS, "data_path": str(tiny_data)}


def check_order(path):
    written = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    assert list(written["tasks"]) == ["like", "click"]
    assert list(written["loss_weights"]["like"]) == list(written["scenario"]["groups"]) == ["women", "men"]
    return written


def rerun(path, output):
    return recbole_msr.run(config_files=[path], config={"output_dir": output, "show_progress": False})


def test_a_searchs_files_rerun_to_its_value(backwards):
    found = search(
        "AITM", "tiny", 2, config=backwards, space=SPACE, output="out", final_seeds=1, wandb="disabled", progress=False
    )
    check_order("out/best.yaml")
    again = rerun("out/best.yaml", "again")
    assert again.summary["main_task"] == "like"
    assert again.summary["tasks"] == ["like", "click"]
    assert again.summary["scenarios"] == ["women", "men"]
    assert again.summary["best_valid_score"] == found.best_value

    (final,) = Path("out/final").glob(f"trial-{found.summary['final']['trial']}-*/config.yaml")
    check_order(final)
    third = rerun(final, "third")
    assert third.summary["test"] == json.loads(final.with_name("result.json").read_text(encoding="utf-8"))["test"]


@pytest.mark.slow
def test_a_comparisons_files_rerun_to_its_values(backwards):
    result = compare(
        ["AITM"], "tiny", 1, 1, config=backwards, output="out", wandb="disabled", progress=False
    )  # fmt: skip
    (entry,) = result.summary["entries"]
    for file in ("runs", "searches"):
        folder = Path("out", entry[file][0]["folder"])
        check_order(folder / ("config.yaml" if file == "runs" else "best.yaml"))
    searched = rerun(folder / "best.yaml", "searched")
    assert searched.summary["main_task"] == "like"
    assert searched.summary["best_valid_score"] == entry["searches"][0]["value"]

    run = Path("out", entry["runs"][0]["folder"])
    again = rerun(run / "config.yaml", "again")
    assert again.summary["test"] == json.loads((run / "result.json").read_text(encoding="utf-8"))["test"]
    assert list(entry["config"]["tasks"]) == ["like", "click"]
    assert result.summary["data"] == again.summary["data"]
