"""Runs that are evaluated by ranked lists: what is declared, chosen, tested, kept and refused."""

import csv

import numpy as np
import pandas as pd
import pytest

import recbole_msr
from recbole_msr.config.build import build_config
from recbole_msr.errors import InputError
from recbole_msr.evaluation.cells import Evaluation
from recbole_msr.files.json import read_json
from tests.runs.tiny import SMALL

EVAL = {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "RO", "group_by": None}
SETTINGS = {
    "scenario": {"field": "age", "bins": [30]},
    "tasks": {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5}},
    "eval_args": EVAL | {"mode": {"valid": "uni5", "test": "full"}},
    "metrics": ["NDCG", "Recall", "MRR"],
    "topk": [3, 5],
    "valid_metric": "NDCG@5/macro",
    **SMALL,
    "epochs": 3,
}


@pytest.fixture(scope="module")
def trained(run_tiny, tmp_path_factory):
    return run_tiny(tmp_path_factory.mktemp("run") / "first", save_predictions=True)


@pytest.fixture(scope="module")
def scored(trained, data_path):
    """All users with all items: the predictions of the saved run."""
    raw = pd.read_csv(data_path / "tiny" / "tiny.inter", sep="\t").rename(columns=lambda name: name.split(":")[0])
    frame = pd.MultiIndex.from_product([raw["user_id"].unique(), raw["item_id"].unique()]).to_frame(index=False)
    frame.columns = ["user_id", "item_id"]
    return frame.join(recbole_msr.load(trained.folder).predict(frame))


def _rows(trained, data_path):
    """The rows of the three splits, with the files' tokens."""
    from recbole.data import create_dataset

    config = build_config("SharedBottom", "tiny", SETTINGS | {"data_path": str(data_path)})
    parts = []
    for split in create_dataset(config).build():
        tokens = {key: split.id2token(key, split.inter_feat[key].numpy()) for key in ("user_id", "item_id")}
        labels = {task: split.inter_feat[f"label_{task}"].numpy() for task in ("click", "like")}
        parts.append(pd.DataFrame({**tokens, **labels, "scenario": split.row_scenario(split.inter_feat).numpy()}))
    return parts


def test_test_metrics_are_those_of_a_loop_over_users_and_predictions(trained, scored, data_path):
    train, valid, test = _rows(trained, data_path)
    met = pd.concat([train, valid]).groupby("user_id")["item_id"].agg(set).to_dict()
    for task in ("click", "like"):
        values = {1: [], 2: []}
        for (user, scenario), rows in test[test[task] == 1].groupby(["user_id", "scenario"]):
            positives = set(rows["item_id"])
            own = scored[scored["user_id"] == user].sort_values(task, ascending=False)
            ranked = [item for item in own["item_id"] if item in positives or item not in met.get(user, set())]
            found = [place for place, item in enumerate(ranked[:5], start=1) if item in positives]
            gain = sum(1 / np.log2(place + 1) for place in found)
            values[scenario].append(gain / sum(1 / np.log2(np.arange(min(5, len(positives))) + 2)))
        for scenario, name in ((1, "age<30"), (2, "age>=30")):
            cell = trained.test.cells[name][task]
            assert (cell.rows, cell.type) == (len(values[scenario]), "ranking")
            assert cell.value("ndcg@5") == pytest.approx(np.mean(values[scenario]))
        assert trained.test.pooled[task].value("ndcg@5") == pytest.approx(np.mean(values[1] + values[2]))


def test_the_best_epoch_is_that_of_the_ranking_metric(trained):
    with (trained.folder / "metrics.csv").open() as file:
        values = [float(row["valid/ndcg@5/macro"]) for row in csv.DictReader(file)]
    assert trained.summary["best_valid_score"] == max(values)
    assert values[trained.summary["best_epoch"] - 1] == max(values)


def test_results_are_kept_by_scenario_and_task(trained):
    kept = read_json(trained.folder / "result.json", {"test": dict})["test"]
    assert Evaluation.from_dict(kept) == trained.test
    assert list(kept["metrics"]) == ["ndcg@3", "ndcg@5", "recall@3", "recall@5", "mrr@3", "mrr@5"]
    assert kept["metrics"]["mrr@5"] == round(trained.test.pooled["click"].value("mrr@5"), 4)
    assert recbole_msr.load(trained.folder).result["test"] == kept


def test_the_values_of_all_lists_are_kept(trained):
    lists = pd.read_parquet(trained.folder / "lists.parquet")
    for task in ("click", "like"):
        cell = trained.test.pooled[task]
        assert lists[f"ndcg@5_{task}"].notna().sum() == cell.rows
        assert lists[f"ndcg@5_{task}"].mean() == pytest.approx(cell.value("ndcg@5"))
        assert lists[f"positives_{task}"].sum() == cell.positives


@pytest.mark.parametrize("model", ["DeepFM", "STAR"])
@pytest.mark.parametrize("mode", ["full", "pop4"])
def test_other_models_are_ranked(run_tiny, tmp_path, model, mode):
    made = run_tiny(tmp_path / "run", model, epochs=1, eval_args=EVAL | {"mode": mode}, valid_metric="MRR@3")
    assert list(made.test.tasks) == (["click"] if model == "DeepFM" else ["click", "like"])
    assert 0 < made.test.pooled["click"].value("recall@5") <= 1


def test_metrics_have_recboles_defaults(data_path):
    given = {key: value for key, value in SETTINGS.items() if key not in ("metrics", "topk", "valid_metric")}
    config = build_config("HiNet", "tiny", given | {"data_path": str(data_path)})
    assert config["metrics"] == ["Recall", "MRR", "NDCG", "Hit", "Precision"]
    assert (config["topk"], config["valid_metric"]) == ([10], "MRR@10")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": ["AUC"]}, "metrics: 'AUC' is none of ranked lists"),
        ({"metrics": ["GiniIndex"]}, "metrics: 'GiniIndex' is none of ranked lists"),
        ({"eval_args": EVAL | {"mode": "labeled"}}, "are of ranked lists, and eval_args: mode is"),
        ({"eval_args": EVAL | {"mode": {"valid": "labeled", "test": "full"}}}, "set it to full, uniN or popN for both"),
        ({"eval_args": EVAL | {"mode": "top"}}, "must be labeled, full, uniN or popN"),
        ({"tasks": {"stars": {"field": "rating", "type": "number"}}}, "task 'stars' is of type number"),
        ({"tasks": {"stars": {"field": "rating", "type": "classes"}}}, "task 'stars' is of type classes"),
        ({"calibrate": "isotonic"}, "calibrate is of labelled rows"),
        ({"trainer": "recbole"}, "takes every row for a positive"),
    ],
)
def test_what_cannot_be_ranked_is_refused_in_one_line(data_path, settings, message):
    with pytest.raises(InputError, match=message) as refused:
        build_config("SharedBottom", "tiny", SETTINGS | {"data_path": str(data_path)} | settings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"topk": [5, 31]}, "topk: 31 is beyond the number of items of 'tiny', 30"),
        ({"valid_metric": "NDCG@4"}, "there is no valid_metric 'NDCG@4'; did you mean"),
        ({"eval_args": EVAL | {"mode": "uni29"}}, "uni29 draws 29 items that a user has not met"),
        ({"tasks": {"never": {"field": "rating", "above": 9}}}, "the valid split of 'tiny' has no positive"),
    ],
)
def test_a_run_that_has_no_lists_leaves_nothing(run_tiny, tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        run_tiny(tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_fused_seeds_have_the_results_of_single_ones(data_path, tmp_path, trained):
    from recbole_msr.runs.seeds import run_seeds

    folders = {seed: tmp_path / f"seed-{seed}" for seed in (2020, 7)}
    given = SETTINGS | {"data_path": str(data_path), "model": "SharedBottom", "dataset": "tiny"}
    assert run_seeds(folders, given) == {}
    kept = read_json(folders[2020] / "result.json", {"test": dict})
    assert kept["fused"] == 2
    assert kept["test"]["pooled"] == trained.test.to_dict()["pooled"]


def test_a_search_has_a_ranking_metric_as_its_objective(data_path, tmp_path, no_pages):
    given = SETTINGS | {"data_path": str(data_path), "epochs": 1}
    found = recbole_msr.search(
        "SharedBottom", "tiny", 2, config=given, output=tmp_path / "study", final_seeds=1, wandb="disabled",
        progress=False,
    )  # fmt: skip
    best = found.summary["best"]["values"][0]
    assert [one["name"] for one in found.summary["objectives"]] == ["ndcg@5/macro"]
    assert 0 < best < 1
