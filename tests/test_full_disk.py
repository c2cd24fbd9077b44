"""Commands on a disk that is full: one line that names the file, exit code 2, no traceback; what has ended is kept."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_msr.cli import main, run_recbole

CONFIG = [
    *("--dataset=tiny", "--threads=1", "--epochs=1", "--show_progress=False", "--use_gpu=False", "--embedding_size=4"),
    *("--bottom_hidden_sizes=[8]", "--tower_hidden_sizes=[4]", "--tasks={click: {field: rating, at_least: 4}}"),
    *("--scenario={field: age, bins: [30]}", "--packed_cache=False"),
]


@pytest.fixture
def disk(tiny_data, monkeypatch):
    """disk(kilobytes): the folder `disk` beside the data becomes a disk of so many."""
    monkeypatch.chdir(tiny_data)
    folder = tiny_data / "disk"
    folder.mkdir()

    def mount(kilobytes):
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
            pytest.skip("mounting a small disk takes root")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _told(capsys, command, *arguments):
    given = {argument.split("=")[0] for argument in arguments}
    config = [setting for setting in CONFIG if setting.split("=")[0] not in given]
    assert command([*arguments, *config, f"--data_path={Path.cwd()}"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "Logging error" not in error
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    assert "No space left on device" in line
    return line


def test_a_run(disk, capsys):
    disk(24)
    line = _told(capsys, run_recbole, "--model=SharedBottom", "--output_dir=disk/out")
    assert "disk/out/" in line
    assert "cannot be written" in line


def test_a_run_that_can_go_on(disk, capsys):
    disk(64)
    line = _told(capsys, run_recbole, "--model=SharedBottom", "--output_dir=disk/out", "--epochs=9")
    assert "run_recbole --resume --output_dir=disk/out goes on" in line
    assert (Path("disk/out") / "last.ckpt").stat().st_size > 0


@pytest.mark.parametrize("fill", ["begin", "trials", "final"])
def test_a_search(fill, disk, capsys):
    folder = disk({"begin": 4, "trials": 24, "final": 240}[fill])
    options = ["--model=SharedBottom", "--output=disk/out", "--trials=40", "--wandb=disabled", "--final-seeds=3"]
    if fill == "final":
        options[2] = "--trials=1"
    line = _told(capsys, main, "search", *options)
    assert "disk/out" in line
    if fill == "begin":
        assert list(folder.rglob("*")) == []
    else:
        assert "what has ended is kept" in line
        assert (folder / "out" / "study.journal").stat().st_size > 0
    if fill == "final":
        assert "/final/" in line


def test_a_comparison(disk, capsys):
    folder = disk(88)
    line = _told(capsys, main, "compare", "--models=SharedBottom", "--seeds=9", "--output=disk/out", "--wandb=disabled")
    assert "disk/out" in line
    done = list(folder.glob("out/runs/SharedBottom/all/joint/*/result.json"))
    assert all(json.loads(result.read_text())["test"] for result in done)


@pytest.mark.parametrize("kilobytes", [4, 16])
def test_knowledge(kilobytes, disk, capsys):
    disk(kilobytes)
    config = [one for one in CONFIG if "hidden" not in one and "embedding" not in one]
    given = ["--encoder=random", "--levels=[user]", "--name=k", "--knowledge_dir=disk/knowledge", "--liked=click"]
    assert main(["embed", *given, *config, f"--data_path={Path.cwd()}"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "disk/knowledge" in line
    assert "No space left on device" in line
    assert not Path("disk/knowledge/k").exists()


@pytest.mark.parametrize("kilobytes", [100, 300, 900])
def test_a_table_larger_than_the_disk(kilobytes, disk, capsys):
    folder = disk(kilobytes)
    draw = np.random.default_rng(0)
    columns = {"user_id": 3000, "item_id": 500, "tab": 3, "rating": 6}
    frame = pd.DataFrame({name: draw.integers(0, most, 20_000) for name, most in columns.items()})
    frame.assign(price=draw.random(20_000)).to_parquet("events.parquet", index=False)
    config = [one for one in CONFIG if not one.startswith(("--dataset", "--scenario", "--packed_cache"))]
    table = [
        "--data=events.parquet",
        "--scenario={field: tab}",
        "--cache_dir=disk/cache",
        "--numerical_features=[price]",
    ]
    assert run_recbole(["--model=SharedBottom", "--output_dir=out", *table, *config]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "disk/cache: No space left on device; cache_dir names another folder" in line
    left = [path.name for path in folder.rglob("*") if path.is_file()]
    assert not [name for name in left if not name.endswith((".lock", ".json"))]


@pytest.mark.parametrize("command", ["convert", "predict"])
def test_a_file_that_the_disk_cannot_hold_is_not_half_there(command, disk, capsys):
    """`data convert` of a table, and the scores of a file."""
    draw = np.random.default_rng(0)
    rows = pd.DataFrame({name: draw.integers(1, 30, 20_000) for name in ("user_id", "item_id")})
    rows.assign(rating=draw.integers(1, 6, 20_000)).to_parquet("events.parquet", index=False)
    folder = Path.cwd() / "disk"
    if command == "predict":
        config = [one for one in CONFIG if not one.startswith("--scenario")]
        assert run_recbole(["--model=SharedBottom", "--output_dir=run", *config, f"--data_path={Path.cwd()}"]) == 0
        capsys.readouterr()
        arguments = ["predict", "--run", "run", "--data", "events.parquet", "--out", "disk/scored.csv"]
    else:
        arguments = ["data", "convert", "events.parquet", "disk/out"]
    assert disk(100) == folder
    assert main(arguments) == 2
    error = capsys.readouterr().err
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    assert "cannot write" in line
    assert "No space left on device" in line
    assert not [path for path in folder.rglob("*") if path.is_file()], "nothing half-written"
