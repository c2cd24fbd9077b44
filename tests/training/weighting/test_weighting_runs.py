"""Runs with a loss weighting: what it changes and what not, resuming, refusals, several processes."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

import recbole_msr
from recbole_msr.config.loss_weightings import LOSS_WEIGHTINGS
from recbole_msr.errors import InputError
from recbole_msr.models.base import MultiScenarioRecommender

CHANGING = tuple(word for word, weighting in LOSS_WEIGHTINGS.items() if not weighting.is_constant)
THREE = {
    "click": {"field": "rating", "at_least": 4},
    "like": {"field": "rating", "at_least": 5},
    "bad": {"field": "rating", "at_least": 3},
}


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
    "train_batch_size": 96,
    "metric_decimal_place": 12,
    "scenario": {"field": "age", "bins": [30]},
    "tasks": {"click": THREE["click"], "like": THREE["like"]},
}


@pytest.fixture
def run(tiny_data, tmp_path, monkeypatch):
    """run(method, folder="out", **settings) -> a run of HiNet on the tiny data."""
    monkeypatch.chdir(tmp_path)

    def start(method, folder="out", model="HiNet", callbacks=(), **settings):
        small = SMALL if model == "HiNet" else {k: v for k, v in SMALL.items() if "expert" not in k and "size" not in k}
        given = small | {"data_path": str(tiny_data), "epochs": 2, "output_dir": folder} | settings
        if method is not None:
            given["loss_weighting"] = method
        return recbole_msr.run(model, "tiny", config=given, callbacks=callbacks)

    return start


def weights_of(result):
    return torch.load(result.folder / "best.ckpt", weights_only=True)["state_dict"]


def same_weights(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def history(folder):
    with open(Path(folder) / "metrics.csv") as file:
        return [
            {k: v for k, v in row.items() if k not in ("seconds", "rows_per_second")} for row in csv.DictReader(file)
        ]


def test_fixed_and_equal_train_as_without_any_weighting(run):
    plain, fixed, equal = run(None, "plain"), run("fixed", "fixed"), run("equal", "equal")
    assert history(plain.folder) == history(fixed.folder) == history(equal.folder)
    assert same_weights(weights_of(plain), weights_of(fixed))
    assert same_weights(weights_of(plain), weights_of(equal))
    assert not [column for column in history(fixed.folder)[0] if column.startswith("weight/")]


def test_every_other_method_trains_to_weights_of_its_own(run):
    settings = {"tasks": THREE, "epochs": 3, "stopping_step": 10, "learning_rate": 0.01}
    rows = {method: history(run(method, method, **settings).folder) for method in ("fixed", *CHANGING)}
    last = {method: row[-1]["valid/logloss/macro"] for method, row in rows.items()}
    assert len(set(last.values())) == 5, last
    # DWA's weights are 1 for two epochs.
    assert [row["valid/logloss/macro"] for row in rows["dwa"]][:2] == [
        row["valid/logloss/macro"] for row in rows["fixed"]
    ][:2]


def test_uncertainty_trains_under_recboles_own_trainer(run):
    result = run("uncertainty", trainer="recbole")
    assert weights_of(result)["log_variances"].abs().max() > 0


def numpy_dwa(last, before, temperature):
    ratio = np.asarray(last) / np.asarray(before)
    exponential = np.exp(ratio / temperature)
    return len(ratio) * exponential / exponential.sum()


def test_dwa_in_a_run_follows_from_the_losses_of_its_steps(run, monkeypatch):
    seen = []
    original = MultiScenarioRecommender.counted_losses

    def recorded(self, interaction):
        losses, counts = original(self, interaction)
        seen.append(losses.tolist())
        return losses, counts

    monkeypatch.setattr(MultiScenarioRecommender, "counted_losses", recorded)
    result = run("dwa", epochs=4, stopping_step=10, dwa_temperature=0.5, learning_rate=0.02)
    means = np.asarray(seen).reshape(4, -1, 2).mean(axis=1)
    rows = history(result.folder)
    for epoch, row in enumerate(rows):
        expected = numpy_dwa(means[epoch - 1], means[epoch - 2], 0.5) if epoch > 1 else [1.0, 1.0]
        assert [float(row["weight/click"]), float(row["weight/like"])] == pytest.approx(expected, rel=1e-5)
        steps = np.asarray(seen).reshape(4, -1, 2)[epoch]
        assert float(row["train_loss"]) == pytest.approx((steps @ np.asarray(expected)).sum(), rel=1e-5)
    assert float(rows[3]["weight/click"]) != pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("method", ["gradnorm", "pcgrad"])
def test_the_trainers_options_go_on_working(method, run):
    # With bf16-mixed Lightning clips for no fused optimiser, whatever the weighting.
    mixed = {"precision": "bf16-mixed", "accumulate_grad_batches": 2, "gradient_clip_val": 1e-12}
    plain = {"epochs": 1, "learner": "sgd", "weight_decay": 0.0}
    name = "features.table.weight"
    started = weights_of(run(method, "started", learning_rate=1e-12, **plain))[name]
    found = [
        weights_of(run(method, "mixed", learning_rate=1.0, fused_optimizer=False, lightning=mixed, **plain))[name],
        weights_of(run(method, "clipped", learning_rate=1.0, clip_grad_norm={"max_norm": 1e-12}, **plain))[name],
    ]
    for clipped in found:
        torch.testing.assert_close(clipped, started, rtol=0, atol=1e-9)
    run(method, "half", learning_rate=1.0, lightning={"precision": "bf16-mixed"}, **plain)
    run(method, "full", learning_rate=1.0, **plain)
    start, half, full = (float(history(folder)[0]["train_loss"]) for folder in ("started", "half", "full"))
    assert full < start - 0.2
    assert half == pytest.approx(full, abs=0.02)


class Stop(pl.Callback):
    """As if the process were killed when epoch 3 begins."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 3:
            raise RuntimeError("killed")


@pytest.mark.parametrize("method", CHANGING)
def test_a_resumed_run_goes_on_with_the_same_weights(method, run):
    settings = {"epochs": 6, "stopping_step": 100, "dropout": 0.3, "learning_rate": 0.01, "tasks": THREE}
    whole = run(method, "whole", **settings)
    with pytest.raises(RuntimeError, match="killed"):
        run(method, "killed", callbacks=[Stop()], **settings)
    assert len(history("killed")) == 3
    resumed = run(method, "killed", resume=True, **settings)
    assert history(resumed.folder) == history(whole.folder)
    assert same_weights(weights_of(resumed), weights_of(whole))
    columns = [f"weight/{task}" for task in THREE]
    told = [[float(row[column]) for column in columns] for row in history(whole.folder) if columns[0] in row]
    if method == "pcgrad":
        assert told == []
    else:
        assert len(told) == 6
        assert told[-1] != told[2]


def test_one_task_is_trained_as_ever_and_the_user_is_told(run, caplog):
    one = {"tasks": {"click": THREE["click"]}, "epochs": 1}
    plain = weights_of(run("fixed", "fixed", **one))
    for method in CHANGING:
        caplog.clear()
        assert same_weights(weights_of(run(method, method, **one)), plain)
        assert f"loss_weighting: {method} does nothing: there is one task, 'click'" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_weighting": "gradnrom"}, "loss_weighting must be one of fixed, .* did you mean 'gradnorm'"),
        ({"loss_weighting": "equal", "loss_weights": {"click": 2}}, "equal makes every weight 1, but 'loss_weights'"),
        ({"loss_weighting": "dwa", "loss_weights": {"like": 0}}, "dwa cannot weigh task 'like'"),
        ({"loss_weighting": "dwa", "dwa_temperature": 0.0}, "dwa_temperature must be a number above 0, got 0"),
        (
            {"loss_weighting": "gradnorm", "gradnorm_alpha": -1.0},
            "gradnorm_alpha must be a number of at least 0, got -1",
        ),
        (
            {"loss_weighting": "gradnorm", "gradnorm_learning_rate": -1.0},
            "gradnorm_learning_rate must be a number above 0",
        ),
        *[
            ({"loss_weighting": method, "trainer": "recbole"}, f"{method} needs more .* set trainer: lightning")
            for method, weighting in LOSS_WEIGHTINGS.items()
            if weighting.needs_trainer
        ],
        ({"loss_weighting": "pcgrad", "model": "DeepFM"}, "pcgrad needs a model with a loss for each task, and DeepFM"),
        ({"loss_weighting": "gradnormm", "model": "DeepFM"}, "did you mean 'gradnorm'"),
    ],
)
def test_what_cannot_be_is_refused_before_training(settings, message, run):
    with pytest.raises(InputError, match=message):
        run(settings["loss_weighting"], None, **{k: v for k, v in settings.items() if k != "loss_weighting"})
    assert not Path("runs").exists()


def test_recbole_models_are_left_alone_by_fixed_and_equal(run):
    plain, equal = (weights_of(run(method, method, model="DeepFM", epochs=1)) for method in ("fixed", "equal"))
    assert same_weights(plain, equal)


ON_TWO = """
import json, sys
import pytorch_lightning as pl, torch
from recbole_msr.training.module import PackedData, RecModule
from recbole_msr.config.build import build_config
from recbole.data import create_dataset
from recbole.utils import get_model

class Look(pl.Callback):
    # Keeps what every process draws first, and the loss of every epoch.

    def __init__(self, path):
        self.path, self.kept = path, {"losses": []}

    def on_train_epoch_start(self, trainer, module):
        drawn = [None] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(drawn, torch.rand(()).item())
        else:
            drawn = [torch.rand(()).item()]
        self.kept.setdefault("drawn", drawn)

    def on_train_end(self, trainer, module):
        if trainer.is_global_zero:
            self.kept["losses"] = [*self.kept["losses"][1:], module.train_loss]  # a callback hears of an epoch first
            json.dump(self.kept, open(self.path, "w"))

    def on_train_epoch_end(self, trainer, module):
        self.kept["losses"].append(module.train_loss)


settings = json.load(open(sys.argv[1]))
found = {}
for devices in (2, 1):  # the processes are forked, which must be before anything is trained here
    for method in ("gradnorm", "dwa", "pcgrad", "fixed", "uncertainty", "DeepFM"):
        model, weighting = ("DeepFM", "fixed") if method == "DeepFM" else ("HiNet", method)
        config = build_config(model, "tiny", settings | {"loss_weighting": weighting, "strict": False})
        train, _, _ = create_dataset(config).build()
        torch.manual_seed(1)
        module = RecModule(get_model(model)(config, train), config)
        trainer = pl.Trainer(
            accelerator="cpu", devices=devices, strategy="ddp_fork" if devices > 1 else "auto", max_epochs=3,
            logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=False, limit_val_batches=0, callbacks=[Look(f"{method} {devices}.json")],
        )
        trainer.fit(module, datamodule=PackedData(config, {"train": train, "valid": None}))
        state = module.state_dict()
        state.pop("weighting._extra_state", None)
        found[f"{method} {devices}"] = state
torch.save(found, sys.argv[2])
"""


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tiny_data, tmp_path):
    """Real two-process gloo runs of SGD, against one process: the same weights and losses up to rounding.

    Batches have an odd number of rows, and labels are missing in some, so that the parts of a batch differ in both.
    """
    lines = (tiny_data / "tiny" / "tiny.inter").read_text().splitlines()
    cells = [line.split("\t") for line in lines[1:]]
    cells = [[u, i, "" if k % 2 and k % 7 else rating, t] for k, (u, i, rating, t) in enumerate(cells)]
    (tiny_data / "tiny" / "tiny.inter").write_text("\n".join([lines[0], *map("\t".join, cells)]) + "\n")
    tasks = {name: task | {"missing": "ignore"} for name, task in THREE.items()}
    tasks["early"] = {"field": "timestamp", "above": 1200}
    settings = SMALL | {"data_path": str(tiny_data), "dropout": 0.0, "tasks": tasks, "packed_cache": False}
    settings |= {"learner": "sgd", "learning_rate": 0.2, "train_batch_size": 33, "main_task": "early"}
    settings |= {"dropout_prob": 0.0, "mlp_hidden_size": [8]}
    (tmp_path / "train.py").write_text(ON_TWO)
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, "train.py", "settings.json", "found.pt"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    for method in ("gradnorm", "dwa", "pcgrad", "fixed", "uncertainty", "DeepFM"):
        one, two = found[f"{method} 1"], found[f"{method} 2"]
        alone, together = (json.loads((tmp_path / f"{method} {n}.json").read_text()) for n in (1, 2))
        assert together["losses"] == pytest.approx(alone["losses"], rel=1e-3), method
        assert together["drawn"][0] == alone["drawn"][0], "the first process draws as if it were alone"
        assert together["drawn"][0] != together["drawn"][1], "each process draws its own dropout"
        assert one.keys() == two.keys()
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5, msg=f"{method}: {name}")
        if method in ("gradnorm", "dwa"):
            assert (one["weighting.weights"] - 1).abs().max() > 1e-3
