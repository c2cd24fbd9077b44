"""`init_from`: a run on newer data begins with the weights of an earlier one, vectors by token."""

import numpy as np
import pytest
import torch

import recbole_msr
from recbole_msr.errors import InputError

CONFIG = {
    "tasks": {"click": {"field": "rating", "at_least": 4}},
    "scenario": {"field": "gender"},
    **{"epochs": 1, "threads": 1, "train_batch_size": 64, "show_progress": False, "packed_cache": False},
}


@pytest.fixture
def days(tiny_frames):
    """Two days of rows, with some users and items in one of them alone: monday, tuesday, with users and items."""
    inter, users = tiny_frames["inter"], tiny_frames["user"]
    monday = inter[~inter["user_id"].isin(["u1", "u2"])]
    tuesday = inter[~inter["user_id"].isin(["u3", "u4"]) & (inter["item_id"] != "i5")].iloc[::-1]
    found = []
    for rows in (monday, tuesday):
        own = users[users["user_id"].isin(rows["user_id"])]
        found.append({"data": rows, "users": own, "items": tiny_frames["item"], "dataset": "day"})
    return found


@pytest.fixture
def run(tmp_path):
    """run(day, name, model, **settings) -> the folder of a run."""

    def go(day, name, model="SharedBottom", **settings):
        given = {**CONFIG, **day, "cache_dir": str(tmp_path / "cache"), "output_dir": str(tmp_path / name), **settings}
        if given.get("init_from"):
            given["init_from"] = str(tmp_path / given["init_from"])
        recbole_msr.run(model, config=given)
        return tmp_path / name

    return go


def weights_of(folder):
    """Every field's vectors by token, and the other weights, of a finished run."""
    opened = recbole_msr.load(folder)
    model, dataset = opened.model, opened.dataset
    features = model.features
    vectors = {}
    for field in (*features.token_fields, *features.token_seq_fields):
        tokens = [str(token) for token in dataset.field2id_token[field]]
        ids = torch.arange(len(tokens))
        if field in features.token_seq_fields:
            table = features.seq_tables[features.token_seq_fields.index(field)].weight
        elif features.tables is not None:
            table = features.tables[features.token_fields.index(field)].weight
        else:
            table, ids = features.table.weight, ids + features.offsets[features.token_fields.index(field)]
        seen = features.has_seen(field, torch.arange(len(tokens)))
        vectors[field] = {t: (v.numpy(), bool(s)) for t, v, s in zip(tokens, table[ids].detach(), seen, strict=True)}
    others = {k: v for k, v in model.state_dict().items() if "table" not in k and not k.endswith(("seen", "shares"))}
    return vectors, others


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "settings"),
    [("HiNet", {}), ("STAR", {}), ("MMoE", {"embedding_size_exponent": 0.0001, "interaction": "fm"})],
)
def test_weights_are_those_of_the_earlier_run_by_token(model, settings, days, run):
    """With a learning rate of nothing the run ends with what it began with."""
    before, others = weights_of(run(days[0], "monday", model, **settings))
    after, own = weights_of(run(days[1], "tuesday", model, **settings, init_from="monday", learning_rate=1e-30))
    for field, vectors in after.items():
        unknown = before[field]["[PAD]"][0]
        for token, (vector, _) in vectors.items():
            known = token in before[field] and before[field][token][1]
            expected = before[field][token][0] if known else unknown
            np.testing.assert_allclose(vector, expected, rtol=0, atol=1e-28, err_msg=f"{field} {token}")
    assert "u3" not in after["user_id"]
    assert "u1" in after["user_id"]
    assert set(own) == set(others)
    for name, values in own.items():
        if "mean" not in name and "variance" not in name:  # of STAR, which go with the rows
            torch.testing.assert_close(values, others[name], rtol=0, atol=1e-28)


@pytest.mark.slow
def test_a_value_that_only_the_earlier_run_was_trained_on_counts_as_known(days, run):
    run(days[0], "monday")
    rows = days[1]["data"]
    late = rows[rows["user_id"] == "u7"]
    parts = {"train": rows[rows["user_id"] != "u7"], "valid": late, "test": late}
    day = {**days[1], "data": parts}
    vectors, _ = weights_of(run(day, "anew"))
    assert not vectors["user_id"]["u7"][1]
    vectors, _ = weights_of(run(day, "warm", init_from="monday"))
    assert vectors["user_id"]["u7"][1]


@pytest.mark.slow
def test_another_architecture_is_refused_with_the_difference(days, run):
    run(days[0], "monday")
    for model, settings, message in (
        ("MMoE", {}, "is of SharedBottom, and this one of MMoE"),
        ("SharedBottom", {"bottom_hidden_sizes": [8]}, "has the shape .* give this run the sizes of that one"),
        ("SharedBottom", {"init_scenarios": {"old": "M"}}, "there is no scenario 'old' in this run"),
        ("SharedBottom", {"init_scenarios": {"F": "W"}}, "no scenario 'W' in the earlier run. There are: F, M, mean"),
        ("SharedBottom", {"init_from": None, "init_scenarios": {"F": "M"}}, "init_scenarios is read with init_from"),
        ("SharedBottom", {"knowledge": "random", "knowledge_features": ["user"]}, "knowledge_features read vectors"),
        ("DeepFM", {}, "DeepFM is not one of this package's models"),
        ("SharedBottom", {"init_from": "nowhere"}, "nowhere"),
    ):
        with pytest.raises(InputError, match=message):
            run(days[1], "tuesday", model, **{"init_from": "monday", **settings})
    with pytest.raises(InputError, match="init_from belongs to a run"):
        recbole_msr.search("SharedBottom", "day", trials=1, config={**CONFIG, "init_from": "monday"})


@pytest.mark.slow
def test_a_new_scenario_begins_as_the_mean_or_as_the_one_named(days, run, caplog, tmp_path):
    """HiNet had no attention over two scenarios; F goes on, M is gone, the third and fourth are new."""
    _, before = weights_of(run(days[0], "monday", "HiNet"))
    users = days[1]["users"]
    men = users["gender"] == "M"
    genders = users["gender"].where(~men, np.where(np.arange(len(users)) % 2, "new", "other"))
    given = {"users": users.assign(gender=genders), "init_scenarios": {"other": "M"}}
    with caplog.at_level("INFO", logger="recbole_msr"):
        folder = run(days[1], "tuesday", "HiNet", init_from="monday", learning_rate=1e-30, **given)
    _, after = weights_of(folder)
    name = "scenario_layers.0.experts.sub_experts.weights.0"
    was, now = before[name], after[name]
    k = len(was) // 3
    own = dict(zip(recbole_msr.load(tmp_path / "monday").dataset.scenario_names, was.split(k), strict=False))
    expected = {"F": own["F"], "other": own["M"], "new": (own["F"] + own["M"]) / 2}
    names = recbole_msr.load(folder).dataset.scenario_names
    assert set(names) == set(expected)
    for part, values in zip(now.split(k), [*(expected[name] for name in names), was[2 * k :]], strict=True):
        torch.testing.assert_close(part, values, rtol=0, atol=1e-7)
    text = caplog.text
    assert "scenario 'new' begins as the mean of all" in text
    assert "scenario 'other' begins as 'M'" in text
    assert "scenarios that are gone: M" in text
    assert "scenario_embedding, scenario_layers.0.san.h begin anew" in text


@pytest.mark.slow
def test_only_new_rows_are_split_and_trained_on(days, run, tmp_path):
    """Times are milliseconds, which float32 would round to two minutes; who has no new row keeps the vector."""
    rows = days[0]["data"].reset_index(drop=True)
    rows["timestamp"] = 1.6e12 + np.random.default_rng(0).permutation(len(rows))
    rows = rows.sort_values("timestamp")
    rows = rows[(rows["user_id"] != "u7") | (rows["timestamp"] < 1.6e12 + 100)]
    by_time = {"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": "none"}}
    monday = {**days[0], "data": rows[:300]}
    before = run(monday, "monday", **by_time)
    until = recbole_msr.load(before).result["trained_until"]
    trained = rows["timestamp"].iloc[:240].max()
    assert until == trained
    settings = {**days[0], "data": rows}
    after = run(settings, "tuesday", init_from="monday", only_new=True, learning_rate=1e-30, **by_time)
    new = rows[rows["timestamp"] > trained]
    result = recbole_msr.load(after).result
    sizes = [int(0.8 * len(new)), int(0.1 * len(new))]
    assert sum(result["rows"].values()) == len(new)
    assert abs(result["rows"]["train"] - sizes[0]) <= 1
    assert result["trained_until"] == new["timestamp"].iloc[: result["rows"]["train"]].max()
    counts = result["data"]["files"]["inter"]
    assert (counts["read"], counts["used"]) == (len(rows), len(new))
    assert {"key": "rows_after", "rows": len(rows) - len(new)}.items() <= counts["dropped"][-1].items()
    vectors, _ = weights_of(after)
    opened = recbole_msr.load(after)
    assert opened.config["rows_after"] == until
    seen = set(rows.loc[rows["user_id"] == "u7", "item_id"])  # its rows are all earlier ones
    lists = opened.recommend(["u7"], k=1000, scenario=opened.dataset.scenario_names[0], exclude_seen=True)
    assert seen
    assert seen.isdisjoint(lists["item_id"])
    assert len(lists)
    assert "u7" not in set(new["user_id"])
    np.testing.assert_allclose(vectors["user_id"]["u7"][0], weights_of(before)[0]["user_id"]["u7"][0], atol=1e-28)
    for given, message in (
        ({"rows_after": 7, "only_new": True}, "are two times"),
        ({"rows_after": 2e12}, "no row is later than 2000000000000"),
        ({"only_new": True, "init_from": None}, "only_new is read with init_from"),
    ):
        with pytest.raises(InputError, match=message):
            run(settings, "later", **{"init_from": "monday", **given})


def test_rows_at_the_time_of_the_last_training_row_are_left_out_and_counted(days, run, caplog, tmp_path):
    """Times are days, of which the split cuts one in two."""
    rows = days[0]["data"].sort_values("timestamp", ignore_index=True)
    rows["timestamp"] = np.arange(len(rows)) // 100
    by_time = {"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": "none"}}
    before = recbole_msr.load(run({**days[0], "data": rows[:300]}, "monday", **by_time)).result
    assert before["rows"] == {"train": 240, "valid": 30, "test": 30}
    assert (before["trained_until"], before["untrained_until"]) == (2, 60)
    caplog.clear()
    after = recbole_msr.load(run({**days[0], "data": rows}, "tuesday", init_from="monday", only_new=True, **by_time))
    told = f"only_new: 60 validation and test rows of the run in {tmp_path / 'monday'} are not later than"
    assert told in caplog.text
    assert sum(after.result["rows"].values()) == len(rows) - 300
    assert after.result["untrained_until"] < 60


@pytest.mark.slow
def test_ready_made_splits_are_cut_each(days, run):
    rows = days[0]["data"]
    half = float(rows["timestamp"].median())
    parts = {"train": rows[:300], "valid": rows[300:400], "test": rows[400:]}
    result = recbole_msr.load(run({**days[0], "data": parts}, "cut", rows_after=half)).result
    assert result["rows"] == {name: int((part["timestamp"] > half).sum()) for name, part in parts.items()}


@pytest.mark.slow
def test_a_run_goes_on_with_the_optimisers_state(days, run):
    """With batches of all rows, two epochs are one and another one, whatever order the values' ids have."""
    rows = days[0]["data"]
    day = {**days[0], "data": {"train": rows[:400], "valid": rows[400:500], "test": rows[500:]}}
    turned = {**day, "data": {**day["data"], "train": rows[:400].iloc[::-1]}}
    settings = {"train_batch_size": 400, "dropout": 0, "learning_rate": 0.01, "valid_metric": "LogLoss"}
    whole = run(day, "whole", epochs=2, **settings)
    run(day, "first", save_optimizer=True, **settings)
    warm = run(turned, "warm", init_from="first", init_optimizer=True, **settings)
    anew = run(turned, "anew", init_from="first", **settings)
    assert recbole_msr.load(whole).result["best_epoch"] == 2
    expected, others = weights_of(whole)
    for folder, same in ((warm, True), (anew, False)):
        vectors, own = weights_of(folder)
        close = all(torch.allclose(own[name], others[name], atol=1e-6) for name in own) and all(
            np.allclose(vector, expected[field][token][0], atol=1e-6)
            for field, tokens in vectors.items()
            for token, (vector, _) in tokens.items()
        )
        assert close == same
    with pytest.raises(InputError, match=r"has kept no optimizer\.ckpt"):
        run(turned, "none", init_from="anew", init_optimizer=True, **settings)
    with pytest.raises(InputError, match="was trained by adam, and this one is by sgd"):
        run(turned, "none", init_from="first", init_optimizer=True, learner="sgd", **settings)
