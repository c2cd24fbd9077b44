"""Runs on logs of positives: they train, resume, and are told what is wrong before they start."""

import pytest

import recbole_msr
from recbole_msr.errors import InputError

SETTINGS = {
    "tasks": {"use": {"field": "label"}},
    "scenario": {"field": "age", "bins": [30]},
    "train_neg_sample_args": {"distribution": "popularity", "sample_num": 2},
    "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": None, "mode": "full"},
    **{"metrics": ["NDCG"], "topk": [5], "valid_metric": "NDCG@5"},
    **{"embedding_size": 4, "train_batch_size": 200, "learning_rate": 0.01, "epochs": 3, "stopping_step": 10},
    **{"use_gpu": False, "show_progress": False, "packed_cache": False},
}


@pytest.fixture
def settings(tiny_data, monkeypatch):
    monkeypatch.chdir(tiny_data)
    return SETTINGS | {"data_path": str(tiny_data)}


@pytest.mark.parametrize("model", ["SharedBottom", "HiNet", "DeepFM"])
def test_a_log_without_labels_trains(model, settings, tiny_data):
    args = settings | {"output_dir": "out"}
    if model == "DeepFM":
        args |= {"weight_decay": 0.0}
    result = recbole_msr.run(model, "tiny", config=args)
    assert result.summary["epochs"] == 3
    assert 0 < result.summary["test"]["metrics"]["ndcg@5"] <= 1


def test_a_resumed_run_draws_what_an_uninterrupted_one_draws(settings, tiny_data):
    from recbole_msr.training.epochs import EpochKeeper

    whole = recbole_msr.run("SharedBottom", "tiny", config=settings | {"output_dir": "whole"})
    end = EpochKeeper.on_train_epoch_end

    def interrupt(self, trainer, module):
        end(self, trainer, module)
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpochKeeper, "on_train_epoch_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            recbole_msr.run("SharedBottom", "tiny", config=settings | {"output_dir": "cut"})
    resumed = recbole_msr.run("SharedBottom", "tiny", config=settings | {"output_dir": "cut", "resume": True})
    assert resumed.summary["test"] == whole.summary["test"]


def test_metrics_of_labels_are_refused_before_training(settings, tiny_data):
    args = settings | {"metrics": ["AUC"], "valid_metric": "AUC", "output_dir": "out"}
    del args["topk"]
    args["eval_args"] = settings["eval_args"] | {"mode": "labeled"}
    with pytest.raises(InputError, match="every row is a positive, and AUC need negatives too: rank items"):
        recbole_msr.run("SharedBottom", "tiny", config=args)
    assert not (tiny_data / "out").exists()
