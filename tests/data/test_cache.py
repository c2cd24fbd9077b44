"""A prepared dataset is the same from the cache, and is made again whenever anything that made it changes."""

import errno
import hashlib
import json
import logging
import os
import pickle
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from recbole_msr.errors import InputError
from recbole_msr.files.digest import file_digest

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
    # Beside the entries there are locks and remembered digests.
    found = (path.name for path in folder.iterdir()) if folder.exists() else ()
    return sorted(name for name in found if name not in (".locks", ".digests"))


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
    tensors.unlink()  # those who have the file open go on with what they have
    tensors.write_bytes(content)
    if how == "cut tensors":
        tensors.write_bytes(content[: len(content) // 2])
    elif how == "a flipped byte":
        middle = len(content) // 2
        tensors.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    elif how == "no tensors":
        tensors.unlink()
    elif how == "cut state":
        state.write_text(state.read_text()[:100])
    elif how == "an altered state":
        assert "women" in state.read_text()
        state.write_text(state.read_text().replace("women", "wumen"))
    elif how == "another state":
        state.write_text("{}")
    elif how == "empty":
        shutil.rmtree(entry)
        entry.mkdir()


DAMAGES = ["cut tensors", "a flipped byte", "no tensors", "cut state", "an altered state", "another state", "empty"]


@pytest.mark.parametrize("how", DAMAGES)
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


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_entry_that_cannot_be_removed_is_not_used(how, start, tiny_data, monkeypatch):
    from recbole_msr.data import cache

    first = start()
    (name,) = _entries(tiny_data)
    entry = tiny_data / "cache" / name
    _break(entry, how)
    if how == "empty":
        (entry / "something").touch()  # else the new entry takes its place
    remove = shutil.rmtree
    monkeypatch.setattr(cache.shutil, "rmtree", lambda path, **options: Path(path) != entry and remove(path, **options))
    monkeypatch.setattr(cache, "map_rows", lambda *_: pytest.fail("an entry that is not its own is mapped"))
    _same(first, start())


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "too many open files"), OSError(errno.ENOMEM, "no memory"), MemoryError()]
)
def test_a_good_entry_that_cannot_be_read_now_is_left(error, start, loads, tiny_data, monkeypatch, caplog):
    from recbole_msr.data import cache

    first = start()

    def fail(*_):
        raise error

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(cache, "load_file", fail)
        _same(first, start())
    assert "cannot be read" in caplog.text
    assert "damaged" not in caplog.text
    assert len(loads) == 2
    _same(first, start())
    assert len(loads) == 2


def test_inference_mode_leaves_no_trace_in_the_data(start, loads, caplog):
    from recbole_msr.data.packed import PackedTable

    first = start(packed_cache=False)
    for number, given in enumerate([{"packed_cache": False}, {}, {}]):
        with torch.inference_mode(), caplog.at_level(logging.WARNING):
            dataset, splits = start(**given)
            splits[0].inter_feat["user_id"]
        assert "damaged" not in caplog.text
        assert len(loads) == 2 + min(number, 1)
        for table in (dataset.user_feat, dataset.item_feat, splits[0].inter_feat):
            assert not any(column.is_inference() for column in table.interaction.values())
        assert PackedTable(splits[0])._tokens.data_ptr() == splits[0].inter_feat.packed.tokens.data_ptr()
        _same(first, (dataset, splits))


@pytest.mark.parametrize("given", [{}, {"only_scenario": "women"}])
def test_splits_can_be_pickled_also_where_the_entry_was_just_made(given, start):
    for _ in range(2):
        dataset, splits = start(**given)
        again = pickle.loads(pickle.dumps(splits))
        _same((dataset, splits), (dataset, again))


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
    assert len(list(Path(tiny_data / "elsewhere").glob("tiny-*"))) == 1
    assert _entries(tiny_data) == []


def test_recboles_own_pickles_are_neither_written_nor_read(start, tiny_data, monkeypatch):
    from recbole.data import data_preparation

    monkeypatch.chdir(tiny_data)
    saved = tiny_data / "saved"
    given = {"save_dataset": True, "save_dataloaders": True, "checkpoint_dir": str(saved)}
    dataset, _ = start(**given)
    data_preparation(dataset.config, dataset)
    assert not saved.exists() or not list(saved.iterdir())


# Several processes, and files that did not change

_PROCESS = """
import sys, json, logging
import recbole_msr
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.dataset import Dataset
sys.argv[1:], given = [], json.loads(sys.argv[1])
loaded, original = [], Dataset._load_data
Dataset._load_data = lambda self, *args: (loaded.append(1), original(self, *args))[1]
dataset = create_dataset(Config(model="HiNet", dataset="tiny", config_dict=given))
split = dataset.build()[0]
maps = open("/proc/self/maps").read() if sys.platform == "linux" else None
address = split.inter_feat.packed.tokens.data_ptr()
mapped = maps and [line for line in maps.splitlines() if "tables.safetensors" in line and
    int(line.split("-")[0], 16) <= address < int(line.split()[0].split("-")[1], 16)]
print(json.dumps({"loaded": len(loaded), "mapped": mapped and bool(mapped), "rows": len(split)}))
"""


@pytest.mark.slow
def test_of_processes_that_start_together_one_makes_the_entry_and_all_map_it(tiny_data):
    given = json.dumps(SETTINGS | {"data_path": str(tiny_data), "cache_dir": str(tiny_data / "cache")})
    started = [
        subprocess.Popen([sys.executable, "-c", _PROCESS, given], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    found = [json.loads(process.communicate(timeout=240)[0].splitlines()[-1]) for process in started]
    assert sorted(one["loaded"] for one in found) == [0, 1]
    assert {one["rows"] for one in found} == {480}
    assert len(_entries(tiny_data)) == 1
    if sys.platform == "linux":
        assert all(one["mapped"] for one in found), "also the process that made it"


def test_a_dataset_that_is_not_split_yet_does_not_stop_another_of_the_same_process(tiny_data, start):
    from recbole.config import Config
    from recbole.data import create_dataset

    given = SETTINGS | {"data_path": str(tiny_data), "cache_dir": str(tiny_data / "cache")}
    first = create_dataset(Config(model="HiNet", dataset="tiny", config_dict=given))
    second = start()
    _same((first, first.build()), second)


def test_who_fails_lets_the_next_one_in(start, monkeypatch):
    from recbole_msr.data import cache

    turn, asked = cache.build_lock, []
    monkeypatch.setattr(cache, "build_lock", lambda folder: (asked.append(folder), turn(folder))[1])
    with pytest.raises(InputError, match="no field"):
        start(tasks={"click": {"field": "nothing", "at_least": 4}})
    with pytest.raises(InputError, match="empty"):
        start(eval_args={"split": {"RS": [1, 0, 0]}, "order": "RO", "group_by": None, "mode": "labeled"})
    with pytest.raises(InputError, match="no scenario 'wimen'"):
        start(only_scenario="wimen", data_seed=7)
    assert len(set(asked)) == 3
    for folder in asked:
        lock = turn(folder)
        assert lock is not None
        assert lock.is_locked
        lock.release()


@pytest.mark.filterwarnings("ignore:flock not supported:UserWarning")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_does_without(number, start, loads, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    start()
    start()
    assert len(loads) == 1


def test_the_right_is_known_by_any_path_of_the_same_folder(tmp_path, monkeypatch):
    from recbole_msr.data import cache

    monkeypatch.chdir(tmp_path)
    lock = cache.build_lock(tmp_path / "cache" / "x")
    try:
        assert cache.build_lock(Path("cache", "x")) is None
        assert cache.build_lock(tmp_path / "cache" / ".." / "cache" / "x") is None
    finally:
        lock.release()


def test_who_waits_too_long_goes_on_and_was_told_how_not_to_wait(tmp_path, monkeypatch, caplog):
    import filelock

    from recbole_msr.data import cache

    (tmp_path / ".locks").mkdir()
    other = filelock.FileLock(tmp_path / ".locks" / "x.lock", thread_local=False)
    monkeypatch.setattr(cache, "_WAIT_SECONDS", 0.1)
    with other, caplog.at_level(logging.WARNING):
        assert cache.build_lock(tmp_path / "x") is None
    assert "packed_cache: False" in caplog.text


def test_a_path_that_is_no_utf8_is_digested(tmp_path):
    from recbole_msr.data import cache

    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/donn\xe9es"))
    try:
        path.write_text("1")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    os.utime(path, (1, 1))
    assert cache.remembered_digest(path, tmp_path) == file_digest(path, hashlib.blake2b)


@pytest.fixture
def digests(monkeypatch):
    """Counts how often a file's content is digested."""
    from recbole_msr.data import cache

    original, read = cache.file_digest, []
    monkeypatch.setattr(cache, "file_digest", lambda path, *of: (read.append(path.name), original(path, *of))[1])
    return read


def test_files_that_did_not_change_are_not_read_again(start, digests, tiny_data, monkeypatch):
    from recbole_msr.data import cache

    monkeypatch.setattr(cache, "_RACY_SECONDS", -1.0)  # as if the files were old
    start()
    assert sorted(digests) == ["tiny.inter", "tiny.item", "tiny.user"]
    start()
    assert len(digests) == 3
    path = tiny_data / "tiny" / "tiny.user"
    before = path.stat()
    path.write_text(path.read_text().replace("\tF", "\tM", 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # of the same size, and made to look as old
    start()
    assert digests[3:] == ["tiny.user"]
    assert len(_entries(tiny_data)) == 2


def test_a_file_that_changed_just_now_is_not_trusted_to_stay(start, digests):
    start()
    start()
    assert len(digests) == 6


def test_a_damaged_memory_of_digests_is_made_again(start, digests, tiny_data, monkeypatch, loads):
    from recbole_msr.data import cache

    monkeypatch.setattr(cache, "_RACY_SECONDS", -1.0)
    start()
    for note in (tiny_data / "cache" / ".digests").iterdir():
        note.write_text(note.read_text()[:20])
    start()
    assert (len(digests), len(loads)) == (6, 1)


def test_vocabularies_are_decoded_when_asked_for(start):
    start()
    dataset, splits = start()
    assert dataset.user_num == splits[0].num("user_id") == 41
    assert not dataset.field2id_token._tokens
    assert not dataset.field2token_id._ids
    assert dataset.id2token("user_id", [0, 3])[0] == "[PAD]"
    assert set(dataset.field2id_token._tokens) == {"user_id"}
    assert dataset.token2id("item_id", dataset.field2id_token["item_id"][5]) == 5
    assert set(dataset.field2token_id._ids) == {"item_id"}


def test_tokens_of_all_kinds_come_back(tmp_path):
    import numpy as np

    from recbole_msr.data.vocabulary import decode, encode

    for tokens in (["[PAD]"], ["[PAD]", "ü", "日本語", "a b", "\U0001f600", "x" * 300, "\udcff"]):
        again = decode(encode(np.array(tokens)))
        assert again.tolist() == tokens
        assert {type(token) for token in again} == {str}, "not as wide as the longest"
