"""Blocks of neighbouring rows in random order, mixed in a buffer: every row once an epoch, every page read once."""

import numpy as np
import pytest
import torch

from recbole_msr.data import block_order
from recbole_msr.data.block_order import BlockOrder
from recbole_msr.data.packed import PackedLoader, PackedTable

LENGTH = 1003


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(block_order, "BLOCK_ROWS", 10)
    monkeypatch.setattr(block_order, "BUFFER_ROWS", 100)


def test_every_row_comes_once_an_epoch_in_an_order_of_seed_and_epoch():
    order, other = BlockOrder(LENGTH, 5), BlockOrder(LENGTH, 5)
    epochs = []
    for epoch in range(3):
        order.set_epoch(epoch)
        rows = order.rows()
        assert torch.equal(rows.sort().values, torch.arange(LENGTH, dtype=torch.int32))
        epochs.append(rows.clone())
    assert not torch.equal(epochs[0], epochs[1])
    other.set_epoch(2)
    assert torch.equal(other.rows(), epochs[2]), "as after a resume"
    assert not torch.equal(BlockOrder(LENGTH, 6).rows(), epochs[0])


def test_a_buffer_holds_whole_blocks_whose_rows_are_mixed():
    rows = BlockOrder(LENGTH, 1).rows().numpy()
    for start in range(0, 900, 100):
        blocks = set(rows[start : start + 100] // 10)
        assert len(blocks) <= 12, "at most eleven blocks a buffer: the last one of 3 rows shifts the others"
    steps = np.abs(np.diff(rows.astype(int)))
    assert (steps == 1).mean() < 0.05, "neighbours of the table are not neighbours of the order"


def test_places_of_rows_are_uniform():
    counts = np.zeros((20, 20))
    order = BlockOrder(200, 0)
    for epoch in range(2000):
        order.set_epoch(epoch)
        np.add.at(counts, (np.arange(200) // 10, order.rows().numpy() // 10), 1)
    assert counts.min() > 850, "each tenth of places has about 1000 rows of every block"
    assert counts.max() < 1150


@pytest.mark.parametrize("batch_size", [64, 50, 7])
def test_processes_read_parts_of_their_own(batch_size):
    order = BlockOrder(LENGTH, 3)
    order.share(batch_size, 2)
    rows = order.rows().numpy()
    assert sorted(rows) == list(range(LENGTH))
    process = np.arange(LENGTH) % batch_size % 2
    blocks = [set(rows[process == number] // 10) for number in range(2)]
    assert len(blocks[0] & blocks[1]) <= 1, "but for the block in which one part ends and the other begins"


def test_a_loader_gives_these_rows():
    class Rows(PackedTable):
        """A table of row numbers."""

        def __init__(self, length):
            self._length = length
            self._tokens = torch.arange(length, dtype=torch.int32)[:, None]
            self._floats, self._others, self._sides, self._cuts = torch.empty(length, 0), {}, [], []

    table = Rows(LENGTH)
    parts = [PackedLoader(table, 64, BlockOrder(LENGTH, 3), rank, 2) for rank in range(2)]
    seen = [torch.cat([parts_of["tokens"][:, 0] for parts_of in loader._gathered()]) for loader in parts]
    assert sorted(torch.cat(seen).tolist()) == list(range(LENGTH))
    assert len({int(row) // 10 for row in seen[0]} & {int(row) // 10 for row in seen[1]}) <= 1
