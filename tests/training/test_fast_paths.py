"""Faster forms of a model's parts: what they must not change, and the settings that ask for them."""

import logging
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

import recbole_msr
from recbole_msr.errors import InputError
from recbole_msr.layers.dropout import Dropout
from recbole_msr.training import fast_paths as fast
from recbole_msr.training.fast_paths import Embedding
from recbole_msr.training.module import DivergedError

SMALL = {
    "use_gpu": False,
    "show_progress": False,
    "threads": 1,
    "state": "WARNING",
    "train_batch_size": 64,
    "metric_decimal_place": 12,
    "epochs": 2,
    "tasks": {"click": {"field": "rating", "at_least": 4}},
}


@pytest.fixture
def run(tiny_data, tmp_path, monkeypatch):
    """run(folder="out", model="DeepFM", callbacks=(), **settings) -> a run on the tiny data."""
    monkeypatch.chdir(tmp_path)

    def start(folder="out", model="DeepFM", callbacks=(), **settings):
        given = SMALL | {"data_path": str(tiny_data), "output_dir": folder} | settings
        return recbole_msr.run(model, "tiny", config=given, callbacks=callbacks)

    return start


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("padding", [None, 3])
@pytest.mark.parametrize("size", [1, 7, 16])
def test_the_gradient_of_an_embedding_is_pytorchs_to_the_bit(size, padding, dtype):
    torch.manual_seed(0)
    table = nn.Embedding(20, size, padding_idx=padding, dtype=dtype)
    ids, seen = torch.randint(0, 15, (400, 6)), torch.randn(400, 6, size, dtype=dtype)
    (table(ids) * seen).sum().backward()
    expected, table.weight.grad = table.weight.grad, None
    rows = table(ids)

    table.__class__ = Embedding
    assert torch.equal(table(ids), rows)
    (table(ids) * seen).sum().backward()
    assert expected.any()
    assert torch.equal(table.weight.grad, expected)


@pytest.mark.parametrize("rows", [1, 7, 600])
def test_in_evaluation_layers_computed_together_give_the_same_bits(rows):
    torch.manual_seed(0)
    layers = [nn.Dropout(0.3), nn.Linear(30, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 32), nn.ReLU(), nn.Tanh()]
    stack, x = nn.Sequential(*layers).eval(), torch.randn(rows, 30)
    with torch.no_grad():
        expected = stack(x)
        stack.__class__ = fast.Sequential
        assert torch.equal(stack(x), expected)
    stack.train()
    torch.manual_seed(1)
    trained = stack(x)
    stack.__class__ = nn.Sequential
    torch.manual_seed(1)
    assert torch.equal(trained, stack(x))  # as they are, unless fast_dropout is asked for


def test_fast_dropout_replaces_recboles_dropout_and_nothing_else(run):
    plain, quick = run("plain"), run("quick", fast_dropout=True)
    kinds = [{type(m) for m in result.model.modules() if isinstance(m, nn.Dropout)} for result in (plain, quick)]
    assert kinds == [{nn.Dropout}, {Dropout}]
    assert list(plain.model.state_dict()) == list(quick.model.state_dict())
    without = [run(f"none-{flag}", fast_dropout=flag, dropout_prob=0.0) for flag in (False, True)]
    exact, quick = (result.test_metrics for result in without)
    assert quick == pytest.approx(exact, abs=1e-5)  # up to rounding: products are taken in another order


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fast_dropout": "yes"}, "fast_dropout must be True or False"),
        ({"compile": 1}, "compile must be True or False"),
        ({"precision": "bf16"}, "precision must be one of 32, bf16-mixed, 16-mixed, or not set, got 'bf16'"),
        ({"precision": "16-mixed"}, "needs a GPU"),
        ({"precision": 32, "enable_amp": True}, "take one of them back"),
        ({"precision": "bf16-mixed", "lightning": {"precision": "32-true"}}, "contradict each other"),
    ],
)
def test_impossible_values_are_refused(run, settings, message):
    with pytest.raises(InputError, match=message):
        run(**settings)
    assert not Path("out").exists()


@pytest.mark.parametrize("changed", [{"embedding_gradients": "sparse"}, {"precision": "bf16-mixed"}, {"compile": True}])
def test_under_recboles_own_trainer_they_are_refused_and_not_ignored(run, changed):
    with pytest.raises(InputError, match=f"{next(iter(changed))} is for runs under Lightning"):
        run(model="LR", trainer="recbole", **changed)


class Precision(pl.Callback):
    def on_train_start(self, trainer, pl_module):
        self.value = trainer.precision


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "32-true"),
        ({"precision": 32, "lightning": {"precision": "32-true"}}, "32-true"),
        ({"precision": "bf16-mixed"}, "bf16-mixed"),
        ({"enable_amp": True}, "bf16-mixed"),
        ({"precision": "bf16-mixed", "enable_amp": True}, "bf16-mixed"),
        ({"lightning": {"precision": "bf16-mixed"}}, "bf16-mixed"),
    ],
)
def test_precision_is_lightnings(run, settings, expected):
    seen = Precision()
    run(callbacks=[seen], epochs=1, model="LR", **settings)
    assert seen.value == expected


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_without_instructions_for_it_is_warned_of(run, monkeypatch, caplog, has):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    with caplog.at_level(logging.WARNING):
        run(precision="bf16-mixed", epochs=1, model="LR")
    assert ("bf16-mixed will be slower" in caplog.text) != has


@pytest.mark.slow
def test_a_compiled_run_is_the_eager_one(run, caplog):
    given = {"model": "LR", "train_batch_size": 100}  # 480 rows: the last batch is smaller
    eager = run("eager", **given)
    with caplog.at_level(logging.WARNING, logger=fast.__name__):
        quick = run("compiled", compile=True, **given)
    assert "compile" not in caplog.text
    assert quick.summary["rows"]["train"] % 100
    one, other = eager.model.state_dict(), quick.model.state_dict()
    assert list(one) == list(other)
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, rtol=1e-3, atol=1e-4)
    assert quick.summary["best_valid_score"] == pytest.approx(eager.summary["best_valid_score"], abs=1e-3)


def test_without_a_compiler_training_goes_on_as_it_is(run, monkeypatch, caplog):
    import torch._inductor.config as inductor

    torch._dynamo.reset()
    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    with caplog.at_level(logging.WARNING, logger=fast.__name__):
        result = run(compile=True, model="LR")
    assert caplog.text.count("it could not be compiled") == 1
    assert result.summary["test"] == run("eager", model="LR").summary["test"]
    torch._dynamo.reset()


def test_on_a_gpu_what_a_compiled_loss_returns_is_not_overwritten_by_its_next_call(monkeypatch):
    out = torch.zeros(2)  # as CUDA graphs do it, the same memory in every call

    def graph(batch):
        return out.fill_(batch), (out[:1],)

    monkeypatch.setattr(torch, "compile", lambda function, mode: function)
    loss = fast.compiled(graph, torch.device("cuda"))
    first, second = loss(1.0), loss(2.0)
    assert (first[0].tolist(), first[1][0].tolist()) == ([1.0, 1.0], [1.0])
    assert (second[0].tolist(), second[1][0].tolist()) == ([2.0, 2.0], [2.0])


def test_weightings_that_read_gradients_are_not_compiled(run):
    tasks = SMALL["tasks"] | {"like": {"field": "rating", "at_least": 5}}
    with pytest.raises(InputError, match="compiled code cannot"):
        run(compile=True, model="MMoE", loss_weighting="pcgrad", tasks=tasks)


def test_an_error_of_the_model_is_not_taken_for_the_compilers():
    def broken(batch):
        raise KeyError("no such field")

    with pytest.raises(KeyError, match="no such field"):
        fast.compiled(broken, torch.device("cpu"))({})


@pytest.mark.parametrize("batch_size", [4, 64])
def test_a_run_that_diverges_stops_before_it_validates(run, batch_size):
    """In its first epoch at the next look at the losses, or at the end of the epoch where that comes first."""
    steps, validated = [], []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            steps.append(batch_idx)
            if batch_idx == 1:
                with torch.no_grad():
                    next(pl_module.model.parameters()).fill_(float("nan"))

        def on_validation_epoch_end(self, trainer, pl_module):
            validated.append(trainer.current_epoch)

    with pytest.raises(DivergedError, match=r"training loss became .* in epoch 1: lower learning_rate"):
        run(callbacks=[Watch()], train_batch_size=batch_size, model="DeepFM")
    assert len(steps) == (49 if batch_size == 4 else 480 // 64 + 1)
    assert not validated
    assert not list(Path("out").glob("*.ckpt"))
