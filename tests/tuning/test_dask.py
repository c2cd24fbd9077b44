"""Trials on a Dask cluster: a real scheduler and workers on this machine, one of them killed; and what is refused."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import yaml

from recbole_msr.cli import main
from recbole_msr.errors import REFUSED, InputError
from recbole_msr.jobs.dask_worker import Order, run_order

from .conftest import SPACE
from .postgres import postgres_server
from .test_workers import check_whole, sampled, states, study_of, wait_for, wait_until

pytest.importorskip("distributed", reason="distributed is not installed: pip install 'recbole-msr[dask]'")

TRIALS = 4


@pytest.fixture
def command(config, tmp_path):
    """The command of a search on a cluster whose scheduler file is cluster.json."""
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "epochs": 40, "stopping_step": 40}))
    return [
        *(sys.executable, "-c", "import sys; from recbole_msr.cli import main; sys.exit(main())"),
        *("search", "--model=SharedBottom", "--dataset=tiny", f"--trials={TRIALS}", "--pruner=none", "--output=out"),
        *("--config_files", "config.yaml", "--space=space.yaml", "--final-seeds=0", "--wandb=disabled", "--first=off"),
        *("--fused=off", "--dask=cluster.json"),
    ]


@pytest.fixture
def scheduler(start, tmp_path):
    """Start a scheduler; its file is cluster.json."""
    given = ["--port=0", "--host=127.0.0.1", "--no-dashboard", "--scheduler-file=cluster.json"]
    process = start([sys.executable, "-m", "distributed.cli.dask_scheduler", *given])
    wait_until((tmp_path / "cluster.json").exists, process, "the scheduler did not begin")
    return process


@pytest.fixture
def dask_worker(start):
    """dask_worker() starts a worker of the cluster, in a process group of its own."""
    given = ["--scheduler-file=cluster.json", "--no-nanny", "--nthreads=1", "--no-dashboard"]
    return lambda: start([sys.executable, "-m", "distributed.cli.dask_worker", *given])


def group_of(worker):
    """The process group of a worker's name, HOST-PID-RANDOM."""
    return os.getpgid(int(worker.split("-")[-2]))


@pytest.mark.slow
@pytest.mark.postgres
def test_the_trial_of_a_lost_worker_goes_on_elsewhere(command, scheduler, dask_worker, start, tmp_path):
    with postgres_server() as url:
        workers = [dask_worker(), dask_worker()]
        process = start([*command, f"--storage={url}"])
        folder = tmp_path / "out"

        def both_at_work(trials):  # and their parameters are known, so that they can be tried again
            at_work = [trial for trial in trials if trial.state.name == "RUNNING"]
            return len(at_work) == 2 and all(sampled(trial) for trial in at_work)

        wait_for(folder, url, both_at_work, process)
        running = [trial for trial in study_of(folder, url).trials if trial.state.name == "RUNNING"]
        groups = {trial.number: group_of(trial.user_attrs["worker"]) for trial in running}
        assert sorted(groups.values()) == sorted(worker.pid for worker in workers), "each trains in its own process"
        victim = max(running, key=lambda trial: trial.number)
        os.killpg(groups[victim.number], signal.SIGKILL)
        _, told = process.communicate(timeout=900)
        assert process.returncode == 0, told
        assert "is gone; its trial is tried again elsewhere" in told
        study = study_of(folder, url)
        lost = check_whole(study, folder, url, TRIALS)
        assert victim.number in [trial.number for trial in lost]
        (again,) = [trial for trial in study.trials if trial.user_attrs.get("replaces") == victim.number]
        survivor = next(worker.pid for worker in workers if worker.pid != groups[victim.number])
        assert again.user_attrs["worker"] != victim.user_attrs["worker"]
        logs = [path.name for path in (folder / "workers").glob("dask-*.log")]
        assert any(name.endswith(f"-{survivor}.log") for name in logs)


@pytest.mark.slow
def test_workers_join_later_end_with_the_command_and_a_lost_scheduler_ends_the_command(
    command, scheduler, dask_worker, start, tmp_path
):
    process = start(command)
    folder = tmp_path / "out"
    wait_until((folder / "workers" / "search.json").exists, process, "the search did not begin")
    dask_worker()
    wait_for(folder, None, lambda trials: states(trials)["RUNNING"] == 1, process)
    running = next(trial for trial in study_of(folder).trials if trial.state.name == "RUNNING")
    at_work = int(running.user_attrs["worker"].split("-")[-2])
    process.send_signal(signal.SIGKILL)  # the command cannot say goodbye
    process.communicate()
    end = time.monotonic() + 120
    while os.path.exists(f"/proc/{at_work}") and time.monotonic() < end:
        time.sleep(0.2)
    assert not os.path.exists(f"/proc/{at_work}"), "its worker's process has ended"
    assert states(study_of(folder).trials)["RUNNING"] == 0, "and has given its trial back"

    ended = states(study_of(folder).trials)["COMPLETE"]
    process = start(command)
    wait_for(folder, None, lambda trials: states(trials)["COMPLETE"] > ended, process)
    scheduler.kill()
    _, told = process.communicate(timeout=300)
    assert process.returncode == 2
    assert told.strip().splitlines()[-1].startswith("error: the Dask scheduler does not answer any more")
    assert (folder / "best.yaml").is_file(), "what ended is kept"
    assert (folder / "summary.json").is_file()


@pytest.mark.slow
def test_a_scheduler_that_does_not_answer_is_told(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for address in (f"tcp://127.0.0.1:{port}", "nonsense://here:1", "cluster.json"):
        assert main([*command[3:-1], f"--dask={address}"]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith(f"error: --dask={address}: ")
    assert not (tmp_path / "out").exists()


def order(folder, **changes):
    given = {
        **{"module": "json.tool", "folder": str(folder), "settings_file": "workers/search.json", "seconds": None},
        **{"settings": json.dumps({"output": str(folder)}), "threads": 1, "host": socket.gethostname()},
        **{"only_there": False, "chooses_gpu": False},
    }
    return Order(**{**given, **changes})


def test_a_worker_that_cannot_take_part_says_why(tmp_path):
    code, told = run_order(order(tmp_path, version="0.0.0"))
    assert code == REFUSED
    assert "0.0.0" in told
    code, told = run_order(order(tmp_path, host="elsewhere", only_there=True))
    assert code == REFUSED
    assert "--storage=postgresql://" in told


def test_a_search_without_the_package_says_what_to_install(search, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'recbole-msr\[dask\]'"):
        search(dask="tcp://127.0.0.1:1")


def test_dask_workers_import_nothing_large():
    code = "import sys, recbole_msr.jobs.dask_worker; sys.exit('torch' in sys.modules or 'optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
