"""`recbole_msr.run` with RecBole's models: RecBole's own numbers, in a folder like any other run's."""

from pathlib import Path

import pytest
import torch

import recbole_msr
from recbole_msr.errors import InputError

SETTINGS = {"epochs": 2, "show_progress": False, "use_gpu": False, "metric_decimal_place": 12, "state": "ERROR"}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["DeepFM", "BPR"])
def test_recboles_models_keep_the_numbers_of_recboles_own_quick_start(model, tmp_path, monkeypatch):
    from recbole.quick_start import run_recbole

    torch.set_num_threads(1)
    settings = SETTINGS
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    monkeypatch.chdir(theirs)  # it writes log/, saved/ and log_tensorboard/ here
    monkeypatch.setattr("sys.argv", ["test"])
    expected = run_recbole(model, "ml-100k", config_dict=dict(settings))
    ours = tmp_path / "ours"
    ours.mkdir()
    monkeypatch.chdir(ours)
    result = recbole_msr.run(model, "ml-100k", config=settings | {"output_dir": "out"})
    assert result.summary["trainer"] == "recbole"
    assert result.test_metrics == dict(expected["test_result"])
    assert result.summary["valid"]["metrics"] == dict(expected["best_valid_result"])
    assert result.summary["best_valid_score"] == expected["best_valid_score"]
    files = {path.name for path in Path("out").iterdir()}
    assert {"result.json", "config.yaml", "metrics.csv", "best.ckpt"} <= files
    assert not list(Path("out").glob("*.pth")), "no pickle is left"
    assert {path.name for path in ours.iterdir()} == {"out"}, "nothing is written outside the run's folder"
    torch.load("out/best.ckpt", weights_only=True)

    again = recbole_msr.run(config_files=["out/config.yaml"], config={"output_dir": "again"})
    assert again.summary["test"] == result.summary["test"]


def test_a_single_task_model_of_recboles_gets_the_scenario_table_of_its_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"preset": "ml-100k", "epochs": 1, "show_progress": False, "use_gpu": False, "threads": 1}
    result = recbole_msr.run("LR", "ml-100k", config=settings | {"output_dir": "out"})
    assert result.summary["trainer"] == "lightning"
    assert result.test.tasks == ["click"]
    assert list(result.test.cells) == ["age<25", "25<=age<35", "age>=35"]
    assert result.test_metrics["auc"] == pytest.approx(result.test.pooled["click"].auc, abs=5e-5)


def test_a_sequential_model_with_tasks_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"tasks": {"click": {"field": "rating", "at_least": 4}}, "show_progress": False, "use_gpu": False}
    with pytest.raises(InputError, match="SASRec is a sequential model"):
        recbole_msr.run("SASRec", "ml-100k", config=settings)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("DeepFM", {"dropout_prob": 2}),
        ("DeepFM", {"embedding_size": -1}),
        ("DeepFM", {"mlp_hidden_size": [-8]}),
        ("AutoInt", {"attention_size": 5, "num_heads": 3}),
        ("SASRec", {"hidden_act": "wavy", "train_neg_sample_args": None}),
    ],
)
def test_settings_that_a_model_of_recboles_cannot_be_built_with_are_bad_input(model, settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf"{model} cannot be built with these settings .*: .*\w"):
        recbole_msr.run(model, "ml-100k", config=SETTINGS | settings)
    assert not Path("runs").exists()


@pytest.mark.parametrize("value", ["no", "banana", 1, 0.0001, [True]])
def test_resume_is_true_or_false(value):
    with pytest.raises(InputError, match="resume must be True or False, got"):
        recbole_msr.run("HiNet", "tiny", config={"resume": value, "output_dir": "out"})
