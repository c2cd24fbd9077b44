"""Building, opening and checking knowledge."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from recbole_msr.errors import InputError
from recbole_msr.prompts.build import Prompts
from recbole_msr.prompts.embed import build_knowledge
from recbole_msr.prompts.encoders import Encoder, make_encoder
from recbole_msr.prompts.fingerprint import fingerprint
from recbole_msr.prompts.store import Knowledge
from tests.prompts.fake_server import FakeServer, vector_of


def prompts(level="user", count=10, text="prompt of"):
    lengths = np.array([(7 * i) % 11 + 1 for i in range(count)])
    tokens = [f"{level[0]}{i}" for i in range(count)]
    truncated = np.arange(count) % 3 == 0
    return Prompts(level, tokens, [f"{text} {token}" for token in tokens], lengths, truncated)


class Counting(Encoder):
    """The random encoder, which remembers the batches."""

    def __init__(self, size=6, change=lambda vectors, number: vectors):
        self._inner, self._change, self.batches = make_encoder("random", {"size": size}), change, []
        self.identity = self._inner.identity

    def encode_with_answers(self, texts):
        self.batches.append(list(texts))
        return self._change(self._inner.encode(texts), len(self.batches)), [text.upper() for text in texts]


MADE_BY = {"data": {"dataset": "d", "settings": {"data_seed": 1}}, "template": {"name": "t", "version": 1}}


def build(tmp_path, name="k", levels=None, encoder=None, made_by=MADE_BY, **options):
    options = {"show_progress": False, "batch_size": 4} | options
    return build_knowledge(name, tmp_path, levels or [prompts()], encoder or Counting(), made_by, **options)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_was_encoded_is_what_is_opened(tmp_path, dtype):
    levels = [prompts("scenario", 3), prompts("user", 10), prompts("item", 5)]
    assert build(tmp_path, levels=levels, store_dtype=dtype).encoded == 18
    knowledge = Knowledge.open("k", tmp_path)
    assert (knowledge.levels, knowledge.size) == (["scenario", "user", "item"], 6)
    for level in levels:
        vectors = knowledge.vectors(level.level)
        assert isinstance(vectors, np.memmap)
        assert not vectors.flags.writeable
        expected = make_encoder("random", {"size": 6}).encode(level.texts).astype(dtype)
        np.testing.assert_array_equal(vectors, expected)
        assert knowledge.tokens(level.level).tolist() == level.tokens
        index, texts = knowledge.index(level.level), knowledge.texts(level.level)
        assert index["n_tokens"].tolist() == level.lengths.tolist()
        assert index["truncated"].tolist() == level.truncated.tolist()
        assert index["row"].tolist() == list(range(len(level)))
        assert texts["prompt"].tolist() == level.texts
        assert texts["answer"].tolist() == [text.upper() for text in level.texts]
    assert knowledge.rows("user", ["u3", "[PAD]", "u0"]).tolist() == [3, -1, 0]
    assert knowledge.meta["levels"]["user"]["truncated"] == 4
    assert sorted(os.listdir(tmp_path)) == ["k"]


def test_batches_hold_prompts_of_like_length(tmp_path):
    encoder, level = Counting(), prompts()
    build(tmp_path, encoder=encoder)
    length = dict(zip(level.texts, level.lengths.tolist(), strict=True))
    assert [length[t] for batch in encoder.batches for t in batch] == sorted(level.lengths.tolist(), reverse=True)
    unsorted = Counting()
    build(tmp_path, "other", encoder=unsorted, made_by={}, sort_by_length=False)
    assert [t for batch in unsorted.batches for t in batch] == level.texts
    np.testing.assert_array_equal(
        Knowledge.open("k", tmp_path).vectors("user"), Knowledge.open("other", tmp_path).vectors("user")
    )


def test_the_same_key_is_not_built_again(tmp_path):
    build(tmp_path)
    encoder = Counting()
    outcome = build(tmp_path, encoder=encoder)
    assert (outcome.encoded, outcome.found, encoder.batches) == (0, "k", [])
    again = build(tmp_path, "second", encoder=encoder)
    assert (again.encoded, again.found, encoder.batches) == (0, "k", [])
    assert os.path.samefile(tmp_path / "k" / "user.npy", tmp_path / "second" / "user.npy")


def test_a_name_that_is_taken_is_refused_unless_replaced(tmp_path):
    before = build(tmp_path).knowledge.key
    other = {"data": {"dataset": "d", "settings": {"data_seed": 2}}, "template": MADE_BY["template"]}
    with pytest.raises(
        InputError, match=r"'k' .* exists and was made otherwise \(what differs: data: data_seed: 1 -> 2\)"
    ):
        build(tmp_path, made_by=other)
    assert Knowledge.open("k", tmp_path).key == before
    outcome = build(tmp_path, made_by=other, replace=True)
    assert (outcome.encoded, Knowledge.open("k", tmp_path).key != before) == (10, True)
    assert sorted(os.listdir(tmp_path)) == ["k"]


def test_everything_that_makes_the_vectors_is_in_the_key(tmp_path):
    class Other(Counting):
        def __init__(self):
            super().__init__()
            self.identity = "another"

    variants = [
        {},
        {"levels": [prompts(text="other")]},
        {"levels": [prompts("item")]},
        {"encoder": Other()},
        {"store_dtype": "float32"},
        {"made_by": MADE_BY | {"template": {"name": "t", "version": 2}}},
    ]
    keys = {build(tmp_path, f"k{i}", **given).knowledge.key for i, given in enumerate(variants)}
    assert len(keys) == len(variants)
    # What only changes how fast it goes is not.
    assert build(tmp_path, "again", batch_size=2, sort_by_length=False).found == "k0"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_vectors_are_refused_and_the_rest_is_kept(tmp_path, bad):
    def spoil(vectors, number):
        if number == 2:
            vectors[1, 3] = bad
        return vectors

    with pytest.raises(
        InputError, match=r"NaN or infinite vectors for 1 of 4 user prompts.*the 4 vectors made so far are kept"
    ):
        build(tmp_path, encoder=Counting(change=spoil))
    with pytest.raises(InputError, match="no knowledge 'k'"):
        Knowledge.open("k", tmp_path)
    encoder = Counting()
    assert build(tmp_path, encoder=encoder).encoded == 6
    assert sum(map(len, encoder.batches)) == 6


def test_vectors_too_large_for_float16_are_told(tmp_path):
    large = Counting(change=lambda vectors, _: vectors * 1e6)
    with pytest.raises(InputError, match="too large for float16: --store_dtype=float32"):
        build(tmp_path, encoder=large)
    assert os.listdir(tmp_path) == []  # nothing was made, nothing is left
    build(tmp_path, encoder=large, store_dtype="float32")


def test_an_encoder_that_changes_its_size_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"shape \(4, 5\) for 4 user prompts; \(4, 6\) is expected"):
        build(tmp_path, encoder=Counting(change=lambda vectors, number: vectors[:, : 7 - number]))


def test_a_server_that_fails_midway_loses_nothing(tmp_path):
    options = {"server_model": "m", "timeout": 1, "retries": 0}
    with FakeServer(lambda number, _: 500 if number == 3 else None) as server:
        encoder = make_encoder(f"server:{server.url}", options)
        with pytest.raises(InputError, match=r"status 500.*the 8 vectors made so far are kept"):
            build(tmp_path, encoder=encoder)
        assert build(tmp_path, encoder=encoder).encoded == 2
    assert len(server.texts()) == 8 + 2 + 2  # the failed batch twice
    expected = np.array([vector_of(text) for text in prompts().texts], dtype=np.float16)
    np.testing.assert_array_equal(Knowledge.open("k", tmp_path).vectors("user"), expected)


_CHILD = """
import sys
from pathlib import Path
from tests.prompts.test_store import build, prompts
from recbole_msr.prompts.encoders import make_encoder
encoder = make_encoder("server:" + sys.argv[2], {"server_model": "m"})
build(Path(sys.argv[1]), levels=[prompts(count=60), prompts("item", 20)], encoder=encoder)
"""


@pytest.mark.slow
def test_killed_midway_it_resumes_with_nothing_recomputed(tmp_path):
    ninth, killed = threading.Event(), threading.Event()

    def wait_at_the_ninth(number, _):
        if number == 9:
            ninth.set()
            killed.wait(120)

    with FakeServer(wait_at_the_ninth) as server:
        command = [sys.executable, "-c", _CHILD, str(tmp_path), server.url]
        child = subprocess.Popen(command, cwd=Path(__file__).parents[2])
        assert ninth.wait(120)
        child.send_signal(signal.SIGKILL)
        child.wait()
        killed.set()
        assert not (tmp_path / "k").exists()
        (folder,) = tmp_path.glob(".building-*")
        done = [row for line in (folder / "done-0.jsonl").read_text().split() for row in [line] if row]
        assert done
        asked_before = server.texts()
        with open(folder / "done-0.jsonl", "a") as journal:
            journal.write('{"level": "user", "size": 16, "rows": [0, 1')  # as if killed while it wrote this
        again = make_encoder(f"server:{server.url}", {"server_model": "m"})
        build(tmp_path, levels=[prompts(count=60), prompts("item", 20)], encoder=again)
        asked_after = server.texts()[len(asked_before) :]
    finished = set(prompts(count=60).texts + prompts("item", 20).texts)
    both = set(asked_before) & set(asked_after)
    assert len(both) <= 4  # the batch whose answer the killed process may not have got
    assert len(asked_before) + len(asked_after) == 80 + len(both)
    assert set(asked_before) | set(asked_after) == finished
    knowledge = Knowledge.open("k", tmp_path)
    for level in (prompts(count=60), prompts("item", 20)):
        expected = np.array([vector_of(text) for text in level.texts], dtype=np.float16)
        np.testing.assert_array_equal(knowledge.vectors(level.level), expected)
    assert sorted(os.listdir(tmp_path)) == ["k"]


def test_two_builds_of_the_same_do_not_run_at_once(tmp_path):
    def another(vectors, number):
        if number == 1:
            with pytest.raises(InputError, match="being built by another process"):
                build(tmp_path)
        return vectors

    assert build(tmp_path, encoder=Counting(change=another)).encoded == 10


@pytest.mark.slow
def test_several_devices_share_the_prompts(tmp_path):
    options = {"accelerator": "cpu", "devices": 2}
    outcome = build(
        tmp_path, levels=[prompts(count=23)], encoder=make_encoder("random", {"size": 6}), lightning=options
    )
    assert outcome.encoded == 23
    expected = make_encoder("random", {"size": 6}).encode(prompts(count=23).texts).astype(np.float16)
    np.testing.assert_array_equal(outcome.knowledge.vectors("user"), expected)


@pytest.mark.parametrize("name", ["", "a/b", ".hidden", "..", "random", "none"])
def test_names_that_cannot_be(tmp_path, name):
    with pytest.raises(InputError, match="name"):
        build(tmp_path, name)
    with pytest.raises(InputError, match="name"):
        Knowledge.open(name, tmp_path)


def test_a_missing_name_says_how_to_build_it(tmp_path):
    build(tmp_path, "movies")
    with pytest.raises(InputError) as caught:
        Knowledge.open("movis", tmp_path)
    told = str(caught.value)
    assert "did you mean 'movies'" in told
    assert (
        f"recbole-msr embed --dataset=DATASET --encoder=minilm --template=full --name=movis --knowledge_dir={tmp_path}"
        in told
    )


def test_the_folder_comes_from_the_environment(tmp_path, monkeypatch):
    build(tmp_path)
    monkeypatch.setenv("RECBOLE_MSR_KNOWLEDGE", str(tmp_path))
    assert Knowledge.open("k").path == tmp_path / "k"


def test_a_missing_level_says_how_to_build_it(tmp_path):
    with pytest.raises(InputError, match=r"no level 'item', only user; build it with .*--levels=\[user, item\]"):
        build(tmp_path).knowledge.vectors("item")


@pytest.mark.parametrize("damage", ["json", "format", "short", "empty", "shape", "parquet"])
def test_damaged_files_are_told(tmp_path, damage):
    folder = build(tmp_path).knowledge.path
    meta = json.loads((folder / "knowledge.json").read_text())
    if damage == "json":
        (folder / "knowledge.json").write_text("{")
    if damage == "format":
        (folder / "knowledge.json").write_text(json.dumps(meta | {"format": "x/9"}))
    if damage == "short":
        (folder / "user.npy").write_bytes((folder / "user.npy").read_bytes()[:-20])
    if damage == "empty":
        (folder / "user.npy").write_bytes(b"")
    if damage == "shape":
        np.save(folder / "user.npy", np.zeros((9, 6), dtype=np.float16))
    if damage == "parquet":
        (folder / "user.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"damaged|not of the format"):
        Knowledge.open("k", tmp_path).tokens("user")


@pytest.mark.parametrize("name", ["user.npy", "user.parquet", "user_texts.parquet"])
def test_a_flipped_bit_is_seen(name, tmp_path):
    file = build(tmp_path).knowledge.path / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2 if name != "user.npy" else -1] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=rf"damaged: {name} is not as it was written.*--replace"):
        Knowledge.open("k", tmp_path)
    with pytest.raises(InputError, match="is not as it was written"):
        build(tmp_path)
    again = build(tmp_path, replace=True)  # as the message advises
    assert again.encoded
    assert len(again.knowledge.vectors("user"))


def test_knowledge_without_checksums_is_read(tmp_path):
    folder = build(tmp_path).knowledge.path
    meta = json.loads((folder / "knowledge.json").read_text())
    meta["levels"]["user"].pop("checksums")
    (folder / "knowledge.json").write_text(json.dumps(meta))
    assert len(Knowledge.open("k", tmp_path).tokens("user"))


@pytest.mark.parametrize(
    "change",
    [
        *({"levels": []}, {"levels": {"user": 3}}, {"levels": {"../user": {"rows": 1}}}, {"size": "6"}, {"size": None}),
        *({"key": 5}, {"dtype": "object"}, {"data": None}),
    ],
)
def test_knowledge_of_another_shape_is_told(change, tmp_path):
    folder = build(tmp_path).knowledge.path
    meta = json.loads((folder / "knowledge.json").read_text())
    (folder / "knowledge.json").write_text(json.dumps(meta | change))
    with pytest.raises(InputError, match=r"damaged: in knowledge.json '"):
        Knowledge.open("k", tmp_path)


def test_a_million_large_vectors_are_opened_but_not_read(tmp_path):
    """8 GB as a sparse file: the memory of the process that opens them and reads ten hardly grows."""
    folder = build(tmp_path).knowledge.path
    meta = json.loads((folder / "knowledge.json").read_text()) | {"size": 4096}
    meta["levels"]["user"]["rows"] = 1_000_000
    assert meta["levels"]["user"].pop("checksums").keys() == {".npy", ".parquet", "_texts.parquet"}
    (folder / "knowledge.json").write_text(json.dumps(meta))
    with open(folder / "user.npy", "wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": (1_000_000, 4096)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 1_000_000 * 4096 * 2)
    code = """
        import psutil, sys, time
        from recbole_msr.prompts.store import Knowledge
        before, began = psutil.Process().memory_info().rss, time.perf_counter()
        vectors = Knowledge.open("k", sys.argv[1]).vectors("user")
        seconds = time.perf_counter() - began
        total = float(vectors[::100_000].sum())
        loaded = [name for name in ("transformers", "sentence_transformers", "torch", "jinja2") if name in sys.modules]
        print(vectors.shape, total, psutil.Process().memory_info().rss - before, seconds, loaded, sep="|")
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], check=True, capture_output=True, text=True
    ).stdout
    shape, total, grown, seconds, loaded = out.strip().split("|")
    assert (shape, total) == ("(1000000, 4096)", "0.0")
    assert int(grown) < 20e6
    assert float(seconds) < 1
    assert "transformers" not in loaded
    assert "jinja2" not in loaded


def test_knowledge_of_other_data_is_refused_with_what_differs(tmp_path, make_train, titled):
    knowledge = build(tmp_path / "kn", made_by={"data": fingerprint(make_train())}).knowledge
    knowledge.check(make_train())
    knowledge.check(make_train(load_col=None))  # other fields, the same rows
    knowledge.check(make_train(main_task="like"))
    tasks = make_train().config["tasks"]
    knowledge.check(make_train(tasks=tasks | {"like": tasks["like"] | {"weight": "timestamp"}}))
    other_bins = {"scenario": {"field": "age", "bins": [30, 40]}}
    for settings, told in [
        ({"data_seed": 7}, "data_seed: 2020 -> 7"),
        (
            {"eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "RO", "group_by": None, "mode": "labeled"}},
            "eval_args: ",
        ),
        (other_bins, r"scenario: .*\[25, 35\].* -> .*\[30, 40\]"),
        ({"tasks": {"click": {"field": "rating", "at_least": 3}}}, "tasks: "),
        ({"user_inter_num_interval": "[5,inf)"}, "user_inter_num_interval: null -> "),
    ]:
        with pytest.raises(InputError, match=f"built from other training data; what differs .*{told}"):
            knowledge.check(make_train(**settings))
    path = titled / "tiny" / "tiny.inter"
    path.write_text(path.read_text().replace("u3\ti", "u4\ti", 1))
    with pytest.raises(InputError, match=r"the content of the \.inter file"):
        knowledge.check(make_train())


def test_other_training_rows_are_seen_whatever_the_settings_say(tmp_path, make_train):
    train = make_train()
    knowledge = build(tmp_path / "kn", made_by={"data": fingerprint(train)}).knowledge
    train.inter_feat["label_like"][3] = 1 - train.inter_feat["label_like"][3]
    with pytest.raises(InputError, match="the training rows"):
        knowledge.check(train)


def test_a_restored_dataset_without_rows_is_checked_by_its_settings(tmp_path, make_train):
    from recbole_msr.data.cache import write_state
    from recbole_msr.data.dataset import ScenarioDataset

    train = make_train()
    knowledge = build(tmp_path / "kn", made_by={"data": fingerprint(train)}).knowledge
    for settings, good in (({}, True), ({"data_seed": 7}, False)):
        state = tmp_path / f"state{good}"
        state.mkdir()
        other = make_train(**settings)
        write_state(other, state, tables=("user", "item"))
        restored = ScenarioDataset.from_vocabulary(other.config, state)
        if good:
            knowledge.check(restored)
        else:
            with pytest.raises(InputError, match="data_seed: 2020 -> 7"):
                knowledge.check(restored)


def test_indices_are_plain_parquet(tmp_path):
    folder = build(tmp_path).knowledge.path
    assert pq.read_schema(folder / "user.parquet").names == ["token", "row", "n_tokens", "truncated"]
    assert pq.read_schema(folder / "user_texts.parquet").names == ["token", "prompt", "answer"]
