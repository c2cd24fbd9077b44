"""Checkpoints load without unpickling, whole or not at all."""

import pickle
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer

from recbole_msr.errors import InputError
from recbole_msr.files.atomic import write_atomically
from recbole_msr.training.checkpoint import (
    is_checkpoint,
    load_checkpoint,
    load_resumable,
    load_weights,
    save_checkpoint,
)

SETTINGS = {"model": "HiNet", "dataset": "tiny", "scenario": {"field": "age", "bins": [30]}, "dropout": 0.1}


class Model(torch.nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.layer = torch.nn.Linear(width, 2)
        self.register_buffer("mean", torch.arange(2.0))
        self.seen = None

    def other_parameter(self):
        return {"seen": self.seen}

    def load_other_parameter(self, other):
        self.seen = (other or {}).get("seen")


@pytest.fixture
def saved(tmp_path):
    model = Model()
    model.seen = torch.ones(3)
    save_checkpoint(tmp_path / "best.ckpt", model, SETTINGS, 4)
    return model, tmp_path / "best.ckpt"


def test_what_is_saved_loads_with_weights_only(saved):
    model, path = saved
    content = torch.load(path, weights_only=True)
    assert (content["config"], content["epoch"]) == (SETTINGS, 4)
    assert {name: tensor.tolist() for name, tensor in content["state_dict"].items()} == {
        name: tensor.tolist() for name, tensor in model.state_dict().items()
    }
    again = Model()
    assert load_weights(again, path)["epoch"] == 4
    assert torch.equal(again.layer.weight, model.layer.weight)
    assert torch.equal(again.seen, model.seen)


def test_a_model_of_another_size_is_an_error(saved):
    with pytest.raises(InputError, match=r"do not fit this Model.*size mismatch for layer.weight"):
        load_weights(Model(4), saved[1])


@pytest.mark.parametrize("size", [0, 10, 0.3, 0.9, -1])
def test_a_cut_checkpoint_is_an_error(size, saved):
    _, path = saved
    data = path.read_bytes()
    path.write_bytes(data[: int(size * len(data)) if 0 < size < 1 else size])
    with pytest.raises(InputError, match=r"best.ckpt cannot be read: it is damaged, cut short"):
        load_checkpoint(path)
    assert not is_checkpoint(path)


def test_other_files_are_no_checkpoints(saved, tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other.pth is not of the format"):
        load_checkpoint(tmp_path / "other.pth")
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(InputError, match=r"another kind of file"):
        load_checkpoint(tmp_path / "list.pth")
    with pytest.raises(InputError, match=r"there is no checkpoint .*none.ckpt"):
        load_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(InputError, match="cannot be read"):
        load_checkpoint(tmp_path)
    assert is_checkpoint(saved[1])
    assert not any(is_checkpoint(tmp_path / name) for name in ("other.pth", "list.pth", "none.ckpt"))


class _Runs:
    """A pickle that would write a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_no_code_in_a_checkpoint_is_run(tmp_path):
    torch.save({"format": "recbole-msr/1", "state_dict": _Runs(tmp_path / "ran")}, tmp_path / "evil.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(_Runs(tmp_path / "ran")))
    for name in ("evil.ckpt", "plain.ckpt"):
        with pytest.raises(InputError):
            load_checkpoint(tmp_path / name)
        assert not is_checkpoint(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_an_interrupted_write_leaves_what_was_there(saved, tmp_path):
    before = saved[1].read_bytes()

    def fails(temporary):
        Path(temporary).write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(saved[1], fails)
    assert saved[1].read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["best.ckpt"]


def test_every_flipped_bit_of_the_content_is_seen(saved):
    """PyTorch alone loads other weights in silence."""
    _, path = saved
    data, good = path.read_bytes(), load_checkpoint(path)
    unseen = 0
    for at in range(0, len(data), 23):
        path.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        try:
            content = load_checkpoint(path)
        except InputError:
            continue
        unseen += 1  # between the parts, where nothing stands
        assert content["config"] == good["config"]
        assert all(torch.equal(content["state_dict"][name], value) for name, value in good["state_dict"].items())
    assert unseen < len(data) // 23


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"config": [1]}, "'config' must be a mapping, got list"),
        ({"config": {"model": "HiNet"}}, "'config' lacks the key 'dataset'"),
        ({"config": {"model": 3, "dataset": "tiny"}}, "'config.model' must be text, got 3"),
        ({"epoch": "four"}, "'epoch' must be a whole number, got 'four'"),
        ({"state_dict": None}, "'state_dict' must be a mapping, got null"),
        ({"state_dict": {"layer.weight": 3}}, "'state_dict.layer.weight' must be Tensor, got 3"),
        ({"left_out": "x"}, "'left_out' must be a list, got 'x'"),
        ({"other_parameter": {1: 2}}, "'other_parameter' has the key 1, which is no text"),
    ],
)
def test_a_checkpoint_of_another_shape_is_told(change, told, saved):
    _, path = saved
    torch.save(torch.load(path, weights_only=True) | change, path)
    with pytest.raises(InputError, match=told) as error:
        load_weights(Model(), path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"loops": 3}, "'loops' must be a mapping"),
        ({"loops": {}}, "'loops' lacks the key 'fit_loop'"),
        ({"loops": {"fit_loop": {"epoch_progress": {}}}}, "'loops.fit_loop' lacks the key"),
        ({"callbacks": {"EpochKeeper": []}}, "must be a mapping, got list"),
    ],
)
def test_the_state_of_an_interrupted_run_of_another_shape_is_told(change, told, tmp_path):
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    good = {"epoch": 1, "global_step": 2, "state_dict": {}, "optimizer_states": [], "lr_schedulers": []}
    good |= {"loops": {"fit_loop": trainer.fit_loop.state_dict()}, "callbacks": {}}
    torch.save(good, tmp_path / "last.ckpt")
    assert load_resumable(tmp_path / "last.ckpt")["epoch"] == 1
    torch.save(good | change, tmp_path / "last.ckpt")
    with pytest.raises(InputError, match=told):
        load_resumable(tmp_path / "last.ckpt")
