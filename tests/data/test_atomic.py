"""Columnar reading gives what RecBole's own Dataset gives: the same ids, the same floats to the bit, the same rows."""

import csv
import random
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pandas._libs.parsers import STR_NA_VALUES

from recbole_msr import compat
from recbole_msr.data import atomic
from recbole_msr.data.atomic import line_number, read_header, read_table
from recbole_msr.errors import InputError

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
    "words that look missing": "".join(
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
    "quotes": '"u1\ti1\t12" tv\t1\tx "y"\n' + PLAIN + 'u2\t""\t"a"\t2\t"\n',
}
SLOW = {
    "a carriage return inside": "u1\ti1\ta\rb\t1\tx\n" + PLAIN,
    "short rows": "u1\ti1\n" + PLAIN,
    "digits with an underscore": "u1\ti1\ta\t1_000\tx\n",
}


def _read(tmp_path, text, separator="\t", encoding="utf-8"):
    """The file of a text, its header, and how it is read."""
    path = tmp_path / "t.inter"
    whole = (HEADER.replace("\n", "\r\n") if "\r\n" in text else HEADER) + text
    path.write_bytes(whole.replace("\t", separator).encode(encoding))
    header = read_header(path, separator, encoding)
    return path, header, lambda: read_table(path, separator, encoding, header, header).frame


def _as_pandas_reads(path, header, separator="\t", encoding="utf-8"):
    """The same by pandas, told that text is text and that only an empty cell is missing, but for numbers."""
    numbers = [field for field, kind in header.items() if kind.value == "float"]
    words = {field: list(STR_NA_VALUES) if field in numbers else [""] for field in header}
    return pd.read_csv(
        path, sep=separator, engine="python", encoding=encoding, quoting=csv.QUOTE_NONE, keep_default_na=False,
        na_values=words, dtype={field: np.float64 if field in numbers else str for field in header},
        names=list(header), header=0,
    )  # fmt: skip


def _assert_same(ours, theirs, header):
    assert list(ours) == list(theirs)
    for field, kind in header.items():
        a, b = ours[field], theirs[field]
        if kind.value == "float":
            known = b.notna()
            assert a.notna().equals(known)
            assert a[known].to_numpy().tobytes() == b[known].to_numpy().tobytes()
        elif kind.value == "token":
            a, b = a.astype(object), b.astype(object)
            assert a.isna().tolist() == b.isna().tolist()
            assert a[a.notna()].tolist() == b[b.notna()].tolist()
            assert ours[field].cat.categories.tolist() == list(pd.unique(b[b.notna()])), "as they first appear"
        else:
            assert a.tolist() == b.fillna("").tolist()


@pytest.mark.parametrize("text", FAST.values(), ids=FAST)
def test_columns_are_those_of_pandas(text, tmp_path, monkeypatch):
    path, header, read = _read(tmp_path, text)
    _assert_same(read(), _as_pandas_reads(path, header), header)
    monkeypatch.setattr(atomic, "_read_fast", lambda *args: None)
    _assert_same(read(), _as_pandas_reads(path, header), header)


@pytest.mark.parametrize("text", FAST.values(), ids=FAST)
def test_all_of_these_are_read_fast(text, tmp_path, monkeypatch):
    monkeypatch.setattr(atomic._Lines, "read", lambda self: pytest.fail("line by line"))
    _read(tmp_path, text)[2]()


@pytest.mark.parametrize("text", SLOW.values(), ids=SLOW)
def test_what_is_read_otherwise_by_pyarrow_is_read_line_by_line(text, tmp_path):
    path, header, read = _read(tmp_path, text)
    assert atomic._read_fast(path, "\t", "utf-8-sig", header, list(header)) is None
    cells = [line.split("\t") for line in text.removesuffix("\n").split("\n")]
    frame = read()
    assert frame["user_id"].tolist() == [row[0] for row in cells]
    assert [None if pd.isna(word) else word for word in frame["word"]] == [
        row[2] if len(row) > 2 else None for row in cells
    ]
    assert frame["number"].isna().tolist() == [len(row) < 4 for row in cells]


@pytest.mark.parametrize("text", [PLAIN, PLAIN + 'u2\ti2\t"\t2\tñ é\n'], ids=["ascii", "more"])
@pytest.mark.parametrize(
    ("separator", "encoding"),
    [("\t", "latin-1"), ("\t", "utf-16"), ("\t", "utf-8-sig"), ("::", "utf-8"), (",", "utf-8"), ("\t", None)],
)
def test_other_encodings_marks_and_separators(text, separator, encoding, tmp_path):
    written = encoding or "utf-8"
    path, header, read = _read(tmp_path, text, separator, written)
    frame = read_table(path, separator, encoding, header, header).frame
    assert frame.astype(str).equals(read().astype(str))
    assert [list(map(str, row)) for row in frame.astype(object).to_numpy()] == [
        [str(float(cell)) if place == 3 else cell for place, cell in enumerate(line.split("\t"))]
        for line in text.splitlines()
    ]


@pytest.mark.parametrize("where", [(1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_a_lone_carriage_return_is_found_wherever_a_block_ends(where, tmp_path):
    for found, fast in (("\r\n", True), ("\rx\n", False), ("x\r\n\r", False)):
        path, header, _ = _read(tmp_path, PLAIN)
        head = HEADER + PLAIN + "u1\ti1\ta\t1.5\t"
        path.write_text(head + "y" * (where - len(head)) + found, newline="")
        assert (atomic._read_fast(path, "\t", "utf-8", header, list(header)) is not None) == fast


# Files that cannot be read

REFUSED = {
    "commas": ("user_id:token,item_id:token\nu1,i1\n", r"separated by tabs.*has commas.*field_separator: ','"),
    "no types": ("user_id\titem_id\nu1\ti1\n", r"'user_id' in the first line has no type; write name:type"),
    "an unknown type": ("user_id:token\tx:int\nu1\t1\n", r"'x:int' has the type 'int'.*token, float"),
    "two of one name": ("a:token\tb:float\ta:token\n1\t2\t3\n", r"two columns are called 'a'"),
    "no header": ("", r"is empty: its first line"),
    "no rows": ("a:token\tb:token\n\n", r"has no rows"),
    "a text for a number": ("a:token\tp:float\nu\t1\n\nv\t1,234.5\n", r"line 4: 'p'.*numbers.*'1,234.5'.*p:token"),
    "a dash for a number": ("a:token\tp:float\nu\t-\n", r"line 2: 'p'.*holds '-'"),
    "a cell too many": ("a:token\tb:token\nu\tv\nu\tv\tw\n", r"line 3 has 3 cells.*names 2 columns"),
    "a NUL byte": ("a:token\tb:token\nu\tv\0\n", r"line 2 holds a NUL byte"),
}


@pytest.mark.parametrize(("text", "told"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_cannot_be_read_is_named_with_the_line(text, told, tmp_path):
    path = tmp_path / "t.inter"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"t\.inter.*{told}"):
        read_table(path, "\t", "utf-8", header := read_header(path, "\t", "utf-8"), header)


@pytest.mark.parametrize("line", [1, 3])
@pytest.mark.parametrize("written", ["latin-1", "utf-16"])
def test_another_encoding_is_told_with_the_key(written, line, tmp_path):
    path = tmp_path / "t.inter"
    lines = ["a:token\tb:token", "u\tv", "w\tx"]
    lines[line - 1] = lines[line - 1].replace("\t", "é:token\t" if line == 1 else "é\t")
    path.write_bytes("\n".join(lines).encode(written))
    told = "UTF-16.*encoding: utf-16" if written == "utf-16" else f"not in utf-8: line {line} .*0xe9.*encoding: latin-1"
    with pytest.raises(InputError, match=told):
        read_table(path, "\t", None, header := read_header(path, "\t", None), header)


def test_short_rows_are_counted(tmp_path):
    path, header, _ = _read(tmp_path, PLAIN + "u1\ti1\n" + PLAIN + "u1\n")
    table = read_table(path, "\t", "utf-8", header, ["user_id", "number"])
    assert (table.short_rows, table.first_short, len(table.frame)) == (2, 3, 4)
    assert list(table.frame) == ["user_id", "number"]


def test_the_line_of_a_row_counts_empty_lines(tmp_path):
    path = tmp_path / "t.inter"
    path.write_text("\ufeffa:token\n\nu\n\r\n\nv\n", encoding="utf-8", newline="")
    assert [line_number(path, row) for row in (0, 1)] == [3, 6]


# Whole datasets


@contextmanager
def as_published():
    """RecBole without what this package makes faster in it, told that text is text."""
    compat.apply(speedups=False)
    read_csv = pd.read_csv

    def plainly(*args, dtype, **options):
        words = {name: list(STR_NA_VALUES) if kind is np.float64 else [""] for name, kind in dtype.items()}
        options |= {"quoting": csv.QUOTE_NONE, "keep_default_na": False, "na_values": words, "dtype": dtype}
        return read_csv(*args, **options)

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pd, "read_csv", plainly)
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
    quoted = ['"q"', '"two ""inner"" quotes"', '"begun', '12" wide'] if folder.name == "quoted" else []
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


@pytest.mark.slow
def test_ml_1m_is_recboles_to_the_bit(tmp_path):
    from recbole_msr.data.public import convert

    raw = Path(__file__).parents[2].parent / "shared" / "data" / "ml-1m"
    if not (raw / "ratings.dat.gz").is_file():
        pytest.skip("needs the raw files of ml-1m in ../shared/data/ml-1m")
    convert("ml-1m", raw, tmp_path)
    _same_as_recboles(tmp_path, "ml-1m", "rating", numerical_features=["timestamp"], normalize_field=["timestamp"])
