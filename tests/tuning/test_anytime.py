"""A search has its best model at any moment, and a trial that is killed goes on from its last epoch."""

import json
import os
import signal
import sys
import textwrap
from pathlib import Path

import optuna
import pandas as pd
import pytest
import yaml
from optuna.trial import TrialState

import recbole_msr
from benchmarks import kills
from recbole_msr.jobs.interrupts import TerminatedError
from recbole_msr.tuning.objective import Objective
from recbole_msr.tuning.study import candidates, epochs_of
from recbole_msr.tuning.trial_folder import KILLED, KILLED_WITH_COMMAND, LAST, fruitless_kills

from .conftest import SPACE
from .test_workers import study_of

FIXED = {"learning_rate": 0.003, "bottom_hidden_sizes": [8], "epochs": 6, "stopping_step": 10}


@pytest.fixture(autouse=True)
def every_epoch_is_kept(monkeypatch):
    """Epochs of some milliseconds are kept a few at a time otherwise."""
    monkeypatch.setattr("recbole_msr.tuning.trial_training.WRITE_SHARE", 1.0)


def values(study):
    return [trial.value for trial in study.trials if trial.state.name == "COMPLETE"]


def interrupt_after(monkeypatch, epochs, error=KeyboardInterrupt):
    """Interrupt a search after so many epochs; each is counted once, with its trial."""
    seen = []
    after_epoch = Objective.after_epoch

    def counted(self, attempt, run):
        report = after_epoch(self, attempt, run)

        def one(epoch, score):
            report(epoch, score)
            seen.append((attempt.trial.number, epoch + 1))
            if len(seen) == epochs:
                raise error

        return one

    monkeypatch.setattr(Objective, "after_epoch", counted)
    return seen


def test_an_interrupted_trial_goes_on_from_its_last_epoch_to_the_same_value(search, monkeypatch):
    given = {"config": FIXED, "pruner": "none", "sampler": "random"}
    whole = search(trials=2, output="whole", **given)
    with monkeypatch.context() as patch:
        first = interrupt_after(patch, 9)
        with pytest.raises(KeyboardInterrupt):
            search(trials=2, output="cut", **given)
    with monkeypatch.context() as patch:
        second = interrupt_after(patch, 1000)
        cut = search(trials=2, output="cut", **given)
    assert first == [*((0, epoch) for epoch in range(1, 7)), (1, 1), (1, 2), (1, 3)]
    assert second == [(2, 4), (2, 5), (2, 6)]
    assert values(cut.study) == values(whole.study)
    told, expected = cut.study.trials[2], whole.study.trials[1]
    assert told.intermediate_values == expected.intermediate_values
    untimed = [
        [{key: value for key, value in row.items() if key not in ("seconds", "rows_per_second", "at")} for row in rows]
        for rows in (told.user_attrs["history"], expected.user_attrs["history"])
    ]
    assert untimed[0] == untimed[1]
    assert told.user_attrs["best_at"] == told.user_attrs["history"][told.user_attrs["best_epoch"] - 1]["at"]
    assert epochs_of(cut.study) == 12
    assert not list(Path("cut/trials").glob(f"*/*/{LAST}"))


def test_a_damaged_checkpoint_is_told_and_the_trial_is_trained_anew(search, monkeypatch, caplog):
    given = {"config": FIXED, "pruner": "none", "trials": 1}
    expected = search(output="whole", **given).best_value
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            search(output="cut", **given)
    (last,) = Path("cut/trials").glob(f"*/*/{LAST}")
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 255
    last.write_bytes(content)
    assert search(output="cut", **given).best_value == expected
    told = [record.getMessage() for record in caplog.records if "is trained anew" in record.getMessage()]
    assert len(told) == 1
    assert "the checkpoint cut/trials/1/seed-2020/last.ckpt cannot be read" in told[0]
    assert "\n" not in told[0]


def test_on_a_machine_without_the_folder_a_trial_is_trained_from_its_start(search, monkeypatch, caplog):
    caplog.set_level("INFO")
    given = {"config": FIXED, "pruner": "none", "trials": 1, "storage": "sqlite:///shared.db"}
    expected = search(output="whole", trials=1, config=FIXED, pruner="none").best_value
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            search(output="here", **given)
    assert search(output="there", **given).best_value == expected
    assert sum("trains from its start" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.usefixtures("pages")
def test_from_the_first_epoch_on_there_is_a_best_model_that_predicts(search, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            search(trials=3, config=FIXED, final_seeds=3)
    trial = study_of(Path("out")).trials[0]
    assert yaml.safe_load(Path("out/best.yaml").read_text())["learning_rate"] == FIXED["learning_rate"]
    run = recbole_msr.load("out/best")
    assert run.result["best_valid_score"] == trial.user_attrs["values_so_far"][0] == trial.intermediate_values[1]
    assert run.result["trial"] == 0
    assert run.evaluation.test is None
    scores = run.predict(pd.DataFrame({"user_id": ["u1"], "item_id": ["i2"]}))
    assert list(scores.columns) == ["click", "like"]
    assert (
        recbole_msr.load(next(Path("out/trials").glob("0/*")))
        .predict(pd.DataFrame({"user_id": ["u1"], "item_id": ["i2"]}))
        .equals(scores)
    )
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["best"]["values"] == trial.user_attrs["values_so_far"]
    assert summary["final"] is None, "an interrupted search tests nothing"
    assert "out/report.html" in [str(path) for path in Path("out").glob("*.html")]
    assert pd.read_csv("out/trials.csv")["auc"].tolist() == trial.user_attrs["values_so_far"]


def test_sigterm_leaves_the_best_so_far_like_an_interrupt(search, monkeypatch):
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with monkeypatch.context() as patch:
        after_epoch = Objective.after_epoch

        def terminated(self, attempt, run):
            report = after_epoch(self, attempt, run)
            return lambda *epoch: report(*epoch) or os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(Objective, "after_epoch", terminated)
        with pytest.raises(TerminatedError) as caught:
            search(trials=3, config=FIXED)
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert json.loads(Path("out/summary.json").read_text())["best"]["number"] == 0
    assert recbole_msr.load("out/best").result["epochs"] == 1


@pytest.mark.slow
def test_a_second_interrupt_ends_at_once(tmp_path, start):
    script = """
        import time
        from recbole_msr.jobs.interrupts import Interrupts
        with Interrupts().installed() as interrupts:
            with interrupts.held():
                print("begun", file=__import__("sys").stderr, flush=True)
                time.sleep(600)
            print("held", file=__import__("sys").stderr, flush=True)
            time.sleep(600)
    """
    process = start([sys.executable, "-c", textwrap.dedent(script)])
    for word in ("begun", "held"):
        assert process.stderr.readline().strip() == word
        process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == -signal.SIGINT


def _killed_trial(study, worker, kept=0, replaces=None, reason=KILLED):
    """Add a trial whose worker was killed."""
    attributes = {"reason": reason, "uncounted": "lost", "worker": worker}
    if replaces is not None:
        attributes |= {"replaces": replaces, "retry_of": 0}
    if kept:
        attributes["kept_epochs"] = kept
    study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL, user_attrs=attributes))


def test_kills_of_the_whole_command_hardly_count():
    study = optuna.create_study()
    for number, reason in enumerate([*[KILLED_WITH_COMMAND] * 9, KILLED, KILLED_WITH_COMMAND]):
        _killed_trial(study, "w", replaces=number - 1 if number else None, reason=reason)
    assert [fruitless_kills(trial, study.trials) for trial in study.trials] == [0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 3]


@pytest.mark.parametrize(
    ("kept", "kills"), [([0, 0, 0], 3), ([1, 1, 1], 2), ([1, 2, 2, 3], 0), ([0, 0, 4, 4], 1), ([5, 2, 3, 6], 0)]
)
def test_only_kills_without_a_new_epoch_count(kept, kills):
    study = optuna.create_study()
    for number, epochs in enumerate(kept):
        _killed_trial(study, "w", epochs, number - 1 if number else None)
    assert fruitless_kills(study.trials[-1], study.trials) == kills


@pytest.mark.slow
def test_a_search_killed_twice_ends_as_if_left_alone(config, tmp_path, monkeypatch):
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "epochs": 40, "stopping_step": 40}))
    monkeypatch.chdir(tmp_path)
    given = ["--model=SharedBottom", "--dataset=tiny", "--config_files", "config.yaml", "--space=space.yaml"]
    assert kills.compare([*given, "--trials=2", "--pruner=none"], tmp_path, 2, seed=4)


def test_the_best_model_is_that_of_the_best_trial_and_few_others_are_kept(search, monkeypatch):
    monkeypatch.setattr("recbole_msr.tuning.best_model.KEPT_TRIALS", 2)
    result = search(trials=5, sampler="random")
    ranked = sorted(result.study.trials, key=lambda trial: -(trial.user_attrs["values_so_far"][0]))
    kept = {int(path.name) for path in Path("out/trials").iterdir() if path.name.isdigit()}
    assert kept == {trial.number for trial in ranked[:2]} | {result.study.best_trial.number}
    best = recbole_msr.load("out/best")
    assert best.result["trial"] == result.study.best_trial.number
    assert best.result["best_valid_score"] == result.best_value
    again = recbole_msr.run(config_files=["out/best.yaml"], config={"output_dir": "again", "show_progress": False})
    assert again.summary["valid"] == best.result["valid"]
    rows = pd.DataFrame({"user_id": ["u1", "u2"], "item_id": ["i2", "i3"]})
    assert recbole_msr.load("again").predict(rows).equals(best.predict(rows))


def test_a_trial_that_fails_after_its_best_epoch_is_not_the_best(search, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2, ValueError("broken"))
        result = search(trials=2, config=FIXED, sampler="random")
    assert [trial.state.name for trial in result.study.trials] == ["FAIL", "COMPLETE"]
    assert [trial.number for trial in candidates(result.study)] == [1]
    assert recbole_msr.load("out/best").result["trial"] == 1
    assert not Path("out/trials/0").exists()


def interrupt_and_go_on(search, monkeypatch, epochs, given):
    """Interrupt a search after so many epochs, and give its command again: the result, and the epochs trained then."""
    with monkeypatch.context() as patch:
        interrupt_after(patch, epochs)
        with pytest.raises(KeyboardInterrupt):
            search(output="cut", **given)
    with monkeypatch.context() as patch:
        second = interrupt_after(patch, 1000)
        return search(output="cut", **given), second


def test_seeds_that_have_ended_are_not_trained_again(search, monkeypatch):
    given = {"config": FIXED, "pruner": "none", "trials": 1, "trial_seeds": 3, "fused": "off"}
    expected = search(output="whole", **given)
    cut, second = interrupt_and_go_on(search, monkeypatch, 8, given)
    assert [epoch for _, epoch in second] == [3, 4, 5, 6, 1, 2, 3, 4, 5, 6]
    assert cut.best_value == expected.best_value
    assert cut.study.trials[1].intermediate_values == expected.study.trials[0].intermediate_values


def test_trials_that_were_trained_together_go_on_alone(search, monkeypatch):
    space = {"model": "SharedBottom", "search": {"dropout": {"type": "float", "low": 0.0, "high": 0.4}}}
    given = {"config": FIXED, "pruner": "none", "trials": 2, "sampler": "random", "space": space, "fused": 2}
    expected = values(search(output="whole", **given).study)
    cut, second = interrupt_and_go_on(search, monkeypatch, 6, given)
    assert values(cut.study) == expected
    assert sorted(second) == [(number, epoch) for number in (2, 3) for epoch in (4, 5, 6)]
