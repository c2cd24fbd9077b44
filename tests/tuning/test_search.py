"""`recbole_msr.search` from end to end: what it leaves, that it goes on, and that it never looks at the test split."""

import ast
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

import recbole_msr
from recbole_msr.comparison.options import CompareOptions
from recbole_msr.errors import InputError
from recbole_msr.jobs.python_call import python_call
from recbole_msr.tuning.final import _groups
from recbole_msr.tuning.options import SearchOptions
from tests.tracking.read_back import runs

from .conftest import CONFIG, SPACE, up_after_reports


def params(result):
    frame = result.trials
    return frame[[column for column in frame if column.startswith("params.")]]


def lines_without(text, word):
    return [line for line in text.splitlines() if word not in line]


@pytest.mark.slow
@pytest.mark.usefixtures("pages")
def test_the_best_is_written_down_and_runs_to_the_same_value(search, tmp_path):
    result = search(trials=5, final_seeds=2, confirm=1)
    best = result.summary["best"]
    frame = result.trials
    assert list(frame["state"]) == ["complete"] * 5 or "pruned" in set(frame["state"])
    complete = frame[frame["state"] == "complete"]
    assert best["values"][0] == complete["auc"].max()
    assert frame["origin"][0] == "defaults"
    assert frame["params.learning_rate"][0] == 0.001
    assert best["values"][0] >= frame["auc"][0]

    again = recbole_msr.run(config_files=["out/best.yaml"], config={"output_dir": "again", "show_progress": False})
    assert again.summary["best_valid_score"] == best["values"][0]
    final = result.summary["final"]
    assert final["seeds"] == [2021, 2022], "2020 is the trials' seed, by which the best has been chosen"
    third = recbole_msr.run(
        config_files=["out/best.yaml"], config={"output_dir": "third", "show_progress": False, "seed": 2021}
    )
    assert final["test"]["metrics"]["auc"]["values"][0] == third.test_metrics["auc"]
    defaults = result.summary["final_defaults"]
    assert defaults["seeds"] == final["seeds"]
    assert (final["trial"], defaults["trial"]) == (best["number"], 0)
    if best["number"]:
        rate = yaml.safe_load(Path("out/final/trial-0-seed-2021/config.yaml").read_text())["learning_rate"]
        assert rate == 0.001
        assert "best and defaults (trial 0), seeds 2021, 2022" in Path("out/report.html").read_text(encoding="utf-8")
    pooled = final["test"]["pooled"]["click"]["auc"]
    assert pooled["mean"] == pytest.approx(sum(pooled["values"]) / 2)
    assert pooled["deviation"] == pytest.approx(abs(pooled["values"][0] - pooled["values"][1]) / math.sqrt(2))

    assert json.loads(Path("out/summary.json").read_text()) == json.loads(json.dumps(result.summary))
    run = json.loads(Path(f"out/final/trial-{best['number']}-seed-2021/result.json").read_text())
    assert result.summary["data"] == run["data"]
    assert result.summary["data"]["files"]["inter"]["used"] == sum(run["rows"].values())
    assert len(pd.read_csv("out/trials.csv")) == len(pd.read_parquet("out/trials.parquet")) == 5
    assert Path("out/report.html").stat().st_size > 0
    written = yaml.safe_load(Path("out/best.yaml").read_text())
    assert written["learning_rate"] == result.best_config["learning_rate"] == best["params"]["learning_rate"]


@pytest.mark.parametrize("name", ["search", "compare"])
def test_the_call_that_made_the_results_has_everything_that_was_given(name):
    """Every argument with the value it had, as Python reads it back; defaults are left out."""
    given = {"config": {"epochs": 2, "tasks": CONFIG["tasks"], "data_path": Path("data")}, "workers": 2, "wandb": None}
    if name == "search":
        given |= {
            "space": SPACE,
            "sampler": {"name": "tpe", "seed": 1},
            "final_seeds": 0,
            "objectives": ("auc", "flops"),
        }
    else:
        given |= {"models": ["HiNet", "PLE"], "vary": {"sub_experts": [1, 2]}, "alpha": 0.01}
    options = {"search": SearchOptions, "compare": CompareOptions}[name]
    _, call = ast.parse(python_call(name, options(dataset="tiny", progress=False, **given))).body
    assert call.value.func.id == name
    found = {word.arg: ast.literal_eval(word.value) for word in call.value.keywords}
    given["config"] = {**given["config"], "data_path": "data"}
    given |= {"objectives": list(given["objectives"])} if name == "search" else {}
    assert found == {"dataset": "tiny"} | {key: value for key, value in given.items() if value is not None}


def test_best_yaml_is_read_back_whatever_is_searched(search):
    """Plain values only among the searched keys, and a name that YAML could take for something else."""
    search(
        trials=1,
        space={"search": {"learning_rate": [0.01, 0.02]}},
        config={"scenario": {"field": "age", "bins": [30], "names": ["no", "1: x"]}},
    )
    written = yaml.safe_load(Path("out/best.yaml").read_text())
    assert written["learning_rate"] in (0.01, 0.02)
    assert written["scenario"]["names"] == ["no", "1: x"]
    assert Path(written["data_path"]).is_absolute()
    result = recbole_msr.run(config_files=["out/best.yaml"], config={"output_dir": "r", "show_progress": False})
    assert result.summary["best_valid_score"] == study_value()


def study_value():
    return json.loads(Path("out/summary.json").read_text())["best"]["values"][0]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_trials_also_after_a_stop(search):
    whole = search(trials=6, output="whole")
    search(trials=2, output="parts", study="SharedBottom-tiny")
    parts = search(trials=6, output="parts", study="SharedBottom-tiny")
    pd.testing.assert_frame_equal(params(whole), params(parts))
    assert list(whole.trials["auc"]) == list(parts.trials["auc"])
    assert len(params(whole).drop_duplicates()) == 6, "no trial is drawn twice"
    other = search(trials=3, output="other", config={"seed": 7})
    assert not params(other)[1:].equals(params(whole)[1:3].reindex(columns=params(other).columns))


def test_a_finished_search_is_not_run_again(search):
    first = search(trials=2, final_seeds=1)
    finals = Path("out/final", f"trial-{first.summary['best']['number']}-seed-2021", "result.json")
    before = finals.stat().st_mtime_ns
    again = search(trials=2, final_seeds=1)
    assert list(again.trials["ended"]) == list(first.trials["ended"])
    assert finals.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"space": {**SPACE, "search": {**SPACE["search"], "dropout": [0.1, 0.2]}}}, "dropout"),
        ({"config": {"epochs": 2}}, "epochs: 3 -> 2"),
        ({"config": {"data_seed": 5}}, "data_seed: 2020 -> 5"),
        ({"config": {"tasks": {"click": {"field": "rating", "at_least": 3}}}}, "labelled"),
        ({"objectives": "auc/macro"}, "objectives"),
    ],
)
def test_another_search_under_the_same_name_is_refused(search, change, told):
    search(trials=1)
    with pytest.raises(InputError, match="there is a study 'SharedBottom-tiny' with other settings") as error:
        search(trials=2, **change)
    assert told in str(error.value)


def test_data_that_changed_are_refused(search, tiny_data):
    search(trials=1)
    file = tiny_data / "tiny" / "tiny.inter"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(InputError, match="the data files, or how they are filtered, labelled and split have changed"):
        search(trials=2)


@pytest.mark.slow
def test_poisoned_test_labels_change_nothing_but_the_final_test(search, tiny_data, config):
    """The same rows, split alike; every test row's label is turned round."""
    from recbole_msr.config.build import build_config

    honest = search(trials=4, output="honest", final_seeds=1, ensemble=3)
    made = build_config("SharedBottom", "tiny", {**config, "packed_cache": False})
    from recbole.data import create_dataset

    test = create_dataset(made).build()[2]
    dataset = test
    users = dataset.id2token("user_id", test.inter_feat["user_id"])
    items = dataset.id2token("item_id", test.inter_feat["item_id"])
    poisoned = set(zip(users, items, strict=True))
    file = tiny_data / "tiny" / "tiny.inter"
    header, *rows = file.read_text().splitlines()
    fields = [row.split("\t") for row in rows]
    turned = [[u, i, str(6 - int(r)) if (u, i) in poisoned else r, t] for u, i, r, t in fields]
    assert turned != fields
    file.write_text("\n".join([header, *("\t".join(row) for row in turned)]) + "\n")

    found = search(trials=4, output="poisoned", final_seeds=1, ensemble=3)
    timed = ["seconds", "setup_seconds", "started", "ended", "worker"]
    pd.testing.assert_frame_equal(honest.trials.drop(columns=timed), found.trials.drop(columns=timed))
    assert found.summary["best"] == honest.summary["best"]
    assert Path("poisoned/best.yaml").read_text() == Path("honest/best.yaml").read_text()
    assert found.summary["final"]["valid"] == honest.summary["final"]["valid"]
    assert found.summary["final"]["test"] != honest.summary["final"]["test"]
    ensembles = [result.summary["ensemble"] for result in (honest, found)]
    for key in ("members", "single", "valid"):
        assert ensembles[0][key] == ensembles[1][key]
    assert ensembles[0]["test"] != ensembles[1]["test"]


@pytest.mark.slow
def test_a_trial_that_fails_is_recorded_with_its_reason_and_the_study_goes_on(search):
    space = {
        "search": {
            "learning_rate": [0.001, 1e30],
            "embedding_size": [16, 20_000_000_000],
        },
    }
    result = search(trials=9, space=space, sampler="grid", max_failures=9)
    assert len(result.trials) == 4, "the points of the grid"
    reasons = dict(zip(result.trials["number"], result.trials["reason"], strict=True))
    by_settings = {
        (row["params.learning_rate"], row["params.embedding_size"]): (row["state"], reasons[row["number"]])
        for _, row in result.trials.iterrows()
    }
    assert by_settings[0.001, 16] == ("complete", None)
    assert by_settings[1e30, 16][0] == "fail"
    assert by_settings[1e30, 16][1].startswith("diverged: ")
    assert by_settings[0.001, 20_000_000_000][0] == "fail"
    assert by_settings[0.001, 20_000_000_000][1].startswith("out of memory: ")
    assert result.summary["trials"]["failed"] == sum(state == "fail" for state in result.trials["state"])
    assert sum(result.summary["failures"].values()) == result.summary["trials"]["failed"]


def test_a_bad_combination_is_a_failed_trial(search):
    result = search(trials=3, space={"search": {"bottom_hidden_sizes": [[8], [-1]]}}, sampler="grid")
    assert sorted(result.trials["state"]) == ["complete", "fail"]
    (reason,) = [reason for reason in result.trials["reason"] if reason]
    assert reason.startswith("refused: ")
    assert "bottom_hidden_sizes" in reason


def test_too_many_failures_in_a_row_end_the_search(search):
    space = {"search": {"learning_rate": {"type": "float", "low": 1e29, "high": 1e30}}}
    with pytest.raises(InputError, match="the last 3 trials failed, so the search stops; the last one: diverged"):
        search(trials=20, space=space, max_failures=3)
    assert len(pd.read_csv("out/trials.csv")) == 3


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["auc", "logloss"])
def test_the_pruner_stops_the_worse_trials_in_either_direction(search, metric):
    """Without learning, AUC stays low and the loss high: such trials are pruned, those that learn are not."""
    space = {"search": {"learning_rate": [0.015, 0.01, 1e-13, 1e-12]}}
    result = search(
        trials=4, space=space, sampler="grid", objectives=metric, config={"epochs": 4},
        pruner={"name": "median", "n_startup_trials": 2, "n_warmup_steps": 0},
    )  # fmt: skip
    frame = result.trials
    learning = frame[frame["params.learning_rate"] > 0.005]
    idle = frame[frame["params.learning_rate"] < 1e-6]
    assert set(learning["state"]) == {"complete"}
    late = idle[idle["number"] >= 2]
    assert set(late["state"]) == {"pruned"}
    assert all(late["epochs"] < 4)
    assert all(reason.startswith("pruned after epoch") for reason in late["reason"])


@pytest.mark.slow
def test_several_objectives_are_measured_and_one_trial_is_chosen(search):
    result = search(trials=6, objectives="auc/macro,parameters,flops,latency", tolerance=0.04)
    frame = result.trials
    assert result.summary["trials"] == {"complete": 6, "pruned": 0, "failed": 0}
    best = result.summary["best"]
    near = frame[frame["auc/macro"] >= frame["auc/macro"].max() - 0.04]
    assert best["values"][1] == near["parameters"].min()
    model = recbole_msr.run(config_files=["out/best.yaml"], config={"output_dir": "r", "show_progress": False})
    assert model.summary["parameters"] == best["values"][1]
    assert model.summary["best_valid_score"] == pytest.approx(best["values"][0])
    assert (frame["flops"] > 0).all()
    assert (frame["latency"] > 0).all()


@pytest.mark.slow
def test_the_objective_decides_whatever_valid_metric_says(search):
    result = search(trials=3, objectives="logloss", config={"valid_metric": "AUC"}, pruner="none")
    best = result.summary["best"]
    assert best["values"][0] == result.trials["logloss"].min()
    again = recbole_msr.run(config_files=["out/best.yaml"], config={"output_dir": "r", "show_progress": False})
    assert again.summary["valid_metric"] == "logloss"
    assert again.summary["best_valid_score"] == best["values"][0]


def test_values_that_a_file_writes_otherwise_are_the_same_search(search):
    search(trials=1, config={"metrics": ("AUC", "LogLoss")}, final_seeds=1)
    result = search(trials=2, config={"metrics": ["AUC", "LogLoss"]})
    assert len(result.trials) == 2


def final_results(folder):
    """result.json of every final run, without what depends on the clock; and how many were trained together."""
    found = {}
    for path in sorted(Path(folder, "final").glob("*/result.json")):
        found[path.parent.name] = json.loads(path.read_text())
    together = [result.pop("fused", 1) for result in found.values()]
    for result in found.values():
        del result["seconds"], result["rows_per_second"]
    return found, together


@pytest.mark.slow
def test_seeds_of_the_final_test_are_trained_together(search):
    """On a CPU side by side, where the numbers are the same to the last bit."""
    small = {"bottom_hidden_sizes": [4], "tower_hidden_sizes": [4]}
    given = {"trials": 1, "space": {"search": {"learning_rate": [0.01]}}, "final_seeds": 5, "config": small}
    search(fused="off", output="alone", **given)
    expected, together = final_results("alone")
    assert (len(expected), together) == (5, [1] * 5)
    sizes = {"one": [5] * 5, "two": [2, 2, 3, 3, 3], "pairs": [1, 2, 2, 2, 2]}
    search(output="two", **{**given, "final_seeds": 0})  # two workers have the final test alone to do
    for name, options in (("one", {}), ("two", {"workers": 2}), ("pairs", {"fused": 2})):
        result = search(output=name, **given, **options)
        found, together = final_results(name)
        assert [key for key in expected if found[key] == expected[key]] == list(expected)
        assert together == sizes[name]
        assert result.summary["final_failures"] == {}


def test_models_with_layers_have_their_final_test_one_by_one_on_a_cpu(search):
    search(trials=1, space={"search": {"learning_rate": [0.01]}}, final_seeds=2)
    assert final_results("out")[1] == [1, 1]


def test_final_seeds_are_shared_out_evenly():
    def sizes(seeds, most, workers):
        given = list(range(2020, 2020 + seeds))
        groups = _groups(SimpleNamespace(workers=workers), given, most)
        assert [seed for group in groups for seed in group] == given
        return [len(group) for group in groups]

    assert sizes(3, 1, 1) == [1, 1, 1]
    assert sizes(5, 8, 1) == [5]
    assert sizes(5, 8, 2) == [2, 3]
    assert sizes(10, 8, 1) == [5, 5]
    assert sizes(10, 4, 2) == [2, 3, 2, 3]
    assert sizes(3, 16, 4) == [1, 1, 1]


@pytest.mark.slow
@pytest.mark.usefixtures("pages")
@pytest.mark.parametrize("options", [{"fused": 2}, {"fused": "off"}, {"workers": 2, "final_seeds": 3}])
def test_a_final_run_that_fails_is_told_and_the_rest_is_kept(options, search, caplog):
    """Where the run with seed 2022 should write its result lies a folder that cannot be removed."""
    options = {**options, "confirm": 1}
    first = search(trials=2)
    name = f"trial-{first.summary['best']['number']}-seed-2022"
    Path("out/final").mkdir()
    Path("out/final", name).write_text("no folder")
    result = search(**{"trials": 2, "final_seeds": 2} | options)
    kept = [2021] if "workers" not in options else [2021, 2023]
    assert result.summary["final"]["seeds"] == kept
    (reason,) = result.summary["final_failures"].values()
    assert reason.startswith("refused: the output folder")
    assert "the final run with seed 2022 failed: refused: the output folder" in caplog.text
    assert Path("out/report.html").is_file()
    Path("out/final", name).unlink()
    again = search(**{"trials": 2, "final_seeds": 2} | options)
    assert again.summary["final_failures"] == {}
    assert not list(Path("out/final").glob("*.failed"))


@pytest.mark.filterwarnings("error::UserWarning:optuna.importance")
def test_weights_and_biases_has_a_finished_run_a_trial_and_one_of_the_study(search, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "")
    space = {"search": {"learning_rate": [0.01, 1e30]}}
    result = search(trials=3, space=space, sampler="grid", final_seeds=1, wandb="offline", max_failures=9)
    found = {run.about["display_name"]: run for run in runs(Path("out/wandb"))}
    assert set(found) == {f"SharedBottom-tiny-{number}" for number in result.trials["number"]} | {"SharedBottom-tiny"}
    for _, trial in result.trials.iterrows():
        run = found[f"SharedBottom-tiny-{trial['number']}"]
        assert (run.about["run_group"], run.about["job_type"]) == ("SharedBottom-tiny", "trial")
        assert run.summary["state"] == {"complete": "complete", "fail": "failed"}[trial["state"]]
        assert len(run.exit_codes) == 1, "it is finished"
        if trial["state"] == "complete":
            curve = run.curve("valid/auc")
            assert len(curve) == 3
            assert max(float(value) for value in curve.values()) == pytest.approx(trial["auc"])
    study = found["SharedBottom-tiny"]
    assert study.about["job_type"] == "study"
    assert len(study.table("trials")["data"]) == len(result.trials)
    epochs = result.trials["epochs"].sum()  # of complete and failed trials; one that diverged in its first has no value
    values, best = study.curve("search/value"), study.curve("search/best")
    assert len(values) == len(best) == len(study.table("progress")["data"]) <= epochs
    assert max(map(float, values.values())) == pytest.approx(result.best_value)
    assert [float(value) for value in best.values()] == sorted(float(value) for value in best.values())


@pytest.mark.slow
def test_a_trial_over_several_seeds_has_their_mean(search):
    result = search(trials=2, trial_seeds=2, pruner="wilcoxon")
    for trial in result.study.trials:
        seeds = list(trial.intermediate_values.values())
        assert len(seeds) == 2
        assert trial.value == pytest.approx(sum(seeds) / 2)
    one = search(trials=1, output="one")
    assert one.trials["auc"][0] == result.study.trials[0].intermediate_values[0]


def test_a_key_that_is_given_is_fixed(search):
    result = search(trials=3, config={"learning_rate": 0.02})
    assert "params.learning_rate" not in result.trials
    assert {trial.user_attrs["settings"]["learning_rate"] for trial in result.study.trials} == {0.02}


def test_epochs_are_a_budget_too(search):
    result = search(trials=None, pruner="none", total_epochs=7)
    assert list(result.trials["epochs"]) == [3, 3, 3], "7 epochs are reached within the third trial"


def test_a_time_too_short_for_an_epoch_is_told_and_the_search_goes_on_with_more(search):
    with pytest.raises(InputError, match=r"--timeout: 1e-09 seconds were too few to read the data, train one epoch"):
        search(trials=2, timeout=1e-9)
    assert not Path("out/best.yaml").exists()
    assert len(search(trials=2).trials) == 2


def test_time_that_is_up_within_the_first_trial_leaves_what_was_validated(search, monkeypatch):
    given = {"trials": 1, "timeout": 600.0, "pruner": "none", "config": {"epochs": 4}}
    with monkeypatch.context() as patched:
        up_after_reports(1, patched)
        result = search(**given, final_seeds=1)
    best = result.summary["best"]
    assert best["cut_off"] == "the time was up after epoch 1 of 4"
    assert result.summary["trials"] == {"complete": 0, "pruned": 0, "failed": 0}, "it does not count"
    again = recbole_msr.run(
        config_files=["out/best.yaml"], config={"output_dir": "again", "show_progress": False, "epochs": 1}
    )
    assert best["values"] == [again.summary["best_valid_score"]]
    assert result.summary["final"] is None
    assert result.summary["confirmation"]["left_out"].startswith("the best trial is not tested: no time was left")
    whole = search(**given)
    assert whole.summary["trials"]["complete"] == 1
    assert len(whole.study.trials) == 2, "the one that was cut off, and it again"
    assert whole.summary["best"]["cut_off"] is None
    assert whole.summary["best"]["params"] == best["params"], "the same trial, to its end"
    assert whole.best_value >= best["values"][0]


@pytest.mark.slow
def test_threads_of_one_process_take_turns_and_come_to_their_own_numbers(search, config, tmp_path):
    """Samplers, initial weights and dropout draw from the generators of the whole process."""

    def searched(output):
        return search(trials=2, output=output, pruner="none").trials["auc"].tolist()

    def run(output):
        own = {**config, "output_dir": output, "seed": 5, "dropout": 0.3, "show_progress": False}
        return recbole_msr.run("SharedBottom", "tiny", config=own).summary["test"]["metrics"]

    alone = searched("one"), run("two")
    with ThreadPoolExecutor(2) as pool:
        both = pool.submit(searched, "three"), pool.submit(run, "four")
    assert tuple(part.result() for part in both) == alone


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["local", "tpe", "gp", "cmaes", "random", "qmc", "nsga2"])
def test_every_sampler_runs_on_a_space_with_conditions(search, sampler):
    result = search(trials=4, sampler=sampler, config={"epochs": 1})
    assert result.summary["trials"]["complete"] + result.summary["trials"]["pruned"] == 4
    assert len(params(result).drop_duplicates()) == 4


@pytest.mark.parametrize("pruner", ["percentile", "halving", "hyperband", "patient", "none"])
def test_every_pruner_runs(search, pruner):
    result = search(trials=3, pruner=pruner)
    assert result.summary["trials"]["complete"] + result.summary["trials"]["pruned"] == 3


def test_a_model_of_recboles_is_searched_alike(search):
    space = {"model": "DeepFM", "search": {"learning_rate": [0.01, 0.001], "mlp_hidden_size": [[8], [8, 4]]}}
    from recbole_msr import search as search_any

    config = {**CONFIG, "data_path": str(Path("tiny").resolve().parent)}
    result = search_any(
        "DeepFM", "tiny", 3, space=space,
        config={
            **config, "train_neg_sample_args": None, "metrics": ["AUC", "LogLoss"], "valid_metric": "AUC",
            "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "mode": "labeled"},
        },
        output="deepfm", final_seeds=1, wandb="disabled", progress=False,
    )  # fmt: skip
    assert result.summary["trials"]["complete"] == 3
    assert [cell["task"] for cell in result.summary["final"]["test"]["cells"]] == ["click", "click"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"trials": None}, "needs a budget"),
        ({"sampler": ""}, "there is no sampler ''"),
        ({"pruner": {}}, "there is no pruner ''"),
        ({"sampler": "tpee"}, "there is no sampler 'tpee'; did you mean 'tpe'"),
        ({"sampler": {"name": "tpe", "n_startup": 3}}, "no option 'n_startup' of the sampler tpe"),
        ({"pruner": "wilcoxon"}, "--trial-seeds=K"),
        ({"objectives": "auc,parameters", "pruner": "median"}, "cannot be pruned"),
        ({"objectives": "parameters"}, "must be a metric"),
        ({"objectives": "auc,parameters", "sampler": "cmaes"}, "CMA-ES has one objective"),
        ({"objectives": "auc/clik"}, "auc/clik"),
        ({"sampler": "grid"}, "learning_rate"),
        ({"workers": 0}, "--workers must be a whole number"),
        ({"storage": "postgresql://me:secret@127.0.0.1:9/none"}, "cannot be reached"),
        ({"storage": "nonsense"}, "is no address"),
        ({"config": {"output_dir": "x"}}, "--output=DIR"),
        ({"wandb": "on"}, "online, offline or disabled"),
        ({"config": {"trainer": "recbole"}}, "a search trains under Lightning"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(search, options, told):
    with pytest.raises(InputError) as error:
        search(**{"trials": 2, **options})
    assert told in str(error.value)
    assert "secret" not in str(error.value)


def test_best_yaml_of_another_version_is_told(search, caplog):
    search(trials=1)
    text = Path("out/best.yaml").read_text().replace(f"recbole-msr {recbole_msr.__version__}", "recbole-msr 0.0.1")
    Path("old.yaml").write_text(text)
    recbole_msr.run(config_files=["old.yaml"], config={"output_dir": "r", "show_progress": False})
    assert "written by recbole-msr 0.0.1" in caplog.text


def test_workers_beyond_the_cores_are_told(search, caplog):
    with pytest.raises(InputError):
        search(trials=1, workers=4096, objectives="auc/none")
    assert "4096 workers share" in caplog.text


ONE_CLASS = {"tasks": {"click": {"field": "rating", "at_least": 6}, "like": {"field": "rating", "at_least": 5}}}
LEFT = [
    {"storage": "postgresql://me:secret@127.0.0.1:9/none"},
    {"storage": "sqlite:////no/such/folder/study.db"},
    {"storage": "journal:tiny/tiny.user"},
    {"storage": "journal:tiny"},
    {"sampler": "grid"},
    {"pruner": {"name": "percentile", "percentile": 200}},
    {"objectives": "auc/clik"},
    {"config": {"scenario": {"field": "agee", "bins": [30]}}},
    {"config": {"eval_args": {"split": {"RS": [1, 0, 0]}, "order": "RO", "group_by": None, "mode": "labeled"}}},
    {"config": {"load_col": {"inter": ["user_id"]}}},
    {"config": ONE_CLASS},
    {"objectives": "auc/young/click", "config": ONE_CLASS},
]


@pytest.mark.parametrize("options", LEFT, ids=str)
def test_a_search_that_is_refused_leaves_nothing_behind(options, search, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    before = sorted(tmp_path.rglob("*"))
    for output in ("a/out", "mine"):
        with pytest.raises(InputError):
            search(**{"trials": 2, "output": output, **options})
        assert sorted(tmp_path.rglob("*")) == before


def test_a_search_that_is_refused_leaves_another_as_it_was(search, tmp_path):
    search(trials=1)
    before = {path: path.read_bytes() for path in sorted(Path("out").rglob("*")) if path.is_file()}
    for options in (
        {"space": {**SPACE, "search": {"dropout": {"type": "float", "low": 0.1, "high": 0.2}}}},
        {"config": {"epochs": 2}},
        {"objectives": "logloss"},
        {"sampler": "grid"},
        {"study": "other"},
        {"storage": "sqlite:///study.db"},
        {"config": ONE_CLASS},
    ):
        with pytest.raises(InputError):
            search(trials=2, **options)
        after = {path: path.read_bytes() for path in sorted(Path("out").rglob("*")) if path.is_file()}
        assert after == before
    assert not Path("study.db").exists()


def test_a_metric_without_a_value_on_the_validation_rows_is_told_before_a_trial(search):
    with pytest.raises(InputError, match=r"'auc' has no value on the validation split .*'click'.*one class") as error:
        search(trials=1, config=ONE_CLASS)
    assert "scenario 'young', task 'click': one class: all 0" in str(error.value)
    assert not Path("out").exists()
    assert search(trials=1, objectives="auc/like", config=ONE_CLASS).summary["best"] is not None
