"""Runs that differ in the seed, trained together: each leaves the folder that it leaves alone."""

import json
import logging
from pathlib import Path

import pandas as pd
import pytest
import torch

import recbole_msr
from recbole_msr.runs import seeds as module
from recbole_msr.runs.run import Run
from recbole_msr.runs.seeds import run_seeds
from recbole_msr.training.fused.loop import SideBySide
from recbole_msr.training.fused.member import Member
from recbole_msr.training.module import RecModule
from tests.tracking.read_back import runs

SEEDS = (7, 8, 9)
SMALL = {
    "HiNet": {"sub_experts": 2, "expert_hidden_sizes": [8], "task_expert_hidden_sizes": [8], "dropout": 0.3},
    "LR": {},
    "DeepFM": {"mlp_hidden_size": [8, 8], "fast_dropout": True, "embedding_gradients": "sparse"},
    "MMoE": {"experts": 2, "expert_hidden_sizes": [8], "loss_weighting": "gradnorm", "epochs": 14},
}


@pytest.fixture
def settings(tiny_data):
    """Of a run of HiNet on "tiny" that leaves all there is to leave; other models by their name."""
    torch.set_num_threads(1)

    def of(model="HiNet", **given):
        return {
            "model": model, "dataset": "tiny", "data_path": str(tiny_data),
            "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"], "user": ["user_id", "age", "gender"]},
            "tasks": {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5}},
            "scenario": {"field": "age", "bins": [30]}, "use_gpu": False, "threads": 1, "show_progress": False,
            "epochs": 12, "stopping_step": 0, "learning_rate": 0.05, "train_batch_size": 64,
            "metric_decimal_place": 12, "save_predictions": True,
        } | SMALL[model] | given  # fmt: skip

    return of


def folders(parent):
    return {seed: parent / f"seed-{seed}" for seed in SEEDS}


def alone(folder, settings, seed):
    return recbole_msr.run(config={**settings, "seed": seed, "output_dir": str(folder)})


def result(folder, timed=False):
    """result.json; without what depends on the clock, unless asked for."""
    found = json.loads(Path(folder, "result.json").read_text())
    times = ("seconds", "rows_per_second", "fused")
    return {key: value for key, value in found.items() if timed or key not in times}


def assert_same_folder(one, other):
    """All files of a run that has ended, number for number."""
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
    assert result(one) == result(other)
    assert list(result(other, timed=True)) == [key for key in result(one, timed=True) if key != "fused"]
    assert (one / "config.yaml").read_text() == (other / "config.yaml").read_text()
    tables = [pd.read_csv(folder / "metrics.csv") for folder in (one, other)]
    clock = ["seconds", "rows_per_second"]
    pd.testing.assert_frame_equal(*(table.drop(columns=clock) for table in tables), check_exact=True)
    if (other / "predictions.parquet").exists():
        tables = [pd.read_parquet(folder / "predictions.parquet") for folder in (one, other)]
        pd.testing.assert_frame_equal(*tables, check_exact=True)
    ours, theirs = (torch.load(folder / "best.ckpt", weights_only=True) for folder in (one, other))
    assert ours["epoch"] == theirs["epoch"]
    assert ours["config"] == theirs["config"]
    assert all(value.equal(theirs["state_dict"][key]) for key, value in ours["state_dict"].items())


def only_together(monkeypatch):
    """Make sure that nothing is quietly trained alone."""
    monkeypatch.setattr(module, "run_once", lambda *_: pytest.fail("trained alone"))


@pytest.mark.slow
@pytest.mark.parametrize("model", list(SMALL))
def test_each_run_leaves_what_it_leaves_alone(model, settings, tmp_path, monkeypatch):
    given = settings(model)
    lengths = [alone(tmp_path / f"alone-{seed}", given, seed).summary["epochs"] for seed in SEEDS]
    assert len(set(lengths)) > 1, "they stop early, each at its own epoch"
    only_together(monkeypatch)
    seen = []
    assert run_seeds(folders(tmp_path), given, lambda: seen.append(1)) == {}
    assert len(seen) == len(SEEDS)
    for seed, folder in folders(tmp_path).items():
        assert_same_folder(folder, tmp_path / f"alone-{seed}")
        summary = result(folder, timed=True)
        assert summary["fused"] == len(SEEDS)
        assert 0 < summary["seconds"]["train"] < summary["seconds"]["total"]
        lines = (folder / "run.log").read_text().splitlines()
        told = [line for line in lines if "epoch" in line]
        assert len(told) == summary["epochs"]
        assert all(f"seed {seed}: epoch" in line for line in told), "the other runs' epochs are in their own logs"
        assert any("trained together: the runs with seeds 7, 8, 9" in line for line in lines)


def test_what_has_ended_is_left_and_what_was_interrupted_alone_goes_on(settings, tmp_path, monkeypatch):
    given, of = settings(), folders(tmp_path)
    whole = alone(tmp_path / "alone-8", given, 8).summary
    alone(of[7], given, 7)
    before = (of[7] / "result.json").read_bytes()

    def interrupt(self, *_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "test", interrupt)
        with pytest.raises(KeyboardInterrupt):
            alone(of[8], given, 8)
    assert (of[8] / "last.ckpt").is_file()
    trained = (of[8] / "metrics.csv").stat().st_mtime_ns
    assert run_seeds(of, given) == {}
    assert (of[7] / "result.json").read_bytes() == before
    assert (of[8] / "metrics.csv").stat().st_mtime_ns == trained, "its last epoch was over"
    assert result(of[8])["test"] == whole["test"]
    assert (of[9] / "result.json").is_file()


@pytest.mark.slow
def test_an_interrupted_group_keeps_the_runs_that_had_ended(settings, tmp_path, monkeypatch):
    given, of = settings(), folders(tmp_path)
    for seed in SEEDS:
        alone(tmp_path / f"alone-{seed}", given, seed)
    end, ended = module._Group._end, []

    def interrupt(self, seed):
        if ended:
            raise KeyboardInterrupt
        ended.append(seed)
        end(self, seed)

    with monkeypatch.context() as patch:
        patch.setattr(module._Group, "_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_seeds(of, given)
    done = [seed for seed, folder in of.items() if (folder / "result.json").is_file()]
    assert done == ended
    stopped = [seed for seed in SEEDS if seed not in done]
    begun = {seed: pd.read_csv(of[seed] / "metrics.csv") for seed in stopped}
    before = (of[done[0]] / "result.json").read_bytes()
    assert not any(str(tmp_path) in str(handler) for handler in logging.getLogger().handlers)
    assert run_seeds(of, given) == {}
    assert (of[done[0]] / "result.json").read_bytes() == before
    for seed, folder in of.items():
        assert_same_folder(folder, tmp_path / f"alone-{seed}")
    longer = 0
    for seed, rows in begun.items():
        now = pd.read_csv(of[seed] / "metrics.csv")
        longer += len(now) - len(rows)
        pd.testing.assert_frame_equal(now.head(len(rows)), rows)  # their seconds, too: they were not trained again
    assert longer, "at least one was not over"


def test_interrupting_while_the_data_are_read_leaves_nothing(settings, tmp_path, monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    handlers = list(logging.getLogger().handlers)
    monkeypatch.setattr(Run, "load", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_seeds(folders(tmp_path), settings())
    assert logging.getLogger().handlers == handlers
    assert not any(folder.exists() for folder in folders(tmp_path).values())


def test_interrupting_a_test_is_an_interruption(settings, tmp_path, monkeypatch):
    """Lightning would end the process then."""
    of = folders(tmp_path)

    def interrupt(self, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr(RecModule, "test_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_seeds(of, settings())
    assert all((folder / "last.ckpt").is_file() for folder in of.values())


@pytest.mark.slow
def test_a_run_that_diverges_leaves_the_others_as_they_are(settings, tmp_path, monkeypatch):
    given, of = settings(), folders(tmp_path)
    whole = module.configure_run

    def poisoned(model, dataset, settings):
        rate = {"learning_rate": 1e30} if settings.get("seed") == 8 else {}
        return whole(model, dataset, {**settings, **rate})

    with monkeypatch.context() as patch:
        patch.setattr(module, "configure_run", poisoned)
        only_together(patch)
        errors = run_seeds(of, given)
    assert list(errors) == [8]
    assert "became infinite or not a number" in str(errors[8])
    assert not (of[8] / "result.json").exists()
    for seed in (7, 9):
        alone(tmp_path / f"alone-{seed}", given, seed)
        assert_same_folder(of[seed], tmp_path / f"alone-{seed}")
    assert run_seeds(of, given) == {}, "it is tried again"
    alone(tmp_path / "alone-8", given, 8)
    assert_same_folder(of[8], tmp_path / "alone-8")


def test_a_run_that_cannot_be_written_down_leaves_the_others_as_they_are(settings, tmp_path, monkeypatch):
    given, of = settings(), folders(tmp_path)
    finish = Run.finish

    def full(self, *args):
        if self.config["seed"] == 9:
            raise OSError(28, "No space left on device")
        return finish(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", full)
        errors = run_seeds(of, given)
    assert list(errors) == [9]
    assert "No space left" in str(errors[9])
    assert [seed for seed, folder in of.items() if (folder / "result.json").is_file()] == [7, 8]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["begin", "step", "all"])
def test_what_runs_out_of_memory_among_others_is_trained_alone(where, settings, tmp_path, monkeypatch, caplog):
    given, of = settings("LR"), folders(tmp_path)
    with monkeypatch.context() as patch:
        if where == "all":  # what all members share
            patch.setattr(module, "train_members", lambda *_: (_ for _ in ()).throw(MemoryError("too little")))
        else:
            kind, name = (Member, "__init__") if where == "begin" else (SideBySide, "_step")
            real = getattr(kind, name)

            def no_room(*args, **kwargs):
                config = args[1] if where == "begin" else args[0].config
                if config["seed"] == 8:
                    raise MemoryError("too little")
                return real(*args, **kwargs)

            patch.setattr(kind, name, no_room if where == "begin" else staticmethod(no_room))
        assert run_seeds(of, given) == {}
    assert ("cannot be trained together" if where == "all" else "the run with seed 8 ran out of memory") in caplog.text
    for seed, folder in of.items():
        assert ("fused" in result(folder, timed=True)) == (where != "all" and seed != 8)
        alone(tmp_path / f"alone-{seed}", given, seed)
        assert_same_folder(folder, tmp_path / f"alone-{seed}")


@pytest.mark.slow
def test_runs_with_a_wandb_run_each_are_trained_one_by_one(settings, tmp_path, caplog):
    of = folders(tmp_path)
    assert run_seeds(of, settings("LR", wandb="offline", epochs=1)) == {}
    assert "each has a W&B run of its own" in caplog.text
    assert all(len(runs(folder / "wandb")) == 1 for folder in of.values())


def test_seeds_with_a_split_each_are_trained_one_by_one(settings, tmp_path, caplog):
    """Without declared tasks the split is RecBole's own, which follows the seed."""
    plain = {"tasks": None, "scenario": None, "trainer": "lightning", "save_predictions": False}
    labels = {"threshold": {"rating": 4}, "eval_args": {"mode": "labeled"}, "metrics": ["AUC"], "valid_metric": "AUC"}
    given, of = settings("LR", **plain, **labels, train_neg_sample_args=None), folders(tmp_path)
    assert run_seeds(of, given) == {}
    assert "each seed has a split of its own" in caplog.text
    for seed, folder in of.items():
        alone(tmp_path / f"alone-{seed}", given, seed)
        assert_same_folder(folder, tmp_path / f"alone-{seed}")


def test_settings_that_cannot_be_used_leave_nothing(settings, tmp_path):
    of = folders(tmp_path)
    errors = run_seeds(of, settings(valid_metric="AUC/nobody"))
    assert set(errors) == set(SEEDS)
    assert all("AUC/nobody" in str(error) for error in errors.values())
    assert not any(folder.exists() for folder in of.values())
