"""The Lightning path: RecBole's own numbers, the best epoch, exact resuming, exact evaluation over processes."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import recbole_msr
from recbole_msr.cli import run_recbole
from recbole_msr.errors import InputError

SMALL = {
    "sub_experts": 2,
    "expert_hidden_sizes": [8],
    "task_expert_hidden_sizes": [8],
    "tower_hidden_sizes": [4],
    "scenario_embedding_size": 4,
    "use_gpu": False,
    "show_progress": False,
    "threads": 1,
    "state": "WARNING",
}


def _command(*settings, **environment):
    script = "import sys; from recbole_msr.cli import run_recbole; sys.exit(run_recbole())"
    command = [sys.executable, "-c", script, *settings]
    return command, {**os.environ, "OMP_NUM_THREADS": "1", **environment}


def _train(trainer, model_name, tmp_path, **settings):
    """Train two epochs on ml-100k through a trainer class, as RecBole's quick start does."""
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, init_seed

    from recbole_msr.config.build import build_config

    given = {"epochs": 2, "metric_decimal_place": 12, "fused_optimizer": False, "preset": "ml-100k", "use_gpu": False}
    given |= {"show_progress": False, "checkpoint_dir": str(tmp_path), "state": "ERROR"}
    config = build_config(model_name, "ml-100k", given | settings)
    init_seed(config["seed"], config["reproducibility"])
    train, valid, test = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    model = get_model(model_name)(config, train._dataset)
    fitted = trainer(config, model)
    score, metrics = fitted.fit(train, valid)
    return score, dict(metrics), dict(fitted.evaluate(test))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("DeepFM", {}),
        ("HiNet", {"sub_experts": 2, "expert_hidden_sizes": [16], "task_expert_hidden_sizes": [16]}),
        (
            "DCNV2",
            {
                **{"clip_grad_norm": {"max_norm": 0.5}, "learner": "adagrad", "weight_decay": 0.001},
                **{"mlp_hidden_size": [32], "cross_layer_num": 2},
            },
        ),
    ],
)
def test_same_numbers_as_under_recboles_own_trainer(model, settings, tmp_path, monkeypatch):
    from recbole.trainer import Trainer

    from recbole_msr.training.trainer import LightningTrainer

    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    theirs = _train(Trainer, model, tmp_path, **settings)
    ours = _train(LightningTrainer, model, tmp_path, **settings)
    assert theirs == ours


def test_the_best_epoch_is_tested_and_saved_though_training_never_stopped_early(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = SMALL | {
        "data_path": str(tiny_data),
        "epochs": 8,
        "learning_rate": 0.05,
        "stopping_step": 100,
        "train_batch_size": 64,
    }
    given |= {"scenario": {"field": "age", "bins": [30]}, "tasks": {"click": {"field": "rating", "at_least": 4}}}
    result = recbole_msr.run("HiNet", "tiny", config=given | {"output_dir": "out", "metric_decimal_place": 12})
    with open(result.folder / "metrics.csv") as file:
        scores = [float(row["valid/auc"]) for row in csv.DictReader(file)]
    assert len(scores) == 8
    best = max(range(8), key=lambda epoch: (scores[epoch], epoch))
    assert best < 7, "the data must overfit for this test to say something"
    assert result.summary["best_epoch"] == best + 1
    assert result.summary["best_valid_score"] == scores[best]

    content = torch.load(result.folder / "best.ckpt", weights_only=True)
    assert content["epoch"] == best + 1
    again = recbole_msr.run(
        "HiNet", "tiny", config=given | {"output_dir": "again", "metric_decimal_place": 12, "epochs": best + 1}
    )
    assert again.summary["test"] == result.summary["test"]


def test_selection_does_not_see_the_test_split(tiny_data, tmp_path, monkeypatch):
    """Poisoned test labels change the test result and nothing else."""
    from recbole_msr.data.dataset import ScenarioDataset

    monkeypatch.chdir(tmp_path)
    given = SMALL | {"data_path": str(tiny_data), "epochs": 4, "learning_rate": 0.02, "packed_cache": False}
    given |= {"scenario": {"field": "age", "bins": [30]}, "tasks": {"click": {"field": "rating", "at_least": 4}}}
    clean = recbole_msr.run("HiNet", "tiny", config=given | {"output_dir": "clean"})
    build = ScenarioDataset.build

    def poisoned(self):
        train, valid, test = build(self)
        test.inter_feat["label_click"] = 1 - test.inter_feat["label_click"]
        return [train, valid, test]

    monkeypatch.setattr(ScenarioDataset, "build", poisoned)
    bad = recbole_msr.run("HiNet", "tiny", config=given | {"output_dir": "bad"})
    same = ("best_epoch", "epochs", "best_valid_score", "valid", "rows", "parameters")
    assert {key: clean.summary[key] for key in same} == {key: bad.summary[key] for key in same}
    assert clean.test.pooled["click"].auc == pytest.approx(1 - bad.test.pooled["click"].auc)
    clean_weights, bad_weights = (torch.load(r.folder / "best.ckpt", weights_only=True) for r in (clean, bad))
    for name, weight in clean_weights["state_dict"].items():
        assert torch.equal(weight, bad_weights["state_dict"][name])


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_identical_result(tiny_data, tmp_path, monkeypatch):
    settings = SMALL | {
        "data_path": str(tiny_data),
        "epochs": 40,
        "stopping_step": 100,
        "train_batch_size": 32,
        "dropout": 0.3,
    }
    settings |= {"scenario": {"field": "age", "bins": [30]}, "tasks": {"click": {"field": "rating", "at_least": 4}}}
    settings |= {"lr_scheduler": {"name": "CosineAnnealingLR", "T_max": 6}, "metric_decimal_place": 12}
    whole = recbole_msr.run("HiNet", "tiny", config=settings | {"output_dir": str(tmp_path / "whole")})

    file = tmp_path / "settings.json"
    file.write_text(json.dumps(settings))
    folder = tmp_path / "killed"
    arguments = ["--model=HiNet", "--dataset=tiny", "--config_files", str(file), f"--output_dir={folder}"]
    command, environment = _command(*arguments)
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 120
    while _epochs(folder) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = _epochs(folder)
    assert 3 <= done < 40, process.stdout.read().decode()
    assert not (folder / "result.json").exists()

    monkeypatch.chdir(tmp_path)
    assert run_recbole([*arguments, "--resume"]) == 0
    summary = json.loads((folder / "result.json").read_text())
    same = ("best_epoch", "epochs", "best_valid_score", "valid", "test")
    assert {key: summary[key] for key in same} == {key: whole.summary[key] for key in same}
    ours, theirs = (_losses(path) for path in (folder, whole.folder))
    assert ours == theirs
    first, second = (torch.load(path / "best.ckpt", weights_only=True)["state_dict"] for path in (folder, whole.folder))
    assert all(torch.equal(first[name], second[name]) for name in second)
    assert not (folder / "last.ckpt").exists()


def _epochs(folder):
    path = folder / "metrics.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() and (folder / "last.ckpt").exists() else 0


def _losses(folder):
    with open(Path(folder) / "metrics.csv") as file:
        return [
            (row["epoch"], row["train_loss"], row["valid/auc"], row["learning_rate"]) for row in csv.DictReader(file)
        ]


def test_a_resumed_run_must_have_the_settings_it_began_with(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = SMALL | {"data_path": str(tiny_data), "epochs": 1, "tasks": {"click": {"field": "rating", "at_least": 4}}}
    recbole_msr.run("HiNet", "tiny", config=given | {"output_dir": "out"})
    Path("out/result.json").unlink()  # as if it had been killed before the end
    with pytest.raises(InputError, match=r"learning_rate: .* -> 0\.5"):
        recbole_msr.run("HiNet", "tiny", config=given | {"output_dir": "out", "resume": True, "learning_rate": 0.5})
    both = {"click": given["tasks"]["click"], "like": {"field": "rating", "at_least": 5}}
    recbole_msr.run("HiNet", "tiny", config=given | {"output_dir": "two", "tasks": both, "main_task": "click"})
    Path("two/result.json").unlink()
    turned = {"tasks": dict(reversed(both.items())), "main_task": "click"}
    with pytest.raises(InputError, match=r"started with other settings \(tasks: "):
        recbole_msr.run("HiNet", "tiny", config=given | {"output_dir": "two", "resume": True, **turned})
    with pytest.raises(InputError, match="no run to resume in"):
        recbole_msr.run("HiNet", "tiny", config=given | {"output_dir": "elsewhere", "resume": True})


@pytest.mark.slow
def test_two_processes_evaluate_as_exactly_as_one(tiny_data, tmp_path):
    """A real two-process gloo run: what rank 0 reports equals one process evaluating the same weights."""
    settings = SMALL | {"data_path": str(tiny_data), "epochs": 2, "train_batch_size": 64, "eval_batch_size": 7}
    settings |= {"scenario": {"field": "age", "bins": [30]}, "tasks": {"click": {"field": "rating", "at_least": 4}}}
    settings |= {"lightning": {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}, "metric_decimal_place": 12}
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(settings))
    script = tmp_path / "train.py"  # Lightning starts the second process by running the same script again
    script.write_text("import sys\nfrom recbole_msr.cli import run_recbole\nsys.exit(run_recbole())\n")
    folder = tmp_path / "two"
    arguments = ["--model=HiNet", "--dataset=tiny", "--config_files", str(file), f"--output_dir={folder}"]
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.glob("two*")] == ["two"]
    assert not list(folder.glob("run-*"))
    summary = json.loads((folder / "result.json").read_text())
    assert summary["test"]["pooled"]["click"]["rows"] == summary["rows"]["test"]

    from recbole.quick_start import load_data_and_model

    from recbole_msr.training.trainer import LightningTrainer

    config, model, _, _, _, test = load_data_and_model(str(folder / "best.ckpt"))
    config["lightning"] = {}
    one = LightningTrainer(config, model)
    metrics = one.evaluate(test, load_best_model=False)
    assert summary["test"]["metrics"] == dict(metrics)
    assert summary["test"]["cells"] == one.evaluation.to_dict()["cells"]


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_a_run_of_one_process_keeps_its_results_whatever_number_its_environment_gives_it(
    variable, tiny_data, tmp_path, monkeypatch, capsys
):
    """As where tasks of one SLURM job are runs of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, "1")
    settings = {key: value for key, value in SMALL.items() if "expert" not in key and "scenario" not in key}
    words = [f"--{key}={value}" for key, value in settings.items()]
    tasks = "--tasks={click: {field: rating, at_least: 4}}"
    words += [f"--data_path={tiny_data}", tasks, "--epochs=1", "--output_dir=out"]
    assert run_recbole(["--model=SharedBottom", "--dataset=tiny", *words]) == 0
    assert "Files: out" in capsys.readouterr().out
    assert {"result.json", "config.yaml", "best.ckpt", "metrics.csv"} <= {path.name for path in Path("out").iterdir()}


@pytest.fixture
def small_run(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {key: value for key, value in SMALL.items() if "expert" not in key and "scenario" not in key}
    given = settings | {"data_path": str(tiny_data), "tasks": {"click": {"field": "rating", "at_least": 4}}}

    def run(**more):
        return recbole_msr.run("SharedBottom", "tiny", config=given | {"train_batch_size": 48} | more)

    return run


def test_an_epoch_that_is_cut_off_before_its_validation_is_never_the_best(small_run):
    """480 training rows are 10 batches; 25 steps end in the middle of the third epoch."""
    whole = small_run(epochs=2, output_dir="whole")
    cut = small_run(epochs=9, output_dir="cut", lightning={"max_steps": 25})
    rows = list(csv.DictReader(Path("cut/metrics.csv").read_text().splitlines()))
    assert [bool(row["valid/auc"]) for row in rows] == [True, True, False]
    for key in ("best_epoch", "best_valid_score", "valid", "test"):
        assert cut.summary[key] == whole.summary[key]
    weights = [torch.load(f"{name}/best.ckpt", weights_only=True)["state_dict"] for name in ("whole", "cut")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert "max_steps ended epoch 3 before its validation" in Path("cut/run.log").read_text()
    with pytest.raises(InputError, match="max_steps ended epoch 1 before its validation"):
        small_run(epochs=9, lightning={"max_steps": 5})


def test_the_rate_counts_the_rows_that_were_trained_on(small_run):
    run = small_run(epochs=1, lightning={"limit_train_batches": 3})
    (row,) = csv.DictReader((run.folder / "metrics.csv").read_text().splitlines())
    seconds = float(row["seconds"])
    assert float(row["rows_per_second"]) * seconds == pytest.approx(3 * 48, abs=float(row["rows_per_second"]) * 0.001)


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_strategies_that_would_lose_the_results_are_refused_before_training(strategy, small_run):
    with pytest.raises(InputError, match=f"'{strategy}' trains in processes that keep their results"):
        small_run(epochs=1, lightning={"accelerator": "cpu", "devices": 2, "strategy": strategy})
    assert not Path("runs").exists()


def test_options_reach_lightning_and_unknown_ones_are_refused(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = SMALL | {"data_path": str(tiny_data), "epochs": 3, "tasks": {"click": {"field": "rating", "at_least": 4}}}
    result = recbole_msr.run(
        "HiNet", "tiny", config=given | {"lightning": {"max_epochs": 1, "precision": "bf16-mixed"}}
    )
    assert result.summary["epochs"] == 1
    clipped = {"enable_amp": True, "clip_grad_norm": {"max_norm": 1.0}, "output_dir": "clipped"}
    assert recbole_msr.run("HiNet", "tiny", config=given | clipped).summary["epochs"] == 3
    with pytest.raises(InputError, match=r"no option 'acelerator'; did you mean 'accelerator'\?"):
        recbole_msr.run("HiNet", "tiny", config=given | {"lightning": {"acelerator": "cpu"}})
    assert len(list(Path("runs").iterdir())) == 1, "a run that could not start leaves no folder"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"valid_metric": "auk"}, "no valid_metric 'auk'; did you mean 'auc'"),
        ({"valid_metric": "auc/clik"}, "did you mean 'auc/click'"),
        ({"learner": "adamm"}, "learner must be one of"),
        ({"lr_scheduler": {"name": "Cosine"}}, "has no class 'Cosine'"),
        ({"epochs": "many"}, "epochs must be a whole number"),
        ({"learning_rat": 0.1}, "'learning_rat'; did you mean 'learning_rate'"),
        ({"train_neg_sample_args": {"distribution": "uniform", "dynamic": True}}, "draws by the model's scores"),
        ({"metrics": ["Recall"], "valid_metric": "Recall@10"}, "metrics Recall are of ranked lists"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_training(settings, message, tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = SMALL | {"data_path": str(tiny_data), "epochs": 1, "tasks": {"click": {"field": "rating", "at_least": 4}}}
    with pytest.raises(InputError, match=message):
        recbole_msr.run("HiNet", "tiny", config=given | settings)
    assert not Path("runs").exists()


def test_a_cell_metric_can_be_selected_on(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = SMALL | {"data_path": str(tiny_data), "epochs": 3, "scenario": {"field": "age", "bins": [30]}}
    given |= {"tasks": {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5}}}
    result = recbole_msr.run(
        "HiNet", "tiny", config=given | {"valid_metric": "logloss/macro", "valid_metric_bigger": False}
    )
    with open(result.folder / "metrics.csv") as file:
        scores = [float(row["valid/logloss/macro"]) for row in csv.DictReader(file)]
    assert result.summary["best_valid_score"] == min(scores)
    cells = result.valid.to_dict()["cells"]
    values = [cell["logloss"] for tasks in cells.values() for cell in tasks.values()]
    assert result.summary["best_valid_score"] == pytest.approx(sum(values) / len(values), abs=1e-12)


def test_a_loss_that_is_no_number_stops_with_advice(tiny_data, tmp_path, monkeypatch):
    from recbole_msr.training.module import DivergedError

    monkeypatch.chdir(tmp_path)
    given = SMALL | {"data_path": str(tiny_data), "epochs": 3, "learning_rate": 1e30, "learner": "sgd"}
    given |= {"tasks": {"click": {"field": "rating", "at_least": 4}}}
    with pytest.raises(DivergedError, match="lower learning_rate"):
        recbole_msr.run("HiNet", "tiny", config=given)


def test_a_run_killed_after_early_stopping_trains_no_further_epoch(tiny_data, tmp_path, monkeypatch):
    """Training had ended when it was interrupted: resuming tests the best epoch, and that is all."""
    from recbole_msr.training.trainer import LightningTrainer

    monkeypatch.chdir(tmp_path)
    given = SMALL | {"data_path": str(tiny_data), "epochs": 40, "stopping_step": 1, "learning_rate": 0.05}
    given |= {"tasks": {"click": {"field": "rating", "at_least": 4}}, "train_batch_size": 64}
    whole = recbole_msr.run("HiNet", "tiny", config=given | {"output_dir": "whole"})
    assert whole.summary["epochs"] < 40, "training must have stopped early for this test to say something"
    with monkeypatch.context() as patch:
        patch.setattr(LightningTrainer, "evaluate", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            recbole_msr.run("HiNet", "tiny", config=given | {"output_dir": "out"})
    resumed = recbole_msr.run("HiNet", "tiny", config=given | {"output_dir": "out", "resume": True})
    same = ("best_epoch", "epochs", "best_valid_score", "valid", "test")
    assert {key: resumed.summary[key] for key in same} == {key: whole.summary[key] for key in same}


def test_a_validation_split_of_one_class_is_no_obstacle_to_selecting_on_another_task(tiny_data, tmp_path, monkeypatch):
    from recbole_msr.data.dataset import ScenarioDataset

    monkeypatch.chdir(tmp_path)
    build = ScenarioDataset.build

    def one_class(self):
        train, valid, test = build(self)
        valid.inter_feat["label_click"] = torch.ones_like(valid.inter_feat["label_click"])
        return [train, valid, test]

    monkeypatch.setattr(ScenarioDataset, "build", one_class)
    given = SMALL | {"data_path": str(tiny_data), "epochs": 1, "valid_metric": "AUC/young/like"}
    given |= {"scenario": {"field": "age", "bins": [30], "names": ["Young", "old"]}}
    given |= {"tasks": {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5}}}
    result = recbole_msr.run("HiNet", "tiny", config=given)
    assert result.summary["valid"]["metrics"]["auc"] is None
    assert result.summary["best_valid_score"] == result.valid.cells["Young"]["like"].auc
    assert {entry["task"] for entry in result.summary["valid"]["undefined"]} == {"click"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_grad_norm": 5}, "clip_grad_norm must be a mapping"),
        ({"lightning": 5}, "lightning must be a mapping"),
        ({"lightning": {"limit_val_batches": 1}}, "'limit_val_batches' cannot be set"),
        ({"learning_rate": -1}, "learning_rate must be a number above 0, got -1"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"threads": "abc"}, "threads must be a whole number"),
        ({"data_device": "foo"}, "data_device 'foo' is no device here"),
        ({"trainer": "recbole", "valid_metric": "AUCC"}, "computes no valid_metric 'AUCC'; did you mean 'auc'"),
    ],
)
def test_an_impossible_value_is_bad_input(settings, message, tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = SMALL | {"data_path": str(tiny_data), "epochs": 1, "tasks": {"click": {"field": "rating", "at_least": 4}}}
    with pytest.raises(InputError, match=message):
        recbole_msr.run("HiNet", "tiny", config=given | settings)
    assert not Path("runs").exists()


OF_RUNS = {key: SMALL[key] for key in ("tower_hidden_sizes", "use_gpu", "show_progress", "threads", "state")}


def test_scenarios_and_tasks_whose_names_differ_in_case_alone_are_told_apart(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = OF_RUNS | {"data_path": str(tiny_data), "epochs": 1}
    given |= {"scenario": {"field": "age", "bins": [35], "names": ["A", "a"]}}
    given |= {"tasks": {name: {"field": "rating", "at_least": at} for name, at in (("buy", 4), ("Buy", 5))}}
    for scenario, task in (("A", "buy"), ("a", "buy"), ("a", "Buy"), ("A", "Buy")):
        result = recbole_msr.run("SharedBottom", "tiny", config=given | {"valid_metric": f"AUC/{scenario}/{task}"})
        assert result.summary["best_valid_score"] == result.valid.cells[scenario][task].auc
        assert result.summary["valid_metric"] == f"auc/{scenario}/{task}"
    with pytest.raises(InputError, match="no valid_metric 'auc/A/BUY'"):
        recbole_msr.run("SharedBottom", "tiny", config=given | {"valid_metric": "auc/A/BUY"})


def test_a_scenario_without_a_value_has_not_that_of_one_called_alike(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = OF_RUNS | {"data_path": str(tiny_data), "epochs": 1, "valid_metric": "auc/A/click", "min_scenario_rows": 20}
    given |= {"scenario": {"field": "age", "bins": [19], "names": ["A", "a"]}}
    given |= {"tasks": {"click": {"field": "rating", "at_least": 4}}}
    with pytest.raises(InputError, match=r"valid_metric 'auc/A/click' has no value.*A, click: \d+ rows, fewer than 20"):
        recbole_msr.run("SharedBottom", "tiny", config=given)
