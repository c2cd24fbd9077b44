"""Members: trainings that share the work, each with the numbers it has alone."""

import copy
import csv
import gc
import weakref
from pathlib import Path

import pytest
import torch

from recbole_msr.config.build import build_config
from recbole_msr.data.packed import PackedTable
from recbole_msr.errors import InputError
from recbole_msr.training.fused.loop import SideBySide, fused_group_size, train_members
from recbole_msr.training.fused.member import Member
from recbole_msr.training.fused.vmap_stack import RandomState, Stack, stack_mismatch
from recbole_msr.training.module import DivergedError
from recbole_msr.training.trainer import LightningTrainer

TASKS = {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5}}
SMALL = {
    "HiNet": {
        "sub_experts": 2,
        "expert_hidden_sizes": [8, 6],
        "task_expert_hidden_sizes": [8],
        "tower_hidden_sizes": [4],
        "scenario_embedding_size": 4,
    },
    "MMoE": {"experts": 3, "expert_hidden_sizes": [8], "tower_hidden_sizes": [4]},
    "DeepFM": {"mlp_hidden_size": [8, 8]},
    "LR": {},
    "LLM4MSR": {"backbone": "STAR"},
}
# Adam's first steps have one size whatever the gradient, so where a gradient is 0 but for rounding they differ; plain
# gradient descent shows whether all the rest is the same.
DESCENT = {"learner": "sgd", "learning_rate": 0.1}


class _Study:
    """The splits of "tiny", packed, and trainings on them."""

    def __init__(self, folder, **settings):
        from recbole.data import create_dataset

        self.given = {
            "data_path": str(folder), "tasks": TASKS, "scenario": {"field": "age", "bins": [25, 35]},
            "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"], "user": ["user_id", "age", "gender"]},
            "packed_cache": False, "use_gpu": False, "show_progress": False, "state": "ERROR", "trainer": "lightning",
            "epochs": 2, "train_batch_size": 50, "metric_decimal_place": 12, "checkpoint_dir": str(folder / "saved"),
        } | settings  # fmt: skip
        splits = create_dataset(self.config("HiNet", {})).build()
        self._split = splits[0]
        self.train, self.valid = PackedTable(splits[0]), PackedTable(splits[1])

    def config(self, model, settings):
        return build_config(model, "tiny", self.given | SMALL[model] | settings)

    def built(self, config):
        from recbole.utils import get_model, init_seed

        init_seed(config["seed"], config["reproducibility"])
        return get_model(config["model"])(config, self._split)

    def alone(self, model, settings, saved=False):
        config = self.config(model, settings)
        trainer = LightningTrainer(config, self.built(config))
        trainer.fit(self.train, self.valid, verbose=False, saved=saved)
        return trainer

    def member(self, model, given, **files):
        config = self.config(model, given)
        return Member(config, self.built(config), **files)


@pytest.fixture
def study(tiny_data):
    torch.set_num_threads(1)
    return _Study(tiny_data)


def _numbers(epochs):
    """What an epoch found, without how long it took."""
    timed = ("seconds", "rows_per_second")
    return [{key: value for key, value in row.items() if key not in timed} for row in epochs.history]


def _assert_same(member, alone, exactly):
    assert member.error is None
    ours, theirs = _numbers(member.epochs), _numbers(alone.epochs)
    assert [list(row) for row in ours] == [list(row) for row in theirs]
    if exactly:
        assert ours == theirs
    else:
        for one, other in zip(ours, theirs, strict=True):
            assert one == pytest.approx(other, rel=1e-5, abs=1e-5)
    assert member.epochs.best_epoch == alone.epochs.best_epoch
    tolerance = {"rtol": 0, "atol": 0} if exactly else {"rtol": 1e-5, "atol": 1e-6}
    for (name, a), (_, b) in zip(member.model.state_dict().items(), alone.model.state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, **tolerance, msg=lambda text, name=name: f"{name}: {text}")


def _only_stacked(monkeypatch):
    """Make sure that what is to be stacked is not quietly trained side by side."""

    def refused(self, members, batch_of, number):
        raise AssertionError("trained side by side")

    monkeypatch.setattr(SideBySide, "step", refused)


def _train_as_alone(study, model, given, how, monkeypatch):
    """Train members, and see that each comes to what it comes to alone."""
    alone = [study.alone(model, settings) for settings in given]
    if how == "stacked":
        _only_stacked(monkeypatch)
    members = [study.member(model, settings) for settings in given]
    train_members(members, study.train, study.valid, how)
    for member, one in zip(members, alone, strict=True):
        _assert_same(member, one, exactly=how == "side by side")
    return members


DIFFERENT = {
    "HiNet": [
        {"dropout": 0.2},
        {"dropout": 0.5, "learning_rate": 0.3},
        {"dropout": 0.2, "weight_decay": 0.01, "seed": 7},
        {"dropout": 0.0, "clip_grad_norm": {"max_norm": 0.05}},
        {"dropout": 0.1, "learning_rate_schedule": "cosine", "warmup_epochs": 0.5, "embedding_weight_decay": 0.1},
        {"dropout": 0.2, "scenario_balance": 1.0, "embedding_learning_rate_factor": 5.0, "embedding_dropout": 0.3},
    ],
    "MMoE": [{"dropout": 0.3}, {"dropout": 0.1, "weight_decay": 0.02}, {"dropout": 0.3, "seed": 3}],
    "DeepFM": [{"dropout_prob": 0.2}, {"dropout_prob": 0.5, "seed": 3}, {"dropout_prob": 0.2, "learning_rate": 0.05}],
    "LR": [{}, {"learning_rate": 0.5, "lr_scheduler": {"name": "ExponentialLR", "gamma": 0.1}}, {"seed": 1}],
}


@pytest.mark.parametrize("how", ["side by side", "stacked"])
@pytest.mark.parametrize("model", list(DIFFERENT))
def test_members_come_to_the_numbers_they_have_alone(model, how, study, monkeypatch):
    """With learning rates, schedules, decays, dropouts, clipping and seeds of their own; the last batch is smaller."""
    assert len(study.train) % study.given["train_batch_size"] > 1
    given = [DESCENT | settings for settings in DIFFERENT[model]]
    _train_as_alone(study, model, given, how, monkeypatch)


@pytest.mark.parametrize("learner", ["adam", "adamw", "adagrad", "rmsprop"])
def test_every_optimiser_steps_as_it_does_alone(learner, study, monkeypatch):
    given = [{"learner": learner, "learning_rate": rate, "weight_decay": rate} for rate in (0.003, 0.01)]
    _train_as_alone(study, "LR", given, "stacked", monkeypatch)


@pytest.mark.parametrize("how", ["side by side", "stacked"])
def test_batch_norm_keeps_the_statistics_of_every_member(how, study, monkeypatch):
    """The last batch has one row, which leaves them as they are."""
    rows = {"train_batch_size": len(study.train) - 1, "batch_norm": True, "dropout": 0.2, "epochs": 3}
    given = [DESCENT | rows | settings for settings in ({}, {"learning_rate": 0.01}, {"seed": 5})]
    members = _train_as_alone(study, "MMoE", given, how, monkeypatch)
    means = [member.model.state_dict()["experts.norms.0.running_mean"] for member in members]
    assert means[0].any()
    assert not means[0].equal(means[1])


@pytest.mark.parametrize("how", ["side by side", "stacked"])
def test_labels_may_be_missing(how, tiny_data, monkeypatch):
    inter = tiny_data / "tiny" / "tiny.inter"
    lines = inter.read_text().splitlines()
    lines = [lines[0] + "\tbought:float", *(f"{line}\t{n % 2 if n % 3 else ''}" for n, line in enumerate(lines[1:]))]
    inter.write_text("\n".join(lines) + "\n")
    study = _Study(
        tiny_data,
        tasks={"click": TASKS["click"], "buy": {"field": "bought", "missing": "ignore"}},
        load_col={"inter": ["user_id", "item_id", "rating", "bought"], "user": ["user_id", "age"]},
    )
    given = [DESCENT | {"dropout": 0.2}, DESCENT | {"dropout": 0.4}]
    _train_as_alone(study, "MMoE", given, how, monkeypatch)


@pytest.mark.parametrize("how", ["side by side", "stacked"])
def test_a_member_that_is_stopped_leaves_the_others_as_they_are(how, study, monkeypatch):
    class Pruned(Exception):
        pass

    def prune(epoch, score):
        if epoch == 1:
            raise Pruned(score)

    given = [DESCENT | {"epochs": 4, "dropout": p} for p in (0.1, 0.2, 0.3)]
    alone = [study.alone("HiNet", settings) for settings in given]
    if how == "stacked":
        _only_stacked(monkeypatch)
    members = [study.member("HiNet", s, callback_fn=None if k else prune) for k, s in enumerate(given)]
    train_members(members, study.train, study.valid, how)
    assert isinstance(members[0].error, Pruned)
    assert len(members[0].epochs.history) == 2
    for member, one in zip(members[1:], alone[1:], strict=True):
        _assert_same(member, one, exactly=how == "side by side")


@pytest.mark.parametrize("how", ["side by side", "stacked"])
def test_a_member_that_diverges_leaves_the_others_as_they_are(how, study, monkeypatch):
    given = [DESCENT | {"dropout": 0.1}, DESCENT | {"learning_rate": 1e12}, DESCENT | {"dropout": 0.3}]
    alone = [study.alone("HiNet", settings) for settings in (given[0], given[2])]
    if how == "stacked":
        _only_stacked(monkeypatch)
    members = [study.member("HiNet", settings) for settings in given]
    with torch.autograd.set_detect_anomaly(True):  # as RecBole's SINE leaves it, once imported
        train_members(members, study.train, study.valid, how)
    with pytest.raises(DivergedError) as expected:
        study.alone("HiNet", given[1])
    assert isinstance(members[1].error, DivergedError)
    assert str(members[1].error) == str(expected.value)
    for member, one in zip((members[0], members[2]), alone, strict=True):
        _assert_same(member, one, exactly=how == "side by side")


@pytest.mark.parametrize("how", ["side by side", "stacked"])
def test_members_stop_early_each_at_its_own_epoch(how, study, monkeypatch):
    rows = {"epochs": 12, "stopping_step": 1}
    given = [rows | {"learning_rate": rate} for rate in (0.001, 0.03, 0.1)] + [rows | {"epochs": 3, "eval_step": 2}]
    alone = [study.alone("LR", settings) for settings in given]
    lengths = [len(one.epochs.history) for one in alone]
    assert len(set(lengths)) == 3, "the data must make a difference for this test to say something"
    if how == "stacked":
        _only_stacked(monkeypatch)
    members = [study.member("LR", settings) for settings in given]
    train_members(members, study.train, study.valid, how)
    assert [len(member.epochs.history) for member in members] == lengths
    for member, one in zip(members, alone, strict=True):
        _assert_same(member, one, exactly=how == "side by side")
        assert member.epochs.stopped == one.epochs.stopped


@pytest.mark.parametrize("how", ["side by side", "stacked"])
def test_files_are_those_of_a_training_alone(how, study, tmp_path):
    given = [DESCENT | {"learning_rate": rate, "epochs": 4} for rate in (0.3, 0.01)]
    alone = []
    for k, settings in enumerate(given):
        alone.append(study.alone("MMoE", settings | {"checkpoint_dir": str(tmp_path / f"alone {k}")}, saved=True))
    paths = [tmp_path / str(k) for k in range(2)]
    members = []
    for path, settings in zip(paths, given, strict=True):
        path.mkdir()
        files = {"best_path": path / "best.ckpt", "metrics_path": path / "metrics.csv"}
        members.append(study.member("MMoE", settings, settings=settings, **files))
    train_members(members, study.train, study.valid, how)
    for path, one, member in zip(paths, alone, members, strict=True):
        ours = torch.load(path / "best.ckpt", weights_only=True)
        theirs = torch.load(one.saved_model_file, weights_only=True)
        assert ours["epoch"] == theirs["epoch"] == member.epochs.best_epoch
        for key, value in theirs["state_dict"].items():
            torch.testing.assert_close(ours["state_dict"][key], value, rtol=1e-5, atol=1e-6)
        sizes = [Path(file).stat().st_size for file in (path / "best.ckpt", one.saved_model_file)]
        assert sizes[0] < 1.1 * sizes[1], "the other member's weights are not in it"
        with open(path / "metrics.csv") as file:
            assert [int(row["epoch"]) for row in csv.DictReader(file)] == [1, 2, 3, 4]


SCHEDULE = {"lr_scheduler": {"name": "ExponentialLR", "gamma": 0.7}}
INTERRUPTED = {
    "HiNet": DESCENT | SCHEDULE | {"dropout": 0.3},
    "MMoE": {"loss_weighting": "dwa", "dropout": 0.2, "batch_norm": True},
    "DeepFM": {"eval_step": 2, "embedding_gradients": "sparse"},
    "LR": {"lr_scheduler": {"name": "ReduceLROnPlateau", "patience": 0, "mode": "max"}},
}


@pytest.mark.parametrize("how", ["side by side", "stacked"])
@pytest.mark.parametrize("model", list(INTERRUPTED))
def test_an_interrupted_member_goes_on_alone(model, how, study, tmp_path):
    """Lightning's trainer resumes it to the numbers of a training that was never interrupted, nor among others."""

    class Interrupted(Exception):
        pass

    def interrupt(epoch, score):
        if epoch == 1:
            raise Interrupted

    given = [INTERRUPTED[model] | {"epochs": 5, "stopping_step": 9, "seed": seed} for seed in (5, 6)]
    whole = [study.alone(model, settings) for settings in given]
    paths = [tmp_path / f"{k}.ckpt" for k in range(2)]
    members = [
        study.member(model, settings, last_path=path, callback_fn=interrupt)
        for path, settings in zip(paths, given, strict=True)
    ]
    train_members(members, study.train, study.valid, how)
    stacked = members[0].stacked
    assert stacked == (how == "stacked" and model in ("HiNet", "LR")), "the others cannot be"
    for path, settings, expected in zip(paths, given, whole, strict=True):
        config = study.config(model, settings)
        torch.manual_seed(99)  # what the process drew before it goes on makes no difference
        resumed = LightningTrainer(config, study.built(config), resume_from=path)
        resumed.fit(study.train, study.valid, verbose=False, saved=False)
        ours, theirs = _numbers(resumed.epochs), _numbers(expected.epochs)
        assert len(ours) == 5
        for one, other in zip(ours, theirs, strict=True):
            assert one == (pytest.approx(other, rel=1e-5, abs=1e-5) if stacked else other)
        assert resumed.epochs.best_epoch == expected.epochs.best_epoch
        near = {"rtol": 1e-5, "atol": 1e-6} if stacked else {"rtol": 0, "atol": 0}
        for key, value in resumed.model.state_dict().items():
            torch.testing.assert_close(value, expected.model.state_dict()[key], **near)
        saved = tmp_path / "alone.ckpt"
        torch.save({**torch.load(path, weights_only=True), "state_dict": expected.model.state_dict()}, saved)
        assert path.stat().st_size < 1.1 * saved.stat().st_size, "the other member's weights are not in it"


def test_the_state_of_a_member_is_what_lightning_saves_of_a_training(study, tmp_path):
    settings = {"epochs": 3, "dropout": 0.2}
    config = study.config("HiNet", settings)
    LightningTrainer(config, study.built(config), folder=tmp_path).fit(study.train, study.valid, verbose=False)
    member = study.member("HiNet", settings, last_path=tmp_path / "member.ckpt")
    train_members([member], study.train, study.valid)
    theirs, ours = (torch.load(tmp_path / name, weights_only=True) for name in ("last.ckpt", "member.ckpt"))
    assert set(theirs) - set(ours) <= {"hparams_name", "hyper_parameters"}
    for key in ("epoch", "global_step", "pytorch-lightning_version", "lr_schedulers", "scheduler"):
        assert ours[key] == theirs[key]
    loops = [
        {key: value for key, value in content["loops"]["fit_loop"].items() if "val_loop" not in key}
        for content in (ours, theirs)
    ]
    assert loops[0] == loops[1]
    assert ours["random"][0]["torch"].equal(theirs["random"][0]["torch"])
    assert set(ours["callbacks"]) == set(theirs["callbacks"]) == {"EpochKeeper"}


@pytest.mark.parametrize("weighting", ["uncertainty", "dwa", "gradnorm", "pcgrad"])
def test_weightings_of_losses_are_each_members_own(weighting, study):
    rows = {"loss_weighting": weighting, "epochs": 3}
    given = [rows | {"dropout": 0.2}, rows | {"learning_rate": 0.02, "dropout": 0.1}]
    alone = [study.alone("MMoE", settings) for settings in given]
    members = [study.member("MMoE", settings) for settings in given]
    train_members(members, study.train, study.valid, "stacked")  # uncertainty can be, the others not
    for member, one in zip(members, alone, strict=True):
        if weighting == "uncertainty":
            assert _numbers(member.epochs)[0] == pytest.approx(_numbers(one.epochs)[0], rel=1e-3)
        else:
            _assert_same(member, one, exactly=True)


def test_what_cannot_be_stacked_is_trained_side_by_side(study, monkeypatch):
    """Other widths; random numbers that are not a dropout's."""
    from recbole_msr.models.mmoe import MMoE

    given = [{"experts": 2}, {"experts": 3}]
    alone = [study.alone("MMoE", settings) for settings in given]
    members = [study.member("MMoE", settings) for settings in given]
    assert "n_mlps" in stack_mismatch(members[0].model, members[1].model)
    train_members(members, study.train, study.valid, "stacked")
    for member, one in zip(members, alone, strict=True):
        _assert_same(member, one, exactly=True)

    logits = MMoE.logits
    monkeypatch.setattr(MMoE, "logits", lambda self, x, s: logits(self, x + torch.rand(x.shape) / 10, s))
    given = [{"learning_rate": 0.01}, {"learning_rate": 0.02}]
    alone = [study.alone("MMoE", settings) for settings in given]
    members = [study.member("MMoE", settings) for settings in given]
    train_members(members, study.train, study.valid, "stacked")
    for member, one in zip(members, alone, strict=True):
        _assert_same(member, one, exactly=True)


def test_a_model_that_comes_to_other_numbers_in_a_stack_is_not_stacked(study, monkeypatch):
    """Here because its code reads a number that is no parameter, and not that of the member whose turn it is."""
    from recbole_msr.models.mmoe import MMoE

    loss = MMoE.calculate_loss
    monkeypatch.setattr(MMoE, "calculate_loss", lambda self, rows: loss(self, rows) * self.dropout_factor)
    members = [study.member("MMoE", {"seed": seed}) for seed in (1, 2)]
    for member, factor in zip(members, (1.0, 1.5), strict=True):
        member.model.dropout_factor = factor
    assert stack_mismatch(members[0].model, members[1].model) is None
    before = [copy.deepcopy(member.model.state_dict()) for member in members]
    assert Stack.from_members(members, study.train) is None
    for member, kept in zip(members, before, strict=True):
        assert all(kept[key].equal(value) for key, value in member.model.state_dict().items())
    members[1].model.dropout_factor = 1.0
    assert Stack.from_members(members, study.train) is not None


def test_trainings_that_read_other_vectors_each_read_their_own(study):
    """The first losses do not tell: the scenario level's head is zero then."""
    level = {"knowledge": "random", "knowledge_level": "scenario", "epochs": 1}
    given = [level | {"knowledge_seed": seed} for seed in (1, 2)]
    alone = [study.alone("LLM4MSR", settings) for settings in given]
    assert _numbers(alone[0].epochs) != _numbers(alone[1].epochs)
    members = [study.member("LLM4MSR", settings) for settings in given]
    train_members(members, study.train, study.valid, "stacked")
    for member, one in zip(members, alone, strict=True):
        _assert_same(member, one, exactly=True)


def test_settings_that_change_more_than_numbers_keep_models_apart(study):
    def model(**settings):
        return study.built(study.config("MMoE", settings))

    one = model()
    assert stack_mismatch(one, model(seed=3, dropout=0.4, learning_rate=0.5)) is None
    assert "output_size" in stack_mismatch(one, model(expert_hidden_sizes=[9]))
    narrow, wide = (torch.nn.ParameterList([torch.ones(size)]) for size in (2, 3))
    assert "shapes" in stack_mismatch(narrow, wide)
    assert "parts" in stack_mismatch(one, model(batch_norm=True))
    assert "kinds" in stack_mismatch(one, model(activation="gelu"))
    assert "MMoE" in stack_mismatch(one, study.built(study.config("HiNet", {})))
    assert "differs" in stack_mismatch(one, model(main_task="like"))


def test_a_configuration_for_another_trainer_is_refused(study):
    member = study.member("MMoE", {"lightning": {"precision": "bf16-mixed"}})
    with pytest.raises(InputError, match="Lightning"):
        train_members([member, study.member("MMoE", {})], study.train, study.valid)
    with pytest.raises(InputError, match="stacked or side by side, got 'fast'"):
        train_members([study.member("MMoE", {})], study.train, study.valid, "fast")


def test_a_trained_model_is_freed_with_its_member(study):
    """At once, and not when Python next looks for circles: what is trained after it needs the memory."""
    members = [study.member("LR", {"seed": seed}) for seed in (1, 2)]
    models = [weakref.ref(member.model) for member in members]
    gc.collect()
    gc.disable()
    try:
        train_members(members, study.train, study.valid)
        members.clear()
        assert [model() for model in models] == [None, None]
    finally:
        gc.enable()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("weighting", ["dwa", "gradnorm"])
def test_weightings_on_a_gpu_are_on_it(weighting, study):
    given = [{"loss_weighting": weighting, "use_gpu": True, "seed": seed} for seed in (1, 2)]
    members = [study.member("MMoE", settings) for settings in given]
    train_members(members, study.train, study.valid)
    assert [member.error for member in members] == [None, None]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_members_on_a_gpu_come_to_the_numbers_they_have_alone(study, monkeypatch):
    given = [DESCENT | settings | {"use_gpu": True} for settings in DIFFERENT["HiNet"]]
    alone = [study.alone("HiNet", settings) for settings in given]
    _only_stacked(monkeypatch)
    members = [study.member("HiNet", settings) for settings in given]
    train_members(members, study.train, study.valid)
    for member, one in zip(members, alone, strict=True):
        _assert_same(member, one, exactly=False)


def test_on_a_cpu_members_are_trained_side_by_side(study, monkeypatch):
    monkeypatch.setattr(Stack, "step", lambda *_: pytest.fail("stacked"))
    settings = {"learning_rate": 0.01}
    member, other = study.member("LR", settings), study.member("LR", {})
    train_members([member, other], study.train, study.valid)
    _assert_same(member, study.alone("LR", settings), exactly=True)
    config = study.config("MMoE", {"expert_hidden_sizes": [512, 512], "train_batch_size": 2048})
    assert [fused_group_size(one, config) for one in (member.model, study.built(config))] == [8, 1]


def test_random_states_do_not_mix():
    torch.manual_seed(1)
    one, expected = RandomState("cpu"), torch.rand(4)
    torch.manual_seed(2)
    other, of_other = RandomState("cpu"), torch.rand(2)
    torch.manual_seed(3)
    outside = torch.rand(2)
    torch.manual_seed(3)
    drawn = []
    for _ in range(2):
        with one:
            drawn.append(torch.rand(2))
        with other:
            drawn.append(torch.rand(1))
    assert torch.cat([drawn[0], drawn[2]]).equal(expected)
    assert torch.cat([drawn[1], drawn[3]]).equal(of_other)
    assert torch.rand(2).equal(outside)
