"""Journals that survive kills and full disks; addresses; who is alive."""

import multiprocessing
import os
import subprocess

import optuna
import pytest
from optuna.trial import TrialState

from recbole_msr.errors import InputError
from recbole_msr.search.storage import hide_password, open_storage


def test_a_half_line_in_the_journal_is_cut_and_the_study_goes_on(tmp_path):
    study = optuna.create_study(storage=open_storage(None, tmp_path), study_name="s")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    with open(tmp_path / "study.journal", "ab") as file:
        file.write(b'{"op_code": 6, "worker_id"')  # what a full disk leaves of a line
    again = optuna.load_study(storage=open_storage(None, tmp_path), study_name="s")
    again.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    last = optuna.load_study(storage=open_storage(None, tmp_path), study_name="s")
    assert [trial.state for trial in last.trials] == [TrialState.COMPLETE] * 5


def _hold(folder, held):
    open_storage(None, folder)._backend._lock.acquire()
    held.set()
    while True:
        pass


def test_a_process_killed_while_it_writes_does_not_lock_the_others_out(tmp_path):
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=_hold, args=(tmp_path, held))
    process.start()
    assert held.wait(60)
    process.kill()
    process.join()
    optuna.create_study(storage=open_storage(None, tmp_path), study_name="s")  # would wait for ever


def test_a_full_disk_is_told_and_what_ended_is_kept(search, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk takes root")
    try:
        with pytest.raises(InputError, match="No space left on device"):
            search(trials=200, output=str(disk / "out"), config={"epochs": 1}, pruner="none")
        ended = [t for t in study_in(disk / "out").trials if t.state == TrialState.COMPLETE]
        assert ended
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def study_in(folder):
    return optuna.load_study(storage=open_storage(None, folder), study_name="SharedBottom-tiny")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://me:secret@127.0.0.1:9/none", "cannot be reached"),
        ("mysql://me:secret@127.0.0.1/none", "install its driver"),
        ("somewhere", "is no address"),
        ("sqlite:////no/such/folder/study.db", "cannot be reached"),
    ],
)
def test_a_storage_that_cannot_be_used_is_told_without_its_password(url, told, tmp_path):
    with pytest.raises(InputError) as error:
        open_storage(url, tmp_path)
    assert told in str(error.value)
    assert "secret" not in str(error.value)


def test_a_journal_that_is_none_is_refused(tmp_path):
    (tmp_path / "study.journal").write_text("name,value\n1,2\n")
    with pytest.raises(InputError, match="damaged or no journal"):
        open_storage(None, tmp_path)


def test_passwords_are_hidden():
    assert hide_password("postgresql://me:s3cr@et@host/db") == "postgresql://me:***@host/db"
    assert hide_password("sqlite:///file") == "sqlite:///file"
    assert hide_password("postgresql://h/db?user=u&password=geheim") == "postgresql://h/db?user=u&password=***"
