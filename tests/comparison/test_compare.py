"""A comparison from the call to the folder it leaves, on "tiny"."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.metrics import roc_auc_score

import recbole_msr
from recbole_msr import InputError
from recbole_msr.comparison.options import CompareOptions
from recbole_msr.comparison.resolve import read_compare
from recbole_msr.config.keys import unread_notes
from recbole_msr.report.comparison.terminal import print_comparison
from recbole_msr.training.configure import training_config
from tests.prompts.small_data import write_items
from tests.tuning.conftest import CONFIG

SMALL = {"learning_rate": 0.01, "embedding_size": 4}


@pytest.fixture
def compare(tiny_data, tmp_path, monkeypatch, no_pages):
    """recbole_msr.compare on "tiny", in the folder `out` of the test; what is given wins. See `pages`."""
    from recbole_msr import compare

    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)

    def go(models, seeds=2, **options):
        own = {**CONFIG, **SMALL, "data_path": str(tiny_data), **options.pop("config", {})}
        own = {key: value for key, value in own.items() if value is not None}
        given = {"output": "out", "wandb": "disabled", "progress": False}
        return compare(models, "tiny", seeds=seeds, config=own, **{**given, **options})

    return go


def entry(result, label):
    return next(one for one in result.summary["entries"] if one["label"] == label)


@pytest.mark.usefixtures("pages")
@pytest.mark.slow
def test_the_folder_has_everything_and_each_run_is_reproduced_by_its_own_config(compare):
    result = compare(["SharedBottom", "DeepFM"])
    names = {path.name for path in result.folder.iterdir()}
    assert {"summary.json", "leaderboard.csv", "leaderboard.parquet", "leaderboard.md", "leaderboard.tex"} <= names
    assert {"cells.csv", "differences.csv", "report.html", "runs"} <= names
    assert json.loads((result.folder / "summary.json").read_text(encoding="utf-8")) == result.summary
    frame = pd.read_csv(result.folder / "leaderboard.csv")
    assert sorted(frame["label"]) == ["DeepFM", "SharedBottom"]

    run = entry(result, "DeepFM")["runs"][0]
    before = json.loads((result.folder / run["folder"] / "result.json").read_text(encoding="utf-8"))
    again = recbole_msr.run(
        config_files=[result.folder / run["folder"] / "config.yaml"], config={"output_dir": "again"}
    )
    assert again.summary["test"] == before["test"]
    assert again.summary["best_valid_score"] == before["best_valid_score"]


@pytest.mark.slow
def test_a_model_of_one_task_is_trained_once_a_task_and_its_cells_are_put_together(compare):
    result = compare(["SharedBottom", "LR"], seeds=1)
    of = entry(result, "LR")
    assert of["kind"] == "single-task"
    assert [run["task"] for run in of["runs"]] == ["click", "like"]
    cells = []
    for run in of["runs"]:
        frame = pd.read_parquet(result.folder / run["folder"] / "predictions.parquet")
        task = run["task"]
        for number, scenario in enumerate(result.summary["scenarios"], start=1):
            here = frame[frame["scenario"] == number]
            expected = roc_auc_score(here[f"label_{task}"], here[f"score_{task}"])
            assert of["test"][f"auc/{scenario}/{task}"]["mean"] == pytest.approx(expected, abs=1e-12)
            cells.append(expected)
    assert of["test"]["auc/macro"]["mean"] == pytest.approx(np.mean(cells), abs=1e-12)
    assert of["worst_cell"] is not None
    assert of["test"]["auc/worst"]["mean"] == pytest.approx(min(cells), abs=1e-12)
    results = [json.loads((result.folder / run["folder"] / "result.json").read_text()) for run in of["runs"]]
    assert of["cost"]["parameters"] == sum(one["parameters"] for one in results)
    assert of["cost"]["train_seconds"]["mean"] == pytest.approx(sum(one["seconds"]["train"] for one in results))


@pytest.mark.slow
def test_all_models_have_the_same_rows_and_the_reference_the_difference_zero_to_itself(compare):
    result = compare({"one": {"model": "SharedBottom"}, "the same": {"model": "SharedBottom"}, "LR": {}})
    rows = []
    for one in result.summary["entries"]:
        for run in one["runs"]:
            if run["task"] in (None, "click"):
                frame = pd.read_parquet(result.folder / run["folder"] / "predictions.parquet")
                rows.append(frame[["scenario", "user", "label_click"]])
    assert len(rows) == 6
    assert all(rows[0].equals(other) for other in rows[1:])
    assert entry(result, "one")["differences"] is None
    same = entry(result, "the same")["differences"]["auc/macro"]
    assert same["mean"] == 0
    assert same["p"] == 1
    assert not same["significant"]
    other = entry(result, "LR")["differences"]["auc/macro"]
    means = [entry(result, label)["test"]["auc/macro"]["mean"] for label in ("LR", "one")]
    assert other["mean"] == pytest.approx(means[0] - means[1], abs=1e-9)


def test_recbole_models_get_the_numbers_of_recboles_own_trainer(compare, tiny_data, tmp_path):
    """The same rows, seed and configuration under RecBole's Trainer: the same AUC and LogLoss."""
    one_task = {"tasks": {"click": CONFIG["tasks"]["click"]}}  # RecBole's trainer knows no mean over tasks
    result = compare(["DeepFM", "LR"], seeds=1, config={"fused_optimizer": False, "valid_metric": "auc", **one_task})
    for label in ("DeepFM", "LR"):
        for run in entry(result, label)["runs"]:
            settings = yaml.safe_load((result.folder / run["folder"] / "config.yaml").read_text(encoding="utf-8"))
            settings |= {"trainer": "recbole", "save_predictions": False, "metric_decimal_place": 12}
            theirs = recbole_msr.run(config=settings | {"output_dir": str(tmp_path / f"{label}-{run['task']}")})
            assert theirs.summary["trainer"] == "recbole"
            cell = json.loads((result.folder / run["folder"] / "result.json").read_text())["test"]["pooled"]
            assert theirs.test_metrics["auc"] == pytest.approx(cell[run["task"]]["auc"], abs=1e-9)
            assert theirs.test_metrics["logloss"] == pytest.approx(cell[run["task"]]["logloss"], abs=1e-6)


@pytest.mark.slow
def test_the_same_call_trains_nothing_again_and_more_models_and_seeds_reuse_what_is_there(compare):
    first = compare(["SharedBottom"], seeds=1)
    files = {path: path.stat().st_mtime_ns for path in first.folder.rglob("result.json")}
    more = compare(["SharedBottom", "LR"], seeds=2)
    assert all(path.stat().st_mtime_ns == time for path, time in files.items())
    assert len(list(more.folder.rglob("result.json"))) == 2 + 4
    assert entry(more, "SharedBottom")["seeds"] == [2020, 2021]
    assert (
        entry(more, "SharedBottom")["test"]["auc/macro"]["values"][0]
        == (entry(first, "SharedBottom")["test"]["auc/macro"]["values"][0])
    )


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_numbers(compare):
    """The folder of a run after kill -9: config, last.ckpt, no result."""
    from recbole_msr.runs import run as module

    whole = compare(["SharedBottom"], seeds=1, output="whole")

    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    before = module.Run._keep_vocabulary
    module.Run._keep_vocabulary = die  # after training, before the result
    try:
        with pytest.raises(Killed):
            compare(["SharedBottom"], seeds=1)
    finally:
        module.Run._keep_vocabulary = before
    folder = next(path.parent for path in Path("out/runs").rglob("last.ckpt"))
    assert not (folder / "result.json").exists()
    result = compare(["SharedBottom"], seeds=1)
    assert entry(result, "SharedBottom")["test"] == entry(whole, "SharedBottom")["test"]


@pytest.mark.slow
def test_the_main_task_may_be_given_and_changes_no_model_of_one_task(compare):
    one, other = (
        compare(["LR", "SharedBottom"], 1, output=task, config={"main_task": task}) for task in ("click", "like")
    )
    assert [result.summary["main_task"] for result in (one, other)] == ["click", "like"]
    assert entry(one, "LR")["test"]["auc/macro"] == entry(other, "LR")["test"]["auc/macro"]


@pytest.mark.slow
def test_two_workers_find_what_one_finds(compare):
    one = compare(["SharedBottom", "LR"], output="one")
    two = compare(["SharedBottom", "LR"], output="two", workers=2)
    for label in ("SharedBottom", "LR"):
        assert entry(one, label)["test"] == entry(two, label)["test"]
        assert entry(one, label)["differences"] == entry(two, label)["differences"]


@pytest.mark.usefixtures("pages")
@pytest.mark.slow
def test_segments_are_compared_as_cells_are(compare):
    result = compare(["SharedBottom", "DeepFM"], seeds=1, config={"segments": {"user_rows": [12], "item_rows": [16]}})
    names = ["user_rows:0-11", "user_rows:12+", "item_rows:0-15", "item_rows:16+"]
    counts, (first, *_) = result.summary["test_segments"], result.summary["tasks"]
    assert list(counts) == names
    for axis in (names[:2], names[2:]):
        assert sum(counts[name][first]["rows"] for name in axis) == result.summary["rows"]["test"]
    key = f"auc/item_rows:16+/{first}"
    own, other = (entry(result, label) for label in ("SharedBottom", "DeepFM"))
    difference = other["differences"][key]
    assert difference["mean"] == pytest.approx(other["test"][key]["mean"] - own["test"][key]["mean"])
    (run,) = [run for run in other["runs"] if run["task"] == first]
    written = json.loads((result.folder / run["folder"] / "result.json").read_text())
    assert written["test"]["segments"]["item_rows:16+"][first]["auc"] == other["test"][key]["mean"]
    cells = pd.read_csv(result.folder / "cells.csv").query(f"key == '{key}' and split == 'test'")
    assert cells["scenario"].tolist() == ["item_rows:16+"] * 2
    tested = pd.read_csv(result.folder / "differences.csv").query(f"key == '{key}'")
    assert tested["p"].tolist() == pytest.approx([difference["p"]])
    board = pd.read_csv(result.folder / "leaderboard.csv").set_index("label")
    assert board.loc["DeepFM", key] == pytest.approx(other["test"][key]["mean"])
    out = io.StringIO()
    print_comparison(result.summary, file=out, width=160)
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    for text in (out.getvalue(), page, (result.folder / "leaderboard.md").read_text(encoding="utf-8")):
        assert "By the number of training rows of the item" in text
    rows = counts["item_rows:0-15"][first]
    assert f"Test rows of {first}: 0-15: {rows['rows']} ({rows['positives']} positive)" in page
    assert "This part could not be made" not in page


def test_models_are_compared_on_the_same_items_held_out(compare):
    held_out = {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "RO", "group_by": "cold_item", "mode": "labeled"}
    result = compare(["SharedBottom", "LR"], seeds=1, config={"eval_args": held_out, "segments": {"item_rows": [1]}})
    rows = result.summary["rows"]["test"]
    assert result.summary["test_segments"]["item_rows:0"]["click"]["rows"] == rows > 0
    assert result.summary["test_segments"]["item_rows:1+"]["click"]["rows"] == 0
    for label in ("SharedBottom", "LR"):  # every test row is of a new item
        test = entry(result, label)["test"]
        assert test["auc/item_rows:0/click"]["mean"] == test["auc/click"]["mean"]
    tested = entry(result, "LR")["differences"]
    assert tested["auc/item_rows:0/click"] == tested["auc/click"]


@pytest.mark.slow
@pytest.mark.usefixtures("pages")
def test_what_cannot_run_and_what_diverges_is_told_in_its_line_and_the_rest_goes_on(compare):
    models = {
        "SharedBottom": {},
        "SASRec": {},  # sequential
        "BPR": {},  # learns from pairs, not labels
        "diverged": {"model": "LR", "learning_rate": 1e38},
        "slip": {"model": "SharedBottom", "bottom_hidden_size": [4]},
    }
    result = compare(models, seeds=1)
    assert entry(result, "SharedBottom")["status"] == "complete"
    for label, word in [
        ("SASRec", "sequential"),
        ("BPR", "BPR"),
        ("diverged", "diverged"),
        ("slip", "bottom_hidden_sizes"),
    ]:
        of = entry(result, label)
        assert of["status"] == "failed", label
        assert any(word in reason for reason in of["reasons"]), of["reasons"]
        assert of["test"] == {}
    frame = pd.read_csv(result.folder / "leaderboard.csv")
    assert len(frame) == len(models)
    assert frame["label"].iloc[0] == "SharedBottom"


@pytest.mark.usefixtures("pages")
@pytest.mark.slow
def test_training_alone_gives_the_negative_transfer_of_every_scenario(compare):
    result = compare(["SharedBottom", "LR"], single_scenario=True)
    for label in ("SharedBottom", "LR"):
        of = entry(result, label)
        parts = []
        for scenario in result.summary["scenarios"]:
            for task in result.summary["tasks"]:
                cell = of["transfer"]["cells"][scenario][task]
                assert cell["joint"] == pytest.approx(of["test"][f"auc/{scenario}/{task}"]["mean"], abs=1e-9)
                alone = [
                    json.loads((result.folder / run["folder"] / "result.json").read_text())["test"]["cells"][scenario]
                    for run in of["runs"]
                    if run["scenario"] == scenario and run["task"] in (None, task)
                ]
                assert len(alone) == 2
                assert cell["alone"] == pytest.approx(np.mean([one[task]["auc"] for one in alone]), abs=1e-9)
                assert cell["difference"]["mean"] == pytest.approx(cell["joint"] - cell["alone"], abs=1e-6)
                parts.append(cell["difference"]["mean"])
        assert of["transfer"]["macro"]["mean"] == pytest.approx(np.mean(parts), abs=1e-9)


@pytest.mark.slow
def test_a_search_comes_first_with_the_same_budget_for_all_and_runs_have_its_best_settings(compare):
    result = compare(["SharedBottom", "LR"], seeds=1, trials=2, config={"learning_rate": None, "epochs": 1})
    for label, tasks in (("SharedBottom", [None]), ("LR", ["click", "like"])):
        of = entry(result, label)
        assert [search["task"] for search in of["searches"]] == tasks
        assert of["cost"]["search_trials"] == 2 * len(tasks)
        for search, run in zip(of["searches"], of["runs"], strict=True):
            best = yaml.safe_load((result.folder / search["folder"] / "best.yaml").read_text(encoding="utf-8"))
            config = yaml.safe_load((result.folder / run["folder"] / "config.yaml").read_text(encoding="utf-8"))
            for key in ("learning_rate", "train_batch_size", "main_task"):
                assert config[key] == best[key]
            assert (best["seed"], config["seed"]) == (2020, 2021), "the search's own seed chose its trial"
            again = recbole_msr.run(
                config_files=[result.folder / search["folder"] / "best.yaml"],
                config={"output_dir": f"{label}-{search['task']}", "show_progress": False},
            )
            assert again.summary["best_valid_score"] == pytest.approx(search["value"], abs=1e-9)


@pytest.mark.slow
def test_loss_weighting_is_a_compared_choice(compare):
    result = compare(["SharedBottom", "LR"], seeds=1, vary={"loss_weighting": ["fixed", "uncertainty"]})
    labels = [one["label"] for one in result.summary["entries"]]
    assert labels == ["SharedBottom loss_weighting=fixed", "SharedBottom loss_weighting=uncertainty", "LR"]
    values = [entry(result, label)["test"]["auc/macro"]["mean"] for label in labels[:2]]
    assert values[0] != values[1]


ABLATED = ["none", "scenario", "user", "item", "both", "all", "both random", "both permuted"]
FEATURES = ["features", "features random", "features permuted"]


def test_the_ablation_enters_none_the_levels_features_and_controls(compare, tiny_data):
    config = {**CONFIG, **SMALL, "data_path": str(tiny_data), "knowledge": "mine"}
    models = {"LLM4MSR": {"backbone": "SharedBottom"}, "HiNet": {}, "LR": {}}
    settings, _ = read_compare(CompareOptions(models, "tiny", knowledge_ablation=True, config=config))
    labels = [f"LLM4MSR {row}" for row in (*ABLATED, *FEATURES)] + [f"HiNet {row}" for row in ("none", *FEATURES)]
    assert [entry.label for entry in settings.entries] == [*labels, "LR"]
    assert settings.reference == "LLM4MSR none"
    assert not [entry.refused for entry in settings.entries if entry.refused]
    with_vectors = [entry for entry in settings.entries if not entry.label.endswith("none") and entry.label != "LR"]
    assert {entry.settings["knowledge"] for entry in with_vectors} == {"mine"}


@pytest.mark.parametrize("shared", [True, False], ids=["all", "an entry's"])
def test_the_match_goes_to_the_rows_of_the_ablation_with_features(compare, tiny_data, shared):
    """A run of any other row would warn that the key has no effect."""
    key = {"knowledge_match": "dot"}
    config = {**CONFIG, **SMALL, "data_path": str(tiny_data), "knowledge": "mine", **(key if shared else {})}
    models = {"LLM4MSR": {"backbone": "SharedBottom", **({} if shared else key)}, "HiNet": {} if shared else key}
    settings, _ = read_compare(CompareOptions(models, "tiny", knowledge_ablation=True, config=config))
    assert not [entry.refused for entry in settings.entries if entry.refused]
    given = {entry.label: entry.merge(settings.config).get("knowledge_match") for entry in settings.entries}
    with_features = [f"{model} {row}" for model in models for row in FEATURES]
    assert given == {label: "dot" if label in with_features else None for label in given}
    for entry in settings.entries:
        notes = unread_notes(training_config(entry.model, "tiny", entry.merge(settings.config)))
        assert not [note for note in notes if "knowledge_match" in note]


@pytest.mark.slow
def test_every_row_of_the_ablation_is_another_model(compare, tiny_data):
    write_items(tiny_data / "tiny")
    given = {"dropout": 0.0, "knowledge": "random/brief", "epochs": 1, "knowledge_dir": str(tiny_data / "stores")}
    models = {"LLM4MSR": {"backbone": "SharedBottom"}, "SharedBottom": {}}
    result = compare(models, seeds=1, knowledge_ablation=True, config=given)
    assert {one["status"] for one in result.summary["entries"]} == {"complete"}
    values = {one["label"]: one["test"]["auc/macro"]["mean"] for one in result.summary["entries"]}
    assert len({value for label, value in values.items() if label.startswith("LLM4MSR")}) == 11
    for row in ("none", *FEATURES):
        same = [values[f"{model} {row}"] for model in models]
        assert same[0] == pytest.approx(same[1], abs=1e-6), "the backbone with features is that model with features"


@pytest.mark.parametrize(
    ("models", "config", "told"),
    [
        (["LR"], {}, "none reads a language model's vectors"),
        (["LLM4MSR"], {"knowledge": "random"}, "knowledge is 'random': name a store"),
        (["LLM4MSR"], {"knowledge_level": "user"}, "sets knowledge_level for each row itself: leave that out"),
        ({"a": {"model": "HiNet", "knowledge_features": ["user"]}}, {}, "sets knowledge_features for each row itself"),
        (["LLM4MSR"], {"knowledge_match": "dots"}, "knowledge_match must be one of none, dot, product"),
    ],
)
def test_an_ablation_that_cannot_be_is_refused(compare, models, config, told):
    with pytest.raises(InputError, match=told):
        compare(models, knowledge_ablation=True, config=config)


@pytest.mark.parametrize(
    ("models", "options", "told"),
    [
        (["SharedBotom"], {}, "SharedBottom"),
        (["SharedBottom", "SharedBottom"], {}, "twice"),
        (["SharedBottom"], {"reference": "LR"}, "--reference 'LR' is not compared"),
        (["SharedBottom"], {"seeds": 0}, "--seeds must be a whole number of at least 1"),
        (["SharedBottom"], {"trials": -1}, "--trials must be a whole number of at least 0"),
        (["SharedBottom"], {"config": {"valid_metric": "auc/click"}}, "about a part of the results"),
        (["SharedBottom"], {"config": {"output_dir": "x"}}, "output_dir is a single run's"),
        (["SharedBottom"], {"config": {"tasks": None, "scenario": None}}, "declare tasks"),
        (["SharedBottom"], {"config": {"valid_metric": "auc"}}, "give auc/macro"),
        (["SharedBottom"], {"alpha": 5}, "--alpha must be a number between 0 and 1"),
        (
            ["SharedBottom"],
            {"timeout": -1},
            "--timeout must be a time above 0",
        ),
        (["SharedBottom"], {"trials": "3"}, "--trials must be a whole number"),
        (["SharedBottom"], {"single_scenario": True, "config": {"scenario": None}}, "needs several scenarios"),
        (["SharedBottom"], {"vary": {"loss_weighting": "dwa"}}, "lists of values"),
        (["SharedBottom"], {"vary": {"loss_weighting": [None, "dwa"]}}, "lists of values"),
        ({"a b": {"model": "LR"}, "a_b": {"model": "LR"}}, {}, "would have one folder"),
        ({"..": {"model": "LR"}}, {}, "cannot name a folder"),
        ({"x" * 300: {"model": "LR"}}, {}, "cannot name a folder"),
        (["BPR", "LR"], {"config": {"epochs": "x"}}, "epochs must be"),
        (["SASRec", "LR"], {}, "SASRec"),
        ({"a": {"model": "LR", "epochs": 9}}, {}, "epochs must be the same for all entries"),
        ({"a": {"model": "LR", "trainer": "recbole"}}, {}, "trainer must be the same for all entries"),
        ({"a": 3}, {}, "must be a mapping"),
    ],
)
def test_bad_input_is_told_before_anything_is_computed(compare, models, options, told):
    with pytest.raises(InputError) as error:
        compare(models, **options)
    assert told in str(error.value)
    assert not Path("out", "runs").exists()


def test_other_settings_or_data_in_one_folder_are_refused(compare, tiny_data):
    compare(["SharedBottom"], seeds=1)
    with pytest.raises(InputError, match=r"trained with other settings .*dropout"):
        compare({"SharedBottom": {"dropout": 0.4}}, seeds=1)
    with pytest.raises(InputError, match=r"epochs: 3 -> 1"):
        compare(["SharedBottom"], seeds=1, config={"epochs": 1})
    with pytest.raises(InputError, match="another split"):
        compare(["SharedBottom"], seeds=1, config={"data_seed": 7})
    file = tiny_data / "tiny" / "tiny.inter" if (tiny_data / "tiny").is_dir() else tiny_data / "tiny.inter"
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="other data"):
        compare(["SharedBottom"], seeds=1)


def test_what_failed_is_tried_again_by_the_next_command(compare, monkeypatch):
    from recbole_msr.comparison import jobs as work

    real = work.run_once

    def no_memory(folder, config):
        raise MemoryError("too large")

    monkeypatch.setattr(work, "run_once", no_memory)
    result = compare(["SharedBottom"], seeds=1)
    assert entry(result, "SharedBottom")["status"] == "failed"
    assert "out of memory" in entry(result, "SharedBottom")["reasons"][0]
    monkeypatch.setattr(work, "run_once", real)
    assert entry(compare(["SharedBottom"], seeds=1), "SharedBottom")["status"] == "complete"


@pytest.mark.slow
def test_a_search_of_other_settings_or_a_larger_budget_is_refused(compare):
    def again(models=("SharedBottom",), trials=2, **config):
        return compare(list(models), seeds=1, trials=trials, config={"learning_rate": None, "epochs": 1, **config})

    again()
    with pytest.raises(InputError, match=r"searched with other settings \(embedding_size\)"):
        again(embedding_size=8)
    with pytest.raises(InputError, match="searched with other settings"):
        again(epochs=2)
    with pytest.raises(InputError, match=r"--trials=1 the budgets would not be equal"):
        again(("SharedBottom", "LR"), trials=1)
    more = again(("SharedBottom", "LR"), trials=3)
    assert [entry(more, label)["cost"]["search_trials"] for label in ("SharedBottom", "LR")] == [3, 6]


@pytest.mark.slow
def test_a_search_without_a_complete_trial_fails_its_entry_alone(compare):
    models = {"SharedBottom": {}, "lost": {"model": "LR", "learning_rate": 1e38}}
    result = compare(models, seeds=1, trials=1, config={"learning_rate": None, "epochs": 1})
    assert entry(result, "SharedBottom")["status"] == "complete"
    assert entry(result, "lost")["status"] == "failed"
    assert "diverged" in " ".join(entry(result, "lost")["reasons"])


def test_an_interrupted_run_of_other_settings_is_begun_anew(compare, monkeypatch):
    from recbole_msr.runs import run as module

    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module.Run, "_keep_vocabulary", die)
        with pytest.raises(Killed):
            compare(["SharedBottom"], seeds=1)
    result = compare(["SharedBottom"], seeds=1, config={"epochs": 1, "embedding_size": 8})
    assert entry(result, "SharedBottom")["status"] == "complete"
    assert entry(result, "SharedBottom")["runs"][0]["epochs"] == 1


@pytest.mark.slow
def test_a_damaged_result_is_named(compare):
    result = compare(["SharedBottom"], seeds=1)
    folder = result.folder / entry(result, "SharedBottom")["runs"][0]["folder"]
    weights = (folder / "best.ckpt").read_bytes()
    (folder / "best.ckpt").write_bytes(weights[:1000])
    with pytest.raises(InputError, match=r"best.ckpt cannot be read: .*delete its folder"):
        compare(["SharedBottom"], seeds=1)
    (folder / "best.ckpt").write_bytes(weights)
    (folder / "predictions.parquet").unlink()
    with pytest.raises(InputError, match=r"predictions.parquet is missing or damaged: delete its folder"):
        compare(["SharedBottom", "LR"], seeds=1)
    good = json.loads((folder / "result.json").read_text())
    for content, told in (
        ("", "result.json is damaged"),
        ("[]", "result.json is damaged: it must be a mapping"),
        (json.dumps(good | {"seed": good["seed"] + 1}), r"result.json is of another run: seed \d+, expected \d+"),
        (
            json.dumps(good | {"model": "HiNet"}),
            "of another run: model 'HiNet', expected 'SharedBottom'",
        ),
        (json.dumps(good | {"test": {"metrics": {}}}), "result.json is of another run: it has results for no task"),
    ):
        (folder / "result.json").write_text(content)
        with pytest.raises(InputError, match=told):
            compare(["SharedBottom"], seeds=1)


@pytest.mark.slow
def test_a_scenario_that_cannot_be_trained_alone_leaves_the_transfer_of_the_others(compare):
    scenario = {"field": "age", "bins": [30, 200], "names": ["young", "old", "nobody"]}
    of = entry(compare(["SharedBottom"], seeds=1, single_scenario=True, config={"scenario": scenario}), "SharedBottom")
    assert of["status"] == "partial"
    assert any("nobody" in reason for reason in of["reasons"])
    assert of["transfer"]["cells"]["young"]["click"] is not None
    assert of["transfer"]["cells"]["nobody"]["click"] is None


NONE_CLICKS = {"tasks": {"click": {"field": "rating", "at_least": 6}, "like": {"field": "rating", "at_least": 5}}}


@pytest.mark.parametrize(
    "config",
    [
        {"scenario": {"field": "agee", "bins": [30]}},
        {"eval_args": {"split": {"RS": [1, 0, 0]}, "order": "RO", "group_by": None, "mode": "labeled"}},
        {"load_col": {"inter": ["user_id"]}},
        {"min_scenario_rows": 5000},
        {"tasks": {"click": {"field": "rating", "at_least": 6}}},
    ],
    ids=str,
)
def test_a_comparison_that_is_refused_leaves_nothing_behind(config, compare, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    before = sorted(tmp_path.rglob("*"))
    for output in ("a/out", "mine"):
        with pytest.raises(InputError):
            compare(["SharedBottom"], config=config, output=output)
        assert sorted(tmp_path.rglob("*")) == before


def test_a_comparison_that_is_refused_leaves_another_as_it_was(compare):
    compare(["SharedBottom"], seeds=1)
    Path("out/runs/SharedBottom/all/joint/seed-9.failed").write_text("why")
    before = {path: path.read_bytes() for path in sorted(Path("out").rglob("*")) if path.is_file()}
    for models, config in (
        ({"SharedBottom": {"dropout": 0.4}}, {}),
        (["SharedBottom"], {"epochs": 1}),
        (["SharedBottom"], {"data_seed": 7}),
        (["SharedBottom"], {"tasks": {"click": {"field": "rating", "at_least": 6}}}),
    ):
        with pytest.raises(InputError):
            compare(models, seeds=1, config=config)
        after = {path: path.read_bytes() for path in sorted(Path("out").rglob("*")) if path.is_file()}
        assert after == before


def test_a_metric_without_a_value_for_one_task_refuses_the_models_that_learn_it_alone(compare):
    result = compare(["SharedBottom", "LR"], seeds=1, config=NONE_CLICKS | {"epochs": 1})
    (refused,) = entry(result, "LR")["reasons"]
    assert "valid_metric 'auc/macro' has no value on the validation split" in refused
    assert "scenario 'young', task 'click': one class: all 0" in refused
    assert not Path("out/runs/LR").exists()
    with pytest.raises(InputError, match="task 'click': one class"):
        compare(["LR", "SharedBottom"], seeds=1, config=NONE_CLICKS, output="other")
    assert not Path("other").exists()


def read(tiny_data, models, config):
    settings, _ = read_compare(
        CompareOptions(models, "tiny", seeds=1, config={**CONFIG, "data_path": str(tiny_data), **config})
    )
    return {entry.label: entry for entry in settings.entries}


def test_a_shared_key_that_one_model_does_not_read_keeps_its_default_there(tiny_data):
    shared = {"knowledge": "random", "knowledge_size": 8, "loss_weighting": "dwa"}
    entries = read(tiny_data, ["SharedBottom", "LLM4MSR", "DeepFM"], shared)
    assert all(entry.refused is None for entry in entries.values())
    assert entries["LLM4MSR"].settings == {}
    assert entries["SharedBottom"].settings == {"knowledge": None, "knowledge_size": 384}
    assert entries["DeepFM"].settings == {"knowledge": None, "knowledge_size": 384, "loss_weighting": "fixed"}
    own = read(tiny_data, {"SharedBottom": {}, "LR": {"knowledge": "random"}}, {})
    assert "knowledge is not read by LR" in own["LR"].refused


def test_a_shared_key_that_recboles_models_of_items_do_not_have_is_left_out_with_a_word(tiny_data, caplog):
    lists = {"eval_args": {"mode": "full"}, "metrics": ["NDCG"], "valid_metric": "NDCG@10/macro"}
    caplog.set_level("INFO", "recbole_msr")
    entries = read(tiny_data, ["SharedBottom", "BPR", "Pop"], lists | {"embedding_size": 8})
    assert {label: entry.left_out for label, entry in entries.items()} == {
        "SharedBottom": [], "BPR": [], "Pop": ["embedding_size"],
    }  # fmt: skip
    assert "Pop: embedding_size is no key of Pop, and is left out for it" in caplog.text
    assert entries["Pop"].merge({"embedding_size": 8, "epochs": 2}) == {"epochs": 2} | entries["Pop"].settings
    with pytest.raises(InputError, match="unknown configuration key 'embeding_size'"):
        read(tiny_data, ["SharedBottom", "Pop"], lists | {"embeding_size": 8})


def test_a_shared_key_that_no_model_reads_is_refused(tiny_data):
    for key, value in (("knowledge", "random"), ("preload_weight", {"item_id": "v"}), ("MAX_ITEM_LIST_LENGTH", 5)):
        with pytest.raises(InputError, match=f"{key} is "):
            read(tiny_data, ["SharedBottom", "DeepFM"], {key: value})
