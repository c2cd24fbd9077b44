"""W&B runs as wandb itself reads them back, and a W&B server that is dead, slow, or answers."""

import csv
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import recbole_msr
from recbole_msr.errors import InputError
from recbole_msr.tracking import worker
from recbole_msr.tracking.wandb import TrackedRun, artifact_name, resolve_mode, sync_command
from tests.conftest import SCENARIOS, SETTINGS
from tests.tracking.read_back import runs
from tests.tracking.wandb_server import answering, closed_port, hanging

ACCOUNT = {"WANDB_API_KEY": "a" * 40}
SMALL = SETTINGS | {
    "scenario": SCENARIOS[2],
    "epochs": 2,
    "threads": 1,
    "expert_hidden_sizes": [8],
    "task_expert_hidden_sizes": [8],
    "tower_hidden_sizes": [8],
    "train_batch_size": 128,
}


@pytest.fixture(autouse=True)
def nobody(tmp_path, monkeypatch):
    """A user without an account, and without settings for wandb, in an empty folder, on a machine that may be slow."""
    monkeypatch.setattr("recbole_msr.tracking.wandb._FINISH_SECONDS", 300.0)
    for name in [name for name in os.environ if name.startswith("WANDB") or name == "NETRC"]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return home


def track(folder, name="trial", mode="offline", **given):
    about = {"project": "p", "group": "study", "job_type": "trial", "config": {}} | given
    return TrackedRun(mode, folder, name=name, **about)


def python(code, *arguments, **environment):
    """Start Python on some code, as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    """Its output; a process that hangs fails the test."""
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    return out, err


def test_the_mode_is_online_only_where_an_account_is_found(nobody, monkeypatch, caplog):
    monkeypatch.setattr(worker, "_logged", set())
    caplog.set_level(logging.INFO)
    assert resolve_mode(None) == resolve_mode(None) == "offline"
    assert [record.message.count("wandb sync") for record in caplog.records] == [1], "told once, with the way to upload"
    (nobody / ".netrc").write_text("machine elsewhere.org login me password secret\n")
    assert resolve_mode(None) == "offline"
    (nobody / ".netrc").write_text("machine api.wandb.ai login user password 0123\n")
    assert resolve_mode(None) == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.own.org")
    assert resolve_mode(None) == "offline", "an account at another server"
    settings = nobody / ".config" / "wandb" / "settings"
    settings.parent.mkdir(parents=True)
    settings.write_text("[default]\napi_key = 0123\n")
    assert resolve_mode(None) == "online"
    settings.unlink()
    monkeypatch.setenv("WANDB_API_KEY", "0123")
    assert resolve_mode(None) == "online"
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert resolve_mode(None) == "offline"
    monkeypatch.setenv("WANDB_DISABLED", "true")
    assert resolve_mode(None) == "disabled"
    assert resolve_mode("online") == "online", "what is asked for wins"


def test_a_misspelt_mode_is_refused_before_anything_is_trained(tiny_data):
    with pytest.raises(InputError, match=r"wandb must be online, offline or disabled, got 'ofline'.*'offline'"):
        recbole_msr.run("HiNet", "tiny", config=SMALL | {"data_path": str(tiny_data), "wandb": "ofline"})
    assert not Path("runs").exists()


def test_runs_of_one_process_are_separate_and_finished_each_in_its_state(tmp_path, capfd):
    folder = tmp_path / "study" / "wandb"
    epochs = [{"epoch": e, "train_loss": 1.0 / e, "valid/auc": 0.5 + e / 100, "gone": None} for e in (1, 2, 3)]
    Path("best.yaml").write_text("a: 1\n")
    for name, state, reason in [("a", "complete", None), ("b", "pruned", "worse"), ("c", "failed", "diverged")]:
        run = track(folder, name, config={"lr": 0.1, "sizes": (8, 4), "path": Path("x"), "none": None}, tags=["t"])
        for row in epochs:
            run.log_epoch(row)
        run.summary({"value": float("nan"), "seconds": {"train": 1.5}})
        run.table("trials", pd.DataFrame({"number": [0, 1], "why": ["x", None], "value": [0.5, float("nan")]}))
        run.artifact("best", "config", ["best.yaml"])
        run.finish(state, reason)
        run.finish("failed", "a second finish changes nothing")
    assert capfd.readouterr() == ("", ""), "no chatter"
    assert [path.name for path in Path().iterdir()] == ["best.yaml"], "nothing is written outside the folder"
    assert [path for path in Path.home().rglob("*") if path.is_file()] == []
    Path("best.yaml").write_text("changed since\n")
    found = {run.about["display_name"]: run for run in runs(folder)}
    assert len({run.about["run_id"] for run in found.values()}) == 3
    assert {name: (run.summary["state"], run.exit_codes) for name, run in found.items()} == {
        "a": ("complete", [0]),
        "b": ("pruned", [0]),
        "c": ("failed", [1]),
    }
    assert [found[name].summary.get("reason") for name in "abc"] == [None, "worse", "diverged"]
    for run in found.values():
        assert (run.about["project"], run.about["run_group"], run.about["job_type"]) == ("p", "study", "trial")
        assert run.about["tags"] == ["t"]
        assert run.config == {"lr": 0.1, "sizes": [8, 4], "path": "x", "none": None}
        assert run.curve("train_loss") == {row["epoch"]: pytest.approx(row["train_loss"]) for row in epochs}
        assert run.curve("valid/auc") == {1: 0.51, 2: 0.52, 3: 0.53}
        assert run.curve("gone") == {}
        assert run.summary["seconds"] == {"train": 1.5} or run.summary["seconds.train"] == 1.5
        table = run.table("trials")
        assert table["columns"] == ["number", "why", "value"]
        assert table["data"] == [[0, "x", 0.5], [1, None, None]]
        (files,) = [part["manifest"]["contents"] for part in run.all("artifact") if part["name"] == "best"]
        assert [file["path"] for file in files] == ["best.yaml"]
        assert Path(files[0]["local_path"]).read_text() == "a: 1\n", "the file as it was"
        assert Path(files[0]["local_path"]).is_relative_to(folder)


NAMES = {
    "as it is": ("HiNet-ml-100k_2.1-best", "HiNet-ml-100k_2.1-best"),
    "of a comparison that varies": ("HiNet, sub_experts=[8, 4]/click", r"HiNet__sub_experts__8__4__click-\w{8}"),
    "in letters that are not allowed": ("Käufe: 購買", r"K_ufe____-\w{8}"),
    "too long": ("x" * 200, r"x{119}-\w{8}"),
}


@pytest.mark.parametrize(("name", "kept"), NAMES.values(), ids=NAMES)
def test_the_files_of_a_study_are_kept_whatever_its_name_is(name, kept, tmp_path, caplog):
    Path("best.yaml").write_text("a: 1\n")
    with track(tmp_path / "wandb", name, group=name) as run:
        run.artifact(name, "search", ["best.yaml"])
    (found,) = runs(tmp_path / "wandb")
    assert (found.about["display_name"], found.summary["state"]) == (name, "complete")
    (artifact,) = [part["name"] for part in found.all("artifact") if part["type"] == "search"]
    assert re.fullmatch(kept, artifact)
    assert len(artifact) <= 128
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert artifact_name(name + "!") != artifact_name(name + "?"), "names that differ stay different"


def test_a_run_that_trains_several_times_keeps_all_epochs(tmp_path):
    with track(tmp_path) as run:
        for seed in (1, 2):
            for epoch in (1, 2):
                run.log_epoch({"epoch": epoch, "train_loss": seed * 10 + epoch})
    (found,) = runs(tmp_path / "wandb")
    assert found.curve("train_loss") == {1: 11, 2: 12, 3: 21, 4: 22}
    assert found.summary["state"] == "complete"


def test_disabled_leaves_nothing(tmp_path):
    with track(tmp_path / "none", mode="disabled") as run:
        run.log_epoch({"epoch": 1})
        run.table("t", pd.DataFrame({"a": [1]}))
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_written_costs_the_record_and_no_more(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(worker, "_logged", set())
    (tmp_path / "file").write_text("")
    for _ in range(2):
        with track(tmp_path / "file" / "wandb") as run:
            run.log_epoch({"epoch": 1})
    assert len([record for record in caplog.records if record.message.startswith("W&B")]) == 1, "told once"
    with track(tmp_path / "good"):
        pass
    assert len(runs(tmp_path / "good" / "wandb")) == 1


TWO_RUNS = """
import sys
from recbole_msr.tracking.wandb import TrackedRun
for number in range(2):
    run = TrackedRun(sys.argv[2], sys.argv[1], "p", f"{sys.argv[3]}{number}", "study", "trial", {"number": number})
    print(run.id)
    run.log_epoch({"epoch": 1, "train_loss": number})
    run.finish("complete")
"""


@pytest.mark.slow
def test_two_processes_at_once_make_separate_runs_whatever_the_environment_says(tmp_path):
    folder = tmp_path / "wandb"
    merged = {
        "WANDB_RUN_ID": "same",
        "WANDB_NAME": "same",
        "WANDB_DIR": str(tmp_path / "other"),
        "WANDB_MODE": "online",
    }
    started = [python(TWO_RUNS, folder, "offline", letter, **merged) for letter in "ab"]
    outputs = [ended(process) for process in started]
    ids = [identity for out, _ in outputs for identity in out.split()]
    assert [err for _, err in outputs] == ["", ""]
    found = {run.about["display_name"]: run for run in runs(folder)}
    assert set(found) == {"a0", "a1", "b0", "b1"}
    assert sorted(run.about["run_id"] for run in found.values()) == sorted(ids)
    assert len(set(ids)) == 4
    for name, run in found.items():
        assert (run.summary["state"], run.exit_codes) == ("complete", [0])
        assert run.curve("train_loss") == {1: int(name[1])}
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_online_runs_are_uploaded_with_their_curves_and_states(tmp_path):
    with answering() as (url, received):
        out, err = ended(python(TWO_RUNS, tmp_path / "wandb", "online", "a", WANDB_BASE_URL=url, **ACCOUNT))
    assert "not uploaded" not in err
    first, second = out.split()
    assert received.exit_codes == {first: 0, second: 0}
    for identity, number in ((first, 0), (second, 1)):
        about = received.runs[identity]
        assert (about["displayName"], about["groupName"], about["jobType"]) == (f"a{number}", "study", "trial")
        assert json.loads(about["config"])["number"] == {"value": number}
        assert [(row["_step"], row["train_loss"]) for row in received.history[identity]] == [(1, number)]
    assert len(list((tmp_path / "wandb").glob("offline-run-*/*.wandb.synced"))) == 2


LONG_RUN = """
import sys, time
from recbole_msr.tracking import upload
from recbole_msr.tracking.wandb import TrackedRun
upload._LIVE_AFTER_SECONDS = 0.1
run = TrackedRun("online", sys.argv[1], "p", "long", None, "run", {})
run.log_epoch({"epoch": 1, "train_loss": 1.0})
print(run.id, flush=True)
sys.stdin.readline()
run.finish("failed", "told to")
"""


@pytest.mark.slow
def test_a_long_run_is_uploaded_while_it_goes_on(tmp_path):
    with answering() as (url, received):
        environment = os.environ | ACCOUNT | {"WANDB_BASE_URL": url, "PYTHONPATH": str(Path(__file__).parents[2])}
        process = subprocess.Popen(
            [sys.executable, "-c", LONG_RUN, str(tmp_path)],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        identity = process.stdout.readline().strip()
        assert received.told.wait(90), "the run is on the server before it has finished"
        assert process.poll() is None
        assert received.exit_codes == {}
        _, err = process.communicate("go\n", timeout=120)
    assert process.returncode == 0, err
    assert received.exit_codes == {identity: 1}
    (run,) = runs(tmp_path / "wandb")
    hardware = [part for part in run.all("environment") if "cpu_count" in part]
    assert hardware[0]["cpu_count_logical"] == os.cpu_count()
    assert int(hardware[0]["memory"]["total"]) > 0
    assert [row["train_loss"] for row in received.history[identity]] == [1.0]


TRAIN = """
import json, os, sys, time
from pathlib import Path
import recbole_msr
from recbole_msr.tracking.wandb import finish_uploads
settings = json.loads(sys.argv[1])
for name, url in json.loads(sys.argv[2]).items():
    os.environ["WANDB_BASE_URL"] = url
    recbole_msr.run("HiNet", "tiny", config=settings | {"output_dir": name})
    log = Path(name, "wandb", "sync.log")
    for _ in range(240):
        if log.exists() and "Loaded credentials" in log.read_text():
            break
        time.sleep(0.25)
    finish_uploads(1)
"""


@pytest.mark.slow
def test_a_server_that_refuses_or_hangs_changes_no_result(tiny_data):
    settings = SMALL | {"data_path": str(tiny_data), "log_wandb": True, "wandb_project": "mine"}
    expected = recbole_msr.run("HiNet", "tiny", config=settings | {"output_dir": "without", "wandb": "disabled"})
    assert not Path("without", "wandb").exists()
    with hanging() as hangs:
        servers = {"refused": closed_port(), "hung": hangs}
        _, told = ended(python(TRAIN, json.dumps(settings), json.dumps(servers), **ACCOUNT))
    for name in servers:
        result = json.loads(Path(name, "result.json").read_text())
        for split in ("valid", "test"):
            assert result[split] == expected.summary[split]
        (run,) = runs(Path(name, "wandb"))
        assert (run.summary["state"], run.exit_codes) == ("complete", [0])
        assert run.about["project"] == "mine"
        assert f"wandb sync {run.folder.absolute()}" in told, "how to upload it by hand"
        assert "Loaded credentials" in Path(name, "wandb", "sync.log").read_text(), "it was tried"
        assert not list(run.folder.glob("*.synced"))
    assert {path.name for path in Path().iterdir()} == {"without", "refused", "hung"}


def test_run_recbole_keeps_one_run_with_parameters_curves_and_the_table(tiny_data):
    settings = SMALL | {"data_path": str(tiny_data), "log_wandb": True, "output_dir": "out"}
    settings["segments"] = {"item_rows": [16]}
    result = recbole_msr.run("HiNet", "tiny", config=settings)
    (run,) = runs("out/wandb")
    assert (run.about["display_name"], run.about["project"], run.about["job_type"]) == ("HiNet-tiny", "recbole", "run")
    assert {key: run.config[key] for key in ("model", "epochs", "tower_hidden_sizes", "sub_experts", "tasks")} == {
        "model": "HiNet",
        "epochs": 2,
        "tower_hidden_sizes": [8],
        "sub_experts": 5,
        "tasks": SETTINGS["tasks"],
    }
    with open("out/metrics.csv", newline="") as file:
        rows = {int(row["epoch"]): row for row in csv.DictReader(file)}
    assert set(rows) == {1, 2}
    for key in ("train_loss", "learning_rate", "seconds", "valid/auc", "valid/auc/macro", "valid/logloss/age<=30/like"):
        if key in rows[1]:
            assert run.curve(key) == {epoch: pytest.approx(float(row[key])) for epoch, row in rows.items()}, key
    assert {"train_loss", "valid/auc/macro"} <= set(rows[1])
    for split, evaluation in (("valid", result.valid), ("test", result.test)):
        table = run.table(f"{split}/cells")
        cells = {(row[0], row[1]): dict(zip(table["columns"][2:], row[2:], strict=True)) for row in table["data"]}
        for scenario, by_task in evaluation.cells.items():
            for task, cell in by_task.items():
                assert cells.pop((scenario, task)) == pytest.approx(cell.to_dict())
                if cell.auc is not None:
                    assert run.summary[f"{split}/auc/{scenario}/{task}"] == pytest.approx(cell.auc)
        assert cells == {
            ("(all rows)", task): pytest.approx(cell.to_dict()) for task, cell in evaluation.pooled.items()
        }
        table = run.table(f"{split}/segments")
        assert table["columns"][:3] == ["segment", "task", "rows"]
        assert [row[:3] for row in table["data"]] == [
            [name, task, cell.rows] for name, row in evaluation.segments.items() for task, cell in row.items()
        ]
        auc = evaluation.segments["item_rows:16+"]["click"].auc
        assert run.summary[f"{split}/auc/item_rows:16+/click"] == pytest.approx(auc)
        for metric, value in result.summary[split]["metrics"].items():
            assert run.summary[f"{split}/{metric}"] == pytest.approx(value)
    assert run.summary["best_epoch"] == result.summary["best_epoch"]
    assert (run.summary["state"], run.exit_codes) == ("complete", [0])


def test_a_training_that_ends_early_is_finished_as_failed_and_resumed_under_its_id(tiny_data):
    import pytorch_lightning as pl

    class Stop(pl.Callback):
        def __init__(self, what):
            self.what = what

        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 1:
                raise self.what

    settings = SMALL | {"data_path": str(tiny_data), "epochs": 3, "wandb": "offline"}
    with pytest.raises(RuntimeError):
        recbole_msr.run(
            "HiNet", "tiny", config=settings | {"output_dir": "a"}, callbacks=[Stop(RuntimeError("no luck"))]
        )
    (failed,) = runs("a/wandb")
    assert (failed.summary["state"], failed.exit_codes) == ("failed", [1])
    assert failed.summary["reason"] == "RuntimeError: no luck"
    assert set(failed.curve("train_loss")) == {1}

    with pytest.raises(KeyboardInterrupt):
        recbole_msr.run("HiNet", "tiny", config=settings | {"output_dir": "b"}, callbacks=[Stop(KeyboardInterrupt())])
    (stopped,) = runs("b/wandb")
    assert (stopped.summary["state"], stopped.summary["reason"], stopped.exit_codes) == ("failed", "interrupted", [1])

    recbole_msr.run("HiNet", "tiny", config=settings | {"output_dir": "b", "resume": True})
    (whole,) = runs("b/wandb")
    assert whole.about["run_id"] == stopped.about["run_id"]
    assert whole.summary["state"] == "complete"
    assert set(whole.curve("train_loss")) == {1, 2, 3}
    assert whole.curve("train_loss")[1] == pytest.approx(stopped.curve("train_loss")[1])
    assert [run.about["run_id"] for run in runs("b/wandb/interrupted")] == [stopped.about["run_id"]]


def test_recboles_own_trainer_makes_one_finished_run_and_the_same_numbers(tiny_data):
    settings = {
        "data_path": str(tiny_data), "epochs": 2, "use_gpu": False, "show_progress": False, "state": "ERROR",
        "threads": 1, "embedding_size": 8,
    }  # fmt: skip
    plain = recbole_msr.run("BPR", "tiny", config=settings | {"output_dir": "plain"})
    kept = recbole_msr.run("BPR", "tiny", config=settings | {"output_dir": "kept", "log_wandb": True})
    for key in ("valid", "test", "best_epoch", "best_valid_score"):
        assert kept.summary[key] == plain.summary[key]
    (run,) = runs("kept/wandb")
    assert (run.summary["state"], run.exit_codes) == ("complete", [0])
    with open("kept/metrics.csv", newline="") as file:
        rows = {int(row["epoch"]): row for row in csv.DictReader(file)}
    losses = {epoch: pytest.approx(float(row["train_loss"])) for epoch, row in rows.items()}
    scores = {epoch: pytest.approx(float(row["valid_score"])) for epoch, row in rows.items()}
    assert run.curve("train_loss") == losses
    assert run.curve("valid/mrr@10") == scores
    assert {f"test/{name}": run.summary[f"test/{name}"] for name in kept.test_metrics} == {
        f"test/{name}": pytest.approx(value) for name, value in kept.test_metrics.items()
    }
    assert {path.name for path in Path().iterdir()} == {"plain", "kept"}


BROKEN = """
import signal, sys, psutil
from recbole_msr.tracking import wandb, worker
wandb._FINISH_SECONDS = 3
for number in range(2):
    run = wandb.TrackedRun("offline", sys.argv[1], "p", str(number), None, "trial", {})
    run.log_epoch({"epoch": 1, "train_loss": 1.0})
    if number == 0:
        assert worker.worker().wait(60)
        (core,) = [child for child in psutil.Process().children() if child.name().startswith("wandb-core")]
        core.send_signal(getattr(signal, sys.argv[2]))
    run.log_epoch({"epoch": 2, "train_loss": 0.5})
    run.finish("complete")
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals of POSIX")
@pytest.mark.parametrize(("sign", "kept"), [("SIGKILL", ["1"]), ("SIGSTOP", [])])
def test_wandb_that_dies_or_freezes_is_told_once_and_gone_on_without(sign, kept, tmp_path):
    out, err = ended(python(BROKEN, tmp_path, sign))
    assert out.strip() == "done"
    assert "Traceback" not in err
    assert len(re.findall("W&B:", err)) == 1
    finished = [run for run in runs(tmp_path / "wandb") if run.exit_codes]
    assert [run.about["display_name"] for run in finished] == kept, "a dead service is started again"


def test_the_command_to_upload_by_hand():
    few = [Path("/s/wandb/offline-run-b"), Path("/s/wandb/offline-run-a")]
    assert sync_command(few) == "wandb sync /s/wandb/offline-run-a /s/wandb/offline-run-b"
    assert sync_command([Path(f"/s/wandb/offline-run-{n}") for n in range(9)]) == "wandb sync /s/wandb"
