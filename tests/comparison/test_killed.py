"""The command `recbole-msr compare`: its processes are killed, and it goes on to the same numbers."""

import json
import os
import signal
import sys
import time

import pytest
import yaml

import recbole_msr
from tests.tuning.conftest import CONFIG

MODELS = "SharedBottom,LR"


@pytest.fixture
def command(tiny_data, tmp_path):
    settings = {**CONFIG, "data_path": str(tiny_data), "epochs": 20, "stopping_step": 20}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    return [
        *(sys.executable, "-c", "import sys; from recbole_msr.cli import main; sys.exit(main())"),
        *("compare", f"--models={MODELS}", "--dataset=tiny", "--seeds=2", "--workers=2", "--wandb=disabled"),
        *("--config_files", "config.yaml", "--output=killed"),
    ]


def wait_for(process, holds):
    end = time.monotonic() + 600
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()[1]
        if holds():
            return
        time.sleep(0.1)
    raise AssertionError("the comparison did not get on")


@pytest.mark.slow
def test_a_command_and_a_worker_that_are_killed_end_with_the_numbers_of_one_that_was_not(command, start, tmp_path):
    folder = tmp_path / "killed"
    process = start(command)
    wait_for(process, lambda: any((folder / "runs").rglob("last.ckpt")))
    workers = [int(pid) for pid in os.popen(f"pgrep -P {process.pid} -f comparison.worker").read().split()]
    os.kill(workers[0], signal.SIGKILL)

    def under_way():
        return len(list(folder.rglob("result.json"))) >= 2 and any((folder / "runs").rglob("last.ckpt"))

    wait_for(process, under_way)
    os.killpg(process.pid, signal.SIGKILL)
    _, told = process.communicate()
    assert "was killed by signal 9 and is started again" in told
    assert not (folder / "summary.json").exists()
    process = start(command)
    _, told = process.communicate(timeout=900)
    assert process.returncode == 0, told
    killed = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert [entry["status"] for entry in killed["entries"]] == ["complete", "complete"]

    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    whole = recbole_msr.compare(
        MODELS, "tiny", seeds=2, config=config, output=tmp_path / "whole", wandb="disabled", progress=False
    ).summary
    for one, other in zip(killed["entries"], whole["entries"], strict=True):
        assert one["test"] == other["test"]
        assert one["valid"] == other["valid"]
        assert one["differences"] == other["differences"]


KILLER = """
import os, signal, sys

if "recbole_msr.comparison.worker" in sys.orig_argv:
    from recbole_msr.comparison import jobs as work

    whole = work.run_once

    def run_once(folder, config):
        if config["model"] == "LR":
            os.kill(os.getpid(), signal.SIGKILL)  # as the system does where memory is short
        return whole(folder, config)

    work.run_once = run_once
"""


@pytest.mark.slow
def test_a_run_that_kills_its_process_again_and_again_fails_alone(command, start, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(KILLER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    one_task = "--tasks={click: {field: rating, at_least: 4}}"
    process = start([*command[:-1], "--output=memory", "--seeds=1", "--epochs=2", one_task])
    _, told = process.communicate(timeout=900)
    assert process.returncode == 0, told
    by_label = {one["label"]: one for one in json.loads((tmp_path / "memory" / "summary.json").read_text())["entries"]}
    assert by_label["SharedBottom"]["status"] == "complete"
    assert by_label["LR"]["status"] == "failed"
    assert "seed 2020: its process was killed 3 times" in by_label["LR"]["reasons"][0]
