"""Comparisons by ranked lists: the same lists for all, tested by user, in the same tables."""

import numpy as np
import pandas as pd
import pytest

import recbole_msr
from tests.runs.tiny import write_tiny

SETTINGS = {
    "scenario": {"field": "age", "bins": [30]},
    "tasks": {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5}},
    "eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "RO", "group_by": None, "mode": "full"},
    "metrics": ["Recall", "NDCG"],
    "topk": [3, 5],
    "valid_metric": "NDCG@5/macro",
    "embedding_size": 4,
    "epochs": 2,
    "use_gpu": False,
    "state": "ERROR",
}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranking")
    given = SETTINGS | {"data_path": str(write_tiny(folder))}
    models = ["SharedBottom", "DeepFM"]
    return recbole_msr.compare(
        models, dataset="tiny", config=given, seeds=2, output=folder / "out", wandb="disabled", progress=False
    )


def _values(compared, label, metric, seed):
    """Return the values of a metric for every list of one seed, by task."""
    (entry,) = [entry for entry in compared.summary["entries"] if entry["label"] == label]
    frames = [pd.read_parquet(compared.folder / run["folder"] / "lists.parquet") for run in entry["runs"]
              if run["seed"] == seed]  # fmt: skip
    return {task: next(f for f in frames if f"{metric}_{task}" in f) for task in ("click", "like")}


def test_all_entries_rank_the_same_lists(compared):
    for seed in compared.summary["seeds"]:
        ours, theirs = (_values(compared, label, "ndcg@5", seed) for label in ("SharedBottom", "DeepFM"))
        for task in ours:
            columns = ["scenario", "user", f"positives_{task}"]
            pd.testing.assert_frame_equal(ours[task][columns], theirs[task][columns])


def test_a_difference_has_the_variance_of_users(compared):
    seeds = compared.summary["seeds"]
    (entry,) = [entry for entry in compared.summary["entries"] if entry["label"] == "DeepFM"]
    found = entry["differences"]["ndcg@5/age<30/click"]
    per_list, per_seed = [], []
    for seed in seeds:
        ours, theirs = (_values(compared, label, "ndcg@5", seed)["click"] for label in ("SharedBottom", "DeepFM"))
        there = (ours["scenario"] == 1) & ours["ndcg@5_click"].notna()
        per_list.append((theirs["ndcg@5_click"] - ours["ndcg@5_click"])[there])
        per_seed.append(per_list[-1].mean())
    assert found["mean"] == pytest.approx(np.mean(per_seed))
    mean = np.mean(per_list, axis=0)  # a user has one list in a scenario
    assert found["row_error"] == pytest.approx(mean.std(ddof=1) / len(mean) ** 0.5)
    assert found["seed_error"] == pytest.approx(np.std(per_seed, ddof=1) / len(seeds) ** 0.5)


def test_the_leaderboard_is_by_the_metric_of_validation(compared):
    assert compared.summary["of_lists"] == ["ndcg@5", "recall@3", "recall@5", "ndcg@3"]
    means = compared.leaderboard["ndcg@5/macro"].tolist()
    assert means == sorted(means, reverse=True)
    assert "macro NDCG@5" in compared.verdict[0]
    text = (compared.folder / "report.html").read_text(encoding="utf-8")
    assert "Recall@3" in text
    assert "AUC" not in text


def test_recboles_ranking_models_stand_in_the_same_table(tmp_path):
    given = SETTINGS | {"data_path": str(write_tiny(tmp_path)), "epochs": 1}
    given["train_neg_sample_args"] = {"distribution": "uniform", "sample_num": 1}
    found = recbole_msr.compare(
        ["SharedBottom", "BPR", "Pop", "SASRec"], dataset="tiny", config=given, seeds=1, output=tmp_path / "out",
        wandb="disabled", progress=False,
    )  # fmt: skip
    for entry in found.summary["entries"]:
        assert (entry["status"], entry["reasons"]) == ("complete", []), entry["label"]
        assert entry["differences"] is None or "ndcg@5/macro" in entry["differences"]
        assert ("embedding_size" in entry["config"]) == (entry["label"] in ("SharedBottom", "BPR"))  # Pop has none
