"""RecBole's general and sequential models on the positives of a task, scored on the lists of all other models."""

import numpy as np
import pandas as pd
import pytest
import torch

import recbole_msr
from recbole_msr.config.build import build_config
from recbole_msr.data.negatives import NegativeSettings
from recbole_msr.data.positives import list_inputs, positives_of
from recbole_msr.data.ranked_lists import ranked_lists
from recbole_msr.errors import InputError
from recbole_msr.runs.item_rankers import positives_loader
from tests.runs.tiny import write_tiny

SETTINGS = {
    "scenario": {"field": "age", "bins": [30]},
    "tasks": {"click": {"field": "rating", "at_least": 4}},
    "eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "TO", "group_by": "user", "mode": "full"},
    "metrics": ["NDCG", "Recall", "MRR", "Hit", "MAP", "Precision"],
    "topk": [3, 5],
    "valid_metric": "NDCG@5/macro",
    "epochs": 3,
    "learning_rate": 0.02,
    "train_neg_sample_args": None,
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
}


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("rankers"))


def _run(data_path, folder, model, **settings):
    given = SETTINGS | {"data_path": str(data_path), "output_dir": str(folder)} | settings
    return recbole_msr.run(model, "tiny", config=given)


def _splits(data_path, model, **settings):
    from recbole_msr.data.dataset import ScenarioDataset

    config = build_config(model, "tiny", SETTINGS | {"data_path": str(data_path)} | settings)
    return config, ScenarioDataset(config).build()


def test_metrics_are_those_of_recboles_own_evaluation(data_path, tmp_path):
    """One scenario, every row a positive: RecBole's loaders, trainer and evaluator rank the same."""
    from recbole.data.dataloader import FullSortEvalDataLoader
    from recbole.sampler import Sampler
    from recbole.trainer import Trainer

    settings = {"scenario": None, "tasks": {"rated": {"field": "rating", "above": 0}}, "valid_metric": "NDCG@5"}
    made = _run(data_path, tmp_path / "run", "BPR", **settings)
    config, parts = _splits(data_path, "BPR", **settings)
    config["checkpoint_dir"], config["tasks"] = str(tmp_path), None
    trainer = Trainer(config, made.model)
    sampler = Sampler(["train", "valid", "test"], parts, "uniform", 1.0)
    trainer.eval_collector.data_collect(parts[0])
    loader = FullSortEvalDataLoader(config, parts[2], sampler.set_phase("test"))
    assert made.summary["test"]["metrics"] == dict(trainer.evaluate(loader, load_best_model=False))


def test_a_general_model_is_ranked_by_scenario(data_path, tmp_path):
    made = _run(data_path, tmp_path / "run", "BPR", save_predictions=True)
    config, parts = _splits(data_path, "BPR")
    lists = ranked_lists(parts[2], config)
    users, items = made.model.user_embedding.weight.detach(), made.model.item_embedding.weight.detach()
    ranked = lists.ranked(np.arange(len(lists)))
    values = {1: [], 2: []}
    for place, scenario in enumerate(lists.scenarios):
        scores = (items @ users[lists.users[place]]).masked_fill(ranked.left_out[0][place], -np.inf)
        found = ranked.positive[0][place][scores.argsort(descending=True)[:3]]
        values[scenario].append(found.sum().item() / lists.n_positives[place, 0])
    for scenario, name in ((1, "age<30"), (2, "age>=30")):
        assert made.test.cells[name]["click"].value("recall@3") == pytest.approx(np.mean(values[scenario]))
    kept = pd.read_parquet(made.folder / "lists.parquet")
    assert kept["recall@3_click"].mean() == pytest.approx(made.test.pooled["click"].value("recall@3"))
    assert made.summary["trainer"] == "recbole"


def test_pop_counts_the_training_positives_of_the_task(data_path, tmp_path):
    # RecBole counts an item once a batch; the only epoch is validated, whatever eval_step is for the others.
    made = _run(data_path, tmp_path / "run", "Pop", train_batch_size=1, eval_step=2)
    _, (train, *_) = _splits(data_path, "Pop")
    positive = train.inter_feat["label_click"] == 1
    counts = torch.bincount(train.inter_feat["item_id"][positive], minlength=train.item_num)
    assert made.model.item_cnt.flatten().equal(counts)
    assert made.summary["epochs"] == 1


@pytest.mark.parametrize("model", ["LightGCN", "SASRec", "NeuMF"])
def test_other_models_train(data_path, tmp_path, model):
    made = _run(data_path, tmp_path / "run", model, epochs=2)
    assert 0 < made.test.pooled["click"].value("ndcg@5") <= 1
    history = pd.read_csv(made.folder / "metrics.csv")
    assert made.summary["best_valid_score"] == pytest.approx(history["valid_score"].max())
    with pytest.raises(InputError, match=rf"is of {model}, one of RecBole's models .* it scores no new rows"):
        recbole_msr.load(made.folder).predict(pd.DataFrame({"user_id": ["u1"], "item_id": ["i1"]}))


def test_items_that_are_held_out_are_no_negatives(data_path):
    held_out = SETTINGS["eval_args"] | {"group_by": "cold_item", "order": "RO"}
    config, (train, *_) = _splits(data_path, "BPR", eval_args=held_out)
    loader, trained = positives_loader(config, positives_of(train, config)), set(train.inter_feat["item_id"].tolist())
    drawn = torch.cat([batch["neg_item_id"] for _ in range(5) for batch in loader])
    assert set(drawn.tolist()) == trained
    assert len(trained) < train.item_num - 1

    tasks = {"click": {"field": "rating", "above": 0}}
    config, (train, *_) = _splits(data_path, "BPR", eval_args=held_out | {"split": {"RS": [1, 9, 10]}}, tasks=tasks)
    with pytest.raises(InputError, match="cold_item: a user has every item of the training rows as a positive"):
        positives_loader(config, positives_of(train, config))


def _frame(part, split):
    inter = split.inter_feat if part is None else part
    columns = {key: inter[key].numpy() for key in ("user_id", "item_id", "label_click", "timestamp")}
    return pd.DataFrame(columns).query("label_click == 1").sort_values("timestamp", kind="stable")


def test_sequences_are_the_users_earlier_positives(data_path):
    config, parts = _splits(data_path, "SASRec", MAX_ITEM_LIST_LENGTH=4)
    rows, positives = _frame(None, parts[0]), positives_of(parts[0], config)
    expected = set()
    for user, own in rows.groupby("user_id"):
        items = own["item_id"].tolist()
        expected |= {(user, items[n], tuple(items[max(0, n - 4) : n])) for n in range(1, len(items))}
    inter = positives.inter_feat
    found = {
        (user, item, tuple(sequence[:length]))
        for user, item, sequence, length in zip(
            *(inter[key].tolist() for key in ("user_id", "item_id", "item_id_list", "item_length")), strict=True
        )
    }
    assert found == expected


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("order", ["TO", "RO"])
def test_a_lists_sequence_has_earlier_splits_and_times_alone(data_path, number, order):
    eval_args = SETTINGS["eval_args"] | {"order": order}
    config, parts = _splits(data_path, "SASRec", MAX_ITEM_LIST_LENGTH=4, eval_args=eval_args)
    split = parts[number]
    lists = ranked_lists(split, config)
    inputs, before = list_inputs(split, lists, config), pd.concat([_frame(None, part) for part in parts[:number]])
    times = split.inter_feat["timestamp"].numpy()
    for place, user in enumerate(lists.users):
        now = times[lists.rows[place]]
        own = before[(before["user_id"] == user) & (before["timestamp"] < now)].sort_values("timestamp")
        sequence = own["item_id"].tolist()[-4:]
        assert inputs["item_id_list"][place].tolist() == sequence + [0] * (4 - len(sequence))
        assert inputs["item_length"][place] == max(1, len(sequence))


def test_a_sequential_model_leaves_the_same_items_out(data_path):
    config, parts = _splits(data_path, "SASRec")
    other_config, other = _splits(data_path, "SharedBottom")
    both = [ranked_lists(p[2], c).ranked(np.arange(9)).left_out[0] for c, p in ((config, parts), (other_config, other))]
    assert both[0].equal(both[1])


@pytest.mark.parametrize(("loss", "drawn"), [("CE", False), ("BPR", True)])
def test_a_sequential_model_draws_the_declared_negatives_where_its_loss_has_any(data_path, loss, drawn):
    """They may be there for the other models of a comparison, and they say that the log is one of positives."""
    negatives = {"distribution": "popularity", "sample_num": 1}
    config, parts = _splits(data_path, "SASRec", loss_type=loss, train_neg_sample_args=negatives)
    assert NegativeSettings.from_config(config).distribution == "popularity"
    batch = next(iter(positives_loader(config, positives_of(parts[0], config))))
    assert ("neg_item_id" in batch.interaction) == drawn


def test_without_lists_a_sequential_model_with_tasks_is_refused(data_path):
    labelled = SETTINGS["eval_args"] | {"mode": "labeled"}
    given = {key: value for key, value in SETTINGS.items() if key not in ("metrics", "topk", "valid_metric")}
    with pytest.raises(InputError, match="SASRec is a sequential model"):
        build_config("SASRec", "tiny", given | {"data_path": str(data_path), "eval_args": labelled})
