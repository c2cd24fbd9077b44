"""Packed tables give RecBole's own batches, in its order, cut alike for any number of processes."""

import pytest
import torch

from recbole_msr.data.packed import EpochOrder, PackedLoader, PackedTable, row_numbers

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


def test_a_table_of_a_dataset_without_tasks_users_or_items(make_dataset):
    load = {"inter": ["user_id", "item_id", "rating", "timestamp"]}
    _, train = make_dataset(1, "DeepFM", tasks=None, load_col=load, threshold={"rating": 4})
    _same(PackedTable(train).batch(torch.arange(7)), train[torch.arange(7)])


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

    def __init__(self, length):
        self._rows = torch.arange(length)

    def __len__(self):
        return len(self._rows)

    def batch(self, rows):
        return self._rows[rows]


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
def test_in_training_processes_share_the_batches_of_one_process_equally(length, batch_size, world_size):
    def batches(rank, world_size):
        return [b.tolist() for b in PackedLoader(_Rows(length), batch_size, EpochOrder(length, 1), rank, world_size)]

    alone = batches(0, 1)
    parts = [batches(rank, world_size) for rank in range(world_size)]
    assert len({len(part) for part in parts}) == 1
    for k, shared in enumerate(zip(*parts, strict=True)):
        assert len({len(part) for part in shared}) == 1
        together = {row for part in shared for row in part}
        assert len(together) == len(alone[k]) - len(alone[k]) % world_size
        assert together <= set(alone[k])
    missed = length - sum(len(batch) for part in parts for batch in part)
    assert missed == sum(len(batch) % world_size for batch in alone), "only what makes parts unequal is left out"
