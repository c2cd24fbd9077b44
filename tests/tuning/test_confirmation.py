"""The best trials are trained again with fresh seeds; only the winner, its defaults and the reference are tested."""

import json
import math
import statistics
import time
from pathlib import Path
from types import SimpleNamespace

import optuna
import pandas as pd
import pytest
import yaml
from optuna.trial import TrialState, create_trial
from sklearn.metrics import roc_auc_score

import recbole_msr
from recbole_msr.errors import InputError
from recbole_msr.report.tuning.terminal import print_search
from recbole_msr.training.trainer import LightningTrainer
from recbole_msr.tuning import best_model
from recbole_msr.tuning import budget as budget_module
from recbole_msr.tuning import final as final_module
from recbole_msr.tuning.budget import Plan
from recbole_msr.tuning.final_workers import Group
from recbole_msr.tuning.options import SearchOptions
from recbole_msr.tuning.outcome import contenders, reference_trial

SPACE = {
    "model": "SharedBottom",
    "search": {"learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}},
}
SEEDS = [2021, 2022]


def found(trial, name):
    return {
        seed: json.loads(path.read_text())
        for seed in SEEDS
        if (path := Path(f"out/final/trial-{trial}-seed-{seed}/{name}")).is_file()
    }


def go(search, trials=5, **options):
    return search(trials=trials, **{"space": SPACE, "final_seeds": 2, "pruner": "none", **options})


@pytest.mark.slow
def test_the_best_by_fresh_seeds_wins_and_the_others_are_never_tested(search, monkeypatch, capsys):
    tests = []
    evaluate = LightningTrainer.evaluate
    monkeypatch.setattr(LightningTrainer, "evaluate", lambda *a, **k: tests.append(1) or evaluate(*a, **k))
    result = go(search)
    frame = result.trials
    told = dict(zip(frame["number"], frame["auc"], strict=True))
    ranked = sorted(told, key=lambda number: (-told[number], number))
    three = list(dict.fromkeys([ranked[0], 0, *ranked]))[:3]  # the best, the defaults, the next best
    confirmed = {}
    for number in three:
        values = found(number, "validated.json") | found(number, "result.json")
        assert sorted(values) == SEEDS
        confirmed[number] = statistics.mean(one["best_valid_score"] for one in values.values())
    winner = max(three, key=lambda number: (confirmed[number], -number))
    tested = {winner, 0}
    assert {int(path.parent.name.split("-")[1]) for path in Path("out/final").glob("*/result.json")} == tested
    assert len(tests) == len(tested) * len(SEEDS), "each of them once"

    summary = result.summary
    told_of = summary["confirmation"]
    assert summary["best"]["number"] == told_of["winner"] == summary["final"]["trial"] == winner
    assert [one["trial"] for one in told_of["candidates"]] == three
    for one in told_of["candidates"]:
        assert one["told"] == told[one["trial"]]
        assert one["confirmed"]["mean"] == pytest.approx(confirmed[one["trial"]])
        assert one["optimism"] == pytest.approx(one["told"] - one["confirmed"]["mean"])
    assert told_of["told"] == told[winner]
    assert (told_of["left_out"], told_of["tested_before"]) == (None, [])

    gain = told_of["gain"]["defaults"]
    if winner != 0:
        by_seed = []
        for seed in SEEDS:
            tables = [pd.read_parquet(f"out/final/trial-{n}-seed-{seed}/predictions.parquet") for n in (winner, 0)]
            by_seed.append([roc_auc_score(table["label_like"], table["score_like"]) for table in tables])
        expected = statistics.mean(best - defaults for best, defaults in by_seed)
        difference = gain["differences"]["auc/like"]
        assert difference["mean"] == pytest.approx(expected)
        assert difference["low"] < expected < difference["high"]
    assert gain == told_of["gain"]["reference"], "over one model they are the same"
    assert gain["trial"] == 0

    best = Path("out/best.yaml").read_text()
    assert f"# Trial {winner} of the study" in best
    assert f"Trained again, it has auc {confirmed[winner]:.6g} on average with the seeds 2021, 2022" in best
    again = recbole_msr.run(config_files=["out/best.yaml"], config={"output_dir": "again", "show_progress": False})
    assert again.summary["best_valid_score"] == told[winner], "the promise in the file"
    print_search(summary)
    assert "Confirmation, auc on validation with the fresh seeds 2021, 2022" in capsys.readouterr().out


def test_an_interrupted_confirmation_goes_on_where_it_was(search, monkeypatch):
    run_seeds, trained = final_module.run_seeds, []

    def interrupted(folders, *rest):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.extend(folders)
        return run_seeds(folders, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(final_module, "run_seeds", interrupted)
        with pytest.raises(KeyboardInterrupt):
            go(search, trials=3, fused="off", config={"epochs": 1})
    kept = {path: path.stat().st_mtime_ns for path in Path("out/final").glob("*/best.ckpt")}
    assert len(kept) == 2
    result = go(search, trials=3, fused="off", config={"epochs": 1})
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "what had ended is not trained again"
    assert [len(one["confirmed"]["values"]) for one in result.summary["confirmation"]["candidates"]] == [2, 2, 2]
    assert result.summary["final"]["seeds"] == SEEDS


def test_a_final_training_stops_when_the_time_is_up_and_goes_on(search, monkeypatch):
    run_seeds, begun = final_module.run_seeds, []

    def begins(*given):
        begun.append(given)
        return run_seeds(*given)

    with monkeypatch.context() as patch:  # the time is up as soon as the first of these trainings has begun
        patch.setattr(final_module, "run_seeds", begins)
        clock = SimpleNamespace(monotonic=lambda: math.inf if begun else time.monotonic())
        patch.setattr(budget_module, "time", clock)
        first = go(search, trials=1, timeout=600.0, fused="off")
    assert first.summary["final"] is None
    assert first.summary["final_failures"] == {
        "2021": "the time was up after epoch 1 of 3",
        "2022": "no time was left for it",
    }
    assert first.summary["best"] is not None
    again = go(search, trials=1, fused="off")
    assert again.summary["final"]["seeds"] == SEEDS
    once = go(search, trials=1, fused="off", output="once")
    assert again.summary["final"] == once.summary["final"], "as if it had not been interrupted"


def plans(monkeypatch, *given):
    """Let the time allow one plan after the other, the last one from then on; gives what is planned for."""
    asked = []

    def plan(self, candidates, beside):
        asked.append([trial.number for trial in candidates])
        return given[min(len(asked), len(given)) - 1]

    monkeypatch.setattr(budget_module.Budget, "plan", plan)
    return asked


def test_time_that_is_left_after_the_test_goes_to_the_defaults_and_further_seeds(search, monkeypatch, caplog):
    """Trainings that took less time than estimated; until now it stayed unspent."""
    asked = plans(monkeypatch, Plan(1, 1, False), Plan(1, 1, True), Plan(1, 2, True))
    trained = []
    run_seeds = final_module.run_seeds
    monkeypatch.setattr(
        final_module, "run_seeds", lambda folders, *rest: trained.extend(folders.items()) or run_seeds(folders, *rest)
    )
    summary = go(search, trials=3, config={"epochs": 1}).summary
    winner, confirmation = summary["best"]["number"], summary["confirmation"]
    assert winner != 0, "another setting than the defaults"
    assert summary["final"]["seeds"] == summary["final_defaults"]["seeds"] == confirmation["seeds"] == SEEDS
    assert confirmation["gain"]["defaults"]["seeds"] == SEEDS
    assert len(trained) == len(set(map(str, trained))) == 4, "each once"
    assert all(numbers == [winner] for numbers in asked[1:]), "once the test rows are read, nothing is chosen"
    assert confirmation["left_out"] == "the time allows less than was asked for: 1 of the 3 candidates is trained again"
    assert caplog.text.count("the time allows less") == 1


def test_time_that_is_left_after_candidates_goes_to_further_candidates(search, monkeypatch):
    asked = plans(monkeypatch, Plan(2, 2, True), Plan(3, 2, True))
    summary = go(search, trials=3, config={"epochs": 1}).summary
    assert [len(one["confirmed"]["values"]) for one in summary["confirmation"]["candidates"]] == [2, 2, 2]
    assert summary["confirmation"]["left_out"] is None
    assert len(asked) == 3, "and once more, to see that this was all"


def test_the_models_of_all_candidates_are_kept(search, monkeypatch):
    """Any of them may win, and best/ is then its model: also defaults that many trials beat."""
    monkeypatch.setattr(best_model, "KEPT_TRIALS", 1)
    candidates = go(search, trials=4, config={"epochs": 1}).summary["confirmation"]["candidates"]
    kept = {int(path.name) for path in Path("out/trials").iterdir() if path.name.isdigit()}
    assert kept == {one["trial"] for one in candidates}


def test_a_seed_whose_time_is_up_is_not_trained_for_a_further_task(monkeypatch):
    trained = []

    def run_seeds(folders, *_):
        trained.append(list(folders))
        return {2021: TimeoutError("the time was up")} if len(trained) == 1 else {}

    monkeypatch.setattr(final_module, "run_seeds", run_seeds)
    monkeypatch.setattr(final_module, "best_settings", lambda *_: {"epochs": 1})
    monkeypatch.setattr(final_module, "final_folders", lambda _, __, seed: {"click": f"c{seed}", "like": f"l{seed}"})
    study = SimpleNamespace(get_trials=lambda deepcopy: [None])
    for seeds, expected in (((2021, 2022), [[2021, 2022], [2022]]), ((2021,), [[2021]])):
        trained.clear()
        failed = final_module.run_final(None, study, Group(0, seeds, True), None)
        assert trained == expected
        assert list(failed) == [(0, 2021)]


def test_trainings_of_a_study_that_was_removed_are_not_taken_for_those_of_another(search, caplog):
    go(search, trials=1, config={"epochs": 1})
    for path in Path("out").glob("study.journal*"):
        path.unlink()
    again = go(search, trials=1, config={"epochs": 2})
    once = go(search, trials=1, config={"epochs": 2}, output="once")
    assert again.summary["final"] == once.summary["final"]
    assert len(list(Path("out/final-removed-1").glob("*/result.json"))) == 2
    assert "out/final is of a study that was removed: it is final-removed-1 now" in caplog.text


@pytest.mark.slow
def test_more_trials_are_confirmed_again_and_an_earlier_test_is_told(search, caplog):
    space = {"search": {"learning_rate": [1e-6, 0.002, 0.02, 0.04]}}
    given = {"space": space, "sampler": "grid", "config": {"epochs": 2}, "final_seeds": 1}
    first = go(search, trials=1, **given)
    early = first.summary["final"]["trial"]
    assert first.summary["confirmation"]["tested_before"] == []
    second = go(search, trials=4, **given)
    late = second.summary["final"]["trial"]
    expected = [early] if late != early else []
    assert second.summary["confirmation"]["tested_before"] == expected
    assert ("have been read before, by trial" in caplog.text) == bool(expected)
    assert len(second.summary["confirmation"]["candidates"]) == 3


def test_a_candidate_without_a_seed_in_common_is_left_out(search):
    """Where the run of the best trial with the first seed should be lies a folder that cannot be removed."""
    first = go(search, trials=3, final_seeds=0, config={"epochs": 1})
    number = first.summary["best"]["number"]
    Path("out/final").mkdir()
    Path(f"out/final/trial-{number}-seed-2021").write_text("no folder")
    result = go(search, trials=3, config={"epochs": 1}, fused="off")
    assert result.summary["confirmation"]["seeds"] == [2022], "the means are over the seeds that all have"
    assert all(len(one["confirmed"]["values"]) == 1 for one in result.summary["confirmation"]["candidates"])


def test_a_cheaper_model_wins_within_the_tolerance(search):
    space = {"search": {"bottom_hidden_sizes": [[4], [8]]}}
    given = {"space": space, "sampler": "grid", "objectives": "auc/macro,parameters", "config": {"epochs": 1}}
    result = go(search, trials=2, **given, tolerance=0.049)
    candidates = result.summary["confirmation"]["candidates"]
    values = {one["trial"]: one["confirmed"]["mean"] for one in candidates}
    sizes = dict(zip(result.trials["number"], result.trials["parameters"], strict=True))
    near = [number for number in values if values[number] >= max(values.values()) - 0.049]
    assert result.summary["best"]["number"] == min(near, key=lambda number: sizes[number])


@pytest.mark.parametrize("given", ["1%", "0.05", "0.1", "a"])
def test_a_tolerance_that_is_a_share_is_refused(given, capsys):
    from recbole_msr.cli import main

    assert main(["search", "--model=LR", "--dataset=d", "--trials=1", f"--tolerance={given}"]) == 2
    told = capsys.readouterr().err
    assert "--tolerance must be from 0 to below 0.05, a difference in the first objective's own units" in told
    assert "no longer a share of the best value" in told
    with pytest.raises(InputError, match="no longer a share"):
        SearchOptions("LR", "d", 1, tolerance=0.05)
    assert SearchOptions("LR", "d", 1).tolerance == 0.001


@pytest.mark.slow
def test_a_model_of_one_task_is_trained_and_tested_once_a_task(config, tmp_path, monkeypatch, no_pages):
    monkeypatch.chdir(tmp_path)
    result = recbole_msr.search(
        None, "tiny", 3, models=["LR", "FM"], config={**config, "epochs": 1}, output="out", final_seeds=2, confirm=2,
        wandb="disabled", progress=False,
    )  # fmt: skip
    summary = result.summary
    winner = summary["confirmation"]["winner"]
    tables = {}
    for seed in SEEDS:
        for task in ("click", "like"):
            folder = Path(f"out/final/trial-{winner}-seed-{seed}-{task}")
            tables[seed, task] = pd.read_parquet(folder / "predictions.parquet")
            assert json.loads((folder / "result.json").read_text())["main_task"] == task
    pooled = summary["final"]["test"]["pooled"]
    for task in ("click", "like"):
        values = [roc_auc_score(table[f"label_{task}"], table[f"score_{task}"]) for table in map_of(tables, task)]
        assert pooled[task]["auc"]["values"] == pytest.approx(values)
    gain = summary["confirmation"]["gain"]["reference"]
    if gain is not None and gain["trial"] != winner:
        assert "auc/macro" in gain["differences"]
        means = [summary[name]["test"]["pooled"]["like"]["auc"]["mean"] for name in ("final", "final_reference")]
        assert gain["differences"]["auc/like"]["mean"] == pytest.approx(means[0] - means[1])


def map_of(tables, task):
    return [tables[seed, task] for seed in SEEDS]


def test_final_runs_keep_their_predictions_and_their_settings(search):
    result = go(search, trials=1, config={"epochs": 1})
    folder = Path(f"out/final/trial-{result.summary['best']['number']}-seed-2021")
    assert (folder / "predictions.parquet").is_file()
    assert yaml.safe_load((folder / "config.yaml").read_text())["save_predictions"] is True


def test_the_best_defaults_and_the_best_of_other_models_are_confirmed_before_neighbours_of_the_best():
    study = optuna.create_study(direction="maximize")
    for model, value, origin in (
        ("FM", 0.70, "defaults"), ("PLE", 0.72, "defaults"), ("FM", 0.80, ""), ("FM", 0.79, ""), ("FM", 0.78, ""),
        ("PLE", 0.74, ""), ("LR", 0.71, "defaults"),
    ):  # fmt: skip
        attributes = {"model": model, "settings": {"model": model, "rate": value}, "origin": origin}
        study.add_trial(create_trial(state=TrialState.COMPLETE, value=value, user_attrs=attributes))
    asked = SimpleNamespace(tolerance=0.0, confirm=6)
    assert [trial.value for trial in contenders(study, asked)] == [0.80, 0.72, 0.74, 0.71, 0.79, 0.78]
    asked.confirm = 2
    assert [trial.value for trial in contenders(study, asked)] == [0.80, 0.72]


def test_the_reference_is_not_a_models_defaults_that_saw_few_rows():
    study = optuna.create_study(direction="maximize")
    for model, state, value in (("FM", TrialState.COMPLETE, 0.7), ("PLE", TrialState.PRUNED, 0.9)):
        study.add_trial(
            create_trial(
                state=state,
                value=value,
                intermediate_values={1: value},
                user_attrs={"origin": "defaults", "model": model},
            )
        )
    settings = SimpleNamespace(tolerance=0.0)
    assert reference_trial(study, settings).user_attrs["model"] == "FM"
