"""Negatives of training: what is drawn, how often, and what the rows of drawn items hold."""

import numpy as np
import pytest
import torch

from recbole_msr.data.negatives import NegativeSampler, NegativeSettings
from recbole_msr.data.packed import EpochOrder, PackedLoader, PackedTable
from recbole_msr.errors import InputError

RANKED = {
    "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": None, "mode": "full"},
    **{"metrics": ["NDCG"], "topk": [5], "valid_metric": "NDCG@5"},
}
POSITIVES = {"tasks": {"use": {"field": "label"}}, **RANKED}
"""A log whose files have no field "label": each row is a positive."""
FIELDS = {"numerical_features": ["price"], "load_col": None}
BY_CLICK = {"tasks": {"click": {"field": "rating", "at_least": 4}}, **RANKED}
CHI_SQUARE = 1.6
"""No statistic of these draws is above so many times its degrees of freedom (more than 20): p is below 0.03 there."""


@pytest.fixture
def make_table(make_dataset):
    """make_table(scenarios=2, given=POSITIVES, **args) -> config, the training split, its table; `args` sample."""

    def make(scenarios=2, given=POSITIVES, model="SharedBottom", settings=None, **args):
        config, train = make_dataset(
            scenarios, model, train_neg_sample_args={"sample_num": 1, **args}, **{**FIELDS, **given, **(settings or {})}
        )
        return config, train, PackedTable.for_run(train, config)

    return make


def _epoch(table, seed, epoch, size=64, **process):
    order = EpochOrder(len(table), seed)
    order.set_epoch(epoch)
    return list(PackedLoader(table, size, order, **process))


def _columns(batches):
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0].columns}


def _positives_by_user(train, label="label_use"):
    found = {}
    inter = train.inter_feat
    for user, item, y in zip(*(inter[f].tolist() for f in ("user_id", "item_id", label)), strict=True):
        if y == 1:
            found.setdefault(user, set()).add(item)
    return found


def _pairs(columns, label="label_use"):
    negative = columns[label] == 0
    return list(zip(columns["user_id"][negative].tolist(), columns["item_id"][negative].tolist(), strict=True))


def test_every_row_of_a_log_without_labels_is_a_positive(make_table):
    _, train, table = make_table()
    assert (train.inter_feat["label_use"] == 1).all()
    assert (table.batch(slice(None))["label_use"] == 1).all()


@pytest.mark.parametrize("args", [{}, {"distribution": "popularity"}, {"same_scenario": True}])
def test_a_positive_of_training_is_never_drawn(make_table, args):
    _, train, table = make_table(sample_num=3, **args)
    positives = _positives_by_user(train)
    for epoch in range(5):
        for user, item in _pairs(_columns(_epoch(table, 1, epoch))):
            assert item not in positives[user]
            assert item > 0


def test_an_epoch_has_every_row_once_and_n_drawn_ones_for_each_positive(make_table):
    _, train, table = make_table(sample_num=3)
    batches = _epoch(table, 1, 0, size=64)
    assert [len(batch) for batch in batches[:-1]] == [64] * (len(batches) - 1), "16 positives with 3 drawn items each"
    drawn = [user for user, _ in _pairs(_columns(batches))]
    expected = np.bincount(train.inter_feat["user_id"].numpy())
    np.testing.assert_array_equal(np.bincount(drawn, minlength=len(expected)), 3 * expected)
    own = _columns(batches)["label_use"] == 1
    assert sorted(_columns(batches)["timestamp"][own].tolist()) == sorted(train.inter_feat["timestamp"].tolist())


def test_draws_follow_from_seed_and_epoch_alone(make_table):
    table = make_table()[2]
    first = _columns(_epoch(table, 1, 0))["item_id"]
    order = EpochOrder(len(table), 1)
    loader = PackedLoader(table, 64, order)
    for epoch in range(3):  # as a training goes through its epochs; a resumed one begins at any
        order.set_epoch(epoch)
        batches = list(loader)
        for one, other in zip(batches, _epoch(table, 1, epoch), strict=True):
            assert torch.equal(one["item_id"], other["item_id"])
    columns = [_columns(_epoch(table, seed, epoch)) for seed, epoch in ((1, 0), (1, 1), (2, 0))]
    assert torch.equal(columns[0]["item_id"], first)
    drawn = [sorted(_pairs(of_epoch)) for of_epoch in columns]
    assert drawn[0] != drawn[1]
    assert drawn[0] != drawn[2]


def test_the_batch_size_changes_no_draw(make_table):
    table = make_table(sample_num=2)[2]
    assert sorted(_pairs(_columns(_epoch(table, 1, 2, size=32)))) == sorted(
        _pairs(_columns(_epoch(table, 1, 2, size=300)))
    )


@pytest.mark.parametrize("world_size", [2, 3])
def test_several_processes_have_the_rows_of_one(make_table, world_size):
    table = make_table(sample_num=2)[2]
    alone = _epoch(table, 1, 1, size=60)
    parts = [_epoch(table, 1, 1, size=60, rank=rank, world_size=world_size) for rank in range(world_size)]
    for number, batch in enumerate(alone[:-1]):
        together = [pair for part in parts for pair in _pairs(part[number].interaction)]
        assert sorted(together) == sorted(_pairs(batch.interaction))


def test_the_weight_of_a_processs_part_counts_its_drawn_rows(make_table):
    table = make_table(sample_num=2, given=BY_CLICK)[2]
    loaders = [PackedLoader(table, 60, EpochOrder(len(table), 1), rank, 2) for rank in range(2)]
    batches = [list(loader) for loader in loaders]
    for number in range(len(loaders[0]) - 1):
        sizes = [len(of_process[number]) for of_process in batches]
        assert loaders[0].rows_of(number) == sum(sizes)
        for loader, size in zip(loaders, sizes, strict=True):
            assert loader.weight(number) == pytest.approx(size * 2 / sum(sizes))


def test_a_drawn_row_has_its_positives_context_and_its_items_columns(make_table):
    _, train, table = make_table(scenarios=3, sample_num=2)
    prices, classes = train.item_feat["price"], train.item_feat["class"]
    ages = train.user_feat["age"]
    for batch in _epoch(table, 3, 0, size=90):
        n = len(batch) // 3
        for row in range(n, 3 * n):
            item, source = int(batch["item_id"][row]), row % n
            assert batch["label_use"][row] == 0
            assert batch["label_use"][source] == 1
            for name in ("user_id", "scenario", "timestamp", "age"):
                assert batch[name][row] == batch[name][source], name
            assert batch["age"][row] == ages[batch["user_id"][row]]
            assert torch.equal(batch["price"][row], prices[item])
            assert torch.equal(batch["class"][row], classes[item])


@pytest.fixture
def with_kind(tiny_data):
    """Give tiny.item a token "kind" of seven values."""
    path = tiny_data / "tiny" / "tiny.item"
    lines = path.read_text().splitlines()
    kinds = ["kind:token", *(f"k{number % 7}" for number in range(len(lines) - 1))]
    path.write_text("\n".join(f"{line}\t{kind}" for line, kind in zip(lines, kinds, strict=True)) + "\n")


@pytest.mark.usefixtures("with_kind")
@pytest.mark.parametrize("scenario", [None, {"field": "kind", "keep_field": True}])
def test_single_tokens_of_an_item_are_those_of_the_drawn_one_and_its_scenario_too(make_table, scenario):
    _, train, table = make_table(settings={"scenario": scenario})
    columns = _columns(_epoch(table, 1, 0))
    for name in ("kind", "scenario") if scenario else ("kind",):
        assert torch.equal(columns[name], train.item_feat[name][columns["item_id"]])


def test_a_drawn_row_weighs_as_much_as_the_mean(make_table):
    tasks = {"click": {"field": "rating", "at_least": 4, "weight": "timestamp"}}
    table = make_table(given={"tasks": tasks, **RANKED}, sample_num=2)[2]
    for batch in _epoch(table, 1, 0, size=90):
        assert (batch["weight_click"][30:] == 1).all()
        assert (batch["weight_click"][:30] != 1).any()


@pytest.mark.parametrize("alpha", [None, 0.0, 0.5, 1.0])
def test_frequencies_are_uniform_or_those_of_popularity(make_table, alpha):
    args = {} if alpha is None else {"distribution": "popularity", "alpha": alpha}
    _, train, _ = make_table()
    sampler = NegativeSampler.of_training(train, NegativeSettings(**args))
    positives, counts = _positives_by_user(train), np.bincount(train.inter_feat["item_id"].numpy())
    user = next(iter(positives))
    items = [item for item in range(1, train.item_num) if item not in positives[user]]
    weights = np.array([1.0 if alpha is None else (counts[item] / counts.sum()) ** alpha for item in items])
    drawn = sampler.draw(np.full(5000, user), np.ones(5000, dtype=int), 2, seed=5)
    found = np.bincount(drawn.ravel(), minlength=train.item_num)
    assert found.sum() == found[items].sum() == 10000
    expected = 10000 * weights / weights.sum()
    assert ((found[items] - expected) ** 2 / expected).sum() < CHI_SQUARE * len(items)


def test_same_scenario_draws_items_that_the_scenario_has_in_training(make_table):
    scenario = {"scenario": {"field": "rating", "bins": [1.5]}}  # one has few rows, so not all items
    _, train, table = make_table(settings=scenario, same_scenario=True, sample_num=2)
    inter = train.inter_feat
    seen = {(s, i) for s, i in zip(inter["scenario"].tolist(), inter["item_id"].tolist(), strict=True)}
    assert len({item for number, item in seen if number == 1}) < train.item_num - 1
    columns = _columns(_epoch(table, 1, 0))
    pairs = set(zip(columns["scenario"].tolist(), columns["item_id"].tolist(), strict=True))
    assert pairs <= seen


@pytest.mark.parametrize("args", [{"sample_num": 20}, {"sample_num": 20, "distribution": "popularity"}])
def test_items_that_are_held_out_are_never_drawn(make_table, args):
    cold = {"eval_args": RANKED["eval_args"] | {"group_by": "cold_item"}}
    _, train, table = make_table(settings=cold, **args)
    trained = set(train.inter_feat["item_id"].tolist())
    assert len(trained) == 24
    assert {item for _, item in _pairs(_columns(_epoch(table, 5, 0)))} == trained


def test_of_a_log_with_labels_rows_with_a_label_1_have_negatives_and_others_stay(make_table):
    tasks = {"click": {"field": "rating", "at_least": 4}, "stars": {"field": "rating", "type": "number"}}
    settings = {"tasks": tasks, "metrics": ["AUC"], "valid_metric": "AUC", "main_task": "click"}
    settings["eval_args"] = RANKED["eval_args"] | {"mode": "labeled"}
    del settings["metrics"], settings["valid_metric"]
    _, train, table = make_table(given=settings, sample_num=2)
    columns = _columns(_epoch(table, 1, 0))
    sampled = torch.isinf(columns["label_stars"])
    labels = train.inter_feat["label_click"]
    assert int(sampled.sum()) == 2 * int((labels == 1).sum())
    assert (columns["label_click"][sampled] == 0).all()
    for label in (0, 1):
        shown = columns["label_click"][~sampled] == label
        assert int(shown.sum()) == int((labels == label).sum())


def test_a_label_1_of_any_task_keeps_an_item_from_being_drawn(make_table):
    tasks = {"click": {"field": "rating", "at_least": 4}, "seen": {"field": "rating", "at_least": 2}}
    _, train, table = make_table(given={"tasks": tasks, **RANKED}, sample_num=2)
    positives = _positives_by_user(train, "label_seen")
    batches = _epoch(table, 1, 0)
    n_rows = sum(int(((b["label_seen"] == 1) | (b["label_click"] == 1)).sum()) for b in batches)
    columns = _columns(batches)
    assert len(columns["item_id"]) == len(train) + 2 * n_rows
    shown = set(zip(*(train.inter_feat[f].tolist() for f in ("user_id", "item_id")), strict=True))
    for pair in zip(columns["user_id"].tolist(), columns["item_id"].tolist(), strict=True):
        assert pair in shown or pair[1] not in positives[pair[0]]


def test_a_part_of_the_rows_has_their_negatives_and_avoids_what_all_rows_have(make_table):
    _, train, table = make_table()
    part = table.part(torch.arange(0, len(table), 5))
    positives = _positives_by_user(train)
    pairs = _pairs(_columns(_epoch(part, 1, 0)))
    assert len(pairs) == len(part)
    assert all(item not in positives[user] for user, item in pairs)


def test_a_user_who_has_every_item_is_named(make_table, tiny_data):
    inter = tiny_data / "tiny" / "tiny.inter"
    header, *rows = inter.read_text().splitlines()
    rows = [row for row in rows if not row.startswith("u7\t")]
    rows += [f"u7\ti{item}\t3\t{5000 + item}" for item in range(30) for _ in range(20)]
    inter.write_text("\n".join([header, *rows]) + "\n")
    table = make_table()[2]
    with pytest.raises(InputError, match="user 'u7' has every item that could be drawn"):
        _epoch(table, 1, 0)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"distribution": "popularity", "alpha": -0.5}, "alpha must be at least 0, got -0.5"),
        ({"alpha": 0.5}, "alpha: 0.5 is for distribution: popularity"),
        ({"dynamic": True}, "dynamic: True draws by the model's scores"),
        ({"candidate_num": 5}, "candidate_num: 5 draws by the model's scores"),
        ({"sample_num": 0}, "sample_num"),
        ({"same_scenrio": True}, "unknown key 'same_scenrio'; did you mean 'same_scenario'"),
    ],
)
def test_what_cannot_be_sampled_is_refused(make_dataset, args, message):
    with pytest.raises(InputError, match=message):
        make_dataset(2, "SharedBottom", train_neg_sample_args={"sample_num": 1, **args}, **POSITIVES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trainer": "recbole"}, "RecBole's own trainer would give every row"),
        ({"tasks": {"stars": {"field": "rating", "type": "number"}}}, "no task has labels of 0 and 1"),
        ({"tasks": {"use": {"field": "label", "at_least": 4}}}, "a threshold compares with nothing"),
        ({"tasks": {"use": {"field": "used"}}}, "no field 'used' in dataset 'tiny'"),
        ({"train_neg_sample_args": None}, "no field 'label' in dataset 'tiny'"),
        (
            {"metrics": ["AUC"], "valid_metric": "AUC", "eval_args": RANKED["eval_args"] | {"mode": "labeled"}},
            r"tiny.inter has no field 'label', so every row is a positive, and AUC need",
        ),
    ],
)
def test_tasks_that_do_not_go_with_sampling_are_refused(make_dataset, settings, message):
    given = {**POSITIVES, "train_neg_sample_args": {"sample_num": 1}, **settings}
    if "type" in str(settings):
        given |= {"metrics": ["MAE"], "valid_metric": "MAE"}
        given["eval_args"] = RANKED["eval_args"] | {"mode": "labeled"}
    with pytest.raises(InputError, match=message):
        make_dataset(2, "SharedBottom", **given)
