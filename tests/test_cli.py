"""The commands end with 0, 2 for bad input and 1 for anything else; an error is one line and leaves nothing behind."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from recbole_msr import registry
from recbole_msr.cli import main, run_recbole

SMALL = (
    *("--model=HiNet", "--dataset=shop", "--epochs=1", "--sub_experts=2", "--expert_hidden_sizes=[8]"),
    *("--task_expert_hidden_sizes=[8]", "--tower_hidden_sizes=[4]", "--use_gpu=False", "--threads=1"),
    *("--show_progress=False", "--metric_decimal_place=12"),
)
DECLARED = ("--tasks={click: {field: rating, at_least: 4}, like: {field: rating, at_least: 5}}", "--main_task=click",
            "--scenario={field: age, bins: [30]}")  # fmt: skip


def _write(folder, suffix, header, rows):
    lines = ["\t".join(map(str, row)) for row in [header, *rows]]
    (folder / f"{folder.name}.{suffix}").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data_path with "shop": 300 ratings of 30 users and 20 items, each at its own time."""
    folder = tmp_path_factory.mktemp("data") / "shop"
    folder.mkdir()
    draw = random.Random(2)
    _write(folder, "user", ["user_id:token", "age:float"], [(u, 20 + u % 20) for u in range(30)])
    pairs = draw.sample([(u, i) for u in range(30) for i in range(20)], 300)
    late = range(280, 300)
    rows = [
        (u, i, draw.randint(1, 5), 1 if n == 7 else n % 2, "" if n == 9 else 1, n % 2 + 8 * (n in late), n)
        for n, (u, i) in enumerate(pairs)
    ]
    fields = ["rating:float", "seen:float", "gap:float", "tab:token", "timestamp:float"]
    _write(folder, "inter", ["user_id:token", "item_id:token", *fields], rows)
    return folder.parent


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Whatever is written without being asked for ends up in tmp_path/here."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def _in_a_shell(function, *arguments, cwd):
    script = f"import sys; from recbole_msr.cli import {function} as f; sys.exit(f())"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A finished run: its process and its folder."""
    folder = tmp_path_factory.mktemp("runs")
    done = _in_a_shell("run_recbole", *SMALL, *DECLARED, f"--data_path={data}", "--output_dir=out", cwd=folder)
    assert done.returncode == 0, done.stderr
    return done, folder / "out"


# What a run leaves


def test_a_run_prints_its_table_and_leaves_its_files(run):
    done, folder = run
    for word in ("click", "like", "age<30", "age>=30", "macro", "worst", "auc", str(folder.name)):
        assert word.lower() in done.stdout.lower(), word
    assert "Traceback" not in done.stderr
    assert "error" not in done.stderr.lower()
    left = {path.name for path in folder.iterdir()}
    assert {"result.json", "config.yaml", "metrics.csv", "best.ckpt"} <= left
    assert not {name for name in left if name.startswith(".")}
    assert {path.name for path in folder.parent.iterdir()} == {"out"}, "and nothing beside its folder"
    result = json.loads((folder / "result.json").read_text())
    assert result["tasks"] == ["click", "like"]
    assert result["rows"] == {"train": 240, "valid": 30, "test": 30}
    assert len(pd.read_csv(folder / "metrics.csv")) == 1
    assert torch.load(folder / "best.ckpt", weights_only=True)["epoch"] == 1


def test_its_config_gives_the_same_result_again(run, tmp_path, capsys):
    _, folder = run
    assert run_recbole(["--config_files", str(folder / "config.yaml"), f"--output_dir={tmp_path / 'again'}"]) == 0
    before, after = (json.loads((f / "result.json").read_text()) for f in (folder, tmp_path / "again"))
    assert before["test"] == after["test"]
    assert before["valid"] == after["valid"]
    assert "worst" in capsys.readouterr().out.lower()


def test_predict_scores_rows(run, tmp_path, capsys):
    pd.DataFrame({"user_id": [1, 99], "item_id": [2, 3], "seen": 1, "gap": 1, "tab": 1}).to_csv("rows.csv", index=False)
    out = tmp_path / "scored.parquet"
    assert main(["predict", "--run", str(run[1]), "--data", "rows.csv", "--out", str(out)]) == 0
    assert pd.read_parquet(out)[["click", "like"]].shape == (2, 2)
    assert "user_id: 1 row has a value never seen in training" in capsys.readouterr().out


def test_models_lists_and_shows(capsys):
    assert main(["models"]) == 0
    listed = capsys.readouterr().out
    own = dict(line.split(maxsplit=1) for line in listed.split("RecBole's models:")[0].splitlines()[1:])
    assert set(own) >= set(registry.BUILT_IN_MODELS)  # other tests may have registered models of their own
    assert own["STAR"].startswith("(Sheng et al., CIKM 2021): a star of networks")
    assert "DeepFM" in listed
    assert main(["models", "HiNet"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["sub_experts"] == 5


@pytest.mark.parametrize(
    ("command", "argument"),
    [(run_recbole, ()), (main, ()), (main, ("data",)), (main, ("predict",)), (main, ("models",))],
)
def test_help(command, argument, capsys):
    with pytest.raises(SystemExit) as end:
        command([*argument, "--help"])
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out


# Bad input


@pytest.mark.slow
def test_an_error_is_one_line_and_exit_code_2(data, tmp_path):
    wrong = (*SMALL, *DECLARED, f"--data_path={data}", "--main_task=clik", "--output_dir=out")
    wrong = [argument for argument in wrong if argument != "--main_task=click"]
    done = _in_a_shell("run_recbole", *wrong, cwd=tmp_path)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert errors == [errors[0]]
    assert "main_task 'clik'" in errors[0]
    assert "did you mean 'click'" in errors[0]
    assert "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "out").exists()


def _wrong(capsys, *arguments, command=run_recbole, code=2):
    assert command(list(arguments)) == code
    error = capsys.readouterr().err
    assert "Traceback" not in error
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    return line


def _not(*settings):
    """SMALL and DECLARED, with these settings instead of theirs."""
    keys = {setting.split("=")[0] for setting in settings}
    return [s for s in (*SMALL, *DECLARED) if s.split("=")[0] not in keys] + [
        s for s in settings if not s.endswith("=")
    ]


IN_TIME = "{split: {RS: [0.8, 0.1, 0.1]}, order: TO, group_by: ~, mode: labeled}"
BAD = {
    "a missing scenario field": (["--scenario={field: agee, bins: [30]}"], "no field 'agee'", "did you mean 'age'"),
    "a misspelt main_task": (["--main_task=lik"], "main_task 'lik'", "did you mean 'like'"),
    "a misspelt task in loss_weights": (["--loss_weights={clik: 1}"], "loss_weights", "'clik'", "did you mean 'click'"),
    "a label that is not 0/1": (["--tasks={click: rating}"], "'rating' must hold 0 and 1, but holds"),
    "a NaN label": (["--tasks={click: gap}"], "'gap' has no number in 1 of 300 rows", "inter, line 11)", ": ignore"),
    "an empty split": (["--eval_args={split: {RS: [0.9, 0.1, 0]}, order: RO, group_by: ~, mode: labeled}"],
                       "the test split is empty"),
    "a scenario seen only in test": (["--scenario={field: tab}", f"--eval_args={IN_TIME}"],
                                     "scenario '8' has no training row", "in test"),
    "a row without a time": (["--TIME_FIELD=gap", f"--eval_args={IN_TIME}"], "'gap' is empty in 1 of 300"),
    "a missing dataset": (["--dataset=shopp"], "no dataset folder", "shopp"),
    "an unknown model": (["--model=HiNett"], "no model 'HiNett'", "did you mean 'HiNet'"),
    "an unknown key": (["--learning_rat=1"], "'learning_rat'", "did you mean 'learning_rate'"),
    "a key without a value": (["--learning_rate"], "--learning_rate needs a value"),
    "no key": (["epochs=3"], "unexpected argument 'epochs=3'"),
    "a key given twice": (["--seed=1", "--seed=2"], "--seed is given twice"),
    "a value of another kind": (["--epochs=many"], "epochs must be a whole number", "'many'"),
    "no tasks": (["--tasks=", "--scenario=", "--main_task="], "declare tasks"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_bad_input_is_named_and_leaves_nothing(case, data, tmp_path, here, capsys):
    settings, *told = case
    error = _wrong(capsys, *_not(*settings, f"--data_path={data}", f"--output_dir={tmp_path / 'out'}"))
    for part in told:
        assert part in error
    assert not (tmp_path / "out").exists()
    assert not list(here.iterdir())


def test_numbers_within_a_mapping_are_read_as_recbole_reads_them(data, tmp_path):
    settings = _not("--loss_weights={click: 1e-1, like: 2}", f"--data_path={data}", f"--output_dir={tmp_path / 'out'}")
    assert run_recbole([*settings, "--learning_rate", "1e-2"]) == 0
    config = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert (config["loss_weights"], config["learning_rate"]) == ({"click": 0.1, "like": 2}, 0.01)


def test_an_output_folder_that_cannot_be_written(data, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    error = _wrong(capsys, *_not(f"--data_path={data}", f"--output_dir={tmp_path / 'file' / 'out'}"))
    assert "output folder" in error
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"model: [HiNet\n", "is not valid YAML"),
        (b"\x80\x81\xff", "cannot read"),
        (b"- HiNet\n", "must hold keys and values"),
        (None, "cannot read"),
    ],
)
def test_a_configuration_file_that_cannot_be_read(content, told, tmp_path, here, capsys):
    if content is not None:
        (tmp_path / "mine.yaml").write_bytes(content)
    error = _wrong(capsys, *_not("--config_files", str(tmp_path / "mine.yaml")))
    assert "mine.yaml" in error
    assert told in error
    assert not list(here.iterdir())


def _copy(run, folder, without=("result.json",)):
    shutil.copytree(run[1], folder)
    for name in without:
        (folder / name).unlink()
    return folder


def test_a_run_that_cannot_be_resumed(run, tmp_path, capsys):
    def resume(folder, *settings):
        return _wrong(capsys, "--resume", f"--output_dir={folder}", *settings)

    assert "is finished" in resume(run[1])
    assert "no run to resume" in resume(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert "--output_dir" in _wrong(capsys, "--resume", *_not())
    unfinished = _copy(run, tmp_path / "unfinished")
    assert "other settings (learning_rate: 0.001 -> 0.5)" in resume(unfinished, "--learning_rate=0.5")
    before = (unfinished / "config.yaml").read_bytes()
    data = (run[1] / "best.ckpt").read_bytes()
    for content in (data[: len(data) // 2], b"", b"something else"):
        (unfinished / "last.ckpt").write_bytes(content)
        error = resume(unfinished)
        assert "last.ckpt" in error
        assert "cannot be read" in error
    assert (unfinished / "config.yaml").read_bytes() == before


def test_a_checkpoint_that_cannot_be_used(run, tmp_path, capsys):
    pd.DataFrame({"user_id": [1], "item_id": [2]}).to_csv("rows.csv", index=False)
    cut = _copy(run, tmp_path / "cut", ()) / "best.ckpt"
    cut.write_bytes(cut.read_bytes()[:1000])
    (tmp_path / "empty").mkdir()
    for folder, told in (
        (cut.parent, "best.ckpt cannot be read"),
        (tmp_path / "empty", "no checkpoint"),
        ("no", "no run folder"),
    ):
        arguments = ["predict", "--run", str(folder), "--data", "rows.csv", "--out", "out.csv"]
        assert told in _wrong(capsys, *arguments, command=main)
    assert not Path("out.csv").exists()


# Anything else


def test_other_errors_end_with_1_and_show_where_only_if_asked(data, tmp_path, capsys, monkeypatch):
    from recbole_msr.runs import run_settings as module

    def fails(*_, **__):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(module, "training_config", fails)
    arguments = _not(f"--data_path={data}", f"--output_dir={tmp_path / 'out'}")
    assert _wrong(capsys, *arguments, code=1) == "error: RuntimeError: two lines (--debug shows where)"
    assert run_recbole([*arguments, "--debug"]) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert "in fails" in error
    assert error.splitlines()[-1] == "error: RuntimeError: two lines"


def test_debug_shows_the_traceback_of_bad_input_too(capsys):
    assert main(["models", "HiNett", "--debug"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.splitlines()[-1].startswith("error: there is no model 'HiNett'")


def test_an_interrupted_command_ends_with_1(capsys, monkeypatch):
    from recbole_msr import registry

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "describe", interrupted)
    assert main(["models", "HiNet"]) == 1
    assert "error: interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["serach"], ["predict", "--run", "out"], ["data", "ml-1m"]])
def test_a_command_that_is_not_complete_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "--help" in line
