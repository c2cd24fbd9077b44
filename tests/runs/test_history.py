"""Runs with histories: trained with every model, predicted from the training rows that the run kept."""

import numpy as np
import pandas as pd
import pytest
import torch

import recbole_msr
from recbole_msr import registry
from recbole_msr.config.build import build_config
from recbole_msr.errors import InputError
from tests.runs.tiny import write_tiny

SETTINGS = {
    "scenario": {"field": "age", "bins": [30]},
    "tasks": {"click": {"field": "rating", "at_least": 4}},
    "history": {"fields": ["item_id", "shelf"], "length": 5},
    "embedding_size": 4,
    "learning_rate": 0.02,
    "epochs": 2,
    "train_batch_size": 100,
    "use_gpu": False,
    "show_progress": False,
    "threads": 1,
    "state": "ERROR",
    "save_predictions": True,
}
KNOWLEDGE = {"backbone": "SharedBottom", "knowledge": "random", "knowledge_size": 6}
"""Of LLM4MSR, without an encoder."""


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    path = write_tiny(tmp_path_factory.mktemp("history"))
    folder = path / "tiny"
    shelves = pd.DataFrame(
        {"item_id:token": [f"i{n}" for n in range(30)], "shelf:token": [f"s{n % 4}" for n in range(30)]}
    )
    shelves.to_csv(folder / "tiny.item", sep="\t", index=False)
    rows = pd.read_csv(folder / "tiny.inter", sep="\t")
    rows["timestamp:float"] = 1_700_000_000_000 + rows["timestamp:float"] // 3
    draw = np.random.default_rng(2)
    rows["seen:token_seq"] = [
        " ".join(f"i{i}" for i in draw.integers(30, size=draw.integers(5))) for _ in range(len(rows))
    ]
    rows.to_csv(folder / "tiny.inter", sep="\t", index=False)
    return path


def _rows(data_path):
    rows = pd.read_csv(data_path / "tiny" / "tiny.inter", sep="\t")
    return rows.rename(columns=lambda name: name.split(":")[0]).astype({"user_id": str, "item_id": str})


@pytest.mark.parametrize("scenario", ["all", "own"])
@pytest.mark.parametrize("order", ["time", "position"])
def test_new_rows_are_predicted_as_the_test_rows_were(run_tiny, data_path, tmp_path, scenario, order):
    """With the kept training rows alone, a test row has the history that it had in the run."""
    from recbole.data import create_dataset

    split = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": None, "mode": "labeled"}
    declared = SETTINGS["history"] | {"scenario": scenario, "order": order}
    trained = run_tiny(tmp_path / "run", history=declared, history_pooling="target_attention", eval_args=split)
    run = recbole_msr.load(trained.folder)
    test = create_dataset(run.recbole_config).build()[2]
    names = {field: test.field2id_token[field][test.inter_feat[field].numpy()] for field in ("user_id", "item_id")}
    scores = pd.read_parquet(trained.folder / "predictions.parquet")["score_click"]
    rows = pd.DataFrame(names | {"expected": scores}).merge(_rows(data_path))
    assert len(rows) == len(scores)
    np.testing.assert_allclose(run.predict(rows)["click"], rows["expected"], atol=1e-6)


def test_a_new_row_without_a_time_is_after_all_training_rows(run_tiny, data_path, tmp_path):
    run = recbole_msr.load(run_tiny(tmp_path / "run").folder)
    rows = _rows(data_path)[["user_id", "item_id", "seen"]].head(50)
    late, early = rows.assign(timestamp=4e12), rows.assign(timestamp=0.0)
    pd.testing.assert_frame_equal(run.predict(rows), run.predict(late))
    assert not np.allclose(run.predict(rows), run.predict(early))


@pytest.mark.parametrize("model", registry.registered_models())
def test_every_model_trains_with_histories(data_path, model):
    from recbole.data import create_dataset
    from recbole.utils import get_model

    config = build_config(
        model,
        "tiny",
        SETTINGS
        | {"data_path": str(data_path), "history_pooling": "target_attention"}
        | (KNOWLEDGE if model == "LLM4MSR" else {}),
    )
    train = create_dataset(config).build()[0]
    torch.manual_seed(0)
    built = get_model(model)(config, train)
    loss = built.calculate_loss(train[torch.arange(20)])
    (sum(loss) if isinstance(loss, tuple) else loss).backward()
    assert all(p.grad is not None and p.grad.any() for p in built.features.history.parameters() if p.numel() > 1)


@pytest.mark.parametrize("pooling", ["mean", "target_attention"])
def test_llm4msr_with_histories_and_tasks_after_one_another_predicts_its_test_rows_again(
    run_tiny, data_path, tmp_path, pooling
):
    tasks = {"click": {"field": "rating", "at_least": 3}, "buy": {"field": "rating", "at_least": 5, "after": "click"}}
    trained = run_tiny(tmp_path / "run", "LLM4MSR", tasks=tasks, history_pooling=pooling, **KNOWLEDGE)
    run = recbole_msr.load(trained.folder)
    predicted = run.predict(_rows(data_path))
    expected = pd.read_parquet(trained.folder / "predictions.parquet")
    assert list(predicted) == ["click", "buy", "buy|click"]
    np.testing.assert_allclose(predicted["click"] * predicted["buy|click"], predicted["buy"], rtol=1e-4)
    assert len(expected) == trained.test.pooled["buy"].rows
    nearest = np.abs(predicted["buy"].to_numpy() - expected["score_buy"].to_numpy()[:, None]).min(axis=1)
    assert nearest.max() < 1e-6


def test_a_given_column_is_a_history_of_the_same_table(run_tiny, data_path, tmp_path):
    settings = {"history": {"given": {"seen": "item_id"}}, "alias_of_item_id": ["seen"], "epochs": 1}
    trained = run_tiny(tmp_path / "run", **settings)
    features = trained.model.features
    assert features.token_seq_fields == []
    rows = _rows(data_path)
    ids = {
        token: number for number, token in enumerate(recbole_msr.load(trained.folder).dataset.field2id_token["item_id"])
    }
    table = features.table.weight[features.offsets[features.token_fields.index("item_id")] :]
    interaction = torch.zeros(len(rows), 9, dtype=torch.int64)
    for row, tokens in enumerate(rows["seen"].fillna("").str.split()):
        interaction[row, : len(tokens)] = torch.tensor([ids[token] for token in tokens])
    found = features.history({"seen": interaction}, features.look_up, lambda field, seen: seen)
    for row in range(0, len(rows), 11):
        own = [table[i] for i in interaction[row].tolist() if i]
        torch.testing.assert_close(found[row], sum(own) / len(own) if own else torch.zeros(4))


def test_a_given_column_with_its_own_vocabulary_is_refused(run_tiny, tmp_path):
    with pytest.raises(InputError, match=r"no vocabulary in common: alias_of_item_id: \[seen\]"):
        run_tiny(tmp_path / "run", history={"given": {"seen": "item_id"}})


def test_fused_seeds_train_as_alone(run_tiny, data_path, tmp_path):
    """Each seed has its own batches, and so its own histories."""
    from recbole_msr.runs.seeds import run_seeds

    settings = SETTINGS | {"data_path": str(data_path)}
    settings |= {"model": "SharedBottom", "dataset": "tiny"}
    folders = {seed: tmp_path / f"together{seed}" for seed in (1, 2)}
    assert run_seeds(folders, settings) == {}
    for seed, folder in folders.items():
        alone = run_tiny(tmp_path / f"alone{seed}", seed=seed)
        metrics = recbole_msr.load(folder).result["test"]["metrics"]
        assert metrics == pytest.approx(alone.test_metrics, abs=1e-4)


@pytest.mark.slow
def test_a_comparison_takes_entries_with_and_without_histories_on_the_same_rows(data_path, tmp_path, no_pages):
    settings = {key: value for key, value in SETTINGS.items() if key != "save_predictions"}
    compared = recbole_msr.compare(
        models={"SharedBottom": {}, "without": {"model": "SharedBottom", "history": None}, "LR": {}},
        dataset="tiny", seeds=1, output=tmp_path / "out", workers=1, wandb="disabled", progress=False,
        config=settings | {"data_path": str(data_path), "epochs": 1},
    )  # fmt: skip
    entries = {entry["label"]: entry for entry in compared.summary["entries"]}
    assert {label: entry["status"] for label, entry in entries.items()} == dict.fromkeys(entries, "complete")
    folders = {label: compared.folder / entry["runs"][0]["folder"] for label, entry in entries.items()}
    rows = {label: pd.read_parquet(folder / "predictions.parquet") for label, folder in folders.items()}
    for column in ("label_click", "scenario"):
        pd.testing.assert_series_equal(rows["SharedBottom"][column], rows["without"][column])
        pd.testing.assert_series_equal(rows["SharedBottom"][column], rows["LR"][column])
    assert not np.allclose(rows["SharedBottom"]["score_click"], rows["without"]["score_click"])
    assert set(entries["LR"]["differences"]) == set(entries["without"]["differences"])
