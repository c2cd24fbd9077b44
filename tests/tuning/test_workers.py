"""Several processes, one study: nothing is lost or done twice, whoever is killed and when."""

import json
import os
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import optuna
import pandas as pd
import pytest
import yaml

import recbole_msr
from recbole_msr.cli import main
from recbole_msr.jobs.storage import open_storage
from tests.tracking.read_back import runs

from .conftest import SPACE
from .postgres import postgres_server

TRIALS = 5


@pytest.fixture
def command(config, tmp_path):
    """The command of a search with two workers, as a list; further arguments may be appended."""
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "epochs": 20, "stopping_step": 20}))
    return [
        *(sys.executable, "-c", "import sys; from recbole_msr.cli import main; sys.exit(main())"),
        *("search", "--model=SharedBottom", "--dataset=tiny", f"--trials={TRIALS}", "--workers=2", "--pruner=none"),
        *("--config_files", "config.yaml", "--space=space.yaml", "--final-seeds=0", "--wandb=disabled", "--first=off"),
    ]


def study_of(folder, storage=None):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.load_study(study_name="SharedBottom-tiny", storage=open_storage(storage, folder))


def wait_for(folder, storage, holds, process):
    """Wait until the study of a running search is as wanted."""

    def study_holds():
        with suppress(Exception):  # it is not there yet
            return holds(study_of(folder, storage).trials)

    wait_until(study_holds, process, "the search did not get on", seconds_between=0.5)


def wait_until(holds, process, otherwise, seconds_between=0.1):
    end = time.monotonic() + 600
    while not holds():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, otherwise
        time.sleep(seconds_between)


def states(trials):
    return Counter(trial.state.name for trial in trials)


def sampled(trial):
    """The parameters of a trial, also of one that was lost before it had asked for those it was given."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def check_whole(study, folder, storage=None, count=TRIALS):
    """Exactly `count` ended, none of them twice; every trial that was lost was tried again with its parameters.

    Trials that two machines took at the same moment are given up by one of them before they are trained; of those that
    both of them enqueued, one may still wait when all have ended.
    """
    waiting = {trial.number for trial in study.trials if trial.state.name == "WAITING"}
    assert not waiting or storage is not None, "workers of one folder enqueue trials one after the other"
    ended = [trial for trial in study.trials if trial.state.name in ("COMPLETE", "PRUNED")]
    assert len(ended) == count
    assert len({tuple(sorted(trial.params.items())) for trial in ended}) == count
    lost = [trial for trial in study.trials if trial.user_attrs.get("uncounted") == "lost"]
    for trial in lost:
        assert trial.state.name == "FAIL"
        assert trial.user_attrs["reason"]
        # A kill may come between two of its parameters: those it had are kept. Whoever tries it again may be lost too.
        known = sampled(trial)
        of_it = [one for one in study.trials if one.user_attrs.get("replaces") == trial.number]
        again = [one for one in of_it if one.user_attrs.get("uncounted") != "surplus" and one.number not in waiting]
        assert len(again) == bool(known)
        assert all(known.items() <= sampled(one).items() for one in again)
    surplus = [trial for trial in study.trials if trial.user_attrs.get("uncounted") == "surplus"]
    assert not surplus or storage is not None, "workers of one folder take trials one after the other"
    assert not any(trial.intermediate_values for trial in surplus)
    begun = [trial for trial in study.trials if trial.number not in waiting]
    assert states(begun) == Counter(COMPLETE=count, FAIL=len(lost) + len(surplus))
    frame = pd.read_csv(folder / "trials.csv")
    assert (frame["state"] == "complete").sum() == count
    assert frame["auc"].max() == study.best_value
    return lost


@pytest.mark.slow
def test_a_search_that_is_killed_and_interrupted_goes_on_to_exactly_its_trials(
    command, start, tmp_path, monkeypatch, capsys
):
    """A killed worker is started again; an interrupt gives the trials back; killed as a whole, it goes on.

    Before all that, a second command in the same folder is refused.
    """
    folder, command = tmp_path / "searches" / "SharedBottom-tiny", [*command, "--wandb=offline"]
    process = start(command)
    wait_for(folder, None, lambda trials: states(trials)["RUNNING"] >= 1, process)
    monkeypatch.chdir(tmp_path)
    assert main(command[3:]) == 2
    assert "a search is under way in" in capsys.readouterr().err
    assert process.poll() is None

    running = next(trial for trial in study_of(folder).trials if trial.state.name == "RUNNING")
    victim = int(running.user_attrs["worker"].split("-")[-2])
    assert victim != process.pid
    os.kill(victim, signal.SIGKILL)
    wait_for(folder, None, lambda trials: states(trials)["FAIL"] and states(trials)["RUNNING"] == 2, process)
    os.kill(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "was killed by signal 9 and is started again" in told
    assert "all results so far are in searches/SharedBottom-tiny" in told
    assert {"summary.json", "report.html", "trials.csv"} <= set(os.listdir(folder))
    trials = study_of(folder).trials
    assert states(trials)["RUNNING"] == 0
    assert any("interrupted" in trial.user_attrs.get("reason", "") for trial in trials)

    process = start(command)
    wait_for(folder, None, lambda trials: states(trials)["RUNNING"] >= 1, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert states(study_of(folder).trials)["RUNNING"] >= 1, "trials were under way when everything was killed"
    process = start(command)
    _, told = process.communicate(timeout=900)
    assert process.returncode == 0, told
    check_whole(study_of(folder), folder)

    finished = [run for run in runs(folder / "wandb") if run.exit_codes and run.about["job_type"] == "trial"]
    numbers = Counter(run.about["display_name"].rsplit("-", 1)[1] for run in finished)
    complete = [trial for trial in study_of(folder).trials if trial.state.name == "COMPLETE"]
    assert all(numbers[str(trial.number)] == 1 for trial in complete), "one finished W&B run a trial"
    again = recbole_msr.run(
        config_files=[folder / "best.yaml"], config={"output_dir": str(tmp_path / "again"), "show_progress": False}
    )
    assert again.summary["best_valid_score"] == study_of(folder).best_value


@pytest.mark.slow
@pytest.mark.postgres
def test_two_machines_share_a_study_in_postgresql_and_survive_kills(command, start, tmp_path):
    """Two commands with folders of their own stand for two machines; one is killed, and goes on."""
    with postgres_server() as url:
        here, there = tmp_path / "here", tmp_path / "there"
        longer = [*command, f"--storage={url}", "--epochs=60", "--stopping_step=60"]
        first = start([*longer, f"--output={here}"])
        wait_for(here, url, lambda trials: states(trials)["RUNNING"] >= 1, first)
        second = start([*longer, f"--output={there}", "--workers=1"])

        def both_at_work(trials):
            workers = [trial.user_attrs.get("worker", "") for trial in trials if trial.state.name == "RUNNING"]
            return any(f"-{second.pid}-" in name for name in workers) and len(workers) >= 2

        wait_for(here, url, both_at_work, first)
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
        first = start([*longer, f"--output={here}"])
        for process in (first, second):
            _, told = process.communicate(timeout=900)
            assert process.returncode == 0, told
        study = study_of(here, url)
        assert check_whole(study, here, url), "a trial was under way in the command that was killed"
        assert len({trial.user_attrs["worker"] for trial in study.trials}) >= 2
        assert pd.read_csv(there / "trials.csv")["auc"].max() == study.best_value


def children(parent):
    """The processes that a process has started, and what they were called with."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found[int(folder.name)] = (folder / "cmdline").read_text().split("\0")[:-1]
    return found


@pytest.mark.slow
def test_seeds_of_the_final_test_whose_worker_is_killed_are_trained_alone(command, start, tmp_path):
    given = [part.replace(f"--trials={TRIALS}", "--trials=1") for part in command]
    process = start([*given, "--final-seeds=4", "--fused=2", "--epochs=30", "--stopping_step=30"])
    final = tmp_path / "searches" / "SharedBottom-tiny" / "final"
    begun = [f"*-seed-{seed}/metrics.csv" for seed in (2021, 2022)]
    wait_until(lambda: all(any(final.glob(path)) for path in begun), process, "the final test did not begin")
    words = ["--final=0", "--seeds", "2021", "2022"]
    (victim,) = [pid for pid, asked in children(process.pid).items() if asked[-4:] == words]
    os.kill(victim, signal.SIGKILL)
    _, told = process.communicate(timeout=900)
    assert process.returncode == 0, told
    for seed in (2021, 2022):
        assert f"the final run with seed {seed} was killed by signal 9 and goes on" in told, told
    together = {}
    for path in final.glob("*/result.json"):
        together[int(path.parent.name.rsplit("-", 1)[1])] = json.loads(path.read_text()).get("fused")
    assert together == {2021: None, 2022: None, 2023: 2, 2024: 2}
