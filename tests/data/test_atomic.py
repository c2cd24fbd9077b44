"""Columnar reading gives what RecBole's own Dataset gives: the same ids, the same floats to the bit, the same rows."""

import random
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_msr import compat
from recbole_msr.data.atomic import read_columns

HEADER = "user_id:token\titem_id:token\tword:token\tnumber:float\tseq:token_seq\n"
PLAIN = "u1\ti1\ta\t1.5\tx y\n"
FAST = {
    "plain": PLAIN,
    "no line end at the end": PLAIN + "u2\ti2\tb\t2\tz",
    "CRLF": (PLAIN + "u2\ti2\tb\t2\tz\n").replace("\n", "\r\n"),
    "empty lines": PLAIN + "\n\n" + PLAIN + "\n",
    "leading zeros and signs": "007\t7\t+7\t-0.0\t07 7\n7\t007\t7.0\t.5\t7\n",
    "spaces": " u1\ti1 \t a b \t 1.5\tx  y \n u1 \ti1\ta b\t2. \t  \n",
    "letters of other alphabets": "ü\tñandú\t日本語\t1\té 日\nu\tñandu\t日\t2\tz\n",
    "long tokens": "user_with_a_long_name\t12345678\t123456789\t1e300\tx\nu\t1234567\t12345678\t1e-320\ty\n",
    "every kind of a missing value": "".join(
        f"{word}\t{word}\t{word}\t\t{word}\n"
        for word in (
            *("", "#N/A", "#NA", "NA", "NaN", "nan", "-nan", "None", "null", "NULL", "<NA>", "n/a", "N/A"),
            *("none", "Nan", "NAN", "1.#IND", "-1.#IND", "-"),
        )
    ),
    "floats in all spellings": "".join(
        f"u\ti\ta\t{number}\tx\n"
        for number in (
            *("1", "-1", "+1", "1.", ".1", "1e5", "1E-5", "inf", "-inf", "Infinity", "INF", "nan", "NA", "0.1"),
            *("1.7976931348623157e308", "5e-324"),
        )
    ),
    "digits that round": "".join(f"u\ti\ta\t{random.Random(3).random() * 10.0**e:.17g}\tx\n" for e in range(-30, 30)),
    "a hash and a backslash": "#u1\ti\\1\ta#b\t1\tx\n",
}
SLOW = {
    "quotes": 'u1\ti1\t"a\tb"\t1\tx\n',
    "a quote inside": 'u1\ti1\ta"b\t1\tx\n',
    "a carriage return inside": "u1\ti1\ta\rb\t1\tx\n" + PLAIN,
    "short rows": "u1\ti1\n" + PLAIN,
    "digits with an underscore": "u1\ti1\ta\t1_000\tx\n",
    "no rows": "",
    "a NUL byte": "u1\ti1\ta\0b\t1\tx\n",
}


def _read(tmp_path, text, **changes):
    path = tmp_path / "t.inter"
    path.write_bytes((HEADER.replace("\n", "\r\n") if "\r\n" in text else HEADER).encode() + text.encode())
    names = HEADER.rstrip("\n").split("\t")
    dtype = {name: np.float64 if name.endswith(":float") else str for name in names}
    given = {"usecols": names, "dtype": dtype, "encoding": "utf-8"} | changes
    return path, given


@pytest.mark.parametrize("text", FAST.values(), ids=FAST)
def test_columns_are_those_of_pandas(text, tmp_path):
    path, given = _read(tmp_path, text)
    ours = read_columns(path, "\t", **given)
    theirs = pd.read_csv(path, delimiter="\t", engine="python", **given)
    assert ours is not None
    assert list(ours) == list(theirs)
    for name in theirs:
        if given["dtype"][name] is np.float64:
            known = theirs[name].notna()
            assert ours[name].notna().equals(known)
            assert ours[name][known].to_numpy().tobytes() == theirs[name][known].to_numpy().tobytes()
            continue
        a, b = ours[name].astype(object), theirs[name].astype(object)
        assert a.isna().tolist() == b.isna().tolist()
        assert a[a.notna()].tolist() == b[b.notna()].tolist()
        if name.endswith(":token"):
            assert ours[name].cat.categories.tolist() == list(pd.unique(b[b.notna()])), "as they first appear"


@pytest.mark.parametrize("text", SLOW.values(), ids=SLOW)
def test_a_file_that_may_be_read_otherwise_is_left_to_pandas(text, tmp_path):
    path, given = _read(tmp_path, text)
    assert read_columns(path, "\t", **given) is None


def test_other_encodings_delimiters_and_marks_are_left_to_pandas(tmp_path):
    path, given = _read(tmp_path, PLAIN)
    assert read_columns(path, "\t", **given) is not None
    assert read_columns(path, "\t", **given | {"encoding": "latin-1"}) is None
    assert read_columns(path, r"\t", **given) is None
    assert read_columns(path, " ", **given) is None
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_columns(path, "\t", **given) is None
    path.write_bytes(HEADER.encode() + "ü\ti\ta\t1\tx\n".encode("latin-1"))
    assert read_columns(path, "\t", **given) is None


@pytest.mark.parametrize("where", [(1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_a_lone_carriage_return_is_found_wherever_a_block_ends(where, tmp_path):
    for found, fast in (("\r\n", True), ("\rx\n", False), ("x\r\n\r", False)):
        path, given = _read(tmp_path, PLAIN)
        head = HEADER + PLAIN + "u1\ti1\ta\t1.5\t"
        path.write_text(head + "y" * (where - len(head)) + found, newline="")
        assert (read_columns(path, "\t", **given) is not None) == fast


# Whole datasets


@contextmanager
def as_published():
    """RecBole without what this package makes faster in it."""
    compat.apply(speedups=False)
    try:
        yield
    finally:
        compat.apply()


def _nasty(folder, rows=400):
    """Missing values, quotes where `folder` says so, leading zeros, sequences, users and items without interactions."""
    draw = random.Random(8)
    folder.mkdir()
    users = [
        "0",
        "00",
        "1",
        "01",
        "ü",
        "日本",
        "a b",
        " a",
        "-1",
        "1.0",
        "Ünï",
        "user_of_a_long_name",
        *map(str, range(20, 60)),
    ]
    items = ["NA1", "none", "x\\y", "#", "i'", "0x1", *(f"item{i:08d}" for i in range(40))]
    words = ["", "NA", "a", "A", "null", "ß", "é", "nan", "c c", "007", "7"]
    quoted = ['"q"', '"two ""inner"" quotes"', '"tab\tinside"'] if folder.name == "quoted" else []
    lines = ["user_id:token\titem_id:token\tclick:float\tword:token\tnumber:float\tback:token_seq\tcurve:float_seq"]
    for _ in range(rows):
        user = "" if draw.random() < 0.01 else draw.choice(users[:-4])
        item = draw.choice(items[:-3])
        number = draw.choice(["", "NA", "0.1", "1e-3", "-0", "3.141592653589793", f"{draw.random():.17g}", "17"])
        back = " ".join(draw.sample(items, draw.randint(0, 3)))
        curve = " ".join(f"{draw.random():.3f}" for _ in range(draw.randint(1, 3)))
        word = draw.choice(words + quoted)
        lines.append(f"{user}\t{item}\t{draw.randint(0, 1)}\t{word}\t{number}\t{back}\t{curve}")
    (folder / f"{folder.name}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines = [
        "user_id:token\tage:float\tcity:token",
        *(f"{u}\t{n % 7 or ''}\t{draw.choice(words)}" for n, u in enumerate(users[2:])),
    ]
    lines += ["only in this file\t3\tNowhere", "0\t\t", "\t3\tnobody's"]
    (folder / f"{folder.name}.user").write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines = [
        "item_id:token\ttags:token_seq\tprice:float",
        *(f"{i}\t{' '.join(draw.sample(words, 2))}\t{draw.random():.5g}" for i in items),
    ]
    (folder / f"{folder.name}.item").write_text("\n".join(lines) + "\n", encoding="utf-8")


CHANGES = {
    "as it is": {"filter_inter_by_user_or_item": False},
    "known users and items": {},
    "k-core": {"user_inter_num_interval": "[3,inf)", "item_inter_num_interval": "(5,16]"},
    "users alone, several intervals": {"user_inter_num_interval": "[2,6];[8,20)", "item_inter_num_interval": None},
    "values": {"val_interval": {"word": ["a", "7", "c c"], "number": "(-inf,20)"}},
    "duplicates": {"rm_dup_inter": "last", "TIME_FIELD": "number"},
    "numbers": {"numerical_features": ["number", "age", "price"], "normalize_field": ["number", "price"]},
    "bins": {
        "numerical_features": ["number", "age"],
        "discretization": {"number": {"method": "ED", "bucket": 5}, "age": {"method": "LD"}},
    },
    "aliases": {"alias_of_item_id": ["back"]},
    "short sequences": {"seq_len": {"back": 2}, "unused_col": {"inter": ["word"]}},
    "by user": {"eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "RO", "group_by": "user", "mode": "labeled"}},
}


def _same_as_recboles(folder, name, task, load_col=None, preset=None, ours_as=nullcontext, **changes):
    from recbole.config import Config
    from recbole.data import create_dataset

    given = {
        "data_path": str(folder), "load_col": load_col, "use_gpu": False, "state": "CRITICAL", "threshold": None,
        "data_seed": 3, "packed_cache": False, "normalize_all": False, "numerical_features": [],
        "preset": preset, "strict": False,
        "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": None, "mode": "labeled"},
    } | changes  # fmt: skip
    with as_published():
        theirs = create_dataset(Config("DeepFM", name, config_dict=given))
        assert type(theirs).__module__ == "recbole.data.dataset.dataset"
        torch.manual_seed(3)
        their_splits = theirs.build()
    declared = {"scenario": None, "tasks": {"t": {"field": task, "at_least": 1}}, "main_task": "t"}
    with ours_as():
        ours = create_dataset(Config("HiNet", name, config_dict=given | declared))
        our_splits = ours.build()
    for field, tokens in theirs.field2id_token.items():
        assert ours.field2id_token[field].tolist() == tokens.tolist()
        assert ours.field2id_token[field].dtype == tokens.dtype
        assert ours.field2token_id[field] == theirs.field2token_id[field]
        assert ours.num(field) == theirs.num(field)
    assert ours.field2bucketnum == {f: n for f, n in theirs.field2bucketnum.items() if f != task} | {
        f: n for f, n in ours.field2bucketnum.items() if f == task
    }
    for one, other in zip(our_splits, their_splits, strict=True):
        batch, expected = one[torch.arange(len(one))], other[torch.arange(len(other))]
        assert set(expected.columns) - {task} == set(batch.columns) - {"label_t", "scenario"}
        for field in set(expected.columns) - {task}:
            assert batch[field].dtype == expected[field].dtype, field
            assert batch[field].numpy().tobytes() == expected[field].numpy().tobytes(), field
        assert torch.equal(batch["label_t"], (expected[task] >= 1).float())
        assert one.field2seqlen.keys() - {"label_t", "scenario"} == other.field2seqlen.keys() - {task}


@pytest.mark.parametrize("name", ["nasty", "quoted"])
@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_a_dataset_is_recboles_to_the_bit(changes, name, tmp_path):
    _nasty(tmp_path / name)
    _same_as_recboles(tmp_path, name, "click", **changes)


@pytest.mark.parametrize("change", ["as it is", "k-core", "numbers"])
def test_without_speed_ups_the_dataset_is_the_same(change, tmp_path):
    _nasty(tmp_path / "nasty")
    _same_as_recboles(tmp_path, "nasty", "click", ours_as=as_published, **CHANGES[change])


def test_ml_100k_is_recboles_to_the_bit(tmp_path):
    _same_as_recboles("", "ml-100k", "rating")


def test_ml_1m_is_recboles_to_the_bit(tmp_path):
    from recbole_msr.data.converters import convert

    raw = Path(__file__).parents[2].parent / "shared" / "data" / "ml-1m"
    if not (raw / "ratings.dat.gz").is_file():
        pytest.skip("needs the raw files of ml-1m in ../shared/data/ml-1m")
    convert("ml-1m", raw, tmp_path)
    _same_as_recboles(tmp_path, "ml-1m", "rating", numerical_features=["timestamp"], normalize_field=["timestamp"])
