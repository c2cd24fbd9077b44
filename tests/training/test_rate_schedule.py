"""The learning rate from step to step: its values, its end, and what is refused beside it."""

import csv
import math
from pathlib import Path

import pytest

import recbole_msr
from recbole_msr.errors import InputError
from recbole_msr.training.rate_schedule import RateSchedule

SMALL = {
    "use_gpu": False, "show_progress": False, "threads": 1, "state": "WARNING", "train_batch_size": 120,
    "tasks": {"click": {"field": "rating", "at_least": 4}}, "stopping_step": 10,
    "bottom_hidden_sizes": [8], "tower_hidden_sizes": [4], "learning_rate": 0.01, "metric_decimal_place": 12,
}  # fmt: skip


@pytest.fixture
def run(tiny_data, tmp_path, monkeypatch):
    """run(folder="out", **settings) -> the epochs of a run on the tiny data, of four steps each."""
    monkeypatch.chdir(tmp_path)

    def start(folder="out", callbacks=(), **settings):
        given = SMALL | {"data_path": str(tiny_data), "output_dir": folder}
        recbole_msr.run("SharedBottom", "tiny", config=given | settings, callbacks=callbacks)
        return list(csv.DictReader(Path(folder, "metrics.csv").read_text().splitlines()))

    return start


def factor(shape, w, horizon, step, n):
    """The factor of step number `step`, of n an epoch, by the definition."""
    if step < w * n:
        return (step + 1) / (w * n)
    if shape == "constant":
        return 1.0
    q = (step - w * n) / ((horizon - w) * n)
    return {"linear": 1 - q, "cosine": 0.5 * (1 + math.cos(math.pi * q))}[shape]


@pytest.mark.parametrize("w", [0, 0.5, 2])
@pytest.mark.parametrize("shape", ["constant", "linear", "cosine"])
def test_the_factors_are_those_of_the_definition(shape, w):
    schedule = RateSchedule(shape, w, 4)
    factors = [schedule.factor(step / 8, 1 / 8) for step in range(32)]
    assert factors == pytest.approx([factor(shape, w, 4, step, 8) for step in range(32)])
    assert min(factors) > 0
    assert max(factors) == 1
    assert [schedule.ends_by(epoch) for epoch in (3, 4)] == [False, shape != "constant"]


def test_every_step_of_a_training_has_its_rate_and_none_comes_after_the_last(run):
    from pytorch_lightning import Callback

    seen = []

    class Rates(Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            seen.append([group["lr"] for group in optimizer.param_groups])

    given = {"learning_rate_schedule": "linear", "schedule_epochs": 3, "warmup_epochs": 0.5, "epochs": 10}
    epochs = run(**given, callbacks=[Rates()], embedding_learning_rate_factor=0.1)
    assert len(epochs) == 3
    assert len(seen) == 12
    slow = [0.01 * factor("linear", 0.5, 3, step, 4) for step in range(12)]
    assert [others for others, _ in seen] == pytest.approx(slow)
    assert [tables for _, tables in seen] == pytest.approx([0.1 * rate for rate in slow])


def test_an_interrupted_training_goes_on_with_the_same_rates(run):
    given = {"learning_rate_schedule": "cosine", "warmup_epochs": 1.5, "epochs": 4, "embedding_weight_decay": 0.1}
    epochs = run("whole", **given)

    from pytorch_lightning import Callback

    class Stop(Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 2:
                raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        run("parts", **given, callbacks=[Stop()])
    again = run("parts", **given, resume=True)
    for row in (*epochs, *again):
        del row["seconds"], row["rows_per_second"]
    assert again == epochs


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"learning_rate_schedule": "cosine", "lr_scheduler": {"name": "ExponentialLR", "gamma": 0.9}},
            "learning_rate_schedule and lr_scheduler both set the learning rate: leave one of them out",
        ),
        (
            {"warmup_epochs": 1, "lr_scheduler": {"name": "ExponentialLR", "gamma": 0.9}},
            "warmup_epochs and lr_scheduler both set",
        ),
        ({"warmup_epochs": 3, "epochs": 3}, r"warmup_epochs must be below epochs \(3\), got 3"),
        (
            {"warmup_epochs": 2, "learning_rate_schedule": "linear", "schedule_epochs": 2},
            r"warmup_epochs must be below schedule_epochs \(2\), got 2",
        ),
        ({"learning_rate_schedule": "cosin"}, "learning_rate_schedule must be one of constant, linear, cosine, got"),
        ({"embedding_learning_rate_factor": 0}, "embedding_learning_rate_factor must be a number above 0"),
        (
            {"embedding_learning_rate_factor": 2.0, "epochs": 2,
             "lr_scheduler": {"name": "OneCycleLR", "max_lr": 0.1, "total_steps": 10}},
            "OneCycleLR sets one learning rate for all parameters",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(run, settings, message):
    with pytest.raises(InputError, match=message) as error:
        run(**settings)
    assert len(str(error.value).splitlines()) == 1


def test_a_scheduler_by_epoch_keeps_the_factor_of_embeddings(run):
    epochs = run(embedding_learning_rate_factor=2.0, lr_scheduler={"name": "ExponentialLR", "gamma": 0.5}, epochs=2)
    assert [float(epoch["learning_rate"]) for epoch in epochs] == pytest.approx([0.01, 0.005])
