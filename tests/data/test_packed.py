"""Packed tables give RecBole's own batches, in its order, cut alike for any number of processes."""

import numpy as np
import pytest
import torch

from recbole_msr.data.packed import EpochOrder, PackedLoader, PackedTable, row_numbers, table_device

FIELDS = {"numerical_features": ["price", "timestamp"], "normalize_field": ["price"], "train_batch_size": 50}


@pytest.fixture
def loaders(make_dataset):
    """loaders(**settings) -> RecBole's own train, valid and test loaders of "tiny"."""
    from recbole.data import create_dataset, data_preparation

    def make(**settings):
        config, _ = make_dataset(3, **FIELDS | settings)
        return config, data_preparation(config, create_dataset(config))

    return make


def _same(ours, theirs):
    assert set(ours.columns) == set(theirs.columns)
    for field in theirs.columns:
        assert ours[field].dtype == theirs[field].dtype, field
        assert torch.equal(ours[field], theirs[field]), field


@pytest.mark.parametrize("shuffle", [True, False])
def test_training_batches_are_recboles_own_for_several_epochs(shuffle, loaders):
    _, (theirs, _, _) = loaders(shuffle=shuffle, seed=5)
    table = PackedTable(theirs._dataset)
    order = EpochOrder(len(table), 5, shuffle)
    ours = PackedLoader(table, 50, order)
    kinds = {tuple(tensor.shape[1:]) for tensor in table.batch(slice(None)).interaction.values()}
    assert kinds == {(), (3,), (2,)}, "tokens and floats, token_seq, numerical features"
    for epoch in range(4):
        order.set_epoch(epoch)
        batches = list(theirs)
        assert len(ours) == len(batches) == -(-len(table) // 50)
        for one, other in zip(ours, batches, strict=True):
            _same(one, other)


def test_evaluation_batches_are_recboles_own(loaders):
    _, (_, theirs, _) = loaders(eval_batch_size=16)
    table = PackedTable(theirs._dataset)
    for one, (other, *_) in zip(PackedLoader(table, 16), theirs, strict=True):
        _same(one, other)


def test_all_rows_of_some_fields_are_those_of_the_batch_of_all_rows(loaders):
    _, (_, theirs, _) = loaders(eval_batch_size=16)
    table = PackedTable(theirs._dataset)
    everything = table.batch(slice(None))
    names = ["user_id", "label_click", "scenario", "no such field"]
    found = table.whole(names)
    assert set(found.columns) == set(names) & set(everything.columns)
    assert "user_id" in found
    for name in found.columns:
        assert found[name].dtype == everything[name].dtype
        assert torch.equal(found[name], everything[name])


def test_a_table_of_a_dataset_without_tasks_users_or_items(make_dataset):
    load = {"inter": ["user_id", "item_id", "rating", "timestamp"]}
    _, train = make_dataset(1, "DeepFM", tasks=None, load_col=load, threshold={"rating": 4})
    _same(PackedTable(train).batch(torch.arange(7)), train[torch.arange(7)])


def test_a_batch_may_be_named_by_a_mask(make_dataset):
    table = PackedTable(make_dataset(3)[1])
    mask = torch.arange(len(table)) % 3 == 1
    _same(table.batch(mask), table.batch(torch.arange(1, len(table), 3)))


def test_one_row_is_what_recbole_gives_for_a_number(make_dataset):
    from recbole.data.interaction import Interaction

    from recbole_msr.data.rows import SelectedRows

    columns = {"user_id": torch.tensor([4, 5, 6]), "price": torch.tensor([0.5, 1.5, 2.5])}
    rows = SelectedRows(columns, torch.tensor([2, 0]))
    for index in (0, -1, np.int64(1), torch.tensor(1)):
        found, expected = rows[index], Interaction({name: column[[2, 0]] for name, column in columns.items()})[index]
        assert len(found) == len(expected) == 1
        _same(found, expected)


def test_an_epochs_order_does_not_depend_on_those_asked_for_before():
    straight, jumping = EpochOrder(100, 3), EpochOrder(100, 3)
    expected = []
    for epoch in range(5):
        straight.set_epoch(epoch)
        expected.append(straight.rows().tolist())
        assert sorted(expected[-1]) == list(range(100))
    assert len({tuple(rows) for rows in expected}) == 5
    for epoch in (3, 3, 1, 4, 0):
        jumping.set_epoch(epoch)
        assert jumping.rows().tolist() == expected[epoch]
    state = torch.get_rng_state()
    EpochOrder(100, 3).rows()
    assert torch.equal(state, torch.get_rng_state())


class _Rows:
    """A table whose batch is its row numbers."""

    device = torch.device("cpu")
    negatives = None

    def __init__(self, length):
        self._rows = torch.arange(length)

    def __len__(self):
        return len(self._rows)

    def gather(self, rows, drawn=None):
        return self._rows[rows]

    def columns(self, gathered):
        return gathered


SIZES = [(1, 4), (2, 4), (5, 4), (8, 4), (9, 4), (10, 4), (11, 4), (12, 4), (7, 100), (23, 7)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize(("length", "batch_size"), SIZES)
def test_in_evaluation_every_row_is_seen_once(length, batch_size, world_size):
    seen = []
    for rank in range(world_size):
        loader = PackedLoader(_Rows(length), batch_size, None, rank, world_size)
        batches = list(loader)
        assert len(batches) == len(loader)
        assert all(len(batch) for batch in batches)
        mine = torch.cat([torch.empty(0, dtype=torch.int64), *batches])
        assert row_numbers(loader).tolist() == mine.tolist()
        seen += mine.tolist()
    assert sorted(seen) == list(range(length))


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize(("length", "batch_size"), SIZES)
def test_in_training_processes_share_the_batches_of_one_process(length, batch_size, world_size):
    def loader(rank, world_size):
        return PackedLoader(_Rows(length), batch_size, EpochOrder(length, 1), rank, world_size)

    alone = [batch.tolist() for batch in loader(0, 1)]
    loaders = [loader(rank, world_size) for rank in range(world_size)]
    parts = [[batch.tolist() for batch in one] for one in loaders]
    assert {len(part) for part in parts} == {len(one) for one in loaders} == {len(alone)}
    for k, shared in enumerate(zip(*parts, strict=True)):
        weights = [one.weight(k) for one in loaders]
        assert all(shared), "every process takes every step"
        assert sorted(row for part, weight in zip(shared, weights, strict=True) if weight for row in part) == sorted(
            alone[k]
        ), "every row counts once"
        # The mean of weighted means is the mean over all rows, whatever stands in them.
        means = [weight * np.mean(np.square(part)) for part, weight in zip(shared, weights, strict=True)]
        assert np.mean(means) == pytest.approx(np.mean(np.square(alone[k])))
        assert loaders[0].rows_of(k) == len(alone[k])


# Tables that are shared, and where they live


def test_a_split_is_used_as_it_is_packed_and_packed_again_when_changed(make_dataset):
    _, train = make_dataset(3, **FIELDS)
    packed = train.inter_feat.packed
    assert PackedTable(train)._tokens.data_ptr() == packed.tokens.data_ptr()
    users = train.user_feat["age"].clone()
    for change in (
        lambda: train.inter_feat["label_like"].__setitem__(3, 7.0),
        lambda: train.inter_feat.interaction.__setitem__("label_click", torch.full((len(train),), 5.0)),
        lambda: train.user_feat["age"].__setitem__(slice(None), 1),
    ):
        change()
        table = PackedTable(train)
        assert table._tokens.data_ptr() != packed.tokens.data_ptr()
        _same(table.batch(torch.arange(9)), train[torch.arange(9)])
    assert table.batch(slice(4, 5))["age"].item() == 1 != users[-1]
    assert table.batch(slice(3, 4))["label_like"].item() == 7
    assert table.batch(slice(3, 4))["label_click"].item() == 5


def test_batches_sent_ahead_are_the_same_and_one_batch_ahead(make_dataset):
    _, train = make_dataset(3, **FIELDS)
    table, gathered = PackedTable(train), []
    gather = table.gather
    table.gather = lambda rows, drawn: gathered.append(len(rows)) or gather(rows, drawn)
    ahead = PackedLoader(table, 50, EpochOrder(len(table), 5), ahead=torch.device("cpu"))
    for number, (one, other) in enumerate(
        zip(ahead, PackedLoader(PackedTable(train), 50, EpochOrder(len(table), 5)), strict=True)
    ):
        _same(one, other)
        assert len(gathered) == min(number + 2, len(ahead))
    assert sum(gathered) == len(table)


GPU, CPU = torch.device("cuda", 1), torch.device("cpu")


@pytest.mark.parametrize(
    ("wanted", "trained_on", "size", "free", "lives_on"),
    [
        (None, CPU, 10, None, CPU),
        (None, GPU, 500, 1000, GPU),
        (None, GPU, 501, 1000, CPU),
        ("cpu", GPU, 1, 1000, CPU),
        ("cuda:1", GPU, 900, 1000, GPU),
    ],
)
def test_a_table_lives_on_the_gpu_that_is_trained_on_if_half_of_its_memory_stays_free(
    wanted, trained_on, size, free, lives_on
):
    assert table_device(wanted, trained_on, size, free) == lives_on


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_batches_are_the_same_wherever_the_tables_live(make_dataset):
    _, train = make_dataset(3, **FIELDS)
    device = torch.device("cuda", 0)
    expected = list(PackedLoader(PackedTable(train), 50, EpochOrder(len(train), 5)))
    there = PackedLoader(PackedTable(train, device), 50, EpochOrder(len(train), 5))
    sent = PackedLoader(PackedTable(train), 50, EpochOrder(len(train), 5), ahead=device)
    for one, other, third in zip(expected, there, sent, strict=True):
        assert other["user_id"].device == third["user_id"].device == device
        _same(other.to("cpu"), one)
        _same(third.to("cpu"), one)
