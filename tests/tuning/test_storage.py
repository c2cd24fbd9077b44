"""Journals that survive kills and full disks; addresses; who is alive."""

import multiprocessing
import os
import subprocess

import optuna
import pytest
from optuna.trial import TrialState

from recbole_msr.errors import InputError
from recbole_msr.jobs.storage import hide_password, open_storage


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


@pytest.mark.slow
def test_a_full_disk_is_told_and_what_ended_is_kept(search, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)]
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


@pytest.mark.parametrize("content", ["name,value\n1,2\n", "[" * 100_000, "[]\n", '{"a": 1}\n'])
def test_a_journal_that_is_none_is_refused(content, tmp_path):
    (tmp_path / "study.journal").write_text(content)
    with pytest.raises(InputError, match="no journal of Optuna"):
        open_storage(None, tmp_path)


def test_passwords_are_hidden():
    assert hide_password("postgresql://me:s3cr@et@host/db") == "postgresql://me:***@host/db"
    assert hide_password("sqlite:///file") == "sqlite:///file"
    assert hide_password("postgresql://h/db?user=u&password=geheim") == "postgresql://h/db?user=u&password=***"


@pytest.fixture
def journal(tmp_path):
    """A journal of three trials."""
    study = optuna.create_study(storage=open_storage(None, tmp_path), study_name="s")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    return tmp_path / "study.journal"


def test_a_journal_that_has_lost_lines_is_refused(journal):
    lines = journal.read_bytes().splitlines(keepends=True)
    for kept in (lines[: len(lines) // 2], lines[:-1], []):
        journal.write_bytes(b"".join(kept)[: -1 if kept else None])
        before = journal.read_bytes()
        with pytest.raises(InputError, match=rf"journal {journal} (holds \d+ bytes of the \d+|is gone or empty)"):
            open_storage(None, journal.parent)
        assert journal.read_bytes() == before
    journal.unlink()
    with pytest.raises(InputError, match="is gone or empty"):
        open_storage(None, journal.parent)
    journal.write_bytes(b"".join(lines))
    assert len(optuna.load_study(storage=open_storage(None, journal.parent), study_name="s").trials) == 3


def test_a_journal_that_stands_twice_in_its_file_is_refused(journal):
    lines = journal.read_bytes()
    journal.write_bytes(lines + lines)
    with pytest.raises(InputError, match=r"line \d+ of .*: it is line \d+ again"):
        open_storage(None, journal.parent)


def test_a_changed_value_in_the_journal_is_refused(journal):
    before = journal.read_bytes()
    at = before.index(b'"values":[0.') + 12
    journal.write_bytes(before[:at] + bytes([before[at] ^ 1]) + before[at + 1 :])
    with pytest.raises(InputError, match="not those that were written"):
        open_storage(None, journal.parent)


def test_a_journal_of_before_there_were_notes_is_read(journal):
    (journal.parent / "study.journal.seen").unlink()
    study = optuna.load_study(storage=open_storage(None, journal.parent), study_name="s")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    assert len(study.trials) == 4
    assert int((journal.parent / "study.journal.seen").read_text().split()[0]) == journal.stat().st_size


@pytest.mark.parametrize(
    "line",
    [
        *(b"\x00\xff garbage", b"[]", b"null", b"5", b"{}", b'{"op_code": "x", "worker_id": "a"}', b"[" * 100_000),
        *(b'{"op_code": 99, "worker_id": "a"}', b'{"op_code": 6, "worker_id": "a", "trial_id": []}'),
    ],
    ids=range(9),
)
def test_a_garbage_line_is_named(line, journal):
    lines = journal.read_bytes().splitlines()
    journal.write_bytes(b"\n".join([*lines[:5], line, *lines[5:]]) + b"\n")
    (journal.parent / "study.journal.seen").unlink()
    with pytest.raises(InputError, match=r"line 6 .*study.journal|study.journal .*line 6 ") as error:
        open_storage(None, journal.parent)
    assert "\n" not in str(error.value)
