"""A prepared dataset is the same from the cache, and is made again whenever anything that made it changes."""

import logging
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from recbole_msr.errors import InputError

SETTINGS = {
    "load_col": None,
    "scenario": {"field": "gender", "groups": {"women": ["F"], "men": ["M"]}},
    "tasks": {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5}},
    "numerical_features": ["price"],
    "normalize_field": ["price"],
    "packed_cache": True,
    "use_gpu": False,
    "state": "ERROR",
}


@pytest.fixture
def start(tiny_data):
    """start(**settings) -> a dataset and its splits, as at the start of a run, kept in tmp_path/cache."""
    from recbole.config import Config
    from recbole.data import create_dataset

    def make(model="HiNet", **settings):
        given = SETTINGS | {"data_path": str(tiny_data), "cache_dir": str(tiny_data / "cache")} | settings
        dataset = create_dataset(Config(model=model, dataset="tiny", config_dict=given))
        return dataset, dataset.build()

    return make


def _entries(tiny_data):
    folder = tiny_data / "cache"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def _same(one, other):
    assert one[0].field2type == other[0].field2type
    assert one[0].field2source == other[0].field2source
    assert one[0].field2seqlen == other[0].field2seqlen
    assert one[0].field2bucketnum == other[0].field2bucketnum
    for attribute in ("scenario_names", "scenario_shares", "split_sizes", "number_scale"):
        assert getattr(one[0], attribute) == getattr(other[0], attribute)
    assert {f: t.tolist() for f, t in one[0].field2id_token.items()} == {
        f: t.tolist() for f, t in other[0].field2id_token.items()
    }
    for first, second in zip(one[1], other[1], strict=True):
        rows = torch.arange(len(first))
        assert len(first) == len(second)
        a, b = first[rows], second[rows]
        assert set(a.columns) == set(b.columns)
        for field in a.columns:
            assert a[field].dtype == b[field].dtype
            assert torch.equal(a[field], b[field]), field


@pytest.fixture
def loads(monkeypatch):
    """Counts how often atomic files are read."""
    from recbole.data.dataset import Dataset

    original, count = Dataset._load_data, []
    monkeypatch.setattr(Dataset, "_load_data", lambda self, *args: (count.append(1), original(self, *args))[1])
    return count


def test_the_second_start_gives_the_same_without_reading_the_files(start, loads, tiny_data):
    first = start()
    assert len(_entries(tiny_data)) == 1
    again = start()
    assert len(loads) == 1
    _same(first, again)
    assert (again[0].user_num, again[0].item_num, again[0].inter_num) == (41, 31, 600)
    assert again[0].token2id("user_id", "u7") == first[0].token2id("user_id", "u7")
    assert "tiny" in str(again[0])
    uncached = start(packed_cache=False)
    assert len(loads) == 2
    _same(first, uncached)


def test_one_entry_serves_every_model_and_seed(start, loads, tiny_data):
    start()
    start(seed=5, embedding_size=4, min_scenario_rows=3)
    _, splits = start("DeepFM", main_task="like")
    assert len(loads) == 1
    assert len(_entries(tiny_data)) == 1
    assert splits[0].label_field == "label_like"


CHANGES = {
    "scenario": {"scenario": {"field": "age", "bins": [30]}},
    "order of groups": {"scenario": {"field": "gender", "groups": {"men": ["M"], "women": ["F"]}}},
    "a group that is called by a number": {"scenario": {"field": "gender", "groups": {1: ["M"], "w": ["F"]}}},
    "task": {"tasks": {"click": {"field": "rating", "at_least": 3}, "like": {"field": "rating", "at_least": 5}}},
    "data_seed": {"data_seed": 3},
    "eval_args": {"eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "RO", "group_by": None, "mode": "labeled"}},
    "filter": {"user_inter_num_interval": "[16,inf)"},
    "numerical features": {"numerical_features": []},
    "normalisation": {"normalize_field": None},
    "columns": {
        "load_col": {"inter": ["user_id", "item_id"], "user": ["user_id", "gender"]},
        "normalize_field": None,
        "numerical_features": [],
    },
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_makes_the_data_makes_another_entry(change, start, loads):
    start()
    cached = start(**change)
    assert len(loads) == 2
    _same(cached, start(**change, packed_cache=False))


@pytest.mark.parametrize("suffix", ["inter", "user", "item"])
def test_another_content_of_a_file_makes_another_entry(suffix, start, loads, tiny_data):
    start()
    path = tiny_data / "tiny" / f"tiny.{suffix}"
    old, new = {"inter": ("\t3\t", "\t4\t"), "user": ("\tF", "\tM"), "item": ("drama", "opera")}[suffix]
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))  # of the same size
    _same(start(), start(packed_cache=False))
    assert len(loads) == 3


def _break(entry, how):
    state, tensors = entry / "dataset.json", entry / "tables.safetensors"
    content = tensors.read_bytes()
    if how == "cut tensors":
        tensors.write_bytes(content[: len(content) // 2])
    elif how == "a flipped byte":
        middle = len(content) // 2
        tensors.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    elif how == "no tensors":
        tensors.unlink()
    elif how == "cut state":
        state.write_text(state.read_text()[:100])
    elif how == "another state":
        state.write_text("{}")
    elif how == "empty":
        shutil.rmtree(entry)
        entry.mkdir()


@pytest.mark.parametrize("how", ["cut tensors", "a flipped byte", "no tensors", "cut state", "another state", "empty"])
def test_a_damaged_entry_is_made_again(how, start, loads, tiny_data, caplog):
    first = start()
    (name,) = _entries(tiny_data)
    _break(tiny_data / "cache" / name, how)
    with caplog.at_level(logging.WARNING):
        _same(first, start())
    assert len(loads) == 2
    assert "damaged" in caplog.text
    start()
    assert len(loads) == 2
    assert _entries(tiny_data) == [name]


def test_a_folder_that_cannot_be_written_is_a_warning(start, tiny_data, caplog):
    (tiny_data / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        _, splits = start(cache_dir=str(tiny_data / "file" / "cache"))
    assert "could not be kept" in caplog.text
    assert len(splits) == 3


def test_a_full_disk_is_a_warning_and_leaves_nothing(start, tiny_data, caplog, monkeypatch):
    from safetensors import SafetensorError

    from recbole_msr.data import cache

    def fail(*_):
        raise SafetensorError("I/O error: no space left on device")

    monkeypatch.setattr(cache, "save_file", fail)
    with caplog.at_level(logging.WARNING):
        start()
    assert "no space left" in caplog.text
    assert _entries(tiny_data) == []


def test_a_dataset_that_cannot_be_used_is_not_kept(start, tiny_data):
    with pytest.raises(InputError, match="empty"):
        start(eval_args={"split": {"RS": [1, 0, 0]}, "order": "RO", "group_by": None, "mode": "labeled"})
    assert _entries(tiny_data) == []


def test_several_that_store_at_once_leave_one_whole_entry(start, loads, tiny_data, caplog):
    from recbole_msr.data import cache

    first = start(packed_cache=False)
    folder = tiny_data / "cache" / "tiny-x"
    caplog.clear()
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: cache.store(first[0], folder), range(16)))
    assert caplog.text == ""
    assert _entries(tiny_data) == ["tiny-x"]
    again = start(packed_cache=False)
    assert cache.restore(again[0], folder)
    _same(first, (again[0], again[0].build()))


def test_others_may_read_what_one_has_kept(start, tiny_data):
    (tiny_data / "cache").mkdir()
    (tiny_data / "cache").chmod(0o755)
    start()
    (name,) = _entries(tiny_data)
    for path in (tiny_data / "cache" / name, *(tiny_data / "cache" / name).iterdir()):
        assert path.stat().st_mode & stat.S_IROTH


def test_the_folder_may_come_from_the_environment(start, tiny_data, monkeypatch):
    monkeypatch.setenv("RECBOLE_MSR_CACHE", str(tiny_data / "elsewhere"))
    start(cache_dir=None)
    assert len(list(Path(tiny_data / "elsewhere").iterdir())) == 1
    assert _entries(tiny_data) == []


def test_recboles_own_pickles_are_neither_written_nor_read(start, tiny_data, monkeypatch):
    from recbole.data import data_preparation

    monkeypatch.chdir(tiny_data)
    saved = tiny_data / "saved"
    given = {"save_dataset": True, "save_dataloaders": True, "checkpoint_dir": str(saved)}
    dataset, _ = start(**given)
    data_preparation(dataset.config, dataset)
    assert not saved.exists() or not list(saved.iterdir())
