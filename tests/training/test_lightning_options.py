"""Options of Lightning's trainer and of a schedule are checked before a folder is made."""

import pytest

import recbole_msr
from recbole_msr.errors import InputError
from tests.tuning.conftest import CONFIG


def go(tiny_data, tmp_path, monkeypatch, **settings):
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    given = {**CONFIG, "data_path": str(tiny_data), "epochs": 3, "output_dir": "out", "show_progress": False}
    try:
        return recbole_msr.run("SharedBottom", "tiny", config={**given, **settings})
    except InputError:
        if sorted(path.name for path in tmp_path.iterdir()) != before:
            raise AssertionError("something was left behind") from None
        raise


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"callbacks": 5}, "lightning: 'callbacks' must be"),
        ({"callbacks": ["EarlyStopping"]}, "lightning: 'callbacks' must be"),
        ({"max_epochs": "x"}, "lightning: 'max_epochs' must be a whole number"),
        ({"max_epochs": 1.5}, "lightning: 'max_epochs' must be a whole number"),
        ({"max_epochs": 0}, "lightning: 'max_epochs' must be at least 1, got 0"),
        ({"max_epochs": -2}, "lightning: 'max_epochs' must be at least 1, got -2"),
        ({"max_steps": 0}, "lightning: 'max_steps' must be at least 1"),
        ({"accumulate_grad_batches": 0}, "must be at least 1"),
        ({"gradient_clip_val": "x"}, "lightning: 'gradient_clip_val' must be"),
        ({"gradient_clip_val": -1}, "lightning: 'gradient_clip_val' must be at least 0"),
        ({"gradient_clip_val": float("nan")}, "lightning: 'gradient_clip_val' must be finite"),
        ({"gradient_clip_algorithm": "x"}, "lightning: .*x"),
        ({"limit_train_batches": 0}, "limit_train_batches"),
        ({"limit_train_batches": 1.5}, "limit_train_batches"),
        ({"accelerator": "abacus"}, "lightning: .*abacus"),
        ({"strategy": "none"}, "lightning: .*none"),
        ({"precision": 7}, "lightning: .*7"),
        ({"devices": 0}, "lightning: "),
        ({"devices": 10**6}, "lightning: 'devices' must be at most 1024"),
        ({"devices": [[]]}, "lightning: 'devices' must be"),
        ({"num_nodes": 0}, "lightning: 'num_nodes' must be at least 1"),
        ({"logger": "wandb"}, "lightning: 'logger' must be"),
        ({"profiler": "x"}, "lightning: .*profiler"),
        ({"deterministic": "yes"}, "lightning: 'deterministic' must be"),
        ({"enable_checkpointing": 1}, "lightning: 'enable_checkpointing' must be true or false"),
        ({"overfit_batches": 1}, "lightning: 'overfit_batches' cannot be set"),
        ({"max_time": "soon"}, "lightning: "),
        ({"barebones": True}, "lightning: .*barebones"),
        ({"maxepochs": 3}, "has no option 'maxepochs'"),
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_used_is_refused_and_nothing_is_left(options, told, tiny_data, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=told):
        go(tiny_data, tmp_path, monkeypatch, lightning=options)


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        ({"name": "CosineAnnealingLR", "T_max": 0}, "lr_scheduler CosineAnnealingLR: after epoch 1 of 3"),
        ({"name": "CosineAnnealingLR"}, "T_max"),
        ({"name": "CosineAnnealingLR", "T_max": "x"}, "lr_scheduler CosineAnnealingLR"),
        ({"name": "CosineAnnealingWarmRestarts", "T_0": 0}, "T_0"),
        ({"name": "StepLR", "step_size": 0}, "lr_scheduler StepLR"),
        ({"name": "StepLR", "step_size": 1, "gamma": float("nan")}, "must be a number of at least 0"),
        ({"name": "ExponentialLR", "gamma": -1}, "must be a number of at least 0"),
        ({"name": "OneCycleLR", "max_lr": 0.1, "total_steps": 2}, "lr_scheduler OneCycleLR: after epoch 3 of 3"),
        ({"name": "LambdaLR", "lr_lambda": "x"}, "lr_scheduler LambdaLR"),
        ({"name": "ReduceLROnPlateau", "factor": 2}, "Factor"),
        ({"name": "SequentialLR", "schedulers": [], "milestones": []}, "lr_scheduler SequentialLR"),
        ({"name": "Optimizer"}, "has no class 'Optimizer'"),
        ({"name": "NoSuchLR"}, "has no class 'NoSuchLR'"),
        ({"name": 5}, "has no class '5'"),
        ({"T_max": 5}, "lr_scheduler must be a mapping such as"),
    ],
)
def test_a_schedule_that_cannot_be_used_is_refused_and_nothing_is_left(
    schedule, told, tiny_data, tmp_path, monkeypatch
):
    with pytest.raises(InputError, match=told):
        go(tiny_data, tmp_path, monkeypatch, lr_scheduler=schedule)


def test_good_ones_are_used(tiny_data, tmp_path, monkeypatch):
    result = go(
        tiny_data, tmp_path, monkeypatch,
        lightning={"gradient_clip_val": 1, "limit_train_batches": 0.5, "max_epochs": 2, "accumulate_grad_batches": 2},
        lr_scheduler={"name": "CosineAnnealingLR", "T_max": 3},
    )  # fmt: skip
    assert result.summary["epochs"] == 2
